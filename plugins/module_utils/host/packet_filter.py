# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads the packet filters of this host by the programs that it has. Nothing is loaded or created by looking."""

from __future__ import annotations

import os
import shutil
import subprocess
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import network, processes

#: backend -> the program that shows it, the IP version, and where the kernel lists the legacy tables that are loaded.
BACKENDS: t.Dict[str, t.Tuple[str, int, t.Optional[str]]] = {
    "nft": ("iptables-nft-save", 4, None),
    "legacy": ("iptables-legacy-save", 4, "/proc/net/ip_tables_names"),
    "nft6": ("ip6tables-nft-save", 6, None),
    "legacy6": ("ip6tables-legacy-save", 6, "/proc/net/ip6_tables_names"),
}
EXTRA_PATH = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"


class CommandError(Exception):
    """A command that failed, in words."""


def run(command: t.Sequence[str], timeout: float) -> str:
    """The output of a command that is there. Raises CommandError."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise CommandError("%s did not end within %g s" % (os.path.basename(command[0]), timeout)) from exc
    except OSError as exc:
        raise CommandError("%s: %s" % (command[0], exc.strerror)) from exc
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
        raise CommandError(said or "%s ended with %d" % (os.path.basename(command[0]), done.returncode))
    return done.stdout.decode("utf-8", "replace")


def find(program: str) -> t.Optional[str]:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":" + EXTRA_PATH)


def program_of(backend: str, suffix: str, timeout: float) -> t.Optional[str]:
    """The program of a backend: iptables itself, or with the suffix -save.

    Some systems have a single backend, whose programs do not carry its name.
    """
    named = BACKENDS[backend][0]
    named = named[: -len("-save")] + suffix
    path = find(named)
    if path is None:
        path = find(named.replace("-nft", "").replace("-legacy", ""))
        if path is not None:
            try:
                version = run([path, "-V"], timeout)
            except CommandError:
                return None
            path = path if ("nf_tables" in version) == ("-nft" in named) else None
    return path


def read_backend(name: str, timeout: float) -> t.Tuple[t.Dict[str, t.Any], t.Dict[str, network.Chain]]:
    """The FORWARD chain of a backend as it is reported, and all chains of its filter table."""
    _program, _version, loaded_tables = BACKENDS[name]
    report: t.Dict[str, t.Any] = {"present": False, "error": None, "policy": None, "policy_packets": 0, "rules": []}
    # Asking for a legacy table makes the kernel load it, so only those are asked for that are there.
    if loaded_tables and "filter" not in (processes.read_text(loaded_tables) or "").split():
        return report, {}
    path = program_of(name, "-save", timeout)
    if path is None:
        return report, {}
    try:
        chains = network.parse_save(run([path, "-c", "-t", "filter"], timeout))
    except CommandError as exc:
        report["error"] = str(exc)
        return report, {}
    forward = chains.get("FORWARD")
    if forward:
        report.update(present=True, policy=forward.policy, policy_packets=forward.packets, rules=forward.rules)
    return report, chains


def verdicts_of(
    backend: str, chains: t.Mapping[str, network.Chain], connections: t.Iterable[network.Connection]
) -> t.List[t.Dict[str, t.Any]]:
    found = []
    for connection in connections:
        if connection.source.version != BACKENDS[backend][1]:
            continue
        verdict = network.simulate(chains, connection)
        found.append(
            {
                "backend": backend,
                "source": str(connection.source),
                "destination": str(connection.destination),
                "incoming": str(connection.incoming),
                "outgoing": str(connection.outgoing),
                "action": verdict.action,
                "certain": verdict.certain,
                "rule": verdict.rule,
            }
        )
    return found
