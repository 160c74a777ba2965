# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The objects around a metrics API in short: pods, workloads, policies, roles, autoscalers. Pure functions."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.cluster_state import Object, dig, owner_of
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import masking

#: Annotations that hold whole objects, with whatever is secret in them.
_COPIES = ("kubectl.kubernetes.io/last-applied-configuration",)
_LONGEST = 500
_KLOG = re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ")
_STAMP = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\b")
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?(?:ms|s|µs)?\b")
NODE_ANNOTATIONS = "metrics.k8s.io/"


def shortened(text: t.Any, limit: int = _LONGEST) -> str:
    """A text of somebody else in one line that is not endless, without secrets."""
    line = masking.mask_text(" ".join(str(text or "").split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."


def distinct_lines(lines: t.Iterable[str], limit: int) -> t.List[str]:
    """The last lines of a log, those that differ only in times and numbers once, without secrets."""
    kept: t.Dict[str, str] = {}
    for line in lines:
        text = line.rstrip()
        if not text.strip():
            continue
        said = _NUMBER.sub("#", _STAMP.sub("#", _KLOG.sub("", text)))
        # The newest of equal lines stays, at its own place.
        kept.pop(said, None)
        kept[said] = text
    chosen = list(kept.values())[-limit:] if limit > 0 else []
    return [masking.mask_text(text[: 2 * _LONGEST]) for text in chosen]


def annotations_of(item: Object) -> t.Dict[str, str]:
    """The annotations of an object without copies of whole objects."""
    found = dig(item, "metadata", "annotations") or {}
    return {str(key): shortened(value) for key, value in sorted(found.items()) if key not in _COPIES}


def conditions_of(item: Object) -> t.List[t.Dict[str, t.Any]]:
    return [
        {
            "type": entry.get("type"),
            "status": entry.get("status"),
            "reason": entry.get("reason") or "",
            "message": shortened(entry.get("message")),
            "since": entry.get("lastTransitionTime"),
        }
        for entry in dig(item, "status", "conditions") or ()
        if isinstance(entry, dict)
    ]


def matches(selector: t.Optional[Object], labels: t.Mapping[str, t.Any]) -> bool:
    """Whether a LabelSelector selects an object with these labels. An empty one selects everything, none nothing."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for entry in selector.get("matchExpressions") or ():
        key, operator, values = entry.get("key"), entry.get("operator"), entry.get("values") or []
        if operator == "In" and labels.get(key) not in values:
            return False
        if operator == "NotIn" and labels.get(key) in values:
            return False
        if operator == "Exists" and key not in labels:
            return False
        if operator == "DoesNotExist" and key in labels:
            return False
    return True


def state_of(state: t.Optional[Object]) -> t.Dict[str, t.Any]:
    """The state of a container: running, waiting or terminated, and why."""
    for kind in ("running", "waiting", "terminated"):
        value = (state or {}).get(kind)
        if isinstance(value, dict):
            return {
                "kind": kind,
                "reason": value.get("reason") or "",
                "message": shortened(value.get("message")),
                "exit_code": value.get("exitCode"),
                "signal": value.get("signal"),
                "started": value.get("startedAt"),
                "finished": value.get("finishedAt"),
            }
    return {"kind": "unknown", "reason": "", "message": ""}


#: The kinds of probes, by the key that each has.
_PROBES = {"httpGet": "http", "tcpSocket": "tcp", "grpc": "grpc", "exec": "exec"}


def probe_view(probe: Object) -> t.Dict[str, t.Any]:
    """How the kubelet probes a container. Headers and commands, which may hold logins, are left out."""
    key = next((key for key in _PROBES if isinstance(probe.get(key), dict)), "")
    action = probe.get(key) or {}
    view = {
        "kind": _PROBES.get(key, "unknown"),
        "path": str(action.get("path") or "").partition("?")[0] or None,
        "port": action.get("port"),
        "scheme": action.get("scheme"),
        **{name: value for name, value in probe.items() if name.endswith(("Seconds", "Threshold"))},
    }
    return {name: value for name, value in view.items() if value is not None}


def container_views(pod: Object) -> t.List[t.Dict[str, t.Any]]:
    """The containers of a pod as they are defined and as they are."""
    found = []
    for init, defined, reported in (
        (True, "initContainers", "initContainerStatuses"),
        (False, "containers", "containerStatuses"),
    ):
        statuses = {entry.get("name"): entry for entry in dig(pod, "status", reported) or () if isinstance(entry, dict)}
        for container in dig(pod, "spec", defined) or ():
            status = statuses.get(container.get("name")) or {}
            command = [str(word) for word in container.get("command") or ()]
            arguments = [str(word) for word in container.get("args") or ()]
            masked = masking.mask_argv(command + arguments)
            found.append(
                {
                    "name": container.get("name"),
                    "init": init,
                    "image": container.get("image"),
                    "image_id": status.get("imageID") or "",
                    "pull_policy": container.get("imagePullPolicy"),
                    "command": masked[: len(command)],
                    "args": masked[len(command) :],
                    "ports": [
                        {
                            "name": port.get("name") or "",
                            "port": port.get("containerPort"),
                            "host_port": port.get("hostPort"),
                        }
                        for port in container.get("ports") or ()
                    ],
                    "resources": container.get("resources") or {},
                    "probes": {
                        kind: probe_view(container[key])
                        for kind, key in (("liveness", "livenessProbe"), ("readiness", "readinessProbe"))
                        if container.get(key)
                    },
                    "run_as": (container.get("securityContext") or {}).get("runAsUser"),
                    "ready": bool(status.get("ready")),
                    "state": state_of(status.get("state")),
                    "last_state": state_of(status.get("lastState")),
                    "restarts": status.get("restartCount") or 0,
                }
            )
    return found


def pod_view(pod: Object, *, selected: bool, workload: str) -> t.Dict[str, t.Any]:
    """A pod of a metrics server."""
    conditions = conditions_of(pod)
    return {
        "name": dig(pod, "metadata", "name"),
        "namespace": dig(pod, "metadata", "namespace"),
        "uid": dig(pod, "metadata", "uid"),
        "created": dig(pod, "metadata", "creationTimestamp"),
        "node": dig(pod, "spec", "nodeName"),
        "phase": dig(pod, "status", "phase"),
        "reason": dig(pod, "status", "reason") or "",
        "message": shortened(dig(pod, "status", "message")),
        "ready": any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions),
        "terminating": bool(dig(pod, "metadata", "deletionTimestamp")),
        "selected": selected,
        "workload": workload,
        "pod_ip": dig(pod, "status", "podIP"),
        "pod_ips": [entry.get("ip") for entry in dig(pod, "status", "podIPs") or ()],
        "host_ip": dig(pod, "status", "hostIP"),
        "host_network": bool(dig(pod, "spec", "hostNetwork")),
        "dns_policy": dig(pod, "spec", "dnsPolicy"),
        "labels": dig(pod, "metadata", "labels") or {},
        "annotations": annotations_of(pod),
        "service_account": dig(pod, "spec", "serviceAccountName") or "default",
        "conditions": conditions,
        "containers": container_views(pod),
        "log": [],
        "previous_log": [],
    }


def workload_view(item: Object, kind: str) -> t.Dict[str, t.Any]:
    """A Deployment, StatefulSet or DaemonSet."""
    status = dig(item, "status") or {}
    replicas = dig(item, "spec", "replicas")
    if kind == "DaemonSet":
        replicas, ready = status.get("desiredNumberScheduled") or 0, status.get("numberReady") or 0
    else:
        replicas, ready = 1 if replicas is None else replicas, status.get("readyReplicas") or 0
    return {
        "kind": kind,
        "name": dig(item, "metadata", "name"),
        "namespace": dig(item, "metadata", "namespace"),
        "replicas": replicas,
        "ready": ready,
        "owner": owner_of(item),
        "labels": dig(item, "metadata", "labels") or {},
        "annotations": annotations_of(item),
        "match_labels": dig(item, "spec", "selector", "matchLabels") or {},
        "template_labels": dig(item, "spec", "template", "metadata", "labels") or {},
        "service_account": dig(item, "spec", "template", "spec", "serviceAccountName") or "default",
        "host_network": bool(dig(item, "spec", "template", "spec", "hostNetwork")),
        "images": [entry.get("image") for entry in dig(item, "spec", "template", "spec", "containers") or ()],
        "conditions": conditions_of(item),
    }


def is_the_servers(item: Object, name: str, selector: t.Mapping[str, t.Any]) -> bool:
    """Whether a workload runs the server behind a Service, by what the Service selects or by its name."""
    labels = dig(item, "spec", "template", "metadata", "labels") or {}
    if selector and all(labels.get(key) == value for key, value in selector.items()):
        return True
    own = dig(item, "metadata", "labels") or {}
    names = (
        dig(item, "metadata", "name"),
        own.get("k8s-app"),
        own.get("app.kubernetes.io/name"),
        labels.get("k8s-app"),
    )
    return name in names


def service_view(item: t.Optional[Object]) -> t.Optional[t.Dict[str, t.Any]]:
    if not item:
        return None
    return {
        "name": dig(item, "metadata", "name"),
        "namespace": dig(item, "metadata", "namespace"),
        "type": dig(item, "spec", "type"),
        "selector": dig(item, "spec", "selector") or {},
        "ports": [
            {
                "name": port.get("name") or "",
                "port": port.get("port"),
                "target_port": port.get("targetPort"),
                "protocol": port.get("protocol") or "TCP",
            }
            for port in dig(item, "spec", "ports") or ()
        ],
        "cluster_ip": dig(item, "spec", "clusterIP"),
        "cluster_ips": dig(item, "spec", "clusterIPs") or [],
        "internal_traffic_policy": dig(item, "spec", "internalTrafficPolicy"),
        "owner": owner_of(item),
        "labels": dig(item, "metadata", "labels") or {},
        "annotations": annotations_of(item),
    }


def event_view(item: Object) -> t.Dict[str, t.Any]:
    about = item.get("involvedObject") or {}
    return {
        "time": item.get("lastTimestamp") or item.get("eventTime") or dig(item, "metadata", "creationTimestamp"),
        "kind": about.get("kind"),
        "name": about.get("name"),
        "reason": item.get("reason") or "",
        "message": shortened(item.get("message")),
        "count": item.get("count") or dig(item, "series", "count") or 1,
    }


def policy_view(item: Object) -> t.Dict[str, t.Any]:
    return {
        "name": dig(item, "metadata", "name"),
        "namespace": dig(item, "metadata", "namespace"),
        "spec": item.get("spec") or {},
    }


def apiservice_failure(item: Object) -> t.Optional[t.Dict[str, t.Any]]:
    """An APIService that is not available, else None. Those that the API server serves itself never are."""
    service = dig(item, "spec", "service")
    for condition in dig(item, "status", "conditions") or ():
        if condition.get("type") == "Available" and condition.get("status") == "True":
            return None
    if not service and not dig(item, "status", "conditions"):
        return None
    found = next((entry for entry in dig(item, "status", "conditions") or () if entry.get("type") == "Available"), {})
    return {
        "name": dig(item, "metadata", "name"),
        "reason": found.get("reason") or "",
        "message": shortened(found.get("message")),
        "since": found.get("lastTransitionTime"),
        "service": {"namespace": service.get("namespace"), "name": service.get("name")} if service else None,
        "service_exists": None,
        "owner": owner_of(item),
    }


def subject_matches(subject: t.Mapping[str, t.Any], namespace: str, account: str) -> bool:
    """Whether a subject of a binding is a service account, by itself or by its groups."""
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "ServiceAccount":
        return name == account and subject.get("namespace") == namespace
    if kind == "User":
        return bool(name == "system:serviceaccount:%s:%s" % (namespace, account))
    groups = ("system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated")
    return kind == "Group" and name in groups


def roles_of(bindings: t.Iterable[Object], namespace: str, account: str) -> t.List[t.Tuple[str, str]]:
    """Kind and name of each role that some bindings give to a service account."""
    found = []
    for binding in bindings:
        if any(subject_matches(subject, namespace, account) for subject in binding.get("subjects") or ()):
            found.append((str(dig(binding, "roleRef", "kind")), str(dig(binding, "roleRef", "name"))))
    return sorted(set(found))


def autoscaler_view(item: Object) -> t.Dict[str, t.Any]:
    metrics = dig(item, "spec", "metrics") or ()
    return {
        "namespace": dig(item, "metadata", "namespace"),
        "name": dig(item, "metadata", "name"),
        "target": {key: dig(item, "spec", "scaleTargetRef", key) for key in ("kind", "name", "apiVersion")},
        "metrics": sorted(
            {
                str(dig(metric, "resource", "name") or dig(metric, "containerResource", "name") or metric.get("type"))
                for metric in metrics
            }
        ),
        "conditions": conditions_of(item),
        "containers_without_requests": [],
    }


def without_requests(target: t.Optional[Object], resources: t.Collection[str]) -> t.List[str]:
    """The containers that ask for none of a resource which their autoscaler needs, as CONTAINER: RESOURCE."""
    found = []
    for container in dig(target, "spec", "template", "spec", "containers") or ():
        asked = dig(container, "resources", "requests") or {}
        limits = dig(container, "resources", "limits") or {}
        # A limit without a request is one, too.
        found += [
            "%s: %s" % (container.get("name"), resource)
            for resource in sorted(resources)
            if resource in ("cpu", "memory") and resource not in asked and resource not in limits
        ]
    return found


def stale_versions(document: t.Any) -> t.List[str]:
    """The group versions that aggregated discovery gives from its memory, because their server does not answer."""
    found = []
    for group in (document or {}).get("items") or ():
        for version in group.get("versions") or ():
            if version.get("freshness") == "Stale":
                found.append("%s/%s" % (dig(group, "metadata", "name"), version.get("version")))
    return sorted(found)


def extra_arguments(configuration: t.Any) -> t.Dict[str, t.Any]:
    """The flags that kubeadm's ClusterConfiguration gives to API servers, in its old and its new form."""
    found = dig(configuration, "apiServer", "extraArgs")
    if isinstance(found, list):
        found = {str(entry.get("name")): entry.get("value") for entry in found if isinstance(entry, dict)}
    return masking.mask_flags({str(key): value for key, value in (found or {}).items()})
