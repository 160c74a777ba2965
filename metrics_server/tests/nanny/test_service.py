# SPDX-License-Identifier: GPL-3.0-or-later
"""The nanny against an API server: nodes come and go, and the Deployment follows."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.fake_api import FakeApi, answer, failure, node, pod

from metrics_server.flags import FlagError
from metrics_server.kube.client import KubeClient, KubeError
from metrics_server.nanny.options import FLAGS, read_configuration, read_options
from metrics_server.nanny.pods import selector_text
from metrics_server.nanny.service import Nanny, SizingError, nodes_in_metrics

KEY = ("deployments", "ns", "web")
ARGUMENTS = ["--deployment=web", "--namespace=ns", "--container=app", "--memory=80Mi", "--extra-memory=1Mi"]
CONFIGURATION = "apiVersion: nannyconfig/v1alpha1\nkind: NannyConfiguration\n"


def deployment(**resources: Any) -> dict[str, Any]:
    containers = [{"name": "app", "resources": resources}, {"name": "other", "resources": {"requests": {"cpu": "1"}}}]
    return {
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"template": {"spec": {"containers": containers}}},
    }


def sized(api: FakeApi) -> str:
    """Return memory of the container, and see that request and limit agree and nothing else was touched."""
    app, other = api.objects[KEY]["spec"]["template"]["spec"]["containers"]
    assert other["resources"] == {"requests": {"cpu": "1"}}
    assert app["resources"]["requests"]["memory"] == app["resources"]["limits"]["memory"]
    memory: str = app["resources"]["requests"]["memory"]
    return memory


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def nannying(api: FakeApi, *arguments: str, clock: Clock | None = None) -> AsyncIterator[Nanny]:
    client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent="test")
    options = read_options(FLAGS.parse([*ARGUMENTS, *arguments]))
    try:
        yield Nanny(client, options, CollectorRegistry(), clock=clock or Clock())
    finally:
        await client.close()


async def nodes(api: FakeApi, number: int) -> None:
    """Have this many nodes."""
    for key in [key for key in api.objects if key[0] == "nodes"]:
        await api.delete(api.objects[key])
    await api.put(*(node(f"n{index:04}") for index in range(number)))


async def test_it_grows_and_shrinks_with_the_cluster(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "metrics_server")
    async with FakeApi(tmp_path) as api, nannying(api, "--threshold=5") as nanny:
        await api.put(deployment())
        sizes = []
        for number in (20, 22, 700, 700, 20):
            await nodes(api, number)
            await nanny.check()
            sizes.append(sized(api))
        assert sizes == ["100Mi", "100Mi", "780Mi", "780Mi", "100Mi"]
        assert api.count("patch deployments") == 3
        # One node is enough to know how many there are.
        assert {query["limit"] for kind, query in api.requests if kind == "list nodes"} == {"1"}
    messages = [record.getMessage() for record in caplog.records if record.name.endswith("nanny.service")]
    assert messages == [
        "Grow for 20 nodes: request of memory is not set, 100Mi expected",
        "Kept for 22 nodes",
        "Grow for 700 nodes: request of memory is 100Mi, 780Mi expected",
        "Kept for 700 nodes",
        "Shrink for 20 nodes: request of memory is 780Mi, 100Mi expected",
    ]


async def test_delays(tmp_path: Path) -> None:
    clock = Clock()
    delays = ("--scale-down-delay=1m", "--scale-up-delay=10s")
    async with FakeApi(tmp_path) as api, nannying(api, *delays, clock=clock) as nanny:
        await nodes(api, 20)
        await api.put(deployment(requests={"memory": "90Mi"}, limits={"memory": "90Mi"}))
        await nanny.check()
        assert sized(api) == "90Mi"
        clock.now = 10
        await nanny.check()
        assert sized(api) == "100Mi"
        await nodes(api, 5)
        clock.now = 69
        await nanny.check()
        assert sized(api) == "100Mi"
        clock.now = 70
        await nanny.check()
        assert sized(api) == "85Mi"


def running(name: str, memory: str | None, **changes: Any) -> dict[str, Any]:
    """Return a pod of the Deployment."""
    one = pod("ns", name, "n0", "app", "other", labels={"app": "web", "pod-template-hash": "5d9c"})
    one["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "web-5d9c", "controller": True}]
    if memory:
        one["spec"]["containers"][0]["resources"] = {section: {"memory": memory} for section in ("requests", "limits")}
    for name, value in changes.items():
        one[name] = {**one[name], **value}
    return one


def memory_of(api: FakeApi, name: str) -> str:
    """Return memory of a pod's container, and see that the one beside it was not touched."""
    app, other = api.objects["pods", "ns", name]["spec"]["containers"]
    assert "resources" not in other
    assert app["resources"]["requests"]["memory"] == app["resources"]["limits"]["memory"]
    memory: str = app["resources"]["requests"]["memory"]
    return memory


@asynccontextmanager
async def resizing(tmp_path: Path, *arguments: str, memory: str = "100Mi") -> AsyncIterator[tuple[FakeApi, Nanny]]:
    """An API server that can resize pods, and a Deployment with this much memory."""
    async with (
        FakeApi(tmp_path, subresources=("pods/resize",)) as api,
        nannying(api, "--in-place", "--threshold=5", *arguments) as nanny,
    ):
        web = deployment(requests={"memory": memory}, limits={"memory": memory})
        web["spec"]["selector"] = {"matchLabels": {"app": "web"}}
        await api.put(web)
        yield api, nanny


async def test_pods_are_resized_in_place_and_the_deployment_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "metrics_server")
    foreign = running("foreign", "1Mi", metadata={"ownerReferences": []})
    ending = running("ending", "1Mi", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    failed = running("failed", "1Mi", status={"phase": "Failed"})
    async with resizing(tmp_path) as (api, nanny):
        await api.put(running("a", "100Mi"), running("b", "100Mi"), foreign, ending, failed)
        for number, memory in ((20, "100Mi"), (100, "180Mi"), (100, "180Mi"), (20, "100Mi")):
            await nodes(api, number)
            await nanny.check()
            assert (memory_of(api, "a"), memory_of(api, "b"), sized(api)) == (memory, memory, "100Mi")
        # One that was made meanwhile began with what the Deployment says.
        await nodes(api, 100)
        await api.put(running("c", "100Mi"))
        await nanny.check()
        assert memory_of(api, "c") == "180Mi"
        assert [memory_of(api, name) for name in ("foreign", "ending", "failed")] == ["1Mi"] * 3
        assert api.count("patch deployments") == 0
        assert api.count("resize pods") == 7
    messages = [record.getMessage() for record in caplog.records if record.name.endswith("nanny.service")]
    assert messages[:3] == [
        "Kept for 20 nodes",
        *["Grow for 100 nodes: request of memory is 100Mi, 180Mi expected"] * 2,
    ]


async def test_a_deployment_that_is_far_off_is_rolled(tmp_path: Path) -> None:
    async with resizing(tmp_path) as (api, nanny):
        await api.put(running("a", "100Mi"))
        await nodes(api, 300)
        await nanny.check()
        # The pod is replaced.
        assert (sized(api), memory_of(api, "a")) == ("380Mi", "100Mi")
        await nodes(api, 20)
        await nanny.check()
        assert sized(api) == "100Mi"
        # And what is not set at all: pods cannot get from nothing to something in place.
        await api.put({**deployment(), "spec": {**deployment()["spec"], "selector": {"matchLabels": {"app": "web"}}}})
        await nanny.check()
        assert sized(api) == "100Mi"
        assert api.count("resize pods") == 0


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("PodResizePending", "Infeasible"), ("PodResizePending", "Deferred"), ("PodResizeInProgress", "Error")],
)
async def test_a_pod_that_cannot_be_resized_where_it_is_is_replaced(
    tmp_path: Path, kind: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "metrics_server")
    waits = {"type": kind, "status": "True", "reason": reason, "message": "Node didn't have enough"}
    async with resizing(tmp_path) as (api, nanny):
        await nodes(api, 100)
        await api.put(running("a", "100Mi"))
        await nanny.check()
        stuck = running("a", "180Mi")
        stuck["status"]["conditions"] = [waits]
        await api.put(stuck)
        await nanny.check()
        assert sized(api) == "180Mi"
        # It waits for a place now; nothing more can be done.
        await nanny.check()
        assert (api.count("patch deployments"), api.count("resize pods")) == (1, 1)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("nanny.service")][1:]
    assert said[0].startswith(
        f"Grow for 100 nodes by a rolling update, since a pod cannot be resized where it is (a: {reason}: Node didn't"
    )
    assert said[1].startswith("Kept for 100 nodes, with pods that wait for their size: a: ")


async def test_a_resize_that_goes_on_is_waited_for(tmp_path: Path) -> None:
    async with resizing(tmp_path) as (api, nanny):
        await nodes(api, 100)
        growing = running("a", "180Mi")
        growing["status"]["conditions"] = [{"type": "PodResizeInProgress", "status": "True"}]
        await api.put(growing)
        await nanny.check()
        assert (api.count("patch deployments"), api.count("resize pods")) == (0, 0)


async def test_a_resize_that_the_api_server_refuses_is_a_rolling_update(tmp_path: Path) -> None:
    async with resizing(tmp_path, memory="150Mi") as (api, nanny):
        await nodes(api, 20)
        await api.put(running("a", "150Mi"), running("gone", "150Mi"))
        words = "memory limits cannot be decreased"
        api.order("resize pods", answer(422, failure(422, "Invalid", words)), answer(404, failure(404, "NotFound")))
        await nanny.check()
        assert sized(api) == "100Mi"


async def test_without_the_right_to_resize_the_check_fails(tmp_path: Path) -> None:
    async with resizing(tmp_path) as (api, nanny):
        await nodes(api, 100)
        await api.put(running("a", "100Mi"))
        api.order("resize pods", answer(403, failure(403, "Forbidden")))
        with pytest.raises(KubeError) as caught:
            await nanny.check()
        assert caught.value.status == 403
        assert api.count("patch deployments") == 0


async def test_an_api_server_that_cannot_resize_means_rolling_updates(tmp_path: Path) -> None:
    async with resizing(tmp_path) as (api, nanny):
        api.subresources = ("pods/eviction",)
        await nodes(api, 100)
        await api.put(running("a", "100Mi"))
        await nanny.check()
        assert (sized(api), memory_of(api, "a")) == ("180Mi", "100Mi")
        assert api.count("list within") == 0


async def test_delays_count_for_pods_too(tmp_path: Path) -> None:
    clock = Clock()
    async with FakeApi(tmp_path, subresources=("pods/resize",)) as api:
        web = deployment(requests={"memory": "100Mi"}, limits={"memory": "100Mi"})
        web["spec"]["selector"] = {"matchLabels": {"app": "web"}}
        await api.put(web, running("a", "150Mi"))
        await nodes(api, 20)
        async with nannying(api, "--in-place", "--scale-down-delay=1m", clock=clock) as nanny:
            await nanny.check()
            assert memory_of(api, "a") == "150Mi"
            clock.now = 60
            await nanny.check()
            assert memory_of(api, "a") == "100Mi"


def test_selectors_in_full() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "zone", "operator": "NotIn", "values": ["c"]},
        {"key": "x", "operator": "Exists"},
        {"key": "y", "operator": "DoesNotExist"},
    ]
    assert selector_text({"matchLabels": {"app": "web"}, "matchExpressions": expressions}) == (
        "app=web,tier in (a,b),zone notin (c),x,!y"
    )


async def test_two_nannies_and_a_stranger(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api, nannying(api) as one, nannying(api) as two:
        await nodes(api, 20)
        await api.put(deployment())
        await one.check()
        await two.check()
        assert api.count("patch deployments") == 1
        await nodes(api, 40)
        api.order("patch deployments", answer(409, failure(409, "Conflict")))
        with pytest.raises(KubeError):
            await one.check()
        await two.check()
        await one.check()
        assert sized(api) == "120Mi"


async def test_a_deployment_that_changed_in_between_is_not_overwritten(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api, nannying(api) as nanny:
        await nodes(api, 20)
        stale = deployment()
        await api.put(stale)
        old = {**stale, "metadata": dict(stale["metadata"])}
        await api.put(api.objects[KEY])
        api.order("get deployments", answer(200, old))
        with pytest.raises(KubeError) as caught:
            await nanny.check()
        assert caught.value.status == 409


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('apiserver_storage_objects{resource="pods"} 7\napiserver_storage_objects{resource="nodes"} 300\n', 300),
        ('etcd_object_counts{resource="nodes"} 1.2e+03\n', 1200),
        ('apiserver_resource_objects{group="",resource="nodes"} 5\n', 5),
        ('apiserver_resource_objects{group="metrics.example.com",resource="nodes"} 5\n', 0),
        ('apiserver_storage_objects{resource="nodes"} -1\n', 0),
        ('apiserver_storage_objects{resource="nodes"} 1.2.3\n', 0),
        ('apiserver_storage_objects{resource="nodes"} 1e9999\n', 0),
        ("", 0),
    ],
)
async def test_the_number_of_nodes_from_metrics(tmp_path: Path, text: str, count: int) -> None:
    assert nodes_in_metrics(text) == count
    async with FakeApi(tmp_path, metrics=text) as api, nannying(api, "--use-metrics") as nanny:
        await api.put(deployment())
        if count:
            await nanny.check()
            assert sized(api) in {"380Mi", "1280Mi", "85Mi"}
        else:
            with pytest.raises(SizingError, match="leave --use-metrics out"):
                await nanny.check()
        assert api.count("list nodes") == 0


async def test_what_stands_in_the_way(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api, nannying(api) as nanny:
        with pytest.raises(SizingError, match="lists no nodes"):
            await nanny.check()
        await nodes(api, 3)
        with pytest.raises(KubeError, match="404"):
            await nanny.check()
        await api.put(deployment(requests={"memory": "lots"}))
        with pytest.raises(SizingError, match='ns/web: "lots" is no quantity'):
            await nanny.check()
    async with FakeApi(tmp_path) as api, nannying(api, "--container=none") as nanny:
        await nodes(api, 3)
        await api.put(deployment())
        with pytest.raises(SizingError, match="no container none"):
            await nanny.check()


async def test_the_configuration_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "NannyConfiguration"
    async with FakeApi(tmp_path) as api, nannying(api, f"--config-dir={tmp_path}") as nanny:
        await nodes(api, 20)
        await api.put(deployment())
        await nanny.check()
        assert sized(api) == "100Mi"
        path.write_text(CONFIGURATION + "memoryPerNode: 2Mi\n")
        await nanny.check()
        assert sized(api) == "120Mi"
        path.write_text(CONFIGURATION + "memoryPerNode: 2 potatoes\n")
        await nanny.check()
        await nanny.check()
        assert sized(api) == "120Mi"
        path.write_text(CONFIGURATION + "memoryPerNode: 0\n")
        await nanny.check()
        assert sized(api) == "80Mi"
        path.unlink()
        await nanny.check()
        assert sized(api) == "100Mi"
    assert [record.getMessage() for record in caplog.records if "potatoes" in record.getMessage()] == [
        f'{path} is not used: --extra-memory: "2 potatoes" is no quantity such as 100m or 200Mi'
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("[]", "must have the kind"),
        ("kind: NannyConfiguration\napiVersion: v1\n", "must have the apiVersion nannyconfig/v1alpha1"),
        (CONFIGURATION + "baseMemroy: 1Mi\n", 'unknown field "baseMemroy"'),
        (CONFIGURATION + "baseMemory: -1Mi\n", "is negative"),
    ],
)
def test_configuration_that_is_not_used(text: str, words: str) -> None:
    amounts = read_options(FLAGS.parse(ARGUMENTS)).amounts
    with pytest.raises(ValueError, match=words):
        read_configuration(text, amounts)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memory=1Mi", "--namespace=ns"], "--deployment is needed"),
        (["--deployment=a", "--memory=1Mi"], "--namespace is needed"),
        (["--deployment=a", "--namespace=ns"], "nothing to size"),
        ([*ARGUMENTS, "--cpu=100x"], '--cpu: "100x" is no quantity'),
        ([*ARGUMENTS, "--extra-memory=-1Mi"], "is negative"),
        ([*ARGUMENTS, "--threshold=101"], "--threshold must be between 0 and 100"),
        ([*ARGUMENTS, "--threshold=5", "--acceptance-offset=5"], "cannot use both --threshold and --acceptance-offset"),
        ([*ARGUMENTS, "--acceptance-offset=5"], "must not be lower than --recommendation-offset"),
        ([*ARGUMENTS, "--estimator=magic"], "must be linear or exponential"),
        ([*ARGUMENTS, "--minClusterSize=1"], "at least 2"),
        ([*ARGUMENTS, "--poll-period=10"], "at least 100"),
        ([*ARGUMENTS, "--scale-up-delay=-1s"], "must not be negative"),
        ([*ARGUMENTS, "--container="], "must not be empty"),
    ],
)
def test_flags_that_make_no_sense(arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    with pytest.raises(FlagError, match=words):
        read_options(FLAGS.parse(arguments))


def test_upstreams_command_line_is_understood() -> None:
    arguments = (
        "--config-dir=/etc/config --cpu=0m --extra-cpu=1m --memory=0Mi --extra-memory=2Mi --threshold=5 "
        "--deployment=metrics-server --container=metrics-server --poll-period=300000 --estimator=exponential "
        "--minClusterSize=100 --use-metrics=true --pod=x --namespace=kube-system --storage=MISSING --logtostderr"
    )
    parsed = FLAGS.parse(arguments.split())
    options = read_options(parsed)
    assert set(options.needs) == {"cpu", "memory"}
    assert (options.size(5), options.size(101)) == (100, 150)
    assert (options.poll_period, options.tolerance.acceptance, options.use_metrics) == (300_000, 5, True)
    assert len(FLAGS.warnings(parsed)) == 2
    with pytest.raises(FlagError, match="--scaling-mode cannot be used"):
        FLAGS.warnings(FLAGS.parse(["--scaling-mode=container-proportional"]))
