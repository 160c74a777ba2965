# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import metrics_reader_token

OBJECTS = [path for path, unused_object in metrics_reader_token.OBJECTS]
SERVER = "system:serviceaccount:kube-system:metrics-server"
PROBE = "system:serviceaccount:kube-system:kubemetrics-probe"


@pytest.fixture
def cluster(api_server):
    """A cluster with a memory: the objects that there are; a bound account may after the second question."""
    there = {}
    asked = []

    def create(request):
        body = json.loads(request.raw)
        key = f"{request.path}/{body['metadata']['name']}"
        if key in there:
            return 409, {"reason": "AlreadyExists"}
        there[key] = body
        return 201, body

    def read(request):
        return (200, there[request.path]) if request.path in there else (404, {"reason": "NotFound"})

    def delete(request):
        there.pop(request.path)
        return 200, {}

    def may(request):
        user = json.loads(request.raw)["spec"]["user"]
        asked.append(user)
        bound = user == PROBE and f"{OBJECTS[2]}/kubemetrics-probe" in there and asked.count(PROBE) > 1
        return 201, {"status": {"allowed": bound or user in there}}

    def token(request):
        name = request.path.rpartition("/")[0]
        assert json.loads(request.raw)["spec"]["expirationSeconds"] == 600
        return (201, {"status": {"token": "token of " + name.rpartition("/")[2]}}) if name in there else (404, {})

    for path in OBJECTS:
        api_server.routes["POST", path] = create
        api_server.routes["GET", f"{path}/kubemetrics-probe"] = read
        api_server.routes["DELETE", f"{path}/kubemetrics-probe"] = delete
    api_server.routes["POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"] = may
    for name in ("metrics-server", "kubemetrics-probe"):
        api_server.routes["POST", f"{OBJECTS[0]}/{name}/token"] = token
    return there


@pytest.fixture
def borrow(kubeconfig, run_module):
    def run(**arguments):
        return run_module(metrics_reader_token, kubeconfig=kubeconfig, **arguments)

    return run


def test_the_metrics_server_lends_its_own(cluster, borrow):
    cluster.update({SERVER: {}, f"{OBJECTS[0]}/metrics-server": {}})
    before = dict(cluster)
    result = borrow()
    assert (result["changed"], result["token"], result["temporary"]) == (False, "token of metrics-server", False)
    assert result["account"] == "kube-system/metrics-server"
    assert cluster == before


@pytest.mark.parametrize("bound", [True, False])
def test_a_temporary_account_comes_and_goes(cluster, borrow, bound):
    if bound:
        # A binding that outlived its account.
        cluster[SERVER] = {}
    result = borrow()
    assert (result["changed"], result["token"], result["temporary"]) == (True, "token of kubemetrics-probe", True)
    role = cluster[f"{OBJECTS[1]}/kubemetrics-probe"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}]
    assert not borrow()["changed"]
    assert borrow(state="absent", check_mode=True)["changed"]
    assert borrow(state="absent")["changed"]
    assert [path for path in cluster if "kubemetrics" in path] == []
    assert not borrow(state="absent")["changed"]


def test_check_mode_makes_nothing(cluster, borrow):
    result = borrow(check_mode=True)
    assert (result["changed"], result["token"], result["temporary"]) == (True, None, True)
    assert cluster == {}


def test_a_refusal_is_said(cluster, api_server, borrow):
    api_server.routes["POST", OBJECTS[1]] = (403, {"reason": "Forbidden", "message": "user is not an administrator"})
    result = borrow()
    assert result["failed"]
    assert "answered 403" in result["msg"]


@pytest.mark.parametrize("exists", [True, False])
def test_no_account_is_made_where_none_is_wanted(cluster, borrow, exists):
    if exists:
        # It has no right: what kubelets make of that is what the caller wants to see.
        cluster[f"{OBJECTS[0]}/metrics-server"] = {}
    before = dict(cluster)
    result = borrow(temporary_account=False)
    assert (result["changed"], result["temporary"]) == (False, False)
    assert result["token"] == ("token of metrics-server" if exists else None)
    assert cluster == before
