# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a node's clock was set: samples bear its times, and a rate across such a moment would be any number.

Every answer says in its `Date` what the node's clock shows, in whole seconds. Our own monotonic clock is never set, so
the distance of the two stays the same, but for what they drift.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from functools import lru_cache

#: What two clocks may differ by without one having been set: some of a second, and a part of the time that has passed.
_TOLERANCE = 0.5
_DRIFT = 0.002
#: A clock may also be brought into line slowly, by this part of the time at most (8 % with chrony). Its rates are no
#: further off than that, so it is taken for set once, and then for so many seconds not again for that.
_SLEW = 0.1
_SLEWING_SECONDS = 120.0
#: A clock that seems to have been set for each of so many answers was not: the dates are not those of a clock.
_IN_A_ROW = 4

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


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an answer told: the distance was between these bounds when it was received."""

    received: float
    least: float
    most: float
    slewing_until: float = float("-inf")
    in_a_row: int = 0


class NodeClocks:
    """The distance of each node's clock from ours, as between which bounds it must be."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def was_set(self, node: str, sent: float, received: float, date: bytes) -> bool:
        """Take in an answer: when the request was sent and the answer received, by our monotonic clock, and its `Date`.

        Return whether the node's clock was set since the answer before. Without a usable date nobody can tell.
        """
        seconds = http_date(date) if date else None
        if seconds is None:
            return False
        known = self._seen.get(node)
        least, most = seconds - received, seconds + 1 - sent
        if known is None:
            self._seen[node] = _Seen(received, least, most)
            return False
        passed = received - known.received
        beyond = max(least - known.most, known.least - most) - _TOLERANCE
        if beyond <= _DRIFT * passed:
            self._seen[node] = _Seen(received, least, most, known.slewing_until)
            return False
        slewing_until, slewing = known.slewing_until, False
        if beyond <= _SLEW * passed:
            slewing = received < slewing_until
            slewing_until = received + _SLEWING_SECONDS
        in_a_row = known.in_a_row + 1
        self._seen[node] = _Seen(received, least, most, slewing_until, in_a_row)
        return not slewing and in_a_row <= _IN_A_ROW

    def forget(self, node: str) -> None:
        """Drop what is kept for a node that left."""
        self._seen.pop(node, None)
