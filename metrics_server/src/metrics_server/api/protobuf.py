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


def metrics(meta: NodeMeta | PodMeta, reading: Reading, stamp: int) -> bytes:
    """Return a NodeMetrics or PodMetrics message."""
    return b"".join((_bytes(1, object_meta(meta, stamp)), _measured(meta, reading)))


def _measured(meta: NodeMeta | PodMeta, reading: Reading) -> bytes:
    """Return all fields of a NodeMetrics or PodMetrics but the metadata."""
    if isinstance(meta, PodMeta):
        parts = [_moment(reading.timestamp_ns // 1_000_000_000), _window(reading.window_ns)]
        for container in reading.containers:
            name, usage = _container_name(container.name), _usage(2, container)
            parts += (b'"', _length(len(name) + len(usage)), name, usage)
        return b"".join(parts)
    usage = _usage(4, reading.containers[0])
    return _moment(reading.timestamp_ns // 1_000_000_000) + _window(reading.window_ns) + usage


# What many objects of a list have in common is made once.


@lru_cache(maxsize=256)
def _moment(seconds: int) -> bytes:
    return _bytes(2, _time(seconds))


@lru_cache(maxsize=4096)
def _window(nanoseconds: int) -> bytes:
    return _bytes(3, _number(1, nanoseconds))


@lru_cache(maxsize=4096)
def _container_name(name: str) -> bytes:
    return _text(1, name)


@lru_cache(maxsize=8192)
def _label(key: str, value: str) -> bytes:
    return _bytes(11, _text(1, key) + _text(2, value))


def _usage(field: int, usage: ContainerUsage) -> bytes:
    """Return the map of quantities: two entries (key, Quantity), each of which fits into 127 bytes."""
    cpu = cpu_quantity(usage.cpu_nanocores).encode()
    memory = memory_quantity(usage.memory_bytes).encode()
    tag, cpu_size, memory_size = field << 3 | 2, len(cpu), len(memory)
    return b"%c%c\n\x03cpu\x12%c\n%c%b%c%c\n\x06memory\x12%c\n%c%b" % (
        *(tag, cpu_size + 9, cpu_size + 2, cpu_size, cpu),
        *(tag, memory_size + 12, memory_size + 2, memory_size, memory),
    )


def object_meta(meta: NodeMeta | PodMeta, stamp: int) -> bytes:
    """Return an ObjectMeta message."""
    before, after = _object_meta_around(meta)
    return b"".join((before, stamp_field(stamp), after))


def _object_meta_around(meta: NodeMeta | PodMeta) -> tuple[bytes, bytes]:
    """Return what stands before and after the creation time in an ObjectMeta message."""
    name = meta.name.encode()
    namespace = meta.namespace.encode() if isinstance(meta, PodMeta) else b""
    # generateName, selfLink, uid, resourceVersion and generation are empty.
    before = b'\n%b%b\x12\0\x1a%b%b"\0*\0002\0008\0' % (_length(len(name)), name, _length(len(namespace)), namespace)
    return before, _labels(meta.labels)


def _labels(labels: Mapping[str, str]) -> bytes:
    return b"".join([_label(key, labels[key]) for key in sorted(labels)])


def _time(seconds: int) -> bytes:
    return _number(1, seconds) + _number(2, 0)


class ItemCache:
    """The objects of a list as protobuf, kept until their sample or their metadata change.

    The time of the answer, which is in every object, is the one thing that differs each time: an item is kept as what
    stands before and after it.
    """

    #: More objects than this are encoded each time: the memory is worth more than the time then.
    MAX_ITEMS = 50_000

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], tuple[NodeMeta | PodMeta, bytes, bytes, bytes]] = {}
        self._metas: dict[tuple[str, str], tuple[NodeMeta | PodMeta, bytes, bytes]] = {}

    def find(self, meta: NodeMeta | PodMeta, fragment: bytes) -> tuple[bytes, bytes] | None:
        """Return what `add` made of the same object, or None.

        The rendered fragment of the store stands for the sample: it is replaced when a new one comes.
        """
        known = self._items.get(_key(meta))
        if known is not None and known[0] is meta and known[1] is fragment:
            return known[2], known[3]
        return None

    def add(self, meta: NodeMeta | PodMeta, fragment: bytes, reading: Reading, stamp: bytes) -> tuple[bytes, bytes]:
        """Return one object as it stands in a list, around the time of the answer (`stamp_field`)."""
        key = _key(meta)
        if len(self._items) >= self.MAX_ITEMS:
            self._items.clear()
            self._metas.clear()
        known = self._metas.get(key)
        if known is None or known[0] is not meta:
            known = self._metas[key] = (meta, *_object_meta_around(meta))
        before, after = known[1], known[2]
        size = len(before) + len(stamp) + len(after)
        measured = _measured(meta, reading)
        head = b"\n" + _length(size)
        opening = b"\x12" + _length(len(head) + size + len(measured))
        item = (opening + head + before, after + measured)
        self._items[key] = (meta, fragment, *item)
        return item


def _key(meta: NodeMeta | PodMeta) -> tuple[str, str]:
    return (meta.namespace if isinstance(meta, PodMeta) else "", meta.name)


def list_item(meta: NodeMeta | PodMeta, reading: Reading, stamp: int) -> bytes:
    """Return one object as it stands in a list, with its tag and length."""
    return _bytes(2, metrics(meta, reading, stamp))


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
