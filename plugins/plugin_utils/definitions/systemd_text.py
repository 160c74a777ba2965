# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of systemd's files: quotes and escapes read and written, with each decoded character's place in the text.

The places are what makes it possible to change one word of a command line that is spread over lines, quotes and
comments, and to leave the rest of the file byte for byte as it is.
"""

from __future__ import annotations

import re
import typing as t

WHITESPACE = " \t\n\r"
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " "}
_ESCAPES.update({char: char for char in "\\\"'"})
_NUMERIC = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})")
_VARIABLE_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


class SystemdTextError(Exception):
    """One sentence about a file that systemd could not read either."""


class Char(t.NamedTuple):
    """A decoded character: where it stands in the text, and the quote that was open there."""

    char: str
    start: int
    end: int
    quote: str


class Item(t.NamedTuple):
    """A word: its decoded characters and the whole span that it has in the text, quotes included."""

    chars: t.List[Char]
    start: int
    end: int

    @property
    def text(self) -> str:
        return "".join(char.char for char in self.chars)


class Assignment(t.NamedTuple):
    """``key=value`` of a unit or environment file; the value's span in the text includes its quotes."""

    section: str
    key: str
    chars: t.List[Char]
    start: int
    end: int

    @property
    def text(self) -> str:
        return "".join(char.char for char in self.chars)


def is_variable_name(name: str) -> bool:
    return bool(_VARIABLE_NAME.match(name))


def line_number(text: str, index: int) -> int:
    return text.count("\n", 0, index) + 1


def split(chars: t.Sequence[Char], *, unescape: bool) -> t.List[Item]:
    """The words of a value: quotes are taken off; ``unescape`` reads C escapes, else a backslash just protects.

    Commands are read with C escapes, the value of a variable that is split into words is not.
    """
    words: t.List[Item] = []
    current: t.Optional[t.List[Char]] = None
    start = end = 0
    quote = ""
    position = 0
    while position < len(chars):
        char = chars[position]
        if not quote and char.char in WHITESPACE:
            if current is not None:
                words.append(Item(current, start, end))
                current = None
            position += 1
            continue
        if current is None:
            current, start = [], char.start
        taken = 1
        if char.char == quote:
            quote = ""
        elif not quote and char.char in "\"'":
            quote = char.char
        elif char.char == "\\" and position + 1 < len(chars):
            decoded, taken = _escape(chars, position) if unescape else (chars[position + 1].char, 2)
            last = chars[position + taken - 1]
            current.extend(Char(one, char.start, last.end, quote) for one in decoded)
        else:
            current.append(Char(char.char, char.start, char.end, quote))
        position += taken
        end = chars[position - 1].end
    if quote:
        raise SystemdTextError("a quote is opened and never closed")
    if current is not None:
        words.append(Item(current, start, end))
    return words


def _escape(chars: t.Sequence[Char], position: int) -> t.Tuple[str, int]:
    """What a C escape stands for and how many characters it takes; an unknown one stands for itself."""
    following = "".join(char.char for char in chars[position + 1 : position + 10])
    if following[0] in _ESCAPES:
        return _ESCAPES[following[0]], 2
    match = _NUMERIC.match(following)
    if match:
        hexadecimal = match.group(1) or match.group(2) or match.group(3)
        code = int(hexadecimal, 16) if hexadecimal else int(match.group(4), 8)
        if 0 < code < 0x110000:
            return chr(code), 1 + len(match.group(0))
    return "\\" + following[0], 2


def without_specifiers(chars: t.Sequence[Char]) -> t.List[Char]:
    """The characters with each doubled percent sign made one; other specifiers are left as they are written."""
    found: t.List[Char] = []
    position = 0
    while position < len(chars):
        char = chars[position]
        doubled = char.char == "%" and position + 1 < len(chars) and chars[position + 1].char == "%"
        found.append(char._replace(end=chars[position + 1].end) if doubled else char)
        position += 2 if doubled else 1
    return found


def needs_quotes(word: str) -> bool:
    return not word or any(char in WHITESPACE or char in "\"'\\" for char in word)


def quote(word: str) -> str:
    """A word as it has to be written where words are split, in quotes only if it needs them."""
    if not needs_quotes(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def quote_command(word: str, *, expands: bool = True) -> str:
    """A word of a command line; ``expands`` tells whether ``$`` has a meaning there."""
    word = word.replace("%", "%%")
    if expands:
        word = word.replace("$", "$$")
    return '";"' if word == ";" else quote(word)
