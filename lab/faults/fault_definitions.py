# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults of this folder, and the lab that they are injected into."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Sequence
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
