# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of a component where it is defined: in the manifest of a static pod."""

from __future__ import annotations

import os
import posixpath
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags as flag_model
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import YamlText, YamlTextError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.program import (
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
    """A manifest and its container of ``component``."""

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
