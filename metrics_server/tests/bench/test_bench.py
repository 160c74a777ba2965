# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench runs, and what it says follows from what it measured. How fast anything is, is not judged here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SERVER = Path(__file__).parents[2]
BENCH = SERVER.parent / "bench"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a run of the real server against twenty fake kubelets found."""
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    done = subprocess.run(
        [sys.executable, str(BENCH / "run.py"), "20", "--quick", "--only", "ours", "--static-api", "--json", str(path)],
        env=os.environ | {"PYTHONPATH": f"{SERVER / 'src'}:{SERVER / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "### 20 nodes" in done.stdout
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_small_run_measures_everything(results: dict[str, Any]) -> None:
    figures = results["sizes"]["20"]["ours"]
    assert figures["failed_scrapes"] == 0
    assert figures["cpu_millicores"] > 0
    # Python with the server's modules is never smaller, and 20 nodes are never this large.
    assert 30 < figures["rss_mib"] <= figures["rss_four_lists_mib"] < 200
    assert 0 <= figures["age_median"] < 15
    for question in ("pod", "namespace", "nodes", "pods"):
        assert 0 < figures[f"{question}: p50"] <= figures[f"{question}: p99"]
    # Compression and the other format are really used.
    assert figures["pods, gzip: bytes"] < figures["pods: bytes"] / 3
    assert figures["pods, protobuf: bytes"] < figures["pods: bytes"]
    assert figures["life: CPU"] > 0
    assert 0 < figures["life, pod: p50"] <= figures["life, pod: p99"]
    # A probe needs a handshake, too.
    assert figures["life, probe: p99"] > figures["life, pod: p50"]


def test_the_report_tells_what_misses_its_goal_and_replaces_only_its_part(
    results: dict[str, Any], tmp_path: Path
) -> None:
    report = load("report")
    ours = results["sizes"]["20"]["ours"]
    # 20 nodes have no goal for memory, 100 have one.
    upstream = {key: value * 4 for key, value in ours.items()} | {"rss_mib": ours["rss_mib"] / 4, "pod: p99": 1e-3}
    both = results | {"sizes": {size: {"upstream": upstream, "ours": ours} for size in ("20", "100")}}
    text = report.markdown(both)
    assert "| 0.25 | 0.35 |" in text
    missed = text.partition("### Goals that this run missed")[2].strip().splitlines()
    assert [line.rpartition(":")[0] for line in missed] == [
        "- one pod: p99 at 20 nodes",
        "- memory in the steady state at 100 nodes",
        "- one pod: p99 at 100 nodes",
    ]
    assert missed[1] == "- memory in the steady state at 100 nodes: 4.00, goal 0.60"
    both["sizes"].pop("100")

    (tmp_path / "docs").mkdir()
    for path in (tmp_path / "README.md", tmp_path / "docs" / "bench.md"):
        path.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    report.write(tmp_path, both)
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n<!-- figures -->\n\n| 20 nodes, 600 pods |")
    assert readme.endswith("\n\n<!-- end of figures -->\nafter\n")
    assert "old" not in readme
    assert "### 20 nodes" in (tmp_path / "docs" / "bench.md").read_text()
    assert (tmp_path / "docs" / "bench.svg").read_text().count("<rect") == 3 + 6 * 2
