# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flags of Kubernetes components: their names, their values, and how a command line carries them.

The components parse with pflag: ``--name=value``, ``--name value``, a bare ``--name`` for true, and ``_`` as good as
``-`` in names. Of a flag that takes one value the last one wins; a flag that takes a list adds up what it is given.
"""

from __future__ import annotations

import re
import typing as t

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}

#: Flags that are given once for each value, because a value may hold a comma. All other lists are joined by commas.
REPEATED = frozenset(
    {
        "etcd-servers-overrides",
        "node-labels",
        "oidc-required-claim",
        "register-with-taints",
        "service-account-issuer",
        "service-account-key-file",
        "tls-sni-cert-key",
    }
)


class FlagError(ValueError):
    """One sentence about a flag that the user asked for."""


class Flag(t.NamedTuple):
    """One flag of a command line: the words ``[start, end)`` carry it. ``value`` is None for a bare ``--name``."""

    name: str
    value: t.Optional[str]
    start: int
    end: int

    @property
    def text(self) -> str:
        """The value as the component takes it."""
        return "true" if self.value is None else self.value


def normalize(name: str) -> str:
    """The name as pflag compares it, without dashes in front."""
    return name.lstrip("-").replace("_", "-")


def same_name(one: str, other: str) -> bool:
    return normalize(one) == normalize(other)


def text_of(value: t.Any) -> str:
    """A value as it stands in a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def check_wanted(wanted: t.Mapping[str, t.Any]) -> None:
    """Refuse what cannot be a flag; raises FlagError."""
    if not wanted:
        raise FlagError("flags is empty; name the flags to set, for example {enable-aggregator-routing: true}.")
    seen: t.Dict[str, str] = {}
    for name, value in wanted.items():
        if not isinstance(name, str) or not _NAME.match(name.lstrip("-")):
            raise FlagError(
                f"flags has {name!r}, which is no name of a flag; write it as in enable-aggregator-routing."
            )
        if normalize(name) in seen:
            raise FlagError(f"flags has both {seen[normalize(name)]} and {name}, which are the same flag; keep one.")
        seen[normalize(name)] = name
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, (dict, list)) or (part is None and isinstance(value, list)):
                raise FlagError(
                    f"flags.{name} is {value!r}; a flag is a string, a number, a boolean, or a list of those."
                )
            if isinstance(part, str) and ("\n" in part or "\r" in part or "\0" in part):
                raise FlagError(f"flags.{name} holds a line break, which no value of a flag can.")
        if value == []:
            raise FlagError(f"flags.{name} is an empty list; write null to remove the flag.")


def values_of(name: str, value: t.Any) -> t.List[str]:
    """The values that a flag shall have, one for each time it is given; none when it shall be gone."""
    if value is None:
        return []
    if isinstance(value, list):
        parts = [text_of(part) for part in value]
        return parts if normalize(name) in REPEATED else [",".join(parts)]
    return [text_of(value)]


def same_value(current: str, wanted: str) -> bool:
    """Whether two texts mean the same to a component: equal, or the same truth value."""
    return current == wanted or (current in _TRUE and wanted == "true") or (current in _FALSE and wanted == "false")


def same_values(current: t.Sequence[str], wanted: t.Sequence[str]) -> bool:
    return len(current) == len(wanted) and all(same_value(one, two) for one, two in zip(current, wanted))  # noqa: B905


def parse(words: t.Sequence[str]) -> t.List[Flag]:
    """The flags in the words of a command line, the program left out. Words after ``--`` are none."""
    found = []
    position = 0
    while position < len(words):
        word = words[position]
        start = position
        position += 1
        if word == "--":
            break
        if not word.startswith("-") or not word.strip("-"):
            continue
        name, equals, value = word.partition("=")
        if equals:
            found.append(Flag(normalize(name), value, start, position))
        elif position < len(words) and not _is_flag(words[position]):
            found.append(Flag(normalize(name), words[position], start, position + 1))
            position += 1
        else:
            found.append(Flag(normalize(name), None, start, position))
    return found


def _is_flag(word: str) -> bool:
    """Whether a word begins a flag; a negative number is a value."""
    return word.startswith("-") and len(word) > 1 and not re.match(r"^-[0-9.]", word)


def effective(found: t.Iterable[Flag]) -> t.Dict[str, str]:
    """Name -> the last value."""
    return {flag.name: flag.text for flag in found}


def duplicates(found: t.Sequence[Flag]) -> t.List[str]:
    """The flags that are given more than once though one value counts, in order of appearance."""
    names = [flag.name for flag in found]
    return [name for name in dict.fromkeys(names) if names.count(name) > 1 and name not in REPEATED]


class Edit(t.NamedTuple):
    """One step of a plan: ``replace`` or ``remove`` the words of ``flag``, or ``add`` a flag; ``value`` as for Flag."""

    action: str
    name: str
    value: t.Optional[str]
    flag: t.Optional[Flag]


def plan(found: t.Sequence[Flag], wanted: t.Mapping[str, t.Any]) -> t.List[Edit]:
    """The steps from the flags that are there to those that are wanted. What already holds is left as it is written.

    A flag that is given more often than it has values is folded: the last ones stay, because the last one wins.
    """
    edits: t.List[Edit] = []
    for name, value in wanted.items():
        there = [flag for flag in found if same_name(flag.name, name)]
        values = values_of(name, value)
        if same_values([flag.text for flag in there], values):
            continue
        keep = there[len(there) - len(values) :] if values else []
        for flag in there[: len(there) - len(keep)]:
            edits.append(Edit("remove", normalize(name), None, flag))
        for flag, text in zip(keep, values):  # noqa: B905 - keep may be the shorter one
            if not same_value(flag.text, text):
                edits.append(Edit("replace", normalize(name), text, flag))
        for text in values[len(keep) :]:
            edits.append(Edit("add", normalize(name), text, None))
    return edits
