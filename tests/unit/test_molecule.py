# SPDX-License-Identifier: GPL-3.0-or-later
"""Molecule only warns about a step without a playbook; a scenario would pass without having done it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHARED = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text(encoding="utf-8"))
SAME_AS = {"check": "converge", "idempotence": "converge"}


@pytest.mark.parametrize(
    "folder", sorted((ROOT / "molecule").glob("*/molecule.yml")), ids=lambda path: path.parent.name
)
def test_every_step_of_a_scenario_has_its_playbook(folder):
    own = yaml.safe_load(folder.read_text(encoding="utf-8")) or {}
    steps = (own.get("scenario") or {}).get("test_sequence") or SHARED["scenario"]["test_sequence"]
    missing = [step for step in steps if not (folder.parent / f"{SAME_AS.get(step, step)}.yml").exists()]
    assert missing == []
