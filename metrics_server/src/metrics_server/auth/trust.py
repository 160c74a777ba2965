# SPDX-License-Identifier: GPL-3.0-or-later
"""Which certificate authorities vouch for callers: from flags, or from the cluster's own configuration, followed live.

Every kube-apiserver publishes its client CA and the settings of its front proxy in the ConfigMap
`kube-system/extension-apiserver-authentication`. A CA that is added there is trusted at once, one that is removed is
not any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from metrics_server.kube.client import KubeError, WatchingRequester
from metrics_server.tls.client_certificates import CertificateBundle
from metrics_server.tls.files import MaterialError, Source

_log = logging.getLogger(__name__)

_NAMESPACE = "kube-system"
_NAME = "extension-apiserver-authentication"
_PATH = f"/api/v1/namespaces/{_NAMESPACE}/configmaps"
_WATCH_SECONDS = 290
#: Seconds until the next try, at first and at most.
_BACKOFF = 0.2
_MAX_BACKOFF = 30.0
#: A watch that ended within this time did not work, whatever its status was.
_SHORT_WATCH = 1.0
_FILE_CHECK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """Whom to believe about users, and in which headers they name them."""

    bundle: CertificateBundle
    #: Common names that the proxy's certificate may have; empty means any.
    allowed_names: tuple[str, ...]
    username_headers: tuple[str, ...]
    group_headers: tuple[str, ...]
    uid_headers: tuple[str, ...]
    extra_prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FrontProxyFlags:
    """The `--requestheader-*` flags."""

    ca_file: str
    allowed_names: tuple[str, ...]
    username_headers: tuple[str, ...]
    group_headers: tuple[str, ...]
    uid_headers: tuple[str, ...]
    extra_prefixes: tuple[str, ...]


class Trust:
    """The authorities in force. `generation` grows with every change, so that judgements made before can be dropped."""

    def __init__(
        self,
        client: WatchingRequester | None,
        *,
        client_ca_file: str = "",
        front_proxy: FrontProxyFlags | None = None,
        lookup: bool = True,
        tolerate_lookup_failure: bool = False,
    ) -> None:
        self.generation = 0
        self.clients: CertificateBundle | None = None
        self.front_proxy: FrontProxy | None = None
        self._client = client
        self._client_ca = Source("the client CA file", path=client_ca_file) if client_ca_file else None
        self._flags = front_proxy if front_proxy is not None and front_proxy.ca_file else None
        self._proxy_ca = Source("the front proxy's CA file", path=self._flags.ca_file) if self._flags else None
        self._files_seen: tuple[int, int] | None = None
        self._lookup = lookup and client is not None and not (self._client_ca and self._proxy_ca)
        self._tolerant = tolerate_lookup_failure
        self._looked_up = False
        self._lookup_error = "not asked yet"

    @property
    def looks_up(self) -> bool:
        """Whether the authorities are those of the ConfigMap, which must have been read."""
        return self._lookup and not self._tolerant

    @property
    def problem(self) -> str | None:
        """Return why the authorities are not known yet, or None."""
        if self.looks_up and not self._looked_up:
            return f"ConfigMap {_NAMESPACE}/{_NAME} could not be read: {self._lookup_error}"
        return None

    def load_files(self) -> None:
        """Read the files named by flags; raise `MaterialError` or `ValueError` when they cannot be used."""
        pair = tuple(self._read(source) for source in (self._client_ca, self._proxy_ca))
        seen = tuple(source.generation if source else 0 for source in (self._client_ca, self._proxy_ca))
        if seen == self._files_seen:
            return
        client_pem, proxy_pem = pair
        if client_pem is not None and self._client_ca is not None:
            self.clients = _bundle(client_pem, str(self._client_ca.path))
        if proxy_pem is not None and self._flags is not None:
            self.front_proxy = FrontProxy(
                _bundle(proxy_pem, self._flags.ca_file),
                self._flags.allowed_names,
                self._flags.username_headers,
                self._flags.group_headers,
                self._flags.uid_headers,
                self._flags.extra_prefixes,
            )
        self._files_seen = (seen[0], seen[1])
        self.generation += 1

    @staticmethod
    def _read(source: Source | None) -> bytes | None:
        return source.read() if source is not None else None

    async def run(self) -> None:
        """Follow the files and the ConfigMap until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._client_ca or self._proxy_ca:
                group.create_task(self._follow_files())
            if self._lookup:
                group.create_task(self._follow_config_map())

    async def _follow_files(self) -> None:
        failed = ""
        while True:
            await asyncio.sleep(_FILE_CHECK_SECONDS)
            try:
                self.load_files()
                failed = ""
            except (MaterialError, ValueError) as error:
                if str(error) != failed:
                    failed = str(error)
                    _log.warning(
                        "CA files cannot be read again, the old ones stay in use", extra={"kv": {"err": failed}}
                    )

    async def _follow_config_map(self) -> None:
        backoff, logged = _BACKOFF, ""
        while True:
            started = asyncio.get_running_loop().time()
            try:
                version = await self._get()
                await self._watch(version)
                problem = ""
            except KubeError as error:
                # A version that has expired is read anew, like a watch that has ended.
                problem = "" if error.status == 410 else str(error)
            # A GET that succeeds before each watch that fails at once is no success.
            if asyncio.get_running_loop().time() - started > _SHORT_WATCH:
                backoff = _BACKOFF
            if problem:
                self._lookup_error = problem
                if problem != logged:
                    _log.warning(
                        "Authentication configuration cannot be read, trying again",
                        extra={"kv": {"configmap": f"{_NAMESPACE}/{_NAME}", "err": problem, "after": f"{backoff:g}s"}},
                    )
            logged = problem
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF)

    async def _get(self) -> str:
        assert self._client is not None
        found = await self._client.request("GET", f"{_PATH}/{_NAME}")
        self._apply(found)
        self._looked_up = True
        return str(found.get("metadata", {}).get("resourceVersion", "")) if isinstance(found, dict) else ""

    async def _watch(self, version: str) -> None:
        assert self._client is not None
        query = {
            "fieldSelector": f"metadata.name={_NAME}",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
            "allowWatchBookmarks": "false",
        }
        lines = self._client.watch(_PATH, query=query, idle_timeout=_WATCH_SECONDS + 10.0)
        async with aclosing(lines) as events:  # type: ignore[type-var]
            async for line in events:
                try:
                    event = msgspec.json.decode(line)
                except msgspec.DecodeError:
                    return
                kind = event.get("type") if isinstance(event, dict) else None
                if kind not in ("ADDED", "MODIFIED"):
                    # DELETED or ERROR: the last known configuration stays in force until it can be read again.
                    return
                self._apply(event.get("object"))

    def _apply(self, config_map: Any) -> None:
        """Take over a ConfigMap. What cannot be used is reported and leaves that part as it was."""
        data = config_map.get("data") if isinstance(config_map, dict) else None
        if not isinstance(data, dict):
            data = {}
        changed = False
        if self._client_ca is None:
            clients = self._parse("client-ca-file", data, self.clients)
            changed |= clients is not self.clients
            self.clients = clients
        if self._flags is None:
            front_proxy = self._parse_front_proxy(data)
            changed |= front_proxy != self.front_proxy
            self.front_proxy = front_proxy
        if changed:
            self.generation += 1
            _log.info(
                "Authentication configuration in force",
                extra={
                    "kv": {
                        "clientCAs": len(self.clients.certificates) if self.clients else 0,
                        "frontProxyCAs": len(self.front_proxy.bundle.certificates) if self.front_proxy else 0,
                        "frontProxyNames": list(self.front_proxy.allowed_names) if self.front_proxy else [],
                    }
                },
            )

    def _parse(self, key: str, data: Mapping[str, Any], present: CertificateBundle | None) -> CertificateBundle | None:
        pem = str(data.get(key) or "").encode()
        if not pem.strip():
            return None
        if present is not None and present.pem == pem:
            return present
        try:
            return _bundle(pem, f"{key} of ConfigMap {_NAMESPACE}/{_NAME}")
        except ValueError as error:
            _log.error("CA bundle cannot be used, the old one stays in force", extra={"kv": {"err": str(error)}})
            return present

    def _parse_front_proxy(self, data: Mapping[str, Any]) -> FrontProxy | None:
        present = self.front_proxy
        bundle = self._parse("requestheader-client-ca-file", data, present.bundle if present else None)
        if bundle is None:
            if present is not None or self.generation == 0:
                _log.warning(
                    "No front proxy is configured: requests through the API server will not be believed. "
                    "Give the kube-apiserver its --requestheader-client-ca-file"
                )
            return None
        try:
            return FrontProxy(
                bundle,
                _names(data, "requestheader-allowed-names"),
                _names(data, "requestheader-username-headers"),
                _names(data, "requestheader-group-headers"),
                _names(data, "requestheader-uid-headers"),
                _names(data, "requestheader-extra-headers-prefix"),
            )
        except ValueError as error:
            _log.error(
                "Front proxy settings cannot be used, the old ones stay in force", extra={"kv": {"err": str(error)}}
            )
            return present


def _bundle(pem: bytes, where: str) -> CertificateBundle:
    try:
        return CertificateBundle(pem)
    except ValueError as error:
        raise ValueError(f"{where} is not a bundle of PEM certificates: {error}") from None


def _names(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    text = data.get(key) or "[]"
    try:
        names: Sequence[str] = msgspec.json.decode(str(text), type=list[str])
    except msgspec.MsgspecError:
        # Silence here would be dangerous: an empty list of allowed names means "any".
        raise ValueError(f"{key} of ConfigMap {_NAMESPACE}/{_NAME} is not a JSON list of texts") from None
    return tuple(names)
