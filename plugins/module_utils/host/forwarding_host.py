# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads and changes what this host forwards: rules of iptables, units of systemd, our own files."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t

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
            said = self.last_log_lines()
            if not said:
                raise
            raise ForwardError("%s failed (%s)" % (forwarding.UNIT, said)) from exc

    def last_log_lines(self) -> str:
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
            "--description=Restore FORWARD after a change that nobody confirmed",
            "--on-active=%d" % seconds,
            "--timer-property=AccuracySec=1s",
            "/bin/sh",
            "-c",
            script,
        )


def firewall_in_charge(timeout: float) -> t.Optional[str]:
    units = processes.show_units(("firewalld.service", "ufw.service"), timeout)
    active = {name for name, unit in units.items() if unit["active_state"] == "active"}
    if "firewalld.service" in active:
        return "firewalld"
    ufw = processes.read_text("/etc/ufw/ufw.conf")
    return "ufw" if "ufw.service" in active and ufw and network.ufw_is_enabled(ufw) else None


def survey(timeout: float) -> t.Dict[str, t.Any]:
    """Whether this host needs a closer examination: what a probe that knows no pod networks can say."""
    host = Host(timeout)
    tables = host.read_tables(set(VERSIONS.values()))
    managed = forwarding.parse_files(host.read_files()) is not None
    return {
        "accepts_everything": all(forwarding.accepts_everything(chains) for chains in tables.values())
        and not host.unreadable,
        "managed": managed or any(forwarding.CHAIN in chains for chains in tables.values()),
    }
