# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's own metrics, with upstream's names so that dashboards keep working."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from metrics_server.scrape.errors import Reason

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FRESHNESS_BUCKETS = (1.0, *(1.364**exponent for exponent in range(1, 20)))
_LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _NodeRequests:
    """Request durations of one node: a histogram in 14 numbers instead of some 30 objects."""

    __slots__ = ("counts", "last", "total")

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * (len(_REQUEST_BUCKETS) + 1)))
        self.total = 0.0
        self.last = 0.0


class EngineTelemetry:
    """Registers everything with `registry`, also the process metrics (CPU, RSS, open files)."""

    def __init__(self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._nodes: dict[str, _NodeRequests] = {}
        self._succeeded = 0
        self._failed = dict.fromkeys(Reason, 0)
        self._failing: dict[str, Reason] = {}
        self._gauges: list[Callable[[], Iterable[Metric]]] = []
        ProcessCollector(registry=registry)
        #: For the API layer: age of the samples it hands out, in seconds.
        self.freshness = Histogram(
            "metrics_server_api_metric_freshness_seconds",
            "Age of the samples that the API handed out",
            buckets=_FRESHNESS_BUCKETS,
            registry=registry,
        )
        self.tick = Histogram(
            "metrics_server_manager_tick_duration_seconds",
            "Once a resolution: from the moment its slowest node was due until it was done",
            buckets=(*_REQUEST_BUCKETS, 20.0, 30.0, 60.0),
            registry=registry,
        )
        self.lag = Histogram(
            "kubemetrics_scheduler_lag_seconds",
            "Delay between the moment a scrape was due and its start",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self.bad_lines = Counter(
            "kubemetrics_kubelet_bad_lines",
            "Lines of kubelets' answers that could not be used",
            ["reason"],
            registry=registry,
        )
        self.clock_changes = Counter(
            "kubemetrics_node_clock_changes", "How often the clock of a node was set", registry=registry
        )
        registry.register(_Requests(self))

    def success(self, node: str, seconds: float) -> None:
        """Count a scrape that worked."""
        self._succeeded += 1
        self._failing.pop(node, None)
        self._observe(node, seconds)

    def failure(self, node: str, seconds: float, reason: Reason) -> None:
        """Count a scrape that failed."""
        self._failed[reason] += 1
        self._failing[node] = reason
        self._observe(node, seconds)

    def bad(self, counts: Mapping[str, int]) -> None:
        """Count unusable lines of one answer."""
        for reason, count in counts.items():
            self.bad_lines.labels(reason).inc(count)

    def failing(self) -> Mapping[str, Reason]:
        """Return the nodes whose last scrape failed, with the reason."""
        return self._failing

    def forget(self, node: str) -> None:
        """Drop the series of a node that left."""
        self._nodes.pop(node, None)
        self._failing.pop(node, None)

    def add_gauges(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Have `collect` called at each scrape of our own metrics, for values that others hold."""
        self._gauges.append(collect)

    def _observe(self, node: str, seconds: float) -> None:
        known = self._nodes.get(node)
        if known is None:
            known = self._nodes[node] = _NodeRequests()
        known.counts[bisect_left(_REQUEST_BUCKETS, seconds)] += 1
        known.total += seconds
        known.last = self._clock()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that are kept here, but for those of each node."""
        requests = CounterMetricFamily(
            "metrics_server_kubelet_request", "Requests to kubelets", labels=["success", "reason"]
        )
        requests.add_metric(["true", ""], self._succeeded)
        for reason, count in self._failed.items():
            if count:
                requests.add_metric(["false", reason.value], count)
        yield requests
        failing = GaugeMetricFamily(
            "kubemetrics_kubelet_failing_nodes", "Nodes whose last scrape failed, by reason", labels=["reason"]
        )
        by_reason = dict.fromkeys(Reason, 0)
        for reason in self._failing.values():
            by_reason[reason] += 1
        for reason, count in by_reason.items():
            failing.add_metric([reason.value], count)
        yield failing
        for gauges in self._gauges:
            yield from gauges()

    def node_lines(self) -> Iterator[bytes]:
        """Yield the text of the metrics of each node, piece by piece, and always one family after the other.

        With thousands of nodes they are 99 % of all metrics; by the library they would take a second of the processor.
        """
        nodes = [(label_value(node), known) for node, known in self._nodes.items()]
        yield _DURATION_HEAD
        for name, known in nodes:
            values: list[bytes | int | float] = []
            for count in accumulate(known.counts):
                values += (name, count)
            yield _DURATION_LINES % (*values, name, values[-1], name, known.total)
        yield _LAST_HEAD
        for name, known in nodes:
            yield b'metrics_server_kubelet_last_request_time_seconds{node="%b"} %.3f\n' % (name, known.last)


class _Requests(Collector):
    def __init__(self, telemetry: EngineTelemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        return self._telemetry.collect()


def label_value(text: str) -> bytes:
    """Return a text as it stands between the quotes of a label."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").encode()


def family_head(name: str, kind: str, text: str) -> bytes:
    """Return the two lines before the series of a family."""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


_DURATION = "metrics_server_kubelet_request_duration_seconds"
_DURATION_HEAD = family_head(_DURATION, "histogram", "Duration of requests to kubelets")
_DURATION_LINES = (
    "".join(f'{_DURATION}_bucket{{le="{bound}",node="%b"}} %d\n' for bound in (*map(repr, _REQUEST_BUCKETS), "+Inf"))
    + f'{_DURATION}_count{{node="%b"}} %d\n{_DURATION}_sum{{node="%b"}} %.6f\n'
).encode()
_LAST_HEAD = family_head(
    "metrics_server_kubelet_last_request_time_seconds",
    "gauge",
    "Time of the last request to the kubelet in seconds since the Unix epoch",
)
