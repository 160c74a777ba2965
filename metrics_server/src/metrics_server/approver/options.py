# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of `metrics-server csr-approver`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from metrics_server.approver.checks import Network, Policy, normalize
from metrics_server.companion import Common, common, common_flags
from metrics_server.flags import Flag, FlagError, FlagSet

_GROUP = "Approver"

FLAGS = FlagSet(
    (
        Flag(
            "allowed-cidrs",
            "strings",
            (),
            _GROUP,
            "Networks that IPs in certificates have to be in, for example 192.0.2.0/24,2001:db8::/64; without it any.",
        ),
        Flag(
            "allowed-domains",
            "strings",
            (),
            _GROUP,
            "Domains that DNS names other than the node's own have to be in, for example example.com; without it any.",
        ),
        Flag(
            "control-plane-addresses",
            "strings",
            (),
            _GROUP,
            "Addresses of API servers and of load balancers before them, which only control planes may have.",
        ),
        Flag("service-cidrs", "strings", (), _GROUP, "Networks of Services, which no node has an address in."),
        Flag("resync-period", "duration", 300.0, _GROUP, "How often all pending requests are checked again."),
        *common_flags(8081),
    )
)


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a run, validated."""

    common: Common
    policy: Policy
    resync_period: float


def read_options(values: Mapping[str, Any]) -> Options:
    """Return the settings; raise `FlagError` with one sentence when they make no sense."""
    if values["resync_period"] < 1:
        raise FlagError("--resync-period must be at least 1s, for example 5m")
    for name in ("allowed_domains", "control_plane_addresses"):
        if not all(entry.strip(" .") for entry in values[name]):
            raise FlagError(f"--{name.replace('_', '-')}: an entry of the list is empty")
    policy = Policy(
        allowed_cidrs=_networks("allowed-cidrs", values),
        allowed_domains=tuple(normalize(text).lstrip(".") for text in values["allowed_domains"]),
        service_addresses=frozenset(_service_address()),
        service_cidrs=_networks("service-cidrs", values),
        control_plane_addresses=frozenset(normalize(text) for text in values["control_plane_addresses"]),
    )
    return Options(common(values), policy, values["resync_period"])


def with_api_server(policy: Policy, server: str) -> Policy:
    """Return the policy with the address that this program itself knows the API servers by."""
    host = normalize(urlsplit(server).hostname or "")
    if not host or host in policy.service_addresses:
        return policy
    return replace(policy, control_plane_addresses=policy.control_plane_addresses | {host})


def _networks(name: str, values: Mapping[str, Any]) -> tuple[Network, ...]:
    return tuple(_network(name, text) for text in values[name.replace("-", "_")])


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
