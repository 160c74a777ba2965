# SPDX-License-Identifier: GPL-3.0-or-later
"""What is given as -e name=value arrives as text, in which "false" is true. Roles have to convert where they decide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, nodes
from role_docs import ROLES, options, roles

CONDITIONS = {"when", "that", "until", "failed_when", "changed_when"}
CONVERSIONS = {"bool", "int", "float"}
JINJA = Environment()  # nosec: it only parses


def templates(value: Any, key: str = "") -> Iterator[tuple[str, bool]]:
    """Every text that Jinja sees, and whether it is a condition."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from templates(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from templates(inner, key)
    elif isinstance(value, str):
        condition = key in CONDITIONS
        yield ("{{ " + value + " }}" if condition else value), condition


def unconverted(text: str, names: set[str], condition: bool) -> set[str]:
    """Those of the names that an expression uses as they come."""
    found = set()

    def walk(node: nodes.Node, parent: nodes.Node) -> None:
        if isinstance(node, nodes.Name) and node.name in names:
            converted = isinstance(parent, nodes.Filter) and parent.name in CONVERSIONS
            # A value as a whole is converted by the module that it is given to; text stays text.
            passed_on = isinstance(parent, nodes.Output | nodes.Concat) and not condition
            if not converted and not passed_on:
                found.add(node.name)
        for child in node.iter_child_nodes():
            walk(child, node)

    tree = JINJA.parse(text)
    walk(tree, tree)
    return found


def files(role: str) -> list[Path]:
    folders = [ROLES / role / folder for folder in ("tasks", "vars", "templates")]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".yml", ".j2"))


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        ({"when": "a"}, {"a"}),
        ({"when": ["b > 0", "not a | bool"]}, {"b"}),
        ({"retries": "{{ b / 2 }}"}, {"b"}),
        ({"msg": "{{ 'x' if a else 'y' }}, a"}, {"a"}),
        ({"timeout": "{{ b }}", "msg": "{{ 'after ' ~ b }}", "until": ["a | bool", "b | int > 1"]}, set()),
    ],
)
def test_what_counts_as_converted(task, wrong):
    found = [unconverted(text, {"a", "b"}, condition) for text, condition in templates(task)]
    assert set().union(*found) == wrong


@pytest.mark.parametrize("role", roles())
def test_roles_convert_what_they_decide_by(role):
    names = {name for name, option in options(role).items() if option.get("type") in CONVERSIONS}
    wrong = {}
    for path in files(role):
        text = path.read_text(encoding="utf-8")
        found = [(text, False)] if path.suffix == ".j2" else templates(yaml.safe_load(text))
        for template, condition in found:
            for name in unconverted(template, names, condition):
                wrong.setdefault(str(path.relative_to(ROLES)), set()).add(name)
    assert wrong == {}


def run_once_tasks(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for inner in value:
            yield from run_once_tasks(inner)
    elif isinstance(value, dict):
        if value.get("run_once"):
            yield value
        for key in ("block", "rescue", "always"):
            yield from run_once_tasks(value.get(key))


def test_what_runs_once_for_all_kubelets_asks_no_variable_that_each_may_have_its_own_of():
    """Such a task would ask the first host only, and decide for all."""
    tasks = ROLES / "kubelet_access" / "tasks"
    plan = yaml.safe_load((tasks / "plan.yml").read_text(encoding="utf-8"))
    (asked,) = (task["ansible.builtin.set_fact"] for task in plan if "ansible.builtin.set_fact" in task)
    settings = "\n".join(str(value) for value in asked["_kubelet_access_asked"].values())
    per_host = set(re.findall(r"kubelet_access_\w+", settings))
    assert "kubelet_access_webhook" in per_host
    wrong = []
    for path in sorted(tasks.glob("*.yml")):
        for task in run_once_tasks(yaml.safe_load(path.read_text(encoding="utf-8"))):
            trees = [JINJA.parse(text) for text, _condition in templates(task)]
            used = {node.name for tree in trees for node in tree.find_all(nodes.Name)}
            wrong += [(path.name, task["name"], name) for name in sorted(used & per_host)]
    assert wrong == []
