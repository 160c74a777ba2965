# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for a state, with the last state seen at hand when it does not come."""

from __future__ import annotations

import time
import typing as t

WAIT_ARGUMENTS: t.Dict[str, t.Dict[str, t.Any]] = {
    "wait": {"type": "bool", "default": False},
    "wait_sleep": {"type": "float", "default": 5},
    "wait_timeout": {"type": "int", "default": 120},
}


class Observation(t.NamedTuple):
    """One look: whether this is what is waited for, what was seen, and that in words."""

    done: bool
    state: t.Any
    summary: str


class Waited(t.NamedTuple):
    observation: Observation
    elapsed: float


def wait_until(
    observe: t.Callable[[], Observation],
    *,
    timeout: float,
    sleep: float,
    clock: t.Callable[[], float] = time.monotonic,
    pause: t.Callable[[float], None] = time.sleep,
) -> Waited:
    """Look until done or the time is over: at least once, and once more when the last, clipped sleep has ended."""
    start = clock()
    while True:
        observation = observe()
        elapsed = clock() - start
        if observation.done or elapsed >= timeout:
            return Waited(observation, elapsed)
        pause(max(0.0, min(sleep, timeout - elapsed)))


def check_wait_arguments(params: t.Mapping[str, t.Any]) -> t.Optional[str]:
    """The sentence that says what is wrong with the wait options, or None."""
    if params["wait_timeout"] < 0:
        return "wait_timeout is %d; give seconds, 0 for a single check." % params["wait_timeout"]
    if params["wait_sleep"] <= 0:
        return "wait_sleep is %g; give more than 0 seconds." % params["wait_sleep"]
    return None
