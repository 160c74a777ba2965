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
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from fault_definitions import FOLDER, ROOT, Failed, Fault, Job, Lab, load, names, plan, run
from fault_results import Result, consequences, judge, roots, table, trimmed

#: How long the metrics may take to come back after a fault has gone, in seconds.
RECOVERY = 180
#: How often a fault is injected that is over in seconds, until doctor has looked in time.
MOMENTARY_ATTEMPTS = 3


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
        injected_at = time.monotonic()
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
                missing = self.see_symptom(hidden, injected_at)[1]
                diagnosis = self.doctor(f"{label}-then")[0]
                # What deploys the same thing anew mends both.
                both = "repair" in result.how and all(fault.repair for fault in hidden)
                if not (both and missing and diagnosis["verdict"] == "well"):
                    result.wrong += missing + self.judge(diagnosis, hidden, also, job.on)
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
