# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import socket

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import apiservice_info

NAME = "v1beta1.metrics.k8s.io"
OBJECT = "/apis/apiregistration.k8s.io/v1/apiservices/" + NAME
SERVED = "/apis/metrics.k8s.io/v1beta1"
SERVICE = "/api/v1/namespaces/kube-system/services/metrics-server"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"


def metrics(value):
    return f'aggregator_unavailable_apiservice{{name="{NAME}"}} {value}\n'


@pytest.fixture
def apiservice(authority):
    return {
        "metadata": {"name": NAME},
        "spec": {
            "service": {"namespace": "kube-system", "name": "metrics-server", "port": 443},
            "caBundle": base64.b64encode(authority.pem).decode(),
        },
        "status": {"conditions": [{"type": "Available", "status": "True", "reason": "Passed", "message": "ok"}]},
    }


@pytest.fixture
def serve(api_server, apiservice):
    """Lets a server serve the metrics API."""

    def serve(server):
        server.get("/readyz", "ok")
        server.get(OBJECT, lambda request: (200, apiservice))
        server.get(SERVICE, {"spec": {"ports": [{"name": "https", "port": 443}]}})
        endpoints = [{"addresses": ["10.233.65.4"], "nodeName": "w1"}]
        server.get(SLICES, {"items": [{"ports": [{"name": "https", "port": 10250}], "endpoints": endpoints}]})
        server.get(SERVED, {"kind": "APIResourceList"})
        server.get("/metrics", metrics(0))
        return server

    serve(api_server)
    return serve


def test_all_is_well(serve, api_server, kubeconfig, run_module):
    result = run_module(apiservice_info, kubeconfig=kubeconfig)
    assert result["ok"]
    assert not result["changed"]
    (apiservice,) = result["apiservices"]
    assert apiservice["available"]
    assert apiservice["service_exists"]
    assert apiservice["endpoints"] == [{"ip": "10.233.65.4", "port": 10250, "ready": True, "node": "w1"}]
    assert apiservice["ca_bundle"]["subjects"] == ["CN=test-ca"]
    (server,) = result["servers"]
    assert server["server"] == api_server.url
    assert (server["statuses"], server["aggregator_unavailable"], server["message"]) == ([200] * 3, 0, "")


def test_one_bad_control_plane_is_named(serve, start_server, api_server, kubeconfig, run_module):
    good = serve(start_server())
    bad = serve(start_server())
    bad.get(SERVED, "service unavailable", status=503)
    bad.get("/metrics", metrics(1))
    servers = [good.url, bad.url, good.url + "/"]
    result = run_module(apiservice_info, kubeconfig=kubeconfig, servers=servers, attempts=2)
    assert not result["ok"]
    assert [(entry["server"], entry["ok"]) for entry in result["servers"]] == [(good.url, True), (bad.url, False)]
    assert result["servers"][1]["statuses"] == [503, 503]
    assert result["servers"][1]["aggregator_unavailable"] == 1
    assert result["servers"][1]["message"] == f"answers 503 to {SERVED}: service unavailable"


def test_one_failure_among_several_requests_counts(serve, api_server, kubeconfig, run_module):
    answers = [200, 503, 200]
    api_server.get(SERVED, lambda request: (answers.pop(0), {}))
    result = run_module(apiservice_info, kubeconfig=kubeconfig)
    assert result["servers"][0]["statuses"] == [200, 503, 200]
    assert not result["servers"][0]["ok"]


def test_the_gauge_is_a_witness_of_its_own(serve, api_server, kubeconfig, run_module):
    api_server.get("/metrics", metrics(1))
    result = run_module(apiservice_info, kubeconfig=kubeconfig)
    assert "holds it to be unavailable" in result["servers"][0]["message"]


def test_metrics_that_may_not_be_read_prove_nothing(serve, api_server, kubeconfig, run_module):
    api_server.get("/metrics", "no", status=403)
    result = run_module(apiservice_info, kubeconfig=kubeconfig)
    assert result["ok"]
    assert result["servers"][0]["aggregator_unavailable"] is None


def test_a_server_that_is_not_ready(serve, start_server, kubeconfig, run_module):
    starting = serve(start_server())
    starting.get("/readyz", "no", status=500)
    result = run_module(apiservice_info, kubeconfig=kubeconfig, servers=[starting.url])
    assert (result["servers"][0]["ready"], result["servers"][0]["ok"]) == (False, False)
    assert result["servers"][0]["message"] == "is not ready (/readyz answers 500)"


def test_servers_that_cannot_be_asked(serve, start_server, other_authority, kubeconfig, run_module):
    stranger = start_server(issuer=other_authority)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        result = run_module(apiservice_info, kubeconfig=kubeconfig, servers=[stranger.url, url], request_timeout=0.3)
    assert [entry["reachable"] for entry in result["servers"]] == [False, False]
    assert "is not trusted" in result["servers"][0]["message"]
    assert "did not answer within 0.3 s" in result["servers"][1]["message"]
    assert stranger.requests == []


def test_a_request_that_hangs_is_not_repeated(serve, api_server, kubeconfig, run_module):
    import threading

    stop = threading.Event()
    api_server.get(SERVED, lambda request: stop.wait(10) and None)
    result = run_module(apiservice_info, kubeconfig=kubeconfig, request_timeout=0.3)
    stop.set()
    assert result["servers"][0]["statuses"] == [None]
    assert result["elapsed"] < 3


def test_what_does_not_exist(serve, api_server, kubeconfig, run_module):
    del api_server.routes["GET", OBJECT]
    result = run_module(apiservice_info, kubeconfig=kubeconfig)
    assert not result["ok"]
    assert not result["apiservices"][0]["exists"]


def test_a_service_without_the_port(serve, api_server, kubeconfig, run_module):
    api_server.get(SERVICE, {"spec": {"ports": [{"name": "https", "port": 8443}]}})
    result = run_module(apiservice_info, kubeconfig=kubeconfig)
    assert result["apiservices"][0]["service_exists"] is False
    assert result["apiservices"][0]["endpoints"] == []


def test_an_api_that_the_server_serves_itself(api_server, serve, kubeconfig, run_module):
    name = "v1."
    available = {"conditions": [{"type": "Available", "status": "True"}]}
    api_server.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.", {"spec": {"service": None}, "status": available})
    api_server.get("/api/v1", {})
    result = run_module(apiservice_info, kubeconfig=kubeconfig, name=[name])
    assert result["ok"]
    assert result["apiservices"][0]["service"] is None
    assert result["servers"][0]["aggregator_unavailable"] is None


def test_waiting(serve, api_server, kubeconfig, run_module):
    def healing(request):
        return (200 if api_server.seen().count(SERVED) > 2 else 503), {}

    api_server.get(SERVED, healing)
    result = run_module(apiservice_info, kubeconfig=kubeconfig, attempts=1, wait=True, wait_sleep=0.01)
    assert result["ok"]
    assert result["servers"][0]["statuses"] == [200]


def test_waiting_in_vain(serve, api_server, apiservice, kubeconfig, run_module):
    apiservice["spec"]["caBundle"] = base64.b64encode(b"nonsense").decode()
    result = run_module(apiservice_info, kubeconfig=kubeconfig, attempts=1, wait=True, wait_timeout=0)
    assert result["failed"]
    assert (
        result["msg"] == f"Not served by every API server after 0 s: the caBundle of {NAME} holds no PEM certificate."
    )
    assert result["last_observed"]["apiservices"][0]["available"]


def test_a_refusal_ends_the_wait(serve, api_server, kubeconfig, run_module):
    api_server.get(OBJECT, {"message": "not for you"}, status=403)
    result = run_module(apiservice_info, kubeconfig=kubeconfig, wait=True)
    assert result["failed"]
    assert "answered 403" in result["msg"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attempts": 0}, "attempts is 0"),
        ({"name": []}, "name is empty"),
        ({"name": ["metrics"]}, "names no APIService"),
        ({"name": ["v1.../x"]}, "names no APIService"),
        ({"request_path": "apis"}, "start with a slash"),
        ({"name": ["v1.a", "v1.b"], "request_path": "/x"}, "single name"),
        ({"servers": ["192.0.2.1"]}, "is no URL of an API server"),
        ({"wait_timeout": -1}, "wait_timeout is -1"),
    ],
)
def test_bad_arguments(kubeconfig, run_module, arguments, words):
    result = run_module(apiservice_info, kubeconfig=kubeconfig, **arguments)
    assert result["failed"]
    assert words in result["msg"]


def test_a_server_that_is_not_trusted_ends_the_wait(serve, start_server, other_authority, kubeconfig, run_module):
    stranger = start_server(issuer=other_authority)
    result = run_module(apiservice_info, kubeconfig=kubeconfig, servers=[stranger.url], wait=True, wait_timeout=60)
    assert result["failed"]
    assert f"{stranger.url} is not trusted" in result["msg"]


def test_every_registered_version_of_the_group_is_looked_at(serve, api_server, apiservice, kubeconfig, run_module):
    names = [NAME, "v1.metrics.k8s.io", "v1beta1.custom.metrics.k8s.io", "v1.", "odd"]
    api_server.get(OBJECT.rpartition("/")[0], {"items": [{"metadata": {"name": name}} for name in names]})
    stable = {**apiservice, "metadata": {"name": "v1.metrics.k8s.io"}}
    api_server.get(OBJECT.replace(NAME, "v1.metrics.k8s.io"), lambda request: (200, stable))
    api_server.get("/apis/metrics.k8s.io/v1", "service unavailable", status=503)
    result = run_module(apiservice_info, kubeconfig=kubeconfig, all_versions=True)
    assert [item["name"] for item in result["apiservices"]] == [NAME, "v1.metrics.k8s.io"]
    assert [(item["name"], item["ok"]) for item in result["servers"]] == [(NAME, True), ("v1.metrics.k8s.io", False)]
    assert not result["ok"]
    assert run_module(apiservice_info, kubeconfig=kubeconfig)["ok"]


def test_what_is_asked_for_by_name_has_to_be_there_whatever_else_is(serve, api_server, kubeconfig, run_module):
    api_server.get(OBJECT.rpartition("/")[0], {"items": [{"metadata": {"name": NAME}}]})
    wanted = ["v1.metrics.k8s.io"]
    result = run_module(apiservice_info, kubeconfig=kubeconfig, name=wanted, all_versions=True, attempts=1)
    assert [(item["name"], item["exists"]) for item in result["apiservices"]] == [(wanted[0], False), (NAME, True)]
    assert not result["ok"]


def test_a_path_of_ones_own_goes_with_one_version(kubeconfig, run_module):
    result = run_module(apiservice_info, kubeconfig=kubeconfig, request_path="/healthz", all_versions=True)
    assert result["msg"] == "request_path and all_versions exclude each other; leave one of them out."


def test_a_user_who_may_not_read_the_object_sees_what_is_served(serve, api_server, kubeconfig, run_module):
    forbidden = {"kind": "Status", "reason": "Forbidden", "message": "apiservices is forbidden"}
    api_server.get(OBJECT, forbidden, status=403)
    api_server.get(OBJECT.rpartition("/")[0], forbidden, status=403)
    result = run_module(apiservice_info, kubeconfig=kubeconfig, all_versions=True)
    assert not result["ok"]
    assert result["apiservices"] == []
    assert "answered 403" in result["unreadable"][NAME]
    assert result["servers"][0]["ok"]
    assert run_module(apiservice_info, kubeconfig=kubeconfig, wait=True, wait_timeout=60)["failed"]
