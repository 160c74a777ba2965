# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose a registration of metrics.k8s.io is, by the labels, annotations and field managers that each product writes."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube, providers
from ansible_collections.kubemetrics.aggregation.plugins.modules import metrics_provider_info

CREATED = "2026-03-01T10:05:00Z"
LATER = "2026-04-02T08:00:00Z"


def managers(*names, time=CREATED):
    # The aggregator writes the status of every APIService.
    found = [{"manager": name, "operation": "Update", "time": time} for name in names]
    return [*found, {"manager": "kube-apiserver", "operation": "Update", "subresource": "status", "time": LATER}]


def apiservice(labels=None, annotations=None, written=("kubectl-client-side-apply",), service="metrics-server", **more):
    metadata = {
        "name": "v1beta1.metrics.k8s.io",
        "creationTimestamp": CREATED,
        "labels": labels or {},
        "annotations": annotations or {},
        "managedFields": managers(*written),
        **more,
    }
    spec = {"group": "metrics.k8s.io", "version": "v1beta1", "service": {"namespace": "kube-system", "name": service}}
    return {"metadata": metadata, "spec": {**spec, "insecureSkipTLSVerify": True}}


def deployment(name="metrics-server", image="registry.k8s.io/metrics-server/metrics-server:v0.9.0", **pod):
    pod = pod or {"k8s-app": "metrics-server"}
    return {
        "metadata": {"name": name, "namespace": "kube-system", "labels": dict(pod)},
        "spec": {
            "selector": {"matchLabels": pod},
            "template": {"metadata": {"labels": pod}, "spec": {"containers": [{"image": image}]}},
        },
    }


def service(name="metrics-server", **selector):
    selector = selector or {"k8s-app": "metrics-server"}
    return {"metadata": {"name": name, "namespace": "kube-system"}, "spec": {"selector": selector}}


def node(version="v1.36.1", **labels):
    labels = {key.replace("__", "/").replace("_", "-"): value for key, value in labels.items()}
    return {"metadata": {"labels": labels}, "status": {"nodeInfo": {"kubeletVersion": version}}}


RECONCILE = {"addonmanager.kubernetes.io/mode": "Reconcile"}
CLUSTER_SERVICE = {"kubernetes.io/cluster-service": "true", **RECONCILE}
K3S = {
    "objectset.rio.cattle.io/id": "",
    "objectset.rio.cattle.io/owner-gvk": "k3s.cattle.io/v1, Kind=Addon",
    "objectset.rio.cattle.io/owner-name": "metrics-apiservice",
    "objectset.rio.cattle.io/owner-namespace": "kube-system",
}


def helm(release, namespace):
    return {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}


CASES = {
    "manifest": (apiservice({"k8s-app": "metrics-server"}), [deployment()], [node()]),
    "helm": (apiservice({"app.kubernetes.io/managed-by": "Helm"}, helm("ms", "tools"), ["helm"]), [deployment()], []),
    "kubespray": (
        apiservice(RECONCILE),
        [{**deployment(), "metadata": {"labels": {"app.kubernetes.io/name": "metrics-server", **RECONCILE}}}],
        [node()],
    ),
    "minikube": (
        apiservice({"kubernetes.io/minikube-addons": "metrics-server", "k8s-app": "metrics-server", **RECONCILE}),
        [deployment()],
        [node(minikube_k8s_io__name="minikube")],
    ),
    "addon-manager": (apiservice(CLUSTER_SERVICE), [deployment()], [node()]),
    "gke": (apiservice(CLUSTER_SERVICE), [deployment()], [node()]),
    "aks": (apiservice(CLUSTER_SERVICE), [deployment()], [node()]),
    "k3s": (
        apiservice({"objectset.rio.cattle.io/hash": "93f3"}, K3S, ["deploy@s1"]),
        [deployment()],
        [node("v1.36+k3s1")],
    ),
    "rke2": (
        apiservice({}, helm("rke2-metrics-server", "kube-system"), ["helm"]),
        [deployment()],
        [node("v1.36+rke2r1")],
    ),
    "eks": (apiservice({"app.kubernetes.io/name": "metrics-server"}, {}, ["eks"]), [deployment()], [node()]),
    "k0s": (
        apiservice({"k8s-app": "metrics-server", "k0s.k0sproject.io/stack": "metricserver"}),
        [deployment()],
        [node("v1.34.1+k0s")],
    ),
    "openshift": (
        apiservice({"app.kubernetes.io/managed-by": "cluster-monitoring-operator"}, written=["operator"]),
        [deployment()],
        [node("v1.33.3")],
    ),
    "argocd": (apiservice({}, {"argocd.argoproj.io/tracking-id": "ms:apiregistration"}), [deployment()], [node()]),
    "flux": (
        apiservice({"helm.toolkit.fluxcd.io/name": "ms"}, helm("ms", "tools"), ["helm-controller"]),
        [deployment()],
        [node()],
    ),
    "prometheus-adapter": (
        apiservice({"app.kubernetes.io/name": "prometheus-adapter"}, helm("adapter", "monitoring"), service="adapter"),
        [deployment("adapter", "registry.k8s.io/prometheus-adapter/prometheus-adapter:v0.12.0", app="adapter")],
        [node()],
    ),
    "other": (apiservice(written=["terraform"]), [], []),
}
CLOUDS = {
    "gke": [{"metadata": {"labels": {"cloud.google.com/gke-nodepool": "default"}}}],
    "aks": [{"metadata": {"labels": {"kubernetes.azure.com/cluster": "mc"}}}],
}


@pytest.mark.parametrize("kind", CASES)
def test_each_owner_is_known(kind):
    registration, workloads, nodes = CASES[kind]
    view = providers.owner_view(registration, service(), workloads, CLOUDS.get(kind, nodes))
    assert view["kind"] == kind
    assert view["since"] == CREATED
    returns = kind not in ("manifest", "helm", "kubespray", "other")
    assert bool(view["switch_off"]) == returns


def test_every_kind_has_a_case():
    assert set(CASES) == set(providers.KINDS)


def test_owners_in_words():
    def words(kind):
        return providers.owner_view(CASES[kind][0], None, CASES[kind][1])["owner"]

    assert words("helm") == "the Helm release ms in namespace tools"
    assert words("prometheus-adapter") == "prometheus-adapter (the Helm release adapter in namespace monitoring)"
    assert words("manifest") == "a manifest applied by hand (kubectl-client-side-apply)"
    assert words("other") == "somebody else (terraform)"


def test_an_object_of_k3s_on_rke2_is_rke2s():
    assert providers.kind_of(CASES["k3s"][0], None, [], [node("v1.36.1+rke2r1")]) == "rke2"


def test_the_adapter_of_openshift_is_openshifts():
    """Up to 4.15 its operator has prometheus-adapter serve the API."""
    labels = {
        "app.kubernetes.io/managed-by": "cluster-monitoring-operator",
        "app.kubernetes.io/name": "prometheus-adapter",
    }
    assert providers.kind_of(apiservice(labels, service="prometheus-adapter"), None, [], []) == "openshift"


def test_since_when():
    fields = managers("kubectl-client-side-apply", time=LATER)
    assert providers.since(apiservice(managedFields=fields)) == f"{CREATED}, written last at {LATER}"
    assert providers.since({"metadata": {}}) == ""
    assert providers.since({}) == ""


def test_what_can_go_is_the_metrics_server_alone():
    mine = {
        **deployment("ours"),
        "metadata": {"name": "ours", "labels": {"app.kubernetes.io/managed-by": "kubemetrics"}},
    }
    budget = {
        "metadata": {"name": "budget", "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": {"k8s-app": "metrics-server"}}},
    }
    other = {**budget, "spec": {"selector": {"matchLabels": {"k8s-app": "dns"}}}}
    assert providers.removable([service(), None], [deployment(), mine], [budget, other]) == [
        "/apis/apps/v1/namespaces/kube-system/deployments/metrics-server",
        "/api/v1/namespaces/kube-system/services/metrics-server",
        "/apis/policy/v1/namespaces/kube-system/poddisruptionbudgets/budget",
    ]


def test_what_serves_other_apis_too_stays():
    adapter = CASES["prometheus-adapter"][1][0]
    assert providers.removable([service("adapter", app="adapter")], [adapter], []) == []


def test_a_service_that_selects_nothing_matches_nothing():
    empty = {"metadata": {"name": "x", "namespace": "y"}, "spec": {}}
    assert providers.removable([empty], [deployment()], []) == []


MANAGED = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "kubemetrics"}}}


@pytest.mark.parametrize(
    ("usual", "other", "name"),
    [
        ([None, None], [None, None], "metrics-server"),
        ([MANAGED, MANAGED], [None, None], "metrics-server"),
        ([deployment(), service()], [None, None], "metrics-server-kubemetrics"),
        ([None, service()], [None, None], "metrics-server-kubemetrics"),
        # After a takeover, and in the middle of one.
        ([None, None], [MANAGED, MANAGED], "metrics-server-kubemetrics"),
        ([deployment(), service()], [MANAGED, MANAGED], "metrics-server-kubemetrics"),
    ],
)
def test_the_name_beside_others(usual, other, name):
    assert providers.name_for({providers.NAME: usual, providers.OTHER_NAME: other}) == name


class Api:
    """What upstream's manifests leave in a cluster."""

    def __init__(self, objects):
        self.objects = objects

    def get(self, path):
        if path not in self.objects:
            raise kube.KubeError("not found", status=404)
        return self.objects[path], None

    def list(self, path, query=None):
        found = [item for key, item in self.objects.items() if key.rpartition("/")[0] == path]
        return found, None


PARAMS = {
    "namespace": "kube-system",
    "nodes": True,
    "pods": False,
    "connection": True,
    "priority_class": "",
    "secrets": [],
    "log_lines": 0,
}


def test_upstreams_manifests_are_found_whole():
    place = "/namespaces/kube-system/"
    api = Api(
        {
            "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io": CASES["manifest"][0],
            f"/apis/apps/v1{place}deployments/metrics-server": deployment(),
            f"/api/v1{place}services/metrics-server": service(),
            "/api/v1/namespaces/kube-system": {"metadata": {}},
        }
    )
    found = metrics_provider_info.examine(api, PARAMS)
    assert found["name"] == "metrics-server-kubemetrics"
    assert found["deployment"] is None and found["service"] is None
    assert found["owners"]["v1beta1.metrics.k8s.io"]["kind"] == "manifest"
    assert found["registrations"] == {
        "v1beta1.metrics.k8s.io": "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"
    }
    assert len(found["removable"]) == 2
    assert found["connection"] is None


def test_an_interrupted_takeover_leaves_a_deployment_to_remove():
    path = "/apis/apps/v1/namespaces/kube-system/deployments/metrics-server"
    found = metrics_provider_info.examine(Api({path: deployment()}), PARAMS)
    assert found["removable"] == [path]
    assert found["owners"] == {}


def test_the_connection_has_no_key():
    place = "/api/v1/namespaces/kube-system/"
    endpoints = {
        "endpoints": [
            {"addresses": ["10.233.1.7"], "conditions": {"ready": True}},
            {"addresses": ["10.233.1.8"], "conditions": {"ready": False}},
        ],
        "ports": [{"port": 10250}],
    }
    api = Api(
        {
            place + "secrets/metrics-server-serving-cert": {"data": {"ca.crt": "Q0E=", "ca.key": "S0VZ"}},
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/metrics-server-x": endpoints,
        }
    )
    wanted = {"spec": {"clusterIP": "10.233.0.9"}}
    assert metrics_provider_info.connection(api, "kube-system", "metrics-server", wanted) == {
        "server_name": "metrics-server.kube-system.svc",
        "cluster_ip": "10.233.0.9",
        "endpoints": [{"ip": "10.233.1.7", "port": 10250}],
        "ca_data": "CA",
    }
