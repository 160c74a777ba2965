# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of a kubelet's `/metrics/resource`.

Two ways lead to the same result. The careful way reads line by line, takes labels in any order and counts what it
cannot use. It also notes the shape of what it read. Nearly every following scrape of that node has the same shape, and
then the fast way takes the numbers column by column without reading a single label. Whatever does not fit takes the
careful way again.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field, replace

import msgspec

from metrics_server.scrape.batch import (
    MAX_BYTES,
    MAX_CONTAINERS,
    MAX_SECONDS,
    Batch,
    ContainerPoint,
    FamilyShape,
    Layout,
    NodePoint,
    ParseError,
    build_batch,
    void_where_cpu_is_zero,
)

_CPU = b"container_cpu_usage_seconds_total"
_MEMORY = b"container_memory_working_set_bytes"
_START = b"container_start_time_seconds"
_NODE_CPU = b"node_cpu_usage_seconds_total"
_NODE_MEMORY = b"node_memory_working_set_bytes"
_NODE_SWAP = b"node_swap_usage_bytes"
_FAMILIES = (_CPU, _MEMORY, _START)
#: The node's families without what they begin with, so that one search finds them all.
_NODE_OPENER = b"\nnode_"
_NODE_FAMILIES = tuple(name.removeprefix(b"node_") for name in (_NODE_CPU, _NODE_MEMORY, _NODE_SWAP))
_LIMITS = (MAX_SECONDS, MAX_BYTES, MAX_SECONDS)
_OPENERS = tuple(b"\n" + family + b"{" for family in _FAMILIES)
_LINE_BREAK = ord("\n")
_SCRAPE_ERRORS = frozenset({b"scrape_error", b"resource_scrape_error"})

# A third of the time of int() and float(), and stricter: what they do not take goes the careful way.
_FLOATS = msgspec.json.Decoder(list[float])
_INTEGERS = msgspec.json.Decoder(list[int])

#: The first and the last millisecond that we believe: 2001 to 2286.
_FIRST_TIME, _LAST_TIME = 10**12, 10**13

_NAME = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(rb'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,?)')
#: Labels as every kubelet prints them; what is different is read by the general rule.
_USUAL_LABELS = re.compile(rb'\{container="([^"\\]+)",namespace="([^"\\]+)",pod="([^"\\]+)"\}')
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_KEY_LABELS = (b"namespace", b"pod", b"container")
_REPLACEMENTS = {b"n": b"\n", b"\\": b"\\", b'"': b'"'}


def parse_resource(body: bytes, layout: Layout | None, now_ms: int) -> Batch:
    """Read one answer. `layout` is that of the node's previous batch; `now_ms` stands in for missing timestamps.

    Raises ParseError when there is nothing in it that could be used.
    """
    if layout is not None and layout.shapes is not None:
        batch = _fast(body, layout, layout.shapes)
        if batch is not None:
            return batch
    return _Careful(now_ms).read(body, layout)


def _fast(body: bytes, layout: Layout, shapes: tuple[FamilyShape, FamilyShape, FamilyShape]) -> Batch | None:
    """Return the batch, or None when anything is not exactly as it was."""
    columns: list[array[float]] = []
    times = array("q")
    oldest = newest = seen = zeros = zero_cpu = 0
    rest: list[bytes] = []
    for number, shape in enumerate(shapes):
        if not shape.series:
            columns.append(array("d", bytes(8 * layout.size)))
            continue
        start = body.find(_OPENERS[number], seen)
        if start < 0:
            return None
        end = _block_end(body, start)
        rest.append(body[seen:start])
        seen = end
        if number == 2 and layout.starts is not None:
            if hash(body[start:end]) != layout.start_lines:
                return None
            columns.append(layout.starts)
            continue
        stride = shape.stride
        words = body[start:end].split()
        if len(words) != shape.series * stride or hash(tuple(words[::stride])) != shape.signature:
            return None
        try:
            values = _FLOATS.decode(b"[%b]" % b",".join(words[1::stride]))
            stamps = _INTEGERS.decode(b"[%b]" % b",".join(words[2::3])) if number == 0 else []
        except msgspec.MsgspecError:
            return None
        if len(values) != shape.series or (least := min(values)) < 0 or max(values) > _LIMITS[number]:
            return None
        if number == 0:
            oldest, newest = min(stamps, default=0), max(stamps, default=0)
            if len(stamps) != shape.series or oldest < _FIRST_TIME or newest > _LAST_TIME:
                return None
        if shape.take is not None:
            values.append(0.0)
            values = [values[position] for position in shape.take]
            if number == 0:
                stamps = [stamps[position] for position in shape.take]
                oldest, newest = min(stamps, default=0), max(stamps, default=0)
        columns.append(array("d", values))
        if number == 0:
            times = array("q", stamps)
            zero_cpu = int(not least)
        elif number == 1 and (zero_cpu or not least):
            zero_cpu = void_where_cpu_is_zero(columns[0], columns[1])
            zeros = columns[1].count(0.0)
    rest.append(body[seen:])
    # Series outside of their family's block would have been overlooked.
    others = b"".join(rest)
    if b"\ncontainer_" in others and any(opener in others for opener in _OPENERS):
        return None
    node = _fast_node(others)
    if node is None:
        return None
    return Batch(layout, node, times, columns[0], columns[1], columns[2], oldest, newest, zeros, zero_cpu)


def _block_end(body: bytes, start: int) -> int:
    """Return where the next comment begins, or the end of the text.

    One character is searched for at the speed of memory; for the two of a line break and a hash it takes 30 times as
    long.
    """
    end = body.find(b"#", start)
    while end > 0 and body[end - 1] != _LINE_BREAK:
        end = body.find(b"#", end + 1)
    return len(body) if end < 0 else end - 1


def _fast_node(text: bytes) -> NodePoint | None:
    """Return the node's own point, or None when its lines are not as every kubelet prints them."""
    values: dict[bytes, tuple[float, int]] = {}
    for part in text.split(_NODE_OPENER)[1:]:
        name, _unused, rest = part.partition(b" ")
        if name in _NODE_FAMILIES:
            try:
                value, time = rest.partition(b"\n")[0].split()
                number, stamp = float(value), int(time)
            except ValueError:
                return None
            if name in values or not 0 <= number <= MAX_BYTES or not _FIRST_TIME <= stamp <= _LAST_TIME:
                return None
            values[name] = number, stamp
        elif name.startswith(_NODE_FAMILIES):
            return None
    try:
        cpu, memory = values[b"cpu_usage_seconds_total"], values[b"memory_working_set_bytes"]
    except KeyError:
        return None
    if not cpu[0] or not memory[0]:
        return None
    swap = values.get(b"swap_usage_bytes")
    return NodePoint(cpu[1], cpu[0], memory[0], None if swap is None else swap[0])


@dataclass(slots=True)
class _Family:
    """What the careful way notes of one family to recognise it the next time."""

    words: list[bytes] = field(default_factory=list)
    position: dict[tuple[str, str, str], int] = field(default_factory=dict)
    strides: set[int] = field(default_factory=set)


class _Careful:
    def __init__(self, now_ms: int) -> None:
        self._now = now_ms
        self._bad: dict[str, int] = {}
        self._containers: dict[tuple[str, str, str], ContainerPoint] = {}
        #: Keys by their labels' text, which is the same in each family.
        self._keys: dict[bytes, tuple[str, str, str]] = {}
        self._families = {family: _Family() for family in _FAMILIES}
        self._node: dict[bytes, tuple[float, int]] = {}
        self._kubelet_error = False
        self._series = 0

    def read(self, body: bytes, previous: Layout | None) -> Batch:
        for line in body.split(b"\n"):
            if line and not line.startswith(b"#"):
                self._line(line)
        node = self._node_point()
        if node is None and not any(point.cpu is not None for point in self._containers.values()):
            raise ParseError(self._nothing(body))
        batch, order = build_batch(self._containers, node, self._bad, previous)
        # The fast way expects the node's lines.
        if not self._bad and node is not None:
            shapes = self._shapes(order)
            if shapes is not None:
                batch.layout = self._shaped(body, batch, shapes, previous)
        return batch

    def _line(self, line: bytes) -> None:
        match = _NAME.match(line)
        if match is None:
            self._count("syntax" if line.strip() else None)
            return
        name = match.group()
        end = match.end()
        if name in self._families:
            self._container_line(name, line, end)
        elif name in (_NODE_CPU, _NODE_MEMORY, _NODE_SWAP):
            self._node_line(name, line, end)
        elif name in _SCRAPE_ERRORS:
            self._kubelet_error = self._kubelet_error or line[end:].strip().startswith(b"1")

    def _container_line(self, name: bytes, line: bytes, end: int) -> None:
        usual = _USUAL_LABELS.match(line, end)
        key: tuple[str, str, str] | str
        if usual is not None:
            end = usual.end()
            found = self._keys.get(usual.group())
            key = _key(usual.group(2), usual.group(3), usual.group(1)) if found is None else found
        else:
            labels, end = _labels(line, end)
            key = "labels" if labels is None else _key(*(labels.get(label, b"") for label in _KEY_LABELS))
        if isinstance(key, str):
            self._count(key)
            return
        if usual is not None and len(self._keys) < MAX_CONTAINERS:
            self._keys[usual.group()] = key
        number = self._number(name, line[end:])
        if number is None:
            return
        value, time, stride = number
        family = self._families[name]
        point = self._containers.get(key)
        if point is None:
            if len(self._containers) >= MAX_CONTAINERS:
                raise ParseError(f"the answer names more than {MAX_CONTAINERS} containers")
            point = self._containers[key] = ContainerPoint()
        if key in family.position:
            self._count("duplicate")
            # An old and a new instance of one container: the newer sample counts.
            if name != _CPU or time < point.time:
                return
        else:
            family.position[key] = len(family.words)
        family.words.append(line[:end])
        family.strides.add(stride)
        if name == _CPU:
            point.cpu, point.time = value, time
        elif name == _MEMORY:
            point.memory = value
        else:
            point.start = value

    def _node_line(self, name: bytes, line: bytes, end: int) -> None:
        if line.startswith(b"{", end):
            labels, end = _labels(line, end)
            if labels is None:
                self._count("labels")
                return
        number = self._number(name, line[end:])
        if number is None:
            return
        if name in self._node:
            self._count("duplicate")
            return
        self._node[name] = number[:2]

    def _number(self, name: bytes, rest: bytes) -> tuple[float, int, int] | None:
        """Return value, time and number of words of the line, or count what is wrong."""
        words = rest.split()
        if not rest[:1].isspace() or len(words) not in (1, 2):
            self._count("syntax")
            return None
        try:
            value = float(words[0])
        except ValueError:
            self._count("value")
            return None
        if not 0 <= value <= (MAX_SECONDS if name in (_CPU, _START, _NODE_CPU) else MAX_BYTES):
            self._count("value")
            return None
        if len(words) == 1:
            return value, self._now, 2
        if name in (_MEMORY, _START):
            # Only the counter's time counts.
            return value, self._now, 3
        try:
            time = int(words[1])
        except ValueError:
            time = 0
        if not _FIRST_TIME <= time <= _LAST_TIME:
            self._count("timestamp")
            return None
        return value, time, 3

    def _node_point(self) -> NodePoint | None:
        cpu, memory, swap = (self._node.get(name) for name in (_NODE_CPU, _NODE_MEMORY, _NODE_SWAP))
        # No node runs without memory, and none ever ran without CPU.
        if cpu is None or memory is None or not cpu[0] or not memory[0]:
            return None
        return NodePoint(cpu[1], cpu[0], memory[0], None if swap is None else swap[0])

    def _shapes(self, order: list[tuple[str, str, str]]) -> tuple[FamilyShape, FamilyShape, FamilyShape] | None:
        shapes = []
        for name in _FAMILIES:
            family = self._families[name]
            # A word with a space in it (a label value, or `{a="b", c="d"}`) would be torn apart by the fast way.
            if len(family.strides) > 1 or any(len(word.split()) != 1 for word in family.words):
                return None
            if not family.words:
                shapes.append(FamilyShape(0, 0, 3, None))
                continue
            stride = next(iter(family.strides))
            if name == _CPU and stride != 3:
                return None
            take: tuple[int, ...] | None = tuple(family.position.get(key, -1) for key in order)
            if take == tuple(range(len(family.words))):
                take = None
            shapes.append(FamilyShape(hash(tuple(family.words)), len(family.words), stride, take))
        return shapes[0], shapes[1], shapes[2]

    def _shaped(
        self,
        body: bytes,
        batch: Batch,
        shapes: tuple[FamilyShape, FamilyShape, FamilyShape],
        previous: Layout | None,
    ) -> Layout:
        layout = batch.layout
        if (
            previous is not None
            and layout.same_containers(previous)
            and previous.shapes == shapes
            and previous.starts == batch.starts
        ):
            return previous
        start = body.find(_OPENERS[2])
        if start < 0 or shapes[2].stride != 2:
            return replace(layout, shapes=shapes, starts=None)
        start_lines = hash(body[start : _block_end(body, start)])
        return replace(layout, shapes=shapes, starts=batch.starts, start_lines=start_lines)

    def _count(self, reason: str | None) -> None:
        if reason is not None:
            self._bad[reason] = self._bad.get(reason, 0) + 1

    def _nothing(self, body: bytes) -> str:
        if self._kubelet_error:
            return "the kubelet reports that it could not collect its metrics (scrape_error 1): see its log"
        if not body.strip():
            return "the answer is empty"
        if self._bad:
            counts = ", ".join(f"{reason}: {count}" for reason, count in sorted(self._bad.items()))
            return f"no line of the answer can be used ({counts})"
        return "the answer holds none of the kubelet's resource metrics"


def _key(namespace: bytes, pod: bytes, container: bytes) -> tuple[str, str, str] | str:
    """Return the container that is meant, or what is wrong with its labels."""
    if not (namespace and pod and container):
        return "missing_label"
    try:
        return namespace.decode("utf-8"), pod.decode("utf-8"), container.decode("utf-8")
    except UnicodeDecodeError:
        return "labels"


def _labels(line: bytes, start: int) -> tuple[dict[bytes, bytes] | None, int]:
    """Read `{name="value",...}` at `start`; return the labels (None: malformed) and where they end."""
    if not line.startswith(b"{", start):
        return None, start
    labels: dict[bytes, bytes] = {}
    position = start + 1
    while True:
        match = _LABEL.match(line, position)
        if match is None:
            break
        name, value, comma = match.groups()
        if name in labels:
            return None, start
        labels[name] = _ESCAPE.sub(_unescape, value) if b"\\" in value else value
        position = match.end()
        if not comma:
            break
    while line[position : position + 1] in (b" ", b"\t"):
        position += 1
    if not line.startswith(b"}", position):
        return None, start
    return labels, position + 1


def _unescape(match: re.Match[bytes]) -> bytes:
    escaped = match.group(1)
    return _REPLACEMENTS.get(escaped, b"\\" + escaped)
