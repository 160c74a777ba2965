# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1 on one connection, as a state machine of callbacks.

A request whose answer is at hand, which is nearly every one, is read, handled and answered within the callback that
brought its last byte: without a task, a future or a timer of its own. One that has to wait (for a review by the API
server, for a client that reads slowly, for its turn in a long list) goes on in a task, with a deadline.

Requests are handled one at a time, and one a turn of the event loop, however many a client sends at once; meanwhile
nothing more is read. No request has a use for a body: the connection ends with the answer to one that has.
"""

from __future__ import annotations

import asyncio
import logging
import time
import types
from collections.abc import Callable, Coroutine, Generator, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import httptools
from multidict import CIMultiDict, CIMultiDictProxy, MultiDict, MultiDictProxy

from metrics_server.api import status
from metrics_server.api.negotiate import JSON
from metrics_server.api.status import ApiError
from metrics_server.logs import Seldom
from metrics_server.tls.listener import TlsConnection

_log = logging.getLogger(__name__)
_seldom = Seldom()

#: Names no version, neither of this program nor of a library.
SERVER_HEADER = {"Server": "metrics-server"}

#: Bytes of a target, and of the head with it; headers, of which the API server sends one for each group of a user.
_MAX_TARGET = 24 * 1024
_MAX_HEAD = 96 * 1024
_MAX_HEADERS = 2048
_HEAD_END = b"\r\n\r\n"
#: How long a client may take to read the end of what was sent before its connection is cut.
_CLOSE_SECONDS = 30.0
#: How long a body may go on that nobody reads, so that the client gets to see the answer.
_LINGER_SECONDS = 1.0
_VERSIONS = {"1.0": (1, 0), "1.1": (1, 1)}
_STATUS_LINES = {code.value: f"HTTP/1.1 {code.value} {code.phrase}\r\n".encode() for code in HTTPStatus}
_NO_QUERY: MultiDictProxy[str] = MultiDictProxy(MultiDict())

#: Handles a request: sends its answer with the request's own methods, and never raises but when it is cancelled.
Handler = Callable[["Request"], Coroutine[Any, Any, None]]


class Request:
    """One request, and the way to answer it."""

    __slots__ = (
        "_connection",
        "_query",
        "_query_string",
        "body_size",
        "expired",
        "head_is_out",
        "headers",
        "keep_alive",
        "method",
        "path",
        "raw_path",
        "version",
    )

    def __init__(
        self,
        connection: HttpConnection,
        method: str,
        target: str,
        version: tuple[int, int],
        headers: CIMultiDictProxy[str],
        *,
        keep_alive: bool,
        body_size: float,
    ) -> None:
        """`body_size` is infinite where only the body itself tells. Raises ValueError for a target that is none."""
        self._connection = connection
        self._query: MultiDictProxy[str] | None = None
        self.method = method
        self.raw_path = target
        self.version = version
        self.headers = headers
        self.keep_alive = keep_alive
        self.body_size = body_size
        #: From when on nothing but the rest of the answer may be sent.
        self.head_is_out = False
        #: Set, together with a cancellation, when its time is over.
        self.expired = False
        if target.startswith("/") and "%" not in target and "#" not in target:
            self.path, _unused, self._query_string = target.partition("?")
        else:
            self.path, self._query_string = _split(method, target)

    @property
    def query(self) -> MultiDictProxy[str]:
        """Return the parameters."""
        if not self._query_string:
            return _NO_QUERY
        if self._query is None:
            self._query = MultiDictProxy(MultiDict(parse_qsl(self._query_string, keep_blank_values=True)))
        return self._query

    @property
    def tls(self) -> TlsConnection | None:
        """Return the connection that it came by."""
        return self._connection.tls

    def send_head(self, code: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send the head of the answer, in one piece with a body that is there as a whole."""
        lines = [_STATUS_LINES[code]]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
        lines.append(_date_line())
        if not self.keep_alive:
            lines.append(b"Connection: close\r\n")
        elif self.version == (1, 0):
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        if self.method != "HEAD":
            lines.append(body)
        self._connection.write(b"".join(lines))
        self.head_is_out = True

    async def send_part(self, data: bytes) -> None:
        """Send a part of the body; wait for a client that reads slowly."""
        self._connection.write(data)
        if self._connection.paused:
            await self._connection.writable()

    def abort(self) -> None:
        """Close the connection at once, when an answer cannot be completed."""
        self._connection.abort()


def _split(method: str, target: str) -> tuple[str, str]:
    """Return path and query of a target that is no plain path."""
    if method == "CONNECT":
        return "", ""
    if target.startswith("/"):
        rest, _unused, _fragment = target.partition("#")
        path, _unused, query = rest.partition("?")
        return unquote(path), query
    url = urlsplit(target)
    return unquote(url.path) or ("/" if url.netloc else ""), url.query


_date: tuple[int, bytes] = (0, b"")


def _date_line() -> bytes:
    """Return the header with the date, which is made once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _date[1]


class HttpServer:
    """Makes the protocol of each connection, and ends them all."""

    def __init__(self, handle: Handler, *, request_timeout: float, keepalive_timeout: float) -> None:
        self.handle = handle
        self.request_timeout = request_timeout
        self.keepalive_timeout = keepalive_timeout
        self.connections: set[HttpConnection] = set()

    def __call__(self) -> HttpConnection:
        """Return the protocol of a new connection."""
        return HttpConnection(self)

    async def shutdown(self, timeout: float) -> None:
        """Close idle connections now, and the others when they are done, at the latest after `timeout` seconds."""
        tasks = [task for connection in list(self.connections) if (task := connection.finish()) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        for connection in list(self.connections):
            connection.abort()


class HttpConnection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_deadline",
        "_ending",
        "_headers",
        "_held",
        "_idle_until",
        "_idle_timer",
        "_lingering",
        "_loop",
        "_parser",
        "_received",
        "_request",
        "_requests",
        "_rest",
        "_scheduled",
        "_server",
        "_task",
        "_transport",
        "_url",
        "_writable",
        "paused",
        "tls",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self.tls: TlsConnection | None = None
        #: Whether the client reads too slowly, and who waits for it.
        self.paused = False
        self._writable: asyncio.Future[None] | None = None
        #: The head that is being read.
        self._url = b""
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._received = 0
        #: Requests that were read, the one that is being handled, and its task and deadline if it has to wait.
        self._requests: list[Request] = []
        self._request: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        #: What came behind the request that is being handled.
        self._rest = b""
        #: Whether reading is paused, and whether the next turn goes on with what was read.
        self._held = False
        self._scheduled = False
        #: Nothing more is read as a request.
        self._ending = False
        #: How much of a body is still to come, once the connection ends with it.
        self._lingering: float | None = None
        self._idle_until = self._loop.time() + server.keepalive_timeout
        self._idle_timer: asyncio.TimerHandle | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for requests."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        tls = transport.get_extra_info("tls_connection")
        self.tls = tls if isinstance(tls, TlsConnection) else None
        self._server.connections.add(self)
        self._idle_timer = self._loop.call_at(self._idle_until, self._idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let a request that is being handled find out by itself."""
        self._server.connections.discard(self)
        self._transport = None
        self._ending = True
        self._rest = b""
        self._requests.clear()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(ConnectionResetError("the client has closed the connection"))

    def pause_writing(self) -> None:
        """Send nothing more for now."""
        self.paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self.paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        elif self._request is None:
            self._schedule()

    def data_received(self, data: bytes) -> None:
        """Read a request, or keep it until the one before is answered."""
        if self._lingering is not None:
            self._lingering -= len(data)
            if self._lingering <= 0:
                self.close()
        elif not self._ending:
            self._rest = self._rest + data if self._rest else data
            if self._request is None and not self._scheduled:
                self._go_on()
            else:
                self._hold()

    # Reading.

    def _go_on(self) -> None:
        """Handle the next request, if there is one and the client takes its answers."""
        if self._request is None and not self.paused and not self._ending:
            if self._requests:
                self._begin(self._requests.pop(0))
            elif self._rest:
                self._feed()
        if self._ending or self._transport is None:
            return
        if self._rest or self._requests:
            self._hold()
            if self._request is None and not self.paused:
                # Others have their turn between two requests.
                self._schedule()
        elif self._held:
            self._held = False
            self._transport.resume_reading()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._go_on()

    def _hold(self) -> None:
        """Read nothing more before what was read is handled."""
        if not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()

    def _feed(self) -> None:
        """Read up to the end of a head."""
        data = self._rest
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END) or end == len(data):
            self._rest = b""
        else:
            data, self._rest = data[:end], data[end:]
        self._received += len(data)
        if self._received > _MAX_HEAD:
            self._refuse(status.head_too_large(_MAX_HEAD, _MAX_HEADERS))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # None is made: the request is answered as it is, and the connection ends.
            pass
        except (httptools.HttpParserError, ValueError) as error:
            # What a callback raised is the context of what the parser makes of it.
            self._refuse(error.__context__ or error)
            return
        if self._requests:
            self._received = 0
            self._begin(self._requests.pop(0))

    # Callbacks of httptools.

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._url += url
        if len(self._url) > _MAX_TARGET:
            raise status.target_too_long(_MAX_TARGET)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. What is not UTF-8 stays recognisable."""
        if len(self._headers) >= _MAX_HEADERS:
            raise status.head_too_large(_MAX_HEAD, _MAX_HEADERS)
        self._headers.add(name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        """Take the head as a request."""
        url, self._url = self._url, b""
        headers, self._headers = self._headers, CIMultiDict()
        if self._requests and (self._requests[-1].body_size or not self._requests[-1].keep_alive):
            # What comes behind a body, or behind the last request, is no request.
            return
        parser = self._parser
        version = _VERSIONS.get(parser.get_http_version())
        if version is None:
            raise ValueError("unknown version")
        body_size = 0.0
        if "Transfer-Encoding" in headers:
            body_size = float("inf")
        elif "Content-Length" in headers:
            body_size = float(headers["Content-Length"])
        self._requests.append(
            Request(
                self,
                parser.get_method().decode("ascii"),
                url.decode("utf-8", "surrogateescape"),
                version,
                CIMultiDictProxy(headers),
                keep_alive=parser.should_keep_alive() and not body_size and not parser.should_upgrade(),
                body_size=body_size,
            )
        )

    # Handling.

    def _begin(self, request: Request) -> None:
        """Handle a request at once, or as far as it goes without waiting."""
        self._request = request
        work = self._server.handle(request)
        try:
            waits_for = work.send(None)
        except StopIteration:
            self._end(request)
            return
        self._task = self._loop.create_task(_in_task(work, waits_for))
        self._task.add_done_callback(self._waited)
        self._deadline = self._loop.call_later(self._server.request_timeout, self._expire)

    def _expire(self) -> None:
        if self._request is not None and self._task is not None:
            self._request.expired = True
            self._task.cancel()

    def _waited(self, task: asyncio.Task[None]) -> None:
        """Go on after a request that had to wait."""
        request, self._task = self._request, None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if task.cancelled() or (error := task.exception()) is not None:
            if not task.cancelled():
                _log.error("Request failed", exc_info=error)
            self.abort()
        assert request is not None
        self._end(request)
        self._go_on()

    def _end(self, request: Request) -> None:
        """Be done with a request."""
        self._request = None
        if request.keep_alive and not self._ending:
            self._idle_until = self._loop.time() + self._server.keepalive_timeout
            return
        self._ending = True
        self._requests.clear()
        rest, self._rest = self._rest, b""
        left = request.body_size - len(rest)
        if left <= 0 or self._transport is None:
            self.close()
            return
        # Closing while something is still to be read would take the answer from the client.
        self._lingering = left
        self._transport.resume_reading()
        self._loop.call_later(_LINGER_SECONDS, self.close)

    def _refuse(self, reason: BaseException) -> None:
        """Answer what could not be read as a request, and close: nobody knows where the next one begins."""
        self._ending = True
        self._rest = b""
        self._requests.clear()
        if _seldom() and self._transport is not None:
            peer = self._transport.get_extra_info("peername")
            _log.info("Not a request", extra={"kv": {"peer": peer[0] if peer else "", "reason": type(reason).__name__}})
        error = reason if isinstance(reason, ApiError) else status.bad_request("the request is not valid HTTP")
        request = Request(self, "GET", "/", (1, 1), CIMultiDictProxy(CIMultiDict()), keep_alive=False, body_size=0.0)
        body = error.body()
        request.send_head(error.code, {"Content-Type": JSON, "Content-Length": str(len(body)), **SERVER_HEADER}, body)
        self.close()

    def _idle(self) -> None:
        """Close a connection on which nothing was asked for a long time."""
        now = self._loop.time()
        if self._request is not None:
            self._idle_until = now + self._server.keepalive_timeout
        elif now >= self._idle_until:
            self.close()
            return
        self._idle_timer = self._loop.call_at(self._idle_until, self._idle)

    # For requests and the server.

    def write(self, data: bytes) -> None:
        """Send; raise ConnectionResetError when nobody is left to read it."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client has closed the connection")
        self._transport.write(data)

    async def writable(self) -> None:
        """Wait until the client has read."""
        self._writable = self._loop.create_future()
        try:
            await self._writable
        finally:
            self._writable = None

    def finish(self) -> asyncio.Task[None] | None:
        """Close when idle; else close after the request that is being handled, and return its task."""
        if self._request is None:
            self.close()
        else:
            self._request.keep_alive = False
        return self._task

    def close(self) -> None:
        """Close when everything is sent."""
        self._ending = True
        if self._transport is not None:
            self._transport.close()
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            self._idle_timer = self._loop.call_later(_CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        """Close at once."""
        self._ending = True
        if self._transport is not None:
            self._transport.abort()


async def _in_task(work: Coroutine[Any, Any, None], waits_for: Any) -> None:
    """Be the task of a coroutine that was begun without one."""
    await _continued(work, waits_for)


@types.coroutine
def _continued(work: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:  # pylint: disable=broad-exception-caught
            # Into the coroutine with it, be it a cancellation.
            resume: Callable[[Any], Any] = work.throw
            argument: Any = error
        else:
            resume, argument = work.send, sent
        try:
            waits_for = resume(argument)
        except StopIteration:
            return
