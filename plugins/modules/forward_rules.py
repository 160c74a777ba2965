#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: forward_rules
short_description: Let pod traffic through where the policy of FORWARD drops it
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Follows new connections between pods, and between pods and O(peers), through the FORWARD chains of both iptables
    backends. Where the policy of a chain drops them, as it does after Docker has set it to C(DROP), accepts them and
    keeps it so over restarts of Docker and of the host. A host that lets them through is left as it is.
  - Rules are only ever appended, so that they stand in for the policy and for nothing else. NetworkPolicies and other
    rules before them decide first. A rule that drops or rejects the traffic is somebody's decision, is named in
    RV(advice), and stays.
  - Nothing that others made is removed. All rules are saved before a change, the files are a recorded change that
    M(kubemetrics.aggregation.recorded_change) takes back, and a timer on the host takes everything back after
    O(revert_after) seconds, unless it is stopped.
options:
  state:
    description:
      - V(present) accepts the traffic where that is needed. V(absent) removes what this module made.
      - V(synced) makes the kernel follow the files, after M(kubemetrics.aggregation.recorded_change) has replaced or
        removed them.
    type: str
    choices: [present, absent, synced]
    default: present
  mode:
    description:
      - V(rules) accepts connections from and to O(pod_cidrs) in a chain of its own, to which FORWARD jumps in the end,
        and a systemd unit keeps it so.
      - V(policy) sets the policy to C(ACCEPT) by a systemd unit, for all traffic. V(docker_dropin) does so by a drop-in
        of C(docker.service).
      - V(auto) is V(rules) where it is certain that traffic is dropped and no firewall service is in charge; what is
        set up already is kept in its mode. The other modes are taken at their word, and also act where a rule that
        depends on interfaces or marks may accept the traffic after all.
    type: str
    choices: [auto, rules, docker_dropin, policy]
    default: auto
  pod_cidrs:
    description:
      - The networks of pods. Needed for V(present).
    type: list
    elements: str
    default: []
  peers:
    description:
      - Addresses outside of the pod networks that pods talk to, such as those of the control planes.
    type: list
    elements: str
    default: []
  restart_docker:
    description:
      - Whether to restart Docker for a new drop-in. Without it, the drop-in counts from the next start of Docker, and
        its effect is brought about at once by a command.
    type: bool
    default: false
  revert_after:
    description:
      - Seconds after which a timer on the host takes a change back. Stop C(kubemetrics-forward-revert.timer) over a
        fresh connection to keep the change. With V(0) there is no timer.
    type: int
    default: 0
  change_id:
    description:
      - With O(state=synced), the id of the change that replaced the files.
    type: str
  state_dir:
    description:
      - Where records, backups and saved rules are kept.
    type: path
    default: /var/lib/kubemetrics
  timeout:
    description:
      - Seconds for each command.
    type: float
    default: 30
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed, or would change in C(check_mode), when in diff mode.
    support: full
  idempotent:
    description: When run twice in a row with the same arguments, the second run indicates no change.
    support: full
notes:
  - Needs root, and systemd where something has to be changed.
  - The legacy tables of iptables are looked at only where the kernel has them already.
seealso:
  - module: kubemetrics.aggregation.host_network_info
  - module: kubemetrics.aggregation.recorded_change
"""

EXAMPLES = r"""
- name: Accept pod traffic that the policy of FORWARD would drop
  kubemetrics.aggregation.forward_rules:
    pod_cidrs: [10.233.64.0/18]
    peers: [192.0.2.11]
  become: true

- name: Take it back
  kubemetrics.aggregation.forward_rules:
    state: absent
  become: true
"""

RETURN = r"""
mode:
  description: The mode that is set up on the host, null for none.
  returned: success
  type: str
  sample: rules
backends:
  description: The backends in which traffic is accepted by it, of V(nft), V(legacy), V(nft6) and V(legacy6).
  returned: success
  type: list
  elements: str
  sample: [nft]
dropped:
  description: The backends whose policy surely drops traffic of pods, our own rules left out of account.
  returned: success
  type: list
  elements: str
  sample: [nft]
commands:
  description: The commands of iptables that were or would be run, without the program.
  returned: success
  type: list
  elements: str
  sample: ["nft: -A FORWARD -j KUBEMETRICS-FORWARD"]
advice:
  description: What stands in the way that is not this module's to change, with what to do.
  returned: success
  type: list
  elements: str
  sample: []
saved:
  description: Files on the host with all rules as they were before the change.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/kubemetrics/iptables/20260301T100500Z-nft]
change_id:
  description: The id of the recorded change, null when no file was changed.
  returned: success
  type: str
  sample: 20260301T100500Z-1f0c9a3e
revert_timer:
  description: The timer that takes the change back unless it is stopped, null when there is none.
  returned: success
  type: str
  sample: kubemetrics-forward-revert.timer
"""

import contextlib
import os
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import (
    forwarding,
    network,
    packet_filter,
    processes,
)

Tables = t.Dict[str, t.Dict[str, network.Chain]]
KEEP_SAVED = 20
VERSIONS = {backend: entry[1] for backend, entry in packet_filter.BACKENDS.items()}


class ForwardError(Exception):
    """One sentence for the user."""


class Host:
    """What is on this host, and what changes it."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.programs: t.Dict[str, str] = {}
        self.unreadable: t.List[str] = []

    def read_tables(self, versions: t.Collection[int]) -> Tables:
        tables: Tables = {}
        for backend, version in VERSIONS.items():
            if version not in versions:
                continue
            report, chains = packet_filter.read_backend(backend, self.timeout)
            if report["error"] and "not supported" not in report["error"]:
                self.unreadable.append("%s: %s" % (backend, report["error"]))
            program = packet_filter.program_of(backend, "", self.timeout) if report["present"] else None
            if program:
                tables[backend] = chains
                self.programs[backend] = program
        return tables

    def read_files(self) -> t.Dict[str, t.Optional[str]]:
        found: t.Dict[str, t.Optional[str]] = {}
        for path in forwarding.OWN_FILES:
            state = host_files.read_file(path)
            found[path] = state.content.decode("utf-8", "replace") if state.exists else None
        return found

    def iptables(self, operation: forwarding.Operation) -> None:
        backend, arguments = operation
        argv = forwarding.command(self.programs[backend], arguments)
        try:
            packet_filter.run(argv, self.timeout)
        except packet_filter.CommandError as exc:
            said = str(exc).rstrip(".")
            raise ForwardError("%s failed (%s)" % (" ".join(argv), said)) from exc

    def systemctl(self, *arguments: str) -> None:
        self.command("systemctl", *arguments)

    def command(self, program: str, *arguments: str) -> None:
        path = packet_filter.find(program)
        if path is None:
            raise ForwardError(
                "%s is missing; a change has to survive a restart of the host, which needs systemd" % program
            )
        try:
            packet_filter.run([path, *arguments], self.timeout)
        except packet_filter.CommandError as exc:
            raise ForwardError("%s failed (%s)" % (" ".join([program, *arguments[:2]]), str(exc).rstrip("."))) from exc

    def start_unit(self) -> None:
        try:
            self.systemctl("restart", forwarding.UNIT)
        except ForwardError as exc:
            said = self.last_words()
            if not said:
                raise
            raise ForwardError("%s failed (%s)" % (forwarding.UNIT, said)) from exc

    def last_words(self) -> str:
        """What the unit's own processes wrote in the end."""
        path = packet_filter.find("journalctl")
        if path is None:
            return ""
        mine = "_SYSTEMD_UNIT=" + forwarding.UNIT
        try:
            text = packet_filter.run([path, "--no-pager", "--output=cat", "--lines=3", mine], self.timeout)
        except packet_filter.CommandError:
            return ""
        return " ".join(text.split())[-300:].rstrip(".")

    def save(self, directory: str, tables: t.Collection[str]) -> t.List[str]:
        """Keeps all rules of all tables as they are now."""
        host_files.make_private_dir(directory)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        saved = []
        for backend in tables:
            program = packet_filter.program_of(backend, "-save", self.timeout)
            if program is None:
                continue
            path = os.path.join(directory, "%s-%s" % (stamp, backend))
            try:
                text = packet_filter.run([program, "-c"], self.timeout)
            except packet_filter.CommandError as exc:
                raise ForwardError("the rules could not be saved (%s)" % str(exc).rstrip(".")) from exc
            host_files.rename_into_place(host_files.stage(path, text.encode(), 0o600, None, None), path)
            saved.append(path)
        for name in sorted(name for name in os.listdir(directory) if not name.startswith("."))[:-KEEP_SAVED]:
            os.unlink(os.path.join(directory, name))
        return saved

    def remove_links(self) -> None:
        for path in forwarding.link_paths():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            # systemctl disable removes the folder with the last link, too.
            with contextlib.suppress(OSError):
                if os.path.basename(os.path.dirname(path)) != "multi-user.target.wants":
                    os.rmdir(os.path.dirname(path))

    def arm(self, seconds: int, script: str) -> None:
        """Has systemd run the script after a while, whatever becomes of this process and of the network."""
        timer = forwarding.REVERT_UNIT + ".timer"
        with contextlib.suppress(ForwardError):
            self.systemctl("stop", timer)
        self.command(
            "systemd-run",
            "--quiet",
            "--collect",
            "--unit=" + forwarding.REVERT_UNIT,
            "--description=Take back a change of FORWARD that nobody confirmed",
            "--on-active=%d" % seconds,
            "--timer-property=AccuracySec=1s",
            "/bin/sh",
            "-c",
            script,
        )


def decide(
    params: t.Mapping[str, t.Any],
    existing: t.Optional[forwarding.Setup],
    host: Host,
    tables: Tables,
) -> t.Tuple[t.Optional[forwarding.Setup], t.List[str], t.List[str]]:
    """What shall be set up, where the policy surely drops, and what to tell the operator."""
    pods = network.parse_networks(params["pod_cidrs"])
    cidrs = [str(entry) for entry in pods]
    connections = packet_filter.pairs(pods, network.parse_networks(params["peers"]))
    devices = network.devices_within(processes.read_text("/proc/net/route") or "", pods)
    judgements = {
        backend: forwarding.judge(
            chains, [pair for pair in connections if pair[0].version == VERSIONS[backend]], devices
        )
        for backend, chains in tables.items()
    }
    dropped = [backend for backend, judged in judgements.items() if judged.dropped]
    refused = {backend: judged.refused for backend, judged in judgements.items() if judged.refused}
    firewall = None
    if refused or (dropped and not existing and params["mode"] == "auto"):
        firewall = firewall_in_charge(host.timeout)
    mode = forwarding.choose_mode(
        params["mode"], existing.mode if existing else None, judgements.values(), firewall is not None
    )
    advice = []
    if firewall and mode is None:
        advice.append(forwarding.advice_for_firewall(firewall, cidrs))
    else:
        advice += [forwarding.advice_for_rule(backend, rule) for backend, rule in refused.items()]
    advice += ["The rules of %s, so that they were left out." % entry.rstrip(".") for entry in host.unreadable]
    if mode is None:
        return None, dropped, advice
    if mode == "docker_dropin" and not processes.show_units(("docker.service",), host.timeout).get(
        "docker.service", {}
    ).get("loaded"):
        if params["mode"] == "docker_dropin":
            raise ForwardError("There is no docker.service on this host; take another mode than docker_dropin")
        mode = "rules"
    sure_only = params["mode"] == "auto"
    backends = []
    for backend in VERSIONS:
        judged = judgements.get(backend)
        if existing and backend in existing.backends:
            # Kept even if its tables are not loaded now, as right after a restart.
            program = host.programs.get(backend) or packet_filter.program_of(backend, "", host.timeout)
            if program:
                host.programs[backend] = program
                backends.append(backend)
        elif judged and (judged.dropped or (judged.doubtful and not sure_only)):
            backends.append(backend)
    return (forwarding.Setup(mode, backends, cidrs) if backends else None), dropped, advice


def firewall_in_charge(timeout: float) -> t.Optional[str]:
    units = processes.show_units(("firewalld.service", "ufw.service"), timeout)
    active = {name for name, unit in units.items() if unit["active_state"] == "active"}
    if "firewalld.service" in active:
        return "firewalld"
    ufw = processes.read_text("/etc/ufw/ufw.conf")
    return "ufw" if "ufw.service" in active and ufw and network.ufw_is_enabled(ufw) else None


def setup_before(change_id: str, journal: host_files.Journal) -> t.Optional[forwarding.Setup]:
    """What our files said before a recorded change."""
    contents: t.Dict[str, t.Optional[str]] = {}
    for entry in journal.read(change_id)["files"]:
        if entry["path"] in forwarding.OWN_FILES and entry["backup"]:
            contents[entry["path"]] = host_files.read_file(entry["backup"]).content.decode("utf-8", "replace")
    return forwarding.parse_files(contents)


class Change(t.NamedTuple):
    before: t.Optional[forwarding.Setup]
    after: t.Optional[forwarding.Setup]
    files_before: t.Dict[str, t.Optional[str]]
    files_after: t.Dict[str, t.Optional[str]]
    remove: t.List[forwarding.Operation]
    add: t.List[forwarding.Operation]
    links: bool

    @property
    def operations(self) -> t.List[forwarding.Operation]:
        return self.remove + self.add

    @property
    def files(self) -> t.List[str]:
        return [path for path in forwarding.OWN_FILES if self.files_before[path] != self.files_after[path]]

    @property
    def needed(self) -> bool:
        return bool(self.operations or self.files or self.links)


def carry_out(
    change: Change, host: Host, params: t.Mapping[str, t.Any], tables: Tables, journal: host_files.Journal
) -> t.Dict[str, t.Any]:
    """Makes the change, or takes it back and raises."""
    saved = host.save(os.path.join(params["state_dir"], "iptables"), tables)
    script = forwarding.revert_script(change.operations, change.files_before, host.programs)
    timer = None
    if params["revert_after"]:
        host.arm(params["revert_after"], script)
        timer = forwarding.REVERT_UNIT + ".timer"
    record = None
    try:
        if change.files:
            record = replace(change, journal)
        settle(change, host, params)
        remaining = [
            operation
            for part in forwarding.plan_rules(
                change.before, change.after, host.read_tables(set(VERSIONS.values())), VERSIONS
            )
            for operation in part
        ]
        if remaining:
            raise ForwardError("afterwards the rules still lack %s" % " ".join(remaining[0][1]))
    except (ForwardError, host_files.HostFileError) as exc:
        reason = str(exc).rstrip(".")
        if not take_back(change, host, script, tables):
            raise ForwardError(
                "The way of pod traffic could not be changed wholly, nor all of it be taken back (%s); %srun the task "
                "with state: absent when that is mended"
                % (reason, "%s tries that once more in a while, or " % timer if timer else "")
            ) from exc
        if timer:
            host.systemctl("stop", timer)
        raise ForwardError(
            "The way of pod traffic was not changed, and all is as it was before: %s; run the task again when that is "
            "mended" % reason
        ) from exc
    return {"saved": saved, "revert_timer": timer, "change_id": record["id"] if record else None}


def take_back(change: Change, host: Host, script: str, tables: Tables) -> bool:
    """Whether all is as it was before. Only then is the timer needed no more."""
    shell = packet_filter.find("sh")
    # Each line is tried, those that take back what was never done fail, and each may wait for the lock.
    with contextlib.suppress(packet_filter.CommandError):
        packet_filter.run([shell or "/bin/sh", "-c", script], host.timeout * (2 + len(change.operations)))
    after = host.read_tables(set(VERSIONS.values()))
    return host.read_files() == change.files_before and all(
        forwarding.own_part(after.get(backend, {})) == forwarding.own_part(chains) for backend, chains in tables.items()
    )


def replace(change: Change, journal: host_files.Journal) -> t.Optional[t.Dict[str, t.Any]]:
    replacements = []
    for path in change.files:
        before, after = change.files_before[path], change.files_after[path]
        replacements.append(
            host_files.Replacement(
                path,
                None if after is None else after.encode(),
                None if before is None else host_files.read_file(path).sha256,
                mode=0o644,
                make_directory=True,
            )
        )
    if change.after:
        what = "forwarding of pod traffic: %s in %s" % (change.after.mode, ", ".join(change.after.backends))
    else:
        what = "forwarding of pod traffic: as it was before this collection"
    return host_files.replace_files(replacements, what=what, component="forward_policy", journal=journal)


def settle(change: Change, host: Host, params: t.Mapping[str, t.Any]) -> None:
    """Brings systemd and the kernel in line with the files."""
    unit = change.files_after[forwarding.UNIT_FILE] is not None
    if not unit:
        # It may be there no more, and stopping it removes no rule.
        with contextlib.suppress(ForwardError):
            host.systemctl("stop", forwarding.UNIT)
        host.remove_links()
    host.systemctl("daemon-reload")
    # What is accepted anew comes first, so that a switch from one mode to another leaves no gap.
    if unit:
        host.systemctl("enable", "--quiet", forwarding.UNIT)
        # The unit itself does it, which proves that it will do so after a restart.
        host.start_unit()
    elif change.after:
        if params["restart_docker"]:
            host.systemctl("restart", "docker.service")
        else:
            for operation in change.add:
                host.iptables(operation)
    for operation in change.remove:
        host.iptables(operation)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "synced"], "default": "present"},
            "mode": {"type": "str", "choices": ["auto", "rules", "docker_dropin", "policy"], "default": "auto"},
            "pod_cidrs": {"type": "list", "elements": "str", "default": []},
            "peers": {"type": "list", "elements": "str", "default": []},
            "restart_docker": {"type": "bool", "default": False},
            "revert_after": {"type": "int", "default": 0},
            "change_id": {"type": "str"},
            "state_dir": {"type": "path", "default": host_files.STATE_DIR},
            "timeout": {"type": "float", "default": 30},
        },
        required_if=[("state", "present", ("pod_cidrs",)), ("state", "synced", ("change_id",))],
        supports_check_mode=True,
    )
    params = module.params
    if os.geteuid() != 0:
        module.fail_json(msg="Rules of iptables are for root alone; run the task as root (become: true).")
    if not os.path.isabs(params["state_dir"]):
        module.fail_json(msg="state_dir is %r, and has to be an absolute path." % params["state_dir"])
    if params["revert_after"] < 0:
        module.fail_json(msg="revert_after is %d; give seconds, or 0 for no timer." % params["revert_after"])
    try:
        network.parse_networks(params["pod_cidrs"] + params["peers"])
    except ValueError as exc:
        module.fail_json(msg=str(exc))

    host = Host(params["timeout"])
    journal = host_files.Journal(params["state_dir"])
    try:
        result, change, tables = plan(params, host, journal)
        result["changed"] = change.needed
        if module._diff and change.needed:
            result["diff"] = diff(change, tables)
        if change.needed and not module.check_mode:
            result.update(carry_out(change, host, params, tables, journal))
    except (ForwardError, host_files.HostFileError) as exc:
        module.fail_json(msg=str(exc).rstrip(".") + ".")
    module.exit_json(**result)


def plan(
    params: t.Mapping[str, t.Any], host: Host, journal: host_files.Journal
) -> t.Tuple[t.Dict[str, t.Any], Change, Tables]:
    files = host.read_files()
    existing = forwarding.parse_files(files)
    versions = {entry.version for entry in network.parse_networks(params["pod_cidrs"])}
    if params["state"] != "present" or existing:
        versions = set(VERSIONS.values())
    tables = host.read_tables(versions)
    dropped: t.List[str] = []
    advice: t.List[str] = []
    before: t.Optional[forwarding.Setup] = existing
    wanted: t.Optional[forwarding.Setup] = None
    files_after = files
    if params["state"] == "synced":
        before, wanted = setup_before(params["change_id"], journal), existing
    else:
        if params["state"] == "present":
            wanted, dropped, advice = decide(params, existing, host, tables)
        files_after = forwarding.render_files(wanted, host.programs, VERSIONS)
    remove, add = forwarding.plan_rules(before, wanted, tables, VERSIONS)
    links = [os.path.lexists(path) for path in forwarding.link_paths()]
    unlinked = not all(links) if files_after[forwarding.UNIT_FILE] is not None else any(links)
    change = Change(before, wanted, files, files_after, remove, add, unlinked)
    result = {
        "mode": wanted.mode if wanted else None,
        "backends": wanted.backends if wanted else [],
        "dropped": dropped,
        "commands": ["%s: %s" % (backend, " ".join(arguments)) for backend, arguments in change.operations],
        "advice": advice,
        "saved": [],
        "change_id": None,
        "revert_timer": None,
    }
    return result, change, tables


def diff(change: Change, tables: Tables) -> t.List[t.Dict[str, str]]:
    shown = [
        {
            "before_header": path if change.files_before[path] is not None else "%s (absent)" % path,
            "after_header": path if change.files_after[path] is not None else "%s (absent)" % path,
            "before": change.files_before[path] or "",
            "after": change.files_after[path] or "",
        }
        for path in change.files
    ]
    if change.operations:
        shown.append(
            {
                "before_header": "rules of iptables",
                "after_header": "rules of iptables",
                "before": forwarding.show(tables, VERSIONS),
                "after": forwarding.show(forwarding.apply_to(tables, change.operations), VERSIONS),
            }
        )
    return shown


if __name__ == "__main__":
    main()
