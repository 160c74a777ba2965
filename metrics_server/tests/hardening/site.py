# SPDX-License-Identifier: GPL-3.0-or-later
"""The real program as a process of its own, between fake API servers and fake kubelets, with TLS on all sides."""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from api.conftest import config_map
from api.support import Answer, Credential, FakeApiServer, Pki, fetch
from support.fake_api import FakeApi, node, pod
from support.fake_kubelet import FakeKubelet, Request, Writer, respond, running
from support.pki import Authority
from support.resource_text import Container, resource_text

NODES = "/apis/metrics.k8s.io/v1beta1/nodes"
PODS = "/apis/metrics.k8s.io/v1beta1/pods"
#: The least that the program allows.
RESOLUTION = 10.0
#: In what the kubelets and the API server get from the server; must never be seen in its log.
OWN_TOKEN = "own-token-of-the-server"
ADMIN = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")]


@dataclass
class Kubelets:
    """Fake kubelets that note when they are asked; every pod of a node has one container."""

    authority: Authority
    pods: int
    asked: list[tuple[float, str]] = field(default_factory=list)
    kubelets: dict[str, FakeKubelet] = field(default_factory=dict)

    def add(self, name: str) -> FakeKubelet:
        started = time.time() - 1000

        async def behave(request: Request, writer: Writer) -> None:
            now = time.time()
            self.asked.append((now, name))
            containers = [
                Container("default", pod_name, "c", (now - started) / 10, 1 << 20, started, int(now * 1000))
                for pod_name in self.pod_names(name)
            ]
            text = resource_text(containers, node_cpu=now - started, node_time=int(now * 1000))
            await respond(body=text)(request, writer)

        self.kubelets[name] = FakeKubelet(behave, self.authority.issue(name, dns=(name,)))
        return self.kubelets[name]

    def pod_names(self, name: str) -> list[str]:
        return [f"{name}-p{number}" for number in range(self.pods)]


@dataclass(eq=False)
class Site:
    """The running program and what is around it."""

    process: asyncio.subprocess.Process
    port: int
    pki: Pki
    front_proxy: Credential
    reviews: FakeApiServer
    cluster: FakeApi
    kubelets: Kubelets
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    async def get(self, path: str) -> Answer:
        """Ask as the front proxy does for an administrator."""
        return await fetch(f"https://127.0.0.1:{self.port}{path}", credential=self.front_proxy, headers=ADMIN)

    async def sample_ages(self) -> dict[str, float]:
        """Return the age of every node's sample."""
        items = (await self.get(NODES)).json()["items"]
        return {item["metadata"]["name"]: time.time() - _seconds(item["timestamp"]) for item in items}

    async def open_connections(self) -> int:
        """Return how many connections the server says are open."""
        text = (await self.get("/metrics")).body.decode()
        found = re.search(r"^kubemetrics_open_connections (\S+)$", text, re.MULTILINE)
        assert found is not None
        return int(float(found.group(1)))

    def memory(self) -> int:
        """Return the resident bytes of the process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the process has no memory")

    def longest_pause(self, since: float) -> float:
        """Return the longest time in which no kubelet was asked."""
        moments = [since, *(moment for moment, _ in self.kubelets.asked if moment > since), time.time()]
        return max(later - earlier for earlier, later in zip(moments, moments[1:], strict=False))


def _seconds(stamp: str) -> float:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def running_site(directory: Path, *arguments: str, nodes: int = 10, pods: int = 2) -> AsyncIterator[Site]:
    """Run the program until the block ends; it is ready when the block begins."""
    pki_directory, cluster_directory = directory / "pki", directory / "cluster"
    for one in (pki_directory, cluster_directory):
        one.mkdir()
    pki, authority = Pki(pki_directory), Authority()
    front_proxy_ca = pki.ca("front-proxy-ca")
    kubelets = Kubelets(authority, pods)
    names = [f"n{number}" for number in range(nodes)]
    (directory / "kubelet-ca.crt").write_bytes(authority.pem)
    log_file, port = directory / "log", free_port()
    async with (
        FakeApiServer(pki).running() as reviews,
        FakeApi(cluster_directory, token=OWN_TOKEN) as cluster,
        running(directory, *(kubelets.add(name) for name in names)),
    ):
        reviews.config_map = config_map(front_proxy_ca, pki.ca("kubernetes-ca"))
        for name in names:
            await cluster.put(node(name, port=kubelets.kubelets[name].port))
            await cluster.put(*(pod("default", pod_name, name, "c") for pod_name in kubelets.pod_names(name)))
        review_config = reviews.kubeconfig(directory / "reviews")
        with log_file.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "metrics_server",
                f"--kubeconfig={cluster.kubeconfig()}",
                f"--authentication-kubeconfig={review_config}",
                f"--authorization-kubeconfig={review_config}",
                f"--kubelet-certificate-authority={directory / 'kubelet-ca.crt'}",
                "--kubelet-use-node-status-port",
                "--kubelet-preferred-address-types=InternalIP",
                "--kubelet-request-timeout=2s",
                f"--metric-resolution={RESOLUTION:.0f}s",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                f"--cert-dir={directory / 'certs'}",
                "-v=10",
                *arguments,
                stderr=log,
                stdout=log,
                env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PATH": "/usr/bin:/bin"},
            )
        site = Site(
            process,
            port,
            pki,
            pki.leaf(front_proxy_ca, "front-proxy-client"),
            reviews,
            cluster,
            kubelets,
            log_file,
        )
        try:
            await _until_all_have_metrics(site, nodes)
            yield site
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 15)


async def _until_all_have_metrics(site: Site, nodes: int) -> None:
    async with asyncio.timeout(40):
        while True:
            if site.process.returncode is not None:
                raise AssertionError(f"the program ended: {site.log}")
            with contextlib.suppress(OSError, json.JSONDecodeError, KeyError):
                if len(await site.sample_ages()) == nodes:
                    return
            await asyncio.sleep(0.1)
