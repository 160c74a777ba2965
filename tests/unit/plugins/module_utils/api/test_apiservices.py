# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import apiservices

NAME = "v1beta1.metrics.k8s.io"


@pytest.mark.parametrize(
    ("name", "path"),
    [(NAME, "/apis/metrics.k8s.io/v1beta1"), ("v1.", "/api/v1"), ("v1", None), ("", None), (".x", None)],
)
def test_default_path(name, path):
    assert apiservices.default_path(name) == path


@pytest.mark.parametrize("obj", [None, {}, {"spec": None, "status": None}, {"status": {"conditions": [None, {}]}}])
def test_a_summary_of_nothing(obj):
    summary = apiservices.summarize(NAME, obj)
    assert summary["exists"] is (obj is not None)
    assert not summary["available"]
    assert summary["service"] is None


def test_summary():
    obj = {
        "spec": {"service": {"namespace": "kube-system", "name": "metrics-server"}, "insecureSkipTLSVerify": True},
        "status": {
            "conditions": [
                {"type": "Available", "status": "False", "reason": "MissingEndpoints", "message": "no endpoints"}
            ]
        },
    }
    summary = apiservices.summarize(NAME, obj)
    assert summary["service"]["port"] == 443
    assert summary["insecure_skip_tls_verify"]
    assert (summary["available"], summary["reason"], summary["message"]) == (
        False,
        "MissingEndpoints",
        "no endpoints",
    )


@pytest.mark.parametrize(
    ("ports", "name"),
    [([{"port": 443, "name": "https"}], "https"), ([{"port": 443}], ""), ([{"port": 80, "name": "http"}], None)],
)
def test_port_name(ports, name):
    assert apiservices.port_name({"spec": {"ports": ports}}, 443) == name


def test_port_name_of_no_service():
    assert apiservices.port_name(None, 443) is None
    assert apiservices.port_name({"spec": {"ports": None}}, 443) is None


def test_endpoints_are_matched_by_port_name():
    slices = [
        {
            "ports": [{"name": "https", "port": 10250}, {"name": "metrics", "port": 9090}],
            "endpoints": [
                {"addresses": ["10.0.0.2"], "conditions": {"ready": False}, "nodeName": "w1"},
                {"addresses": ["10.0.0.1"]},
            ],
        },
        {"ports": None, "endpoints": [{"addresses": ["10.0.0.3"]}]},
        {"ports": [{"name": "https", "port": 10250}], "endpoints": None},
    ]
    assert apiservices.endpoints_of(slices, "https") == [
        {"ip": "10.0.0.1", "port": 10250, "ready": True, "node": None},
        {"ip": "10.0.0.2", "port": 10250, "ready": False, "node": "w1"},
    ]
    assert apiservices.endpoints_of(slices, "other") == []


METRICS = f"""\
# HELP aggregator_discovery_x X
# TYPE aggregator_discovery_x counter
aggregator_discovery_x 4
# HELP aggregator_unavailable_apiservice [ALPHA] Gauge
# TYPE aggregator_unavailable_apiservice gauge
aggregator_unavailable_apiservice{{name="v1."}} 0
aggregator_unavailable_apiservice{{name="{NAME}"}} 1
# HELP aggregator_unavailable_apiservice_total Counter
# TYPE aggregator_unavailable_apiservice_total counter
aggregator_unavailable_apiservice_total{{name="{NAME}",reason="FailedDiscoveryCheck"}} 3
aggregator_unavailable_apiservice_total{{name="{NAME}",reason="MissingEndpoints"}} bad
"""


def test_unavailability():
    found = apiservices.parse_unavailability(METRICS.splitlines(), [NAME, "v1.gone"])
    assert found[NAME] == {"unavailable": 1, "failures": {"FailedDiscoveryCheck": 3}}
    assert found["v1.gone"] == {"unavailable": None, "failures": {}}


def test_reading_stops_behind_the_family():
    def lines():
        yield from METRICS.splitlines()
        yield "# HELP apiserver_admission Many more"
        raise AssertionError("read too far")

    assert apiservices.parse_unavailability(lines(), [NAME])[NAME]["unavailable"] == 1


def entry(**changes):
    return {"server": "https://a:6443", "name": NAME, "ok": True, "message": "", **changes}


def summary(**changes):
    return {"name": NAME, "exists": True, "available": True, "reason": "Passed", "message": "", **changes}


def test_verdict_when_all_is_well():
    assert apiservices.verdict(summary(), [entry()]) == []


def test_verdict_names_each_fault():
    faults = apiservices.verdict(
        summary(
            available=False,
            reason="FailedDiscoveryCheck",
            message="401",
            ca_bundle={"present": True, "valid_pem": False, "message": "holds no PEM certificate"},
        ),
        [entry(), entry(server="https://b:6443", ok=False, message="answers 503"), entry(name="v1.other", ok=False)],
    )
    assert faults == [
        f"the caBundle of {NAME} holds no PEM certificate",
        "https://b:6443: answers 503",
        f"{NAME} is Available=False (FailedDiscoveryCheck: 401)",
    ]


def test_verdict_without_an_object():
    assert apiservices.verdict(apiservices.summarize(NAME, None), []) == [f"{NAME} does not exist"]
    fresh = apiservices.summarize(NAME, {"spec": {}})
    assert apiservices.verdict(fresh, []) == [f"{NAME} is Available=unknown (no condition yet)"]
