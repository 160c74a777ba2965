# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: executions
type: aggregate
short_description: Writes down which modules a play executes on which host
description:
  - One line of JSON for each module that an action plugin executes, those of delegated tasks under the host that they
    are delegated to; one for each task that a host takes part in, skipped or not, because Ansible forks a process for
    it; and one for the start of a playbook. For measurements and tests.
options:
  path:
    description: The file that lines are added to. Nothing is written where its folder does not exist.
    env:
      - name: KUBEMETRICS_EXECUTIONS
    ini:
      - section: callback_executions
        key: path
    required: true
    type: path
  results:
    description: Whether the lines have arguments and results, too.
    env:
      - name: KUBEMETRICS_EXECUTIONS_RESULTS
    ini:
      - section: callback_executions
        key: results
    default: false
    type: bool
"""

import contextlib
import json
import os
import time

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase


def write(path, line):
    """Add a line, in one write: those of several processes do not mix."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, (json.dumps(line, default=str) + "\n").encode())
        finally:
            os.close(descriptor)


def record(path, with_results):
    """Tasks run in processes that are forked later: what is replaced here is replaced in all of them."""
    original = ActionBase._execute_module

    def execute(self, module_name=None, module_args=None, tmp=None, task_vars=None, *args, **kwargs):
        started = time.time()
        result = original(self, module_name, module_args, tmp, task_vars, *args, **kwargs)
        line = {
            "host": self._task.delegate_to or (task_vars or {}).get("inventory_hostname"),
            "module": module_name or self._task.action,
            "task": self._task.get_name(),
            "seconds": round(time.time() - started, 3),
        }
        if with_results:
            given = self._task.args if module_args is None else module_args
            line.update(arguments=json.loads(json.dumps(given, default=str)), result=result)
        write(path, line)
        return result

    ActionBase._execute_module = execute


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "executions"
    CALLBACK_NEEDS_ENABLED = True

    def set_options(self, *args, **kwargs):
        super().set_options(*args, **kwargs)
        self.path = self.get_option("path")
        record(self.path, self.get_option("results"))

    def v2_playbook_on_start(self, playbook):
        write(self.path, {"playbook": os.path.basename(playbook._file_name)})

    def v2_runner_on_start(self, host, task):
        write(self.path, {"host": host.get_name(), "started": task.get_name(), "action": task.action})
