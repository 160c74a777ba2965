# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Unit files as systemd reads them."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.systemd_text import (
    WHITESPACE,
    Assignment,
    Char,
    SystemdTextError,
    line_number,
)


def parse_unit(text: str) -> t.List[Assignment]:
    """The assignments of a unit file in order.

    A comment inside a continued line is passed over, and so is a byte order mark at the beginning, as systemd does.
    """
    found: t.List[Assignment] = []
    section = ""
    logical: t.List[Char] = []
    continued = False
    position = 1 if text[:1] == "\ufeff" else 0
    while position < len(text):
        newline = text.find("\n", position)
        end = len(text) if newline < 0 else newline
        after = len(text) if newline < 0 else newline + 1
        body_end = end - 1 if end > position and text[end - 1] == "\r" else end
        line = text[position:body_end]
        if line.lstrip(" \t")[:1] in ("#", ";"):
            position = after
            continue
        backslashes = len(line) - len(line.rstrip("\\"))
        if line.rstrip(" \t") != line and line.rstrip(" \t").endswith("\\"):
            raise SystemdTextError(
                f"line {line_number(text, position)} has white space behind its last backslash, which versions of "
                "systemd read differently"
            )
        continues = backslashes % 2 == 1
        stop = body_end - 1 if continues else body_end
        logical.extend(Char(text[index], index, index + 1, "") for index in range(position, stop))
        if continues:
            logical.append(Char(" ", stop, after, ""))
            continued = True
            position = after
            continue
        position = after
        section = _take_line(text, logical, section, found)
        logical, continued = [], False
    if continued and logical:
        _take_line(text, logical, section, found)
    return found


def _take_line(text: str, logical: t.List[Char], section: str, found: t.List[Assignment]) -> str:
    line = "".join(char.char for char in logical)
    stripped = line.strip()
    if not stripped:
        return section
    if stripped.startswith("[") and stripped.endswith("]"):
        return stripped[1:-1]
    equals = line.find("=")
    if equals < 0:
        # systemd warns of such a line and passes it over.
        return section
    first, last = equals + 1, len(logical)
    while first < last and logical[first].char in WHITESPACE:
        first += 1
    while last > first and logical[last - 1].char in WHITESPACE:
        last -= 1
    value = logical[first:last]
    start = value[0].start if value else logical[equals].end
    end = value[-1].end if value else start
    found.append(Assignment(section, line[:equals].strip(), value, start, end))
    return section
