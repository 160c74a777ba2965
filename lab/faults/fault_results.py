# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later
"""What doctor says of a fault, judged, and the lines that are left of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any


def roots(diagnosis: dict[str, Any]) -> list[str]:
    return sorted({finding["id"] for finding in diagnosis["findings"] if finding["root"]})


def consequences(diagnosis: dict[str, Any]) -> list[str]:
    return sorted({finding["id"] for finding in diagnosis["findings"] if not finding["root"]})


def judge(
    diagnosis: dict[str, Any],
    expected: Iterable[str],
    also: Iterable[str] = (),
    hosts: Iterable[str] = (),
    layer: str = "",
    hidden: Iterable[str] = (),
) -> list[str]:
    """What is wrong with a diagnosis: exactly these roots, no consequence but those, and nothing unexplained.

    What is hidden may be found with them, itself or first by what follows from it; where it is not, something has to be
    said to be unknown.
    """
    wrong = []
    beside = ({*hidden, *also} if hidden else set()) - set(expected)
    if not set(hidden) <= set(roots(diagnosis)) and not diagnosis["unknown"]:
        wrong.append("what is hidden is not said to be unknown")
    if sorted(set(roots(diagnosis)) - beside) != sorted(set(expected)):
        wrong.append(f"roots {roots(diagnosis) or 'none'} instead of {sorted(set(expected)) or 'none'}")
    if odd := sorted(set(consequences(diagnosis)) - set(also)):
        wrong.append(f"consequences {odd} that the fault does not name")
    layers = sorted({entry["layer"] for entry in diagnosis["unexplained"]})
    if layers != ([layer] if layer else []):
        wrong.append(f"unexplained layers {layers or 'none'} instead of {[layer] if layer else 'none'}")
    for finding in diagnosis["findings"]:
        if hosts and finding["root"] and set(finding["hosts"]) != set(hosts):
            wrong.append(f"{finding['id']} on {finding['hosts']} instead of {sorted(hosts)}")
    return wrong


#: What fills an evidence and decides nothing.
BULKY = {
    "argv",
    "boot_id",
    "definition_files",
    "fingerprints_sha256",
    "images",
    "nft_chains",
    "probes",
    "serial_number",
    "unit_state",
    "verdicts",
}


def trimmed(value: Any) -> Any:
    """An evidence for a unit test: without what is empty, does not run, or decides nothing."""
    if isinstance(value, list):
        return [trimmed(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    kept = {key: trimmed(entry) for key, entry in value.items() if key not in BULKY}
    if isinstance(kept.get("log"), list):
        kept["log"] = kept["log"][-6:]
    return {
        key: entry
        for key, entry in kept.items()
        if entry not in (None, "", [], {}) and not (isinstance(entry, dict) and entry.get("managed_by") == "unknown")
    }


@dataclasses.dataclass
class Result:
    """A line of the table, and of faults.jsonl."""

    fault: str
    on: list[str] = dataclasses.field(default_factory=list)
    injected: float | None = None
    symptom: float | None = None
    doctor: float | None = None
    roots: list[str] = dataclasses.field(default_factory=list)
    consequences: list[str] = dataclasses.field(default_factory=list)
    mended: float | None = None
    how: str = ""
    wrong: list[str] = dataclasses.field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "; ".join(self.wrong) or "ok"

    def row(self) -> list[str]:
        def seconds(value: float | None) -> str:
            return "-" if value is None else f"{value:.1f} s"

        return [
            self.fault,
            seconds(self.injected),
            seconds(self.symptom),
            seconds(self.doctor),
            ",".join(self.roots) or "-",
            ",".join(self.consequences) or "-",
            f"{self.how} {seconds(self.mended)}".strip(),
            self.verdict,
        ]


def table(results: list[Result]) -> str:
    head = ["fault", "injected", "symptom after", "doctor", "roots", "consequences", "mended", "verdict"]
    rows = [head, *(result.row() for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]) for row in rows
    )
