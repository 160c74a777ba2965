# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server meets in real life beside its scrapes: probes, Prometheus, an autoscaler's requests, pods that come and
go, heartbeats of nodes, and an API server that restarts, after which everything is listed anew.

The kubelet opens a connection for each probe, as its prober does (pkg/probe/http); Prometheus keeps one and asks for
gzip. Pods and nodes change in etcd, from where the API server's watches tell of them as of any other change.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import ssl
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field

from load import JSON, Client, Times
from machine import BenchError, cpu_seconds, memory_mib, reset_peak
from real_api import RealApi, node_record, pod_record
from shape import Node

#: As in this server's Deployment: seconds between two probes. Upstream's own asks for readiness each 10 seconds.
_READY, _LIVE = 3.0, 10.0
#: Requests for one pod in a second: an autoscaler's, for 300 Deployments each 15 s.
_REQUESTS = 20.0
#: The share of pods that leaves in a second, a hundredth in each minute, but no more than so many.
_LEAVING, _MOST = 1 / 6000, 20.0
#: After so many seconds a pod is back.
_AWAY = 10.0
#: Seconds between two reports of an unchanged node (kubelet: nodeStatusReportFrequency).
_HEARTBEAT = 300.0


class Repeated:
    """Something done at fixed times in a thread of its own; what it took is kept."""

    def __init__(self, period: float, action: Callable[[], object]) -> None:
        self._period, self._action = period, action
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seconds: list[float] = []
        self.failure: Exception | None = None

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += self._period
            before = time.perf_counter()
            try:
                self._action()
            except (OSError, http.client.HTTPException, BenchError) as error:
                self.failure = error
                return
            self.seconds.append(time.perf_counter() - before)

    def __enter__(self) -> Repeated:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def times(self, what: str) -> Times:
        """Return what was measured; raise BenchError if it failed."""
        if self.failure is not None or not self.seconds:
            raise BenchError(f"{what}: {self.failure or 'nothing was asked'}")
        return Times(tuple(self.seconds), sum(self.seconds), 0)


@dataclass
class Changes:
    """Pods that leave and return, and heartbeats of nodes, a second at a time."""

    api: RealApi
    nodes: int
    pods: int
    #: Pods that have to stay.
    stay: Container[str]
    _turn: Iterator[int] = field(default_factory=itertools.count)
    _due: float = 0.0
    _heartbeats: float = 0.0
    _away: list[tuple[float, str, bytes]] = field(default_factory=list)

    def second(self) -> None:
        """Let what happens in one second happen."""
        now = time.monotonic()
        changes: dict[str, bytes | None] = {}
        while self._away and self._away[0][0] <= now:
            _, key, value = self._away.pop(0)
            changes[key] = value
        self._due += min(_MOST, max(0.2, self.nodes * self.pods * _LEAVING))
        while self._due >= 1:
            self._due -= 1
            # Over all nodes, a prime of them apart, as pods of one Deployment are.
            node = Node(next(self._turn) * 7919 % self.nodes, self.pods)
            container = next((one for one in reversed(node.containers) if one.pod not in self.stay), None)
            if container is None:
                continue
            key, value = pod_record(node, container, fresh=True)
            if key not in changes and all(key != one for _, one, _ in self._away):
                changes[key] = None
                self._away.append((now + _AWAY, key, value))
        self._heartbeats += self.nodes / _HEARTBEAT
        while self._heartbeats >= 1:
            self._heartbeats -= 1
            key, value = node_record(Node(next(self._turn) % self.nodes, self.pods), self.api.kubelet_port, fresh=True)
            changes[key] = value
        self.api.write(changes)

    def undo(self) -> None:
        """Bring back who is away, so that the next server finds the same work."""
        self.api.write({key: value for _, key, value in self._away})
        self._away.clear()


@dataclass(frozen=True)
class Life:
    """One server that is measured."""

    pid: int
    port: int
    context: ssl.SSLContext
    #: Paths of single pods.
    single: Sequence[str]
    #: CPU of the steady state in cores.
    idle: float

    def _probe(self, path: str) -> None:
        with contextlib.closing(Client(self.port, self.context)) as client:
            client.get(path)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Repeated]:
        paths = itertools.cycle(self.single)
        with (
            contextlib.closing(Client(self.port, self.context)) as client,
            Repeated(1 / _REQUESTS, lambda: client.get(next(paths))) as found,
        ):
            yield found

    def usual(self, seconds: float, resolution: float, changes: Changes | None) -> dict[str, float]:
        """Return what a usual time costs, with everything at once."""
        with contextlib.ExitStack() as stack:
            prometheus = Client(self.port, self.context)
            stack.callback(prometheus.close)
            asked = stack.enter_context(self._asked())
            probes = [
                stack.enter_context(Repeated(period, lambda path=path: self._probe(path)))
                for path, period in (("/readyz", _READY), ("/livez", _LIVE))
            ]
            scraped = stack.enter_context(Repeated(resolution, lambda: prometheus.get("/metrics", JSON, "gzip")))
            if changes is not None:
                churn = stack.enter_context(Repeated(1.0, changes.second))
            started, used = time.monotonic(), cpu_seconds(self.pid)
            time.sleep(seconds)
            used, passed = cpu_seconds(self.pid) - used, time.monotonic() - started
        if changes is not None:
            churn.times("pods that come and go")
        probed = [one for repeated in probes for one in repeated.times("probes").seconds]
        pod = asked.times("one pod")
        return {
            "life: CPU": used / passed * 1000,
            "life, pod: p50": pod.median * 1000,
            "life, pod: p99": pod.p99 * 1000,
            "life, probe: p99": Times(tuple(probed), 0, 0).p99 * 1000,
            "life, Prometheus: p50": scraped.times("Prometheus").median * 1000,
        }

    def relist(self, seconds: float, api: RealApi) -> dict[str, float]:
        """Restart the API server, so that watches end and cannot go on, and return what listing anew costs."""
        reset_peak(self.pid)
        with self._asked() as asked:
            started, used = time.monotonic(), cpu_seconds(self.pid)
            # What changes while it is unavailable makes what the watches know too old to go on with.
            api.restart(dict([node_record(Node(0, 1), api.kubelet_port, fresh=True)]))
            # Clients wait longer and longer before they try again, upstream's up to half a minute.
            deadline = time.monotonic() + 90
            while any(api.listings(resource) <= own for resource, own in api.own.items()):
                if time.monotonic() > deadline:
                    raise BenchError("the server did not list nodes and pods anew after the API server's restart")
                time.sleep(0.5)
            time.sleep(seconds)
            used, passed = cpu_seconds(self.pid) - used, time.monotonic() - started
        pod = asked.times("one pod")
        return {
            "relist: CPU": max(0.0, used - self.idle * passed) * 1000,
            "relist: peak": memory_mib(self.pid)[1],
            "relist, pod: p99": pod.p99 * 1000,
            "relist, pod: slowest": max(pod.seconds) * 1000,
        }
