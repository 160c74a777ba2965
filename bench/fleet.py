# SPDX-License-Identifier: GPL-3.0-or-later
"""Thousands of kubelets in one process: one listener, told apart by the address that was dialled.

They speak TLS with keep-alive and print /metrics/resource as kubelets do, with counters that grow, and in the manner of
Go's server: in chunks, and in TLS records of 4 KB. A share of them can be made to fail and to recover in turn. Run
it with `PYTHONPATH=metrics_server/tests` (for the certificate authority) or give it a certificate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import socket
import ssl
import tempfile
import time
from functools import cache
from pathlib import Path

from shape import DOMAIN, STARTED, Node, node_number

_FAULTS = ("hang", "error", "cut", "garbage", "truncated", "slow", "closed")
#: A slow body comes in so many parts, a second apart.
_PARTS = 30
#: The buffer of a connection in Go's net/http (server.go): what it writes at once, and so a TLS record.
_BUFFER = 4096


@cache
def _frame(number: int, pods: int) -> tuple[str, tuple[float, ...]]:
    """Return the node's text as a format string of (time in ms, CPU counters), and the cores of each container."""
    node = Node(number, pods)
    containers = node.containers
    lines: list[str] = []

    def family(name: str, kind: str) -> None:
        lines.append(f"# HELP {name} [STABLE] As a kubelet says it, in some more words than these")
        lines.append(f"# TYPE {name} {kind}")

    def labels(index: int) -> str:
        one = containers[index]
        return f'{{container="{one.name}",namespace="{one.namespace}",pod="{one.pod}"}}'

    def pod_labels(index: int) -> str:
        return f'{{namespace="{containers[index].namespace}",pod="{containers[index].pod}"}}'

    family("container_cpu_usage_seconds_total", "counter")
    lines += [f"container_cpu_usage_seconds_total{labels(i)} %({i}).9g %(t)d" for i in range(pods)]
    family("container_memory_working_set_bytes", "gauge")
    lines += [
        f"container_memory_working_set_bytes{labels(i)} {_go_number(one.memory)} %(t)d"
        for i, one in enumerate(containers)
    ]
    family("container_start_time_seconds", "gauge")
    lines += [f"container_start_time_seconds{labels(i)} {_go_number(STARTED)}" for i in range(pods)]
    family("node_cpu_usage_seconds_total", "counter")
    lines.append("node_cpu_usage_seconds_total %(n).9g %(t)d")
    family("node_memory_working_set_bytes", "gauge")
    lines.append(f"node_memory_working_set_bytes {_go_number(8 << 30)} %(t)d")
    family("pod_cpu_usage_seconds_total", "counter")
    lines += [f"pod_cpu_usage_seconds_total{pod_labels(i)} %({i}).9g %(t)d" for i in range(pods)]
    family("pod_memory_working_set_bytes", "gauge")
    lines += [
        f"pod_memory_working_set_bytes{pod_labels(i)} {_go_number(one.memory)} %(t)d"
        for i, one in enumerate(containers)
    ]
    family("resource_scrape_error", "gauge")
    lines += ["resource_scrape_error 0", ""]
    return "\n".join(lines), tuple(one.cores for one in containers)


def _go_number(value: int) -> str:
    mantissa, _, exponent = f"{value:.15e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e+{int(exponent):02}"


def text(number: int, pods: int, now: float) -> bytes:
    """Return what a node prints at a time."""
    frame, cores = _frame(number, pods)
    ran = now - STARTED
    values: dict[str, float] = {str(i): 100 + share * ran for i, share in enumerate(cores)}
    values["t"] = int(now * 1000)
    values["n"] = 1000 + 2.5 * ran
    return (frame % values).encode()


def chunks(body: bytes) -> bytes:
    """Return a body in the chunked coding (RFC 9112, section 7.1), cut where Go's buffer is full."""
    parts = (body[start : start + _BUFFER] for start in range(0, len(body), _BUFFER))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class Fleet:
    """The listener and what it knows of its connections."""

    def __init__(self, arguments: argparse.Namespace, context: ssl.SSLContext) -> None:
        self.nodes: int = arguments.nodes
        self.pods: int = arguments.pods
        self.failing: int = arguments.failing
        self.period: float = arguments.period
        self.interval: float = arguments.sample_interval
        self.chunked: bool = arguments.framing == "go"
        self.context = context
        self.requests = self.faults = self.connections = 0
        self.loop = asyncio.get_running_loop()
        self.listener = socket.create_server((arguments.bind, arguments.port), backlog=8192)
        self.listener.setblocking(False)
        self.loop.add_reader(self.listener, self._accept)

    def fault(self, number: int) -> str | None:
        """Return how a node fails now. The failing ones change with each period, so that all return some time."""
        if not self.failing:
            return None
        turn = int(time.time() / self.period) * self.failing
        place = (number - turn) % self.nodes
        return _FAULTS[number % len(_FAULTS)] if place < self.failing else None

    def _accept(self) -> None:
        for _ in range(100):
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = node_number(sock.getsockname()[0])
            if not 0 <= number < self.nodes:
                sock.close()
                continue
            if self.fault(number) == "closed":
                self.faults += 1
                sock.close()
                continue
            secured = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            _Connection(self, secured, number)


class _Connection:
    """One kept-alive connection."""

    __slots__ = ("_fleet", "_handshaken", "_in", "_number", "_out", "_sock", "_writing")

    def __init__(self, fleet: Fleet, sock: ssl.SSLSocket, number: int) -> None:
        self._fleet = fleet
        self._sock = sock
        self._number = number
        self._handshaken = self._writing = False
        self._in = self._out = b""
        fleet.connections += 1
        fleet.loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        try:
            if not self._handshaken:
                self._sock.do_handshake()
                self._handshaken = True
            while True:
                data = self._sock.recv(16384)
                if not data:
                    self._close()
                    return
                self._in += data
                while b"\r\n\r\n" in self._in:
                    head, _, self._in = self._in.partition(b"\r\n\r\n")
                    self._answer(head)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError:
            self._close()

    def _answer(self, head: bytes) -> None:
        fleet = self._fleet
        fleet.requests += 1
        fault = fleet.fault(self._number)
        if fault is not None:
            fleet.faults += 1
        if fault == "hang":
            return
        if fault in ("cut", "closed"):
            self._close()
            return
        if fault == "error":
            self._send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops")
            return
        if fault == "garbage":
            self._send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<garbage>")
            return
        if not head.startswith(b"GET /metrics/resource "):
            self._send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found")
            return
        now = time.time()
        if fleet.interval:
            # Kubelets sample by their own clock; in between they repeat the last sample.
            phase = self._number * 0.618 % 1 * fleet.interval
            now = (now - phase) // fleet.interval * fleet.interval + phase
        body = text(self._number, fleet.pods, now)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
        if fleet.chunked:
            head, body = head + b"Transfer-Encoding: chunked\r\n\r\n", chunks(body)
        else:
            head += b"Content-Length: %d\r\n\r\n" % len(body)
        if fault == "truncated":
            body = body[: len(body) // 2]
        if fault == "slow":
            self._drip(head + body, -(-len(body) // _PARTS))
            return
        self._send(head + body)
        if fault == "truncated":
            self._close()

    def _drip(self, data: bytes, size: int) -> None:
        if self._sock.fileno() < 0:
            return
        self._send(data[:size])
        if data[size:]:
            self._fleet.loop.call_later(1, self._drip, data[size:], size)

    def _send(self, data: bytes) -> None:
        self._out += data
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                piece = self._out[:_BUFFER] if self._fleet.chunked else self._out
                self._out = self._out[self._sock.send(piece) :]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
            if not self._writing:
                self._writing = True
                self._fleet.loop.add_writer(self._sock, self._flush)
            return
        except OSError:
            self._close()
            return
        if self._writing:
            self._writing = False
            self._fleet.loop.remove_writer(self._sock)

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            self._fleet.connections -= 1
            self._fleet.loop.remove_reader(self._sock)
            if self._writing:
                self._fleet.loop.remove_writer(self._sock)
            self._sock.close()


def server_context(arguments: argparse.Namespace) -> ssl.SSLContext:
    """Return the TLS side, with a certificate made on the spot unless one is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # No session tickets: a handshake is a handshake, as with Go's server and a client that keeps none.
    context.num_tickets = 0
    if arguments.certificate:
        context.load_cert_chain(arguments.certificate, arguments.key)
        return context
    from support.pki import Authority  # only here: with a given certificate the fleet needs the standard library alone

    authority = Authority("fleet-ca")
    with tempfile.TemporaryDirectory() as directory:
        context.load_cert_chain(*authority.issue("fleet", dns=(f"*.{DOMAIN}",)).write(Path(directory), "fleet"))
    if arguments.write_ca:
        Path(arguments.write_ca).write_bytes(authority.pem)
    return context


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until interrupted."""
    fleet = Fleet(arguments, server_context(arguments))
    print(f"{fleet.nodes} kubelets with {fleet.pods} pods each on port {fleet.listener.getsockname()[1]}", flush=True)
    while True:
        await asyncio.sleep(arguments.report or 3600)
        if arguments.report:
            print(f"connections={fleet.connections} requests={fleet.requests} faults={fleet.faults}", flush=True)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--pods", type=int, default=30)
    parser.add_argument("--bind", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=10250)
    parser.add_argument("--certificate", help="PEM file; without it one is made")
    parser.add_argument("--key")
    parser.add_argument("--write-ca", metavar="FILE", help="where the made CA is written for the client")
    parser.add_argument("--sample-interval", type=float, default=0.0, help="seconds between samples; 0: one a request")
    parser.add_argument(
        "--framing", choices=("go", "plain"), default="go", help="go: chunks and 4 KB records; plain: as few as can be"
    )
    parser.add_argument("--failing", type=int, default=0, help="how many nodes fail at any time")
    parser.add_argument("--period", type=float, default=60.0, help="after so many seconds others fail")
    parser.add_argument("--report", type=float, default=0.0, help="seconds between two lines of counts; 0: none")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments))


if __name__ == "__main__":
    main()
