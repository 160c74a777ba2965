# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a repair does for a diagnosis: which findings, by which steps, and why it leaves others. Pure functions."""

from __future__ import annotations

import re
import textwrap
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import catalogue
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import OWN_SERVER_STEPS
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.subject import RESOURCE_METRICS, Subject

#: Parts of site.yml's sequence, in its order, and one more.
STEPS = (
    "front_proxy_pki",
    "apiserver_aggregation",
    "forward_policy",
    "kubelet_access",
    "metrics_server",
    "restart_api_server",
)
SAFE = "safe"
WIDTH = 100

Mapping = t.Mapping[str, t.Any]


class PlanError(Exception):
    """One sentence: what is wrong with what was asked for, and what to do."""


def asked(text: str) -> list[str]:
    """What the variable C(repair) asks for: ids of findings, C(safe), or nothing."""
    words = [word.strip() for word in re.split(r"[,\s]+", text) if word.strip()]
    known = {row.id for row in catalogue.ROWS}
    wanted = [SAFE if word.lower() == SAFE else word.upper() for word in words]
    wrong = [word for word in wanted if word != SAFE and word not in known]
    if wrong:
        raise PlanError(
            f"repair asks for {', '.join(wrong)}, which the catalogue of findings does not have: give ids such as "
            "AGG-05,KUB-02, as doctor prints them, or safe."
        )
    return list(dict.fromkeys(wanted))


def plan(diagnosis: Mapping, wanted: t.Sequence[str]) -> dict[str, t.Any]:
    """What is applied, what is left and why, and the steps in their order.

    apply: findings, each with id, hosts, text, risk, downtime. left: findings with why and commands. missing: ids that
    were asked for and not found.
    """
    _refuse_what_is_ours(str(diagnosis.get("apiservice") or RESOURCE_METRICS), wanted)
    found = [entry for entry in diagnosis.get("findings") or () if entry.get("severity")]
    applied: list[dict[str, t.Any]] = []
    left: list[dict[str, t.Any]] = []
    for entry in found:
        reason = _why_not(entry, wanted)
        repair = entry.get("repair") or {}
        shown = {
            "id": entry["id"],
            "title": entry.get("title") or "",
            "hosts": list(entry.get("hosts") or ()),
            "text": repair.get("text") or "",
            "risk": repair.get("risk") or "none",
            "downtime": repair.get("downtime") or "none",
        }
        if reason:
            left.append({**shown, "why": reason, "commands": list(repair.get("commands") or ())})
        else:
            applied.append(shown)
    chosen = {entry["id"] for entry in applied}
    steps = {
        step for entry in found if entry["id"] in chosen for step in (entry.get("repair") or {}).get("steps") or ()
    }
    unknown = sorted(steps - set(STEPS))
    if unknown:
        raise PlanError(
            f"The diagnosis has steps that this collection does not know ({', '.join(unknown)}): use its version."
        )
    seen = {entry["id"] for entry in found}
    return {
        "apply": applied,
        "left": left,
        "missing": [word for word in wanted if word != SAFE and word not in seen],
        "steps": [step for step in STEPS if step in steps],
        # A restart is for the hosts that need it only.
        "restart_hosts": sorted(
            {
                host
                for entry in found
                if entry["id"] in chosen and "restart_api_server" in ((entry.get("repair") or {}).get("steps") or ())
                for host in entry.get("hosts") or ()
            }
        ),
    }


def _refuse_what_is_ours(apiservice: str, wanted: t.Sequence[str]) -> None:
    """For another API nothing of this collection's metrics server is deployed or changed."""
    if Subject(apiservice).resource_metrics:
        return
    ours = [
        row.id
        for row in catalogue.ROWS
        if row.id in wanted and (row.only_resource_metrics or OWN_SERVER_STEPS & {*row.repair.steps})
    ]
    if ours:
        raise PlanError(
            f"repair asks for {', '.join(ours)}, which changes this collection's metrics server or the access to "
            f"kubelets, and the diagnosis is of {apiservice}: repair its server where it comes from, or leave "
            "doctor_apiservice out."
        )


def remaining(diagnosis: Mapping, done: Mapping) -> list[str]:
    """The findings that were repaired and are still there."""
    wanted = {entry["id"] for entry in done.get("apply") or ()}
    return [entry["id"] for entry in diagnosis.get("findings") or () if entry["id"] in wanted]


def as_text(found: Mapping, wanted: t.Sequence[str]) -> str:
    """The plan as a person reads it before anything changes."""
    lines: list[str] = []
    if found["apply"]:
        lines.append("Repair")
        for entry in found["apply"]:
            lines += _entry(entry)
            lines += _wrapped(f"Risk: {entry['risk']}. Downtime: {entry['downtime']}.")
        lines.append(f"Steps, in this order: {', '.join(found['steps'])}.")
    if found["left"]:
        lines += ["", "Left as it is"] if lines else ["Left as it is"]
        for entry in found["left"]:
            lines += _entry(entry)
            lines += _wrapped(entry["why"])
            lines += [f"      {command}" for command in entry["commands"]]
    if found["missing"]:
        lines += ["", f"Asked for and not found: {', '.join(found['missing'])}."]
    if not found["apply"] and not found["left"]:
        lines.append("There is nothing to repair.")
    elif not found["apply"] and not wanted:
        lines += ["", "Nothing was asked for: add -e repair=ID,ID or -e repair=safe."]
    return "\n".join(lines)


def _why_not(entry: Mapping, wanted: t.Sequence[str]) -> str:
    """Why a finding is left, or nothing."""
    identifier = str(entry["id"])
    kind = (entry.get("repair") or {}).get("kind") or "advice"
    if not entry.get("root"):
        return f"It is a consequence of {', '.join(entry.get('caused_by') or ())} and goes with it."
    if kind == "advice":
        return "No playbook does this; do it by hand."
    if identifier in wanted:
        return ""
    if SAFE not in wanted:
        return f"Not asked for: -e repair={identifier} does it."
    if kind == "consent":
        return f"repair=safe leaves it out because of its risk: -e repair={identifier} does it."
    return ""


def _entry(entry: Mapping) -> list[str]:
    where = f" on {', '.join(entry['hosts'])}" if entry["hosts"] else ""
    return [f"  {entry['id']}{where}: {entry['title']}", *_wrapped(str(entry["text"]))]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
