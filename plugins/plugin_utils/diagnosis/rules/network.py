# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the network between the parts (NET). Each is a pure function from evidence to observations.

They look alike from outside: a connection that times out. What tells them apart is who else connects, to what, and what
the packet filters and routes of both ends are.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
    Observation,
    Repair,
    Row,
    Severity,
    Symptom,
)

Mapping = t.Mapping[str, t.Any]

#: The rule that stands for the policy of the chain (module_utils/host/forwarding).
POLICY = "policy of FORWARD"
#: What others suffer while the metrics API is not served.
SUFFERED: tuple[Symptom, ...] = ("request", "autoscaler", "namespace", "discovery")
#: Containers that meshes put beside those of a pod.
SIDECARS = re.compile(
    r"^(istio-proxy|linkerd-proxy|kuma-sidecar|consul-dataplane|envoy-sidecar|osm-proxy|nginx-mesh-sidecar)$"
)
#: How long a connection takes whose first one, two or three packets are lost: TCP tries again after 1, 2 and 4 seconds.
LOST_PACKETS = ((0.95, 1.6), (2.9, 3.6), (6.9, 7.6))
_TUNNEL = re.compile(r"No agent available|proxy error from \S+ while dialing|no tunnels available")
_PROXY = re.compile(r"proxyconnect|Proxy Error|proxy error \(|: Forbidden\b|: Bad Gateway\b|: EOF\b")
_VXLAN = re.compile(r"vxlan|^flannel\.", re.IGNORECASE)


# --- what several rules ask -----------------------------------------------------------------------------------------


def failed(target: Mapping) -> bool:
    """Whether a connection was tried and did not come about."""
    return get(target, "connect", "ok") is False


def kind_of(target: Mapping) -> str:
    """How it failed, by the kinds of the probes."""
    return str(get(target, "connect", "error", "kind", default=""))


def said_of(where: str, target: Mapping) -> str:
    """A line to quote: who connected to what, and what became of it."""
    # A kubelet is named by its address.
    address = f"{target.get('host') or target.get('address')}:{target.get('port')}"
    if failed(target):
        return f"{where} -> {address}: {get(target, 'connect', 'error', 'message', default='no connection')}"
    seconds = get(target, "connect", "seconds")
    slow = isinstance(seconds, (int, float)) and seconds >= 0.1
    return f"{where} -> {address}: connected" + (f" in {seconds:g} s" if slow else "")


def ready_endpoints(evidence: Evidence, host: Host) -> list[tuple[Mapping, str]]:
    """What a control plane got from each ready endpoint of another node, with the host that the endpoint is on."""
    ready = {(e.get("ip"), e.get("port")): str(e["host"]) for e in evidence.endpoints if e.get("ready")}
    found = []
    for target in host.targets("endpoint"):
        where = ready.get((target.get("host"), target.get("port")))
        if where is not None and where != host.name:
            found.append((target, where))
    return found


def refused_forwarding(host: Host, *, policy: bool) -> list[Mapping]:
    """Verdicts of the packet filters that surely keep pods from others: by the policy of FORWARD, or by a rule."""
    return [
        verdict
        for verdict in host.get("network", "blocked", default=[])
        if verdict.get("certain") and (verdict.get("rule") == POLICY) is policy
    ]


def clusterip_answers(host: Host) -> bool | None:
    """Whether the ClusterIP of the API's own Service answers on a host; None where that was not tried."""
    answers = host.get("network", "cluster_ip", "answers")
    return None if answers is None else bool(answers)


def route_to(host: Host, address: str) -> Mapping:
    """The route of a host to an address, where it was looked up."""
    routes: list[Mapping] = host.get("network", "routes", default=[])
    return next((route for route in routes if route.get("kind") == "pod" and route.get("target") == address), {})


def lacks_route(evidence: Evidence, host: Host, address: str, owner: str) -> bool:
    """Whether a host has no route of its own to a pod, while others have one.

    Where every host takes its default route, the network behind it knows the way, as in clouds.
    """
    route = route_to(host, address)
    if not route:
        return False
    if not route.get("ok"):
        return True
    if not route.get("default"):
        return False
    others = [route_to(other, address) for other in evidence.hosts if other.name not in (host.name, owner)]
    known = [other for other in others if other]
    return not known or any(other.get("ok") and not other.get("default") for other in known)


def denying_policies(evidence: Evidence) -> list[Mapping]:
    """The NetworkPolicies that select pods of the server for ingress, if none of them admits the API servers."""
    policies: list[Mapping] = [
        policy
        for policy in get(evidence.objects, "network_policies", default=[])
        if "Ingress" in get(policy, "spec", "policyTypes", default=["Ingress"])
    ]
    ports = {endpoint.get("port") for endpoint in evidence.endpoints} | {None}
    sources = [address for host in evidence.control_planes for address in host.get("host", "addresses", default=[])]
    for policy in policies:
        for rule in get(policy, "spec", "ingress", default=[]):
            if _admits_port(rule, ports) and _admits_addresses(rule, sources):
                return []
    return policies


def _admits_port(rule: Mapping, ports: t.Collection[t.Any]) -> bool:
    listed = rule.get("ports") or []
    # A named port cannot be told from here: it is taken for that of the server.
    return not listed or any(isinstance(entry.get("port"), str) or entry.get("port") in ports for entry in listed)


def _admits_addresses(rule: Mapping, addresses: t.Sequence[str]) -> bool:
    peers = rule.get("from") or []
    if not peers:
        return True
    networks = [
        ipaddress.ip_network(peer["ipBlock"]["cidr"], strict=False) for peer in peers if get(peer, "ipBlock", "cidr")
    ]
    excepted = [
        ipaddress.ip_network(cidr, strict=False)
        for peer in peers
        for cidr in get(peer, "ipBlock", "except", default=[])
    ]
    inside = [
        any(ipaddress.ip_address(address) in network for network in networks)
        and not any(ipaddress.ip_address(address) in network for network in excepted)
        for address in addresses
    ]
    return bool(inside) and all(inside)


def sidecars(evidence: Evidence) -> list[str]:
    """The containers of a mesh in pods of the server, as POD/CONTAINER."""
    return [
        f"{pod.get('name')}/{container['name']}"
        for pod in evidence.server_pods
        for container in get(pod, "containers", default=[])
        if SIDECARS.match(str(container.get("name")))
    ]


def vxlan_to(host: Host, address: str) -> str:
    """The VXLAN device that a host reaches a pod through, empty where it is another one."""
    device = str(route_to(host, address).get("device") or "")
    tunnels: list[Mapping] = host.get("network", "tunnels", default=[])
    known = {str(tunnel.get("device")) for tunnel in tunnels if tunnel.get("kind") == "vxlan"}
    return device if device and (device in known or _VXLAN.search(device)) else ""


def offloads_checksums(host: Host, device: str) -> bool | None:
    tunnels: list[Mapping] = host.get("network", "tunnels", default=[])
    return next((t_.get("tx_checksum_offload") for t_ in tunnels if t_.get("device") == device), None)


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
    elif reached and not _loses_first_packets(host):
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
                "there, or has not set up its routes), so that its API server cannot reach the metrics server in "
                "any way."
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
        lines += [
            f"{end.name}: its packet filters accept what is forwarded to pods" for end in ends if end.get("network")
        ]
        lines += _others_reach(evidence, target, owner)
        lines += [
            said_of(host.name, kubelet)
            for kubelet in host.get("kubelets", default=[])
            if evidence.host_of_node(str(kubelet.get("node"))) == owner
        ]
        device = vxlan_to(host, str(target.get("host")))
        cause = ""
        if device:
            cause = (
                f"Packets to pods go through the VXLAN {device}, and nothing comes back: something between the "
                "hosts drops "
                "its UDP packets (port 8472 or 4789), or packets to the port of the metrics server."
            )
        yield Observation(tuple(lines), (host.name,), cause=cause)


def _others_reach(evidence: Evidence, target: Mapping, owner: str) -> list[str]:
    """Pods of other hosts that reach the same endpoint: then the server itself and its node are well."""
    found = []
    for other in evidence.hosts:
        for seen in other.pod_targets("endpoint"):
            if (seen.get("host"), seen.get("port")) == (target.get("host"), target.get("port")) and not failed(seen):
                where = "on its own node" if other.name == owner else f"on {other.name}"
                found.append(said_of(f"pod {where}", seen))
    return found[:2]


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
        yield Observation(
            tuple(lines),
            (host.name,),
            severity=_severity(evidence, host),
            repair=_firewall_repair(evidence, firewalls),
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


# --- NET-06: a NetworkPolicy ----------------------------------------------------------------------------------------


def network_policy_denies(evidence: Evidence) -> t.Iterator[Observation]:
    policies = denying_policies(evidence)
    if not policies:
        return
    for host in evidence.control_planes:
        for target, owner in ready_endpoints(evidence, host):
            if not failed(target):
                continue
            names = [f"{policy.get('namespace')}/{policy.get('name')}" for policy in policies]
            lines = [said_of(host.name, target)]
            lines += [f"NetworkPolicy {name}: selects the metrics server, and admits no API server" for name in names]
            lines += _others_reach(evidence, target, owner)
            yield Observation(tuple(lines), (host.name,), repair=_policy_repair(evidence, policies))


def _policy_repair(evidence: Evidence, policies: t.Sequence[Mapping]) -> Repair:
    namespace = str(policies[0].get("namespace") or "kube-system")
    port = next((endpoint.get("port") for endpoint in evidence.endpoints if endpoint.get("port")), 10250)
    labels = get(evidence.objects, "service", "selector", default={}) or {"k8s-app": "metrics-server"}
    addresses = [address for host in evidence.control_planes for address in host.get("host", "addresses", default=[])]
    sources = ", ".join("{ipBlock: {cidr: %s/%d}}" % (one, 128 if ":" in one else 32) for one in addresses)
    selector = ", ".join(f"{key}: {value}" for key, value in labels.items())
    return Repair(
        "advice",
        "Add a policy that admits the control planes to the port of the metrics server. Policies add up: nothing "
        "else changes. "
        "Where the CNI plugin translates addresses, give those that arrive (such as the addresses of its tunnel).",
        risk="none",
        commands=(
            "kubectl apply -f - <<END\n"
            "apiVersion: networking.k8s.io/v1\n"
            "kind: NetworkPolicy\n"
            f"metadata: {{name: metrics-server-api-servers, namespace: {namespace}}}\n"
            "spec:\n"
            f"  podSelector: {{matchLabels: {{{selector}}}}}\n"
            "  policyTypes: [Ingress]\n"
            "  ingress:\n"
            f"    - from: [{sources}]\n"
            f"      ports: [{{port: {port}}}]\n"
            "END",
        ),
    )


# --- NET-07: a proxy ------------------------------------------------------------------------------------------------


def proxy_in_the_way(evidence: Evidence) -> t.Iterator[Observation]:
    for host in evidence.control_planes:
        proxied = [target for target in host.used_targets() if target.get("proxy")]
        broken = [target for target in proxied if get(target, "tunnel", "ok") is False]
        said = [message for message in evidence.said_by(host.name) if _PROXY.search(message)]
        if not broken and not (proxied and said):
            continue
        environ = host.component("kube-apiserver").get("environ") or {}
        shown = [f"kube-apiserver on {host.name}: {name}={value}" for name, value in sorted(environ.items())]
        lines = [*shown, *(_tunnel_line(host, target) for target in broken or proxied), *said[:1]]
        yield Observation(tuple(lines), (host.name,), repair=_proxy_repair(evidence, host))


def _tunnel_line(host: Host, target: Mapping) -> str:
    tunnel = target.get("tunnel") or {}
    why = get(tunnel, "error", "message") or (f"it answers {tunnel['status']}" if tunnel.get("status") else "not known")
    direct = "without the proxy it connects" if not failed(target) else "without the proxy it does not connect either"
    return f"{host.name} -> {target.get('host')}:{target.get('port')} through {target.get('proxy')}: {why}; {direct}"


def _proxy_repair(evidence: Evidence, host: Host) -> Repair:
    environ = host.component("kube-apiserver").get("environ") or {}
    present = str(environ.get("NO_PROXY") or environ.get("no_proxy") or "")
    networks = [
        *evidence.api("cluster", "service_cidrs", default=[]),
        *evidence.api("cluster", "pod_cidrs", default=[]),
    ]
    wanted = [str(entry) for entry in networks] or ["SERVICE_NETWORK", "POD_NETWORK"]
    listed = [entry.strip() for entry in present.split(",") if entry.strip()]
    value = ",".join(dict.fromkeys([*listed, *wanted, ".svc", ".cluster.local"]))
    flavour = str(evidence.api("cluster", "flavour", default=""))
    managed = str(host.component("kube-apiserver").get("managed_by") or "")
    if flavour == "kubespray":
        commands: tuple[str, ...] = (
            f'additional_no_proxy: "{",".join([*wanted, ".svc", ".cluster.local"])}"   # group_vars/all/all.yml',
            "ansible-playbook cluster.yml --tags=control-plane --limit=kube_control_plane",
        )
    elif managed == "systemd":
        unit = str(host.component("kube-apiserver").get("unit") or "kube-apiserver.service")
        commands = (
            f"systemctl edit {unit}   # [Service]  Environment=NO_PROXY={value}",
            f"systemctl restart {unit}",
        )
    elif managed in ("k3s", "rke2"):
        commands = (
            f"echo NO_PROXY={value} >> /etc/default/{managed}   # replace the line that is there",
            f"systemctl restart {managed}",
        )
    else:
        commands = (
            "vi /etc/kubernetes/manifests/kube-apiserver.yaml   # env: the value of NO_PROXY, on each control "
            "plane, one after the other",
            f"NO_PROXY={value}",
            f"export NO_PROXY={value}   # before every kubeadm upgrade: kubeadm copies it into the manifests",
        )
    return Repair(
        "advice",
        "Add the networks of Services and pods to NO_PROXY, where the installer keeps it, and restart one API "
        "server after the other.",
        risk="A mistake in the manifest keeps that API server from starting.",
        downtime="each API server 45 s, one after the other",
        commands=commands,
    )


# --- NET-08: a tunnel without an agent ------------------------------------------------------------------------------


def tunnel_without_agent(evidence: Evidence) -> t.Iterator[Observation]:
    for host in evidence.control_planes:
        said = [message for message in evidence.said_by(host.name) if _TUNNEL.search(message)]
        said += [str(line) for line in host.get("api_server", "log", default=[]) if _TUNNEL.search(str(line))]
        if not said or not (host.name in evidence.failing_servers or not evidence.requests):
            continue
        lines = said[:2]
        configured = host.flags("kube-apiserver").get("egress-selector-config-file")
        if configured:
            lines.append(f"kube-apiserver on {host.name}: --egress-selector-config-file={configured}")
        lines += [
            said_of(f"{host.name}, without the tunnel", target) for target in host.used_targets() if not failed(target)
        ]
        yield Observation(
            tuple(lines), (host.name,), repair=_tunnel_repair(str(evidence.api("cluster", "flavour", default="")))
        )


def _tunnel_repair(flavour: str) -> Repair | None:
    if flavour in ("k3s", "rke2"):
        return Repair(
            "advice",
            f"Restart {flavour} on the nodes whose tunnel is away, servers first and one after the other; nodes "
            "have to reach port 6443 "
            "(RKE2: 9345, too) of every server.",
            risk="Pods keep running.",
            commands=(f"journalctl --unit {flavour} --grep remotedialer --lines 20", f"systemctl restart {flavour}"),
        )
    return None


# --- NET-09: a mesh -------------------------------------------------------------------------------------------------


def mesh_in_the_way(evidence: Evidence) -> t.Iterator[Observation]:
    beside = sidecars(evidence)
    if not beside:
        return
    for host in evidence.control_planes:
        broken = [
            target
            for target in host.used_targets() + [entry for entry, _owner in ready_endpoints(evidence, host)]
            if target.get("verdict") in ("tls", "untrusted", "unreachable") and kind_of(target) != "refused"
        ]
        if not broken:
            continue
        lines = [f"pod {name.replace('/', ': container ')}, a proxy of a service mesh" for name in beside]
        for target in broken[:2]:
            lines.append(said_of(host.name, target) if failed(target) else _shown_certificate(host, target))
        yield Observation(tuple(dict.fromkeys(lines)), (host.name,), repair=_mesh_repair(evidence, beside))


def _shown_certificate(host: Host, target: Mapping) -> str:
    issuer = get(target, "tls", "certificate", "issuer")
    error = get(target, "tls", "error", "message") or get(target, "response", "error", "message")
    shown = f" (its certificate is by {issuer})" if issuer else ""
    return f"{host.name} -> {target.get('host')}:{target.get('port')}: {error or target.get('verdict')}{shown}"


def _mesh_repair(evidence: Evidence, beside: t.Sequence[str]) -> Repair:
    pod = evidence.server_pods[0]
    namespace, workload = pod.get("namespace"), pod.get("workload") or "metrics-server"
    port = next((endpoint.get("port") for endpoint in evidence.endpoints if endpoint.get("port")), 10250)
    if any("linkerd" in name for name in beside):
        annotation = '"linkerd.io/inject":"disabled"'
        softer = f"config.linkerd.io/skip-inbound-ports: {port}"
    else:
        annotation = '"sidecar.istio.io/inject":"false"'
        softer = f"traffic.sidecar.istio.io/excludeInboundPorts: {port}"
    patch = '{"spec":{"template":{"metadata":{"annotations":{%s}}}}}' % annotation
    return Repair(
        "advice",
        "Leave the metrics server out of the mesh, or exclude its port from it. API servers speak TLS to it and "
        "authenticate by the "
        "front proxy's certificate; a mesh adds nothing there. (Where the sidecar has to stay: annotation "
        f"{softer}.)",
        risk="The metrics server starts anew; metrics pause for half a minute.",
        downtime="the metrics API 30 s",
        commands=(f"kubectl --namespace {namespace} patch deployment {workload} --patch '{patch}'",),
    )


# --- NET-10: networks that overlap ----------------------------------------------------------------------------------


def overlapping_networks(evidence: Evidence) -> t.Iterator[Observation]:
    allocated = [(node, cidr) for node in evidence.nodes for cidr in node.get("pod_cidrs") or ()]
    silent = set(evidence.nodes_without_metrics())
    for node in evidence.nodes:
        name = str(node.get("name"))
        for entry in node.get("addresses") or ():
            if entry.get("type") != "InternalIP":
                continue
            address = str(entry.get("address"))
            services = [
                str(cidr) for cidr in evidence.api("cluster", "service_cidrs", default=[]) if _within(address, cidr)
            ]
            pods = [f"{cidr} (pods of {other.get('name')})" for other, cidr in allocated if _within(address, cidr)]
            unreached = [
                said_of(f"pod on {host.name}", target)
                for host in evidence.hosts
                for target in host.pod_targets("kubelet")
                if target.get("host") == address and failed(target) and host.name in evidence.server_hosts
            ]
            if not services and not pods and unreached:
                # The network of all pods may well hold the nodes where the cloud gives both their addresses.
                pods = [
                    str(cidr) for cidr in evidence.api("cluster", "pod_cidrs", default=[]) if _within(address, cidr)
                ]
            if not services and not pods:
                continue
            lines = [f"node {name}: InternalIP {address} lies in {', '.join([*services, *pods])}", *unreached]
            harmed = bool(unreached) or name in silent
            yield Observation(tuple(lines), (evidence.host_of_node(name),), severity="error" if harmed else "warning")


def _within(address: str, cidr: t.Any) -> bool:
    network = _network(str(cidr))
    try:
        return network is not None and ipaddress.ip_address(address) in network
    except ValueError:
        return False


# Every node is compared with the pods' networks of all others.
@functools.lru_cache(maxsize=4096)
def _network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return None


# --- the rows -------------------------------------------------------------------------------------------------------

ROWS: tuple[Row, ...] = (
    Row(
        id="NET-01",
        title="An API server does not get to the metrics server, because its host has no ClusterIPs or no route to "
        "pods",
        layer="api_server",
        symptom="dial tcp CLUSTER-IP:443: i/o timeout, or net/http: request canceled while waiting for connection",
        cause=(
            "The API server connects to the ClusterIP of the metrics server, and nothing on its host translates "
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
            "Do not give the "
            "metrics server the host's network for this."
        ),
        rule=no_way_from_api_server,
        covers_everywhere=SUFFERED,
    ),
    Row(
        id="NET-02",
        title="A firewall between the hosts keeps API servers from the port of the metrics server",
        layer="service",
        symptom="failing or missing response from https://POD-IP:PORT/apis/metrics.k8s.io/v1beta1: ... i/o timeout",
        cause=(
            "The server and its node are well, and the packet filters of both hosts accept the traffic; still "
            "nothing from the control "
            "planes reaches the port of the pod. What drops it lies between the hosts: a security group, or a "
            "firewall of the network, "
            "that admits only well-known ports."
        ),
        repair=Repair(
            "advice",
            "Open exactly the port of the metrics server's pods from the addresses of the control planes, where "
            "that firewall is managed. "
            "If it admits port 10250 between nodes already, have the server listen there "
            "(metrics_server_container_port: 10250).",
            risk="none, if the rule is as narrow as that",
            commands=("nc -z -w 3 POD-IP PORT   # on a control plane, before and after",),
        ),
        avoid="Do not open the port to 0.0.0.0/0.",
        rule=firewall_between_hosts,
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
        avoid="Do not raise time-outs, and do not move the metrics server to the host's network.",
        rule=first_packets_lost,
        covers_everywhere=SUFFERED,
    ),
    Row(
        id="NET-06",
        title="A NetworkPolicy keeps API servers from the metrics server",
        layer="service",
        symptom="kubectl top works only through the API server on the metrics server's own node, or sometimes; i/o "
        "timeout",
        cause=(
            "A policy selects the pods of the metrics server, and none admits the API servers. These come from the "
            "addresses of their "
            "hosts (or of the tunnel of the pod network), which no selector of pods or namespaces means."
        ),
        repair=Repair("advice", "Add a policy that admits the control planes to the port of the metrics server."),
        avoid="Do not delete the policy that denies everything else.",
        rule=network_policy_denies,
        covers_everywhere=SUFFERED,
    ),
    Row(
        id="NET-07",
        title="An API server sends requests for the metrics server to an HTTP proxy",
        layer="api_server",
        symptom="Get https://CLUSTER-IP/...: Forbidden (without a code), EOF, proxyconnect tcp: ..., Proxy Error ( "
        "Connection refused )",
        cause=(
            "HTTPS_PROXY is set in the environment of the API server, and NO_PROXY does not have the network that "
            "it connects to. So it asks "
            "the proxy for the ClusterIP or the pod, which the proxy cannot reach or does not allow."
        ),
        repair=Repair("advice", "Add the networks of Services and pods to NO_PROXY of the API server."),
        avoid="Do not give the metrics server the host's network for this. Do not take HTTPS_PROXY away where "
        "webhooks outside need it.",
        rule=proxy_in_the_way,
        covers_everywhere=SUFFERED,
    ),
    Row(
        id="NET-08",
        title="The tunnel that an API server reaches nodes and pods through has no agent",
        layer="api_server",
        symptom="No agent available; proxy error from 127.0.0.1:6443 while dialing ..., code 502",
        cause=(
            "This API server does not connect to the cluster by itself. It goes through a tunnel (Konnectivity, or "
            "that of k3s and RKE2) which agents "
            "on the nodes keep open, to each server separately; none is connected to this one."
        ),
        repair=Repair(
            "advice",
            "Bring the agents back. With Konnectivity every agent needs a connection to every server: "
            "--server-count of the servers has to be "
            "their number, and the address that agents are given has to lead to all of them, on the agents' port "
            "(8132 or 8091).",
            risk="none",
            commands=(
                "kubectl get pods --all-namespaces --selector k8s-app=konnectivity-agent --output wide",
                "kubectl --namespace kube-system rollout restart daemonset konnectivity-agent",
            ),
        ),
        avoid="Do not remove the egress configuration: without the tunnel the API server has no way to nodes and "
        "pods at all.",
        rule=tunnel_without_agent,
        # Kubelets are behind the same tunnel.
        covers_everywhere=SUFFERED,
    ),
    Row(
        id="NET-09",
        title="A service mesh stands between API servers and the metrics server",
        layer="server",
        symptom="FailedDiscoveryCheck only since a mesh is installed; EOF, connection reset by peer, or an unknown "
        "authority",
        cause=(
            "A proxy of the mesh in the pod takes connections to the port of the metrics server and wants a "
            "certificate of the mesh. API servers are not "
            "in the mesh: they show the front proxy's certificate, and expect that of the metrics server."
        ),
        repair=Repair("advice", "Leave the metrics server out of the mesh, or exclude its port from it."),
        avoid="Do not set the whole mesh to PERMISSIVE.",
        explains=("AGG-07",),
        rule=mesh_in_the_way,
        covers_everywhere=SUFFERED,
    ),
    Row(
        id="NET-10",
        title="The address of a node lies in a network of pods or Services",
        layer="kubelet",
        symptom="kubectl top shows <unknown> for some nodes; dial tcp NODE-IP:10250: i/o timeout or no route to host",
        cause=(
            "Pods and nodes share addresses. What is sent to such a node from a pod goes to the pod network "
            "instead, so that the metrics server does "
            "not reach its kubelet."
        ),
        repair=Repair(
            "advice",
            "Give the node an address outside of these networks, or plan a migration to other networks of pods: "
            "that is done by making nodes anew, "
            "one after the other. There is no command for it.",
            risk="a migration",
            downtime="depends on the workloads",
        ),
        avoid="Do not change the network of pods or Services of a running cluster: kubelets, CNI plugin and "
        "certificates all hold it.",
        rule=overlapping_networks,
        explains=("KUB-09",),
        related=lambda cause, consequence: set(cause.hosts) >= set(consequence.hosts),
        covers=("node_metrics",),
        covers_everywhere=("pod_metrics",),
    ),
)
