# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms that `kubectl get` and metadata clients ask for: `Table` and `PartialObjectMetadata`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from metrics_server.api.discovery import Resource
from metrics_server.api.status import GROUP
from metrics_server.model import NodeMeta, PodMeta, Reading
from metrics_server.quantity import cpu_quantity, go_duration, memory_quantity, rfc3339

#: The columns stand even when no row does: a client that scripts on them must not see them come and go.
_COLUMNS = msgspec.json.encode(
    [
        {"name": "Name", "type": "string", "format": "name", "description": "Name of the resource", "priority": 0},
        {"name": "cpu", "type": "string", "format": "quantity", "description": "", "priority": 0},
        {"name": "memory", "type": "string", "format": "quantity", "description": "", "priority": 0},
        {"name": "Window", "type": "string", "format": "duration", "description": "", "priority": 0},
    ]
)
#: A fragment of the store with one usage in it, of a node or of the only container of a pod: what a row needs is there.
_ONE_USAGE = re.compile(
    rb'"timestamp":"[^"]*","window":"([^"]*)",(?:"containers":\[\{"name":"(?:[^"\\]|\\.)*",)?'
    rb'"usage":\{"cpu":"([^"]*)","memory":"([^"]*)"\}(?:\}\])?'
)
#: What `includeObject` may be.
INCLUDE = ("None", "Metadata", "Object")


@lru_cache(maxsize=4)
def stamp_json(stamp: int) -> bytes:
    """Return the last member of an object's metadata, for a time in whole seconds."""
    return f',"creationTimestamp":"{rfc3339(stamp)}"'.encode()


def document_head(version: str) -> bytes:
    """Return what stands before the first row of a table; `]}` follows the last one, and commas are between them."""
    head = f'{{"kind":"Table","apiVersion":"meta.k8s.io/{version}","metadata":{{}},"columnDefinitions":'.encode()
    return b'%b%b,"rows":[' % (head, _COLUMNS)


class Rows:
    """Makes the rows of one table: the sums over all containers, and as much of the objects as was asked for."""

    def __init__(self, resource: Resource, api_version: str, stamp: int, include: str) -> None:
        self._include = include
        self._created = stamp_json(stamp)
        if include == "Metadata":
            self._head = _partial_object_head("v1")
        else:
            self._head = f'{{"kind":"{resource.kind}","apiVersion":"{GROUP}/{api_version}","metadata":'.encode()

    def __call__(
        self, meta: NodeMeta | PodMeta, fragment: bytes, reading_of: Callable[[Any], Reading | None]
    ) -> Sequence[bytes]:
        """Return one row in parts; `reading_of` is asked only when there is something to sum up."""
        found = _ONE_USAGE.fullmatch(fragment)
        if found is not None:
            window, cpu, memory = found.groups()
        else:
            reading = reading_of(meta)
            assert reading is not None
            cpu = cpu_quantity(sum(usage.cpu_nanocores for usage in reading.containers)).encode()
            memory = memory_quantity(sum(usage.memory_bytes for usage in reading.containers)).encode()
            window = go_duration(reading.window_ns).encode()
        cells = b'{"cells":[%b,"%b","%b","%b"],"object":' % (msgspec.json.encode(meta.name), cpu, memory, window)
        if self._include == "None":
            return cells, b"null}"
        if self._include == "Metadata":
            return cells, self._head, meta.metadata_json, self._created, b"}}}"
        return cells, self._head, meta.metadata_json, self._created, b"},", fragment, b"}}"


@lru_cache(maxsize=4)
def _partial_object_head(version: str) -> bytes:
    return f'{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/{version}","metadata":'.encode()


def partial_object(meta: NodeMeta | PodMeta, stamp: int, version: str) -> bytes:
    """Return the metadata of one object."""
    return b"".join((_partial_object_head(version), meta.metadata_json, stamp_json(stamp), b"}}"))


def partial_object_list_head(version: str) -> bytes:
    """Return what stands before the first object of a list of metadata."""
    head = f'{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/{version}","metadata":{{}},"items":['
    return head.encode()
