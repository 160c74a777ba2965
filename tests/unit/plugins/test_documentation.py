# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of plugins: one style, shared fragments instead of copies, and examples that the options allow."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PREFIX = "kubemetrics.aggregation."
AUTHOR = ["The kubemetrics.aggregation maintainers (@kubemetrics)"]
ACTIONS = sorted(path for path in (ROOT / "plugins/action").glob("*.py") if "ARGUMENTS" in path.read_text())
MODULES = sorted(path for path in (ROOT / "plugins/modules").glob("*.py") if path.stem != "__init__")


def strings(path: Path) -> dict[str, str]:
    """The texts that a module or the class of a fragment assigns to names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.targets[0].id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


FRAGMENTS = {
    PREFIX + path.stem + ("" if name == "DOCUMENTATION" else f".{name.lower()}"): yaml.safe_load(text)
    for path in (ROOT / "plugins/doc_fragments").glob("*.py")
    for name, text in strings(path).items()
}


def documentation(path: Path) -> dict[str, Any]:
    return yaml.safe_load(strings(path)["DOCUMENTATION"])


def options(path: Path) -> dict[str, Any]:
    """The options of a module with those of its fragments."""
    own = documentation(path)
    found: dict[str, Any] = {}
    for name in own.get("extends_documentation_fragment", []):
        found.update(FRAGMENTS[name].get("options") or {})
    return found | own.get("options", {})


def tasks(value: Any) -> list[dict[str, Any]]:
    """All tasks of an example, those in plays and blocks as well."""
    found = []
    for entry in value if isinstance(value, list) else []:
        found.append(entry)
        for key in ("tasks", "block", "rescue", "always"):
            found += tasks(entry.get(key))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
class TestModule:
    def test_has_the_common_parts_in_one_style(self, path):
        text = documentation(path)
        assert text["author"] == AUTHOR
        assert text["version_added"] == "0.1.0"
        assert text["seealso"]
        assert not text["short_description"].endswith(".")
        attributes = "attributes.info" if path.stem.endswith("_info") else "attributes"
        assert PREFIX + attributes in text["extends_documentation_fragment"]

    def test_states_its_support_for_each_attribute(self, path):
        own = documentation(path)
        supported: dict[str, Any] = {}
        for name in own["extends_documentation_fragment"]:
            supported.update(FRAGMENTS[name].get("attributes", {}))
        for name, attribute in own.get("attributes", {}).items():
            supported[name] = supported[name] | attribute
        assert [name for name, attribute in supported.items() if "support" not in attribute] == []

    def test_repeats_nothing_that_a_fragment_says(self, path):
        own = documentation(path)
        for name, option in own.get("options", {}).items():
            assert option not in [(fragment.get("options") or {}).get(name) for fragment in FRAGMENTS.values()], name
        assert "description" not in str(own.get("attributes", {}))
        notes = [note for fragment in FRAGMENTS.values() for note in fragment.get("notes", [])]
        assert not set(own.get("notes", [])) & set(notes)

    def test_examples_use_options_that_there_are(self, path):
        used = [
            (name.removeprefix(PREFIX), arguments)
            for task in tasks(yaml.safe_load(strings(path)["EXAMPLES"]))
            for name, arguments in task.items()
            if name.startswith(PREFIX)
        ]
        assert path.stem in [name for name, _arguments in used]
        for name, arguments in used:
            known = options(ROOT / f"plugins/modules/{name}.py")
            assert set(arguments or {}) <= set(known), name
            missing = {key for key, option in known.items() if option.get("required")} - set(arguments or {})
            assert not missing or isinstance(arguments, str), name


def test_the_action_group_has_the_modules_that_talk_to_the_api():
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
    api = [path.stem for path in MODULES if PREFIX + "api" in documentation(path)["extends_documentation_fragment"]]
    assert runtime["action_groups"] == {"api": api}


def test_every_filter_is_documented():
    documented = {path.stem for path in (ROOT / "plugins/filter").glob("*.yml")}
    for path in sorted((ROOT / "plugins/filter").glob("*.py")):
        names = set(re.findall(r'^ {12}"(\w+)": ', path.read_text(encoding="utf-8"), re.MULTILINE))
        if "DOCUMENTATION" in strings(path):
            documented.add(yaml.safe_load(strings(path)["DOCUMENTATION"])["name"])
        assert names - documented == set(), path.name


def test_no_module_names_its_fragments_twice():
    assert [path.stem for path in MODULES if path.read_text().count("\nextends_documentation_fragment:") > 1] == []


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: path.stem)
def test_the_controllers_half_takes_the_options_of_the_documentation(path):
    assigned = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "ARGUMENTS"
    ]
    facts = ("type", "required", "default", "elements")
    documented = options(ROOT / f"plugins/modules/{path.stem}.py")
    wanted = {name: {key: entry[key] for key in facts if key in entry} for name, entry in documented.items()}
    # Choices may be a constant, which is no literal.
    found = {
        ast.literal_eval(name): {
            ast.literal_eval(key): ast.literal_eval(value)
            for key, value in zip(entry.keys, entry.values, strict=True)
            if ast.literal_eval(key) in facts
        }
        for name, entry in zip(assigned[0].keys, assigned[0].values, strict=True)
    }
    assert found == wanted
