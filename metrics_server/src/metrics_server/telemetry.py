# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's own metrics, with upstream's names so that dashboards keep working."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from metrics_server.kubelet.errors import Reason

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
            "metrics_server_scheduler_lag_seconds",
            "Delay between the moment a scrape was due and its start",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self.bad_lines = Counter(
            "metrics_server_kubelet_bad_lines",
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
        """Yield the metrics that are kept here. May run in a thread, so it goes through copies."""
        duration = HistogramMetricFamily(
            "metrics_server_kubelet_request_duration_seconds", "Duration of requests to kubelets", labels=["node"]
        )
        last = GaugeMetricFamily(
            "metrics_server_kubelet_last_request_time_seconds",
            "Time of the last request to the kubelet in seconds since the Unix epoch",
            labels=["node"],
        )
        for node, known in list(self._nodes.items()):
            buckets: list[tuple[str, float]] = []
            total = 0
            for bound, count in zip((*map(_bound, _REQUEST_BUCKETS), "+Inf"), known.counts, strict=True):
                total += count
                buckets.append((bound, total))
            duration.add_metric([node], buckets, known.total)
            last.add_metric([node], known.last)
        yield duration
        yield last
        requests = CounterMetricFamily(
            "metrics_server_kubelet_request", "Requests to kubelets", labels=["success", "reason"]
        )
        requests.add_metric(["true", ""], self._succeeded)
        for reason, count in self._failed.items():
            if count:
                requests.add_metric(["false", reason.value], count)
        yield requests
        failing = GaugeMetricFamily(
            "metrics_server_kubelet_failing_nodes", "Nodes whose last scrape failed, by reason", labels=["reason"]
        )
        by_reason = dict.fromkeys(Reason, 0)
        for reason in list(self._failing.values()):
            by_reason[reason] += 1
        for reason, count in by_reason.items():
            failing.add_metric([reason.value], count)
        yield failing
        for gauges in self._gauges:
            yield from gauges()


class _Requests(Collector):
    def __init__(self, telemetry: EngineTelemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        return self._telemetry.collect()


def _bound(value: float) -> str:
    return repr(value)
