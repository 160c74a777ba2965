# SPDX-License-Identifier: GPL-3.0-or-later
"""Which address and port of a node to dial, and which names its certificate may carry."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from metrics_server.kubelet.errors import Reason, ScrapeError

#: What `--kubelet-preferred-address-types` starts with, and all that a Node can have.
DEFAULT_ADDRESS_TYPES = ("Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP")


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
    for wanted in preferred:
        hosts = tuple(dict.fromkeys(canonical(address) for kind, address in addresses if kind == wanted and address))
        if hosts:
            return Target(node, hosts, port, names)
    have = ", ".join(dict.fromkeys(kind for kind, _unused in addresses)) or "none"
    raise ScrapeError(
        Reason.NO_ADDRESS,
        f"node {node} has no address of the types {','.join(preferred)} (it has: {have}); "
        "set --kubelet-preferred-address-types to a type that it has",
    )


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
