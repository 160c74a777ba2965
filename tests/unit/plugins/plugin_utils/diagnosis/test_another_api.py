# SPDX-License-Identifier: GPL-3.0-or-later
"""A diagnosis of another aggregated API: the captured failures of the metrics server, retold of another one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import catalogue, engine
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import OWN_SERVER_STEPS
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import html, markdown, terminal
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.subject import Subject

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "evidence"
NAME = "v1beta1.sample.example.com"
SAMPLE = Subject(NAME, "lab-sample/sample-apiserver")
#: What nobody who asks for another API wants to read of. Names of this collection's commands are no words.
METRICS = re.compile(r"(?<!kube)metrics|kubectl top|\bKUB-\d|kubelets", re.IGNORECASE)
#: Rows whose symptom or log is of the metrics server alone, and its log says nothing of another one.
ONLY_IN_REVIEWS = {"POD-04", "POD-05"}


def retold(identifier):
    """The captured evidence as it would be of the sample's API: other names, and nothing that only metrics have."""
    text = (CORPUS / f"{identifier}.json").read_text(encoding="utf-8")
    for old, new in (
        ("metrics.k8s.io", "sample.example.com"),
        ("metrics-server", "sample-apiserver"),
        ("metrics_server", "sample_apiserver"),
    ):
        text = text.replace(old, new)
    document = json.loads(text)
    document["collected"]["apiservice"] = NAME
    api = document["api"] or {}
    api.update(metrics=None, provider=None, serving_requests=None)
    for host in document["hosts"].values():
        host["kubelets"] = []
    for part in (api.get("apiservices") or {}).get("apiservices", []):
        if part.get("service"):
            part["service"]["namespace"] = "lab-sample"
    for pod in (api.get("objects") or {}).get("pods", []):
        pod["namespace"] = "lab-sample"
    for workload in (api.get("objects") or {}).get("workloads", []):
        workload["namespace"] = "lab-sample"
    if (api.get("objects") or {}).get("service"):
        api["objects"]["service"]["namespace"] = "lab-sample"
    return document


def sentences(diagnosis):
    """What the diagnosis says in its own words: no quotes, no field that programs read."""
    yield diagnosis["headline"]
    yield from diagnosis["notices"]
    for finding in diagnosis["findings"]:
        repair = finding["repair"]
        yield from (finding["title"], finding["symptom"], finding["cause"], finding["avoid"])
        yield from (repair["text"], repair["risk"], repair["downtime"], *repair["commands"])
    for hop in diagnosis["path"]:
        yield from (hop["name"], hop["text"])


def test_a_row_speaks_of_the_api_that_it_is_told_of():
    rows = catalogue.rows_for(SAMPLE)
    told = {
        row.id: " ".join((row.title, row.symptom, row.cause, row.avoid, row.repair.text, *row.repair.commands))
        for row in rows
    }
    assert {identifier: text for identifier, text in told.items() if METRICS.search(text)} == {
        # What autoscalers read are metrics.
        "CON-03": told["CON-03"]
    }
    assert {row.id for row in rows if OWN_SERVER_STEPS & {*row.repair.steps}} == set()
    assert not any(re.search(r"\$\{?[a-zA-Z]", text.replace("$(", "")) for text in told.values())


def test_rows_of_metrics_alone_are_not_among_them():
    left = {row.id for row in catalogue.ROWS} - {row.id for row in catalogue.rows_for(SAMPLE)}
    assert left == {row.id for row in catalogue.ROWS if row.id.startswith("KUB-")} | {"AGG-08", "NET-10"}


def test_the_rows_of_metrics_have_no_word_left_to_fill_in():
    assert not [row.id for row in catalogue.ROWS if "$server" in str(row) or "$api" in str(row) or "${" in str(row)]


@pytest.mark.parametrize(
    "identifier",
    [
        row.id
        for row in catalogue.rows_for(SAMPLE)
        if row.id.startswith(("AGG", "NET", "POD", "LIF")) and (CORPUS / f"{row.id}.json").exists()
    ],
)
def test_a_failure_of_another_api_has_the_same_root_and_its_own_names(identifier):
    diagnosis = engine.diagnose(retold(identifier))
    found = [finding for finding in diagnosis["findings"] if finding["root"]]
    if identifier not in ONLY_IN_REVIEWS:
        assert [finding["id"] for finding in found] == [identifier]
        assert "sample" in " ".join(sentences(diagnosis))
    assert [text for text in sentences(diagnosis) if METRICS.search(text)] == []
    assert not any(OWN_SERVER_STEPS & {*finding["repair"]["steps"]} for finding in diagnosis["findings"])
    assert all(f"doctor_apiservice={NAME}" in finding["repair"]["variables"] for finding in diagnosis["findings"])
    assert {hop["kind"] for hop in diagnosis["path"]} == {"client", "api_server", "service", "extension_server"}


@pytest.mark.parametrize("identifier", ["healthy-1-1", "healthy-3-1"])
def test_a_server_that_is_well_has_no_finding(identifier):
    document = retold(identifier)
    # It may be a program that asks nobody who may do what.
    for review in document["api"]["objects"]["reviews"]:
        review["allowed"] = False
    document["api"]["objects"]["roles"]["view_reads_metrics"] = False
    diagnosis = engine.diagnose(document)
    assert diagnosis["findings"] == [] and diagnosis["unexplained"] == []
    assert diagnosis["headline"] == f"{NAME} works through every API server."
    assert diagnosis["exit_status"] == 0


def test_rights_are_missed_where_the_log_says_so():
    document = retold("POD-04")
    line = (
        'configmaps "extension-apiserver-authentication" is forbidden: User '
        '"system:serviceaccount:lab-sample:sample-apiserver" cannot get resource "configmaps"'
    )
    for pod in document["api"]["objects"]["pods"]:
        pod.update(ready=False, log=[line])
    finding = next(entry for entry in engine.diagnose(document)["findings"] if entry["id"] == "POD-04")
    assert finding["repair"]["kind"] == "advice"
    assert "--serviceaccount=lab-sample:sample-apiserver" in " ".join(finding["repair"]["commands"])


def test_pods_of_another_name_are_not_looked_for_by_it():
    document = retold("AGG-12")
    document["api"]["objects"].update(pods=[], workloads=[])
    document["api"]["objects"]["service"] = {"selector": {"app": "gone"}, "ports": []}
    for entry in document["api"]["apiservices"]["apiservices"]:
        entry.update(service_exists=True, endpoints=[])
    finding = engine.diagnose(document)["findings"][0]
    assert finding["id"] == "AGG-12"
    assert finding["evidence"][0] == (
        "Service lab-sample/sample-apiserver selects app=gone, which no pod and no Deployment of its namespace has"
    )


def test_pods_that_end_do_not_hide_that_the_server_was_scaled_away():
    document = retold("AGG-12")
    objects = document["api"]["objects"]
    objects["service"]["selector"] = {"k8s-app": "sample-apiserver"}
    objects["workloads"][0]["replicas"] = 0
    for pod in objects["pods"]:
        pod.update(selected=True, ready=True, terminating=True)
    for entry in document["api"]["apiservices"]["apiservices"]:
        entry.update(service_exists=True, endpoints=[])
    finding = engine.diagnose(document)["findings"][0]
    assert (finding["id"], finding["cause"]) == (
        "AGG-12",
        "The extension server lab-sample/sample-apiserver was scaled to 0.",
    )


def test_an_api_that_is_not_registered_has_no_pods_that_were_seen():
    document = retold("AGG-01")
    document["api"]["objects"].update(pods=[], workloads=[], service=None)
    diagnosis = engine.diagnose(document)
    assert [finding["id"] for finding in diagnosis["findings"] if finding["root"]] == ["AGG-01"]
    (server,) = (hop for hop in diagnosis["path"] if hop["kind"] == "extension_server")
    assert (server["name"], server["state"]) == ("sample.example.com", "unknown")


def test_a_broken_api_beside_metrics_comes_with_the_command_that_diagnoses_it():
    document = json.loads((CORPUS / "CON-02.json").read_text(encoding="utf-8"))
    (dead,) = document["api"]["objects"]["apiservices_unavailable"]
    command = f"ansible-playbook -i INVENTORY kubemetrics.aggregation.doctor -e doctor_apiservice={dead['name']}"
    for exists in (True, False):
        dead["service_exists"] = exists
        finding = next(entry for entry in engine.diagnose(document)["findings"] if entry["id"] == "CON-02")
        # Whose Service is gone has nothing left to be examined.
        assert (command in finding["repair"]["commands"]) is exists


@pytest.mark.parametrize("form", [terminal.render, markdown.render, html.render])
def test_a_report_calls_the_server_by_its_name(form):
    report = form(engine.diagnose(retold("AGG-12")))
    assert "extension server" in report and "metrics server" not in report


@pytest.mark.parametrize(
    ("name", "reason", "found"),
    [
        ("v1beta1.custom.metrics.k8s.io", "FailedGetPodsMetric", True),
        ("v1beta1.external.metrics.k8s.io", "FailedGetExternalMetric", True),
        ("v1beta1.custom.metrics.k8s.io", "FailedGetResourceMetric", False),
        ("v1beta1.sample.example.com", "FailedGetPodsMetric", False),
    ],
)
def test_autoscalers_suffer_from_the_api_that_they_read(name, reason, found):
    document = json.loads(json.dumps(retold("AGG-12")).replace(NAME, name))
    failed = {"type": "ScalingActive", "status": "False", "reason": reason, "message": "unable to fetch metrics"}
    document["api"]["objects"]["autoscalers"] = [{"namespace": "a", "name": "web", "conditions": [failed]}]
    assert ("CON-03" in {entry["id"] for entry in engine.diagnose(document)["findings"]}) is found
