# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import forwarding, network, pod_network

CORPUS = Path(__file__).parents[2] / "corpus"
PODS = network.parse_networks(["172.20.0.0/16"])
NODE = network.parse_networks(["192.0.2.11"])
HERE = ipaddress.ip_network("172.20.64.0/19")


def load(name):
    return network.parse_save((CORPUS / f"forward-{name}.save").read_text())


def docker0(**changes):
    """The bridges of the host in the corpus."""
    routes = pod_network.connected_routes((CORPUS / "forward-docker0-pods.route").read_text())
    arguments = {"routes": routes, "bridges": {"docker0"}, "configured": None, "pods": PODS, **changes}
    return pod_network.find_bridges(**arguments)


def test_connected_routes():
    text = (
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        "eth0 00000000 0102000A 0003 0 0 0 00000000 0 0 0\n"
        "cni0 0041E90A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
        "eth0 0042E90A 0102000A 0003 0 0 0 00FFFFFF 0 0 0\n"
        "broken x\n"
    )
    six = (
        "fd000010023300000000000000000100 78 "
        + "0" * 32
        + " 00 "
        + "0" * 32
        + " 00000100 00000001 00000000 00000001 cni0\n"
        "00000000000000000000000000000000 00 " + "0" * 32 + " 00 fe800000000000000000000000000001 "
        "00000400 00000001 00000000 00000003 eth0\n"
        "broken\n"
    )
    # The table is in the byte order of the machine; both that are in use are little-endian.
    assert pod_network.connected_routes(text, six) == [
        ("cni0", ipaddress.ip_network("10.233.65.0/24")),
        ("cni0", ipaddress.ip_network("fd00:10:233::100/120")),
    ]
    assert pod_network.connected_routes("") == []


def test_the_bridge_is_found_by_its_route_whatever_its_name():
    assert docker0() == [("docker0", HERE)]
    # An interface of an overlay covers the same network and is no bridge.
    assert docker0(bridges=set()) == []
    assert docker0(pods=network.parse_networks(["10.244.0.0/16"])) == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"type": "bridge", "bridge": "pods0"}, "pods0"),
        ({"type": "bridge"}, "cni0"),
        ({"plugins": [{"type": "loopback"}, {"type": "bridge", "bridge": "kube-bridge"}]}, "kube-bridge"),
        ({"plugins": [{"type": "flannel", "delegate": {"isDefaultGateway": True}}, {"type": "portmap"}]}, "cni0"),
        ({"type": "flannel", "delegate": {"bridge": "docker0"}}, "docker0"),
        ({"type": "weave-net"}, "weave"),
        ({"type": "calico"}, None),
        ({"type": "bridge", "bridge": "b", "ipam": {"subnet": "172.20.1.0/24"}}, "b"),
        ({"type": "bridge", "bridge": "b", "ipam": {"ranges": [[{"subnet": "172.20.1.0/24"}]]}}, "b"),
        # Such as podman's own network.
        ({"type": "bridge", "bridge": "b", "ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}]]}}, None),
        ({"type": "bridge", "bridge": "b", "ipam": {"ranges": "odd", "subnet": "odd"}}, "b"),
        ({"plugins": "odd"}, None),
        ([], None),
    ],
)
def test_the_bridge_that_cni_will_make(config, expected):
    assert pod_network.cni_bridge(json.dumps(config), PODS) == expected


def test_the_first_configuration_counts(tmp_path):
    assert pod_network.configured_bridge([str(tmp_path / "gone"), str(tmp_path)], PODS) is None
    (tmp_path / "20-second.conf").write_text('{"type": "bridge", "bridge": "second"}')
    (tmp_path / "10-first.conflist").write_text('{"plugins": [{"type": "bridge", "bridge": "first"}]}')
    (tmp_path / "00-note.txt").write_text("")
    assert pod_network.configured_bridge([str(tmp_path / "gone"), str(tmp_path)], PODS) == "first"
    (tmp_path / "00-broken.conf").write_text("{")
    assert pod_network.configured_bridge([str(tmp_path)], PODS) is None


def test_a_configured_bridge_needs_no_pod_yet():
    bridges = docker0(configured="cni0")
    assert bridges == [("cni0", None), ("docker0", HERE)]
    assert docker0(configured="docker0") == [("docker0", HERE)]
    found = pod_network.connections(PODS, [], [pod_network.Bridge("cni0", None)])
    assert {str(entry.source) for entry in found} == {"172.20.0.0/16"}


def test_connections_name_the_interfaces():
    found = pod_network.connections(PODS, NODE, docker0())
    assert [
        (str(entry.source), str(entry.destination), str(entry.incoming), str(entry.outgoing)) for entry in found
    ] == [
        ("172.20.64.0/19", "172.20.64.0/19", "docker0", "docker0"),
        ("172.20.64.0/19", "172.20.0.0/16", "docker0", "any but docker0"),
        ("172.20.0.0/16", "172.20.64.0/19", "any but docker0", "docker0"),
        ("172.20.64.0/19", "192.0.2.11/32", "docker0", "any but docker0"),
        ("192.0.2.11/32", "172.20.64.0/19", "any but docker0", "docker0"),
    ]
    unknown = pod_network.connections(PODS, NODE, [])
    assert [str(entry.incoming) for entry in unknown] == ["any"] * 3


def test_pods_behind_docker0():
    """What pods here send is accepted, what comes from other nodes is surely dropped."""
    verdicts = [
        network.simulate(load("docker0-pods"), entry) for entry in pod_network.connections(PODS, NODE, docker0())
    ]
    assert [(verdict.action, verdict.certain) for verdict in verdicts] == [
        ("ACCEPT", True),
        ("ACCEPT", True),
        ("DROP", True),
        ("ACCEPT", True),
        ("DROP", True),
    ]


@pytest.mark.parametrize("name", ["docker0", "cni0", "cbr0", "pods.10"])
def test_any_bridge_of_any_name(name):
    """The same rules for a bridge of another name mean the same."""
    text = (CORPUS / "forward-docker0-pods.save").read_text().replace("docker0", name)
    bridges = [pod_network.Bridge(name, HERE)]
    judged = forwarding.judge(network.parse_save(text), pod_network.connections(PODS, NODE, bridges))
    assert judged == (True, False, None)


def test_a_port_that_docker_publishes_does_not_hide_the_rest():
    chains = load("docker0-pods")
    chains["DOCKER"].rules.append("-d 172.20.64.5/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT")
    assert forwarding.judge(chains, pod_network.connections(PODS, NODE, docker0())).dropped


def test_rules_for_the_pods_bridge_accept_them():
    rules = ["-i pods0 -j ACCEPT", "-o pods0 -j ACCEPT"]
    chains = {"FORWARD": network.Chain("DROP", 0, rules)}
    connections = pod_network.connections(PODS, NODE, [pod_network.Bridge("pods0", HERE)])
    assert forwarding.judge(chains, connections) == (False, False, None)
    # Without knowing the bridge, nobody can tell.
    assert forwarding.judge(chains, pod_network.connections(PODS, NODE, [])) == (False, True, None)


def test_a_bridge_of_other_containers_does_not_help_pods():
    rules = ["-i mynet ! -o mynet -j ACCEPT", "-o mynet -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
    chains = {"FORWARD": network.Chain("DROP", 0, rules)}
    connections = pod_network.connections(PODS, NODE, [pod_network.Bridge("cni0", HERE)])
    assert forwarding.judge(chains, connections) == (True, True, None)


def test_both_ip_versions():
    six = network.parse_networks(["fd00:10:233::/56"])
    bridges = [pod_network.Bridge("cni0", HERE), pod_network.Bridge("cni0", ipaddress.ip_network("fd00:10:233:1::/64"))]
    found = pod_network.connections([*PODS, *six], NODE, bridges)
    assert all(entry.source.version == entry.destination.version for entry in found)
    assert len([entry for entry in found if entry.source.version == 6]) == 3
