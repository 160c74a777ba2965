# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import resource_metrics

NOW = datetime.datetime(2026, 3, 1, 10, 0, 0, tzinfo=datetime.timezone.utc)


def ago(seconds):
    return (NOW - datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(name, *, status="True", since=3600):
    condition = {"type": "Ready", "status": status, "lastTransitionTime": ago(since)}
    return {"metadata": {"name": name}, "status": {"conditions": [{"type": "DiskPressure"}, condition]}}


def pod(name, *, phase="Running", started=(3600,), on="n1", **metadata):
    states = [{"state": {"waiting": {}} if age is None else {"running": {"startedAt": ago(age)}}} for age in started]
    return {
        "metadata": {"namespace": "ns", "name": name, **metadata},
        "spec": {"nodeName": on},
        "status": {"phase": phase, "containerStatuses": states},
    }


def test_expected_nodes():
    nodes = [node("old"), node("new", since=30), node("down", status="Unknown"), {"metadata": {"name": "odd"}}, {}]
    assert resource_metrics.expected_nodes(nodes, NOW, 60) == {"old"}
    assert resource_metrics.expected_nodes(nodes, NOW, 0) == {"old", "new"}


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (pod("p"), True),
        (pod("p", started=(3600, 61)), True),
        (pod("p", started=(3600, 59)), False),
        (pod("p", started=(3600, None)), False),
        (pod("p", started=()), False),
        (pod("p", phase="Succeeded"), False),
        (pod("p", deletionTimestamp=ago(1)), False),
        (pod("p", on="n2"), False),
        ({}, False),
        ({"status": {"phase": "Running", "containerStatuses": [None, {"state": None}]}}, False),
    ],
)
def test_expected_pods(candidate, expected):
    assert resource_metrics.expected_pods([candidate], {"n1"}, NOW, 60) == ({"ns/p"} if expected else set())


def sample(name, age):
    return {"metadata": {"name": name}, "timestamp": None if age is None else ago(age)}


def test_compare():
    samples = [sample("a", 10), sample("b", 151), sample("gone", 900), sample("c", None), sample("d", -200)]
    assert resource_metrics.compare({"a", "b", "c", "d", "e"}, samples, NOW, 150) == {
        "expected": 5,
        "with_metrics": 4,
        "missing": ["e"],
        "stale": [{"name": "b", "age": 151.0}, {"name": "c", "age": None}, {"name": "d", "age": -200.0}],
        "newest_age": -200.0,
        "oldest_age": 900.0,
    }


def test_compare_with_nothing():
    assert resource_metrics.compare(set(), [], NOW, 150) == {
        "expected": 0,
        "with_metrics": 0,
        "missing": [],
        "stale": [],
        "newest_age": None,
        "oldest_age": None,
    }


def test_words():
    comparison = resource_metrics.compare(
        {"a", "b", "c", "d", "e", "f"}, [sample("a", 151), sample("b", -151)], NOW, 150
    )
    assert resource_metrics.fault_of("nodes", comparison) == (
        "4 of 6 nodes without metrics (c; d; e and 1 more), "
        "2 of 6 nodes with stale metrics (a, 151 s old; b, 151 s in the future)"
    )
    assert resource_metrics.fault_of("nodes", resource_metrics.compare({"a"}, [sample("a", 0)], NOW, 150)) == ""


@pytest.mark.parametrize(
    ("group", "version"),
    [
        (None, "v1beta1"),
        ({"versions": []}, "v1beta1"),
        ({"versions": [{"version": "v1"}, {"version": "v1beta1"}]}, "v1beta1"),
        ({"versions": [{"version": "v1"}]}, "v1"),
    ],
)
def test_choose_version(group, version):
    assert resource_metrics.choose_version(group) == version


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0),
        ("127", 127.0),
        ("123456789n", 0.123456789),
        ("1500u", 0.0015),
        ("250m", 0.25),
        ("147532Ki", 147532 * 1024.0),
        ("1Gi", 1024.0**3),
        ("2M", 2e6),
        (".5", 0.5),
        ("-1", None),
        ("1Q", None),
        ("", None),
        (5, None),
        (None, None),
    ],
)
def test_quantities(text, value):
    found = resource_metrics.quantity(text)
    assert found is None if value is None else found == pytest.approx(value)


def test_usage_is_in_the_units_of_kubectl_top():
    samples = [
        {"metadata": {"name": "w1"}, "usage": {"cpu": "25000001n", "memory": "1535Ki"}},
        {"metadata": {"name": "cp1"}, "usage": {"cpu": "2", "memory": "1Gi"}},
        {"metadata": {"name": "x"}},
    ]
    assert resource_metrics.usage_of(samples) == [
        {"name": "cp1", "cpu_millicores": 2000, "memory_mib": 1024},
        {"name": "w1", "cpu_millicores": 26, "memory_mib": 1},
        {"name": "x", "cpu_millicores": None, "memory_mib": None},
    ]
