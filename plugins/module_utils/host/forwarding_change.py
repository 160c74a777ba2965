# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decides which rules of FORWARD pod traffic needs on this host, and makes that change or restores what was."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import (
    forwarding,
    network,
    packet_filter,
    pod_network,
    processes,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host.forwarding_host import (
    VERSIONS,
    ForwardError,
    Host,
    Tables,
    firewall_in_charge,
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
    connections = pod_network.connections(pods, network.parse_networks(params["peers"]), pod_network.read_bridges(pods))
    judgements = {
        backend: forwarding.judge(chains, [entry for entry in connections if entry.source.version == VERSIONS[backend]])
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
    if mode == "docker_dropin" and not docker_is_there(host):
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


def docker_is_there(host: Host) -> bool:
    """Whether there is a Docker on this host that sets the policy of FORWARD to DROP."""
    units = processes.show_units(("docker.service",), host.timeout)
    return bool(units.get("docker.service", {}).get("loaded"))


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
    #: Whether a policy that was opened is closed.
    close: bool = True

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
    """Makes the change, or restores what was and raises."""
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
                change.before, change.after, host.read_tables(set(VERSIONS.values())), VERSIONS, change.close
            )
            for operation in part
        ]
        if remaining:
            raise ForwardError("afterwards the rules still lack %s" % " ".join(remaining[0][1]))
    except (ForwardError, host_files.HostFileError) as exc:
        reason = str(exc).rstrip(".")
        if not restore(change, host, script, tables):
            raise ForwardError(
                "Pod traffic forwarding could be neither changed completely nor restored (%s); %srun the task "
                "with state: absent when that is mended"
                % (reason, "%s tries to restore it once more in a while, or " % timer if timer else "")
            ) from exc
        if timer:
            host.systemctl("stop", timer)
        raise ForwardError(
            "Pod traffic forwarding was not changed, and all is as it was before: %s; run the task again when that is "
            "mended" % reason
        ) from exc
    return {"saved": saved, "revert_timer": timer, "change_id": record["id"] if record else None}


def restore(change: Change, host: Host, script: str, tables: Tables) -> bool:
    """Whether all is as it was before. Only then is the timer needed no more."""
    shell = packet_filter.find("sh")
    # Each line is tried, those that undo what was never done fail, and each may wait for the lock.
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
        what = "pod traffic forwarding: %s in %s" % (change.after.mode, ", ".join(change.after.backends))
    else:
        what = "pod traffic forwarding: as it was before this collection"
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
        # The unit itself does it, so that it will do so after a restart.
        host.start_unit()
    elif change.after:
        if params["restart_docker"]:
            host.systemctl("restart", "docker.service")
        else:
            for operation in change.add:
                host.iptables(operation)
    for operation in change.remove:
        host.iptables(operation)


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
    closed = forwarding.closed(remove)
    close = not closed or docker_is_there(host)
    if not close:
        # Nothing on the host would drop any more what is forwarded, and it is the host's own by now.
        remove, add = forwarding.plan_rules(before, wanted, tables, VERSIONS, close)
        commands = [" ".join([host.programs[backend], "-P", "FORWARD", "DROP"]) for backend in closed]
        advice = [*advice, forwarding.advice_for_open_policy(commands)]
    links = [os.path.lexists(path) for path in forwarding.link_paths()]
    unlinked = not all(links) if files_after[forwarding.UNIT_FILE] is not None else any(links)
    change = Change(before, wanted, files, files_after, remove, add, unlinked, close)
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
