# SPDX-License-Identifier: GPL-3.0-or-later
"""The serving certificate: given in files, self-signed in a directory, or managed by the server itself in a Secret.

Managed means: a CA and a certificate for the Service's names live in a Secret that all replicas share, and the
`caBundle` of the APIServices is kept so that the kube-apiserver can verify every replica at every moment. The order
makes it safe: a new CA is in the `caBundle` before any replica serves a certificate signed by it, and the old one
leaves long after the last.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from OpenSSL import SSL

from metrics_server.kube.client import KubeError, Requester
from metrics_server.tls import pki
from metrics_server.tls.files import MaterialError, Source
from metrics_server.tls.listener import TlsConfigError, make_context
from metrics_server.tls.pki import Pair

_log = logging.getLogger(__name__)

_FILE_CHECK_SECONDS = 5.0
_SECRET_CHECK_SECONDS = 60.0
_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0)
#: A kube-apiserver uses a new caBundle 0.3 s after the patch; replicas switch to the new certificate well after that.
_SWITCH_DELAY = 3.0
#: A CA that signed no certificate in use leaves the bundle this long after its successor took over.
_OLD_CA_GRACE = datetime.timedelta(hours=1)
_RENEW_BEFORE = pki.LEAF_LIFETIME / 3
_SELF_SIGNED_NAMES = ("localhost", "127.0.0.1")


class ServingError(Exception):
    """There is no certificate to serve with; the text says why."""


class Certificates(Protocol):
    """A source of the serving certificate."""

    #: When the certificate in use expires.
    not_after: datetime.datetime | None

    def start(self) -> SSL.Context:
        """Return the first context; raise `ServingError` when there is none."""

    async def run(self, use: Callable[[SSL.Context], None]) -> None:
        """Call `use` with every new context until cancelled."""

    def problem(self) -> str | None:
        """Return why the certificate is not the one that it should be, or None."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What all contexts have in common."""

    min_version: str = ""
    cipher_suites: Sequence[str] = ()

    def context(self, pair: Pair) -> SSL.Context:
        """Return a context for a certificate; raise `TlsConfigError` when it cannot be used."""
        return make_context(
            pair.certificate_pem, pair.key_pem, min_version=self.min_version, cipher_suites=self.cipher_suites
        )


class FileCertificates:
    """A certificate and key in files that somebody else renews."""

    def __init__(self, certificate: str, key: str, settings: TlsSettings) -> None:
        self.not_after: datetime.datetime | None = None
        self._certificate = Source("the serving certificate", path=certificate)
        self._key = Source("the serving key", path=key)
        self._settings = settings
        self._seen: tuple[int, int] | None = None
        self._problem: str | None = None

    def start(self) -> SSL.Context:
        """Load the pair."""
        try:
            context = self._load()
        except (MaterialError, TlsConfigError) as error:
            raise ServingError(f"{error} (--tls-cert-file, --tls-private-key-file)") from error
        assert context is not None
        return context

    async def run(self, use: Callable[[SSL.Context], None]) -> None:
        """Load the pair again when both files have changed and fit together."""
        while True:
            await asyncio.sleep(_FILE_CHECK_SECONDS)
            try:
                context = self._load()
            except (MaterialError, TlsConfigError) as error:
                # Two files are never replaced at the same instant: only what lasts is worth a line.
                if self._problem is not None and self._problem != str(error):
                    _log.warning("Serving certificate cannot be read again", extra={"kv": {"err": str(error)}})
                self._problem = str(error)
            else:
                self._problem = None
                if context is not None:
                    use(context)
                    _log.info("Serving certificate reloaded", extra={"kv": {"notAfter": self.not_after}})

    def problem(self) -> str | None:
        """The certificate in use stays good when a new one is not; only its end takes the server out of service."""
        return _expired(self.not_after)

    def _load(self) -> SSL.Context | None:
        pair = Pair(self._certificate.read(), self._key.read())
        seen = (self._certificate.generation, self._key.generation)
        if seen == self._seen:
            return None
        context = self._settings.context(pair)
        self.not_after = pair.certificate.not_valid_after_utc
        self._seen = seen
        return context


class SelfSignedCertificates:
    """A certificate for localhost that nobody vouches for, kept in a directory if that can be written."""

    def __init__(self, directory: str, settings: TlsSettings) -> None:
        self.not_after: datetime.datetime | None = None
        self._directory = Path(directory)
        self._settings = settings

    def start(self) -> SSL.Context:
        """Load the pair of the directory, or make a new one."""
        pair = self._existing()
        if pair is None:
            pair = pki.make_self_signed(_SELF_SIGNED_NAMES)
            self._save(pair)
        self.not_after = pair.certificate.not_valid_after_utc
        return self._settings.context(pair)

    async def run(self, use: Callable[[SSL.Context], None]) -> None:
        """Replace the pair before it expires."""
        while True:
            assert self.not_after is not None
            remaining = self.not_after - datetime.datetime.now(datetime.UTC) - _RENEW_BEFORE
            # A day at a time: clocks are set, machines sleep.
            await asyncio.sleep(max(60.0, min(remaining.total_seconds(), 86400.0)))
            if self.not_after - datetime.datetime.now(datetime.UTC) < _RENEW_BEFORE:
                pair = pki.make_self_signed(_SELF_SIGNED_NAMES)
                self._save(pair)
                self.not_after = pair.certificate.not_valid_after_utc
                use(self._settings.context(pair))

    def problem(self) -> str | None:
        """Return whether it was not renewed in time."""
        return _expired(self.not_after)

    def _existing(self) -> Pair | None:
        try:
            pair = Pair(
                (self._directory / "apiserver.crt").read_bytes(), (self._directory / "apiserver.key").read_bytes()
            )
            self._settings.context(pair)
            fresh = pair.certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC) > _RENEW_BEFORE
        except (OSError, TlsConfigError, ValueError):
            return None
        return pair if fresh else None

    def _save(self, pair: Pair) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for name, mode, data in (
                ("apiserver.key", 0o600, pair.key_pem),
                ("apiserver.crt", 0o644, pair.certificate_pem),
            ):
                temporary = self._directory / f".{name}.new"
                temporary.unlink(missing_ok=True)
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                temporary.replace(self._directory / name)
        except OSError as error:
            _log.warning(
                "Self-signed certificate is kept in memory only",
                extra={"kv": {"directory": str(self._directory), "err": error.strerror}},
            )


@dataclass(frozen=True, slots=True)
class ManagedNames:
    """Where the managed certificate lives and what it is for."""

    secret: str
    service: str
    namespace: str
    api_services: Sequence[str]

    def dns_names(self) -> tuple[str, ...]:
        """Return the names of the Service, the one that the kube-apiserver verifies first."""
        host = f"{self.service}.{self.namespace}"
        return (f"{host}.svc", f"{host}.svc.cluster.local", host, self.service)


@dataclass(frozen=True, slots=True)
class _Material:
    """The content of the Secret."""

    ca: Pair
    leaf: Pair
    #: All CAs that a replica's certificate may be signed by, the current one first.
    bundle: tuple[x509.Certificate, ...]

    def data(self) -> dict[str, str]:
        raw = {
            "ca.crt": pki.bundle_pem(self.bundle),
            "ca.key": self.ca.key_pem,
            "tls.crt": self.leaf.certificate_pem,
            "tls.key": self.leaf.key_pem,
        }
        return {key: base64.b64encode(value).decode() for key, value in raw.items()}


class ManagedCertificates:
    """The certificate in the Secret, shared by all replicas."""

    def __init__(
        self, client: Requester, names: ManagedNames, settings: TlsSettings, ready: Callable[[], bool]
    ) -> None:
        self.not_after: datetime.datetime | None = None
        self._client = client
        self._names = names
        self._settings = settings
        self._ready = ready
        self._in_use: _Material | None = None
        self._problem: str | None = "the serving certificate has not been read from its Secret yet"
        self._warned: dict[str, str] = {}
        self._taken_over: set[str] = set()

    def start(self) -> SSL.Context:
        """Return a context that lets probes in until the Secret has been read; readiness waits for that."""
        return self._settings.context(pki.make_self_signed(self._names.dns_names()))

    def problem(self) -> str | None:
        """Return why the managed certificate is not in use."""
        return self._problem

    async def run(self, use: Callable[[SSL.Context], None]) -> None:
        """Keep Secret, caBundle and the certificate in use in step until cancelled."""
        attempt = 0
        while True:
            try:
                settled = await self._reconcile(use)
            except (KubeError, TlsConfigError) as error:
                pause = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
                attempt += 1
                if self._in_use is None:
                    self._problem = f"the serving certificate cannot be managed: {error}"
                self._warn("reconcile", f"Serving certificate cannot be managed now: {error}")
            else:
                attempt = 0
                self._warned.pop("reconcile", None)
                pause = _SECRET_CHECK_SECONDS if settled else _RETRY_SECONDS[1]
            await asyncio.sleep(pause)

    async def _reconcile(self, use: Callable[[SSL.Context], None]) -> bool:
        material = await self._agree()
        settled = await self._publish(material)
        if self._in_use is None or self._in_use.leaf != material.leaf:
            if self._in_use is not None:
                await asyncio.sleep(_SWITCH_DELAY)
            use(self._settings.context(material.leaf))
            self.not_after = material.leaf.certificate.not_valid_after_utc
            _log.info(
                "Serving certificate in use",
                extra={"kv": {"secret": self._names.secret, "notAfter": self.not_after.isoformat()}},
            )
        self._in_use = material
        self._problem = None
        return settled

    # The Secret.

    async def _agree(self) -> _Material:
        """Return what all replicas use: the Secret as it is, or as this replica makes or renews it."""
        path = f"/api/v1/namespaces/{self._names.namespace}/secrets"
        last: KubeError | None = None
        for _unused in range(5):
            try:
                secret = await self._client.request("GET", f"{path}/{self._names.secret}")
            except KubeError as error:
                if error.status != 404:
                    raise
                secret = None
            known = _parse(secret, self._names.dns_names())
            wanted = self._renewed(known)
            if wanted is known and known is not None:
                return known
            body = {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/tls",
                "metadata": {
                    "name": self._names.secret,
                    "namespace": self._names.namespace,
                    # An uninstall goes by these; without them the keys would stay behind.
                    "labels": {"k8s-app": self._names.service, "app.kubernetes.io/managed-by": "kubemetrics"},
                },
                "data": wanted.data(),
            }
            try:
                if secret is None:
                    await self._client.request("POST", path, body=body)
                else:
                    # What others keep in the Secret stays; the version makes sure that nobody wrote in between.
                    body = {**secret, "data": {**(secret.get("data") or {}), **wanted.data()}}
                    await self._client.request("PUT", f"{path}/{self._names.secret}", body=body)
            except KubeError as error:
                if error.status != 409:
                    raise
                last = error
                continue
            _log.info("Serving certificate written", extra={"kv": {"secret": self._names.secret}})
            return wanted
        assert last is not None
        raise last

    def _renewed(self, known: _Material | None) -> _Material:
        """Return what the Secret should hold, which is `known` itself when nothing is due."""
        now = datetime.datetime.now(datetime.UTC)
        names = self._names.dns_names()
        in_use = self._in_use.bundle if self._in_use is not None else ()
        if known is None or known.ca.certificate.not_valid_after_utc - now < pki.LEAF_LIFETIME:
            ca = pki.make_ca(f"{self._names.service}-ca")
            previous = (*(known.bundle if known is not None else ()), *in_use)
            living = [certificate for certificate in previous if certificate.not_valid_after_utc > now]
            return _Material(ca, pki.make_leaf(ca, names), tuple(dict.fromkeys((ca.certificate, *living))))
        leaf = known.leaf.certificate
        if leaf.not_valid_after_utc - now < _RENEW_BEFORE:
            return _Material(known.ca, pki.make_leaf(known.ca, names), known.bundle)
        if len(known.bundle) > 1 and now - leaf.not_valid_before_utc > _OLD_CA_GRACE:
            return _Material(known.ca, known.leaf, (known.ca.certificate,))
        return known

    # The APIServices.

    async def _publish(self, material: _Material) -> bool:
        """Bring every APIService's caBundle in line; return whether all of them are."""
        settled = True
        for name in self._names.api_services:
            settled &= await self._publish_to(name, material)
        return settled

    async def _publish_to(self, name: str, material: _Material) -> bool:
        path = f"/apis/apiregistration.k8s.io/v1/apiservices/{name}"
        try:
            found = await self._client.request("GET", path)
        except KubeError as error:
            if error.status == 404:
                self._warn(name, f"APIService {name} does not exist yet: its caBundle cannot be set")
                return False
            raise
        spec = found.get("spec") or {}
        service = spec.get("service") or {}
        if (service.get("namespace"), service.get("name")) != (self._names.namespace, self._names.service):
            self._warn(name, f"APIService {name} belongs to another service: its caBundle is left alone")
            return True
        bundle = pki.bundle_pem(material.bundle)
        present = _decoded(spec.get("caBundle"))
        if present == bundle and not spec.get("insecureSkipTLSVerify"):
            self._warned.pop(name, None)
            return True
        foreign = bool(spec.get("insecureSkipTLSVerify")) or bool(set(_certificates(present)) - set(material.bundle))
        if foreign and name not in self._taken_over and not self._ready():
            # Another server may still be answering under the old settings: take over once there is something to serve.
            return False
        patch: dict[str, Any] = {
            "spec": {"caBundle": base64.b64encode(bundle).decode(), "insecureSkipTLSVerify": False}
        }
        version = (found.get("metadata") or {}).get("resourceVersion")
        if version:
            patch["metadata"] = {"resourceVersion": version}
        await self._client.request("PATCH", path, body=patch, content_type="application/merge-patch+json")
        self._taken_over.add(name)
        self._warned.pop(name, None)
        _log.info("APIService trusts the serving certificate", extra={"kv": {"apiservice": name}})
        return True

    def _warn(self, subject: str, text: str) -> None:
        if self._warned.get(subject) != text:
            self._warned[subject] = text
            _log.warning("%s", text)


def _expired(not_after: datetime.datetime | None) -> str | None:
    if not_after is not None and not_after < datetime.datetime.now(datetime.UTC):
        return "the serving certificate has expired"
    return None


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(str(text or ""), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(pem)) if pem.strip() else ()
    except ValueError:
        return ()


def _parse(secret: Any, names: Sequence[str]) -> _Material | None:
    """Return the content of the Secret, or None when it is not usable as it is."""
    data: Mapping[str, Any] = (secret.get("data") or {}) if isinstance(secret, dict) else {}
    bundle = _certificates(_decoded(data.get("ca.crt")))
    leaf = Pair(_decoded(data.get("tls.crt")), _decoded(data.get("tls.key")))
    ca_key = _decoded(data.get("ca.key"))
    try:
        certificate = leaf.certificate
        make_context(leaf.certificate_pem, leaf.key_pem)
    except (ValueError, TlsConfigError):
        return None
    now = datetime.datetime.now(datetime.UTC)
    issuer = next((ca for ca in bundle if pki.issued_by(certificate, ca)), None)
    if issuer is None or certificate.not_valid_after_utc <= now or not set(names) <= pki.dns_names(certificate):
        return None
    ca = Pair(pki.bundle_pem([issuer]), ca_key)
    try:
        make_context(ca.certificate_pem, ca.key_pem)
        # Somebody may have put another CA there than this server makes; one that it cannot sign with is replaced.
        pki.signing_key(ca)
    except (TlsConfigError, ValueError):
        return None
    return _Material(ca, leaf, (issuer, *(other for other in bundle if other != issuer)))
