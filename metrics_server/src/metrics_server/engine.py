# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything between the cluster and the API: owns the watches, the kubelet client, the scheduler and the store."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import resource
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from metrics_server.kube.client import KubeClient
from metrics_server.kube.entries import NodeEntry
from metrics_server.kube.index import ClusterIndex
from metrics_server.kube.watch import NodeSink, PodSink, Watcher
from metrics_server.pace import Pace
from metrics_server.scrape.address import ADDRESS_TYPES
from metrics_server.scrape.batch import Batch
from metrics_server.scrape.client import KubeletClient
from metrics_server.scrape.errors import Reason, ScrapeError
from metrics_server.scrape.scheduler import Outcome, Scheduler
from metrics_server.scrape.source import KubeletSource
from metrics_server.store import Store
from metrics_server.telemetry import EngineTelemetry, family_head, label_value
from metrics_server.tls.files import ClientTls, MaterialError, Source

log = logging.getLogger(__name__)

#: A failing node is named in the log when its failure is new, and then again this often.
_LOG_INTERVAL = 300.0
_SWAP_LINE = b'kubemetrics_node_swap_usage_bytes{node="%b"} %d\n'
#: When no node has metrics, all are checked this often only: unauthenticated clients may ask all the time.
_LOOK_AGAIN = 1.0


class EngineError(Exception):
    """The engine cannot be set up as configured; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine can be told; the names are those of the command-line flags."""

    #: Seconds between two scrapes of one node.
    metric_resolution: float = 60.0
    kubelet_request_timeout: float = 10.0
    kubelet_port: int = 10250
    #: Take the port from the Node's status.daemonEndpoints, `kubelet_port` where it has none.
    kubelet_use_node_status_port: bool = False
    kubelet_preferred_address_types: tuple[str, ...] = ADDRESS_TYPES
    #: File with the CAs that sign the kubelets' serving certificates; None: the CA of the API client (in a pod the
    #: cluster's root CA).
    kubelet_certificate_authority: str | None = None
    #: Client certificate for the kubelets; None: what the API client uses.
    kubelet_client_certificate: str | None = None
    kubelet_client_key: str | None = None
    #: Token file for the kubelets; None: what the API client uses.
    kubelet_token_file: str | None = None
    #: Accept any kubelet certificate. Only ever true because an operator said so.
    kubelet_insecure_tls: bool = False
    #: Plain HTTP, for the old read-only port. Only ever true because an operator said so.
    kubelet_completely_insecure: bool = False
    #: `resource` (/metrics/resource, or /stats/summary where a kubelet has no such path) or `summary` (always
    #: /stats/summary).
    kubelet_source: str = "resource"
    #: Label selector of the nodes to scrape; empty: all.
    node_selector: str = ""
    #: Largest accepted answer of a kubelet in bytes.
    kubelet_max_body: int = 32 * 1024 * 1024
    #: Most scrapes under way at one time.
    max_concurrency: int = 512
    #: Seconds for which the last points outlive failing scrapes; None: four resolutions, at least a minute.
    point_lifetime: float | None = None
    user_agent: str = "metrics-server"


class Engine:
    """`await start()` returns at once; data arrives in the background. `await stop()` ends everything.

    The client stays the caller's: it is not closed here.
    """

    def __init__(self, config: EngineConfig, client: KubeClient, telemetry: EngineTelemetry) -> None:
        """Raises EngineError when a certificate, key or token file cannot be used."""
        self._config = config
        self._telemetry = telemetry
        self._index = ClusterIndex()
        lifetime = config.point_lifetime or max(60.0, 4 * config.metric_resolution)
        self._store = Store(self._index.pod, lifetime=lifetime, min_window=min(2.0, config.metric_resolution / 8))
        self._kubelets = _kubelet_client(config, client)
        self._source = KubeletSource(
            self._kubelets,
            preferred_address_types=config.kubelet_preferred_address_types,
            port=config.kubelet_port,
            use_node_status_port=config.kubelet_use_node_status_port,
            summary_only=config.kubelet_source == "summary",
        )
        node_query = {"labelSelector": config.node_selector} if config.node_selector else {}
        self._node_watch = Watcher(client, "nodes", NodeSink(self._index), query=node_query)
        # A pod that succeeded or failed has no containers to measure; one that is pending none that run.
        self._pod_watch = Watcher(
            client,
            "pods",
            PodSink(self._index),
            query={"fieldSelector": "status.phase=Running"},
            listed=self._pods_listed,
        )
        self._scheduler: Scheduler | None = None
        self._tasks: list[asyncio.Task[None]] = []
        #: Nodes that were scraped at least once, with the number of failures in a row.
        self._attempts: dict[str, int] = {}
        self._logged: dict[str, tuple[Reason, float]] = {}
        #: By node: how many scrapes in a row had containers without usage, and when that was logged.
        self._zeros: dict[str, tuple[int, float]] = {}
        #: By node: when a change of its clock was logged.
        self._clocks_logged: dict[str, float] = {}
        self._synced_at: float | None = None
        #: Counted as they come and go: readiness is asked for by everybody, and must cost nothing.
        self._ready_nodes: set[str] = set()
        #: Ready nodes that neither had metrics nor failed twice in a row yet.
        self._pending: set[str] = set()
        #: A node that had metrics when it was last asked for, and when all shall be checked if it has none any more.
        self._witness = ""
        self._look_again = float("-inf")
        self._ready = False
        self._failure: str | None = None
        self._index.on_node(self._node_changed)
        self._index.on_pod_gone(self._store.drop_pod)
        telemetry.add_gauges(self._collect)

    @property
    def store(self) -> Store:
        """The MetricsReader."""
        return self._store

    @property
    def index(self) -> ClusterIndex:
        """The ClusterReader."""
        return self._index

    async def start(self) -> None:
        """Start watches and scrapes."""
        _raise_file_limit()
        self._scheduler = Scheduler(
            self._scrape,
            resolution=self._config.metric_resolution,
            concurrency=self._config.max_concurrency,
            on_round=self._telemetry.tick.observe,
            on_lag=self._telemetry.lag.observe,
        )
        for name, run in (
            ("watch nodes", self._node_watch.run()),
            ("watch pods", self._pod_watch.run()),
            ("scheduler", self._scheduler.run()),
            ("settle", self._settle()),
        ):
            task = asyncio.create_task(run, name=name)
            task.add_done_callback(self._task_ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        """End watches and scrapes and close all connections."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kubelets.close()

    def collection_problem(self) -> str | None:
        """Return why only a restart helps, or None: a part of the engine has ended, or no scrape begins any more."""
        if self._failure is not None:
            return self._failure
        looked = None if self._scheduler is None else self._scheduler.looked
        if looked is not None:
            late = asyncio.get_running_loop().time() - looked
            if late > 2 * self._config.metric_resolution:
                return f"no scrape was begun for {late:.0f} s"
        return None

    def ready_reason(self) -> str | None:
        """Return None when ready to serve, else one sentence that says why not.

        Ready means: the cluster's nodes and pods are known, and every node that is Ready has metrics or has failed
        twice in a row (its failure must not take away the metrics of the others). Once ready, only the loss of all
        metrics ends it.
        """
        if self._failure is not None:
            return self._failure
        for watch, synced in ((self._node_watch, self._index.nodes_synced), (self._pod_watch, self._index.pods_synced)):
            if not synced:
                detail = f": {watch.problem}" if watch.problem else ""
                return f"the list of {watch.resource} has not been received yet{detail}"
        count = len(self._ready_nodes)
        if count and not self._any_has_metrics():
            self._ready = False
            return f"none of {count} Ready nodes has metrics{self._examples(self._ready_nodes)}"
        if self._ready:
            return None
        # A node that answers but never gives a second point must not keep the server from serving the others.
        patience = 2 * (self._config.metric_resolution + self._config.kubelet_request_timeout)
        if self._pending and (self._synced_at is None or time.monotonic() - self._synced_at < patience):
            return f"{len(self._pending)} of {count} Ready nodes have no metrics yet{self._examples(self._pending)}"
        self._ready = True
        return None

    def _any_has_metrics(self) -> bool:
        """Whether a Ready node has metrics. Nearly always the one that had them the last time still has."""
        if self._witness in self._ready_nodes and self._store.has_reading(self._witness):
            return True
        now = time.monotonic()
        if now < self._look_again:
            return False
        for name in self._ready_nodes:
            if self._store.has_reading(name):
                self._witness = name
                return True
        self._look_again = now + _LOOK_AGAIN
        return False

    def _examples(self, names: Collection[str]) -> str:
        # Only some are read: with thousands that fail, the first ones tell as much.
        texts = [
            f"{name}: {reason.value}" for name, reason in islice(self._telemetry.failing().items(), 50) if name in names
        ]
        if not texts:
            return ""
        return f" ({', '.join(texts[:3])}{', ...' if len(texts) > 3 else ''})"

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._failure = f"an internal task has ended: {task.get_name()}"
            log.error("the task '%s' has ended; the server must be restarted", task.get_name(), exc_info=error)

    def _pods_listed(self) -> None:
        if self._synced_at is not None:
            # What a new list brought is there to stay, like the first one (see `_settle`).
            gc.collect(1)
            gc.freeze()

    async def _settle(self) -> None:
        """Wait for the initial lists, then take what is there for good out of the garbage collector's rounds."""
        while not self._index.synced:
            await asyncio.sleep(0.1)
        self._synced_at = time.monotonic()
        # A full collection over hundreds of thousands of long-lived objects stops the event loop for 100 ms each time.
        # Pods and nodes are there now, what the store keeps of them two rounds later.
        for pause in (0.0, 2 * self._config.metric_resolution):
            await asyncio.sleep(pause)
            pace = Pace()
            for _unused in self._store.share_names():
                if pace.over():
                    await pace.rest()
            gc.collect()
            gc.freeze()
        _return_memory()

    def _node_changed(self, name: str, node: NodeEntry | None) -> None:
        if node is None or not node.ready:
            self._ready_nodes.discard(name)
            self._pending.discard(name)
        elif name not in self._ready_nodes:
            self._ready_nodes.add(name)
            if not self._store.has_reading(name) and self._attempts.get(name, 0) < 2:
                self._pending.add(name)
        if node is None:
            if self._scheduler is not None:
                self._scheduler.remove(name)
            self._source.forget(name)
            self._store.drop_node(name)
            self._telemetry.forget(name)
            self._attempts.pop(name, None)
            self._logged.pop(name, None)
            self._zeros.pop(name, None)
            self._clocks_logged.pop(name, None)
        elif self._scheduler is not None:
            self._scheduler.add(name)
            if self._attempts.get(name) and node.ready:
                self._scheduler.poke(name)

    async def _scrape(self, name: str) -> Outcome:
        node = self._index.node(name)
        if node is None:
            return Outcome.FAILED
        started = time.monotonic()
        try:
            return self._taken_in(name, await self._source.scrape(node, self._store.layout(name)), started)
        except ScrapeError as error:
            return self._failed(node, error, started)
        except Exception as error:  # pylint: disable=broad-exception-caught
            return self._failed(node, _fault(name, error), started)

    def _taken_in(self, name: str, batch: Batch, started: float) -> Outcome:
        if self._index.node(name) is None:
            # It left while it was asked: nothing of it may come back.
            self._source.forget(name)
            return Outcome.FAILED
        has_reading = self._store.commit(name, batch)
        self._telemetry.success(name, time.monotonic() - started)
        if batch.stepped:
            self._clock_changed(name)
        if self._attempts.get(name) and name in self._logged:
            log.info("node %s can be scraped again", name)
            del self._logged[name]
        self._attempts[name] = 0
        if batch.bad:
            self._telemetry.bad(batch.bad)
        if batch.zeros:
            counts = {"zero_cpu": batch.zero_cpu, "zero_memory": batch.zeros - batch.zero_cpu}
            self._telemetry.bad({reason: count for reason, count in counts.items() if count})
        if batch.zeros or self._zeros:
            self._log_zeros(name, batch)
        if not has_reading:
            return Outcome.WARMING
        self._pending.discard(name)
        if not self._ready:
            self._look_again = float("-inf")
        return Outcome.READY

    def _failed(self, node: NodeEntry, error: ScrapeError, started: float) -> Outcome:
        name = node.name
        if self._index.node(name) is not None:
            self._telemetry.failure(name, time.monotonic() - started, error.reason)
            self._attempts[name] = attempts = self._attempts.get(name, 0) + 1
            if attempts >= 2:
                self._pending.discard(name)
            self._log_failure(node, error)
        return Outcome.FAILED

    def _clock_changed(self, name: str) -> None:
        self._telemetry.clock_changes.inc()
        now = time.monotonic()
        if now - self._clocks_logged.get(name, float("-inf")) >= _LOG_INTERVAL:
            self._clocks_logged[name] = now
            log.warning(
                "the clock of node %s was set: its rates begin anew; if this repeats, check its time synchronization",
                name,
            )

    def _log_zeros(self, name: str, batch: Batch) -> None:
        """Say that a node reports no usage for containers, whose pods are not served then.

        Once may be a process that has just ended; twice in a row is a runtime or a kernel that does not know better.
        """
        if not batch.zeros:
            self._zeros.pop(name, None)
            return
        times, logged = self._zeros.get(name, (0, float("-inf")))
        now = time.monotonic()
        if times > 0 and now - logged >= _LOG_INTERVAL:
            logged = now
            log.warning(
                "node %s reports a working set or CPU counter of 0 for %d of %d containers: running ones have no usage"
                " and their pods no metrics; check the container runtime (known of cri-dockerd, and of idle containers"
                " with cgroup v1)",
                name,
                batch.zeros,
                batch.layout.size,
            )
        self._zeros[name] = times + 1, logged

    def _log_failure(self, node: NodeEntry, error: ScrapeError) -> None:
        now = time.monotonic()
        known = self._logged.get(node.name)
        if known is not None and known[0] is error.reason and now - known[1] < _LOG_INTERVAL:
            return
        self._logged[node.name] = (error.reason, now)
        # A node that is known to be down is no news.
        if error.reason is Reason.INTERNAL:
            log.error("%s [%s]", error.message, error.reason.value, exc_info=error.__cause__)
        else:
            log.log(logging.WARNING if node.ready else logging.INFO, "%s [%s]", error.message, error.reason.value)

    def node_lines(self) -> Iterator[bytes]:
        """Yield the text of the metrics of each node, piece by piece."""
        yield from self._telemetry.node_lines()
        yield family_head("kubemetrics_node_swap_usage_bytes", "gauge", "Swap in use on the node")
        for node in self._index.nodes():
            used = self._store.node_swap(node.name)
            yield b"" if used is None else _SWAP_LINE % (label_value(node.name), used)

    def _collect(self) -> Iterator[Metric]:
        counts = self._store.counts()
        points = GaugeMetricFamily("metrics_server_storage_points", "Points with a rate, by type", labels=["type"])
        points.add_metric(["node"], counts.nodes)
        points.add_metric(["container"], counts.containers)
        yield points
        yield GaugeMetricFamily("kubemetrics_nodes", "Nodes that are to be scraped", value=self._index.node_count)
        yield GaugeMetricFamily("kubemetrics_pods", "Running pods", value=self._index.pod_count)
        contact = GaugeMetricFamily(
            "kubemetrics_watch_last_contact_seconds",
            "Time since the API server last said anything on a watch",
            labels=["resource"],
        )
        lists = CounterMetricFamily("kubemetrics_watch_lists", "Complete lists made", labels=["resource"])
        for watch in (self._node_watch, self._pod_watch):
            if watch.last_contact is not None:
                contact.add_metric([watch.resource], time.monotonic() - watch.last_contact)
            lists.add_metric([watch.resource], watch.lists)
        yield contact
        yield lists
        yield GaugeMetricFamily(
            "kubemetrics_kubelet_connections", "Open connections to kubelets", value=self._kubelets.open_connections
        )
        yield CounterMetricFamily(
            "kubemetrics_kubelet_connections_opened",
            "Connections to kubelets ever opened",
            value=self._kubelets.opened,
        )


def _fault(name: str, error: Exception) -> ScrapeError:
    """Say that a scrape failed for a reason that nobody has foreseen."""
    fault = ScrapeError(Reason.INTERNAL, f"kubelet {name}: a fault of this server ({type(error).__name__})")
    fault.__cause__ = error
    return fault


def _kubelet_client(config: EngineConfig, client: KubeClient) -> KubeletClient:
    token = client.token
    if config.kubelet_token_file is not None:
        token = Source("the kubelets' token file", path=config.kubelet_token_file)
    tls: ClientTls | None = None
    if not config.kubelet_completely_insecure:
        ca: Source | None = client.tls.ca
        if config.kubelet_certificate_authority is not None:
            ca = Source("--kubelet-certificate-authority", path=config.kubelet_certificate_authority)
        certificate, key = client.tls.certificate, client.tls.key
        if config.kubelet_client_certificate is not None and config.kubelet_client_key is not None:
            certificate = Source("--kubelet-client-certificate", path=config.kubelet_client_certificate)
            key = Source("--kubelet-client-key", path=config.kubelet_client_key)
        tls = ClientTls(
            ca=ca, certificate=certificate, key=key, check_hostname=False, insecure=config.kubelet_insecure_tls
        )
        try:
            tls.context()
            if token is not None:
                token.read()
        except MaterialError as error:
            raise EngineError(str(error)) from error
    return KubeletClient(
        tls=tls,
        token=token,
        timeout=config.kubelet_request_timeout,
        max_body=config.kubelet_max_body,
        user_agent=config.user_agent,
        insecure=config.kubelet_insecure_tls,
    )


def _return_memory() -> None:
    """Give back what the C library holds for later: without caches of bytecode, which the image has not, compiling this
    program took some megabytes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        # Another C library than glibc.
        log.debug("unused memory cannot be given back here")


def _raise_file_limit() -> None:
    """One connection a node: the usual soft limit of 1024 open files would be the limit of the cluster's size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
