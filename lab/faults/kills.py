#!/usr/bin/env python3
# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills repairs at random moments, and requires that running them again mends the lab.

    lab/faults/kills.py --inventory .lab/NAME/inventory.yml [--times 2] [--seed N] FAULT ...

For each fault, so many times: it is injected, repair.yml is started and killed (SIGKILL to every process of it), and
started again; then resource metrics work and doctor finds nothing. During both repairs, the core API is asked through a
balancer before all API servers, and never fails. The moments lie between the plan, before which nothing changes, and
the time that the whole repair took; they are drawn from a seed that is printed. Each kill is a line of faults.jsonl,
as of run.py.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
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

#: The task from which on a repair changes something, as Ansible prints it.
PLAN = "TASK [kubemetrics.aggregation.repair : Plan the repair]"
#: Seconds until the plan, and where nothing is known yet of how long a repair takes, from then on.
PLANNED, FIRST_GUESS = 300, 60
#: How many repairs of a fault may end before they are killed, and are repeated.
TOO_LATE = 2


@contextlib.contextmanager
def request_loop(lab: faults.Lab) -> Iterator[Path]:
    """The loop of requests in the background; the path of its counts, which are whole afterwards."""
    output = lab.state / "kills-loop.json"
    output.unlink(missing_ok=True)
    command = [sys.executable, str(faults.ROOT / "lab/request_loop.py")]
    process = subprocess.Popen([*command, "--state", str(lab.state), "--output", str(output)], stdin=subprocess.DEVNULL)
    try:
        yield output
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@dataclasses.dataclass
class Kill:
    """task: the one that was running, empty where the repair had ended. Seconds until the plan, and since."""

    task: str
    planned: float
    ran: float


def killed(runner: faults.Runner, identifier: str, seconds: float) -> Kill:
    """Starts the repair, and kills it so many seconds after it has printed its plan."""
    # Ansible's workers are in sessions of their own, where no signal to a process group reaches them. With the first
    # process of a PID namespace everything in it is gone.
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += ["ansible-playbook", "-i", str(runner.lab.inventory), str(faults.ROOT / "playbooks/repair.yml")]
    command += ["-e", f"cluster_temporary_directory={runner.temporary}", "-e", f"repair={identifier}"]
    log = runner.folder / f"{identifier}-killed.log"
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
        while PLAN not in log.read_text(encoding="utf-8") and process.poll() is None:
            if time.monotonic() - start > PLANNED:
                process.kill()
                raise faults.Failed(f"playbooks/repair.yml made no plan in {PLANNED} s; see {log}")
            time.sleep(0.2)
        planned = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        ended = process.poll() is not None
        process.kill()
        process.wait()
    # Its kubeconfig: what is killed removes nothing.
    runner.clear()
    tasks = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("TASK [")]
    task = "" if ended else tasks[-1].removeprefix("TASK [").partition("]")[0]
    return Kill(task, planned - start, time.monotonic() - planned)


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
        longest = dict.fromkeys(options.faults, float(FIRST_GUESS))
        for name in options.faults:
            kills = 0
            for _attempt in range(options.times + TOO_LATE):
                longest[name], really = one(lab, runner, faults.load(name), draw.uniform(0, longest[name]))
                result = runner.results[-1]
                runner.record(result)
                print(f"{name} {result.how}: {result.verdict}", flush=True)
                kills += really
                if kills == options.times:
                    break
            else:
                result.wrong.append(f"it was killed {kills} times of {options.times}")
        return 1 if any(result.wrong for result in runner.results) else 0
    except faults.Failed as error:
        print(error, file=sys.stderr)
        return 1


def one(lab: faults.Lab, runner: faults.Runner, fault: faults.Fault, moment: float) -> tuple[float, bool]:
    """Leaves a result with the runner; how long the repair takes from its plan on, and whether it was killed before."""
    result = faults.Result(f"{fault.id} killed")
    runner.results.append(result)
    injected_at = time.monotonic()
    result.injected = runner.change(fault, "inject")
    result.symptom, result.wrong = runner.see_symptom([fault], injected_at)
    # Injecting kills API servers without a warning, and what was asked of them at that moment is lost.
    with request_loop(lab) as counts:
        kill = killed(runner, fault.id, moment)
        start = time.monotonic()
        # What the killed run has mended already is no finding any more; the rest is.
        status, took = runner.playbook(f"{fault.id}-again", "playbooks/repair.yml", f"repair={fault.id}")
        if status:
            result.wrong.append(f"repair.yml ended with {status}")
        if why := runner.wait_for_top(faults.RECOVERY):
            result.wrong.append(why)
        result.mended = time.monotonic() - start
    core = json.loads(counts.read_text(encoding="utf-8"))["balancer core"]
    moment_of = (
        f"killed {kill.ran:.1f} s after the plan in '{kill.task}'" if kill.task else f"ended in {kill.ran:.1f} s"
    )
    result.how = f"{moment_of}, {core['asked']} requests"
    if core["failed"] or not core["asked"]:
        result.wrong.append(
            f"{core['failed']} of {core['asked']} requests to the core API failed: {core['failures']}, "
            f"from {core['first_failure']} to {core['last_failure']}"
        )
    diagnosis, result.doctor = runner.doctor(f"{fault.id}-after")
    result.roots, result.consequences = faults.roots(diagnosis), faults.consequences(diagnosis)
    result.wrong += [f"afterwards {text}" for text in faults.judge(diagnosis, [])]
    if result.wrong:
        runner.change(fault, "heal")
        if why := runner.wait_for_top(faults.RECOVERY):
            raise faults.Failed(f"The lab did not recover from {fault.id}: {why}")
    else:
        runner.change(fault, "repaired")
    # One that ended by itself tells how long it takes; after a kill, the second run tells it at most.
    return (max(kill.ran, took - kill.planned), True) if kill.task else (kill.ran, False)


if __name__ == "__main__":
    sys.exit(main())
