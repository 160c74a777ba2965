# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Environment files as systemd reads them, and values written for them."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.systemd_text import (
    WHITESPACE,
    Assignment,
    Char,
    SystemdTextError,
    is_variable_name,
    line_number,
)


def parse_environment(text: str) -> t.List[Assignment]:
    """The assignments of an environment file in order.

    A value ends with its line, unless the end of the line is escaped or inside quotes. A comment whose last character
    is a backslash swallows the next line, as most releases of systemd have it.
    """
    found: t.List[Assignment] = []
    position = 0
    while position < len(text):
        if text[position] in WHITESPACE:
            position += 1
        elif text[position] in "#;":
            position = _end_of_comment(text, position)
        else:
            position = _take_variable(text, position, found)
    return found


def _end_of_comment(text: str, position: int) -> int:
    while position < len(text) and text[position] != "\n":
        position += 2 if text[position] == "\\" else 1
    return position


def _take_variable(text: str, position: int, found: t.List[Assignment]) -> int:
    equals = position
    while equals < len(text) and text[equals] not in "=\n":
        equals += 1
    if equals >= len(text) or text[equals] == "\n":
        return equals
    key = text[position:equals].strip()
    chars, start, end, after = _environment_value(text, equals + 1)
    if is_variable_name(key):
        found.append(Assignment("", key, chars, start, end))
    return after


def _environment_value(text: str, position: int) -> t.Tuple[t.List[Char], int, int, int]:
    """(characters, start and end of the value in the text, where to go on)"""
    chars: t.List[Char] = []
    start: t.Optional[int] = None
    end = position
    quote = ""
    bare = False
    first = position
    while position < len(text):
        char = text[position]
        if not quote and char in "\n\r":
            break
        if not quote and not bare and char in WHITESPACE:
            position += 1
            continue
        if start is None:
            start = position
        if quote:
            if char == quote:
                quote, position = "", position + 1
            elif quote == '"' and char == "\\" and position + 1 < len(text):
                following = text[position + 1]
                if following in '"\\`$':
                    chars.append(Char(following, position, position + 2, quote))
                elif following != "\n":
                    chars.append(Char("\\", position, position + 1, quote))
                    chars.append(Char(following, position + 1, position + 2, quote))
                position += 2
            else:
                chars.append(Char(char, position, position + 1, quote))
                position += 1
        elif char in "\"'" and not bare:
            quote, position = char, position + 1
        elif char == "\\" and position + 1 < len(text):
            bare = True
            if text[position + 1] != "\n":
                chars.append(Char(text[position + 1], position, position + 2, ""))
            position += 2
        else:
            bare = True
            chars.append(Char(char, position, position + 1, ""))
            position += 1
        end = position
    if quote:
        raise SystemdTextError(f"the quote opened in line {line_number(text, start or first)} is never closed")
    while chars and not chars[-1].quote and chars[-1].char in " \t" and chars[-1].end - chars[-1].start == 1:
        end = chars.pop().start
    return chars, first if start is None else start, first if start is None else end, position


def escape_environment(word: str, quote_char: str) -> str:
    """Text as it has to be written inside of a quoted value of an environment file."""
    if quote_char == "'":
        return word.replace("'", "'\"'\"'")
    return re.sub(r'(["\\`$])', r"\\\1", word)


def render_environment(value: str) -> str:
    """A whole value of an environment file, in quotes if it needs them."""
    if value and re.match(r"^[A-Za-z0-9_./:=,@%+-]+$", value):
        return value
    return '"' + escape_environment(value, '"') + '"'
