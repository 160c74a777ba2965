# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a distribution writes its configuration itself, no repair is left that a playbook would do to it."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import (
    catalogue,
    engine,
    own_configuration,
    plan,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Finding, Observation
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import html, markdown, terminal
from diagnosis_samples import cluster as document

ROWS = catalogue.rows_for(Evidence(document()).subject)
WITH_HOSTS = [key for key, entry in distributions.TABLE.items() if not entry.hosted]
HOSTED = [key for key in distributions.TABLE if key not in WITH_HOSTS]


def evidence(flavour, owner="", because=""):
    made = document()
    made["api"].setdefault("cluster", {}).update(flavour=flavour, distribution={"because": because})
    made["api"]["provider"] = {"owners": {"v1beta1.metrics.k8s.io": {"kind": owner}} if owner else {}}
    return Evidence(made)


def repair(flavour, identifier, owner=""):
    row = next(row for row in ROWS if row.id == identifier)
    found = Finding(row, (Observation(("seen",), ("cp1",)),)).as_dict()
    return own_configuration.adapted(found, evidence(flavour, owner))["repair"]


@pytest.mark.parametrize("key", distributions.TABLE)
@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_no_playbook_changes_what_the_distribution_writes(row, key):
    found = own_configuration.adapted(Finding(row, (Observation(("seen",), ("cp1",)),)).as_dict(), evidence(key))
    repaired = found["repair"]
    allowed = set() if distributions.TABLE[key].hosted else {"metrics_server"}
    assert set(repaired["steps"]) <= allowed
    assert repaired["kind"] == "advice" or repaired["steps"]
    assert repaired["text"] and found["cause"]
    assert not [line for line in repaired["commands"] if "/etc/kubernetes/manifests" in line or "kubeadm" in line]
    # Reports drop indentation.
    assert not [line for line in repaired["commands"] if line != line.strip()]
    applied = plan.plan({"findings": [found]}, [row.id, "safe"])
    assert set(applied["steps"]) <= allowed


@pytest.mark.parametrize("key", WITH_HOSTS)
@pytest.mark.parametrize("identifier", ["AGG-02", "AGG-05", "NET-01", "KUB-01", "KUB-04", "NET-04", "AGG-10"])
def test_each_says_the_lines(identifier, key):
    found = repair(key, identifier)
    assert found["kind"] == "advice"
    assert found["commands"]
    assert distributions.TABLE[key].name in found["text"] or identifier == "KUB-01"


def test_the_lines_of_k3s():
    assert repair("k3s", "AGG-02")["commands"][:4] == [
        "# /etc/rancher/k3s/config.yaml, on every server",
        "kube-apiserver-arg:",
        '- "requestheader-client-ca-file=/var/lib/rancher/k3s/server/tls/request-header-ca.crt"',
        '- "requestheader-allowed-names=system:auth-proxy"',
    ]
    assert "k3s certificate rotate --service auth-proxy" in repair("k3s", "AGG-05")["commands"]
    assert '- "enable-aggregator-routing=true"' in repair("k3s", "NET-01")["commands"]
    assert '- "authentication-token-webhook=true"' in repair("k3s", "KUB-04")["commands"]


def test_a_cluster_that_is_none_of_them_is_repaired_as_before():
    found = repair("kubeadm", "AGG-02")
    assert found["steps"] == ["front_proxy_pki", "apiserver_aggregation"]
    assert own_configuration.view(evidence("kubeadm")) == {}


def test_the_server_of_a_distribution_is_switched_off_or_left():
    assert repair("rke2", "POD-04")["steps"] == ["metrics_server"]
    own = repair("rke2", "POD-04", owner="rke2")
    assert own["steps"] == []
    assert own["commands"][:3] == [
        "# /etc/rancher/rke2/config.yaml, on every server",
        "disable:",
        "- rke2-metrics-server",
    ]
    assert repair("aks", "POD-04", owner="aks")["kind"] == "advice"
    assert "aws eks delete-addon" in " ".join(repair("eks", "POD-04", owner="eks")["commands"])


def test_what_kubeadm_does_is_no_cause_elsewhere():
    row = next(row for row in ROWS if row.id == "AGG-05")
    found = Finding(row, (Observation(("seen",), ("cp1",)),)).as_dict()
    assert "kubeadm" in found["cause"]
    cause = own_configuration.adapted(found, evidence("k0s"))["cause"]
    assert "kubeadm" not in cause and cause.endswith("has expired.")


def test_networks_of_pods_are_in_the_rules_where_they_are_known():
    made = evidence("k3s")
    made.document["api"]["cluster"]["pod_cidrs"] = ["10.42.0.0/16", "fd42::/56"]
    row = next(row for row in ROWS if row.id == "NET-04")
    lines = own_configuration.adapted(Finding(row, (Observation(("s",)),)).as_dict(), made)["repair"]["commands"]
    assert lines == [
        "iptables --append FORWARD --source 10.42.0.0/16 --jump ACCEPT",
        "iptables --append FORWARD --destination 10.42.0.0/16 --jump ACCEPT",
        "ip6tables --append FORWARD --source fd42::/56 --jump ACCEPT",
        "ip6tables --append FORWARD --destination fd42::/56 --jump ACCEPT",
    ]


@pytest.mark.parametrize("key", distributions.TABLE)
def test_every_report_says_which_distribution_it_is(key):
    made = evidence(key, because="its API server says v1.2.3")
    diagnosis = engine.diagnose(made.document)
    name = distributions.TABLE[key].name
    assert diagnosis["distribution"]["sentence"].startswith(f"This cluster is {name} (its API server says v1.2.3).")
    for form in (terminal, markdown, html):
        assert f"This cluster is {name}" in " ".join(form.render(diagnosis).replace("\\", "").split())


@pytest.mark.parametrize("key", WITH_HOSTS)
def test_a_variable_of_the_environment_has_a_place_in_each(key):
    assert any(
        "NO_PROXY" in line or "noProxy" in line for line in distributions.environment_lines(key, "NO_PROXY", "x")
    )


@pytest.mark.parametrize("key", HOSTED)
def test_a_hosted_control_plane_is_its_providers(key):
    assert "show this finding to its provider" in repair(key, "AGG-02")["text"]
    assert distributions.environment_lines(key, "NO_PROXY", "x") == ()
