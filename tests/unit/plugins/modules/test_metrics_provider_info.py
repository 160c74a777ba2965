# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a takeover has to remove is found again after an interruption, and only that."""

from __future__ import annotations

import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube, providers
from ansible_collections.kubemetrics.aggregation.plugins.modules import metrics_provider_info
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import metrics_server

OURS = {cluster_state.MANAGED_BY: cluster_state.MANAGER}
NAME = "v1beta1.metrics.k8s.io"
PATH = f"/apis/apiregistration.k8s.io/v1/apiservices/{NAME}"
PARAMETERS = {
    "namespace": "kube-system",
    "pods": False,
    "nodes": False,
    "priority_class": "",
    "secrets": [],
    "log_lines": 5,
    "connection": False,
}


class Api:
    """Objects by their paths."""

    def __init__(self):
        self.objects = {}

    def add(self, kind, namespace, name, labels, app, uid=""):
        """A Deployment, a Service or a PodDisruptionBudget of a metrics server."""
        selector = {"k8s-app": app}
        image = {"image": "registry.k8s.io/metrics-server/metrics-server:v0.9.0"}
        spec = {
            "Deployment": {"template": {"metadata": {"labels": selector}, "spec": {"containers": [image]}}},
            "Service": {"selector": selector},
            "PodDisruptionBudget": {"selector": {"matchLabels": selector}},
        }[kind]
        metadata = {"namespace": namespace, "name": name, "labels": labels, "uid": uid or f"{kind}-{namespace}-{name}"}
        item = {"kind": kind, "metadata": metadata, "spec": spec}
        self.objects[providers.path_of(kind, item)] = item
        return providers.path_of(kind, item)

    def get(self, path):
        if path not in self.objects:
            raise kube.KubeError("none", status=404)
        return [self.objects[path]]

    def list(self, path, query=None):
        return [item for place, item in self.objects.items() if place.rpartition("/")[0] == path], None


def registration(namespace, name, labels):
    return {
        "kind": "APIService",
        "metadata": {"name": NAME, "labels": labels},
        "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "service": {"namespace": namespace, "name": name}},
    }


def plan(api):
    return metrics_server.takeover(metrics_provider_info.examine(api, PARAMETERS), [NAME])


@pytest.fixture(
    params=[("kube-system", "metrics-server"), ("monitoring", "ms"), ("kube-system", "prod-metrics-server")]
)
def switched(request):
    """A cluster after the switch of a takeover, its plan before that, and the paths of the old server."""
    namespace, name = request.param
    api = Api()
    kinds = ("Deployment", "Service", "PodDisruptionBudget")
    old = [api.add(kind, namespace, name, {}, "old") for kind in kinds]
    api.objects[PATH] = registration(namespace, name, {})
    before = plan(api)
    assert (before["switch"], before["remove"]) == ([PATH], old)
    own = metrics_provider_info.examine(api, PARAMETERS)["name"]
    for kind in ("Deployment", "Service"):
        api.add(kind, "kube-system", own, OURS, "new")
    api.objects.update(metrics_server.switched([registration("kube-system", own, OURS)], before, "CA"))
    return api, before, old


def test_an_interrupted_takeover_is_finished(switched):
    api, before, old = switched
    # The record of before the switch has all of it, with the registration; one without would restore half.
    assert plan(api) == {"keep": [], "switch": [], "remove": old, "uids": before["uids"]}
    for path in old:
        del api.objects[path]
        found = plan(api)
        assert found["remove"] == [left for left in old if left in api.objects]
        assert found["keep"] == []


def test_what_was_made_since_stays(switched):
    api, _before, old = switched
    for path in old:
        api.objects[path]["metadata"]["uid"] = "another"
    assert metrics_provider_info.examine(api, PARAMETERS)["unfinished"] == []
    for path in old:
        api.objects[path]["metadata"].update(uid=f"{path}-mine", labels=OURS)
    replaces = json.dumps({path: f"{path}-mine" for path in old})
    api.objects[PATH]["metadata"]["annotations"] = {cluster_state.REPLACES: replaces}
    assert plan(api)["remove"] == []


@pytest.mark.parametrize(
    "replaces",
    [
        "no JSON",
        "[]",
        '{"/api/v1/namespaces/kube-system": "uid"}',
        '{"/api/v1/namespaces/kube-system/secrets/x": "uid"}',
        '{"/api/v1/namespaces/kube-system/services/x/proxy": "uid"}',
        '{"/api/v1/namespaces/a/services/x": 1}',
        '{"/api/v1/namespaces/a/services/x": ""}',
    ],
)
def test_annotations_that_name_something_else(replaces):
    item = registration("kube-system", "metrics-server", OURS)
    item["metadata"]["annotations"] = {cluster_state.REPLACES: replaces}
    assert providers.replaced_by([item]) == {}


def test_only_own_registrations_are_believed():
    item = registration("kube-system", "metrics-server", {})
    item["metadata"]["annotations"] = {cluster_state.REPLACES: '{"/api/v1/namespaces/a/services/x": "uid"}'}
    assert providers.replaced_by([item]) == {}
    item["metadata"]["labels"] = OURS
    assert providers.replaced_by([item]) == {"/api/v1/namespaces/a/services/x": "uid"}
