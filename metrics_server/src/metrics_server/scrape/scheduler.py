# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is scraped when.

Each node has its own moment in the resolution, given by a hash of its name, so that load is even and stays where it is
when nodes come and go. A new node is scraped at once and soon a second time, because a rate needs two points. A
failing node is asked less and less often, and failing nodes share a part of the concurrency, so that they never delay
healthy ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from functools import partial

log = logging.getLogger(__name__)

#: Cold start: so many seconds a node are taken for the first scrapes (each with a handshake), within a part of the
#: resolution.
_SPREAD_PER_NODE = 0.002
_SPREAD_PART = 0.6
#: Kubelets refresh their numbers each 10 to 15 s; asking a little sooner finds about every second one renewed.
_WARM_UP = 5.0
#: A node that cannot be scraped is asked again at least this often (or each resolution, if that is longer).
_MAX_BACKOFF = 60.0
_FIRST_RETRY = 5.0
#: Nodes whose moments are near each other are scraped in one go. Alone, each scrape would find the processor's caches
#: cold and need twice the CPU time. More than this many at once gain no more, and would hold up the API.
_TOGETHER = 16
#: How long a scrape may be put off to be concurrent with others, and what must lie between two wake-ups in any case.
_MAX_TICK, _MIN_TICK = 0.25, 0.01
#: The part of the concurrency that failing nodes may use.
_FAILING_SHARE = 4


class Outcome(Enum):
    """What a scrape brought."""

    #: The node has a rate.
    READY = auto()
    #: It worked, but a second point is still needed.
    WARMING = auto()
    FAILED = auto()


class _Slot:
    """One node."""

    __slots__ = ("due", "failures", "name", "phase", "running", "scraped", "task", "waiting", "wanted")

    def __init__(self, name: str, resolution: float) -> None:
        self.name = name
        self.phase = phase_of(name) * resolution
        self.due = 0.0
        self.failures = 0
        self.running = False
        self.scraped = False
        self.task: asyncio.Task[None] | None = None
        self.waiting = False
        #: A scrape was asked for while one was under way.
        self.wanted = False


def phase_of(name: str) -> float:
    """Return the node's place in the resolution, from 0 to 1: the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


class Scheduler:
    """Calls `scrape(name)` for each node at its time. `add`, `remove` and `poke` may be called at any time from the
    loop."""

    def __init__(
        self,
        scrape: Callable[[str], Awaitable[Outcome]],
        *,
        resolution: float,
        concurrency: int = 512,
        on_round: Callable[[float], None] | None = None,
        on_lag: Callable[[float], None] | None = None,
    ) -> None:
        """`on_lag` hears how late each scrape began; `on_round` once a resolution how long its slowest node took, lag
        included."""
        self._scrape = scrape
        self._resolution = resolution
        self._concurrency = concurrency
        self._failing_concurrency = max(1, concurrency // _FAILING_SHARE)
        self._on_round = on_round
        self._on_lag = on_lag
        self._slots: dict[str, _Slot] = {}
        self._heap: list[tuple[float, int, _Slot]] = []
        self._order = itertools.count()
        self._healthy: deque[_Slot] = deque()
        self._failing: deque[_Slot] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running_failing = 0
        self._wake: asyncio.Event = asyncio.Event()
        self._fresh = 0
        self._slowest = 0.0
        #: When it was last looked for nodes that are due, by the event loop's clock; None before it runs.
        self.looked: float | None = None

    @property
    def running(self) -> int:
        """How many scrapes are under way."""
        return len(self._tasks)

    def failing(self) -> int:
        """How many nodes failed the last time."""
        return sum(1 for slot in self._slots.values() if slot.failures)

    def add(self, name: str) -> None:
        """Take a node in; it is scraped promptly."""
        if name in self._slots:
            return
        slot = self._slots[name] = _Slot(name, self._resolution)
        self._fresh += 1
        # Where many come at once they form a queue, and when that would become too long, several queues side by side.
        place = _SPREAD_PER_NODE * (self._fresh - 1)
        self._at(slot, self._now() + place % (_SPREAD_PART * self._resolution))

    def remove(self, name: str) -> None:
        """Let a node go. A scrape that is under way is ended: the node may be back a moment later, and have another."""
        slot = self._slots.pop(name, None)
        if slot is None:
            return
        if not slot.scraped:
            self._fresh -= 1
        if slot.task is not None:
            slot.task.cancel()

    def poke(self, name: str) -> None:
        """Scrape a node promptly, because something about it changed."""
        slot = self._slots.get(name)
        if slot is None or slot.waiting:
            return
        slot.failures = 0
        if slot.running:
            slot.wanted = True
        elif slot.due > self._now() + 1.0:
            self._at(slot, self._now())

    async def run(self) -> None:
        """Run until cancelled; scrapes under way are cancelled with it."""
        round_ends = self._now() + self._resolution
        try:
            while True:
                now = self.looked = self._now()
                self._collect_due(now)
                while self._start_waiting():
                    # One a turn of the event loop: the API's requests get theirs in between.
                    await asyncio.sleep(0)
                if now >= round_ends:
                    round_ends = now + self._resolution
                    if self._on_round is not None and self._slots:
                        self._on_round(self._slowest)
                    self._slowest = 0.0
                next_due = self._heap[0][0] if self._heap else now + self._resolution
                self._wake.clear()
                try:
                    async with asyncio.timeout(max(self._tick(), min(next_due, round_ends) - self._now())):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _at(self, slot: _Slot, due: float) -> None:
        slot.due = due
        heapq.heappush(self._heap, (due, next(self._order), slot))
        if self._heap[0][2] is slot:
            self._wake.set()

    def _collect_due(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            due, _unused, slot = heapq.heappop(self._heap)
            if due == slot.due and not slot.running and not slot.waiting and self._slots.get(slot.name) is slot:
                slot.waiting = True
                (self._failing if slot.failures else self._healthy).append(slot)

    def _tick(self) -> float:
        if self._fresh:
            return _MIN_TICK
        together = _TOGETHER * self._resolution / max(1, len(self._slots))
        return max(_MIN_TICK, min(together, _MAX_TICK, self._resolution / 60))

    def _start_waiting(self) -> bool:
        """Begin a scrape; return whether there may be more to begin."""
        if len(self._tasks) >= self._concurrency:
            return False
        if self._healthy:
            self._begin(self._healthy.popleft())
        elif self._failing and self._running_failing < self._failing_concurrency:
            self._begin(self._failing.popleft())
        else:
            return False
        return True

    def _begin(self, slot: _Slot) -> None:
        slot.waiting = False
        if self._slots.get(slot.name) is not slot:
            return
        slot.running = True
        failing = slot.failures > 0
        self._running_failing += failing
        task = slot.task = asyncio.create_task(self._one(slot))
        self._tasks.add(task)
        # Not in the task itself: one that is cancelled before its first step runs none of its own code.
        task.add_done_callback(partial(self._ended, failing))

    def _ended(self, failing: bool, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running_failing -= failing
        if self._healthy or self._failing:
            self._wake.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a scrape ended in an internal error; its node counts as failed", exc_info=error)

    async def _one(self, slot: _Slot) -> None:
        due = slot.due
        if self._on_lag is not None:
            self._on_lag(max(0.0, self._now() - due))
        outcome = Outcome.FAILED
        try:
            outcome = await self._scrape(slot.name)
        finally:
            slot.running = False
            slot.task = None
            if not slot.scraped and self._slots.get(slot.name) is slot:
                slot.scraped = True
                self._fresh -= 1
            self._reschedule(slot, outcome)
            self._slowest = max(self._slowest, self._now() - due)

    def _reschedule(self, slot: _Slot, outcome: Outcome) -> None:
        if self._slots.get(slot.name) is not slot:
            return
        now = self._now()
        if slot.wanted:
            slot.wanted = False
            slot.failures = 0
            self._at(slot, now)
        elif outcome is Outcome.FAILED:
            slot.failures += 1
            self._at(slot, now + self._retry_delay(slot))
        else:
            slot.failures = 0
            regular = self._next_regular(slot, now)
            self._at(slot, min(regular, now + _WARM_UP) if outcome is Outcome.WARMING else regular)

    def _next_regular(self, slot: _Slot, now: float) -> float:
        """Return the node's next own moment, not so near that nothing can be new."""
        resolution = self._resolution
        earliest = now + min(_WARM_UP, resolution / 4)
        rounds = -((slot.phase - earliest) // resolution)
        return float(slot.phase + rounds * resolution)

    def _retry_delay(self, slot: _Slot) -> float:
        if slot.failures == 1:
            return min(_FIRST_RETRY, self._resolution / 2)
        delay = min(self._resolution * 2.0 ** min(slot.failures - 2, 10), max(self._resolution, _MAX_BACKOFF))
        # The hash keeps nodes that failed together from being retried together.
        return float(delay * (0.8 + 0.2 * slot.phase / self._resolution))
