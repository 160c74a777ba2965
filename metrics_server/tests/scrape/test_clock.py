# SPDX-License-Identifier: GPL-3.0-or-later
"""Clocks of nodes that are set: no rate reaches from before to after that moment."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.resource_text import Container, resource_text

from metrics_server.kube.entries import PodEntry
from metrics_server.scrape.clock import NodeClocks, http_date
from metrics_server.scrape.parse import parse_resource
from metrics_server.store import Store

CORE = 1_000_000_000


class Node:
    """A kubelet that samples now and then, with times by a clock that can be set; every process uses one core."""

    def __init__(self, every: float = 10.0) -> None:
        self.now = 50_000.0
        self.ahead = 1_700_000_000.0
        self.every = every
        self.started = {"app": self.now - 1000}
        #: By container: the start by the clock of that moment.
        self.starts = {"app": self.wall() - 1000}
        self.sampled = float("-inf")
        self.page = b""
        self.clocks = NodeClocks()
        self.store = Store(self.locate, lifetime=60.0, clock=lambda: self.now)

    def locate(self, _namespace: str, name: str) -> PodEntry | None:
        return PodEntry("default", name, "n1", {}, running=("app",), created=0) if name in self.started else None

    def wall(self) -> float:
        return self.now + self.ahead

    def start(self, pod: str) -> None:
        self.started[pod] = self.now
        self.starts[pod] = self.wall()

    def sample(self) -> None:
        self.sampled = self.now
        self.page = resource_text(
            [
                Container("default", pod, "app", self.now - started, 4096, self.starts[pod], int(self.wall() * 1000))
                for pod, started in self.started.items()
            ],
            node_cpu=self.now,
            node_time=int(self.wall() * 1000),
        )

    def scrape(self) -> None:
        date = formatdate(int(self.wall()), usegmt=True).encode()
        batch = parse_resource(self.page, self.store.layout("n1"), 0)
        batch.stepped = self.clocks.was_set("n1", self.now - 0.005, self.now + 0.005, date)
        self.store.commit("n1", batch)

    def rates(self) -> dict[str, int]:
        """All CPU usages that are served."""
        found = {
            pod: reading.containers[0].cpu_nanocores
            for pod in self.started
            if (reading := self.store.pod_reading("default", pod)) is not None
        }
        node = self.store.node_reading("n1")
        return found | ({} if node is None else {"node": node.containers[0].cpu_nanocores})

    def run(self, seconds: float, resolution: float = 15.0, step: float = 0.5) -> list[dict[str, int]]:
        """Let time pass, with samples and scrapes; return what was served after each scrape."""
        served = []
        for _unused in range(int(seconds / step)):
            self.now += step
            if self.now - self.sampled >= self.every:
                self.sample()
            if self.now % resolution < step:
                self.scrape()
                served.append(self.rates())
        return served


def test_http_date() -> None:
    assert http_date(b"Sun, 06 Nov 1994 08:49:37 GMT") == 784_111_777
    for other in (b"", b"yesterday", b"Sun, 06 Nov 1994 08:49:37 CET", b"Sunday, 06-Nov-94 08:49:37 GMT"):
        assert http_date(other) is None


@pytest.mark.parametrize("change", [-3600.0, -29.9, -14.0, -2.5, 2.5, 40.0, 3600.0])
@pytest.mark.parametrize("offset", [0.5, 4.0, 7.5, 11.0, 14.5])
def test_a_clock_that_is_set_makes_no_wrong_rate(change: float, offset: float) -> None:
    node = Node()
    assert node.run(60)[-1] == {"app": CORE, "node": CORE}
    node.run(offset)
    # A container that is young when it happens: its start is by the old clock.
    node.start("young")
    node.run(8)
    node.ahead += change
    after = node.run(120)
    for served in after:
        for name, rate in served.items():
            assert rate == pytest.approx(CORE, rel=0.01), name
    assert after[-1] == {"app": CORE, "young": CORE, "node": CORE}
    # Three rounds without a rate, at most.
    assert all("app" in served and "node" in served for served in after[3:])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-50, 50).filter(lambda change: abs(change) > 2.2),
    st.integers(0, 40),
    st.floats(3, 25),
    st.sampled_from([10.0, 15.0, 60.0]),
)
def test_no_change_of_a_clock_makes_a_wrong_rate(change: float, offset: int, every: float, resolution: float) -> None:
    node = Node(every)
    node.run(100 + offset / 2, resolution)
    node.ahead += change
    for served in node.run(300, resolution):
        for name, rate in served.items():
            assert rate == pytest.approx(CORE, rel=0.01), name


def test_a_clock_that_drifts_is_not_taken_for_one_that_was_set() -> None:
    clocks = NodeClocks()
    for second in range(0, 100_000, 15):
        wall = 1_700_000_000 + second * 1.0005
        date = formatdate(int(wall), usegmt=True).encode()
        assert not clocks.was_set("n1", second - 0.2, second + 0.3, date)


@pytest.mark.parametrize("slew", [0.08, -0.08])
def test_a_clock_that_is_slowly_brought_into_line_costs_its_rates_once(slew: float) -> None:
    """As chrony does after a machine was suspended, for many minutes."""
    node = Node()
    node.run(60)
    gaps = 0
    for _unused in range(120):
        served = node.run(5)
        node.ahead += 5 * slew
        for rates in served:
            gaps += "app" not in rates
            for rate in rates.values():
                assert rate == pytest.approx(CORE, rel=0.11)
    assert 1 <= gaps <= 3


def test_a_date_that_stands_still_is_no_clock() -> None:
    clocks = NodeClocks()
    date = formatdate(1_700_000_000, usegmt=True).encode()
    found = [clocks.was_set("n1", second, second + 0.1, date) for second in range(0, 300, 15)]
    assert found == [False, True, True, True, True] + [False] * 15


def test_answers_without_a_date_tell_nothing() -> None:
    clocks = NodeClocks()
    date = formatdate(1_700_000_000, usegmt=True).encode()
    assert not clocks.was_set("n1", 0, 0.1, date)
    assert not clocks.was_set("n1", 15, 15.1, b"")
    assert not clocks.was_set("n1", 30, 30.1, b"soon")
    assert clocks.was_set("n1", 45, 45.1, date)
    clocks.forget("n1")
    assert not clocks.was_set("n1", 60, 60.1, formatdate(0, usegmt=True).encode())


def test_samples_that_are_too_near_each_other_make_no_rate() -> None:
    node = Node(every=0.0)
    node.run(10)
    before = node.run(15)[-1]
    assert before == {"app": CORE, "node": CORE}
    reading = node.store.pod_reading("default", "app")
    node.run(1, resolution=0.5)
    assert node.store.pod_reading("default", "app") == reading
    node.run(2, resolution=0.5)
    again = node.store.pod_reading("default", "app")
    assert again is not None
    assert reading is not None
    assert again.window_ns >= 2 * 10**9
    assert again.timestamp_ns > reading.timestamp_ns
