# SPDX-License-Identifier: GPL-3.0-or-later
"""An API server with nodes and pods: lists in pages, watches from a version, and the failures that a test orders."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from support.pki import Authority

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Key = tuple[str, str, str]


def node(
    name: str, *, address: str = "127.0.0.1", port: int = 10250, ready: bool = True, **metadata: Any
) -> dict[str, Any]:
    """Return a Node object."""
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}, **metadata},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "images": [{"names": ["registry/image@sha256:0"], "sizeBytes": 1}],
        },
    }


def pod(
    namespace: str, name: str, node_name: str, *containers: str, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return a running Pod object."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "creationTimestamp": "2023-11-14T22:13:00Z"}
    if labels:
        metadata["labels"] = labels
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"nodeName": node_name, "containers": [{"name": container} for container in containers]},
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": container, "state": {"running": {"startedAt": "2023-11-14T22:13:20Z"}}}
                for container in containers
            ],
        },
    }


def failure(code: int, reason: str, message: str = "as ordered") -> dict[str, Any]:
    """Return a Status object."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }


@dataclass
class FakeApi:
    """Serves HTTPS on loopback while used as `async with`."""

    directory: Path
    token: str = "api-token"
    objects: dict[Key, dict[str, Any]] = field(default_factory=dict)
    #: (version, resource, event), in order.
    history: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    version: int = 100
    #: Versions up to this one are refused with 410.
    compacted: int = 0
    #: Answers for the next requests, by `list nodes`, `watch pods` and so on.
    orders: dict[str, list[Handler]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0
    #: What its certificate names beside its address.
    names: tuple[str, ...] = ()
    #: What discovery lists beside whole objects, such as pods/resize.
    subresources: tuple[str, ...] = ()
    #: What /metrics says.
    metrics: str = ""
    _authority: Authority = field(default_factory=Authority)
    _runner: web.AppRunner | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _watches: set[asyncio.Task[Any]] = field(default_factory=set)

    async def __aenter__(self) -> FakeApi:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def listen(self) -> None:
        """Start, on the same port as before if there was one."""
        application = web.Application()
        application.router.add_get("/api/v1/{resource}", self._serve)
        requests = "/apis/certificates.k8s.io/v1/{resource:certificatesigningrequests}"
        application.router.add_get(requests, self._serve)
        deployments = "/apis/apps/v1/namespaces/{namespace}/{resource:deployments}"
        for path in (requests, deployments):
            application.router.add_get(path + "/{name}", self._get)
        application.router.add_put(requests + "/{name}/approval", self._approve)
        application.router.add_patch(deployments + "/{name}", self._patch_container)
        application.router.add_get("/api/v1", self._discover)
        pods = "/api/v1/namespaces/{namespace}/{resource:pods}"
        application.router.add_get(pods, self._list_within)
        application.router.add_patch(pods + "/{name}/resize", self._resize)
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = self._authority.issue("kube-apiserver", dns=self.names, ips=("127.0.0.1",))
        context.load_cert_chain(*pair.write(self.directory, "api"))
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop; connections are cut."""
        self.cut_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def kubeconfig(self, **user: Any) -> str:
        """Write a kubeconfig and return its path."""
        (self.directory / "ca.crt").write_bytes(self._authority.pem)
        path = self.directory / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [
                        {
                            "name": "c",
                            "cluster": {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": "ca.crt"},
                        }
                    ],
                    "users": [{"name": "u", "user": user or {"token": self.token}}],
                }
            )
        )
        return str(path)

    def order(self, what: str, *handlers: Handler) -> None:
        """Have the next requests of one kind answered otherwise."""
        self.orders.setdefault(what, []).extend(handlers)

    def count(self, what: str) -> int:
        """Return how many requests of a kind came."""
        return sum(1 for kind, _ in self.requests if kind == what)

    async def put(self, *objects: dict[str, Any]) -> None:
        """Create or change objects."""
        for one in objects:
            resource, key = _key(one)
            kind = "MODIFIED" if key in self.objects else "ADDED"
            await self._record(resource, kind, key, one)
            self.objects[key] = one

    async def delete(self, one: dict[str, Any]) -> None:
        """Delete an object."""
        resource, key = _key(one)
        await self._record(resource, "DELETED", key, self.objects.pop(key))

    def forget_history(self) -> None:
        """Compact: older versions are answered with 410."""
        self.compacted = self.version
        self.history.clear()

    def cut_watches(self) -> None:
        """Break all watch connections."""
        for task in list(self._watches):
            task.cancel()

    async def _record(self, resource: str, kind: str, _key: Key, one: dict[str, Any]) -> None:
        self.version += 1
        one["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, resource, {"type": kind, "object": deepcopy(one)}))
        async with self._changed:
            self._changed.notify_all()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        resource = request.match_info["resource"]
        kind = f"{'watch' if request.query.get('watch') else 'list'} {resource}"
        self.requests.append((kind, dict(request.query)))
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response(failure(401, "Unauthorized", "Unauthorized"), status=401)
        if self.orders.get(kind):
            return await self.orders[kind].pop(0)(request)
        return await (self._watch(request, resource) if kind.startswith("watch") else self._list(request, resource))

    async def _ordered(self, request: web.Request, kind: str) -> web.StreamResponse | None:
        self.requests.append((kind, dict(request.query)))
        if self.orders.get(kind):
            return await self.orders[kind].pop(0)(request)
        return None

    def _stored(self, request: web.Request) -> dict[str, Any] | None:
        match = request.match_info
        return self.objects.get((match["resource"], match.get("namespace", ""), match["name"]))

    async def _get(self, request: web.Request) -> web.StreamResponse:
        ordered = await self._ordered(request, f"get {request.match_info['resource']}")
        if ordered is not None:
            return ordered
        stored = self._stored(request)
        if stored is None:
            return web.json_response(failure(404, "NotFound"), status=404)
        return web.json_response(stored)

    async def _change(
        self, request: web.Request, kind: str, change: Callable[[dict[str, Any], dict[str, Any]], None]
    ) -> web.StreamResponse:
        ordered = await self._ordered(request, kind)
        if ordered is not None:
            return ordered
        stored, sent = self._stored(request), await request.json()
        if stored is None:
            return web.json_response(failure(404, "NotFound"), status=404)
        version = sent.get("metadata", {}).get("resourceVersion")
        if version and version != stored["metadata"]["resourceVersion"]:
            return web.json_response(failure(409, "Conflict", "the object has been modified"), status=409)
        stored = deepcopy(stored)
        change(stored, sent)
        await self.put(stored)
        return web.json_response(stored)

    async def _approve(self, request: web.Request) -> web.StreamResponse:
        def change(stored: dict[str, Any], sent: dict[str, Any]) -> None:
            stored.setdefault("status", {})["conditions"] = sent["status"]["conditions"]

        return await self._change(request, "approve", change)

    async def _discover(self, request: web.Request) -> web.StreamResponse:
        resources = [{"name": name} for name in ("nodes", "pods", *self.subresources)]
        return web.json_response({"kind": "APIResourceList", "groupVersion": "v1", "resources": resources})

    async def _list_within(self, request: web.Request) -> web.StreamResponse:
        """List what is in one namespace and has the labels that are asked for."""
        ordered = await self._ordered(request, "list within")
        if ordered is not None:
            return ordered
        wanted = dict(term.split("=") for term in request.query.get("labelSelector", "").split(",") if term)
        items = [
            one
            for (resource, namespace, _name), one in sorted(self.objects.items())
            if (resource, namespace) == (request.match_info["resource"], request.match_info["namespace"])
            and wanted.items() <= (one["metadata"].get("labels") or {}).items()
        ]
        return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _resize(self, request: web.Request) -> web.StreamResponse:
        assert request.content_type == "application/strategic-merge-patch+json"
        return await self._change(request, "resize pods", lambda stored, sent: _size(stored["spec"], sent["spec"]))

    async def _patch_container(self, request: web.Request) -> web.StreamResponse:
        def change(stored: dict[str, Any], sent: dict[str, Any]) -> None:
            _size(stored["spec"]["template"]["spec"], sent["spec"]["template"]["spec"])

        assert request.content_type == "application/strategic-merge-patch+json"
        return await self._change(request, "patch deployments", change)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        ordered = await self._ordered(request, "metrics")
        return ordered or web.Response(text=self.metrics)

    async def _list(self, request: web.Request, resource: str) -> web.StreamResponse:
        keys = sorted(key for key in self.objects if key[0] == resource)
        start = int(request.query.get("continue", "0"))
        limit = int(request.query.get("limit", "0")) or len(keys)
        metadata: dict[str, Any] = {"resourceVersion": str(self.version)}
        if start + limit < len(keys):
            metadata |= {"continue": str(start + limit), "remainingItemCount": len(keys) - start - limit}
        items = [self.objects[key] for key in keys[start : start + limit]]
        return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request, resource: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        version = int(request.query["resourceVersion"])
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            if version < self.compacted:
                await _send(response, {"type": "ERROR", "object": failure(410, "Expired", "too old resource version")})
                return response
            while True:
                for number, changed, event in list(self.history):
                    if number > version and changed == resource:
                        await _send(response, event)
                version = self.version
                async with self._changed:
                    await self._changed.wait_for(lambda seen=version: self.version > seen)  # type: ignore[misc]
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._watches.discard(task)


def _size(spec: dict[str, Any], sent: dict[str, Any]) -> None:
    """Change resources of containers as a strategic merge patch does."""
    containers = {one["name"]: one for one in spec["containers"]}
    for one in sent["containers"]:
        for section, amounts in one["resources"].items():
            containers[one["name"]].setdefault("resources", {}).setdefault(section, {}).update(amounts)


def _key(one: dict[str, Any]) -> tuple[str, Key]:
    resource = {
        "Node": "nodes",
        "Pod": "pods",
        "CertificateSigningRequest": "certificatesigningrequests",
        "Deployment": "deployments",
    }[one["kind"]]
    metadata = one["metadata"]
    return resource, (resource, metadata.get("namespace", ""), metadata["name"])


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(json.dumps(event).encode() + b"\n")


def answer(status: int, body: dict[str, Any] | bytes) -> Handler:
    """Return a handler that answers once."""

    async def handle(_request: web.Request) -> web.StreamResponse:
        if isinstance(body, bytes):
            return web.Response(status=status, body=body, content_type="application/json")
        return web.json_response(body, status=status)

    return handle


def stream(*events: dict[str, Any] | bytes) -> Handler:
    """Return a handler that sends events and ends the watch."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for event in events:
            if isinstance(event, bytes):
                await response.write(event)
            else:
                await _send(response, event)
        return response

    return handle
