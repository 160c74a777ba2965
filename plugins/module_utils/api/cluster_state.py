# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles need to know of a cluster and of who serves its metrics API, as plain data made from API objects."""

from __future__ import annotations

import typing as t

METRICS_GROUP = "metrics.k8s.io"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "kubemetrics"
#: Annotation of the Deployment: a checksum of the objects that it was applied with.
DIGEST = "kubemetrics.aggregation/objects"
#: What an APIService was switched from, and is to be removed after that: paths and UIDs, as a JSON object.
REPLACES = "kubemetrics.aggregation/replaces"
DEFAULT_KUBELET_PORT = 10250
SERVING_SIGNER = "kubernetes.io/kubelet-serving"
HOSTNAME_LABEL = "kubernetes.io/hostname"
#: Labels of nodes that hold an image which no registry has begin with it.
IMAGE_LABEL = "image.kubemetrics.aggregation/"

Object = t.Mapping[str, t.Any]


def dig(data: t.Any, *keys: str) -> t.Any:
    """The value at a path of mappings, or None where the path ends early."""
    for key in keys:
        if not isinstance(data, dict):
            return None
        data = data.get(key)
    return data


def condition(item: Object, name: str) -> t.Dict[str, t.Any]:
    """One condition of an object by its type; empty when it is not there."""
    for entry in dig(item, "status", "conditions") or ():
        if isinstance(entry, dict) and entry.get("type") == name:
            return entry
    return {}


def node_view(node: Object) -> t.Dict[str, t.Any]:
    """What the roles use of a Node."""
    ready = condition(node, "Ready")
    info = dig(node, "status", "nodeInfo") or {}
    runtime, unused, runtime_version = str(info.get("containerRuntimeVersion") or "").partition("://")
    labels = dig(node, "metadata", "labels") or {}
    return {
        "name": dig(node, "metadata", "name"),
        "created": dig(node, "metadata", "creationTimestamp") or "",
        "ready": ready.get("status") == "True",
        "ready_message": ready.get("message") or ready.get("reason") or "",
        "addresses": [
            {"type": entry.get("type"), "address": entry.get("address")}
            for entry in dig(node, "status", "addresses") or ()
            if isinstance(entry, dict) and entry.get("address")
        ],
        "kubelet_port": dig(node, "status", "daemonEndpoints", "kubeletEndpoint", "Port") or DEFAULT_KUBELET_PORT,
        "kubelet_version": info.get("kubeletVersion"),
        "architecture": info.get("architecture"),
        "operating_system": info.get("operatingSystem"),
        "runtime": runtime or None,
        "runtime_version": runtime_version or None,
        "pod_cidrs": dig(node, "spec", "podCIDRs") or [],
        "hostname": labels.get(HOSTNAME_LABEL) or dig(node, "metadata", "name"),
        "image_labels": sorted(key for key in labels if key.startswith(IMAGE_LABEL)),
        "unschedulable": bool(dig(node, "spec", "unschedulable")),
        "control_plane": any(
            "node-role.kubernetes.io/" + role in labels for role in ("control-plane", "controlplane", "master")
        ),
    }


def placement_view(node: Object) -> t.Dict[str, t.Any]:
    """What decides whether a pod can be on a Node."""
    view = node_view(node)
    view.update(labels=dig(node, "metadata", "labels") or {}, taints=dig(node, "spec", "taints") or [])
    return view


def awaits_approval(request: Object) -> bool:
    """Whether a certificate request is one of a kubelet for its serving certificate, and nobody has decided on it."""
    return dig(request, "spec", "signerName") == SERVING_SIGNER and not dig(request, "status", "conditions")


def is_managed(item: t.Optional[Object]) -> bool:
    """Whether this collection made an object."""
    return dig(item, "metadata", "labels", MANAGED_BY) == MANAGER


def owner_of(item: Object) -> str:
    """Who made an object, in the words of its own labels and annotations."""
    if is_managed(item):
        return MANAGER
    annotations = dig(item, "metadata", "annotations") or {}
    labels = dig(item, "metadata", "labels") or {}
    release = annotations.get("meta.helm.sh/release-name")
    if release:
        namespace = annotations.get("meta.helm.sh/release-namespace") or "default"
        return "the Helm release %s in namespace %s" % (release, namespace)
    if any(key.startswith("objectset.rio.cattle.io/") for key in list(annotations) + list(labels)):
        return "the add-on controller of k3s or RKE2"
    if labels.get("addonmanager.kubernetes.io/mode"):
        return "the add-on manager"
    managers = [
        str(entry.get("manager"))
        for entry in dig(item, "metadata", "managedFields") or ()
        if isinstance(entry, dict) and entry.get("manager") and not entry.get("subresource")
    ]
    # The aggregator itself writes the objects of built-in groups; nobody's hand is behind those.
    others = sorted({name for name in managers if name != "kube-apiserver"})
    return "somebody using %s" % " and ".join(others) if others else "somebody else"


def object_view(item: t.Optional[Object]) -> t.Optional[t.Dict[str, t.Any]]:
    """Existence and owner of an object."""
    if not item:
        return None
    return {
        "name": dig(item, "metadata", "name"),
        "namespace": dig(item, "metadata", "namespace"),
        "managed": is_managed(item),
        "owner": owner_of(item),
    }


def apiservice_view(item: Object) -> t.Dict[str, t.Any]:
    """What the roles use of an APIService."""
    available = condition(item, "Available")
    service = dig(item, "spec", "service") or {}
    view = object_view(item) or {}
    view.pop("namespace", None)
    view.update(
        version=dig(item, "spec", "version"),
        service={"namespace": service.get("namespace"), "name": service.get("name")} if service else None,
        available=available.get("status") == "True",
        reason=available.get("reason") or "",
        message=available.get("message") or "",
    )
    return view


def deployment_view(item: t.Optional[Object]) -> t.Optional[t.Dict[str, t.Any]]:
    """Owner, selector and progress of a Deployment."""
    view = object_view(item)
    if view is None or item is None:
        return None
    status = dig(item, "status") or {}
    replicas = dig(item, "spec", "replicas")
    view.update(
        replicas=1 if replicas is None else replicas,
        updated=status.get("updatedReplicas") or 0,
        available=status.get("availableReplicas") or 0,
        match_labels=dig(item, "spec", "selector", "matchLabels") or {},
        images=[entry.get("image") for entry in dig(item, "spec", "template", "spec", "containers") or ()],
        progress=str(condition(item, "Progressing").get("message") or ""),
        digest=dig(item, "metadata", "annotations", DIGEST) or "",
    )
    return view


def container_trouble(status: Object) -> str:
    """Why a container is not ready, in one clause; empty when nothing can be seen from its status."""
    name = status.get("name")
    waiting = dig(status, "state", "waiting")
    if waiting:
        message = " ".join(str(waiting.get("message") or "").split())
        text = "container %s waits: %s" % (name, waiting.get("reason") or "no reason given")
        return text + (" (%s)" % message if message else "")
    ended = dig(status, "state", "terminated") or (
        dig(status, "lastState", "terminated") if status.get("restartCount") else None
    )
    if ended and not status.get("ready"):
        return "container %s ended with %s (%s), %s restarts so far" % (
            name,
            ended.get("exitCode"),
            ended.get("reason") or "no reason given",
            status.get("restartCount") or 0,
        )
    return "" if status.get("ready") else "container %s runs but is not ready" % name


def pod_view(pod: Object) -> t.Dict[str, t.Any]:
    """State of a pod and what holds it back."""
    ready = condition(pod, "Ready").get("status") == "True"
    trouble = []
    if not ready:
        scheduled = condition(pod, "PodScheduled")
        if scheduled.get("status") == "False":
            trouble.append("it is on no node: %s" % (scheduled.get("message") or scheduled.get("reason")))
        for status in dig(pod, "status", "containerStatuses") or ():
            trouble.append(container_trouble(status))
    return {
        "name": dig(pod, "metadata", "name"),
        "node": dig(pod, "spec", "nodeName"),
        "phase": dig(pod, "status", "phase"),
        "ready": ready,
        "terminating": bool(dig(pod, "metadata", "deletionTimestamp")),
        "trouble": "; ".join(text for text in trouble if text),
    }


def newest_event(events: t.Sequence[Object]) -> str:
    """What the newest of some events says, in one line; empty without any."""

    def when(event: Object) -> str:
        # One event is of one kind or the other (events.k8s.io/v1, EventSeries); all are RFC 3339 in UTC.
        series = dig(event, "series", "lastObservedTime")
        times = (
            series,
            event.get("lastTimestamp"),
            event.get("eventTime"),
            dig(event, "metadata", "creationTimestamp"),
        )
        return max((str(time) for time in times if time), default="")

    newest = max(events, key=when, default={})
    return " ".join(str(newest.get("message") or "").split())


def advice(status: t.Optional[int], reason: str) -> str:
    """What the operator does about a request that the API refused or never answered."""
    if status == 401:
        return (
            "The credentials of the kubeconfig are not of this cluster, or have expired; "
            "give a current one as cluster_kubeconfig."
        )
    if status == 403:
        return (
            "The user of the kubeconfig needs the rights of cluster-admin; "
            "give such a kubeconfig as cluster_kubeconfig."
        )
    if reason == "Untrusted":
        return (
            "The kubeconfig belongs to another cluster, or the server's certificate does not name this address; "
            "set cluster_kubeconfig to this cluster's kubeconfig, "
            "or cluster_api_server_url to an address in the certificate."
        )
    if status is None:
        return (
            "Check that the API server runs and that the address is right; "
            "where only the cluster's own hosts can reach it, set cluster_api_host to a control plane."
        )
    return "Check the log of that API server."
