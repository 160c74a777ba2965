# SPDX-License-Identifier: GPL-3.0-or-later
"""tests/variables/runs.yml has every documented variable of every role at another value than its default."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from role_docs import options, roles

TREE = Path(__file__).resolve().parents[2]
RUNS = yaml.safe_load((TREE / "tests/variables/runs.yml").read_text(encoding="utf-8"))["runs"]
TYPES = {"str": str, "int": int, "bool": bool, "list": list, "dict": dict, "raw": object}


def values(name):
    return [run["variables"][name] for run in RUNS if name in run["variables"]]


@pytest.mark.parametrize("role", roles())
def test_every_variable_is_exercised_at_another_value(role):
    forgotten = [
        name
        for name, option in options(role).items()
        if not any(value != option.get("default") for value in values(name))
    ]
    assert forgotten == [], "add them to tests/variables/runs.yml"


def test_no_run_has_a_variable_that_is_not_documented():
    documented = {name for role in roles() for name in options(role)}
    assert {name for run in RUNS for name in run["variables"]} - documented == set()


@pytest.mark.parametrize("role", roles())
def test_values_are_of_the_documented_kind(role):
    wrong = []
    for name, option in options(role).items():
        for value in values(name):
            kind = TYPES[option["type"]]
            sound = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
            if not sound or (option.get("choices") and value not in option["choices"]):
                wrong.append((name, value))
    assert wrong == []


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["name"])
def test_a_run_says_how_it_ends_in_both_states(run):
    assert (TREE / "playbooks" / run["playbook"]).is_file()
    for state in ("healthy", "broken"):
        assert set(run[state]) <= {"fails", "expect"}
        # Whatever stops has to say why.
        assert not run[state].get("fails") or run[state].get("expect")
