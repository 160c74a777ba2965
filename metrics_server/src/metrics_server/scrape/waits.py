# SPDX-License-Identifier: GPL-3.0-or-later
"""Waits of one length for many: one timer instead of one for each, of which nearly all would be cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol

log = logging.getLogger(__name__)


class Waiter(Protocol):
    """Who waits for something that may not come."""

    @property
    def turn(self) -> int:
        """Changes when the wait is over."""

    def waited(self) -> None:
        """Do what is to be done when it did not come in time."""


class Waits:
    """Calls `waited` of those whose turn is still the same after so many seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._queue: deque[tuple[float, int, Waiter]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, waiter: Waiter) -> None:
        """Let a wait begin."""
        due = self._loop.time() + self._seconds
        self._queue.append((due, waiter.turn, waiter))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)

    def close(self) -> None:
        """Forget all."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        queue = self._queue
        now = self._loop.time()
        late: list[tuple[int, Waiter]] = []
        while queue:
            due, turn, waiter = queue[0]
            if waiter.turn == turn:
                if due > now:
                    # All behind it are due later.
                    self._timer = self._loop.call_at(due, self._look)
                    break
                late.append((turn, waiter))
            queue.popleft()
        # Only now, as they may begin waits of their own.
        for turn, waiter in late:
            if waiter.turn == turn:
                try:
                    waiter.waited()
                except Exception:  # pylint: disable=broad-exception-caught
                    log.exception("what was to follow a wait failed; the others go on")
