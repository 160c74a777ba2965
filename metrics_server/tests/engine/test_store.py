# SPDX-License-Identifier: GPL-3.0-or-later
"""Rates, restarts, what survives and what does not."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.resource_text import Container, resource_text

from metrics_server.api.protobuf import MEASURED
from metrics_server.fragments import JSON
from metrics_server.kube.entries import PodEntry
from metrics_server.model import Form
from metrics_server.scrape.batch import Batch
from metrics_server.scrape.parse import parse_resource
from metrics_server.store import Store

T0 = 1_700_000_100_000
STEP = 15_000


class World:
    """A store, the cluster that it believes in, and a clock."""

    def __init__(self, lifetime: float = 60.0) -> None:
        self.now = 1000.0
        self.pods: dict[tuple[str, str], PodEntry] = {}
        self.store = Store(
            lambda namespace, name: self.pods.get((namespace, name)), lifetime=lifetime, clock=lambda: self.now
        )

    def pod(
        self,
        name: str,
        *running: str,
        node: str = "n1",
        created: int = 0,
        namespace: str = "default",
        stopped: bool = False,
    ) -> None:
        self.pods[namespace, name] = PodEntry(
            namespace=namespace,
            name=name,
            node_name=node,
            labels={},
            running=tuple(sorted(running)),
            created=created,
            stopped=stopped,
        )

    def scrape(
        self,
        *containers: Container,
        time: int = T0,
        cpu: float | None = 100.0,
        memory: int = 2**30,
        swap: int | None = None,
        node: str = "n1",
        wait: float = 0.0,
        answered: int = 0,
    ) -> bool:
        self.now += wait
        text = resource_text(containers, node_cpu=cpu, node_memory=memory, node_time=time, node_swap=swap)
        batch = parse_resource(text, self.store.layout(node), time)
        batch.answered = answered
        return self.store.commit(node, batch)

    def usage(self, name: str = "web") -> dict[str, tuple[int, int]] | None:
        reading = self.store.pod_reading("default", name)
        fragment = self.store.pod_fragment("default", name)
        assert (reading is None) == (fragment is None)
        return (
            None if reading is None else {one.name: (one.cpu_nanocores, one.memory_bytes) for one in reading.containers}
        )


def app(
    cpu: float, time: int = T0, memory: int = 4096, *, name: str = "app", pod: str = "web", start: float = 1.6e9
) -> Container:
    return Container("default", pod, name, cpu, memory, start, time)


def test_two_points_make_a_rate() -> None:
    world = World()
    world.pod("web", "app")
    assert world.scrape(app(10.0)) is False
    assert world.store.node_reading("n1") is None
    assert world.store.node_fragment("n1") is None
    assert world.usage() is None
    assert world.scrape(app(13.0, T0 + STEP, 8192), time=T0 + 15_029, cpu=107.5145, wait=15) is True
    assert world.usage() == {"app": (200_000_000, 8192)}
    reading = world.store.node_reading("n1")
    assert reading is not None
    assert (reading.timestamp_ns, reading.window_ns) == ((T0 + 15_029) * 10**6, 15_029 * 10**6)
    assert reading.containers[0].memory_bytes == 2**30
    assert abs(reading.containers[0].cpu_nanocores - 500_000_000) < 10
    fragment = json.loads(b"{%b}" % (world.store.node_fragment("n1") or b""))
    assert fragment["timestamp"] == "2023-11-14T22:15:15Z"
    assert fragment["window"] == "15.029s"
    assert fragment["usage"]["memory"] == "1Gi"
    assert json.loads(b"{%b}" % (world.store.pod_fragment("default", "web") or b"")) == {
        "timestamp": "2023-11-14T22:15:15Z",
        "window": "15s",
        "containers": [{"name": "app", "usage": {"cpu": "200m", "memory": "8Ki"}}],
    }


def test_the_sample_clock_counts_not_ours() -> None:
    world = World()
    world.pod("web", "app")
    world.scrape(app(10.0))
    world.scrape(app(11.0, T0 + 10_000), wait=3)
    assert world.usage() == {"app": (100_000_000, 4096)}


def test_an_unchanged_sample_is_no_new_point() -> None:
    world = World()
    world.pod("web", "app")
    world.scrape(app(10.0))
    assert world.scrape(app(10.0), wait=5) is False
    assert world.usage() is None
    world.scrape(app(13.0, T0 + STEP), time=T0 + STEP, wait=5)
    before = world.store.pod_reading("default", "web")
    world.scrape(app(13.0, T0 + STEP), time=T0 + STEP, wait=5)
    assert world.store.pod_reading("default", "web") == before


def test_each_container_has_its_own_clock() -> None:
    """Kubelets sample containers one by one: in one scrape some have a new point and some have not."""
    world = World()
    world.pod("web", "app", "side")
    world.scrape(app(10.0), app(1.0, name="side"))
    world.scrape(app(13.0, T0 + STEP), app(4.0, T0 + STEP + 400, name="side"), wait=15)
    assert world.usage() == {"app": (200_000_000, 4096), "side": (194_805_194, 4096)}
    world.scrape(app(13.0, T0 + STEP, 4096), app(4.1, T0 + 2 * STEP, name="side"), wait=15)
    usage = world.usage()
    assert usage is not None
    assert usage["app"] == (200_000_000, 4096)
    assert usage["side"][0] == pytest.approx(6_849_315, rel=1e-6)
    reading = world.store.pod_reading("default", "web")
    assert reading is not None
    # The pod's time is that of its oldest sample.
    assert reading.timestamp_ns == (T0 + STEP) * 10**6
    assert reading.window_ns == STEP * 10**6


def test_a_sample_out_of_order_is_ignored() -> None:
    world = World()
    world.pod("web", "app")
    world.scrape(app(10.0), time=T0)
    world.scrape(app(13.0, T0 + STEP), time=T0 + STEP, wait=15)
    before = world.usage()
    world.scrape(app(12.0, T0 + 10_000), time=T0 + 10_000, cpu=99.0, wait=5)
    assert world.usage() == before
    assert world.store.node_reading("n1") is not None


def test_a_clock_that_was_set_back_starts_anew() -> None:
    world = World()
    world.pod("web", "app")
    world.scrape(app(10.0), time=T0)
    world.scrape(app(13.0, T0 + STEP), time=T0 + STEP, wait=15)
    back = T0 - 3_600_000
    world.scrape(app(16.0, back), time=back, cpu=101.0, wait=15)
    assert world.usage() is None
    assert world.store.node_reading("n1") is None
    world.scrape(app(19.0, back + STEP), time=back + STEP, cpu=102.0, wait=15)
    assert world.usage() == {"app": (200_000_000, 4096)}
    assert world.store.node_reading("n1") is not None


# Restarts


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(app(0.5, T0 + STEP, start=T0 / 1000 + 13), id="started 2 s ago"),
        pytest.param(app(0.5, T0 + STEP), id="counter went back"),
        pytest.param(app(20.0, T0 + STEP, start=T0 / 1000 + 13), id="started again, counter higher"),
    ],
)
def test_a_restart_starts_anew(second: Container) -> None:
    world = World()
    world.pod("web", "app")
    world.pod("other", "app")
    world.scrape(app(10.0), app(1.0, pod="other"))
    world.scrape(second, app(2.5, T0 + STEP, pod="other"), wait=15)
    assert world.usage() is None
    assert world.usage("other") == {"app": (100_000_000, 4096)}
    third = replace(second, cpu=second.cpu + 1.5, time=T0 + 2 * STEP)
    world.scrape(third, app(4.0, T0 + 2 * STEP, pod="other"), wait=15)
    assert world.usage() == {"app": (100_000_000, 4096)}


def test_a_restart_is_seen_also_when_the_first_start_time_was_unknown() -> None:
    world = World()
    world.pod("web", "app")
    world.scrape(app(10.0, start=0.0))
    world.scrape(app(12.0, T0 + STEP, start=T0 / 1000 + 13), wait=15)
    assert world.usage() is None


def test_a_pod_of_the_same_name_does_not_inherit_readings() -> None:
    """A StatefulSet gives a new pod the name of the old one, often on the same node."""
    world = World()
    world.pod("web", "app", created=1)
    world.pod("other", "app")
    for step in range(2):
        time = T0 + step * STEP
        world.scrape(app(10.0 + step, time), app(1.0 + step, time, pod="other"), time=time, wait=15)
    assert world.usage() == {"app": (66_666_666, 4096)}
    world.store.drop_pod(world.pods["default", "web"])
    # Created by the API server's clock, which may be far from that of the node.
    world.pod("web", "app", created=2)
    assert world.usage() is None
    assert world.usage("other") == {"app": (66_666_666, 4096)}
    # The old one is still reported for a moment, and then missed.
    time = T0 + STEP
    world.scrape(app(11.0, time), app(2.0, time, pod="other"), time=time, wait=5)
    assert world.usage() is None
    world.scrape(app(3.0, T0 + 2 * STEP, pod="other"), time=T0 + 2 * STEP, wait=10)
    assert world.usage() is None
    started = (T0 + 3 * STEP) / 1000 - 5
    for step in (3, 4):
        time = T0 + step * STEP
        own = app(60.0 + 3 * step, time, start=started)
        world.scrape(own, app(1.0 + step, time, pod="other"), time=time, wait=15)
        assert world.usage() == ({"app": (200_000_000, 4096)} if step == 4 else None)


def test_a_name_is_kept_once() -> None:
    """Names of 150,000 pods are 12 MB."""
    world = World()
    world.scrape(app(1.0), app(1.0, pod="later"))
    world.pod("web", "app")
    world.pod("later", "app")
    assert len(list(world.store.share_names())) == 1
    for step in (1, 2):
        time = T0 + step * STEP
        more = [app(1.0, time, pod="new")] if step == 2 else []
        world.scrape(app(1.0 + step, time), app(1.0 + step, time, pod="later"), *more, time=time, wait=15)
        layout = world.store.layout("n1")
        assert layout is not None
        for (namespace, name), number in layout.pods.items():
            entry = world.pods.get((namespace, name))
            assert entry is None or entry.name is name
            assert layout.names[number] == ("app",)
        assert world.usage("later") == world.usage() == {"app": (66_666_666, 4096)}


def test_a_successor_within_one_scrape_is_measured_from_its_start() -> None:
    world = World()
    world.pod("web", "app")
    for step in range(2):
        world.scrape(app(10.0 + step, T0 + step * STEP), time=T0 + step * STEP, wait=15)
    world.store.drop_pod(world.pods["default", "web"])
    assert world.usage() is None
    world.scrape(app(1.2, T0 + 2 * STEP, start=T0 / 1000 + 18), time=T0 + 2 * STEP, wait=15)
    assert world.usage() == {"app": (100_000_000, 4096)}


def test_a_pod_of_which_nothing_runs_has_no_reading() -> None:
    world = World()
    world.pod("web", "app")
    for step in range(2):
        world.scrape(app(10.0 + step, T0 + step * STEP), time=T0 + step * STEP, wait=15)
    assert world.usage() == {"app": (66_666_666, 4096)}
    world.pod("web", stopped=True)
    assert world.usage() is None
    world.scrape(time=T0 + 2 * STEP, wait=15)
    assert world.usage() is None


def test_a_start_time_that_moves_by_a_hair_is_no_restart() -> None:
    world = World()
    world.pod("web", "app")
    world.scrape(app(10.0, start=1.6e9))
    world.scrape(app(13.0, T0 + STEP, start=1.6e9 + 0.01), wait=15)
    assert world.usage() == {"app": (200_000_000, 4096)}


@pytest.mark.parametrize(("age", "expected"), [(9.9, None), (10.0, 200_000_000), (59.0, 33_898_305), (60.0, None)])
def test_a_young_container_needs_one_point(age: float, expected: int | None) -> None:
    world = World()
    world.pod("web", "app")
    world.scrape(app(2.0, start=(T0 - age * 1000) / 1000))
    assert world.usage() == (None if expected is None else {"app": (expected, 4096)})


def test_a_node_that_rebooted_starts_anew() -> None:
    world = World()
    world.scrape(time=T0, cpu=5000.0)
    world.scrape(time=T0 + STEP, cpu=5010.0, wait=15)
    assert world.store.node_reading("n1") is not None
    world.scrape(time=T0 + 2 * STEP, cpu=3.0, wait=15)
    assert world.store.node_reading("n1") is None


def test_a_gap_longer_than_the_lifetime_makes_no_rate() -> None:
    world = World()
    world.pod("web", "app")
    world.scrape(app(10.0))
    world.scrape(app(70.0, T0 + 300_000), time=T0 + 300_000, wait=59)
    assert world.usage() is None
    assert world.store.node_reading("n1") is None


# Surviving and expiring


def running_world() -> World:
    world = World()
    world.pod("web", "app")
    world.pod("two", "app", "side")
    for step in range(2):
        time = T0 + step * STEP
        world.scrape(
            app(10.0 + 3 * step, time),
            app(1.0 + step, time, pod="two"),
            app(2.0 + step, time, pod="two", name="side"),
            time=time,
            cpu=100.0 + step,
            swap=8192,
            wait=15,
        )
    return world


def test_points_outlive_failed_scrapes_for_a_while() -> None:
    world = running_world()
    reading = world.store.pod_reading("default", "web")
    assert world.store.counts().nodes == 1
    assert world.store.counts().containers == 3
    assert world.store.node_swap("n1") == 8192
    world.now += 60
    assert world.store.pod_reading("default", "web") == reading
    assert world.store.node_fragment("n1") is not None
    world.now += 0.1
    assert world.usage() is None
    assert world.store.node_reading("n1") is None
    assert world.store.node_fragment("n1") is None
    assert world.store.node_swap("n1") is None
    assert world.store.counts() == type(world.store.counts())(0, 0)


def test_a_kubelet_stuck_on_one_sample_expires_too() -> None:
    world = running_world()
    for _ in range(7):
        world.scrape(
            app(13.0, T0 + STEP),
            app(2.0, T0 + STEP, pod="two"),
            app(3.0, T0 + STEP, pod="two", name="side"),
            time=T0 + STEP,
            cpu=101.0,
            wait=10,
        )
    assert world.usage() is None
    assert world.store.node_reading("n1") is None


def test_a_container_stuck_on_one_sample_expires_alone() -> None:
    world = running_world()
    for step in range(2, 7):
        time = T0 + step * STEP
        world.scrape(
            app(10.0 + 3 * step, time),
            app(1.0 + step, time, pod="two"),
            app(3.0, T0 + STEP, pod="two", name="side"),
            time=time,
            cpu=100.0 + step,
            wait=15,
        )
    assert world.usage("web") is not None
    assert world.usage("two") is None


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("form", [JSON, MEASURED])
def test_containers_that_stand_still_expire_also_where_they_were_rendered(form: Form, alone: bool) -> None:
    """Their node goes on, and their samples are the same in each answer."""
    world = running_world()
    pod = world.pods["default", "web"]
    assert world.store.fragment_of(pod, form, alone=alone) is not None
    for step in range(2, 8):
        time = T0 + step * STEP
        world.scrape(
            app(13.0, T0 + STEP),
            app(2.0, T0 + STEP, pod="two"),
            app(3.0, T0 + STEP, pod="two", name="side"),
            time=time,
            cpu=100.0 + step,
            wait=15,
        )
        reading = world.store.reading_of(pod)
        assert (reading is None) == (time - (T0 + STEP) > 60_000)
        expected = None if reading is None else form.pod(reading)
        assert world.store.fragment_of(pod, form, alone=alone) == expected
    assert world.usage() is None
    assert world.store.node_reading("n1") is not None


def test_after_an_outage_it_starts_anew() -> None:
    world = running_world()
    world.scrape(app(500.0, T0 + 200_000), time=T0 + 200_000, cpu=900.0, wait=200)
    assert world.usage() is None
    assert world.store.node_reading("n1") is None


def test_a_badly_reported_pod_keeps_its_last_reading() -> None:
    """A container that runs but is missing in one answer: the sum without it would be too low."""
    world = running_world()
    before = world.store.pod_reading("default", "two")
    assert before is not None
    for step in range(2, 5):
        time = T0 + step * STEP
        world.scrape(app(10.0 + 3 * step, time), app(1.0 + step, time, pod="two"), time=time, cpu=100.0 + step, wait=15)
        assert world.store.pod_reading("default", "two") == before
        assert (world.usage("web") or {})["app"][0] == 200_000_000
    for step in range(5, 8):
        time = T0 + step * STEP
        world.scrape(app(10.0 + 3 * step, time), app(1.0 + step, time, pod="two"), time=time, cpu=100.0 + step, wait=15)
    assert world.store.pod_reading("default", "two") is None
    assert world.usage("web") is not None


def test_a_container_that_is_missing_once_costs_nothing() -> None:
    """It needs two points again when it is back, and the last whole reading stands for that time as well."""
    world = running_world()
    before = world.store.pod_reading("default", "two")
    for step in range(2, 5):
        time = T0 + step * STEP
        side = [] if step == 2 else [app(2.0 + step, time, pod="two", name="side")]
        world.scrape(app(10.0 + 3 * step, time), app(1.0 + step, time, pod="two"), *side, time=time, wait=15)
        assert (world.store.pod_reading("default", "two") == before) is (step < 4)
        assert world.usage("two") is not None


def test_other_pods_that_come_leave_a_retained_reading_alone() -> None:
    world = running_world()
    before = world.store.pod_reading("default", "two")
    for step in range(2, 8):
        time = T0 + step * STEP
        world.pod(f"new-{step}", "app")
        new = app(1.0, time, pod=f"new-{step}")
        world.scrape(app(10.0 + 3 * step, time), app(1.0 + step, time, pod="two"), new, time=time, wait=15)
        assert world.store.pod_reading("default", "two") == (before if step < 5 else None)


def test_a_container_that_ended_no_longer_counts() -> None:
    world = running_world()
    world.pod("two", "app")
    for step in (2, 3):
        time = T0 + step * STEP
        world.scrape(app(10.0 + 3 * step, time), app(1.0 + step, time, pod="two"), time=time, cpu=100.0 + step, wait=15)
    assert world.usage("two") == {"app": (66_666_666, 4096)}


def test_a_container_that_runs_but_was_never_reported_hides_its_pod() -> None:
    world = running_world()
    world.pod("web", "app", "late")
    assert world.usage("web") is None


def test_an_extra_container_is_shown() -> None:
    """A debug container is not among those that must be there, but it uses resources."""
    world = running_world()
    world.pod("two", "app")
    assert sorted(world.usage("two") or {}) == ["app", "side"]


def test_a_new_pod_with_an_old_name_does_not_inherit() -> None:
    world = running_world()
    world.pod("web", "app", created=(T0 + 2 * STEP) // 1000)
    time = T0 + 2 * STEP
    world.scrape(app(3.0, time, pod="two"), app(4.0, time, pod="two", name="side"), time=time, cpu=102.0, wait=15)
    assert world.usage("web") is None


def test_a_deleted_pod_is_gone_at_once() -> None:
    world = running_world()
    del world.pods["default", "web"]
    assert world.usage("web") is None


def test_a_dropped_node_is_gone_at_once() -> None:
    world = running_world()
    world.store.drop_node("n1")
    assert world.usage("web") is None
    assert world.store.node_reading("n1") is None
    assert world.store.counts().containers == 0
    assert world.store.layout("n1") is None


def test_a_kubelet_is_believed_only_about_its_own_pods() -> None:
    world = running_world()
    world.pod("victim", "app", node="n2")
    for step in range(2):
        time = T0 + step * STEP
        world.scrape(app(1.0 + step * 1000, time, pod="victim"), time=time, node="evil", wait=15)
    assert world.usage("victim") is None
    for step in range(2):
        time = T0 + step * STEP
        world.scrape(app(1.0 + 3 * step, time, pod="victim"), time=time, node="n2", wait=15)
    assert world.usage("victim") == {"app": (200_000_000, 4096)}


def test_container_names_are_escaped() -> None:
    world = World()
    world.pod("web")
    for step in range(2):
        world.scrape(app(1.0 + step, T0 + step * STEP, name="a-b"), time=T0 + step * STEP, wait=15)
    layout = world.store.layout("n1")
    assert layout is not None
    strange = 'a"b\\c\n'
    batch = Batch(
        replace(layout, names=[(strange,)], pods=dict(layout.pods), shapes=None),
        None,
        array("q", [T0 + STEP]),
        array("d", [15.0]),
        array("d", [1.0]),
        array("d", [T0 / 1000]),
        T0 + STEP,
        T0 + STEP,
    )
    world.store.commit("n1", batch)
    fragment = world.store.pod_fragment("default", "web")
    assert fragment is not None
    assert json.loads(b"{%b}" % fragment)["containers"][0]["name"] == strange


def test_a_container_that_is_ahead_of_its_node_hides_no_other() -> None:
    world = World()
    world.pod("web", "app")
    world.pod("odd", "x")
    for step in range(6):
        time = T0 + step * STEP
        ahead = 120_000 if step >= 3 else 0
        world.scrape(
            app(10.0 + step, time),
            app(5.0 + step, time + ahead, name="x", pod="odd"),
            time=time,
            cpu=100.0 + step,
            wait=STEP / 1000,
            answered=time + 1000,
        )
        if step:
            assert world.usage() is not None
            assert world.store.node_reading("n1") is not None
            assert world.store.has_reading("n1")
    assert world.usage("odd") is not None


_SAMPLES = st.lists(
    st.tuples(st.integers(1, 90_000), st.floats(0, 5), st.integers(0, 2**40), st.booleans()), min_size=1, max_size=8
)


@given(st.lists(_SAMPLES, min_size=1, max_size=4))
def test_fragments_say_what_readings_say(pods: list[list[tuple[int, float, int, bool]]]) -> None:
    """Whatever points came in whatever order: both views agree, nothing is negative, nothing raises."""
    world = World()
    state = [[T0, 10.0] for _ in pods]
    for number in range(len(pods)):
        world.pod(f"p{number}", "app")
    for step in range(max(map(len, pods))):
        containers = []
        for number, samples in enumerate(pods):
            if step < len(samples):
                advance, used, memory, reset = samples[step]
                state[number] = [state[number][0] + advance, 0.0 if reset else state[number][1] + used]
                containers.append(app(float(state[number][1]), int(state[number][0]), memory, pod=f"p{number}"))
        world.scrape(*containers, time=T0 + step * STEP, cpu=100.0 + step, wait=15)
        for number in range(len(pods)):
            reading = world.store.pod_reading("default", f"p{number}")
            fragment = world.store.pod_fragment("default", f"p{number}")
            assert (reading is None) == (fragment is None)
            if reading is not None and fragment is not None:
                assert reading.window_ns > 0
                assert all(one.cpu_nanocores >= 0 for one in reading.containers)
                assert fragment == JSON.pod(reading)
                pod = world.pods["default", f"p{number}"]
                assert world.store.fragment_of(pod, MEASURED) == MEASURED.pod(reading)
