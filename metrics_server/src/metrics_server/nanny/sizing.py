# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a container should have for a number of nodes, and whether what it has is close enough. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from metrics_server.quantity import cpu_quantity, memory_quantity, parse_quantity

#: Kubernetes' name for each resource that the flags name. What upstream calls storage, no container can have.
RESOURCES = {"cpu": "cpu", "memory": "memory", "storage": "ephemeral-storage"}
_SCALE = Fraction(3, 2)


@dataclass(frozen=True, slots=True)
class Need:
    """What one resource needs: a base, and more for each node."""

    base: Fraction
    per_node: Fraction


Needs = Mapping[str, Need]


def linear(nodes: int) -> int:
    """Return the number of nodes to size for: their number."""
    return nodes


def exponential(nodes: int, smallest: int) -> int:
    """Return the number of nodes to size for: in steps of half, so that few of them are a change."""
    size = smallest
    while size < nodes:
        size = math.trunc(size * _SCALE + Fraction(1, 100))
    return size


def expected(needs: Needs, nodes: int) -> dict[str, Fraction]:
    """Return the amount of each resource, as exact as Kubernetes has it: millicores and bytes."""
    amounts = {}
    for name, need in needs.items():
        amount = need.base + need.per_node * nodes
        step = 1000 if name == "cpu" else 1
        amounts[name] = Fraction(math.ceil(amount * step), step)
    return amounts


def text_of(name: str, amount: Fraction) -> str:
    """Return an amount as Kubernetes writes it."""
    return cpu_quantity(int(amount * 10**9)) if name == "cpu" else memory_quantity(int(amount))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far off is close enough, in percent, and what to set when it is not."""

    acceptance: int
    #: Distance from the expected amount to set: what is too small becomes this much less, what is too big more.
    recommendation: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """The result of a check of a container."""

    #: -1 to shrink, 1 to grow, 0 when it is close enough.
    direction: int
    #: Amounts of all resources, by Kubernetes' names; empty when it is close enough.
    requests: dict[str, str]
    limits: dict[str, str]
    #: The first resource that is off.
    because: str = ""


def judge(
    has: Mapping[str, Mapping[str, str]],
    amounts: Mapping[str, Fraction],
    tolerance: Tolerance,
    *,
    limit_cpu: bool = True,
) -> Wanted:
    """Compare `resources` of a container with what it should have. Raises ValueError for a quantity that is none."""
    sections = {
        "requests": dict(amounts),
        "limits": {name: amount for name, amount in amounts.items() if limit_cpu or name != "cpu"},
    }
    wanted = Wanted(0, {}, {})
    for section, should in sections.items():
        present = has.get(section) or {}
        chosen: dict[str, str] = wanted.requests if section == "requests" else wanted.limits
        for name, amount in should.items():
            text = present.get(RESOURCES[name])
            actual = None if text is None else parse_quantity(str(text))
            direction = _direction(actual, amount, tolerance.acceptance)
            if direction and not wanted.direction:
                is_now = "is not set" if text is None else f"is {text}"
                because = f"{section[:-1]} of {name} {is_now}, {text_of(name, amount)} expected"
                wanted = replace(wanted, direction=direction, because=because)
            if not direction and tolerance.recommendation and text is not None:
                # A range says that what is inside of it is as good as the expected amount.
                chosen[RESOURCES[name]] = str(text)
                continue
            offset = 0 if text is None else direction * tolerance.recommendation
            aim = amount * (100 - offset) / 100
            chosen[RESOURCES[name]] = text_of(name, expected({name: Need(aim, Fraction(0))}, 0)[name])
    if not wanted.direction:
        return Wanted(0, {}, {})
    _raise_limits(wanted, has.get("limits") or {})
    return wanted


def _direction(actual: Fraction | None, amount: Fraction, percent: int) -> int:
    if actual is None:
        return 1
    if not amount:
        return -1 if actual else 0
    # Whole percents, rounded down, as upstream compares.
    ratio = actual * 100 // amount
    return 1 if ratio < 100 - percent else -1 if ratio > 100 + percent else 0


def _raise_limits(wanted: Wanted, present: Mapping[str, str]) -> None:
    """A limit below its request would be refused: both sides of a range can be close enough and still cross, and one
    that is not to be set may be there."""
    for name, request in wanted.requests.items():
        limit = wanted.limits.get(name, present.get(name))
        if limit is not None and parse_quantity(str(limit)) < parse_quantity(request):
            wanted.limits[name] = request
