# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the evidence that the API gives, from what modules returned on a real cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import api_evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.side_by_side import Outcome

CORPUS = Path(__file__).resolve().parents[1] / "corpus/evidence"
GIVEN = {
    "kubeconfig": "/k",
    "context": "",
    "shown_as": "the kubeconfig of cp1",
    "service_cidrs": "",
    "pod_cidrs": "",
    "namespace": "kube-system",
    "apiservice": "v1beta1.metrics.k8s.io",
    "timeout": 5,
}


@pytest.fixture
def saved():
    return json.loads((CORPUS / "healthy-3-1.json").read_text(encoding="utf-8"))


@pytest.fixture
def hosts(saved):
    return [entry["host"] for entry in saved["hosts"].values()]


def outcomes(saved):
    """What the modules had returned for this document."""
    found = {name: Outcome(saved["api"][name]) for name in api_evidence.PARTS}
    objects = {**saved["api"]["objects"], "user": saved["api"]["user"], "denied": [], "errors": {}}
    return {**found, "objects": Outcome(objects)}


def test_the_document_is_made_of_the_results(saved, hosts):
    found = api_evidence.document(outcomes(saved), hosts, GIVEN)
    assert found["cluster"] == {**saved["api"]["cluster"], "distribution": {}}
    assert found == {**saved["api"], "cluster": found["cluster"], "url": "the kubeconfig of cp1"}


def test_a_cluster_without_hosts_is_told_by_its_api(saved):
    found = outcomes(saved)
    said = {"key": "eks", "because": "its API server says v1.33.4-eks-e386d34"}
    found["state"] = Outcome({**saved["api"]["state"], "distribution": said})
    made = api_evidence.document(found, [], GIVEN)["cluster"]
    assert made["flavour"] == "eks"
    assert made["distribution"]["sentence"].startswith("This cluster is EKS (its API server says v1.33.4-eks-e386d34).")


def test_each_failure_is_named_without_what_an_operator_would_do(saved, hosts):
    said = "https://192.0.2.1:6443 did not answer within 5 s. Check that the API server runs; set cluster_api_host."
    found = outcomes(saved)
    found["provider"] = Outcome({"failed": True, "message": said, "servers": None})
    found["metrics"] = Outcome(None, "it did not finish within 60 s")
    found["objects"].result["errors"] = {"logs": "no answer"}
    made = api_evidence.document(found, hosts, GIVEN)
    assert made["errors"] == {
        "metrics": "it did not finish within 60 s",
        "objects: logs": "no answer",
        "provider": "https://192.0.2.1:6443 did not answer within 5 s",
    }
    assert made["provider"] is None
    assert made["message"] == ""
    assert made["apiservices"]


def test_an_api_that_answers_nothing_has_one_reason(hosts):
    failed = {"failed": True, "message": "https://192.0.2.1:6443 refused the connection.", "servers": []}
    found = api_evidence.document({name: Outcome(failed) for name in api_evidence.PARTS}, hosts, GIVEN)
    assert found["message"] == "https://192.0.2.1:6443 refused the connection."
    assert found["errors"] == {}
    # The hosts know the networks all the same.
    assert found["cluster"]["service_cidrs"] == ["10.233.0.0/18"]


def test_a_user_who_may_not_read_nodes_sees_the_servers(saved):
    servers = saved["api"]["state"]["servers"]
    state = {"failed": True, "message": "answered 403 to /api/v1/nodes: no.", "servers": servers}
    found = api_evidence.document({**outcomes(saved), "state": Outcome(state)}, [], GIVEN)
    assert [entry["server"] for entry in found["cluster"]["api_servers"]] == [entry["server"] for entry in servers]
    assert found["cluster"]["version"] == servers[0]["version"]
    assert found["message"] == ""


def test_hosts_of_another_cluster_are_named_and_the_rest_stays(saved, hosts):
    hosts[0]["node_name"] = "elsewhere"
    hosts[0]["host"] = {**hosts[0]["host"], "node_name": "elsewhere", "default_ipv4": "198.51.100.7"}
    hosts[0]["addresses"] = []
    found = api_evidence.document(outcomes(saved), hosts, GIVEN)
    assert "elsewhere" in found["errors"]["cluster"]
    assert found["cluster"]["node_hosts"] == {}
    assert found["cluster"]["flavour"] == "kubeadm"


def test_without_hosts_the_api_names_its_servers(saved):
    found = outcomes(saved)
    found["state"].result["servers"] = [{"server": "https://lb:6443", "ready": True, "message": "", "version": "v1"}]
    named = api_evidence.servers_of(found)
    assert named[0] == "https://lb:6443"
    assert len(named) == 4
    found["state"].result["servers"] += [
        {"server": named[1], "ready": True, "message": "", "version": "v1.37.2"},
        {"server": named[2], "ready": False, "message": "did not answer", "version": ""},
    ]
    assert api_evidence.reached(found, named) == ["https://lb:6443", named[1]]
    # Where none answers, the kubeconfig's own is left, so that its error is seen.
    assert api_evidence.reached({}, named) == ["https://lb:6443"]


def test_the_probes_ask_each_server():
    first = api_evidence.first_probes(["https://a:6443"], GIVEN)
    assert first["state"].arguments["servers"] == ["https://a:6443"]
    assert "servers" not in api_evidence.first_probes([], GIVEN)["state"].arguments
    requests = api_evidence.request_probes(["https://a:6443"], {**GIVEN, "context": "c"})
    assert {probe.arguments["request_timeout"] for probe in requests.values()} == {5}
    assert requests["apiservices"].arguments["context"] == "c"
    assert {*first, *requests} == set(api_evidence.PARTS)


def test_another_api_has_no_samples_and_no_kubelets():
    given = {**GIVEN, "apiservice": "v1beta1.custom.metrics.k8s.io"}
    first = api_evidence.first_probes(["https://a:6443"], given)
    requests = api_evidence.request_probes(["https://a:6443"], given)
    assert {*first, *requests} == set(api_evidence.PARTS) - {"metrics", "provider", "serving_requests"}
    assert requests["apiservices"].arguments["name"] == ["v1beta1.custom.metrics.k8s.io"]
    assert first["objects"].arguments["apiservice"] == "v1beta1.custom.metrics.k8s.io"
    # The names of the metrics server's objects are not those of another server.
    assert first["objects"].arguments["name"] == ""


def test_metrics_are_asked_for_again_through_the_same_api_servers(saved):
    probe = api_evidence.asked_again(GIVEN, saved["api"])
    assert probe.module == "resource_metrics_info"
    assert probe.arguments["servers"] == [entry["server"] for entry in saved["api"]["metrics"]["servers"]]
    assert probe.arguments["patience"] > 15
    assert api_evidence.request_probes(["https://192.0.2.1:6443"], GIVEN)["metrics"].arguments["patience"] == 0


@pytest.mark.parametrize("api", [{}, {"metrics": None}, {"metrics": {"servers": []}}])
def test_what_could_not_be_asked_for_is_not_asked_for_again(api):
    assert api_evidence.asked_again(GIVEN, api) is None
