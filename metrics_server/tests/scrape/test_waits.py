# SPDX-License-Identifier: GPL-3.0-or-later
"""One timer for many waits."""

from __future__ import annotations

import asyncio

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


async def test_nobody_is_told_after_the_end() -> None:
    waits = Waits(asyncio.get_running_loop(), 0.01)
    one = One()
    waits.add(one)
    waits.close()
    await asyncio.sleep(0.03)
    assert one.late == []
