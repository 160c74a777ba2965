# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import copy
import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import cluster, kubeconfig
from cryptography import x509
from cryptography.hazmat.primitives import serialization


def component(running=True, **more):
    return {"running": running, "flags": {}, "managed_by": "unknown", "definition_files": [], **more}


def probed(**more):
    return {
        "components": {"kubelet": component()},
        "host": {"node_name": "w1", "default_ipv4": "192.0.2.21", "time": "2026-03-01T10:05:00Z"},
        "kubelet_config": {"path": "/var/lib/kubelet/config.yaml"},
        "kubelet_answers": {"verified": True},
        "kubernetes_dir": {"kubeadm": True},
        **more,
    }


def host(
    name,
    *,
    address="192.0.2.21",
    addresses=(),
    own=None,
    given=False,
    certified=False,
    kubelet=True,
    node=None,
    **components,
):
    return {
        "name": name,
        "node_name": node or name,
        "node_name_given": given,
        "node_name_certified": certified,
        "addresses": list(addresses),
        "control_plane": bool(components),
        "components": {"kubelet": component(kubelet), **components},
        "host": {"node_name": own or node or name, "default_ipv4": address, "time": "2026-03-01T10:05:00Z"},
        "kubelet_config": {"path": None},
        "kubernetes_dir": {"kubeadm": False},
    }


def node(name, *addresses):
    return {"name": name, "addresses": [{"type": "InternalIP", "address": entry} for entry in addresses]}


# --- one host ---


def der_of(authority, common_name):
    pem, unused_key = authority.issue(common_name, organization="system:nodes")
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    return base64.b64encode(der).decode()


def test_the_kubelets_certificate_has_the_name_of_the_node(authority):
    found = probed(
        host={
            "node_name": "ip-192-0-2-21",
            "kubelet_client_certificate": der_of(authority, "system:node:ip-192-0-2-21.eu-west-1.compute.internal"),
        }
    )
    facts = cluster.host_facts("w1", found, control_plane=False)
    assert facts["node_name"] == "ip-192-0-2-21.eu-west-1.compute.internal"
    assert "kubelet_client_certificate" not in facts["host"]
    assert cluster.host_facts("w1", found, control_plane=False, node_name="other")["node_name"] == "other"


@pytest.mark.parametrize("certificate", [None, "", "AAAA", "no base64"])
def test_without_such_a_certificate(certificate):
    found = probed(host={"node_name": "w1", "kubelet_client_certificate": certificate})
    assert cluster.host_facts("host-1", found, control_plane=False)["node_name"] == "w1"


def test_a_name_that_cryptography_does_not_decode(umlaut_certificate):
    encoded = base64.b64encode(umlaut_certificate("system:node:w1")).decode()
    assert cluster.node_of_certificate(encoded) == "w1"


def test_a_certificate_of_nobodys_node(authority):
    assert cluster.node_of_certificate(der_of(authority, "kubernetes-admin")) is None


def test_the_fact_of_a_worker():
    facts = cluster.host_facts("w1", probed(), control_plane=False, addresses=["", "192.0.2.21", "192.0.2.21"])
    assert (facts["name"], facts["api_server_url"], facts["addresses"]) == ("w1", None, ["192.0.2.21"])
    assert set(facts) >= {"components", "host", "kubelet_config", "kubelet_answers", "kubernetes_dir", "control_plane"}


@pytest.mark.parametrize(
    ("flags", "default", "url"),
    [
        ({"advertise-address": "192.0.2.11", "secure-port": "8443"}, "192.0.2.99", "https://192.0.2.11:8443"),
        ({}, "192.0.2.99", "https://192.0.2.99:6443"),
        ({"advertise-address": "2001:db8::11"}, None, "https://[2001:db8::11]:6443"),
        ({}, None, "https://cp1.example.com:6443"),
        # An API server that is not told what to advertise takes the address that it listens at.
        ({"bind-address": "192.0.2.111"}, "192.0.2.11", "https://192.0.2.111:6443"),
        ({"bind-address": "192.0.2.111", "advertise-address": "192.0.2.11"}, None, "https://192.0.2.11:6443"),
        ({"bind-address": "::", "advertise-address": "0.0.0.0"}, "192.0.2.11", "https://192.0.2.11:6443"),
    ],
)
def test_where_the_api_server_listens(flags, default, url):
    found = probed(
        components={"kube-apiserver": component(flags=flags)}, host={"node_name": "c", "default_ipv4": default}
    )
    assert cluster.host_facts("cp1", found, control_plane=True, address="cp1.example.com")["api_server_url"] == url
    given = cluster.host_facts("cp1", found, control_plane=True, api_server_url="https://203.0.113.1:6443")
    assert given["api_server_url"] == "https://203.0.113.1:6443"


def test_an_api_server_is_asked_where_others_reach_its_host():
    flags = {"advertise-address": "192.0.2.11", "secure-port": "8443"}
    found = probed(components={"kube-apiserver": component(flags=flags)})
    facts = cluster.host_facts("cp1", found, control_plane=True, access_address="203.0.113.11")
    assert facts["api_server_url"] == "https://203.0.113.11:8443"
    given = cluster.host_facts(
        "cp1", found, control_plane=True, access_address="203.0.113.11", api_server_url="https://api.example.com"
    )
    assert given["api_server_url"] == "https://api.example.com"
    assert cluster.host_facts("w1", found, control_plane=False, access_address="203.0.113.11")["api_server_url"] is None


@pytest.mark.parametrize(
    ("apiserver", "expected"),
    [
        (component(True, definition_files=["/m/kube-apiserver.yaml"]), False),
        (component(False, definition_files=["/m/kube-apiserver.yaml"]), True),
        (component(False), False),
    ],
)
def test_an_api_server_that_may_be_restarting(apiserver, expected):
    assert cluster.api_server_is_expected(probed(components={"kube-apiserver": apiserver})) is expected


# --- why a host could not be examined: what Ansible says, as it says it ---


@pytest.mark.parametrize(
    ("result", "unreachable", "clause"),
    [
        (
            {"msg": "Failed to connect to the host via ssh: ssh: connect to host w9 port 22: No route"},
            True,
            "it does not answer (Failed to connect to the host via ssh: ssh: connect to host w9 port 22: No route"
            "): check that it is up",
        ),
        (
            {
                "msg": 'Data could not be sent to remote host "w1". Make sure this host can be reached over ssh: '
                "ssh: x.\r\n"
            },
            True,
            "it does not answer (ssh: x): check",
        ),
        ({"msg": "Missing sudo password"}, False, "becoming root failed (Missing sudo password): connect as root"),
        ({"msg": "Task failed: Incorrect sudo password"}, False, "becoming root failed (Incorrect sudo password)"),
        (
            {"msg": "The module runs as user id 1000, not as root, and would miss most of it."},
            False,
            "becoming root failed (The module runs as user id 1000, not as root, and would miss most of it): connect",
        ),
        (
            {"msg": "MODULE FAILURE", "module_stderr": "/bin/sh: 1: /usr/bin/python3: not found\n"},
            False,
            "its Python cannot be used (MODULE FAILURE /bin/sh: 1: /usr/bin/python3: not found): install",
        ),
        (
            {
                "msg": "Module result deserialization failed: No start of json char found",
                "module_stdout": "SyntaxError: x",
            },
            False,
            "its Python cannot be used (",
        ),
        (
            {"msg": "The components of this host could not be read within 10 s."},
            False,
            "its processes could not be read (",
        ),
        ({}, False, "its processes could not be read (): run again"),
    ],
)
def test_why_a_host_could_not_be_examined(result, unreachable, clause):
    assert cluster.explain(result, unreachable=unreachable).startswith(clause)


def test_a_long_complaint_is_cut():
    assert len(cluster.said({"msg": "x" * 1000})) == 300


# --- the cluster ---


def api_server(start="2026-03-01T10:00:00Z", running=True, flags=None, managed_by="static_pod"):
    return component(running, start_time=start, flags=flags or {}, managed_by=managed_by)


def test_the_age_of_the_youngest_api_server():
    hosts = [
        host("cp1", **{"kube-apiserver": api_server()}),
        host("cp2", **{"kube-apiserver": api_server("2026-03-01T10:04:30Z")}),
        host("cp3", **{"kube-apiserver": api_server(None, running=False)}),
        host("w1"),
    ]
    assert cluster.api_server_age(hosts) == 30
    assert cluster.api_server_age(hosts[2:]) is None


@pytest.mark.parametrize(
    ("managed_by", "path", "kubeadm", "flavour"),
    [
        ("k3s", None, False, "k3s"),
        ("rke2", "/x", False, "rke2"),
        ("minikube", "/x", True, "minikube"),
        ("k0s", "/x", False, "k0s"),
        ("microk8s", "/x", False, "microk8s"),
        ("openshift", "/x", False, "openshift"),
        ("static_pod", "/etc/kubernetes/kubelet-config.yaml", True, "kubespray"),
        ("static_pod", "/opt/kubernetes/kubelet-config.yaml", True, "kubespray"),
        ("systemd", "/var/lib/kubelet/kubelet-config.yaml", False, "systemd"),
        ("static_pod", "/var/lib/kubelet/config.yaml", True, "kubeadm"),
        ("static_pod", "/var/lib/kubelet/config.yaml", False, "static_pod"),
        ("systemd", None, False, "systemd"),
    ],
)
def test_who_made_the_cluster(managed_by, path, kubeadm, flavour):
    found = host("cp1", **{"kube-apiserver": api_server(managed_by=managed_by)})
    found["kubelet_config"]["path"] = path
    found["kubernetes_dir"]["kubeadm"] = kubeadm
    assert cluster.flavour_of(found) == flavour


def test_the_distribution_in_words():
    assert cluster.distribution_view("kubeadm", {"key": "", "because": ""}) == {}
    by_api = cluster.distribution_view("eks", {"key": "eks", "because": "its API server says v1-eks-1"})
    assert (by_api["hosted"], by_api["because"]) == (True, "its API server says v1-eks-1")
    # What runs on hosts was seen, too.
    by_hosts = cluster.distribution_view("minikube", {"key": "", "because": ""})
    assert by_hosts["sentence"].startswith("This cluster is minikube (its processes say so). minikube writes")


def test_what_runs_on_a_host_is_stronger_than_labels():
    found = host("cp1", **{"kube-apiserver": api_server(managed_by="static_pod")})
    found["kubernetes_dir"]["kubeadm"] = True
    assert cluster.flavour_of(found, {"key": "minikube", "because": "labels"}) == "kubeadm"
    assert cluster.flavour_of(found, {"key": "rke2", "because": "its API server says v1+rke2r1"}) == "rke2"
    found["components"]["kube-apiserver"]["managed_by"] = "unknown"
    assert cluster.flavour_of(found, {"key": "minikube", "because": "labels"}) == "minikube"
    assert cluster.flavour_of(None, None) == "unknown"


@pytest.mark.parametrize(
    ("flags", "otherwise", "cidrs"),
    [
        ({"f": "10.0.0.0/16,fd00::/108"}, "x", ["10.0.0.0/16", "fd00::/108"]),
        ({"f": ["10.0.0.0/16", "fd00::/108"]}, "x", ["10.0.0.0/16", "fd00::/108"]),
        ({"f": ""}, "10.1.0.0/16", ["10.1.0.0/16"]),
        ({}, "", []),
    ],
)
def test_address_ranges(flags, otherwise, cidrs):
    assert cluster.cidrs_of(flags, "f", otherwise) == cidrs


def test_hosts_are_nodes_of_their_name():
    found = cluster.match_nodes([host("a"), host("b")], [node("a"), node("b"), node("c")], "here")
    assert found == cluster.Match({"a": "a", "b": "b"}, {"a": "a", "b": "b"})


@pytest.mark.parametrize(
    "found",
    [
        # A certificate of a node that is no more, and a name that is right.
        host("h1", node="gone", own="node-1"),
        # A name of the cloud's, and no certificate that would say it: the inventory's addresses, then the host's own.
        host("h1", addresses=["192.0.2.31", "2001:DB8:0::31"], address="198.51.100.1"),
        host("h1", addresses=["h1.example.com"], address="192.0.2.31"),
    ],
)
def test_a_host_whose_name_is_no_nodes(found):
    nodes = [node("node-1", "192.0.2.31", "2001:db8::31"), node("node-2", "192.0.2.32")]
    assert cluster.match_nodes([found], nodes, "here").nodes == {"h1": "node-1"}


def test_what_the_inventory_says_comes_before_what_the_host_says():
    nodes = [node("node-1", "192.0.2.31"), node("node-2", "192.0.2.32")]
    liar = host("h1", addresses=["192.0.2.31"], address="192.0.2.32")
    assert cluster.match_nodes([liar], nodes, "here").nodes == {"h1": "node-1"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # A certificate says who a kubelet is, whatever the addresses.
        (host("h1", node="node-2", certified=True, addresses=["192.0.2.31"]), "node-2"),
        # Its name is not that of a certificate: the inventory decides, and not what the host calls itself.
        (host("h1", node="node-2", addresses=["192.0.2.31"]), "node-1"),
        (host("h1", node="gone", certified=True, own="node-2", addresses=["192.0.2.31"]), "node-1"),
        # Where the inventory has no address of a node, the name is what there is.
        (host("h1", node="node-2", addresses=["203.0.113.9"], address="192.0.2.31"), "node-2"),
        (host("h1", node="gone", own="node-2", address="192.0.2.31"), "node-2"),
    ],
)
def test_the_inventory_comes_before_the_hosts_own_name(found, expected):
    nodes = [node("node-1", "192.0.2.31"), node("node-2", "192.0.2.32")]
    assert cluster.match_nodes([found], nodes, "here").nodes == {"h1": expected}


def test_two_hosts_that_are_one_node():
    hosts = [host("h1", node="node-1"), host("h2", addresses=["192.0.2.31"])]
    with pytest.raises(cluster.ClusterError, match="The hosts h1 and h2 both are the node node-1: take one"):
        cluster.match_nodes(hosts, [node("node-1", "192.0.2.31")], "here")


@pytest.mark.parametrize(
    "found",
    [
        host("h1", addresses=["192.0.2.99"], address=None),
        # Two nodes behind one address tell nothing.
        host("h1", addresses=["192.0.2.31"], address=None),
        # What the inventory names is not replaced by something else.
        host("h1", addresses=["192.0.2.32"], node="typo", given=True),
    ],
)
def test_a_host_that_is_no_node(found):
    nodes = [node("node-1", "192.0.2.31"), node("node-2", "192.0.2.31", "192.0.2.32")]
    with pytest.raises(
        cluster.ClusterError, match="The kubelets of h1 call their nodes .*, but the cluster behind here"
    ):
        cluster.match_nodes([found], nodes, "here")


def test_a_control_plane_without_a_kubelet():
    assert cluster.match_nodes([host("cp1", kubelet=False)], [node("w1")], "here").nodes == {}


STATE = {
    "version": "v1.37.2",
    "servers": [{"server": "https://192.0.2.11:6443", "ready": True, "message": ""}],
    "pending_serving_requests": 2,
    "nodes": [node("cp1", "192.0.2.11"), node("w1", "192.0.2.21")],
}


def test_the_fact_of_the_cluster():
    first = host(
        "cp2",
        **{
            "kube-apiserver": api_server(flags={"service-cluster-ip-range": "10.96.0.0/16"}),
            "kube-controller-manager": component(flags={"cluster-cidr": "10.244.0.0/16"}),
        },
    )
    down = host("cp1", **{"kube-apiserver": api_server(running=False)})
    state = {**STATE, "nodes": [*STATE["nodes"], node("cp2")]}
    found = cluster.cluster_facts(
        [host("w1"), down, first],
        state,
        control_planes=["cp1", "cp2", "cp3"],
        kubeconfig="/k",
        pod_cidrs="x",
        api_addresses=["203.0.113.10"],
    )
    assert found == {
        "kubeconfig": "/k",
        "context": "",
        "version": "v1.37.2",
        "flavour": "static_pod",
        "distribution": {},
        "servers": state["servers"],
        "pending_serving_requests": 2,
        "nodes": {entry["name"]: entry for entry in state["nodes"]},
        "node_hosts": {"w1": "w1", "cp1": "cp1", "cp2": "cp2"},
        "host_nodes": {"w1": "w1", "cp1": "cp1", "cp2": "cp2"},
        "control_planes": ["cp1", "cp2", "cp3"],
        "api_addresses": ["203.0.113.10"],
        "service_cidrs": ["10.96.0.0/16"],
        "pod_cidrs": ["10.244.0.0/16"],
    }


def test_a_play_without_control_planes():
    found = cluster.cluster_facts(
        [host("w1")],
        STATE,
        control_planes=["cp1"],
        kubeconfig="/k",
        service_cidrs="10.0.0.0/16",
        pod_cidrs="10.1.0.0/16",
    )
    assert (found["flavour"], found["service_cidrs"], found["pod_cidrs"]) == (
        "unknown",
        ["10.0.0.0/16"],
        ["10.1.0.0/16"],
    )


def test_the_time_grows_with_the_number_of_hosts_and_no_faster(processor_seconds):
    def seconds(count):
        hosts = [host(f"w{number}", node=f"n{number}", own=f"w{number}", address=None) for number in range(count)]
        for number, entry in enumerate(hosts):
            entry["node_name"] = "gone"
            entry["addresses"] = [f"10.0.{number // 250}.{number % 250}"]
        nodes = [node(f"n{number}", f"10.0.{number // 250}.{number % 250}") for number in range(count)]
        state = {**STATE, "nodes": nodes}
        found = cluster.cluster_facts(hosts, state, control_planes=[], kubeconfig="/k")
        assert found["node_hosts"]["n1"] == "w1"
        return processor_seconds(cluster.cluster_facts, hosts, state, control_planes=[], kubeconfig="/k")

    # In proportion that is 20 times, and quadratic 400 times.
    assert seconds(2000) < 100 * seconds(100)


# --- kubeconfigs ---


def config(cluster_settings=None, user=None):
    return {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443", **(cluster_settings or {})}}],
        "users": [{"name": "u", "user": user or {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def portable(content, files=None):
    everything = {"/etc/kubernetes/admin.conf": json.dumps(content).encode(), **(files or {})}
    before = copy.deepcopy(everything)
    text = kubeconfig.portable("/etc/kubernetes/admin.conf", "https://192.0.2.11:6443", everything.__getitem__)
    assert everything == before
    return json.loads(text)


def test_a_kubeconfig_for_another_host():
    found = portable(config({"certificate-authority-data": "QQ=="}))
    assert found == config({"certificate-authority-data": "QQ==", "server": "https://192.0.2.11:6443"})


def test_a_kubeconfig_that_names_files():
    found = portable(
        config(
            {"certificate-authority": "/pki/ca.crt"},
            {"client-certificate": "pki/admin.crt", "client-key": "pki/admin.key", "tokenFile": "/t", "token": "old"},
        ),
        {
            "/pki/ca.crt": b"A",
            "/etc/kubernetes/pki/admin.crt": b"B",
            "/etc/kubernetes/pki/admin.key": b"C",
            "/t": b"new\n",
        },
    )
    assert found["clusters"][0]["cluster"] == {
        "server": "https://192.0.2.11:6443",
        "certificate-authority-data": base64.b64encode(b"A").decode(),
    }
    assert found["users"][0]["user"] == {
        "client-certificate-data": base64.b64encode(b"B").decode(),
        "client-key-data": base64.b64encode(b"C").decode(),
        "token": "new",
    }


def test_data_wins_over_a_file():
    found = portable(config({"certificate-authority": "/gone", "certificate-authority-data": "QQ=="}))
    assert found["clusters"][0]["cluster"]["certificate-authority-data"] == "QQ=="
    assert "certificate-authority" not in found["clusters"][0]["cluster"]


@pytest.mark.parametrize("content", ["", "[]", "a: [", "clusters: 1", "kind: Config", "clusters: [x]"])
def test_what_is_no_kubeconfig(content):
    with pytest.raises(kubeconfig.KubeconfigError, match="/a is no kubeconfig; give the path of one"):
        kubeconfig.portable("/a", "https://192.0.2.11:6443", lambda unused: content.encode())


@pytest.mark.parametrize("name", ["exec", "auth-provider"])
def test_a_kubeconfig_that_runs_a_program_of_its_host(name):
    with pytest.raises(kubeconfig.KubeconfigError, match=rf"from a program of that host \({name}\)"):
        portable(config({"certificate-authority-data": "QQ=="}, {name: {"command": "login"}}))


# --- no API server ---

PLANES = ["cp1", "cp2"]


def test_an_api_server_that_runs_is_no_problem():
    found = [host("cp1", **{"kube-apiserver": component(False)}), host("cp2", **{"kube-apiserver": component()})]
    assert cluster.control_plane_problem(found, PLANES, [*PLANES, "w1"]) == ""


def test_a_limit_that_leaves_no_control_plane_is_named():
    problem = cluster.control_plane_problem([], PLANES, ["w1"])
    assert problem.startswith(
        "No control plane is in this play (--limit); run this playbook without --limit, or with --limit "
        "'NODE:kube_control_plane'; "
    )
    assert "run kubespray.yml as a second command" in problem
    assert "'NODE:masters'" in cluster.control_plane_problem([], PLANES, ["w1"], group="masters")


def test_control_planes_that_cannot_be_examined_are_named():
    problem = cluster.control_plane_problem([], PLANES, [*PLANES, "w1"])
    assert problem.startswith("No control plane could be examined (cp1, cp2); bring one back")


def test_a_cluster_that_is_down_is_named():
    down = [host(name, **{"kube-apiserver": component(False)}) for name in PLANES]
    problem = cluster.control_plane_problem(down, PLANES, PLANES)
    assert problem.startswith("No kube-apiserver runs on cp1, cp2: start the cluster first")
    down[1]["interrupted_certificates"] = ["20260301T100000Z-a1b2"]
    problem = cluster.control_plane_problem(down, PLANES, PLANES)
    assert "roll the change 20260301T100000Z-a1b2 back (playbooks/rollback.yml)" in problem
