# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of a component where it is defined: in a systemd service with its drop-ins and environment files.

The service's texts are read as systemd reads them into one list of words; each word knows where it stands. ``edit``
changes flags one step at a time, reads the texts again after each step, and at the end checks that nothing else has
changed.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags as flag_model
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions import systemd_text as st

SHELLS = {"sh", "bash", "dash", "ash", "ksh", "zsh", "busybox"}
_PREFIXES = "@-:+!|"
_REFERENCE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WHOLE_REFERENCE = re.compile(r"^\$([A-Za-z_][A-Za-z0-9_]*)$")
_EXTRA = re.compile(r"(EXTRA|CUSTOM|ADDITIONAL)_?(ARGS|FLAGS|OPTS|OPTIONS)$")
_MAX_STEPS = 500


class DefinitionError(Exception):
    """One sentence: what is wrong with which file, and what to do."""


class Word(t.NamedTuple):
    """A word of a region: what it means, and its span in the text of the region's file."""

    text: str
    start: int
    end: int


class Region:
    """A stretch of words in one file: the command line itself, or the value of a variable in it."""

    def __init__(
        self,
        path: str,
        kind: str,
        words: t.List[Word],
        assignment: st.Assignment,
        *,
        variable: t.Optional[str] = None,
        quote: t.Optional[str] = None,
        anchor: int = 0,
        expands: bool = True,
    ) -> None:
        self.path = path
        self.kind = kind  # exec, environment (in a unit) or file (an environment file)
        self.words = words
        self.assignment = assignment
        self.variable = variable
        #: The quote around all of a variable's value; None when it cannot be edited in place.
        self.quote = quote
        #: Where the program's own word ends: new words stand behind it.
        self.anchor = anchor
        self.expands = expands


class Argument(t.NamedTuple):
    """A word of the command line as the component gets it, and where it comes from."""

    text: str
    region: Region
    index: int


def program_index(words: t.Sequence[str], component: str, name: str) -> int:
    """The index of the word that names the program; its arguments follow. Raises DefinitionError for wrappers."""
    index = flag_model.program_index(words, component)
    if index is not None:
        return index
    base = os.path.basename(words[0]) if words else ""
    if base in SHELLS or base.endswith(".sh"):
        raise DefinitionError(
            f"{name} starts {component} through {words[0]}, whose text cannot be edited safely; change the flags there "
            "by hand, or let the definition start the program itself."
        )
    return 0


class SystemdService:
    """The texts of a service: its unit file first, then its drop-ins in systemd's order, and its environment files."""

    def __init__(
        self,
        component: str,
        unit_paths: t.Sequence[str],
        texts: t.Mapping[str, str],
        patterns: t.Optional[t.Mapping[str, t.Sequence[str]]] = None,
    ) -> None:
        """``texts`` holds all files by path; ``patterns`` the files that match each pattern of EnvironmentFile."""
        self.component = component
        self.unit_paths = list(unit_paths)
        self.texts = dict(texts)
        self.patterns = dict(patterns or {})
        self._read()

    # --- reading ---

    def _read(self) -> None:
        self.units: t.Dict[str, t.List[st.Assignment]] = {}
        for path in self.unit_paths:
            self.units[path] = self._parse(path, st.parse_unit)
        commands: t.List[t.Tuple[str, st.Assignment]] = []
        environment: t.List[t.Tuple[str, st.Assignment]] = []
        self.environment_paths: t.List[str] = []
        kind = "simple"
        for path in self.unit_paths:
            for assignment in self.units[path]:
                if assignment.section != "Service":
                    continue
                if assignment.key == "ExecStart":
                    commands = commands + [(path, assignment)] if assignment.chars else []
                elif assignment.key == "Environment":
                    environment = environment + [(path, assignment)] if assignment.chars else []
                elif assignment.key == "EnvironmentFile":
                    self._add_environment_file(path, assignment)
                elif assignment.key == "Type":
                    kind = assignment.text
        name = self.unit_paths[0]
        if not commands:
            raise DefinitionError(f"{name} and its drop-ins have no ExecStart in [Service]; is it the right unit?")
        if len(commands) > 1 and kind != "oneshot":
            raise DefinitionError(
                f"{name} and its drop-ins have {len(commands)} times ExecStart without an empty one in between, which "
                "systemd refuses; correct the unit first."
            )
        self.variables = self._variables(environment)
        self._read_command(*commands[-1])

    def _parse(self, path: str, parse: t.Callable[[str], t.List[st.Assignment]]) -> t.List[st.Assignment]:
        try:
            return parse(self.texts.get(path, ""))
        except st.SystemdTextError as exc:
            raise DefinitionError(f"{path} cannot be read: {exc}; correct the file first.") from None

    def _split(self, path: str, chars: t.Sequence[st.Char], *, unescape: bool) -> t.List[st.Item]:
        try:
            return st.split(chars, unescape=unescape)
        except st.SystemdTextError as exc:
            where = st.line_number(self.texts[path], chars[0].start) if chars else 1
            raise DefinitionError(f"{path} cannot be read: in line {where} {exc}; correct the file first.") from None

    def _add_environment_file(self, path: str, assignment: st.Assignment) -> None:
        value = assignment.text
        if not value:
            self.environment_paths = []
            return
        value = value[1:] if value.startswith("-") else value
        if "%" in value.replace("%%", ""):
            raise DefinitionError(
                f"{path} names the environment file {value} with a specifier of systemd, which is not known here; "
                "write the path out."
            )
        self.environment_paths.append(value.replace("%%", "%"))

    def _variables(self, environment: t.Sequence[t.Tuple[str, st.Assignment]]) -> t.Dict[str, Region]:
        """The variables of the service. Those of environment files win, and of each kind the last one."""
        found: t.Dict[str, Region] = {}
        for path, assignment in environment:
            for item in self._split(path, assignment.chars, unescape=True):
                name, equals, _value = item.text.partition("=")
                if equals and st.is_variable_name(name):
                    value = st.without_specifiers(item.chars[len(name) + 1 :])
                    own = st.Assignment(assignment.section, name, value, item.start, item.end)
                    found[name] = self._variable_region(path, "environment", own)
        for path in self._environment_files():
            for assignment in self._parse(path, st.parse_environment):
                found[assignment.key] = self._variable_region(path, "file", assignment)
        return found

    def _environment_files(self) -> t.List[str]:
        return [path for name in self.environment_paths for path in self.patterns.get(name, [name])]

    def _variable_region(self, path: str, kind: str, assignment: st.Assignment) -> Region:
        words = [Word(item.text, item.start, item.end) for item in self._split(path, assignment.chars, unescape=False)]
        quotes = {char.quote for char in assignment.chars}
        quote = quotes.pop() if len(quotes) == 1 else ""
        return Region(path, kind, words, assignment, variable=assignment.key, quote=quote or None)

    def _read_command(self, path: str, assignment: st.Assignment) -> None:
        items = self._split(path, assignment.chars, unescape=True)
        separators = [index for index, item in enumerate(items) if item.text == ";" and item.end - item.start == 1]
        items = items[: separators[0]] if separators else items
        first = items[0].text if items else ""
        prefix = first[: len(first) - len(first.lstrip(_PREFIXES))]
        texts = [first[len(prefix) :]] + [item.text for item in items[1:]]
        if not texts[0]:
            raise DefinitionError(f"{path} has an ExecStart without a program; correct the unit first.")
        start = program_index(texts, self.component, path) + 1
        if "@" in prefix and start == 1:
            start = 2
        start = min(start, len(items))
        command = Region(
            path,
            "exec",
            [Word(item.text, item.start, item.end) for item in items[start:]],
            assignment,
            anchor=items[start - 1].end,
            expands=":" not in prefix,
        )
        self.command = command
        self.arguments: t.List[Argument] = []
        self.references: t.List[str] = []
        for index, word in enumerate(command.words):
            whole = _WHOLE_REFERENCE.match(word.text) if command.expands else None
            if not whole:
                self.arguments.append(Argument(self._expand(word.text), command, index))
                continue
            self.references.append(whole.group(1))
            region = self.variables.get(whole.group(1))
            if region:
                self.arguments.extend(Argument(own.text, region, i) for i, own in enumerate(region.words))

    def _expand(self, text: str) -> str:
        def value(match: "re.Match[str]") -> str:
            if match.group(0) == "$$":
                return "$"
            region = self.variables.get(match.group(1))
            return region.assignment.text if region else ""

        # Specifiers are expanded when the unit is read, variables when the command is started.
        text = text.replace("%%", "%")
        return _REFERENCE.sub(value, text) if self.command.expands else text

    @property
    def words(self) -> t.List[str]:
        """The arguments of the component."""
        return [argument.text for argument in self.arguments]

    @property
    def flags(self) -> t.List[flag_model.Flag]:
        return flag_model.parse(self.words, self.component)

    # --- editing ---

    def edit(self, wanted: t.Mapping[str, t.Any]) -> None:
        """Set or (None) remove flags."""
        others = self._others(wanted)
        for _step in range(_MAX_STEPS):
            steps = flag_model.plan(self.flags, wanted, self.component)
            if not steps:
                break
            self._apply(steps[0])
            self._read()
        if flag_model.plan(self.flags, wanted, self.component) or self._others(wanted) != others:
            raise DefinitionError(
                f"{self.unit_paths[0]} is written in a way that cannot be changed without touching other parts of it; "
                "make the change by hand."
            )

    def _others(self, wanted: t.Mapping[str, t.Any]) -> t.Any:
        """Everything that an edit has to leave as it is, in a form that can be compared."""
        names = {flag_model.normalize(name) for name in wanted}
        flags = [(flag.name, flag.text) for flag in self.flags if flag.name not in names]
        touched = {id(self.command.assignment)}
        units = [
            (path, one.section, one.key, one.text)
            for path, found in self.units.items()
            for one in found
            if id(one) not in touched and not (one.section == "Service" and one.key == "Environment")
        ]
        referenced = set(self.references)
        variables = {name: region.assignment.text for name, region in self.variables.items() if name not in referenced}
        return flags, units, variables, self.references

    def _apply(self, step: flag_model.Edit) -> None:
        if step.action == "add" or step.flag is None:
            self._add(f"--{step.name}={step.value}")
            return
        arguments = self.arguments[step.flag.start : step.flag.end]
        if step.action == "remove":
            # The later word first: the places of the earlier one stay true.
            self._remove(arguments[-1])
            if len(arguments) > 1:
                self._read()
                self._remove(self.arguments[step.flag.start])
        elif len(arguments) > 1:
            self._replace(arguments[1], str(step.value))
        else:
            name = arguments[0].text.partition("=")[0]
            self._replace(arguments[0], f"{name}={step.value}")

    def _splice(self, path: str, start: int, end: int, text: str) -> None:
        whole = self.texts.get(path, "")
        self.texts[path] = whole[:start] + text + whole[end:]

    def _encode(self, region: Region, text: str) -> str:
        if region.kind == "exec":
            return st.quote_command(text, expands=region.expands)
        if not region.quote:
            raise ValueError(f"The value of {region.variable} in {region.path} cannot be edited in place.")
        inner = st.quote(text)
        if region.kind == "file":
            return st.escape_environment(inner, region.quote)
        return inner.replace("\\", "\\\\").replace(region.quote, "\\" + region.quote).replace("%", "%%")

    def _rewrite(self, region: Region, words: t.Sequence[str]) -> None:
        """Write a variable's value anew, where its quotes do not let a part of it be changed in place."""
        value = " ".join(st.quote(word) for word in words)
        if region.kind == "file":
            text = st.render_environment(value)
        else:
            text = st.quote(f"{region.variable}={value}".replace("%", "%%"))
        self._splice(region.path, region.assignment.start, region.assignment.end, text)

    def _replace(self, argument: Argument, text: str) -> None:
        region, word = argument.region, argument.region.words[argument.index]
        if region.kind != "exec" and not region.quote:
            words = [own.text for own in region.words]
            words[argument.index] = text
            self._rewrite(region, words)
        else:
            self._splice(region.path, word.start, word.end, self._encode(region, text))

    def _remove(self, argument: Argument) -> None:
        region, index = argument.region, argument.index
        if region.kind != "exec" and not region.quote:
            self._rewrite(region, [own.text for i, own in enumerate(region.words) if i != index])
            return
        text, word = self.texts[region.path], region.words[index]
        line_start = text.rfind("\n", 0, word.start) + 1
        newline = text.find("\n", word.end)
        line_end = len(text) if newline < 0 else newline
        before, after = text[line_start : word.start], text[word.end : line_end]
        closes = region.kind != "exec" and index == len(region.words) - 1 and after.strip() == region.quote
        if not before.strip() and closes and index:
            self._splice(region.path, region.words[index - 1].end, word.end, "")
        elif not before.strip() and (after.strip() == "\\" or (not after.strip() and region.kind != "exec")):
            self._splice(region.path, line_start, min(line_end + 1, len(text)), "")
        elif not before.strip() and not after.strip():
            self._remove_last_line(region, index, line_start, line_end)
        elif before[-1:] in (" ", "\t") and before.strip():
            self._splice(region.path, word.start - (len(before) - len(before.rstrip(" \t"))), word.end, "")
        else:
            self._splice(region.path, word.start, word.end + len(after) - len(after.lstrip(" \t")), "")

    def _remove_last_line(self, region: Region, index: int, line_start: int, line_end: int) -> None:
        """Remove a word that stands alone on the last line of a continued command: the line before ends it then."""
        text, word = self.texts[region.path], region.words[index]
        previous = region.words[index - 1].end if index else region.anchor
        if not text[previous : word.start].replace("\\", "").strip():
            self._splice(region.path, previous, word.end, "")
            return
        # Comments stand in between and stay; only the backslash of the line before them goes.
        self._splice(region.path, line_start, min(line_end + 1, len(text)), "")
        end = self.texts[region.path].find("\n", previous)
        self._splice(region.path, previous, end, "")

    def _add(self, text: str) -> None:
        region = self._region_for_additions()
        if region is None:
            return
        if region.kind != "exec" and not region.quote:
            self._rewrite(region, [own.text for own in region.words] + [text])
            return
        last_flag = self._last_flag(region)
        whole = self.texts[region.path]
        if last_flag is None:
            position, gap = (region.anchor, " ") if region.kind == "exec" else (region.words[-1].end, " ")
        else:
            first, last = last_flag
            position = region.words[last].end
            previous = region.words[first - 1].end if first else region.anchor
            gap = whole[previous : region.words[first].start] if previous else " "
            if gap.replace("\\", "").strip() or not gap.strip("\\"):
                # A comment stands in between: begin a line of the same indentation, or stay on this one.
                indent = gap[gap.rfind("\n") + 1 :]
                gap = " \\\n" + indent if "\n" in gap and not indent.strip() else " "
        self._splice(region.path, position, position, gap + self._encode(region, text))

    def _last_flag(self, region: Region) -> t.Optional[t.Tuple[int, int]]:
        """The first and the last word of the last flag in ``region``."""
        found = None
        for flag in self.flags:
            own = [argument.index for argument in self.arguments[flag.start : flag.end] if argument.region is region]
            if own:
                found = own[0], own[-1]
        return found

    def _region_for_additions(self) -> t.Optional[Region]:
        """Where a new flag belongs: the variable meant for additions, else where most flags are, else the command."""
        referenced = [self.variables[name] for name in self.references if name in self.variables]
        extra = [name for name in self.references if _EXTRA.search(name)]
        for name in extra:
            if name in self.variables:
                return self.variables[name]
        if extra and self._define(extra[-1]):
            return None
        count = {id(region): 0 for region in [self.command] + referenced}
        for flag in self.flags:
            count[id(self.arguments[flag.start].region)] += 1
        return max([self.command] + referenced, key=lambda region: (count[id(region)], region is not self.command))

    def _define(self, name: str) -> bool:
        """Define a variable, empty, in the environment file that the service reads last; the next step fills it."""
        plain = [path for path in self.environment_paths if not re.search(r"[*?\[]", path)]
        if not plain:
            return False
        path = plain[-1]
        text = self.texts.get(path, "")
        self.texts[path] = text + ("" if not text or text.endswith("\n") else "\n") + name + "=\n"
        return True
