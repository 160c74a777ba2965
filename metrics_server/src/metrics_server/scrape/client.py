# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1 to kubelets over kept-alive connections.

One connection to each of thousands of nodes is open all the time, so what a connection costs counts: asyncio's own TLS
streams need some 340 KiB each and three times the CPU. Here a non-blocking SSLSocket is driven by reader callbacks.

Nothing a kubelet sends is trusted: one deadline spans the whole scrape, header and body sizes are bounded, redirects
are not followed, and a certificate must chain to the CA *and* name the node, by its node name or by any of its
addresses.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import NoReturn, cast

from metrics_server.scrape.address import Target, certificate_covers, is_ip
from metrics_server.scrape.connection import Answer, Connection, ConnectionLostError, error_text
from metrics_server.scrape.errors import Reason, ScrapeError
from metrics_server.scrape.poll import Poll
from metrics_server.tls.files import ClientTls, MaterialError, Source

#: How much of an error answer's text is shown.
_ERROR_TEXT = 200
_DNS_LIFETIME = 30.0
#: Names are resolved in threads of their own: where DNS is slow, they would take those that compress large answers.
_DNS_THREADS = 8
#: What the system says when it has no more to give.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

#: OpenSSL's X509_V_ERR_* codes, by what they mean for an operator.
_EXPIRED_CODES = frozenset({9, 10})
_UNTRUSTED_CODES = frozenset({2, 7, 18, 19, 20, 21, 24, 27})

Resolver = Callable[[str, int], Awaitable[list[str]]]


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
        self._threads = concurrent.futures.ThreadPoolExecutor(_DNS_THREADS, "dns")
        self._resolver = resolver or self._resolve
        self._connections: dict[str, Connection] = {}
        self._names: dict[str, tuple[float, list[str]]] = {}
        self._names_swept = float("-inf")
        #: How many connections were ever opened; with keep-alive it grows by the number of nodes, not of scrapes.
        self.opened = 0

    @cached_property
    def _poll(self) -> Poll:
        return Poll(asyncio.get_running_loop())

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def get(self, target: Target, path: str) -> Answer:
        """Return an answer with status 200. Raises ScrapeError."""
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
                return await self._exchange(connection, head, deadline, target, path)
            except ConnectionLostError:
                pass
        self.forget(target.node)
        try:
            connection = await self._connect(target, context, deadline)
        except TimeoutError as error:
            raise self._timed_out(target, "no connection") from error
        self._connections[target.node] = connection
        try:
            return await self._exchange(connection, head, deadline, target, path)
        except ConnectionLostError as error:
            text = f"kubelet {_where(target)} closed the connection without an answer ({error})"
            raise ScrapeError(Reason.TLS if error.is_alert else Reason.UNREACHABLE, text) from error

    def forget(self, node: str) -> None:
        """Close the connection to a node, for example because it left the cluster."""
        connection = self._connections.pop(node, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        for node in list(self._connections):
            self.forget(node)
        # Without waiting: a name server that does not answer must not hold up the end.
        self._threads.shutdown(wait=False, cancel_futures=True)
        if "_poll" in self.__dict__:
            self._poll.close()
            del self._poll

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

    async def _exchange(
        self, connection: Connection, head: bytes, deadline: float, target: Target, path: str
    ) -> Answer:
        loop = asyncio.get_running_loop()
        future = connection.send(head)
        timer = loop.call_at(deadline, connection.expire)
        try:
            answer = await future
        except TimeoutError as error:
            raise self._timed_out(target, connection.progress()) from error
        except ScrapeError as error:
            raise ScrapeError(error.reason, f"kubelet {_where(target)}: {error.message}") from error
        except asyncio.CancelledError:
            # The answer that may still come belongs to no request.
            connection.reusable = False
            raise
        finally:
            timer.cancel()
            if not connection.reusable:
                if self._connections.get(target.node) is connection:
                    del self._connections[target.node]
                connection.close()
        if answer.status == 200:
            return answer
        raise self._refused(answer, target, path)

    def _refused(self, answer: Answer, target: Target, path: str) -> ScrapeError:
        text = answer.body[:_ERROR_TEXT].decode("utf-8", "replace")
        text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
        detail = f": {text}" if text else ""
        where = f"kubelet {_where(target)} answered {answer.status}"
        if answer.status == 401:
            if self._token is not None:
                self._token.expire_check()
            advice = "its webhook authentication is off, or it does not accept this token or certificate"
            return ScrapeError(Reason.UNAUTHORIZED, f"{where}: {advice}{detail}")
        if answer.status == 403:
            resource = "nodes/stats" if path.startswith("/stats/") else "nodes/metrics"
            return ScrapeError(Reason.FORBIDDEN, f"{where}: the ClusterRole must allow get on {resource}{detail}")
        if answer.status == 404:
            return ScrapeError(Reason.NOT_FOUND, f"{where}: it has no such path{detail}")
        if 300 <= answer.status < 400:
            return ScrapeError(Reason.HTTP_ERROR, f"{where}, a redirect, which is not followed")
        return ScrapeError(Reason.HTTP_ERROR, f"{where}{detail}")

    def _timed_out(self, target: Target, progress: str) -> ScrapeError:
        return ScrapeError(
            Reason.TIMEOUT, f"kubelet {_where(target)} did not finish within {self._timeout:g} s ({progress})"
        )

    async def _connect(self, target: Target, context: ssl.SSLContext | None, deadline: float) -> Connection:
        """Try the node's addresses in turn; the last failure counts. Only what an other address may cure is tried
        again."""
        loop = asyncio.get_running_loop()
        addresses = await self._addresses_of(target, deadline)
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

    async def _connect_to(self, host: str, ip: str, target: Target, context: ssl.SSLContext | None) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            # Also a host without IPv6: another address may do.
            _raise_connect_error(error, target, ip)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            try:
                await loop.sock_connect(sock, (ip, target.port))
            except OSError as error:
                _raise_connect_error(error, target, ip)
            if context is not None:
                try:
                    sock = context.wrap_socket(
                        sock,
                        do_handshake_on_connect=False,
                        # A cut-off answer must not pass for a complete one.
                        suppress_ragged_eofs=False,
                        server_hostname=None if is_ip(host) else host,
                    )
                except OSError as error:
                    # It ended already, or spoke before its turn.
                    _raise_tls_error(error, target)
                await self._handshake(sock, target)
        except BaseException:
            sock.close()
            raise
        self.opened += 1
        return Connection(loop, self._poll, sock, target, context, self._max_body, self._lost)

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
        names = cast(tuple[tuple[str, str], ...], certificate.get("subjectAltName", ()))
        if not certificate_covers(names, target.names):
            covered = ", ".join(value for _unused, value in names) or "no name at all"
            raise ScrapeError(
                Reason.IP_SAN_MISSING,
                f"kubelet {_where(target)}: its certificate covers {covered}, but neither the node's name nor one of "
                "its addresses; enable serverTLSBootstrap in the kubelet and approve its serving certificate",
            )

    async def _addresses_of(self, target: Target, deadline: float) -> list[tuple[str, str]]:
        """Return the node's names or addresses, each with what it is resolved to; one that is not may be left out."""
        addresses: list[tuple[str, str]] = []
        failure: ScrapeError | None = None
        for host in target.hosts:
            try:
                addresses += [(host, ip) for ip in await self._addresses(host, target, deadline)]
            except ScrapeError as error:
                failure = failure or error
        if failure is not None and not addresses:
            raise failure
        return addresses

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
        now = loop.time()
        self._names[host] = (now + _DNS_LIFETIME, addresses)
        if now >= self._names_swept + _DNS_LIFETIME:
            # Nodes come and go, and with them their names.
            self._names_swept = now
            self._names = {name: known for name, known in self._names.items() if known[0] > now}
        return addresses

    async def _resolve(self, host: str, port: int) -> list[str]:
        def ask() -> list[str]:
            return list(
                dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            )

        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def _lost(self, connection: Connection) -> None:
        """Drop an idle connection that the kubelet closed."""
        if self._connections.get(connection.target.node) is connection:
            del self._connections[connection.target.node]
        connection.close()


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


def _raise_connect_error(error: OSError, target: Target, ip: str) -> NoReturn:
    where = f"kubelet {_where(target)}" if ip in target.hosts else f"kubelet {_where(target)} ({ip})"
    if isinstance(error, ConnectionRefusedError):
        raise ScrapeError(
            Reason.REFUSED, f"{where}: connection refused; is the kubelet running, and is it this port?"
        ) from error
    if error.errno in _EXHAUSTED:
        raise ScrapeError(
            Reason.EXHAUSTED,
            f"{where}: this server has no socket left ({error_text(error)}); raise its limit of open files",
        ) from error
    if error.errno == errno.ETIMEDOUT:
        raise ScrapeError(
            Reason.TIMEOUT, f"{where}: no answer to the connection attempt; does a firewall drop it?"
        ) from error
    raise ScrapeError(Reason.UNREACHABLE, f"{where}: {error_text(error)}") from error


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
                f"{where}: its certificate is not signed by the trusted CA ({error.verify_message}); enable "
                "serverTLSBootstrap in the kubelet and approve its serving certificate, or name its CA with "
                "--kubelet-certificate-authority",
            ) from error
        raise ScrapeError(Reason.TLS, f"{where}: its certificate is refused ({error.verify_message})") from error
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        raise ScrapeError(
            Reason.TLS, f"{where}: the connection was closed during the TLS handshake ({error_text(error)})"
        ) from error
    reason = error.reason or type(error).__name__
    if reason == "TLSV1_ALERT_INTERNAL_ERROR":
        hint = "it has no serving certificate; is its certificate signing request waiting for approval?"
        raise ScrapeError(Reason.TLS, f"{where}: {hint}") from error
    raise ScrapeError(Reason.TLS, f"{where}: the TLS handshake failed ({reason})") from error
