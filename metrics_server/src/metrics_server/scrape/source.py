# SPDX-License-Identifier: GPL-3.0-or-later
"""From a node to a batch: which address, which path, which parser."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from metrics_server.kube.entries import PATH_ANNOTATION, NodeEntry
from metrics_server.scrape.address import Target, choose_target
from metrics_server.scrape.batch import Batch, Layout, ParseError
from metrics_server.scrape.client import KubeletClient
from metrics_server.scrape.clock import NodeClocks
from metrics_server.scrape.connection import Answer
from metrics_server.scrape.errors import Reason, ScrapeError
from metrics_server.scrape.parse import parse_resource
from metrics_server.scrape.summary import parse_summary

RESOURCE_PATH = "/metrics/resource"
SUMMARY_PATH = "/stats/summary?only_cpu_and_memory=true"
#: A larger answer is parsed in a thread: the careful way would hold up the event loop for more than 20 ms.
_INLINE_BODY = 256 * 1024
#: A kubelet without /metrics/resource is asked for it again after this time: it may have been upgraded.
_SUMMARY_MEMORY = 1800.0

#: Hears of the batch, or of the error in its place.
Done = Callable[[Batch | None, Exception | None], None]

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
        #: Nodes whose last answer was too large to be read in the event loop.
        self._large: set[str] = set()
        #: Targets of unchanged nodes, so that they need not be worked out each time.
        self._targets: dict[str, tuple[NodeEntry, Target]] = {}

    def begin(self, node: NodeEntry, layout: Layout | None, done: Done) -> bool:
        """Scrape as nearly always: over the connection that is open, without a task. Return False for all else.

        `done` is called once, maybe before this returns. An error that is no ScrapeError, or that says NOT_FOUND, or
        none at all, is for `scrape` to look into.
        """
        if (
            layout is None
            or node.name in self._large
            or node.metrics_path
            or self._summary_only
            or self._summary_until.get(node.name, 0.0) > time.monotonic()
        ):
            return False
        try:
            target = self._target(node)
        except ScrapeError:
            return False
        return self._client.ask(target, RESOURCE_PATH, partial(self._arrived, target, layout, done))

    def _arrived(
        self, target: Target, layout: Layout, done: Done, answer: Answer | None, error: Exception | None
    ) -> None:
        if answer is None:
            done(None, error)
            return
        if len(answer.body) > _INLINE_BODY:
            # Asked for once more, and from now on with a task, which has it read in a thread.
            self._large.add(target.node)
            done(None, None)
            return
        try:
            batch = parse_resource(answer.body, layout, time.time_ns() // 1_000_000)
            batch.stepped = self._clocks.was_set(target.node, answer.sent, answer.received, answer.date)
        except ParseError as malformed:
            done(None, _malformed(target, RESOURCE_PATH, malformed))
            return
        except Exception as fault:  # pylint: disable=broad-exception-caught
            # Nobody waits for this callback: what it raised would be lost, and the node with it.
            done(None, fault)
            return
        done(batch, None)

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
        self._large.discard(node)

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
                self._large.discard(target.node)
            else:
                self._large.add(target.node)
                batch = await asyncio.to_thread(parser, body, layout, now_ms)
        except ParseError as error:
            raise _malformed(target, path, error) from error
        batch.stepped = self._clocks.was_set(target.node, answer.sent, answer.received, answer.date)
        return batch


def _malformed(target: Target, path: str, error: ParseError) -> ScrapeError:
    return ScrapeError(Reason.MALFORMED, f"kubelet {target.node}, {path}: {error}")


def _is_path(text: str) -> bool:
    """Whether the text can stand in a request line: it comes from an object that others may edit."""
    return text.startswith("/") and text.isascii() and text.isprintable() and " " not in text and len(text) <= 1024
