# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP side: who asks, may they, what for, and the answer on its way.

Every request takes the same path: a place among those under way, authentication, authorization, dispatch. Health
paths need no place, so that a busy server is not taken for a dead one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from metrics_server.api import discovery, openapi, status
from metrics_server.api.discovery import RESOURCES, Document, Resource
from metrics_server.api.http import SERVER_HEADER, Request
from metrics_server.api.metrics import FIELDS, LIST_KINDS, OBJECT_KINDS, Answer, ListRequest, MetricsApi
from metrics_server.api.negotiate import JSON, MEDIA_TYPES, PROTOBUF, Choice, accepts_gzip, choose
from metrics_server.api.protobuf import status_message
from metrics_server.api.request import attributes_of, wants_watch
from metrics_server.api.selectors import (
    FieldSelector,
    LabelSelector,
    SelectorError,
    parse_field_selector,
    parse_label_selector,
)
from metrics_server.api.status import ApiError
from metrics_server.api.table import INCLUDE
from metrics_server.auth.authorize import Attributes, Authorizer
from metrics_server.auth.identity import ANONYMOUS, Rejected, Undecided, User
from metrics_server.auth.requestheader import Authenticator
from metrics_server.health import Health
from metrics_server.logs import Seldom
from metrics_server.pace import Pace
from metrics_server.tls.listener import TlsConnection

_log = logging.getLogger(__name__)

_SLICE = 64 * 1024
#: As in Kubernetes' own servers: below it compression costs more than it saves.
_GZIP_THRESHOLD = 128 * 1024
#: Handed to the compressor at once, in a thread of its own.
_GZIP_SLICE = 1024 * 1024
_MAX_PATH = 16 * 1024
_INTEGER = re.compile(r"[+-]?[0-9]+")
_INT64_DIGITS = 19
#: One in so many concurrent requests may be of a client that has not authenticated.
_UNAUTHENTICATED_SHARE = 4
_READ_METHODS = ("GET", "HEAD")
_IMPERSONATION = ("Impersonate-User", "Impersonate-Group", "Impersonate-Uid")


class RequestObserver(Protocol):
    """Told of every finished request."""

    def __call__(self, *, verb: str, resource: str, version: str, code: int, seconds: float) -> None:
        """Count one request."""


@dataclass(frozen=True, slots=True)
class AppConfig:
    """What the HTTP side can be told."""

    max_requests_inflight: int
    transport_security: Sequence[str] = ()


#: A handler of a path of its own: returns the content type and the body in parts.
PathHandler = Callable[[Request], Awaitable[tuple[str, list[bytes]]]]


class Application:
    """Handles requests; an instance is the handler of `http.HttpServer`."""

    def __init__(
        self,
        config: AppConfig,
        metrics: MetricsApi,
        health: Health,
        authenticator: Authenticator,
        authorizer: Authorizer,
        observe: RequestObserver,
        paths: Mapping[str, PathHandler],
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._health = health
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._observe = observe
        self._paths = dict(paths)
        self._inflight = 0
        self._unauthenticated = 0
        self._idle = asyncio.Event()
        self._idle.set()
        #: Set when the server is about to end: answers close their connection, so that clients go elsewhere.
        self.closing = False
        #: Set while the server drains: new requests are sent away.
        self.refusing = False
        self._health_seen: dict[str, str] = {}
        self._seldom = Seldom()
        self._documents = self._static_documents()
        self._common = {"Cache-Control": "no-cache, private", "X-Content-Type-Options": "nosniff", **SERVER_HEADER}
        if config.transport_security:
            self._common["Strict-Transport-Security"] = "; ".join(config.transport_security)

    async def drained(self) -> None:
        """Return when no request is under way."""
        await self._idle.wait()

    def _static_documents(self) -> dict[str, Document]:
        documents = {
            f"/apis/{status.GROUP}": discovery.API_GROUP,
            "/version": discovery.VERSION,
            "/openapi/v2": openapi.V2,
            "/openapi/v3": openapi.V3_INDEX,
        }
        for version in discovery.VERSIONS:
            documents[f"/apis/{status.GROUP}/{version}"] = discovery.RESOURCE_LISTS[version]
            documents[f"/openapi/v3/apis/{status.GROUP}/{version}"] = openapi.V3[version]
        index = ["/apis", *documents, *self._health.paths(), *self._paths]
        documents[""] = discovery.root(index)
        return documents

    async def __call__(self, request: Request) -> None:
        """Answer one request. Only a cancellation for another reason than its time being over is raised."""
        started = time.monotonic()
        tls = request.tls
        if tls is not None:
            tls.request_started()
        if self.closing:
            request.keep_alive = False
        attributes = Attributes(request.method.lower(), request.path)
        code = 500
        try:
            try:
                attributes = _attributes(request)
                code = await self._admit(request, attributes)
            except ApiError as error:
                code = await self._send_error(request, error)
        except asyncio.CancelledError:
            if not request.expired:
                raise
            code = 504
            self._give_up(
                request, ApiError(504, "Timeout", "Timeout: request did not complete within the allotted timeout")
            )
        except ConnectionError:
            # The client went away in the middle of its answer. That happens each day, and nobody is left to be told.
            code = 499
        except Exception:
            # A fault of this program, which must not end in a broken connection without a word.
            _log.exception("Request failed")
            self._give_up(
                request,
                status.internal_error("the request could not be handled, see the log of the metrics server"),
            )
        finally:
            self._observe(
                verb=attributes.verb,
                resource=attributes.resource if attributes.group == status.GROUP else "",
                version=attributes.version if attributes.group == status.GROUP else "",
                code=code,
                seconds=time.monotonic() - started,
            )

    def _give_up(self, request: Request, error: ApiError) -> None:
        """End a request that failed: with an error if nothing was sent yet, else by closing the connection.

        A second answer would be taken for a part of the first one.
        """
        if request.head_is_out:
            request.abort()
            return
        body = error.body()
        headers = {**self._common, "Content-Type": JSON, "Content-Length": str(len(body))}
        with contextlib.suppress(ConnectionError):
            request.send_head(error.code, headers, body)

    async def _admit(self, request: Request, attributes: Attributes) -> int:
        if self._authorizer.open_to_all(attributes):
            # Health checks of the kubelet: no credential, no limit.
            return await self._dispatch(request, attributes, None)
        unauthenticated = not self._is_authenticated(request.tls)
        if self.refusing or self._full(unauthenticated=unauthenticated):
            raise status.too_many_requests()
        self._inflight += 1
        self._unauthenticated += unauthenticated
        self._idle.clear()
        try:
            user = await self._identify(request)
            await self._authorize(user, attributes)
            return await self._dispatch(request, attributes, user)
        finally:
            self._inflight -= 1
            self._unauthenticated -= unauthenticated
            if not self._inflight:
                self._idle.set()

    def _full(self, *, unauthenticated: bool) -> bool:
        """Whether the limit of concurrent requests is reached.

        Unauthenticated clients can make each of theirs wait for a review by the API server; they
        get a part of the limit only.
        """
        limit = self._config.max_requests_inflight
        if not limit:
            return False
        return self._inflight >= limit or (
            unauthenticated and self._unauthenticated >= max(1, limit // _UNAUTHENTICATED_SHARE)
        )

    def _is_authenticated(self, tls: TlsConnection | None) -> bool:
        """Whether an authority vouches for the certificate of the connection, or a request on it was authenticated."""
        return tls is not None and (tls.is_authenticated or self._authenticator.certificate_is_trusted(tls))

    async def _identify(self, request: Request) -> User:
        tls = request.tls
        try:
            user = await self._authenticator.authenticate(tls, request.headers)
        except Rejected:
            raise status.unauthorized() from None
        except Undecided as error:
            if self._seldom():
                _log.warning("Cannot authenticate now", extra={"kv": {"err": str(error)}})
            raise status.unavailable("authentication is not possible at the moment, please try again") from None
        if tls is not None and user.name != ANONYMOUS:
            tls.mark_authenticated()
        if any(header in request.headers for header in _IMPERSONATION):
            # Ignoring the header would answer for the wrong user.
            raise ApiError(
                403, "Forbidden", "forbidden: impersonation is only possible through the kube-apiserver, not directly"
            )
        return user

    async def _authorize(self, user: User, attributes: Attributes) -> None:
        try:
            decision = await self._authorizer.authorize(user, attributes)
        except Undecided as error:
            if self._seldom():
                _log.warning("Cannot authorize now", extra={"kv": {"user": user.name, "err": str(error)}})
            # Names the server's own account: of use to the operator, and nothing for unauthenticated clients.
            if error.misconfigured and user.name != ANONYMOUS:
                raise status.internal_error(str(error)) from None
            raise status.unavailable("authorization is not possible at the moment, please try again") from None
        if not decision.allowed:
            raise status.forbidden(user.name, attributes, decision.reason)

    # Dispatch.

    async def _dispatch(self, request: Request, attributes: Attributes, user: User | None) -> int:
        path = request.path.rstrip("/")
        if attributes.resource_request and attributes.group == status.GROUP:
            return await self._resource(request, attributes, path)
        known = path in self._documents or path == "/apis" or path in self._paths or path in self._health.paths()
        if not known:
            raise status.unknown_path()
        if request.method not in _READ_METHODS:
            raise status.method_not_allowed("GET, HEAD")
        if path in self._paths:
            return await self._send(request, Answer(*await self._paths[path](request)))
        if path in self._health.paths():
            return await self._send_health(request, path, reasons=user is not None and user.name != ANONYMOUS)
        if path == "/apis":
            document = discovery.groups(request.headers.get("Accept", ""))
            if document is None:
                raise status.not_acceptable(MEDIA_TYPES)
            return await self._send_document(request, document, vary="Accept")
        document = self._documents[path]
        if not document.media_types:
            return await self._send_document(request, document)
        choice = choose(request.headers.get("Accept", ""), (), document.media_types)
        if choice is None:
            raise status.not_acceptable(document.media_types)
        return await self._send_document(request, document.as_type(choice.media_type), vary="Accept")

    async def _resource(self, request: Request, attributes: Attributes, path: str) -> int:
        resource = next((known for known in RESOURCES if known.name == attributes.resource), None)
        if resource is None or attributes.version not in discovery.VERSIONS:
            raise status.unknown_path()
        parts = path.split("/")[4:]
        namespaced = parts[0] == "namespaces"
        depth = len(parts) - (2 if namespaced else 0)
        if "" in parts or (namespaced and not resource.namespaced) or depth > 2:
            raise status.unknown_path()
        if depth == 2 and resource.namespaced and not namespaced:
            raise status.unknown_path()
        if parts[0] in ("watch", "proxy"):
            raise status.unknown_path()
        if request.method not in _READ_METHODS:
            raise status.method_not_allowed("GET, HEAD")
        query = request.query
        if depth == 2:
            choice = self._choose(request, OBJECT_KINDS)
            include = _include(query.get("includeObject"))
            answer = self._metrics.read(
                resource, attributes.version, attributes.namespace, parts[-1], choice, include=include
            )
            return await self._send(request, _pretty(answer, choice, request))
        labels, fields = _selectors(resource, query)
        _check_numbers(query)
        if wants_watch(query):
            raise status.watch_not_supported(resource.name)
        choice = self._choose(request, LIST_KINDS)
        answer = await self._metrics.read_list(
            ListRequest(resource, attributes.version, attributes.namespace or None, labels, fields),
            choice,
            include=_include(query.get("includeObject")),
        )
        return await self._send(request, _pretty(answer, choice, request))

    @staticmethod
    def _choose(request: Request, kinds: Sequence[str]) -> Choice:
        choice = choose(request.headers.get("Accept", ""), kinds)
        if choice is None:
            raise status.not_acceptable(MEDIA_TYPES)
        return choice

    # Sending.

    async def _send_health(self, request: Request, path: str, *, reasons: bool) -> int:
        report = self._health.report(
            path, verbose="verbose" in request.query, excluded=request.query.getall("exclude", ()), reasons=reasons
        )
        if report is None:
            raise status.unknown_path()
        if self._health_seen.get(path, "") != report.failures:
            # A probe comes every few seconds: only what is new is worth a line.
            self._health_seen[path] = report.failures
            if report.healthy:
                _log.info("Health check passes again", extra={"kv": {"path": path}})
            else:
                _log.warning("Health check fails", extra={"kv": {"path": path, "reason": report.failures}})
        answer = Answer("text/plain; charset=utf-8", [report.text.encode()])
        return await self._send(request, answer, code=200 if report.healthy else 500)

    async def _send_document(self, request: Request, document: Document, vary: str = "") -> int:
        headers = {"ETag": document.etag} if document.etag else {}
        if vary:
            headers["Vary"] = vary
        if document.etag and request.headers.get("If-None-Match") == document.etag:
            request.send_head(304, {**self._common, **headers})
            return 304
        return await self._send(request, Answer(document.content_type, [document.body]), headers)

    async def _send_error(self, request: Request, error: ApiError) -> int:
        choice = choose(request.headers.get("Accept", ""), ())
        if choice is not None and choice.media_type == PROTOBUF:
            answer = Answer(PROTOBUF, [status_message(error)])
        else:
            answer = Answer(JSON, [error.body()])
        return await self._send(request, answer, error.headers, error.code)

    async def _send(
        self, request: Request, answer: Answer, headers: Mapping[str, str] | None = None, code: int = 200
    ) -> int:
        """Send an answer, and return its code."""
        size = answer.size
        everything = {**self._common, "Content-Type": answer.content_type}
        if headers:
            everything |= headers
        if code == 401:
            everything["WWW-Authenticate"] = 'Bearer realm="kubernetes"'
        if (
            size > _GZIP_THRESHOLD
            and request.version >= (1, 1)
            and accepts_gzip(request.headers.get("Accept-Encoding", ""))
        ):
            everything["Content-Encoding"] = "gzip"
            everything["Vary"] = f"{everything['Vary']}, Accept-Encoding" if "Vary" in everything else "Accept-Encoding"
            everything["Transfer-Encoding"] = "chunked"
            request.send_head(code, everything)
            await _send_body(request, answer, zipped=True)
            return code
        everything["Content-Length"] = str(size)
        if size <= _SLICE:
            # Head and body leave in one packet: a second one would cost as much as the rest of a small answer.
            request.send_head(code, everything, b"".join(answer.parts))
        else:
            request.send_head(code, everything)
            await _send_body(request, answer, zipped=False)
        return code


async def _send_body(request: Request, answer: Answer, *, zipped: bool) -> None:
    if request.method == "HEAD":
        return
    pace = Pace()
    async for data in _body(answer, zipped=zipped):
        if data:
            await request.send_part(b"%x\r\n%b\r\n" % (len(data), data) if zipped else data)
        # A client that reads as fast as this writes never makes it wait.
        if pace.over():
            await pace.rest()
    if zipped:
        await request.send_part(b"0\r\n\r\n")


def _attributes(request: Request) -> Attributes:
    path = request.path
    if len(request.raw_path) > _MAX_PATH:
        raise status.target_too_long(_MAX_PATH)
    if not request.raw_path.isascii():
        raise status.bad_request("the request's path and query must be ASCII, with everything else percent-encoded")
    if "\x00" in path or "//" in path or "/../" in f"{path}/" or "/./" in f"{path}/":
        # What another component on the way might read as a different path is nothing that is served here.
        raise status.unknown_path()
    return attributes_of(request.method, path, request.query)


def _selectors(resource: Resource, query: Mapping[str, str]) -> tuple[LabelSelector, FieldSelector]:
    try:
        return (
            parse_label_selector(query.get("labelSelector", "")),
            parse_field_selector(query.get("fieldSelector", ""), FIELDS[resource.name]),
        )
    except SelectorError as error:
        raise status.bad_request(str(error)) from None


def _check_numbers(query: Mapping[str, str]) -> None:
    """Refuse what Go's `strconv.ParseInt` does: lists are served whole, whatever the numbers are."""
    for name in ("limit", "timeoutSeconds"):
        text = query.get(name)
        if text is None:
            continue
        if not _INTEGER.fullmatch(text):
            raise status.bad_request(f"strconv.ParseInt: parsing {status.quote(text)}: invalid syntax")
        digits = text.lstrip("+-").lstrip("0")
        if len(digits) > _INT64_DIGITS or int(digits or "0") > 2**63 - (text[0] != "-"):
            raise status.bad_request(f"strconv.ParseInt: parsing {status.quote(text)}: value out of range")


def _include(value: str | None) -> str:
    if not value:
        return "Metadata"
    if value not in INCLUDE:
        raise status.bad_request(
            f"includeObject: Invalid value: {status.quote(value)}: must be one of: {', '.join(sorted(INCLUDE))}"
        )
    return value


def _pretty(answer: Answer, choice: Choice, request: Request) -> Answer:
    """Indent the JSON for those who ask for it, as long as it is of a size that somebody reads."""
    asked = request.query.get("pretty", "").lower()
    if choice.media_type != JSON or not (choice.pretty or asked in ("1", "t", "true")):
        return answer
    if answer.size > _GZIP_THRESHOLD:
        return answer
    return Answer(answer.content_type, [msgspec.json.format(b"".join(answer.parts), indent=2), b"\n"])


def _slices(answer: Answer, size: int) -> Iterator[bytes]:
    """Yield a body in pieces of about the same size, joined one at a time.

    Parts are taken by number, as if all were equally long: measuring each would cost as much as sending it.
    """
    parts = answer.parts
    step = max(1, len(parts) * size // max(1, answer.size))
    for start in range(0, len(parts), step):
        yield b"".join(parts[start : start + step])


async def _body(answer: Answer, *, zipped: bool) -> AsyncIterator[bytes]:
    """Yield a body in pieces, compressed if asked for without holding up the event loop."""
    if not zipped:
        for chunk in _slices(answer, _SLICE):
            yield chunk
        return
    compressor = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    loop = asyncio.get_running_loop()
    for chunk in _slices(answer, _GZIP_SLICE):
        compressed = await loop.run_in_executor(None, compressor.compress, chunk)
        for start in range(0, len(compressed), _SLICE):
            yield compressed[start : start + _SLICE]
    yield compressor.flush()
