# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host does with packets that it forwards: iptables rules of both backends, nftables, routes. Pure functions."""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
import typing as t

Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

FINAL_TARGETS = ("ACCEPT", "DROP", "REJECT")
#: A program decides, which may be an intrusion prevention system.
QUEUES = ("NFQUEUE", "QUEUE")
_CHAIN = re.compile(r"^:(?P<name>\S+) (?P<policy>\S+)(?: \[(?P<packets>\d+):(?P<bytes>\d+)\])?$")
_COUNTERS = re.compile(r"^\[(\d+):(\d+)\] ")
_SET_MARK = re.compile(r"--(?:set-x?mark|or-mark) (0x[0-9a-fA-F]+|\d+)(?:/(0x[0-9a-fA-F]+|\d+))?")
_MAX_DEPTH = 32
#: Bridges that other software makes for its own guests. Pods are behind one of them only where it is known to be a pod
#: bridge. And nothing that is forwarded comes through loopback.
_FOREIGN_BRIDGE = re.compile(r"^(lo|docker0|br-[0-9a-f]{12}|virbr\d+|podman\d+|lxcbr\d+|lxdbr\d+)$")


class Chain(t.NamedTuple):
    policy: t.Optional[str]
    packets: int
    rules: t.List[str]


class Verdict(t.NamedTuple):
    """What becomes of a packet. Not certain when a rule decides by what is not known here, such as an interface."""

    action: str
    certain: bool
    rule: str


def parse_save(text: str, table: str = "filter") -> t.Dict[str, Chain]:
    """The chains of one table from the output of iptables-save, with or without counters."""
    chains: t.Dict[str, Chain] = {}
    current = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("*"):
            current = line[1:]
        elif current != table or not line or line.startswith("#"):
            continue
        elif line.startswith(":"):
            match = _CHAIN.match(line)
            if match:
                policy = match.group("policy")
                chains[match.group("name")] = Chain(
                    None if policy == "-" else policy, int(match.group("packets") or 0), []
                )
        else:
            rule = _COUNTERS.sub("", line)
            if rule.startswith("-A "):
                name, unused, body = rule[3:].partition(" ")
                if name in chains:
                    chains[name].rules.append(body)
    return chains


class Interfaces(t.NamedTuple):
    """Where packets come in or leave: by one of these interfaces, or by any except these."""

    names: t.FrozenSet[str] = frozenset()
    others: bool = True
    #: Not even which bridges have no pods behind them is known.
    unknown: bool = False

    def match(self, pattern: str) -> t.Optional[bool]:
        """Whether a rule's interface is one of them; None when it may be."""
        if pattern == "+":
            return True
        if self.unknown:
            return None
        hits = [name for name in self.names if _is_interface(name, pattern)]
        if self.others:
            return False if hits or _FOREIGN_BRIDGE.match(pattern) else None
        if not hits:
            return False
        return True if len(hits) == len(self.names) else None

    def __str__(self) -> str:
        names = ", ".join(sorted(self.names))
        if self.others:
            return "any but %s" % names if names else "any"
        return names


def _is_interface(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


class Connection(t.NamedTuple):
    """A new connection that the host forwards, from one network to another."""

    source: Network
    destination: Network
    incoming: Interfaces = Interfaces()
    outgoing: Interfaces = Interfaces()


class Rule(t.NamedTuple):
    target: t.Optional[str]
    #: True: matches a new connection between these networks. False: it does not. None: depends on what is not known.
    matches: t.Optional[bool]
    goto: bool


def read_rule(text: str, connection: Connection, marks: int = 0) -> Rule:
    """A rule against the first packet of a connection; marks are the bits that rules of the same table may have set."""
    try:
        words = shlex.split(text)
    except ValueError:
        return Rule(None, None, False)
    matches: t.Optional[bool] = True
    target = None
    goto = False
    negated = False
    position = 0
    while position < len(words):
        word = words[position]
        following = words[position + 1] if position + 1 < len(words) else ""
        if word == "!":
            negated = True
            position += 1
            continue
        if word in ("-j", "-g"):
            target, goto = following, word == "-g"
            # What follows a target are its own options.
            break
        verdict: t.Optional[bool] = True
        if word in ("-s", "-d"):
            verdict = _covers(following, connection.source if word == "-s" else connection.destination)
            position += 2
        elif word in ("-i", "-o"):
            verdict = (connection.incoming if word == "-i" else connection.outgoing).match(following)
            position += 2
        elif word == "-p":
            # What connects is TCP or UDP.
            verdict = None if following in ("tcp", "udp", "all") else False
            position += 2
        elif word in ("-m", "--comment"):
            position += 2
            negated = False
            continue
        elif word in ("--ctstate", "--state"):
            verdict = "NEW" in following.split(",")
            position += 2
        elif word == "--mark":
            # Marks are set in the nat table for masquerading; the packet here is a plain one, except for what CNI
            # plugins mark in this table.
            value, unused, mask = following.partition("/")
            if (
                not _is_number(value)
                or (mask and not _is_number(mask))
                or marks & (int(mask, 0) if mask else 0xFFFFFFFF)
            ):
                verdict = None
            else:
                verdict = int(value, 0) == 0 or (bool(mask) and int(mask, 0) == 0)
            position += 2
        else:
            # A port, a set: known only for a real packet.
            verdict = None
            position += 1
            while position < len(words) and not words[position].startswith("-") and words[position] != "!":
                position += 1
        if negated and verdict is not None:
            verdict = not verdict
        negated = False
        if verdict is False:
            matches = False
        elif verdict is None and matches:
            matches = None
    return Rule(target, matches, goto)


def marks_set(chains: t.Mapping[str, Chain]) -> int:
    """The bits of the packet mark that some rule of a table sets."""
    bits = 0
    for chain in chains.values():
        for rule in chain.rules:
            for value, mask in _SET_MARK.findall(rule):
                bits |= int(value, 0) & (int(mask, 0) if mask else 0xFFFFFFFF)
    return bits


def _is_number(text: str) -> bool:
    try:
        int(text, 0)
    except ValueError:
        return False
    return True


def _covers(text: str, network: Network) -> t.Optional[bool]:
    """Whether a rule's network holds all of a network; None when it holds a part.

    A single address decides nothing about the others of a network.
    """
    try:
        own = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if own.version != network.version:
        return False
    if network.subnet_of(own):  # type: ignore[arg-type]
        return True
    return None if own.overlaps(network) and own.num_addresses > 1 else False


def simulate(chains: t.Mapping[str, Chain], connection: Connection) -> Verdict:
    """What a filter table does with a new connection that the host forwards."""
    chain = chains.get("FORWARD")
    if chain is None:
        return Verdict("ACCEPT", True, "no rules")
    doubts: t.List[t.Tuple[str, str]] = []
    marks = marks_set(chains)

    def read(text: str) -> Rule:
        return read_rule(text, connection, marks)

    decided = _walk(chains, "FORWARD", read, doubts, 0)
    action, rule = decided or (chain.policy or "ACCEPT", "policy of FORWARD")
    certain = all(doubt == action for doubt, unused in doubts)
    return Verdict(action, certain, rule)


def _walk(
    chains: t.Mapping[str, Chain],
    name: str,
    read: t.Callable[[str], Rule],
    doubts: t.List[t.Tuple[str, str]],
    depth: int,
) -> t.Optional[t.Tuple[str, str]]:
    """The final target that a chain surely leads to, or None; what it might lead to is added to the doubts."""
    if depth > _MAX_DEPTH:
        return None
    for text in chains[name].rules:
        rule = read(text)
        if rule.matches is False or rule.target is None:
            continue
        shown = "%s: %s" % (name, text)
        if rule.target in FINAL_TARGETS:
            if rule.matches:
                return rule.target, shown
            doubts.append((rule.target, shown))
        elif rule.target == "RETURN":
            if rule.matches:
                return None
            # It may skip the rest of this chain, and nobody knows what that leads to.
            doubts.append(("unknown", shown))
        elif rule.target in QUEUES:
            doubts.append(("unknown", shown))
        elif rule.target in chains:
            if rule.matches:
                decided = _walk(chains, rule.target, read, doubts, depth + 1)
                if decided or rule.goto:
                    return decided
            else:
                maybe: t.List[t.Tuple[str, str]] = []
                decided = _walk(chains, rule.target, read, maybe, depth + 1)
                doubts.extend(maybe + ([decided] if decided else []))
    return None


def forward_hooks(ruleset: str) -> t.List[t.Dict[str, t.Any]]:
    """The base chains at the forward hook, from `nft -j list chains`."""
    try:
        objects = json.loads(ruleset).get("nftables") or ()
    except (ValueError, AttributeError):
        return []
    found = []
    for entry in objects:
        chain = entry.get("chain") if isinstance(entry, dict) else None
        if isinstance(chain, dict) and chain.get("hook") == "forward" and chain.get("type") == "filter":
            found.append(
                {
                    "family": chain.get("family"),
                    "table": chain.get("table"),
                    "chain": chain.get("name"),
                    "priority": chain.get("prio"),
                    "policy": chain.get("policy"),
                }
            )
    return found


def sample_address(network: Network) -> str:
    """An address of a network that is neither the network itself nor, usually, its gateway."""
    if network.num_addresses <= 2:
        return str(network.network_address)
    return str(network.network_address + min(10, network.num_addresses - 2))


def parse_route(text: str) -> t.Dict[str, t.Any]:
    """The answer of `ip -j route get`."""
    try:
        entries = json.loads(text)
        entry = entries[0] if isinstance(entries, list) and entries else {}
    except ValueError:
        entry = {}
    if not isinstance(entry, dict):
        entry = {}
    return {
        "destination": entry.get("dst"),
        "device": entry.get("dev"),
        "gateway": entry.get("gateway") or (entry.get("via") or {}).get("host"),
        "source": entry.get("prefsrc"),
        "local": entry.get("type") == "local",
        "blocked": entry.get("type") in ("unreachable", "blackhole", "prohibit"),
    }


def is_no_route(said: str) -> bool:
    """Whether what `ip route get` says, when it fails, is the kernel's answer that there is no route."""
    return bool(re.search(r"RTNETLINK answers|unreachable|No route to host", said))


def docker_leaves_iptables_alone(text: t.Optional[str]) -> t.Optional[bool]:
    """Whether Docker's configuration file tells it not to touch iptables; None when it does not parse."""
    if text is None or not text.strip():
        return False
    try:
        config = json.loads(text)
    except ValueError:
        return None
    return config.get("iptables") is False if isinstance(config, dict) else None


def ufw_is_enabled(text: str) -> bool:
    """What the configuration file of ufw says."""
    return bool(re.search(r"(?mi)^\s*ENABLED\s*=\s*[\"']?yes\b", text))


def parse_networks(texts: t.Iterable[str]) -> t.List[Network]:
    """CIDRs as networks. Raises ValueError with a sentence."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError as exc:
            raise ValueError("%r is no CIDR such as 10.233.64.0/18." % text) from exc
    return networks
