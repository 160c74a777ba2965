# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who serves the resource metrics API, what belongs to it, and which names are free beside it: from API objects."""

from __future__ import annotations

import datetime
import json
import re
import typing as t
from urllib.parse import quote

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions

#: What this collection's objects are called, and what they are called where somebody else's have that name.
NAME = "metrics-server"
OTHER_NAME = "metrics-server-kubemetrics"

MINIKUBE = "kubernetes.io/minikube-addons"
ADDON_MODE = "addonmanager.kubernetes.io/mode"
RANCHER = "objectset.rio.cattle.io/"
K0S_STACK = "k0s.k0sproject.io/stack"
OPENSHIFT_MANAGER = "cluster-monitoring-operator"
HELM_RELEASE = "meta.helm.sh/release-name"
HELM_NAMESPACE = "meta.helm.sh/release-namespace"
#: Paths of what a takeover removes besides APIServices.
REMOVABLE = re.compile(
    r"/apis/apps/v1/namespaces/[^/]+/deployments/[^/]+|/api/v1/namespaces/[^/]+/services/[^/]+"
    r"|/apis/policy/v1/namespaces/[^/]+/poddisruptionbudgets/[^/]+"
)
#: How long after its creation an object counts as written again.
SETTLING = datetime.timedelta(minutes=1)

Object = t.Mapping[str, t.Any]


class Kind(t.NamedTuple):
    """An owner: its words, and how to switch its registration off where it would put it back."""

    words: str
    switch_off: str = ""


KINDS: t.Dict[str, Kind] = {
    "prometheus-adapter": Kind(
        "prometheus-adapter",
        "switch its resource metrics off (rules.resource: null in its Helm values, no resourceRules in its ConfigMap) "
        "and delete the APIService",
    ),
    **{
        key: Kind(words, distributions.TABLE[key].switch_off)
        for key, words in (
            ("rke2", "RKE2, by its chart rke2-metrics-server"),
            ("k3s", "k3s, by its built-in metrics-server"),
            ("k0s", "k0s, by its built-in metrics-server"),
            ("openshift", "OpenShift, by its cluster-monitoring-operator"),
            ("minikube", "minikube's addon"),
            ("eks", "EKS, as a managed add-on"),
            ("aks", "AKS"),
            ("gke", "GKE"),
        )
    },
    "argocd": Kind("Argo CD", "take the metrics server out of its Application"),
    "flux": Kind("Flux", "take the metrics server out of its repository"),
    "addon-manager": Kind("an add-on manager", "take its file out of the add-on manager's folder"),
    "kubespray": Kind("kubespray's addon"),
    "helm": Kind("a Helm release"),
    "manifest": Kind("a manifest applied by hand"),
    "other": Kind("somebody else"),
}


def labels_of(item: t.Optional[Object]) -> t.Dict[str, str]:
    return cluster_state.dig(item, "metadata", "labels") or {}


def annotations_of(item: t.Optional[Object]) -> t.Dict[str, str]:
    return cluster_state.dig(item, "metadata", "annotations") or {}


def managers_of(item: t.Optional[Object]) -> t.List[str]:
    """Who wrote an object's content, by the API server's own record."""
    return [
        str(entry.get("manager"))
        for entry in cluster_state.dig(item, "metadata", "managedFields") or ()
        if isinstance(entry, dict) and entry.get("manager") and not entry.get("subresource")
    ]


def images_of(workload: Object) -> t.List[str]:
    containers = cluster_state.dig(workload, "spec", "template", "spec", "containers") or ()
    return [str(entry.get("image") or "") for entry in containers]


def is_metrics_server(workload: Object) -> bool:
    """Whether a Deployment does nothing else than serving this API: an adapter serves custom metrics, too."""
    names = [
        str(cluster_state.dig(workload, "metadata", "name")),
        *(one.rpartition("/")[2] for one in images_of(workload)),
    ]
    return any(NAME in name for name in names) and not is_adapter(names)


def is_adapter(names: t.Iterable[str]) -> bool:
    return any("prometheus-adapter" in name for name in names)


def kind_of(apiservice: Object, service: t.Optional[Object], workloads: t.Sequence[Object], nodes: t.Any = ()) -> str:
    """The key in KINDS of who made a registration. `nodes` are Node objects: their labels name the cloud."""
    items = [apiservice, *([service] if service else []), *workloads]
    labels, annotations = labels_of(apiservice), annotations_of(apiservice)
    keys = {**labels, **annotations}
    managers = managers_of(apiservice)
    backend = str(cluster_state.dig(apiservice, "spec", "service", "name") or "")
    names = [backend, *(labels_of(item).get("app.kubernetes.io/name", "") for item in items)]
    node_labels = {key for node in nodes for key in labels_of(node)}
    chart = annotations.get(HELM_RELEASE, "")

    def any_starts(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in keys)

    # Its operator uses an adapter, too, up to 4.15.
    if OPENSHIFT_MANAGER in (labels.get(cluster_state.MANAGED_BY), *managers):
        return "openshift"
    if is_adapter(names + [image for item in workloads for image in images_of(item)]):
        return "prometheus-adapter"
    if chart == "rke2-metrics-server":
        return "rke2"
    if any_starts(RANCHER):
        return "rke2" if distributions.of_cluster(nodes, "").key == "rke2" else "k3s"
    if K0S_STACK in labels:
        return "k0s"
    if MINIKUBE in labels:
        return "minikube"
    if "eks" in managers:
        return "eks"
    if any_starts("kubernetes.azure.com/") or chart.startswith("aks-managed"):
        return "aks"
    if any_starts("components.gke.io/"):
        return "gke"
    if ADDON_MODE in labels:
        return addon_kind(labels, node_labels)
    if any_starts("argocd.argoproj.io/") or "argocd-controller" in managers:
        return "argocd"
    if any_starts("kustomize.toolkit.fluxcd.io/") or any_starts("helm.toolkit.fluxcd.io/"):
        return "flux"
    if chart:
        return "helm"
    if any(is_kubesprays(item) for item in workloads):
        return "kubespray"
    if (
        any(name.startswith("kubectl") for name in managers)
        or "kubectl.kubernetes.io/last-applied-configuration" in keys
    ):
        return "manifest"
    return "other"


def addon_kind(labels: t.Mapping[str, str], node_labels: t.Iterable[str]) -> str:
    """Whose add-on a registration is. Kubespray's templates have the label of an add-on manager, which it is not."""
    for prefix, kind in (("kubernetes.azure.com/", "aks"), ("cloud.google.com/gke-", "gke")):
        if any(key.startswith(prefix) for key in node_labels):
            return kind
    return "addon-manager" if labels.get("kubernetes.io/cluster-service") == "true" else "kubespray"


def is_kubesprays(workload: Object) -> bool:
    labels = labels_of(workload)
    return labels.get("app.kubernetes.io/name") == NAME and ADDON_MODE in labels and "version" in labels


def words_of(kind: str, apiservice: Object) -> str:
    annotations = annotations_of(apiservice)
    release = annotations.get(HELM_RELEASE)
    words = KINDS[kind].words
    place = "the Helm release %s in namespace %s" % (release, annotations.get(HELM_NAMESPACE) or "default")
    if kind == "helm":
        return place
    if kind == "prometheus-adapter" and release:
        return "%s (%s)" % (words, place)
    managers = sorted({name for name in managers_of(apiservice) if name not in ("kube-apiserver", "metrics-server")})
    if kind in ("manifest", "other") and managers:
        return "%s (%s)" % (words, ", ".join(managers))
    return words


def since(apiservice: Object) -> str:
    """When a registration was made, and when it was written last if that was later."""
    created = cluster_state.dig(apiservice, "metadata", "creationTimestamp") or ""
    times = [
        str(entry.get("time"))
        for entry in cluster_state.dig(apiservice, "metadata", "managedFields") or ()
        if isinstance(entry, dict) and entry.get("time") and not entry.get("subresource")
    ]
    written = max(times, default="")
    first, last = kube.parse_rfc3339(created), kube.parse_rfc3339(written)
    if last is not None and (first is None or last - first > SETTLING):
        return "%s, written last at %s" % (created, written) if created else written
    return created


def owner_view(
    apiservice: Object, service: t.Optional[Object], workloads: t.Sequence[Object], nodes: t.Any = ()
) -> t.Dict[str, t.Any]:
    """Who owns a registration, since when, and what that means for a takeover."""
    kind = kind_of(apiservice, service, workloads, nodes)
    return {
        "kind": kind,
        "owner": words_of(kind, apiservice),
        "since": since(apiservice),
        "switch_off": KINDS[kind].switch_off,
    }


def selects(selector: t.Optional[t.Mapping[str, str]], labels: t.Mapping[str, str]) -> bool:
    """Whether a selector that is not empty matches."""
    return bool(selector) and all(labels.get(key) == value for key, value in (selector or {}).items())


def pod_labels(workload: Object) -> t.Dict[str, str]:
    return cluster_state.dig(workload, "spec", "template", "metadata", "labels") or {}


def workloads_behind(service: t.Optional[Object], deployments: t.Iterable[Object]) -> t.List[Object]:
    """The Deployments whose pods a Service selects."""
    selector = cluster_state.dig(service, "spec", "selector")
    return [item for item in deployments if selects(selector, pod_labels(item))]


def budgets_of(workloads: t.Sequence[Object], budgets: t.Iterable[Object]) -> t.List[Object]:
    """The PodDisruptionBudgets that are about these Deployments' pods."""
    return [
        item
        for item in budgets
        if any(
            selects(cluster_state.dig(item, "spec", "selector", "matchLabels"), pod_labels(one)) for one in workloads
        )
    ]


def path_of(kind: str, item: Object) -> str:
    """The path of an object of a kind that a takeover removes."""
    group, plural = {
        "APIService": ("/apis/apiregistration.k8s.io/v1", "apiservices"),
        "Deployment": ("/apis/apps/v1", "deployments"),
        "Service": ("/api/v1", "services"),
        "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    }[kind]
    name, namespace = cluster_state.dig(item, "metadata", "name"), cluster_state.dig(item, "metadata", "namespace")
    place = "/namespaces/%s" % quote(str(namespace), safe="") if namespace else ""
    return "%s%s/%s/%s" % (group, place, plural, quote(str(name), safe=""))


def removable(
    services: t.Iterable[t.Optional[Object]], deployments: t.Sequence[Object], budgets: t.Sequence[Object]
) -> t.List[str]:
    """The paths of another metrics server's objects, in the order in which they can go once nobody asks it.

    What serves other APIs as well stays, and so does what others may use: accounts, roles and their bindings.
    """
    found: t.Dict[str, None] = {}
    for service in services:
        if service is None or cluster_state.is_managed(service):
            continue
        workloads = [item for item in workloads_behind(service, deployments) if not cluster_state.is_managed(item)]
        servers = [item for item in workloads if is_metrics_server(item)]
        if len(servers) < len(workloads) or not (workloads or labels_of(service).get("k8s-app") == NAME):
            continue
        found.update((path_of("Deployment", item), None) for item in servers)
        found[path_of("Service", service)] = None
        found.update((path_of("PodDisruptionBudget", item), None) for item in budgets_of(servers, budgets))
    return list(found)


def replaced_by(apiservices: t.Iterable[Object]) -> t.Dict[str, str]:
    """The paths and UIDs that this collection's registrations were switched from. Others' annotations do not count."""
    found: t.Dict[str, str] = {}
    for item in apiservices:
        if not cluster_state.is_managed(item):
            continue
        try:
            recorded = json.loads(annotations_of(item).get(cluster_state.REPLACES) or "{}")
        except ValueError:
            continue
        pairs = recorded.items() if isinstance(recorded, dict) else ()
        found.update((path, uid) for path, uid in pairs if isinstance(uid, str) and uid and REMOVABLE.fullmatch(path))
    return found


def identities(items: t.Iterable[t.Tuple[str, t.Optional[Object]]]) -> t.Dict[str, str]:
    """The UIDs of objects, given with their kinds, by their paths: one that is made anew has another one."""
    return {
        path_of(kind, item): str(cluster_state.dig(item, "metadata", "uid"))
        for kind, item in items
        if cluster_state.dig(item, "metadata", "uid")
    }


def name_for(existing: t.Mapping[str, t.Sequence[t.Optional[Object]]]) -> str:
    """What this collection's objects are or would be called, by the objects that are there under each of its names."""
    for name in (NAME, OTHER_NAME):
        if any(cluster_state.is_managed(item) for item in existing[name]):
            return name
    return OTHER_NAME if any(existing[NAME]) else NAME
