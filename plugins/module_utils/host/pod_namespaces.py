# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The network namespaces of the pods of this host, and how to enter one. Standard library only."""

from __future__ import annotations

import ctypes
import os
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import processes

_CLONE_NEWNET = 0x40000000
#: Where a pod finds its namespace. /var/run is a link to /run in many images, which leads out of the pod's files here.
_SERVICE_ACCOUNT = "run/secrets/kubernetes.io/serviceaccount/namespace"


class Pod(t.NamedTuple):
    """A pod with a network of its own, by one of its processes."""

    uid: str
    pid: int
    name: str
    namespace: str


class NamespaceError(Exception):
    """Why a network namespace could not be entered, in one clause."""


def find_pods(proc: processes.Proc) -> t.List[Pod]:
    """The pods that have a network of their own, in the order of their uids; those in the host's network have none."""
    own = processes.read_link(proc.path("self", "ns", "net"))
    found: t.Dict[str, Pod] = {}
    for entry in sorted(os.listdir(proc.root), key=lambda name: (len(name), name)):
        if not entry.isdigit():
            continue
        uid = processes.pod_uid_of(processes.parse_cgroups(processes.read_text(proc.path(entry, "cgroup")) or ""))
        net = processes.read_link(proc.path(entry, "ns", "net")) if uid else None
        if not uid or not net or net == own:
            continue
        known = found.get(uid)
        if known and known.name and known.namespace:
            continue
        # The process that only holds the namespaces has no files of the pod; another container tells its names.
        root = proc.path(entry, "root")
        name = (processes.read_text(os.path.join(root, "etc/hostname"), 256) or "").strip()
        told = [processes.read_text(os.path.join(root, path, _SERVICE_ACCOUNT), 256) for path in ("", "var")]
        namespace = next((text.strip() for text in told if text), "")
        found[uid] = Pod(
            uid,
            known.pid if known else int(entry),
            name or (known.name if known else ""),
            namespace or (known.namespace if known else ""),
        )
    return [found[uid] for uid in sorted(found)]


def choose(pods: t.Sequence[Pod], preferred: t.Sequence[str]) -> t.Optional[Pod]:
    """The first of the preferred pods that is here, else any."""
    by_uid = {pod.uid: pod for pod in pods}
    for uid in preferred:
        if uid in by_uid:
            return by_uid[uid]
    return pods[0] if pods else None


def enter(proc: processes.Proc, pid: int) -> None:
    """Move this thread, and those that it starts from now on, into the network of a process. Raises NamespaceError."""
    path = proc.path(pid, "ns", "net")
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as exc:
        raise NamespaceError("%s cannot be opened (%s)" % (path, exc.strerror)) from exc
    try:
        # Python has this call from 3.12 on.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise NamespaceError("%s cannot be entered (%s)" % (path, os.strerror(ctypes.get_errno())))
    except AttributeError as exc:
        raise NamespaceError("the C library of this host has no setns") from exc
    finally:
        os.close(descriptor)
