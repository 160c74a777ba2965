# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as Markdown, to paste into an issue. Pure functions.

What it quotes stands in blocks that nothing in it can close; other text is escaped, and mentions nobody.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import outline, terminal

#: Lines of evidence of a finding, and entries of a list.
EVIDENCE, ENTRIES = 20, 20

Mapping = t.Mapping[str, t.Any]


def render(diagnosis: Mapping) -> str:
    """The report as Markdown."""
    parts = [f"**{text(diagnosis.get('headline'))}**"]
    said = outline.collected(diagnosis)
    parts.append(text(f"{said} {outline.version(diagnosis)}.".strip()))
    parts.append(block(terminal.path(diagnosis)))
    for finding, consequences in outline.roots(diagnosis):
        parts += _finding(finding, consequences)
    together = outline.repairable(diagnosis)
    if len(together) > 1:
        parts += ["All that the playbook repairs, in this order:", block([outline.command(together)], "console")]
    unexplained = diagnosis.get("unexplained") or ()
    if unexplained:
        parts.append("### Not in the catalogue, as it was measured")
        for entry in unexplained[:ENTRIES]:
            layer = outline.LAYERS.get(str(entry.get("layer")), outline.clean(entry.get("layer")))
            hosts = entry.get("hosts") or ()
            parts.append(f"{text(layer)}{f', {text(outline.listed(hosts))}' if hosts else ''}:")
            parts.append(block([outline.clean(line) for line in entry.get("evidence") or ()]))
        parts += _more(unexplained)
    for heading in ("unknown", "notices"):
        entries = diagnosis.get(heading) or ()
        if entries:
            parts.append(f"### {heading.capitalize()}")
            parts.append("\n".join(f"- {text(entry)}" for entry in entries[:ENTRIES]))
            parts += _more(entries)
    return "\n\n".join(parts)


def _finding(finding: Mapping, consequences: t.Sequence[Mapping]) -> list[str]:
    identifier = outline.clean(finding["id"])
    repair = finding.get("repair") or {}
    evidence = [outline.clean(line) for line in finding.get("evidence") or ()]
    kind = outline.kind_of_repair(finding)
    commands = [outline.clean(command) for command in repair.get("commands") or ()]
    if kind != "advice":
        commands = [outline.command([finding])]
    said = " ".join(filter(None, [text(repair.get("text")), text(outline.cost(finding))]))
    parts = [
        f"### {text(f'{identifier}{outline.where(finding)}')}: {text(finding.get('title'))}",
        f"**Symptom**: {text(finding.get('symptom'))}",
        f"**Cause**: {text(finding.get('cause'))}",
        block(evidence[:EVIDENCE]) if evidence else "",
        *_more(evidence, EVIDENCE),
        f"**Repair**: {said}{' Done only when it is asked for by its id.' if kind == 'consent' else ''}",
        block(commands, "console") if commands else "",
        f"**What not to do**: {text(finding.get('avoid'))}",
        "\n".join(
            f"- Leads to {text(other['id'] + outline.where(other))}: {text(other.get('title'))}"
            for other in consequences
        ),
        outline.clean(finding.get("documentation")),
    ]
    return [part for part in parts if part]


def _more(entries: t.Sequence[t.Any], limit: int = ENTRIES) -> list[str]:
    return [f"and {len(entries) - limit} more; the form json has all of them"] if len(entries) > limit else []


def text(value: t.Any) -> str:
    """Text that is shown as it is: no markup, no HTML, no mention of a person or an issue."""
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", outline.clean(value))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub("([@#])", r"\1<!-- -->", escaped)


def block(lines: t.Sequence[str], language: str = "text") -> str:
    """A block of code whose fence is longer than any in it."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])
