# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing that is long holds the event loop: who asks for one pod meanwhile waits for milliseconds."""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from support.large import Large
from support.turns import longest_turn

from metrics_server.api.metrics import NODES, PODS, Answer, ListRequest, MetricsApi
from metrics_server.api.negotiate import JSON, PROTOBUF, Choice
from metrics_server.api.selectors import parse_field_selector, parse_label_selector
from metrics_server.api.telemetry import ApiTelemetry
from metrics_server.kube.entries import PodEntry
from metrics_server.quantity import cpu_quantity, memory_quantity
from metrics_server.scrape.errors import Reason
from metrics_server.store import Store
from metrics_server.telemetry import EngineTelemetry

#: Of CPU time. A turn ends after two milliseconds and what was just begun.
LONGEST = 0.012


@pytest.fixture(scope="module")
def large() -> Large:
    return Large(700)


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """The garbage of the tests is not that of the server."""
    gc.disable()
    yield
    gc.enable()


def everything(large: Large, choice: Choice, resource: object = PODS) -> tuple[MetricsApi, ListRequest, Choice]:
    api = MetricsApi(large.store, large.index, lambda _age: None, clock=lambda: 1_700_000_200.0)
    labels, fields = parse_label_selector(""), parse_field_selector("", ())
    return api, ListRequest(resource, "v1beta1", None, labels, fields), choice  # type: ignore[arg-type]


FORMS = pytest.mark.parametrize(
    "choice",
    [
        Choice(JSON),
        Choice(PROTOBUF),
        Choice(JSON, "Table", "v1"),
        Choice(JSON, "PartialObjectMetadataList", "v1"),
        Choice(PROTOBUF, "PartialObjectMetadataList", "v1"),
    ],
    ids=lambda choice: f"{choice.kind or 'plain'}-{choice.media_type.rpartition('.')[2]}",
)


@pytest.mark.parametrize("fresh", [True, False])
@FORMS
async def test_lists(large: Large, choice: Choice, fresh: bool) -> None:
    large.scrape()
    large.scrape()
    api, request, choice = everything(large, choice)
    answers: list[Answer] = []

    async def work() -> None:
        answers.append(await api.read_list(request, choice))

    if not fresh:
        await work()
    assert await longest_turn(work()) < LONGEST
    answer = answers[-1]
    body = b"".join(answer.parts)
    assert answer.size == len(body)
    # A table names each in its cells and in its metadata.
    assert body.count(b"app-") == 700 * 30 * (2 if choice.kind == "Table" else 1)


@pytest.mark.parametrize("resource", [NODES, PODS])
@FORMS
async def test_an_empty_list_is_as_long_as_it_says(resource: object, choice: Choice) -> None:
    """The length is announced before the body; a client waits for what is missing."""
    api, request, choice = everything(Large(0), choice, resource)
    answer = await api.read_list(request, choice)
    assert answer.size == len(b"".join(answer.parts))


async def test_who_asks_for_few_pods_pays_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering all pods of a node for one of them is twenty times the work, and each may be on another node."""
    large = Large(20)
    large.scrape()
    large.scrape()
    for name in large.names:
        large.index.put_pod(PodEntry("few", f"other-{name}", name, {}, running=("app",), created=0))
    rendered: list[object] = []
    render = Store._render

    def counting(store: Store, node: Any, form: Any) -> Any:
        rendered.append(node)
        return render(store, node, form)

    monkeypatch.setattr(Store, "_render", counting)
    api, request, choice = everything(large, Choice(JSON))
    one = api.read(PODS, "v1", "ns", "app-07-node-00003", choice)
    assert b'"cpu":' in b"".join(one.parts)
    by_name = parse_field_selector("metadata.name=app-08-node-00003", ("metadata.name",))
    chosen = await api.read_list(dataclasses.replace(request, fields=by_name), choice)
    await api.read_list(dataclasses.replace(request, namespace="few"), choice)
    assert rendered == []
    whole = await api.read_list(request, choice)
    assert len(rendered) == 20
    # It is the same text either way, and kept.
    item = b"".join(chosen.parts).partition(b'"items":[')[2].removesuffix(b"]}\n")
    assert item in b"".join(whole.parts)
    await api.read_list(request, choice)
    assert len(rendered) == 20


@pytest.mark.parametrize("resource", [NODES, PODS])
async def test_rows_say_what_the_readings_say(resource: object) -> None:
    large = Large(3, 4)
    large.scrape()
    large.scrape()
    answer = await MetricsApi.read_list(*everything(large, Choice(JSON, "Table", "v1"), resource))
    rows = json.loads(b"".join(answer.parts))["rows"]
    store = large.store
    readings = {name: store.node_reading(name) for name in large.names}
    if resource is PODS:
        readings = {pod.name: store.pod_reading("ns", pod.name) for pod in large.index.pods()}
    assert len(rows) == len(readings)
    for row in rows:
        reading = readings[row["cells"][0]]
        assert reading is not None
        (usage,) = reading.containers
        assert row["cells"][1:] == [cpu_quantity(usage.cpu_nanocores), memory_quantity(usage.memory_bytes), "15s"]


async def test_metrics_of_many_nodes() -> None:
    registry = CollectorRegistry()
    engine = EngineTelemetry(registry, clock=lambda: 1_700_000_000.25)
    for number in range(3000):
        engine.success(f"node-{number}", 0.02)
        engine.failure(f"node-{number}", 7.0, Reason.TIMEOUT)
    telemetry = ApiTelemetry(registry, engine.node_lines)
    found: list[list[bytes]] = []

    async def work() -> None:
        found.append((await telemetry.expose(None))[1])

    assert await longest_turn(work()) < LONGEST
    started = time.thread_time()
    await work()
    # By the library it was 0.4 s.
    assert time.thread_time() - started < 0.2
    families = {family.name: family for family in text_string_to_metric_families(b"".join(found[0]).decode())}
    duration = families["metrics_server_kubelet_request_duration_seconds"]
    assert duration.type == "histogram"
    samples = {
        (sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value
        for sample in duration.samples
        if sample.labels["node"] == "node-7"
    }
    assert samples["bucket", "0.01"] == 0
    assert samples["bucket", "0.025"] == samples["bucket", "5.0"] == 1
    assert samples["bucket", "10.0"] == samples["bucket", "+Inf"] == samples["count", None] == 2
    assert samples["sum", None] == pytest.approx(7.02)
    last = families["metrics_server_kubelet_last_request_time_seconds"]
    assert (last.type, len(last.samples), last.samples[0].value) == ("gauge", 3000, 1_700_000_000.25)
    assert {"metrics_server_kubelet_request", "metrics_server_api_metric_freshness_seconds"} <= set(families)


async def test_a_strange_name_of_a_node_is_escaped() -> None:
    registry = CollectorRegistry()
    engine = EngineTelemetry(registry)
    name = 'a"b\\c\nd'
    engine.success(name, 0.1)
    text = b"".join(engine.node_lines()).decode()
    nodes = {sample.labels["node"] for family in text_string_to_metric_families(text) for sample in family.samples}
    assert nodes == {name}
