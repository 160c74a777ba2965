# SPDX-License-Identifier: GPL-3.0-or-later
"""List and watch: keeps a part of the API server's state here, through disconnects, expired versions and restarts."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec

from metrics_server.kube.client import TIMEOUT, TOO_LARGE, KubeClient, KubeError
from metrics_server.kube.entries import NodeEntry, NodeObject, PodEntry, PodObject, node_entry, pod_entry
from metrics_server.kube.index import ClusterIndex
from metrics_server.pace import Pace

log = logging.getLogger(__name__)

#: Objects in one page of a list: some 5 MB of pods at a time instead of a gigabyte.
PAGE = 500
MIN_PAGE = 50
MAX_PAGE = 32_000
#: The longest pause after repeated failures.
MAX_BACKOFF = 30.0
_LIST_TIMEOUT = 60.0
#: Seconds without a word after which a watch is given up: API servers send a bookmark each minute.
_SILENCE = 300.0
#: A watch that ended on its own within this time did not work, whatever its status was.
_SHORT_WATCH = 1.0

Entry = TypeVar("Entry")


class Sink(Protocol[Entry]):
    """Where one kind of object goes."""

    def decode_list(self, raw: bytes) -> tuple[Iterable[Entry], str, str]:
        """Return entries, resourceVersion and the continue token of one page."""

    def decode_object(self, raw: bytes) -> tuple[Entry, str]:
        """Return one entry and its resourceVersion."""

    def begin_list(self) -> None:
        """Expect a complete list, entry by entry. One that was begun before has failed."""

    def put_listed(self, entry: Entry) -> None:
        """Take an entry of the list."""

    def end_list(self) -> Iterator[None]:
        """Take note that the list is complete, step by step: what was not in it is gone."""

    def put(self, entry: Entry) -> None:
        """Take an added or changed object."""

    def delete(self, entry: Entry) -> None:
        """Take a removed object."""


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _ErrorStatus(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


class _Version(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Bookmark(msgspec.Struct):
    metadata: _Version


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _NodeList(msgspec.Struct):
    metadata: _ListMeta
    items: list[NodeObject] | None = None


class _PodList(msgspec.Struct):
    metadata: _ListMeta
    items: list[PodObject] | None = None


_EVENT = msgspec.json.Decoder(_Event)
_STATUS = msgspec.json.Decoder(_ErrorStatus)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)


class NodeSink:
    """Nodes of the index."""

    _list = msgspec.json.Decoder(_NodeList)
    _object = msgspec.json.Decoder(NodeObject)

    def __init__(self, index: ClusterIndex) -> None:
        self._index = index
        self._listed: set[str] = set()

    def decode_list(self, raw: bytes) -> tuple[Iterable[NodeEntry], str, str]:
        """Return entries, resourceVersion and the continue token of one page."""
        page = self._list.decode(raw)
        return map(node_entry, page.items or ()), page.metadata.resource_version, page.metadata.continue_

    def decode_object(self, raw: bytes) -> tuple[NodeEntry, str]:
        """Return one entry and its resourceVersion."""
        node = self._object.decode(raw)
        return node_entry(node), node.metadata.resource_version

    def begin_list(self) -> None:
        """Expect a complete list."""
        self._listed = set()

    def put_listed(self, entry: NodeEntry) -> None:
        """Take a node of the list."""
        self._listed.add(entry.name)
        self._index.put_node(entry)

    def end_list(self) -> Iterator[None]:
        """Remove what was not in the list, step by step."""
        for node in self._index.nodes():
            if node.name not in self._listed:
                self._index.delete_node(node.name)
            yield
        self._index.nodes_listed()

    def put(self, entry: NodeEntry) -> None:
        """Take an added or changed node."""
        self._index.put_node(entry)

    def delete(self, entry: NodeEntry) -> None:
        """Take a removed node."""
        self._index.delete_node(entry.name)


class PodSink:
    """Running pods of the index."""

    _list = msgspec.json.Decoder(_PodList)
    _object = msgspec.json.Decoder(PodObject)

    def __init__(self, index: ClusterIndex) -> None:
        self._index = index
        self._listed: dict[str, set[str]] = {}

    def decode_list(self, raw: bytes) -> tuple[Iterable[PodEntry], str, str]:
        """Return entries, resourceVersion and the continue token of one page."""
        page = self._list.decode(raw)
        return map(self._entry, page.items or ()), page.metadata.resource_version, page.metadata.continue_

    def _entry(self, pod: PodObject) -> PodEntry:
        return pod_entry(pod, self._index.pod(pod.metadata.namespace, pod.metadata.name))

    def decode_object(self, raw: bytes) -> tuple[PodEntry, str]:
        """Return one entry and its resourceVersion."""
        pod = self._object.decode(raw)
        return pod_entry(pod), pod.metadata.resource_version

    def begin_list(self) -> None:
        """Expect a complete list."""
        self._listed = {}

    def put_listed(self, entry: PodEntry) -> None:
        """Take a pod of the list. One that is known as it is stays the same object: a new list costs no memory."""
        self._listed.setdefault(entry.namespace, set()).add(entry.name)
        self._index.put_pod(entry)

    def end_list(self) -> Iterator[None]:
        """Remove what was not in the list, step by step."""
        nothing: set[str] = set()
        for namespace in self._index.namespaces():
            listed = self._listed.get(namespace, nothing)
            yield
            for pod in self._index.pods(namespace):
                if pod.name not in listed:
                    self._index.delete_pod(namespace, pod.name)
                    yield
        self._listed = {}
        self._index.pods_listed()

    def put(self, entry: PodEntry) -> None:
        """Take an added or changed pod."""
        self._index.put_pod(entry)

    def delete(self, entry: PodEntry) -> None:
        """Take a removed pod, also one that only stopped running."""
        self._index.delete_pod(entry.namespace, entry.name)


class _ExpiredError(Exception):
    """The resourceVersion is too old: only a new list helps."""


class Watcher(Generic[Entry]):
    """Runs list and watch for one resource until cancelled. What is known stays while the API server is unavailable."""

    def __init__(
        self,
        client: KubeClient,
        resource: str,
        sink: Sink[Entry],
        *,
        path: str = "",
        query: Mapping[str, str] | None = None,
        page: int = PAGE,
        backoff: float = 0.5,
        listed: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`listed` hears of each complete list."""
        self.resource = resource
        self._listed = listed
        self._path = path or f"/api/v1/{resource}"
        self._client = client
        self._sink = sink
        self._query = dict(query or {})
        self._page = self._usual_page = page
        self._backoff = backoff
        self._clock = clock
        self._failures = 0
        #: When the API server last told us anything (an event, a bookmark, a list), by our clock; None before the
        #: first list.
        self.last_contact: float | None = None
        #: What went wrong last, None while all is well.
        self.problem: str | None = None
        #: Complete lists so far; more than one means that a watch could not be continued.
        self.lists = 0

    async def run(self) -> None:
        """Keep the sink live. Ends only by cancellation."""
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list()
                    self._contact()
                started = self._clock()
                version = await self._watch(version)
                if self._clock() - started < _SHORT_WATCH:
                    await self._pause("the watch ended at once")
            except _ExpiredError:
                log.info("the version of the %s watch has expired, listing anew", self.resource)
                version = None
                await self._pause(None)
            except KubeError as error:
                if version is None:
                    self._adapt_page(error)
                if error.status is not None and 400 <= error.status < 500 and error.status != 429:
                    version = None
                await self._pause(error.message)
            except msgspec.MsgspecError as error:
                version = None
                await self._pause(f"the API server's answer about {self.resource} is not understood: {error}")

    def _adapt_page(self, error: KubeError) -> None:
        """Ask for other pages after a list that failed, until one is complete."""
        if error.status == 410:
            # A list of several pages can expire; larger pages need less time in all.
            self._page = min(self._page * 4, MAX_PAGE)
        elif error.reason in (TOO_LARGE, TIMEOUT):
            self._page = max(self._page // 2, min(MIN_PAGE, self._usual_page))

    async def _list(self) -> str:
        """Fetch all pages, hand each over, and return the version to watch from."""
        token = ""
        count = 0
        pace = Pace()
        self._sink.begin_list()
        while True:
            query = {**self._query, "limit": str(self._page)}
            if token:
                query["continue"] = token
            raw = await self._client.request_raw("GET", self._path, query=query, timeout=_LIST_TIMEOUT)
            page, version, token = self._sink.decode_list(raw)
            for entry in page:
                self._sink.put_listed(entry)
                count += 1
                if pace.over():
                    await pace.rest()
            if not token:
                for _unused in self._sink.end_list():
                    if pace.over():
                        await pace.rest()
                self.lists += 1
                self._page = self._usual_page
                log.debug("listed %d %s at version %s", count, self.resource, version)
                if self._listed is not None:
                    self._listed()
                return version

    async def _watch(self, version: str) -> str:
        """Follow events until the server ends the watch; return the version to go on from."""
        query = {
            **self._query,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            # Different for each watch, so that those of many clients do not end together.
            "timeoutSeconds": str(random.randint(300, 600)),
        }
        try:
            async for line in self._client.watch(self._path, query=query, idle_timeout=_SILENCE):
                event = _EVENT.decode(line)
                self._contact()
                if event.type == "ERROR":
                    self._error(event.object)
                # Only a watch that brings something ends a row of failures: a list that succeeds before each failing
                # watch would be repeated without pause.
                self._failures = 0
                if event.type == "BOOKMARK":
                    version = _BOOKMARK.decode(event.object).metadata.resource_version or version
                    continue
                entry, changed = self._sink.decode_object(event.object)
                if event.type == "DELETED":
                    self._sink.delete(entry)
                elif event.type in ("ADDED", "MODIFIED"):
                    self._sink.put(entry)
                version = changed or version
        except KubeError as error:
            if error.status is not None:
                raise
            # A lost connection costs nothing: the version says where to go on.
            await self._pause(error.message)
        return version

    def _error(self, raw: msgspec.Raw) -> None:
        status = _STATUS.decode(raw)
        if status.code == 410 or status.reason in ("Expired", "Gone"):
            raise _ExpiredError
        raise KubeError(status.code or None, status.reason, f"watch {self._path}: {status.message or status.reason}")

    def _contact(self) -> None:
        self.last_contact = self._clock()
        self.problem = None

    async def _pause(self, problem: str | None) -> None:
        """Wait longer after each failure in a row, never in step with others."""
        if problem is not None:
            if problem != self.problem:
                log.warning("%s", problem)
            self.problem = problem
        delay = min(self._backoff * 2**self._failures, MAX_BACKOFF)
        self._failures = min(self._failures + 1, 10)
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))
