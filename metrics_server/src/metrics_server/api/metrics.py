# SPDX-License-Identifier: GPL-3.0-or-later
"""The resources themselves: NodeMetrics and PodMetrics, one or many, in every form that a client may ask for.

The usual form, JSON as it is, is put together from fragments that the store rendered when the sample came in: a list
of many thousand pods costs a reference for each, and no copy until it is sent. The other forms are made on request.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from metrics_server.api import protobuf, status, table
from metrics_server.api.discovery import RESOURCES, Resource
from metrics_server.api.metadata import head_json, stamp_json
from metrics_server.api.negotiate import PROTOBUF, YAML, Choice
from metrics_server.api.selectors import FieldSelector, LabelSelector
from metrics_server.fragments import JSON
from metrics_server.model import ClusterReader, Form, MetricsReader, NodeMeta, PodMeta, Reading
from metrics_server.pace import Pace

#: Objects handled between two readings of the clock: each may be one whose node must be rendered first.
_STRIDE = 32
#: A list of more than this part of all pods is better rendered node by node than pod by pod.
_WHOLE_NODES = 0.3
#: A list observes the age of one sample in so many strides: enough for a histogram, and cheap.
_FRESHNESS_STRIDES = 4

NODES, PODS = RESOURCES

#: Fields that a selector may name.
FIELDS = {
    "nodes": ("metadata.name", "metadata.namespace"),
    "pods": ("metadata.name", "metadata.namespace", "spec.nodeName"),
}
#: Kinds that the objects can be turned into.
OBJECT_KINDS = ("Table", "PartialObjectMetadata")
LIST_KINDS = ("Table", "PartialObjectMetadataList")

Meta = NodeMeta | PodMeta


@dataclass(frozen=True, slots=True)
class Answer:
    """A body in parts, and what it is."""

    content_type: str
    parts: list[bytes]
    #: The length of the body; whoever makes a long one counts as it goes, and others leave it at -1.
    size: int = -1

    def __post_init__(self) -> None:
        if self.size < 0:
            object.__setattr__(self, "size", sum(map(len, self.parts)))


class _Body:
    """A long body while it is put together: its parts, and how long they are."""

    __slots__ = ("counted", "parts", "size")

    def __init__(self, head: bytes) -> None:
        self.parts = [head]
        self.size = 0
        self.counted = 0

    def count(self) -> None:
        """Add the length of what is new. All at the end would take longer than a turn may be."""
        self.size += sum(map(len, self.parts[self.counted :]))
        self.counted = len(self.parts)

    def end(self, tail: bytes) -> None:
        """Add the last part."""
        self.parts.append(tail)
        self.count()


@dataclass(frozen=True, slots=True)
class ListRequest:
    """What a list is asked for."""

    resource: Resource
    version: str
    namespace: str | None
    labels: LabelSelector
    fields: FieldSelector


class MetricsApi:
    """Answers of the group metrics.k8s.io."""

    def __init__(
        self,
        store: MetricsReader,
        cluster: ClusterReader,
        observe_age: Callable[[float], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._observe_age = observe_age
        self._clock = clock

    # One object.

    def read(
        self, resource: Resource, version: str, namespace: str, name: str, choice: Choice, *, include: str = "Metadata"
    ) -> Answer:
        """Return one object; raise `ApiError` when there is none."""
        self._expect_listed(resource)
        meta: Meta | None
        if resource is NODES:
            meta = self._cluster.node(name)
            if meta is None:
                raise status.not_found("node", name, "")
            missing = name
        else:
            meta = self._cluster.pod(namespace, name)
            if meta is None:
                raise status.not_found("pods", name, "")
            missing = f"{namespace}/{name}"
        binary = choice.media_type == PROTOBUF and not choice.kind
        reading = self._reading(meta)
        fragment = self._fragment(meta, protobuf.MEASURED if binary else JSON, alone=True)
        if reading is None or fragment is None:
            raise status.not_found(resource.metrics_name, missing)
        self._observe_age(self._clock() - reading.timestamp_ns / 1e9)
        stamp = int(self._clock())
        if choice.kind == "Table":
            row = table.Rows(resource, version, stamp, include, choice.version)(meta, fragment)
            return _text(choice, [table.document_head(choice.version), *row, b"]}"])
        if choice.kind == "PartialObjectMetadata":
            if choice.media_type == PROTOBUF:
                return Answer(PROTOBUF, [protobuf.partial_object(meta, stamp, choice.version)])
            return _text(choice, [table.partial_object(meta, stamp, choice.version)])
        if binary:
            message = protobuf.metrics(meta, fragment, stamp)
            return Answer(PROTOBUF, [protobuf.envelope(resource.kind, version, message)])
        head = f'{{"kind":"{resource.kind}","apiVersion":"{status.GROUP}/{version}","metadata":'.encode()
        return _text(choice, [head, head_json(meta), meta.labels_json, stamp_json(stamp), b"},", fragment, b"}"])

    # Many.

    async def read_list(self, request: ListRequest, choice: Choice, *, include: str = "Metadata") -> Answer:
        """Return all objects that are asked for, ordered by namespace and name; `ApiError` before all are known."""
        self._expect_listed(request.resource)
        stamp = int(self._clock())
        if choice.kind == "Table":
            body = await self._table(request, choice.version, include, stamp)
        elif choice.kind == "PartialObjectMetadataList":
            body = await self._partial_objects(request, choice, stamp)
        elif choice.media_type == PROTOBUF:
            body = await self._protobuf(request, stamp)
        else:
            body = await self._plain(request, stamp)
        return Answer(_text_type(choice) if choice.media_type != PROTOBUF else PROTOBUF, body.parts, body.size)

    async def _plain(self, request: ListRequest, stamp: int) -> _Body:
        head = (
            f'{{"kind":"{request.resource.kind}List","apiVersion":"{status.GROUP}/{request.version}",'
            '"metadata":{},"items":['
        )
        body = _Body(head.encode())
        created = stamp_json(stamp) + b"},"
        opening = b'{"metadata":'
        add = body.parts.extend
        fragment_of = self._fragment if request.resource is NODES else self._store.fragment_of
        alone = self._few(request)
        async for batch in self._batches(request):
            for meta in batch:
                fragment = fragment_of(meta, JSON, alone=alone)
                if fragment is not None:
                    add((opening, head_json(meta), meta.labels_json, created, fragment))
                    opening = b'},{"metadata":'
            body.count()
        body.end(b"]}\n" if len(body.parts) == 1 else b"}]}\n")
        return body

    async def _protobuf(self, request: ListRequest, stamp: int) -> _Body:
        # The head tells the length of all that follows, and takes this place when that is known.
        body = _Body(b"")
        item = protobuf.ListItems(stamp)
        add = body.parts.extend
        fragment_of = self._fragment if request.resource is NODES else self._store.fragment_of
        alone = self._few(request)
        async for batch in self._batches(request):
            for meta in batch:
                measured = fragment_of(meta, protobuf.MEASURED, alone=alone)
                if measured is not None:
                    add(item(meta, measured))
            body.count()
        return _in_envelope(body, f"{request.resource.kind}List", f"{status.GROUP}/{request.version}")

    async def _table(self, request: ListRequest, version: str, include: str, stamp: int) -> _Body:
        body = _Body(table.document_head(version))
        render = table.Rows(request.resource, request.version, stamp, include, version)
        separator = b""
        alone = self._few(request)
        async for batch in self._batches(request):
            for meta in batch:
                fragment = self._fragment(meta, alone=alone)
                if fragment is not None:
                    body.parts += (separator, *render(meta, fragment))
                    separator = b","
            body.count()
        body.end(b"]}\n")
        return body

    async def _partial_objects(self, request: ListRequest, choice: Choice, stamp: int) -> _Body:
        binary = choice.media_type == PROTOBUF
        body = _Body(b"" if binary else table.partial_object_list_head(choice.version))
        separator = b""
        alone = self._few(request)
        async for batch in self._batches(request):
            for meta in batch:
                if self._fragment(meta, alone=alone) is None:
                    continue
                if binary:
                    body.parts.append(protobuf.partial_object_item(meta, stamp))
                else:
                    body.parts += (separator, table.partial_object(meta, stamp, choice.version))
                    separator = b","
            body.count()
        if binary:
            return _in_envelope(body, "PartialObjectMetadataList", f"meta.k8s.io/{choice.version}")
        body.end(b"]}\n")
        return body

    async def _batches(self, request: ListRequest) -> AsyncIterator[list[Meta]]:
        """Yield what is selected in batches, and let the event loop breathe between them."""
        pace = Pace()
        selected = self._selected(request)
        number = 0
        while batch := list(islice(selected, _STRIDE)):
            yield batch
            if not number % _FRESHNESS_STRIDES:
                reading = self._reading(batch[0])
                if reading is not None:
                    self._observe_age(self._clock() - reading.timestamp_ns / 1e9)
            number += 1
            if pace.over():
                await pace.rest()

    def _selected(self, request: ListRequest) -> Iterator[Meta]:
        labels, fields = request.labels, request.fields
        candidates: Sequence[Meta] = self._candidates(request)
        if not labels and not fields:
            return iter(candidates)
        return (
            meta for meta in candidates if labels.matches(meta.labels) and (not fields or fields.matches(_fields(meta)))
        )

    def _candidates(self, request: ListRequest) -> Sequence[Meta]:
        if request.resource is NODES:
            return self._cluster.nodes()
        namespace = request.namespace or request.fields.exact("metadata.namespace")
        name = request.fields.exact("metadata.name")
        if namespace and name:
            pod = self._cluster.pod(namespace, name)
            return () if pod is None else (pod,)
        return self._cluster.pods(namespace)

    def _expect_listed(self, resource: Resource) -> None:
        """Whoever asks past the Service right after the start must not take a part of the objects for all of them."""
        nodes = resource is NODES
        if not (self._cluster.nodes_synced if nodes else self._cluster.pods_synced):
            raise status.unavailable(f"{'nodes' if nodes else 'pods'} have not been listed yet")

    def _few(self, request: ListRequest) -> bool:
        """Whether a list is likely to have only some pods of each node."""
        if request.labels or request.fields:
            return True
        return len(self._candidates(request)) < _WHOLE_NODES * self._cluster.pod_count

    def _reading(self, meta: Meta) -> Reading | None:
        if isinstance(meta, PodMeta):
            return self._store.reading_of(meta)
        return self._store.node_reading(meta.name)

    def _fragment(self, meta: Meta, form: Form = JSON, *, alone: bool = False) -> bytes | None:
        if isinstance(meta, PodMeta):
            return self._store.fragment_of(meta, form, alone=alone)
        return self._store.node_fragment(meta.name, form)


def _in_envelope(body: _Body, kind: str, api_version: str) -> _Body:
    """Complete a list as protobuf of which the items are there, counted, behind an empty part."""
    body.parts[0] = protobuf.list_head(kind, api_version, body.size)
    body.parts.append(protobuf.LIST_TAIL)
    body.size += len(body.parts[0]) + len(protobuf.LIST_TAIL)
    body.counted = len(body.parts)
    return body


def _fields(meta: Meta) -> Callable[[str], str]:
    def field_of(name: str) -> str:
        if name == "metadata.name":
            return meta.name
        if isinstance(meta, PodMeta):
            return meta.namespace if name == "metadata.namespace" else meta.node_name
        return ""

    return field_of


def _text(choice: Choice, parts: list[bytes]) -> Answer:
    return Answer(_text_type(choice), [*parts, b"\n"])


def _text_type(choice: Choice) -> str:
    # JSON is valid YAML, so the client that wants YAML gets exactly that.
    return YAML if choice.media_type == YAML else "application/json"
