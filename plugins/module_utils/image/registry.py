# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry API of the OCI distribution specification: what it takes to read a base image and to send one.

Every answer is checked against its digest.
"""

from __future__ import annotations

import base64
import hashlib
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
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.reference import Reference, normalized

TIMEOUT = 60
ATTEMPTS = 3
PAUSE = 1.0
CHUNK = 1 << 20
#: A manifest is small; registries allow four megabytes.
LARGEST_DOCUMENT = 4 << 20
AGENT = "kubemetrics.aggregation"
#: What another attempt may change: too many requests, a registry that restarts, a proxy in front of one that does.
PASSING = frozenset({429, 500, 502, 503, 504})

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
            except (OSError, http.client.HTTPException) as exc:
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

    def request(self, method: str, url: str, **options: t.Any) -> Response:
        """A small answer, after some patience with a registry that fails for a moment."""
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                with self.open(method, url, **options) as answer:
                    body = b"" if method == "HEAD" else answer.read(LARGEST_DOCUMENT + 1)
                    found = Response(answer.status, answer.headers, body, transport.host_of(answer.geturl()))
            except Unreachable:
                if last:
                    raise
            except (OSError, http.client.HTTPException) as exc:
                if last:
                    raise self.unreachable(exc) from exc
            else:
                if found.status not in PASSING or last:
                    return found
            time.sleep(self.pause * (attempt + 1))
        raise AssertionError("the last attempt returns or raises")

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
            raise Unreachable("%s gives no token for the registry %s (%d)." % (where, self.host, exc.code)) from None
        except (OSError, http.client.HTTPException, ValueError) as exc:
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

    def check(self, found: Response, reference: Reference, doing: str, wanted: t.Collection[int]) -> None:
        """Turn any other answer into a sentence."""
        if found.status in wanted:
            return
        kind = Unreachable if found.status in PASSING else ImageError
        failed = "failed at %s %s (%d%s)." % (doing, reference, found.status, reason_of(found.body))
        if found.host != self.own:
            raise kind("The registry %s redirects to %s, which %s" % (self.host, found.host, failed))
        if found.status == 401:
            raise ImageError(self.refused(self.registries.login(self.host, reference.repository)))
        if found.status == 403:
            raise ImageError("The registry %s does not allow %s %s." % (self.host, doing, reference.name))
        if found.status == 404:
            raise ImageError("The registry %s has no %s." % (self.host, reference))
        raise kind("The registry %s %s" % (self.host, failed))

    def url(self, reference: Reference, kind: str, name: str) -> str:
        return "https://%s/v2/%s/%s/%s" % (self.host, reference.repository, kind, name)

    # --- reading ------------------------------------------------------------------------------------------------------

    # A token for reading only is refused by some registries where the repository is not there yet, so that whoever
    # means to write afterwards says it.

    def digest_of(self, reference: Reference, actions: str = PULL) -> t.Optional[str]:
        """The digest that a tag has now, without fetching it; none where there is no such tag."""
        scope = Scope(reference.repository, actions)
        url = self.url(reference, "manifests", reference.version)
        found = self.request("HEAD", url, scope=scope, accept=", ".join(oci.MANIFESTS))
        if found.status == 404:
            return None
        self.check(found, reference, "reading", (200,))
        digest = found.headers.get("Docker-Content-Digest")
        if digest:
            return str(digest)
        # The header is optional; the manifest itself says it as well.
        return self.manifest(reference, actions)[1]

    def manifest(self, reference: Reference, actions: str = PULL) -> t.Tuple[bytes, str]:
        """A manifest or an index as it is, and its digest."""
        scope = Scope(reference.repository, actions)
        url = self.url(reference, "manifests", reference.version)
        found = self.request("GET", url, scope=scope, accept=", ".join(oci.MANIFESTS))
        self.check(found, reference, "reading", (200,))
        digest = "sha256:" + hashlib.sha256(found.body).hexdigest()
        if reference.digest and digest != reference.digest:
            raise ImageError(
                "The registry %s answers something else than was asked for as %s." % (self.host, reference)
            )
        return found.body, digest

    def read_blob(self, reference: Reference, descriptor: t.Mapping[str, t.Any], write: t.Callable[[bytes], t.Any]):
        """Hand a blob over piece by piece; the caller checks the digest of what it has got."""
        scope = Scope(reference.repository, PULL)
        with self.open("GET", self.url(reference, "blobs", descriptor["digest"]), scope=scope) as answer:
            if answer.status != 200:
                body = answer.read(LARGEST_DOCUMENT)
                found = Response(answer.status, answer.headers, body, transport.host_of(answer.geturl()))
                self.check(found, reference, "reading", (200,))
            left = int(descriptor["size"])
            try:
                while left > 0:
                    piece = answer.read(min(CHUNK, left))
                    if not piece:
                        raise Unreachable("The registry %s broke off in the middle of %s." % (self.host, reference))
                    left -= len(piece)
                    write(piece)
            except (OSError, http.client.HTTPException) as exc:
                raise self.unreachable(exc) from exc

    # --- writing ------------------------------------------------------------------------------------------------------

    def may_push(self, reference: Reference) -> None:
        """Know that images can be sent there, by beginning an upload and giving it up. Raises ImageError."""
        location = self.begin_upload(reference)
        if location:
            # Some registries have no way to give up; they forget it after a while.
            self.request("DELETE", location, scope=Scope(reference.repository, PUSH))

    def begin_upload(self, reference: Reference) -> str:
        scope = Scope(reference.repository, PUSH)
        start = self.url(reference, "blobs", "uploads/")
        found = self.request("POST", start, scope=scope, data=b"", headers={"Content-Length": "0"})
        self.check(found, reference, "writing", (202,))
        location = urllib.parse.urljoin(start, found.headers.get("Location") or "")
        if not transport.host_of(location):
            raise ImageError(
                "The registry %s wants uploads at %s, which is not encrypted; it has to be told its own address "
                "(behind a proxy: X-Forwarded-Proto)." % (self.host, location.partition("?")[0])
            )
        return location

    def has_blob(self, reference: Reference, digest: str) -> bool:
        scope = Scope(reference.repository, PUSH)
        found = self.request("HEAD", self.url(reference, "blobs", digest), scope=scope)
        if found.status == 404:
            return False
        self.check(found, reference, "reading", (200,))
        return True

    def write_blob(self, reference: Reference, digest: str, size: int, stream: t.BinaryIO) -> None:
        """Send a blob in one piece."""
        location = self.begin_upload(reference)
        url = location + ("&" if "?" in location else "?") + urllib.parse.urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        scope = Scope(reference.repository, PUSH)
        with self.open("PUT", url, scope=scope, data=stream, headers=headers) as answer:
            body = answer.read(LARGEST_DOCUMENT)
            found = Response(answer.status, answer.headers, body, transport.host_of(answer.geturl()))
        self.check(found, reference, "writing", (201, 204))

    def write_manifest(self, reference: Reference, document: bytes, media_type: str) -> str:
        """Send a manifest or an index under a tag or its digest, and return the digest."""
        scope = Scope(reference.repository, PUSH)
        digest = "sha256:" + hashlib.sha256(document).hexdigest()
        url = self.url(reference, "manifests", reference.tag or digest)
        headers = {"Content-Type": media_type, "Content-Length": str(len(document))}
        found = self.request("PUT", url, scope=scope, data=document, headers=headers)
        self.check(found, reference, "writing", (201,))
        return digest


def basic(login: Login) -> str:
    return "Basic " + base64.b64encode(("%s:%s" % login).encode()).decode()


def reason_of(body: bytes) -> str:
    """What a registry says went wrong, after a colon; nothing where it does not say it as the specification wants."""
    try:
        errors = json.loads(body)["errors"]
        said = "; ".join(str(entry.get("message") or entry.get("code")) for entry in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return ": " + said[:300] if said else ""
