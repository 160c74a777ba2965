# SPDX-License-Identifier: GPL-3.0-or-later
r"""Every template compiles. 2.18 doubles backslashes in strings, so that a quote cannot be escaped as in 'it\'s'."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("compile_templates.py")


def compiled(*paths):
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".ansible/collections"),
    }
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    )
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
