# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Change flags and mounts of a component in its static pod manifest, and no other line of it."""

from __future__ import annotations

import copy
import hashlib
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flag_plan
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags as flag_model
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import YamlTextError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.program import DefinitionError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.static_pod import StaticPod

_MAX_STEPS = 500


class StaticPodEditor(StaticPod):
    """A manifest whose flags can be changed; ``text`` is what the file shall hold."""

    def edit(self, wanted: t.Mapping[str, t.Any]) -> None:
        """Set or (None) remove flags."""
        others = self._others(wanted)
        try:
            for _step in range(_MAX_STEPS):
                steps = flag_plan.plan(self.flags, wanted, self.component)
                # Behind a flag without its value or behind ``--``, a new flag is none, and the next step adds it again.
                if not steps or self._others(wanted) != others:
                    break
                self._apply(steps[0])
                self._read()
        except YamlTextError as exc:
            raise DefinitionError(str(exc)) from None
        if flag_plan.outstanding(self.flags, wanted, self.component) or self._others(wanted) != others:
            raise DefinitionError(
                f"{self.path} is written in a way that cannot be changed without touching other parts of it; make the "
                "change by hand."
            )

    def _others(self, wanted: t.Mapping[str, t.Any]) -> t.Any:
        """Everything that an edit has to leave as it is, in a form that can be compared."""
        names = {flag_model.normalize(name) for name in wanted}
        flags = self.flags
        in_flags = {index for flag in flags for index in range(flag.start, flag.end)}
        plain = [word for index, word in enumerate(self.words) if index not in in_flags]
        rest = copy.deepcopy(self.document.data)
        for key in ("command", "args"):
            rest["spec"]["containers"][self._container].pop(key, None)
        return [(flag.name, flag.text) for flag in flags if flag.name not in names], plain, rest

    def _item(self, index: int) -> t.List[t.Any]:
        key, position = self._places[index]
        return ["spec", "containers", self._container, key, position]

    def _apply(self, step: flag_plan.Edit) -> None:
        if step.action == "add" or step.flag is None:
            self._add(f"--{step.name}={step.value}")
            return
        flag = step.flag
        if step.action == "remove":
            for index in reversed(range(flag.start, flag.end)):
                self.document.delete(self._item(index))
        elif flag.end - flag.start > 1:
            self.document.set(self._item(flag.start + 1), step.value)
        else:
            self.document.set(self._item(flag.start), flag_plan.reworded(self.words[flag.start], step))

    def _add(self, word: str) -> None:
        found = self.flags
        container = ["spec", "containers", self._container]
        if found:
            key, position = self._places[found[-1].end - 1]
            length = len(self.document.get([*container, key]))
            if position + 1 == length:
                self.document.set([*container, key, length], word)
            else:
                self.document.insert([*container, key, position + 1], word)
            return
        key = (
            "args"
            if self.document.get([*container, "args"]) or not self.document.get([*container, "command"])
            else "command"
        )
        items = self.document.get([*container, key])
        if items:
            self.document.set([*container, key, len(items)], word)
        else:
            self.document.set([*container, key], [word])

    def add_mount(self, directory: str) -> str:
        """Let the container see a directory of the host at the same path, read-only; returns the volume's name."""
        slug = re.sub(r"[^a-z0-9]+", "-", directory.lower()).strip("-")
        mark = hashlib.sha256(directory.encode("utf-8")).hexdigest()[:6]
        name = f"kubemetrics-{slug[-40:].strip('-')}-{mark}"
        volume = {"name": name, "hostPath": {"path": directory, "type": "Directory"}}
        mount = {"mountPath": directory, "name": name, "readOnly": True}
        try:
            self._append(["spec", "volumes"], volume)
            self._append(["spec", "containers", self._container, "volumeMounts"], mount)
        except YamlTextError as exc:
            raise DefinitionError(str(exc)) from None
        return name

    def _append(self, path: t.List[t.Any], value: t.Any) -> None:
        present = self.document.get(path)
        if present:
            self.document.set([*path, len(present)], value)
        else:
            self.document.set(path, [value])
