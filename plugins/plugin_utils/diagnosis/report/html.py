# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as one page that requests nothing from anywhere."""

from __future__ import annotations

import html
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import terminal

Mapping = t.Mapping[str, t.Any]


def render(diagnosis: Mapping) -> str:
    """The report as HTML."""
    text = html.escape(terminal.render(diagnosis))
    return f"<!doctype html><html lang='en'><meta charset='utf-8'><title>doctor</title><pre>{text}</pre></html>"
