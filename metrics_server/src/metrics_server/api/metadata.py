# SPDX-License-Identifier: GPL-3.0-or-later
"""The metadata of an object as JSON, which is the same in every form that has JSON."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from metrics_server.model import NodeMeta, PodMeta
from metrics_server.quantity import rfc3339

_encode = msgspec.json.Encoder().encode


def head_json(meta: NodeMeta | PodMeta) -> bytes:
    """Return what stands before the labels: `{"name":"p","namespace":"ns"`.

    It is made again for each answer, as all pods' would be a tenth of the server's memory.
    """
    if isinstance(meta, PodMeta):
        return b'{"name":%b%b' % (_encode(meta.name), _namespace(meta.namespace))
    return b'{"name":%b' % _encode(meta.name)


@lru_cache(maxsize=4096)
def _namespace(name: str) -> bytes:
    return b',"namespace":%b' % _encode(name)


@lru_cache(maxsize=4)
def stamp_json(stamp: int) -> bytes:
    """Return what stands behind the labels, for a time in whole seconds."""
    return f',"creationTimestamp":"{rfc3339(stamp)}"'.encode()
