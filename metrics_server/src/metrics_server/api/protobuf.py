# SPDX-License-Identifier: GPL-3.0-or-later
"""`application/vnd.kubernetes.protobuf`: the envelope and the few messages of this API.

The messages are small and fixed, so that they are written by hand: a generator, its runtime and the descriptors of
half of the Kubernetes API would be a hundred times the code. Field numbers are those of `k8s.io/metrics`,
`k8s.io/apimachinery/pkg/apis/meta/v1` and `k8s.io/apimachinery/pkg/runtime`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

import msgspec

from metrics_server.api.fragment import read
from metrics_server.api.status import GROUP, ApiError
from metrics_server.flags import parse_duration
from metrics_server.model import NodeMeta, PodMeta

_MAGIC = b"k8s\x00"


def varint(number: int) -> bytes:
    """Return an unsigned number in base 128, least significant group first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


#: Nearly all lengths here, ready made.
_LENGTHS = tuple(map(varint, range(512)))


def _length(size: int) -> bytes:
    return _LENGTHS[size] if size < 512 else varint(size)


def _bytes(field: int, value: bytes) -> bytes:
    return b"%c%b%b" % (field << 3 | 2, _length(len(value)), value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _number(field: int, value: int) -> bytes:
    return bytes((field << 3,)) + varint(value & 0xFFFFFFFFFFFFFFFF)


def envelope(kind: str, version: str, message: bytes, group: str = GROUP) -> bytes:
    """Wrap a message with its kind, as Kubernetes sends it."""
    return _MAGIC + _type(f"{group}/{version}", kind) + _bytes(2, message) + _text(3, "") + _text(4, "")


def core_envelope(kind: str, message: bytes) -> bytes:
    """Wrap a message of the API version `v1` of no group."""
    return _MAGIC + _type("v1", kind) + _bytes(2, message) + _text(3, "") + _text(4, "")


def api_group(name: str, versions: Sequence[str]) -> bytes:
    """Return an APIGroup message; the first version is the preferred one."""
    served = [_text(1, f"{name}/{version}") + _text(2, version) for version in versions]
    return b"".join([_text(1, name), *(_bytes(2, version) for version in served), _bytes(3, served[0])])


def api_group_list(groups: Sequence[bytes]) -> bytes:
    """Return an APIGroupList message."""
    return b"".join(_bytes(1, group) for group in groups)


def api_resource_list(group_version: str, resources: Sequence[tuple[str, str, bool]], verbs: Sequence[str]) -> bytes:
    """Return an APIResourceList message of resources by name, kind and whether they have a namespace."""
    message = [_text(1, group_version)]
    for name, kind, namespaced in resources:
        parts = [_text(1, name), _number(2, namespaced), _text(3, kind)]
        parts += [_bytes(4, b"".join(_text(1, verb) for verb in verbs)), _text(6, ""), _text(8, ""), _text(9, "")]
        message.append(_bytes(2, b"".join([*parts, _text(10, "")])))
    return b"".join(message)


#: selfLink, resourceVersion and continue are empty.
_LIST_META = _text(1, "") + _text(2, "") + _text(3, "")


@lru_cache(maxsize=64)
def _type(api_version: str, kind: str) -> bytes:
    return _bytes(1, _text(1, api_version) + _text(2, kind))


def list_head(kind: str, api_version: str, size: int) -> bytes:
    """Return what Kubernetes sends before the items of a list, which have `size` bytes with their tags and lengths."""
    head = _bytes(1, _LIST_META)
    return _MAGIC + _type(api_version, kind) + b"\x12" + varint(len(head) + size) + head


#: What follows the items of a list.
LIST_TAIL = _text(3, "") + _text(4, "")


def metrics(meta: NodeMeta | PodMeta, fragment: bytes, stamp: int) -> bytes:
    """Return a NodeMetrics or PodMetrics message of what the store rendered."""
    return _bytes(1, object_meta(meta, stamp)) + measured(fragment)


def measured(fragment: bytes) -> bytes:
    """Return all fields of a NodeMetrics or PodMetrics but the metadata, of what the store rendered."""
    moment, window, usages = read(fragment)
    parts = [_moment(moment), _window(window)]
    for name, cpu, memory in usages:
        if not name:
            # A node.
            parts.append(_usage(4, cpu, memory))
            continue
        container, usage = _container_name(name), _usage(2, cpu, memory)
        parts += (b'"', _length(len(container) + len(usage)), container, usage)
    return b"".join(parts)


# What many objects of a list have in common is made once.


@lru_cache(maxsize=256)
def _moment(text: bytes) -> bytes:
    return _bytes(2, _time(int(datetime.fromisoformat(text.decode()).timestamp())))


@lru_cache(maxsize=8192)
def _window(text: bytes) -> bytes:
    return _bytes(3, _number(1, round(parse_duration(text.decode()) * 1_000_000_000)))


@lru_cache(maxsize=4096)
def _container_name(name: bytes) -> bytes:
    return _text(1, msgspec.json.decode(name, type=str))


@lru_cache(maxsize=8192)
def _labels(labels_json: bytes) -> bytes:
    if not labels_json:
        return b""
    labels = msgspec.json.decode(labels_json.removeprefix(b',"labels":'), type=dict[str, str])
    return b"".join([_bytes(11, _text(1, key) + _text(2, labels[key])) for key in sorted(labels)])


def _usage(field: int, cpu: bytes, memory: bytes) -> bytes:
    """Return the map of quantities: two entries (key, Quantity), each of which fits into 127 bytes."""
    tag, cpu_size, memory_size = field << 3 | 2, len(cpu), len(memory)
    return b"%c%c\n\x03cpu\x12%c\n%c%b%c%c\n\x06memory\x12%c\n%c%b" % (
        *(tag, cpu_size + 9, cpu_size + 2, cpu_size, cpu),
        *(tag, memory_size + 12, memory_size + 2, memory_size, memory),
    )


def object_meta(meta: NodeMeta | PodMeta, stamp: int) -> bytes:
    """Return an ObjectMeta message."""
    namespace = meta.namespace if isinstance(meta, PodMeta) else ""
    return b"".join((_text(1, meta.name), _after_name(namespace, stamp), _labels(meta.labels_json)))


def _after_name(namespace: str, stamp: int) -> bytes:
    """Return what stands between the name and the labels in an ObjectMeta message."""
    # generateName, selfLink, uid, resourceVersion and generation are empty.
    return b'\x12\0%b"\0*\0002\0008\0%b' % (_text(3, namespace), stamp_field(stamp))


def _time(seconds: int) -> bytes:
    return _number(1, seconds) + _number(2, 0)


class ListItems:
    """Makes the objects of one list, each with its tag and length. What they have in common is made once."""

    def __init__(self, stamp: int) -> None:
        self._stamp = stamp
        self._after_name: dict[str, bytes] = {}

    def __call__(self, meta: NodeMeta | PodMeta, measured: bytes) -> bytes:
        """Return one object, of what `measured` returned."""
        namespace = meta.namespace if isinstance(meta, PodMeta) else ""
        after_name = self._after_name.get(namespace)
        if after_name is None:
            after_name = self._after_name[namespace] = _after_name(namespace, self._stamp)
        name, labels = meta.name.encode(), _labels(meta.labels_json)
        name_size = _length(len(name))
        size = 1 + len(name_size) + len(name) + len(after_name) + len(labels)
        metadata_size = _length(size)
        whole_size = _length(1 + len(metadata_size) + size + len(measured))
        return b"\x12%b\n%b\n%b%b%b%b%b" % (
            *(whole_size, metadata_size, name_size, name),
            *(after_name, labels, measured),
        )


@lru_cache(maxsize=4)
def stamp_field(stamp: int) -> bytes:
    """Return the field of an ObjectMeta with the time of the answer."""
    return _bytes(8, _time(stamp))


def partial_object(meta: NodeMeta | PodMeta, stamp: int, version: str) -> bytes:
    """Return a PartialObjectMetadata in its envelope."""
    message = _bytes(1, object_meta(meta, stamp))
    return envelope("PartialObjectMetadata", version, message, "meta.k8s.io")


def partial_object_item(meta: NodeMeta | PodMeta, stamp: int) -> bytes:
    """Return one object as it stands in a PartialObjectMetadataList, with its tag and length."""
    return _bytes(2, _bytes(1, object_meta(meta, stamp)))


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
    return core_envelope("Status", b"".join(message))
