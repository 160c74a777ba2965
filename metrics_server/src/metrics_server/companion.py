# SPDX-License-Identifier: GPL-3.0-or-later
"""What the small programs beside the server have in common: their flags, their health and metrics, and how they end."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from metrics_server import __version__, logs
from metrics_server.flags import FlagError, FlagSet, Parsed, flag
from metrics_server.health import Health
from metrics_server.kube.client import KubeClient, KubeError

log = logging.getLogger(__name__)


class CompanionError(Exception):
    """The program cannot start or go on; the text is one sentence for the operator."""


_GROUP, _LOGGING = "Common", "Logging"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """The settings that all of them have, but for the default of --port."""

    kubeconfig: str = flag("string", "", _GROUP, "Kubeconfig file; without it the pod's service account is used.")
    bind_address: str = flag("ip", "0.0.0.0", _GROUP, "Address for health and metrics; 0.0.0.0 and :: mean all.")
    port: int
    version: bool = flag("bool", False, _GROUP, "Print the version and exit.")
    help: bool = flag("bool", False, _GROUP, "Print this help and exit.", shorthand="h")
    logging_format: str = flag("string", "text", _LOGGING, "Form of the log: text or json.")
    v: int = flag("int", 0, _LOGGING, "Verbosity of the log: 4 and more show every step.", shorthand="v")


def port_flag(default: int) -> Any:
    """Declare --port."""
    text = "Port for /healthz, /livez, /readyz and /metrics, in plain HTTP. 0 for none."
    return flag("int", default, _GROUP, text)


def start(flags: FlagSet, name: str, purpose: str, arguments: list[str]) -> Parsed | None:
    """Parse a command line and set up the log; return None when --help or --version was all that was asked."""
    parsed = flags.parse(arguments)
    values = parsed.values
    if values["help"]:
        print(f"{purpose}\n\nUsage:\n  metrics-server {name} [flags]\n")
        print(flags.usage(shutil.get_terminal_size((120, 24)).columns))
        return None
    if values["version"]:
        print(f"v{__version__}")
        return None
    if values["logging_format"] not in ("text", "json"):
        raise FlagError(f'--logging-format: "{values["logging_format"]}" is not known, must be text or json')
    if values["v"] < 0:
        raise FlagError("-v must not be negative")
    if not 0 <= values["port"] <= 65535:
        raise FlagError(f"--port {values['port']} must be between 0 and 65535, inclusive")
    warnings = flags.warnings(parsed)
    # A second series for every counter, with the time of its first use: of no use here.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    logs.set_up(form=values["logging_format"], verbosity=values["v"])
    for warning in warnings:
        log.warning("%s", warning)
    return parsed


class Companion:
    """One program: background tasks, a page for health and one for metrics, and an end by signal."""

    def __init__(self, health: Health, registry: CollectorRegistry) -> None:
        self._health = health
        self._registry = registry
        self._stopping = asyncio.Event()
        ProcessCollector(registry=registry)

    def stop(self) -> None:
        """Begin to end."""
        self._stopping.set()

    async def run(
        self,
        settings: CommonOptions,
        tasks: Iterable[Coroutine[Any, Any, None]],
        started: Callable[[int], None] | None = None,
    ) -> None:
        """Run the tasks until `stop` is called. They never end by themselves; the first error ends everything."""
        running: list[asyncio.Future[Any]] = [asyncio.ensure_future(task) for task in tasks]
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stopping.wait())
        runner = await self._listen(settings, started)
        try:
            await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
            for task in running:
                if task.done():
                    task.result()
        finally:
            for task in (stopping, *running):
                task.cancel()
            await asyncio.gather(stopping, *running, return_exceptions=True)
            if runner is not None:
                await runner.cleanup()

    async def _listen(self, settings: CommonOptions, started: Callable[[int], None] | None) -> web.AppRunner | None:
        if settings.port == 0 and started is None:
            return None
        application = web.Application()
        for path in self._health.paths():
            application.router.add_get(path, self._report)
        application.router.add_get("/metrics", self._expose)
        application.on_response_prepare.append(_without_versions)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        everywhere = settings.bind_address in ("0.0.0.0", "::")
        try:
            await web.TCPSite(runner, None if everywhere else settings.bind_address, settings.port).start()
        except OSError as error:
            await runner.cleanup()
            raise CompanionError(
                f"cannot listen on {settings.bind_address}:{settings.port}: {(error.strerror or str(error)).lower()}; "
                "choose another one with --port"
            ) from error
        if started is not None:
            started(runner.addresses[0][1])
        return runner

    async def _report(self, request: web.Request) -> web.Response:
        report = self._health.report(
            request.path, verbose="verbose" in request.query, excluded=request.query.getall("exclude", ())
        )
        assert report is not None
        return web.Response(text=report.text, status=200 if report.healthy else 500)

    async def _expose(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _without_versions(_request: web.Request, response: web.StreamResponse) -> None:
    """Leave out the header that names the versions of the library and the interpreter."""
    response.headers.pop("Server", None)


def until_signal(companion: Companion) -> None:
    """End the program on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, companion.stop)


def connect(settings: CommonOptions, name: str) -> KubeClient:
    """Return a client for the API server."""
    return KubeClient.from_kubeconfig(settings.kubeconfig or None, user_agent=f"kubemetrics-{name}/{__version__}")


def exit_code(run: Coroutine[Any, Any, None]) -> int:
    """Run a program to its end and return its exit code."""
    try:
        asyncio.run(run)
    except (CompanionError, KubeError) as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0
