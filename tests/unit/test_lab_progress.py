# SPDX-License-Identifier: GPL-3.0-or-later
"""Long steps of the lab report their progress."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "lab/action_plugins/long_command.py"


@pytest.fixture
def long_command(monkeypatch):
    spec = importlib.util.spec_from_file_location("long_command", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "INTERVAL", 0.2)
    return module


@pytest.fixture
def action(long_command, monkeypatch):
    monkeypatch.setattr(long_command.ActionBase, "run", lambda self, tmp, task_vars: {})
    shown = []
    plugin = object.__new__(long_command.ActionModule)
    plugin._display = SimpleNamespace(display=shown.append)

    def run(script, **arguments):
        plugin._task = SimpleNamespace(args={"argv": ["sh", "-c", script], **arguments})
        return plugin.run(), shown

    return run


def test_progress_names_time_share_and_the_newest_line(long_command):
    assert long_command.progress(["a", "k8s.io/api"], 10, 75.9) == "    1:15  2 of about 10 steps, now: k8s.io/api"
    assert long_command.progress([], 0, 1) == "    0:01  0 steps"


def test_a_command_reports_while_it_runs(action):
    result, shown = action('echo "$WHAT in $PWD"; sleep 1', environment={"WHAT": "one"}, chdir="/usr")
    assert result == {"changed": True, "rc": 0}
    assert shown[0].endswith("1 steps, now: one in /usr")


def test_a_failure_shows_the_last_lines(action):
    result, _shown = action("seq 30; exit 3")
    assert result["failed"] and result["rc"] == 3
    assert result["output"] == [str(number) for number in range(16, 31)]
