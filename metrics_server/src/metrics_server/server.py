# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the packages of the server together, runs them, and stops them in order."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry

from metrics_server import __version__
from metrics_server.api import profiling
from metrics_server.api.app import AppConfig, Application, PathHandler
from metrics_server.api.http import HttpServer
from metrics_server.api.metrics import MetricsApi
from metrics_server.api.telemetry import ApiTelemetry
from metrics_server.auth.authorize import Authorizer
from metrics_server.auth.requestheader import Authenticator
from metrics_server.auth.token import TokenAuthenticator
from metrics_server.auth.trust import FrontProxyFlags, Trust
from metrics_server.health import Check, Health, Hysteresis
from metrics_server.kube.client import KubeClient, KubeError
from metrics_server.model import ClusterReader, MetricsReader
from metrics_server.options import Options
from metrics_server.serving_certificate import (
    Certificates,
    FileCertificates,
    ManagedCertificates,
    ManagedNames,
    SelfSignedCertificates,
    ServingError,
    TlsSettings,
)
from metrics_server.tls.files import MaterialError
from metrics_server.tls.listener import TlsConfigError, TlsListener

_log = logging.getLogger(__name__)

USER_AGENT = f"kubemetrics-metrics-server/{__version__}"
_KEEPALIVE_SECONDS = 180.0
_BACKLOG = 1024
#: How long requests under way may take to end after the last new one was accepted.
_DRAIN_SECONDS = 30.0


class StartError(Exception):
    """The server cannot start; the text is one sentence for the operator."""


class MetricsEngine(Protocol):
    """What the server needs of `engine.Engine`."""

    async def start(self) -> None:
        """Start watches and scrapes."""

    async def stop(self) -> None:
        """End them."""

    @property
    def store(self) -> MetricsReader:
        """The metrics."""

    @property
    def index(self) -> ClusterReader:
        """The nodes and pods."""

    def collection_problem(self) -> str | None:
        """Return why only a restart helps, or None."""

    def node_lines(self) -> Iterator[bytes]:
        """Yield the text of the metrics of each node, piece by piece."""

    def ready_reason(self) -> str | None:
        """Return why there is nothing to serve, or None."""


class Clients:
    """Clients of the API server, one for each kubeconfig and purpose.

    Each has connections of its own: reviews that hang, for whatever unauthenticated clients send, must not keep watches
    and other reviews from theirs.
    """

    def __init__(self, default: str) -> None:
        self._default = default
        self._clients: dict[tuple[str, str], KubeClient] = {}

    def get(self, kubeconfig: str = "", purpose: str = "") -> KubeClient:
        """Return the client for a kubeconfig (without one that of the whole server) and a purpose."""
        path = kubeconfig or self._default
        key = path, purpose
        if key not in self._clients:
            try:
                self._clients[key] = KubeClient.from_kubeconfig(path or None, user_agent=USER_AGENT)
            except KubeError as error:
                raise StartError(str(error)) from error
        return self._clients[key]

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()


class Server:
    """One run of the server."""

    def __init__(
        self,
        options: Options,
        clients: Clients,
        engine: MetricsEngine,
        registry: CollectorRegistry,
        observe_age: Callable[[float], None],
    ) -> None:
        """Put everything together; raise `StartError` when the settings cannot work.

        `observe_age` is told the age of samples that are handed out, in seconds.
        """
        self._options = options
        self._engine = engine
        self._stopping = asyncio.Event()
        self.trust = _trust(options, clients)
        self.certificates = _certificates(options, clients, lambda: engine.ready_reason() is None)
        telemetry = ApiTelemetry(registry, engine.node_lines)
        authenticator = Authenticator(
            self.trust,
            TokenAuthenticator(
                clients.get(options.authentication_kubeconfig, "token reviews"),
                options.authentication_token_webhook_cache_ttl,
            ),
        )
        self.app = Application(
            AppConfig(options.max_requests_inflight, options.strict_transport_security_directives),
            MetricsApi(engine.store, engine.index, observe_age),
            Health(self._checks()),
            authenticator,
            Authorizer(
                clients.get(options.authorization_kubeconfig, "access reviews"),
                allowed_ttl=options.authorization_webhook_cache_authorized_ttl,
                denied_ttl=options.authorization_webhook_cache_unauthorized_ttl,
                always_allow_paths=options.authorization_always_allow_paths,
            ),
            telemetry.observe_request,
            _paths(options, telemetry),
        )
        self._web = HttpServer(self.app, request_timeout=options.request_timeout, keepalive_timeout=_KEEPALIVE_SECONDS)
        try:
            context = self.certificates.start()
        except (ServingError, TlsConfigError) as error:
            raise StartError(str(error)) from error
        self.listener = TlsListener(context, self._web, max_connections=options.max_connections)
        telemetry.watch(
            expiry=self._expiry,
            front_proxy_expiry=lambda: authenticator.front_proxy_expiry(self.listener.open_connections),
            connections=lambda: float(self.listener.connections),
            refused=lambda: float(self.listener.refused),
        )

    def _expiry(self) -> float:
        moment = self.certificates.not_after
        return moment.timestamp() if moment is not None else 0.0

    def _checks(self) -> Mapping[str, Mapping[str, Check]]:
        def shutdown() -> str | None:
            return "process is shutting down" if self._stopping.is_set() else None

        def informers() -> str | None:
            return None if self._engine.index.synced else "nodes and pods have not been listed yet"

        def metadata() -> str | None:
            return None if self._engine.index.pods_synced else "pods have not been listed yet"

        ready: dict[str, Check] = {
            "metric-storage-ready": Hysteresis(self._engine.ready_reason),
            "metric-informer-sync": informers,
            "metadata-informer-sync": metadata,
            "serving-certificate": self.certificates.problem,
            "shutdown": shutdown,
        }
        if self.trust.looks_up:
            ready["authentication-configuration"] = lambda: self.trust.problem
        return {
            "livez": {"metric-collection-timely": self._engine.collection_problem},
            "readyz": ready,
            "healthz": {"metadata-informer-sync": metadata},
        }

    def stop(self) -> None:
        """Begin to end; `run` returns when everything has ended."""
        if not self._stopping.is_set():
            _log.info("Shutting down")
            self._stopping.set()

    async def run(self, started: Callable[[int], None] | None = None) -> None:
        """Serve until `stop` is called. `started` is told the port when connections are accepted."""
        loop = asyncio.get_running_loop()
        sock = _listen(self._options)
        tcp = await loop.create_server(self.listener, sock=sock, backlog=_BACKLOG)
        port = sock.getsockname()[1]
        _log.info("Serving securely", extra={"kv": {"address": f"{self._options.bind_address}:{port}"}})
        if started is not None:
            started(port)
        await self._engine.start()
        background = asyncio.ensure_future(self._follow())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((background, stopping), return_when=asyncio.FIRST_COMPLETED)
            if background.done():
                # It never ends by itself: this is an error, and its exception the reason.
                background.result()
            await self._drain(tcp)
        finally:
            stopping.cancel()
            background.cancel()
            await asyncio.gather(stopping, background, return_exceptions=True)
            tcp.close()
            await self._web.shutdown(1.0)
            await self._engine.stop()
            _log.info("Stopped")

    async def _follow(self) -> None:
        def use(context: object) -> None:
            self.listener.context = context  # type: ignore[assignment]

        async with asyncio.TaskGroup() as group:
            group.create_task(self.trust.run(), name="trust")
            group.create_task(self.certificates.run(use), name="serving certificate")

    async def _drain(self, tcp: asyncio.Server) -> None:
        """End without cutting a client off: first let the load balancers notice, then let the last requests end."""
        self.app.closing = True
        await asyncio.sleep(self._options.shutdown_delay_duration)
        if self._options.shutdown_send_retry_after:
            self.app.refusing = True
        else:
            tcp.close()
        try:
            async with asyncio.timeout(min(_DRAIN_SECONDS, self._options.request_timeout)):
                await self.app.drained()
        except TimeoutError:
            _log.warning("Requests still under way are cut off")


def _paths(options: Options, telemetry: ApiTelemetry) -> dict[str, PathHandler]:
    paths: dict[str, PathHandler] = {"/metrics": telemetry.expose}
    if options.profiling:
        paths |= {
            "/debug/pprof": profiling.index,
            "/debug/pprof/profile": profiling.CpuProfile(),
            "/debug/pprof/tasks": profiling.tasks,
        }
    return paths


def _trust(options: Options, clients: Clients) -> Trust:
    flags = FrontProxyFlags(
        options.requestheader_client_ca_file,
        options.requestheader_allowed_names,
        options.requestheader_username_headers,
        options.requestheader_group_headers,
        options.requestheader_uid_headers,
        options.requestheader_extra_headers_prefix,
    )
    trust = Trust(
        clients.get(options.authentication_kubeconfig),
        client_ca_file=options.client_ca_file,
        front_proxy=flags,
        lookup=not options.authentication_skip_lookup,
        tolerate_lookup_failure=options.authentication_tolerate_lookup_failure,
    )
    try:
        trust.load_files()
    except (MaterialError, ValueError) as error:
        raise StartError(f"{error} (--client-ca-file, --requestheader-client-ca-file)") from error
    return trust


def _certificates(options: Options, clients: Clients, ready: Callable[[], bool]) -> Certificates:
    settings = TlsSettings(options.tls_min_version, options.tls_cipher_suites)
    if options.tls_cert_file:
        return FileCertificates(options.tls_cert_file, options.tls_private_key_file, settings)
    if options.self_managed_certificate:
        names = ManagedNames(
            options.serving_secret, options.service_name, options.service_namespace, options.apiservice
        )
        return ManagedCertificates(clients.get(), names, settings, ready)
    return SelfSignedCertificates(options.cert_dir, settings)


def _listen(options: Options) -> socket.socket:
    host, port = options.bind_address, options.secure_port
    shared = options.permit_port_sharing
    try:
        if host in ("0.0.0.0", "::") and socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, reuse_port=shared)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, reuse_port=shared)
    except OSError as error:
        advice = "choose another one with --secure-port"
        if error.errno == errno.EADDRNOTAVAIL:
            advice = "--bind-address must be an address of this host"
        raise StartError(
            f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}; {advice}"
        ) from error


#: Makes the engine, and what is told the age of samples that are handed out.
EngineFactory = Callable[[Options, KubeClient, CollectorRegistry], tuple[MetricsEngine, Callable[[float], None]]]


async def serve(options: Options, make_engine: EngineFactory) -> None:
    """Run a server until SIGTERM or SIGINT; raise `StartError` when it cannot start."""
    registry = CollectorRegistry()
    clients = Clients(options.kubeconfig)
    try:
        engine, observe_age = make_engine(options, clients.get(), registry)
        server = Server(options, clients, engine, registry, observe_age)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        await server.run()
    finally:
        await clients.close()
