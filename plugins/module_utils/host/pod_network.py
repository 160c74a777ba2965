# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which bridges of this host have pods behind them, and which connections of pods the host therefore forwards.

A rule such as "-i docker0 -j ACCEPT" means one thing on a host whose pods are behind docker0 and another where only
Docker's own containers are. The name of the bridge does not tell; routes, addresses and the configuration of CNI do.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import network, processes

#: Where container runtimes look for the configuration of CNI.
CNI_DIRECTORIES = (
    "/etc/cni/net.d",
    "/var/lib/rancher/k3s/agent/etc/cni/net.d",
    "/var/snap/microk8s/current/args/cni-network",
)
CNI_SUFFIXES = (".conf", ".conflist", ".json")
#: Plugins that make a bridge, and its name when the configuration has none.
CNI_BRIDGES = {"bridge": "cni0", "flannel": "cni0", "kubenet": "cbr0", "weave-net": "weave"}
_ROUTE_UP = 0x1
_ROUTE_GATEWAY = 0x2


class Route(t.NamedTuple):
    device: str
    network: network.Network


class Bridge(t.NamedTuple):
    """A bridge with pods behind it, and the network of those pods; None where only its name is known."""

    device: str
    network: t.Optional[network.Network]


def connected_routes(ipv4: str, ipv6: str = "") -> t.List[Route]:
    """The networks that are behind an interface itself, from /proc/net/route and /proc/net/ipv6_route."""
    found = []
    for line in ipv4.splitlines()[1:]:
        fields = line.split()
        try:
            destination, mask = (int.from_bytes(bytes.fromhex(fields[at]), sys.byteorder) for at in (1, 7))
            flags = int(fields[3], 16)
            entry: network.Network = ipaddress.IPv4Network((destination, bin(mask).count("1")))
        except (IndexError, ValueError):
            continue
        if flags & _ROUTE_UP and not flags & _ROUTE_GATEWAY:
            found.append(Route(fields[0], entry))
    for line in ipv6.splitlines():
        fields = line.split()
        try:
            flags = int(fields[8], 16)
            entry = ipaddress.IPv6Network((int(fields[0], 16), int(fields[1], 16)))
        except (IndexError, ValueError):
            continue
        if flags & _ROUTE_UP and not flags & _ROUTE_GATEWAY:
            found.append(Route(fields[9], entry))
    return found


def cni_bridge(text: str, pods: t.Sequence[network.Network]) -> t.Optional[str]:
    """The bridge that a configuration of CNI puts pods behind, or None. One for other networks than pods' has none."""
    try:
        config = json.loads(text)
    except ValueError:
        return None
    if not isinstance(config, dict):
        return None
    plugins = config.get("plugins") if isinstance(config.get("plugins"), list) else [config]
    for plugin in plugins:
        if not isinstance(plugin, dict) or plugin.get("type") not in CNI_BRIDGES:
            continue
        delegate = plugin["delegate"] if isinstance(plugin.get("delegate"), dict) else plugin
        subnets = cni_subnets(delegate.get("ipam"))
        if subnets and not any(_overlap(subnet, pod) for subnet in subnets for pod in pods):
            return None
        name = delegate.get("bridge") or plugin.get("bridge") or CNI_BRIDGES[plugin["type"]]
        return name if isinstance(name, str) else None
    return None


def cni_subnets(ipam: t.Any) -> t.List[network.Network]:
    """The networks of an address manager, those that can be read."""
    if not isinstance(ipam, dict):
        return []
    ranges = ipam.get("ranges") if isinstance(ipam.get("ranges"), list) else []
    entries = [entry for group in ranges for entry in (group if isinstance(group, list) else [group])]
    found = []
    for entry in [ipam, *entries]:
        subnet = entry.get("subnet") if isinstance(entry, dict) else None
        try:
            found.append(ipaddress.ip_network(str(subnet), strict=False))
        except ValueError:
            continue
    return found


def find_bridges(
    routes: t.Iterable[Route],
    bridges: t.Collection[str],
    configured: t.Optional[str],
    pods: t.Sequence[network.Network],
) -> t.List[Bridge]:
    """Bridges with a network of pods behind them, or that CNI will put pods behind."""
    found = {
        Bridge(route.device, route.network)
        for route in routes
        if route.device in bridges and any(_within(route.network, pod) for pod in pods)
    }
    if configured and configured not in {bridge.device for bridge in found}:
        found.add(Bridge(configured, None))
    return sorted(found, key=lambda bridge: (bridge.device, str(bridge.network)))


def connections(
    pods: t.Sequence[network.Network], peers: t.Sequence[network.Network], bridges: t.Sequence[Bridge]
) -> t.List[network.Connection]:
    """Who talks to whom through this host, by which interfaces. Without known bridges, by any."""
    found: t.List[network.Connection] = []
    for version in (4, 6):
        inside = [pod for pod in pods if pod.version == version]
        outside = [peer for peer in peers if peer.version == version]
        names = frozenset(bridge.device for bridge in bridges)
        elsewhere = network.Interfaces(names, True)
        here = {
            (bridge.device, part)
            for bridge in bridges
            for part in ([bridge.network] if bridge.network else inside)
            if part.version == version
        }
        if not here:
            found += [network.Connection(one, other) for one in inside for other in inside]
            for pod in inside:
                for peer in outside:
                    found += [network.Connection(pod, peer), network.Connection(peer, pod)]
            continue
        for device, part in sorted(here, key=str):
            bridge = network.Interfaces(frozenset([device]), False)
            found.append(network.Connection(part, part, bridge, bridge))
            for other in inside + outside:
                found.append(network.Connection(part, other, bridge, elsewhere))
                found.append(network.Connection(other, part, elsewhere, bridge))
    return found


def _within(part: network.Network, whole: network.Network) -> bool:
    return part.version == whole.version and part.subnet_of(whole)  # type: ignore[arg-type]


def _overlap(one: network.Network, other: network.Network) -> bool:
    return one.version == other.version and one.overlaps(other)


# --- this host --------------------------------------------------------------------------------------------------------


def read_bridges(pods: t.Sequence[network.Network]) -> t.List[Bridge]:
    """The bridges of this host that have pods behind them."""
    routes = connected_routes(
        processes.read_text("/proc/net/route") or "", processes.read_text("/proc/net/ipv6_route") or ""
    )
    existing = {route.device for route in routes if os.path.isdir("/sys/class/net/%s/bridge" % route.device)}
    return find_bridges(routes, existing, configured_bridge(CNI_DIRECTORIES, pods), pods)


def configured_bridge(directories: t.Iterable[str], pods: t.Sequence[network.Network]) -> t.Optional[str]:
    """The bridge of the configuration that container runtimes use: the first by name."""
    for directory in directories:
        try:
            names = sorted(name for name in os.listdir(directory) if name.endswith(CNI_SUFFIXES))
        except OSError:
            continue
        if names:
            return cni_bridge(processes.read_text(os.path.join(directory, names[0])) or "", pods)
    return None
