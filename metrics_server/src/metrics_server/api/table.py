# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms that `kubectl get` and metadata clients ask for: `Table` and `PartialObjectMetadata`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from metrics_server.api.discovery import Resource
from metrics_server.api.fragment import Usage, read
from metrics_server.api.metadata import head_json, stamp_json
from metrics_server.api.status import GROUP
from metrics_server.model import NodeMeta, PodMeta
from metrics_server.quantity import cpu_quantity, memory_quantity, parse_quantity

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


def document_head(version: str) -> bytes:
    """Return what stands before the first row of a table; `]}` follows the last one, and commas are between them."""
    head = f'{{"kind":"Table","apiVersion":"meta.k8s.io/{version}","metadata":{{}},"columnDefinitions":'.encode()
    return b'%b%b,"rows":[' % (head, _COLUMNS)


class Rows:
    """Makes the rows of one table: the sums over all containers, and as much of the objects as was asked for."""

    def __init__(self, resource: Resource, api_version: str, stamp: int, include: str, version: str = "v1") -> None:
        """`version` is that of the table, which the metadata in its rows have as well."""
        self._include = include
        self._created = stamp_json(stamp)
        if include == "Metadata":
            self._head = _partial_object_head(version)
        else:
            self._head = f'{{"kind":"{resource.kind}","apiVersion":"{GROUP}/{api_version}","metadata":'.encode()

    def __call__(self, meta: NodeMeta | PodMeta, fragment: bytes) -> Sequence[bytes]:
        """Return one row in parts, of what the store rendered."""
        _unused, window, usages = read(fragment)
        cpu, memory = usages[0][1:] if len(usages) == 1 else _sums(usages)
        cells = b'{"cells":[%b,"%b","%b","%b"],"object":' % (msgspec.json.encode(meta.name), cpu, memory, window)
        if self._include == "None":
            return cells, b"null}"
        if self._include == "Metadata":
            return cells, self._head, head_json(meta), meta.labels_json, self._created, b"}}}"
        return cells, self._head, head_json(meta), meta.labels_json, self._created, b"},", fragment, b"}}"


def _sums(usages: Sequence[Usage]) -> tuple[bytes, bytes]:
    nanocores = sum(parse_quantity(cpu.decode()) for _unused, cpu, _unused in usages) * 10**9
    memory = sum(parse_quantity(memory.decode()) for _unused, _unused, memory in usages)
    return cpu_quantity(int(nanocores)).encode(), memory_quantity(int(memory)).encode()


@lru_cache(maxsize=4)
def _partial_object_head(version: str) -> bytes:
    return f'{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/{version}","metadata":'.encode()


def partial_object(meta: NodeMeta | PodMeta, stamp: int, version: str) -> bytes:
    """Return the metadata of one object."""
    return b"".join((_partial_object_head(version), head_json(meta), meta.labels_json, stamp_json(stamp), b"}}"))


def partial_object_list_head(version: str) -> bytes:
    """Return what stands before the first object of a list of metadata."""
    head = f'{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/{version}","metadata":{{}},"items":['
    return head.encode()
