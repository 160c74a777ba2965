# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of a component where it is defined: in a systemd service with its drop-ins and environment files.

The service's texts are read as systemd reads them into one list of words; each word knows where it stands.
"""

from __future__ import annotations

import posixpath
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags as flag_model
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions import systemd_text as st
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.program import (
    DefinitionError,
    program_index,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.systemd_environment_file import (
    parse_environment,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.systemd_unit_file import parse_unit

_PREFIXES = "@-:+!|"
_REFERENCE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WHOLE_REFERENCE = re.compile(r"^\$([A-Za-z_][A-Za-z0-9_]*)$")


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


class SystemdService:
    """The texts of a service: its unit file first, then its drop-ins in systemd's order, and its environment files."""

    def __init__(
        self,
        component: str,
        unit_paths: t.Sequence[str],
        texts: t.Mapping[str, str],
        patterns: t.Optional[t.Mapping[str, t.Sequence[str]]] = None,
        readers: t.Optional[t.Mapping[str, t.Sequence[str]]] = None,
    ) -> None:
        """``texts`` holds all files by path; ``patterns`` the files that match each pattern of EnvironmentFile.

        ``readers`` names the units that read each environment file, this one among them.
        """
        self.component = component
        self.unit_paths = list(unit_paths)
        self.texts = dict(texts)
        self.patterns = dict(patterns or {})
        self.readers = dict(readers or {})
        self._read()

    @property
    def unit(self) -> str:
        return posixpath.basename(self.unit_paths[0])

    def shared_with(self, path: str) -> t.List[str]:
        """The other units that a file speaks to; a drop-in for a prefix of names (kube-.service.d) has no list."""
        if path in self.unit_paths:
            directory = posixpath.basename(posixpath.dirname(path))
            return [directory] if directory.endswith(".d") and directory != f"{self.unit}.d" else []
        return [unit for unit in self.readers.get(path, ()) if unit != self.unit]

    def _read(self) -> None:
        self.units: t.Dict[str, t.List[st.Assignment]] = {}
        for path in self.unit_paths:
            self.units[path] = self._parse(path, parse_unit)
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
            for assignment in self._parse(path, parse_environment):
                found[assignment.key] = self._variable_region(path, "file", assignment)
        return found

    def _environment_files(self) -> t.List[str]:
        return [path for name in self.environment_paths for path in self.patterns.get(name, [name])]

    def _variable_region(self, path: str, kind: str, assignment: st.Assignment) -> Region:
        quotes = {char.quote for char in assignment.chars}
        quote = quotes.pop() if len(quotes) == 1 else ""
        # Its words are read when the command names it: what the command does not use may be no list of words.
        return Region(path, kind, [], assignment, variable=assignment.key, quote=quote or None)

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
                found = self._split(region.path, region.assignment.chars, unescape=False)
                region.words = [Word(item.text, item.start, item.end) for item in found]
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
