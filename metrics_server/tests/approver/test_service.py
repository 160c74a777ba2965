# SPDX-License-Identifier: GPL-3.0-or-later
"""The approver against an API server: what it approves, when it waits, and how it lives with others."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.fake_api import FakeApi, answer, failure

from metrics_server.approver import service
from metrics_server.approver.__main__ import approve
from metrics_server.approver.checks import Policy
from metrics_server.approver.options import FLAGS, read_options
from metrics_server.approver.service import Approver, Telemetry
from metrics_server.companion import CompanionError
from metrics_server.flags import FlagError
from metrics_server.kube.client import KubeClient, KubeError

CORPUS = json.loads((Path(__file__).parents[1] / "corpus" / "kubelet_csrs.json").read_text(encoding="utf-8"))


def of(title: str, name: str = "a") -> dict[str, Any]:
    """Return a request of the corpus."""
    case = next(case for case in CORPUS["cases"] if case["title"] == title)
    csr = deepcopy(next(csr for csr in case["csrs"] if csr["metadata"]["name"] == "a"))
    csr["metadata"]["name"] = name
    return {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", **csr}


def node(name: str) -> dict[str, Any]:
    """Return a Node of the corpus."""
    return {"kind": "Node", **deepcopy(next(one for one in CORPUS["nodes"] if one["metadata"]["name"] == name))}


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def conditions(api: FakeApi, name: str) -> list[str]:
    stored = api.objects["certificatesigningrequests", "", name]
    return [condition["type"] for condition in stored["status"].get("conditions", ())]


def counted(registry: CollectorRegistry, decision: str, reason: str) -> float:
    labels = {"decision": decision, "reason": reason}
    return registry.get_sample_value("metrics_server_csr_approver_decisions_total", labels) or 0.0


@asynccontextmanager
async def approving(api: FakeApi, *, resync: float = 300.0) -> AsyncIterator[CollectorRegistry]:
    registry = CollectorRegistry()
    client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent="test")
    approver = Approver(client, Policy(), Telemetry(registry), resync=resync)
    tasks = [asyncio.create_task(run) for run in approver.tasks()]
    try:
        yield registry
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()


async def test_what_passes_is_approved_and_the_rest_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with FakeApi(tmp_path) as api:
        await api.put(node("w1"), node("w2"), of("as a kubelet sends it", "good"))
        await api.put(of("the address of another node", "forged"))
        # The forged one is the newer by its version, and the good one by its date.
        api.objects["certificatesigningrequests", "", "good"]["metadata"]["creationTimestamp"] = "2026-03-01T11:00:00Z"
        async with approving(api) as registry:
            await until(lambda: conditions(api, "good") == ["Approved"])
            await until(lambda: counted(registry, "left", "AddressOfOtherNode") == 1)
            # Whatever else happens, a reason is told once.
            await api.put(node("cp1"))
            later = of("as a kubelet sends it", "later")
            later["metadata"]["creationTimestamp"] = "2026-03-01T12:00:00Z"
            await api.put(later)
            await until(lambda: conditions(api, "later") == ["Approved"])
            assert counted(registry, "left", "AddressOfOtherNode") == 1
            # It is counted when the API server's answer is there.
            await until(lambda: counted(registry, "approved", "ChecksPassed") == 2)
            pending = registry.get_sample_value("metrics_server_csr_approver_pending", {"reason": "AddressOfOtherNode"})
            assert pending == 1
        stored = api.objects["certificatesigningrequests", "", "good"]["status"]["conditions"][0]
        assert (stored["status"], stored["reason"]) == ("True", "KubemetricsChecksPassed")
        assert conditions(api, "forged") == []
    assert [r.getMessage() for r in caplog.records if "192.0.2.22" in r.getMessage()] == [
        "Left pending because 192.0.2.22 also belongs to node w2"
    ]


async def test_a_node_that_states_its_address_late(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(of("as a kubelet sends it"))
        async with approving(api) as registry:
            await until(lambda: counted(registry, "left", "NodeUnknown") == 1)
            late = node("w1")
            late["status"]["addresses"] = []
            await api.put(late)
            await until(lambda: counted(registry, "left", "AddressUnknown") == 1)
            await api.put(node("w1"))
            await until(lambda: conditions(api, "a") == ["Approved"])


async def test_nothing_is_approved_before_all_nodes_are_known(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("w1"), of("as a kubelet sends it"))
        api.order("list nodes", answer(403, failure(403, "Forbidden")))
        async with approving(api):
            await until(lambda: api.count("list certificatesigningrequests") == 1)
            await asyncio.sleep(0.2)
            assert api.count("approve") == 0
            await until(lambda: conditions(api, "a") == ["Approved"])


CALLED_LIKE_THE_API = "a worker that is called like the API server"


async def test_a_worker_that_is_called_as_the_api_servers_certificate_says(tmp_path: Path) -> None:
    async with FakeApi(tmp_path, names=("kubernetes", "API.example.com")) as api:
        await api.put(node("api.example.com"), of(CALLED_LIKE_THE_API))
        async with approving(api) as registry:
            await until(lambda: counted(registry, "left", "AddressOfAPIServer") == 1)
            labelled = node("api.example.com")
            labelled["metadata"]["labels"] = {"node-role.kubernetes.io/control-plane": ""}
            await api.put(labelled)
            await until(lambda: conditions(api, "a") == ["Approved"])


async def test_nothing_is_approved_before_the_api_servers_names_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_RETRY", 0.3)
    names = KubeClient.certificate_names
    failures = [KubeError(None, "Refused", "connection refused")]

    async def fail_once(client: KubeClient) -> tuple[str, ...]:
        if failures:
            raise failures.pop()
        return await names(client)

    monkeypatch.setattr(KubeClient, "certificate_names", fail_once)
    async with FakeApi(tmp_path) as api:
        await api.put(node("w1"), of("as a kubelet sends it"))
        async with approving(api):
            await until(lambda: api.count("watch certificatesigningrequests") == 1 and not failures)
            await asyncio.sleep(0.15)
            assert api.count("approve") == 0
            await until(lambda: conditions(api, "a") == ["Approved"])


async def test_two_approvers(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("w1"))
        async with approving(api), approving(api):
            await until(lambda: api.count("watch certificatesigningrequests") == 2)
            await api.put(of("as a kubelet sends it"))
            await until(lambda: conditions(api, "a") == ["Approved"])
            await asyncio.sleep(0.3)
        assert conditions(api, "a") == ["Approved"]


async def test_a_conflict_is_left_to_the_watch(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("w1"), of("as a kubelet sends it"))
        api.order("approve", answer(409, failure(409, "Conflict")))
        async with approving(api) as registry:
            await until(lambda: api.count("approve") == 1)
            await api.put(api.objects["certificatesigningrequests", "", "a"])
            await until(lambda: conditions(api, "a") == ["Approved"])
            assert registry.get_sample_value("metrics_server_csr_approver_errors_total", {"reason": "Conflict"}) is None


async def test_a_refusal_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_RETRY", 0.05)
    async with FakeApi(tmp_path) as api:
        await api.put(node("w1"), of("as a kubelet sends it"))
        api.order("approve", *[answer(403, failure(403, "Forbidden"))] * 2)
        async with approving(api) as registry:
            await until(lambda: conditions(api, "a") == ["Approved"])
            errors = registry.get_sample_value("metrics_server_csr_approver_errors_total", {"reason": "Forbidden"})
            assert errors == 2


async def test_a_request_that_changed_under_way_is_not_approved(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("w1"), of("as a kubelet sends it"))
        other = of("the address of another node")
        api.order("get certificatesigningrequests", answer(200, other))
        async with approving(api):
            await until(lambda: api.count("get certificatesigningrequests") == 1)
            await asyncio.sleep(0.2)
            assert api.count("approve") == 0


async def test_the_program_serves_health_and_metrics_and_ends(tmp_path: Path) -> None:
    def fetch(port: int, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            text: str = response.read().decode()
            # It would name the versions of Python and its library.
            assert "Server" not in response.headers
        return text

    async with FakeApi(tmp_path) as api:
        await api.put(node("w1"), of("as a kubelet sends it"))
        parsed = FLAGS.parse([f"--kubeconfig={api.kubeconfig()}", "--port=0", "--bind-address=127.0.0.1"])
        ports: list[int] = []
        run = asyncio.create_task(approve(read_options(parsed), ports.append))
        await until(lambda: conditions(api, "a") == ["Approved"])
        for path in ("/healthz", "/livez", "/readyz", "/readyz/lists"):
            assert await asyncio.to_thread(fetch, ports[0], path) == "ok"
        text = await asyncio.to_thread(fetch, ports[0], "/metrics")
        assert 'metrics_server_csr_approver_decisions_total{decision="approved",reason="ChecksPassed"} 1.0' in text
        taken = FLAGS.parse([f"--kubeconfig={api.kubeconfig()}", f"--port={ports[0]}", "--bind-address=127.0.0.1"])
        with pytest.raises(CompanionError, match="choose another one with --port"):
            await approve(read_options(taken))
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--allowed-cidrs=192.0.2.0/33", "is no CIDR"),
        ("--allowed-cidrs=192.0.2.1/24", "write 192.0.2.0/24"),
        ("--service-cidrs=10.233.0.1/18", "write 10.233.0.0/18"),
        ("--allowed-domains=example.com,.", "an entry of the list is empty"),
        ("--control-plane-addresses=192.0.2.1,", "an entry of the list is empty"),
        ("--resync-period=0", "at least 1s"),
    ],
)
def test_flags_that_make_no_sense(argument: str, text: str) -> None:
    with pytest.raises(FlagError, match=text) as caught:
        read_options(FLAGS.parse([argument]))
    assert "\n" not in str(caught.value)


def test_the_policy_from_flags_and_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00:0::1")
    arguments = ["--allowed-domains=.Example.com", "--control-plane-addresses=LB.example.com.,192.0.2.1"]
    policy = read_options(FLAGS.parse(arguments)).policy
    assert policy.allowed_domains == ("example.com",)
    assert policy.service_addresses == {"fd00::1"}
    outside = policy.with_api_server(["fd00:0:0::1", "192.0.2.9"])
    assert outside.control_plane_addresses == {"lb.example.com", "192.0.2.1", "192.0.2.9"}
