# SPDX-License-Identifier: GPL-3.0-or-later
"""Command line flags in the syntax of Kubernetes components (Go's pflag), which argparse does not speak.

`--name=value`, `--name value`, bare booleans that never take the next word, `-v4`, `-v=4`, `-v 4`, comma lists that
add up over repeated flags with the default replaced, Go durations. The error texts are those operators know from other
components.
"""

from __future__ import annotations

import csv
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

Options = TypeVar("Options")

_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class FlagError(ValueError):
    """The command line cannot be understood; the text is one sentence for the operator."""


def parse_duration(text: str) -> float:
    """Return the seconds of a Go duration such as `1m30s`."""
    rest = text.removeprefix("-").removeprefix("+") if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    seconds, position = 0.0, 0
    while position < len(rest):
        part = _DURATION_PART.match(rest, position)
        if part is None:
            if re.fullmatch(r"[\d.]+", rest[position:]):
                raise ValueError(f'time: missing unit in duration "{text}"')
            raise ValueError(f'time: invalid duration "{text}"')
        seconds += float(part.group(1)) * _DURATION_UNITS[part.group(2)]
        position = part.end()
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    return -seconds if text.startswith("-") else seconds


def format_duration(seconds: float) -> str:
    """Return seconds as Go writes a duration, such as `1m30s`."""
    if seconds == 0:
        return "0s"
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 1:
        return f"{sign}{seconds * 1000:g}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{hours:.0f}h" if hours else ""
    text += f"{minutes:.0f}m" if hours or minutes else ""
    return f"{sign}{text}{rest:g}s"


def _boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def _integer(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'strconv.ParseFloat: parsing "{text}": invalid syntax') from None


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError(f'failed to parse IP: "{text}"') from None


def _strings(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise ValueError(f"not a comma-separated list: {error}") from None
    return tuple(rows[0]) if rows else ()


#: kind -> (parser of one value, the word that `--help` shows, whether repeated flags add up)
_KINDS: dict[str, tuple[Callable[[str], Any], str, bool]] = {
    "bool": (_boolean, "", False),
    "string": (str, "string", False),
    "int": (_integer, "int", False),
    "float": (_number, "float", False),
    "duration": (parse_duration, "duration", False),
    "ip": (_address, "ip", False),
    "strings": (_strings, "strings", True),
}


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag."""

    name: str
    kind: str
    default: Any
    group: str
    help: str
    shorthand: str = ""
    #: `used`; `ignored` = accepted with a warning; `refused` = an error unless it says what holds anyway.
    status: str = "used"
    #: What the warning or the error says.
    note: str = ""
    #: The name of the attribute that holds the value, where it does not follow from the flag's.
    attribute: str = ""

    @property
    def option(self) -> str:
        """Return the name of the attribute that holds the value."""
        return self.attribute or self.name.replace("-", "_").replace(".", "_")


#: Where the metadata of a field holds the flag that it declares.
_DECLARED = "flag"


def flag(kind: str, default: Any, group: str, text: str, *, name: str = "", shorthand: str = "") -> Any:
    """Declare a field of a dataclass as a flag: a flag and the option that it sets are one line.

    Its name is that of the field with hyphens, unless `name` says otherwise.
    """
    declared = Flag(name, kind, default, group, text, shorthand)
    # Dataclasses call this function where they would call field.
    return field(default=default, metadata={_DECLARED: declared})  # pylint: disable=invalid-field-call


def flags_of(options: type) -> tuple[Flag, ...]:
    """Return the flags that the fields of a dataclass declare: its own, then those that it inherits."""
    found = [one for one in fields(options) if _DECLARED in one.metadata]
    found.sort(key=lambda one: one.name not in options.__annotations__)
    return tuple(
        replace(
            one.metadata[_DECLARED],
            name=one.metadata[_DECLARED].name or one.name.replace("_", "-"),
            attribute=one.name,
        )
        for one in found
    )


def ignored(name: str, kind: str, default: Any, group: str, note: str) -> Flag:
    """Return a flag that is accepted with a warning; `note` says why it has no effect."""
    return Flag(name, kind, default, group, "", status="ignored", note=note)


def refused(name: str, kind: str, default: Any, group: str, note: str) -> Flag:
    """Return a flag that is an error unless it says what holds anyway; `note` says why."""
    return Flag(name, kind, default, group, "", status="refused", note=note)


@dataclass(frozen=True, slots=True)
class Parsed:
    """The result of a command line: values of all flags, and which of them were given."""

    values: dict[str, Any]
    given: tuple[str, ...]

    def options(self, options: type[Options]) -> Options:
        """Return the values as the dataclass of which the fields declare the flags."""
        return options(**{flag.option: self.values[flag.option] for flag in flags_of(options)})


class FlagSet:
    """A table of flags and the parser for it."""

    def __init__(self, flags: Iterable[Flag]) -> None:
        self.flags = tuple(flags)
        self._by_name = {flag.name: flag for flag in self.flags}
        self._by_shorthand = {flag.shorthand: flag for flag in self.flags if flag.shorthand}

    def __getitem__(self, name: str) -> Flag:
        return self._by_name[name]

    def parse(self, arguments: Sequence[str]) -> Parsed:
        """Parse a command line; raise `FlagError` with one sentence when it is wrong."""
        values = {flag.option: flag.default for flag in self.flags}
        given: dict[str, None] = {}
        pending = list(arguments)
        while pending:
            argument = pending.pop(0)
            if argument == "--" and not pending:
                break
            if argument == "--" or argument in ("", "-") or not argument.startswith("-"):
                raise FlagError(
                    f'unexpected argument "{pending[0] if argument == "--" else argument}": only flags are understood; '
                    "a boolean flag takes its value as --flag=false"
                )
            if argument.startswith("--"):
                self._long(argument, pending, values, given)
            else:
                self._short(argument, pending, values, given)
        return Parsed(values, tuple(given))

    def warnings(self, parsed: Parsed) -> list[str]:
        """Return a sentence for each given flag without effect; raise `FlagError` for one that is refused."""
        sentences = []
        for name in parsed.given:
            flag = self[name]
            if flag.status == "ignored":
                sentences.append(f"--{name} has no effect: {flag.note}")
            elif flag.status == "refused" and parsed.values[flag.option] != flag.default:
                raise FlagError(f"--{name} cannot be used: {flag.note}")
        return sentences

    def _long(self, argument: str, pending: list[str], values: dict[str, Any], given: dict[str, None]) -> None:
        name, equals, value = argument[2:].partition("=")
        if not name or name.startswith("-"):
            raise FlagError(f"bad flag syntax: {argument}")
        flag = self._by_name.get(name)
        if flag is None:
            raise FlagError(f"unknown flag: --{name} (see --help)")
        self._set(flag, f"--{name}", value if equals else None, pending, values, given)

    def _short(self, argument: str, pending: list[str], values: dict[str, Any], given: dict[str, None]) -> None:
        letters = argument[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._by_shorthand.get(letter)
            if flag is None:
                raise FlagError(f"unknown shorthand flag: {letter!r} in {argument} (see --help)")
            value: str | None = None
            if letters.startswith("="):
                value, letters = letters[1:], ""
            elif letters and flag.kind != "bool":
                value, letters = letters, ""
            self._set(flag, f"-{letter}, --{flag.name}", value, pending, values, given)

    @staticmethod
    def _set(
        flag: Flag, shown: str, value: str | None, pending: list[str], values: dict[str, Any], given: dict[str, None]
    ) -> None:
        parser, _unused, adds = _KINDS[flag.kind]
        if value is None:
            if flag.kind == "bool":
                value = "true"
            elif pending:
                value = pending.pop(0)
            else:
                raise FlagError(f"flag needs an argument: {shown}")
        try:
            parsed = parser(value)
        except ValueError as error:
            raise FlagError(f'invalid argument "{value}" for "{shown}" flag: {error}') from None
        values[flag.option] = values[flag.option] + parsed if adds and flag.name in given else parsed
        given[flag.name] = None

    def usage(self, width: int) -> str:
        """Return the text of `--help`: the flags by group, wrapped to the width of the terminal."""
        lines: list[str] = []
        for group in dict.fromkeys(flag.group for flag in self.flags):
            lines += [f"{group} flags:", ""]
            rows = [(_synopsis(flag), flag) for flag in self.flags if flag.group == group]
            column = min(max(len(synopsis) for synopsis, _unused in rows) + 3, 52)
            for synopsis, flag in rows:
                lines += _wrap(synopsis, _description(flag), column, max(width, column + 40))
            lines.append("")
        return "\n".join(lines)


def _synopsis(flag: Flag) -> str:
    word = _KINDS[flag.kind][1]
    head = f"  -{flag.shorthand}, --{flag.name}" if flag.shorthand else f"      --{flag.name}"
    return f"{head} {word}" if word else head


def _description(flag: Flag) -> str:
    text = flag.help
    if flag.status != "used":
        text = f"{'Accepted without effect' if flag.status == 'ignored' else 'Refused'}: {flag.note}"
    elif flag.kind == "duration" and flag.default:
        text += f" (default {format_duration(flag.default)})"
    elif flag.kind == "strings" and flag.default:
        text += f" (default [{','.join(flag.default)}])"
    elif flag.kind == "string" and flag.default:
        text += f' (default "{flag.default}")'
    elif flag.default and flag.kind in ("int", "float", "ip", "bool"):
        text += f" (default {str(flag.default).lower()})"
    return text


def _wrap(synopsis: str, text: str, column: int, width: int) -> list[str]:
    lines: list[str] = []
    line = synopsis.ljust(column)
    if len(synopsis) >= column:
        lines.append(synopsis)
        line = " " * column
    for word in text.split():
        if len(line) + len(word) + 1 > width and line.strip():
            lines.append(line.rstrip())
            line = " " * column
        line += word + " "
    lines.append(line.rstrip())
    return lines
