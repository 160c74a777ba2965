# SPDX-License-Identifier: GPL-3.0-or-later
"""How a wave of kubelets ends: every one that failed is rolled back, and every healthy one stays."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible_programs import play

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles" / "kubelet_access"
ROLL = ROLE / "tasks" / "roll.yml"


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


WAVE = """
- hosts: all
  gather_facts: false
  vars_files: [{role}/vars/main.yml]
  vars:
    kubelet_access_batch: [a, b, c]
    cluster_api_host: localhost
    _kubelet_access_plan: {{unit: kubelet.service}}
  tasks:
    - name: Change a wave
      block:
        - name: Check that it is healthy
          ansible.builtin.assert: {{that: inventory_hostname != 'b', fail_msg: port 10250 is closed, quiet: true}}
        - name: Remember that it is healthy
          ansible.builtin.set_fact: {{_kubelet_access_healthy: true}}
      rescue: {rescue}
    - name: Change the next wave
      ansible.builtin.debug: {{msg: NEXT WAVE}}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What Ansible prints where the second one of three kubelets fails, with the rescue of the role."""
    rescue = yaml.safe_load(ROLL.read_text(encoding="utf-8"))[0]["rescue"]
    for task in rescue:
        if "ansible.builtin.include_tasks" in task:
            task["ansible.builtin.include_tasks"] = str(ROLE / "tasks" / task["ansible.builtin.include_tasks"])
    playbook = tmp_path_factory.mktemp("wave") / "wave.yml"
    playbook.write_text(WAVE.format(role=ROLE, rescue=rescue))
    done = play("-i", "a,b,c,", "-c", "local", playbook)
    return re.sub(r"\s+", " ", done.stdout + done.stderr)


def test_the_kubelet_that_failed_says_why(ended):
    assert "The kubelet of b did not pass its health check (Check that it is healthy: port 10250 is closed);" in ended


def test_healthy_kubelets_of_its_wave_are_not_touched_and_say_so(ended):
    for name in ("a", "c"):
        assert f"The kubelet of {name} passed its health check and keeps its new configuration;" in ended
        assert f"The kubelet of {name} did not" not in ended
    assert "because others of the same wave did not (b)." in ended


def test_no_further_wave_follows(ended):
    assert "NEXT WAVE" not in ended
