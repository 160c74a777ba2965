# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry API of the OCI distribution specification: what it takes to read a base image and to send one.

Every answer is checked against its digest. Connections are TLS, verified; there is no switch for anything else.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import ssl
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import oci
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import Login, Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError, Unreachable
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.reference import Reference

TIMEOUT = 60
ATTEMPTS = 3
PAUSE = 1.0
CHUNK = 1 << 20
#: A manifest is small; registries allow four megabytes.
LARGEST_DOCUMENT = 4 << 20
AGENT = "kubemetrics.aggregation"
#: What another attempt may change: too many requests, a registry that restarts, a proxy in front of one that does.
PASSING = frozenset({429, 500, 502, 503, 504})

_PARAMETER = re.compile(r'([A-Za-z_]+)=(?:"([^"]*)"|([^",\s]+))')


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows to another place (where blobs really are), but never out of TLS."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urllib.parse.urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError("it redirects to %s, which is not encrypted" % newurl.partition("?")[0])
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def tls(ca_file: str) -> ssl.SSLContext:
    """What the system trusts (SSL_CERT_FILE, SSL_CERT_DIR), and the given CA."""
    context = ssl.create_default_context()
    if not context.get_ca_certs() and not ssl.get_default_verify_paths().capath:
        # Python of python.org on macOS brings no CA of its own; certifi comes with the kubernetes client.
        try:
            import certifi
        except ImportError:
            pass
        else:
            context.load_verify_locations(cafile=certifi.where())
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (ssl.SSLError, OSError) as exc:
            raise ImageError("%s holds no certificate in PEM form." % ca_file) from exc
    return context


def challenge(header: str) -> t.Tuple[str, t.Dict[str, str]]:
    """The scheme and the parameters of WWW-Authenticate."""
    scheme, _space, rest = header.strip().partition(" ")
    return scheme.lower(), {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}


class Response(t.NamedTuple):
    status: int
    headers: t.Any
    body: bytes


class Registry:
    """One registry, as one user. It is asked for credentials' sake only when it says so."""

    def __init__(self, host: str, registries: Registries, *, timeout: float = TIMEOUT, pause: float = PAUSE):
        self.host = host
        self.registries = registries
        self.timeout = timeout
        self.pause = pause
        self._authorization: t.Dict[str, str] = {}
        self._opener: t.Optional[urllib.request.OpenerDirector] = None

    @property
    def opener(self) -> urllib.request.OpenerDirector:
        if self._opener is None:
            handler = urllib.request.HTTPSHandler(context=tls(self.registries.ca_file(self.host)))
            self._opener = urllib.request.build_opener(handler, SafeRedirects())
        return self._opener

    # --- requests -----------------------------------------------------------------------------------------------------

    def open(
        self,
        method: str,
        url: str,
        *,
        scope: str = "",
        accept: str = "",
        data: t.Any = None,
        headers: t.Optional[t.Mapping[str, str]] = None,
    ) -> t.Any:
        """The answer to a request, whatever its status; it answers a challenge once. Raises Unreachable, ImageError."""
        own = urllib.parse.urlsplit(url).netloc == self.host
        for answered in (False, True):
            request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
            request.add_header("User-Agent", AGENT)
            if accept:
                request.add_header("Accept", accept)
            if own and scope in self._authorization:
                # Not followed along: the place that blobs are redirected to has an authorization of its own in the URL.
                request.add_unredirected_header("Authorization", self._authorization[scope])
            try:
                return self.opener.open(request, timeout=self.timeout)
            except urllib.error.HTTPError as exc:
                if exc.code != 401 or answered or not own or not self.authorize(exc.headers, scope):
                    return exc
                exc.close()
            except (OSError, http.client.HTTPException) as exc:
                raise self.unreachable(exc) from exc
            if hasattr(data, "seek"):
                data.seek(0)
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
                    found = Response(answer.status, answer.headers, body)
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

    def authorize(self, headers: t.Mapping[str, str], scope: str) -> bool:
        """Answer a challenge; false where there is nothing to answer it with."""
        scheme, parameters = challenge(headers.get("WWW-Authenticate") or "")
        login = self.registries.login(self.host)
        if scheme == "basic":
            if login is None:
                return False
            self._authorization[scope] = basic(login)
            return True
        if scheme == "bearer" and parameters.get("realm"):
            self._authorization[scope] = "Bearer " + self.token(parameters, scope, login)
            return True
        return False

    def token(self, parameters: t.Mapping[str, str], scope: str, login: t.Optional[Login]) -> str:
        realm = parameters["realm"]
        if urllib.parse.urlsplit(realm).scheme != "https":
            raise ImageError(
                "The registry %s has its tokens from %s, which is not encrypted; no password is sent there."
                % (self.host, realm)
            )
        query = {"service": parameters.get("service", ""), "scope": scope or parameters.get("scope", "")}
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
        where = urllib.parse.urlsplit(realm).netloc
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
        if found.status == 401:
            raise ImageError(self.refused(self.registries.login(self.host)))
        if found.status == 403:
            raise ImageError("The registry %s does not allow %s %s." % (self.host, doing, reference.name))
        if found.status == 404:
            raise ImageError("The registry %s has no %s." % (self.host, reference))
        kind = Unreachable if found.status in PASSING else ImageError
        raise kind(
            "The registry %s failed at %s %s (%d%s)."
            % (self.host, doing, reference, found.status, reason_of(found.body))
        )

    def url(self, reference: Reference, kind: str, name: str) -> str:
        return "https://%s/v2/%s/%s/%s" % (self.host, reference.repository, kind, name)

    # --- reading ------------------------------------------------------------------------------------------------------

    def digest_of(self, reference: Reference) -> t.Optional[str]:
        """The digest that a tag has now, without fetching it; none where there is no such tag."""
        scope = "repository:%s:pull" % reference.repository
        url = self.url(reference, "manifests", reference.version)
        found = self.request("HEAD", url, scope=scope, accept=", ".join(oci.MANIFESTS))
        if found.status == 404:
            return None
        self.check(found, reference, "reading", (200,))
        digest = found.headers.get("Docker-Content-Digest")
        if digest:
            return str(digest)
        # The header is optional; the manifest itself says it as well.
        return self.manifest(reference)[1]

    def manifest(self, reference: Reference) -> t.Tuple[bytes, str]:
        """A manifest or an index as it is, and its digest."""
        scope = "repository:%s:pull" % reference.repository
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
        scope = "repository:%s:pull" % reference.repository
        with self.open("GET", self.url(reference, "blobs", descriptor["digest"]), scope=scope) as answer:
            if answer.status != 200:
                body = answer.read(LARGEST_DOCUMENT)
                self.check(Response(answer.status, answer.headers, body), reference, "reading", (200,))
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
            self.request("DELETE", location, scope="repository:%s:pull,push" % reference.repository)

    def begin_upload(self, reference: Reference) -> str:
        scope = "repository:%s:pull,push" % reference.repository
        start = self.url(reference, "blobs", "uploads/")
        found = self.request("POST", start, scope=scope, data=b"", headers={"Content-Length": "0"})
        self.check(found, reference, "writing", (202,))
        location = urllib.parse.urljoin(start, found.headers.get("Location") or "")
        if urllib.parse.urlsplit(location).scheme != "https":
            raise ImageError(
                "The registry %s wants uploads at %s, which is not encrypted; it has to be told its own address "
                "(behind a proxy: X-Forwarded-Proto)." % (self.host, location.partition("?")[0])
            )
        return location

    def has_blob(self, reference: Reference, digest: str) -> bool:
        scope = "repository:%s:pull,push" % reference.repository
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
        scope = "repository:%s:pull,push" % reference.repository
        with self.open("PUT", url, scope=scope, data=stream, headers=headers) as answer:
            found = Response(answer.status, answer.headers, answer.read(LARGEST_DOCUMENT))
        self.check(found, reference, "writing", (201, 204))

    def write_manifest(self, reference: Reference, document: bytes, media_type: str) -> str:
        """Send a manifest or an index under a tag or its digest, and return the digest."""
        scope = "repository:%s:pull,push" % reference.repository
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
