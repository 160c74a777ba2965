#!/usr/bin/env python3
# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills repairs at random moments, and requires that running them again mends the lab.

    lab/faults/kills.py --inventory .lab/NAME/inventory.yml [--times 2] [--seed N] FAULT ...

For each fault, so many times: it is injected, repair.yml is started and killed (SIGKILL to it and its children), and
started again; then resource metrics work and doctor finds nothing. During all of that, the core API is asked through a
balancer before all API servers, and never fails. The moments lie between the first diagnosis and the time that
the whole repair took, and are drawn from a seed that is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import run as faults

#: The first diagnosis changes nothing: seconds that are certainly spent in it.
DIAGNOSIS = 8
#: Where nothing is known yet of how long a repair takes.
FIRST_GUESS = 60


@contextlib.contextmanager
def request_loop(lab: faults.Lab) -> Iterator[Path]:
    """The loop of requests in the background; the path of its counts."""
    output = lab.state / "kills-loop.json"
    command = [
        sys.executable,
        str(faults.ROOT / "lab/request_loop.py"),
        "--state",
        str(lab.state),
        "--output",
        str(output),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield output
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def killed(lab: faults.Lab, identifier: str, seconds: float, log: Path) -> str:
    """Starts the repair and kills it after so many seconds; the task that was running."""
    # Ansible's workers are in sessions of their own, where no signal to a process group reaches them. With the first
    # process of a PID namespace everything in it is gone.
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += ["ansible-playbook", "-i", str(lab.inventory), str(faults.ROOT / "playbooks/repair.yml")]
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [*command, "-e", f"repair={identifier}"],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        process.wait()
    tasks = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("TASK [")]
    return tasks[-1].removeprefix("TASK [").partition("]")[0] if tasks else "before the first task"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = faults.ROOT / ".lab" / os.environ.get("LAB_NAME", "kubemetrics") / "inventory.yml"
    parser.add_argument("faults", nargs="+", metavar="FAULT")
    parser.add_argument("--inventory", default=str(default))
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    draw = random.Random(options.seed)
    print(f"seed {options.seed}", flush=True)
    try:
        lab = faults.Lab(Path(options.inventory))
        runner = faults.Runner(lab, faults.arguments(["--inventory", options.inventory]))
        runner.require_health()
        failures = 0
        with request_loop(lab) as counts:
            for name in options.faults:
                took = float(FIRST_GUESS)
                for attempt in range(1, options.times + 1):
                    wrong, moment, task, took = one(lab, runner, faults.load(name), draw, took)
                    failures += bool(wrong)
                    print(f"{name} {attempt}: killed after {moment:.1f} s in {task!r}: {wrong or 'ok'}", flush=True)
        core = json.loads(counts.read_text(encoding="utf-8"))["balancer"]["core"]
        print(f"core API through the balancer: {core['asked']} requests, {core['failed']} failed", flush=True)
        return 1 if failures or core["failed"] or not core["asked"] else 0
    except faults.Failed as error:
        print(error, file=sys.stderr)
        return 1


def one(
    lab: faults.Lab, runner: faults.Runner, fault: faults.Fault, draw: random.Random, took: float
) -> tuple[str, float, str, float]:
    """What is wrong afterwards, the moment and the task of the kill, and how long the second repair took."""
    injected_at = time.monotonic()
    runner.change(fault, "inject")
    runner.see_symptom([fault], injected_at)
    moment = draw.uniform(DIAGNOSIS, max(DIAGNOSIS + 5, took))
    task = killed(lab, fault.id, moment, runner.folder / f"{fault.id}-killed.log")
    start = time.monotonic()
    # What the killed run has mended already is no finding any more; the rest is.
    status, _ = runner.playbook(f"{fault.id}-again", "playbooks/repair.yml", f"repair={fault.id}")
    took = time.monotonic() - start
    wrong = [] if status == 0 else [f"repair.yml ended with {status}"]
    if why := runner.wait_for_top(faults.RECOVERY):
        wrong.append(why)
    wrong += faults.judge(runner.doctor(f"{fault.id}-after")[0], [])
    if wrong:
        runner.change(fault, "heal")
        runner.wait_for_top(faults.RECOVERY)
    else:
        runner.change(fault, "repaired")
    return "; ".join(wrong), moment, task, took


if __name__ == "__main__":
    sys.exit(main())
