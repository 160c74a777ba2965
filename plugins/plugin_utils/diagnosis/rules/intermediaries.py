# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about what is put between the parts (NET-06 to NET-10): policies, proxies, tunnels, meshes, equal networks.

Each is a pure function from evidence to observations.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.families import joined
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
    Observation,
    Repair,
    Row,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules.connections import (
    SUFFERED,
    api_server_addresses,
    denying_policies,
    failed,
    kind_of,
    others_reach,
    ready_endpoints,
    said_of,
    sidecars,
)

Mapping = t.Mapping[str, t.Any]
_PROXY = re.compile(r"proxyconnect|Proxy Error|proxy error \(|: Forbidden\b|: Bad Gateway\b|: EOF\b")
_TUNNEL = re.compile(r"No agent available|proxy error from \S+ while dialing|no tunnels available")


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
            lines += [
                f"NetworkPolicy {name}: selects {evidence.subject.server}, and admits no API server" for name in names
            ]
            lines += others_reach(evidence, target, owner)
            yield Observation(tuple(lines), (host.name,), repair=_policy_repair(evidence, policies))


def _policy_repair(evidence: Evidence, policies: t.Sequence[Mapping]) -> Repair:
    namespace = str(policies[0].get("namespace") or "kube-system")
    port = next((endpoint.get("port") for endpoint in evidence.endpoints if endpoint.get("port")), 10250)
    labels = get(evidence.objects, "service", "selector", default={}) or {"k8s-app": evidence.subject.name}
    addresses = api_server_addresses(evidence)
    sources = ", ".join("{ipBlock: {cidr: %s/%d}}" % (one, 128 if ":" in one else 32) for one in addresses)
    selector = ", ".join(f"{key}: {value}" for key, value in labels.items())
    return Repair(
        "advice",
        f"Add a policy that admits the control planes to the port of {evidence.subject.server}. Policies add up: "
        "nothing else changes. "
        "Where the CNI plugin translates addresses, give those that arrive (such as the addresses of its tunnel).",
        risk="none",
        commands=(
            "kubectl apply -f - <<END\n"
            "apiVersion: networking.k8s.io/v1\n"
            "kind: NetworkPolicy\n"
            f"metadata: {{name: {evidence.subject.name}-api-servers, namespace: {namespace}}}\n"
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
    address = joined(target.get("host"), target.get("port"))
    return f"{host.name} -> {address} through {target.get('proxy')}: {why}; {direct}"


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
    elif managed in distributions.TABLE:
        commands = distributions.environment_lines(managed, "NO_PROXY", value)
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
    return f"{host.name} -> {joined(target.get('host'), target.get('port'))}: {error or target.get('verdict')}{shown}"


def _mesh_repair(evidence: Evidence, beside: t.Sequence[str]) -> Repair:
    pod, server = evidence.server_pods[0], evidence.subject.server
    namespace, workload = pod.get("namespace"), pod.get("workload") or evidence.subject.name
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
        f"Leave {server} out of the mesh, or exclude its port from it. API servers speak TLS to it and "
        "authenticate by the "
        "front proxy's certificate; a mesh adds nothing there. (Where the sidecar has to stay: annotation "
        f"{softer}.)",
        risk=f"{evidence.subject.Server} starts anew; its API pauses for half a minute.",
        downtime=f"{evidence.subject.api} 30 s",
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


ROWS: tuple[Row, ...] = (
    Row(
        id="NET-06",
        title="A NetworkPolicy keeps API servers from $server",
        layer="service",
        symptom="$Requests works only through the API server on ${server}'s own node, or sometimes; i/o timeout",
        cause=(
            "A policy selects the pods of $server, and none admits the API servers. These come from the "
            "addresses of their "
            "hosts (or of the tunnel of the pod network), which no selector of pods or namespaces means."
        ),
        repair=Repair("advice", "Add a policy that admits the control planes to the port of $server."),
        avoid="Do not delete the policy that denies everything else.",
        rule=network_policy_denies,
        covers_everywhere=SUFFERED,
    ),
    Row(
        id="NET-07",
        title="An API server sends requests for $server to an HTTP proxy",
        layer="api_server",
        symptom="Get https://CLUSTER-IP/...: Forbidden (without a code), EOF, proxyconnect tcp: ..., Proxy Error ( "
        "Connection refused )",
        cause=(
            "HTTPS_PROXY is set in the environment of the API server, and NO_PROXY does not have the network that "
            "it connects to. So it asks "
            "the proxy for the ClusterIP or the pod, which the proxy cannot reach or does not allow."
        ),
        repair=Repair("advice", "Add the networks of Services and pods to NO_PROXY of the API server."),
        avoid="Do not give $server the host's network for this. Do not take HTTPS_PROXY away where "
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
        title="A service mesh stands between API servers and $server",
        layer="server",
        symptom="FailedDiscoveryCheck only since a mesh is installed; EOF, connection reset by peer, or an unknown "
        "authority",
        cause=(
            "A proxy of the mesh in the pod takes connections to the port of $server and wants a "
            "certificate of the mesh. API servers are not "
            "in the mesh: they show the front proxy's certificate, and expect that of $server."
        ),
        repair=Repair("advice", "Leave $server out of the mesh, or exclude its port from it."),
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
            "instead, so that $server does "
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
        only_resource_metrics=True,
        explains=("KUB-09",),
        related=lambda cause, consequence: set(cause.hosts) >= set(consequence.hosts),
        covers=("node_metrics",),
        covers_everywhere=("pod_metrics",),
    ),
)
