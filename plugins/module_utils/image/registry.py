# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry API of the OCI distribution specification: what it takes to read a base image and to send one.

Every answer is checked against its digest.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import oci, transport
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import Login, Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError, Unreachable
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.reference import (
    Reference,
    is_digest,
    normalized,
)

TIMEOUT = 60
ATTEMPTS = 3
PAUSE = 1.0
CHUNK = 1 << 20
#: A manifest is small; registries allow four megabytes.
LARGEST_DOCUMENT = 4 << 20
AGENT = "kubemetrics.aggregation"
#: What another attempt may change: too many requests, a registry that restarts, a proxy in front of one that does.
PASSING = frozenset({429, 500, 502, 503, 504})
#: Longest time in seconds that a registry is waited for because it says so (Retry-After).
LONGEST_PAUSE = 60.0
#: What those say that know GET only.
NO_HEAD = (405, 501)
#: What becomes of a request that gets no answer; odd names and ports of hosts are no OSError.
UNANSWERED = (OSError, http.client.HTTPException, ValueError, OverflowError)

T = t.TypeVar("T")

PULL, PUSH = "pull", "pull,push"


class Scope(t.NamedTuple):
    """What a token is asked for."""

    repository: str
    actions: str

    def __str__(self) -> str:
        return "repository:%s:%s" % self


class Response(t.NamedTuple):
    status: int
    headers: t.Any
    body: bytes
    #: Where it is from; not always the registry itself.
    host: str


class Registry:
    """One registry, as one user. It is asked for credentials' sake only when it says so."""

    def __init__(self, host: str, registries: Registries, *, timeout: float = TIMEOUT, pause: float = PAUSE):
        self.host = host
        self.own = normalized(host)
        self.registries = registries
        self.timeout = timeout
        self.pause = pause
        self._authorization: t.Dict[Scope, str] = {}
        self._opener: t.Optional[urllib.request.OpenerDirector] = None

    @property
    def opener(self) -> urllib.request.OpenerDirector:
        if self._opener is None:
            self._opener = transport.opener(self.registries.ca_file(self.host))
        return self._opener

    # --- requests -----------------------------------------------------------------------------------------------------

    def open(
        self,
        method: str,
        url: str,
        *,
        scope: Scope,
        accept: str = "",
        data: t.Any = None,
        headers: t.Optional[t.Mapping[str, str]] = None,
    ) -> t.Any:
        """The answer to a request, whatever its status; it answers a challenge once. Raises Unreachable, ImageError."""
        for answered in (False, True):
            if hasattr(data, "seek"):
                data.seek(0)
            request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
            request.add_header("User-Agent", AGENT)
            if accept:
                request.add_header("Accept", accept)
            if scope in self._authorization and transport.host_of(url) == self.own:
                # Not followed along to the place that blobs are redirected to.
                request.add_unredirected_header("Authorization", self._authorization[scope])
            try:
                return self.opener.open(request, timeout=self.timeout)
            except urllib.error.HTTPError as exc:
                # Whoever the registry redirects to gets no login of the registry's, and names no place for it either.
                own = transport.host_of(exc.geturl()) == self.own
                if exc.code != 401 or answered or not own or not self.authorize(exc.headers, scope):
                    return exc
                exc.close()
            except UNANSWERED as exc:
                raise self.unreachable(exc) from exc
        raise AssertionError("every second answer is returned")

    def unreachable(self, exc: BaseException) -> ImageError:
        reason = getattr(exc, "reason", None) or exc
        if isinstance(reason, ssl.SSLCertVerificationError):
            return ImageError(
                "The certificate of the registry %s cannot be verified (%s); name its CA as ca_file in "
                "metrics_server_image_registries." % (self.host, reason.verify_message)
            )
        said = str(getattr(reason, "strerror", None) or reason or type(exc).__name__).rstrip(".")
        if isinstance(reason, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(reason):
            said = "it does not speak TLS"
        return Unreachable("The registry %s cannot be reached (%s)." % (self.host, said))

    def patiently(self, step: t.Callable[[], T]) -> T:
        """Do something again where the registry fails for a moment; the last failure is raised."""
        for attempt in range(1, ATTEMPTS):
            try:
                return step()
            except Unreachable as exc:
                time.sleep(max(self.pause * attempt, min(exc.retry_after, LONGEST_PAUSE)))
        return step()

    def request(self, *where: t.Any, **options: t.Any) -> Response:
        """A small answer, after some patience."""
        return self.patiently(lambda: self.once(*where, **options))

    def once(
        self,
        method: str,
        url: str,
        reference: Reference,
        wanted: t.Collection[int],
        *,
        actions: str = PULL,
        **options: t.Any,
    ) -> Response:
        """A small answer with one of the wanted statuses. Raises Unreachable, ImageError."""
        with self.open(method, url, scope=Scope(reference.repository, actions), **options) as answer:
            body = b"" if method == "HEAD" else self.body_of(answer)
            found = Response(answer.status, answer.headers, body, transport.host_of(answer.geturl()))
        if found.status not in wanted:
            raise self.failure(found, reference, "reading" if method in ("GET", "HEAD") else "writing")
        return found

    def body_of(self, answer: t.Any) -> bytes:
        """The body of a small answer as a whole. That of an error is worth nothing but its words."""
        failed = answer.status >= 300
        try:
            body = answer.read(LARGEST_DOCUMENT + 1)
        except (OSError, http.client.HTTPException) as exc:
            if failed:
                return b""
            raise self.unreachable(exc) from exc
        length = answer.headers.get("Content-Length") or ""
        if not failed and len(body) > LARGEST_DOCUMENT:
            raise ImageError(
                "The registry %s answers with more than %d MiB, which is no document of an image; check its address."
                % (self.host, LARGEST_DOCUMENT >> 20)
            )
        if not failed and length.isdigit() and len(body) < int(length):
            raise Unreachable("The registry %s broke off in the middle of an answer." % self.host)
        return body

    def authorize(self, headers: t.Any, scope: Scope) -> bool:
        """Answer the first challenge that can be answered; false where there is none."""
        login = self.registries.login(self.host, scope.repository)
        for scheme, parameters in transport.challenges(headers.get_all("WWW-Authenticate") or ()):
            if scheme == "basic" and login is not None:
                self._authorization[scope] = basic(login)
                return True
            if scheme == "bearer" and parameters.get("realm"):
                self._authorization[scope] = "Bearer " + self.token(parameters, scope, login)
                return True
        return False

    def token(self, parameters: t.Mapping[str, str], scope: Scope, login: t.Optional[Login]) -> str:
        realm = parameters["realm"]
        where = transport.host_of(realm)
        if not where:
            raise ImageError(
                "The registry %s has its tokens from %s, which is not encrypted; no password is sent there."
                % (self.host, realm)
            )
        query = {"service": parameters.get("service", ""), "scope": str(scope)}
        query = {name: value for name, value in query.items() if value}
        request = urllib.request.Request(realm, headers={"User-Agent": AGENT, "Accept": "application/json"})
        if login is not None and not login.username:
            # A refresh token of an identity service is exchanged by POST.
            form = {**query, "grant_type": "refresh_token", "refresh_token": login.password, "client_id": AGENT}
            request.data = urllib.parse.urlencode(form).encode()
        else:
            request.full_url = realm + ("&" if "?" in realm else "?") + urllib.parse.urlencode(query)
            if login is not None:
                request.add_unredirected_header("Authorization", basic(login))
        try:
            with self.opener.open(request, timeout=self.timeout) as answer:
                document = json.loads(answer.read(LARGEST_DOCUMENT))
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code in (401, 403):
                raise ImageError(self.refused(login)) from None
            message = "%s gives no token for the registry %s (%d)." % (where, self.host, exc.code)
            raise Unreachable(message, transport.retry_after(exc.headers, time.time())) from None
        except UNANSWERED as exc:
            raise self.unreachable(exc) from exc
        found = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if not isinstance(found, str):
            raise ImageError("%s gives no token for the registry %s." % (where, self.host))
        return found

    def refused(self, login: t.Optional[Login]) -> str:
        if login is None:
            return (
                "The registry %s asks for a login; name username and password in metrics_server_image_registries, or "
                "log in with podman, docker or skopeo." % self.host
            )
        who = login.username or "the token that was saved"
        return (
            "The registry %s refuses the login of %s; correct it in metrics_server_image_registries, or log in again."
            % (self.host, who)
        )

    def failure(self, found: Response, reference: Reference, doing: str) -> ImageError:
        """Any other answer as a sentence."""
        reason = reason_of(found.body)
        failed = "failed at %s %s (%d%s)." % (doing, reference, found.status, ": " + reason if reason else "")
        if found.host != self.own:
            failed = "The registry %s redirects to %s, which %s" % (self.host, found.host, failed)
        else:
            failed = "The registry %s %s" % (self.host, failed)
        if found.status in PASSING:
            return Unreachable(failed, transport.retry_after(found.headers, time.time()))
        if found.host != self.own:
            return ImageError(failed)
        if found.status == 401:
            return ImageError(self.refused(self.registries.login(self.host, reference.repository)))
        clause = " (%s)" % reason if reason else ""
        if found.status == 403:
            return ImageError("The registry %s does not allow %s %s%s." % (self.host, doing, reference.name, clause))
        if found.status == 404 and doing == "writing":
            return ImageError(
                "The registry %s has no repository %s%s; create it there." % (self.host, reference.repository, clause)
            )
        if found.status == 404:
            return ImageError("The registry %s has no %s%s." % (self.host, reference, clause))
        return ImageError(failed)

    def url(self, reference: Reference, kind: str, name: str) -> str:
        return "https://%s/v2/%s/%s/%s" % (self.host, reference.repository, kind, name)

    # --- reading ------------------------------------------------------------------------------------------------------

    # A token for reading only is refused by some registries where the repository is not there yet, so that whoever
    # means to write afterwards says it.

    def digest_of(self, reference: Reference, actions: str = PULL) -> t.Optional[str]:
        """The digest that a tag has now, without fetching it; none where there is no such tag."""
        found = self._ask_for_manifest("HEAD", reference, (200, 404, *NO_HEAD), actions)
        if found.status == 404:
            return None
        digest = str(found.headers.get("Docker-Content-Digest") or "")
        if found.status == 200 and is_digest(digest):
            return digest
        # The header is optional, and so is SHA-256 in it; the manifest itself says it as well.
        found = self._ask_for_manifest("GET", reference, (200, 404), actions)
        return None if found.status == 404 else oci.digest_of(found.body)

    def manifest(self, reference: Reference, actions: str = PULL) -> t.Tuple[bytes, str]:
        """A manifest or an index as it is, and its digest."""
        found = self._ask_for_manifest("GET", reference, (200,), actions)
        digest = oci.digest_of(found.body)
        if reference.digest and digest != reference.digest:
            raise ImageError(
                "The registry %s answers something else than was asked for as %s." % (self.host, reference)
            )
        return found.body, digest

    def _ask_for_manifest(self, method: str, reference: Reference, wanted: t.Collection[int], actions: str) -> Response:
        url = self.url(reference, "manifests", reference.version)
        return self.request(method, url, reference, wanted, actions=actions, accept=", ".join(oci.MANIFESTS))

    def read_blob(self, reference: Reference, descriptor: t.Mapping[str, t.Any], write: t.Callable[[bytes], t.Any]):
        """Hand a blob over piece by piece, once; the caller checks the digest of what it has got, and is patient."""
        url = self.url(reference, "blobs", descriptor["digest"])
        with self.open("GET", url, scope=Scope(reference.repository, PULL)) as answer:
            if answer.status != 200:
                body = self.body_of(answer)
                found = Response(answer.status, answer.headers, body, transport.host_of(answer.geturl()))
                raise self.failure(found, reference, "reading")
            left = int(descriptor["size"])
            while left > 0:
                try:
                    piece = answer.read(min(CHUNK, left))
                except (OSError, http.client.HTTPException) as exc:
                    raise self.unreachable(exc) from exc
                if not piece:
                    raise Unreachable("The registry %s broke off in the middle of %s." % (self.host, reference))
                left -= len(piece)
                # What fails here is a disk, and no registry.
                write(piece)

    # --- writing ------------------------------------------------------------------------------------------------------

    def may_push(self, reference: Reference) -> None:
        """Know that images can be sent there, by beginning an upload and giving it up. Raises ImageError."""
        location = self.patiently(lambda: self.begin_upload(reference))
        # Some registries have no way to give up; they forget it after a while.
        with contextlib.suppress(ImageError):
            self.once("DELETE", location, reference, (202, 204), actions=PUSH)

    def begin_upload(self, reference: Reference) -> str:
        """Where a blob can be sent to, once."""
        start = self.url(reference, "blobs", "uploads/")
        found = self.once("POST", start, reference, (202,), actions=PUSH, data=b"", headers={"Content-Length": "0"})
        location = urllib.parse.urljoin(start, found.headers.get("Location") or "")
        if not transport.host_of(location):
            raise ImageError(
                "The registry %s wants uploads at %s, which is not encrypted; it has to be told its own address "
                "(behind a proxy: X-Forwarded-Proto)." % (self.host, location.partition("?")[0])
            )
        return location

    def has_blob(self, reference: Reference, digest: str) -> bool:
        """Whether a blob is there already."""
        url = self.url(reference, "blobs", digest)
        return self.request("HEAD", url, reference, (200, 404, *NO_HEAD), actions=PUSH).status == 200

    def write_blob(self, reference: Reference, digest: str, size: int, stream: t.BinaryIO) -> None:
        """Send a blob in one piece. An upload that broke off is given up, and another one begun."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}

        def send() -> None:
            location = self.begin_upload(reference)
            url = location + ("&" if "?" in location else "?") + urllib.parse.urlencode({"digest": digest})
            self.once("PUT", url, reference, (201, 204), actions=PUSH, data=stream, headers=headers)

        self.patiently(send)

    def write_manifest(self, reference: Reference, document: bytes, media_type: str) -> str:
        """Send a manifest or an index under a tag or its digest, and return the digest."""
        digest = oci.digest_of(document)
        url = self.url(reference, "manifests", reference.tag or digest)
        headers = {"Content-Type": media_type, "Content-Length": str(len(document))}
        self.request("PUT", url, reference, (200, 201, 202), actions=PUSH, data=document, headers=headers)
        return digest


def basic(login: Login) -> str:
    return "Basic " + base64.b64encode(("%s:%s" % login).encode()).decode()


def reason_of(body: bytes) -> str:
    """What a registry says went wrong; nothing where it does not say it as the specification wants."""
    try:
        errors = json.loads(body)["errors"]
        said = "; ".join(str(entry.get("message") or entry.get("code")) for entry in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return " ".join(said.split())[:300].rstrip(".")
