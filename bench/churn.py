# SPDX-License-Identifier: GPL-3.0-or-later
"""A few nodes and pods leave and return through a real API server, and the metrics server has to follow."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Container
from pathlib import Path

from load import Client
from machine import BenchError
from shape import Node, node_object, pod_object

_METRICS = "/apis/metrics.k8s.io/v1beta1"
#: So long they are away, and so long they are back.
_HALF = 40.0


class Churn:
    """One node of a hundred, and a pod on as many others."""

    def __init__(self, kubeconfig: Path, nodes: int, pods: int) -> None:
        clusters, users = (json.loads(kubeconfig.read_text())[key] for key in ("clusters", "users"))
        cluster, user = clusters[0]["cluster"], users[0]["user"]
        self._context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._context.load_cert_chain(user["client-certificate"], user["client-key"])
        self._host = cluster["server"].removeprefix("https://")
        some = max(1, nodes // 100)
        #: Their samples have gaps, as they are away at times.
        self.nodes: Container[int] = frozenset(range(nodes - some, nodes))
        self._leaving = [Node(number, pods) for number in range(nodes - some, nodes)]
        self._hosts = [Node(number, pods) for number in range(nodes - 2 * some, nodes - some)]
        self._saved: dict[str, dict[str, object]] = {}
        self._away = False
        self._next = _HALF
        self.turns = 0
        self.wrong: list[str] = []

    def turn(self, passed: float, client: Client, served: Container[str], well: Callable[[int], bool]) -> None:
        """Look whether the server has followed, then let them leave or return, when it is time."""
        if passed < self._next:
            return
        self._next += _HALF
        for node in self._leaving:
            if (node.name in served) == self._away and (self._away or well(node.number)):
                self._note(node.name)
        for host in self._hosts:
            one = host.containers[0]
            path = f"{_METRICS}/namespaces/{one.namespace}/pods"
            names = {item["metadata"]["name"] for item in json.loads(client.get(path))["items"]}
            if (one.pod in names) == self._away and (self._away or well(host.number)):
                self._note(f"{one.namespace}/{one.pod}")
        if self._away:
            self._return()
            self.turns += 1
        else:
            self._leave()
        self._away = not self._away

    def _note(self, name: str) -> None:
        state = "is still served after it left" if self._away else "is not served after it returned"
        self.wrong.append(f"{time.strftime('%H:%M:%S')} {name} {state}")

    def _leave(self) -> None:
        for path in self._paths():
            self._saved[path] = self._ask("GET", path)
            self._ask("DELETE", path, {"gracePeriodSeconds": 0})

    def _return(self) -> None:
        for node in self._leaving:
            path = f"/api/v1/nodes/{node.name}"
            status = self._saved[path]["status"]
            port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]  # type: ignore[index]
            self._ask("POST", "/api/v1/nodes", node_object(node, port))
        for host in self._hosts:
            one = host.containers[0]
            space = f"/api/v1/namespaces/{one.namespace}"
            # Nobody made what a pod needs: the others were written past the API.
            metadata: dict[str, object] = {"metadata": {"name": one.namespace}}
            self._ask("POST", "/api/v1/namespaces", metadata, known=True)
            self._ask("POST", f"{space}/serviceaccounts", {"metadata": {"name": "default"}}, known=True)
            pod = pod_object(host, one)
            self._ask("POST", f"{space}/pods", pod)
            self._ask(
                "PATCH",
                f"{space}/pods/{one.pod}/status",
                {"status": pod["status"]},
                kind="application/merge-patch+json",
            )

    def _paths(self) -> list[str]:
        pods = [host.containers[0] for host in self._hosts]
        return [f"/api/v1/nodes/{node.name}" for node in self._leaving] + [
            f"/api/v1/namespaces/{one.namespace}/pods/{one.pod}" for one in pods
        ]

    def _ask(
        self, method: str, path: str, body: object = None, *, known: bool = False, kind: str = "application/json"
    ) -> dict[str, object]:
        connection = http.client.HTTPSConnection(self._host, timeout=30, context=self._context)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": kind})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 300 and not (known and response.status == 409):
            raise BenchError(f"the API server answered {method} {path} with {response.status}: {answer[:200]!r}")
        found: dict[str, object] = json.loads(answer)
        return found
