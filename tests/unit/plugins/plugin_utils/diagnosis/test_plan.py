# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a repair applies, what it leaves, and why."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import catalogue, plan
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Repair


def finding(identifier, kind="automatic", *, steps=("metrics_server",), root=True, hosts=("cp1",), **more):
    return {
        "id": identifier,
        "title": f"title of {identifier}",
        "severity": "error",
        "root": root,
        "caused_by": [] if root else ["NET-04"],
        "hosts": list(hosts),
        "repair": {"kind": kind, "text": "do it", "risk": "none", "downtime": "none", "steps": list(steps), **more},
    }


def applied(found, wanted):
    return [entry["id"] for entry in plan.plan({"findings": found}, wanted)["apply"]]


class TestAsked:
    @pytest.fixture(autouse=True)
    def rows(self, monkeypatch):
        row = type("Row", (), {})
        known = []
        for identifier in ("AGG-05", "KUB-02"):
            entry = row()
            entry.id = identifier
            known.append(entry)
        monkeypatch.setattr(catalogue, "ROWS", tuple(known))

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("", []),
            ("AGG-05,KUB-02", ["AGG-05", "KUB-02"]),
            ("agg-05 kub-02, AGG-05", ["AGG-05", "KUB-02"]),
            ("Safe", ["safe"]),
        ],
    )
    def test_reads_ids(self, text, wanted):
        assert plan.asked(text) == wanted

    def test_refuses_what_the_catalogue_does_not_have(self):
        with pytest.raises(plan.PlanError, match="AGG-99, which the catalogue"):
            plan.asked("AGG-05,AGG-99")


@pytest.mark.parametrize(
    ("kind", "wanted", "done"),
    [
        ("automatic", ["safe"], True),
        ("automatic", ["AGG-05"], True),
        ("automatic", ["KUB-02"], False),
        ("automatic", [], False),
        ("consent", ["safe"], False),
        ("consent", ["AGG-05"], True),
        ("advice", ["safe", "AGG-05"], False),
    ],
)
def test_consent_is_to_name_the_finding(kind, wanted, done):
    assert (applied([finding("AGG-05", kind)], wanted) == ["AGG-05"]) is done


def test_a_consequence_goes_with_its_root():
    found = [finding("NET-04", steps=("forward_policy",)), finding("POD-03", root=False)]
    result = plan.plan({"findings": found}, ["safe", "POD-03"])
    assert result["steps"] == ["forward_policy"]
    assert "consequence of NET-04" in result["left"][0]["why"]


def test_steps_have_the_order_of_site():
    found = [
        finding("KUB-04", steps=("metrics_server", "kubelet_access")),
        finding("AGG-05", steps=("front_proxy_pki",)),
    ]
    assert plan.plan({"findings": found}, ["safe"])["steps"] == ["front_proxy_pki", "kubelet_access", "metrics_server"]


def test_a_restart_is_for_the_hosts_of_its_finding():
    found = [finding("AGG-10", steps=("restart_api_server",), hosts=("cp2",)), finding("AGG-05", hosts=("cp1",))]
    assert plan.plan({"findings": found}, ["safe"])["restart_hosts"] == ["cp2"]


def test_what_was_asked_for_and_not_found_is_said():
    result = plan.plan({"findings": []}, ["KUB-02"])
    assert result["missing"] == ["KUB-02"]
    assert "not found: KUB-02" in plan.as_text(result, ["KUB-02"])


def test_steps_of_another_version_are_refused():
    with pytest.raises(plan.PlanError, match="do not|does not know"):
        plan.plan({"findings": [finding("AGG-05", steps=("other",))]}, ["safe"])


@pytest.mark.parametrize("identifier", ["POD-01", "KUB-05", "AGG-12"])
def test_nothing_of_the_metrics_server_is_changed_for_another_api(identifier):
    diagnosis = {
        "apiservice": "v1beta1.custom.metrics.k8s.io",
        "findings": [finding("AGG-05", steps=("front_proxy_pki",))],
    }
    with pytest.raises(plan.PlanError, match=f"^repair asks for {identifier}, .*custom.metrics.k8s.io.*[.]$"):
        plan.plan(diagnosis, ["AGG-05", identifier])
    assert plan.plan(diagnosis, ["AGG-05"])["steps"] == ["front_proxy_pki"]
    assert plan.plan({**diagnosis, "apiservice": "v1beta1.metrics.k8s.io"}, [identifier])["missing"] == [identifier]


def test_the_plan_names_risk_downtime_and_commands():
    found = [
        finding("AGG-02", "consent", risk="an API server restarts"),
        finding("NET-02", "advice", commands=["open the port"]),
    ]
    text = plan.as_text(plan.plan({"findings": found}, ["AGG-02"]), ["AGG-02"])
    assert "Risk: an API server restarts." in text
    assert "open the port" in text


def test_what_is_left_of_a_repair():
    done = {"apply": [{"id": "AGG-05"}]}
    assert plan.remaining({"findings": [finding("AGG-05"), finding("KUB-02")]}, done) == ["AGG-05"]


def test_every_row_has_known_steps():
    for row in catalogue.ROWS:
        assert set(row.repair.steps) <= set(plan.STEPS), row.id
        assert row.repair.kind == "advice" or row.repair.steps, row.id
        assert isinstance(row.repair, Repair)
