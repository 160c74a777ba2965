# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the lab: their files, and what the runner makes of a diagnosis. Nothing is injected here."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from ansible.parsing.splitter import parse_kv

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "lab/faults"))
fault_definitions = importlib.import_module("fault_definitions")
SPEC = importlib.util.spec_from_file_location("lab_faults", ROOT / "lab/faults/run.py")
runner = importlib.util.module_from_spec(SPEC)
sys.modules["lab_faults"] = runner
SPEC.loader.exec_module(runner)

LAB = """
all:
  vars: {ansible_ssh_private_key_file: key, ansible_ssh_common_args: -o A=b, lab_cluster: {layout: kubeadm}}
  hosts:
    cp1: {ansible_host: 10.0.0.1, lab_container: x-cp1}
    cp2: {ansible_host: 10.0.0.2, lab_container: x-cp2}
    w1: {ansible_host: 10.0.0.3, lab_container: x-w1}
  children:
    kube_control_plane: {hosts: {cp1: {}, cp2: {}}}
"""


@pytest.fixture
def lab(tmp_path):
    path = tmp_path / "inventory.yml"
    path.write_text(LAB)
    (tmp_path / "kubectl-path").write_text("/bin/kubectl\n")
    return path


@pytest.mark.parametrize("name", runner.names())
class TestFiles:
    def test_fault_is_whole(self, name):
        fault = runner.load(name)
        assert fault.title and not fault.title.endswith(".")
        if fault.kind != "healthy":
            assert set(fault.symptom) - {"on", "seconds"} == {"command", "expect"}
            re.compile(fault.symptom["expect"])
        assert fault.needs["layouts"] and set(fault.needs["layouts"]) <= {"kubeadm", "kubespray", "systemd"}
        assert bool(fault.layer) == (fault.kind == "unlisted")

    def test_tasks_are_lists_of_named_tasks(self, name):
        folder = runner.FOLDER / name
        assert (folder / "inject.yml").exists() and (folder / "heal.yml").exists()
        for path in folder.glob("*.yml"):
            if path.name != "fault.yml":
                tasks = yaml.safe_load(path.read_text(encoding="utf-8"))
                assert all(task["name"] for task in tasks)


def test_ids_are_those_of_the_catalogue():
    listed = [name for name in runner.names() if "/" not in name]
    assert listed == [name for name in listed if re.fullmatch(r"(AGG|NET|POD|KUB|CON|LIF)-\d\d", name)]


@pytest.mark.parametrize(
    ("pattern", "hosts"),
    [
        ("w1", ["w1"]),
        ("kube_control_plane", ["cp1", "cp2"]),
        ("kube_control_plane[0]", ["cp1"]),
        ("w1, cp2", ["cp2", "w1"]),
        ("all", ["cp1", "cp2", "w1"]),
    ],
)
def test_hosts_of_a_pattern(lab, pattern, hosts):
    assert runner.Lab(lab).resolve(pattern) == hosts


def test_unknown_host_is_one_sentence(lab):
    with pytest.raises(runner.Failed, match=r"This lab has no host w7; it has cp1, cp2, w1\."):
        runner.Lab(lab).resolve("w7")


def plan(lab, **given):
    given = {"name": "KUB-04", "state": "inject", "on": "w1", **given}
    return runner.plan(str(lab), given["name"], given["state"], given["on"])


def test_plan_names_hosts_and_tasks(lab, monkeypatch):
    monkeypatch.setitem(fault_definitions.NEEDS, "workers", 1)
    monkeypatch.setattr(runner.Lab, "lacks", lambda self, fault: "")
    found = plan(lab)
    assert (found["error"], found["hosts"], found["layout"]) == ("", ["w1"], "kubeadm")
    assert found["tasks"].endswith("lab/faults/KUB-04/inject.yml")


def test_what_is_injected_is_healed_where_it_was_injected(lab, monkeypatch):
    monkeypatch.setattr(runner.Lab, "lacks", lambda self, fault: "")
    marker = Path(plan(lab)["marker"])
    marker.parent.mkdir()
    marker.write_text(json.dumps({"hosts": ["cp2"]}))
    assert plan(lab)["error"] == "KUB-04 is injected already; heal it first (-e fault_state=heal)."
    assert plan(lab, state="heal", on="")["hosts"] == ["cp2"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"name": "KUB-99"}, r"There is no fault KUB-99 in lab/faults: name one of .*KUB-04"),
        ({"name": ""}, r"There is no fault \(none named\)"),
        ({"state": "mend"}, r"fault_state=mend is unknown"),
        ({"state": "heal"}, r"KUB-04 is not injected in this lab"),
    ],
)
def test_wrong_requests_are_one_sentence(lab, monkeypatch, given, error):
    monkeypatch.setattr(runner.Lab, "lacks", lambda self, fault: "")
    assert re.match(error, plan(lab, **given)["error"])


def test_missing_lab_and_foreign_inventory_are_one_sentence(tmp_path):
    assert "make demo" in runner.plan(str(tmp_path / "none.yml"), "KUB-04", "inject", "")["error"]
    foreign = tmp_path / "hosts.yml"
    foreign.write_text(LAB.replace("lab_container", "container"))
    assert "is no inventory of a lab" in runner.plan(str(foreign), "KUB-04", "inject", "")["error"]


@pytest.mark.parametrize(
    ("needs", "lacking"),
    [
        ({}, ""),
        ({"workers": 2}, "LAB_WORKERS=2"),
        ({"control_planes": 3}, "LAB_CONTROL_PLANES=3"),
        ({"layouts": ["systemd"]}, "LAB_LAYOUT=systemd"),
        ({"variants": ["no-proxy"]}, "LAB_VARIANTS=no-proxy"),
    ],
)
def test_what_a_lab_lacks(lab, needs, lacking):
    fault = runner.load("KUB-04")
    fault.needs = {**fault_definitions.NEEDS, **needs}
    assert runner.Lab(lab).lacks(fault) == lacking


def diagnosis(*findings, unexplained=()):
    return {
        "findings": [{"id": name, "root": root, "hosts": hosts or ["w1"]} for name, root, *hosts in findings],
        "unexplained": [{"layer": layer} for layer in unexplained],
        "unknown": [],
    }


class TestJudge:
    def test_exactly_the_root(self):
        assert runner.judge(diagnosis(("KUB-04", True)), ["KUB-04"]) == []

    def test_two_roots(self):
        found = diagnosis(("KUB-04", True), ("NET-04", True))
        assert runner.judge(found, ["NET-04", "KUB-04"]) == []
        assert runner.judge(found, ["KUB-04"]) == ["roots ['KUB-04', 'NET-04'] instead of ['KUB-04']"]

    def test_nothing_found(self):
        assert runner.judge(diagnosis(), []) == []
        assert runner.judge(diagnosis(), ["KUB-04"]) == ["roots none instead of ['KUB-04']"]

    def test_consequences_have_to_be_named(self):
        found = diagnosis(("NET-04", True), ("POD-03", False))
        assert runner.judge(found, ["NET-04"], ["POD-03", "AGG-12"]) == []
        assert runner.judge(found, ["NET-04"]) == ["consequences ['POD-03'] that the fault does not name"]

    def test_the_host_has_to_be_the_right_one(self):
        found = diagnosis(("AGG-05", True, "cp1"))
        assert runner.judge(found, ["AGG-05"], hosts=["cp1"]) == []
        assert runner.judge(found, ["AGG-05"], hosts=["cp2"]) == ["AGG-05 on ['cp1'] instead of ['cp2']"]

    def test_what_is_hidden_is_found_or_said_to_be_unknown(self):
        found = diagnosis(("POD-01", True))
        assert runner.judge(found, ["POD-01"], hidden=["KUB-07"]) == ["what is hidden is not said to be unknown"]
        found["unknown"] = ["Whether nodes have metrics cannot be seen."]
        assert runner.judge(found, ["POD-01"], hidden=["KUB-07"]) == []
        both = diagnosis(("POD-01", True), ("KUB-07", True))
        assert runner.judge(both, ["POD-01"], hidden=["KUB-07"]) == []
        assert runner.judge(both, ["POD-01"]) == ["roots ['KUB-07', 'POD-01'] instead of ['POD-01']"]
        # What follows from it shows before it does.
        first = diagnosis(("AGG-12", True), ("CON-02", True))
        first["unknown"] = found["unknown"]
        assert runner.judge(first, ["AGG-12"], also=["CON-02"], hidden=["CON-01"]) == []
        assert runner.judge(first, ["CON-02"], also=["CON-02"], hidden=["CON-01"]) == [
            "roots ['AGG-12', 'CON-02'] instead of ['CON-02']"
        ]

    def test_unexplained_symptoms_only_where_they_are_expected(self):
        found = diagnosis(unexplained=["kubelet"])
        assert runner.judge(found, [], layer="kubelet") == []
        assert runner.judge(found, []) == ["unexplained layers ['kubelet'] instead of none"]
        assert runner.judge(diagnosis(), [], layer="kubelet") == ["unexplained layers none instead of ['kubelet']"]


def test_table_and_verdict():
    good = runner.Result("KUB-04", injected=3.21, symptom=31, doctor=12, roots=["KUB-04"], mended=45, how="repair")
    bad = runner.Result("NET-04", wrong=["roots none instead of ['NET-04']"])
    lines = runner.table([good, bad]).splitlines()
    assert " ".join(lines[1].split()) == "KUB-04 3.2 s 31.0 s 12.0 s KUB-04 - repair 45.0 s ok"
    assert lines[2].endswith("roots none instead of ['NET-04']")


@pytest.mark.parametrize(
    ("flags", "labels"),
    [
        (["KUB-04", "healthy/cordoned"], [("KUB-04", [], ""), ("healthy/cordoned", [], "")]),
        (["--healthy", "cordoned"], [("healthy/cordoned", [], "")]),
        (["AGG-05", "--on", "cp2"], [("AGG-05", [], "cp2")]),
        (["--pair", "KUB-04+KUB-09"], [("KUB-04+KUB-09", [], "")]),
        (["--pair", "POD-01/KUB-07"], [("POD-01", ["KUB-07"], "")]),
    ],
)
def test_jobs(flags, labels):
    jobs = runner.asked_for(runner.arguments(flags))
    found = [("+".join(fault.id for fault in job.faults), [fault.id for fault in job.hidden], job.on) for job in jobs]
    assert found == labels


def test_without_names_it_is_every_fault():
    assert [job.label for job in runner.asked_for(runner.arguments([]))] == runner.names()


class TestSuites:
    SUITES = runner.suites()

    def test_every_fault_fits_one_of_the_labs(self, tmp_path):
        labs = []
        for number, size in enumerate(self.SUITES["labs"]):
            planes = [f"cp{i + 1}" for i in range(size["LAB_CONTROL_PLANES"])]
            hosts = [*planes, *(f"w{i + 1}" for i in range(size["LAB_WORKERS"]))]
            content = yaml.safe_load(LAB)["all"]
            content["hosts"] = {host: {"lab_container": host} for host in hosts}
            content["children"]["kube_control_plane"]["hosts"] = dict.fromkeys(planes)
            path = tmp_path / f"{number}.yml"
            path.write_text(yaml.safe_dump({"all": content}))
            labs.append(runner.Lab(path))
        jobs = [runner.Job.of(name) for name in runner.names()]
        assert [job.label for job in jobs if all(job.lacks(lab) for lab in labs)] == []
        pairs = [runner.Job.of(text) for text in self.SUITES["pairs"]]
        assert [job.lacks(labs[0]) for job in pairs if job.lacks(labs[0])] == []

    def test_there_are_twenty_pairs_of_which_some_hide_one(self):
        assert len(set(self.SUITES["pairs"])) == 20
        assert len([pair for pair in self.SUITES["pairs"] if "/" in pair]) >= 5

    def test_ten_faults_are_on_one_control_plane_of_three(self):
        assert len(set(self.SUITES["one_of_three"]["faults"])) == 10
        assert set(self.SUITES["one_of_three"]["faults"]) <= set(runner.names())


@pytest.mark.parametrize("job", ["KUB-04", "healthy/joined", "KUB-04+AGG-05"])
def test_ansible_reads_the_file_of_a_job_on_one_host_as_one_value(job):
    path = f"/lab/{runner.file_name(runner.Job.of(job, 'cp2').label)}.json"
    assert parse_kv(f"doctor_report_file={path}") == {"doctor_report_file": path}
