# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VXLAN devices of this host, and whether they leave checksums to the network card. Standard library only."""

from __future__ import annotations

import array
import fcntl
import json
import socket
import struct
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import packet_filter

_SIOCETHTOOL = 0x8946
_ETHTOOL_GTXCSUM = 0x16


def read(timeout: float) -> t.List[t.Dict[str, t.Any]]:
    """The VXLAN devices; none where they cannot be listed."""
    program = packet_filter.find("ip")
    if program is None:
        return []
    try:
        shown = packet_filter.run([program, "-j", "link", "show", "type", "vxlan"], timeout)
    except packet_filter.CommandError:
        return []
    return [
        {"device": name, "kind": "vxlan", "tx_checksum_offload": tx_checksum_offload(name)} for name in names(shown)
    ]


def names(text: str) -> t.List[str]:
    """The devices in the answer of `ip -j link show`."""
    try:
        entries = json.loads(text or "[]")
    except ValueError:
        return []
    found = [entry.get("ifname") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return sorted(str(name) for name in found if name)


def tx_checksum_offload(device: str) -> t.Optional[bool]:
    """What `ethtool -k` shows as tx-checksumming, or None where the kernel does not tell."""
    value = array.array("B", struct.pack("II", _ETHTOOL_GTXCSUM, 0))
    address, _length = value.buffer_info()
    request = struct.pack("16sP", device.encode()[:15], address)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            fcntl.ioctl(channel.fileno(), _SIOCETHTOOL, request)
    except OSError:
        return None
    return bool(struct.unpack("II", value.tobytes())[1])
