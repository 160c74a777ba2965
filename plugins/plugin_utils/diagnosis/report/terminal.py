# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report for a terminal: the verdict in the first line, the path, a paragraph a finding. Pure functions."""

from __future__ import annotations

import textwrap
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import outline

WIDTH = 100
#: Lines of evidence of a finding, and rows of a line that is too long for one.
EVIDENCE, ROWS = 8, 3
#: Entries of a list of notices.
ENTRIES = 8
MARKS = {"ok": "✓", "broken": "✗", "unknown": "?"}
_STATES = {"ok": "green", "broken": "red", "unknown": "yellow"}
_VERDICTS = {"well": "green", "findings": "red", "unknown": "yellow"}
_CODES = {"red": "1;31", "green": "32", "yellow": "33", "bold": "1", "dim": "2", "cyan": "36"}
_LABEL = 10

Mapping = t.Mapping[str, t.Any]


def render(diagnosis: Mapping, *, colour: bool = False, inventory: t.Sequence[str] = ()) -> str:
    """The report as text of about 100 columns. inventory: what to give to -i in the commands."""
    paint = _Paint(colour)
    verdict = str(diagnosis.get("verdict"))
    lines = [
        paint(line, _VERDICTS.get(verdict, "yellow"))
        for line in _wrapped(outline.clean(diagnosis.get("headline")), WIDTH)
    ]
    lines += [paint(line, "dim") for line in _wrapped(outline.collected(diagnosis), WIDTH)]
    lines += ["", *_path(diagnosis, paint)]
    roots = outline.roots(diagnosis)
    for number, (finding, consequences) in enumerate(roots, 1):
        lines += ["", *_finding(finding, consequences, paint, inventory, f"{number}. " if len(roots) > 1 else "")]
    together = outline.repairable(diagnosis)
    if len(together) > 1:
        lines += ["", "All that the playbook repairs, in this order:"]
        lines.append("  " + paint(outline.command(together, inventory), "cyan"))
    lines += _unexplained(diagnosis, paint)
    lines += _entries("Unknown", diagnosis.get("unknown") or (), paint)
    lines += _entries("Notices", diagnosis.get("notices") or (), paint)
    return "\n".join(line.rstrip() for line in lines)


class _Paint:
    """Colours a text where colours are wanted."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, text: str, name: str) -> str:
        return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if self.colour and text.strip() else text


def path(diagnosis: Mapping) -> list[str]:
    """The path alone, without colours."""
    return [line.rstrip() for line in _path(diagnosis, _Paint(colour=False))]


def _path(diagnosis: Mapping, paint: _Paint) -> list[str]:
    groups = outline.path(diagnosis)
    cause = outline.causes(diagnosis)
    width = max((len(_name(hops)) for _kind, rows in groups for hops in rows), default=0)
    labels = max((len(outline.KINDS.get(kind, kind)) for kind, _rows in groups), default=0)
    lines = []
    for kind, rows in groups:
        for number, hops in enumerate(rows):
            label = outline.KINDS.get(kind, kind) if number == 0 else ""
            ids = [identifier for identifier in hops.findings if identifier not in cause]
            follows = [
                f"{identifier} (from {cause[identifier]})" for identifier in hops.findings if identifier in cause
            ]
            found = f"{', '.join([*ids, *follows])}: " if hops.findings else ""
            head = f"  {label:<{labels}}  {MARKS.get(hops.state, '?')} {_name(hops):<{width}}  "
            body = outline.fitted(found + hops.text, max(WIDTH - len(head), 30), 2)
            painted = _STATES.get(hops.state, "yellow")
            mark = paint(MARKS.get(hops.state, "?"), painted)
            # The client's failure is what its user sees; the fault is marked where it is.
            fault = hops.state == "broken" and kind != "client"
            name = paint(f"{_name(hops):<{width}}", painted if fault else "bold")
            first = body[0] if body else ""
            if found and first.startswith(found.rstrip()):
                first = (
                    paint(found.rstrip(), "red" if hops.state == "broken" else "yellow") + first[len(found.rstrip()) :]
                )
            lines.append(f"  {paint(f'{label:<{labels}}', 'dim')}  {mark} {name}  {first}")
            lines += [" " * len(head) + line for line in body[1:]]
    return lines


def _name(hops: outline.Hops) -> str:
    return outline.shortened(hops.label, 38)


def _finding(
    finding: Mapping, consequences: t.Sequence[Mapping], paint: _Paint, inventory: t.Sequence[str], number: str
) -> list[str]:
    error = finding.get("severity") != "warning"
    title = f"{number}{outline.clean(finding['id'])}{outline.where(finding)}: {outline.clean(finding.get('title'))}"
    lines = [paint(line, "red" if error else "yellow") for line in _wrapped(title, WIDTH)]
    repair = finding.get("repair") or {}
    lines += _field("symptom", finding.get("symptom"), paint)
    lines += _field("cause", finding.get("cause"), paint)
    lines += _quoted("evidence", finding.get("evidence") or (), paint)
    lines += _field("repair", " ".join(filter(None, [outline.clean(repair.get("text")), outline.cost(finding)])), paint)
    if outline.kind_of_repair(finding) == "advice":
        commands = [outline.clean(command) for command in repair.get("commands") or ()]
    else:
        commands = [outline.command([finding], inventory)]
        if outline.kind_of_repair(finding) == "consent":
            lines += _field("", "Done only when it is asked for by its id:", paint)
    lines += [" " * (_LABEL + 2) + paint(command, "cyan") for command in commands]
    lines += _field("avoid", finding.get("avoid"), paint)
    lines += _column("more", [outline.clean(finding.get("documentation"))], paint)
    for index, other in enumerate(consequences):
        said = f"{outline.clean(other['id'])}{outline.where(other)}: {outline.clean(other.get('title'))}"
        lines += _field("leads to" if index == 0 else "", textwrap.shorten(said, WIDTH - _LABEL - 2), paint)
    return lines


def _field(label: str, text: t.Any, paint: _Paint) -> list[str]:
    return _column(label, _wrapped(outline.clean(text), WIDTH - _LABEL - 2), paint)


def _column(label: str, lines: t.Sequence[str], paint: _Paint) -> list[str]:
    """A label in its own column, and the lines beside it."""
    labels = [label, *[""] * len(lines)]
    return [f"  {paint(labels[index].ljust(_LABEL), 'dim')}{line}" for index, line in enumerate(lines)]


def _quoted(label: str, quoted: t.Sequence[t.Any], paint: _Paint) -> list[str]:
    lines: list[str] = []
    for entry in quoted[:EVIDENCE]:
        body = _wrapped(outline.clean(entry), WIDTH - _LABEL - 4)
        if len(body) > ROWS:
            body = [*body[: ROWS - 1], f"{body[ROWS - 1][: WIDTH - _LABEL - 6]} …"]
        lines += [f"{'| ' if index == 0 else '  '}{line}" for index, line in enumerate(body)]
    if len(quoted) > EVIDENCE:
        lines.append(f"  and {len(quoted) - EVIDENCE} more lines; the form json has all of them")
    return _column(label, lines, paint)


def _unexplained(diagnosis: Mapping, paint: _Paint) -> list[str]:
    entries = diagnosis.get("unexplained") or ()
    if not entries:
        return []
    lines = ["", paint("Not in the catalogue, as it was measured:", "yellow")]
    for entry in entries[:ENTRIES]:
        hosts = entry.get("hosts") or ()
        layer = outline.LAYERS.get(str(entry.get("layer")), outline.clean(entry.get("layer")))
        lines += _wrapped(f"  {layer}{f', {outline.listed(hosts)}' if hosts else ''}", WIDTH)
        lines += _quoted("", entry.get("evidence") or (), paint)
    if len(entries) > ENTRIES:
        lines.append(f"  and {len(entries) - ENTRIES} more; the form json has all of them")
    lines += ["  Please report it with the evidence, which -e doctor_evidence_file=FILE saves:", f"  {outline.ISSUES}"]
    return lines


def _entries(label: str, entries: t.Sequence[t.Any], paint: _Paint) -> list[str]:
    if not entries:
        return []
    lines = ["", paint(f"{label}:", "bold")]
    for entry in entries[:ENTRIES]:
        body = _wrapped(outline.clean(entry), WIDTH - 4)
        lines += [f"  {'-' if index == 0 else ' '} {line}" for index, line in enumerate(body)]
    if len(entries) > ENTRIES:
        lines.append(f"  - and {len(entries) - ENTRIES} more; the form json has all of them")
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of that width; words that are longer, such as addresses, stay whole unless they are absurd."""
    lines: list[str] = []
    for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False):
        lines += textwrap.wrap(line, width) if len(line) > 2 * width else [line]
    return lines
