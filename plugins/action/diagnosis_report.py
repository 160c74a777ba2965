# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows a diagnosis, and ends as it says: well, with findings, or with hosts that could not be examined."""

from __future__ import annotations

import os
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.color import ANSIBLE_COLOR
from ansible.utils.display import Display
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import report_channel
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import engine
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import forms
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.private_file import FileError, write_private


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "diagnosis": {"type": "dict", "required": True},
        "output": {"type": "str", "choices": ["terminal", "json", "markdown", "html"], "default": "terminal"},
        "report_file": {"type": "path", "default": ""},
        "fail_on_findings": {"type": "bool", "default": True},
    }

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        arguments = native(arguments)
        diagnosis = arguments["diagnosis"]
        result["changed"] = False
        try:
            show(diagnosis, arguments["output"], arguments["report_file"], inventory(task_vars or {}))
        except FileError as exc:
            result.update(failed=True, msg=str(exc))
            return result
        result.update(verdict=diagnosis["verdict"], msg=diagnosis["headline"])
        status = diagnosis["exit_status"] if arguments["fail_on_findings"] else engine.WELL
        if status == engine.UNREACHABLE:
            result["unreachable"] = True
        elif status != engine.WELL:
            result["failed"] = True
        return result


def inventory(task_vars: t.Mapping[str, t.Any]) -> list[str]:
    """What the user gave to -i, as short as it can be said from here; nothing where it has no hosts."""
    groups = native(task_vars.get("groups")) or {}
    if not any(hosts for name, hosts in groups.items() if name != "ungrouped"):
        return []
    here = os.getcwd() + os.sep
    return [str(source).removeprefix(here) for source in native(task_vars.get("ansible_inventory_sources")) or []]


def show(diagnosis: t.Mapping[str, t.Any], form: str, report_file: str, sources: t.Sequence[str]) -> None:
    """Print the report; or write it to a file, and print what a terminal shows."""
    if report_file:
        write_private(report_file, forms.render(diagnosis, form) + "\n")
        form = "terminal"
    text = "\n" + forms.render(diagnosis, form, colour=bool(ANSIBLE_COLOR), inventory=sources) + "\n"
    if not report_channel.deliver(text):
        Display().display(text)
