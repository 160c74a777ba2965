# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole engine between a fake API server and fake kubelets."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from support.fake_api import FakeApi, node, pod
from support.fake_kubelet import FakeKubelet, Request, Writer, hang, respond, running
from support.large import Large
from support.pki import Authority, Pair
from support.resource_text import Container, resource_text

from metrics_server import command
from metrics_server.engine import Engine, EngineConfig, EngineError
from metrics_server.kube.client import KubeClient
from metrics_server.kube.entries import PATH_ANNOTATION, NodeEntry
from metrics_server.options import parse_options
from metrics_server.scrape import scheduler as scheduler_module
from metrics_server.scrape.batch import Batch, Layout
from metrics_server.scrape.parse import parse_resource
from metrics_server.scrape.source import KubeletSource
from metrics_server.telemetry import EngineTelemetry

CA = Authority()


class Machine:
    """A node whose counters grow with the time: one core for the node, a tenth for each container."""

    def __init__(self, name: str, *containers: tuple[str, str], certificate: Pair | None = None) -> None:
        self.name = name
        self.containers = containers
        self.started = time.time() - 1000
        self.kubelet = FakeKubelet(self.answer, certificate or CA.issue(name, dns=(name,)))
        self.memory = 1 << 20
        #: What stands behind its text.
        self.padding = b""
        #: How far its clock is ahead.
        self.ahead = 0.0
        self.failing: Callable[[Request, Writer], object] | None = None

    async def answer(self, request: Request, writer: Writer) -> None:
        if self.failing is not None:
            await self.failing(request, writer)  # type: ignore[misc]
            return
        now = time.time()
        ran = now - self.started
        if request.path.startswith("/stats/summary"):
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1e6) % 10**6:06}Z"
            point = {
                "cpu": {"time": stamp, "usageCoreNanoSeconds": int(ran * 1e9)},
                "memory": {"time": stamp, "workingSetBytes": 1 << 30},
            }
            await respond(body=json.dumps({"node": point, "pods": []}).encode())(request, writer)
            return
        milliseconds = int((now + self.ahead) * 1000)
        text = resource_text(
            [
                Container("default", pod_name, container, ran / 10, self.memory, self.started, milliseconds)
                for pod_name, container in self.containers
            ],
            node_cpu=ran,
            node_memory=1 << 30,
            node_time=milliseconds,
        )
        date = formatdate(int(now + self.ahead), usegmt=True)
        await respond(body=text + self.padding, headers=(f"Date: {date}",))(request, writer)

    def object(self, **metadata: Any) -> dict[str, Any]:
        return node(self.name, port=self.kubelet.port, **metadata)


class Running:
    """An engine with what is around it."""

    def __init__(self, engine: Engine, registry: CollectorRegistry) -> None:
        self.engine = engine
        self._registry = registry

    def metrics(self) -> str:
        return (generate_latest(self._registry) + b"".join(self.engine.node_lines())).decode()

    async def ready(self) -> None:
        await until(lambda: self.engine.ready_reason() is None)


async def until(condition: Callable[[], bool], seconds: float = 8.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def engine_for(api: FakeApi, tmp_path: Path, **config: object) -> AsyncIterator[Running]:
    (tmp_path / "kubelet-ca.crt").write_bytes(CA.pem)
    client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent="test")
    registry = CollectorRegistry()
    options: dict[str, object] = {
        "metric_resolution": 0.4,
        "kubelet_request_timeout": 0.3,
        "kubelet_use_node_status_port": True,
        "kubelet_preferred_address_types": ("InternalIP",),
        "kubelet_certificate_authority": str(tmp_path / "kubelet-ca.crt"),
        "point_lifetime": 3.0,
    }
    engine = Engine(EngineConfig(**{**options, **config}), client, EngineTelemetry(registry))  # type: ignore[arg-type]
    await engine.start()
    try:
        yield Running(engine, registry)
    finally:
        await engine.stop()
        await client.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "_WARM_UP", 0.1)
    monkeypatch.setattr(scheduler_module, "_FIRST_RETRY", 0.1)
    monkeypatch.setattr(scheduler_module, "_MAX_BACKOFF", 0.5)


async def test_from_cluster_to_readings(tmp_path: Path) -> None:
    one, two = Machine("n1", ("web", "app"), ("web", "side"), ("gone", "app")), Machine("n2", ("db", "db"))
    async with FakeApi(tmp_path) as api, running(tmp_path, one.kubelet, two.kubelet):
        await api.put(one.object(), two.object())
        await api.put(pod("default", "web", "n1", "app", "side"), pod("default", "db", "n2", "db"))
        async with engine_for(api, tmp_path) as run:
            assert "has not been received yet" in (run.engine.ready_reason() or "")
            await run.ready()
            store, index = run.engine.store, run.engine.index
            assert [entry.name for entry in index.nodes()] == ["n1", "n2"]
            assert [entry.name for entry in index.pods("default")] == ["db", "web"]
            reading = store.node_reading("n1")
            assert reading is not None
            assert reading.containers[0].cpu_nanocores == pytest.approx(10**9, rel=0.02)
            web = store.pod_reading("default", "web")
            assert web is not None
            assert [usage.name for usage in web.containers] == ["app", "side"]
            assert web.containers[0].cpu_nanocores == pytest.approx(10**8, rel=0.02)
            assert store.pod_reading("default", "gone") is None
            assert b'"cpu":' in (store.pod_fragment("default", "db") or b"")
            metrics = run.metrics()
            assert 'metrics_server_storage_points{type="node"} 2.0' in metrics
            assert 'metrics_server_kubelet_request_total{reason="",success="true"}' in metrics
            assert 'metrics_server_kubelet_request_duration_seconds_bucket{le="+Inf",node="n1"}' in metrics
            assert "kubemetrics_kubelet_connections 2.0" in metrics


async def test_readiness_costs_nothing_with_many_nodes(tmp_path: Path) -> None:
    """Whoever reaches the port may ask, and asks as often as it likes."""
    client = KubeClient.from_kubeconfig(FakeApi(tmp_path, port=1).kubeconfig(), user_agent="test")
    engine = Engine(EngineConfig(kubelet_completely_insecure=True), client, EngineTelemetry(CollectorRegistry()))
    large = Large(5000, 1, index=engine._index, store=engine._store)

    def cost(expected: str | None) -> float:
        started = time.thread_time()
        for _unused in range(50):
            assert (engine.ready_reason() or "ready").startswith(expected or "ready")
        return (time.thread_time() - started) / 50

    assert cost("none of 5000 Ready nodes has metrics") < 0.001
    large.scrape()
    large.scrape()
    engine._look_again = 0.0
    for name in large.names[:10]:
        engine._pending.discard(name)
    assert cost("4990 of 5000 Ready nodes have no metrics yet") < 0.001
    engine._pending.clear()
    assert cost(None) < 0.0005
    # Its node may leave, or lose its metrics.
    large.index.delete_node(engine._witness)
    assert cost(None) < 0.0005
    for name in large.names:
        engine._store.drop_node(name)
    assert cost("none of 4999 Ready nodes has metrics") < 0.001


async def test_what_a_new_list_brought_is_no_garbage_to_look_through(tmp_path: Path) -> None:
    """A full collection stops the event loop for each long-lived object that it visits."""
    client = KubeClient.from_kubeconfig(FakeApi(tmp_path, port=1).kubeconfig(), user_agent="test")
    engine = Engine(EngineConfig(kubelet_completely_insecure=True), client, EngineTelemetry(CollectorRegistry()))
    gc.unfreeze()
    try:
        engine._pods_listed()
        assert gc.get_freeze_count() == 0
        # From then on the first list is through, and what it brought frozen.
        engine._synced_at = time.monotonic()
        kept = [{number: [number]} for number in range(1000)]
        engine._pods_listed()
        assert gc.get_freeze_count() > len(kept)
    finally:
        gc.unfreeze()


async def test_collection_that_has_stopped_is_no_life(tmp_path: Path) -> None:
    machine = Machine("n1")
    async with FakeApi(tmp_path) as api, running(tmp_path, machine.kubelet):
        await api.put(machine.object())
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            assert run.engine.collection_problem() is None
            task = next(task for task in run.engine._tasks if task.get_name() == "scheduler")
            scheduler = run.engine._scheduler
            assert scheduler is not None
            # Hangs where it waits, without an end and without an error.
            scheduler._wake.wait = asyncio.Event().wait  # type: ignore[method-assign]
            scheduler._tick = lambda: 1000.0  # type: ignore[method-assign]
            await until(lambda: "no scrape was begun for" in (run.engine.collection_problem() or ""))
            task.cancel()


@pytest.mark.parametrize("place", ["metrics_server.scrape.source.parse_resource", "metrics_server.store.Store.commit"])
async def test_a_fault_of_the_server_is_a_failed_scrape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    machine = Machine("n1")

    def broken(*_unused: object) -> Batch:
        raise ZeroDivisionError("by nothing")

    async with FakeApi(tmp_path) as api, running(tmp_path, machine.kubelet):
        await api.put(machine.object())
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            with monkeypatch.context() as patch:
                patch.setattr(place, broken)
                await until(lambda: 'reason="internal",success="false"} 3.0' in run.metrics())
            assert 'kubemetrics_kubelet_failing_nodes{reason="internal"} 1.0' in run.metrics()
            await until(lambda: 'kubemetrics_kubelet_failing_nodes{reason="internal"} 0.0' in run.metrics())
    # The reason once, with what is needed to find it.
    assert caplog.text.count("Traceback") == 1
    assert "ZeroDivisionError: by nothing" in caplog.text


async def test_a_clock_that_is_set_makes_no_wrong_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine("n1", ("web", "app"))
    async with FakeApi(tmp_path) as api, running(tmp_path, machine.kubelet):
        await api.put(machine.object(), pod("default", "web", "n1", "app"))
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            for change in (-14.0, 40.0):
                machine.ahead += change
                served: list[int] = []
                async with asyncio.timeout(8):
                    while len(served) < 100:
                        await asyncio.sleep(0.02)
                        node_reading = run.engine.store.node_reading("n1")
                        if node_reading is not None:
                            served.append(node_reading.containers[0].cpu_nanocores)
                # One core, as before and after.
                assert min(served) > 0.9 * 10**9
                assert max(served) < 1.1 * 10**9
            assert "kubemetrics_node_clock_changes_total 2.0" in run.metrics()
            assert "the clock of node n1 was set" in caplog.text


async def test_a_node_without_memory_usage_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = Machine("n1", ("web", "app"), ("web", "side"))
    one.memory = 0
    async with FakeApi(tmp_path) as api, running(tmp_path, one.kubelet):
        await api.put(one.object(), pod("default", "web", "n1", "app", "side"))
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            await until(lambda: "a working set or CPU counter of 0 for 2 of 2 containers" in caplog.text)
            assert run.engine.store.pod_fragment("default", "web") is None
            assert run.engine.store.node_reading("n1") is not None
            assert 'kubemetrics_kubelet_bad_lines_total{reason="zero_memory"}' in run.metrics()
            one.memory = 1 << 20
            await until(lambda: run.engine.store.pod_fragment("default", "web") is not None)
    assert caplog.text.count("a working set or CPU counter of 0") == 1


async def test_a_node_that_leaves_takes_everything_along(tmp_path: Path) -> None:
    one, two = Machine("n1", ("web", "app")), Machine("n2", ("db", "db"))
    async with FakeApi(tmp_path) as api, running(tmp_path, one.kubelet, two.kubelet):
        await api.put(one.object(), two.object(), pod("default", "db", "n2", "db"))
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            assert 'node="n2"' in run.metrics()
            two.failing = hang
            await asyncio.sleep(0.2)
            await api.delete(two.object())
            await until(lambda: run.engine.index.node("n2") is None)
            # Also a scrape that was under way brings nothing back.
            await asyncio.sleep(0.6)
            assert 'node="n2"' not in run.metrics()
            assert run.engine.store.node_reading("n2") is None
            assert run.engine.store.pod_reading("default", "db") is None
            assert "kubemetrics_kubelet_connections 1.0" in run.metrics()
            assert run.engine.ready_reason() is None


async def test_a_node_that_leaves_while_it_is_asked_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Machine("n1"), Machine("n2")
    async with FakeApi(tmp_path) as api, running(tmp_path, one.kubelet, two.kubelet):
        await api.put(one.object(), two.object())
        async with engine_for(api, tmp_path, kubelet_request_timeout=5.0) as run:
            await run.ready()
            asked, release = asyncio.Event(), asyncio.Event()
            scrape = KubeletSource.scrape

            async def late(source: KubeletSource, entry: NodeEntry, layout: Layout | None) -> Batch:
                batch = await scrape(source, entry, layout)
                if entry.name == "n2":
                    asked.set()
                    await release.wait()
                return batch

            monkeypatch.setattr(KubeletSource, "scrape", late)
            await asked.wait()
            await api.delete(two.object())
            await until(lambda: run.engine.index.node("n2") is None)
            release.set()
            await asyncio.sleep(0.3)
            assert run.engine.store.layout("n2") is None
            assert 'node="n2"' not in run.metrics()


async def test_a_large_answer_is_never_read_in_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few containers the node had before: nothing that a kubelet sends is trusted."""
    places: list[tuple[int, bool]] = []
    loop_thread = threading.get_ident()

    def noted(body: bytes, layout: Layout | None, now_ms: int) -> Batch:
        places.append((len(body), threading.get_ident() == loop_thread))
        return parse_resource(body, layout, now_ms)

    monkeypatch.setattr("metrics_server.scrape.source.parse_resource", noted)
    machine = Machine("n1")
    async with FakeApi(tmp_path) as api, running(tmp_path, machine.kubelet):
        await api.put(machine.object())
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            machine.padding = b"# padding\n" * 40_000
            await until(lambda: sum(1 for size, _unused in places if size > 300_000) >= 3)
            machine.padding = b""
            count = len(places)
            await until(lambda: len(places) > count + 3)
    assert not [place for place in places if place[0] > 300_000 and place[1]]
    assert places[-1][1]


async def test_a_node_that_leaves_and_returns_while_it_is_asked_is_scraped_anew(tmp_path: Path) -> None:
    machine = Machine("n1")
    asked = asyncio.Event()

    async def hanging(request: Request, writer: Writer) -> None:
        asked.set()
        await hang(request, writer)

    async with FakeApi(tmp_path) as api, running(tmp_path, machine.kubelet):
        await api.put(machine.object())
        async with engine_for(api, tmp_path, kubelet_request_timeout=30.0) as run:
            await run.ready()
            usual, machine.kubelet.behaviour = machine.kubelet.behaviour, hanging
            async with asyncio.timeout(10):
                await asked.wait()
            await api.delete(machine.object())
            await until(lambda: run.engine.index.node("n1") is None)
            machine.kubelet.behaviour = usual
            await api.put(machine.object())
            await until(lambda: run.engine.store.node_reading("n1") is not None)
            assert 'success="false"' not in run.metrics()


async def test_a_failing_node_costs_only_itself_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, slow = Machine("good"), Machine("slow")
    wrong = Machine("wrong", certificate=CA.issue("wrong", dns=("other",)))
    foreign = Machine("foreign", certificate=Authority().issue("foreign", dns=("foreign",)))
    slow.failing = hang
    machines = (good, slow, wrong, foreign)
    async with FakeApi(tmp_path) as api, running(tmp_path, *(machine.kubelet for machine in machines)):
        await api.put(*(machine.object() for machine in machines))
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            assert run.engine.store.node_reading("good") is not None
            metrics = run.metrics()
            for reason in ("timeout", "ip_san_missing", "unknown_authority"):
                assert f'kubemetrics_kubelet_failing_nodes{{reason="{reason}"}} 1.0' in metrics
                assert f'metrics_server_kubelet_request_total{{reason="{reason}",success="false"}}' in metrics
            await asyncio.sleep(1.0)
            # A lasting failure is told once, not at each attempt.
            assert caplog.text.count("[ip_san_missing]") == 1
            slow.failing = None
            await until(lambda: run.engine.store.node_reading("slow") is not None)
            assert 'kubemetrics_kubelet_failing_nodes{reason="timeout"} 0.0' in run.metrics()


async def test_not_ready_says_why_and_ready_has_patience(tmp_path: Path) -> None:
    only = Machine("n1")
    only.failing = respond(403, b"Forbidden (user=system:serviceaccount:kube-system:metrics-server)")
    async with FakeApi(tmp_path) as api, running(tmp_path, only.kubelet):
        await api.put(only.object())
        async with engine_for(api, tmp_path, point_lifetime=1.0) as run:
            await until(lambda: "n1: forbidden" in (run.engine.ready_reason() or ""))
            assert run.engine.ready_reason() == "none of 1 Ready nodes has metrics (n1: forbidden)"
            only.failing = None
            await run.ready()
            only.failing = hang
            await asyncio.sleep(0.6)
            assert run.engine.ready_reason() is None
            await until(lambda: run.engine.ready_reason() is not None)
            only.failing = None
            await run.ready()


async def test_a_cluster_without_nodes_is_ready(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api, engine_for(api, tmp_path) as run:
        await run.ready()
        assert list(run.engine.index.nodes()) == []


async def test_summary_where_the_resource_path_is_missing(tmp_path: Path) -> None:
    old = Machine("old")

    async def answer(request: Request, writer: Writer) -> None:
        if request.path == "/metrics/resource":
            await respond(404)(request, writer)
        else:
            await Machine.answer(old, request, writer)

    old.kubelet.behaviour = answer
    async with FakeApi(tmp_path) as api, running(tmp_path, old.kubelet):
        await api.put(old.object())
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            await until(lambda: len(old.kubelet.requests) >= 4)
    paths = [request.path for request in old.kubelet.requests]
    # Asked once, then remembered.
    assert paths.count("/metrics/resource") == 1
    assert set(paths[1:]) == {"/stats/summary?only_cpu_and_memory=true"}


@pytest.mark.parametrize(("arguments", "always"), [([], False), (["--kubelet-summary-api"], True)])
async def test_the_flag_for_the_summary_reaches_the_engine(tmp_path: Path, arguments: list[str], always: bool) -> None:
    async with FakeApi(tmp_path) as api:
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent="test")
        engine, _ = command._engine(parse_options(arguments), client, CollectorRegistry())
        assert engine._source._summary_only is always
        await engine.stop()
        await client.close()


async def test_paths_by_flag_and_by_annotation(tmp_path: Path) -> None:
    plain, other, strange = Machine("plain"), Machine("other"), Machine("strange")
    machines = (plain, other, strange)
    async with FakeApi(tmp_path) as api, running(tmp_path, *(machine.kubelet for machine in machines)):
        await api.put(
            plain.object(),
            other.object(annotations={PATH_ANNOTATION: "/api/v1/resource?a=b"}),
            strange.object(annotations={PATH_ANNOTATION: "/x HTTP/1.1\r\nX: y"}),
        )
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            assert 'kubemetrics_kubelet_failing_nodes{reason="not_found"} 1.0' in run.metrics()
        async with engine_for(api, tmp_path, kubelet_source="summary") as run:
            await run.ready()
    assert {request.path for request in plain.kubelet.requests} == {
        "/metrics/resource",
        "/stats/summary?only_cpu_and_memory=true",
    }
    assert other.kubelet.requests[0].path == "/api/v1/resource?a=b"
    assert all(request.path.startswith("/stats") for request in strange.kubelet.requests)


async def test_a_node_that_moves_is_followed(tmp_path: Path) -> None:
    before = Machine("n1")
    async with FakeApi(tmp_path) as api, running(tmp_path, before.kubelet):
        await api.put(before.object())
        async with engine_for(api, tmp_path) as run:
            await run.ready()
            after = Machine("n1")
            async with running(tmp_path, after.kubelet):
                await api.put(after.object())
                await until(lambda: bool(after.kubelet.requests))
                count = len(before.kubelet.requests)
                await asyncio.sleep(0.6)
                assert len(before.kubelet.requests) == count


async def test_node_selector(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api, engine_for(api, tmp_path, node_selector="pool in (a,b)") as run:
        await run.ready()
    assert ("list nodes", {"labelSelector": "pool in (a,b)", "limit": "500"}) in api.requests


async def test_the_kubeconfigs_token_goes_to_kubelets(tmp_path: Path) -> None:
    only = Machine("n1")
    async with FakeApi(tmp_path) as api, running(tmp_path, only.kubelet):
        await api.put(only.object())
        async with engine_for(api, tmp_path) as run:
            await run.ready()
    assert only.kubelet.requests[0].headers["authorization"] == "Bearer api-token"


async def test_unusable_configuration(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent="test")
        for config in (
            EngineConfig(kubelet_certificate_authority="/missing"),
            EngineConfig(kubelet_token_file="/missing"),
        ):
            with pytest.raises(EngineError, match="/missing cannot be read"):
                Engine(config, client, EngineTelemetry(CollectorRegistry()))
        await client.close()
