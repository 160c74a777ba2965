# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1 to kubelets over kept-alive connections.

One connection to each of thousands of nodes is open all the time, so what a connection costs counts: asyncio's own TLS
streams need some 340 KiB each and three times the CPU. Here a non-blocking SSLSocket is driven by the event loop's
reader callback.

Nothing a kubelet sends is trusted: one deadline spans the whole scrape, header and body sizes are bounded, redirects
are not followed, and a certificate must chain to the CA *and* name the node, by its node name or by any of its
addresses.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import NoReturn

import httptools

from metrics_server.kubelet.address import Target, certificate_covers, is_ip
from metrics_server.kubelet.errors import Reason, ScrapeError
from metrics_server.tlsfiles import ClientTls, MaterialError, Source

_CHUNK = 64 * 1024
#: Reads in one go before other connections get their turn.
_READS_IN_A_ROW = 16
_MAX_HEADER = 64 * 1024
#: Of an error answer only so much is read, and so much of its text is shown.
_MAX_ERROR_BODY = 64 * 1024
_ERROR_TEXT = 200
_DNS_LIFETIME = 30.0

#: OpenSSL's X509_V_ERR_* codes, by what they mean for an operator.
_EXPIRED_CODES = frozenset({9, 10})
_UNTRUSTED_CODES = frozenset({2, 7, 18, 19, 20, 21, 24, 27})

Resolver = Callable[[str, int], Awaitable[list[str]]]


class _ConnectionLostError(Exception):
    """A kept-alive connection turned out to be dead before any byte of the answer: worth one new connection."""


class KubeletClient:
    """Scrapes by GET; at most one request a node is under way at any time (the scheduler sees to that)."""

    def __init__(
        self,
        *,
        tls: ClientTls | None,
        token: Source | None = None,
        timeout: float = 10.0,
        max_body: int = 32 * 1024 * 1024,
        user_agent: str = "metrics-server",
        insecure: bool = False,
        resolver: Resolver | None = None,
    ) -> None:
        """`tls=None` means plain HTTP; `insecure` tells that `tls` checks no certificate, so that names are not
        compared."""
        self._tls = tls
        self._token = token
        self._timeout = timeout
        self._max_body = max_body
        self._user_agent = user_agent
        self._insecure = insecure
        self._resolver = resolver or _resolve
        self._connections: dict[str, _Connection] = {}
        self._names: dict[str, tuple[float, list[str]]] = {}
        #: How many connections were ever opened; with keep-alive it grows by the number of nodes, not of scrapes.
        self.opened = 0

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def get(self, target: Target, path: str) -> bytes:
        """Return the body of a 200 answer. Raises ScrapeError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        try:
            context = None if self._tls is None else self._tls.context()
            head = self._request(target, path)
        except MaterialError as error:
            raise ScrapeError(Reason.TLS, str(error)) from error
        connection = self._connections.get(target.node)
        if connection is not None and connection.fits(target, context):
            try:
                return await self._exchange(connection, head, deadline, target)
            except _ConnectionLostError:
                pass
        self.forget(target.node)
        try:
            connection = await self._connect(target, context, deadline)
        except TimeoutError as error:
            raise self._timed_out(target, "no connection") from error
        self._connections[target.node] = connection
        try:
            return await self._exchange(connection, head, deadline, target)
        except _ConnectionLostError as error:
            raise ScrapeError(
                Reason.UNREACHABLE, f"kubelet {_where(target)} closed the connection without an answer ({error})"
            ) from error

    def forget(self, node: str) -> None:
        """Close the connection to a node, for example because it left the cluster."""
        connection = self._connections.pop(node, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        for node in list(self._connections):
            self.forget(node)

    def _request(self, target: Target, path: str) -> bytes:
        host = f"[{target.hosts[0]}]" if ":" in target.hosts[0] else target.hosts[0]
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}:{target.port}",
            f"User-Agent: {self._user_agent}",
            "Accept: text/plain;version=0.0.4, application/json;q=0.5, */*;q=0.1",
            # Compression would cost both ends more CPU than it saves on a LAN.
            "Accept-Encoding: identity",
        ]
        # Never over plain HTTP: whoever listens there could use the token.
        if self._token is not None and self._tls is not None:
            try:
                token = self._token.read().decode("ascii").strip()
            except UnicodeDecodeError as error:
                raise MaterialError(f"{self._token.what} does not hold a token") from error
            lines.append(f"Authorization: Bearer {token}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def _exchange(self, connection: _Connection, head: bytes, deadline: float, target: Target) -> bytes:
        loop = asyncio.get_running_loop()
        future = connection.send(head)
        timer = loop.call_at(deadline, connection.expire)
        try:
            answer = await future
        except TimeoutError as error:
            raise self._timed_out(target, connection.progress()) from error
        except ScrapeError as error:
            raise ScrapeError(error.reason, f"kubelet {_where(target)}: {error.message}") from error
        finally:
            timer.cancel()
            if not connection.reusable:
                if self._connections.get(target.node) is connection:
                    del self._connections[target.node]
                connection.close()
        if answer.status == 200:
            return answer.body
        raise self._refused(answer, target)

    def _refused(self, answer: _Answer, target: Target) -> ScrapeError:
        text = " ".join(answer.body[:_ERROR_TEXT].decode("utf-8", "replace").split())
        text = "".join(character for character in text if character.isprintable())
        detail = f": {text}" if text else ""
        where = f"kubelet {_where(target)} answered {answer.status}"
        if answer.status == 401:
            if self._token is not None:
                self._token.expire_check()
            advice = "its webhook authentication is off, or it does not accept this token or certificate"
            return ScrapeError(Reason.UNAUTHORIZED, f"{where}: {advice}{detail}")
        if answer.status == 403:
            return ScrapeError(Reason.FORBIDDEN, f"{where}: the ClusterRole must allow get on nodes/metrics{detail}")
        if answer.status == 404:
            return ScrapeError(Reason.NOT_FOUND, f"{where}: it has no such path{detail}")
        if 300 <= answer.status < 400:
            return ScrapeError(Reason.HTTP_ERROR, f"{where}, a redirect, which is not followed")
        return ScrapeError(Reason.HTTP_ERROR, f"{where}{detail}")

    def _timed_out(self, target: Target, progress: str) -> ScrapeError:
        return ScrapeError(
            Reason.TIMEOUT, f"kubelet {_where(target)} did not finish within {self._timeout:g} s ({progress})"
        )

    async def _connect(self, target: Target, context: ssl.SSLContext | None, deadline: float) -> _Connection:
        """Try the node's addresses in turn; the last failure counts. Only what an other address may cure is tried
        again."""
        loop = asyncio.get_running_loop()
        addresses = [(host, ip) for host in target.hosts for ip in await self._addresses(host, target, deadline)]
        for number, (host, ip) in enumerate(addresses):
            left = len(addresses) - number
            until = loop.time() + (deadline - loop.time()) / left
            try:
                async with asyncio.timeout_at(until):
                    return await self._connect_to(host, ip, target, context)
            except TimeoutError:
                if left == 1:
                    raise
            except ScrapeError as error:
                if left == 1 or error.reason not in (Reason.REFUSED, Reason.UNREACHABLE):
                    raise
        raise ScrapeError(Reason.DNS, f"kubelet {_where(target)}: the name has no address")

    async def _connect_to(self, host: str, ip: str, target: Target, context: ssl.SSLContext | None) -> _Connection:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            try:
                await loop.sock_connect(sock, (ip, target.port))
            except OSError as error:
                _raise_connect_error(error, target, ip)
            if context is not None:
                sock = context.wrap_socket(
                    sock,
                    do_handshake_on_connect=False,
                    # A cut-off answer must not pass for a complete one.
                    suppress_ragged_eofs=False,
                    server_hostname=None if is_ip(host) else host,
                )
                await self._handshake(sock, target)
        except BaseException:
            sock.close()
            raise
        self.opened += 1
        return _Connection(loop, sock, target, context, self._max_body, self._lost)

    async def _handshake(self, sock: ssl.SSLSocket, target: Target) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock.do_handshake()
                break
            except ssl.SSLWantReadError:
                await _wait(loop.add_reader, loop.remove_reader, sock.fileno())
            except ssl.SSLWantWriteError:
                await _wait(loop.add_writer, loop.remove_writer, sock.fileno())
            except OSError as error:
                _raise_tls_error(error, target)
        if self._insecure:
            return
        certificate = sock.getpeercert() or {}
        names = [(str(kind), str(value)) for kind, value in certificate.get("subjectAltName", ())]  # type: ignore[misc]
        if not certificate_covers(names, target.names):
            covered = ", ".join(value for _, value in names) or "no name at all"
            raise ScrapeError(
                Reason.IP_SAN_MISSING,
                f"kubelet {_where(target)}: its certificate covers {covered}, but neither the node's name nor one of its "
                "addresses; enable serverTLSBootstrap in the kubelet and approve its serving certificate",
            )

    async def _addresses(self, host: str, target: Target, deadline: float) -> list[str]:
        if is_ip(host):
            return [host]
        loop = asyncio.get_running_loop()
        known = self._names.get(host)
        if known is not None and loop.time() < known[0]:
            return known[1]
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await self._resolver(host, target.port)
        except TimeoutError as error:
            raise ScrapeError(
                Reason.DNS, f"node {target.node}: the name {host} could not be resolved in time"
            ) from error
        except OSError as error:
            raise ScrapeError(
                Reason.DNS,
                f"node {target.node}: the name {host} cannot be resolved ({error.strerror}); put InternalIP first in "
                "--kubelet-preferred-address-types",
            ) from error
        self._names[host] = (loop.time() + _DNS_LIFETIME, addresses)
        return addresses

    def _lost(self, connection: _Connection) -> None:
        """Drop an idle connection that the kubelet closed."""
        if self._connections.get(connection.target.node) is connection:
            del self._connections[connection.target.node]
        connection.close()


class _Answer:
    __slots__ = ("body", "status")

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body


class _Connection:
    """One socket. Its reader stays registered while it is idle, so a connection that the kubelet closes is noticed at
    once."""

    __slots__ = (
        "_body",
        "_body_size",
        "_complete",
        "_context",
        "_failure",
        "_future",
        "_headers_complete",
        "_loop",
        "_lost",
        "_max_body",
        "_out",
        "_parser",
        "_received",
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
        sock: socket.socket,
        target: Target,
        context: ssl.SSLContext | None,
        max_body: int,
        lost: Callable[[_Connection], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self.target = target
        self._context = context
        self._max_body = max_body
        self._lost = lost
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self._future: asyncio.Future[_Answer] | None = None
        self._out = b""
        self._writing = False
        self.reusable = True
        self._reset()
        loop.add_reader(sock.fileno(), self._readable)

    def _reset(self) -> None:
        self._status = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._received = 0
        self._sized = False
        self._headers_complete = False
        self._complete = False
        self._failure: ScrapeError | None = None

    def fits(self, target: Target, context: ssl.SSLContext | None) -> bool:
        """Whether the connection still leads where it should, under the certificates that are in force now."""
        return self.reusable and self._context is context and (self.target is target or self.target == target)

    def send(self, data: bytes) -> asyncio.Future[_Answer]:
        """Send a request; the answer arrives in the future."""
        assert self._future is None
        future: asyncio.Future[_Answer] = self._loop.create_future()
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
        """Close the socket. Safe to call twice."""
        self.reusable = False
        fd = self._sock.fileno()
        if fd >= 0:
            self._loop.remove_reader(fd)
            if self._writing:
                self._loop.remove_writer(fd)
            self._sock.close()

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._sock.send(self._out)
                self._out = self._out[sent:]
        except (ssl.SSLWantWriteError, BlockingIOError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock.fileno(), self._flush)
            return
        except ssl.SSLWantReadError:
            # The peer renegotiates; the reader callback continues.
            return
        except OSError as error:
            self._broken(error)
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        if self._out and not self._writing:
            self._flush()
        for _ in range(_READS_IN_A_ROW):
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
        except httptools.HttpParserError as error:
            if self._failure is None and not self._complete:
                what = "not valid HTTP" if isinstance(error, httptools.HttpParserError) else "unreadable"
                self._failure = ScrapeError(Reason.MALFORMED, f"the answer is {what}")
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
            self._finish(_ConnectionLostError(_text(error)))
        else:
            self._finish(ScrapeError(Reason.MALFORMED, f"the answer was cut off after {self._received} bytes"))

    def _finish(self, error: Exception | None) -> None:
        future, self._future = self._future, None
        if error is not None or not self._complete or not self._parser.should_keep_alive():
            self.reusable = False
        body, self._body = self._body, []
        if future is None or future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(_Answer(self._status, body[0] if len(body) == 1 else b"".join(body)))

    def _too_large(self) -> ScrapeError:
        return ScrapeError(Reason.TOO_LARGE, f"the answer is larger than {self._max_body} bytes")

    # Callbacks of httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note what decides over the body."""
        lowered = name.lower()
        if lowered == b"content-length":
            self._sized = True
            if value.isdigit() and int(value) > self._max_body and self._failure is None:
                self._failure = self._too_large()
        elif lowered == b"transfer-encoding":
            self._sized = True
        elif lowered == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            self._failure = ScrapeError(
                Reason.MALFORMED,
                f"the answer is encoded ({value[:20].decode('ascii', 'replace')}) though that was not asked for",
            )

    def on_headers_complete(self) -> None:
        """Note the status; 1xx answers are only announcements."""
        self._status = self._parser.get_status_code()
        self._headers_complete = self._status >= 200

    def on_body(self, body: bytes) -> None:
        """Collect, within bounds."""
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
        if self._headers_complete:
            if self._complete and self.reusable:
                # Two answers to one request.
                self.reusable = False
            self._complete = True


async def _resolve(host: str, port: int) -> list[str]:
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def _wait(add: Callable[..., object], remove: Callable[[int], object], fd: int) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    add(fd, ready)
    try:
        await future
    finally:
        remove(fd)


def _where(target: Target) -> str:
    host = f"[{target.hosts[0]}]" if ":" in target.hosts[0] else target.hosts[0]
    return f"{target.node} at {host}:{target.port}"


def _text(error: OSError | None) -> str:
    if error is None:
        return "end of the stream"
    return error.strerror or type(error).__name__


def _raise_connect_error(error: OSError, target: Target, ip: str) -> NoReturn:
    where = f"kubelet {_where(target)}" if ip in target.hosts else f"kubelet {_where(target)} ({ip})"
    if isinstance(error, ConnectionRefusedError):
        raise ScrapeError(
            Reason.REFUSED, f"{where}: connection refused; is the kubelet running, and is it this port?"
        ) from error
    if error.errno == errno.ETIMEDOUT:
        raise ScrapeError(
            Reason.TIMEOUT, f"{where}: no answer to the connection attempt; does a firewall drop it?"
        ) from error
    raise ScrapeError(Reason.UNREACHABLE, f"{where}: {_text(error)}") from error


def _raise_tls_error(error: OSError, target: Target) -> NoReturn:
    where = f"kubelet {_where(target)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _EXPIRED_CODES:
            raise ScrapeError(
                Reason.EXPIRED, f"{where}: its certificate is not valid now ({error.verify_message})"
            ) from error
        if error.verify_code in _UNTRUSTED_CODES:
            raise ScrapeError(
                Reason.UNKNOWN_AUTHORITY,
                f"{where}: its certificate is not signed by the trusted CA ({error.verify_message}); enable serverTLSBootstrap "
                "in the kubelet and approve its serving certificate, or name its CA with --kubelet-certificate-authority",
            ) from error
        raise ScrapeError(Reason.TLS, f"{where}: its certificate is refused ({error.verify_message})") from error
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        raise ScrapeError(
            Reason.TLS, f"{where}: the connection was closed during the TLS handshake ({_text(error)})"
        ) from error
    reason = error.reason or type(error).__name__
    if reason == "TLSV1_ALERT_INTERNAL_ERROR":
        hint = "it has no serving certificate; is its certificate signing request waiting for approval?"
        raise ScrapeError(Reason.TLS, f"{where}: {hint}") from error
    raise ScrapeError(Reason.TLS, f"{where}: the TLS handshake failed ({reason})") from error
