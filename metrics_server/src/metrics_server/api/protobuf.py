# SPDX-License-Identifier: GPL-3.0-or-later
"""`application/vnd.kubernetes.protobuf`: the envelope and the few messages of this API.

The messages are small and fixed, so that they are written by hand: a generator, its runtime and the descriptors of
half of the Kubernetes API would be a hundred times the code. Field numbers are those of `k8s.io/metrics`,
`k8s.io/apimachinery/pkg/apis/meta/v1` and `k8s.io/apimachinery/pkg/runtime`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from metrics_server.api.status import GROUP, ApiError
from metrics_server.model import ContainerUsage, NodeMeta, PodMeta, Reading
from metrics_server.quantity import cpu_quantity, memory_quantity

_MAGIC = b"k8s\x00"


def varint(number: int) -> bytes:
    """Return an unsigned number in base 128, least significant group first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _bytes(field: int, value: bytes) -> bytes:
    size = len(value)
    # One byte holds the lengths of nearly all fields here.
    length = bytes((size,)) if size < 0x80 else varint(size)
    return bytes((field << 3 | 2,)) + length + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _number(field: int, value: int) -> bytes:
    return bytes((field << 3,)) + varint(value & 0xFFFFFFFFFFFFFFFF)


def envelope(kind: str, version: str, message: bytes, group: str = GROUP) -> bytes:
    """Wrap a message with its kind, as Kubernetes sends it."""
    return _MAGIC + _type(f"{group}/{version}", kind) + _bytes(2, message) + _text(3, "") + _text(4, "")


#: selfLink, resourceVersion and continue are empty.
_LIST_META = _text(1, "") + _text(2, "") + _text(3, "")


@lru_cache(maxsize=64)
def _type(api_version: str, kind: str) -> bytes:
    return _bytes(1, _text(1, api_version) + _text(2, kind))


def _list_parts(api_version: str, kind: str, items: Sequence[bytes]) -> list[bytes]:
    head = _bytes(1, _LIST_META)
    parts: list[bytes] = []
    size = len(head)
    for item in items:
        opening = b"\x12" + varint(len(item))
        size += len(opening) + len(item)
        parts += (opening, item)
    start = _MAGIC + _type(api_version, kind) + b"\x12" + varint(size)
    return [start, head, *parts, _text(3, "") + _text(4, "")]


def list_envelope(kind: str, version: str, items: Sequence[bytes]) -> list[bytes]:
    """Return a list of finished messages, in parts."""
    return _list_parts(f"{GROUP}/{version}", kind, items)


def metrics(meta: NodeMeta | PodMeta, reading: Reading, stamp: int) -> bytes:
    """Return a NodeMetrics or PodMetrics message."""
    if isinstance(meta, PodMeta):
        usage = b"".join(
            [_bytes(4, _text(1, container.name) + _usage(2, container)) for container in reading.containers]
        )
    else:
        usage = _usage(4, reading.containers[0])
    return b"".join(
        (
            _bytes(1, object_meta(meta, stamp)),
            _bytes(2, _time(reading.timestamp_ns // 1_000_000_000)),
            _bytes(3, _number(1, reading.window_ns)),
            usage,
        )
    )


def _usage(field: int, usage: ContainerUsage) -> bytes:
    cpu = _text(1, cpu_quantity(usage.cpu_nanocores))
    memory = _text(1, memory_quantity(usage.memory_bytes))
    return _bytes(field, b"\n\x03cpu" + _bytes(2, cpu)) + _bytes(field, b"\n\x06memory" + _bytes(2, memory))


def object_meta(meta: NodeMeta | PodMeta, stamp: int) -> bytes:
    """Return an ObjectMeta message."""
    namespace = meta.namespace if isinstance(meta, PodMeta) else ""
    return b"".join(
        (
            _text(1, meta.name),
            _text(2, ""),
            _text(3, namespace),
            _text(4, ""),
            _text(5, ""),
            _text(6, ""),
            _number(7, 0),
            _bytes(8, _time(stamp)),
            _labels(meta.labels),
        )
    )


def _labels(labels: Mapping[str, str]) -> bytes:
    return b"".join([_bytes(11, _text(1, key) + _text(2, labels[key])) for key in sorted(labels)])


def _time(seconds: int) -> bytes:
    return _number(1, seconds) + _number(2, 0)


def partial_object(meta: NodeMeta | PodMeta, stamp: int, version: str) -> bytes:
    """Return a PartialObjectMetadata in its envelope."""
    message = _bytes(1, object_meta(meta, stamp))
    return envelope("PartialObjectMetadata", version, message, "meta.k8s.io")


def partial_object_list(metas: Sequence[NodeMeta | PodMeta], stamp: int, version: str) -> list[bytes]:
    """Return a PartialObjectMetadataList in its envelope, in parts."""
    items = [_bytes(1, object_meta(meta, stamp)) for meta in metas]
    return _list_parts(f"meta.k8s.io/{version}", "PartialObjectMetadataList", items)


def status_message(error: ApiError) -> bytes:
    """Return an error as a Status in its envelope."""
    details = error.details or {}
    message = [
        _bytes(1, _LIST_META),
        _text(2, "Failure"),
        _text(3, error.message),
        _text(4, error.reason),
    ]
    if error.details is not None:
        message.append(
            _bytes(
                5,
                _text(1, str(details.get("name", "")))
                + _text(2, str(details.get("group", "")))
                + _text(3, str(details.get("kind", "")))
                + _number(5, int(details.get("retryAfterSeconds", 0))),
            )
        )
    message.append(_number(6, error.code))
    return _MAGIC + _type("v1", "Status") + _bytes(2, b"".join(message)) + _text(3, "") + _text(4, "")
