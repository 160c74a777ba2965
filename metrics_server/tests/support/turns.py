# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the event loop is held, in CPU time: other programs on the machine do not count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any


async def longest_turn(work: Coroutine[Any, Any, Any]) -> float:
    """Do the work, and return the most CPU seconds that lay between two turns of the event loop."""
    longest = 0.0
    before = time.thread_time()

    async def look() -> None:
        nonlocal before, longest
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest = max(longest, now - before)
            before = now

    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    try:
        await work
        await asyncio.sleep(0)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    return longest
