# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics server itself: command line, log, one run, exit code."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, disable_created_metrics

from metrics_server import __version__, logs
from metrics_server.engine import Engine, EngineConfig, EngineError
from metrics_server.kube.client import KubeClient, KubeError
from metrics_server.options import FLAGS, Options, parse_options
from metrics_server.server import USER_AGENT, StartError, serve
from metrics_server.telemetry import EngineTelemetry

_log = logging.getLogger(__name__)


def _engine(
    options: Options, client: KubeClient, registry: CollectorRegistry
) -> tuple[Engine, Callable[[float], None]]:
    config = EngineConfig(
        metric_resolution=options.metric_resolution,
        kubelet_request_timeout=options.kubelet_request_timeout,
        kubelet_port=options.kubelet_port,
        kubelet_use_node_status_port=options.kubelet_use_node_status_port,
        kubelet_preferred_address_types=options.kubelet_preferred_address_types,
        kubelet_certificate_authority=options.kubelet_certificate_authority or None,
        kubelet_client_certificate=options.kubelet_client_certificate or None,
        kubelet_client_key=options.kubelet_client_key or None,
        kubelet_insecure_tls=options.kubelet_insecure_tls,
        kubelet_completely_insecure=options.deprecated_kubelet_completely_insecure,
        kubelet_source="summary" if options.kubelet_summary_api else "resource",
        node_selector=options.node_selector.strip(),
        user_agent=USER_AGENT,
    )
    telemetry = EngineTelemetry(registry)
    return Engine(config, client, telemetry), telemetry.freshness.observe


def main(arguments: Sequence[str]) -> int:
    """Run the server and return its exit code. Raises FlagError."""
    options = parse_options(arguments)
    if options.help:
        print("Serve the resource metrics API of a Kubernetes cluster.\n\nUsage:\n  metrics-server [flags]")
        print("  metrics-server csr-approver [flags]   approve serving certificates of kubelets")
        print("  metrics-server nanny [flags]          size a container by the number of nodes\n")
        print(FLAGS.usage(shutil.get_terminal_size((120, 24)).columns))
        return 0
    if options.version:
        print(f"v{__version__}")
        return 0
    # A second series for every counter, with the time of its first use: of no use here.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    logs.set_up(form=options.logging_format, verbosity=options.v, vmodule=options.vmodule)
    for warning in options.warnings:
        _log.warning("%s", warning)
    try:
        asyncio.run(serve(options, _engine))
    except (StartError, EngineError, KubeError) as error:
        _log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0
