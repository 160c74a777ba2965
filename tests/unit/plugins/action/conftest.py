# SPDX-License-Identifier: GPL-3.0-or-later
"""Editors without Ansible around them: their calls to the host's module go to the real one, in this process."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import definition_file, recorded_changes_info
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.editor import EditError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.program import DefinitionError


@pytest.fixture
def run_editor(run_module, tmp_path):
    """Runs an editor against this machine's files; ``host`` is what component_info says."""

    def run(plugin, host, check_mode=False, **arguments):
        run.modules = []
        editor = plugin.ActionModule.__new__(plugin.ActionModule)
        editor._task = SimpleNamespace(diff=True, check_mode=check_mode)
        editor.task_vars = {}
        editor.known_to_exist = {}

        def module(name, **given):
            run.modules.append(name)
            if name == "component_info":
                return copy.deepcopy(host)
            modules = {"definition_file": definition_file, "recorded_changes_info": recorded_changes_info}
            result = run_module(modules[name], check_mode=check_mode, **given)
            if result.get("failed"):
                raise EditError(result["msg"])
            return result

        editor.module = module
        defaults = {name: spec.get("default") for name, spec in editor.ARGUMENTS.items()}
        try:
            return editor.edit({**defaults, "state_dir": str(tmp_path / "state"), **arguments})
        except DefinitionError as exc:
            # run() shows both to the user in the same way.
            raise EditError(str(exc)) from exc

    return run
