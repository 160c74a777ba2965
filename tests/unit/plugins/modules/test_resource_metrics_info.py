# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import resource_metrics_info

GROUP = "/apis/metrics.k8s.io"


def ago(seconds):
    moment = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def cluster(api_server):
    class Cluster:
        ages = {"n1": 5, "n2": 9, "ns/web": 7}
        ready_for = {"n1": 3600, "n2": 3600}

        def nodes(self, request):
            items = []
            for name, seconds in self.ready_for.items():
                ready = {"type": "Ready", "status": "True", "lastTransitionTime": ago(seconds)}
                items.append({"metadata": {"name": name}, "status": {"conditions": [ready]}})
            return 200, {"items": items}

        def pods(self, request):
            assert request.query.startswith("fieldSelector=status.phase%3DRunning")
            status = {"phase": "Running", "containerStatuses": [{"state": {"running": {"startedAt": ago(3600)}}}]}
            web = {"metadata": {"namespace": "ns", "name": "web"}, "spec": {"nodeName": "n1"}, "status": status}
            return 200, {"items": [web]}

        def samples(self, request):
            items = []
            for name, age in self.ages.items():
                namespace, slash, base = name.rpartition("/")
                if bool(slash) == request.path.endswith("/pods"):
                    metadata = {"name": base, **({"namespace": namespace} if slash else {})}
                    items.append({"metadata": metadata, "timestamp": ago(age)})
            return 200, {"items": items}

        def serve(self, server, version="v1beta1"):
            server.get(f"{GROUP}/{version}/nodes", self.samples)
            server.get(f"{GROUP}/{version}/pods", self.samples)
            server.get(GROUP, {"versions": [{"version": version}]})

    cluster = Cluster()
    cluster.ages = dict(Cluster.ages)
    cluster.ready_for = dict(Cluster.ready_for)
    api_server.get("/api/v1/nodes", cluster.nodes)
    api_server.get("/api/v1/pods", cluster.pods)
    cluster.serve(api_server)
    return cluster


def test_all_is_well_with_one_request_a_list(cluster, api_server, kubeconfig, run_module):
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig)
    assert result["ok"]
    assert result["version"] == "v1beta1"
    assert sorted(api_server.seen()) == sorted(
        [GROUP, "/api/v1/nodes", "/api/v1/pods", f"{GROUP}/v1beta1/nodes", f"{GROUP}/v1beta1/pods"]
    )
    nodes = result["servers"][0]["nodes"]
    assert (nodes["expected"], nodes["with_metrics"], nodes["missing"], nodes["stale"]) == (2, 2, [], [])
    assert 4 <= nodes["newest_age"] <= 7
    assert result["servers"][0]["pods"]["expected"] == 1


def test_the_controllers_clock_does_not_matter(cluster, api_server, kubeconfig, run_module, monkeypatch):
    class Off(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(days=3)

    monkeypatch.setattr(resource_metrics_info.datetime, "datetime", Off)
    assert run_module(resource_metrics_info, kubeconfig=kubeconfig)["ok"]


def test_what_is_missing_and_stale(cluster, kubeconfig, run_module):
    cluster.ages = {"n1": 500}
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig)
    (server,) = result["servers"]
    assert not result["ok"]
    assert server["nodes"]["missing"] == ["n2"]
    assert server["nodes"]["stale"][0]["name"] == "n1"
    assert server["pods"]["missing"] == ["ns/web"]
    assert "1 of 2 nodes without metrics (n2)" in server["message"]


def test_a_node_that_is_ready_again_and_its_pods_are_not_expected_yet(cluster, kubeconfig, run_module):
    cluster.ages = {"n2": 9}
    cluster.ready_for["n1"] = 15
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig, grace=60)
    (server,) = result["servers"]
    assert result["ok"], server["message"]
    assert (server["nodes"]["expected"], server["pods"]["expected"]) == (1, 0)
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig, grace=10)
    assert result["servers"][0]["pods"]["missing"] == ["ns/web"]


def test_each_server_is_asked(cluster, start_server, kubeconfig, run_module):
    good, bad = start_server(), start_server()
    cluster.serve(good)
    bad.get(f"{GROUP}/v1beta1/nodes", "service unavailable", status=503)
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig, servers=[good.url, bad.url])
    assert [entry["ok"] for entry in result["servers"]] == [True, False]
    assert result["servers"][1]["nodes"] is None
    assert "answered 503" in result["servers"][1]["message"]


def test_nodes_alone(cluster, api_server, kubeconfig, run_module):
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig, pods=False)
    assert result["servers"][0]["pods"] is None
    assert "/api/v1/pods" not in api_server.seen()


def test_a_cluster_that_serves_v1(cluster, api_server, kubeconfig, run_module):
    cluster.serve(api_server, "v1")
    assert run_module(resource_metrics_info, kubeconfig=kubeconfig)["version"] == "v1"


def test_no_metrics_api_at_all(cluster, api_server, kubeconfig, run_module):
    for path in (GROUP, f"{GROUP}/v1beta1/nodes", f"{GROUP}/v1beta1/pods"):
        del api_server.routes["GET", path]
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig)
    assert not result["ok"]
    assert "answered 404" in result["servers"][0]["message"]


def test_waiting(cluster, api_server, kubeconfig, run_module):
    complete = dict(cluster.ages)
    cluster.ages = {}

    def later(request):
        if api_server.seen().count("/api/v1/nodes") == 3:
            cluster.ages = complete
        return cluster.nodes(request)

    api_server.get("/api/v1/nodes", later)
    assert run_module(resource_metrics_info, kubeconfig=kubeconfig, wait=True, wait_sleep=0.01)["ok"]


def test_waiting_in_vain(cluster, kubeconfig, run_module):
    del cluster.ages["n2"]
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig, wait=True, wait_timeout=0)
    assert result["failed"]
    assert result["msg"].startswith("No fresh metrics of everything after 0 s: https://127.0.0.1:")
    assert result["msg"].endswith(": 1 of 2 nodes without metrics (n2).")
    assert result["last_observed"][0]["nodes"]["missing"] == ["n2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_age": 0}, "max_age is 0"),
        ({"grace": -1}, "grace is -1"),
        ({"nodes": False, "pods": False}, "nothing to check"),
        ({"version": "v2"}, "value of version must be one of"),
        ({"servers": ["x"]}, "is no URL of an API server"),
    ],
)
def test_bad_arguments(kubeconfig, run_module, arguments, words):
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig, **arguments)
    assert result["failed"]
    assert words in result["msg"]


def test_a_server_that_is_not_trusted_ends_the_wait(cluster, start_server, other_authority, kubeconfig, run_module):
    stranger = start_server(issuer=other_authority)
    result = run_module(
        resource_metrics_info, kubeconfig=kubeconfig, servers=[stranger.url], wait=True, wait_timeout=60
    )
    assert result["failed"]
    assert f"{stranger.url} is not trusted" in result["msg"]


def test_a_user_who_may_not_read_nodes_sees_the_metrics(cluster, api_server, kubeconfig, run_module):
    api_server.get("/api/v1/nodes", {"kind": "Status", "reason": "Forbidden", "message": "no"}, status=403)
    result = run_module(resource_metrics_info, kubeconfig=kubeconfig)
    assert "answered 403" in result["unreadable"]
    assert result["servers"][0]["message"] == ""
    assert result["servers"][0]["nodes"]["missing"] == []
    assert run_module(resource_metrics_info, kubeconfig=kubeconfig, wait=True, wait_timeout=60)["failed"]


class TestPatience:
    @pytest.fixture
    def run(self, cluster, kubeconfig, run_module, monkeypatch):
        monkeypatch.setattr(resource_metrics_info, "PAUSE", 0.01)

        def run(patience):
            return run_module(resource_metrics_info, kubeconfig=kubeconfig, patience=patience)

        return run

    def appear(self, cluster, name):
        """The object gets its metrics after the first look."""
        age, answer, looks = cluster.ages.pop(name), cluster.nodes, []

        def nodes(request):
            looks.append(1)
            if len(looks) > 1:
                cluster.ages[name] = age
            return answer(request)

        return nodes, looks

    def test_a_pod_that_gets_its_metrics_a_moment_later(self, cluster, api_server, run):
        nodes, looks = self.appear(cluster, "ns/web")
        api_server.get("/api/v1/nodes", nodes)
        assert run(1)["ok"]
        assert len(looks) == 2

    def test_without_patience_it_is_reported_at_once(self, cluster, api_server, run):
        nodes, looks = self.appear(cluster, "ns/web")
        api_server.get("/api/v1/nodes", nodes)
        result = run(0)
        assert (result["ok"], result["servers"][0]["pods"]["missing"], len(looks)) == (False, ["ns/web"], 1)

    def test_a_node_that_gets_its_metrics_a_moment_later(self, cluster, api_server, run):
        nodes, looks = self.appear(cluster, "n2")
        api_server.get("/api/v1/nodes", nodes)
        assert (run(1)["ok"], len(looks)) == (True, 2)

    def test_a_server_that_does_not_answer_is_reported_at_once(self, cluster, api_server, run):
        api_server.get(f"{GROUP}/v1beta1/pods", lambda request: (503, {}))
        result = run(1)
        assert (result["ok"], result["elapsed"] < 1, result["servers"][0]["pods"]) == (False, True, None)

    def test_patience_ends(self, cluster, run):
        del cluster.ages["ns/web"]
        result = run(1)
        assert (result["ok"], result["servers"][0]["pods"]["missing"]) == (False, ["ns/web"])
        assert 0.9 < result["elapsed"] < 3
