# SPDX-License-Identifier: GPL-3.0-or-later
"""Every row against evidence that a lab gave while the fault of the same id was injected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import catalogue, engine

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "evidence"


def test_every_row_has_evidence_of_a_lab():
    assert [row.id for row in catalogue.ROWS if not (CORPUS / f"{row.id}.json").exists()] == []


@pytest.mark.parametrize("identifier", [row.id for row in catalogue.ROWS])
def test_the_fault_of_a_row_has_it_as_the_only_root(identifier):
    diagnosis = engine.diagnose(json.loads((CORPUS / f"{identifier}.json").read_text(encoding="utf-8")))
    assert [finding["id"] for finding in diagnosis["findings"] if finding["root"]] == [identifier]
    assert diagnosis["unexplained"] == []
    finding = diagnosis["findings"][0]
    assert finding["evidence"] and all(line.strip() and "None" not in line for line in finding["evidence"])
