# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled server for half an hour while kubelets fail and return and clients come, ask and go away.

make soak                                           # 1000 nodes, 30 minutes
make soak SOAK_MINUTES=2 SOAK_NODES=100             # a look

At any time a tenth of the kubelets fails in seven ways (they close the connection at once or when asked, hang, answer
slowly, with an error, with garbage, with half a text), each minute others. Nodes and pods leave and return through the
API, unless it is the stand-in. Ends with 1 when memory, descriptors, threads or series grow, when a scrape of a kubelet
that is well is missed, when what left is still served or what returned is not, when a client is refused, or
when the server logs an error.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from churn import Churn
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
#: Samples are read so often, in seconds: each is seen, so that a gap between two is a scrape that was missed.
_LOOK = 5.0
_GAP = 1.5 * FULL.resolution
_REQUESTS = re.compile(rb'^metrics_server_kubelet_request_total\{reason="(\w*)",.*\} ([0-9.e+]+)$', re.MULTILINE)


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


class Samples:
    """The nodes' samples, one look after the other."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._missed: dict[str, float] = {}
        self.missed: list[str] = []
        self.oldest = 0.0

    def look(self, now: float, stamps: Mapping[str, float], judged: Callable[[str], bool], names: list[str]) -> None:
        """Take in what is served now. A gap counts once, and only for a node that is judged."""
        for name in names:
            last = self._last.get(name)
            stamp = stamps.get(name, last)
            if stamp is None:
                begun, gap = 0.0, float("inf")
            else:
                self._last[name] = stamp
                # A gap that is open is seen more than once, and once again when it ends: its beginning tells.
                begun, gap = (stamp, now - stamp) if last is None or last == stamp else (last, stamp - last)
            if not judged(name):
                continue
            if stamp is not None:
                self.oldest = max(self.oldest, now - stamp)
            if gap > _GAP and self._missed.get(name) != begun:
                self._missed[name] = begun
                self.missed.append(f"{time.strftime('%H:%M:%S', time.localtime(now))} {name}: {gap:.0f} s")


def stamps(body: bytes) -> dict[str, float]:
    """The time of each node's sample in a list."""
    return {
        item["metadata"]["name"]: datetime.fromisoformat(item["timestamp"]).timestamp()
        for item in json.loads(body)["items"]
    }


def soak(found: World, minutes: float, failing: int, churn: Churn | None) -> dict[str, object]:
    """Run the server, check it every 15 seconds, and return what was seen."""
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

        names = {Node(number, 1).name: number for number in range(found.nodes)}
        started = time.time()

        def ready() -> bool:
            # Not /readyz, which gives kubelets that fail at the start some time to return.
            with contextlib.suppress(OSError), contextlib.closing(Client(port, context)) as client:
                served, now = stamps(client.get(f"{_BASE}/nodes")), time.time()
                return all(
                    name in served or not well(number, found.nodes, failing, now, now - started)
                    for name, number in names.items()
                )
            return False

        wait_for("the server", ready, process, log, 120)
        # Before that nodes that failed at the start still get their first samples.
        time.sleep(min(_RETURN, minutes * 60))
        clients = stack.enter_context(Clients(port, context, found.nodes, found.pods).asking())
        samples = Samples()
        began = time.monotonic()
        rows: list[dict[str, float]] = []

        def judged(name: str) -> bool:
            settled = churn is None or names[name] not in churn.nodes
            return settled and well(names[name], found.nodes, failing, time.time(), _RETURN)

        next_row = 0.0
        while (passed := time.monotonic() - began) < minutes * 60:
            if process.poll() is not None:
                raise BenchError(f"the server ended: {log.read_text(errors='replace').splitlines()[-3:]}")
            with contextlib.closing(Client(port, context)) as client:
                served = stamps(client.get(f"{_BASE}/nodes"))
                samples.look(time.time(), served, judged, list(names))
                if churn is not None:
                    churn.turn(
                        passed, client, served, lambda number: well(number, found.nodes, failing, time.time(), _RETURN)
                    )
                own = client.get("/metrics") if passed >= next_row else b""
            if own:
                next_row += FULL.resolution
                rows.append(row(process.pid, passed, own))
                rows[-1]["oldest"], samples.oldest = samples.oldest, 0.0
                if len(rows) % 20 == 1:
                    print(
                        "minute {minute:.0f}: {rss_mib:.1f} MiB, {descriptors} descriptors, {threads} threads, "
                        "{series} series, {scraped:.0f} scrapes and {failed:.0f} that failed".format(**rows[-1]),
                        flush=True,
                    )
            time.sleep(min(_LOOK, minutes * 60))
        return {
            "nodes": found.nodes,
            "failing": failing,
            "rows": rows,
            "missed": samples.missed,
            "churned": churn.turns if churn is not None else None,
            "lost": churn.wrong if churn is not None else [],
            "reasons": reasons(own or Client(port, context).get("/metrics")),
            "answered": clients.answered,
            "left": clients.left,
            "failures": clients.failures,
            "errors": [line for line in log.read_text(errors="replace").splitlines() if line.startswith("E")],
        }


def row(pid: int, passed: float, own: bytes) -> dict[str, float]:
    """What the server uses and counts at this moment."""
    counts = reasons(own)
    return {
        "minute": passed / 60,
        "rss_mib": memory_mib(pid)[0],
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
        "series": len([line for line in own.splitlines() if not line.startswith(b"#")]),
        "scraped": counts.pop("", 0.0),
        "failed": sum(counts.values()),
        "cpu": cpu_seconds(pid),
    }


def reasons(own: bytes) -> dict[str, float]:
    """The server's count of scrapes by the reason of their failure; those that worked have an empty one."""
    return {reason.decode(): float(value) for reason, value in _REQUESTS.findall(own)}


def verdict(seen: dict[str, object]) -> list[str]:
    """What is wrong, a sentence each."""
    settled, end = ends(seen)
    wrong = []
    limits = (("rss_mib", _GROWTH_MIB), ("descriptors", _DESCRIPTORS), ("threads", 2), ("series", 100))
    for key, slack in limits:
        more = end[key] - settled[key]
        if more > slack:
            wrong.append(f"{key} grew by {more:.1f}")
    for key, what in (
        ("missed", "scrapes of kubelets that are well were missed"),
        ("lost", "nodes and pods that left or returned were not followed"),
        ("failures", "clients were refused"),
        ("errors", "errors are in the server's log"),
    ):
        found = seen[key]
        assert isinstance(found, list)
        if found:
            wrong.append(f"{len(found)} {what}: {found[:3]}")
    return wrong


def ends(seen: dict[str, object]) -> tuple[dict[str, float], dict[str, float]]:
    """The highest of each figure after warming up (caches, the allocator's reserves), and at the end."""
    rows = seen["rows"]
    assert isinstance(rows, list)
    parts = rows[len(rows) // 6 : len(rows) // 3 + 1], rows[-(len(rows) // 6 + 1) :]
    settled, end = ({key: max(one[key] for one in part) for key in part[0]} for part in parts)
    return settled, end


def summary(seen: dict[str, object]) -> str:
    """The figures behind the verdict."""
    rows = seen["rows"]
    assert isinstance(rows, list)
    settled, end = ends(seen)
    half = rows[len(rows) // 2 :]
    slope = 0.0
    if len(half) > 1:
        slope = statistics.linear_regression([one["minute"] for one in half], [one["rss_mib"] for one in half]).slope
    lines = [
        f"{key}: {settled[key]:.1f} after warming up, {end[key]:.1f} at the end"
        for key in ("rss_mib", "descriptors", "threads", "series")
    ]
    lines += [
        f"memory in the last {rows[-1]['minute'] - half[0]['minute']:.0f} minutes: {slope * 60:+.1f} MiB an hour",
        f"scrapes: {end['scraped']:.0f} worked, {end['failed']:.0f} failed: {seen['reasons']}",
        f"oldest sample of a kubelet that is well: {max(one['oldest'] for one in rows):.1f} s",
        f"nodes and pods left and returned {seen['churned'] if seen['churned'] is not None else 'never (stand-in)'}",
        f"{seen['answered']} answers, {seen['left']} clients that left, {len(rows)} looks",
    ]
    return "\n".join(lines)


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
    arguments.framing = "go"
    arguments.fleet_flags = ["--failing", str(failing), "--period", str(_PERIOD)]
    try:
        if not arguments.static_api:
            arguments.kubernetes = arguments.kubernetes or kubernetes_binaries()
        with world(arguments, arguments.nodes) as found:
            churn = None if arguments.static_api else Churn(found.kubeconfig, arguments.nodes, arguments.pods)
            seen = soak(found, arguments.minutes, failing, churn)
    except BenchError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(seen, indent=1))
    wrong = verdict(seen)
    print(summary(seen))
    print("soak: " + ("; ".join(wrong) if wrong else "memory, descriptors and samples as they should be"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
