# SPDX-License-Identifier: GPL-3.0-or-later
"""What one scrape of a kubelet yields, in columns: the common result of all parsers."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from metrics_server.sharing import shared_names, shared_slots

PodKey = tuple[str, str]

#: More containers than any node can run. Beyond it somebody feeds us nonsense.
MAX_CONTAINERS = 10_000
#: Counters and gauges beyond these bounds do not fit the API's 64-bit quantities.
MAX_SECONDS = 9.2e9
MAX_BYTES = 9.2e18


class ParseError(Exception):
    """A kubelet's answer holds no usable metrics; the text says why in one sentence."""


@dataclass(frozen=True, slots=True)
class FamilyShape:
    """How one metric family was laid out in the text, to recognise the same layout without reading labels again."""

    #: Hash over the series names and labels in their order; 0 when the family is absent.
    signature: int
    #: Number of series, also of those that are not used.
    series: int
    #: Words a line: 3 with a timestamp, 2 without.
    stride: int
    #: For each container the position of its series in the family, -1 for none; None when it is simply 0, 1, 2, ...
    take: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which containers a node reports, and in which column slots they are.

    As long as a node reports the same containers in the same slots, the layouts of its batches share them: one
    comparison of references (`same_containers`) tells that nothing came or went. `following` keeps it so.
    """

    #: Number of each pod.
    pods: dict[PodKey, int]
    #: By number of the pod: the names of its containers, sorted, and the slots of their points.
    names: Sequence[tuple[str, ...]]
    slots: Sequence[tuple[int, ...]]
    size: int
    #: Containers left out because they had no CPU or no memory value; their pods are left out with them.
    incomplete: int = 0
    #: Set by the text parser only when it can be matched by `FamilyShape`s.
    shapes: tuple[FamilyShape, FamilyShape, FamilyShape] | None = None
    #: Hash of the lines with start times, and what they said: without a restart they are the same each time. 0: not
    #: usable.
    start_lines: int = 0
    starts: array[float] | None = None

    def same_containers(self, other: Layout) -> bool:
        """Whether a layout of the same node has the same containers in the same slots."""
        return self.pods is other.pods

    def following(self, previous: Layout | None) -> Layout:
        """Return this new layout, with the containers of the node's previous one when nothing came or went."""
        if (
            previous is None
            or previous.incomplete != self.incomplete
            or previous.slots != self.slots
            or previous.names != self.names
            or previous.pods != self.pods
        ):
            return self
        return previous if previous.shapes is None else replace(previous, shapes=None, start_lines=0, starts=None)


@dataclass(slots=True)
class NodePoint:
    """The node as a whole. `swap` is None where the kubelet does not report it."""

    time: int
    cpu: float
    memory: float
    swap: float | None = None


@dataclass(slots=True)
class Batch:
    """One scrape. Times are the samples' own, in milliseconds; CPU is the counter in seconds; a start time of 0 is
    unknown."""

    layout: Layout
    node: NodePoint | None
    times: array[int]
    cpu: array[float]
    memory: array[float]
    starts: array[float]
    #: The earliest and the latest of `times`; 0 without containers.
    oldest: int = 0
    newest: int = 0
    #: How many containers have no usage: a working set of 0, which no running process has, or (`zero_cpu`, and then
    #: their working set is made 0 here, too) a counter of 0, which none has that ever ran.
    zeros: int = 0
    zero_cpu: int = 0
    #: The node's clock was set since the scrape before: no rate can reach from before to after that.
    stepped: bool = False
    #: The latest that the node's clock can have shown when it answered, in milliseconds; 0 when nobody can tell.
    answered: int = 0
    #: Lines (or JSON objects) that could not be used, by reason.
    bad: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class ContainerPoint:
    """One container while a batch is put together."""

    time: int = 0
    cpu: float | None = None
    memory: float | None = None
    start: float = 0.0


def build_batch(
    containers: Mapping[tuple[str, str, str], ContainerPoint],
    node: NodePoint | None,
    bad: dict[str, int],
    previous: Layout | None = None,
) -> tuple[Batch, list[tuple[str, str, str]]]:
    """Turn points into columns and return them with the container of each slot.

    A pod of which one container has no CPU or no memory value is left out as a whole: a sum without it would be too
    low.
    """
    broken = {key[:2] for key, point in containers.items() if point.cpu is None or point.memory is None}
    incomplete = sum(1 for point in containers.values() if point.cpu is None or point.memory is None)
    order = [key for key in containers if key[:2] not in broken]
    times, cpu, memory, starts = array("q"), array("d"), array("d"), array("d")
    by_pod: dict[PodKey, list[tuple[str, int]]] = {}
    for slot, key in enumerate(order):
        point = containers[key]
        assert point.cpu is not None
        assert point.memory is not None
        times.append(point.time)
        cpu.append(point.cpu)
        memory.append(point.memory)
        starts.append(point.start)
        by_pod.setdefault((key[0], key[1]), []).append((key[2], slot))
    names: list[tuple[str, ...]] = []
    slots: list[tuple[int, ...]] = []
    for members in by_pod.values():
        members.sort()
        names.append(shared_names(tuple(name for name, _unused in members)))
        slots.append(shared_slots(tuple(slot for _unused, slot in members)))
    pods = {key: number for number, key in enumerate(by_pod)}
    layout = Layout(pods, names, slots, len(order), incomplete).following(previous)
    oldest, newest = (min(times), max(times)) if times else (0, 0)
    zero_cpu = void_where_cpu_is_zero(cpu, memory)
    return Batch(layout, node, times, cpu, memory, starts, oldest, newest, memory.count(0.0), zero_cpu, bad=bad), order


def void_where_cpu_is_zero(cpu: array[float], memory: array[float]) -> int:
    """Let a working set of 0 stand for a counter of 0, so that there is one sign of "no usage"; return how many."""
    count = cpu.count(0.0)
    if count:
        for slot, value in enumerate(cpu):
            if not value:
                memory[slot] = 0.0
    return count
