# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of a Kubernetes component, as pflag reads it. Nothing else in this collection parses one.

``program_index`` finds where the arguments begin, ``parse`` makes flags of them, and ``effective`` says what they mean.
``flag_kinds`` says what each flag takes, ``flag_plan`` how to get to what is wanted.
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
    kind_of,
)

#: What a flag means: a list of strings for those that take lists, else the text of its value.
Value = t.Union[str, t.List[str]]

#: The kinds of which repeated flags add up.
ADDING_UP = (LIST, ARRAY, MAP)


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
            position = match.end() + 1
        else:
            entry = text[position:].partition(",")[0]
            if '"' in entry:
                raise FlagError(f"{text} has a quote in the middle of an entry")
            entries.append(entry)
            position += len(entry) + 1
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


def duplicates(found: t.Sequence[Flag], component: str) -> t.List[str]:
    """The flags that are given more than once though one value counts, in order of appearance."""
    names = [flag.name for flag in found]
    return [
        name for name in dict.fromkeys(names) if names.count(name) > 1 and kind_of(component, name) not in ADDING_UP
    ]
