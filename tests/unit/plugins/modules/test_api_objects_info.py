# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube
from ansible_collections.kubemetrics.aggregation.plugins.modules import api_objects_info

RBAC = "rbac.authorization.k8s.io/v1"
MONITORING = "monitoring.coreos.com/v1"
DISCOVERY = {
    "/apis/" + RBAC: {"resources": [{"name": "clusterroles", "kind": "ClusterRole"}]},
    "/api/v1": {
        "resources": [
            {"name": "serviceaccounts", "kind": "ServiceAccount"},
            {"name": "serviceaccounts/token", "kind": "TokenRequest"},
            {"name": "secrets", "kind": "Secret"},
        ]
    },
}


class Api:
    def __init__(self, found, status=404):
        self.found = {**DISCOVERY, **found}
        self.status = status
        self.asked = []

    def get(self, path):
        self.asked.append(path)
        if path not in self.found:
            raise kube.KubeError("no", status=self.status)
        return self.found[path], None


def one(api_version, kind, name, namespace=None):
    return {"api_version": api_version, "kind": kind, "name": name, "namespace": namespace}


def test_objects_with_their_owners():
    ours = {
        "metadata": {"name": "a", "labels": {"app.kubernetes.io/managed-by": "kubemetrics"}},
        "data": {"token": "t"},
    }
    theirs = {"metadata": {"name": "read-metrics", "managedFields": [{"manager": "kubectl"}]}}
    api = Api(
        {
            "/api/v1/namespaces/kube-system/secrets/a": ours,
            f"/apis/{RBAC}/clusterroles/read-metrics": theirs,
        }
    )
    objects = [
        one("v1", "Secret", "a", "kube-system"),
        one(RBAC, "ClusterRole", "read-metrics"),
        one(RBAC, "ClusterRole", "gone"),
        one(MONITORING, "ServiceMonitor", "a", "kube-system"),
        one("v1", "TokenRequest", "a", "kube-system"),
    ]
    found = api_objects_info.examine(api, objects)
    assert [(view["served"], view["exists"], view["managed"], view["owner"]) for view in found] == [
        (True, True, True, "kubemetrics"),
        (True, True, False, "somebody using kubectl"),
        (True, False, False, ""),
        (False, False, False, ""),
        (False, False, False, ""),
    ]
    assert [{key: view[key] for key in objects[0]} for view in found] == objects
    # Nothing of what a Secret holds.
    assert "data" not in found[0]
    # A group is asked for its kinds once.
    assert api.asked.count("/apis/" + RBAC) == 1


def test_another_error_is_not_taken_for_absence():
    with pytest.raises(kube.KubeError):
        api_objects_info.examine(Api({}, status=403), [one(MONITORING, "ServiceMonitor", "a", "b")])
