# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiles every template and condition of the given YAML files with the Ansible that runs this, and prints what fails.

A program of its own: Ansible's plugin loader takes over how collections are imported, for the rest of the process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

try:
    from ansible.template import trust_as_template
except ImportError:  # ansible-core 2.18

    def trust_as_template(value: str) -> str:
        return value


CONDITIONS = {"when", "that", "until", "failed_when", "changed_when"}


def templates(value: Any, key: str = "") -> Iterator[str]:
    """Every text that Ansible would give to Jinja."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(name, str):
                yield from templates(name)
            yield from templates(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from templates(inner, key)
    elif isinstance(value, str) and key in CONDITIONS:
        yield "{{ " + value + " }}"
    elif isinstance(value, str) and ("{{" in value or "{%" in value):
        yield value


def main(paths: list[str]) -> None:
    init_plugin_loader()
    templar = Templar(loader=DataLoader(), variables={})
    failures, count = [], 0
    for path in paths:
        for text in templates(yaml.safe_load(Path(path).read_text(encoding="utf-8"))):
            count += 1
            try:
                # What is never reached is compiled and not evaluated.
                templar.template(trust_as_template("{% if false %}" + text + "{% endif %}"))
            except Exception as exc:
                failures.append(f"{path}: {exc}: {text}")
    json.dump({"count": count, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
