# SPDX-License-Identifier: GPL-3.0-or-later
"""List and watch against an API server that pages, expires, disconnects and restarts."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from support.fake_api import FakeApi, answer, failure, node, pod, stream
from support.turns import longest_turn
from support.virtual_time import run_virtual

from metrics_server.api.metadata import head_json
from metrics_server.kube import connections as connections_module
from metrics_server.kube import watch as watch_module
from metrics_server.kube.client import KubeClient
from metrics_server.kube.connections import Connections
from metrics_server.kube.entries import PATH_ANNOTATION, PodEntry
from metrics_server.kube.index import ClusterIndex
from metrics_server.kube.watch import NodeSink, PodSink, Watcher
from metrics_server.tls.files import ClientTls


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class Setup:
    """An index with both watches on a fake API server."""

    def __init__(self, api: FakeApi, page: int) -> None:
        self.index = ClusterIndex()
        self.client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent="test")
        self.nodes = Watcher(self.client, "nodes", NodeSink(self.index), page=page, backoff=0.02)
        running = {"fieldSelector": "status.phase=Running"}
        self.pods = Watcher(self.client, "pods", PodSink(self.index), query=running, page=page, backoff=0.02)

    def pod_names(self) -> list[str]:
        return [entry.name for entry in self.index.pods()]


@asynccontextmanager
async def watching(api: FakeApi, *, page: int = 500, synced: bool = True) -> AsyncIterator[Setup]:
    setup = Setup(api, page)
    tasks = [asyncio.create_task(setup.nodes.run()), asyncio.create_task(setup.pods.run())]
    try:
        if synced:
            await until(lambda: setup.index.synced)
        yield setup
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await setup.client.close()


async def test_what_is_kept(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("n1", address="10.0.0.1", port=10255, annotations={PATH_ANNOTATION: "/other"}))
        sidecar = pod("ns", "p1", "n1", "app", labels={"b": "2", "a": '"q"'})
        sidecar["status"]["initContainerStatuses"] = [
            {"name": "proxy", "state": {"running": {}}},
            {"name": "setup", "state": {"terminated": {"exitCode": 0}}},
        ]
        sidecar["status"]["containerStatuses"].append({"name": "crashed", "state": {"waiting": {"reason": "x"}}})
        await api.put(sidecar)
        async with watching(api) as setup:
            entry = setup.index.node("n1")
            assert entry is not None
            assert entry.addresses == (("InternalIP", "10.0.0.1"), ("Hostname", "n1"))
            assert (entry.port, entry.metrics_path, entry.ready) == (10255, "/other", True)
            assert head_json(entry) + entry.labels_json == b'{"name":"n1","labels":{"kubernetes.io/hostname":"n1"}'
            found = setup.index.pod("ns", "p1")
            assert found is not None
            assert not found.stopped
            assert (found.node_name, found.labels, found.created) == ("n1", {"a": '"q"', "b": "2"}, 1_699_999_980)
            assert (
                head_json(found) + found.labels_json
                == b'{"name":"p1","namespace":"ns","labels":{"a":"\\"q\\"","b":"2"}'
            )
            assert found.running == ("app", "proxy")
        assert ("list pods", {"fieldSelector": "status.phase=Running", "limit": "500"}) in api.requests


async def test_events(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("n1"), pod("b", "p2", "n1", "app"), pod("a", "p9", "n1", "app"))
        async with watching(api) as setup:
            assert [(one.namespace, one.name) for one in setup.index.pods()] == [("a", "p9"), ("b", "p2")]
            snapshot = setup.index.pods()
            await api.put(pod("b", "p1", "n1", "app"), pod("b", "p3", "n1", "app"), pod("c", "p0", "n1", "app"))
            await until(lambda: setup.index.pod_count == 5)
            assert [(one.namespace, one.name) for one in setup.index.pods()] == [
                ("a", "p9"),
                ("b", "p1"),
                ("b", "p2"),
                ("b", "p3"),
                ("c", "p0"),
            ]
            assert [one.name for one in setup.index.pods("b")] == ["p1", "p2", "p3"]
            assert len(snapshot) == 2
            await api.put(pod("b", "p2", "n1", "app", labels={"new": "label"}))
            await until(lambda: (entry := setup.index.pod("b", "p2")) is not None and entry.labels == {"new": "label"})
            await api.delete(pod("b", "p2", "n1", "app"))
            await api.delete(pod("a", "p9", "n1", "app"))
            await until(lambda: setup.index.pod_count == 3)
            assert [one.name for one in setup.index.pods("b")] == ["p1", "p3"]
            assert setup.index.pods("a") == ()
            assert setup.index.pod("a", "p9") is None
            assert (setup.nodes.lists, setup.pods.lists) == (1, 1)


async def test_pages(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(*(pod("ns", f"p{number:02}", "n1", "app") for number in range(25)))
        async with watching(api, page=10) as setup:
            assert setup.pod_names() == [f"p{number:02}" for number in range(25)]
        pages = [query.get("continue") for kind, query in api.requests if kind == "list pods"]
        assert pages == [None, "10", "20"]


async def test_a_list_that_expires_between_pages_begins_again(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(*(pod("ns", f"p{number:02}", "n1", "app") for number in range(25)))
        first = {"metadata": {"resourceVersion": "1", "continue": "10"}, "items": []}
        api.order("list pods", answer(200, first), answer(410, failure(410, "Expired")))
        async with watching(api, page=10) as setup:
            assert len(setup.pod_names()) == 25
        # Larger pages need less time.
        assert [query["limit"] for kind, query in api.requests if kind == "list pods"] == ["10", "10", "40"]


async def test_a_watch_that_has_expired_says_nothing_of_pages(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        api.order("watch pods", *[answer(410, failure(410, "Expired"))] * 3)
        async with watching(api, page=10):
            await until(lambda: api.count("list pods") >= 4)
        assert {query["limit"] for kind, query in api.requests if kind == "list pods"} == {"10"}


async def test_pages_that_are_too_large_or_too_slow_become_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_server.kube.client.MAX_BODY", 40_000)
    async with FakeApi(tmp_path) as api:
        await api.put(*(pod("ns", f"p{number:03}", "n1", "app") for number in range(400)))
        async with watching(api, page=500) as setup:
            assert len(setup.pod_names()) == 400
            limits = [int(query["limit"]) for kind, query in api.requests if kind == "list pods"]
            # Halved until a page is small enough, and then kept until the list is complete.
            assert limits == sorted(limits, reverse=True)
            assert 50 <= limits[-1] < 500
            assert setup.pods._page == 500


def test_a_watch_whose_answer_never_begins_is_given_up() -> None:
    """A stopped API server, or a balancer without one, accepts connections and says nothing."""

    class Silent:
        def write(self, _data: bytes) -> None:
            pass

        def abort(self) -> None:
            pass

        close = abort

        def is_closing(self) -> bool:
            return False

    async def connect(_self: Connections, context: ssl.SSLContext, _seconds: float) -> connections_module._Connection:
        connection = connections_module._Connection()
        connection._transport = Silent()  # type: ignore[assignment]
        connection.context = context
        return connection

    async def wait() -> float:
        client = KubeClient("https://127.0.0.1:1", tls=ClientTls(ca=None), token=None, user_agent="test")
        pods: Watcher[PodEntry] = Watcher(client, "pods", PodSink(ClusterIndex()))
        begin = asyncio.get_running_loop().time()
        await pods._watch("5")
        assert "no answer within 45 s" in (pods.problem or "")
        return asyncio.get_running_loop().time() - begin

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Connections, "_connect", connect)
        assert run_virtual(wait()) < 50


async def test_a_lost_connection_is_continued_not_listed_anew(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api, watching(api) as setup:
        await api.put(pod("ns", "p1", "n1", "app"))
        await until(lambda: setup.pod_names() == ["p1"])
        seen = api.version
        api.cut_watches()
        await api.put(pod("ns", "p2", "n1", "app"))
        await until(lambda: setup.pod_names() == ["p1", "p2"])
        assert setup.pods.lists == 1
        versions = [query["resourceVersion"] for kind, query in api.requests if kind == "watch pods"]
        assert versions[-1] == str(seen)


async def test_what_is_known_outlives_the_api_server(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("n1"), pod("ns", "p1", "n1", "app"))
        async with watching(api) as setup:
            await api.close()
            await until(lambda: setup.pods.problem is not None and setup.nodes.problem is not None)
            assert setup.pod_names() == ["p1"]
            assert setup.index.synced
            await api.listen()
            await api.put(pod("ns", "p2", "n1", "app"))
            await until(lambda: setup.pod_names() == ["p1", "p2"])
            assert setup.pods.problem is None


@pytest.mark.parametrize("how", ["event", "status"])
async def test_an_expired_version_means_a_new_list(tmp_path: Path, how: str) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("n1"), node("n2"), pod("ns", "p1", "n1", "app"))
        changes: list[tuple[str, bool]] = []
        async with watching(api) as setup:
            setup.index.on_node(lambda name, entry: changes.append((name, entry is not None)))
            if how == "status":
                gone = answer(410, failure(410, "Expired"))
                api.order("watch pods", gone)
                api.order("watch nodes", gone)
            await api.close()
            del api.objects["pods", "ns", "p1"], api.objects["nodes", "", "n2"]
            for one in (node("n3"), pod("ns", "p7", "n1", "app")):
                await api.put(one)
            api.version += 10
            api.forget_history()
            await api.listen()
            await until(lambda: setup.pod_names() == ["p7"] and setup.index.node("n3") is not None)
            assert [entry.name for entry in setup.index.nodes()] == ["n1", "n3"]
            assert setup.pods.lists == 2
            # The scheduler hears only of what has changed.
            assert sorted(changes) == [("n2", False), ("n3", True)]


async def test_a_new_list_keeps_what_has_not_changed(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        old = [pod("ns", name, "n1", "app") for name in ("gone", "moved", "renewed", "same")]
        await api.put(*old, pod("other", "gone", "n1", "app"))
        async with watching(api) as setup:
            same = setup.index.pod("ns", "same")
            gone: list[tuple[str, str]] = []
            setup.index.on_pod_gone(lambda entry: gone.append((entry.namespace, entry.name)))
            api.order("watch pods", answer(410, failure(410, "Expired")))
            await api.close()
            del api.objects["pods", "ns", "gone"], api.objects["pods", "other", "gone"]
            renewed = pod("ns", "renewed", "n1", "app")
            renewed["metadata"]["creationTimestamp"] = "2023-11-14T22:15:00Z"
            await api.put(pod("ns", "moved", "n2", "app"), renewed)
            api.version += 10
            api.forget_history()
            await api.listen()
            await until(lambda: setup.pods.lists == 2)
            assert setup.pod_names() == ["moved", "renewed", "same"]
            assert setup.index.namespaces() == ("ns",)
            assert setup.index.pod_count == 3
            # The same object, not an equal one: 150,000 pods that are listed anew need no memory twice.
            assert setup.index.pod("ns", "same") is same
            assert sorted(gone) == [("ns", "gone"), ("ns", "moved"), ("ns", "renewed"), ("other", "gone")]


class Pages:
    """An API server of which only the lists matter."""

    def __init__(self, pods: int) -> None:
        namespaces = [f"ns{number:03}" for number in range(100)]
        every = [
            pod(namespace, f"p{number:06}", "n1", "app") for namespace in namespaces for number in range(pods // 100)
        ]
        self.pages = [
            msgspec.json.encode(
                {"metadata": {"resourceVersion": "1", "continue": str(at + 500)}, "items": every[at : at + 500]}
            )
            for at in range(0, pods, 500)
        ]
        self.pages[-1] = self.pages[-1].replace(b'"continue":"%d"' % pods, b'"continue":""')

    async def request_raw(self, _method: str, _path: str, *, query: dict[str, str], **_unused: object) -> bytes:
        await asyncio.sleep(0)
        return self.pages[int(query.get("continue", "0")) // 500]


async def test_a_list_does_not_hold_the_event_loop() -> None:
    index = ClusterIndex()
    client = Pages(40_000)
    listed: list[int] = []
    pods: Watcher[PodEntry] = Watcher(
        client,  # type: ignore[arg-type]
        "pods",
        PodSink(index),
        listed=lambda: listed.append(index.pod_count),
    )
    gc.disable()
    try:
        for _unused in range(2):
            longest = await longest_turn(pods._list())
            assert longest < 0.012
        client.pages[:40] = [b'{"metadata":{"resourceVersion":"1","continue":"%d"}}' % (500 * n) for n in range(1, 41)]
        assert await longest_turn(pods._list()) < 0.012
    finally:
        gc.enable()
    assert listed == [40_000, 40_000, 20_000]
    assert [entry.name for entry in index.pods()][:2] == ["p000000", "p000001"]


async def test_bookmarks_move_the_version_on(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        bookmark = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "777"}}}
        api.order("watch pods", stream(bookmark))
        async with watching(api):
            await until(lambda: api.count("watch pods") >= 2)
            queries = [query for kind, query in api.requests if kind == "watch pods"]
            assert queries[0]["allowWatchBookmarks"] == "true"
            assert 300 <= int(queries[0]["timeoutSeconds"]) <= 600
            assert queries[1]["resourceVersion"] == "777"


async def test_not_allowed_is_said_and_tried_again(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("n1"))
        api.order("list nodes", *[answer(403, failure(403, "Forbidden", "nodes is forbidden"))] * 3)
        async with watching(api, synced=False) as setup:
            await until(lambda: setup.nodes.problem is not None)
            assert "nodes is forbidden" in (setup.nodes.problem or "")
            assert not setup.index.synced
            await until(lambda: setup.index.synced)
            assert setup.nodes.problem is None


@pytest.mark.parametrize(
    "orders",
    [
        pytest.param([answer(500, b"oops")], id="error status"),
        pytest.param([answer(429, failure(429, "TooManyRequests"))], id="too many requests"),
        pytest.param([stream(b"garbage\n")], id="garbage"),
        pytest.param([stream({"type": "ADDED", "object": {"metadata": 5}})], id="not an object"),
        pytest.param([stream({"type": "ERROR", "object": failure(500, "InternalError")})], id="error event"),
        pytest.param([stream(b'{"type":"ADDED","object"')], id="cut off"),
        pytest.param([stream({"type": "WHATEVER", "object": pod("ns", "p9", "n1")})], id="unknown event"),
    ],
)
async def test_a_strange_watch_is_survived(tmp_path: Path, orders: list[object]) -> None:
    async with FakeApi(tmp_path) as api:
        api.order("watch pods", *orders)  # type: ignore[arg-type]
        async with watching(api) as setup:
            await api.put(pod("ns", "p1", "n1", "app"))
            await until(lambda: setup.pod_names() == ["p1"])


async def test_watches_that_end_at_once_are_not_repeated_without_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "MAX_BACKOFF", 0.2)
    async with FakeApi(tmp_path) as api:
        api.order("watch pods", *[stream()] * 500)
        api.order("watch nodes", *[stream({"type": "ERROR", "object": failure(410, "Expired")})] * 500)
        async with watching(api):
            await asyncio.sleep(1.0)
        # 0.02 s doubling to 0.2 s makes fewer than 20 in a second.
        assert 3 <= api.count("watch pods") < 20
        assert 3 <= api.count("list nodes") < 20
