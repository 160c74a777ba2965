# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything between the cluster and the API: owns the watches, the kubelet client, the scheduler and the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from metrics_server.cluster.index import ClusterIndex
from metrics_server.kube import KubeClient
from metrics_server.kubelet.address import DEFAULT_ADDRESS_TYPES
from metrics_server.store import Store
from metrics_server.telemetry import EngineTelemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine can be told; the names are those of the command-line flags."""

    #: Seconds between two scrapes of one node.
    metric_resolution: float = 60.0
    kubelet_request_timeout: float = 10.0
    kubelet_port: int = 10250
    #: Take the port from the Node's status.daemonEndpoints, `kubelet_port` where it has none.
    kubelet_use_node_status_port: bool = False
    kubelet_preferred_address_types: tuple[str, ...] = DEFAULT_ADDRESS_TYPES
    #: File with the CAs that sign the kubelets' serving certificates; None: the in-cluster root CA.
    kubelet_certificate_authority: str | None = None
    #: Client certificate for the kubelets; without one the service account's token is sent.
    kubelet_client_certificate: str | None = None
    kubelet_client_key: str | None = None
    #: Token file for the kubelets; None: what the API client uses (service account or kubeconfig).
    kubelet_token_file: str | None = None
    #: Accept any kubelet certificate. Only ever true because an operator said so.
    kubelet_insecure_tls: bool = False
    #: Plain HTTP, for the old read-only port. Only ever true because an operator said so.
    kubelet_completely_insecure: bool = False
    #: `resource` (/metrics/resource, /stats/summary where a kubelet has no such path) or `summary` (always /stats/summary).
    kubelet_source: str = "resource"
    #: Label selector of the nodes to scrape; empty: all.
    node_selector: str = ""
    #: Largest accepted answer of a kubelet in bytes.
    kubelet_max_body: int = 32 * 1024 * 1024
    #: Most scrapes under way at one time.
    max_concurrency: int = 512
    #: Seconds for which the last points outlive failing scrapes; None: four resolutions, at least a minute.
    point_lifetime: float | None = field(default=None)


class Engine:
    """`await start()` returns at once; data arrives in the background. `await stop()` ends everything."""

    def __init__(self, config: EngineConfig, client: KubeClient, telemetry: EngineTelemetry) -> None: ...

    async def start(self) -> None:
        """Start watches and scrapes."""

    async def stop(self) -> None:
        """End watches and scrapes and close all connections."""

    @property
    def store(self) -> Store:
        """The MetricsReader."""

    @property
    def index(self) -> ClusterIndex:
        """The ClusterReader."""

    def ready_reason(self) -> str | None:
        """Return None when ready to serve, else one sentence that says why not."""
