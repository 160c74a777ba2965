# SPDX-License-Identifier: GPL-3.0-or-later
"""`/debug/pprof/`: where the time goes, and what every task waits for. For those who may read that path only."""

from __future__ import annotations

import asyncio
import io

from metrics_server.api.http import Request
from metrics_server.api.status import ApiError, bad_request

_TEXT = "text/plain; charset=utf-8"
_MAX_SECONDS = 50.0
_LINES = 60


async def index(_request: Request) -> tuple[str, list[bytes]]:
    """Return what there is."""
    return _TEXT, [
        b"profile?seconds=10  CPU profile of the event loop, as text\n",
        b"tasks  what every task waits for\n",
    ]


async def tasks(_request: Request) -> tuple[str, list[bytes]]:
    """Return the stack of every task."""
    out = io.StringIO()
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        task.print_stack(file=out)
        out.write("\n")
    return _TEXT, [out.getvalue().encode()]


class CpuProfile:
    """One CPU profile at a time."""

    def __init__(self) -> None:
        self._running = False

    async def __call__(self, request: Request) -> tuple[str, list[bytes]]:
        """Profile the event loop for some seconds."""
        try:
            seconds = float(request.query.get("seconds", "10"))
        except ValueError:
            raise bad_request("seconds must be a number") from None
        if not 0 < seconds <= _MAX_SECONDS:
            raise bad_request(f"seconds must be more than 0 and at most {_MAX_SECONDS:g}")
        if self._running:
            raise ApiError(409, "Conflict", "another profile is being taken")
        # Not at the top: it is half a megabyte, and seldom wanted.
        import cProfile
        import pstats

        profile = cProfile.Profile()
        self._running = True
        try:
            profile.enable()
            await asyncio.sleep(seconds)
        finally:
            profile.disable()
            self._running = False
        out = io.StringIO()
        pstats.Stats(profile, stream=out).sort_stats("cumulative").print_stats(_LINES)
        return _TEXT, [out.getvalue().encode()]
