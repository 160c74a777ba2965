# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From evidence to a diagnosis: which rows apply, which of them are roots, and what no row explains. Pure functions."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import (
    catalogue,
    own_configuration,
    path,
    symptoms,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
    BRINGS,
    Finding,
    Observation,
    Row,
    Symptom,
)

SCHEMA = "kubemetrics.aggregation/diagnosis"
SCHEMA_VERSION = 1

#: Status of ansible-playbook: nothing found, findings, and hosts that could not be examined.
WELL, FINDINGS, UNREACHABLE = 0, 2, 4

Mapping = t.Mapping[str, t.Any]


def diagnose(document: Mapping, rows: t.Sequence[Row] | None = None) -> dict[str, t.Any]:
    """The diagnosis of an evidence document. Raises EvidenceError for what is none."""
    evidence = Evidence(document)
    found = findings(evidence, catalogue.rows_for(evidence.subject) if rows is None else rows)
    measured = symptoms.measure(evidence)
    unexplained = _first([entry for entry in measured if not _explained(entry, found)])
    unknown = symptoms.unknown(evidence, found)
    unreached = [host.name for host in evidence.hosts if not host.reachable]
    well = not found and not unexplained
    # A fault that nothing could have shown is not ruled out.
    verdict = "findings" if not well else "well" if evidence.api_answered and evidence.requests else "unknown"
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "verdict": verdict,
        "apiservice": evidence.subject.apiservice,
        "headline": headline(evidence, found, unexplained, unreached, verdict),
        "exit_status": UNREACHABLE if unreached else WELL if verdict == "well" else FINDINGS,
        "distribution": own_configuration.view(evidence),
        "collected": dict(evidence.get("collected", default={})),
        "path": path.hops(evidence, found, measured),
        "findings": [_as_dict(finding, evidence) for finding in found],
        "unexplained": [entry.as_dict() for entry in unexplained],
        "notices": symptoms.notices(evidence),
        "unknown": unknown,
    }


def _as_dict(finding: Finding, evidence: Evidence) -> dict[str, t.Any]:
    """A finding of the document; its repair diagnoses the same API again."""
    found = own_configuration.adapted(finding.as_dict(), evidence)
    if not evidence.subject.resource_metrics:
        found["repair"]["variables"].append(f"doctor_apiservice={evidence.subject.apiservice}")
    return found


def findings(evidence: Evidence, rows: t.Sequence[Row]) -> list[Finding]:
    """The rows that apply: roots first, each followed by what it explains, in the order of the path of a request."""
    seen = _standing([Finding(row, observed) for row in rows if (observed := tuple(row.rule(evidence)))])
    for finding in seen:
        finding.caused_by = tuple(other.id for other in seen if other is not finding and _causes(other, finding))
    for finding in seen:
        # Only roots are named as causes; what lies between is seen in the order.
        finding.causes = tuple(other.id for other in seen if finding.id in other.caused_by)
    seen = [finding for finding in seen if not _suffered_without_cause(finding)]
    roots = sorted((finding for finding in seen if finding.root), key=_urgency)
    ordered: list[Finding] = []
    for root in roots:
        ordered += [root, *_consequences(root, seen, ordered)]
    return ordered + [finding for finding in seen if finding not in ordered]


def _standing(seen: t.Sequence[Finding]) -> list[Finding]:
    """Without those observations that count only beside others, or only where there are no others."""
    kept = []
    for finding in seen:
        others = [other for other in seen if other is not finding]
        observations = tuple(entry for entry in finding.observations if _stands(finding.row, entry, others))
        if observations:
            kept.append(Finding(finding.row, observations))
    return kept


def _stands(row: Row, observation: Observation, others: t.Sequence[Finding]) -> bool:
    if observation.standing == "consequence":
        return any(row.id in other.row.explains for other in others)
    if observation.standing == "fallback":
        return not any(_covers(other, row.covers, observation.hosts) for other in others)
    return True


def _covers(finding: Finding, symptoms_: t.Collection[str], hosts: t.Sequence[str]) -> bool:
    """Whether a finding is an error that brings one of these symptoms about on these hosts."""
    if not {*finding.row.covers, *finding.row.covers_everywhere} & {*symptoms_}:
        return False
    return any(
        entry.severity == "error" and entry.standing == "own" and (not entry.hosts or {*hosts} <= {*finding.hosts})
        for entry in finding.observations
    )


def headline(
    evidence: Evidence,
    found: t.Sequence[Finding],
    unexplained: t.Sequence[symptoms.Measured],
    unreached: t.Sequence[str],
    verdict: str,
) -> str:
    """The verdict in one sentence."""
    about = evidence.subject
    roots = [finding for finding in found if finding.root]
    left_out = f" Not examined: {', '.join(unreached)}." if unreached else ""
    if roots:
        first = roots[0]
        where = f" on {_listed(first.hosts)}" if first.hosts else ""
        more = f" and {len(roots) - 1} more" if len(roots) > 1 else ""
        return f"{first.id}{where}{more}: {first.row.title}.{left_out}"
    if unexplained:
        entry = unexplained[0]
        where = f" on {_listed(entry.hosts)}" if entry.hosts else ""
        return f"Not in the catalogue, {entry.layer.replace('_', ' ')}{where}: {entry.evidence[0]}.{left_out}"
    if verdict == "unknown":
        what = "metrics" if about.resource_metrics else about.apiservice
        return f"No fault was found, but whether API servers serve {what} was not seen, so that is unknown.{left_out}"
    works = "Resource metrics work" if about.resource_metrics else f"{about.apiservice} works"
    return f"{works} through every API server.{left_out}"


def _listed(names: t.Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _causes(cause: Finding, finding: Finding) -> bool:
    if finding.id in cause.row.explains:
        return not _circular(finding, cause) and cause.row.related(cause, finding)
    if any(observed.independent for observed in finding.observations):
        return False
    # What others suffer comes from whatever explains the symptoms that bring it.
    suffered = finding.row.layer == "consequence" != cause.row.layer
    return suffered and cause.severity == "error" and not cause.brings.isdisjoint(finding.row.covers)


def _suffered_without_cause(finding: Finding) -> bool:
    """What others suffer is no cause: where no row explains what brings it, that is what is unexplained."""
    return (
        finding.root
        and finding.row.layer == "consequence"
        and not any(observed.independent for observed in finding.observations)
    )


def _circular(finding: Finding, other: Finding) -> bool:
    """Of two rows that explain each other, the first of the catalogue is the cause."""
    if other.id not in finding.row.explains:
        return False
    order = [row.id for row in catalogue.ROWS]
    return order.index(finding.id) < order.index(other.id) if {finding.id, other.id} <= set(order) else False


def _urgency(finding: Finding) -> tuple[int, int]:
    """Errors before warnings, then along the path: what is broken earlier hides what comes after it."""
    layers = ["api_server", "registration", "service", "server", "kubelet", "client", "consequence"]
    return (0 if finding.severity == "error" else 1, layers.index(finding.row.layer))


def _consequences(root: Finding, seen: t.Sequence[Finding], listed: t.Sequence[Finding]) -> list[Finding]:
    """What a root explains, directly or through another consequence, and is not listed yet."""
    found: list[Finding] = []
    waiting = [root]
    while waiting:
        cause = waiting.pop(0)
        for finding in seen:
            if cause.id in finding.caused_by and finding not in found and finding not in listed and finding is not root:
                found.append(finding)
                waiting.append(finding)
    return found


#: Where a request fails: a warning, such as of a rollout that is stuck, explains none of it.
_PATH: tuple[Symptom, ...] = ("api_server", "registration", "request", "server_pod", "node_metrics", "pod_metrics")


def _explained(entry: symptoms.Measured, found: t.Sequence[Finding]) -> bool:
    for finding in found:
        if finding.severity == "warning" and entry.symptom in _PATH:
            continue
        if entry.symptom in finding.row.covers_everywhere:
            return True
        # A warning stands for what it is about, not for what a fault at its place would bring.
        reach = finding.row.covers if finding.severity == "warning" else finding.brings
        if entry.symptom in reach and (not finding.hosts or not entry.hosts or set(entry.hosts) <= set(finding.hosts)):
            return True
    return False


def _first(unexplained: t.Sequence[symptoms.Measured]) -> list[symptoms.Measured]:
    """Those that no other one brings with it: where it begins."""

    def brought(entry: symptoms.Measured) -> bool:
        return any(
            entry.symptom in BRINGS.get(other.symptom, ()) and (not other.hosts or set(entry.hosts) <= set(other.hosts))
            for other in unexplained
        )

    return [entry for entry in unexplained if not brought(entry)]
