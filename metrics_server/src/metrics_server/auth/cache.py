# SPDX-License-Identifier: GPL-3.0-or-later
"""A cache of answers from the API server: bounded in number and time, one question at a time for each key."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from metrics_server.auth.identity import Undecided

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

#: While the API server cannot be asked, an answer that it gave may be used for this much longer than its time to live.
STALE_SECONDS = 60.0


class AnswerCache(Generic[Key, Value]):
    """Answers with a time to live.

    An expired answer, if it was a yes (a true value), is used again only when the API server cannot be reached, and
    then for `STALE_SECONDS` at most: its restart must not turn into refusals for callers that it knew a moment ago.
    """

    def __init__(self, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._entries: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._asking: dict[Key, asyncio.Task[tuple[Value, float]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: Key, ask: Callable[[], Awaitable[tuple[Value, float]]]) -> Value:
        """Return the answer for a key; `ask` gives a new one with its time to live, or raises `Undecided`."""
        entry = self._entries.get(key)
        if entry is not None and self._clock() < entry[0]:
            self._entries.move_to_end(key)
            return entry[1]
        task = self._asking.get(key)
        if task is None:
            task = asyncio.ensure_future(_run(ask))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        try:
            # A client that goes away must not take the answer from the others who wait for it.
            value, _unused = await asyncio.shield(task)
        except Undecided as error:
            # A refusal is not repeated from memory: it may have been lifted meanwhile.
            if entry and entry[1] and not error.misconfigured and self._clock() < entry[0] + STALE_SECONDS:
                return entry[1]
            raise
        return value

    def _asked(self, key: Key, task: asyncio.Task[tuple[Value, float]]) -> None:
        self._asking.pop(key, None)
        if task.cancelled() or task.exception() is not None:
            return
        value, ttl = task.result()
        if ttl <= 0:
            self._entries.pop(key, None)
            return
        self._entries[key] = (self._clock() + ttl, value)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)


async def _run(ask: Callable[[], Awaitable[tuple[Value, float]]]) -> tuple[Value, float]:
    return await ask()
