# SPDX-License-Identifier: GPL-3.0-or-later
"""Which address and port of a node to dial, and which names its certificate may carry."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from metrics_server.scrape.errors import Reason, ScrapeError

#: One part of a DNS name. Underscores are no part of a host's name, but some are called so.
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
#: An IP address may name a zone, which may be any text for Python.
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+(%[0-9A-Za-z._-]+)?")

#: All that a Node can have, in the order in which they are preferred without `--kubelet-preferred-address-types`.
ADDRESS_TYPES = ("Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP")


@dataclass(frozen=True, slots=True)
class Target:
    """Where one kubelet listens."""

    node: str
    #: Addresses to dial in this order: all of the first preferred type that the node has (two in a dual-stack cluster).
    hosts: tuple[str, ...]
    port: int
    #: The certificate must cover at least one of these: the node's name and every address of this node, IPs in
    #: canonical form.
    names: frozenset[str]


def choose_target(node: str, addresses: Sequence[tuple[str, str]], preferred: Sequence[str], port: int) -> Target:
    """Return the target of a node with the given (type, address) pairs. Raises ScrapeError when no type is there."""
    names = frozenset(canonical(address) for _unused, address in addresses) | {canonical(node)}
    unusable: tuple[str, ...] = ()
    for wanted in preferred:
        hosts = tuple(dict.fromkeys(canonical(address) for kind, address in addresses if kind == wanted and address))
        usable = tuple(host for host in hosts if _can_be_dialled(host))
        if usable:
            return Target(node, usable, port, names)
        unusable += hosts
    if unusable:
        raise ScrapeError(
            Reason.NO_ADDRESS,
            f"node {node}: {', '.join(map(ascii, unusable))} is neither an IP address nor a DNS name; "
            "set --kubelet-preferred-address-types to a type that is",
        )
    have = ", ".join(dict.fromkeys(kind for kind, _unused in addresses)) or "none"
    raise ScrapeError(
        Reason.NO_ADDRESS,
        f"node {node} has no address of the types {','.join(preferred)} (it has: {have}); "
        "set --kubelet-preferred-address-types to a type that it has",
    )


def _can_be_dialled(host: str) -> bool:
    """Whether the text is an IP address or can be a DNS name: it comes from an object that others may edit."""
    if is_ip(host):
        return _ADDRESS.fullmatch(host) is not None
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split("."))


def canonical(name: str) -> str:
    """Return an IP address in its one canonical form, a DNS name in lower case without the final dot."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().rstrip(".")


def is_ip(name: str) -> bool:
    """Whether the name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def certificate_covers(certificate_names: Sequence[tuple[str, str]], names: frozenset[str]) -> bool:
    """Whether one subjectAltName, as `SSLSocket.getpeercert` gives them, is among the names. The common name never
    counts."""
    for kind, value in certificate_names:
        if kind == "IP Address":
            # A name that looks like an address must not pass for one, and the other way round.
            if canonical(value) in names and is_ip(value):
                return True
        elif kind == "DNS" and not is_ip(value):
            pattern = canonical(value)
            if pattern in names and "*" not in pattern:
                return True
            if pattern.startswith("*.") and any(
                name.partition(".")[2] == pattern[2:] and name.partition(".")[0] for name in names if not is_ip(name)
            ):
                return True
    return False
