# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the API side share: certificates of every kind, an API server, a cluster and a store."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from prometheus_client import CollectorRegistry
from yarl import URL

from metrics_server.fragments import JSON
from metrics_server.model import ContainerUsage, Form, NodeMeta, PodMeta, Reading
from metrics_server.options import parse_options
from metrics_server.server import Clients, Server

NOW = 1_760_000_000
STAMP = "2025-10-09T08:53:20Z"


@dataclass(frozen=True)
class Credential:
    """A certificate and its key, in memory and in files."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    certificate_file: Path
    key_file: Path

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


class Pki:
    """Makes certificates, good ones and bad ones."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def ca(self, name: str) -> Credential:
        return self._make(name, None, is_ca=True)

    def leaf(
        self,
        issuer: Credential,
        name: str,
        *,
        organizations: Sequence[str] = (),
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        lifetime: tuple[float, float] = (-1.0, 24.0),
        names: Sequence[str] = (),
        is_ca: bool = False,
    ) -> Credential:
        """Make a certificate; the lifetime is in hours from now."""
        return self._make(
            name, issuer, organizations=organizations, usage=usage, lifetime=lifetime, names=names, is_ca=is_ca
        )

    def _make(
        self,
        name: str,
        issuer: Credential | None,
        *,
        organizations: Sequence[str] = (),
        usage: x509.ObjectIdentifier | None = None,
        lifetime: tuple[float, float] = (-1.0, 24.0),
        names: Sequence[str] = (),
        is_ca: bool = False,
    ) -> Credential:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, text) for text in organizations]
            + [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        )
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(hours=lifetime[0]))
            .not_valid_after(now + datetime.timedelta(hours=lifetime[1]))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(text) for text in names]), critical=False
            )
        certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
        self._count += 1
        stem = self._directory / f"{self._count}-{name.replace('/', '_').replace(':', '_')}"
        credential = Credential(certificate, key, stem.with_suffix(".crt"), stem.with_suffix(".key"))
        credential.certificate_file.write_text(credential.pem)
        credential.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return credential


def usage(name: str, cpu: int, memory: int) -> ContainerUsage:
    return ContainerUsage(name, cpu, memory)


@dataclass
class FakeCluster:
    """A ClusterReader over plain dictionaries."""

    node_list: dict[str, NodeMeta] = field(default_factory=dict)
    pod_list: dict[tuple[str, str], PodMeta] = field(default_factory=dict)
    synced: bool = True
    nodes_synced: bool = True
    pods_synced: bool = True

    def add_node(self, name: str, labels: Mapping[str, str]) -> None:
        self.node_list[name] = NodeMeta(
            name=name,
            labels=dict(labels),
            labels_json=b',"labels":%b' % json.dumps(dict(labels), separators=(",", ":")).encode(),
        )

    def add_pod(self, namespace: str, name: str, node: str, labels: Mapping[str, str]) -> None:
        self.pod_list[namespace, name] = PodMeta(
            namespace=namespace,
            name=name,
            node_name=node,
            labels=dict(labels),
            labels_json=b',"labels":%b' % json.dumps(dict(labels), separators=(",", ":")).encode(),
        )

    @property
    def pod_count(self) -> int:
        return len(self.pod_list)

    def node(self, name: str) -> NodeMeta | None:
        return self.node_list.get(name)

    def nodes(self) -> Sequence[NodeMeta]:
        return [self.node_list[name] for name in sorted(self.node_list)]

    def pod(self, namespace: str, name: str) -> PodMeta | None:
        return self.pod_list.get((namespace, name))

    def pods(self, namespace: str | None = None) -> Sequence[PodMeta]:
        return [self.pod_list[key] for key in sorted(self.pod_list) if namespace in (None, key[0])]


@dataclass
class FakeStore:
    """A MetricsReader over plain dictionaries; the fragments are written down by hand, as the contract has them."""

    node_readings: dict[str, tuple[Reading, bytes]] = field(default_factory=dict)
    pod_readings: dict[tuple[str, str], tuple[Reading, bytes]] = field(default_factory=dict)

    def node_reading(self, name: str) -> Reading | None:
        return self.node_readings[name][0] if name in self.node_readings else None

    def node_fragment(self, name: str, form: Form = JSON) -> bytes | None:
        if name not in self.node_readings:
            return None
        reading, fragment = self.node_readings[name]
        return fragment if form is JSON else form.node(reading)

    def pod_reading(self, namespace: str, name: str) -> Reading | None:
        return self.pod_readings[namespace, name][0] if (namespace, name) in self.pod_readings else None

    def pod_fragment(self, namespace: str, name: str) -> bytes | None:
        return self.pod_readings[namespace, name][1] if (namespace, name) in self.pod_readings else None

    def reading_of(self, pod: PodMeta) -> Reading | None:
        return self.pod_reading(pod.namespace, pod.name)

    def fragment_of(self, pod: PodMeta, form: Form = JSON, *, alone: bool = False) -> bytes | None:
        if (pod.namespace, pod.name) not in self.pod_readings:
            return None
        reading, fragment = self.pod_readings[pod.namespace, pod.name]
        return fragment if form is JSON else form.pod(reading)


class FakeEngine:
    """An engine whose data stand from the start."""

    def __init__(self) -> None:
        self.index = FakeCluster()
        self.store = FakeStore()
        self.reason: str | None = None
        self.failure: str | None = None
        self.running = False

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    def ready_reason(self) -> str | None:
        return self.reason

    def collection_problem(self) -> str | None:
        return self.failure

    def node_lines(self) -> Iterator[bytes]:
        yield b"lines_of_nodes 1\n"

    def fill(self) -> None:
        """Two nodes with metrics and one without; three pods with metrics and one without."""
        self.index.add_node("n1", {"zone": "a", "kubernetes.io/hostname": "n1"})
        self.index.add_node("n2", {"zone": "b"})
        self.index.add_node("n3", {"zone": "b"})
        for name, cpu, cpu_text, memory, memory_text in (
            ("n1", 123456789, "123456789n", 151072768, "147532Ki"),
            ("n2", 250000000, "250m", 1 << 30, "1Gi"),
        ):
            fragment = (
                f'"timestamp":"{STAMP}","window":"15.029s","usage":{{"cpu":"{cpu_text}","memory":"{memory_text}"}}'
            )
            reading = Reading(NOW * 10**9, 15_029_000_000, (usage("", cpu, memory),))
            self.store.node_readings[name] = (reading, fragment.encode())
        for namespace, name, node, labels in (
            ("default", "web-1", "n1", {"app": "web", "tier": "front"}),
            ("default", "web-2", "n2", {"app": "web"}),
            ("kube-system", "dns", "n1", {"app": "dns"}),
            ("kube-system", "fresh", "n1", {"app": "fresh"}),
        ):
            self.index.add_pod(namespace, name, node, labels)
            if name == "fresh":
                continue
            fragment = (
                f'"timestamp":"{STAMP}","window":"10s","containers":['
                '{"name":"a","usage":{"cpu":"1500u","memory":"1Mi"}},{"name":"b","usage":{"cpu":"0","memory":"512Ki"}}]'
            )
            reading = Reading(NOW * 10**9, 10_000_000_000, (usage("a", 1_500_000, 1 << 20), usage("b", 0, 512 << 10)))
            self.store.pod_readings[namespace, name] = (reading, fragment.encode())


class FakeApiServer:
    """Answers reviews, the authentication ConfigMap, Secrets and APIServices over real TLS."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.ca = pki.ca("kubernetes")
        self.serving = pki.leaf(self.ca, "kube-apiserver", usage=ExtendedKeyUsageOID.SERVER_AUTH, names=["localhost"])
        self.tokens: dict[str, dict[str, Any]] = {}
        #: (user, verb, path or resource) that are denied; all else is allowed.
        self.denied: set[tuple[str, str, str]] = set()
        self.config_map: dict[str, str] | None = {}
        self.secrets: dict[str, dict[str, Any]] = {}
        self.api_services: dict[str, dict[str, Any]] = {}
        self.away = False
        self.forbidden_paths: set[str] = set()
        self.reviews: list[dict[str, Any]] = []
        self.token_reviews = 0
        #: Cleared: token reviews are not answered.
        self.answering_tokens = asyncio.Event()
        self.answering_tokens.set()
        self.log: list[tuple[str, str]] = []
        self._version = 1
        self._changed = asyncio.Condition()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeApiServer]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.serving.certificate_file, self.serving.key_file)
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"https://localhost:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def kubeconfig(self, path: Path) -> Path:
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {
                            "name": "c",
                            "cluster": {"server": self.url, "certificate-authority": str(self.ca.certificate_file)},
                        }
                    ],
                    "users": [{"name": "u", "user": {"token": "the-servers-own"}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        return path

    async def change_config_map(self, data: dict[str, str] | None) -> None:
        async with self._changed:
            self.config_map = data
            self._version += 1
            self._changed.notify_all()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.log.append((request.method, request.path))
        if self.away:
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPServiceUnavailable
        if request.path in self.forbidden_paths:
            return _status(403, "Forbidden", "User cannot create resource")
        parts = request.path.strip("/").split("/")
        if parts[-1] == "tokenreviews":
            return await self._token_review(request)
        if parts[-1] == "subjectaccessreviews":
            return await self._access_review(request)
        if "configmaps" in parts:
            return await self._config_maps(request)
        if "secrets" in parts:
            return await self._secret(request, parts)
        if "apiservices" in parts:
            return await self._api_service(request, parts[-1])
        return _status(404, "NotFound", "no such path")

    async def _token_review(self, request: web.BaseRequest) -> web.Response:
        self.token_reviews += 1
        await self.answering_tokens.wait()
        user = self.tokens.get((await request.json())["spec"]["token"])
        status = {"authenticated": True, "user": user} if user else {"authenticated": False, "error": "no such token"}
        return web.json_response({"kind": "TokenReview", "status": status}, status=201)

    async def _access_review(self, request: web.BaseRequest) -> web.Response:
        spec = (await request.json())["spec"]
        self.reviews.append(spec)
        resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        subject = resource["resource"] if resource else path["path"]
        verb = (resource or path)["verb"]
        denied = (spec["user"], verb, subject) in self.denied or spec["user"] == "system:anonymous"
        return web.json_response({"kind": "SubjectAccessReview", "status": {"allowed": not denied}}, status=201)

    def _config_map_object(self) -> dict[str, Any]:
        return {
            "kind": "ConfigMap",
            "metadata": {"name": "extension-apiserver-authentication", "resourceVersion": str(self._version)},
            "data": self.config_map,
        }

    async def _config_maps(self, request: web.BaseRequest) -> web.StreamResponse:
        if "watch" not in request.query:
            if self.config_map is None:
                return _status(404, "NotFound", "configmap not found")
            return web.json_response(self._config_map_object())
        assert request.query["fieldSelector"] == "metadata.name=extension-apiserver-authentication"
        response = web.StreamResponse()
        await response.prepare(request)
        seen = int(request.query["resourceVersion"])
        while True:
            async with self._changed:
                while self._version <= seen:
                    await self._changed.wait()
                seen = self._version
                kind = "MODIFIED" if self.config_map is not None else "DELETED"
                event = {"type": kind, "object": self._config_map_object()}
            await response.write(json.dumps(event).encode() + b"\n")

    async def _secret(self, request: web.BaseRequest, parts: list[str]) -> web.Response:
        if request.method == "POST":
            body = await request.json()
            name = body["metadata"]["name"]
            if name in self.secrets:
                return _status(409, "AlreadyExists", "secret exists")
        else:
            name = parts[-1]
            if name not in self.secrets:
                return _status(404, "NotFound", "secret not found")
            if request.method == "GET":
                return web.json_response(self.secrets[name])
            body = await request.json()
            if body["metadata"].get("resourceVersion") != self.secrets[name]["metadata"]["resourceVersion"]:
                return _status(409, "Conflict", "the object has been modified")
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.secrets[name] = body
        return web.json_response(body)

    async def _api_service(self, request: web.BaseRequest, name: str) -> web.Response:
        if name not in self.api_services:
            return _status(404, "NotFound", "apiservice not found")
        found = self.api_services[name]
        if request.method == "PATCH":
            assert request.headers["Content-Type"] == "application/merge-patch+json"
            patch = await request.json()
            found["spec"] = {**found["spec"], **patch["spec"]}
            self._version += 1
            found["metadata"]["resourceVersion"] = str(self._version)
        return web.json_response(found)


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code)


@dataclass
class Running:
    """A server under test and how to reach it."""

    server: Server
    engine: FakeEngine
    api: FakeApiServer
    port: int
    task: asyncio.Task[None]
    #: The ages of samples that were handed out.
    ages: list[float]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def get(
        self,
        path: str,
        *,
        credential: Credential | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        method: str = "GET",
        token: str | None = None,
        chain: Path | None = None,
    ) -> Answer:
        """Send one request on a connection of its own."""
        return await fetch(
            self.url + path, credential=credential, headers=headers, method=method, token=token, chain=chain
        )


async def fetch(
    url: str,
    *,
    credential: Credential | None = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    method: str = "GET",
    token: str | None = None,
    chain: Path | None = None,
) -> Answer:
    """Send one request on a connection of its own."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    if token is not None:
        pairs.append(("Authorization", f"Bearer {token}"))
    connector = aiohttp.TCPConnector(ssl=client_context(credential, chain))
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        session.request(method, URL(url, encoded=True), headers=pairs) as response,
    ):
        return Answer(response.status, response.headers.copy(), await response.read())


def client_context(credential: Credential | None = None, chain: Path | None = None) -> ssl.SSLContext:
    """Return a context that takes any server: the tests of serving check its certificate, others need not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if credential is not None:
        context.load_cert_chain(chain or credential.certificate_file, credential.key_file)
    return context


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def running_server(
    api: FakeApiServer, directory: Path, arguments: Sequence[str] = (), engine: FakeEngine | None = None
) -> AsyncIterator[Running]:
    """Run the server against the fake API server until the block ends."""
    engine = engine or FakeEngine()
    kubeconfig = api.kubeconfig(directory / "kubeconfig")
    options = parse_options(
        [
            f"--kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            # The kernel chooses a port when a test hands in 0 below; the flag itself refuses it.
            "--secure-port=1",
            f"--cert-dir={directory / 'certs'}",
            *arguments,
        ]
    )
    object.__setattr__(options, "secure_port", 0)
    clients = Clients(options.kubeconfig)
    ages: list[float] = []
    server = Server(options, clients, engine, CollectorRegistry(), ages.append)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(server.run(port.set_result))
    await asyncio.wait((task, port), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        yield Running(server, engine, api, port.result(), task, ages)
    finally:
        server.stop()
        await asyncio.wait_for(task, 10)
        await clients.close()


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until something holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
