# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about packet filters and routes (NET-01 to NET-05). Each is a pure function from evidence to observations.

They look alike from outside: a connection that times out. What tells them apart is who else connects, to what, and what
the packet filters and routes of both ends are.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import families
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
    Elsewhere,
    Observation,
    Repair,
    Row,
    Severity,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules.connections import (
    POLICY,
    SUFFERED,
    clusterip_answers,
    denying_policies,
    failed,
    kind_of,
    lacks_route,
    offloads_checksums,
    others_reach,
    ready_endpoints,
    refused_forwarding,
    route_to,
    said_of,
    sidecars,
    unread_chains,
    vxlan_to,
)

Mapping = t.Mapping[str, t.Any]
#: How long a connection takes whose first one, two or three packets are lost: TCP tries again after 1, 2 and 4 seconds.
LOST_PACKETS = ((0.95, 1.6), (2.9, 3.6), (6.9, 7.6))


def _severity(evidence: Evidence, host: Host) -> Severity:
    """A host without a pod of the server does no harm yet."""
    return "error" if host.name in evidence.server_hosts else "warning"


# --- NET-01: no ClusterIPs, or no way to pods -----------------------------------------------------------------------


def no_way_from_api_server(evidence: Evidence) -> t.Iterator[Observation]:
    for host in evidence.control_planes:
        yield from _no_cluster_ip(evidence, host)
        yield from _no_route(evidence, host)


def _no_cluster_ip(evidence: Evidence, host: Host) -> t.Iterator[Observation]:
    if host.routed:
        return
    broken = [target for target in host.targets("cluster_ip") if failed(target) and kind_of(target) != "refused"]
    if not broken:
        return
    answers = clusterip_answers(host)
    reached = [target for target in host.targets("endpoint") if not failed(target)]
    lines = [said_of(host.name, target) for target in broken + reached[:1]]
    proxy = host.component("kube-proxy")
    if answers is False:
        address = host.get("network", "cluster_ip", "address")
        lines.append(f"{host.name} -> {address}:443 (the API's own ClusterIP): no API server answers")
        lines.append(f"kube-proxy on {host.name}: {'runs' if proxy.get('running') else 'no process'}")
        yield Observation(tuple(lines), (host.name,))
    elif reached and not _loses_first_packets(host) and not evidence.service_keeps_traffic_local:
        yield Observation(
            tuple(lines),
            (host.name,),
            cause=(
                "Other ClusterIPs answer on this control plane, and the endpoint itself does: what translates "
                "ClusterIPs "
                "there (kube-proxy or the CNI plugin) does not know this Service, because it lags behind or has "
                "lost the API."
            ),
            repair=Repair(
                "advice",
                "Restart what provides ClusterIPs on this host, and read its log.",
                risk="New connections to ClusterIPs fail on this host for a second.",
                commands=(
                    "kubectl --namespace kube-system logs --selector k8s-app=kube-proxy --tail 20",
                    "kubectl --namespace kube-system rollout restart daemonset kube-proxy",
                ),
            ),
        )


def _no_route(evidence: Evidence, host: Host) -> t.Iterator[Observation]:
    for target, owner in ready_endpoints(evidence, host):
        address = str(target.get("host"))
        if not failed(target) or not lacks_route(evidence, host, address, owner):
            continue
        route = route_to(host, address)
        how = route.get("error") or f"default route by {route.get('device')} and {route.get('gateway')}"
        yield Observation(
            (said_of(host.name, target), f"route of {host.name} to {address} (a pod on {owner}): {how}"),
            (host.name,),
            cause=(
                "The control plane has no route to pods: it takes no part in the pod network (its CNI plugin does "
                "not run "
                f"there, or has not set up its routes), so that its API server cannot reach {evidence.subject.server} "
                "in any way."
            ),
            repair=Repair(
                "advice",
                "Have the CNI plugin run on this control plane, too: its DaemonSet has to tolerate the control "
                "plane's taints.",
                risk="none for what runs",
                commands=(
                    "kubectl --namespace kube-system get daemonsets,pods --output wide",
                    f"ip route get {address}   # on {host.name}: not by the default route",
                ),
            ),
        )


# --- NET-02: a firewall between the hosts ---------------------------------------------------------------------------


def firewall_between_hosts(evidence: Evidence) -> t.Iterator[Observation]:
    if denying_policies(evidence) or sidecars(evidence):
        return
    tried: list[tuple[Host, Mapping, str]] = [
        (host, target, owner) for host in evidence.control_planes for target, owner in ready_endpoints(evidence, host)
    ]
    # Where one control plane gets through and another does not, the reason is on that other one (AGG-09).
    if any(not failed(target) for _host, target, _owner in tried):
        return
    for host, target, owner in tried:
        if kind_of(target) != "timeout" or lacks_route(evidence, host, str(target.get("host")), owner):
            continue
        ends = [end for end in (host, evidence.host(owner)) if end is not None]
        if any(refused_forwarding(end, policy=policy) for end in ends for policy in (True, False)):
            continue
        lines = [said_of(host.name, target)]
        lines += [line for end in ends if end.get("network") for line in _packet_filters(end)]
        lines += others_reach(evidence, target, owner)
        lines += [
            said_of(host.name, kubelet)
            for kubelet in host.get("kubelets", default=[])
            if evidence.host_of_node(str(kubelet.get("node"))) == owner
        ]
        device = vxlan_to(host, str(target.get("host")))
        cause, repair = "", None
        dropping = [(end.name, chain) for end in ends for chain in unread_chains(end, dropping=True)]
        if dropping:
            cause, repair = _of_a_chain(evidence, *dropping[0])
        elif device:
            cause = (
                f"Packets to pods go through the VXLAN {device}, and nothing comes back: something between the "
                "hosts drops "
                f"its UDP packets (port 8472 or 4789), or packets to the port of {evidence.subject.server}."
            )
        yield Observation(tuple(lines), (host.name,), cause=cause, repair=repair)


def _packet_filters(end: Host) -> t.Iterator[str]:
    """What is known of the packet filters of a host, none of whose rules that were read drops what it forwards."""
    errors = [get(backend, "error") for backend in end.get("network", "backends", default={}).values()]
    errors = [str(error) for error in (*errors, end.get("network", "nft_error")) if error]
    dropping = unread_chains(end, dropping=True)
    others = [chain for chain in unread_chains(end) if chain not in dropping]
    for error in errors:
        yield f"{end.name}: not all of its packet filters could be read: {error}"
    for chain in dropping:
        yield f"{end.name}: the policy of nftables' chain {chain} is drop; whether a rule of it accepts is not known"
    if others:
        yield f"{end.name}: nftables has more chains for what is forwarded, whose rules were not read: " + ", ".join(
            others
        )
    if not errors and not dropping:
        which = "iptables" if others else "packet filters"
        yield f"{end.name}: its {which} accept what is forwarded to pods"


def _of_a_chain(evidence: Evidence, name: str, chain: str) -> tuple[str, Repair]:
    networks = [str(cidr) for cidr in evidence.api("cluster", "pod_cidrs", default=[])] or ["POD_NETWORK"]
    return (
        f"Nothing from the control planes reaches the port of the pod, and on {name} the chain {chain} of nftables "
        "drops all forwarded packets that none of its rules accepts. Where its rules accept pod traffic, a firewall "
        "between the hosts is left.",
        Repair(
            "advice",
            f"See whether the chain {chain} on {name} accepts pod traffic; if not, accept it there, in the file that "
            "the chain comes from.",
            risk="none, if only the networks of pods are accepted",
            commands=(
                f"nft list chain {chain}   # on {name}",
                *(
                    f"nft insert rule {chain} {families.nftables(network)} {way} {network} accept"
                    for network in networks
                    for way in ("saddr", "daddr")
                ),
            ),
        ),
    )


# --- NET-03: a firewall on the server's host ------------------------------------------------------------------------


def firewall_on_host(evidence: Evidence) -> t.Iterator[Observation]:
    for host in evidence.hosts:
        blocked = refused_forwarding(host, policy=False)
        rejected = [
            said_of(plane.name, target)
            for plane in evidence.control_planes
            for target, owner in ready_endpoints(evidence, plane)
            if owner == host.name
            and kind_of(target) == "no_route"
            and not lacks_route(evidence, plane, str(target.get("host")), owner)
        ]
        active = [name for name, state in host.get("network", "services", default={}).items() if state == "active"]
        firewalls = [name for name in active if name.startswith(("firewalld", "ufw"))]
        if not blocked and not rejected:
            continue
        lines = rejected + [
            f"{host.name} ({verdict.get('backend')}): {verdict.get('source')} -> {verdict.get('destination')}: "
            f"{verdict.get('action')} by {verdict.get('rule')}"
            for verdict in blocked[:3]
        ]
        lines += [f"{host.name}: {name} is active" for name in firewalls]
        yield Observation(
            tuple(lines),
            (host.name,),
            severity="error" if rejected else _severity(evidence, host),
            repair=_firewall_repair(evidence, firewalls),
        )


def _firewall_repair(evidence: Evidence, firewalls: t.Sequence[str]) -> Repair | None:
    cidrs = [str(cidr) for cidr in evidence.api("cluster", "pod_cidrs", default=[])] or ["POD_NETWORK"]
    if any(name.startswith("firewalld") for name in firewalls):
        sources = " ".join(f"--add-source={cidr}" for cidr in cidrs)
        commands = (f"firewall-cmd --permanent --zone=trusted {sources}", "firewall-cmd --reload")
    elif any(name.startswith("ufw") for name in firewalls):
        commands = tuple(f"ufw route allow {word} {cidr}" for cidr in cidrs for word in ("from", "to"))
    else:
        return None
    return Repair(
        "advice",
        "Accept pod traffic in the firewall that is in charge of this host, in its running and its permanent rules.",
        risk="Only addresses of pods are accepted in addition.",
        commands=commands,
    )


# --- NET-04: the policy of FORWARD ----------------------------------------------------------------------------------


def forward_policy_drops(evidence: Evidence) -> t.Iterator[Observation]:
    for host in evidence.hosts:
        blocked = refused_forwarding(host, policy=True)
        if not blocked:
            continue
        backends = dict.fromkeys(str(verdict.get("backend")) for verdict in blocked)
        lines = []
        for backend in backends:
            seen = host.get("network", "backends", backend, default={})
            lines.append(
                f"{host.name} ({backend}): -P FORWARD {seen.get('policy') or 'DROP'}, which "
                f"{seen.get('policy_packets') or 0} packets have met"
            )
        # What crosses hosts says more than what stays on this one.
        verdict = next((entry for entry in blocked if entry.get("source") != entry.get("destination")), blocked[0])
        lines.append(f"{host.name}: {verdict.get('source')} -> {verdict.get('destination')}: dropped by the {POLICY}")
        lines += [said_of(f"pod on {host.name}", target) for target in host.pod_targets("cluster_ip") if failed(target)]
        if get(host.get("network", "docker"), "active"):
            lines.append(f"{host.name}: docker.service is active, which sets that policy when it starts")
        active = host.get("network", "services", default={})
        firewalls = [
            name for name, state in active.items() if state == "active" and name.startswith(("firewalld", "ufw"))
        ]
        passed_by = _goes_another_way(evidence, host, backends)
        yield Observation(
            tuple(lines),
            (host.name,),
            severity="warning" if passed_by else _severity(evidence, host),
            cause=_PASSED_BY if passed_by else "",
            repair=_firewall_repair(evidence, firewalls),
        )


_PASSED_BY = (
    "The policy of the chain FORWARD is DROP, and no rule accepts pod traffic. Still the pods of this host connect, "
    "and no packet has met the policy: something forwards them before it, such as the BPF programs of a CNI plugin. "
    "Without that, the policy drops them."
)


def _goes_another_way(evidence: Evidence, host: Host, backends: t.Iterable[str]) -> bool:
    """Whether all shows that pods of a host connect without the chain FORWARD: every connection, metrics, counters."""
    tried = host.pod_targets()
    packets = [host.get("network", "backends", backend, "policy_packets", default=0) for backend in backends]
    served = any(get(entry, "nodes") for entry in evidence.api("metrics", "servers", default=[]))
    return (
        bool(tried)
        and all(get(target, "connect", "ok") for target in tried)
        and not any(packets)
        and served
        and not evidence.nodes_without_metrics()
        and not evidence.failing_servers
    )


# --- NET-05: a kernel that writes wrong checksums -------------------------------------------------------------------


def _loses_first_packets(host: Host) -> str:
    """The VXLAN by which connections to ClusterIPs lose packets, while those to pods do not; "?" if it is not known."""
    if clusterip_answers(host) is False:
        return ""
    fast = [
        target
        for target in host.targets("endpoint")
        if not failed(target) and get(target, "connect", "seconds", default=0) < LOST_PACKETS[0][0]
    ]
    if not fast:
        return ""
    for target in host.targets("cluster_ip"):
        device = next((found for one in fast if (found := vxlan_to(host, str(one.get("host"))))), "")
        seconds = get(target, "connect", "seconds", default=0)
        exact = not failed(target) and any(low <= seconds <= high for low, high in LOST_PACKETS)
        lost = kind_of(target) == "timeout" and bool(device) and offloads_checksums(host, device) is not False
        if exact or lost:
            return device or "?"
    return ""


def first_packets_lost(evidence: Evidence) -> t.Iterator[Observation]:
    for host in evidence.control_planes:
        device = _loses_first_packets(host)
        if host.routed or not device:
            continue
        lines = [said_of(host.name, target) for target in [*host.targets("cluster_ip"), *host.targets("endpoint")]]
        if device != "?":
            offload = offloads_checksums(host, device)
            shown = {True: "on", False: "off"}.get(offload, "not known") if offload is not None else "not known"
            lines.append(f"{host.name}: pods are reached through the VXLAN {device}, its checksum offload is {shown}")
        if host.get("network", "kernel"):
            lines.append(f"{host.name}: Linux {host.get('network', 'kernel')}")
        name = device if device != "?" else "flannel.1"
        yield Observation(
            tuple(lines),
            (host.name,),
            repair=Repair(
                "advice",
                f"Switch checksum offload off for {name}, and keep it so over restarts; then update the kernel.",
                risk="A little more processor time for packets between nodes.",
                commands=(
                    f"ethtool -K {name} tx-checksum-ip-generic off",
                    "printf '[Match]\\nOriginalName=" + name + "\\n\\n[Link]\\nTransmitChecksumOffload=false\\n' "
                    f"> /etc/systemd/network/90-{name}.link",
                ),
            ),
        )


ROWS: tuple[Row, ...] = (
    Row(
        id="NET-01",
        title="An API server does not get to $server, because its host has no ClusterIPs or no route to pods",
        layer="api_server",
        symptom="dial tcp CLUSTER-IP:443: i/o timeout, or net/http: request canceled while waiting for connection",
        cause=(
            "The API server connects to the ClusterIP of $server, and nothing on its host translates "
            "ClusterIPs: neither "
            "kube-proxy nor a CNI plugin in its place does so there. The packets go nowhere."
        ),
        repair=Repair(
            "consent",
            "Send API servers to the endpoints themselves (--enable-aggregator-routing), where the host has routes "
            "to pods; kept in the "
            "installer's own configuration. Running kube-proxy on control planes is as good.",
            risk="Each API server restarts; if one does not become healthy, its old manifest is restored.",
            downtime="each API server 45 s, one after the other; with a single one the API is unavailable that long",
            steps=("apiserver_aggregation",),
        ),
        avoid=(
            "Do not add routes or NAT rules for a ClusterIP by hand: the next change of the Service breaks them. "
            "Do not give "
            "$server the host's network for this."
        ),
        rule=no_way_from_api_server,
        covers_everywhere=SUFFERED,
    ),
    Row(
        id="NET-02",
        title="A firewall between the hosts keeps API servers from the port of $server",
        layer="service",
        symptom="failing or missing response from https://POD-IP:PORT$path: ... i/o timeout",
        cause=(
            "The server and its node are well, and the packet filters of both hosts accept the traffic; still "
            "nothing from the control "
            "planes reaches the port of the pod. What drops it lies between the hosts: a security group, or a "
            "firewall of the network, "
            "that admits only well-known ports."
        ),
        repair=Repair(
            "advice",
            "Open exactly the port of ${server}'s pods from the addresses of the control planes, where "
            "that firewall is managed. "
            "If it admits port 10250 between nodes already, have the server listen there "
            "(metrics_server_container_port: 10250).",
            risk="none, if the rule is as narrow as that",
            commands=("nc -z -w 3 POD-IP PORT   # on a control plane, before and after",),
        ),
        avoid="Do not open the port to 0.0.0.0/0.",
        rule=firewall_between_hosts,
        elsewhere=Elsewhere(
            repair=Repair(
                "advice",
                "Open exactly the port of ${server}'s pods from the addresses of the control planes, where that "
                "firewall is managed.",
                risk="none, if the rule is as narrow as that",
                commands=("nc -z -w 3 POD-IP PORT   # on a control plane, before and after",),
            )
        ),
        covers_everywhere=SUFFERED,
    ),
    Row(
        id="NET-03",
        title="A rule of a host's firewall keeps packets from pods",
        layer="service",
        symptom="dial tcp POD-IP:PORT: connect: no route to host",
        cause=(
            "A firewall on the host (firewalld, ufw, or rules that the distribution loads) rejects what the host "
            "forwards from and to "
            "pods. A rejected packet is answered by ICMP, which programs show as: no route to host."
        ),
        repair=Repair(
            "advice",
            "Accept pod traffic before the rule that rejects it, in the file that the rule comes from, so that it "
            "stays.",
            risk="Only addresses of pods are accepted in addition.",
            commands=(
                "iptables -I FORWARD -s POD_NETWORK -j ACCEPT",
                "iptables -I FORWARD -d POD_NETWORK -j ACCEPT",
                "iptables-save   # compare with /etc/sysconfig/iptables or /etc/iptables/rules.v4, and add both "
                "lines there",
            ),
        ),
        avoid="Do not switch the firewall off, and do not flush its rules.",
        rule=firewall_on_host,
        explains=("POD-03", "KUB-09"),
        covers=("server_pod", "node_metrics", "pod_metrics"),
        covers_everywhere=(*SUFFERED, "server_pod", "node_metrics", "pod_metrics"),
    ),
    Row(
        id="NET-04",
        title="The policy of FORWARD drops the traffic of this host's pods",
        layer="service",
        symptom="Chain FORWARD (policy DROP ...); pods of that node reach nothing: i/o timeout",
        cause=(
            "The host does not forward packets from and to its pods: the policy of the chain FORWARD is DROP, and "
            "no rule accepts them. "
            "Docker sets this policy whenever it starts on a host that does not forward yet; hardening scripts do "
            "it, too."
        ),
        repair=Repair(
            "consent",
            "Accept new connections from and to the networks of pods by rules at the end of FORWARD, and keep them "
            "over restarts of Docker and of the host "
            "by a systemd unit.",
            risk="Rules are only added. All rules are saved before, and a timer restores them unless the host is "
            "reached again.",
            steps=("forward_policy",),
        ),
        avoid=(
            "Do not flush the tables (iptables -F). Do not set the policy to ACCEPT on a host that routes for "
            "others: everything that "
            "it was to drop is forwarded then."
        ),
        rule=forward_policy_drops,
        explains=("POD-03", "KUB-09"),
        covers_everywhere=(*SUFFERED, "server_pod", "node_metrics", "pod_metrics"),
    ),
    Row(
        id="NET-05",
        title="Connections from a control plane to ClusterIPs lose their first packets in the pod network's VXLAN",
        layer="api_server",
        symptom="A connection from the host to a ClusterIP takes exactly 1, 3, 7 or 63 s; FailedDiscoveryCheck; "
        "pods reach each other at once",
        cause=(
            "Kernels older than 5.7 write a wrong UDP checksum into VXLAN packets whose addresses were translated "
            "before, where the network "
            "card is to compute it. The other end drops them. A connection comes about only by a packet that is "
            "sent again, too late for "
            "the check of the aggregator."
        ),
        repair=Repair("advice", "Switch checksum offload off for the VXLAN device, and update the kernel."),
        avoid="Do not raise time-outs, and do not move $server to the host's network.",
        rule=first_packets_lost,
        covers_everywhere=SUFFERED,
    ),
)
