# SPDX-License-Identifier: GPL-3.0-or-later
"""The protobuf form, read back by a decoder that knows nothing of the encoder."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.conftest import World
from api.support import FakeEngine
from metrics_server.api.discovery import RESOURCES
from metrics_server.api.metrics import ListRequest, MetricsApi
from metrics_server.api.negotiate import PROTOBUF, Choice
from metrics_server.api.protobuf import MEASURED, ListItems, metrics, status_message, varint
from metrics_server.api.selectors import FieldSelector, LabelSelector
from metrics_server.api.status import internal_error
from metrics_server.fragments import JSON
from metrics_server.kube.entries import PodEntry
from metrics_server.model import ContainerUsage, PodColumns, Reading
from metrics_server.quantity import cpu_quantity, memory_quantity

Fields = dict[int, list[Any]]


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7


def items(data: bytes) -> Iterator[tuple[int, Any]]:
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        if tag & 7 == 0:
            value, position = read_varint(data, position)
            yield tag >> 3, value
        else:
            assert tag & 7 == 2, tag
            size, position = read_varint(data, position)
            assert position + size <= len(data)
            yield tag >> 3, data[position : position + size]
            position += size


def decode(data: bytes) -> Fields:
    fields: Fields = {}
    for number, value in items(data):
        fields.setdefault(number, []).append(value)
    return fields


def unwrap(body: bytes) -> tuple[str, str, Fields]:
    """Return apiVersion, kind and the fields of the message in an envelope."""
    assert body[:4] == b"k8s\x00"
    unknown = decode(body[4:])
    kind = decode(unknown[1][0])
    return kind[1][0].decode(), kind[2][0].decode(), decode(unknown[2][0])


def text_map(entries: list[bytes]) -> dict[str, str]:
    return {decode(entry)[1][0].decode(): decode(entry)[2][0].decode() for entry in entries}


def quantities(entries: list[bytes]) -> dict[str, str]:
    return {decode(entry)[1][0].decode(): decode(decode(entry)[2][0])[1][0].decode() for entry in entries}


def answer_of(path: str, name: str = "", namespace: str = "") -> bytes:
    engine = FakeEngine()
    engine.fill()
    api = MetricsApi(engine.store, engine.index, lambda _: None, clock=lambda: 1_760_000_100.5)
    resource = RESOURCES[0] if path == "nodes" else RESOURCES[1]
    if name:
        answer = api.read(resource, "v1beta1", namespace, name, Choice(PROTOBUF))
    else:
        request = ListRequest(resource, "v1beta1", namespace or None, LabelSelector(), FieldSelector())
        answer = asyncio.run(api.read_list(request, Choice(PROTOBUF)))
    body = b"".join(answer.parts)
    assert answer.size == len(body)
    return body


def test_a_node() -> None:
    version, kind, node = unwrap(answer_of("nodes", "n1"))
    assert (version, kind) == ("metrics.k8s.io/v1beta1", "NodeMetrics")
    meta = decode(node[1][0])
    assert meta[1] == [b"n1"]
    assert decode(meta[8][0])[1] == [1_760_000_100]
    assert text_map(meta[11]) == {"zone": "a", "kubernetes.io/hostname": "n1"}
    assert decode(node[2][0])[1] == [1_760_000_000]
    assert decode(node[3][0])[1] == [15_029_000_000]
    assert quantities(node[4]) == {"cpu": "123456789n", "memory": "147532Ki"}


def test_a_pod() -> None:
    version, kind, pod = unwrap(answer_of("pods", "web-1", "default"))
    assert (version, kind) == ("metrics.k8s.io/v1beta1", "PodMetrics")
    assert decode(pod[1][0])[3] == [b"default"]
    containers = [decode(container) for container in pod[4]]
    assert [container[1][0] for container in containers] == [b"a", b"b"]
    assert [quantities(container[2]) for container in containers] == [
        {"cpu": "1500u", "memory": "1Mi"},
        {"cpu": "0", "memory": "512Ki"},
    ]


def test_lists() -> None:
    version, kind, nodes = unwrap(answer_of("nodes"))
    assert (version, kind) == ("metrics.k8s.io/v1beta1", "NodeMetricsList")
    assert [decode(decode(item)[1][0])[1][0] for item in nodes[2]] == [b"n1", b"n2"]
    _, kind, pods = unwrap(answer_of("pods", namespace="default"))
    assert kind == "PodMetricsList"
    assert len(pods[2]) == 2
    assert 2 not in unwrap(answer_of("pods", namespace="none"))[2]


async def test_a_list_shows_what_is_new_and_keeps_what_is_not() -> None:
    now = 1_760_000_100.0
    engine = FakeEngine()
    engine.fill()
    api = MetricsApi(engine.store, engine.index, lambda _: None, clock=lambda: now)
    request = ListRequest(RESOURCES[0], "v1", None, LabelSelector(), FieldSelector())

    async def nodes() -> list[tuple[int, dict[str, str], dict[str, str]]]:
        body = b"".join((await api.read_list(request, Choice(PROTOBUF))).parts)
        found = [decode(item) for item in unwrap(body)[2][2]]
        return [
            (decode(decode(node[1][0])[8][0])[1][0], text_map(decode(node[1][0])[11]), quantities(node[4]))
            for node in found
        ]

    first = await nodes()
    now += 1
    assert [(created + 1, labels, used) for created, labels, used in first] == await nodes()
    engine.index.add_node("n1", {"zone": "moved"})
    reading, fragment = engine.store.node_readings["n2"]
    changed = dataclasses.replace(reading, containers=(ContainerUsage("", 1, 1024),))
    engine.store.node_readings["n2"] = (changed, fragment)
    second = await nodes()
    assert [labels for _, labels, _ in second] == [{"zone": "moved"}, {"zone": "b"}]
    assert second[1][2] == {"cpu": "1n", "memory": "1Ki"}


_NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)
_USAGES = st.tuples(
    _NAMES,
    st.one_of(st.integers(0, 2**63), st.integers(0, 2**20).map(lambda number: number * 10**6)),
    st.one_of(st.integers(1, 2**62), st.integers(1, 2**40).map(lambda number: number * 1024)),
)


@given(
    st.lists(_USAGES, min_size=1, max_size=4, unique_by=lambda usage: usage[0]).map(sorted),
    st.integers(0, 2**33),
    st.integers(1, 10**7),
    st.tuples(_NAMES, _NAMES, st.dictionaries(_NAMES, st.text(st.characters(codec="utf-8")), max_size=3)),
)
def test_whatever_is_measured_comes_out_alone_and_in_lists(
    usages: list[tuple[str, int, int]], seconds: int, window: int, whose: tuple[str, str, dict[str, str]]
) -> None:
    reading = Reading(seconds * 10**9, window * 10**6, tuple(ContainerUsage(*usage) for usage in usages))
    fragment = MEASURED.pod(reading)
    fields = decode(fragment)
    assert decode(fields[2][0]) == {1: [seconds], 2: [0]}
    assert decode(fields[3][0]) == {1: [window * 10**6]}
    assert [(container[1][0].decode(), quantities(container[2])) for container in map(decode, fields[4])] == [
        (name, {"cpu": cpu_quantity(nanocores), "memory": memory_quantity(size)}) for name, nanocores, size in usages
    ]

    # One that has no reading stands beside it, and does not change it.
    names, slots = tuple(usage[0] for usage in usages), tuple(range(1, len(usages) + 1))
    columns = PodColumns(
        [("gone",), names],
        [(0,), slots],
        [None, *(usage[1:] for usage in usages)],
        [0, *(seconds * 1000 for _unused in usages)],
        [0, *(seconds * 1000 - window for _unused in usages)],
    )
    assert MEASURED.pods(columns) == [None, fragment]
    assert JSON.pods(columns) == [None, JSON.pod(reading)]

    namespace, name, labels = whose
    labels_json = b',"labels":' + msgspec.json.encode(labels, order="sorted") if labels else b""
    pod = PodEntry(namespace, name, "n", labels, names, 0, labels_json=labels_json)
    item = b"".join(ListItems(seconds)(pod, fragment))
    assert decode(item) == {2: [metrics(pod, fragment, seconds)]}
    assert text_map(decode(decode(decode(item)[2][0])[1][0]).get(11, [])) == labels


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32, 2**63])
def test_varints(number: int) -> None:
    assert read_varint(varint(number), 0) == (number, len(varint(number)))


async def test_the_hpa_controller_gets_what_it_asks_for_first(world: World) -> None:
    accept = "application/vnd.kubernetes.protobuf,application/json"
    headers = [("X-Remote-User", "hpa"), ("Accept", accept)]
    path = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dweb"
    answer = await world.running.get(path, credential=world.front_proxy, headers=headers)
    assert answer.headers["Content-Type"] == "application/vnd.kubernetes.protobuf"
    assert len(unwrap(answer.body)[2][2]) == 2

    missing = await world.running.get(
        "/apis/metrics.k8s.io/v1beta1/nodes/n9", credential=world.front_proxy, headers=headers
    )
    version, kind, status = unwrap(missing.body)
    assert (missing.status, version, kind) == (404, "v1", "Status")
    assert (status[3], status[4], status[6]) == ([b'node "n9" not found'], [b"NotFound"], [404])


def test_the_causes_of_an_internal_error_come_with_it() -> None:
    details = decode(unwrap(status_message(internal_error("no disk")))[2][5][0])
    assert [decode(cause) for cause in details[4]] == [{2: [b"no disk"]}]


@pytest.mark.parametrize("accept", ["", ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"])
async def test_an_empty_list_is_as_long_as_it_says(world: World, accept: str) -> None:
    """The HPA asks like this; a longer length than the body's would let it wait for ever."""
    path = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dnone"
    headers = [("X-Remote-User", "hpa"), ("Accept", f"application/vnd.kubernetes.protobuf{accept}")]
    answer = await asyncio.wait_for(world.running.get(path, credential=world.front_proxy, headers=headers), 5)
    assert answer.status == 200
    assert 2 not in unwrap(answer.body)[2]


@pytest.mark.parametrize("kind", ["PartialObjectMetadata", "PartialObjectMetadataList"])
async def test_metadata_clients(world: World, kind: str) -> None:
    accept = f"application/vnd.kubernetes.protobuf;as={kind};g=meta.k8s.io;v=v1"
    path = "/apis/metrics.k8s.io/v1beta1/nodes" + ("/n1" if kind == "PartialObjectMetadata" else "")
    answer = await world.running.get(
        path, credential=world.front_proxy, headers=[("X-Remote-User", "x"), ("Accept", accept)]
    )
    version, found, message = unwrap(answer.body)
    assert (version, found) == ("meta.k8s.io/v1", kind)
    first = message if kind == "PartialObjectMetadata" else decode(message[2][0])
    assert decode(first[1][0])[1] == [b"n1"]


async def test_tables_have_no_protobuf_form(world: World) -> None:
    accept = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1"
    answer = await world.running.get(
        "/apis/metrics.k8s.io/v1beta1/nodes",
        credential=world.front_proxy,
        headers=[("X-Remote-User", "x"), ("Accept", accept)],
    )
    assert answer.status == 406


async def test_discovery_as_protobuf(world: World) -> None:
    async def get(path: str) -> tuple[str, str, Fields]:
        headers = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters"), ("Accept", PROTOBUF)]
        return unwrap((await world.running.get(path, credential=world.front_proxy, headers=headers)).body)

    api_version, kind, group = await get("/apis/metrics.k8s.io")
    assert (api_version, kind, group[1]) == ("v1", "APIGroup", [b"metrics.k8s.io"])
    versions = [(decode(one)[1], decode(one)[2]) for one in group[2]]
    assert versions == [([b"metrics.k8s.io/v1beta1"], [b"v1beta1"]), ([b"metrics.k8s.io/v1"], [b"v1"])]
    assert group[3] == group[2][:1]
    _unused, kind, groups = await get("/apis")
    assert (kind, decode(groups[1][0])) == ("APIGroupList", group)
    api_version, kind, resources = await get("/apis/metrics.k8s.io/v1")
    assert (api_version, kind, resources[1]) == ("v1", "APIResourceList", [b"metrics.k8s.io/v1"])
    found = [decode(one) for one in resources[2]]
    assert [(one[1], one[2], one[3]) for one in found] == [
        ([b"nodes"], [0], [b"NodeMetrics"]),
        ([b"pods"], [1], [b"PodMetrics"]),
    ]
    assert [decode(one[4][0])[1] for one in found] == [[b"get", b"list"]] * 2
