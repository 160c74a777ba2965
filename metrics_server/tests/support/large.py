# SPDX-License-Identifier: GPL-3.0-or-later
"""Many nodes and pods with metrics, for what must not depend on their number."""

from __future__ import annotations

from array import array

from metrics_server.kube.entries import NodeEntry, PodEntry
from metrics_server.kube.index import ClusterIndex
from metrics_server.scrape.batch import Batch, Layout, NodePoint
from metrics_server.store import Store

T0 = 1_700_000_100_000
STEP = 15_000


class Large:
    """An index and a store; pods that follow each other in a list are on different nodes."""

    def __init__(self, nodes: int, pods: int = 30, *, index: ClusterIndex | None = None, store: Store | None = None):
        self.now = 1000.0
        self.index = index or ClusterIndex()
        self.store = store or Store(self.index.pod, lifetime=60.0, clock=lambda: self.now)
        self.step = 0
        self.names = [f"node-{number:05}" for number in range(nodes)]
        slots = tuple((slot,) for slot in range(pods))
        self.layouts = [
            Layout({("ns", f"app-{slot:02}-{name}"): slot for slot in range(pods)}, (("app",),) * pods, slots, pods)
            for name in self.names
        ]
        for name in self.names:
            self.index.put_node(NodeEntry(name, {}, (), 0, "", ready=True))
        for slot in range(pods):
            for name in self.names:
                pod = f"app-{slot:02}-{name}"
                self.index.put_pod(PodEntry("ns", pod, name, {}, running=("app",), created=0))
        self.index.nodes_listed()
        self.index.pods_listed()

    def scrape(self) -> None:
        """Give every container and node another point."""
        self.step += 1
        self.now += 15
        time = T0 + self.step * STEP
        for number, (name, layout) in enumerate(zip(self.names, self.layouts, strict=True)):
            size = layout.size
            batch = Batch(
                layout,
                NodePoint(time, 100.0 + self.step * 7.123456789, 2.0**30, 4096.0),
                array("q", [time] * size),
                array("d", [10.0 + self.step * 1.123456789 + slot for slot in range(size)]),
                array("d", [float((slot + number + 1) << 12) for slot in range(size)]),
                array("d", bytes(8 * size)),
                time,
                time,
            )
            self.store.commit(name, batch)
