# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.filter import verification as filters
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import verification

NAME = "v1beta1.metrics.k8s.io"
REGISTERED = {
    "name": NAME,
    "exists": True,
    "service": {"namespace": "monitoring", "name": "metrics-server"},
    "service_exists": True,
    "endpoints": [{"ready": True}],
    "ca_bundle": {"present": True, "valid_pem": True},
}
SERVER = {"server": "https://192.0.2.11:6443", "name": NAME, "ready": True, "ok": True, "message": ""}
NUMBERS = {
    "server": "https://192.0.2.11:6443",
    "ok": True,
    "message": "",
    "nodes": {
        "with_metrics": 2,
        "expected": 2,
        "oldest_age": 7.0,
        "missing": [],
        "usage": [
            {"name": "cp1", "cpu_millicores": 259, "memory_mib": 599},
            {"name": "a-node-with-a-long-name", "cpu_millicores": None, "memory_mib": 161},
        ],
    },
    "pods": {"with_metrics": 5, "expected": 5, "oldest_age": 16.0, "missing": []},
}
NODES = {
    "cp1": {"ready": True, "addresses": [{"type": "InternalIP", "address": "192.0.2.11"}], "image_labels": []},
    "w1": {"ready": False, "addresses": [], "image_labels": []},
}
CLUSTER = {"nodes": NODES, "control_planes": ["cp1", "cp2"]}
WORKS = {"ok": True, "apiservices": [REGISTERED], "servers": [SERVER]}


@pytest.mark.parametrize(
    ("registered", "servers", "message", "layer"),
    [
        (None, [], "timed out", "Between the controller and the API servers"),
        ({"exists": False}, [], "not found", "Registration of the API"),
        ({"service_exists": False}, [], "", "Service of the metrics server"),
        ({"endpoints": []}, [], "", "Pods of the metrics server"),
        ({"endpoints": [{"ready": False}]}, [], "", "Pods of the metrics server"),
        ({"ca_bundle": {"present": True, "valid_pem": False}}, [], "", "Certificate of the metrics server"),
        ({}, [], "x509: certificate signed by unknown authority", "Certificate of the metrics server"),
        ({}, [{"ready": False}], "503", "API servers"),
        ({}, [{"ready": True}], "503", "Path from the API servers to the metrics server"),
        # An API server that serves the API itself has neither a Service nor endpoints.
        ({"service": None, "service_exists": None, "endpoints": []}, [], "", "Path from the API servers to"),
    ],
)
def test_the_layer_at_fault(registered, servers, message, layer):
    seen = {"apiservices": [] if registered is None else [{**REGISTERED, **registered}], "servers": servers}
    found = verification.aggregation_failure({"msg": message, "last_observed": seen}, {})
    assert found.startswith(layer)
    assert verification.aggregation_failure({}, {}) == "Between the controller and the API servers: no message"


OTHER = {
    "name": "v1beta1.sample.example.com",
    "exists": True,
    "service": {"namespace": "lab-sample", "name": "sample-apiserver"},
    "service_exists": True,
    "endpoints": [{"ip": "10.0.0.7", "port": 8443, "ready": True}],
    "ca_bundle": {"present": True, "valid_pem": True},
}


@pytest.mark.parametrize(
    ("registered", "servers", "message", "layer"),
    [
        ({"service_exists": False}, [], "", "Service of"),
        ({"endpoints": []}, [], "", "Pods of"),
        ({"ca_bundle": {"present": True, "valid_pem": False}}, [], "", "Certificate of"),
        ({}, [{"name": OTHER["name"], "ready": True, "ok": False}], "x509: unknown authority", "Certificate of"),
        ({}, [{"name": OTHER["name"], "ready": True, "ok": False}], "503", "Path from the API servers to"),
    ],
)
def test_the_server_at_fault_is_named(registered, servers, message, layer):
    seen = {"apiservices": [REGISTERED, {**OTHER, **registered}], "servers": [SERVER, *servers]}
    found = verification.aggregation_failure({"msg": message, "last_observed": seen}, {})
    assert found.startswith(f"{layer} the extension server lab-sample/sample-apiserver: ")


def test_another_api_is_served_without_metrics():
    aggregation = {"ok": True, "apiservices": [OTHER], "servers": [{**SERVER, "name": OTHER["name"]}]}
    known = filters.verification_context(CLUSTER, [], {"skipped": True}, {"results": []}, 30, None, False)
    found = filters.verification_result(aggregation, {"skipped": True}, known)
    assert found["ok"]
    assert filters.verification_summary(found, known, 20) == [
        "v1beta1.sample.example.com: served through 1 of 2 API servers.",
        "v1beta1.sample.example.com: Service lab-sample/sample-apiserver, endpoints 10.0.0.7:8443.",
        "Not Ready: w1.",
    ]
    found = filters.verification_result({**aggregation, "ok": False}, {"skipped": True}, known)
    assert not found["ok"]
    assert filters.verification_summary(found, known, 20)[0].startswith("Not every API is served yet; check mode")
    # Metrics that were to be compared, and were not, are no success.
    assert not filters.verification_result(WORKS, {"skipped": True}, context())["ok"]


def test_pods_that_have_no_node_left():
    seen = {"apiservices": [{**REGISTERED, "endpoints": []}]}
    found = verification.aggregation_failure({"msg": "No.", "last_observed": seen}, {"warning": "Only w1 holds it."})
    assert found == "Pods of the metrics server: No. Only w1 holds it."


def test_kubelets_that_are_not_read():
    observed = [{"nodes": {"missing": ["w2"]}}, {"nodes": {"missing": ["w1", "w2"]}}, {"nodes": None}, {}]
    pending = [{"name": "csr-1", "node": "w1", "reason": "an address is not its own"}, {"name": "csr-2", "reason": "x"}]
    found = verification.metrics_failure({"msg": "No metrics.", "last_observed": observed}, pending, "monitoring")
    assert found.startswith("Kubelets of w1, w2: No metrics. The log of the metrics server")
    assert "--namespace monitoring" in found
    assert "csr-1 of node w1, because an address is not its own; csr-2 of no node, because x." in found
    assert verification.metrics_failure({"msg": "Old."}, [], "m").startswith("Samples of pods: Old.")


def test_the_namespace_is_that_of_the_registration():
    assert verification.namespace_of(WORKS) == "monitoring"
    assert verification.namespace_of({}) == "kube-system"


def test_the_summary_of_what_works():
    found = filters.verification_result(WORKS, {"ok": True, "servers": [NUMBERS]}, context())
    assert (found["ok"], found["measured"]) == (True, True)
    assert filters.verification_summary(found, context(), "1", ["w9"]) == [
        f"Resource metrics work through 1 of 2 API servers ({NAME}).",
        "Nodes: 2 of 2 have metrics, the oldest sample is 7.0 s old.",
        "Pods: 5 of 5 have metrics, the oldest sample is 16.0 s old.",
        "Node              CPU     Memory",
        "cp1              259m      599Mi",
        "... and 1 more",
        "Not Ready, and not expected to have metrics: w1.",
        "Not examined, see above: w9.",
    ]
    shown = filters.verification_summary(found, context(), 20)
    assert "a-node-with-a-long-name        -      161Mi" in shown
    assert shown[3].startswith("Node                     ")
    assert not any("CPU" in line or "259m" in line for line in filters.verification_summary(found, context(), 0))


def test_a_distribution_is_named_in_the_summary_and_in_failures():
    said = "This cluster is EKS."
    known = {**context(), "cluster": {**CLUSTER, "control_planes": [], "distribution": {"sentence": said}}}
    found = filters.verification_result(WORKS, {"ok": True, "servers": [NUMBERS]}, known)
    lines = filters.verification_summary(found, known, 0)
    assert lines[0] == f"Resource metrics work through the kubeconfig's API server ({NAME})."
    assert said in lines
    assert filters.verification_aggregation_failure({"msg": "no"}, known).endswith(f"no {said}")
    failed = {"msg": "no", "last_observed": []}
    assert filters.verification_metrics_failure(failed, known, WORKS).endswith(said)
    assert not filters.verification_aggregation_failure({"msg": "no"}, context()).endswith(said)


def test_the_summary_tells_what_will_need_attention():
    requests = {
        "approved": [{"name": "csr-1", "node": "cp1"}],
        "left": [{"name": "csr-2", "node": None, "reason": "y"}],
    }
    kubelets = {
        "results": [
            {
                "kubelets": [
                    {
                        "address": "192.0.2.11",
                        "tls": {"certificate": {"expires_in_days": 3, "not_after": "2026-03-04"}},
                    },
                    {"address": "192.0.2.12", "tls": {"certificate": {"expires_in_days": 300, "not_after": ""}}},
                    {"address": "192.0.2.13", "tls": {"certificate": {"error": "does not parse"}}},
                    {"address": "192.0.2.14", "tls": {"certificate": None}},
                    {"address": "192.0.2.15", "tls": None},
                ]
            },
            {"skipped": True},
        ]
    }
    labelled = {**NODES, "w1": {**NODES["w1"], "image_labels": ["image.kubemetrics.aggregation/1"]}}
    made = filters.verification_context({**CLUSTER, "nodes": labelled}, [], requests, kubelets, "30")
    found = filters.verification_result(WORKS, {"ok": True, "servers": [NUMBERS]}, made)
    assert found["expiring_kubelet_certificates"] == ["192.0.2.11"]
    shown = filters.verification_summary(found, made, 0)
    assert f"Serving certificate not approved: csr-1 of node cp1, because {verification.UNDECIDED}." in shown
    assert "Serving certificate not approved: csr-2 of no node, because y." in shown
    assert "Kubelet of cp1: its serving certificate expires on 2026-03-04, in 3 days." in shown
    assert shown[-1].startswith("No node that can take pods holds the metrics server's image (w1 is not Ready)")


def test_what_has_just_been_placed_counts():
    labelled = {**NODES, "w1": {**NODES["w1"], "image_labels": ["image.kubemetrics.aggregation/1"]}}
    made = filters.verification_context({**CLUSTER, "nodes": labelled}, [], None, None, 30, ["cp1"])
    assert made["availability"] == {"ready": ["cp1"], "lost": [], "warning": ""}


def test_check_mode_on_a_cluster_that_has_nothing_yet():
    faulty = {**SERVER, "ok": False, "message": "answers 404"}
    missing = {"ok": False, "apiservices": [{**REGISTERED, "exists": False}], "servers": [faulty]}
    found = filters.verification_result(missing, {"skipped": True}, context())
    assert (found["ok"], found["measured"], found["metrics"]) == (False, False, [])
    assert filters.verification_summary(found, context(), 20)[:2] == [
        "Resource metrics do not work yet; check mode examines once and waits for nothing.",
        "https://192.0.2.11:6443: answers 404",
    ]


def test_metrics_that_are_not_all_there_in_check_mode():
    partial = {**NUMBERS, "ok": False, "message": "no metrics of w1", "nodes": None, "pods": None}
    found = filters.verification_result(WORKS, {"ok": False, "servers": [partial]}, context())
    assert not found["ok"]
    assert "https://192.0.2.11:6443: no metrics of w1" in filters.verification_summary(found, context(), 20)


def test_nothing_was_measured():
    assert not verification.measured({"servers": []})
    assert not verification.measured({"servers": [NUMBERS, {**NUMBERS, "nodes": {"with_metrics": 0}}]})
    assert not verification.measured({})


def context():
    return filters.verification_context(CLUSTER, [], {"skipped": True}, {"results": []}, 30)
