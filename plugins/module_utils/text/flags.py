# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of a Kubernetes component, as pflag reads it. Nothing else in this collection parses one.

``program_index`` finds where the arguments begin, ``parse`` makes flags of them, ``effective`` says what they mean, and
``plan`` how to get from there to what is wanted. ``flag_kinds`` says what each flag takes.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flag_kinds import (
    ARRAY,
    BOOLEAN,
    LIST,
    MAP,
    SCALAR,
    SINGLE_PAIRS,
    kind_of,
)

#: What a flag means: a list of strings for those that take lists, else the text of its value.
Value = t.Union[str, t.List[str]]

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}
_LISTS = (LIST, ARRAY)
_ADDING_UP = (LIST, ARRAY, MAP)


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
    """The name as the components compare it, without dashes in front."""
    return name.lstrip("-").replace("_", "-")


def same_name(one: str, other: str) -> bool:
    return normalize(one) == normalize(other)


# --- reading --------------------------------------------------------------------------------------------------------


def program_index(words: t.Sequence[str], component: str) -> t.Optional[int]:
    """The index of the word that names the program, behind whatever starts it; its arguments follow.

    What stands in front (nice, env, go-runner, kube-log-runner, with flags of their own) belongs to somebody else.
    """
    short = component.replace("kube-", "", 1)
    for index, word in enumerate(words):
        base = os.path.basename(word)
        following = os.path.basename(words[index + 1]) if index + 1 < len(words) else ""
        if base == "hyperkube" and following in (component, short):
            return index + 1
        if base == component and not word.startswith("-"):
            # systemd-cat -t kubelet /usr/bin/kubelet: the first one is only a label.
            labels = index > 0 and words[index - 1].startswith("-") and following == component
            return index + 1 if labels else index
    return None


def parse(words: t.Sequence[str], component: str) -> t.List[Flag]:
    """The flags in the words of a command line, the program left out. Words after ``--`` are none."""
    found = []
    position = 0
    while position < len(words):
        word = words[position]
        start = position
        position += 1
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if not name.startswith("-") or not name.strip("-") or name.startswith("---"):
            continue
        short = re.match(r"^-v([0-9]+)$", word) if component != "etcd" else None
        if short:
            found.append(Flag("v", short.group(1), start, position))
        elif equals:
            found.append(Flag(normalize(name), value, start, position))
        elif _takes_next(component, normalize(name), words[position : position + 1]):
            found.append(Flag(normalize(name), words[position], start, position + 1))
            position += 1
        else:
            found.append(Flag(normalize(name), None, start, position))
    return found


def _takes_next(component: str, name: str, following: t.Sequence[str]) -> bool:
    """Whether the word behind ``--name`` is its value. Of a flag that is not known, only what looks like a value."""
    kind = kind_of(component, name)
    if not following or kind == BOOLEAN:
        return False
    if kind is None or component == "etcd":
        return not following[0].startswith("-") or bool(re.match(r"^-[0-9.]", following[0]))
    return True


def of_argv(argv: t.Sequence[str], component: str) -> t.List[Flag]:
    """The flags of a process. A process that rewrote its title, or a renamed program, starts with the program."""
    program = program_index(argv, component)
    return parse(argv[(0 if program is None else program) + 1 :], component)


def read_list(text: str) -> t.List[str]:
    """The entries of a line of CSV, as pflag reads it; raises FlagError. An empty text has no entry."""
    entries: t.List[str] = []
    position = 0
    while text:
        if text[position : position + 1] == '"':
            match = re.compile(r'"((?:[^"]|"")*)"(?=,|$)').match(text, position)
            if not match:
                raise FlagError(f"{text} has a quote that is never closed or does not close the entry")
            entries.append(match.group(1).replace('""', '"'))
        else:
            match = re.compile(r"[^,]*").match(text, position)
            assert match
            if '"' in match.group(0):
                raise FlagError(f"{text} has a quote in the middle of an entry")
            entries.append(match.group(0))
        position = match.end() + 1
        if position > len(text):
            break
    return entries


def write_list(entries: t.Sequence[str]) -> str:
    """The line of CSV for entries, quoted only where that is needed."""
    if list(entries) == [""]:
        return '""'
    return ",".join('"' + entry.replace('"', '""') + '"' if re.search(r'[",]', entry) else entry for entry in entries)


def meaning(component: str, name: str, texts: t.Sequence[str]) -> Value:
    """What a flag means that is given with ``texts``, in this order. A list that the component refuses stays text."""
    kind = kind_of(component, name)
    if kind == ARRAY:
        return list(texts)
    if kind == LIST:
        entries: t.List[str] = []
        for text in texts:
            try:
                entries += read_list(text)
            except FlagError:
                entries.append(text)
        return entries
    if kind == MAP:
        return ",".join(text for text in texts if text)
    return texts[-1]


def effective(found: t.Iterable[Flag], component: str) -> t.Dict[str, Value]:
    """Name -> what the flag means, in order of appearance."""
    texts: t.Dict[str, t.List[str]] = {}
    for flag in found:
        texts.setdefault(flag.name, []).append(flag.text)
    return {name: meaning(component, name, given) for name, given in texts.items()}


def values_in(found: t.Iterable[Flag], component: str, name: str) -> t.Optional[Value]:
    """What one flag means; None when it is not given."""
    return effective([flag for flag in found if same_name(flag.name, name)], component).get(normalize(name))


def duplicates(found: t.Sequence[Flag], component: str) -> t.List[str]:
    """The flags that are given more than once though one value counts, in order of appearance."""
    names = [flag.name for flag in found]
    return [
        name for name in dict.fromkeys(names) if names.count(name) > 1 and kind_of(component, name) not in _ADDING_UP
    ]


# --- what is wanted -------------------------------------------------------------------------------------------------


def text_of(value: t.Any) -> str:
    """A value as it stands in a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def check_wanted(wanted: t.Mapping[str, t.Any], component: str) -> None:
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
        _check_value(name, value, kind_of(component, normalize(name)))


def _check_value(name: str, value: t.Any, kind: t.Optional[str]) -> None:
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, (dict, list)) or (part is None and isinstance(value, list)):
            raise FlagError(f"flags.{name} is {value!r}; a flag is a string, a number, a boolean, or a list of those.")
        if isinstance(part, str) and ("\n" in part or "\r" in part or "\0" in part):
            raise FlagError(f"flags.{name} holds a line break, which no value of a flag can.")
    if value == [] and kind != LIST:
        raise FlagError(f"flags.{name} is an empty list; write null to remove the flag.")
    if isinstance(value, str) and kind == LIST:
        try:
            read_list(value)
        except FlagError as exc:
            raise FlagError(f"flags.{name} is no list that the component could read: {exc}.") from None


def values_of(component: str, name: str, value: t.Any) -> t.List[str]:
    """The texts that a flag shall have, one for each time it is given; none when it shall be gone."""
    if value is None:
        return []
    if not isinstance(value, list):
        return [text_of(value)]
    parts = [text_of(part) for part in value]
    kind = kind_of(component, normalize(name))
    if kind == ARRAY or normalize(name) in SINGLE_PAIRS:
        return parts
    return [write_list(parts) if kind == LIST else ",".join(parts)]


def same_value(current: str, wanted: str) -> bool:
    """Whether two texts mean the same to a component: equal, or the same truth value."""
    return current == wanted or (current in _TRUE and wanted == "true") or (current in _FALSE and wanted == "false")


def same_values(component: str, name: str, current: t.Sequence[str], wanted: t.Sequence[str]) -> bool:
    """Whether a flag given with ``current`` means what it would mean with ``wanted``."""
    if not current or not wanted:
        return not current and not wanted
    kind = kind_of(component, normalize(name))
    if kind in _LISTS:
        return meaning(component, normalize(name), current) == meaning(component, normalize(name), wanted)
    if kind == MAP:
        return _pairs(name, current) == _pairs(name, wanted)
    if kind == SCALAR:
        return current[-1] == wanted[-1]
    return same_value(current[-1], wanted[-1])


def _pairs(name: str, texts: t.Sequence[str]) -> t.Dict[str, str]:
    pairs = {}
    for text in texts:
        for pair in [text] if normalize(name) in SINGLE_PAIRS else text.split(","):
            key, mark, value = re.match(r"([^=<]*)([=<]?)(.*)", pair, re.DOTALL).groups()  # type: ignore[union-attr]
            if pair:
                pairs[key.strip()] = mark + value.strip()
    return pairs


class Edit(t.NamedTuple):
    """One step of a plan: ``replace`` or ``remove`` the words of ``flag``, or ``add`` a flag; ``value`` as for Flag."""

    action: str
    name: str
    value: t.Optional[str]
    flag: t.Optional[Flag]


def plan(found: t.Sequence[Flag], wanted: t.Mapping[str, t.Any], component: str) -> t.List[Edit]:
    """The steps from the flags that are there to those that are wanted. What already holds is left as it is written.

    A flag whose meaning has to change is folded: it is given as often as it has values, at its last places.
    """
    edits: t.List[Edit] = []
    for name, value in wanted.items():
        there = [flag for flag in found if same_name(flag.name, name)]
        values = values_of(component, name, value)
        if same_values(component, name, [flag.text for flag in there], values):
            continue
        keep = there[len(there) - len(values) :] if values else []
        for flag in there[: len(there) - len(keep)]:
            edits.append(Edit("remove", normalize(name), None, flag))
        for flag, text in zip(keep, values):  # noqa: B905 - keep may be the shorter one
            if not same_values(component, name, [flag.text], [text]):
                edits.append(Edit("replace", normalize(name), text, flag))
        for text in values[len(keep) :]:
            edits.append(Edit("add", normalize(name), text, None))
    return edits
