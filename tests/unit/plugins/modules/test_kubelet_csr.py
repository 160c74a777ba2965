# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import kubelet_csr

LIST = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


@pytest.fixture
def cluster(api_server, make_csr):
    """An API server that holds requests and, like a real one with its controllers, issues what is approved."""

    class Cluster:
        csrs = []
        nodes = [
            {"metadata": {"name": "w1"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.21"}]}},
            {"metadata": {"name": "w2"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.22"}]}},
        ]
        issues = True
        approvals = []

        def add(self, *args, **kwargs):
            csr = make_csr(*args, **kwargs)
            self.csrs = [*self.csrs, csr]
            path = f"{LIST}/{csr['metadata']['name']}/approval"
            api_server.routes["PUT", path] = lambda request: self.approve(csr, json.loads(request.raw))
            return csr

        def approve(self, csr, body):
            self.approvals.append(body)
            csr["status"] = body["status"]
            if self.issues and csr["status"]["conditions"][-1]["type"] == "Approved":
                csr["status"]["certificate"] = "eA=="
            return 200, csr

    cluster = Cluster()
    cluster.approvals = []
    api_server.get(LIST, lambda request: (200, {"items": cluster.csrs}))
    api_server.get("/api/v1/nodes", lambda request: (200, {"items": cluster.nodes}))
    api_server.get("/api/v1/namespaces/default/services/kubernetes", {"spec": {"clusterIP": "10.233.0.1"}})
    return cluster


def test_check_mode_says_what_would_happen_and_then_it_happens_once(cluster, kubeconfig, run_module):
    cluster.add("good")
    cluster.add("bad", node="w2", names=["w2", "192.0.2.21"])
    predicted = run_module(kubelet_csr, check_mode=True, kubeconfig=kubeconfig)
    assert cluster.approvals == []
    done = run_module(kubelet_csr, kubeconfig=kubeconfig)
    for key in ("changed", "approved", "denied", "left", "diff"):
        assert predicted[key] == done[key]
    assert done["changed"]
    assert [entry["name"] for entry in done["approved"]] == ["good"]
    assert done["left"] == [{"name": "bad", "node": "w2", "reason": "192.0.2.21 also belongs to node w1"}]
    assert done["diff"] == {"before": {"good": "pending"}, "after": {"good": "approved"}}
    assert [body["status"]["conditions"][-1]["type"] for body in cluster.approvals] == ["Approved"]

    again = run_module(kubelet_csr, kubeconfig=kubeconfig)
    assert (again["changed"], again["approved"]) == (False, [])
    assert not run_module(kubelet_csr, check_mode=True, kubeconfig=kubeconfig)["changed"]


def test_a_node_that_claims_an_address_of_the_api_servers_does_not_get_it(
    cluster, start_server, write_kubeconfig, run_module, api_server
):
    """A kubelet writes the addresses of its Node itself; the certificate of the API server names the load balancer."""
    balanced = start_server(ips=("127.0.0.1", "192.0.2.100"), dns=("api.example.com",))
    balanced.routes = api_server.routes
    cluster.nodes = [
        {
            "metadata": {"name": "w1"},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "192.0.2.21"},
                    {"type": "ExternalIP", "address": "192.0.2.100"},
                    {"type": "ExternalIP", "address": "192.0.2.101"},
                    {"type": "ExternalIP", "address": "10.233.0.9"},
                    {"type": "ExternalDNS", "address": "api.example.com"},
                ]
            },
        }
    ]
    for name, asked in (
        ("balancer", "192.0.2.100"),
        ("name", "api.example.com"),
        ("virtual", "192.0.2.101"),
        ("service", "10.233.0.9"),
    ):
        cluster.add(name, names=["w1", "192.0.2.21", asked])
    arguments = {
        "kubeconfig": write_kubeconfig(balanced.url),
        "control_plane_addresses": ["192.0.2.101"],
        "service_cidrs": ["10.233.0.0/18"],
    }
    result = run_module(kubelet_csr, **arguments)
    assert (result["approved"], cluster.approvals) == ([], [])
    reasons = {entry["name"]: entry["reason"] for entry in result["left"]}
    assert reasons == {
        "balancer": "192.0.2.100 is the address of the API server, and node w1 is no control plane",
        "name": "api.example.com is the address of the API server, and node w1 is no control plane",
        "virtual": "192.0.2.101 is the address of the API server, and node w1 is no control plane",
        "service": "10.233.0.9 belongs to the network of Services 10.233.0.0/18",
    }
    as_control_plane = run_module(kubelet_csr, **arguments, control_plane_nodes=["w1"])
    assert [entry["name"] for entry in as_control_plane["approved"]] == ["virtual"]


def test_networks_that_are_none(cluster, kubeconfig, run_module):
    result = run_module(kubelet_csr, kubeconfig=kubeconfig, service_cidrs=["10.233.0.0/99"])
    assert result["failed"] and "10.233.0.0/99" in result["msg"]


def test_the_clock_of_the_server_is_told(cluster, kubeconfig, run_module):
    told = run_module(kubelet_csr, kubeconfig=kubeconfig)["server_time"]
    moment = datetime.datetime.fromisoformat(told)
    assert abs((datetime.datetime.now(datetime.timezone.utc) - moment).total_seconds()) < 5


def test_denying(cluster, kubeconfig, run_module):
    cluster.add("bad", names=["w1", "kubernetes"])
    result = run_module(kubelet_csr, kubeconfig=kubeconfig, deny_invalid=True)
    assert result["changed"]
    assert result["denied"][0]["name"] == "bad"
    condition = cluster.approvals[0]["status"]["conditions"][-1]
    assert condition["type"] == "Denied"
    assert condition["message"] == "Refused because kubernetes is a name of services inside of the cluster."
    assert not run_module(kubelet_csr, kubeconfig=kubeconfig, deny_invalid=True)["changed"]


DNS = "CSR not complying with kubelet-csr-approver validation process. Reason: The SAN DNS Name could not be resolved."


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (
            {"type": "Denied", "reason": "kubelet-serving cert denied", "message": DNS},
            "w1 is denied (" + DNS.rstrip(".") + "); on clusters of kubespray set kubelet_csr_approver_values to "
            "{bypassDnsResolution: true} and run cluster.yml, or set kubelet_csr_approver_enabled to false and "
            "uninstall its Helm release kubelet-csr-approver.",
        ),
        ({"type": "Denied", "message": "by hand\n  of jane"}, "w1 is denied (by hand of jane)."),
        ({"type": "Denied", "reason": "KubectlDeny"}, "w1 is denied (KubectlDeny)."),
        ({"type": "Failed", "message": "no signer"}, "w1 is failed (no signer)."),
        ({"type": "Denied"}, "w1 is denied."),
        ({"type": "Denied", "message": "x" * 1000}, "w1 is denied (" + "x" * 237 + "...)."),
    ],
)
def test_a_refusal_says_who_and_why(cluster, kubeconfig, run_module, condition, words):
    cluster.add("refused")["status"] = {"conditions": [{"status": "True", **condition}]}
    result = run_module(
        kubelet_csr, kubeconfig=kubeconfig, nodes={"w1": []}, wait=True, wait_sleep=0.01, wait_timeout=1
    )
    assert result["failed"]
    assert result["msg"].endswith(words)


def test_addresses_of_the_inventory_alone(cluster, api_server, kubeconfig, run_module):
    cluster.add("w1", node="w1")
    cluster.add("w2", node="w2", names=["w2", "192.0.2.22"])
    nodes = {"w1": "192.0.2.21", "w2": None}
    result = run_module(kubelet_csr, kubeconfig=kubeconfig, nodes=nodes, use_node_addresses=False)
    assert [entry["name"] for entry in result["approved"]] == ["w1"]
    assert result["left"][0]["reason"] == "192.0.2.22 is no address of node w2"
    assert result["nodes"]["w1"]["state"] == "issued"
    assert result["nodes"]["w2"]["state"] == "pending"


@pytest.mark.parametrize("use_node_addresses", [True, False])
def test_a_node_that_calls_itself_like_an_api_server_gets_no_certificate(
    cluster, api_server, kubeconfig, run_module, use_node_addresses
):
    """The API server's certificate is for localhost and 127.0.0.1 here, and more names are given."""
    cluster.add("bad", node="api.example.com", names=["api.example.com"])
    cluster.add("service", node="10.96.0.77", names=["10.96.0.77"])
    cluster.add("good", node="w1", names=["w1"])
    result = run_module(
        kubelet_csr,
        kubeconfig=kubeconfig,
        nodes={"api.example.com": [], "10.96.0.77": [], "w1": []},
        use_node_addresses=use_node_addresses,
        control_plane_addresses=["API.example.com."],
        service_cidrs=["10.96.0.0/12"],
    )
    assert [entry["name"] for entry in result["approved"]] == ["good"]
    assert [entry["reason"] for entry in result["left"]] == [
        "10.96.0.77 belongs to the network of Services 10.96.0.0/12",
        "api.example.com is the address of the API server, and node api.example.com is no control plane",
    ]


def test_waiting_for_a_request_that_comes_later(cluster, api_server, kubeconfig, run_module):
    def late(request):
        if api_server.seen().count(LIST) == 3:
            cluster.add("late")
        return 200, {"items": cluster.csrs}

    api_server.get(LIST, late)
    result = run_module(
        kubelet_csr, kubeconfig=kubeconfig, nodes={"w1": []}, wait=True, wait_sleep=0.01, wait_timeout=10
    )
    assert [entry["name"] for entry in result["approved"]] == ["late"]
    assert result["nodes"]["w1"]["state"] == "issued"


@pytest.mark.parametrize(
    ("csr", "issues", "words"),
    [
        (None, True, "w1 has sent no request"),
        ({}, False, "w1 is approved but has no certificate"),
        ({"names": ["192.0.2.99"]}, True, "w1 is pending because 192.0.2.99 is no address of node w1"),
    ],
)
def test_a_wait_in_vain_says_why(cluster, kubeconfig, run_module, csr, issues, words):
    cluster.issues = issues
    if csr is not None:
        cluster.add("csr-1", **csr)
    result = run_module(
        kubelet_csr, kubeconfig=kubeconfig, nodes={"w1": []}, wait=True, wait_sleep=0.01, wait_timeout=0
    )
    assert result["failed"]
    assert words in result["msg"]
    assert result["msg"].startswith("Not every kubelet has a serving certificate after 0 s: ")
    assert set(result["last_observed"]) == {"w1"}


def test_a_certificate_from_before_does_not_count(cluster, kubeconfig, run_module):
    cluster.add("old", state="issued", created="2026-03-01T10:00:00Z")
    arguments = {"kubeconfig": kubeconfig, "nodes": {"w1": []}, "wait": True, "wait_sleep": 0.01, "wait_timeout": 0}
    assert not run_module(kubelet_csr, issued_after="2026-03-01T11:00:00+01:00", **arguments).get("failed")
    assert run_module(kubelet_csr, issued_after="2026-03-01T10:00:01Z", **arguments)["failed"]


def test_somebody_else_was_faster(cluster, api_server, kubeconfig, run_module):
    csr = cluster.add("good")

    def conflict(request):
        csr["status"] = {"certificate": "eA==", "conditions": [{"type": "Approved"}]}
        return 409, {"reason": "Conflict", "message": "modified"}

    api_server.routes["PUT", f"{LIST}/good/approval"] = conflict
    result = run_module(kubelet_csr, kubeconfig=kubeconfig, nodes={"w1": []}, wait=True, wait_sleep=0.01)
    assert not result["changed"]
    assert result["nodes"]["w1"]["state"] == "issued"


def test_no_right_to_approve(cluster, api_server, kubeconfig, run_module):
    cluster.add("good")
    api_server.routes["PUT", f"{LIST}/good/approval"] = (403, {"message": "may not approve"})
    result = run_module(kubelet_csr, kubeconfig=kubeconfig, nodes={"w1": []}, wait=True)
    assert result["failed"]
    assert "answered 403" in result["msg"]
    assert not result["changed"]


def test_an_api_server_that_restarts_is_waited_out(cluster, api_server, kubeconfig, run_module):
    cluster.add("good")
    api_server.get("/readyz", "no", status=500)

    def starting(request):
        if len(api_server.requests) < 4:
            return 403, {"message": "cannot list resource"}
        return 200, {"items": cluster.csrs}

    api_server.get(LIST, starting)
    result = run_module(kubelet_csr, kubeconfig=kubeconfig, nodes={"w1": []}, wait=True, wait_sleep=0.01)
    assert result["nodes"]["w1"]["state"] == "issued"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"wait": True}, "wait needs to know whom to wait for"),
        ({"issued_after": "yesterday"}, "no RFC 3339 time"),
        ({"nodes": {"w1": [5]}}, "nodes.w1 has to be a list"),
        ({"nodes": {"w1": {"ip": "192.0.2.1"}}}, "nodes.w1 has to be a list"),
        ({"wait_sleep": 0}, "wait_sleep"),
        ({"kubeconfig": "/nonexistent"}, "/nonexistent does not exist"),
        ({"request_timeout": 0}, "request_timeout is 0"),
    ],
)
def test_bad_arguments(cluster, kubeconfig, run_module, arguments, words):
    result = run_module(kubelet_csr, **{"kubeconfig": kubeconfig, **arguments})
    assert result["failed"]
    assert words in result["msg"]
    assert result["msg"].endswith(".")


def test_an_address_of_another_node_by_the_inventory_is_refused_although_only_the_own_node_states_it(
    cluster, kubeconfig, run_module
):
    cluster.nodes[0]["status"]["addresses"].append({"type": "ExternalIP", "address": "203.0.113.22"})
    cluster.add("bad", node="w1", names=["w1", "203.0.113.22"])
    nodes = {"w1": ["192.0.2.21"]}
    other = {"w1": ["192.0.2.21"], "w2": ["192.0.2.22", "203.0.113.22"]}
    result = run_module(kubelet_csr, kubeconfig=kubeconfig, nodes=nodes, other_nodes=other)
    assert (result["approved"], result["changed"]) == ([], False)
    assert [entry["reason"] for entry in result["left"]] == ["203.0.113.22 also belongs to node w2"]
