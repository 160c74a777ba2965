# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hop of a request's path is broken, which works, and which is unknown."""

from __future__ import annotations

import diagnosis_samples as samples
import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation


def states(diagnosis):
    return {(hop["kind"], hop["name"]): hop["state"] for hop in diagnosis["path"]}


def hop(diagnosis, kind, name=None):
    return next(entry for entry in diagnosis["path"] if entry["kind"] == kind and name in (None, entry["name"]))


POD = "metrics-server-74c54c6b4f-z7s47"


def test_a_healthy_cluster_works_at_every_hop_in_order():
    path = samples.diagnose(samples.cluster(nodes=3, control_planes=2))["path"]
    assert [(entry["kind"], entry["name"]) for entry in path] == [
        ("client", "kubectl top"),
        ("api_server", "cp1"),
        ("api_server", "cp2"),
        ("service", "kube-system/metrics-server"),
        ("server", POD),
        ("kubelet", "cp1"),
        ("kubelet", "cp2"),
        ("kubelet", "w1"),
    ]
    assert {entry["state"] for entry in path} == {"ok"}


def test_a_fault_of_one_control_plane_is_marked_there_alone():
    document = samples.failing(samples.cluster(5, 3), "cp2", verdict="front_proxy_refused")
    found = samples.diagnose(document, samples.expired("cp2"))
    broken = [key for key, state in states(found).items() if state == "broken"]
    assert broken == [("client", "kubectl top"), ("api_server", "cp2")]
    assert hop(found, "api_server", "cp2")["findings"] == ["AGG-05"]
    assert hop(found, "client")["text"] == "fails through cp2, works through cp1, cp3"


def test_a_healthy_neighbour_that_answers_503_is_not_broken():
    """All API servers write the one status of the APIService, so a fault of one makes the others fail, too."""
    document = samples.failing(samples.cluster(5, 3), "cp1", "cp2")
    samples.failing(document, "cp2", verdict="front_proxy_refused")
    found = samples.diagnose(document, samples.expired("cp2"))
    assert hop(found, "api_server", "cp1")["state"] == "ok"
    assert "503" in hop(found, "api_server", "cp1")["text"]
    assert hop(found, "api_server", "cp2")["state"] == "broken"


def test_a_neighbour_without_a_probe_of_its_own_is_unknown():
    document = samples.failing(samples.cluster(5, 3), "cp1", "cp2", "cp3")
    document["hosts"]["cp1"]["aggregator"] = {}
    found = samples.diagnose(document, samples.expired("cp2"))
    assert hop(found, "api_server", "cp1")["state"] == "unknown"


def test_what_is_behind_a_broken_hop_is_unknown():
    document = samples.failing(samples.cluster(3, 1), "cp1", verdict="unreachable")
    document["api"]["apiservices"]["apiservices"][0]["endpoints"] = []
    document["api"]["objects"]["pods"][0].update(ready=False, phase="Pending")
    found = samples.diagnose(document)
    assert states(found) == {
        ("client", "kubectl top"): "broken",
        ("api_server", "cp1"): "ok",
        ("service", "kube-system/metrics-server"): "broken",
        ("server", POD): "broken",
        ("kubelet", "cp1"): "unknown",
        ("kubelet", "w1"): "unknown",
        ("kubelet", "w2"): "unknown",
    }


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ({"connect": {"ok": True}, "authenticated": {"status": 200}}, "ok"),
        ({"connect": {"ok": True}, "tls": {"ok": True, "verified": True}, "authenticated": {"status": 401}}, "broken"),
        ({"connect": {"ok": True}, "tls": {"ok": True, "verified": False}}, "broken"),
        ({"connect": {"ok": False, "error": {"kind": "timeout", "message": "nothing answers"}}}, "broken"),
        ({"connect": {"ok": True}, "tls": {"ok": True, "verified": True}, "authenticated": None}, "unknown"),
    ],
)
def test_a_kubelet_behind_a_broken_hop_is_what_its_own_probe_says(answer, state):
    document = samples.failing(samples.cluster(3, 1), "cp1", verdict="unreachable")
    document["hosts"]["cp1"]["kubelets"] = [{"node": "w2", **answer}]
    found = samples.diagnose(document)
    assert hop(found, "kubelet", "w2")["state"] == state
    assert hop(found, "kubelet", "w1")["state"] == "unknown"


def test_a_kubelet_without_metrics_is_broken_and_others_work():
    document = samples.cluster(4, 1)
    for entry in document["api"]["metrics"]["servers"]:
        entry["nodes"]["missing"] = ["w2"]
    found = samples.diagnose(document, samples.pending("w2"))
    assert [hop(found, "kubelet", name)["state"] for name in ("cp1", "w1", "w2", "w3")] == ["ok", "ok", "broken", "ok"]
    assert hop(found, "kubelet", "w2")["findings"] == ["KUB-02"]
    assert hop(found, "client")["text"] == "shows <unknown> for w2"


def test_a_node_that_is_not_ready_is_unknown():
    document = samples.cluster(3, 1)
    document["api"]["state"]["nodes"][-1]["ready"] = False
    found = samples.diagnose(document)
    assert hop(found, "kubelet", "w2")["state"] == "unknown"
    assert found["verdict"] == "well"


def test_findings_of_a_chain_sit_where_each_of_them_is():
    document = samples.failing(samples.cluster(3, 1), "cp1", verdict="unreachable")
    found = samples.diagnose(document, *samples.forwarding("w1"))
    assert hop(found, "server")["findings"] == ["NET-04", "POD-03"]
    assert hop(found, "service")["findings"] == ["AGG-12"]
    assert hop(found, "api_server", "cp1") == {
        "kind": "api_server",
        "name": "cp1",
        "state": "ok",
        "text": "ready; what is behind it does not answer",
        "findings": [],
    }


def test_a_warning_breaks_no_hop():
    soon = samples.row(
        "AGG-05", "Expires soon", "api_server", Observation(("in 9 days",), ("cp1",), severity="warning")
    )
    found = samples.diagnose(samples.cluster(3, 1), soon)
    assert hop(found, "api_server", "cp1")["state"] == "ok"
    assert hop(found, "api_server", "cp1")["findings"] == ["AGG-05"]


def test_an_api_server_that_is_down_is_broken():
    document = samples.cluster(5, 3)
    document["hosts"]["cp3"]["host"]["components"]["kube-apiserver"]["running"] = False
    assert hop(samples.diagnose(document), "api_server", "cp3")["state"] == "broken"


def test_an_api_that_is_not_registered_is_shown_at_the_service():
    document = samples.failing(samples.cluster(3, 1), "cp1", message="404")
    document["api"]["apiservices"]["apiservices"][0].update(exists=False, service=None, service_exists=None)
    found = samples.diagnose(document)
    assert hop(found, "service")["state"] == "broken"
    assert hop(found, "service")["text"] == "v1beta1.metrics.k8s.io is not registered"
    assert hop(found, "client")["text"] == "error: Metrics API not available"


def test_without_the_api_the_hosts_tell_what_they_can():
    document = samples.cluster(3, 1)
    document["api"] = None
    assert states(samples.diagnose(document)) == {
        ("client", "kubectl top"): "unknown",
        ("api_server", "cp1"): "ok",
        ("service", "metrics-server"): "ok",
        ("server", "metrics-server"): "unknown",
        ("kubelet", "cp1"): "unknown",
        ("kubelet", "w1"): "unknown",
        ("kubelet", "w2"): "unknown",
    }


def test_without_hosts_the_api_tells_what_it_can():
    document = samples.cluster(3, 2)
    document["hosts"] = {}
    found = samples.diagnose(document)
    assert {entry["state"] for entry in found["path"]} == {"ok"}
    assert [entry["name"] for entry in found["path"] if entry["kind"] == "api_server"] == [
        samples.url(1),
        samples.url(2),
    ]


def test_a_host_that_was_not_reached_is_unknown_without_the_api():
    document = samples.cluster(3, 3)
    document["api"] = None
    document["hosts"]["cp2"].update(reachable=False, message="timed out", host=None, api_server=None, aggregator={})
    found = samples.diagnose(document)
    assert hop(found, "api_server", "cp2")["state"] == "unknown"
    assert hop(found, "api_server", "cp2")["text"] == "timed out"


def test_a_pod_says_why_it_is_not_ready():
    document = samples.cluster(3, 1)
    state = {"kind": "waiting", "reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    document["api"]["objects"]["pods"][0].update(ready=False, containers=[{"name": "metrics-server", "state": state}])
    assert hop(samples.diagnose(document), "server")["text"] == "on w1, ImagePullBackOff"


def test_pods_that_could_not_be_listed_are_known_by_their_endpoints():
    document = samples.cluster(3, 1)
    document["api"]["objects"] = None
    assert hop(samples.diagnose(document), "server")["name"] == "10.244.1.7"
