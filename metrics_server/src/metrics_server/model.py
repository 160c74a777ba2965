"""Types that the packages of the server share.

Data goes one way: scheduler -> kubelet client -> parser -> store -> rendered fragments -> API. The API layer reads the
store and the cluster index through the two protocols below and never sees a kubelet; the store never sees HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """Usage of one container, or of a node as a whole (then `name` is empty)."""

    name: str
    #: CPU in nanocores, the average over the window (Kubernetes quantity unit `n`).
    cpu_nanocores: int
    #: Working set in bytes.
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What the API publishes of one node or pod."""

    #: Unix epoch in nanoseconds of the newer of the two points.
    timestamp_ns: int
    #: Distance of the two points in nanoseconds, always positive.
    window_ns: int
    #: One entry for a node; one per container, ordered by name, for a pod.
    containers: tuple[ContainerUsage, ...]


@dataclass(frozen=True, slots=True)
class NodeMeta:
    """What the server keeps of a Node object."""

    name: str
    labels: Mapping[str, str]
    #: Their part of ObjectMeta's JSON, `,"labels":{...}` or nothing, which objects with equal labels share.
    labels_json: bytes = field(default=b"", kw_only=True)


@dataclass(frozen=True, slots=True)
class PodMeta:
    """What the server keeps of a Pod object."""

    namespace: str
    name: str
    node_name: str
    labels: Mapping[str, str]
    labels_json: bytes = field(default=b"", kw_only=True)


class PodColumns(NamedTuple):
    """What is measured of all pods of a node: containers' names and slots by pod, the rest by slot."""

    names: Sequence[tuple[str, ...]]
    slots: Sequence[tuple[int, ...]]
    #: CPU in nanocores and working set in bytes; None of a container that has no reading.
    usages: Sequence[tuple[int, int] | None]
    #: Of the last point and of the one before it, in milliseconds since 1970.
    times: Sequence[int]
    previous_times: Sequence[int]


class Form(Protocol):
    """A way of writing readings. All fragments of one form are made by the same object."""

    def node(self, reading: Reading) -> bytes:
        """Return the fragment of a node."""

    def pod(self, reading: Reading) -> bytes:
        """Return the fragment of a pod."""

    def pods(self, columns: PodColumns) -> list[bytes | None]:
        """Return the fragments of all pods of a node, by number: None where a container has no reading."""


class MetricsReader(Protocol):
    """Read side of the store (`store.Store`)."""

    def node_reading(self, name: str) -> Reading | None:
        """Return the reading of a node, or None when there are not two points yet."""

    def pod_reading(self, namespace: str, name: str) -> Reading | None:
        """Return the reading of a pod, or None when not every running container has two points yet."""

    def node_fragment(self, name: str, form: Form = ...) -> bytes | None:
        """Return what is measured of a node in that form (JSON unless it is named), or None."""

    def pod_fragment(self, namespace: str, name: str) -> bytes | None:
        """Return what is measured of a pod as JSON, or None."""

    def reading_of(self, pod: Any) -> Reading | None:
        """Return what `pod_reading` does, for an entry that the ClusterReader beside this store gave out: cheaper."""

    def fragment_of(self, pod: Any, form: Form = ..., *, alone: bool = False) -> bytes | None:
        """Return what is measured of such an entry; `alone`: hardly any other pod of its node is wanted."""


class ClusterReader(Protocol):
    """Read side of the node and pod index (`kube.index.ClusterIndex`), kept live by watches."""

    @property
    def synced(self) -> bool:
        """Whether both initial lists have been received."""

    @property
    def nodes_synced(self) -> bool:
        """Whether the initial list of nodes has been received."""

    @property
    def pods_synced(self) -> bool:
        """Whether the initial list of pods has been received."""

    @property
    def pod_count(self) -> int:
        """How many pods run."""

    def node(self, name: str) -> NodeMeta | None:
        """Return one node, or None."""

    def nodes(self) -> Sequence[NodeMeta]:
        """Return all nodes that match `--node-selector`, ordered by name."""

    def pod(self, namespace: str, name: str) -> PodMeta | None:
        """Return one running pod, or None."""

    def pods(self, namespace: str | None = None) -> Sequence[PodMeta]:
        """Return all running pods of a namespace (or of the cluster), ordered by (namespace, name)."""
