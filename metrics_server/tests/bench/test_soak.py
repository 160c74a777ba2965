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
    return {"rows": [row] * 59 + [row | last], "missed": [], "lost": [], "failures": [], "errors": []}


def test_what_stays_as_it_is_passes() -> None:
    assert run(f"print(json.dumps(soak.verdict({seen(rss_mib=104)!r})))") == []


@pytest.mark.parametrize("grown", [{"rss_mib": 120}, {"descriptors": 90}, {"threads": 9}, {"series": 1100}])
def test_what_grows_is_named(grown: dict[str, float]) -> None:
    (wrong,) = run(f"print(json.dumps(soak.verdict({seen(**grown)!r})))")
    assert "grew by" in wrong


def test_missed_scrapes_lost_nodes_and_refused_clients_are_named() -> None:
    found = seen() | {"missed": ["fleet-00003: 99 s"], "lost": ["fleet-00004"], "failures": ["12:00:00 /pods: no"]}
    found["errors"] = ["E1121 Request failed"]
    assert len(run(f"print(json.dumps(soak.verdict({found!r})))")) == 4


@pytest.mark.parametrize(
    ("stamps", "missed"),
    [
        # A sample each 15 s, checked each 5 s.
        ([0, 0, 0, 15, 15, 15, 30, 30, 30, 45], 0),
        # One is missed. It is seen while the gap is open and again when it ends, and counts once.
        ([0, 0, 0, 0, 0, 0, 30, 30, 30, 45], 1),
        ([0, 0, 0, 0, 0, 0, 30, 30, 30, 30, 30, 30, 60], 2),
        # It never returns.
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1),
        # It was never there.
        ([None] * 8, 1),
        # It left the list with its last sample.
        ([0, None, None, None, None, None, None], 1),
    ],
)
def test_a_gap_between_samples_is_a_scrape_that_was_missed(stamps: list[float | None], missed: int) -> None:
    code = f"""
samples = soak.Samples()
for number, stamp in enumerate({stamps!r}):
    samples.look(1.0 + 5 * number, {{}} if stamp is None else {{"a": 0.9 + stamp}}, lambda name: True, ["a"])
print(json.dumps(len(samples.missed)))
"""
    assert run(code) == missed


def test_the_gap_of_a_kubelet_that_failed_is_nothing_missed() -> None:
    code = """
samples = soak.Samples()
for number, stamp in enumerate([0, 0, 0, 0, 0, 0, 0, 0, 60, 60]):
    samples.look(5.0 * number, {"a": stamp}, lambda name: number > 8, ["a"])
print(json.dumps(samples.missed))
"""
    assert run(code) == []


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
        [sys.executable, str(BENCH / "soak.py"), "--nodes=20", "--minutes=0.02", "--static-api", f"--json={path}"],
        env=os.environ | {"PYTHONPATH": f"{SERVER / 'src'}:{SERVER / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert found["rows"][0]["rss_mib"] > 0
    assert found["rows"][0]["scraped"] > 10
    assert found["answered"] > 2
