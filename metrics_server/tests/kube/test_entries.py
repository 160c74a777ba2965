# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of a Pod, and when it is the same as before."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import msgspec
import pytest

from metrics_server.kube.entries import PodEntry, PodObject, pod_entry

POD: dict[str, Any] = {
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "labels": {"app": "web"},
    },
    "spec": {"nodeName": "n1"},
    "status": {
        "containerStatuses": [
            {"name": "b", "state": {"running": {"startedAt": "2026-01-02T03:04:06Z"}}},
            {"name": "a", "state": {"running": {}}},
            {"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
        ],
        "initContainerStatuses": [{"name": "side", "state": {"running": {}}}, {"name": "init", "state": None}],
    },
}


def entry(pod: dict[str, Any], known: PodEntry | None = None) -> PodEntry:
    return pod_entry(msgspec.json.decode(msgspec.json.encode(pod), type=PodObject), known)


def changed(path: str, value: Any) -> dict[str, Any]:
    pod = deepcopy(POD)
    *above, last = path.split(".")
    inner: Any = pod
    for key in above:
        inner = inner[int(key) if key.isdigit() else key]
    inner[last] = value
    return pod


def test_what_is_kept() -> None:
    found = entry(POD)
    assert (found.namespace, found.name, found.node_name, found.labels) == ("shop", "web", "n1", {"app": "web"})
    assert found.running == ("a", "b", "side")
    assert (found.created, found.stopped) == (1_767_323_045, False)


@pytest.mark.parametrize(
    ("path", "value"), [("metadata.resourceVersion", "2"), ("status.phase", "Running"), ("metadata.annotations", {})]
)
def test_a_pod_that_says_the_same_is_the_same_object(path: str, value: Any) -> None:
    known = entry(POD)
    assert entry(changed(path, value), known) is known


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.labels", {"app": "shop"}),
        ("metadata.labels", None),
        ("metadata.creationTimestamp", "2026-01-02T03:04:06Z"),
        ("spec.nodeName", "n2"),
        ("status.initContainerStatuses", None),
        ("status.containerStatuses.2.state", {"running": {}}),
        ("status.containerStatuses", []),
        ("status.containerStatuses.0.name", "d"),
    ],
)
def test_one_that_says_something_else_is_not(path: str, value: Any) -> None:
    known = entry(POD)
    pod = changed(path, value)
    assert entry(pod, known) == entry(pod) != known


def test_a_pod_that_stops_is_not_the_same() -> None:
    pod = {**POD, "status": {"containerStatuses": []}}
    known = entry(pod)
    waiting = {**POD, "status": {"containerStatuses": [{"name": "a", "state": {"waiting": {}}}]}}
    assert (known.stopped, entry(waiting, known).stopped) == (False, True)
