# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles send to hosts for a moment is removed in any case."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("roles/*/tasks/*.yml"))


def sent(tasks):
    """The temporary files of /var/tmp that tasks and their blocks send."""
    for task in tasks or ():
        target = str((task.get("ansible.builtin.copy") or {}).get("dest", ""))
        if "_packed" in target or target.startswith("/var/tmp"):
            yield target
        yield from sent(task.get("block"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_is_removed_where_the_next_step_fails(path):
    for task in yaml.safe_load(path.read_text(encoding="utf-8")) or ():
        for target in sent([task]):
            removed = [entry.get("ansible.builtin.file") or {} for entry in task.get("always") or ()]
            assert {"path": target, "state": "absent"} in removed, f"{target} stays"


def test_there_is_something_to_remove():
    assert any(list(sent(yaml.safe_load(path.read_text(encoding="utf-8")))) for path in FILES)
