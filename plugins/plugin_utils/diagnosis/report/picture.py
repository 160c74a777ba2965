# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The path of a request as a picture, in SVG: side by side for a screen, and from top to bottom for a telephone.

Colours and fonts come from the page's style sheet, by classes; every text is escaped. Pure functions.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import outline
from markupsafe import Markup

#: Boxes of one column; a cluster has more groups than that only where very many faults meet.
BOXES = 6
MARKS = {"ok": "✓", "broken": "✗", "unknown": "?"}
_SAID = {"ok": "works", "broken": "broken", "unknown": "unknown"}
#: Width of each column, and between them.
_COLUMNS = {"client": 150, "api_server": 190, "service": 190, "server": 196, "kubelet": 196}
_GAP, _PAD, _SPACE, _HEAD = 38, 12, 14, 30
#: Average width of a character: names in a monospaced font of 12 px, texts in 12 px.
_NAME, _TEXT = 7.3, 6.5

Mapping = t.Mapping[str, t.Any]


@dataclasses.dataclass(frozen=True)
class _Box:
    hops: outline.Hops
    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def wide(diagnosis: Mapping) -> Markup:
    """The picture from left to right."""
    columns = [(kind, rows[:BOXES]) for kind, rows in outline.path(diagnosis)]
    follows = outline.causes(diagnosis)
    sizes = [[_size(hops, _COLUMNS.get(kind, 190)) for hops in rows] for kind, rows in columns]
    heights = [sum(height for height, _lines in column) + _SPACE * (len(column) - 1) for column in sizes]
    height = max(heights, default=0)
    boxes: list[list[_Box]] = []
    x = 1.0
    for (kind, rows), column, taken in zip(columns, sizes, heights, strict=True):
        width = _COLUMNS.get(kind, 190)
        y = _HEAD + (height - taken) / 2
        placed = []
        for hops, (tall, lines) in zip(rows, column, strict=True):
            placed.append(_Box(hops, x, y, width, tall, lines))
            y += tall + _SPACE
        boxes.append(placed)
        x += width + _GAP
    parts = [_heading(kind, placed[0]) for (kind, _rows), placed in zip(columns, boxes, strict=True) if placed]
    for left, right in zip(boxes, boxes[1:], strict=False):
        parts += [_edge(source, target) for source in left for target in right]
    parts += [_drawn(box, follows) for column in boxes for box in column]
    return _svg(diagnosis, "wide", max(x - _GAP, 1) + 1, height + _HEAD + 8, parts)


def _size(hops: outline.Hops, width: float) -> tuple[float, tuple[str, ...]]:
    room = int((width - 2 * _PAD) / _TEXT)
    lines = tuple(outline.fitted(hops.text, room, 3))
    if _named(hops, width) != hops.label and len(hops.names) > 1:
        lines = (*outline.fitted(outline.listed(hops.names, 3), room, 2), *lines)
    return 2 * _PAD + 12 + 16 * len(lines) + (26 if hops.findings else 0), lines


def _named(hops: outline.Hops, width: float) -> str:
    """The name of a hop, or how many there are, so that it fits into a box of that width."""
    room = int((width - 2 * _PAD - 20) / _NAME)
    if len(hops.names) > 1 and len(hops.label) > room:
        return outline.plural(len(hops.names), outline.KINDS.get(hops.kind, hops.kind))
    return outline.shortened(hops.label, room)


def _heading(kind: str, first: _Box) -> Markup:
    return Markup('<text class="kind" x="{}" y="14">{}</text>').format(_n(first.x), outline.KINDS.get(kind, kind))


def _edge(source: _Box, target: _Box) -> Markup:
    """From a hop to the next."""
    x1, x2 = source.x + source.width, target.x
    bend = (x2 - x1) / 2
    return Markup('<path class="edge {}" d="M{} {}C{} {} {} {} {} {}"/>').format(
        _between(source.hops, target.hops),
        *(
            _n(value)
            for value in (x1, source.middle, x1 + bend, source.middle, x2 - bend, target.middle, x2, target.middle)
        ),
    )


def _between(source: outline.Hops, target: outline.Hops) -> str:
    """Broken where it enters a broken hop, cut behind one."""
    # That the client fails is what its user sees, and not where the path is broken.
    if source.kind != "client" and source.state != "ok":
        return "cut" if source.state == "broken" else "unknown"
    return target.state if target.state in MARKS else "unknown"


def _drawn(box: _Box, follows: Mapping) -> Markup:
    hops = box.hops
    right = box.x + box.width - _PAD
    parts = []
    if len(hops.names) > 1:
        # Several nodes in one box: a second one behind it.
        parts.append(
            Markup('<rect class="behind" x="{}" y="{}" width="{}" height="{}" rx="9"/>').format(
                _n(box.x + 5), _n(box.y + 5), _n(box.width - 5), _n(box.height)
            )
        )
    parts.append(
        Markup('<rect class="box" x="{}" y="{}" width="{}" height="{}" rx="9"/>').format(
            _n(box.x), _n(box.y), _n(box.width - (5 if len(hops.names) > 1 else 0)), _n(box.height)
        )
    )
    parts.append(
        Markup('<text class="name" x="{}" y="{}">{}</text>').format(
            _n(box.x + _PAD), _n(box.y + 23), _named(hops, box.width)
        )
    )
    parts.append(_badge(hops.state, right - (13 if len(hops.names) > 1 else 8), box.y + 19))
    for number, line in enumerate(box.lines):
        parts.append(
            Markup('<text class="said" x="{}" y="{}">{}</text>').format(
                _n(box.x + _PAD), _n(box.y + 42 + 16 * number), line
            )
        )
    if hops.findings:
        parts.append(_chips(hops.findings, follows, box.x + _PAD, box.y + box.height - 29))
    return Markup('<g class="hop {} {}"><title>{}</title>{}</g>').format(
        hops.kind, hops.state, _title(hops), Markup("").join(parts)
    )


def _badge(state: str, x: float, y: float) -> Markup:
    return Markup(
        '<circle class="badge" cx="{0}" cy="{1}" r="9"/>'
        '<text class="mark" x="{0}" y="{2}" text-anchor="middle">{3}</text>'
    ).format(_n(x), _n(y), _n(y + 4.5), MARKS.get(state, "?"))


def _chips(findings: t.Sequence[str], follows: Mapping, x: float, y: float) -> Markup:
    """The ids of findings, each with a link to its paragraph; consequences are drawn in outline."""
    parts = []
    for identifier in findings[:3]:
        width = 10 + 7 * len(identifier)
        parts.append(
            Markup(
                '<a href="#{0}" class="{6}"><rect class="chip" x="{1}" y="{2}" width="{3}" height="18" rx="9"/>'
                '<text class="id" x="{4}" y="{5}" text-anchor="middle">{0}</text></a>'
            ).format(
                identifier,
                _n(x),
                _n(y),
                _n(width),
                _n(x + width / 2),
                _n(y + 13),
                "follows" if identifier in follows else "root",
            )
        )
        x += width + 5
    if len(findings) > 3:
        parts.append(Markup('<text class="said" x="{}" y="{}">+{}</text>').format(_n(x), _n(y + 13), len(findings) - 3))
    return Markup("").join(parts)


def narrow(diagnosis: Mapping, width: int = 350) -> Markup:
    """The picture from top to bottom: a line with a branch to every hop."""
    y = 8.0
    line: list[Markup] = []
    parts: list[Markup] = []
    passed = "ok"
    follows = outline.causes(diagnosis)
    for kind, rows in outline.path(diagnosis):
        y += 14
        parts.append(Markup('<text class="kind" x="32" y="{}">{}</text>').format(_n(y), outline.KINDS.get(kind, kind)))
        top = y - 14
        y += 12
        for hops in rows[:BOXES]:
            lines = outline.fitted(hops.text, int((width - 64) / _TEXT), 4)
            height = 24 + 16 * len(lines) + (24 if hops.findings else 0)
            state = hops.state if passed == "ok" or hops.state != "ok" else "ok"
            line.append(Markup('<path class="edge {}" d="M12 {}H32"/>').format(state, _n(y + 12)))
            drawn = [_badge(hops.state, 41, y + 12)]
            drawn.append(
                Markup('<text class="name" x="58" y="{}">{}</text>').format(
                    _n(y + 16), outline.shortened(hops.label, int((width - 60) / _NAME))
                )
            )
            for number, said in enumerate(lines):
                drawn.append(
                    Markup('<text class="said" x="58" y="{}">{}</text>').format(_n(y + 34 + 16 * number), said)
                )
            if hops.findings:
                drawn.append(_chips(hops.findings, follows, 58, y + height - 18))
            parts.append(
                Markup('<g class="hop {} {}"><title>{}</title>{}</g>').format(
                    hops.kind, hops.state, _title(hops), Markup("").join(drawn)
                )
            )
            last = y + 12
            y += height + 6
        line.append(Markup('<path class="edge {}" d="M12 {}V{}"/>').format(passed, _n(top), _n(last)))
        if kind != "client" and rows and all(hops.state != "ok" for hops in rows):
            passed = "unknown"
        line.append(Markup('<path class="edge {}" d="M12 {}V{}"/>').format(passed, _n(last), _n(y)))
    if line:
        # Nothing follows the last hop.
        line.pop()
    return _svg(diagnosis, "narrow", width, y, [*line, *parts])


def _svg(diagnosis: Mapping, name: str, width: float, height: float, parts: t.Sequence[Markup]) -> Markup:
    return Markup('<svg class="path {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        name, _n(width), _n(height), _description(diagnosis), Markup("").join(parts)
    )


def _description(diagnosis: Mapping) -> str:
    """The picture in words."""
    said = [
        f"{outline.KINDS.get(kind, kind)} {hops.label} {_SAID.get(hops.state, 'unknown')}"
        for kind, rows in outline.path(diagnosis)
        for hops in rows[:BOXES]
    ]
    return f"The path of a request: {'; '.join(said)}."


def _title(hops: outline.Hops) -> str:
    return f"{outline.listed(hops.names, 12)}: {hops.text or _SAID.get(hops.state, '')}"


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
