# SPDX-License-Identifier: GPL-3.0-or-later
"""Zeros that are no usage: runtimes without a working set, kubelets that are read just after a process has ended."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.resource_text import Container, resource_text

from metrics_server.fragments import JSON
from metrics_server.kube.entries import PodEntry
from metrics_server.scrape.batch import Batch, Layout
from metrics_server.scrape.parse import parse_resource
from metrics_server.scrape.summary import parse_summary
from metrics_server.store import Store

CORPUS = Path(__file__).parents[1] / "corpus"
ZERO_PAGE = (CORPUS / "working_set_zero.txt").read_bytes()
ZERO_TIME = 1_766_000_001_000
PAGES: list[dict[str, Any]] = json.loads((CORPUS / "stopped_and_restarted.json").read_text())
T0 = 1_700_000_100_000
STEP = 15_000


class World:
    """A store of one node and the pods that the API server has there."""

    def __init__(self, **pods: tuple[str, ...]) -> None:
        self.now = 1000.0
        self.running = pods
        self.store = Store(self.locate, lifetime=60.0, clock=lambda: self.now)

    def locate(self, namespace: str, name: str) -> PodEntry | None:
        running = self.running.get(name.replace("-", "_"))
        if running is None:
            return None
        return PodEntry(
            namespace=namespace,
            name=name,
            labels={},
            node_name="n1",
            running=tuple(sorted(running)),
            created=0,
        )

    def scrape(self, *containers: Container, time: int, wait: float = 15.0) -> Batch:
        self.now += wait
        cpu = 100.0 + (time - T0) / 1000
        batch = parse_resource(resource_text(containers, node_time=time, node_cpu=cpu), self.store.layout("n1"), time)
        self.store.commit("n1", batch)
        return batch

    def usage(self, name: str, namespace: str = "default") -> dict[str, tuple[int, int]] | None:
        reading = self.store.pod_reading(namespace, name)
        fragment = self.store.pod_fragment(namespace, name)
        assert fragment == (None if reading is None else JSON.pod(reading))
        return (
            None if reading is None else {one.name: (one.cpu_nanocores, one.memory_bytes) for one in reading.containers}
        )


def later(page: bytes, milliseconds: int) -> bytes:
    """The page a while later: every counter a second higher for every two, every gauge as it was."""

    def move(match: re.Match[bytes]) -> bytes:
        value, stamp = float(match[2]), int(match[3])
        if b"cpu" in match[1]:
            value += milliseconds / 2000
        return b"%b %b %d" % (match[1], repr(value).encode(), stamp + milliseconds)

    return re.sub(rb"(?m)^(\S+) (\S+) (\d{13})$", move, page)


def from_summary(page: dict[str, Any], layout: Layout | None) -> Batch:
    return parse_summary(json.dumps(page["summary"]).encode(), layout, page["now"])


def from_resource(page: dict[str, Any], layout: Layout | None) -> Batch:
    """The same numbers as `/metrics/resource` has them."""
    node, pod = page["summary"]["node"], page["summary"]["pods"][0]
    (container,) = pod["containers"]
    text = resource_text(
        [
            Container(
                pod["podRef"]["namespace"],
                pod["podRef"]["name"],
                container["name"],
                container["cpu"]["usageCoreNanoSeconds"] / 1e9,
                container["memory"]["workingSetBytes"],
                seconds(container["startTime"]),
                int(seconds(container["cpu"]["time"]) * 1000),
            )
        ],
        node_cpu=node["cpu"]["usageCoreNanoSeconds"] / 1e9,
        node_time=int(seconds(node["cpu"]["time"]) * 1000),
    )
    return parse_resource(text, layout, page["now"])


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_running_containers_without_a_working_set_are_not_served_as_zero_bytes() -> None:
    world = World(coredns_1=("coredns",), web_1=("web",))
    for step in range(4):
        world.now += 15
        page = later(ZERO_PAGE, step * STEP)
        batch = parse_resource(page, world.store.layout("n1"), ZERO_TIME + step * STEP)
        assert batch.zeros == 2
        world.store.commit("n1", batch)
        assert world.usage("web-1") is None
        assert world.usage("coredns-1", "kube-system") is None
    # The node itself is measured: half a core.
    node = world.store.node_reading("n1")
    assert node is not None
    assert (node.containers[0].cpu_nanocores, node.containers[0].memory_bytes) == (500_000_000, 1_600_000_000)


@pytest.mark.parametrize("read", [from_summary, from_resource])
def test_a_process_that_has_just_ended_is_not_idle(read: Any) -> None:
    world = World(rc_1=("resource-consumer",))
    found = {}
    clock = PAGES[0]["now"]
    for page in PAGES:
        world.now += (page["now"] - clock) / 1000
        clock = page["now"]
        batch = read(page, world.store.layout("n1"))
        assert batch.bad == {}
        world.store.commit("n1", batch)
        found[page["what"]] = world.usage("rc-1")
    core = (1_000_000_000, 6291456)
    assert found["second"] == {"resource-consumer": core}
    # The last whole reading, with its own time, until there is another.
    assert found["just stopped"] == {"resource-consumer": core}
    # Its first point, five seconds old: what was before the restart says nothing of it.
    assert found["restarted"] is None
    assert found["later"] == {"resource-consumer": core}


@pytest.mark.parametrize("read", [from_summary, from_resource])
def test_the_reading_that_stays_keeps_its_time(read: Any) -> None:
    world = World(rc_1=("resource-consumer",))
    for page in PAGES[:3]:
        world.store.commit("n1", read(page, world.store.layout("n1")))
    reading = world.store.pod_reading("default", "rc-1")
    assert reading is not None
    assert reading.timestamp_ns == 1_767_225_625_000 * 10**6


def web(cpu: float, time: int, memory: int, name: str = "app", start: float = 1.6e9) -> Container:
    return Container("default", "web", name, cpu, memory, start, time)


def test_the_last_reading_does_not_stay_for_ever() -> None:
    world = World(web=("app",))
    for step in range(2):
        world.scrape(web(10.0 + step, T0 + step * STEP, 4096), time=T0 + step * STEP)
    for step in range(2, 9):
        world.scrape(web(10.0 + step, T0 + step * STEP, 0), time=T0 + step * STEP)
        assert (world.usage("web") is None) == (step > 4)


def test_memory_that_comes_back_needs_no_second_point() -> None:
    """Idle containers' working set may go to 0 and back: the rate of CPU has no gap for it."""
    world = World(web=("app",))
    for step, memory in enumerate([4096, 4096, 0, 8192]):
        world.scrape(web(10.0 + 3 * step, T0 + step * STEP, memory), time=T0 + step * STEP)
    assert world.usage("web") == {"app": (200_000_000, 8192)}


def test_zero_memory_within_one_sample_time_counts_too() -> None:
    world = World(web=("app",))
    for step in range(2):
        world.scrape(web(10.0 + 3 * step, T0 + step * STEP, 4096), time=T0 + step * STEP)
    world.scrape(web(13.0, T0 + STEP, 0), time=T0 + STEP)
    assert world.usage("web") == {"app": (200_000_000, 4096)}


def test_one_running_container_without_memory_takes_its_pod_along_but_no_other() -> None:
    world = World(web=("app", "side"), db=("app",))
    for step in range(7):
        time = T0 + step * STEP
        other = Container("default", "db", "app", 5.0 + step, 4096, 1.6e9, time)
        world.scrape(web(10.0 + step, time, 4096), web(1.0 + step, time, 0 if step else 512, "side"), other, time=time)
        assert world.usage("web") is None
        assert (world.usage("db") is None) == (step == 0)


def test_a_container_that_ended_and_is_still_reported_costs_its_pod_nothing() -> None:
    """Some runtimes go on reporting init containers that have ended, with zeros."""
    world = World(web=("app",))
    for step in range(3):
        time = T0 + step * STEP
        world.scrape(web(10.0 + 3 * step, time, 4096), web(0.0, time, 0, "init"), time=time)
    assert world.usage("web") == {"app": (200_000_000, 4096)}


def test_no_cpu_is_a_value_where_there_is_memory() -> None:
    world = World(web=("app",))
    for step in range(2):
        world.scrape(web(0.02, T0 + step * STEP, 4096), time=T0 + step * STEP)
    assert world.usage("web") == {"app": (0, 4096)}


def test_a_counter_of_zero_is_no_sample() -> None:
    """Whatever ran once has used some CPU: 0 says that the runtime does not know."""
    world = World(web=("app", "side"))
    counters = [10.0, 13.0, 0.0, 0.0, 22.0, 25.0]
    usages = []
    for step, counter in enumerate(counters):
        time = T0 + step * STEP
        batch = world.scrape(web(counter, time, 4096), web(1.0 + step, time, 512, "side"), time=time)
        assert batch.zero_cpu == batch.zeros == (counter == 0)
        usages.append(world.usage("web"))
    whole = {"app": (200_000_000, 4096), "side": (66_666_666, 512)}
    assert usages[0] is None
    # The last whole reading stays, and the counter goes on where it was: not 22 seconds within one step.
    assert usages[1:4] == [whole] * 3
    assert usages[4] == usages[5] == whole


def test_a_counter_that_begins_with_zero_makes_no_rate_from_there() -> None:
    world = World(web=("app",))
    for step, counter in enumerate([0.0, 0.0, 5000.0, 5003.0]):
        time = T0 + step * STEP
        world.scrape(web(counter, time, 4096), time=time)
        assert world.usage("web") == ({"app": (200_000_000, 4096)} if step == 3 else None)


def test_a_counter_of_zero_does_not_stay_for_ever() -> None:
    world = World(web=("app",))
    for step in range(10):
        time = T0 + step * STEP
        world.scrape(web(10.0 + step if step < 2 else 0.0, time, 4096), time=time)
        assert (world.usage("web") is None) == (step < 1 or step > 4)


def test_a_counter_that_fell_did_not_begin_at_the_old_start() -> None:
    """Young enough for its start to be the earlier point, but the counter is another one, of which nothing is known."""
    world = World(web=("app",))
    start = T0 / 1000
    world.scrape(web(2.0, T0 + 15_000, 4096, start=start), time=T0 + 15_000)
    assert world.usage("web") is not None
    world.scrape(web(0.1, T0 + 30_000, 4096, start=start), time=T0 + 30_000)
    assert world.usage("web") is None
    world.scrape(web(3.1, T0 + 45_000, 4096, start=start), time=T0 + 45_000)
    assert world.usage("web") == {"app": (200_000_000, 4096)}


@pytest.mark.parametrize("careful", [True, False])
def test_both_ways_of_the_parser_count_zeros(careful: bool) -> None:
    first = parse_resource(resource_text([web(1.0, T0, 4096), web(1.0, T0, 4096, "side")]), None, T0)
    body = resource_text([web(2.0, T0 + STEP, 4096), web(2.0, T0 + STEP, 0, "side")])
    batch = parse_resource(body, None if careful else first.layout, T0)
    assert (batch.layout is first.layout) is not careful
    assert (batch.zeros, batch.zero_cpu) == (1, 0)
    body = resource_text([web(2.0, T0 + STEP, 4096), web(0.0, T0 + STEP, 4096, "side")])
    batch = parse_resource(body, None if careful else first.layout, T0)
    assert (batch.zeros, batch.zero_cpu) == (1, 1)


def test_a_node_without_memory_is_not_served() -> None:
    with_memory = resource_text([web(1.0, T0, 4096)])
    layout = parse_resource(with_memory, None, T0).layout
    for known in (None, layout):
        assert parse_resource(resource_text([web(1.0, T0, 4096)], node_cpu=0.0), known, T0).node is None
        assert parse_resource(resource_text([web(1.0, T0, 4096)], node_memory=0), known, T0).node is None
    usage = {
        "cpu": {"time": "2026-01-01T00:00:10Z", "usageCoreNanoSeconds": 1},
        "memory": {"time": "2026-01-01T00:00:10Z", "workingSetBytes": 0},
    }
    pods = [{"podRef": {"name": "a", "namespace": "b"}, "containers": [{"name": "c", **usage}]}]
    assert parse_summary(json.dumps({"node": usage, "pods": pods}).encode(), None, T0).node is None


_STEPS = st.lists(
    st.tuples(st.floats(0, 5), st.sampled_from([0, 0, 4096, 1 << 30]), st.sampled_from(["on", "on", "reset", "gone"])),
    min_size=1,
    max_size=10,
)


@given(_STEPS, _STEPS)
def test_nothing_that_runs_is_ever_served_with_zero_bytes(one: list[Any], two: list[Any]) -> None:
    world = World(web=("app", "side"))
    counters, starts = {"app": 5.0, "side": 5.0}, {"app": 1.6e9, "side": 1.6e9}
    for step in range(max(len(one), len(two))):
        time = T0 + step * STEP
        containers = []
        for name, steps in (("app", one), ("side", two)):
            used, memory, event = steps[min(step, len(steps) - 1)]
            if event == "reset":
                counters[name], starts[name] = 0.0, time / 1000 - 2
            counters[name] += used
            if event != "gone":
                containers.append(web(counters[name], time, memory, name, starts[name]))
        world.scrape(*containers, time=time)
        usage = world.usage("web")
        if usage is not None:
            assert set(usage) == {"app", "side"}
            assert all(cpu >= 0 and memory > 0 for cpu, memory in usage.values())
