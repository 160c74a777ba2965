# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes and pods as the index keeps them: what the API publishes, and what scraping needs besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import msgspec

from metrics_server.model import NodeMeta, PodMeta
from metrics_server.sharing import shared_names, shared_text

#: Where a Node may name another path than /metrics/resource.
PATH_ANNOTATION = "metrics.k8s.io/resource-metrics-path"


@dataclass(frozen=True, slots=True)
class NodeEntry(NodeMeta):
    """A node with what is needed to reach its kubelet."""

    #: (type, address) in the order of the Node's status.
    addresses: tuple[tuple[str, str], ...]
    #: Port from status.daemonEndpoints, 0 when it has none.
    port: int
    #: Value of the annotation that names another path, empty without one.
    metrics_path: str
    #: Status of the Ready condition.
    ready: bool


@dataclass(frozen=True, slots=True)
class PodEntry(PodMeta):
    """A running pod with the containers that must have metrics before the pod's sum is true."""

    #: Names of the containers that run now (sidecars among them), sorted.
    running: tuple[str, ...]
    #: Unix seconds of its creation.
    created: int
    #: Its kubelet says that none of its containers runs, for example between two attempts of one that crashes.
    stopped: bool = False


class ObjectMeta(msgspec.Struct, rename="camel", gc=False):
    """The part of ObjectMeta that is used; labels stay JSON so that equal ones can be shared."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: msgspec.Raw = msgspec.Raw(b"null")
    annotations: dict[str, str] | None = None


class _PodObjectMeta(msgspec.Struct, rename="camel", gc=False):
    name: str = ""
    namespace: str = ""
    creation_timestamp: datetime | None = None
    resource_version: str = ""
    labels: msgspec.Raw = msgspec.Raw(b"null")


class _Address(msgspec.Struct):
    type: str = ""
    address: str = ""


class _Endpoint(msgspec.Struct, rename="pascal"):
    port: int = 0


class _Endpoints(msgspec.Struct, rename="camel"):
    kubelet_endpoint: _Endpoint | None = None


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _NodeStatus(msgspec.Struct, rename="camel"):
    addresses: list[_Address] | None = None
    daemon_endpoints: _Endpoints | None = None
    conditions: list[_Condition] | None = None


class NodeObject(msgspec.Struct):
    """A Node as the API server sends it."""

    metadata: ObjectMeta
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class _PodSpec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _State(msgspec.Struct):
    running: msgspec.Raw = msgspec.Raw(b"null")


class _ContainerStatus(msgspec.Struct):
    name: str = ""
    state: _State | None = None


class _PodStatus(msgspec.Struct, rename="camel"):
    container_statuses: list[_ContainerStatus] | None = None
    init_container_statuses: list[_ContainerStatus] | None = None


class PodObject(msgspec.Struct):
    """A Pod as the API server sends it."""

    metadata: _PodObjectMeta
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


def node_entry(node: NodeObject) -> NodeEntry:
    """Keep of a Node what the server needs."""
    status = node.status
    endpoint = status.daemon_endpoints.kubelet_endpoint if status.daemon_endpoints else None
    labels, labels_json = _labels(bytes(node.metadata.labels))
    return NodeEntry(
        name=node.metadata.name,
        labels=labels,
        labels_json=labels_json,
        addresses=tuple((address.type, address.address) for address in status.addresses or ()),
        port=endpoint.port if endpoint is not None and 0 < endpoint.port < 65536 else 0,
        metrics_path=(node.metadata.annotations or {}).get(PATH_ANNOTATION, ""),
        ready=any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions or ()),
    )


def pod_entry(pod: PodObject, known: PodEntry | None = None) -> PodEntry:
    """Keep of a Pod what the server needs: `known` itself, an entry of that name, when it says the same."""
    metadata, status = pod.metadata, pod.status
    running = _running(status)
    stopped = not running and bool(status.container_statuses)
    created = int(metadata.creation_timestamp.timestamp()) if metadata.creation_timestamp else 0
    labels, labels_json = _labels(bytes(metadata.labels))
    if (
        known is not None
        and known.labels_json == labels_json
        and (known.running is running or known.running == running)
        and known.created == created
        and known.node_name == pod.spec.node_name
        and known.stopped is stopped
    ):
        return known
    return PodEntry(
        namespace=shared_text(metadata.namespace),
        name=metadata.name,
        node_name=shared_text(pod.spec.node_name),
        labels=labels,
        labels_json=labels_json,
        running=running,
        stopped=stopped,
        created=created,
    )


def _running(status: _PodStatus) -> tuple[str, ...]:
    statuses = status.container_statuses or []
    if status.init_container_statuses:
        statuses = statuses + status.init_container_statuses
    names = [
        container.name
        for container in statuses
        if container.state is not None and bytes(container.state.running) != b"null"
    ]
    if len(names) > 1:
        names.sort()
    return shared_names(tuple(names))


# Pods come in replicas: without sharing, labels alone would be the largest part of the server's memory.


@lru_cache(maxsize=8192)
def _labels(raw: bytes) -> tuple[Mapping[str, str], bytes]:
    """Return the labels and their part of the metadata's JSON."""
    labels = msgspec.json.decode(raw, type=dict[str, str] | None) or {}
    return labels, b',"labels":' + msgspec.json.encode(labels, order="sorted") if labels else b""
