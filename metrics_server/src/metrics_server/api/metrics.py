# SPDX-License-Identifier: GPL-3.0-or-later
"""The resources themselves: NodeMetrics and PodMetrics, one or many, in every form that a client may ask for.

The usual form, JSON as it is, is put together from fragments that the store rendered when the sample came in: a list
of many thousand pods costs a reference for each, and no copy until it is sent. The other forms are made on request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from metrics_server.api import protobuf, status, table
from metrics_server.api.discovery import RESOURCES, Resource
from metrics_server.api.negotiate import PROTOBUF, YAML, Choice
from metrics_server.api.selectors import FieldSelector, LabelSelector
from metrics_server.model import ClusterReader, MetricsReader, NodeMeta, PodMeta, Reading

#: Objects handled between two looks at the event loop: a few milliseconds of work.
_STRIDE = 1000
#: A list observes the age of about this many samples a stride: enough for a histogram, and cheap.
_FRESHNESS_SAMPLES = 8

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
    #: The length of the body.
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(map(len, self.parts)))


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
        self._protobuf = protobuf.ItemCache()

    # One object.

    def read(
        self, resource: Resource, version: str, namespace: str, name: str, choice: Choice, *, include: str = "Metadata"
    ) -> Answer:
        """Return one object; raise `ApiError` when there is none."""
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
        reading, fragment = self._reading(meta), self._fragment(meta)
        if reading is None or fragment is None:
            raise status.not_found(resource.metrics_name, missing)
        self._observe_age(self._clock() - reading.timestamp_ns / 1e9)
        stamp = int(self._clock())
        if choice.kind == "Table":
            rows = [table.row(meta, reading, fragment, resource, version, stamp, include)]
            return _text(choice, table.document(rows, choice.version))
        if choice.kind == "PartialObjectMetadata":
            if choice.media_type == PROTOBUF:
                return Answer(PROTOBUF, [protobuf.partial_object(meta, stamp, choice.version)])
            return _text(choice, [table.partial_object(meta, stamp, choice.version)])
        if choice.media_type == PROTOBUF:
            return Answer(PROTOBUF, [protobuf.envelope(resource.kind, version, protobuf.metrics(meta, reading, stamp))])
        head = f'{{"kind":"{resource.kind}","apiVersion":"{status.GROUP}/{version}","metadata":'.encode()
        return _text(choice, [head, meta.metadata_json, table.stamp_json(stamp), b"},", fragment, b"}"])

    # Many.

    async def read_list(self, request: ListRequest, choice: Choice, *, include: str = "Metadata") -> Answer:
        """Return all objects that are asked for, ordered by namespace and name."""
        stamp = int(self._clock())
        if choice.kind == "Table":
            return _text(choice, await self._table(request, choice.version, include, stamp))
        if choice.kind == "PartialObjectMetadataList":
            return await self._partial_objects(request, choice, stamp)
        if choice.media_type == PROTOBUF:
            parts = await self._protobuf_items(request, stamp)
            return Answer(PROTOBUF, protobuf.list_envelope(f"{request.resource.kind}List", request.version, parts))
        return _text(choice, await self._plain(request, stamp))

    async def _plain(self, request: ListRequest, stamp: int) -> list[bytes]:
        head = (
            f'{{"kind":"{request.resource.kind}List","apiVersion":"{status.GROUP}/{request.version}",'
            '"metadata":{},"items":['
        )
        parts = [head.encode()]
        created = table.stamp_json(stamp) + b"},"
        opening = b'{"metadata":'
        add = parts.extend
        fragment_of = self._fragment if request.resource is NODES else self._store.fragment_of
        async for batch in _batches(self._selected(request)):
            for meta in batch:
                fragment = fragment_of(meta)
                if fragment is not None:
                    add((opening, meta.metadata_json, created, fragment))
                    opening = b'},{"metadata":'
            self._observe_some(batch)
        parts.append(b"]}" if len(parts) == 1 else b"}]}")
        return parts

    async def _protobuf_items(self, request: ListRequest, stamp: int) -> list[bytes]:
        parts: list[bytes] = []
        created = protobuf.stamp_field(stamp)
        cache = self._protobuf
        if len(self._candidates(request)) > cache.MAX_ITEMS:
            # None would be found again before it was evicted for others.
            async for batch in _batches(self._selected(request)):
                readings = [(meta, self._reading(meta)) for meta in batch]
                parts += [protobuf.list_item(meta, reading, stamp) for meta, reading in readings if reading is not None]
                self._observe_some(batch)
            return parts
        async for batch in _batches(self._selected(request)):
            for meta in batch:
                fragment = self._fragment(meta)
                if fragment is None:
                    continue
                item = cache.find(meta, fragment)
                if item is None:
                    reading = self._reading(meta)
                    if reading is None:
                        continue
                    item = cache.add(meta, fragment, reading, created)
                parts += (item[0], created, item[1])
            self._observe_some(batch)
        return parts

    async def _table(self, request: ListRequest, version: str, include: str, stamp: int) -> list[bytes]:
        rows: list[bytes] = []
        async for meta, reading, fragment in self._complete(request):
            rows.append(table.row(meta, reading, fragment, request.resource, request.version, stamp, include))
        return table.document(rows, version)

    async def _partial_objects(self, request: ListRequest, choice: Choice, stamp: int) -> Answer:
        metas: list[Meta] = [entry[0] async for entry in self._complete(request)]
        if choice.media_type == PROTOBUF:
            return Answer(PROTOBUF, protobuf.partial_object_list(metas, stamp, choice.version))
        return _text(choice, table.partial_object_list(metas, stamp, choice.version))

    async def _complete(self, request: ListRequest) -> AsyncIterator[tuple[Meta, Reading, bytes]]:
        """Yield what is selected and has metrics."""
        async for batch in _batches(self._selected(request)):
            for meta in batch:
                reading, fragment = self._reading(meta), self._fragment(meta)
                if reading is not None and fragment is not None:
                    yield meta, reading, fragment
            self._observe_some(batch)

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

    def _reading(self, meta: Meta) -> Reading | None:
        if isinstance(meta, PodMeta):
            return self._store.pod_reading(meta.namespace, meta.name)
        return self._store.node_reading(meta.name)

    def _fragment(self, meta: Meta) -> bytes | None:
        if isinstance(meta, PodMeta):
            return self._store.fragment_of(meta)
        return self._store.node_fragment(meta.name)

    def _observe_some(self, batch: Sequence[Meta]) -> None:
        now = self._clock()
        for meta in batch[:: max(1, len(batch) // _FRESHNESS_SAMPLES)]:
            reading = self._reading(meta)
            if reading is not None:
                self._observe_age(now - reading.timestamp_ns / 1e9)


async def _batches(metas: Iterator[Meta]) -> AsyncIterator[list[Meta]]:
    """Yield the objects in batches, and let the event loop breathe between them."""
    while batch := list(islice(metas, _STRIDE)):
        yield batch
        await asyncio.sleep(0)


def _fields(meta: Meta) -> Callable[[str], str]:
    def field_of(name: str) -> str:
        if name == "metadata.name":
            return meta.name
        if isinstance(meta, PodMeta):
            return meta.namespace if name == "metadata.namespace" else meta.node_name
        return ""

    return field_of


def _text(choice: Choice, parts: list[bytes]) -> Answer:
    # JSON is valid YAML, so the client that wants YAML gets exactly that.
    return Answer(YAML if choice.media_type == YAML else "application/json", [*parts, b"\n"])
