# SPDX-License-Identifier: GPL-3.0-or-later
"""What the store's rendered fragments say, for forms other than JSON: cheaper than to work it out again.

A fragment is what the store wrote itself, so that these patterns need not fit what others may write.
"""

from __future__ import annotations

import re

_TIMES = re.compile(rb'"timestamp":"([^"]*)","window":"([^"]*)",')
_USAGE = rb'"usage":\{"cpu":"([^"]*)","memory":"([^"]*)"\}'
_NAME = rb'"name":("(?:[^"\\]|\\.)*"),'
_CONTAINERS = re.compile(rb"\{" + _NAME + _USAGE)
#: A node, or a pod of one container: nearly all fragments.
_ONE = re.compile(_TIMES.pattern + rb'(?:"containers":\[\{' + _NAME + rb")?" + _USAGE + rb"(?:\}\])?")

#: The name of a container as JSON (empty for a node), and the quantities of CPU and memory.
Usage = tuple[bytes, bytes, bytes]


def read(fragment: bytes) -> tuple[bytes, bytes, list[Usage]]:
    """Return the texts of timestamp and window, and the usages."""
    found = _ONE.fullmatch(fragment)
    if found is not None:
        timestamp, window, name, cpu, memory = found.groups(b"")
        return timestamp, window, [(name, cpu, memory)]
    found = _TIMES.match(fragment)
    assert found is not None
    return found[1], found[2], _CONTAINERS.findall(fragment, found.end())
