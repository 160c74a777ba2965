# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/doctor.yml with evidence that was saved: how it ends, and that the report comes last and whole."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from ansible_programs import play

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "tests/unit/plugins/corpus/evidence"


def doctor(*variables, playbook="doctor.yml"):
    return play(ROOT / "playbooks" / playbook, *(part for variable in variables for part in ("-e", variable)))


def test_a_healthy_cluster(tmp_path):
    saved, report = tmp_path / "saved.json", tmp_path / "report.json"
    done = doctor(
        f"doctor_evidence={EVIDENCE / 'healthy-3-1.json'}",
        f"doctor_evidence_file={saved}",
        f"doctor_report_file={report}",
        "doctor_output=json",
    )
    assert done.returncode == 0, done.stdout
    _tasks, _recap, rest = done.stdout.partition("PLAY RECAP")
    assert "Resource metrics work through every API server." in rest
    assert "Resource metrics work" not in _tasks
    for path in (saved, report):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert saved.read_text() == (EVIDENCE / "healthy-3-1.json").read_text()
    diagnosis = json.loads(report.read_text())
    assert (diagnosis["verdict"], diagnosis["exit_status"], diagnosis["findings"]) == ("well", 0, [])


def test_what_is_found_is_the_status_and_one_sentence():
    done = doctor(f"doctor_evidence={EVIDENCE / 'api-down-1-1.json'}")
    assert done.returncode == 2, done.stdout
    tasks, _recap, rest = done.stdout.partition("PLAY RECAP")
    assert "no kube-apiserver runs on cp1" in tasks
    # The report itself is not in the failure.
    assert len(tasks) < 4000
    assert "unknown flag: --no-such-flag" in rest


def test_findings_may_be_left_to_another_role():
    done = doctor(f"doctor_evidence={EVIDENCE / 'api-down-1-1.json'}", "doctor_fail_on_findings=false")
    assert done.returncode == 0, done.stdout
    assert "no kube-apiserver runs on cp1" in done.stdout.partition("PLAY RECAP")[2]


def test_a_host_that_was_not_reached_is_the_status(tmp_path):
    document = json.loads((EVIDENCE / "healthy-1-1.json").read_text())
    document["hosts"]["w1"].update(reachable=False, message="it does not answer.", host=None, network=None, pod=None)
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(document))
    done = doctor(f"doctor_evidence={path}")
    assert done.returncode == 4, done.stdout
    assert "w1" in done.stdout.partition("PLAY RECAP")[2]


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("doctor_evidence=/etc/hostname", "is no JSON object"),
        ("doctor_evidence=/nonexistent.json", "cannot be read"),
        ("doctor_evidence=", "There is neither an inventory with a cluster nor a kubeconfig"),
    ],
)
def test_what_cannot_be_diagnosed_is_one_sentence(variable, sentence):
    done = doctor(variable)
    assert done.returncode == 2
    assert sentence in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr
