# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the scheduler would put a pod on a node: labels, node affinity, taints. Pure functions."""

from __future__ import annotations

import typing as t

#: Cordoning a node adds it; a node that is only cordoned can take pods again.
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
#: Taints of the moment, which the node controller sets and takes away.
_MOMENTARY = "node.kubernetes.io/"
_CLOUD = "node.cloudprovider.kubernetes.io/"

Mapping = t.Mapping[str, t.Any]


def refusal(
    labels: Mapping,
    taints: t.Iterable[Mapping],
    name: str,
    *,
    selector: Mapping,
    affinity: Mapping | None,
    tolerations: t.Sequence[Mapping],
) -> str:
    """Why a node never takes such a pod, in one clause; empty when it does."""
    for key, value in selector.items():
        if str(labels.get(key)) != str(value):
            return f"lacks the label {key}={value}"
    required = ((affinity or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required and not any(_term(term, labels, name) for term in required.get("nodeSelectorTerms") or ()):
        return "does not match metrics_server_extra_affinity"
    for taint in taints:
        momentary = str(taint.get("key") or "").startswith((_MOMENTARY, _CLOUD))
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not momentary and not tolerates(tolerations, taint):
            return f"has the taint {taint.get('key')}={taint.get('value') or ''}:{taint.get('effect')}"
    return ""


def tolerates(tolerations: t.Iterable[Mapping], taint: Mapping) -> bool:
    for entry in tolerations:
        if entry.get("effect") not in (None, "", taint.get("effect")):
            continue
        if entry.get("operator") == "Exists":
            if entry.get("key") in (None, "", taint.get("key")):
                return True
        elif entry.get("key") == taint.get("key") and str(entry.get("value") or "") == str(taint.get("value") or ""):
            return True
    return False


def _term(term: Mapping, labels: Mapping, name: str) -> bool:
    """One term of a node selector: all of its expressions, and an empty term matches nothing."""
    expressions = [(entry, labels) for entry in term.get("matchExpressions") or ()]
    expressions += [(entry, {"metadata.name": name}) for entry in term.get("matchFields") or ()]
    return bool(expressions) and all(_expression(entry, values) for entry, values in expressions)


def _expression(entry: Mapping, values: Mapping) -> bool:
    key, operator = entry.get("key"), entry.get("operator")
    wanted = [str(value) for value in entry.get("values") or ()]
    found = values.get(key) if key in values else None
    if operator == "Exists":
        return found is not None
    if operator == "DoesNotExist":
        return found is None
    if operator == "In":
        return found is not None and str(found) in wanted
    if operator == "NotIn":
        return found is None or str(found) not in wanted
    try:
        number, bound = int(str(found)), int(wanted[0])
    except (ValueError, IndexError):
        return False
    return number > bound if operator == "Gt" else number < bound if operator == "Lt" else False
