#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_network_info
short_description: Show whether a host forwards pod traffic
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reports what affects traffic from and to pods on a host - the FORWARD chains of both iptables
    backends and of nftables, routes to pods and services, forwarding settings of the kernel, firewall services,
    Docker, and the clock.
  - Follows the rules of the FORWARD chains for new connections between pods and other addresses, and names the rule
    that decides.
  - Nothing is loaded or created; the legacy tables of iptables are read only where the kernel has them
    already.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.host
options:
  pod_cidrs:
    description:
      - The networks of pods.
    type: list
    elements: str
    default: []
  service_cidrs:
    description:
      - The networks of Services.
    type: list
    elements: str
    default: []
  peers:
    description:
      - Addresses outside of the pod networks that pods talk to, or that talk to pods, such as those of API servers.
    type: list
    elements: str
    default: []
  pod_addresses:
    description:
      - Addresses of single pods, to see the route to each. Networks of pods are often split between nodes, so that the
        route to the whole network tells little.
    type: list
    elements: str
    default: []
  time_server:
    description:
      - URL of an API server, as C(https://HOST:PORT), to compare the clock of the host with.
    type: str
  ca_file:
    description:
      - File on the host with the CA of O(time_server), and of the API servers behind O(cluster_ip). Needed with
        O(time_server).
    type: path
  cluster_ip:
    description:
      - The ClusterIP of the API's own Service (C(kubernetes) in C(default)), to see whether ClusterIPs answer from
        this host, whatever provides them.
    type: str
  api_certificates:
    description:
      - Certificates that API servers show, DER in base64. Who shows one of them at O(cluster_ip), or one by O(ca_file),
        is an API server. Any other server is not, because without kube-proxy packets to ClusterIPs may leave by the
        default route.
    type: list
    elements: str
    default: []
  attempts:
    description:
      - How often O(cluster_ip) is tried, a second apart, before it is said not to answer.
    type: int
    default: 3
  timeout:
    description:
      - Seconds for each command and for the request to O(time_server).
    type: float
    default: 5
notes:
  - Uses C(iptables), C(nft), C(ip) and C(systemctl) where the host has them.
seealso:
  - module: kubemetrics.aggregation.component_info
  - module: kubemetrics.aggregation.aggregator_info
"""

EXAMPLES = r"""
- name: Examine how each host forwards pod traffic
  kubemetrics.aggregation.host_network_info:
    pod_cidrs: [10.233.64.0/18]
    service_cidrs: [10.233.0.0/18]
    peers: "{{ groups['kube_control_plane'] | map('extract', hostvars, ['ip']) }}"
    time_server: https://192.0.2.11:6443
    ca_file: /etc/kubernetes/pki/ca.crt
  become: true
  register: network

- name: Name what is in the way
  ansible.builtin.fail:
    msg: "{{ item.source }} -> {{ item.destination }}: {{ item.action }} by {{ item.backend }} ({{ item.rule }})"
  loop: "{{ network.blocked }}"
  when: item.certain
"""

RETURN = r"""
backends:
  description: The FORWARD chain of each iptables backend, by V(nft), V(legacy), and V(nft6) and V(legacy6) for IPv6.
  returned: success
  type: dict
  contains:
    present:
      description: Whether the backend has a filter table.
      type: bool
    error:
      description: Why it could not be read, or null.
      type: str
    policy:
      description: The policy of the chain.
      type: str
    policy_packets:
      description: How many packets met the policy so far. When the policy is V(DROP) and this rises, traffic is lost.
      type: int
    rules:
      description: The rules of the chain, in order.
      type: list
      elements: str
  sample:
    nft: {present: true, error: null, policy: DROP, policy_packets: 118, rules: ["-j KUBE-FORWARD"]}
    legacy: {present: false, error: null, policy: null, policy_packets: 0, rules: []}
nft_chains:
  description:
    - All filter chains of nftables at the forward hook with RV(ignore:family), RV(ignore:table), RV(ignore:chain),
      RV(ignore:priority) and RV(ignore:policy), those of iptables-nft among them. A packet has to pass them all.
  returned: success
  type: list
  elements: dict
  sample: [{family: ip, table: filter, chain: FORWARD, priority: 0, policy: drop}]
nft_error:
  description: Why the chains of nftables could not be read, or null.
  returned: success
  type: str
  sample: null
pod_bridges:
  description:
    - Bridges that pods of this host are behind, whatever their names - those with an address or a route in
      O(pod_cidrs), and the one that the configuration of CNI names.
  returned: success
  type: list
  elements: str
  sample: [cni0]
verdicts:
  description: What the iptables backends do with new connections between pods, and between pods and O(peers).
  returned: success
  type: list
  elements: dict
  contains:
    backend:
      description: The backend.
      type: str
    source:
      description: Where the connection comes from.
      type: str
    destination:
      description: Where it goes.
      type: str
    action:
      description: V(ACCEPT), V(DROP) or V(REJECT).
      type: str
    incoming:
      description: The interfaces that it may come in by.
      type: str
    outgoing:
      description: The interfaces that it may leave by.
      type: str
    certain:
      description: Whether that holds for all of these interfaces, whatever the protocol and port.
      type: bool
    rule:
      description: The rule or the policy that decides.
      type: str
  sample:
    - backend: nft
      source: 10.233.64.0/18
      destination: 10.233.64.0/24
      incoming: any but cni0
      outgoing: cni0
      action: DROP
      certain: true
      rule: policy of FORWARD
blocked:
  description: Those of RV(verdicts) that are not V(ACCEPT).
  returned: success
  type: list
  elements: dict
  sample: []
routes:
  description: The way from this host to an address in each network, and to each of O(peers) and O(pod_addresses).
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(pods), V(services), V(peer) or V(pod).
      type: str
    network:
      description: The network or the peer.
      type: str
    target:
      description: The address that was looked up.
      type: str
    known:
      description: Whether the look-up told. Where C(ip) is missing or too old for it, RV(ignore:error) says so.
      type: bool
    ok:
      description: Whether there is a route that leads somewhere.
      type: bool
    device:
      description: The interface.
      type: str
    gateway:
      description: The next hop, or null.
      type: str
    source:
      description: The address that this host would use.
      type: str
    default:
      description:
        - Whether it is the default route that would be taken. For a pod network this usually means that a route is
          missing.
      type: bool
    error:
      description: Why there is no route, or why it is not known, or null.
      type: str
  sample:
    - kind: pods
      network: 10.233.64.0/18
      target: 10.233.64.10
      known: true
      ok: true
      device: cni0
      gateway:
      source: 10.233.64.1
      default: false
      error:
tunnels:
  description: The VXLAN devices of this host.
  returned: success
  type: list
  elements: dict
  contains:
    device:
      description: The interface.
      type: str
    kind:
      description: V(vxlan).
      type: str
    tx_checksum_offload:
      description: Whether the kernel leaves the checksums of packets that it sends to the network card, or null.
      type: bool
  sample: [{device: flannel.1, kind: vxlan, tx_checksum_offload: true}]
kernel:
  description: The release of the kernel.
  returned: success
  type: str
  sample: 6.1.0-31-amd64
sysctls:
  description: Settings of the kernel, null for those that it does not have.
  returned: success
  type: dict
  sample: {net.ipv4.ip_forward: "1", net.bridge.bridge-nf-call-iptables: "1"}
services:
  description: The state of services that change packet filters, for those that the host has.
  returned: success
  type: dict
  sample: {docker.service: active, firewalld.service: inactive}
ufw_enabled:
  description: Whether C(ufw) is switched on, or null where there is none.
  returned: success
  type: bool
  sample: null
docker:
  description: Docker, or null where there is none.
  returned: success
  type: dict
  contains:
    active:
      description: Whether it runs.
      type: bool
    manages_iptables:
      description: Whether it may change iptables by its configuration file, or null when that does not parse.
      type: bool
  sample: {active: true, manages_iptables: true}
cluster_ip:
  description: Whether O(cluster_ip) answers, or null without it.
  returned: success
  type: dict
  contains:
    address:
      description: The address.
      type: str
    answers:
      description: Whether an API server answers there.
      type: bool
    verified_by:
      description: V(ca) or V(certificate), or null.
      type: str
    error:
      description: Why there is no answer, with RV(ignore:kind) and RV(ignore:message), or null.
      type: dict
  sample: {address: 10.233.0.1, answers: true, verified_by: ca, error: null}
clock:
  description: The clock of the host against that of O(time_server), or null without it.
  returned: success
  type: dict
  contains:
    server:
      description: What it was compared with, O(time_server).
      type: str
    offset:
      description: Seconds that the host is ahead, or null.
      type: float
    uncertainty:
      description: How far off that may be, in seconds.
      type: float
    error:
      description: Why it is not known, with RV(ignore:kind) and RV(ignore:message), or null.
      type: dict
  sample: {server: "https://192.0.2.11:6443", offset: 0.1, uncertainty: 0.5, error: null}
"""

import os
import time
import typing as t
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import (
    network,
    packet_filter,
    pod_network,
    probes,
    processes,
    tunnels,
)

SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.ipv4.conf.all.rp_filter",
)
SERVICES = ("docker.service", "firewalld.service", "nftables.service", "ufw.service", "iptables.service")


def route_to(kind: str, wanted: network.Network, timeout: float) -> t.Dict[str, t.Any]:
    target = network.sample_address(wanted)
    single = wanted.num_addresses == 1
    result: t.Dict[str, t.Any] = {
        "kind": kind,
        "network": target if single else str(wanted),
        "target": target,
        "known": False,
        "ok": False,
        "device": None,
        "gateway": None,
        "source": None,
        "default": False,
        "error": None,
    }
    program = packet_filter.find("ip")
    if program is None:
        result["error"] = "There is no ip command on this host."
        return result
    family = "-%d" % wanted.version
    try:
        route = network.parse_route(packet_filter.run([program, family, "-j", "route", "get", target], timeout))
        fib = network.parse_route(
            packet_filter.run([program, family, "-j", "route", "get", "fibmatch", target], timeout)
        )
    except packet_filter.CommandError as exc:
        # What the kernel answers is that there is no way; any other failure is one of the command.
        result.update(error=str(exc), known=network.is_no_route(str(exc)))
        return result
    result.update(
        known=bool(route["device"]) or route["blocked"],
        ok=bool(route["device"]) and not route["blocked"],
        device=route["device"],
        gateway=route["gateway"],
        source=route["source"],
        default=fib["destination"] == "default",
    )
    return result


def read_clock(url: str, ca_file: str, timeout: float) -> t.Dict[str, t.Any]:
    parts = urlsplit(url)
    try:
        context = probes.client_context(ca_file=ca_file)
        offset, uncertainty = probes.clock_offset(parts.hostname or "", parts.port or 443, context, timeout)
    except probes.ProbeError as exc:
        return {"server": url, "offset": None, "uncertainty": None, "error": exc.as_dict()}
    return {"server": url, "offset": round(offset, 2), "uncertainty": round(uncertainty, 2), "error": None}


def try_cluster_ip(params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """Several times, because rules are away for a moment while something that provides ClusterIPs restarts."""
    result: t.Dict[str, t.Any] = {}
    for attempt in range(max(1, params["attempts"])):
        if attempt:
            time.sleep(1)
        result = probes.answers_as(
            params["cluster_ip"], 443, params["ca_file"], params["api_certificates"], params["timeout"]
        )
        if result["answers"]:
            break
    return {"address": params["cluster_ip"], **result}


def check_time_server(params: t.Mapping[str, t.Any]) -> None:
    """Raises ValueError with a sentence."""
    url = params["time_server"]
    if not url:
        return
    parts = urlsplit(url)
    try:
        sound = parts.scheme == "https" and parts.hostname and (parts.port or 443)
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("time_server is %r and no URL such as https://192.0.2.11:6443." % url)
    if not params["ca_file"]:
        raise ValueError("time_server is asked only over verified TLS; give ca_file, too.")


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "pod_cidrs": {"type": "list", "elements": "str", "default": []},
            "service_cidrs": {"type": "list", "elements": "str", "default": []},
            "peers": {"type": "list", "elements": "str", "default": []},
            "pod_addresses": {"type": "list", "elements": "str", "default": []},
            "time_server": {"type": "str"},
            "ca_file": {"type": "path"},
            "cluster_ip": {"type": "str"},
            "api_certificates": {"type": "list", "elements": "str", "default": []},
            "attempts": {"type": "int", "default": 3},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    timeout = params["timeout"]
    if timeout <= 0:
        module.fail_json(msg="timeout is %g; give more than 0 seconds." % timeout)
    try:
        pods = network.parse_networks(params["pod_cidrs"])
        services = network.parse_networks(params["service_cidrs"])
        peers = network.parse_networks(params["peers"])
        single = network.parse_networks(params["pod_addresses"])
        check_time_server(params)
    except ValueError as exc:
        module.fail_json(msg=str(exc))

    routes = [route_to("pods", entry, timeout) for entry in pods]
    routes += [route_to("services", entry, timeout) for entry in services]
    routes += [route_to("peer", entry, timeout) for entry in peers]
    routes += [route_to("pod", entry, timeout) for entry in single]

    bridges = pod_network.read_bridges(pods)
    connections = pod_network.connections(pods, peers, bridges)
    versions = {4} | {entry.version for entry in pods + services + peers}
    backends: t.Dict[str, t.Dict[str, t.Any]] = {}
    verdicts: t.List[t.Dict[str, t.Any]] = []
    for name, (_program, version, _tables) in packet_filter.BACKENDS.items():
        if version not in versions:
            continue
        backends[name], chains = packet_filter.read_backend(name, timeout)
        if backends[name]["present"]:
            verdicts += packet_filter.verdicts_of(name, chains, connections)

    nft_chains: t.List[t.Dict[str, t.Any]] = []
    nft_error = None
    nft = packet_filter.find("nft")
    if nft:
        try:
            nft_chains = network.forward_hooks(packet_filter.run([nft, "-j", "list", "chains"], timeout))
        except packet_filter.CommandError as exc:
            nft_error = str(exc)

    units = {name: unit for name, unit in processes.show_units(SERVICES, timeout).items() if unit["loaded"]}
    ufw = processes.read_text("/etc/ufw/ufw.conf")
    docker = None
    if "docker.service" in units:
        alone = network.docker_leaves_iptables_alone(processes.read_text("/etc/docker/daemon.json"))
        docker = {
            "active": units["docker.service"]["active_state"] == "active",
            "manages_iptables": None if alone is None else not alone,
        }
    module.exit_json(
        changed=False,
        backends=backends,
        nft_chains=nft_chains,
        nft_error=nft_error,
        pod_bridges=sorted({bridge.device for bridge in bridges}),
        verdicts=verdicts,
        blocked=[verdict for verdict in verdicts if verdict["action"] != "ACCEPT"],
        routes=routes,
        tunnels=tunnels.read(timeout),
        kernel=os.uname().release,
        sysctls={name: read_sysctl(name) for name in SYSCTLS},
        services={name: unit["active_state"] for name, unit in sorted(units.items())},
        ufw_enabled=None if ufw is None else network.ufw_is_enabled(ufw),
        docker=docker,
        cluster_ip=try_cluster_ip(params) if params["cluster_ip"] else None,
        clock=read_clock(params["time_server"], params["ca_file"], timeout) if params["time_server"] else None,
    )


def read_sysctl(name: str) -> t.Optional[str]:
    text = processes.read_text("/proc/sys/" + name.replace(".", "/"))
    return None if text is None else text.strip()


if __name__ == "__main__":
    main()
