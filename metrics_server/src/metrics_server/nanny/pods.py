# SPDX-License-Identifier: GPL-3.0-or-later
"""The pods of a Deployment, and their resize in place (Kubernetes 1.33 and newer): no restart, no new pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metrics_server.kube.client import KubeError, Requester
from metrics_server.nanny.sizing import Wanted

#: The kubelet's words for a resize that has to wait or cannot be, and for one that it has begun.
_PENDING, _IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
#: The reason of one that it has begun and cannot carry out, such as a limit below what is in use (KEP-1287).
_ERROR = "Error"
_OPERATORS = {"In": "in", "NotIn": "notin"}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the Deployment, with what its container is to have; the kubelet follows."""

    name: str
    resources: Mapping[str, Mapping[str, str]]
    #: Why its node has not given that yet; empty when nothing stands in the way.
    held_up: str


class Pods:
    """Lists and resizes the pods of one Deployment."""

    def __init__(self, client: Requester, namespace: str, deployment: str, container: str) -> None:
        self._client = client
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._deployment = deployment
        self._container = container

    async def can_resize(self) -> bool:
        """Say whether the API server has the subresource."""
        discovery = await self._client.request("GET", "/api/v1")
        return any(one.get("name") == "pods/resize" for one in discovery.get("resources") or ())

    async def of(self, deployment: Mapping[str, Any]) -> list[Pod]:
        """Return the Deployment's pods that run or are going to."""
        query = {"labelSelector": selector_text(deployment["spec"].get("selector") or {})}
        answer = await self._client.request("GET", self._path, query=query)
        return [self._view(pod) for pod in answer.get("items") or () if self._is_ours(pod)]

    async def resize(self, pod: Pod, wanted: Wanted) -> str:
        """Have a pod resized; return why the API server refuses, or an empty text. Raises KubeError."""
        resources = {"requests": wanted.requests, "limits": wanted.limits}
        try:
            await self._client.request(
                "PATCH",
                f"{self._path}/{pod.name}/resize",
                query={"fieldManager": "metrics-server-nanny"},
                body={"spec": {"containers": [{"name": self._container, "resources": resources}]}},
                content_type="application/strategic-merge-patch+json",
            )
        except KubeError as error:
            if error.status == 404:
                # It has ended meanwhile.
                return ""
            if error.status == 422:
                return str(error)
            raise
        return ""

    def _is_ours(self, pod: Mapping[str, Any]) -> bool:
        """Others may have the same labels; what this Deployment has made belongs to one of its ReplicaSets."""
        metadata = pod["metadata"]
        template = (metadata.get("labels") or {}).get("pod-template-hash")
        owners = {
            (owner.get("kind"), owner.get("name"))
            for owner in metadata.get("ownerReferences") or ()
            if owner.get("controller")
        }
        return (
            ("ReplicaSet", f"{self._deployment}-{template}") in owners
            and not metadata.get("deletionTimestamp")
            and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        )

    def _view(self, pod: Mapping[str, Any]) -> Pod:
        resources: Mapping[str, Mapping[str, str]] = {}
        for container in pod["spec"]["containers"]:
            if container["name"] == self._container:
                resources = container.get("resources") or {}
        held_up = ""
        for condition in (pod.get("status") or {}).get("conditions") or ():
            kind, reason = condition.get("type"), condition.get("reason")
            if condition.get("status") == "True" and (kind == _PENDING or (kind == _IN_PROGRESS and reason == _ERROR)):
                held_up = f"{condition.get('reason') or 'Pending'}: {condition.get('message') or 'no reason given'}"
        return Pod(pod["metadata"]["name"], resources, held_up)


def selector_text(selector: Mapping[str, Any]) -> str:
    """Return a label selector as a query has it."""
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or ():
        key, operator = one["key"], one["operator"]
        if operator in _OPERATORS:
            terms.append(f"{key} {_OPERATORS[operator]} ({','.join(one.get('values') or ())})")
        else:
            terms.append(key if operator == "Exists" else f"!{key}")
    return ",".join(terms)
