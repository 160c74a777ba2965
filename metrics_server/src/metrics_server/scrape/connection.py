# SPDX-License-Identifier: GPL-3.0-or-later
"""One kept-alive connection to a kubelet: a socket, an HTTP parser, and the reader callback between them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

import httptools

from metrics_server.scrape.address import Target
from metrics_server.scrape.errors import Reason, ScrapeError
from metrics_server.scrape.poll import Poll

_CHUNK = 64 * 1024
#: Reads in one go before other connections get their turn.
_READS_IN_A_ROW = 16
_MAX_HEADER = 64 * 1024
#: Of an error answer only so much is read.
_MAX_ERROR_BODY = 64 * 1024


class ConnectionLostError(Exception):
    """The connection ended before any byte of the answer; on a kept-alive one that is worth one new connection."""

    def __init__(self, error: OSError | None) -> None:
        super().__init__(error_text(error))
        #: Whether the peer said by TLS that it does not want us, for example for want of a client certificate.
        self.is_alert = isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)


def error_text(error: OSError | None) -> str:
    """Return what happened to a socket in a few words."""
    if error is None:
        return "end of the stream"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason
    return error.strerror or type(error).__name__


class Answer:
    """What a kubelet answered, with what its `Date` says, and when that was by our monotonic clock."""

    __slots__ = ("body", "date", "received", "sent", "status")

    def __init__(self, status: int, body: bytes, date: bytes, sent: float, received: float) -> None:
        self.status = status
        self.body = body
        self.date = date
        self.sent = sent
        self.received = received


class Connection:
    """One socket. Its reader stays registered while it is idle, so a connection that the kubelet closes is noticed at
    once."""

    __slots__ = (
        "_body",
        "_body_size",
        "_complete",
        "_context",
        "_date",
        "_failure",
        "_future",
        "_headers_complete",
        "_loop",
        "_lost",
        "_max_body",
        "_out",
        "_parser",
        "_poll",
        "_received",
        "_sent",
        "_sized",
        "_sock",
        "_status",
        "_writing",
        "reusable",
        "target",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poll: Poll,
        sock: socket.socket,
        target: Target,
        context: ssl.SSLContext | None,
        max_body: int,
        lost: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._poll = poll
        self._sock = sock
        self.target = target
        self._context = context
        self._max_body = max_body
        self._lost = lost
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self._future: asyncio.Future[Answer] | None = None
        self._out = b""
        self._writing = False
        self.reusable = True
        self._reset()
        poll.add_reader(sock.fileno(), self._readable)

    def _reset(self) -> None:
        self._status = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._received = 0
        self._sized = False
        self._date = b""
        self._sent = self._loop.time()
        self._headers_complete = False
        self._complete = False
        self._failure: ScrapeError | None = None

    def fits(self, target: Target, context: ssl.SSLContext | None) -> bool:
        """Whether the connection still leads where it should, under the certificates that are in force now."""
        return self.reusable and self._context is context and (self.target is target or self.target == target)

    def send(self, data: bytes) -> asyncio.Future[Answer]:
        """Send a request; the answer arrives in the future."""
        assert self._future is None
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._future = future
        self._reset()
        self._out = data
        self._flush()
        return future

    def expire(self) -> None:
        """End a request whose time is over."""
        self._finish(TimeoutError())

    def progress(self) -> str:
        """Say how far the answer came."""
        if self._received == 0:
            return "no answer"
        return f"{self._received} bytes of the answer had come"

    def close(self) -> None:
        """Close the socket. Safe to call twice; a request that is under way fails."""
        self.reusable = False
        if self._future is not None:
            self._finish(ScrapeError(Reason.UNREACHABLE, "the connection was given up here"))
        fd = self._sock.fileno()
        if fd >= 0:
            self._poll.remove_reader(fd)
            if self._writing:
                self._poll.remove_writer(fd)
            self._sock.close()

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._sock.send(self._out)
                self._out = self._out[sent:]
        except (ssl.SSLWantWriteError, BlockingIOError):
            if not self._writing:
                self._writing = True
                self._poll.add_writer(self._sock.fileno(), self._flush)
            return
        except ssl.SSLWantReadError:
            # The peer renegotiates; the reader callback continues.
            return
        except OSError as error:
            self._broken(error)
            return
        if self._writing:
            self._writing = False
            self._poll.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        if self._out and not self._writing:
            self._flush()
        for _unused in range(_READS_IN_A_ROW):
            try:
                data = self._sock.recv(_CHUNK)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                return
            except OSError as error:
                self._broken(error)
                return
            if not data:
                self._broken(None)
                return
            if self._future is None or self._future.done():
                # Nobody asked: what comes now could be taken for the answer to the next request.
                self._lost(self)
                return
            self._feed(data)
            if self._complete or self._failure is not None:
                return
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            # OpenSSL holds data that the selector does not see.
            self._loop.call_soon(self._again)

    def _again(self) -> None:
        if self._sock.fileno() >= 0:
            self._readable()

    def _feed(self, data: bytes) -> None:
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._failure is None and not self._complete:
                self._failure = ScrapeError(Reason.MALFORMED, "the answer is not valid HTTP")
            self.reusable = False
        if self._failure is None and not self._complete:
            if not self._headers_complete and self._received > _MAX_HEADER:
                self._failure = ScrapeError(Reason.MALFORMED, f"the answer's head is larger than {_MAX_HEADER} bytes")
            elif self._received > 2 * self._max_body + _MAX_HEADER:
                # Chunks of one byte, endless trailers.
                self._failure = self._too_large()
        if self._failure is not None:
            self._finish(self._failure)
        elif self._complete:
            self._finish(None)

    def _broken(self, error: OSError | None) -> None:
        """Handle an end of the stream: clean (None), cut off, or a TLS or socket error."""
        self.reusable = False
        if self._future is None or self._future.done():
            self._lost(self)
            return
        if error is None and self._headers_complete and not self._sized:
            # HTTP/1.0 style: the end of the connection is the end of the body.
            self._finish(None)
        elif self._received == 0:
            self._finish(ConnectionLostError(error))
        else:
            self._finish(ScrapeError(Reason.MALFORMED, f"the answer was cut off after {self._received} bytes"))

    def _finish(self, error: Exception | None) -> None:
        future, self._future = self._future, None
        if error is not None or not self._complete:
            self.reusable = False
        body, self._body = self._body, []
        if future is None or future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            content = body[0] if len(body) == 1 else b"".join(body)
            future.set_result(Answer(self._status, content, self._date, self._sent, self._loop.time()))

    def _too_large(self) -> ScrapeError:
        return ScrapeError(Reason.TOO_LARGE, f"the answer is larger than {self._max_body} bytes")

    # Callbacks of httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note what decides over the body."""
        if self._complete:
            return
        lowered = name.lower()
        if lowered == b"content-length":
            self._sized = True
            if value.isdigit() and int(value) > self._max_body and self._failure is None:
                self._failure = self._too_large()
        elif lowered == b"transfer-encoding":
            self._sized = True
        elif lowered == b"date":
            self._date = value
        elif lowered == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            self._failure = ScrapeError(
                Reason.MALFORMED,
                f"the answer is encoded ({value[:20].decode('ascii', 'replace')}) though that was not asked for",
            )

    def on_headers_complete(self) -> None:
        """Note the status; 1xx answers are only announcements."""
        if self._complete:
            # Two answers to one request.
            self.reusable = False
            return
        self._status = self._parser.get_status_code()
        self._headers_complete = self._status >= 200

    def on_body(self, body: bytes) -> None:
        """Collect, within bounds."""
        if self._complete:
            return
        self._body_size += len(body)
        if self._status == 200:
            if self._body_size > self._max_body:
                self._failure = self._failure or self._too_large()
                self._body = []
            else:
                self._body.append(body)
        elif self._body_size <= _MAX_ERROR_BODY:
            self._body.append(body)
        else:
            # The status says it all; the rest is not worth waiting for.
            self._complete = True
            self.reusable = False

    def on_message_complete(self) -> None:
        """Finish; anything behind a complete answer is refused when it arrives."""
        if self._headers_complete and not self._complete:
            self._complete = True
            # Only here the parser still knows.
            if not self._parser.should_keep_alive():
                self.reusable = False
