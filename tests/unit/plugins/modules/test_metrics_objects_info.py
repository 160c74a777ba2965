# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects around a metrics API, from a cluster in which some of them are, and by a user who may not read all."""

from __future__ import annotations

import base64
import json
import time

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import metrics_objects, rights
from ansible_collections.kubemetrics.aggregation.plugins.modules import metrics_objects_info as module

SYSTEM = "/api/v1/namespaces/kube-system"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl"


def pod(name, labels, **status):
    return {
        "metadata": {"name": name, "namespace": "kube-system", "uid": f"uid-{name}", "labels": labels},
        "spec": {
            "nodeName": "w1",
            "serviceAccountName": "server",
            "containers": [
                {
                    "name": "server",
                    "image": "example/server:1",
                    "args": ["--secure-port=10250", f"--token={JWT}"],
                    "ports": [{"containerPort": 10250, "name": "https"}],
                    "resources": {"limits": {"memory": "20Mi"}},
                }
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.233.65.2",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {
                    "name": "server",
                    "ready": True,
                    "restartCount": 2,
                    "state": {"running": {"startedAt": "2026-03-01T10:00:00Z"}},
                    "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                }
            ],
            **status,
        },
    }


@pytest.fixture
def cluster(api_server):
    """A cluster whose user may everything, with a server that has restarted."""
    server = {"k8s-app": "metrics-server"}
    apiservice = {
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io",
            "service": {"namespace": "kube-system", "name": "metrics-server", "port": 443},
            "caBundle": base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode(),
        },
        "status": {"conditions": [{"type": "Available", "status": "True", "lastTransitionTime": "x"}]},
    }
    other = {
        "metadata": {"name": "v1.example.com"},
        "spec": {"group": "example.com", "service": {"namespace": "a", "name": "gone"}},
        "status": {
            "conditions": [{"type": "Available", "status": "False", "reason": "ServiceNotFound", "message": "no"}]
        },
    }
    template = {
        "metadata": {"labels": server},
        "spec": {"serviceAccountName": "server", "containers": [{"image": "i"}]},
    }
    deployment = {
        "metadata": {
            "name": "metrics-server",
            "namespace": "kube-system",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": '{"password": "x"}', "a": "b"},
        },
        "spec": {"replicas": 1, "selector": {"matchLabels": server}, "template": template},
        "status": {"readyReplicas": 1},
    }
    lists = {
        "/apis/apps/v1/namespaces/kube-system/deployments": [deployment, {"metadata": {"name": "coredns"}}],
        "/apis/apps/v1/namespaces/kube-system/statefulsets": [],
        "/apis/apps/v1/namespaces/kube-system/daemonsets": [],
        f"{SYSTEM}/pods": [pod("metrics-server-1", server), pod("coredns-1", {"k8s-app": "dns"})],
        "/apis/networking.k8s.io/v1/namespaces/kube-system/networkpolicies": [
            {"metadata": {"name": "deny-all"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}},
            {"metadata": {"name": "dns"}, "spec": {"podSelector": {"matchLabels": {"k8s-app": "dns"}}}},
        ],
        f"{SYSTEM}/events": [
            {"involvedObject": {"kind": "Pod", "name": "metrics-server-1"}, "reason": "BackOff", "lastTimestamp": "2"},
            {"involvedObject": {"kind": "Pod", "name": "coredns-1"}, "reason": "Unhealthy", "lastTimestamp": "3"},
            {"involvedObject": {"kind": "Deployment", "name": "metrics-server"}, "reason": "X", "lastTimestamp": "9"},
        ],
        "/apis/apiregistration.k8s.io/v1/apiservices": [apiservice, other, {"metadata": {"name": "v1."}}],
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings": [
            {
                "roleRef": {"kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": "server", "namespace": "kube-system"}],
            }
            for name in ("system:auth-delegator", "readers")
        ],
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings": [],
        "/api/v1/namespaces": [
            {"metadata": {"name": "default"}},
            {
                "metadata": {"name": "stuck", "deletionTimestamp": "2026-03-01T10:00:00Z"},
                "status": {"conditions": [{"type": "NamespaceDeletionDiscoveryFailure", "status": "True"}]},
            },
        ],
        "/apis/autoscaling/v2/horizontalpodautoscalers": [
            {
                "metadata": {"name": "web", "namespace": "shop"},
                "spec": {
                    "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"},
                    "metrics": [{"type": "Resource", "resource": {"name": "cpu"}}],
                },
                "status": {"conditions": [{"type": "ScalingActive", "status": "False", "message": "missing request"}]},
            }
        ],
        "/api/v1/nodes": [
            {"metadata": {"name": "w1", "annotations": {"metrics.k8s.io/resource-metrics-path": "/x", "other": "y"}}}
        ],
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices": [
            {"ports": [{"port": 6443}], "endpoints": [{"addresses": ["192.0.2.11"]}, {"addresses": ["fd00::11"]}]}
        ],
    }
    for path, items in lists.items():
        api_server.get(path, {"items": items})
    objects = {
        "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io": apiservice,
        f"{SYSTEM}/services/metrics-server": {
            "metadata": {"name": "metrics-server", "namespace": "kube-system"},
            "spec": {"selector": server, "clusterIP": "10.233.12.7", "ports": [{"port": 443, "targetPort": "https"}]},
        },
        "/api/v1/namespaces/default/services/kubernetes": {"spec": {"clusterIP": "10.233.0.1"}},
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/readers": {
            "rules": [{"resources": ["nodes/metrics"], "verbs": ["get"]}]
        },
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/view": {"rules": [{"apiGroups": ["metrics.k8s.io"]}]},
        f"{SYSTEM}/configmaps/kubeadm-config": {
            "data": {
                "ClusterConfiguration": "apiServer:\n  extraArgs:\n  - name: v\n    value: '2'\n"
                "  - name: token\n    value: secret\n"
            }
        },
        "/apis/apps/v1/namespaces/shop/deployments/web": {
            "spec": {
                "template": {
                    "spec": {"containers": [{"name": "app"}, {"name": "b", "resources": {"limits": {"cpu": 1}}}]}
                }
            }
        },
        "/apis": {
            "items": [{"metadata": {"name": "example.com"}, "versions": [{"version": "v1", "freshness": "Stale"}]}]
        },
    }
    for path, body in objects.items():
        api_server.get(path, body)

    def log(request):
        text = "".join(f"E0301 10:00:0{at}.000001 1 a.go:1] failed in {at}s\n" for at in (3, 9)) + "Bearer abcdef\n"
        return 200, ("panic: old\n" if "previous=true" in request.query else text)

    api_server.get(f"{SYSTEM}/pods/metrics-server-1/log", log)
    api_server.routes["POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews"] = (
        201,
        {"status": {"userInfo": {"username": "jane", "groups": ["admins"]}}},
    )
    api_server.routes["POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = (
        201,
        {"status": {"allowed": True}},
    )

    def review(request):
        attributes = json.loads(request.raw)["spec"]["resourceAttributes"]
        return 201, {"status": {"allowed": attributes["resource"] != "pods", "reason": "RBAC"}}

    api_server.routes["POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"] = review
    return api_server


@pytest.fixture
def read(cluster, kubeconfig, run_module):
    def run(**arguments):
        return run_module(module, kubeconfig=kubeconfig, watch_seconds=0, **arguments)

    return run


def test_what_stands_behind_the_service(read):
    result = read()
    assert result["errors"] == {}
    assert result["service"]["selector"] == {"k8s-app": "metrics-server"}
    (workload,) = result["workloads"]
    assert (workload["kind"], workload["name"], workload["ready"]) == ("Deployment", "metrics-server", 1)
    (found,) = result["pods"]
    assert (found["name"], found["selected"], found["workload"]) == ("metrics-server-1", True, "metrics-server")
    (container,) = found["containers"]
    assert (container["restarts"], container["last_state"]["reason"]) == (2, "OOMKilled")
    assert result["service_account"] == "kube-system/server"
    assert [policy["name"] for policy in result["network_policies"]] == ["deny-all"]
    assert [event["name"] for event in result["events"]] == ["metrics-server", "metrics-server-1"]


def test_nothing_secret_is_returned(read):
    result = read()
    text = json.dumps(result)
    for secret in (JWT, "abcdef", "last-applied", '"secret"'):
        assert secret not in text
    assert result["workloads"][0]["annotations"] == {"a": "b"}
    assert result["kubeadm"]["api_server_extra_args"] == {"v": "2", "token": "********"}


def test_lines_that_differ_in_numbers_only_come_once(read):
    (found,) = read()["pods"]
    assert found["log"] == ["E0301 10:00:09.000001 1 a.go:1] failed in 9s", "Bearer ********"]
    assert found["previous_log"] == ["panic: old"]


def test_what_the_server_may(read):
    result = read()
    allowed = {entry["what"]: entry["allowed"] for entry in result["reviews"]}
    assert set(allowed) == set(rights.SERVER_RIGHTS)
    assert [what for what, granted in allowed.items() if not granted] == ["server_pods"]
    roles = result["roles"]
    assert (roles["aggregated_reader"], roles["auth_delegator"], roles["auth_reader"]) == (False, True, False)
    assert roles["view_reads_metrics"]
    assert roles["server_role_rules"] == [{"resources": ["nodes/metrics"], "verbs": ["get"], "role": "readers"}]


def test_what_depends_on_it(read):
    result = read()
    assert [entry["name"] for entry in result["namespaces"]] == ["stuck"]
    (failed,) = result["apiservices_unavailable"]
    assert (failed["name"], failed["reason"], failed["service_exists"]) == ("v1.example.com", "ServiceNotFound", False)
    assert result["discovery"]["stale"] == ["example.com/v1"]
    assert result["autoscalers"][0]["containers_without_requests"] == ["app: cpu"]
    assert result["node_annotations"] == {"w1": {"metrics.k8s.io/resource-metrics-path": "/x"}}
    assert result["kubernetes"] == {"cluster_ip": "10.233.0.1", "endpoints": ["192.0.2.11:6443", "[fd00::11]:6443"]}
    assert result["cluster_ips"] == {"kube-system/metrics-server": "10.233.12.7"}
    assert result["user"] == {"name": "jane", "groups": ["admins"]}


def test_rights_that_are_missing_are_named_and_the_rest_is_read(cluster, read):
    def may(request):
        spec = json.loads(request.raw)["spec"]
        return 201, {"status": {"allowed": spec.get("resourceAttributes", {}).get("resource") != "nodes"}}

    cluster.routes["POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = may
    cluster.get("/api/v1/nodes", {"reason": "Forbidden", "message": "nodes is forbidden"}, status=403)
    result = read()
    assert ("list", "nodes") in [(right["verb"], right["resource"]) for right in result["denied"]]
    assert "answered 403" in result["errors"]["node_annotations"]
    assert result["node_annotations"] == {}
    assert result["pods"]


def test_without_an_apiservice_the_usual_names_are_read(cluster, read):
    del cluster.routes["GET", "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"]
    result = read()
    assert result["service"]["name"] == "metrics-server"
    assert result["pods"]


def test_an_api_that_is_not_registered_has_no_server_to_look_for(cluster, read):
    result = read(apiservice="v1beta1.custom.metrics.k8s.io", name="")
    assert result["service"] is None
    assert (result["pods"], result["workloads"], result["reviews"]) == ([], [], [])
    assert (result["ca_bundles"], result["cluster_ips"]) == ({}, {})
    assert not any(entry["group"] == "metrics.k8s.io" for entry in result["denied"])
    assert not any("service" in error or "pods" in error for error in result["errors"])


def test_pods_that_the_service_does_not_select_are_found_by_their_workload(cluster, read):
    service = cluster.routes["GET", f"{SYSTEM}/services/metrics-server"][1]
    service["spec"]["selector"] = {"k8s-app": "nothing"}
    (found,) = read()["pods"]
    assert (found["selected"], found["workload"]) == (False, "metrics-server")


def test_many_items_are_cut_and_that_is_said(cluster, read):
    cluster.get(
        "/api/v1/namespaces", {"items": [{"metadata": {"name": f"n{at}", "deletionTimestamp": "x"}} for at in range(9)]}
    )
    result = read(max_items=5)
    assert len(result["namespaces"]) == 5
    assert result["truncated"] == ["4 of 9 namespaces that are being deleted were left out"]


def test_an_object_of_another_form_hides_nothing(cluster, read):
    cluster.get(f"{SYSTEM}/configmaps/kubeadm-config", {"data": {"ClusterConfiguration": "apiServer: [1, 2]"}})
    cluster.get("/apis/autoscaling/v2/horizontalpodautoscalers", {"items": [{"spec": {"metrics": [3]}}]})
    result = read()
    assert "autoscalers" in result["errors"]
    assert result["pods"]


def test_a_condition_that_flips_is_counted(cluster, kubeconfig, run_module):
    path = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"
    known = cluster.routes["GET", path][1]
    states = iter(range(1000))

    def flip(request):
        status = "True" if next(states) % 2 else "False"
        return 200, {**known, "status": {"conditions": [{"type": "Available", "status": status}]}}

    cluster.get(path, flip)
    flips = run_module(module, kubeconfig=kubeconfig, watch_seconds=2)["flips"]
    assert flips["changes"] >= 2
    assert flips["statuses"] == ["False", "True"]


def test_an_api_server_that_does_not_answer_is_waited_for_once(cluster, kubeconfig, run_module):
    for key in list(cluster.routes):
        cluster.routes[key] = lambda request: time.sleep(2)
    started = time.monotonic()
    result = run_module(module, kubeconfig=kubeconfig, watch_seconds=0, request_timeout=0.5)
    assert result["failed"]
    assert "did not answer within 0.5 s" in result["msg"]
    assert time.monotonic() - started < 1.8


def test_logins_of_containers_are_not_kept():
    defined = pod("a", {})
    defined["spec"]["containers"][0].update(
        command=["/bin/sh", "-c"],
        args=["exec /adapter --prometheus-token=S3CRET --password S3CRET", "--api-key=S3CRET"],
        readinessProbe={
            "httpGet": {
                "path": "/readyz?key=S3CRET",
                "port": "https",
                "scheme": "HTTPS",
                "httpHeaders": [{"name": "X-Api-Key", "value": "S3CRET"}],
            },
            "periodSeconds": 10,
            "failureThreshold": 3,
        },
        livenessProbe={"exec": {"command": ["curl", "-u", "admin:S3CRET", "https://localhost"]}},
    )
    (view,) = metrics_objects.container_views(defined)
    assert "S3CRET" not in json.dumps(view)
    assert view["probes"] == {
        "liveness": {"kind": "exec"},
        "readiness": {
            "kind": "http",
            "path": "/readyz",
            "port": "https",
            "scheme": "HTTPS",
            "periodSeconds": 10,
            "failureThreshold": 3,
        },
    }
