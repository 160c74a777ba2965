# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All that the evidence holds about one kubelet: what others get from it, what it is told, what the server logs."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing as t
import weakref

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions import kubelet_effective
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.families import joined

Mapping = t.Mapping[str, t.Any]

#: The order of the metrics server where no flag says another.
ADDRESS_TYPES = ("Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP")


class Probe(t.NamedTuple):
    """What a control plane got from a kubelet (kubelet_info)."""

    source: str
    entry: Mapping

    def get(self, *path: str | int, default: t.Any = None) -> t.Any:
        return get(self.entry, *path, default=default)

    def error(self, step: str) -> str:
        """The kind of the error of a step: connect, tls, anonymous or authenticated."""
        return str(self.get(step, "error", "kind", default=""))

    @property
    def address(self) -> str:
        return joined(self.get("address"), self.get("port"))


class PodProbe(t.NamedTuple):
    """What a pod of a host got from a kubelet (pod_network_info); only the connection."""

    source: Host
    target: Mapping

    @property
    def kind(self) -> str:
        return str(get(self.target, "connect", "error", "kind", default=""))


_Found = t.TypeVar("_Found", Probe, PodProbe)


@dataclasses.dataclass(frozen=True)
class Kubelet:
    """One kubelet. ``name`` is the inventory's name of its host, or the node's."""

    evidence: Evidence
    node: str
    name: str
    view: Mapping
    host: Host | None

    @property
    def ready(self) -> bool:
        """Whether the node is Ready, as far as the API tells."""
        return bool(self.view.get("ready", True))

    @property
    def addresses(self) -> list[str]:
        """The addresses of the Node, those that a metrics server dials first."""
        found = [entry for entry in self.view.get("addresses") or () if entry.get("address")]
        order = address_types(self.evidence)
        chosen = [entry for entry in found if entry.get("type") in order]
        return [str(entry["address"]) for entry in sorted(chosen, key=lambda entry: order.index(entry["type"]))]

    @property
    def internal(self) -> list[str]:
        return [str(e["address"]) for e in self.view.get("addresses") or () if e.get("type") == "InternalIP"]

    @functools.cached_property
    def probes(self) -> list[Probe]:
        """What each control plane got from it, at the address that a metrics server dials."""
        return self._dialed(_look_up(_known(self.evidence).probes, self), lambda probe: probe.get("address"))

    @functools.cached_property
    def pod_probes(self) -> list[PodProbe]:
        """What pods got from it: those of the metrics server, or any pod where none of its own was found."""
        found: list[PodProbe] = _look_up(_known(self.evidence).pod_probes, self)
        preferred = [probe for probe in found if probe.source.get("pod", "preferred")]
        return self._dialed(preferred or found, lambda probe: probe.target.get("host"))

    def _dialed(self, probes: list[_Found], address_of: t.Callable[[_Found], t.Any]) -> list[_Found]:
        """Those to the first address of the Node that was probed; all where its addresses are not known.

        A metrics server dials one address of a node. What becomes of the others is no matter to it: the second family
        of a dual-stack node may be closed, and a certificate need not name it.
        """
        known = {address_of(probe) for probe in probes}
        first = next((address for address in self.addresses if address in known), None)
        return [probe for probe in probes if first is None or address_of(probe) == first]

    @property
    def answers(self) -> Mapping:
        """What it answers on its own host."""
        return t.cast(Mapping, self.host.get("host", "kubelet_answers", default={}) if self.host else {})

    @property
    def certificate(self) -> Mapping:
        """Its serving certificate, in words."""
        shown = [probe.get("tls", "certificate") for probe in self.probes] + [self.answers.get("certificate")]
        return next((entry for entry in shown if entry), {})

    @functools.cached_property
    def settings(self) -> Mapping:
        """Its configuration in effect; empty where it was not read."""
        config = self.host.get("host", "kubelet_config") if self.host else None
        # Inside another process it has settings that nobody sees.
        if not config or (self.host and self.host.component("kubelet").get("in_process")):
            return {}
        try:
            return kubelet_effective.effective_settings(config)
        except kubelet_effective.SettingsError:
            return {}

    @property
    def managed_elsewhere(self) -> bool:
        """Whether an installer writes its configuration at each start."""
        return bool(self.distribution)

    @property
    def distribution(self) -> str:
        """The distribution that writes its configuration at each start, or an empty text."""
        flavour = str(self.evidence.api("cluster", "flavour", default=""))
        manager = str(self.host.component("kubelet").get("managed_by") or "") if self.host else ""
        return next((one for one in (manager, flavour) if one in distributions.TABLE), "")

    @property
    def suffers(self) -> bool:
        """Whether its node has no recent metrics, though it is Ready."""
        return self.node in self.evidence.nodes_without_metrics()

    def logged(self, pattern: str) -> list[str]:
        """What the metrics server logs about it; lines may be older than the last repair."""
        names = [self.node, *self.internal]
        mine = re.compile(r"(?<![\w.-])(?:%s)(?![\w-]|\.\w)" % "|".join(map(re.escape, names)))
        wanted = re.compile(pattern, re.IGNORECASE)
        return [line for line in self.evidence.server_log() if wanted.search(line) and mine.search(line)]


class _Known(t.NamedTuple):
    """What is looked up for each of many kubelets, by the name and the address of its node."""

    kubelets: list[Kubelet]
    probes: dict[str, list[Probe]]
    pod_probes: dict[str, list[PodProbe]]


_KNOWN: weakref.WeakKeyDictionary[Evidence, _Known] = weakref.WeakKeyDictionary()
_WORKING: weakref.WeakKeyDictionary[Evidence, frozenset[str]] = weakref.WeakKeyDictionary()


def _known(evidence: Evidence) -> _Known:
    found = _KNOWN.get(evidence)
    if found is None:
        found = _KNOWN[evidence] = _Known(_kubelets(evidence), _probes(evidence), _pod_probes(evidence))
    return found


def _look_up(known: Mapping, kubelet: Kubelet) -> list[_Found]:
    found = [probe for key in (kubelet.node, *kubelet.internal) for probe in known.get(key, ())]
    return list({id(probe): probe for probe in found}.values())


def _probes(evidence: Evidence) -> dict[str, list[Probe]]:
    found: dict[str, list[Probe]] = {}
    for host in evidence.control_planes:
        for entry in host.get("kubelets", default=[]):
            probe = Probe(host.name, entry)
            for key in {entry.get("node"), entry.get("address")} - {None}:
                found.setdefault(key, []).append(probe)
    return found


def _pod_probes(evidence: Evidence) -> dict[str, list[PodProbe]]:
    found: dict[str, list[PodProbe]] = {}
    pods = evidence.server_pods
    if pods and all(pod.get("host_network") for pod in pods):
        # What other pods reach says nothing about these.
        return found
    for host in evidence.hosts:
        for target in host.get("pod", "targets", default=[]):
            if target.get("kind") == "kubelet" and get(target, "connect", "error", "kind") != "not_tried":
                probe = PodProbe(host, target)
                for key in {target.get("name"), target.get("host")} - {None}:
                    found.setdefault(key, []).append(probe)
    return found


def _kubelets(evidence: Evidence) -> list[Kubelet]:
    hosts = {host.node: host for host in evidence.hosts}
    if evidence.nodes:
        views = {str(node["name"]): node for node in evidence.nodes if node.get("operating_system") != "windows"}
    else:
        views = {host.node: {} for host in evidence.hosts if host.running("kubelet")}
    return [
        Kubelet(evidence, node, hosts[node].name if node in hosts else node, view, hosts.get(node))
        for node, view in views.items()
    ]


def kubelets(evidence: Evidence) -> list[Kubelet]:
    """Every kubelet, by the nodes that the API has, or by the hosts where it was not asked."""
    return _known(evidence).kubelets


def working(evidence: Evidence) -> frozenset[str]:
    """The nodes whose kubelets give a control plane what the metrics server asks for; or else those with metrics."""
    found = _WORKING.get(evidence)
    if found is None:
        found = _WORKING[evidence] = frozenset(_working(evidence))
    return found


def _working(evidence: Evidence) -> set[str]:
    found = kubelets(evidence)
    if any(kubelet.probes for kubelet in found):
        return {
            kubelet.node
            for kubelet in found
            if any(probe.get("authenticated", "status") == 200 for probe in kubelet.probes)
        }
    served = any(get(entry, "nodes") for entry in evidence.api("metrics", "servers", default=[]))
    without = set(evidence.nodes_without_metrics())
    return {kubelet.node for kubelet in found if served and kubelet.ready and kubelet.node not in without}


def address_types(evidence: Evidence) -> list[str]:
    """Which addresses of a Node the metrics server dials, in its order."""
    for argument in evidence.server_arguments():
        flag, _equals, value = argument.lstrip("-").partition("=")
        if flag == "kubelet-preferred-address-types" and value:
            return [word.strip() for word in value.split(",")]
    return list(ADDRESS_TYPES)


def verifies(evidence: Evidence) -> bool:
    """Whether the metrics server verifies kubelets' certificates, as far as its arguments tell."""
    off = ("kubelet-insecure-tls", "deprecated-kubelet-completely-insecure")
    for argument in evidence.server_arguments():
        flag, equals, value = argument.lstrip("-").partition("=")
        if flag in off and (not equals or value.lower() in ("true", "1", "t")):
            return False
    return True


def trusts_another_authority(evidence: Evidence) -> bool:
    """Whether the metrics server verifies kubelets with a CA of its own, so that the cluster's says nothing."""
    return any(
        argument.lstrip("-").startswith("kubelet-certificate-authority=") for argument in evidence.server_arguments()
    )
