# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roots, consequences, what no row explains, and the verdict."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import catalogue, engine, evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation, Repair, Row

REPAIR = Repair("advice", "do this")


def document(**parts):
    api = {
        "url": "https://192.0.2.11:6443",
        "message": "",
        **answered(ok=True, message=""),
        **parts.pop("api", {}),
    }
    return {"schema": evidence.SCHEMA, "schema_version": 1, "hosts": {}, "api": api, **parts}


def answered(*, ok, message):
    server = {"server": "https://192.0.2.11:6443", "name": "v1beta1.metrics.k8s.io", "ok": ok, "message": message}
    return {"apiservices": {"apiservices": [{"name": "v1beta1.metrics.k8s.io", "exists": True}], "servers": [server]}}


def failing(message="503"):
    return answered(ok=False, message=message)


def row(identifier, *observations, **options):
    options = {"layer": "service", "symptom": "s", "cause": "c", "repair": REPAIR, "avoid": "a", **options}
    return Row(id=identifier, title=f"title of {identifier}", rule=lambda _evidence: observations, **options)


SEEN = Observation(("seen",))


def ids(found, *, root):
    return [entry["id"] for entry in found["findings"] if entry["root"] is root]


def test_a_healthy_cluster_has_no_finding():
    found = engine.diagnose(document(), rows=[row("NET-04")])
    assert (found["verdict"], found["exit_status"], found["findings"]) == ("well", 0, [])


def test_what_a_root_explains_is_its_consequence():
    rows = [row("AGG-12", SEEN), row("POD-03", SEEN, explains=("AGG-12",)), row("NET-04", SEEN, explains=("POD-03",))]
    found = engine.diagnose(document(), rows=rows)
    assert ids(found, root=True) == ["NET-04"]
    assert ids(found, root=False) == ["POD-03", "AGG-12"]
    assert found["findings"][1]["caused_by"] == ["NET-04"]
    assert found["findings"][0]["causes"] == ["POD-03"]


def test_two_faults_are_two_roots():
    found = engine.diagnose(document(), rows=[row("AGG-05", SEEN), row("KUB-04", SEEN)])
    assert ids(found, root=True) == ["AGG-05", "KUB-04"]
    assert found["headline"].startswith("AGG-05 and 1 more: title of AGG-05")


def test_what_no_row_covers_is_not_in_the_catalogue():
    found = engine.diagnose(document(api=failing("418")), rows=[row("KUB-04", SEEN, covers=("node_metrics",))])
    assert [entry["symptom"] for entry in found["unexplained"]] == ["request"]
    assert "418" in found["unexplained"][0]["evidence"][0]


@pytest.mark.parametrize(
    ("options", "explained"),
    [
        ({"covers": ("request",)}, True),
        ({"covers": ("node_metrics",)}, False),
        ({"covers_everywhere": ("request",)}, True),
    ],
)
def test_a_row_covers_symptoms(options, explained):
    found = engine.diagnose(document(api=failing()), rows=[row("NET-01", SEEN, **options)])
    assert (found["unexplained"] == []) is explained


def test_a_row_covers_symptoms_on_its_own_hosts_only():
    elsewhere = row("NET-01", Observation(("seen",), ("cp2",)), covers=("request",))
    assert engine.diagnose(document(api=failing()), rows=[elsewhere])["unexplained"]


def test_a_host_that_was_not_reached_decides_the_status():
    hosts = {"w1": {"node": None, "control_plane": False, "reachable": False, "message": "timed out"}}
    found = engine.diagnose(document(hosts=hosts), rows=[])
    assert (found["verdict"], found["exit_status"]) == ("well", 4)
    assert found["headline"].endswith("Not examined: w1.")


def test_without_the_api_the_rest_is_unknown():
    hosts = {
        "cp1": {"control_plane": True, "reachable": True, "host": {"components": {"kube-apiserver": {"running": True}}}}
    }
    found = engine.diagnose({"schema": evidence.SCHEMA, "schema_version": 1, "hosts": hosts, "api": None}, rows=[])
    assert (found["verdict"], found["exit_status"]) == ("unknown", 2)


@pytest.mark.parametrize("missing", [None, {"apiservices": [], "servers": []}])
def test_what_no_request_has_shown_is_unknown(missing):
    """Probes that were given up have measured nothing, and nothing is well because of that."""
    found = engine.diagnose(document(api={"apiservices": missing}), rows=[])
    assert (found["verdict"], found["exit_status"]) == ("unknown", 2)
    assert "unknown" in found["headline"]


@pytest.mark.parametrize("given", [{}, {"schema": "other"}, {"schema": evidence.SCHEMA, "schema_version": 2}])
def test_what_is_no_evidence_is_refused_in_one_sentence(given):
    with pytest.raises(evidence.EvidenceError, match="evidence"):
        engine.diagnose(given)


def test_parts_that_are_missing_are_no_fault_of_the_rules():
    """Any part of a document may be absent: another version, a probe that failed, a user with few rights."""
    for part in (None, {}, {"message": ""}, {"message": "refused"}, {"objects": None, "state": {}, "metrics": None}):
        for hosts in ({}, {"cp1": {}}, {"cp1": {"control_plane": True, "reachable": True, "host": None}}):
            engine.diagnose({"schema": evidence.SCHEMA, "schema_version": 1, "hosts": hosts, "api": part})


def test_ids_are_unique():
    identifiers = [entry.id for entry in catalogue.ROWS]
    assert len(set(identifiers)) == len(identifiers)


def test_what_a_row_explains_is_of_the_catalogue():
    counts = {"AGG": 12, "NET": 10, "POD": 7, "KUB": 11, "CON": 3, "LIF": 2}
    known = {f"{group}-{number:02}" for group, count in counts.items() for number in range(1, count + 1)}
    assert {other for entry in catalogue.ROWS for other in (entry.id, *entry.explains)} <= known


SUFFERED = {"layer": "consequence", "covers": ("namespace",)}


def test_what_others_suffer_comes_from_what_explains_the_failing_requests():
    rows = [row("NET-01", SEEN, covers=("request",)), row("CON-01", SEEN, **SUFFERED)]
    found = engine.diagnose(document(api=failing()), rows=rows)
    assert (ids(found, root=True), ids(found, root=False)) == (["NET-01"], ["CON-01"])


def test_what_others_suffer_from_another_api_is_a_root():
    independent = Observation(("the API of somebody else",), independent=True)
    rows = [row("POD-07", SEEN, covers=("server_pod",)), row("CON-01", independent, **SUFFERED)]
    assert sorted(ids(engine.diagnose(document(), rows=rows), root=True)) == ["CON-01", "POD-07"]


@pytest.mark.parametrize("beside", [[], [Observation(("seen",), severity="warning")]])
def test_what_others_suffer_without_a_known_cause_is_unexplained_and_no_root(beside):
    discovery = {"status": 200, "stale": ["metrics.k8s.io/v1beta1"]}
    suffered = {"layer": "consequence", "covers": ("discovery",)}
    rows = [row("POD-07", *beside, covers=("server_pod",)), row("CON-02", SEEN, **suffered)]
    found = engine.diagnose(document(api={"objects": {"discovery": discovery}}), rows=rows)
    assert "CON-02" not in [finding["id"] for finding in found["findings"]]
    assert [entry["symptom"] for entry in found["unexplained"]] == ["discovery"]


def test_a_warning_explains_no_failing_request():
    warning = Observation(("a rollout is stuck",), severity="warning")
    found = engine.diagnose(document(api=failing()), rows=[row("POD-01", warning, covers=("server_pod",))])
    assert [entry["symptom"] for entry in found["unexplained"]] == ["request"]


def test_of_what_no_row_explains_only_where_it_begins_is_reported():
    pod = {"namespace": "kube-system", "name": "metrics-server-0", "ready": False, "phase": "Pending"}
    found = engine.diagnose(document(api={**failing(), "objects": {"pods": [pod]}}), rows=[])
    assert [entry["symptom"] for entry in found["unexplained"]] == ["server_pod"]


@pytest.mark.parametrize(("since", "well"), [("2026-11-26T11:59:40Z", True), ("2026-11-26T11:58:00Z", False)])
def test_a_server_that_has_just_started_may_lack_samples_of_pods(since, well):
    ready = {"type": "Ready", "status": "True", "since": since}
    pod = {"namespace": "kube-system", "name": "metrics-server-0", "ready": True, "conditions": [ready]}
    lacking = {"server": "https://192.0.2.11:6443", "ok": False, "pods": {"missing": ["kube-system/etcd-cp1"]}}
    api = {"objects": {"pods": [pod]}, "metrics": {"servers": [lacking]}}
    found = engine.diagnose(document(api=api, collected={"at": "2026-11-26T12:00:00Z"}), rows=[])
    assert [entry["symptom"] for entry in found["unexplained"]] == ([] if well else ["pod_metrics"])
    assert any("no sample yet of kube-system/etcd-cp1" in notice for notice in found["notices"]) == well


@pytest.mark.parametrize(("since", "well"), [("2026-11-26T11:59:10Z", True), ("2026-11-26T11:58:20Z", False)])
def test_static_pods_that_restart_with_their_api_server_may_lack_samples(since, well):
    host = {"control_plane": True, "host": {"components": {"kube-apiserver": {"start_time": since}}}}
    missing = ["kube-system/kube-controller-manager-cp1"]
    lacking = {"server": "https://192.0.2.11:6443", "ok": False, "pods": {"missing": missing}}
    evidence = document(
        api={"metrics": {"servers": [lacking]}}, hosts={"cp1": host}, collected={"at": "2026-11-26T12:00:00Z"}
    )
    found = engine.diagnose(evidence, rows=[])
    assert ("pod_metrics" in [entry["symptom"] for entry in found["unexplained"]]) == (not well)
    said = f"The API server of cp1 has just started, and there is no sample yet of {missing[0]}."
    assert any(said in notice for notice in found["notices"]) == well
