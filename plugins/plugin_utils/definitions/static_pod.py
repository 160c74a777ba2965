# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of a component where it is defined: in the manifest of a static pod."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags as flag_model
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import YamlText, YamlTextError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.systemd_service import (
    DefinitionError,
    program_index,
)

_FILE_FLAG = re.compile(r"(file|-dir|kubeconfig|certificate-authority|-client-certificate|-client-key)$")


class Mount(t.NamedTuple):
    """A directory or file of the host as the container sees it."""

    mount_path: str
    host_path: str


def is_file_flag(name: str) -> bool:
    """Whether the value of a flag is a path of the host's file system."""
    return bool(_FILE_FLAG.search(flag_model.normalize(name)))


class StaticPod:
    """A manifest whose container of ``component`` can be edited; ``text`` is what the file shall hold."""

    def __init__(self, component: str, path: str, text: str) -> None:
        self.component = component
        self.path = path
        try:
            self.document = YamlText(text, path)
        except YamlTextError as exc:
            raise DefinitionError(str(exc)) from None
        if not isinstance(self.document.data, dict) or self.document.data.get("kind") != "Pod":
            raise DefinitionError(f"{path} is not the manifest of a pod; is the path right?")
        self._container = self._find_container()
        self._read()

    @property
    def text(self) -> str:
        return self.document.text

    # --- reading ---

    def _find_container(self) -> int:
        containers = self.document.get(["spec", "containers"])
        if not isinstance(containers, list) or not all(isinstance(one, dict) for one in containers) or not containers:
            raise DefinitionError(f"{self.path} has no containers; correct the manifest first.")
        for index, container in enumerate(containers):
            command = container.get("command")
            if isinstance(command, list) and command and os.path.basename(str(command[0])) == self.component:
                return index
        named = [index for index, container in enumerate(containers) if container.get("name") == self.component]
        if named:
            return named[0]
        if len(containers) == 1:
            return 0
        raise DefinitionError(f"{self.path} has {len(containers)} containers and none is named {self.component}.")

    def _read(self) -> None:
        self._places: t.List[t.Tuple[str, int]] = []
        words: t.List[str] = []
        for key in ("command", "args"):
            found = self.document.get(["spec", "containers", self._container, key])
            if found is None:
                continue
            if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
                raise DefinitionError(
                    f"{self.path} has a {key} that is not a list of strings; correct the manifest first."
                )
            words.extend(found)
            self._places.extend((key, index) for index in range(len(found)))
        # Without a command, the image's entry point is the program and all words are its arguments.
        if self._places and self._places[0][0] == "command":
            first = program_index(words, self.component, self.path) + 1
            words, self._places = words[first:], self._places[first:]
        self.words = words

    @property
    def flags(self) -> t.List[flag_model.Flag]:
        return flag_model.parse(self.words, self.component)

    @property
    def image_version(self) -> t.Optional[str]:
        """The version in the tag of the container's image."""
        image = self.document.get(["spec", "containers", self._container, "image"])
        match = re.search(r":v?(\d+\.\d+\.\d+)[^/]*$", image) if isinstance(image, str) else None
        return match.group(1) if match else None

    def mounts(self) -> t.List[Mount]:
        """The host paths that the container sees, the innermost first."""
        volumes = {}
        for volume in self.document.get(["spec", "volumes"]) or []:
            host_path = volume.get("hostPath") if isinstance(volume, dict) else None
            if isinstance(host_path, dict) and isinstance(host_path.get("path"), str):
                volumes[volume.get("name")] = host_path["path"]
        found = []
        for mount in self.document.get(["spec", "containers", self._container, "volumeMounts"]) or []:
            if isinstance(mount, dict) and isinstance(mount.get("mountPath"), str) and mount.get("name") in volumes:
                host_path = posixpath.join(volumes[mount["name"]], str(mount.get("subPath") or ""))
                found.append(Mount(posixpath.normpath(mount["mountPath"]), posixpath.normpath(host_path)))
        return sorted(found, key=lambda mount: -len(mount.mount_path))

    def host_path(self, path: str) -> t.Optional[str]:
        """Where a file of the container is on the host; None when the container cannot see the host's."""
        path = posixpath.normpath(path)
        for mount in self.mounts():
            if path == mount.mount_path:
                return mount.host_path
            if path.startswith(mount.mount_path.rstrip("/") + "/"):
                return posixpath.join(mount.host_path, path[len(mount.mount_path.rstrip("/")) + 1 :])
        return None

    # --- editing ---

    def edit(self, wanted: t.Mapping[str, t.Any]) -> None:
        """Set or (None) remove flags."""
        try:
            while True:
                steps = flag_model.plan(self.flags, wanted, self.component)
                if not steps:
                    return
                self._apply(steps[0])
                self._read()
        except YamlTextError as exc:
            raise DefinitionError(str(exc)) from None

    def _item(self, index: int) -> t.List[t.Any]:
        key, position = self._places[index]
        return ["spec", "containers", self._container, key, position]

    def _apply(self, step: flag_model.Edit) -> None:
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
            name = self.words[flag.start].partition("=")[0]
            self.document.set(self._item(flag.start), f"{name}={step.value}")

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
