# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms that `kubectl get` and metadata clients ask for: `Table` and `PartialObjectMetadata`."""

from __future__ import annotations

from collections.abc import Sequence

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
#: What `includeObject` may be.
INCLUDE = ("None", "Metadata", "Object")


def stamp_json(stamp: int) -> bytes:
    """Return the last member of an object's metadata, for a time in whole seconds."""
    return f',"creationTimestamp":"{rfc3339(stamp)}"'.encode()


def document(rows: Sequence[bytes], version: str) -> list[bytes]:
    """Return a table of finished rows."""
    head = f'{{"kind":"Table","apiVersion":"meta.k8s.io/{version}","metadata":{{}},"columnDefinitions":'.encode()
    return [head, _COLUMNS, b',"rows":[', *_separated(rows), b"]}"]


def row(
    meta: NodeMeta | PodMeta,
    reading: Reading,
    fragment: bytes,
    resource: Resource,
    api_version: str,
    stamp: int,
    include: str,
) -> bytes:
    """Return one row: the sums over all containers, and as much of the object as was asked for."""
    cells = msgspec.json.encode(
        (
            meta.name,
            cpu_quantity(sum(usage.cpu_nanocores for usage in reading.containers)),
            memory_quantity(sum(usage.memory_bytes for usage in reading.containers)),
            go_duration(reading.window_ns),
        )
    )
    if include == "None":
        shown = b"null"
    elif include == "Metadata":
        shown = partial_object(meta, stamp, "v1")
    else:
        head = f'{{"kind":"{resource.kind}","apiVersion":"{GROUP}/{api_version}","metadata":'.encode()
        shown = b"".join((head, meta.metadata_json, stamp_json(stamp), b"},", fragment, b"}"))
    return b"".join((b'{"cells":', cells, b',"object":', shown, b"}"))


def partial_object(meta: NodeMeta | PodMeta, stamp: int, version: str) -> bytes:
    """Return the metadata of one object."""
    head = f'{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/{version}","metadata":'.encode()
    return b"".join((head, meta.metadata_json, stamp_json(stamp), b"}}"))


def partial_object_list(metas: Sequence[NodeMeta | PodMeta], stamp: int, version: str) -> list[bytes]:
    """Return the metadata of many objects."""
    head = f'{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/{version}","metadata":{{}},"items":['
    return [head.encode(), *_separated([partial_object(meta, stamp, version) for meta in metas]), b"]}"]


def _separated(items: Sequence[bytes]) -> list[bytes]:
    parts: list[bytes] = []
    for item in items:
        if parts:
            parts.append(b",")
        parts.append(item)
    return parts
