# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles read from API objects, whole and with everything missing."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state
from ansible_collections.kubemetrics.aggregation.plugins.modules import cluster_state_info, metrics_provider_info


def node(**status):
    return {
        "metadata": {
            "name": "w1",
            "creationTimestamp": "2026-03-01T10:00:00Z",
            "labels": {
                "kubernetes.io/hostname": "w1.example",
                "node-role.kubernetes.io/control-plane": "",
                "image.kubemetrics.aggregation/1": "x",
            },
        },
        "spec": {"podCIDRs": ["10.233.64.0/24"], "unschedulable": True},
        "status": {
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting"}
            ],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.21"}, {"type": "Hostname", "address": ""}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10999}},
            "nodeInfo": {
                "kubeletVersion": "v1.36.3",
                "architecture": "arm64",
                "operatingSystem": "linux",
                "containerRuntimeVersion": "containerd://1.6.20~ds1",
            },
            **status,
        },
    }


def test_a_node():
    assert cluster_state.node_view(node()) == {
        "name": "w1",
        "created": "2026-03-01T10:00:00Z",
        "ready": True,
        "ready_message": "kubelet is posting",
        "addresses": [{"type": "InternalIP", "address": "192.0.2.21"}],
        "kubelet_port": 10999,
        "kubelet_version": "v1.36.3",
        "architecture": "arm64",
        "operating_system": "linux",
        "runtime": "containerd",
        "runtime_version": "1.6.20~ds1",
        "pod_cidrs": ["10.233.64.0/24"],
        "hostname": "w1.example",
        "image_labels": ["image.kubemetrics.aggregation/1"],
        "unschedulable": True,
        "control_plane": True,
    }


@pytest.mark.parametrize(
    "item", [{}, {"metadata": None}, {"status": None, "spec": None}, {"status": {"conditions": None}}]
)
def test_a_node_of_which_nothing_is_known(item):
    view = cluster_state.node_view(item)
    assert (view["ready"], view["kubelet_port"], view["runtime"], view["addresses"]) == (False, 10250, None, [])


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"labels": {"app.kubernetes.io/managed-by": "kubemetrics"}}, "kubemetrics"),
        (
            {"annotations": {"meta.helm.sh/release-name": "ms", "meta.helm.sh/release-namespace": "mon"}},
            "the Helm release ms in namespace mon",
        ),
        ({"annotations": {"objectset.rio.cattle.io/id": "x"}}, "the add-on controller of k3s or RKE2"),
        ({"labels": {"addonmanager.kubernetes.io/mode": "Reconcile"}}, "the add-on manager"),
        (
            {
                "managedFields": [
                    {"manager": "kubectl-client-side-apply"},
                    {"manager": "kube-apiserver", "subresource": "status"},
                ]
            },
            "somebody using kubectl-client-side-apply",
        ),
        ({}, "somebody else"),
    ],
)
def test_owners(metadata, owner):
    assert cluster_state.owner_of({"metadata": metadata}) == owner


def test_another_provider_is_named():
    apiservice = cluster_state.apiservice_view(
        {
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {"version": "v1beta1", "service": {"namespace": "monitoring", "name": "prometheus-adapter"}},
        }
    )
    ours = {"managed": True, "namespace": "kube-system", "name": "metrics-server", "owner": "kubemetrics"}
    theirs = dict(ours, managed=False, owner="the Helm release ms in namespace x")
    assert metrics_provider_info.foreign_sentences([apiservice], ours, theirs) == [
        "APIService v1beta1.metrics.k8s.io, made by somebody else, is served by Service monitoring/prometheus-adapter",
        "Service kube-system/metrics-server was made by the Helm release ms in namespace x",
    ]
    assert metrics_provider_info.foreign_sentences([], ours, None) == []


def test_a_deployment():
    view = cluster_state.deployment_view(
        {
            "metadata": {
                "name": "metrics-server",
                "namespace": "kube-system",
                "annotations": {"kubemetrics.aggregation/objects": "0123"},
            },
            "spec": {
                "selector": {"matchLabels": {"k8s-app": "metrics-server"}},
                "template": {
                    "spec": {
                        "containers": [{"image": "localhost/x:1"}],
                    }
                },
            },
            "status": {"availableReplicas": 1},
        }
    )
    assert (view["replicas"], view["available"], view["updated"]) == (1, 1, 0)
    assert (view["images"], view["digest"]) == (["localhost/x:1"], "0123")
    assert cluster_state.deployment_view(None) is None


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        (
            {
                "containerStatuses": [
                    {"name": "m", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "no\nimage"}}}
                ]
            },
            "container m waits: ErrImageNeverPull (no image)",
        ),
        (
            {
                "containerStatuses": [
                    {"name": "m", "restartCount": 3, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
                ]
            },
            "container m ended with 137 (OOMKilled), 3 restarts so far",
        ),
        ({"containerStatuses": [{"name": "m", "state": {"running": {}}}]}, "container m runs but is not ready"),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}]},
            "it is on no node: 0/2 nodes are available",
        ),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, ""),
        ({}, ""),
    ],
)
def test_what_holds_a_pod_back(status, trouble):
    assert cluster_state.pod_view({"status": status})["trouble"] == trouble


@pytest.mark.parametrize(
    ("status", "reason", "word"),
    [
        (401, "", "cluster_kubeconfig"),
        (403, "", "cluster-admin"),
        (None, "Untrusted", "cluster_api_server_url"),
        (None, "Timeout", "cluster_api_host"),
        (500, "", "log"),
    ],
)
def test_advice_names_what_to_set(status, reason, word):
    assert word in cluster_state.advice(status, reason)


def test_waiting_for_nodes():
    nodes = [cluster_state.node_view(node()), dict(cluster_state.node_view({}), name="w2")]
    assert cluster_state_info.judge(nodes, ["w1"]).done
    observation = cluster_state_info.judge(nodes, ["w1", "w2", "w3"])
    assert not observation.done
    assert observation.summary == "w3 does not exist; w2 is not Ready (no condition yet)"


@pytest.mark.parametrize(
    ("request_", "waits"),
    [
        ({"spec": {"signerName": "kubernetes.io/kubelet-serving"}}, True),
        (
            {"spec": {"signerName": "kubernetes.io/kubelet-serving"}, "status": {"conditions": [{"type": "Denied"}]}},
            False,
        ),
        ({"spec": {"signerName": "kubernetes.io/kube-apiserver-client"}}, False),
        ({}, False),
    ],
)
def test_requests_that_await_approval(request_, waits):
    assert cluster_state.awaits_approval(request_) is waits


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], ""),
        ([{"message": None}], ""),
        (
            [
                {"lastTimestamp": "2026-11-27T17:02:41Z", "message": "Failed to create\n pod sandbox"},
                {"lastTimestamp": None, "eventTime": "2026-11-27T17:01:00.000000Z", "message": "older"},
            ],
            "Failed to create pod sandbox",
        ),
        (
            [
                {"lastTimestamp": "2026-11-27T17:02:41Z", "message": "older"},
                {
                    "eventTime": "2026-11-27T17:00:00Z",
                    "series": {"lastObservedTime": "2026-11-27T17:03:00Z"},
                    "message": "b",
                },
            ],
            "b",
        ),
    ],
)
def test_the_newest_event(events, expected):
    assert cluster_state.newest_event(events) == expected


@pytest.mark.parametrize(
    ("trouble", "event", "expected"),
    [
        ("container a waits: ContainerCreating", "", "container a waits: ContainerCreating"),
        ("container a waits: X", "no space", "container a waits: X; its newest warning: no space"),
        ("container a waits: X (no space)", "no space", "container a waits: X (no space)"),
        ("", "no space", "no space"),
    ],
)
def test_a_warning_beside_what_the_pod_says(trouble, event, expected):
    assert metrics_provider_info.with_event(trouble, event) == expected
