# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work in short turns: whoever has many objects to go through watches the clock, not their number."""

from __future__ import annotations

import asyncio
import time

#: How long one turn may hold the event loop, in seconds: a request of a moment ago waits for no more than that.
TURN = 0.002


class Pace:
    """One piece of work. `over` after each step, and when it is, `await rest()`."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = time.perf_counter() + TURN

    def over(self) -> bool:
        """Whether this turn has taken its time."""
        return time.perf_counter() >= self._ends

    async def rest(self) -> None:
        """Let others have their turn."""
        await asyncio.sleep(0)
        self._ends = time.perf_counter() + TURN
