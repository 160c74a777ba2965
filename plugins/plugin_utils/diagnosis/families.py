# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Address families in texts, and in the commands of repairs. A placeholder stands for an address of IPv4."""

from __future__ import annotations


def is_ipv6(network: str) -> bool:
    """Whether an address, or a network, is of IPv6."""
    return ":" in network


def iptables(network: str) -> str:
    """The program that takes rules with this address."""
    return "ip6tables" if is_ipv6(network) else "iptables"


def firewalld(network: str) -> str:
    """The family in a rich rule of firewalld."""
    return "ipv6" if is_ipv6(network) else "ipv4"


def nftables(network: str) -> str:
    """What rules of nftables call the family."""
    return "ip6" if is_ipv6(network) else "ip"


def joined(host: object, port: object) -> str:
    """An address and a port in one text, as URLs and endpoints have them."""
    return f"[{host}]:{port}" if is_ipv6(str(host)) else f"{host}:{port}"
