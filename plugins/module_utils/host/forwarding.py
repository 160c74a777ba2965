# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be there so that the policy of FORWARD does not drop pod traffic. Pure functions.

Rules of our own stand in a chain of our own. The jump to it is appended to FORWARD, never inserted: there it replaces
the policy for pod traffic and nothing else. At the head it would bypass the NetworkPolicies that CNI plugins
keep in FORWARD.
"""

from __future__ import annotations

import re
import shlex
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import network

CHAIN = "KUBEMETRICS-FORWARD"
JUMP = "-j " + CHAIN
UNIT = "kubemetrics-forward.service"
UNIT_FILE = "/etc/systemd/system/" + UNIT
DROPIN_FILE = "/etc/systemd/system/docker.service.d/90-kubemetrics-forward.conf"
OWN_FILES = (UNIT_FILE, DROPIN_FILE)
REVERT_UNIT = "kubemetrics-forward-revert"
#: What may rewrite FORWARD when it starts. The unit follows each of them.
REWRITERS = (
    "docker.service",
    "firewalld.service",
    "iptables.service",
    "ip6tables.service",
    "netfilter-persistent.service",
    "nftables.service",
)
WANTED_BY = ("multi-user.target", *REWRITERS)
#: Seconds to wait for the lock that programs of the legacy backend share.
LOCK_WAIT = "10"
POLICY = "policy of FORWARD"

Chains = t.Mapping[str, network.Chain]
Connections = t.Sequence[network.Connection]
#: A command of iptables in a backend: ("nft", ["-P", "FORWARD", "ACCEPT"]).
Operation = t.Tuple[str, t.List[str]]


class Judgement(t.NamedTuple):
    """What becomes of pod traffic in one backend, our own rules left out of account."""

    #: The policy drops some of it, and no rule can change that.
    dropped: bool
    #: The policy drops it, unless a rule accepts it by what is not known here, such as an interface.
    doubtful: bool
    #: A rule that surely drops or rejects some of it.
    refused: t.Optional[str]


class Setup(t.NamedTuple):
    """What our own files say."""

    mode: str
    backends: t.List[str]
    cidrs: t.List[str]


def without_own(chains: Chains) -> t.Dict[str, network.Chain]:
    """A filter table as if we had never been there."""
    return {
        name: chain._replace(rules=[rule for rule in chain.rules if not rule.endswith(JUMP)])
        for name, chain in chains.items()
        if name != CHAIN
    }


def judge(chains: Chains, connections: Connections) -> Judgement:
    plain = without_own(chains)
    dropped = doubtful = False
    refused = None
    for connection in connections:
        verdict = network.simulate(plain, connection)
        if verdict.action == "ACCEPT":
            continue
        if verdict.rule == POLICY:
            dropped = dropped or verdict.certain
            doubtful = doubtful or not verdict.certain
        elif verdict.certain:
            refused = refused or verdict.rule
    return Judgement(dropped, doubtful, refused)


def accepts_everything(chains: Chains) -> bool:
    """Whether a table surely accepts what the host forwards, whoever talks to whom. Then no pod network matters."""
    any_interface = network.Interfaces(unknown=True)
    verdicts = [
        network.simulate(chains, network.Connection(entry, entry, any_interface, any_interface))
        for entry in network.parse_networks(["0.0.0.0/0", "::/0"])
    ]
    return all(verdict.action == "ACCEPT" and verdict.certain for verdict in verdicts)


def choose_mode(
    asked: str, existing: t.Optional[str], judgements: t.Iterable[Judgement], foreign: bool
) -> t.Optional[str]:
    """The mode to set up, or None to leave the host alone.

    What is there stays, because it stays right when the cause comes back. On its own (auto) the choice is the narrowest
    change that survives, where it is certain that it is needed and no firewall service is in charge.
    """
    judgements = list(judgements)
    if existing:
        return existing if asked == "auto" else asked
    if asked != "auto":
        return asked if any(judged.dropped or judged.doubtful for judged in judgements) else None
    return "rules" if not foreign and any(judged.dropped for judged in judgements) else None


def own_rules(cidrs: t.Iterable[str], version: int) -> t.List[str]:
    """The rules of our chain, as iptables-save shows them."""
    found = []
    for cidr in cidrs:
        if network.parse_networks([cidr])[0].version == version:
            found += ["-s %s -j ACCEPT" % cidr, "-d %s -j ACCEPT" % cidr]
    return found


# --- our own files ----------------------------------------------------------------------------------------------------


def describe(setup: Setup) -> str:
    """A section that systemd passes over; by it the files can be read again."""
    return "[X-Kubemetrics]\nMode=%s\nBackends=%s\nPodNetworks=%s\n" % (
        setup.mode,
        " ".join(setup.backends),
        " ".join(setup.cidrs),
    )


def parse_files(contents: t.Mapping[str, t.Optional[str]]) -> t.Optional[Setup]:
    """What our files set up, or None. One that somebody has made unreadable counts as one to be written anew."""
    for path in OWN_FILES:
        text = contents.get(path)
        if text is None:
            continue
        values = dict(re.findall(r"(?m)^(Mode|Backends|PodNetworks)=(.*)$", text))
        mode = values.get("Mode", "").strip()
        if mode not in ("rules", "policy", "docker_dropin"):
            mode = "rules" if path == UNIT_FILE else "docker_dropin"
        return Setup(mode, values.get("Backends", "").split(), values.get("PodNetworks", "").split())
    return None


def command(program: str, arguments: t.Iterable[str]) -> t.List[str]:
    return [program, "-w", LOCK_WAIT, *arguments]


def render_files(
    setup: t.Optional[Setup], programs: t.Mapping[str, str], versions: t.Mapping[str, int]
) -> t.Dict[str, t.Optional[str]]:
    """Every file of ours, None for one that shall not be there."""
    files: t.Dict[str, t.Optional[str]] = dict.fromkeys(OWN_FILES)
    if setup is None:
        return files
    head = "# Written by the role kubemetrics.aggregation.forward_policy; forward_policy_state: absent removes it.\n"
    accept = [command(programs[backend], ["-P", "FORWARD", "ACCEPT"]) for backend in setup.backends]
    if setup.mode == "docker_dropin":
        # With a minus: Docker must start even where iptables fails.
        lines = ["ExecStartPost=-" + " ".join(argv) for argv in accept]
        files[DROPIN_FILE] = head + "[Service]\n" + "\n".join(lines) + "\n\n" + describe(setup)
        return files
    if setup.mode == "policy":
        what = "Accept what the policy of FORWARD would drop"
        steps = [" ".join(argv) for argv in accept]
    else:
        what = "Accept pod traffic that the policy of FORWARD would drop"
        steps = []
        for backend in setup.backends:
            tool = " ".join(command(programs[backend], []))
            steps.append(_unless("%s -n -L %s" % (tool, CHAIN), "%s -N %s" % (tool, CHAIN)))
            for rule in own_rules(setup.cidrs, versions[backend]):
                steps.append(_unless("%s -C %s %s" % (tool, CHAIN, rule), "%s -A %s %s" % (tool, CHAIN, rule)))
            steps.append(_unless("%s -C FORWARD %s" % (tool, JUMP), "%s -A FORWARD %s" % (tool, JUMP)))
    rewriters = " ".join(REWRITERS)
    files[UNIT_FILE] = (
        head
        + "[Unit]\nDescription=%s\n" % what
        + "Documentation=https://github.com/kubemetrics/kubemetrics.aggregation\n"
        + "# What rewrites FORWARD takes this along when it restarts. Nothing is removed when it stops.\n"
        + "After=%s\nPartOf=%s\n\n" % (rewriters, rewriters)
        + "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        + "".join("ExecStart=%s\n" % step for step in steps)
        + "\n[Install]\nWantedBy=%s\n\n" % " ".join(WANTED_BY)
        + describe(setup)
    )
    return files


def _unless(check: str, otherwise: str) -> str:
    return "/bin/sh -c '%s >/dev/null 2>&1 || exec %s'" % (check, otherwise)


# --- the rules in the kernel ----------------------------------------------------------------------------------------


def plan_rules(
    before: t.Optional[Setup],
    after: t.Optional[Setup],
    tables: t.Mapping[str, Chains],
    versions: t.Mapping[str, int],
    close: bool = True,
) -> t.Tuple[t.List[Operation], t.List[Operation]]:
    """What to remove from the tables, and what to add to them, on the way from one setup to another.

    Without ``close`` a policy that was opened stays open.
    """
    remove: t.List[Operation] = []
    add: t.List[Operation] = []
    for backend, chains in tables.items():
        wanted = after is not None and after.mode == "rules" and backend in after.backends
        rules = own_rules(after.cidrs, versions[backend]) if wanted and after else []
        own = chains.get(CHAIN)
        jumps = [rule for rule in chains["FORWARD"].rules if rule.endswith(JUMP)] if "FORWARD" in chains else []
        for jump in jumps[1 if wanted and jumps[:1] == [JUMP] else 0 :]:
            remove.append((backend, ["-D", "FORWARD", *shlex.split(jump)]))
        if own is not None:
            stale = list(own.rules)
            for rule in rules:
                if rule in stale:
                    stale.remove(rule)
            remove += [(backend, ["-D", CHAIN, *shlex.split(rule)]) for rule in stale]
            if not wanted:
                remove.append((backend, ["-X", CHAIN]))
        elif wanted:
            add.append((backend, ["-N", CHAIN]))
        if wanted:
            there = own.rules if own is not None else []
            add += [(backend, ["-A", CHAIN, *shlex.split(rule)]) for rule in rules if rule not in there]
            if JUMP not in jumps:
                add.append((backend, ["-A", "FORWARD", *shlex.split(JUMP)]))
        policy = chains["FORWARD"].policy if "FORWARD" in chains else None
        opened_before = before is not None and before.mode != "rules" and backend in before.backends
        opened_after = after is not None and after.mode != "rules" and backend in after.backends
        if opened_after and policy != "ACCEPT":
            add.append((backend, ["-P", "FORWARD", "ACCEPT"]))
        elif close and opened_before and not opened_after and policy == "ACCEPT":
            # It was set to ACCEPT only where it had been DROP.
            remove.append((backend, ["-P", "FORWARD", "DROP"]))
    return remove, add


def closed(operations: t.Iterable[Operation]) -> t.List[str]:
    """The backends whose policy the commands set to DROP."""
    return [backend for backend, arguments in operations if arguments == ["-P", "FORWARD", "DROP"]]


def opposite(operation: Operation) -> Operation:
    """What undoes a command."""
    backend, arguments = operation
    verb, rest = arguments[0], arguments[1:]
    if verb == "-P":
        return backend, ["-P", rest[0], "DROP" if rest[1] == "ACCEPT" else "ACCEPT"]
    return backend, [{"-A": "-D", "-D": "-A", "-N": "-X", "-X": "-N"}[verb], *rest]


def apply_to(
    tables: t.Mapping[str, Chains], operations: t.Iterable[Operation]
) -> t.Dict[str, t.Dict[str, network.Chain]]:
    """The tables as the commands leave them, to predict."""
    result = {
        backend: {name: chain._replace(rules=list(chain.rules)) for name, chain in chains.items()}
        for backend, chains in tables.items()
    }
    for backend, arguments in operations:
        chains = result[backend]
        verb, name, rest = arguments[0], arguments[1], arguments[2:]
        if verb == "-N":
            chains[name] = network.Chain(None, 0, [])
        elif verb == "-X":
            del chains[name]
        elif verb == "-P":
            chains[name] = chains[name]._replace(policy=rest[0])
        elif verb == "-A":
            chains[name].rules.append(shlex.join(rest))
        else:
            at = [shlex.split(rule) for rule in chains[name].rules].index(rest)
            del chains[name].rules[at]
    return result


def show(tables: t.Mapping[str, Chains], versions: t.Mapping[str, int]) -> str:
    """What matters here of the tables, for a diff."""
    lines = []
    for backend, chains in tables.items():
        for name in ("FORWARD", CHAIN):
            if name in chains:
                lines.append("# %s, IPv%d" % (backend, versions[backend]))
                lines.append("-P %s %s" % (name, chains[name].policy) if chains[name].policy else "-N " + name)
                lines += ["-A %s %s" % (name, rule) for rule in chains[name].rules]
    return "".join(line + "\n" for line in lines)


def own_part(chains: Chains) -> t.Tuple[t.Optional[str], t.List[str], t.Optional[t.List[str]]]:
    """What we may have changed in a table: the policy, jumps to our chain, and that chain."""
    forward = chains.get("FORWARD")
    jumps = [rule for rule in forward.rules if rule.endswith(JUMP)] if forward else []
    own = chains.get(CHAIN)
    return forward.policy if forward else None, jumps, sorted(own.rules) if own else None


def revert_script(
    operations: t.Sequence[Operation], files: t.Mapping[str, t.Optional[str]], programs: t.Mapping[str, str]
) -> str:
    """A shell script that undoes commands and restores files; each line is tried whatever became of the others.

    systemd expands dollar signs before a shell sees them, and there are none.
    """
    lines = []
    for backend, arguments in map(opposite, reversed(operations)):
        line = shlex.join(command(programs[backend], arguments))
        if arguments[0] == "-A":
            # What was to be removed may still be there.
            check = shlex.join(command(programs[backend], ["-C", *arguments[1:]]))
            line = "%s 2>/dev/null || %s" % (check, line)
        lines.append(line)
    for path, content in sorted(files.items()):
        if content is None:
            lines.append("rm -f " + shlex.quote(path))
        else:
            lines.append("printf %%s %s > %s" % (shlex.quote(content), shlex.quote(path)))
    if files.get(UNIT_FILE) is None:
        links = " ".join(shlex.quote(link) for link in link_paths())
        lines += ["systemctl stop " + UNIT, "rm -f " + links]
    lines.append("systemctl daemon-reload")
    if files.get(UNIT_FILE) is not None:
        lines.append("systemctl enable --now " + UNIT)
    return "\n".join(lines)


def link_paths() -> t.List[str]:
    """Where systemctl enable puts its links."""
    return ["/etc/systemd/system/%s.wants/%s" % (name, UNIT) for name in WANTED_BY]


# --- words ------------------------------------------------------------------------------------------------------------


def advice_for_firewall(firewall: str, cidrs: t.Sequence[str]) -> str:
    """What to tell an operator whose firewall service is in charge of FORWARD."""
    if firewall == "ufw":
        how = "; ".join("ufw route allow from %s; ufw route allow to %s" % (cidr, cidr) for cidr in cidrs)
    else:
        sources = " ".join("--add-source=" + cidr for cidr in cidrs)
        how = "firewall-cmd --permanent --zone=trusted %s; firewall-cmd --reload" % sources
    return (
        "FORWARD drops pod traffic and %s is in charge of this host's firewall, so nothing was changed: let it "
        "through there (%s), or set forward_policy_mode to rules to have rules beside it." % (firewall, how)
    )


def advice_for_rule(backend: str, rule: str) -> str:
    """What to tell an operator one of whose rules decides."""
    return (
        "A rule of the backend %s rejects pod traffic (%s) and is left alone: take pods out of it where it is "
        "made." % (backend, rule)
    )


def advice_for_open_policy(commands: t.Sequence[str]) -> str:
    """What to tell an operator whose Docker is gone, with the commands that close the policy all the same."""
    return (
        "The policy of FORWARD stays ACCEPT, because docker.service, which sets it to DROP, is not on this host any "
        "more: where something else needs DROP, set it yourself (%s)." % "; ".join(commands)
    )
