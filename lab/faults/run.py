#!/usr/bin/env python3
# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Breaks a lab in the ways that the catalogue of findings knows; requires doctor and repair to name and mend each.

    lab/faults/run.py --inventory .lab/NAME/inventory.yml [FAULT ...]

A fault is a folder beside this file (README.md of the lab has its format). For each: the lab is healthy, the fault is
injected, its symptom is seen as the user sees it, doctor finds exactly this root, repair mends it (or healing, where
the catalogue has no automatic repair), `kubectl top` works again and doctor finds nothing. Each result is a line of
`.lab/NAME/faults.jsonl`, and of `.lab/faults.jsonl`, which stays when the lab goes.

Without names: every fault that fits the lab. `--all` brings up the labs that it takes. `--pair A+B` injects two at
once; in `--pair A/B` the first one hides the second.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
STATES = {"inject": "inject.yml", "heal": "heal.yml", "repaired": "repaired.yml"}
#: Where pods of the metrics server run: known only in the running cluster.
SERVER_NODES = "metrics_server_nodes"
#: What `needs` of a fault means where it says nothing.
NEEDS = {"layouts": ["kubeadm"], "variants": [], "control_planes": 1, "workers": 1}
#: How long the metrics may take to come back after a fault has gone, in seconds.
RECOVERY = 180
#: How often a fault is injected that is over in seconds, until doctor has looked in time.
MOMENTARY_ATTEMPTS = 3


class Failed(Exception):
    """One sentence for the user."""


@dataclasses.dataclass
class Fault:
    """A folder of lab/faults. `kind` is the folder's own: listed (a row of the catalogue), healthy or unlisted."""

    id: str
    title: str
    hosts: str
    needs: dict[str, Any]
    symptom: dict[str, Any]
    also: list[str]
    repair: bool
    repair_variables: dict[str, Any]
    emulated: str
    layer: str
    notice: str
    momentary: bool

    @property
    def folder(self) -> Path:
        return FOLDER / self.id

    @property
    def kind(self) -> str:
        return self.id.partition("/")[0] if "/" in self.id else "listed"


KEYS = {field.name for field in dataclasses.fields(Fault)} - {"id"}


def names() -> list[str]:
    """Every fault that there is, with its folder where it is none of the catalogue."""
    return sorted(str(path.parent.relative_to(FOLDER)) for path in FOLDER.rglob("fault.yml"))


def load(name: str) -> Fault:
    known = names()
    if name not in known:
        raise Failed(f"There is no fault {name or '(none named)'} in lab/faults: name one of {', '.join(known)}.")
    given = yaml.safe_load((FOLDER / name / "fault.yml").read_text(encoding="utf-8"))
    if unknown := sorted(set(given) - KEYS):
        raise Failed(f"lab/faults/{name}/fault.yml has keys that nothing reads: {', '.join(unknown)}.")
    if unknown := sorted(set(given.get("needs") or {}) - set(NEEDS)):
        raise Failed(f"lab/faults/{name}/fault.yml needs what no lab has: {', '.join(unknown)}.")
    return Fault(
        id=name,
        title=given["title"],
        hosts=given.get("hosts", "w1"),
        needs={**NEEDS, **(given.get("needs") or {})},
        symptom=given.get("symptom") or {},
        also=given.get("also") or [],
        repair=given.get("repair", False),
        repair_variables=given.get("repair_variables") or {},
        emulated=given.get("emulated") or "",
        layer=given.get("layer") or "",
        notice=given.get("notice") or "",
        momentary=given.get("momentary", False),
    )


class Lab:
    """A running lab, by its inventory."""

    def __init__(self, inventory: Path) -> None:
        if not inventory.is_file():
            raise Failed(
                f"There is no inventory {inventory}: run `make lab-up` (or `make demo`) first, or set LAB_NAME."
            )
        self.inventory = inventory.resolve()
        content = yaml.safe_load(inventory.read_text(encoding="utf-8"))["all"]
        self.variables: dict[str, Any] = content["vars"]
        self.hosts: dict[str, dict[str, Any]] = content["hosts"]
        if not all("lab_container" in host for host in self.hosts.values()):
            raise Failed(f"{inventory} is no inventory of a lab (lab/up.yml); faults break what they run on.")
        self.control_planes = list(content["children"]["kube_control_plane"]["hosts"])
        cluster = self.variables.get("lab_cluster") or {}
        self.layout: str = cluster.get("layout", "kubeadm")
        self.variants: list[str] = cluster.get("variants", [])
        self.kube_version: str = cluster.get("kube_version", "")

    @property
    def state(self) -> Path:
        return self.inventory.parent

    @property
    def kubectl(self) -> list[str]:
        program = (self.state / "kubectl-path").read_text(encoding="utf-8").strip()
        return [program, f"--kubeconfig={self.state / 'kubeconfig'}"]

    @property
    def injected(self) -> list[str]:
        folder = self.state / "injected"
        return sorted(path.name.replace("@", "/") for path in folder.iterdir()) if folder.is_dir() else []

    def marker(self, fault: Fault) -> Path:
        return self.state / "injected" / fault.id.replace("/", "@")

    def lacks(self, fault: Fault) -> str:
        """What a lab for this fault has and this one has not."""
        needs = fault.needs
        workers = len(self.hosts) - len(self.control_planes)
        if self.layout not in needs["layouts"]:
            return f"LAB_LAYOUT={needs['layouts'][0]}"
        if missing := sorted(set(needs["variants"]) - set(self.variants)):
            return f"LAB_VARIANTS={','.join(missing)}"
        if len(self.control_planes) < needs["control_planes"]:
            return f"LAB_CONTROL_PLANES={needs['control_planes']}"
        if workers < needs["workers"]:
            return f"LAB_WORKERS={needs['workers']}"
        return ""

    def ask(self, *arguments: str, seconds: float = 40) -> str:
        """What kubectl prints; an error of the cluster raises."""
        done = run([*self.kubectl, *arguments], seconds)
        if done.returncode:
            raise Failed(f"kubectl {' '.join(arguments)} failed: {done.stdout.strip()[-300:]}")
        return done.stdout

    def server_nodes(self) -> list[str]:
        found = self.ask(
            "--namespace=kube-system",
            "get",
            "pods",
            "--selector=k8s-app=metrics-server",
            "--field-selector=status.phase=Running",
            '--output=jsonpath={range .items[*]}{.spec.nodeName}{"\\n"}{end}',
        )
        return sorted(set(found.split()))

    def resolve(self, pattern: str) -> list[str]:
        """The hosts of a list of names and groups, in the inventory's order; group[0] is the first of a group."""
        chosen: set[str] = set()
        groups = {
            "all": list(self.hosts),
            "kube_control_plane": self.control_planes,
            "kube_node": [name for name in self.hosts if name not in self.control_planes],
        }
        for part in pattern.split(","):
            name, _, index = part.strip().rstrip("]").partition("[")
            members = self.server_nodes() if name == SERVER_NODES else groups.get(name, [name])
            chosen.update([members[int(index)]] if index else members)
        if unknown := sorted(chosen - set(self.hosts)):
            raise Failed(f"This lab has no host {', '.join(unknown)}; it has {', '.join(self.hosts)}.")
        if not chosen:
            raise Failed(f"No host of this lab is meant by {pattern}.")
        return [name for name in self.hosts if name in chosen]

    def shell(self, command: str, host: str = "", seconds: float = 40, since: float = 120) -> str:
        """What a line of shell prints, on this machine (kubectl is there) or on a host, whatever its status.

        `$SINCE` is the time since the fault was injected, as --since of kubectl logs takes it.
        """
        if host:
            access = ["ssh", "-i", self.variables["ansible_ssh_private_key_file"]]
            access += self.variables["ansible_ssh_common_args"].split()
            return run([*access, f"root@{self.hosts[host]['ansible_host']}", command], seconds).stdout
        environment = {
            **os.environ,
            "SINCE": f"{since:.0f}s",
            "PATH": f"{Path(self.kubectl[0]).parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(self.state / "kubeconfig"),
        }
        return run(["bash", "-c", command], seconds, environment).stdout

    def top(self) -> str:
        """Why `kubectl top nodes` does not show every node that is Ready; empty when it does."""
        done = run([*self.kubectl, "top", "nodes", "--no-headers"], 40)
        if done.returncode:
            return done.stdout.strip()[-300:] or f"kubectl top nodes ended with {done.returncode}"
        shown = {line.split()[0] for line in done.stdout.splitlines() if line.strip() and "<unknown>" not in line}
        ready = {
            node["metadata"]["name"]
            for node in json.loads(self.ask("get", "nodes", "--output=json"))["items"]
            if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
        }
        missing = sorted(ready - shown)
        return f"kubectl top nodes does not show {', '.join(missing)}" if missing else ""


def run(
    command: Sequence[str], seconds: float, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        return subprocess.CompletedProcess(command, 124, f"{output}\n(no answer in {seconds:g} s)")


def plan(inventory: str, name: str, state: str, on: str) -> dict[str, Any]:
    """What lab/fault.yml needs to know; `error` is the one sentence that it fails with."""
    try:
        if state not in STATES:
            raise Failed(f"fault_state={state} is unknown: use one of {', '.join(STATES)}.")
        fault = load(name)
        lab = Lab(Path(inventory or "(none given with -i)"))
        if lacking := lab.lacks(fault):
            raise Failed(f"{fault.id} cannot be injected here: it needs a lab that was brought up with {lacking}.")
        marker = lab.marker(fault)
        if state == "inject" and marker.exists():
            raise Failed(f"{fault.id} is injected already; heal it first (-e fault_state=heal).")
        if state != "inject" and not marker.exists():
            raise Failed(f"{fault.id} is not injected in this lab; there is nothing to heal.")
        if state == "inject":
            hosts = lab.resolve(on or fault.hosts)
        else:
            hosts = json.loads(marker.read_text(encoding="utf-8"))["hosts"]
        tasks = fault.folder / STATES[state]
        return {
            "error": "",
            "id": fault.id,
            "title": fault.title,
            "state": state,
            "hosts": hosts,
            "tasks": str(tasks) if tasks.exists() or state != "repaired" else "",
            "folder": str(fault.folder),
            "marker": str(marker),
            "layout": lab.layout,
            "kubectl": lab.kubectl,
            "admin_kubeconfig": "/root/.kube/config" if lab.layout == "systemd" else "/etc/kubernetes/admin.conf",
            "symptom": fault.symptom.get("command", "kubectl top nodes").replace("$SINCE", "1m"),
        }
    except Failed as error:
        return {"error": str(error), "state": state, "hosts": []}


# --- what doctor says, judged ---


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

    What is hidden may be found with them; where it is not, something has to be said to be unknown.
    """
    wrong = []
    if not set(hidden) <= set(roots(diagnosis)) and not diagnosis["unknown"]:
        wrong.append("what is hidden is not said to be unknown")
    if sorted(set(roots(diagnosis)) - set(hidden)) != sorted(set(expected)):
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
class Job:
    """Faults that are injected at once, on one host where it says so; the others may hide those in `hidden`."""

    faults: list[Fault]
    hidden: list[Fault] = dataclasses.field(default_factory=list)
    on: str = ""

    @classmethod
    def of(cls, text: str, on: str = "") -> Job:
        """From a name, A+B or A/B; a name may have the folder of its kind before it."""
        if text in names():
            return cls([load(text)], on=on)
        shown, _, hidden = text.partition("/")
        return cls([load(name) for name in shown.split("+")], [load(name) for name in hidden.split("+") if name], on)

    @property
    def every(self) -> list[Fault]:
        return self.faults + self.hidden

    @property
    def label(self) -> str:
        return "+".join(fault.id for fault in self.every) + (f" on {self.on}" if self.on else "")

    def lacks(self, lab: Lab) -> str:
        return next((f"{fault.id} needs a lab with {lab.lacks(fault)}" for fault in self.every if lab.lacks(fault)), "")


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


def file_name(label: str) -> str:
    """Of the files about a job: it goes into `-e NAME=VALUE`, where a space would end the value."""
    return label.replace("/", "@").replace(" ", "-")


class Runner:
    """Faults of one lab, one after the other."""

    def __init__(self, lab: Lab, options: argparse.Namespace) -> None:
        self.lab, self.options = lab, options
        self.folder = lab.state / "faults"
        self.folder.mkdir(mode=0o700, exist_ok=True)
        #: Where playbooks keep the administrator's kubeconfig, as long as they run.
        self.temporary = self.folder / "temporary"
        self.temporary.mkdir(mode=0o700, exist_ok=True)
        self.results: list[Result] = []

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def playbook(self, label: str, path: str, *variables: str) -> tuple[int, float]:
        """Exit status and seconds; what it printed is in .lab/NAME/faults/LABEL.log."""
        command = ["ansible-playbook", "-i", str(self.lab.inventory), str(ROOT / path)]
        for variable in (f"cluster_temporary_directory={self.temporary}", *variables):
            command += ["-e", variable]
        start = time.monotonic()
        done = run(command, 1800, {**os.environ, "ANSIBLE_FORCE_COLOR": "false"})
        log = self.folder / f"{file_name(label)}.log"
        log.write_text(f"$ {' '.join(command)}\n{done.stdout}", encoding="utf-8")
        if left := [file.name for file in self.temporary.iterdir()]:
            self.clear()
            raise Failed(f"{path} left the administrator's kubeconfig behind ({', '.join(left)}); see {log}")
        return done.returncode, time.monotonic() - start

    def clear(self) -> None:
        for file in self.temporary.iterdir():
            file.unlink()

    def change(self, fault: Fault, state: str, on: str = "") -> float:
        variables = [f"fault={fault.id}", f"fault_state={state}"]
        if on:
            variables.append(f"fault_on={on}")
        status, seconds = self.playbook(f"{fault.id}-{state}", "lab/fault.yml", *variables)
        if status:
            raise Failed(f"lab/fault.yml failed to {state} {fault.id}; see {self.folder}")
        return seconds

    def doctor(self, label: str) -> tuple[dict[str, Any], float]:
        name = file_name(label)
        report, evidence = self.folder / f"{name}-diagnosis.json", self.folder / f"{name}-evidence.json"
        for path in (report, evidence):
            path.unlink(missing_ok=True)
        status, seconds = self.playbook(
            f"{label}-doctor",
            "playbooks/doctor.yml",
            "doctor_output=json",
            f"doctor_report_file={report}",
            f"doctor_evidence_file={evidence}",
        )
        if not report.exists():
            raise Failed(f"doctor wrote no report (exit status {status}); see {self.folder}")
        diagnosis = json.loads(report.read_text(encoding="utf-8"))
        if status != diagnosis["exit_status"]:
            raise Failed(f"doctor ended with {status}, its report says {diagnosis['exit_status']}")
        if self.options.capture and evidence.exists() and "after" not in label and "before" not in label:
            self.options.capture.mkdir(parents=True, exist_ok=True)
            document = trimmed(json.loads(evidence.read_text(encoding="utf-8")))
            text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
            (self.options.capture / f"{file_name(Path(label).name)}.json").write_text(text + "\n", encoding="utf-8")
        return diagnosis, seconds

    def wait_for_top(self, seconds: float) -> str:
        end = time.monotonic() + seconds
        while why := self.lab.top():
            if time.monotonic() > end:
                return why
            time.sleep(2)
        return ""

    def require_health(self) -> None:
        """A lab where something is wrong already would blame every fault; site.yml makes a new one work."""
        if self.lab.injected:
            raise Failed(
                f"{', '.join(self.lab.injected)} is still injected in this lab; run `make fault-heal ID=...` first."
            )
        if self.wait_for_top(45):
            self.say("resource metrics do not work here yet: playbooks/site.yml")
            if self.playbook("site", "playbooks/site.yml")[0]:
                raise Failed(f"playbooks/site.yml failed; see {self.folder}/site.log")
            if why := self.wait_for_top(RECOVERY):
                raise Failed(f"The lab does not work without a fault: {why}")
        if self.options.doctor and (wrong := judge(self.doctor("before")[0], [])):
            raise Failed(f"doctor finds something in the healthy lab: {'; '.join(wrong)}")

    def see_symptom(self, faults: list[Fault], injected_at: float) -> tuple[float, list[str]]:
        """Seconds until the symptoms have shown, and those that did not."""
        start = time.monotonic()
        missing = []
        for fault in faults:
            if not fault.symptom:
                continue
            command, host = fault.symptom["command"], fault.symptom.get("on", "")
            limit = start + fault.symptom.get("seconds", 120)
            while True:
                output = self.lab.shell(command, host, since=time.monotonic() - injected_at)
                if re.search(fault.symptom["expect"], output, re.MULTILINE):
                    break
                if time.monotonic() > limit:
                    missing.append(
                        f"`{command}` did not show {fault.symptom['expect']!r}, last: {output.strip()[-160:]!r}"
                    )
                    break
                time.sleep(2)
        return time.monotonic() - start, missing

    def mend(self, faults: list[Fault]) -> str:
        """By repair.yml what it can repair, the rest by healing; returns how."""
        repaired = [fault for fault in faults if fault.repair and self.options.repair and self.options.doctor]
        healed = [fault for fault in faults if fault not in repaired]
        # The last one first: what two faults have changed is restored to what was there before both.
        for fault in reversed(healed):
            self.change(fault, "heal")
        if repaired:
            ids = ",".join(fault.id for fault in repaired)
            variables = [
                f"{key}={json.dumps(value)}" for fault in repaired for key, value in fault.repair_variables.items()
            ]
            status, _ = self.playbook(f"{repaired[0].id}-repair", "playbooks/repair.yml", f"repair={ids}", *variables)
            if status:
                raise Failed(f"playbooks/repair.yml ended with {status}; see {self.folder}/{repaired[0].id}-repair.log")
        return "+".join(["repair"] * bool(repaired) + ["heal"] * bool(healed))

    def one(self, job: Job, examine: bool = True) -> Result:
        """All are injected at once; what is hidden may be found only when the others are gone.

        Without examine, that `kubectl top` works again is enough.
        """
        every, hidden, label = job.every, job.hidden, job.label
        result = Result(label, [job.on] if job.on else [])
        self.results.append(result)
        self.say(f"{label}: {'; '.join(fault.title for fault in every)}")
        also = {name for fault in every for name in fault.also}
        self.examine(job, result, also)
        for _ in range(MOMENTARY_ATTEMPTS - 1):
            if not result.wrong or not any(fault.momentary for fault in every):
                break
            self.say(f"{label}: was over before doctor looked ({result.verdict}); once more")
            for fault in reversed(every):
                self.change(fault, "heal")
            self.wait_for_top(RECOVERY)
            self.examine(job, result, also)
        start = time.monotonic()
        result.how = self.mend(job.faults)
        if hidden:
            if self.options.doctor:
                result.wrong += self.judge(self.doctor(f"{label}-then")[0], hidden, also, job.on)
            self.mend(hidden)
        if why := self.wait_for_top(RECOVERY):
            result.wrong.append(f"after {result.how}: {why}")
        result.mended = time.monotonic() - start
        if self.options.doctor and examine:
            result.wrong += [f"afterwards {text}" for text in judge(self.doctor(f"{label}-after")[0], [])]
        if not result.wrong:
            for fault in every:
                if self.lab.marker(fault).exists():
                    self.change(fault, "repaired")
        return result

    def examine(self, job: Job, result: Result, also: Iterable[str]) -> None:
        """Injects, sees the symptoms, and has doctor examine it; what is wrong goes into the result."""
        injected_at = time.monotonic()
        result.injected = sum(self.change(fault, "inject", job.on) for fault in job.every)
        result.symptom, result.wrong = self.see_symptom(job.faults, injected_at)
        if self.options.doctor:
            diagnosis, result.doctor = self.doctor(job.label)
            result.roots, result.consequences = roots(diagnosis), consequences(diagnosis)
            result.wrong += self.judge(diagnosis, job.faults, also, job.on, job.hidden)

    def judge(
        self,
        diagnosis: dict[str, Any],
        faults: list[Fault],
        also: Iterable[str],
        on: str = "",
        hidden: Sequence[Fault] = (),
    ) -> list[str]:
        listed = [fault.id for fault in faults if fault.kind == "listed"]
        layer = next((fault.layer for fault in faults if fault.layer), "")
        wrong = judge(diagnosis, listed, also, [on] if on else [], layer, [fault.id for fault in hidden])
        for fault in faults:
            if fault.notice and not any(re.search(fault.notice, notice) for notice in diagnosis["notices"]):
                wrong.append(f"no notice like {fault.notice!r}")
        return wrong

    def record(self, result: Result) -> None:
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **{
                key: round(value, 1) if isinstance(value, float) else value
                for key, value in dataclasses.asdict(result).items()
            },
            "verdict": "failed" if result.wrong else "ok",
            "lab": self.lab.state.name,
            "layout": self.lab.layout,
            "control_planes": len(self.lab.control_planes),
            "kube_version": self.lab.kube_version,
        }
        # Beside the lab's own, which goes with the lab, one of all labs.
        for path in (self.lab.state / "faults.jsonl", self.lab.state.parent / "faults.jsonl"):
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")

    def run(self, jobs: list[Job]) -> bool:
        self.require_health()
        for job in jobs:
            try:
                result = self.one(job, not self.options.brief or job is jobs[-1])
            except Failed as error:
                result = self.results[-1]
                result.wrong.append(str(error))
            self.record(result)
            self.say(f"{result.fault}: {result.verdict}")
            if result.wrong and not self.options.keep_going:
                if self.lab.injected:
                    self.say(f"still injected: {', '.join(self.lab.injected)} (make fault-heal ID=...)")
                break
            # With --keep-going the next fault starts from a healthy lab, or nothing that follows means anything.
            for fault in reversed(job.every):
                if self.lab.marker(fault).exists():
                    self.change(fault, "heal")
            if result.wrong and (why := self.wait_for_top(RECOVERY)):
                raise Failed(f"The lab did not recover from {result.fault}: {why}")
        return all(not result.wrong for result in self.results)


def suites() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "suites.yml").read_text(encoding="utf-8"))


def asked_for(options: argparse.Namespace) -> list[Job]:
    """What the command line names, or every fault there is."""
    texts = [*options.faults, *options.pair, *(f"healthy/{name}" for name in options.healthy)]
    texts += suites()["pairs"] if options.pairs else []
    return [Job.of(text, options.on) for text in texts or names()]


def run_in(lab: Lab, jobs: list[Job], options: argparse.Namespace) -> tuple[list[Result], bool]:
    """What became of them in one lab; what it is not made for is left out."""
    runner = Runner(lab, options)
    passed = False
    try:
        passed = runner.run([job for job in jobs if not job.lacks(lab)])
    except KeyboardInterrupt:
        runner.say("interrupted")
    except Failed as error:
        runner.say(str(error))
    return runner.results, passed


def run_all(options: argparse.Namespace) -> tuple[list[Result], bool]:
    """Every fault, the pairs, and those on one of three control planes, in labs that are brought up for it."""
    waiting = [Job.of(name) for name in names()]
    wanted = suites()
    results: list[Result] = []
    passed = True
    for number, size in enumerate(wanted["labs"]):
        name = f"faults-{number + 1}"
        environment = {**os.environ, **{key: str(value) for key, value in size.items()}, "LAB_NAME": name}
        up = run(["ansible-playbook", str(ROOT / "lab/up.yml")], 3600, environment)
        if up.returncode:
            raise Failed(f"lab/up.yml failed for {size}: {up.stdout[-600:]}")
        lab = Lab(ROOT / ".lab" / name / "inventory.yml")
        jobs = [job for job in waiting if not job.lacks(lab)]
        waiting = [job for job in waiting if job not in jobs]
        if number == 0:
            jobs += [Job.of(text) for text in wanted["pairs"]]
        if len(lab.control_planes) == 3:
            jobs += [Job.of(text, wanted["one_of_three"]["host"]) for text in wanted["one_of_three"]["faults"]]
        found, well = run_in(lab, jobs, options)
        results += found
        passed = passed and well
        if not well and not options.keep_going:
            break
        run(["ansible-playbook", str(ROOT / "lab/down.yml")], 600, environment)
    return results, passed and not waiting


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT / ".lab" / os.environ.get("LAB_NAME", "kubemetrics") / "inventory.yml"
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="such as KUB-04, healthy/cordoned")
    parser.add_argument("--inventory", default=str(default), help="of the lab")
    parser.add_argument("--pair", action="append", default=[], help="A+B at once, or A/B where A hides B")
    parser.add_argument("--pairs", action="store_true", help="the pairs of lab/faults/suites.yml")
    parser.add_argument("--all", action="store_true", help="everything, in labs of its own (suites.yml): some hours")
    parser.add_argument("--healthy", action="append", default=[], metavar="NAME", help="a variant without a finding")
    parser.add_argument("--on", default="", metavar="HOST", help="inject on this host only, and require it to be named")
    parser.add_argument("--no-repair", dest="repair", action="store_false", help="heal instead of repairing")
    parser.add_argument("--no-doctor", dest="doctor", action="store_false", help="symptom and healing only, no repair")
    parser.add_argument("--brief", action="store_true", help="doctor examines the mended lab only after the last one")
    parser.add_argument("--capture", type=Path, metavar="FOLDER", help="keep the evidence of each fault there")
    parser.add_argument("--keep-going", action="store_true", help="after a failure, heal and go on")
    parser.add_argument("--list", action="store_true", help="list the faults")
    parser.add_argument("--resolve", help=argparse.SUPPRESS)
    parser.add_argument("--state", default="inject", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> int:
    options = arguments()
    if options.resolve is not None:
        print(json.dumps(plan(options.inventory, options.resolve, options.state, options.on)))
        return 0
    try:
        if options.list:
            for name in names():
                print(f"{name:<24} {load(name).title}")
            return 0
        lacking: list[str] = []
        if options.all:
            results, passed = run_all(options)
        else:
            lab, jobs = Lab(Path(options.inventory)), asked_for(options)
            lacking = [job.lacks(lab) for job in jobs if job.lacks(lab)]
            results, passed = run_in(lab, jobs, options)
        print("\n".join(["", table(results), *lacking]))
        # Those that somebody named and this lab cannot do have not passed.
        return 0 if passed and not (lacking and (options.faults or options.pair or options.healthy)) else 1
    except Failed as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
