# SPDX-License-Identifier: GPL-3.0-or-later
"""The wave of kubelets that is rolled back is the whole one."""

from __future__ import annotations

from pathlib import Path

import yaml

ROLL = Path(__file__).parents[2] / "roles" / "kubelet_access" / "tasks" / "roll.yml"


def test_no_task_for_the_whole_wave_fails_behind_a_change():
    """When a task with run_once fails, Ansible rescues the host that ran it, and stops the others as they are."""
    tasks = yaml.safe_load(ROLL.read_text(encoding="utf-8"))[0]["block"]
    names = [task["name"] for task in tasks]
    behind = tasks[names.index("Change the kubelet's command line") :]
    once = [task for task in behind if task.get("run_once")]
    assert len(once) == 2
    for task in once:
        assert task.get("failed_when") is False, task["name"]
        # The next one fails on each host that it concerns.
        check = behind[behind.index(task) + 1]
        assert task["register"] + ".msg" in str(check["ansible.builtin.assert"]["that"])
        assert "run_once" not in check
