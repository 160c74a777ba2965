# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans a repair from a diagnosis and shows the plan; or says afterwards what is left of what was repaired."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import plan
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "diagnosis": {"type": "dict", "required": True},
        "findings": {"type": "str", "default": ""},
        "done": {"type": "dict"},
    }

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, given = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        arguments = native(given)
        result.update(changed=False)
        if arguments["done"] is not None:
            left = plan.remaining(arguments["diagnosis"], arguments["done"])
            result.update(remaining=left)
            return result
        try:
            wanted = plan.asked(arguments["findings"])
            found = plan.plan(arguments["diagnosis"], wanted)
        except plan.PlanError as exc:
            result.update(failed=True, msg=str(exc))
            return result
        self._display.display(f"\n{plan.as_text(found, wanted)}\n")
        result.update(plan=found)
        return result
