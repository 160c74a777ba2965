# SPDX-License-Identifier: GPL-3.0-or-later
"""A small client for the Kubernetes API: JSON requests and watches, in a pod or with a kubeconfig. TLS is always
verified."""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec

from metrics_server.kube.connections import (
    Answer,
    ConnectionEndedError,
    Connections,
    MalformedAnswerError,
    UnusableRequestError,
)
from metrics_server.tls.files import ClientTls, MaterialError, Source

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: The reason of an error that is a refused answer, too large or too late.
TOO_LARGE = "TooLarge"
TIMEOUT = "Timeout"
#: An answer larger than this is refused. A page of 500 pods is some 5 MB.
MAX_BODY = 256 * 1024 * 1024
#: etcd refuses objects above 1.5 MB; JSON and managedFields make it more.
MAX_WATCH_LINE = 32 * 1024 * 1024


#: Seconds for a new connection. An API server that has just begun has the handshakes of all its clients to do.
_CONNECT_TIMEOUT = 20.0
#: How long a watch may take to begin: a stopped API server goes on to accept connections.
_HEAD_TIMEOUT = 45.0
_TRANSPORT_ERRORS = (OSError, TimeoutError, ConnectionEndedError, MalformedAnswerError, UnusableRequestError)
_ERRNO = re.compile(r"\[Errno ([0-9]+)\]")

#: Kinds of alternative names that a client may have dialled.
_HOST_NAMES = ("DNS", "IP Address")


class KubeError(Exception):
    """A request to the API server failed.

    `status` is the HTTP status, or None when no answer came; `reason` is the reason of the Status object (`Forbidden`,
    `Expired`, `Conflict`, ...), or for transport errors one of `Configuration`, `Timeout`, `Refused`, `Unreachable`,
    `DNS`, `TLS`, `Malformed`, `Disconnected`.
    """

    def __init__(self, status: int | None, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""


class Requester(Protocol):
    """Who sends requests to the API server."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float = 10.0,
    ) -> Any:
        """Send one request and return the decoded answer."""


class WatchingRequester(Requester, Protocol):
    """Who can also watch."""

    def watch(
        self, path: str, *, query: Mapping[str, str] | None = None, idle_timeout: float | None = 300.0
    ) -> AsyncIterator[bytes]:
        """Yield the lines of a watch."""


def _no_address(server: str) -> KubeError:
    return KubeError(None, "Configuration", f"the API server's address must be an https:// URL, not {server!r}")


class KubeClient:
    """Requests to one API server. Token, CA and client certificate files are read again when they change."""

    def __init__(self, server: str, *, tls: ClientTls, token: Source | None, user_agent: str) -> None:
        try:
            parts = urlsplit(server)
            port = parts.port or 443
            # As it is done before a name is resolved: too late for one sentence.
            (parts.hostname or "").rstrip(".").encode("idna")
        except ValueError:
            raise _no_address(server) from None
        if parts.scheme != "https" or not parts.hostname:
            raise _no_address(server)
        self.server = server.rstrip("/")
        self.tls = tls
        self.token = token
        self._connections: Connections | None = None
        self._host, self._port, self._prefix = parts.hostname, port, parts.path.rstrip("/")
        self._usual_headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "User-Agent": user_agent,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }

    @classmethod
    def from_kubeconfig(cls, path: str | None, *, user_agent: str, context: str | None = None) -> KubeClient:
        """Make a client from a kubeconfig file, or from the pod's service account when `path` is None."""
        try:
            if path is None:
                return cls._in_cluster(user_agent)
            return _from_file(cls, Path(path), context, user_agent)
        except MaterialError as error:
            raise KubeError(None, "Configuration", str(error)) from error

    @classmethod
    def _in_cluster(cls, user_agent: str) -> KubeClient:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise KubeError(
                None,
                "Configuration",
                "not running in a pod (KUBERNETES_SERVICE_HOST is not set): name a kubeconfig file with --kubeconfig",
            )
        tls = ClientTls(ca=Source("the service account's CA file", path=SERVICE_ACCOUNT_DIR / "ca.crt"))
        token = Source("the service account's token file", path=SERVICE_ACCOUNT_DIR / "token")
        token.read()
        tls.context()
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return cls(f"https://{authority}", tls=tls, token=token, user_agent=user_agent)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float = 10.0,
    ) -> Any:
        """Send one request and return the decoded JSON (None for an empty answer). Raises KubeError."""
        raw = await self.request_raw(method, path, query=query, body=body, content_type=content_type, timeout=timeout)
        if not raw:
            return None
        try:
            return msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise KubeError(
                None, "Malformed", f"{method} {path}: the API server's answer is not JSON ({error})"
            ) from error

    async def request_raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float = 10.0,
    ) -> bytes:
        """Send one request and return the body as it came. Raises KubeError."""
        data = b"" if body is None else msgspec.json.encode(body)
        headers = self._headers()
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            async with (
                asyncio.timeout(timeout),
                self._exchange(method, path, query, headers, data, min(timeout, _CONNECT_TIMEOUT)) as answer,
            ):
                content = await _bounded(answer, MAX_BODY, f"{method} {path}")
        except _TRANSPORT_ERRORS as error:
            raise self._transport_error(error, method, path, timeout) from error
        self._check(answer.status, content, method, path)
        return content

    async def watch(
        self, path: str, *, query: Mapping[str, str] | None = None, idle_timeout: float | None = 300.0
    ) -> AsyncIterator[bytes]:
        """Yield the lines of a watch, each one JSON event, until the server ends it. Raises KubeError.

        `idle_timeout` ends a watch on which nothing came for so long, for peers that went away without a word. An API
        server begins its answer at once, whether there are events or not.
        """
        watch_query = {"watch": "1", **(query or {})}
        patience: float | None = _HEAD_TIMEOUT
        try:
            async with (
                asyncio.timeout(patience) as silence,
                self._exchange("GET", path, watch_query, self._headers(), b"", _CONNECT_TIMEOUT) as answer,
            ):
                if answer.status != 200:
                    content = await _bounded(answer, MAX_BODY, f"watch {path}")
                    self._check(answer.status, content, "watch", path)
                    raise KubeError(answer.status, "Malformed", f"watch {path}: unexpected answer {answer.status}")
                patience = idle_timeout
                if patience is not None:
                    silence.reschedule(asyncio.get_running_loop().time() + patience)
                else:
                    silence.reschedule(None)
                pending: list[bytes] = []
                size = 0
                while chunk := await answer.read():
                    if b"\n" not in chunk:
                        pending.append(chunk)
                        size += len(chunk)
                        if size > MAX_WATCH_LINE:
                            raise KubeError(
                                None, "Malformed", f"watch {path}: an event is larger than {MAX_WATCH_LINE} bytes"
                            )
                    else:
                        lines = (b"".join(pending) + chunk).split(b"\n")
                        rest = lines.pop()
                        pending, size = ([rest], len(rest)) if rest else ([], 0)
                        # Who reads the lines may take its time.
                        silence.reschedule(None)
                        for line in lines:
                            if line:
                                yield line
                    if idle_timeout is not None:
                        silence.reschedule(asyncio.get_running_loop().time() + idle_timeout)
        except _TRANSPORT_ERRORS as error:
            raise self._transport_error(error, "watch", path, patience) from error

    async def certificate_names(self, *, timeout: float = 10.0) -> tuple[str, ...]:
        """Return the addresses and names that the API server is known by: its own, and its certificate's.

        Raises KubeError.
        """
        parts = urlsplit(self.server)
        host = parts.hostname or ""
        try:
            async with asyncio.timeout(timeout):
                _unused, writer = await asyncio.open_connection(
                    host, self._port, ssl=self._context(), server_hostname=host.rstrip(".")
                )
        except (OSError, TimeoutError) as error:
            raise self._transport_error(error, "connect", "to read its certificate", timeout) from error
        try:
            certificate = writer.get_extra_info("peercert") or {}
        finally:
            writer.transport.abort()
        return host, *(str(value) for kind, value in certificate.get("subjectAltName", ()) if kind in _HOST_NAMES)

    async def close(self) -> None:
        """Close all connections."""
        if self._connections is not None:
            self._connections.close()
            self._connections = None
            # asyncio closes their sockets in its next turn.
            await asyncio.sleep(0)

    def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes,
        connect: float,
    ) -> AbstractAsyncContextManager[Answer]:
        if self._connections is None:
            self._connections = Connections(self._host, self._port)
        target = self._prefix + path + (f"?{urlencode(query)}" if query else "")
        return self._connections.exchange(
            method, target, {**self._usual_headers, **headers}, body, self._context(), connect
        )

    def _headers(self) -> dict[str, str]:
        if self.token is None:
            return {}
        try:
            token = self.token.read().decode("ascii", "replace").strip()
        except MaterialError as error:
            raise KubeError(None, "Configuration", str(error)) from error
        if not (token.isascii() and token.isprintable()):
            raise KubeError(None, "Configuration", f"{self.token.what} does not hold a token")
        return {"Authorization": f"Bearer {token}"}

    def _context(self) -> ssl.SSLContext:
        try:
            return self.tls.context()
        except MaterialError as error:
            raise KubeError(None, "Configuration", str(error)) from error

    def _check(self, status: int, content: bytes, method: str, path: str) -> None:
        if 200 <= status < 300:
            return
        if status == 401 and self.token is not None:
            self.token.expire_check()
        reason = message = ""
        try:
            decoded = msgspec.json.decode(content, type=_Status)
            reason, message = decoded.reason, decoded.message
        except msgspec.MsgspecError:
            message = content[:200].decode("utf-8", "replace").strip()
        raise KubeError(
            status,
            reason or f"HTTP{status}",
            f"{method} {path}: the API server answered {status}: {message or reason or 'no text'}",
        )

    def _transport_error(self, error: Exception, method: str, path: str, timeout: float | None) -> KubeError:
        where = f"{method} {path} at {self.server}"
        if isinstance(error, ConnectionEndedError) and not isinstance(error.error, ssl.SSLError):
            return KubeError(None, "Disconnected", f"{where}: the connection was lost ({error})")
        if isinstance(error, ConnectionEndedError):
            return KubeError(None, "TLS", f"{where}: TLS failed: {error}")
        if isinstance(error, ssl.SSLCertVerificationError):
            return KubeError(None, "TLS", f"{where}: the server's certificate is not trusted: {error}")
        if isinstance(error, ssl.SSLError):
            return KubeError(None, "TLS", f"{where}: TLS failed: {error}")
        if isinstance(error, socket.gaierror):
            return KubeError(None, "DNS", f"{where}: the name cannot be resolved")
        if isinstance(error, TimeoutError):
            return KubeError(
                None, TIMEOUT, f"{where}: no answer within {timeout:g} s" if timeout else f"{where}: timed out"
            )
        if isinstance(error, MalformedAnswerError):
            return KubeError(None, "Malformed", f"{where}: the answer is not valid HTTP")
        if isinstance(error, UnusableRequestError):
            return KubeError(None, "Configuration", f"{where!r}: {error}")
        # Of several addresses asyncio has one error with all their texts.
        if isinstance(error, ConnectionRefusedError) or set(_ERRNO.findall(str(error))) == {str(errno.ECONNREFUSED)}:
            return KubeError(None, "Refused", f"{where}: connection refused")
        return KubeError(None, "Unreachable", f"{where}: {error or type(error).__name__}")


async def _bounded(answer: Answer, limit: int, what: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await answer.read():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise KubeError(None, TOO_LARGE, f"{what}: the answer is larger than {limit} bytes")
    return b"".join(chunks)


def _from_file(cls: type[KubeClient], path: Path, context_name: str | None, user_agent: str) -> KubeClient:
    config = _Kubeconfig(path)
    context = config.entry(
        "contexts", "context", context_name or config.text(config.root, "current-context", "current-context")
    )
    cluster = config.entry("clusters", "cluster", config.text(context, "cluster", "the context's cluster"))
    for unsupported, advice in (
        ("insecure-skip-tls-verify", "give certificate-authority-data instead: TLS is always verified"),
        ("proxy-url", "a proxy to the API server is not supported"),
        ("tls-server-name", "use a server address that the certificate covers"),
    ):
        if cluster.get(unsupported):
            raise config.error(f"cluster.{unsupported} cannot be used here: {advice}")
    user_name = context.get("user")
    user = config.entry("users", "user", user_name) if isinstance(user_name, str) and user_name else {}
    for unsupported in ("exec", "auth-provider", "username", "password", "as"):
        if user.get(unsupported):
            raise config.error(
                f"user.{unsupported} cannot be used here: give a token, a tokenFile or a client certificate"
            )
    ca = config.material(cluster, "certificate-authority", "the API server's CA file")
    certificate = config.material(user, "client-certificate", "the client certificate")
    key = config.material(user, "client-key", "the client key")
    if (certificate is None) != (key is None):
        raise config.error("client-certificate and client-key must be given together")
    token: Source | None = None
    if user.get("tokenFile"):
        token = Source("the token file", path=config.path_of(config.text(user, "tokenFile", "user.tokenFile")))
        token.read()
    elif user.get("token"):
        token = Source("the kubeconfig's token", data=config.text(user, "token", "user.token").encode())
    tls = ClientTls(ca=ca, certificate=certificate, key=key)
    tls.context()
    return cls(config.text(cluster, "server", "cluster.server"), tls=tls, token=token, user_agent=user_agent)


class _Kubeconfig:
    """Lookups in a kubeconfig file that name what is missing."""

    def __init__(self, path: Path) -> None:
        # Not at the top: within a pod nobody needs it.
        import yaml

        self.path = path
        try:
            root = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise self.error("is not valid YAML") from error
        if not isinstance(root, dict):
            raise self.error("is not a kubeconfig")
        self.root: dict[str, Any] = root

    def error(self, text: str) -> KubeError:
        return KubeError(None, "Configuration", f"kubeconfig {self.path}: {text}")

    def text(self, mapping: Mapping[str, Any], key: str, what: str) -> str:
        value = mapping.get(key)
        if not isinstance(value, str) or not value:
            raise self.error(f"{what} is not set")
        return value

    def entry(self, section: str, inner: str, name: str) -> dict[str, Any]:
        for item in self.root.get(section) or ():
            if isinstance(item, dict) and item.get("name") == name and isinstance(item.get(inner), dict):
                found: dict[str, Any] = item[inner]
                return found
        raise self.error(f"{section} has no entry {name!r}")

    def path_of(self, value: str) -> Path:
        return self.path.parent / value

    def material(self, mapping: Mapping[str, Any], key: str, what: str) -> Source | None:
        if mapping.get(f"{key}-data"):
            try:
                data = base64.b64decode(self.text(mapping, f"{key}-data", f"{key}-data"), validate=True)
            except (binascii.Error, ValueError) as error:
                raise self.error(f"{key}-data is not base64") from error
            return Source(what, data=data)
        if mapping.get(key):
            return Source(what, path=self.path_of(self.text(mapping, key, key)))
        return None
