# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prints the report of doctor.yml behind the recap, so that it comes last with any number of hosts.

Ansible loads what lies beside a playbook. For every other playbook this does nothing.
"""

from __future__ import annotations

import os
import typing as t

from ansible.plugins.callback import CallbackBase
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import report_channel

DOCUMENTATION = r"""
name: report_last
type: notification
short_description: Print the report of doctor.yml behind the recap
version_added: 0.1.0
description:
  - Prints what the playbook C(doctor.yml) reports after everything else.
"""

PLAYBOOKS = ("doctor.yml",)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "report_last"

    path: str | None = None

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        if os.path.basename(str(getattr(playbook, "_file_name", ""))) in PLAYBOOKS:
            self.path = report_channel.open_channel()

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        if self.path:
            text, self.path = report_channel.close_channel(self.path), None
            if text:
                self._display.display(text)
