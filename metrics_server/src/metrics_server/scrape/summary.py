# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON of a kubelet's `/stats/summary?only_cpu_and_memory=true`, for kubelets without `/metrics/resource`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from metrics_server.scrape.batch import (
    MAX_BYTES,
    MAX_CONTAINERS,
    MAX_SECONDS,
    Batch,
    ContainerPoint,
    Layout,
    NodePoint,
    ParseError,
    build_batch,
)

# Without an offset a time would mean something else on every machine.
_Time = Annotated[datetime, msgspec.Meta(tz=True)]

#: The first and the last millisecond that we believe: 2001 to 2286.
_FIRST_TIME, _LAST_TIME = 10**12, 10**13


class _Cpu(msgspec.Struct, rename="camel"):
    time: _Time | None = None
    usage_core_nano_seconds: int | None = None


class _Memory(msgspec.Struct, rename="camel"):
    time: _Time | None = None
    working_set_bytes: int | None = None


class _Swap(msgspec.Struct, rename="camel"):
    swap_usage_bytes: int | None = None


class _Usage(msgspec.Struct, rename="camel"):
    name: str = ""
    start_time: _Time | None = None
    cpu: _Cpu | None = None
    memory: _Memory | None = None
    swap: _Swap | None = None


class _PodRef(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _Pod(msgspec.Struct, rename="camel"):
    pod_ref: _PodRef
    #: Null for a pod that has not started a container yet.
    containers: list[msgspec.Raw] | None = None


class _Summary(msgspec.Struct):
    # Decoded one by one later: one strange pod must not cost the node.
    node: msgspec.Raw = msgspec.Raw(b"null")
    pods: list[msgspec.Raw] | None = None


_SUMMARY = msgspec.json.Decoder(_Summary)
_POD = msgspec.json.Decoder(_Pod)
_USAGE = msgspec.json.Decoder(_Usage)
_NODE = msgspec.json.Decoder(_Usage | None)


def parse_summary(body: bytes, layout: Layout | None, now_ms: int) -> Batch:
    """Read one answer. `layout` is that of the node's previous batch; `now_ms` stands in for missing timestamps.

    Raises ParseError when there is nothing in it that could be used.
    """
    try:
        summary = _SUMMARY.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ParseError(f"the answer is not a summary in JSON: {error}") from error
    bad: dict[str, int] = {}
    containers: dict[tuple[str, str, str], ContainerPoint] = {}
    for raw_pod in summary.pods or ():
        try:
            pod = _POD.decode(raw_pod)
        except msgspec.MsgspecError:
            _count(bad, "value")
            continue
        if not pod.pod_ref.name or not pod.pod_ref.namespace:
            _count(bad, "missing_label")
            continue
        for raw in pod.containers or ():
            if len(containers) >= MAX_CONTAINERS:
                raise ParseError(f"the answer names more than {MAX_CONTAINERS} containers")
            _container(containers, pod.pod_ref, raw, bad, now_ms)
    node = _node_point(summary.node, bad, now_ms)
    if node is None and not any(point.cpu is not None for point in containers.values()):
        raise ParseError("the answer holds neither node nor container usage")
    return build_batch(containers, node, bad, layout)[0]


def _container(
    containers: dict[tuple[str, str, str], ContainerPoint],
    ref: _PodRef,
    raw: msgspec.Raw,
    bad: dict[str, int],
    now_ms: int,
) -> None:
    try:
        usage = _USAGE.decode(raw)
    except msgspec.MsgspecError:
        _count(bad, "value")
        return
    if not usage.name:
        _count(bad, "missing_label")
        return
    time = _milliseconds(usage, now_ms)
    if time is None:
        _count(bad, "timestamp")
        return
    point = ContainerPoint(time, *_values(usage))
    if usage.start_time is not None:
        point.start = max(0.0, usage.start_time.timestamp())
    key = (ref.namespace, ref.name, usage.name)
    known = containers.get(key)
    if known is not None:
        _count(bad, "duplicate")
        if point.time < known.time:
            return
    containers[key] = point


def _node_point(raw: msgspec.Raw, bad: dict[str, int], now_ms: int) -> NodePoint | None:
    try:
        usage = _NODE.decode(raw)
    except msgspec.MsgspecError:
        _count(bad, "value")
        return None
    if usage is None:
        return None
    cpu, memory = _values(usage)
    # No node runs without memory, and none ever ran without CPU.
    if not cpu or not memory:
        return None
    time = _milliseconds(usage, now_ms)
    if time is None:
        _count(bad, "timestamp")
        return None
    swap = None if usage.swap is None else usage.swap.swap_usage_bytes
    return NodePoint(time, cpu, memory, None if swap is None else float(swap))


def _values(usage: _Usage) -> tuple[float | None, float | None]:
    """Return CPU seconds and bytes, None for what is missing or cannot be."""
    cpu = None if usage.cpu is None else usage.cpu.usage_core_nano_seconds
    memory = None if usage.memory is None else usage.memory.working_set_bytes
    return (
        None if cpu is None or not 0 <= cpu <= MAX_SECONDS * 1e9 else cpu / 1e9,
        None if memory is None or not 0 <= memory <= MAX_BYTES else float(memory),
    )


def _milliseconds(usage: _Usage, now_ms: int) -> int | None:
    """Return the time of the sample, None when it cannot be true."""
    if usage.cpu is None or usage.cpu.time is None:
        return now_ms
    time = round(usage.cpu.time.timestamp() * 1000)
    return time if _FIRST_TIME <= time <= _LAST_TIME else None


def _count(bad: dict[str, int], reason: str) -> None:
    bad[reason] = bad.get(reason, 0) + 1
