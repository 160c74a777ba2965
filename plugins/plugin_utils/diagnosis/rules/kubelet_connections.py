# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the way to kubelets (KUB-08 to KUB-10), from evidence to observations."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import families, kubelet_view
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.kubelet_view import Kubelet
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Repair, Row
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules.kubelet_observations import (
    LOGGED_TIMEOUT,
    LOGGED_UNREACHABLE,
    Observations,
    connects,
    observe,
    pod_connects,
    quoted,
    same_kubelet,
)


def addresses(evidence: Evidence) -> Observations:
    found = kubelet_view.kubelets(evidence) if evidence.nodes else []
    owners: dict[str, list[Kubelet]] = {}
    for kubelet in found:
        # A Node that is not Ready may be what is left of a machine that has joined anew by another name.
        for address in kubelet.internal if kubelet.ready else ():
            owners.setdefault(address, []).append(kubelet)
    for address, sharing in sorted(owners.items()):
        if len(sharing) > 1:
            names = ", ".join(kubelet.node for kubelet in sharing)
            for kubelet in sharing:
                yield observe(
                    kubelet,
                    f"nodes {names} have the same InternalIP {address}",
                    repair=_node_ip(sharing),
                )
    order = kubelet_view.address_types(evidence)
    for kubelet in found:
        shown = ", ".join(f"{e.get('type')} {e.get('address')}" for e in kubelet.view.get("addresses") or ())
        if kubelet.ready and not kubelet.addresses:
            yield observe(
                kubelet,
                f"node {kubelet.node} has no address of {', '.join(order)}: {shown or 'none at all'}",
                cause="The Node object has no address of the types that the metrics server dials.",
                repair=_node_ip([kubelet]),
            )
            continue
        # Nobody dials the others: pods of one family need no way to the second address of a dual-stack node.
        dialed = [probe for probe in kubelet.pod_probes if probe.target.get("host") in kubelet.addresses[:1]]
        unreachable = [probe for probe in dialed if probe.kind == "network_unreachable"]
        if kubelet.ready and unreachable:
            yield observe(
                kubelet,
                pod_connects(kubelet, unreachable[0]),
                f"addresses of node {kubelet.node}: {shown}",
                cause="The address that the node registers first is of a family, or in a network, that pods have no "
                "route to.",
                repair=_node_ip([kubelet]),
            )


def _node_ip(sharing: t.Sequence[Kubelet]) -> Repair:
    taken = {address for kubelet in sharing for address in kubelet.internal}
    commands = []
    for kubelet in sharing:
        own = kubelet.host.get("host", "addresses", default=[]) if kubelet.host else []
        own = [*own, kubelet.host.get("host", "host", "default_ipv4", default="") if kubelet.host else ""]
        better = next((str(one) for one in own if one and one not in taken and _is_address(str(one))), "ADDRESS")
        commands.append(f"# on {kubelet.name}: KUBELET_EXTRA_ARGS=--node-ip={better} in /etc/default/kubelet, then")
        commands.append("systemctl restart kubelet")
    return Repair(
        "advice",
        "Give each kubelet the address that other nodes reach it by (--node-ip), restart it, and have its serving "
        "certificate signed for that address (the repair of KUB-02, or site.yml).",
        risk="pods in the host's network change their address",
        downtime="none; the node stays Ready",
        commands=tuple(commands),
    )


def _is_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def firewall(evidence: Evidence) -> Observations:
    for kubelet in kubelet_view.kubelets(evidence):
        if not kubelet.ready:
            continue
        blocked = [
            probe
            for probe in kubelet.pod_probes
            if not get(probe.target, "connect", "ok")
            and probe.kind != "network_unreachable"
            and _pods_get_out(probe.source, kubelet)
        ]
        lines = [pod_connects(kubelet, probe) for probe in blocked]
        closed = [probe for probe in kubelet.probes if not probe.get("connect", "ok")]
        # Where control planes do not get there either, it is no matter of pods.
        unreached = closed and len(closed) == len(kubelet.probes) and (blocked or not kubelet.pod_probes)
        lines += [connects(kubelet, probe, probe.get("connect", "error", "message")) for probe in closed]
        lines += [connects(kubelet, probe, "it answers") for probe in kubelet.probes if probe not in closed]
        if blocked or unreached:
            yield observe(kubelet, *lines, repair=_open_port(evidence, kubelet))
        elif not kubelet.probes and not kubelet.pod_probes and kubelet.suffers:
            logged = kubelet.logged(LOGGED_UNREACHABLE)
            if logged:
                yield observe(kubelet, *quoted(logged), repair=_open_port(evidence, kubelet))


def _pods_get_out(source: Host, kubelet: Kubelet) -> bool:
    """Whether pods of that host reach anything beyond it: else the fault is there, and not at the kubelet."""
    if source.name != kubelet.name and source.get("network", "blocked"):
        return False
    others = [
        target
        for target in source.get("pod", "targets", default=[])
        if target.get("kind") != "endpoint"
        and target.get("name") != kubelet.node
        and get(target, "connect", "error", "kind") != "not_tried"
    ]
    return not others or any(get(target, "connect", "ok") for target in others)


def _open_port(evidence: Evidence, kubelet: Kubelet) -> Repair:
    port = kubelet.view.get("kubelet_port") or 10250
    networks = list(evidence.api("cluster", "pod_cidrs", default=[]))
    networks += [address for other in kubelet_view.kubelets(evidence) for address in other.internal[:1]]
    networks = [address for address in dict.fromkeys(networks) if address not in kubelet.internal]
    shown = networks[:6] if len(networks) <= 6 else [*networks[:5], "NODE_NETWORK"]
    service = kubelet.host.get("network", "services", default={}) if kubelet.host else {}
    if service.get("firewalld.service") == "active":
        rules = [
            f"rule family={families.firewalld(network)} source address={network} port port={port} protocol=tcp accept"
            for network in shown
        ]
        commands = [f"firewall-cmd --permanent --add-rich-rule='{rule}'" for rule in rules] + ["firewall-cmd --reload"]
    elif kubelet.host and kubelet.host.get("network", "ufw_enabled"):
        commands = [f"ufw allow proto tcp from {network} to any port {port}" for network in shown]
    else:
        commands = [
            f"{families.iptables(network)} -I INPUT -p tcp -s {network} --dport {port} -j ACCEPT" for network in shown
        ]
    return Repair(
        "advice",
        f"Accept TCP port {port} on {kubelet.name} from the networks of nodes and pods, in the host's firewall or the "
        "cloud's security group, and keep it over restarts. The firewall is the operator's; no playbook changes it.",
        risk="low: it opens one port to the cluster's own networks",
        commands=(f"# on {kubelet.name}", *commands),
    )


def slow(evidence: Evidence) -> Observations:
    for kubelet in kubelet_view.kubelets(evidence):
        if not kubelet.ready:
            continue
        logged = kubelet.logged(LOGGED_TIMEOUT)
        # A single slow answer is nothing: the metrics server has to suffer from it, too.
        if not kubelet.suffers and not logged:
            continue
        late = [probe for probe in kubelet.probes if probe.get("connect", "ok") and _late(probe)]
        if late and len(late) == len([probe for probe in kubelet.probes if probe.get("connect", "ok")]):
            lines = [
                connects(
                    kubelet, probe, f"connected in {probe.get('connect', 'seconds')} s, no answer ({_late(probe)})"
                )
                for probe in late
            ]
            yield observe(kubelet, *lines, *quoted(logged))
        elif not kubelet.probes and kubelet.suffers and logged:
            # Without a probe it may as well be a firewall, unless the connection was made.
            made = [line for line in logged if not re.search(LOGGED_UNREACHABLE, line)]
            if made:
                yield observe(kubelet, *quoted(made))


def _late(probe: kubelet_view.Probe) -> str:
    if probe.error("tls") == "timeout":
        return "TLS handshake"
    return "request" if "timeout" in (probe.error("anonymous"), probe.error("authenticated")) else ""


ROWS: tuple[Row, ...] = (
    Row(
        id="KUB-08",
        title="The node's address is missing, is that of another node, or cannot be reached",
        layer="kubelet",
        symptom="node NAME has no address of the types InternalIP",
        cause="The kubelet took the address of the wrong network card, for example the one that a hypervisor gives "
        "every guest (10.0.2.15). The metrics server connects to whoever answers there.",
        repair=Repair(
            "advice",
            "Give each kubelet the address that other nodes reach it by (--node-ip), restart it, and have its serving "
            "certificate signed for that address.",
        ),
        avoid="Editing the status of the Node object: the kubelet writes it again within seconds.",
        rule=addresses,
        only_resource_metrics=True,
        explains=("KUB-01", "KUB-02", "KUB-04", "KUB-09", "KUB-10", "AGG-12"),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
    Row(
        id="KUB-09",
        title="The kubelet's port cannot be reached from the metrics server",
        layer="kubelet",
        symptom="dial tcp ADDRESS:10250: i/o timeout",
        cause="A firewall on the node, or a security group, does not accept the kubelet's port from where the metrics "
        "server runs; or the kubelet listens on another address.",
        repair=Repair(
            "advice",
            "Accept the kubelet's port from the networks of nodes and pods, in the host's firewall or the cloud's.",
            risk="low: it opens one port to the cluster's own networks",
        ),
        avoid="Opening the port to the world, or switching the firewall off.",
        rule=firewall,
        only_resource_metrics=True,
        explains=("AGG-12",),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
    Row(
        id="KUB-10",
        title="The kubelet accepts connections and does not answer in time",
        layer="kubelet",
        symptom='Failed to scrape node, timeout to access kubelet ... timeout="10s"',
        cause="The node is overloaded, its runtime hangs, or packets to it get lost: its port is open and its answers "
        "come too late.",
        repair=Repair(
            "advice",
            "Relieve or repair the node. A longer --kubelet-request-timeout only helps nodes that are slow by nature, "
            "and has to stay below --metric-resolution.",
            commands=(
                "# on the node",
                "time curl -sk https://127.0.0.1:10250/healthz",
                "systemctl status kubelet containerd",
                "cat /proc/pressure/cpu /proc/pressure/memory /proc/pressure/io",
                "ping -c 20 -s 1400 NODE    # from another node: lost packets",
            ),
        ),
        avoid="Restarting the metrics server: it loses the metrics of all other nodes and gains nothing.",
        rule=slow,
        only_resource_metrics=True,
        explains=("AGG-12",),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
)
