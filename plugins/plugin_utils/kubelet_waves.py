# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kubelets restart together: one alone, then a few, then shares of all."""

from __future__ import annotations

import math
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.kubelet_settings import RolloutError


def sizes(serial: t.Any, total: int, limit: int) -> t.Iterator[int]:
    """The sizes of the waves, without an end: the last one repeats. Raises RolloutError.

    A list says all of them. A single value comes after one kubelet alone and at most five together. ``limit`` is for
    shares: a number is what somebody wrote down.
    """
    given = list(serial) if isinstance(serial, (list, tuple)) else [serial]
    steps = []
    for entry in given:
        text = str(entry).strip()
        match = re.fullmatch(r"(\d+)(%?)", text)
        if isinstance(entry, bool) or not match or not int(match.group(1)) or (match.group(2) and int(match[1]) > 100):
            raise RolloutError(
                f"kubelet_access_serial has {entry!r}, and takes numbers and shares, for example [1, 5, 25%]."
            )
        number = int(match.group(1))
        steps.append(min(math.ceil(total * number / 100), limit) if match.group(2) else number)
    if not steps:
        raise RolloutError(
            "kubelet_access_serial is an empty list; give it numbers and shares, for example [1, 5, 25%]."
        )
    if not isinstance(serial, (list, tuple)):
        steps = [1, min(5, steps[0]), steps[0]]
    yield from steps
    while True:
        yield steps[-1]


def waves(names: t.Sequence[str], serial: t.Any, total: int, limit: int) -> list[list[str]]:
    """The names in their order, one list for each wave. Raises RolloutError."""
    result: list[list[str]] = []
    start = 0
    for size in sizes(serial, total, max(1, limit)):
        if start >= len(names):
            break
        result.append(list(names[start : start + size]))
        start += size
    return result
