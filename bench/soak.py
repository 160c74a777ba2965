# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled server for half an hour while kubelets fail and return and clients come, ask and go away.

make soak                                           # 1000 nodes, 30 minutes
make soak SOAK_MINUTES=2 SOAK_NODES=100             # a look

At any time a tenth of the kubelets fails in five ways (they hang, cut the connection, answer with an error, with
garbage, with half a text), each minute others. Ends with 1 when memory or descriptors grow, when a kubelet that is
well lacks a fresh sample, or when a client is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from load import JSON, PROTOBUF, Client
from machine import BenchError, cpu_seconds, free_port, memory_mib, raise_file_limit, running, wait_for
from run import FULL, World, flags, kubernetes_binaries, world
from shape import Node

_BASE = "/apis/metrics.k8s.io/v1beta1"
_PERIOD = 60.0
#: A kubelet that fails again and again is asked less often, up to each minute; after that come two samples for a rate.
_RETURN = 60 + 3 * FULL.resolution
#: Memory that the interpreter may still take once everything has been asked for the first time.
_GROWTH_MIB = 8.0
#: Descriptors come and go with connections.
_DESCRIPTORS = 20


class Clients:
    """They ask steadily in threads of their own, and some do not wait for the answer."""

    def __init__(self, port: int, context: ssl.SSLContext, nodes: int, pods: int) -> None:
        self._port, self._context = port, context
        self.answered = 0
        self.left = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        one = Node(nodes // 2, pods).containers[0]
        kinds = ((f"{_BASE}/pods", JSON, "identity"), (f"{_BASE}/pods", PROTOBUF, "gzip"))
        self._threads = [
            threading.Thread(target=self._ask, args=(0.2, ((f"{_BASE}/namespaces/{one.namespace}/pods", JSON, ""),))),
            threading.Thread(target=self._ask, args=(5, ((f"{_BASE}/nodes", JSON, "gzip"),))),
            threading.Thread(target=self._ask, args=(20, kinds)),
            threading.Thread(target=self._leave, args=(10,)),
        ]

    def _ask(self, pause: float, kinds: tuple[tuple[str, str, str], ...]) -> None:
        turn = 0
        while not self._stop.wait(pause):
            path, accept, encoding = kinds[turn % len(kinds)]
            turn += 1
            try:
                with contextlib.closing(Client(self._port, self._context)) as client:
                    client.get(path, accept, encoding or "identity")
                self.answered += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{time.strftime('%H:%M:%S')} {path}: {error}")

    def _leave(self, pause: float) -> None:
        request = f"GET {_BASE}/pods HTTP/1.1\r\nHost: metrics\r\n\r\n".encode()
        while not self._stop.wait(pause):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self._port), 10) as plain,
                self._context.wrap_socket(plain) as secured,
            ):
                secured.sendall(request)
                secured.recv(1024)
                self.left += 1

    @contextlib.contextmanager
    def asking(self) -> Iterator[Clients]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def well(number: int, nodes: int, failing: int, now: float, since: float) -> bool:
    """Whether a kubelet has not failed for some seconds; the fleet's own rule (`Fleet.fault`)."""
    first, last = int((now - since) / _PERIOD), int(now / _PERIOD)
    return all((number - turn * failing) % nodes >= failing for turn in range(first, last + 1))


def stale(body: bytes, nodes: int, failing: int, limit: float) -> list[str]:
    """The nodes whose kubelet is well, and whose sample is older than allowed or missing."""
    now = time.time()
    ages = {
        item["metadata"]["name"]: now - datetime.fromisoformat(item["timestamp"]).timestamp()
        for item in json.loads(body)["items"]
    }
    names = {Node(number, 1).name: number for number in range(nodes)}
    return [
        f"{name} {ages.get(name, float('inf')):.0f} s"
        for name, number in names.items()
        if well(number, nodes, failing, now, _RETURN) and ages.get(name, float("inf")) > limit
    ]


def soak(found: World, minutes: float, failing: int) -> dict[str, object]:
    """Run the server, look at it every 15 seconds, and return what was seen."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=found.directory)))
        (directory / "clients.crt").write_bytes(found.ca.pem)
        log = found.directory / "soak.log"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The clients are not what is tested, and the server makes its certificate itself.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(found.directory / "loader.crt", found.directory / "loader.key")
        command = [sys.executable, "-m", "metrics_server", *flags(found.kubeconfig, directory, port, FULL)]
        process = stack.enter_context(running(command, log))

        def ready() -> bool:
            with contextlib.suppress(OSError), contextlib.closing(Client(port, context)) as client:
                return client.get("/readyz") == b"ok"
            return False

        wait_for("the server", ready, process, log, 120)
        time.sleep(min(2 * FULL.resolution, minutes * 60))
        clients = stack.enter_context(Clients(port, context, found.nodes, found.pods).asking())
        began = time.monotonic()
        rows: list[dict[str, float]] = []
        late: list[str] = []
        while time.monotonic() - began < minutes * 60:
            time.sleep(min(FULL.resolution, minutes * 60))
            if process.poll() is not None:
                raise BenchError(f"the server ended: {log.read_text(errors='replace').splitlines()[-3:]}")
            with contextlib.closing(Client(port, context)) as client:
                # Two turns may lie between two samples when the one between them was put off.
                late += stale(client.get(f"{_BASE}/nodes"), found.nodes, failing, 2 * FULL.resolution + 2)
                series = len([line for line in client.get("/metrics").splitlines() if not line.startswith(b"#")])
            rows.append(
                {
                    "minute": (time.monotonic() - began) / 60,
                    "rss_mib": memory_mib(process.pid)[0],
                    "descriptors": len(list(Path(f"/proc/{process.pid}/fd").iterdir())),
                    "threads": len(list(Path(f"/proc/{process.pid}/task").iterdir())),
                    "series": series,
                    "cpu": cpu_seconds(process.pid),
                }
            )
            if len(rows) % 20 == 1:
                print(
                    "minute {minute:.0f}: {rss_mib:.1f} MiB, {descriptors} descriptors, {threads} threads, "
                    "{series} series".format(**rows[-1]),
                    flush=True,
                )
        return {
            "nodes": found.nodes,
            "failing": failing,
            "rows": rows,
            "late": late,
            "answered": clients.answered,
            "left": clients.left,
            "failures": clients.failures,
        }


def verdict(seen: dict[str, object]) -> list[str]:
    """What is wrong, a sentence each."""
    rows = seen["rows"]
    assert isinstance(rows, list)
    # What the first sixth shows is warming up: caches, the allocator's reserves.
    settled, end = rows[len(rows) // 6 : len(rows) // 3 + 1], rows[-(len(rows) // 6 + 1) :]

    def highest(part: list[dict[str, float]], key: str) -> float:
        return max(row[key] for row in part)

    growth = highest(end, "rss_mib") - highest(settled, "rss_mib")
    wrong = []
    if growth > _GROWTH_MIB:
        wrong.append(f"memory grew by {growth:.1f} MiB")
    for key, slack in (("descriptors", _DESCRIPTORS), ("threads", 2), ("series", 5)):
        more = highest(end, key) - highest(settled, key)
        if more > slack:
            wrong.append(f"{key} grew by {more:.0f}")
    for key, what in (("late", "samples of kubelets that are well were late"), ("failures", "clients were refused")):
        found = seen[key]
        assert isinstance(found, list)
        if found:
            wrong.append(f"{len(found)} {what}: {found[:3]}")
    return wrong


def main() -> int:
    """Read the command line, run, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=30, help="pods a node")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--static-api", action="store_true", help="a small stand-in for the API server")
    parser.add_argument("--kubernetes", type=Path, help="directory with kube-apiserver and etcd; the lab's by default")
    parser.add_argument("--json", type=Path, help="write what was seen here")
    arguments = parser.parse_args()
    raise_file_limit()
    failing = max(1, arguments.nodes // 10)
    arguments.fleet_flags = ["--failing", str(failing), "--period", str(_PERIOD)]
    try:
        if not arguments.static_api:
            arguments.kubernetes = arguments.kubernetes or kubernetes_binaries()
        with world(arguments, arguments.nodes) as found:
            seen = soak(found, arguments.minutes, failing)
    except BenchError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(seen, indent=1))
    wrong = verdict(seen)
    print(f"{seen['answered']} answers, {seen['left']} clients that left, {len(seen['rows'])} looks")
    print("soak: " + ("; ".join(wrong) if wrong else "memory, descriptors and samples as they should be"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
