# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flags that somebody wants: whether they can be, what they would be written as, and the steps to get there."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flag_kinds import (
    ARRAY,
    LIST,
    MAP,
    SCALAR,
    SINGLE_PAIRS,
    kind_of,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flags import (
    ADDING_UP,
    Flag,
    FlagError,
    meaning,
    normalize,
    read_list,
    same_name,
    write_list,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.masking import (
    MASK,
    is_secret_flag,
    mask_flag,
)

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


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
            shown = MASK if is_secret_flag(name) else repr(value)
            raise FlagError(f"flags.{name} is {shown}; a flag is a string, a number, a boolean, or a list of those.")
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
    if kind in (LIST, ARRAY):
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


def reworded(word: str, edit: Edit) -> str:
    """The word of a flag with another value, its name as it is written; the short ``-v2`` has no name to keep."""
    name = word.partition("=")[0]
    return "%s=%s" % (name if normalize(name) == edit.name else "--" + edit.name, edit.value)


def plan(
    found: t.Sequence[Flag],
    wanted: t.Mapping[str, t.Any],
    component: str,
    fixed: t.Callable[[Flag], bool] = lambda flag: False,
) -> t.List[Edit]:
    """The steps from the flags that are there to those that are wanted. What already holds is left as it is written.

    A flag whose meaning has to change is folded: it is given as often as it has values, at its last places. What is
    ``fixed`` stays; a flag of which the last value counts is overruled then, where it is not too late for that.
    """
    edits: t.List[Edit] = []
    for name, value in wanted.items():
        there = [flag for flag in found if same_name(flag.name, name)]
        values = values_of(component, name, value)
        if same_values(component, name, [flag.text for flag in there], values):
            continue
        own = [flag for flag in there if not fixed(flag)]
        if len(own) < len(there) and (kind_of(component, normalize(name)) in ADDING_UP or not values):
            continue
        keep = own[len(own) - len(values) :] if values else []
        for flag in own[: len(own) - len(keep)]:
            edits.append(Edit("remove", normalize(name), None, flag))
        for flag, text in zip(keep, values):  # noqa: B905 - keep may be the shorter one
            if not same_values(component, name, [flag.text], [text]):
                edits.append(Edit("replace", normalize(name), text, flag))
        for text in values[len(keep) :]:
            edits.append(Edit("add", normalize(name), text, None))
    return edits


def outstanding(found: t.Sequence[Flag], wanted: t.Mapping[str, t.Any], component: str) -> t.List[str]:
    """The wanted flags that do not mean yet what they shall mean."""
    return [
        normalize(name)
        for name, value in wanted.items()
        if not same_values(
            component,
            name,
            [flag.text for flag in found if same_name(flag.name, name)],
            values_of(component, name, value),
        )
    ]


def _shown(flags: t.Sequence[Flag], name: str) -> t.List[str]:
    return [mask_flag(name, flag.text) for flag in flags if same_name(flag.name, name)]


def staged(
    defined: t.Sequence[Flag], running: t.Sequence[Flag], wanted: t.Mapping[str, t.Any], component: str
) -> t.List[str]:
    """The wanted flags that a definition gives, but neither as wanted nor as the running process has them.

    Somebody changed or removed them there, and has not restarted the process yet. What is known of that has its secrets
    masked, and so they are compared without them.
    """
    return [
        name
        for name in outstanding(defined, wanted, component)
        if not same_values(component, name, _shown(defined, name), _shown(running, name))
    ]


def unread(
    defined: t.Sequence[Flag], running: t.Sequence[Flag], wanted: t.Mapping[str, t.Any], component: str
) -> t.List[str]:
    """The other flags that the process has otherwise than its definition, and will have as there when it restarts."""
    asked = {normalize(name) for name in wanted}
    names = dict.fromkeys(normalize(flag.name) for flag in [*defined, *running])
    return sorted(
        name
        for name in names
        if name not in asked and not same_values(component, name, _shown(defined, name), _shown(running, name))
    )
