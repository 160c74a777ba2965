# SPDX-License-Identifier: GPL-3.0-or-later
"""One name for one thing: defaults, argument specs and READMEs of the roles say the same."""

from __future__ import annotations

import re

import pytest
import role_docs

ROLES = role_docs.roles()


def test_there_are_roles():
    assert {"cluster", "kubelet_access", "metrics_server", "verify"} <= set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_of_the_argument_specs(role):
    documented = {name: spec["default"] for name, spec in role_docs.options(role).items() if "default" in spec}
    assert role_docs.load(role, "defaults/main.yml") == documented


@pytest.mark.parametrize("role", ROLES)
def test_what_has_no_default_is_required(role):
    assert all(spec.get("required") or "default" in spec for spec in role_docs.options(role).values())


@pytest.mark.parametrize("role", ROLES)
def test_public_variables_carry_the_role_as_prefix(role):
    assert [name for name in role_docs.options(role) if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_internal_variables_carry_the_role_as_prefix(role):
    names = role_docs.load(role, "vars/main.yml")
    assert [name for name in names if not name.startswith(f"_{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_has_the_table_of_the_argument_specs(role):
    readme = (role_docs.ROLES / role / "README.md").read_text(encoding="utf-8")
    assert readme == role_docs.rendered(role), "run: python tests/unit/role_docs.py"


@pytest.mark.parametrize("role", ROLES)
def test_every_public_variable_is_used(role):
    files = [path for name in ("tasks", "templates", "vars") for path in (role_docs.ROLES / role / name).glob("*")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    if f"varnames', '^{role}_'" in text:
        # All of them are given to a module of Python, which calls them without the role's name.
        plugin_utils = role_docs.ROLES.parent / "plugins" / "plugin_utils"
        code = (plugin_utils / f"{role}.py").read_text(encoding="utf-8")
        # By their whole names there.
        text += (plugin_utils / "server_access.py").read_text(encoding="utf-8")
        text += "".join(
            f" {role}_{name}" for name in re.findall(r"\.(?:text|flag|number|items|mapping)\([\"'](\w+)[\"']\)", code)
        )
    unused = [name for name in role_docs.options(role) if not re.search(rf"\b{name}\b", text)]
    assert unused == []


def test_markup_becomes_markdown():
    assert role_docs.plain("Needs O(a_b=c) and C(x|y), or V(none).") == "Needs `a_b=c` and `x\\|y`, or `none`."


def test_an_argument_without_default_is_shown_as_required(monkeypatch):
    spec = {"x_y": {"type": "list", "elements": "str", "description": ["One.", "Two."], "required": True}}
    monkeypatch.setattr(role_docs, "options", lambda role: spec)
    assert "| `x_y` | list of str | required | One. Two. |" in role_docs.table("x")
