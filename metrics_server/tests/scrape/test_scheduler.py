# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is scraped when. Time is virtual: the real constants, and exact results."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.virtual_time import run_virtual

from metrics_server.scrape.scheduler import Outcome, Scheduler, phase_of

READY, WARMING, FAILED = Outcome.READY, Outcome.WARMING, Outcome.FAILED


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run


class Recorder:
    """Answers scrapes and notes when they came."""

    def __init__(self, outcome: Callable[[str, int], Outcome] | None = None) -> None:
        self.times: dict[str, list[float]] = {}
        self.running = self.most = 0
        self.outcome = outcome or (lambda _name, _number: READY)
        #: How long a scrape takes.
        self.seconds: Callable[[str], float] = lambda _name: 0.01

    async def __call__(self, name: str) -> Outcome:
        times = self.times.setdefault(name, [])
        times.append(now())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds(name))
            return self.outcome(name, len(times))
        finally:
            self.running -= 1


def now() -> float:
    return asyncio.get_running_loop().time()


def off_its_moment(name: str, time: float) -> float:
    """How far a time is from the node's own moment in the resolution."""
    offset = (time - phase_of(name) * 15) % 15
    return min(offset, 15 - offset)


@asynccontextmanager
async def scheduling(recorder: Recorder, *, resolution: float = 15.0, **options: Any) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(recorder, resolution=resolution, **options)
    task = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_phases_are_the_same_everywhere_and_even() -> None:
    # A fixed value: it must not depend on the process, as Python's own hash does.
    assert phase_of("node-1") == pytest.approx(0.559932192260607)
    tenths = Counter(int(phase_of(f"node-{number}") * 10) for number in range(2000))
    assert set(tenths) == set(range(10))
    assert max(tenths.values()) < 260


@virtual
async def test_each_node_keeps_its_own_moment() -> None:
    recorder = Recorder()
    async with scheduling(recorder) as scheduler:
        for number in range(50):
            scheduler.add(f"node-{number}")
        await asyncio.sleep(150)
    for name, (_first, *regular) in recorder.times.items():
        assert 9 <= len(regular) <= 10, name
        for time in regular:
            # A quarter of a second may be spent on waiting for neighbours.
            assert off_its_moment(name, time) < 0.27, name


@virtual
async def test_load_is_even() -> None:
    recorder = Recorder()
    async with scheduling(recorder) as scheduler:
        for number in range(1500):
            scheduler.add(f"node-{number}")
        await asyncio.sleep(60)
    seconds = Counter(int(time) for times in recorder.times.values() for time in times[1:])
    busiest = max(count for second, count in seconds.items())
    assert busiest < 1.5 * 1500 / 15
    # A wake-up finds 16 on average; a node's answer takes no longer than to the next one.
    assert recorder.most < 40


@virtual
async def test_neighbours_are_scraped_together() -> None:
    recorder = Recorder()
    async with scheduling(recorder) as scheduler:
        for number in range(1500):
            scheduler.add(f"node-{number}")
        await asyncio.sleep(30)
        recorder.times.clear()
        await asyncio.sleep(15)
    wake_ups = len({time for times in recorder.times.values() for time in times})
    # 1500 nodes in 15 s, each 0.16 s those that are due.
    assert 80 <= wake_ups <= 110


@virtual
async def test_a_new_node_is_scraped_promptly_and_soon_again() -> None:
    recorder = Recorder(lambda _name, number: WARMING if number < 3 else READY)
    async with scheduling(recorder, resolution=60.0) as scheduler:
        await asyncio.sleep(100)
        started = now()
        scheduler.add("n1")
        await asyncio.sleep(20)
        times = recorder.times["n1"]
        assert times[0] - started < 0.1
        assert [round(later - earlier) for earlier, later in zip(times, times[1:], strict=False)] == [5, 5]


@virtual
async def test_a_cold_start_of_5000_nodes_is_spread_and_done_within_a_resolution() -> None:
    recorder = Recorder(lambda _name, number: WARMING if number < 2 else READY)
    async with scheduling(recorder) as scheduler:
        started = now()
        for number in range(5000):
            scheduler.add(f"node-{number}")
        await asyncio.sleep(15)
        assert all(len(recorder.times.get(f"node-{number}", ())) >= 1 for number in range(5000))
        firsts = Counter(int(times[0] - started) for times in recorder.times.values())
        assert max(firsts.values()) <= 1000
        await asyncio.sleep(1)
        # Two points each: everything can be served after one resolution.
        assert all(len(times) >= 2 for times in recorder.times.values())


@virtual
async def test_concurrency_is_capped() -> None:
    recorder = Recorder()
    recorder.seconds = lambda _name: 5.0
    async with scheduling(recorder, concurrency=8) as scheduler:
        for number in range(30):
            scheduler.add(f"node-{number}")
        await asyncio.sleep(4)
        assert recorder.running == recorder.most == scheduler.running == 8
        await asyncio.sleep(20)
        assert len(recorder.times) == 30
        assert recorder.most == 8


@virtual
async def test_a_free_place_is_taken_at_once() -> None:
    recorder = Recorder()
    recorder.seconds = lambda _name: 1.0
    async with scheduling(recorder, concurrency=1, resolution=60.0) as scheduler:
        started = now()
        for name in ("a", "b", "c"):
            scheduler.add(name)
        await asyncio.sleep(4)
    begins = sorted(times[0] - started for times in recorder.times.values())
    assert [round(begin, 1) for begin in begins] == [0.0, 1.0, 2.0]


@virtual
async def test_failing_nodes_are_asked_less_and_less_often() -> None:
    recorder = Recorder(lambda _name, _number: FAILED)
    async with scheduling(recorder) as scheduler:
        scheduler.add("node-1")
        await asyncio.sleep(600)
        assert scheduler.failing() == 1
        times = recorder.times["node-1"]
        gaps = [round(later - earlier) for earlier, later in zip(times, times[1:], strict=False)]
        jitter = 0.8 + 0.2 * phase_of("node-1")
        assert gaps[:4] == [5, round(15 * jitter), round(30 * jitter), round(60 * jitter)]
        assert set(gaps[4:]) == {round(60 * jitter)}


@virtual
async def test_a_node_that_recovers_has_its_own_moment_again() -> None:
    recorder = Recorder(lambda _name, number: FAILED if number <= 5 else READY)
    async with scheduling(recorder) as scheduler:
        scheduler.add("node-1")
        await asyncio.sleep(600)
        assert scheduler.failing() == 0
    for time in recorder.times["node-1"][6:]:
        assert off_its_moment("node-1", time) < 0.02


@virtual
async def test_hanging_nodes_do_not_hold_up_healthy_ones() -> None:
    recorder = Recorder(lambda name, _number: FAILED if name.startswith("bad") else READY)
    recorder.seconds = lambda name: 10.0 if name.startswith("bad") else 0.01
    lags: list[float] = []
    async with scheduling(recorder, concurrency=64, on_lag=lags.append) as scheduler:
        for number in range(300):
            scheduler.add(f"bad-{number}")
            scheduler.add(f"good-{number}")
        await asyncio.sleep(300)
        good = {name: times for name, times in recorder.times.items() if name.startswith("good")}
        assert len(good) == 300
        for name, times in good.items():
            # Once the bad ones are known, each good one comes at its moment.
            late = [time for time in times if time > 1150 and off_its_moment(name, time) > 0.27]
            assert late == []
            assert 9 <= len([time for time in times if time > 1150]) <= 10
        # The bad ones use their quarter of the places, and each is still asked.
        assert all(len(times) >= 2 for name, times in recorder.times.items() if name.startswith("bad"))


@virtual
async def test_poke_ends_the_backoff() -> None:
    recorder = Recorder(lambda _name, number: FAILED if number < 6 else READY)
    async with scheduling(recorder) as scheduler:
        scheduler.add("n1")
        await asyncio.sleep(110)
        count = len(recorder.times["n1"])
        assert count == 5
        await asyncio.sleep(1)
        started = now()
        scheduler.poke("n1")
        await asyncio.sleep(0.1)
        assert recorder.times["n1"][count] - started < 0.05
        scheduler.poke("unknown")


@virtual
async def test_poke_during_a_scrape_brings_another() -> None:
    recorder = Recorder()
    recorder.seconds = lambda _name: 3.0
    async with scheduling(recorder, resolution=60.0) as scheduler:
        scheduler.add("n1")
        await asyncio.sleep(1)
        scheduler.poke("n1")
        await asyncio.sleep(3)
        assert len(recorder.times["n1"]) == 2
        assert recorder.most == 1


@virtual
async def test_a_removed_node_is_not_scraped_again() -> None:
    recorder = Recorder()
    async with scheduling(recorder) as scheduler:
        scheduler.add("n1")
        scheduler.add("n2")
        scheduler.remove("n2")
        await asyncio.sleep(60)
        scheduler.remove("n1")
        scheduler.remove("n1")
        count = len(recorder.times["n1"])
        await asyncio.sleep(60)
        assert len(recorder.times["n1"]) == count
        assert "n2" not in recorder.times
        scheduler.add("n1")
        scheduler.add("n1")
        await asyncio.sleep(1)
        assert len(recorder.times["n1"]) == count + 1


@virtual
async def test_a_node_removed_during_its_scrape_stays_away() -> None:
    recorder = Recorder()
    recorder.seconds = lambda _name: 3.0
    async with scheduling(recorder) as scheduler:
        scheduler.add("n1")
        await asyncio.sleep(1)
        scheduler.remove("n1")
        await asyncio.sleep(100)
        assert len(recorder.times["n1"]) == 1


@virtual
async def test_a_scrape_that_is_cancelled_before_it_begins_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder(lambda _name, _number: FAILED)
    async with scheduling(recorder, concurrency=8) as scheduler:
        begin = scheduler._begin

        def begin_and_remove(slot: Any) -> None:
            begin(slot)
            if slot.failures and slot.name != "other":
                scheduler.remove(slot.name)

        monkeypatch.setattr(scheduler, "_begin", begin_and_remove)
        for number in range(8):
            scheduler.add(f"n{number}")
            await asyncio.sleep(60)
        scheduler.add("other")
        await asyncio.sleep(3600)
        assert len(recorder.times["other"]) > 50


def test_an_internal_error_is_logged_and_costs_one_node(caplog: pytest.LogCaptureFixture) -> None:
    def outcome(name: str, _number: int) -> Outcome:
        if name == "n1":
            raise ZeroDivisionError
        return READY

    async def scenario() -> None:
        recorder = Recorder(outcome)
        async with scheduling(recorder) as scheduler:
            scheduler.add("n1")
            scheduler.add("n2")
            await asyncio.sleep(60)
            assert len(recorder.times["n2"]) >= 4
            assert len(recorder.times["n1"]) >= 2
            assert scheduler.failing() == 1

    with caplog.at_level(logging.ERROR):
        run_virtual(scenario())
    assert "internal error" in caplog.text


@virtual
async def test_lag_and_rounds_are_reported() -> None:
    lags: list[float] = []
    rounds: list[float] = []
    recorder = Recorder()
    recorder.seconds = lambda name: 4.0 if name == "slow" else 0.01
    async with scheduling(recorder, on_lag=lags.append, on_round=rounds.append) as scheduler:
        scheduler.add("n1")
        scheduler.add("slow")
        await asyncio.sleep(100)
    assert len(rounds) == 6
    assert [round(one, 1) for one in rounds] == [4.0] * 6
    assert all(0 <= lag < 0.02 for lag in lags)


@virtual
async def test_a_node_that_is_back_at_once_is_not_scraped_twice_at_a_time() -> None:
    running: Counter[str] = Counter()
    most = ended = 0

    async def scrape(name: str) -> Outcome:
        nonlocal most, ended
        running[name] += 1
        most = max(most, running[name])
        try:
            await asyncio.sleep(3)
        finally:
            running[name] -= 1
            ended += 1
        return READY

    scheduler = Scheduler(scrape, resolution=15.0)
    task = asyncio.create_task(scheduler.run())
    try:
        scheduler.add("n1")
        await asyncio.sleep(1)
        for _unused in range(5):
            assert running["n1"] == 1
            scheduler.remove("n1")
            scheduler.add("n1")
            await asyncio.sleep(1)
        assert (most, ended) == (1, 5)
        scheduler.remove("n1")
        await asyncio.sleep(0.1)
        assert (running["n1"], scheduler.running) == (0, 0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
