# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.wait import (
    Observation,
    check_wait_arguments,
    wait_until,
)


def looks(*answers):
    """Observations one after the other; the last is repeated."""
    seen = []

    def observe():
        seen.append(answers[min(len(seen), len(answers) - 1)])
        return Observation(seen[-1], len(seen), f"look {len(seen)}")

    observe.seen = seen
    return observe


def test_no_time_means_one_look(clock):
    observe = looks(False)
    waited = wait_until(observe, timeout=0, sleep=5, clock=clock, pause=clock.sleep)
    assert (waited.observation.done, len(observe.seen), clock.sleeps) == (False, 1, [])


def test_it_ends_as_soon_as_it_is_done(clock):
    waited = wait_until(looks(False, False, True), timeout=60, sleep=5, clock=clock, pause=clock.sleep)
    assert waited.observation.done
    assert waited.elapsed == 10


def test_the_last_sleep_is_clipped_and_followed_by_a_look(clock):
    observe = looks(False, False, False, True)
    waited = wait_until(observe, timeout=12, sleep=5, clock=clock, pause=clock.sleep)
    assert clock.sleeps == [5, 5, 2]
    assert waited.observation.done


def test_the_last_state_is_at_hand(clock):
    waited = wait_until(looks(False), timeout=7, sleep=5, clock=clock, pause=clock.sleep)
    assert waited.observation == Observation(False, 3, "look 3")
    assert waited.elapsed == 7


@pytest.mark.parametrize(("sleep", "timeout", "word"), [(0, 1, "wait_sleep"), (1, -1, "wait_timeout"), (1, 0, None)])
def test_check_wait_arguments(sleep, timeout, word):
    complaint = check_wait_arguments({"wait_sleep": sleep, "wait_timeout": timeout})
    assert complaint.startswith(word) if word else complaint is None
