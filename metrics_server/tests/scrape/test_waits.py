# SPDX-License-Identifier: GPL-3.0-or-later
"""One timer for many waits."""

from __future__ import annotations

import asyncio

import pytest

from metrics_server.scrape.waits import Waits


class One:
    def __init__(self) -> None:
        self.turn = 0
        self.late: list[int] = []

    def waited(self) -> None:
        self.late.append(self.turn)


async def test_only_those_whose_turn_is_not_over_are_told() -> None:
    waits = Waits(asyncio.get_running_loop(), 0.02)
    quick, slow, both = One(), One(), One()
    for one in (quick, slow, both):
        waits.add(one)
    quick.turn += 1
    both.turn += 1
    waits.add(both)
    await asyncio.sleep(0.05)
    assert (quick.late, slow.late, both.late) == ([], [0], [1])


async def test_a_later_wait_is_not_told_early() -> None:
    waits = Waits(asyncio.get_running_loop(), 0.05)
    first, second = One(), One()
    waits.add(first)
    await asyncio.sleep(0.03)
    waits.add(second)
    await asyncio.sleep(0.03)
    assert (first.late, second.late) == ([0], [])
    await asyncio.sleep(0.04)
    assert second.late == [0]
    # Nothing is left that could hold the timer.
    waits.add(first)
    await asyncio.sleep(0.07)
    assert first.late == [0, 0]


async def test_one_that_waits_again_when_it_is_told_has_one_timer() -> None:
    waits = Waits(asyncio.get_running_loop(), 0.02)

    class Again(One):
        def waited(self) -> None:
            super().waited()
            if len(self.late) < 5:
                waits.add(self)

    one, two = Again(), Again()
    waits.add(one)
    waits.add(two)
    looks = 0
    look = waits._look

    def counted() -> None:
        nonlocal looks
        looks += 1
        look()

    waits._look = counted  # type: ignore[method-assign]
    await asyncio.sleep(0.2)
    assert (len(one.late), len(two.late)) == (5, 5)
    assert looks <= 8


async def test_nobody_is_told_after_the_end() -> None:
    waits = Waits(asyncio.get_running_loop(), 0.01)
    one = One()
    waits.add(one)
    waits.close()
    await asyncio.sleep(0.03)
    assert one.late == []


async def test_one_that_fails_when_it_is_told_keeps_nobody_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(One):
        def waited(self) -> None:
            raise ZeroDivisionError("by nothing")

    waits = Waits(asyncio.get_running_loop(), 0.01)
    other = One()
    waits.add(Broken())
    waits.add(other)
    await asyncio.sleep(0.05)
    assert other.late == [0]
    assert "ZeroDivisionError: by nothing" in caplog.text
