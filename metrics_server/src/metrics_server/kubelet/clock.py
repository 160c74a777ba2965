# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a node's clock was set: samples bear its times, and a rate across such a moment would be any number.

Every answer says in its `Date` what the node's clock shows, in whole seconds. Our own monotonic clock is never set, so
the distance of the two stays the same, but for what they drift.
"""

from __future__ import annotations

import calendar
from functools import lru_cache

#: What two clocks may differ by without one having been set: a part of the time that has passed, and some of a second,
#: since a clock that is slowly brought into line (by up to 8 %, with chrony) makes no rate that is far off.
_DRIFT = 0.002
_TOLERANCE = 0.5

_MONTHS = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), 1
    )
}


@lru_cache(maxsize=256)
def http_date(value: bytes) -> int | None:
    """Return the seconds since the epoch of `Tue, 15 Nov 1994 08:12:31 GMT`, or None when it is not of this form."""
    try:
        _day, day, month, year, time, zone = value.split()
        hour, minute, second = map(int, time.split(b":"))
        if zone != b"GMT":
            return None
        return calendar.timegm((int(year), _MONTHS[month], int(day), hour, minute, second))
    except (KeyError, ValueError):
        return None


class NodeClocks:
    """The distance of each node's clock from ours, as between which bounds it must be."""

    def __init__(self) -> None:
        self._bounds: dict[str, tuple[float, float, float]] = {}

    def was_set(self, node: str, sent: float, received: float, date: bytes) -> bool:
        """Take in an answer: when the request was sent and the answer received, by our monotonic clock, and its `Date`.

        Return whether the node's clock was set since the answer before. Without a usable date nobody can tell.
        """
        seconds = http_date(date) if date else None
        if seconds is None:
            return False
        known = self._bounds.get(node)
        least, most = seconds - received, seconds + 1 - sent
        self._bounds[node] = (received, least, most)
        if known is None:
            return False
        allowed = _TOLERANCE + _DRIFT * (received - known[0])
        return least > known[2] + allowed or most < known[1] - allowed

    def forget(self, node: str) -> None:
        """Drop what is kept for a node that left."""
        self._bounds.pop(node, None)
