# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report for a terminal: the verdict in the first line, then the path, then a paragraph a finding."""

from __future__ import annotations

import typing as t

Mapping = t.Mapping[str, t.Any]


def render(diagnosis: Mapping, *, colour: bool = False) -> str:
    """The report as text of about 100 columns."""
    lines = [str(diagnosis["headline"])]
    for hop in diagnosis["path"]:
        lines.append(f"  {hop['kind']} {hop['name']}: {hop['state']} {hop['text']}".rstrip())
    for finding in diagnosis["findings"]:
        lines += ["", f"{finding['id']} {finding['title']}", *(f"  | {line}" for line in finding["evidence"])]
    return "\n".join(lines)
