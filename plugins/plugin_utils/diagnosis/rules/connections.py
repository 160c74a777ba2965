# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the rules about the network ask: who connects to what, and what is in the way. No rule of its own."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import network
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.families import joined
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
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
_VXLAN = re.compile(r"vxlan|^flannel\.", re.IGNORECASE)


def failed(target: Mapping) -> bool:
    """Whether a connection was tried and did not come about."""
    return get(target, "connect", "ok") is False


def kind_of(target: Mapping) -> str:
    """How it failed, by the kinds of the probes."""
    return str(get(target, "connect", "error", "kind", default=""))


def said_of(where: str, target: Mapping) -> str:
    """A line to quote: who connected to what, and what became of it."""
    # A kubelet is named by its address.
    address = joined(target.get("host") or target.get("address"), target.get("port"))
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


def _is_known(route: Mapping) -> bool:
    """Whether a look-up told something: a command that cannot look it up is no missing route."""
    # Evidence of older versions says so by the error alone.
    known = route.get("known", route.get("ok") or network.is_no_route(str(route.get("error") or "unreachable")))
    return bool(known)


def lacks_route(evidence: Evidence, host: Host, address: str, owner: str) -> bool:
    """Whether a host has no route of its own to a pod, while others have one.

    Where every host takes its default route, the network behind it knows the way, as in clouds.
    """
    route = route_to(host, address)
    if not route or not _is_known(route):
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
    if evidence.server_pods and all(pod.get("host_network") for pod in evidence.server_pods):
        # Policies are for pods with a network of their own.
        return []
    policies: list[Mapping] = [
        policy
        for policy in get(evidence.objects, "network_policies", default=[])
        if "Ingress" in get(policy, "spec", "policyTypes", default=["Ingress"])
    ]
    ports = {endpoint.get("port") for endpoint in evidence.endpoints} | {None}
    sources = api_server_addresses(evidence)
    for policy in policies:
        for rule in get(policy, "spec", "ingress", default=[]):
            if _admits_port(rule, ports) and _admits_addresses(rule, sources):
                return []
    return policies


def api_server_addresses(evidence: Evidence) -> list[str]:
    """The addresses that connections of API servers come from: InternalIPs, in the families that the server has.

    A host has more of its own, such as that of Docker's bridge, by which nothing leaves for another node.
    """
    families = {":" in str(endpoint.get("ip")) for endpoint in evidence.endpoints if endpoint.get("ip")}
    found: list[str] = []
    for host in evidence.control_planes:
        addresses = [
            str(entry.get("address"))
            for entry in evidence.node(host.node).get("addresses") or ()
            if entry.get("type") == "InternalIP"
        ]
        found += addresses or [str(address) for address in host.get("host", "addresses", default=[])]
    return [address for address in found if not families or (":" in address) in families]


def unread_chains(host: Host, *, dropping: bool = False) -> list[str]:
    """The chains of nftables at the forward hook whose rules nobody here has read, or those whose policy is drop.

    Those of iptables are judged rule by rule; of others, only the policy is known.
    """
    backends = {"ip": "nft", "ip6": "nft6"}
    chains: list[Mapping] = host.get("network", "nft_chains", default=[])
    return [
        f"{chain.get('family')} {chain.get('table')} {chain.get('chain')}"
        for chain in chains
        if (not dropping or chain.get("policy") == "drop")
        and not (
            (chain.get("table"), chain.get("chain")) == ("filter", "FORWARD")
            and host.get("network", "backends", backends.get(str(chain.get("family")), ""), "present")
        )
    ]


def _admits_port(rule: Mapping, ports: t.Collection[t.Any]) -> bool:
    listed = rule.get("ports") or []
    return not listed or any(_is_of(entry, port) for entry in listed for port in ports)


def _is_of(entry: Mapping, port: t.Any) -> bool:
    """Whether an entry of a policy's ports is of a port; None is one that is not known."""
    first = entry.get("port")
    if (entry.get("protocol") or "TCP") != "TCP":
        return False
    # A named port cannot be told from here: it is taken for that of the server.
    if first is None or isinstance(first, str):
        return True
    if isinstance(port, int) and isinstance(entry.get("endPort"), int):
        return bool(first <= port <= entry["endPort"])
    return bool(first == port)


def _admits_addresses(rule: Mapping, addresses: t.Sequence[str]) -> bool:
    peers = rule.get("from") or []
    if not peers:
        return True
    blocks = [peer["ipBlock"] for peer in peers if get(peer, "ipBlock", "cidr")]
    return bool(addresses) and all(any(_is_in(block, address) for block in blocks) for address in addresses)


def _is_in(block: Mapping, address: str) -> bool:
    """Whether an ipBlock of a policy has an address in it; what it excepts, another one may admit."""
    one = ipaddress.ip_address(address)
    excepted = [ipaddress.ip_network(cidr, strict=False) for cidr in get(block, "except", default=[])]
    return one in ipaddress.ip_network(block["cidr"], strict=False) and not any(one in entry for entry in excepted)


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


def others_reach(evidence: Evidence, target: Mapping, owner: str) -> list[str]:
    """Pods of other hosts that reach the same endpoint: then the server itself and its node are well."""
    found = []
    for other in evidence.hosts:
        for seen in other.pod_targets("endpoint"):
            if (seen.get("host"), seen.get("port")) == (target.get("host"), target.get("port")) and not failed(seen):
                where = "on its own node" if other.name == owner else f"on {other.name}"
                found.append(said_of(f"pod {where}", seen))
    return found[:2]
