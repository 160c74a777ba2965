# SPDX-License-Identifier: GPL-3.0-or-later
"""`application/vnd.kubernetes.protobuf`: the envelope and the few messages of this API.

The messages are small and fixed, so that they are written by hand: a generator, its runtime and the descriptors of
half of the Kubernetes API would be a hundred times the code. Field numbers are those of `k8s.io/metrics`,
`k8s.io/apimachinery/pkg/apis/meta/v1` and `k8s.io/apimachinery/pkg/runtime`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from metrics_server.api.status import GROUP, ApiError
from metrics_server.model import NodeMeta, PodColumns, PodMeta, Reading
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


def metrics(meta: NodeMeta | PodMeta, measured: bytes, stamp: int) -> bytes:
    """Return a NodeMetrics or PodMetrics message, of a fragment of `MEASURED`."""
    return _bytes(1, object_meta(meta, stamp)) + measured


class MeasuredForm:
    """All fields of a NodeMetrics or PodMetrics but the metadata, as fragments that the store keeps."""

    def node(self, reading: Reading) -> bytes:
        """Return the fragment of a node."""
        (usage,) = reading.containers
        cpu, memory = _quantities(usage.cpu_nanocores, usage.memory_bytes)
        entries = [_before_quantity(4, "cpu", len(cpu)), cpu, _before_quantity(4, "memory", len(memory)), memory]
        return _bytes_of(_head(reading) + "".join(entries))

    def pod(self, reading: Reading) -> bytes:
        """Return the fragment of a pod."""
        containers = [_container(usage.name, usage.cpu_nanocores, usage.memory_bytes) for usage in reading.containers]
        return _bytes_of(_head(reading) + "".join(containers))

    def pods(self, columns: PodColumns) -> list[bytes | None]:
        """Return the fragments of all pods of a node: the same as `pod` for each, in less time."""
        names, slots, usages, times, previous_times = columns
        fragments: list[bytes | None] = []
        for names_of_pod, slots_of_pod in zip(names, slots, strict=True):
            if len(slots_of_pod) == 1:
                # Nearly always.
                slot = slots_of_pod[0]
                usage = usages[slot]
                containers = None if usage is None else _container(names_of_pod[0], *usage)
            else:
                slot = min(slots_of_pod, key=times.__getitem__)
                parts = [
                    _container(name, *usage)
                    for name, each in zip(names_of_pod, slots_of_pod, strict=True)
                    if (usage := usages[each]) is not None
                ]
                containers = "".join(parts) if len(parts) == len(slots_of_pod) else None
            if containers is None:
                fragments.append(None)
                continue
            now = times[slot]
            window = _window((now - previous_times[slot]) * 1_000_000)
            fragments.append(f"{_moment(now // 1000)}{window}{containers}".encode("latin-1"))
        return fragments


MEASURED = MeasuredForm()

# Pieces of messages are texts here, a character for each byte: Python puts these together in less time than bytes. What
# many objects of a list have in common is made once.


def _bytes_of(text: str) -> bytes:
    return text.encode("latin-1")


def _text_of(message: bytes) -> str:
    return message.decode("latin-1")


def _head(reading: Reading) -> str:
    return _moment(reading.timestamp_ns // 1_000_000_000) + _window(reading.window_ns)


@lru_cache(maxsize=256)
def _moment(seconds: int) -> str:
    return _text_of(_bytes(2, _time(seconds)))


@lru_cache(maxsize=8192)
def _window(nanoseconds: int) -> str:
    return _text_of(_bytes(3, _number(1, nanoseconds)))


def _container(name: str, nanocores: int, size: int) -> str:
    """Return a ContainerMetrics with its tag and length."""
    cpu, memory = _quantities(nanocores, size)
    before_cpu, before_memory = _around(name, len(cpu), len(memory))
    return f"{before_cpu}{cpu}{before_memory}{memory}"


def _quantities(nanocores: int, size: int) -> tuple[str, str]:
    if nanocores % 1000 and not size & 1023 and size & 0xFFFFF:
        # Nearly always: no coarser unit than these two is exact.
        return f"{nanocores}n", f"{size >> 10}Ki"
    return cpu_quantity(nanocores), memory_quantity(size)


@lru_cache(maxsize=8192)
def _around(name: str, cpu_size: int, memory_size: int) -> tuple[str, str]:
    """Return what stands before the quantities of a container."""
    container = _text(1, name)
    before_cpu, before_memory = _before_quantity(2, "cpu", cpu_size), _before_quantity(2, "memory", memory_size)
    size = len(container) + len(before_cpu) + cpu_size + len(before_memory) + memory_size
    return f'"{_text_of(_length(size) + container)}{before_cpu}', before_memory


def _before_quantity(field: int, key: str, size: int) -> str:
    """Return what stands before a quantity in a map of them: an entry fits into 127 bytes."""
    return f"{field << 3 | 2:c}{size + len(key) + 6:c}\n{len(key):c}{key}\x12{size + 2:c}\n{size:c}"


@lru_cache(maxsize=8192)
def _labels(labels_json: bytes) -> bytes:
    if not labels_json:
        return b""
    labels = msgspec.json.decode(labels_json.removeprefix(b',"labels":'), type=dict[str, str])
    return b"".join([_bytes(11, _text(1, key) + _text(2, labels[key])) for key in sorted(labels)])


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


#: What a list keeps of that.
_MOST_KNOWN = 8192


class ListItems:
    """Makes the objects of one list, each with its tag and length. What they have in common is made once."""

    def __init__(self, stamp: int) -> None:
        self._stamp = stamp
        #: By namespace, labels and length of the name: the object's size without what is measured, and what stands
        #: before and behind the name.
        self._known: dict[tuple[str, bytes, int], tuple[int, bytes, bytes]] = {}

    def __call__(self, meta: NodeMeta | PodMeta, measured: bytes) -> tuple[bytes, ...]:
        """Return one object in parts, of a fragment of `MEASURED`."""
        name = meta.name.encode()
        key = (meta.namespace if isinstance(meta, PodMeta) else "", meta.labels_json, len(name))
        size, before_name, after_name = self._known.get(key) or self._learn(key)
        return _item(size + len(measured)), before_name, name, after_name, measured

    def _learn(self, key: tuple[str, bytes, int]) -> tuple[int, bytes, bytes]:
        namespace, labels_json, name_size = key
        after_name = _after_name(namespace, self._stamp) + _labels(labels_json)
        before_name = b"\n" + _length(name_size)
        metadata_size = len(before_name) + name_size + len(after_name)
        before_name = b"\n" + _length(metadata_size) + before_name
        if len(self._known) >= _MOST_KNOWN:
            # Labels that differ from pod to pod have nothing in common.
            self._known.clear()
        known = self._known[key] = (len(before_name) + name_size + len(after_name), before_name, after_name)
        return known


@lru_cache(maxsize=1024)
def _item(size: int) -> bytes:
    return b"\x12" + _length(size)


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
                + b"".join(_bytes(4, _text(2, cause["message"])) for cause in details.get("causes", ()))
                + _number(5, int(details.get("retryAfterSeconds", 0))),
            )
        )
    message.append(_number(6, error.code))
    return core_envelope("Status", b"".join(message))
