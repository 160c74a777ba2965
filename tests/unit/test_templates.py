# SPDX-License-Identifier: GPL-3.0-or-later
r"""Every template compiles, and those of roles are short.

2.18 doubles backslashes in strings, so that a quote cannot be escaped as in 'it\'s'.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from ansible_programs import run

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("compile_templates.py")


def compiled(*paths):
    done = run(sys.executable, PROGRAM, *paths)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_template_compiles():
    folders = [ROOT / folder for folder in ("roles", "playbooks", "lab", "molecule")]
    result = compiled(*sorted(path for folder in folders for path in folder.rglob("*.yml")))
    assert result["count"] > 500
    assert result["failures"] == []


def test_what_does_not_compile_is_found(tmp_path):
    (tmp_path / "tasks.yml").write_text("msg: \"{{ 'a' ~ }}\"\nwhen: 1 +\nname: \"{{ 'right' }}\"\n")
    assert [failure.split(": ")[-1] for failure in compiled(tmp_path / "tasks.yml")["failures"]] == [
        "{{ 'a' ~ }}",
        "{{ 1 + }}",
    ]


@pytest.mark.parametrize("folder", ["roles", "playbooks"])
def test_no_expression_has_more_than_two_lines(folder):
    """What decides something is Python with a test of its own."""
    long = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in sorted((ROOT / folder).rglob("*.yml"))
        for found in re.findall(r"(?s)\{\{.*?\}\}|\{%.*?%\}", path.read_text(encoding="utf-8"))
        if found.count("\n") > 1
    ]
    assert long == []


def test_nothing_is_chosen_from_a_set_by_its_place():
    """These filters return lists in no order, another one in each run: what is "first" changes between two of them."""
    unordered = re.compile(
        r"(?:intersect|difference|union|symmetric_difference)\((?:[^()]|\([^()]*\))*\)\s*(?:\|\s*(?:first|last)\b|\[)"
    )
    folders = [ROOT / folder for folder in ("roles", "playbooks", "lab", "molecule")]
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for folder in folders
        for path in folder.rglob("*.yml")
        for match in unordered.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert unordered.search("a | intersect(b) | first") and unordered.search("a | difference(b.split()) | first")
