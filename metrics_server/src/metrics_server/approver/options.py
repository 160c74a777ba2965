# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of `metrics-server csr-approver`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from metrics_server.approver.checks import Network, Policy, normalize
from metrics_server.companion import CommonOptions, port_flag
from metrics_server.flags import FlagError, FlagSet, Parsed, flag, flags_of

_GROUP = "Approver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CommonOptions):
    """The settings of a run. Each field but the last declares its flag."""

    allowed_cidrs: tuple[str, ...] = flag(
        "strings",
        (),
        _GROUP,
        "Networks that IPs in certificates have to be in, for example 192.0.2.0/24,2001:db8::/64; without it any.",
    )
    allowed_domains: tuple[str, ...] = flag(
        "strings",
        (),
        _GROUP,
        "Domains that DNS names have to be in, but for a node's own name without a domain, for example example.com; "
        "without it any.",
    )
    control_plane_addresses: tuple[str, ...] = flag(
        "strings",
        (),
        _GROUP,
        "Addresses of API servers and of load balancers before them, which only control planes may have, beside those "
        "that the API server's certificate names.",
    )
    service_cidrs: tuple[str, ...] = flag(
        "strings", (), _GROUP, "Networks of Services, which no node has an address in."
    )
    resync_period: float = flag("duration", 300.0, _GROUP, "How often all pending requests are checked again.")
    port: int = port_flag(8081)
    #: What may be approved, as the flags say it.
    policy: Policy = Policy()


FLAGS = FlagSet(flags_of(Options))


def read_options(parsed: Parsed) -> Options:
    """Return the settings; raise `FlagError` with one sentence when they make no sense."""
    options = parsed.options(Options)
    if options.resync_period < 1:
        raise FlagError("--resync-period must be at least 1s, for example 5m")
    for name, entries in (
        ("allowed-domains", options.allowed_domains),
        ("control-plane-addresses", options.control_plane_addresses),
    ):
        if not all(entry.strip(" .") for entry in entries):
            raise FlagError(f"--{name}: an entry of the list is empty")
    policy = Policy(
        allowed_cidrs=_networks("allowed-cidrs", options.allowed_cidrs),
        allowed_domains=tuple(normalize(text).lstrip(".") for text in options.allowed_domains),
        service_addresses=frozenset(_service_address()),
        service_cidrs=_networks("service-cidrs", options.service_cidrs),
        control_plane_addresses=frozenset(normalize(text) for text in options.control_plane_addresses),
    )
    return replace(options, policy=policy)


def _networks(name: str, texts: Sequence[str]) -> tuple[Network, ...]:
    return tuple(_network(name, text) for text in texts)


def _network(name: str, text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise FlagError(f'--{name}: "{text}" is no CIDR such as 192.0.2.0/24') from None
    raise FlagError(f'--{name}: "{text}" has bits beyond its prefix, write {meant}')


def _service_address() -> list[str]:
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    return [normalize(host)] if host else []
