# SPDX-License-Identifier: GPL-3.0-or-later
"""kubeadm_config against an API server's answers: conditions on writes, names of the ConfigMaps, arguments."""

from __future__ import annotations

import copy
import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.kube import KubeError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.kubeadm import KubeadmError
from ansible_collections.kubemetrics.aggregation.plugins.modules import kubeadm_config

CLUSTER = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.23.4\n"
KUBELET = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


class Store:
    """ConfigMaps with versions, as an API server keeps them; ``rival`` is called before each write."""

    def __init__(self, maps, rival=None):
        self.maps = {
            name: {"metadata": {"name": name, "resourceVersion": "1"}, "data": data} for name, data in maps.items()
        }
        self.rival = rival
        self.writes = 0

    def get(self, path):
        name = path.rpartition("/")[2]
        if name not in self.maps:
            raise KubeError("not there", status=404)
        return copy.deepcopy(self.maps[name]), None

    def send(self, method, path, body, *, content_type):
        assert (method, content_type) == ("PATCH", "application/merge-patch+json")
        stored = self.maps[path.rpartition("/")[2]]
        if self.rival:
            self.rival(stored)
        if body["metadata"]["resourceVersion"] != stored["metadata"]["resourceVersion"]:
            raise KubeError("changed meanwhile", status=409)
        stored["data"].update(body["data"])
        stored["metadata"]["resourceVersion"] += "1"
        self.writes += 1


def params(**given):
    return {"component": "apiserver", "flags": None, "volumes": None, "kubelet": None, "required": True, **given}


def test_a_write_is_repeated_when_somebody_else_was_faster():
    edits = ["clusterName: a\n", "clusterName: b\n"]

    def rival(stored):
        if edits:
            stored["data"]["ClusterConfiguration"] = CLUSTER + edits.pop(0)
            stored["metadata"]["resourceVersion"] += "1"

    store = Store({"kubeadm-config": {"ClusterConfiguration": CLUSTER}}, rival)
    outcome = kubeadm_config.run(store, params(flags={"v": 2}), False)
    assert store.writes == 1
    assert "clusterName: b\n" in store.maps["kubeadm-config"]["data"]["ClusterConfiguration"]
    assert store.maps["kubeadm-config"]["data"]["ClusterConfiguration"] == outcome.after
    assert outcome.previous == {"v": None}


def test_it_gives_up_when_there_is_no_end_to_that():
    def rival(stored):
        stored["metadata"]["resourceVersion"] += "1"

    store = Store({"kubeadm-config": {"ClusterConfiguration": CLUSTER}}, rival)
    with pytest.raises(KubeError):
        kubeadm_config.run(store, params(flags={"v": 2}), False)


def test_check_mode_and_what_already_holds_write_nothing():
    store = Store({"kubeadm-config": {"ClusterConfiguration": CLUSTER}})
    predicted = kubeadm_config.run(store, params(flags={"v": 2}), True)
    assert store.writes == 0
    assert kubeadm_config.run(store, params(flags={"v": 2}), False) == predicted
    again = kubeadm_config.run(store, params(flags={"v": 2}), False)
    assert store.writes == 1 and again.before == again.after


def test_old_clusters_name_the_kubelets_map_by_version():
    store = Store({"kubeadm-config": {"ClusterConfiguration": CLUSTER}, "kubelet-config-1.23": {"kubelet": KUBELET}})
    outcome = kubeadm_config.run(store, params(component="kubelet", kubelet={"serverTLSBootstrap": True}), False)
    assert outcome.config_map == "kube-system/kubelet-config-1.23"
    assert store.maps["kubelet-config-1.23"]["data"]["kubelet"] == KUBELET + "serverTLSBootstrap: true\n"


@pytest.mark.parametrize("given", [{"flags": {"v": 2}}, {"component": "kubelet", "kubelet": {"readOnlyPort": 0}}])
def test_a_cluster_that_kubeadm_did_not_make(given):
    assert not kubeadm_config.run(Store({}), params(**given), False).exists


def test_a_map_without_its_entry():
    with pytest.raises(KubeadmError, match="no entry ClusterConfiguration"):
        kubeadm_config.run(Store({"kubeadm-config": {}}), params(flags={"v": 2}), False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "flags is empty"),
        ({"flags": {}}, "flags is empty"),
        ({"flags": {"a b": 1}}, "no name of a flag"),
        ({"flags": {"a-b": 1, "--a_b": 2}}, "the same flag"),
        ({"flags": {"a": {"b": 1}}}, "a flag is a string"),
        ({"flags": {"a": "x\ny"}}, "line break"),
        ({"flags": {"a": []}}, "empty list"),
        ({"flags": {"a": 1}, "kubelet": {"b": 1}}, "component=kubelet"),
        ({"component": "kubelet", "flags": {"a": 1}}, "control plane"),
        ({"component": "kubelet"}, "kubelet: it is empty"),
        ({"component": "kubelet", "kubelet": {"readOnlyPort": "0"}}, "readOnlyPort is '0'"),
        ({"component": "kubelet", "kubelet": {"kind": "X"}}, "must not set kind"),
    ],
)
def test_arguments_are_refused_in_one_sentence(given, words):
    problem = kubeadm_config.check_arguments(params(**given))
    assert words in problem and "\n" not in problem


def test_volumes_alone_are_enough():
    assert kubeadm_config.check_arguments(params(volumes=[{"name": "a"}])) is None


def test_the_module_itself(api_server, kubeconfig, run_module):
    path = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"
    stored = {
        "metadata": {"name": "kubeadm-config", "resourceVersion": "7"},
        "data": {"ClusterConfiguration": CLUSTER},
    }
    api_server.get(path, lambda request: (200, stored))

    def patch(request):
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        body = json.loads(request.raw)
        assert body["metadata"] == {"resourceVersion": "7"}
        stored["data"].update(body["data"])
        return 200, stored

    api_server.routes["PATCH", path] = patch
    arguments = {"kubeconfig": kubeconfig, "flags": {"enable-aggregator-routing": True}}
    predicted = run_module(kubeadm_config, check_mode=True, **arguments)
    assert api_server.seen("PATCH") == []
    applied = run_module(kubeadm_config, **arguments)
    assert applied == predicted and applied["changed"]
    assert applied["previous"] == {"enable-aggregator-routing": None}
    again = run_module(kubeadm_config, **arguments)
    assert not again["changed"] and again["previous"] == {}
    assert len(api_server.seen("PATCH")) == 1
    assert stored["data"]["ClusterConfiguration"].endswith(
        'apiServer:\n  extraArgs:\n  - name: enable-aggregator-routing\n    value: "true"\n'
    )


def test_the_module_on_another_kind_of_cluster(api_server, kubeconfig, run_module):
    arguments = {"kubeconfig": kubeconfig, "flags": {"v": 2}}
    failed = run_module(kubeadm_config, **arguments)
    assert failed["failed"] and "required to false" in failed["msg"]
    left = run_module(kubeadm_config, required=False, **arguments)
    assert not left["changed"] and not left["exists"]
