# SPDX-License-Identifier: GPL-3.0-or-later
"""From a node to a batch: which address, which path, which parser."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from metrics_server.kube.entries import PATH_ANNOTATION, NodeEntry
from metrics_server.scrape.address import Target, choose_target
from metrics_server.scrape.batch import Batch, Layout, ParseError
from metrics_server.scrape.client import KubeletClient
from metrics_server.scrape.clock import NodeClocks, http_date
from metrics_server.scrape.errors import Reason, ScrapeError
from metrics_server.scrape.parse import parse_resource
from metrics_server.scrape.summary import parse_summary

RESOURCE_PATH = "/metrics/resource"
SUMMARY_PATH = "/stats/summary?only_cpu_and_memory=true"
#: A larger answer is parsed in a thread: the careful way would hold up the event loop for more than 20 ms.
_INLINE_BODY = 256 * 1024
#: A kubelet without /metrics/resource is asked for it again after this time: it may have been upgraded.
_SUMMARY_MEMORY = 1800.0

_Parser = Callable[[bytes, Layout | None, int], Batch]


class KubeletSource:
    """Scrapes one node at a time, by whatever way that node offers."""

    def __init__(
        self,
        client: KubeletClient,
        *,
        preferred_address_types: Sequence[str],
        port: int,
        use_node_status_port: bool = False,
        summary_only: bool = False,
    ) -> None:
        self._client = client
        self._preferred = tuple(preferred_address_types)
        self._port = port
        self._use_node_status_port = use_node_status_port
        self._summary_only = summary_only
        self._summary_until: dict[str, float] = {}
        self._clocks = NodeClocks()
        #: Targets of unchanged nodes, so that they need not be worked out each time.
        self._targets: dict[str, tuple[NodeEntry, Target]] = {}

    async def scrape(self, node: NodeEntry, layout: Layout | None) -> Batch:
        """Return a batch. Raises ScrapeError."""
        target = self._target(node)
        if self._summary_only or self._summary_until.get(node.name, 0.0) > time.monotonic():
            return await self._fetch(target, SUMMARY_PATH, parse_summary, layout)
        if node.metrics_path:
            if not _is_path(node.metrics_path):
                raise ScrapeError(
                    Reason.NOT_FOUND,
                    f"node {node.name}: the annotation {PATH_ANNOTATION} does not hold a path that begins with /",
                )
            return await self._fetch(target, node.metrics_path, parse_resource, layout)
        try:
            return await self._fetch(target, RESOURCE_PATH, parse_resource, layout)
        except ScrapeError as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
        batch = await self._fetch(target, SUMMARY_PATH, parse_summary, layout)
        self._summary_until[node.name] = time.monotonic() + _SUMMARY_MEMORY
        return batch

    def forget(self, node: str) -> None:
        """Drop what is kept for a node that left."""
        self._client.forget(node)
        self._summary_until.pop(node, None)
        self._targets.pop(node, None)
        self._clocks.forget(node)

    def _target(self, node: NodeEntry) -> Target:
        known = self._targets.get(node.name)
        if known is not None and known[0] is node:
            return known[1]
        port = node.port if self._use_node_status_port and node.port else self._port
        target = choose_target(node.name, node.addresses, self._preferred, port)
        if known is not None and known[1] == target:
            target = known[1]
        self._targets[node.name] = (node, target)
        return target

    async def _fetch(self, target: Target, path: str, parser: _Parser, layout: Layout | None) -> Batch:
        answer = await self._client.get(target, path)
        body = answer.body
        now_ms = time.time_ns() // 1_000_000
        try:
            if len(body) <= _INLINE_BODY:
                batch = parser(body, layout, now_ms)
            else:
                batch = await asyncio.to_thread(parser, body, layout, now_ms)
        except ParseError as error:
            raise ScrapeError(Reason.MALFORMED, f"kubelet {target.node}, {path}: {error}") from error
        date = http_date(answer.date) if answer.date else None
        if date is not None:
            # It has whole seconds.
            batch.answered = (date + 1) * 1000
        batch.stepped = self._clocks.was_set(target.node, answer.sent, answer.received, answer.date)
        return batch


def _is_path(text: str) -> bool:
    """Whether the text can stand in a request line: it comes from an object that others may edit."""
    return text.startswith("/") and text.isascii() and text.isprintable() and " " not in text and len(text) <= 1024
