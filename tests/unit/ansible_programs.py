# SPDX-License-Identifier: GPL-3.0-or-later
"""Running Ansible's programs as a user of this tree does, on the Ansible that runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROGRAMS = Path(sys.executable).parent


def environment():
    """The variables that a program of Ansible finds this tree by."""
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".ansible/collections"),
        "ANSIBLE_NOCOLOR": "1",
        "PATH": f"{_PROGRAMS}:{os.environ['PATH']}",
    }


def play(*arguments):
    """Run ansible-playbook with these arguments, and return how it ended, with what it wrote as text."""
    return run(_PROGRAMS / "ansible-playbook", *arguments)


def run(*command):
    """Run a program in the root of the tree, and return how it ended, with what it wrote as text."""
    return subprocess.run(
        [str(part) for part in command], env=environment(), capture_output=True, text=True, check=False, cwd=ROOT
    )
