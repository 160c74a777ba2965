# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import server_access

DEFAULTS = yaml.safe_load((Path(__file__).parents[4] / "roles/metrics_server/defaults/main.yml").read_text())
NAME = "metrics-server"
GROUP = {"kind": "Group", "name": "developers"}


def values(**changes):
    return {**DEFAULTS, **{"metrics_server_" + name: value for name, value in changes.items()}}


def view(kind, name, *, served=True, exists=True, managed=True, namespace=None):
    owner = "kubemetrics" if managed else "somebody using kubectl"
    version = server_access.MONITORING if kind in ("ServiceMonitor", "PrometheusRule") else server_access.RBAC
    return {
        "api_version": version,
        "kind": kind,
        "name": name,
        "namespace": namespace,
        "served": served,
        "exists": exists,
        "managed": managed and exists,
        "owner": owner if exists else "",
    }


def test_the_defaults_are_sound():
    assert server_access.problems(values()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"readers": "jane"}, "metrics_server_readers has to be a list, such as [{kind: Group, name: developers}]."),
        ({"readers": ["jane"]}, "Entry 1 of metrics_server_readers is jane; it has to have kind and name"),
        ({"readers": [GROUP, {"kind": "user", "name": "a"}]}, "Entry 2 of metrics_server_readers is of the kind user;"),
        ({"readers": [{"name": "a"}]}, "is of the kind (none); set it to one of User, Group, ServiceAccount."),
        ({"readers": [{"kind": "User"}]}, "has no name; give one"),
        ({"readers": [{"kind": "ServiceAccount", "name": "d"}]}, "the service account d, which needs its namespace."),
        ({"readers": [{**GROUP, "namespace": "x"}]}, "the group developers, which has no namespace; remove it."),
        ({"readers": [{"kind": "User", "name": "system:serviceaccount:a:b"}]}, "with kind ServiceAccount, name and"),
        ({"readers": [{**GROUP, "verbs": ["get"]}]}, "has verbs, which nothing reads"),
        ({"readers": [GROUP, GROUP]}, "Entry 2 of metrics_server_readers is Group developers once more; remove it."),
        ({"prometheus": "operator"}, "metrics_server_prometheus is operator; set it to one of none, annotations, serv"),
        (
            {"prometheus": "annotations", "prometheus_service_account": "prometheus"},
            "metrics_server_prometheus_service_account is prometheus; set it to NAMESPACE/NAME",
        ),
        ({"prometheus": "annotations", "prometheus_service_account": "a/B"}, "is a/B; set it to NAMESPACE/NAME"),
        ({"prometheus_service_account": "a/b"}, "only used with metrics_server_prometheus=annotations"),
        ({"prometheus_labels": {"a": "b"}}, "neither is asked for"),
        ({"prometheus_labels": {"a": 1}, "prometheus_rule": True}, "has to be a mapping of labels to text"),
        ({"prometheus_labels": "a=b", "prometheus_rule": True}, "has to be a mapping of labels to text"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(changes, words):
    (sentence,) = server_access.problems(values(**changes))
    assert words in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    "changes",
    [
        {"readers": [GROUP, {"kind": "ServiceAccount", "name": "a", "namespace": "b"}, {"kind": "User", "name": "c"}]},
        # What an argument spec fills in.
        {"readers": [{**GROUP, "namespace": None}]},
        {"prometheus": "annotations", "prometheus_service_account": "monitoring/prometheus-k8s"},
        {"prometheus": "service_monitor", "prometheus_labels": {"release": "x"}},
        {"prometheus_rule": "true", "prometheus_labels": {"release": "x"}},
    ],
)
def test_what_can_be_meant_is_taken(changes):
    assert server_access.problems(values(**changes)) == []


def test_objects_that_are_asked_for():
    def asked(**changes):
        return [
            (one["kind"], one["name"])
            for one, variable in server_access.optional_objects(values(**changes), NAME)
            if variable
        ]

    scraper = "metrics-server-scraper"
    binding = [("ClusterRoleBinding", scraper), ("ClusterRole", scraper)]
    assert asked() == []
    assert asked(readers=[GROUP]) == [("ClusterRoleBinding", "read-metrics"), ("ClusterRole", "read-metrics")]
    assert asked(prometheus="annotations") == []
    assert asked(prometheus="annotations", prometheus_service_account="a/b") == binding
    assert asked(prometheus_rule="true") == [("PrometheusRule", NAME)]
    assert asked(prometheus="service_monitor") == [
        ("ServiceMonitor", NAME),
        *binding,
        ("Secret", f"{scraper}-token"),
        ("ServiceAccount", scraper),
    ]
    assert asked(csr_approver="yes") == [
        ("Deployment", "metrics-server-csr-approver"),
        ("ClusterRoleBinding", "system:metrics-server-csr-approver"),
        ("ClusterRole", "system:metrics-server-csr-approver"),
        ("ServiceAccount", "metrics-server-csr-approver"),
    ]
    assert [kind for kind, _name in asked(nanny=True)] == [
        "Deployment",
        "ClusterRoleBinding",
        "ClusterRole",
        "RoleBinding",
        "Role",
        "ServiceAccount",
    ]
    assert {name.removeprefix("system:") for _kind, name in asked(nanny=True)} == {"metrics-server-nanny"}
    assert asked(prometheus="service_monitor", readers=[GROUP], nanny=True, csr_approver=True, state="absent") == []


def test_a_kind_that_the_cluster_does_not_have_stops_only_who_asks_for_it():
    found = [view(kind, NAME, served=False, exists=False) for kind in ("ServiceMonitor", "PrometheusRule")]
    assert server_access.obstacles(values(readers=[GROUP]), NAME, found) == []
    assert server_access.obstacles(values(prometheus="service_monitor", prometheus_rule=True), NAME, found) == [
        "metrics_server_prometheus asks for a ServiceMonitor, but the cluster has no such kind "
        "(monitoring.coreos.com/v1); install the Prometheus Operator, or set metrics_server_prometheus to annotations.",
        "metrics_server_prometheus_rule asks for a PrometheusRule, but the cluster has no such kind "
        "(monitoring.coreos.com/v1); install the Prometheus Operator, or unset it.",
    ]


def test_what_somebody_else_made_is_neither_taken_nor_removed():
    found = [view("ClusterRole", "read-metrics", managed=False), view("ClusterRoleBinding", "read-metrics")]
    (sentence,) = server_access.obstacles(values(readers=[GROUP]), NAME, found)
    assert sentence == (
        "metrics_server_readers asks for the ClusterRole read-metrics, which is there already, was made by somebody "
        "using kubectl, and was left alone; remove it, or unset metrics_server_readers."
    )
    assert server_access.obstacles(values(), NAME, found) == []
    assert [one["kind"] for one in server_access.unwanted(values(), NAME, found)] == ["ClusterRoleBinding"]


def test_what_nothing_asks_for_any_more_is_removed():
    found = [
        view("ServiceMonitor", NAME, namespace="kube-system"),
        view("PrometheusRule", NAME, namespace="kube-system", exists=False),
        view("ClusterRole", "read-metrics"),
    ]
    assert server_access.unwanted(values(readers=[GROUP]), NAME, found) == [
        {
            "api_version": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "name": NAME,
            "namespace": "kube-system",
        }
    ]
    removed = server_access.unwanted(values(readers=[GROUP], state="absent"), NAME, found)
    assert [one["kind"] for one in removed] == ["ServiceMonitor", "ClusterRole"]


@pytest.mark.parametrize(
    ("changes", "versions", "needed"),
    [
        ({}, ["v1.37.2", "v1.18.0"], False),
        ({}, ["v1.37.2", "v1.17.17"], True),
        ({}, ["v1.9.0+x"], True),
        ({}, [None, "", "unknown"], False),
        ({}, [], False),
        ({"kubelet_summary_api": True}, ["v1.37.2"], True),
        ({"kubelet_summary_api": "false"}, ["v1.37.2"], False),
        ({"extra_args": ["--kubelet-summary-api"]}, ["v1.37.2"], True),
        ({"extra_args": ["--kubelet-summary-api=false"]}, ["v1.37.2"], False),
    ],
)
def test_who_asks_for_summaries(changes, versions, needed):
    nodes = {f"n{number}": {"kubelet_version": version} for number, version in enumerate(versions)}
    assert server_access.reads_summaries(values(**changes), nodes) is needed
