#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the playbooks with every documented variable at another value than its default, on a sound or a broken lab.

tests/variables/run.py LAB healthy|broken [NAME ...]

A run has to end as runs.yml says. A sentence is an end, too; an exception, an undefined variable or a failed template
is none.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

#: Playbooks mostly wait for hosts.
PARALLEL = 4
TREE = Path(__file__).resolve().parents[2]
#: What no message for a person says.
FAULTS = re.compile(
    r"Traceback \(most recent call last\)|MODULE FAILURE|has no attribute|object of type|is undefined"
    r"|unhandled exception"
    r"|[Uu]nexpected (?:failure|exception)|Error while resolving|[Tt]emplat\w+ (?:error|failed)|RepresenterError"
    r"|dict object|unsupported parameter|Unsupported parameters|ERROR! "
)


def load() -> list[dict]:
    return yaml.safe_load((TREE / "tests/variables/runs.yml").read_text(encoding="utf-8"))["runs"]


def filled(value, names: dict[str, str]):
    """A value with {names} of this lab put in."""
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace("{" + name + "}", text)
        return value
    if isinstance(value, list):
        return [filled(entry, names) for entry in value]
    if isinstance(value, dict):
        return {key: filled(entry, names) for key, entry in value.items()}
    return value


def inventories(lab: Path, run: dict, folder: str) -> list[str]:
    """The lab's inventory; control planes are in a second group, too, where a run asks for another name."""
    inventory = lab / "inventory.yml"
    group = run["variables"].get("cluster_control_plane_group")
    if not group:
        return ["-i", str(inventory)]
    more = Path(folder) / "groups.yml"
    more.write_text(yaml.safe_dump({"all": {"children": {group: {"children": {"kube_control_plane": {}}}}}}))
    return ["-i", str(inventory), "-i", str(more)]


def execute(lab: Path, run: dict, state: str) -> str:
    """What is wrong with a run, or an empty text."""
    config = yaml.safe_load((lab / "kubeconfig").read_text(encoding="utf-8"))
    names = {"lab": str(lab), "server": config["clusters"][0]["cluster"]["server"]}
    variables = filled(run["variables"], names)
    if "cluster_context" in variables:
        variables["cluster_context"] = config["current-context"]
    expected = run[state]
    with tempfile.TemporaryDirectory() as folder:
        values = Path(folder) / "variables.json"
        values.write_text(json.dumps(variables))
        command = [
            "ansible-playbook",
            *inventories(lab, run, folder),
            f"playbooks/{run['playbook']}",
            "-e",
            f"@{values}",
        ]
        command += ["--check", "--diff"] if run.get("check") else []
        done = subprocess.run(
            command,
            cwd=TREE,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    output = done.stdout
    text = " ".join(output.split())
    fault = FAULTS.search(output)
    problems = []
    if fault:
        problems.append(
            f"the output has {fault.group()!r}: ...{output[max(0, fault.start() - 300) : fault.end() + 300]}"
        )
    if bool(done.returncode) != bool(expected.get("fails")):
        problems.append(f"it ended with {done.returncode}: ...{output[-1500:]}")
    if expected.get("expect") and not re.search(expected["expect"], text):
        problems.append(f"it does not say {expected['expect']!r}: ...{output[-1500:]}")
    return "\n".join(problems)


def main() -> int:
    lab, state, wanted = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]
    runs = [run for run in load() if not wanted or any(name in run["name"] for name in wanted)]

    def timed(run: dict) -> tuple[str, float]:
        started = time.monotonic()
        return execute(lab, run, state), time.monotonic() - started

    failed = 0
    # Nothing here changes the cluster, so that runs need not wait for each other.
    with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        for run, (problem, seconds) in zip(runs, pool.map(timed, runs), strict=True):
            print(f"{seconds:5.1f} s  {state:<8} {run['name']}: {'FAILED' if problem else 'as expected'}", flush=True)
            if problem:
                failed += 1
                print(problem, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
