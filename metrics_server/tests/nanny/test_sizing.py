# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_server.nanny.sizing import Need, Tolerance, expected, exponential, judge, linear, text_of
from metrics_server.quantity import cpu_quantity, memory_quantity, parse_quantity

MI = 1024**2
NEEDS = {
    "cpu": Need(Fraction(100, 1000), Fraction(2, 1000)),
    "memory": Need(Fraction(80 * MI), Fraction(MI)),
}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("100m", Fraction(1, 10)),
        ("1.5Gi", 3 * 2**29),
        ("200u", Fraction(1, 5000)),
        ("2k", 2000),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        (".5", Fraction(1, 2)),
        ("-1Ki", -1024),
    ],
)
def test_quantities(text: str, number: Fraction) -> None:
    assert parse_quantity(text) == number


@pytest.mark.parametrize("text", ["", "Mi", "100 m", "1KB", "0x10", "1e999", "1mi", "ten"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(text)


@given(st.integers(min_value=0, max_value=10**15))
def test_quantities_come_back(number: int) -> None:
    assert parse_quantity(memory_quantity(number)) == number
    assert parse_quantity(cpu_quantity(number)) == Fraction(number, 10**9)


def test_the_steps_are_upstreams() -> None:
    assert [exponential(nodes, 16) for nodes in (1, 16, 17, 25, 37, 55, 82)] == [16, 16, 24, 36, 54, 81, 121]
    steps = [100]
    while steps[-1] < 1700:
        steps.append(exponential(steps[-1] + 1, 100))
    assert steps == [100, 150, 225, 337, 505, 757, 1135, 1702]
    assert exponential(3, 2) == 3


def test_amounts_are_as_exact_as_kubernetes_has_them() -> None:
    amounts = expected(
        {"cpu": Need(Fraction(0), parse_quantity("200u")), "memory": Need(Fraction(1, 2), Fraction(0))}, 7
    )
    assert {name: text_of(name, amount) for name, amount in amounts.items()} == {"cpu": "2m", "memory": "1"}
    assert expected(NEEDS, linear(10)) == {"cpu": Fraction(120, 1000), "memory": Fraction(90 * MI)}


def resources(cpu: str, memory: str) -> dict[str, dict[str, str]]:
    return {section: {"cpu": cpu, "memory": memory} for section in ("requests", "limits")}


@pytest.mark.parametrize(
    ("has", "percent", "direction"),
    [
        (resources("120m", "90Mi"), 0, 0),
        (resources("0.12", "92160Ki"), 0, 0),
        # Whole percents, rounded down: 120.5 of 120 is 100.
        (resources("121m", "90Mi"), 0, 0),
        (resources("119m", "90Mi"), 0, 1),
        (resources("122m", "90Mi"), 0, -1),
        (resources("114m", "90Mi"), 5, 0),
        (resources("113m", "90Mi"), 5, 1),
        (resources("126m", "90Mi"), 5, 0),
        (resources("128m", "90Mi"), 5, -1),
        # The first that is off says where it goes.
        (resources("200m", "10Mi"), 5, -1),
        (resources("120m", "10Mi"), 5, 1),
        ({}, 50, 1),
        ({"requests": {"cpu": "120m", "memory": "90Mi"}}, 50, 1),
        ({"requests": {"cpu": "120m", "memory": "90Mi"}, "limits": {"cpu": "9", "memory": "90Mi"}}, 5, -1),
    ],
)
def test_close_enough(has: dict[str, dict[str, str]], percent: int, direction: int) -> None:
    wanted = judge(has, expected(NEEDS, 10), Tolerance(percent))
    assert wanted.direction == direction
    full = {"cpu": "120m", "memory": "90Mi"} if direction else {}
    assert (wanted.requests, wanted.limits) == (full, full)


def test_without_a_limit_of_cpu() -> None:
    has = {"requests": {"cpu": "120m", "memory": "90Mi"}, "limits": {"cpu": "9", "memory": "90Mi"}}
    assert judge(has, expected(NEEDS, 10), Tolerance(5), limit_cpu=False).direction == 0
    has["requests"]["cpu"] = "1m"
    wanted = judge(has, expected(NEEDS, 10), Tolerance(5), limit_cpu=False)
    assert (wanted.requests["cpu"], wanted.limits) == ("120m", {"memory": "90Mi"})


def test_a_limit_of_cpu_that_is_there_is_no_obstacle() -> None:
    """The API server refuses a request above its limit, and memory stands in the same patch."""
    has = resources("100m", "90Mi")
    wanted = judge(has, expected(NEEDS, 10), Tolerance(5), limit_cpu=False)
    assert (wanted.requests["cpu"], wanted.limits) == ("120m", {"cpu": "120m", "memory": "90Mi"})
    has["limits"]["cpu"] = "125m"
    assert judge(has, expected(NEEDS, 10), Tolerance(5), limit_cpu=False).limits == {"memory": "90Mi"}


@pytest.mark.parametrize(
    ("has", "requests"),
    [
        (resources("95m", "72Mi"), {}),
        (resources("90m", "71Mi"), {"cpu": "108m", "memory": "81Mi"}),
        (resources("200m", "200Mi"), {"cpu": "132m", "memory": "99Mi"}),
        (resources("130m", "200Mi"), {"cpu": "130m", "memory": "99Mi"}),
    ],
)
def test_ranges(has: dict[str, dict[str, str]], requests: dict[str, str]) -> None:
    assert judge(has, expected(NEEDS, 10), Tolerance(21, 10)).requests == requests


def test_a_limit_is_never_below_its_request() -> None:
    has = {"requests": {"cpu": "130m", "memory": "90Mi"}, "limits": {"cpu": "1m", "memory": "90Mi"}}
    wanted = judge(has, expected(NEEDS, 10), Tolerance(20, 10))
    assert wanted.limits == {"cpu": "130m", "memory": "90Mi"}


@pytest.mark.parametrize(("text", "direction"), [("0", 0), ("1m", -1)])
def test_nothing_expected(text: str, direction: int) -> None:
    amounts = expected({"cpu": Need(Fraction(0), Fraction(0))}, 10)
    assert judge({"requests": {"cpu": text}, "limits": {"cpu": text}}, amounts, Tolerance(5)).direction == direction


def test_storage_has_its_own_name_and_amount() -> None:
    wanted = judge({}, expected({"storage": Need(Fraction(2**30), Fraction(2**20))}, 1024), Tolerance(0))
    assert wanted.requests == {"ephemeral-storage": "2Gi"}
