# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults of the network, told apart; by what a lab showed, and by that with one thing changed."""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import catalogue, engine
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence

CORPUS = Path(__file__).parents[2] / "corpus" / "evidence"
OWN = ["NET-01", "NET-02", "NET-03", "NET-04", "NET-05", "NET-06", "NET-07", "NET-08", "NET-09", "NET-10"] + [
    "POD-03",
    "LIF-01",
    "LIF-02",
]
#: A fault in the lab, and the rows of this family that its evidence shows.
CAPTURED = {path.stem: path for path in CORPUS.glob("*.json") if path.stem in OWN}


def recorded(name):
    return json.loads((CORPUS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def healthy():
    return recorded("healthy-1-1")


def found(document, rows=OWN):
    """The rows that apply, with the hosts of each."""
    evidence = Evidence(document)
    seen = {}
    for row in catalogue.ROWS:
        if row.id in rows and (observed := list(row.rule(evidence))):
            seen[row.id] = sorted({host for one in observed for host in one.hosts})
    return seen


def lost(kind="timeout", message="nothing answers", seconds=5.0):
    return {"ok": False, "seconds": seconds, "error": {"kind": kind, "message": message}}


def targets(document, host="cp1", kind=""):
    return [
        target
        for result in document["hosts"][host]["aggregator"].values()
        for target in result["targets"]
        if not kind or target["kind"] == kind
    ]


def lose(document, host="cp1", kind="", **how):
    for target in targets(document, host, kind):
        target.update(connect=lost(**how), verdict="unreachable")
        target["tls"] = {"ok": False, "verified": None, "error": None, "certificate": None}
    for server in document["api"]["apiservices"]["servers"]:
        if server["server"] == document["hosts"][host]["host"]["api_server_url"]:
            server.update(ok=False, message="503 error trying to reach service: i/o timeout")
    return document


def route(document, host="cp1", address="10.233.65.2", **how):
    entry = {
        "kind": "pod",
        "network": address,
        "target": address,
        "ok": True,
        "device": "eth0",
        "gateway": "10.89.0.31",
    }
    entry = {**entry, "source": None, "default": False, "error": None, **how}
    document["hosts"][host]["network"]["routes"].append(entry)


def third_host(document, name="cp2"):
    """A second control plane like the first."""
    document["hosts"][name] = copy.deepcopy(document["hosts"]["cp1"])
    document["hosts"][name]["node"] = name
    document["hosts"][name]["host"].update(name=name, node_name=name, api_server_url="https://10.89.0.12:6443")
    for server in list(document["api"]["apiservices"]["servers"]):
        document["api"]["apiservices"]["servers"].append({**server, "server": "https://10.89.0.12:6443"})


@pytest.mark.parametrize("name", sorted(path.stem for path in CORPUS.glob("healthy*.json")))
def test_a_healthy_cluster_has_none_of_them(name):
    assert found(recorded(name)) == {}


# --- NET-01 ---------------------------------------------------------------------------------------------------------


def test_no_kube_proxy(healthy):
    lose(healthy, kind="cluster_ip")
    healthy["hosts"]["cp1"]["network"]["cluster_ip"]["answers"] = False
    assert found(healthy) == {"NET-01": ["cp1"]}


def test_one_service_that_is_not_translated(healthy):
    lose(healthy, kind="cluster_ip")
    assert found(healthy) == {"NET-01": ["cp1"]}
    assert "lags behind" in engine.diagnose(healthy)["findings"][0]["cause"]


@pytest.mark.parametrize(("policy", "named"), [("Cluster", {"NET-01": ["cp1"]}), ("Local", {})])
def test_a_service_that_keeps_traffic_on_its_node_is_no_fault_of_kube_proxy(healthy, policy, named):
    lose(healthy, kind="cluster_ip")
    healthy["hosts"]["cp1"]["network"]["cluster_ip"] = {"address": "10.233.0.1", "answers": True}
    healthy["api"]["objects"]["service"]["internal_traffic_policy"] = policy
    assert found(healthy, {"NET-01"}) == named


def test_an_api_server_that_goes_to_endpoints_needs_no_cluster_ip(healthy):
    lose(healthy, kind="cluster_ip")
    healthy["hosts"]["cp1"]["network"]["cluster_ip"]["answers"] = False
    healthy["hosts"]["cp1"]["host"]["components"]["kube-apiserver"]["flags"]["enable-aggregator-routing"] = "true"
    assert found(healthy) == {}


def test_a_service_without_endpoints_is_refused_not_lost(healthy):
    lose(healthy, kind="cluster_ip")
    for target in targets(healthy, kind="cluster_ip"):
        target["connect"]["error"]["kind"] = "refused"
    assert found(healthy) == {}


def test_no_route_to_pods(healthy):
    lose(healthy)
    route(healthy, default=True, gateway="10.89.0.1")
    assert found(healthy) == {"NET-01": ["cp1"]}
    assert "no route to pods" in engine.diagnose(healthy)["findings"][0]["cause"]


def test_a_default_route_is_right_where_all_have_it(healthy):
    third_host(healthy)
    for host in ("cp1", "cp2"):
        lose(healthy, host)
        route(healthy, host, default=True, gateway="10.89.0.1")
    assert found(healthy) == {"NET-02": ["cp1", "cp2"]}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"known": False, "error": 'Option "-j" is unknown, try "ip -help".'}, "NET-02"),
        ({"error": 'Option "-j" is unknown, try "ip -help".'}, "NET-02"),
        ({"error": "There is no ip command on this host."}, "NET-02"),
        ({"known": True, "error": "RTNETLINK answers: Network is unreachable"}, "NET-01"),
        ({"error": "RTNETLINK answers: No route to host"}, "NET-01"),
        ({"known": True, "device": "lo"}, "NET-01"),
    ],
)
def test_a_look_up_that_fails_is_no_missing_route(healthy, how, expected):
    lose(healthy)
    route(healthy, ok=False, **{"device": None, "gateway": None, **how})
    assert found(healthy) == {expected: ["cp1"]}


# --- NET-02, NET-03, NET-04: who drops it ---------------------------------------------------------------------------


def test_a_firewall_between_the_hosts(healthy):
    lose(healthy)
    route(healthy)
    assert found(healthy) == {"NET-02": ["cp1"]}


OWN_CHAIN = {"family": "ip", "table": "filter", "chain": "FORWARD", "priority": 0, "policy": "drop"}
CHAIN = {"family": "inet", "table": "filter", "chain": "forward", "priority": 0, "policy": "drop"}
ACCEPTS = "w1: its packet filters accept what is forwarded to pods"


def between_hosts(document):
    (finding,) = [entry for entry in engine.diagnose(document)["findings"] if entry["id"] == "NET-02"]
    return finding


def test_what_was_read_of_packet_filters_is_said(healthy):
    lose(healthy)
    route(healthy)
    healthy["hosts"]["w1"]["network"]["nft_chains"] = [OWN_CHAIN]
    assert ACCEPTS in between_hosts(healthy)["evidence"]


def test_a_chain_of_nftables_that_drops_is_named(healthy):
    lose(healthy)
    route(healthy)
    healthy["api"]["cluster"]["pod_cidrs"] = ["10.233.64.0/18", "fd00::/56"]
    healthy["hosts"]["w1"]["network"]["nft_chains"] = [OWN_CHAIN, CHAIN]
    finding = between_hosts(healthy)
    assert not [line for line in finding["evidence"] if line.startswith("w1: its ")]
    assert any("w1: the policy of nftables' chain inet filter forward is drop" in line for line in finding["evidence"])
    assert "on w1 the chain inet filter forward" in finding["cause"]
    assert "nft insert rule inet filter forward ip saddr 10.233.64.0/18 accept" in finding["repair"]["commands"]
    assert "nft insert rule inet filter forward ip6 daddr fd00::/56 accept" in finding["repair"]["commands"]


def test_the_own_chain_of_iptables_is_unread_without_iptables(healthy):
    lose(healthy)
    route(healthy)
    network = healthy["hosts"]["w1"]["network"]
    network["nft_chains"] = [OWN_CHAIN]
    network["backends"]["nft"]["present"] = False
    assert "the chain ip filter FORWARD" in between_hosts(healthy)["cause"]


def test_a_chain_whose_policy_accepts_may_have_rules_that_do_not(healthy):
    lose(healthy)
    route(healthy)
    healthy["hosts"]["w1"]["network"]["nft_chains"] = [{**CHAIN, "policy": "accept"}]
    lines = between_hosts(healthy)["evidence"]
    assert "w1: its iptables accept what is forwarded to pods" in lines
    assert "w1: nftables has more chains for what is forwarded, whose rules were not read: inet filter forward" in lines


@pytest.mark.parametrize("where", ["nft_error", "backends"])
def test_packet_filters_that_could_not_be_read_accept_nothing(healthy, where):
    lose(healthy)
    route(healthy)
    network = healthy["hosts"]["w1"]["network"]
    if where == "nft_error":
        network["nft_error"] = "Operation not permitted"
    else:
        network["backends"]["nft"]["error"] = "Operation not permitted"
    lines = between_hosts(healthy)["evidence"]
    assert ACCEPTS not in lines
    assert "w1: not all of its packet filters could be read: Operation not permitted" in lines


def test_one_control_plane_of_two_is_no_firewall_between_all(healthy):
    third_host(healthy)
    lose(healthy, "cp2")
    route(healthy, "cp2")
    assert "NET-02" not in found(healthy)


def blocked(rule, action="DROP", certain=True):
    verdict = {"backend": "nft", "source": "10.233.64.0/18", "destination": "10.89.0.11/32", "incoming": "cni0"}
    return {**verdict, "outgoing": "any but cni0", "action": action, "certain": certain, "rule": rule}


def test_the_policy_of_the_pods_host(healthy):
    lose(healthy)
    route(healthy)
    network = healthy["hosts"]["w1"]["network"]
    network["blocked"] = [blocked("policy of FORWARD")]
    network["backends"]["nft"].update(policy="DROP", policy_packets=7)
    assert found(healthy) == {"NET-04": ["w1"]}
    finding = engine.diagnose(healthy)["findings"][0]
    assert finding["severity"] == "error"
    assert finding["evidence"][0] == "w1 (nft): -P FORWARD DROP, which 7 packets have met"


def test_a_policy_that_no_packet_meets_is_a_warning(healthy):
    """Pods whose packets BPF programs forward: all connect, all metrics are there, and the counter stays at 0."""
    network = healthy["hosts"]["w1"]["network"]
    network["blocked"] = [blocked("policy of FORWARD")]
    network["backends"]["nft"].update(policy="DROP", policy_packets=0)
    (finding,) = engine.diagnose(healthy)["findings"]
    assert (finding["id"], finding["severity"]) == ("NET-04", "warning")
    assert "no packet has met the policy" in finding["cause"]
    network["backends"]["nft"]["policy_packets"] = 1
    assert engine.diagnose(healthy)["findings"][0]["severity"] == "error"


@pytest.mark.parametrize("what", ["connection", "metrics"])
def test_a_policy_that_something_is_lost_to_is_an_error(healthy, what):
    healthy["hosts"]["w1"]["network"]["blocked"] = [blocked("policy of FORWARD")]
    if what == "connection":
        healthy["hosts"]["w1"]["pod"]["targets"][-1]["connect"] = lost()
    else:
        healthy["api"]["metrics"]["servers"][0]["nodes"]["missing"] = ["w1"]
    (severity,) = [entry["severity"] for entry in engine.diagnose(healthy)["findings"] if entry["id"] == "NET-04"]
    assert severity == "error"


def test_the_policy_of_a_host_without_the_server_is_a_warning(healthy):
    healthy["hosts"]["cp1"]["network"]["blocked"] = [blocked("policy of FORWARD")]
    assert found(healthy) == {"NET-04": ["cp1"]}
    assert engine.diagnose(healthy)["findings"][0]["severity"] == "warning"


def test_what_is_not_certain_is_no_finding(healthy):
    healthy["hosts"]["w1"]["network"]["blocked"] = [blocked("policy of FORWARD", certain=False)]
    assert found(healthy) == {}


@pytest.mark.parametrize("action", ["REJECT", "DROP"])
def test_a_rule_of_the_pods_host(healthy, action):
    lose(healthy)
    route(healthy)
    healthy["hosts"]["w1"]["network"]["blocked"] = [blocked("-j REJECT --reject-with icmp-host-prohibited", action)]
    assert found(healthy) == {"NET-03": ["w1"]}


def test_firewalld_whose_rules_iptables_does_not_show(healthy):
    lose(healthy)
    for target in targets(healthy):
        target["connect"]["error"].update(kind="no_route", message="a firewall rejects it or a route is missing")
    route(healthy)
    healthy["hosts"]["w1"]["network"]["services"]["firewalld.service"] = "active"
    seen = found(healthy)
    assert seen["NET-03"] == ["w1"]
    commands = engine.diagnose(healthy)["findings"]
    assert any("firewall-cmd" in line for finding in commands for line in finding["repair"]["commands"])


# --- NET-05 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "expected"), [(1.02, ["cp1"]), (3.05, ["cp1"]), (2.0, None), (0.4, None)])
def test_connections_that_take_as_long_as_lost_packets(healthy, seconds, expected):
    for target in targets(healthy, kind="cluster_ip"):
        target["connect"]["seconds"] = seconds
    assert found(healthy).get("NET-05") == expected


@pytest.mark.parametrize(("offload", "expected"), [(True, "NET-05"), (None, "NET-05"), (False, "NET-01")])
def test_a_vxlan_that_offloads_checksums(healthy, offload, expected):
    lose(healthy, kind="cluster_ip")
    route(healthy, device="flannel.1")
    tunnel = {"device": "flannel.1", "kind": "vxlan", "tx_checksum_offload": offload}
    healthy["hosts"]["cp1"]["network"]["tunnels"] = [tunnel]
    assert found(healthy) == {expected: ["cp1"]}


# --- NET-06 ---------------------------------------------------------------------------------------------------------

DENY = {"namespace": "kube-system", "name": "default-deny", "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}


def test_a_policy_that_denies(healthy):
    lose(healthy)
    route(healthy)
    healthy["api"]["objects"]["network_policies"] = [DENY]
    assert found(healthy) == {"NET-06": ["cp1"]}
    command = engine.diagnose(healthy)["findings"][0]["repair"]["commands"][0]
    assert "cidr: 10.89.0.11/32" in command
    assert "k8s-app: metrics-server" in command


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"from": [{"ipBlock": {"cidr": "10.89.0.0/24"}}], "ports": [{"port": 10250}]}, "NET-02"),
        ({"from": [{"ipBlock": {"cidr": "10.89.0.0/24", "except": ["10.89.0.11/32"]}}]}, "NET-06"),
        ({"from": [{"podSelector": {}}]}, "NET-06"),
        ({"ports": [{"port": 443}]}, "NET-06"),
        ({"ports": [{"port": "https"}]}, "NET-02"),
        ({"ports": [{"port": 1024, "endPort": 65535, "protocol": "TCP"}]}, "NET-02"),
        ({"ports": [{"port": 1024, "endPort": 9999}]}, "NET-06"),
        ({"ports": [{"port": 10250, "protocol": "UDP"}]}, "NET-06"),
        ({"ports": [{"protocol": "TCP"}]}, "NET-02"),
        (
            {
                "from": [
                    {"ipBlock": {"cidr": "10.89.0.0/16", "except": ["10.89.0.0/24"]}},
                    {"ipBlock": {"cidr": "10.89.0.11/32"}},
                ]
            },
            "NET-02",
        ),
        ({}, "NET-02"),
    ],
)
def test_what_a_policy_admits(healthy, rule, expected):
    lose(healthy)
    route(healthy)
    healthy["api"]["objects"]["network_policies"] = [{**DENY, "spec": {**DENY["spec"], "ingress": [rule]}}]
    assert found(healthy) == {expected: ["cp1"]}


def test_connections_come_from_the_internal_address_of_the_node(healthy):
    lose(healthy)
    route(healthy)
    healthy["hosts"]["cp1"]["host"]["addresses"] = ["10.89.0.11", "172.17.0.1", "fd00::11"]
    rule = {"from": [{"ipBlock": {"cidr": "10.89.0.0/24"}}]}
    policy = {**DENY, "spec": {**DENY["spec"], "ingress": [rule]}}
    healthy["api"]["objects"]["network_policies"] = [policy]
    assert found(healthy) == {"NET-02": ["cp1"]}
    healthy["api"]["objects"]["network_policies"] = [DENY]
    command = engine.diagnose(healthy)["findings"][0]["repair"]["commands"][0]
    assert "from: [{ipBlock: {cidr: 10.89.0.11/32}}]" in command


def test_policies_are_not_for_pods_in_the_network_of_their_node(healthy):
    lose(healthy)
    route(healthy)
    healthy["api"]["objects"]["network_policies"] = [DENY]
    for pod in healthy["api"]["objects"]["pods"]:
        pod["host_network"] = True
    assert "NET-06" not in found(healthy)


def test_a_policy_that_nothing_enforces_is_no_finding(healthy):
    healthy["api"]["objects"]["network_policies"] = [DENY]
    assert found(healthy) == {}


# --- NET-07, NET-08, NET-09 -----------------------------------------------------------------------------------------


def proxied(document, **tunnel):
    for target in targets(document, kind="cluster_ip"):
        target["proxy"] = "http://127.0.0.1:9"
        target["tunnel"] = {"ok": False, "status": None, "error": {"kind": "refused", "message": "nothing listens"}}
        target["tunnel"].update(tunnel)
    component = document["hosts"]["cp1"]["host"]["components"]["kube-apiserver"]
    component["environ"] = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost"}
    return component


def test_a_proxy_that_does_not_get_there(healthy):
    proxied(healthy)
    assert found(healthy) == {"NET-07": ["cp1"]}
    commands = engine.diagnose(healthy)["findings"][0]["repair"]["commands"]
    assert any("NO_PROXY=localhost,10.233.0.0/18,10.233.64.0/18,.svc,.cluster.local" in line for line in commands)


@pytest.mark.parametrize(
    ("flavour", "managed", "expected"),
    [
        ("kubespray", "static_pod", "additional_no_proxy"),
        ("systemd", "systemd", "systemctl edit"),
        ("k3s", "k3s", "k3s"),
    ],
)
def test_each_installer_has_its_own_place_for_it(healthy, flavour, managed, expected):
    proxied(healthy)["managed_by"] = managed
    healthy["api"]["cluster"]["flavour"] = flavour
    assert any(expected in line for line in engine.diagnose(healthy)["findings"][0]["repair"]["commands"])


def test_a_proxy_that_gets_there_is_no_finding(healthy):
    proxied(healthy, ok=True, status=200, error=None)
    assert found(healthy) == {}


def test_a_tunnel_without_an_agent(healthy):
    for server in healthy["api"]["apiservices"]["servers"]:
        server.update(ok=False, message="503 proxy error from 127.0.0.1:6443 while dialing 10.43.1.2:443, code 502")
    assert found(healthy) == {"NET-08": ["cp1"]}
    healthy["api"]["cluster"]["flavour"] = "k3s"
    assert "systemctl restart k3s" in engine.diagnose(healthy)["findings"][0]["repair"]["commands"]


def test_an_old_line_of_a_log_is_no_finding(healthy):
    healthy["hosts"]["cp1"]["api_server"]["log"] = ["E0301 No agent available"]
    assert found(healthy) == {}


@pytest.mark.parametrize(
    ("container", "expected"), [("istio-proxy", "sidecar.istio.io"), ("linkerd-proxy", "linkerd.io/inject")]
)
def test_a_sidecar_of_a_mesh(healthy, container, expected):
    healthy["api"]["objects"]["pods"][0]["containers"].append({"name": container})
    assert found(healthy) == {}
    for target in targets(healthy):
        target.update(verdict="untrusted")
        target["tls"].update(verified=False, certificate={"issuer": "O=lab mesh"}, error={"kind": "untrusted"})
    assert found(healthy) == {"NET-09": ["cp1"]}
    finding = engine.diagnose(healthy)["findings"][0]
    assert any("O=lab mesh" in line for line in finding["evidence"])
    assert expected in finding["repair"]["commands"][0]


# --- NET-10 ---------------------------------------------------------------------------------------------------------


def address_of(document, node, address):
    entry = next(one for one in document["api"]["state"]["nodes"] if one["name"] == node)
    for one in entry["addresses"]:
        if one["type"] == "InternalIP":
            one["address"] = address


def test_a_node_in_the_network_of_another_nodes_pods(healthy):
    address_of(healthy, "cp1", "10.233.65.240")
    healthy["hosts"]["w1"]["pod"]["targets"].append(
        {"kind": "kubelet", "name": "cp1", "host": "10.233.65.240", "port": 10250, "connect": lost("no_route")}
    )
    assert found(healthy) == {"NET-10": ["cp1"]}
    assert engine.diagnose(healthy)["findings"][0]["severity"] == "error"


def test_a_node_in_the_network_of_services(healthy):
    address_of(healthy, "cp1", "10.233.0.77")
    assert found(healthy) == {"NET-10": ["cp1"]}


def test_nodes_and_pods_of_one_network_of_a_cloud(healthy):
    for node in healthy["api"]["state"]["nodes"]:
        node["pod_cidrs"] = []
    address_of(healthy, "cp1", "10.233.100.5")
    assert found(healthy) == {}


# --- POD-03 ---------------------------------------------------------------------------------------------------------


def pod_loses(document, *kinds):
    for target in document["hosts"]["w1"]["pod"]["targets"]:
        if target["kind"] in kinds:
            target.update(connect=lost(), answers=None)


def test_a_pod_that_reaches_no_cluster_ip(healthy):
    pod_loses(healthy, "cluster_ip")
    assert found(healthy) == {"POD-03": ["w1"]}
    assert "ClusterIP" in engine.diagnose(healthy)["findings"][0]["cause"]


def test_addresses_of_ipv6_are_compared_in_one_spelling(healthy):
    for target in healthy["hosts"]["w1"]["pod"]["targets"]:
        if target["kind"] == "api_server":
            target.update(host="fd00::11", port=6443)
    healthy["api"]["objects"]["kubernetes"]["endpoints"] = ["[fd00::11]:6443"]
    pod_loses(healthy, "cluster_ip")
    (finding,) = engine.diagnose(healthy)["findings"]
    assert "ClusterIP" in finding["cause"]
    assert not [line for line in finding["evidence"] if "no API server that is known" in line]
    assert "pod on w1 -> [fd00::11]:6443: connected" in finding["evidence"]


def test_an_api_server_that_restarts_is_no_fault_of_the_pods_network(healthy):
    pod_loses(healthy, "cluster_ip", "api_server")
    for target in healthy["hosts"]["w1"]["pod"]["targets"]:
        if not target["connect"]["ok"]:
            target["connect"]["error"]["kind"] = "refused"
    assert found(healthy) == {}


@pytest.mark.parametrize(("seconds", "expected"), [(40, {}), (400, {"POD-03": ["w1"]})])
def test_kube_proxy_refuses_for_an_api_server_that_it_has_not_seen_again_yet(healthy, seconds, expected):
    pod_loses(healthy, "cluster_ip")
    for target in healthy["hosts"]["w1"]["pod"]["targets"]:
        if not target["connect"]["ok"]:
            target["connect"]["error"]["kind"] = "refused"
    collected = datetime.datetime.fromisoformat(healthy["collected"]["at"])
    server = healthy["hosts"]["cp1"]["host"]["components"]["kube-apiserver"]
    server["start_time"] = (collected - datetime.timedelta(seconds=seconds)).isoformat()
    assert found(healthy) == expected


def test_a_pod_that_reaches_nothing_is_a_consequence_of_its_host(healthy):
    pod_loses(healthy, "cluster_ip", "api_server", "kubelet")
    healthy["hosts"]["w1"]["network"]["blocked"] = [blocked("policy of FORWARD")]
    diagnosis = engine.diagnose(healthy)
    assert [(entry["id"], entry["root"]) for entry in diagnosis["findings"]] == [("NET-04", True), ("POD-03", False)]


def test_by_the_log_alone(healthy):
    healthy["hosts"] = {}
    pod = healthy["api"]["objects"]["pods"][0]
    line = (
        'W0301 unable to load configmap based request-header-client-ca-file: Get "https://10.96.0.1:443/": i/o timeout'
    )
    pod.update(log=[line])
    assert found(healthy) == {}
    pod.update(ready=False)
    assert found(healthy) == {"POD-03": ["w1"]}


# --- LIF-01, LIF-02 -------------------------------------------------------------------------------------------------

LOST_FLAG = {"component": "kube-apiserver", "name": "enable-aggregator-routing", "value": "true", "source": "/tmp/old"}


def test_flags_that_an_upgrade_dropped(healthy):
    healthy["hosts"]["cp1"]["host"]["lost_flags"] = [LOST_FLAG, {**LOST_FLAG, "name": "profiling"}]
    assert found(healthy) == {}
    lose(healthy, kind="cluster_ip")
    healthy["hosts"]["cp1"]["network"]["cluster_ip"]["answers"] = False
    diagnosis = engine.diagnose(healthy)
    assert [(entry["id"], entry["root"]) for entry in diagnosis["findings"]] == [("LIF-01", True), ("NET-01", False)]
    assert not any("profiling" in line for line in diagnosis["findings"][0]["evidence"])


def test_an_upgrade_in_the_lab():
    """The evidence was collected while the API server restarted, as kubeadm made it do."""
    assert found(recorded("upgrade-1-1")) == {"LIF-01": ["cp1"], "NET-01": ["cp1"]}
    findings = {entry["id"]: entry for entry in engine.diagnose(recorded("upgrade-1-1"))["findings"]}
    assert findings["NET-01"]["caused_by"] == ["LIF-01"]
    assert "kubeadm-backup-manifests" in findings["LIF-01"]["evidence"][0]


def test_what_an_upgrade_dropped_elsewhere_explains_nothing(healthy):
    third_host(healthy)
    healthy["hosts"]["cp2"]["host"]["lost_flags"] = [LOST_FLAG]
    lose(healthy, kind="cluster_ip")
    healthy["hosts"]["cp1"]["network"]["cluster_ip"]["answers"] = False
    assert found(healthy) == {"NET-01": ["cp1"]}


@pytest.mark.parametrize(("offset", "expected"), [(7.0, {"LIF-02": ["w1"]}), (5.2, {}), (-60.0, {"LIF-02": ["w1"]})])
def test_a_clock_that_differs(healthy, offset, expected):
    healthy["hosts"]["w1"]["network"]["clock"] = {"offset": offset, "uncertainty": 0.5, "error": None}
    assert found(healthy) == expected


def test_where_all_differ_from_one_the_one_is_wrong(healthy):
    for name in ("w2", "w3"):
        healthy["hosts"][name] = copy.deepcopy(healthy["hosts"]["w1"])
    for name in ("w1", "w2", "w3"):
        healthy["hosts"][name]["network"]["clock"] = {"offset": 40.0, "uncertainty": 0.5, "error": None}
    assert found(healthy) == {"LIF-02": ["cp1"]}


@pytest.mark.parametrize("wrong", ["cp1", "cp2", "cp3", "w1"])
@pytest.mark.parametrize("ahead", [60.0, -60.0])
def test_only_the_clock_that_is_wrong_is_named(wrong, ahead):
    """Each host asks the first API server that is not its own: cp1 asks cp2, all others ask cp1."""
    document = recorded("healthy-3-1")
    urls = {name: document["hosts"][name]["host"]["api_server_url"] for name in ("cp1", "cp2")}
    clocks = {name: ahead if name == wrong else 0.0 for name in document["hosts"]}
    for name, host in document["hosts"].items():
        asked = "cp2" if name == "cp1" else "cp1"
        offset = clocks[name] - clocks[asked]
        host["network"]["clock"] = {"server": urls[asked], "offset": offset, "uncertainty": 0.5, "error": None}
    assert found(document) == {"LIF-02": [wrong]}
    (line,) = engine.diagnose(document)["findings"][0]["evidence"]
    assert line == f"{wrong}: its clock is 60 s {'ahead of' if ahead > 0 else 'behind'} those of most hosts"


@pytest.mark.parametrize("offset", [0.0, 5.2])
def test_clocks_that_agree(healthy, offset):
    url = healthy["hosts"]["cp1"]["host"]["api_server_url"]
    healthy["hosts"]["w2"] = copy.deepcopy(healthy["hosts"]["w1"])
    for name, value in (("w1", offset), ("w2", 0.1)):
        clock = {"server": url, "offset": value, "uncertainty": 0.5, "error": None}
        healthy["hosts"][name]["network"]["clock"] = clock
    assert found(healthy) == {}


def test_a_certificate_that_begins_in_the_future(healthy):
    for result in healthy["hosts"]["cp1"]["aggregator"].values():
        result["client"]["certificate"]["not_before"] = "2999-01-01T00:00:00Z"
    assert found(healthy) == {"LIF-02": ["cp1"]}
    repair = engine.diagnose(healthy)["findings"][0]["repair"]
    assert (repair["kind"], repair["steps"]) == ("consent", ["front_proxy_pki"])
