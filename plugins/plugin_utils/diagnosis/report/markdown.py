# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as Markdown, to paste into an issue."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import terminal

Mapping = t.Mapping[str, t.Any]


def render(diagnosis: Mapping) -> str:
    """The report as Markdown."""
    return f"```text\n{terminal.render(diagnosis)}\n```"
