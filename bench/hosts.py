# SPDX-License-Identifier: GPL-3.0-or-later
"""What an unchanged run of site.yml costs with more and more hosts.

make bench-hosts                                 # 1, 10, 50 and 200 hosts; writes the table of docs/scale.md
make bench-hosts BENCH_HOSTS="10 20"             # other sizes, printed only
python bench/hosts.py record INVENTORY           # record answers anew, from a lab of one control plane and one worker
python bench/hosts.py lab INVENTORY              # measure that lab itself
python bench/hosts.py check FILE [PLAYBOOK]      # fail when the last run of it executed more modules than it may
python bench/hosts.py --playbook doctor.yml replay 200          # the same of doctor.yml

Hosts are replayed (ansible/connection/replay.py): Ansible does for each what it does for a real one, and the answers
were recorded on a lab. So the time is that of the controller, plus what each answer took where it was recorded.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent
_RECORDED = _HERE / "hosts.json"
_DOCUMENT = _ROOT / "docs" / "scale.md"
_BEGIN, _END = "<!-- table: written by bench/hosts.py -->", "<!-- /table -->"
#: Seconds of an unchanged run: with one control plane and one worker, and for each further worker.
GOAL_BASE, GOAL_WORKER = 12.0, 0.7
#: Modules that an unchanged run may execute on a host.
GOAL_MODULES = {"control_plane": 5, "worker": 2}
_KUBECONFIG = "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: https://127.0.0.1}}]\nusers: []\n"


class Run(NamedTuple):
    hosts: int
    seconds: float
    cpu: float
    memory_mib: float
    #: Modules by the host that executed them.
    modules: Counter[str]
    #: Tasks by the host that took part in them; Ansible forks a process for each.
    tasks: Counter[str]


def play(
    playbook: str, inventory: Path, *extra: str, log: Path, results: bool = False
) -> tuple[Run, list[dict[str, Any]]]:
    """One run of a playbook. Fails unless it ends well and changes nothing."""
    lines = log.with_suffix(".jsonl")
    lines.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "ANSIBLE_CALLBACK_PLUGINS": str(_HERE / "ansible" / "callback"),
        "ANSIBLE_CONNECTION_PLUGINS": str(_HERE / "ansible" / "connection"),
        "ANSIBLE_CALLBACKS_ENABLED": "executions,ansible.posix.profile_tasks",
        "KUBEMETRICS_EXECUTIONS": str(lines),
        "KUBEMETRICS_EXECUTIONS_RESULTS": str(results).lower(),
        "KUBEMETRICS_REPLAY": str(_RECORDED),
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    with log.open("wb") as output:
        done = subprocess.run(
            ["ansible-playbook", "-i", str(inventory), str(_ROOT / "playbooks" / playbook), *extra],
            cwd=_ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = log.read_text(encoding="utf-8", errors="replace")
    recap = [line for line in text.partition("PLAY RECAP")[2].splitlines() if "ok=" in line]
    if done.returncode or not recap:
        sys.exit(f"{playbook} ended with {done.returncode}; see {log}:\n" + "\n".join(text.splitlines()[-40:]))
    changed = [line for line in recap if "changed=0 " not in line]
    if changed:
        sys.exit(f"This run changed something, so it is none to measure; see {log}:\n" + "\n".join(changed))
    modules, tasks, executed = last_run(lines, playbook)
    hosts = len([line for line in recap if not line.startswith("localhost")])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    memory = after.ru_maxrss / 1024
    return Run(hosts, seconds, cpu, memory, modules, tasks), executed


def last_run(path: Path, playbook: str = "site.yml") -> tuple[Counter[str], Counter[str], list[dict[str, Any]]]:
    """What the last run of a playbook executed: modules by host, tasks by host, and the entries of all modules."""
    entries: list[dict[str, Any]] = []
    within = False
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "playbook" in entry:
            within = entry["playbook"] == playbook
            entries = [] if within else entries
        elif within:
            entries.append(entry)
    executed = [entry for entry in entries if "module" in entry]
    started = Counter(entry["host"] for entry in entries if "started" in entry)
    return Counter(entry["host"] for entry in executed), started, executed


def replayed_inventory(hosts: int, latency: float) -> dict[str, Any]:
    sys.path.insert(0, str(_HERE / "ansible" / "connection"))
    from replay import worker_address

    recorded = json.loads(_RECORDED.read_text(encoding="utf-8"))
    workers = hosts - 1
    members = {
        f"w{number}": {"ansible_host": worker_address(number), "ip": worker_address(number), "replay_role": "worker"}
        for number in range(1, workers + 1)
    }
    plane = {
        "ansible_host": recorded["control_plane_address"],
        "ip": recorded["control_plane_address"],
        "replay_role": "control_plane",
    }
    return {
        "all": {
            "vars": {
                **recorded["variables"],
                "ansible_connection": "replay",
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_become_method": "sudo",
                "replay_workers": workers,
                "replay_latency": latency,
                # What is written on the controller is written there.
                "_cluster_api_on_controller": True,
            },
            "hosts": {"localhost": {"replay_role": "controller"}},
            "children": {
                "kube_control_plane": {"hosts": {"cp1": plane}},
                "kube_node": {"hosts": members},
            },
        }
    }


def replay(playbook: str, hosts: int, folder: Path, latency: float) -> Run:
    inventory = folder / f"{hosts}.json"
    inventory.write_text(json.dumps(replayed_inventory(hosts, latency)), encoding="utf-8")
    # What was recorded is old by now, which is no matter here.
    given = ("_cluster_api_on_controller=true", "_doctor_api_on_controller=true", "doctor_fail_on_findings=false")
    extra = [word for name in given for word in ("-e", name)]
    return play(playbook, inventory, *extra, log=folder / f"{hosts}.log")[0]


def shareable(recorded: Any) -> Any:
    """What is recorded, without secrets and without folders of the machine that it was recorded on."""
    sys.path.insert(0, str(_ROOT / ".ansible" / "collections"))
    from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import masking

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items()}
        if isinstance(value, list):
            return [without(one) for one in value]
        if isinstance(value, str):
            text = masking.mask_standing_alone(value)
            return text.replace(str(_ROOT), ".").replace(str(Path.home()), "/home/operator")
        return value

    return without(recorded)


def record(inventory: Path) -> None:
    """Write down what the modules of an unchanged run answer."""
    listed = subprocess.run(
        ["ansible-inventory", "-i", str(inventory), "--list"], check=True, stdout=subprocess.PIPE, cwd=_ROOT
    )
    variables = json.loads(listed.stdout)["_meta"]["hostvars"]
    with tempfile.TemporaryDirectory() as name:
        executed = []
        for playbook in ("site.yml", "doctor.yml"):
            executed += play(playbook, inventory, log=Path(name) / "record.log", results=True)[1]
    answers: dict[str, list[dict[str, Any]]] = {"control_plane": [], "worker": [], "controller": []}
    roles = {"cp1": "control_plane", "w1": "worker"}
    for entry in executed:
        result = {key: value for key, value in entry["result"].items() if key not in ("invocation", "diff")}
        result = {key: value for key, value in result.items() if not key.startswith("_ansible_")}
        if entry["module"] == "ansible.legacy.slurp":
            # It holds the key of an administrator.
            result["content"] = base64.b64encode(_KUBECONFIG.encode()).decode()
        if entry["host"] == "w1" and "host" in result:
            # It is of that one worker, and says so.
            result["host"]["kubelet_client_certificate"] = None
        answers[roles.get(entry["host"], "controller")].append(
            {
                "module": entry["module"],
                "arguments": {
                    key: value for key, value in entry["arguments"].items() if not key.startswith("_ansible_")
                },
                "seconds": entry["seconds"],
                "result": result,
            }
        )
    provider = next(entry for entry in answers["controller"] if entry["module"].endswith("metrics_provider_info"))
    recorded = {
        "control_plane_address": variables["cp1"]["ansible_host"],
        "worker_address": variables["w1"]["ansible_host"],
        "variables": {
            **{key: value for key, value in variables["w1"].items() if key.startswith(("kube_", "metrics_server_"))},
            # Whatever becomes of the server's source, its image is the one that was there.
            "metrics_server_image_version": provider["result"]["deployment"]["images"][0].rpartition(":")[2],
        },
        "answers": answers,
    }
    _RECORDED.write_text(json.dumps(shareable(recorded), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{_RECORDED}: {sum(map(len, answers.values()))} answers")


def most(counts: Counter[str], control_plane: bool) -> int:
    return max(
        (count for host, count in counts.items() if host != "localhost" and host.startswith("cp") == control_plane),
        default=0,
    )


def usual(counts: Counter[str]) -> int:
    """Tasks of the worker in the middle: where something runs once, one host takes part for all of them."""
    return int(statistics.median_low([count for host, count in counts.items() if host.startswith("w")] or [0]))


def table(runs: list[Run], kind: str) -> list[str]:
    lines = []
    base = next((run for run in runs if run.hosts == 2), None)
    for run in runs:
        each = (run.seconds - base.seconds) / (run.hosts - 2) if base and run.hosts > 2 else None
        goal = GOAL_BASE + GOAL_WORKER * max(0, run.hosts - 2)
        lines.append(
            f"| {run.hosts} | {kind} | {run.seconds:.1f} s | {'' if each is None else f'{each:.2f} s'} | {goal:.0f} s "
            f"| {run.cpu:.1f} s | {most(run.modules, True)} | {most(run.modules, False)} | {usual(run.tasks)} |"
        )
    return lines


HEAD = [
    "| Hosts | | Time | Each further worker | Goal | CPU time of the controller "
    "| Modules on a control plane | Modules on a worker | Tasks of a worker |",
    "|---|---|---|---|---|---|---|---|---|",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["replay", "record", "lab", "check"], default="replay")
    parser.add_argument("arguments", nargs="*", help="sizes to replay, or the inventory of the lab")
    parser.add_argument(
        "--latency", type=float, default=0, help="seconds of every answer, instead of the recorded ones"
    )
    parser.add_argument("--playbook", default="site.yml", help="what is replayed or measured on the lab")
    parser.add_argument("--docs", action="store_true", help="write the table of docs/scale.md")
    parser.add_argument("--keep", type=Path, help="keep logs in this folder")
    given = parser.parse_args()
    if given.command == "check":
        modules = last_run(Path(given.arguments[0]), *given.arguments[1:])[0]
        found = {"control_plane": most(modules, True), "worker": most(modules, False)}
        over = [f"{found[role]} on a {role}, where {goal} are allowed" for role, goal in GOAL_MODULES.items()]
        if not modules or any(found[role] > goal for role, goal in GOAL_MODULES.items()):
            sys.exit(f"An unchanged run executes too many modules: {'; '.join(over)}.")
        print(found)
        return
    if given.command == "record":
        record(Path(given.arguments[0]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if given.command == "lab":
            runs = [play(given.playbook, Path(given.arguments[0]), log=folder / "lab.log")[0]]
        else:
            sizes = given.arguments or ("2", "10", "50", "200")
            runs = [replay(given.playbook, int(size), folder, given.latency) for size in sizes]
    lines = table(runs, "lab" if given.command == "lab" else "replayed")
    print("\n".join(HEAD + lines))
    if given.docs:
        text = _DOCUMENT.read_text(encoding="utf-8")
        before, _begin, rest = text.partition(_BEGIN)
        _DOCUMENT.write_text(
            "\n".join([before + _BEGIN, *HEAD, *lines, _END]) + rest.partition(_END)[2], encoding="utf-8"
        )


if __name__ == "__main__":
    main()
