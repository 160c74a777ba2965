# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1 to the API server over connections that are kept, an answer piece by piece.

A general HTTP client would be a sixth of this server's memory, and needs for one known peer what nobody here asks for:
cookies, redirects, proxies, compression.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial

import aiohappyeyeballs
import httptools

#: How long a connection that nobody uses is kept for the next request: well below what balancers allow.
_IDLE_SECONDS = 15.0
#: Bytes of an answer that may wait for their reader.
_MAX_WAITING = 1024 * 1024
_MAX_HEAD = 256 * 1024
#: Between two attempts where a name has several addresses (RFC 8305).
_NEXT_ADDRESS = 0.25
#: A request of these may be sent again when the connection that it was sent on had ended already.
_IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})
#: Silence is usual on a watch. A host that is gone is noticed within half a minute by these.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000))


class MalformedAnswerError(Exception):
    """What came is not HTTP."""


class UnusableRequestError(Exception):
    """A request cannot be sent as it is."""


class ConnectionEndedError(Exception):
    """The connection ended before the answer did; `before_answer` says that nothing of it had come."""

    def __init__(self, error: Exception | None, *, before_answer: bool) -> None:
        super().__init__(str(error) if error is not None else "it was closed")
        self.error = error
        self.before_answer = before_answer


class Answer:
    """An answer whose head is there."""

    def __init__(self, connection: _Connection, status: int) -> None:
        self._connection = connection
        self.status = status

    async def read(self) -> bytes:
        """Return what came of the body since, when there is anything, and nothing at its end."""
        return await self._connection.read()


class _Connection(asyncio.Protocol):
    """One connection, which has one request at a time."""

    def __init__(self) -> None:
        self.unused_since = 0.0
        self.context: ssl.SSLContext | None = None
        self._transport: asyncio.Transport | None = None
        #: None once the connection has ended: the two hold each other.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._asked = False
        self._paused = False
        self._begin()

    def _begin(self) -> None:
        self._status = 0
        self._received = 0
        self._head_complete = self._complete = self._sized = False
        self._keep = True
        #: Makes the error of whoever waits for more: kept itself, it would keep the frames of its traceback, too.
        self._error: Callable[[], Exception] | None = None
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._transport is not None and not self._transport.is_closing() and not self._asked

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return its answer when the head is there."""
        assert self._transport is not None
        self._begin()
        self._asked = True
        self._transport.write(request)
        while not self._head_complete:
            await self._more()
        return Answer(self, self._status)

    async def read(self) -> bytes:
        """Return the next piece of the body, or nothing at its end."""
        while not self._pieces and not self._complete:
            await self._more()
        data = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting_bytes = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def finished(self) -> None:
        """Note that the answer needs no more reading; the connection ends if it was not read to its end."""
        if not self._complete or not self._keep or self._paused or self._error is not None:
            self.close()
        self._asked = False

    def close(self) -> None:
        """End the connection, without the goodbye of TLS that a peer may keep us waiting for."""
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        """Wait for what is still missing. Raises when it will not come."""
        if self._error is not None:
            raise self._error()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Callable[[], Exception]) -> None:
        if self._error is None:
            self._error = error
        self.close()
        self._wake()

    # Callbacks of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if not self._asked or self._complete or self._parser is None:
            # It would be taken for the answer to the next request.
            self._keep = False
            self.close()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(MalformedAnswerError)
            return
        if not self._head_complete and self._received > _MAX_HEAD:
            self._fail(MalformedAnswerError)
            return
        if self._waiting_bytes > _MAX_WAITING and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish what is under way."""
        self._transport = self._parser = None
        if exc is None and self._head_complete and not self._sized:
            # As in HTTP/1.0: the end of the connection is the end of the body.
            self._complete = True
            self._keep = False
        elif not self._complete and self._error is None:
            self._error = partial(ConnectionEndedError, exc, before_answer=not self._received)
        self._wake()

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        """Note what follows an answer: it belongs to no request."""
        if self._complete:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether the body says how long it is."""
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._sized = True

    def on_headers_complete(self) -> None:
        """Note the status; what is below 200 is followed by another head."""
        if self._complete or self._parser is None:
            return
        self._status = self._parser.get_status_code()
        self._head_complete = self._status >= 200

    def on_body(self, body: bytes) -> None:
        """Keep it for the reader."""
        if not self._complete:
            self._pieces.append(body)
            self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        """Note the end."""
        if self._head_complete and not self._complete and self._parser is not None:
            self._complete = True
            # Only here the parser still knows.
            self._keep = self._parser.should_keep_alive()


class Connections:
    """Connections to one address, as many as there are requests at the same time, up to a limit."""

    def __init__(self, host: str, port: int, *, limit: int = 64) -> None:
        self._host = host
        self._port = port
        self._places = asyncio.Semaphore(limit)
        self._unused: list[_Connection] = []
        self._used: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @contextlib.asynccontextmanager
    async def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, context: ssl.SSLContext, connect: float
    ) -> AsyncIterator[Answer]:
        """Send a request and give its answer; `connect` is how many seconds a new connection may take.

        Raises TimeoutError, OSError (`ssl.SSLError` and `socket.gaierror` among them), MalformedAnswerError,
        ConnectionEndedError and UnusableRequestError. An answer that is not read to its end ends its connection.
        """
        request = _request(method, target, headers, body)
        async with self._places:
            connection = self._take(context)
            try:
                if connection is not None:
                    try:
                        answer = await connection.ask(request)
                    except ConnectionEndedError as error:
                        # The peer had ended it while it was unused.
                        if not error.before_answer or method not in _IDEMPOTENT or self._closed:
                            raise
                        self._used.discard(connection)
                        connection = None
                if connection is None:
                    connection = await self._connect(context, connect)
                    answer = await connection.ask(request)
                yield answer
            finally:
                if connection is not None:
                    self._used.discard(connection)
                    connection.finished()
                    if connection.reusable:
                        connection.unused_since = asyncio.get_running_loop().time()
                        self._unused.append(connection)
                        self._sweep_later()

    def close(self) -> None:
        """End all connections; there are no others after that."""
        self._closed = True
        for connection in (*self._unused, *self._used):
            connection.close()
        self._unused.clear()
        if self._sweep is not None:
            self._sweep.cancel()

    def _expect_open(self) -> None:
        if self._closed:
            raise ConnectionEndedError(None, before_answer=True)

    def _sweep_later(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._end_unused)

    def _end_unused(self) -> None:
        """End what nobody has used for long: each costs a quarter of a megabyte."""
        self._sweep = None
        self._drop(lambda connection: True)
        if self._unused:
            self._sweep_later()

    def _drop(self, wanted: Callable[[_Connection], bool]) -> None:
        """Keep those unused connections only that are wanted, still good, and not idle for long."""
        since = asyncio.get_running_loop().time() - _IDLE_SECONDS
        good: list[_Connection] = []
        for connection in self._unused:
            if connection.reusable and connection.unused_since > since and wanted(connection):
                good.append(connection)
            else:
                connection.close()
        self._unused = good

    def _take(self, context: ssl.SSLContext) -> _Connection | None:
        """Return the connection that was used last, if it is still good and under the certificates of now."""
        self._drop(lambda connection: connection.context is context)
        if not self._unused:
            return None
        connection = self._unused.pop()
        self._used.add(connection)
        return connection

    async def _addresses(self) -> Sequence[aiohappyeyeballs.AddrInfoType]:
        # An address needs no thread, of which other lookups may hold all.
        with contextlib.suppress(socket.gaierror):
            return socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)

    async def _connect(self, context: ssl.SSLContext, seconds: float) -> _Connection:
        self._expect_open()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            # Not asyncio's own way to try several addresses: cancelled as it connects, it leaves sockets open.
            sock = await aiohappyeyeballs.start_connection(await self._addresses(), happy_eyeballs_delay=_NEXT_ADDRESS)
            _unused, connection = await loop.create_connection(
                _Connection, sock=sock, ssl=context, server_hostname=self._host.rstrip(".")
            )
        connection.context = context
        self._used.add(connection)
        try:
            self._expect_open()
        except ConnectionEndedError:
            self._used.discard(connection)
            connection.close()
            raise
        return connection


def _request(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if " " in target or not all(line.isascii() and line.isprintable() for line in lines):
        raise UnusableRequestError("a path or a header has characters that it must not have")
    if body or method not in ("GET", "DELETE"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
