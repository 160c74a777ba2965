# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Unit files and environment files as systemd reads them, with each decoded character's place in the text.

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


# --- words ----------------------------------------------------------------------------------------------------------


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


# --- unit files -----------------------------------------------------------------------------------------------------


def parse_unit(text: str) -> t.List[Assignment]:
    """The assignments of a unit file in order. A comment inside a continued line is passed over, as systemd does."""
    found: t.List[Assignment] = []
    section = ""
    logical: t.List[Char] = []
    continued = False
    position = 0
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


# --- environment files ----------------------------------------------------------------------------------------------


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
