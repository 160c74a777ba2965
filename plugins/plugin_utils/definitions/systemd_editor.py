# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Change flags of a systemd service in its texts, and nothing else.

One step at a time; after each step the texts are read again, and at the end nothing but the flags may have changed.
What another unit reads, too, is never written to.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flag_plan
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags as flag_model
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions import systemd_text as st
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.program import DefinitionError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.systemd_environment_file import (
    escape_environment,
    render_environment,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.systemd_reader import (
    Argument,
    Region,
    SystemdService,
)

_EXTRA = re.compile(r"(EXTRA|CUSTOM|ADDITIONAL)_?(ARGS|FLAGS|OPTS|OPTIONS)$")
_ARGUMENTS = re.compile(r"(ARGS|ARGUMENTS|FLAGS|OPTS|OPTIONS)$", re.IGNORECASE)
_MAX_STEPS = 500


class SystemdEditor(SystemdService):
    """A service whose flags can be changed; ``texts`` is what its files shall hold."""

    def edit(self, wanted: t.Mapping[str, t.Any]) -> None:
        """Set or (None) remove flags."""
        others = self._others(wanted)
        for _step in range(_MAX_STEPS):
            steps = flag_plan.plan(self.flags, wanted, self.component, fixed=self._is_fixed)
            if not steps:
                break
            try:
                self._apply(steps[0])
            except IndexError:
                # A variable that is there several times has changed the words behind the step, too.
                break
            self._read()
        self._refuse_shared(wanted)
        if flag_plan.outstanding(self.flags, wanted, self.component) or self._others(wanted) != others:
            raise DefinitionError(
                f"{self.unit_paths[0]} is written in a way that cannot be changed without touching other parts of it; "
                "make the change by hand."
            )

    def _is_fixed(self, flag: flag_model.Flag) -> bool:
        """Whether a flag stands where a change would reach other units, too."""
        return any(self.shared_with(argument.region.path) for argument in self.arguments[flag.start : flag.end])

    def _refuse_shared(self, wanted: t.Mapping[str, t.Any]) -> None:
        """A flag of a shared file that this unit cannot overrule."""
        for name in flag_plan.outstanding(self.flags, wanted, self.component):
            for flag in self.flags:
                if flag.name == name and self._is_fixed(flag):
                    path = self.arguments[flag.end - 1].region.path
                    raise DefinitionError(
                        f"--{name} of {self.component} is given in {path}, which {', '.join(self.shared_with(path))} "
                        f"reads, too; move it from there into a file that only {self.unit} reads, and run again."
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

    def _apply(self, step: flag_plan.Edit) -> None:
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
            self._replace(arguments[0], flag_plan.reworded(arguments[0].text, step))

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
            return escape_environment(inner, region.quote)
        return inner.replace("\\", "\\\\").replace(region.quote, "\\" + region.quote).replace("%", "%%")

    def _rewrite(self, region: Region, words: t.Sequence[str]) -> None:
        """Write a variable's value anew, where its quotes do not let a part of it be changed in place."""
        value = " ".join(st.quote(word) for word in words)
        if region.kind == "file":
            text = render_environment(value)
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
        shared = any(self.shared_with(argument.region.path) for argument in self.arguments)
        if region.kind == "exec" and region.words and (shared or last_flag is None):
            # Behind every variable, so that what stands here overrules what they say.
            last_flag = len(region.words) - 1, len(region.words) - 1
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
        """Where a new flag belongs, of what only this unit reads.

        That is the variable meant for additions, else the last one for arguments, else where most flags are.
        """
        own = {
            name: self.variables[name]
            for name in self.references
            if name in self.variables and not self.shared_with(self.variables[name].path)
        }
        extra = [name for name in self.references if _EXTRA.search(name)]
        for name in extra:
            if name in own:
                return own[name]
        undefined = [name for name in extra if name not in self.variables]
        if undefined and self._define(undefined[-1]):
            return None
        arguments = [region for name, region in own.items() if _ARGUMENTS.search(name)]
        if arguments:
            return arguments[-1]
        regions = [self.command, *own.values()]
        count = {id(region): 0 for region in regions}
        for flag in self.flags:
            region = self.arguments[flag.start].region
            if id(region) in count:
                count[id(region)] += 1
        return max(regions, key=lambda region: (count[id(region)], region is not self.command))

    def _define(self, name: str) -> bool:
        """Define a variable, empty, in the last environment file of this unit alone; the next step fills it."""
        plain = [
            path for path in self.environment_paths if not re.search(r"[*?\[]", path) and not self.shared_with(path)
        ]
        if not plain:
            return False
        path = plain[-1]
        text = self.texts.get(path, "")
        self.texts[path] = text + ("" if not text or text.endswith("\n") else "\n") + name + "=\n"
        return True
