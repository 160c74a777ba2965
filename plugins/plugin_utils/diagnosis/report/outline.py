# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all forms of a report share: hops that are shown together, findings that are roots, clean text. Pure functions.

A diagnosis quotes logs, names and answers of a broken cluster, and may come from another machine: its text is hostile
input.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import textwrap
import typing as t
import unicodedata

KINDS = {
    "client": "client",
    "api_server": "API server",
    "service": "Service",
    "server": "metrics server",
    "extension_server": "extension server",
    "kubelet": "kubelet",
}
LAYERS = {**KINDS, "registration": "registration of the API", "consequence": "what depends on the API"}
ISSUES = "https://github.com/kubemetrics/kubemetrics.aggregation/issues"
#: Up to so many API servers, or pods, are shown one by one.
SINGLY = 6
#: Up to so many groups of hops that differ in their text only are shown apart.
APART = 4

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])")
_RANK = {"broken": 0, "unknown": 1, "ok": 2}

Mapping = t.Mapping[str, t.Any]


def clean(text: t.Any) -> str:
    """One line without anything that a terminal or a browser would act upon, such as escape and bidi sequences."""
    line = _ANSI.sub("", str("" if text is None else text))
    # Control characters, format characters (bidi overrides, zero width), surrogates and what is unassigned.
    return " ".join("".join(" " if unicodedata.category(c) in _UNSEEN else c for c in line).split())


_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def listed(names: t.Sequence[str], limit: int = 4) -> str:
    """Names, and how many more where there are too many."""
    shown = [clean(name) for name in names]
    return (
        ", ".join(shown)
        if len(shown) <= limit
        else f"{', '.join(shown[: limit - 1])} and {len(shown) - limit + 1} more"
    )


def shortened(name: str, width: int) -> str:
    """A name that fits: without its namespace or domain, or without its middle, since pods differ at the end."""
    if len(name) > width and "/" in name and "://" not in name:
        name = name.rpartition("/")[2]
    if len(name) > width:
        first, dot, _domain = name.partition(".")
        if dot and len(first) < width and not re.search("[/:, ]", name):
            return f"{first}…"
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def fitted(text: str, width: int, rows: int) -> list[str]:
    """So many lines of that width at most, with a mark where there would be more."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    return lines if len(lines) <= rows else [*lines[: rows - 1], f"{lines[rows - 1][: width - 1].rstrip()}…"]


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


@dataclasses.dataclass(frozen=True)
class Hops:
    """Hops of one kind that are in the same state."""

    kind: str
    state: str
    names: tuple[str, ...]
    text: str
    findings: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name, or what stands for several."""
        if self.state == "ok" and len(self.names) > 4:
            return plural(len(self.names), KINDS.get(self.kind, self.kind))
        return listed(self.names)


def path(diagnosis: Mapping) -> list[tuple[str, list[Hops]]]:
    """The hops by kind, in the order of the path, those together that say the same; what is broken comes first."""
    kinds: dict[str, list[Mapping]] = {}
    for hop in diagnosis.get("path") or ():
        kinds.setdefault(str(hop.get("kind")), []).append(hop)
    return [(kind, _grouped(kind, found)) for kind, found in kinds.items()]


def _grouped(kind: str, hops: t.Sequence[Mapping]) -> list[Hops]:
    if kind != "kubelet" and len(hops) <= SINGLY:
        return [_together(kind, [hop]) for hop in hops]
    groups = _by(hops, lambda hop: (hop.get("state"), tuple(hop.get("findings") or ()), clean(hop.get("text"))))
    if len(groups) > APART:
        # Texts that name an address each would make as many groups as there are nodes.
        groups = _by(hops, lambda hop: (hop.get("state"), tuple(hop.get("findings") or ())))
    found = [_together(kind, group) for group in groups]
    return sorted(found, key=lambda entry: _RANK.get(entry.state, 1))


def _by(hops: t.Sequence[Mapping], key: t.Callable[[Mapping], t.Any]) -> list[list[Mapping]]:
    groups: dict[t.Any, list[Mapping]] = {}
    for hop in hops:
        groups.setdefault(key(hop), []).append(hop)
    return list(groups.values())


def _together(kind: str, hops: t.Sequence[Mapping]) -> Hops:
    texts = list(dict.fromkeys(clean(hop.get("text")) for hop in hops))
    text = texts[0] if len(texts) == 1 else f"{texts[0]} (and {plural(len(texts) - 1, 'other answer')})"
    return Hops(
        kind=kind,
        state=str(hops[0].get("state")),
        names=tuple(clean(hop.get("name")) for hop in hops),
        text=text,
        findings=tuple(clean(identifier) for identifier in hops[0].get("findings") or ()),
    )


def roots(diagnosis: Mapping) -> list[tuple[Mapping, list[Mapping]]]:
    """The findings to act upon, in the order of the diagnosis, each with what follows from it."""
    findings = {str(finding["id"]): finding for finding in diagnosis.get("findings") or ()}
    origin = {identifier: _root(identifier, findings) for identifier in findings}
    return [
        (finding, [other for name, other in findings.items() if origin[name] == identifier and name != identifier])
        for identifier, finding in findings.items()
        if origin[identifier] == identifier
    ]


def _root(identifier: str, findings: t.Mapping[str, Mapping]) -> str:
    """The first finding that explains this one and is explained by none; itself where there is none."""
    seen: list[str] = []
    waiting = [identifier]
    while waiting:
        current = waiting.pop(0)
        if current in seen or current not in findings:
            continue
        seen.append(current)
        if findings[current].get("root"):
            return current
        waiting += [str(cause) for cause in findings[current].get("caused_by") or ()]
    return identifier


def causes(diagnosis: Mapping) -> dict[str, str]:
    """The id of the root of each consequence."""
    return {str(other["id"]): str(root["id"]) for root, others in roots(diagnosis) for other in others}


def where(finding: Mapping) -> str:
    """The hosts of a finding, as part of a heading."""
    hosts = finding.get("hosts") or ()
    return f" on {listed(hosts)}" if hosts else ""


def command(findings: t.Sequence[Mapping], inventory: t.Sequence[str] = ()) -> str:
    """The command line that repairs these findings; inventory: what the user gave to -i."""
    options = "".join(f"-i {shlex.quote(clean(source))} " for source in inventory)
    variables = [
        clean(variable) for entry in findings for variable in (entry.get("repair") or {}).get("variables") or ()
    ]
    values = [f"repair={','.join(clean(entry['id']) for entry in findings)}", *dict.fromkeys(variables)]
    return f"ansible-playbook {options}kubemetrics.aggregation.repair {' '.join(f'-e {value}' for value in values)}"


def repairable(diagnosis: Mapping) -> list[Mapping]:
    """The roots that the playbook repair mends, in order."""
    return [finding for finding, _others in roots(diagnosis) if kind_of_repair(finding) != "advice"]


def kind_of_repair(finding: Mapping) -> str:
    return str((finding.get("repair") or {}).get("kind") or "advice")


def cost(finding: Mapping) -> str:
    """Risk and downtime of the repair."""
    repair = finding.get("repair") or {}
    parts = [f"{label}: {clean(repair.get(key))}" for key, label in (("risk", "Risk"), ("downtime", "Downtime"))]
    return " ".join(f"{part.rstrip('.')}." for part in parts if not part.endswith(": "))


def collected(diagnosis: Mapping) -> str:
    """When, from what and how the evidence was collected, and which distribution the cluster is, in one line."""
    found = diagnosis.get("collected") or {}
    scope = {
        "hosts_and_api": "from the hosts and the API",
        "hosts": "from the hosts alone",
        "api": "from the API alone",
    }.get(str(found.get("scope")), "")
    took = found.get("seconds")
    parts = [
        scope,
        f"at {clean(found['at'])}" if found.get("at") else "",
        f"in {took:.0f} s" if isinstance(took, int | float) else "",
    ]
    said = " ".join(part for part in parts if part)
    sentence = clean((diagnosis.get("distribution") or {}).get("sentence"))
    return " ".join(filter(None, [f"Collected {said}." if said else "", sentence]))


def version(diagnosis: Mapping) -> str:
    """What has collected the evidence."""
    return f"kubemetrics.aggregation {clean((diagnosis.get('collected') or {}).get('collection'))}".strip()
