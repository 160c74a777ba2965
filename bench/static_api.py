# SPDX-License-Identifier: GPL-3.0-or-later
"""An API server that knows the fleet's nodes and pods and nothing else: lists in pages, and watches on which nothing
happens.

For measuring the engine alone. Comparisons with upstream use a real API server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import tempfile
from functools import lru_cache
from pathlib import Path

from aiohttp import web
from shape import Container, Node, node_object, pod_object
from support.pki import Authority

_TOKEN = "bench"


class StaticApi:
    """Lists of the fleet."""

    def __init__(self, nodes: int, pods: int, kubelet_port: int) -> None:
        self._fleet = [Node(number, pods) for number in range(nodes)]
        self._pods = pods
        self._kubelet_port = kubelet_port

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer lists and watches."""
        if request.query.get("watch"):
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await asyncio.sleep(float(request.query.get("timeoutSeconds", "300")))
            return response
        start, limit = int(request.query.get("continue", "0")), int(request.query.get("limit", "500"))
        if request.match_info["resource"] == "nodes":
            total = len(self._fleet)
            items = [node_object(node, self._kubelet_port) for node in self._fleet[start : start + limit]]
        else:
            total = len(self._fleet) * self._pods
            items = [self._pod(number) for number in range(start, min(start + limit, total))]
        metadata = {"resourceVersion": "1"}
        if start + limit < total:
            metadata["continue"] = str(start + limit)
        body = json.dumps({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})
        return web.Response(text=body, content_type="application/json")

    def _pod(self, number: int) -> dict[str, object]:
        node = self._fleet[number // self._pods]
        return pod_object(node, _containers(node)[number % self._pods])


@lru_cache(maxsize=64)
def _containers(node: Node) -> list[Container]:
    return node.containers


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--pods", type=int, default=30)
    parser.add_argument("--port", type=int, default=16443)
    parser.add_argument("--kubelet-port", type=int, default=10250)
    parser.add_argument("--write-kubeconfig", required=True, metavar="FILE")
    arguments = parser.parse_args()
    authority = Authority("static-api-ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        context.load_cert_chain(*authority.issue("api", ips=("127.0.0.1",)).write(Path(directory), "api"))
    path = Path(arguments.write_kubeconfig)
    ca = path.with_suffix(".ca.crt")
    ca.write_bytes(authority.pem)
    server = f"https://127.0.0.1:{arguments.port}"
    path.write_text(
        json.dumps(
            {
                "current-context": "bench",
                "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
                "clusters": [{"name": "bench", "cluster": {"server": server, "certificate-authority": str(ca)}}],
                "users": [{"name": "bench", "user": {"token": _TOKEN}}],
            }
        )
    )
    application = web.Application()
    api = StaticApi(arguments.nodes, arguments.pods, arguments.kubelet_port)
    application.router.add_get("/api/v1/{resource}", api.handle)
    web.run_app(
        application, host="127.0.0.1", port=arguments.port, ssl_context=context, print=None, shutdown_timeout=0.1
    )


if __name__ == "__main__":
    main()
