# SPDX-License-Identifier: GPL-3.0-or-later
"""The last two points of every node and container, and the readings that follow from them.

Points are kept in columns, one array a value and node: taking in a scrape of an unchanged node is a few array
comparisons and an exchange of references. Everything that the API needs is computed when it is asked for and kept
until the next scrape.

A working set of 0 is no usage, and a counter of 0 neither: kubelets report them just after a process has ended, and
some runtimes for every container. A pod with such a container, if that runs, has no reading but the last whole one;
nobody shall scale it in for it. (A counter that does not grow is a usage: none.)

A rate never reaches across a change of the node's clock, nor from a pod to another one of the same name.
"""

from __future__ import annotations

import operator
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from metrics_server.fragments import JSON
from metrics_server.kube.entries import PodEntry
from metrics_server.model import ContainerUsage, Form, PodColumns, Reading
from metrics_server.scrape.batch import Batch, Layout, NodePoint, PodKey

#: A first point is enough when the container started this long before it (in milliseconds): the counter began with 0
#: at the start. Below the minimum the start-up itself would dominate, above the maximum it would be history.
_FRESH_MIN, _FRESH_MAX = 10_000, 60_000
#: A start time may come back slightly different without a restart.
_START_JITTER = 1.0
#: A sample older than the one that we have is out of order; one that is older by more than this means that the clock
#: was set back.
_CLOCK_STEP = 30_000
#: In `previous_times`: the container's point is not to be the earlier one of a rate. 0 says only that there is none.
_UNUSABLE = -1
#: So long after a node's clock was set (in seconds) the start of a container may still be by the old clock.
_OLD_STARTS = 2 * _FRESH_MAX / 1000

#: Where an answer does not say when it was given.
_ANY_TIME = 2**62
#: In place of a fragment that nobody asked for yet.
_NOT_YET = b""

Locate = Callable[[str, str], PodEntry | None]


@dataclass(frozen=True, slots=True)
class PointCounts:
    """How many nodes and containers have a reading."""

    nodes: int
    containers: int


class _Node:
    """What is known of one node. `previous_times` holds no positive number for a container that has only one point."""

    __slots__ = (
        "answered",
        "cpu",
        "fragments",
        "layout",
        "memory",
        "newest",
        "newest_sample",
        "node_fragments",
        "oldest_sample",
        "point",
        "previous_cpu",
        "point_usable",
        "previous_point",
        "previous_times",
        "rates",
        "received",
        "retained",
        "starts",
        "starts_usable_from",
        "times",
        "unusable",
    )

    def __init__(self) -> None:
        self.layout = Layout({}, (), (), 0)
        self.times, self.previous_times = array("q"), array("q")
        self.cpu, self.previous_cpu = array("d"), array("d")
        self.memory, self.starts = array("d"), array("d")
        self.point: NodePoint | None = None
        self.previous_point: tuple[int, float] | None = None
        #: Whether `point` may be the earlier one of a rate, and whether there are containers of which it may not.
        self.point_usable = True
        self.unusable = False
        #: From when on, by our own clock, the start of a container may stand in for its earlier point.
        self.starts_usable_from = float("-inf")
        #: How many containers have two points.
        self.rates = 0
        #: When something new last came, by our own clock.
        self.received = float("-inf")
        #: Times of the containers' oldest and newest sample, and of the newest of all, by the node's clock.
        self.oldest_sample = self.newest_sample = self.newest = 0
        #: No sample can be later than that.
        self.answered = _ANY_TIME
        self.node_fragments: dict[Form, bytes] = {}
        #: By number of the pod; None for one that cannot be rendered together with the others of its node.
        self.fragments: dict[Form, list[bytes | None]] = {}
        #: Last whole readings of pods that the newest scrape did not have in full, and until when they count.
        self.retained: dict[PodKey, tuple[float, Reading]] = {}


class Store:
    """The MetricsReader; `commit` is for the scheduler.

    `locate` finds the running pod of a name: a kubelet is believed only about pods that the API server has placed on
    its node, and a pod is shown only when all of its running containers have points.
    """

    def __init__(
        self, locate: Locate, *, lifetime: float, min_window: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`lifetime` is how many seconds the last points of a node outlive failing scrapes.

        Samples nearer to each other than `min_window` make no rate: what is measured would be the moment of measuring.
        """
        self._locate = locate
        self._lifetime = lifetime
        self._lifetime_ms = int(lifetime * 1000)
        self._min_window_ms = int(min_window * 1000)
        self._clock = clock
        self._nodes: dict[str, _Node] = {}

    # Writing

    def layout(self, node: str) -> Layout | None:
        """Return the layout of the node's last batch, for the parser."""
        known = self._nodes.get(node)
        return None if known is None else known.layout

    def commit(self, node: str, batch: Batch) -> bool:
        """Take in a scrape. Return whether the node has a reading of itself now (if it was reported at all)."""
        known = self._nodes.get(node)
        now = self._clock()
        if known is None or batch.stepped or now - known.received > self._lifetime:
            known = self._nodes[node] = _Node()
        if batch.stepped:
            known.starts_usable_from = now + _OLD_STARTS
        known.answered = batch.answered or _ANY_TIME
        if known.retained:
            self._expire_retained(known, now)
        advanced = self._commit_node(known, batch.node)
        if self._commit_containers(known, batch, now):
            advanced = True
        if advanced:
            known.received = now
        if batch.stepped:
            # Nobody knows by which clock these samples have their times: they only tell which samples are newer.
            known.point_usable = False
            self._make_unusable(known, range(batch.layout.size))
        return known.previous_point is not None or (batch.node is None and known.rates > 0)

    def share_names(self) -> Iterator[None]:
        """Let names of pods be the same objects here and in the index, node by node: for what came before its pods."""
        for known in list(self._nodes.values()):
            self._share_names(known.layout)
            yield

    def _share_names(self, layout: Layout) -> None:
        entries = [(self._locate(*key), key, number) for key, number in layout.pods.items()]
        layout.pods.clear()
        for entry, key, number in entries:
            layout.pods[key if entry is None else (entry.namespace, entry.name)] = number

    def drop_pod(self, pod: PodEntry) -> None:
        """Forget a pod that is gone: another one of its name may be on the same node a moment later."""
        known = self._nodes.get(pod.node_name)
        if known is None:
            return
        key = (pod.namespace, pod.name)
        known.retained.pop(key, None)
        number = known.layout.pods.get(key)
        if number is not None:
            self._make_unusable(known, known.layout.slots[number])

    def _make_unusable(self, known: _Node, slots: Iterable[int]) -> None:
        for slot in slots:
            known.rates -= known.previous_times[slot] > 0
            known.previous_times[slot] = _UNUSABLE
            known.unusable = True
        known.fragments.clear()

    def drop_node(self, node: str) -> None:
        """Forget a node and everything on it."""
        self._nodes.pop(node, None)

    def _commit_node(self, known: _Node, new: NodePoint | None) -> bool:
        old = known.point
        if new is None:
            return False
        if old is not None and not known.point_usable:
            if new.time == old.time:
                return False
            known.point_usable = True
        elif old is not None:
            age = new.time - old.time
            if -_CLOCK_STEP < age < self._min_window_ms:
                return False
            same_run = age > 0 and new.cpu >= old.cpu and age <= self._lifetime_ms
            known.previous_point = (old.time, old.cpu) if same_run else None
        known.point = new
        known.newest = min(new.time, known.answered)
        known.node_fragments.clear()
        return True

    def _commit_containers(self, known: _Node, batch: Batch, now: float) -> bool:
        """Return whether any container has a new point."""
        same_containers = batch.layout.same_containers(known.layout)
        if batch.zeros or not same_containers:
            self._retain(known, batch)
        if same_containers and (batch.starts is known.starts or batch.starts == known.starts):
            known.layout = batch.layout
            if batch.times == known.times:
                if batch.memory != known.memory:
                    known.memory = batch.memory
                    known.fragments.clear()
                if known.oldest_sample < known.newest - self._lifetime_ms:
                    # The node goes on and its containers do not: what was rendered of them may be too old now.
                    known.fragments.clear()
                return False
            all_newer = batch.oldest - known.newest_sample >= self._min_window_ms or all(
                map(self._min_window_ms.__le__, map(operator.sub, batch.times, known.times))
            )
            if (
                all_newer
                and not known.unusable
                and not batch.zero_cpu
                and batch.newest - known.oldest_sample <= self._lifetime_ms
                and not any(map(operator.lt, batch.cpu, known.cpu))
            ):
                known.previous_times, known.previous_cpu = known.times, known.cpu
                known.times, known.cpu, known.memory = batch.times, batch.cpu, batch.memory
                known.rates = batch.layout.size
                self._sampled(known, batch.oldest, batch.newest)
                return True
        return self._merge(known, batch, now)

    def _merge(self, known: _Node, batch: Batch, now: float) -> bool:
        """Take in a scrape container by container: some came, went, restarted, or have no new sample."""
        old_layout = known.layout
        same_containers = batch.layout.same_containers(old_layout)
        old_slots = None if same_containers else _slot_finder(old_layout)
        size = batch.layout.size
        times, cpu, memory = batch.times[:], batch.cpu[:], batch.memory[:]
        starts = batch.starts[:]
        previous_times, previous_cpu = array("q", bytes(8 * size)), array("d", bytes(8 * size))
        advanced = False
        young = now >= known.starts_usable_from
        for key, number in batch.layout.pods.items():
            names = batch.layout.names[number]
            for name, slot in zip(names, batch.layout.slots[number], strict=True):
                old = slot if old_slots is None else old_slots(key, name)
                if old < 0:
                    advanced = True
                    if not cpu[slot]:
                        previous_times[slot] = _UNUSABLE
                    elif young:
                        self._first_point(slot, times, starts, previous_times)
                    retained = known.retained.get(key)
                    if retained is not None and starts[slot] * 1e9 > retained[1].timestamp_ns:
                        del known.retained[key]
                    continue
                age = times[slot] - known.times[old]
                usable = known.previous_times[old] != _UNUSABLE
                # A counter of 0 is no sample: the point before it is still the last one.
                if not cpu[slot] or age == 0 or (usable and -_CLOCK_STEP < age < self._min_window_ms):
                    times[slot], cpu[slot], starts[slot] = known.times[old], known.cpu[old], known.starts[old]
                    if age < 0 and memory[slot]:
                        memory[slot] = known.memory[old]
                    previous_times[slot], previous_cpu[slot] = known.previous_times[old], known.previous_cpu[old]
                    continue
                advanced = True
                fell = cpu[slot] < known.cpu[old]
                newer = (known.starts[old] > 0 and starts[slot] > known.starts[old] + _START_JITTER) or (
                    starts[slot] * 1000 >= known.times[old]
                )
                if fell or newer or not usable or age < 0 or age > self._lifetime_ms:
                    # A counter that fell while the start stayed did not begin at that start.
                    if young and (newer or (usable and not fell)):
                        self._first_point(slot, times, starts, previous_times)
                    # What was read of the process before says nothing of this one.
                    if (fell or newer) and memory[slot]:
                        known.retained.pop(key, None)
                else:
                    previous_times[slot], previous_cpu[slot] = known.times[old], known.cpu[old]
        if not same_containers:
            self._share_names(batch.layout)
        known.layout = batch.layout
        known.times, known.cpu, known.memory, known.starts = times, cpu, memory, starts
        known.previous_times, known.previous_cpu = previous_times, previous_cpu
        known.rates = sum(map((0).__lt__, previous_times))
        known.unusable = min(previous_times, default=0) < 0
        newest = max(times, default=0)
        if known.unusable:
            # By a clock that was ahead they would make all others look old.
            newest = max((time for time, before in zip(times, previous_times, strict=True) if before >= 0), default=0)
        self._sampled(known, min(times, default=0), newest)
        return advanced

    def _sampled(self, known: _Node, oldest: int, newest: int) -> None:
        known.oldest_sample, known.newest_sample = oldest, newest
        if known.point is not None and known.point_usable:
            newest = max(newest, known.point.time)
        # One that is ahead of the node's own clock would make all others look old.
        known.newest = min(newest, known.answered)
        known.fragments.clear()

    def _first_point(self, slot: int, times: array[int], starts: array[float], previous_times: array[int]) -> None:
        """Let the start of a young container stand in for the earlier point; its counter was 0 then."""
        started = int(starts[slot] * 1000)
        if started and _FRESH_MIN <= times[slot] - started < _FRESH_MAX:
            previous_times[slot] = started

    def _retain(self, known: _Node, batch: Batch) -> None:
        """Keep the reading of pods that the new scrape does not have in full.

        Whether such a pod is gone or only badly reported is decided when it is read: gone pods are not in the index.
        """
        new, memory = batch.layout, batch.memory
        for key, number in known.layout.pods.items():
            found = new.pods.get(key)
            if (
                found is not None
                and (new.same_containers(known.layout) or set(known.layout.names[number]) <= set(new.names[found]))
                and (not batch.zeros or all(memory[slot] for slot in new.slots[found]))
            ):
                # What is retained stays until its time is over: a container that was missing needs a second point.
                continue
            entry = self._locate(*key)
            reading = self._reading(known, number, () if entry is None else entry.running)
            if reading is not None:
                known.retained[key] = (known.received + self._lifetime, reading)

    def _expire_retained(self, known: _Node, now: float) -> None:
        if known.retained:
            known.retained = {key: item for key, item in known.retained.items() if item[0] > now}

    # Reading

    def node_reading(self, name: str) -> Reading | None:
        """Return the reading of a node, or None when there are not two points yet."""
        known = self._live(name)
        if known is None or known.point is None or known.previous_point is None:
            return None
        point, (time_before, cpu_before) = known.point, known.previous_point
        if known.newest - point.time > self._lifetime_ms:
            return None
        window = point.time - time_before
        usage = ContainerUsage("", _nanocores(cpu_before, point.cpu, window), int(point.memory))
        return Reading(point.time * 1_000_000, window * 1_000_000, (usage,))

    def has_reading(self, name: str) -> bool:
        """Whether `node_reading` would return one, for readiness: cheaper."""
        known = self._live(name)
        return (
            known is not None
            and known.point is not None
            and known.previous_point is not None
            and known.newest - known.point.time <= self._lifetime_ms
        )

    def node_swap(self, name: str) -> int | None:
        """Return a node's swap use in bytes, or None when it is not known."""
        known = self._live(name)
        point = None if known is None else known.point
        return None if point is None or point.swap is None else int(point.swap)

    def pod_reading(self, namespace: str, name: str) -> Reading | None:
        """Return the reading of a pod, or None when not every running container has two points yet."""
        entry = self._locate(namespace, name)
        return None if entry is None else self.reading_of(entry)

    def reading_of(self, pod: PodEntry) -> Reading | None:
        """Return the reading of a pod of the index."""
        known = self._live(pod.node_name)
        if known is None or pod.stopped:
            return None
        key = (pod.namespace, pod.name)
        number = known.layout.pods.get(key)
        if number is not None and _covers(known.layout.names[number], pod.running):
            reading = self._reading(known, number, pod.running)
            if reading is not None:
                return reading
        return self._from_retained(known, key, pod)

    def node_fragment(self, name: str, form: Form = JSON) -> bytes | None:
        """Return what is measured of a node, or None."""
        known = self._live(name)
        if known is None:
            return None
        fragment = known.node_fragments.get(form)
        if fragment is None:
            reading = self.node_reading(name)
            if reading is not None:
                fragment = known.node_fragments[form] = form.node(reading)
        elif known.point is None or known.newest - known.point.time > self._lifetime_ms:
            return None
        return fragment

    def pod_fragment(self, namespace: str, name: str) -> bytes | None:
        """Return what is measured of a pod, or None."""
        entry = self._locate(namespace, name)
        return None if entry is None else self.fragment_of(entry)

    def fragment_of(self, pod: PodEntry, form: Form = JSON, *, alone: bool = False) -> bytes | None:
        """Return the fragment of a pod of the index.

        All pods of its node are rendered with it, unless `alone` says that the others are hardly wanted: all cost as
        much as ten one by one.
        """
        known = self._live(pod.node_name)
        if known is None or pod.stopped:
            return None
        layout = known.layout
        key = (pod.namespace, pod.name)
        number = layout.pods.get(key)
        if number is not None and _covers(layout.names[number], pod.running):
            fragments = known.fragments.get(form)
            if fragments is None or (fragments[number] is _NOT_YET and not alone):
                fragments = [_NOT_YET] * len(layout.names) if alone else self._render(known, form)
                known.fragments[form] = fragments
            fragment = fragments[number]
            if fragment:
                return fragment
            reading = self._reading(known, number, pod.running)
            if reading is not None:
                fragment = form.pod(reading)
                if len(reading.containers) == len(layout.names[number]):
                    # Whatever else runs: nothing was left out.
                    fragments[number] = fragment
                return fragment
        retained = self._from_retained(known, key, pod)
        return None if retained is None else form.pod(retained)

    def counts(self) -> PointCounts:
        """Count what has a reading."""
        nodes = containers = 0
        deadline = self._clock() - self._lifetime
        for known in self._nodes.values():
            if known.received >= deadline:
                nodes += known.previous_point is not None
                containers += known.rates
        return PointCounts(nodes, containers)

    def _live(self, node: str) -> _Node | None:
        known = self._nodes.get(node)
        if known is None or self._clock() - known.received > self._lifetime:
            return None
        return known

    def _from_retained(self, known: _Node, key: PodKey, pod: PodEntry) -> Reading | None:
        item = known.retained.get(key)
        if item is None or item[0] < self._clock():
            return None
        reading = item[1]
        # A StatefulSet gives a new pod the name of the old one.
        if reading.timestamp_ns < pod.created * 1_000_000_000:
            return None
        return reading if _covers(tuple(usage.name for usage in reading.containers), pod.running) else None

    def _render(self, known: _Node, form: Form) -> list[bytes | None]:
        """Make the fragments of all pods of a node: full lists are made of this.

        Pods with a working set of 0 are left to `_reading`.
        """
        oldest = known.newest - self._lifetime_ms
        usages = [
            # As `_nanocores`, without a call for each.
            (int((int(cpu_now * 1e9) - int(cpu_before * 1e9)) / ((now - before) / 1000)), int(memory))
            if before > 0 and now >= oldest and memory
            else None
            for now, before, cpu_now, cpu_before, memory in zip(
                known.times, known.previous_times, known.cpu, known.previous_cpu, known.memory, strict=True
            )
        ]
        return form.pods(PodColumns(known.layout.names, known.layout.slots, usages, known.times, known.previous_times))

    def _reading(self, known: _Node, number: int, running: Sequence[str]) -> Reading | None:
        """Return the reading of a pod, or None when one of its containers has none.

        A container that does not run and has a working set of 0 (kubelets go on reporting some that have ended) is no
        part of it.
        """
        layout = known.layout
        usages: list[ContainerUsage] = []
        oldest = known.newest - self._lifetime_ms
        earliest = window_of_earliest = 0
        for name, slot in zip(layout.names[number], layout.slots[number], strict=True):
            if not known.memory[slot]:
                if name in running:
                    return None
                continue
            time_before, time_now = known.previous_times[slot], known.times[slot]
            if time_before <= 0 or time_now < oldest:
                return None
            window = time_now - time_before
            nanocores = _nanocores(known.previous_cpu[slot], known.cpu[slot], window)
            usages.append(ContainerUsage(name, nanocores, int(known.memory[slot])))
            if not earliest or time_now < earliest:
                earliest, window_of_earliest = time_now, window
        if not usages:
            return None
        return Reading(earliest * 1_000_000, window_of_earliest * 1_000_000, tuple(usages))


def _nanocores(before: float, now: float, window_ms: int) -> int:
    # Whole nanoseconds first, then the quotient, as upstream does: the same points give the same last digit.
    return int((int(now * 1e9) - int(before * 1e9)) / (window_ms / 1000))


def _covers(names: Sequence[str], running: Sequence[str]) -> bool:
    return names is running or names == running or set(running) <= set(names)


def _slot_finder(layout: Layout) -> Callable[[PodKey, str], int]:
    def find(key: PodKey, name: str) -> int:
        number = layout.pods.get(key)
        if number is None:
            return -1
        for known, slot in zip(layout.names[number], layout.slots[number], strict=True):
            if known == name:
                return slot
        return -1

    return find
