# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API side counts about itself, under the names that dashboards of Kubernetes API servers know."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

from metrics_server.api.status import GROUP
from metrics_server.pace import Pace

_LATENCY_BUCKETS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
#: Verbs that get a series of their own; everything else a client may invent is one series.
_VERBS = frozenset(
    {
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
        "post",
        "put",
        "head",
        "options",
    }
)
_RESOURCES = frozenset({"nodes", "pods"})
_VERSIONS = frozenset({"v1", "v1beta1"})


class ApiTelemetry:
    """Counters of the API side, registered where the engine has its own."""

    def __init__(self, registry: CollectorRegistry, node_lines: Callable[[], Iterator[bytes]]) -> None:
        """`node_lines` yields the text of metrics that are too many for the registry, piece by piece."""
        self._registry = registry
        self._node_lines = node_lines
        labels = ("verb", "group", "version", "resource", "code")
        self._requests = Counter(
            "apiserver_request_total", "Requests by verb, resource and code", labels, registry=registry
        )
        self._latency = Histogram(
            "apiserver_request_duration_seconds",
            "Time from a request's headers to the end of its answer",
            labels[:-1],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._series: dict[tuple[str, ...], tuple[Counter, Histogram]] = {}
        self._expiry = Gauge(
            "kubemetrics_serving_certificate_expiration_timestamp_seconds",
            "When the serving certificate expires, in seconds since the epoch; 0 while it is not known",
            registry=registry,
        )
        self._front_proxy_expiry = Gauge(
            "kubemetrics_front_proxy_certificate_expiration_timestamp_seconds",
            "When the first client certificate of a connected API server's front proxy expires, in seconds since the"
            " epoch; 0 while none is connected",
            registry=registry,
        )
        self._connections = Gauge("kubemetrics_open_connections", "Open client connections", registry=registry)
        self._refused = Gauge(
            "kubemetrics_connections_dropped", "Connections closed because all places were taken", registry=registry
        )

    def watch(
        self,
        *,
        expiry: Callable[[], float],
        front_proxy_expiry: Callable[[], float],
        connections: Callable[[], float],
        refused: Callable[[], float],
    ) -> None:
        """Read these values whenever the metrics are asked for."""
        self._expiry.set_function(expiry)
        self._front_proxy_expiry.set_function(front_proxy_expiry)
        self._connections.set_function(connections)
        self._refused.set_function(refused)

    def observe_request(self, *, verb: str, resource: str, version: str, code: int, seconds: float) -> None:
        """Note a finished request. Whatever clients make up falls together, so that they cannot create series."""
        known = resource in _RESOURCES and version in _VERSIONS
        labels = (
            verb if verb in _VERBS else "other",
            GROUP if known else "",
            version if known else "",
            resource if known else "",
            str(code),
        )
        series = self._series.get(labels)
        if series is None:
            # The library looks for both by their labels, in a lock, for longer than counting takes.
            series = self._series[labels] = self._requests.labels(*labels), self._latency.labels(*labels[:-1])
        series[0].inc()
        series[1].observe(seconds)

    async def expose(self, _request: object) -> tuple[str, list[bytes]]:
        """Return all metrics as text, in parts.

        Not in a thread: that would take the interpreter from the event loop for five milliseconds at a time.
        """
        pace = Pace()
        parts: list[bytes] = []
        for family in self._registry.collect():
            parts.append(generate_latest(_Family(family)))
            if pace.over():
                await pace.rest()
        for lines in self._node_lines():
            parts.append(lines)
            if pace.over():
                await pace.rest()
        return CONTENT_TYPE_LATEST, parts


class _Family(CollectorRegistry):
    """A registry of one family, to have it written."""

    def __init__(self, family: Metric) -> None:
        super().__init__()
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family
