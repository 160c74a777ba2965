# SPDX-License-Identifier: GPL-3.0-or-later
"""The soak runs, and its verdict follows from what it saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .test_bench import BENCH, SERVER


def run(code: str) -> Any:
    """Run a line in the bench's folder, whose modules import each other by their bare names."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, soak\n{code}"],
        cwd=BENCH,
        env=os.environ | {"PYTHONPATH": f"{SERVER / 'src'}:{SERVER / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def seen(**last: float) -> dict[str, Any]:
    row = {"rss_mib": 100.0, "descriptors": 50.0, "threads": 2.0, "series": 900.0}
    return {"rows": [row] * 59 + [row | last], "late": [], "failures": []}


def test_what_stays_as_it_is_passes() -> None:
    assert run(f"print(json.dumps(soak.verdict({seen(rss_mib=104)!r})))") == []


@pytest.mark.parametrize("grown", [{"rss_mib": 120}, {"descriptors": 90}, {"threads": 9}, {"series": 950}])
def test_what_grows_is_named(grown: dict[str, float]) -> None:
    (wrong,) = run(f"print(json.dumps(soak.verdict({seen(**grown)!r})))")
    assert "grew by" in wrong


def test_late_samples_and_refused_clients_are_named() -> None:
    found = seen() | {"late": ["fleet-00003 99 s"], "failures": ["12:00:00 /pods: no"]}
    assert len(run(f"print(json.dumps(soak.verdict({found!r})))")) == 2


def test_kubelets_count_as_well_by_the_rule_of_the_fleet() -> None:
    code = """
from fleet import Fleet
fleet = Fleet.__new__(Fleet)
fleet.nodes, fleet.failing, fleet.period = 40, 4, soak._PERIOD
def agrees(now):
    soak.time.time = lambda: now
    return all((fleet.fault(n) is None) == soak.well(n, 40, 4, now, 0) for n in range(40))
print(json.dumps([agrees(float(now)) for now in range(0, 3600, 7)]))
"""
    assert all(run(code))


def test_a_short_soak_runs(tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    done = subprocess.run(
        [sys.executable, str(BENCH / "soak.py"), "--nodes=20", "--minutes=0.1", "--static-api", f"--json={path}"],
        env=os.environ | {"PYTHONPATH": f"{SERVER / 'src'}:{SERVER / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert found["rows"][0]["rss_mib"] > 0
    assert found["answered"] > 10
