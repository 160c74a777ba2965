# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes and running pods of the cluster, in order, for the API and for scraping."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import chain

from metrics_server.kube.entries import NodeEntry, PodEntry

NodeListener = Callable[[str, NodeEntry | None], None]
PodListener = Callable[[PodEntry], None]


class ClusterIndex:
    """The ClusterReader. Watches write to it, all in the event loop's thread; readers get snapshots that never
    change."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeEntry] = {}
        self._node_list: tuple[NodeEntry, ...] | None = ()
        self._pods: dict[str, dict[str, PodEntry]] = {}
        #: Names of each namespace in order, kept in order by insertion: sorting 150,000 pods after each change would
        #: be felt.
        self._names: dict[str, list[str]] = {}
        self._namespace_lists: dict[str, tuple[PodEntry, ...]] = {}
        self._pod_list: tuple[PodEntry, ...] | None = ()
        self._pod_count = 0
        self._nodes_synced = self._pods_synced = False
        self._listeners: list[NodeListener] = []
        self._pod_listeners: list[PodListener] = []

    # Reading

    @property
    def synced(self) -> bool:
        """Whether both initial lists have been received."""
        return self._nodes_synced and self._pods_synced

    @property
    def nodes_synced(self) -> bool:
        """Whether the initial list of nodes has been received."""
        return self._nodes_synced

    @property
    def pods_synced(self) -> bool:
        """Whether the initial list of pods has been received."""
        return self._pods_synced

    @property
    def node_count(self) -> int:
        """How many nodes match the selector."""
        return len(self._nodes)

    @property
    def pod_count(self) -> int:
        """How many pods run."""
        return self._pod_count

    def node(self, name: str) -> NodeEntry | None:
        """Return one node, or None."""
        return self._nodes.get(name)

    def nodes(self) -> Sequence[NodeEntry]:
        """Return all nodes that match `--node-selector`, ordered by name."""
        if self._node_list is None:
            self._node_list = tuple(self._nodes[name] for name in sorted(self._nodes))
        return self._node_list

    def pod(self, namespace: str, name: str) -> PodEntry | None:
        """Return one running pod, or None."""
        pods = self._pods.get(namespace)
        return None if pods is None else pods.get(name)

    def pods(self, namespace: str | None = None) -> Sequence[PodEntry]:
        """Return all running pods of a namespace (or of the cluster), ordered by (namespace, name)."""
        if namespace is not None:
            return self._namespace(namespace)
        if self._pod_list is None:
            self._pod_list = tuple(chain.from_iterable(map(self._namespace, sorted(self._names))))
        return self._pod_list

    def namespaces(self) -> Sequence[str]:
        """Return the namespaces that have running pods."""
        return tuple(self._pods)

    def _namespace(self, namespace: str) -> tuple[PodEntry, ...]:
        known = self._namespace_lists.get(namespace)
        if known is None:
            pods = self._pods.get(namespace)
            if pods is None:
                return ()
            known = self._namespace_lists[namespace] = tuple(map(pods.__getitem__, self._names[namespace]))
        return known

    # Writing

    def on_node(self, listener: NodeListener) -> None:
        """Call `listener(name, entry)` for each node that comes or changes, with None when it goes."""
        self._listeners.append(listener)

    def on_pod_gone(self, listener: PodListener) -> None:
        """Call `listener(entry)` for each pod that goes, also when another one of its name comes in its place."""
        self._pod_listeners.append(listener)

    def nodes_listed(self) -> None:
        """Note that all nodes are known."""
        self._nodes_synced = True

    def put_node(self, entry: NodeEntry) -> None:
        """Add or change a node."""
        if self._nodes.get(entry.name) == entry:
            return
        self._nodes[entry.name] = entry
        self._node_list = None
        for listener in self._listeners:
            listener(entry.name, entry)

    def delete_node(self, name: str) -> None:
        """Remove a node."""
        if self._nodes.pop(name, None) is None:
            return
        self._node_list = None
        for listener in self._listeners:
            listener(name, None)

    def pods_listed(self) -> None:
        """Note that all pods are known."""
        self._pods_synced = True

    def put_pod(self, entry: PodEntry) -> None:
        """Add or change a pod."""
        pods = self._pods.setdefault(entry.namespace, {})
        known = pods.get(entry.name)
        if known is entry or known == entry:
            return
        if known is None:
            names = self._names.setdefault(entry.namespace, [])
            names.insert(bisect_left(names, entry.name), entry.name)
            self._pod_count += 1
        elif (known.created, known.node_name) != (entry.created, entry.node_name):
            self._gone(known)
        pods[entry.name] = entry
        self._changed(entry.namespace)

    def delete_pod(self, namespace: str, name: str) -> None:
        """Remove a pod."""
        pods = self._pods.get(namespace)
        known = None if pods is None else pods.pop(name, None)
        if pods is None or known is None:
            return
        self._gone(known)
        self._pod_count -= 1
        names = self._names[namespace]
        del names[bisect_left(names, name)]
        if not pods:
            del self._pods[namespace], self._names[namespace]
        self._changed(namespace)

    def _gone(self, entry: PodEntry) -> None:
        for listener in self._pod_listeners:
            listener(entry)

    def _changed(self, namespace: str) -> None:
        self._namespace_lists.pop(namespace, None)
        self._pod_list = None
