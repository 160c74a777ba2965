# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders the variable tables of the role READMEs from the argument specs; run it to write them.

python tests/unit/role_docs.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
BEGIN = "<!-- variables: written by tests/unit/role_docs.py -->"
END = "<!-- /variables -->"


def roles() -> list[str]:
    return sorted(path.name for path in ROLES.iterdir() if (path / "tasks").is_dir())


def load(role: str, file: str) -> dict[str, Any]:
    return yaml.safe_load((ROLES / role / file).read_text(encoding="utf-8")) or {}


def options(role: str) -> dict[str, dict[str, Any]]:
    """The options of the role's main entry point."""
    return load(role, "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})


def plain(text: str) -> str:
    """Ansible's markup as Markdown."""
    text = re.sub(r"[OV]\(([^)]*)\)", r"`\1`", text)
    text = re.sub(r"C\(([^)]*)\)", r"`\1`", text)
    return text.replace("|", "\\|")


def value(default: Any) -> str:
    if default in ("", [], {}):
        return {"": "empty", "[]": "`[]`", "{}": "`{}`"}[default if default == "" else json.dumps(default)]
    return f"`{default if isinstance(default, str) else json.dumps(default)}`".replace("|", "\\|")


def table(role: str) -> str:
    lines = ["| Variable | Type | Default | What it does |", "|---|---|---|---|"]
    for name, option in options(role).items():
        kind = f"list of {option['elements']}" if "elements" in option else option["type"]
        description = option["description"]
        text = " ".join(description if isinstance(description, list) else [description])
        if "choices" in option:
            text += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
        default = value(option["default"]) if "default" in option else "required"
        lines.append(f"| `{name}` | {kind} | {default} | {plain(text)} |")
    return "\n".join([BEGIN, *lines, END])


def rendered(role: str) -> str:
    """The README as it has to be: what people wrote, with the table between the marks."""
    text = (ROLES / role / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"roles/{role}/README.md lacks the marks {BEGIN} and {END}.")
    return before + table(role) + after


if __name__ == "__main__":
    for name in roles():
        readme = ROLES / name / "README.md"
        readme.write_text(rendered(name), encoding="utf-8")
        print(readme)
