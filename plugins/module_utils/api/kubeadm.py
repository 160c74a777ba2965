# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documents that kubeadm keeps in the cluster and writes hosts from: ClusterConfiguration, KubeletConfiguration."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flag_plan, flags, kubelet_values
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import YamlText, YamlTextError

NAMESPACE = "kube-system"
CLUSTER_MAP = "kubeadm-config"
CLUSTER_KEY = "ClusterConfiguration"
KUBELET_MAP = "kubelet-config"
KUBELET_KEY = "kubelet"

#: What users call a control-plane component -> its section of ClusterConfiguration.
SECTIONS = {"apiserver": "apiServer", "controller-manager": "controllerManager", "scheduler": "scheduler"}

#: Section -> the component whose flags it holds.
COMPONENTS = {section: f"kube-{name}" for name, section in SECTIONS.items()}

_API_VERSION = re.compile(r"^kubeadm\.k8s\.io/v1(?:alpha|beta)(\d+)$")

FlagValue = t.Union[None, str, t.List[str]]


class KubeadmError(Exception):
    """One sentence: what is wrong with which document, and what to do."""


class ClusterConfiguration:
    """The ClusterConfiguration of the cluster as an editable text."""

    def __init__(self, text: str) -> None:
        self.document = _document(text, f"{CLUSTER_KEY} in the ConfigMap {NAMESPACE}/{CLUSTER_MAP}")
        self.api_version = str(self.document.get(["apiVersion"], ""))
        match = _API_VERSION.match(self.api_version)
        if not match or self.document.get(["kind"]) != CLUSTER_KEY:
            raise KubeadmError(
                f"{self.document.name} has the apiVersion {self.api_version or 'none'}, which this collection does not "
                "know; it can edit those of kubeadm.k8s.io."
            )
        # A list since v1beta4, so that a flag can be given more than once.
        self.as_list = "beta" in self.api_version and int(match.group(1)) >= 4

    @property
    def text(self) -> str:
        return self.document.text

    @property
    def minor_version(self) -> t.Optional[str]:
        """For example 1.23, from kubernetesVersion."""
        match = re.match(r"^v?(\d+\.\d+)", str(self.document.get(["kubernetesVersion"], "")))
        return match.group(1) if match else None

    def _entries(self, section: str) -> t.List[t.Tuple[t.Any, str, str]]:
        """(key or index, name, value) of each extra argument."""
        found = self.document.get([section, "extraArgs"])
        if found is None:
            return []
        name = self.document.name
        if self.as_list:
            if not isinstance(found, list) or not all(isinstance(item, dict) and "name" in item for item in found):
                raise KubeadmError(f"{name} has a {section}.extraArgs that is no list of names and values; correct it.")
            return [(i, str(item["name"]), flag_plan.text_of(item.get("value"))) for i, item in enumerate(found)]
        if not isinstance(found, dict):
            raise KubeadmError(f"{name} has a {section}.extraArgs that is no mapping of flags; correct it.")
        return [(key, str(key), flag_plan.text_of(value)) for key, value in found.items()]

    def values(self, section: str, name: str) -> t.List[str]:
        """The values that a flag has, in order; none when it is not set."""
        return [value for _key, own, value in self._entries(section) if flags.same_name(own, name)]

    def set_flags(self, section: str, wanted: t.Mapping[str, t.Any]) -> t.Dict[str, FlagValue]:
        """Set or (None) remove flags; returns what those had before that are now different."""
        previous: t.Dict[str, FlagValue] = {}
        try:
            for name, value in wanted.items():
                before = self.values(section, name)
                component = COMPONENTS[section]
                after = flag_plan.values_of(component, name, value)
                if not self.as_list and len(after) > 1:
                    raise KubeadmError(
                        f"{self.document.name} is {self.api_version}, where a flag cannot be given more than once, so "
                        f"--{name} cannot have {len(after)} values; move it to v1beta4 with kubeadm config migrate."
                    )
                if flag_plan.same_values(component, name, before, after):
                    continue
                previous[name] = flags.meaning(component, flags.normalize(name), before) if before else None
                self._set(section, name, after)
        except YamlTextError as exc:
            raise KubeadmError(str(exc)) from None
        return previous

    def _set(self, section: str, name: str, values: t.List[str]) -> None:
        document = self.document
        entries = [(key, own) for key, own, _value in self._entries(section) if flags.same_name(own, name)]
        keep = entries[: len(values)]
        for (key, _own), value in zip(keep, values):  # noqa: B905 - 3.8 has no strict
            path = [section, "extraArgs", key] + (["value"] if self.as_list else [])
            if document.get(path) != value:
                document.set(path, value)
        for key, _own in reversed(entries[len(values) :]):
            document.delete([section, "extraArgs", key])
        if document.get([section, "extraArgs"]) in ({}, []) and not values:
            document.delete([section, "extraArgs"])
        for value in values[len(keep) :]:
            self._append(section, name, value)

    def _append(self, section: str, name: str, value: str) -> None:
        document = self.document
        entry: t.Any = {"name": name, "value": value} if self.as_list else {name: value}
        if not document.get([section, "extraArgs"]):
            document.merge({section: {"extraArgs": [entry] if self.as_list else entry}})
        elif self.as_list:
            document.set([section, "extraArgs", len(document.get([section, "extraArgs"]))], entry)
        else:
            document.merge({section: {"extraArgs": entry}})

    def set_volumes(self, section: str, volumes: t.Sequence[t.Mapping[str, t.Any]]) -> bool:
        """Make each volume (by its name) be there as given; returns whether anything changed."""
        before = self.text
        try:
            for volume in volumes:
                present = self.document.get([section, "extraVolumes"]) or []
                if not isinstance(present, list):
                    raise KubeadmError(
                        f"{self.document.name} has a {section}.extraVolumes that is no list; correct it."
                    )
                names = [item.get("name") if isinstance(item, dict) else None for item in present]
                if volume["name"] in names:
                    position = names.index(volume["name"])
                    for key, value in volume.items():
                        if present[position].get(key) != value:
                            self._set_volume_key([section, "extraVolumes", position], key, value)
                elif present:
                    self.document.set([section, "extraVolumes", len(present)], dict(volume))
                else:
                    self.document.merge({section: {"extraVolumes": [dict(volume)]}})
        except YamlTextError as exc:
            raise KubeadmError(str(exc)) from None
        return self.text != before

    def _set_volume_key(self, path: t.List[t.Any], key: str, value: t.Any) -> None:
        self.document.set(path + [key], value)


class KubeletDocument:
    """The cluster-wide KubeletConfiguration as an editable text."""

    def __init__(self, text: str, config_map: str) -> None:
        self.document = _document(text, f"{KUBELET_KEY} in the ConfigMap {NAMESPACE}/{config_map}")
        if self.document.get(["kind"]) != kubelet_values.KIND:
            raise KubeadmError(f"{self.document.name} is not a {kubelet_values.KIND}; correct it.")

    @property
    def text(self) -> str:
        return self.document.text

    def merge(self, config: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
        """Merge settings; returns those that are now different with what they were (None: not set)."""
        previous: t.Dict[str, t.Any] = {}
        outstanding = kubelet_values.outstanding(config, self.document.data)
        for path, _wanted in kubelet_values.leaves(outstanding):
            kubelet_values.nest(path, kubelet_values.lookup(self.document.data, path), previous)
        try:
            self.document.merge(outstanding)
        except YamlTextError as exc:
            raise KubeadmError(str(exc)) from None
        return previous


def _document(text: str, name: str) -> YamlText:
    try:
        document = YamlText(text, name)
    except YamlTextError as exc:
        raise KubeadmError(str(exc)) from None
    if not isinstance(document.data, dict):
        raise KubeadmError(f"{name} is not a mapping; correct it.")
    return document
