# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet that fake kubelets, seeded objects and checks agree upon: names, addresses, counters."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import cached_property

#: All node addresses are on the loopback device; Linux answers for the whole of 127.0.0.0/8.
_FIRST_ADDRESS = int(ipaddress.ip_address("127.1.0.1"))
#: The fleet's one certificate covers `*.DOMAIN`; a client that compares names needs each node's Hostname below it.
DOMAIN = "fleet.test"
#: So many nodes share as many namespaces, so that with 30 pods a node a namespace has 30 pods, each on another node.
_GROUP = 30
#: Seconds since the Unix epoch at which all containers are said to have started.
STARTED = 1_700_000_000


@dataclass(frozen=True)
class Container:
    """One container of a fake node."""

    namespace: str
    pod: str
    name: str
    #: Cores in use, for ever.
    cores: float
    memory: int


@dataclass(frozen=True)
class Node:
    """One fake node."""

    number: int
    pods: int

    @cached_property
    def name(self) -> str:
        return f"fleet-{self.number:05}"

    @cached_property
    def hostname(self) -> str:
        return f"{self.name}.{DOMAIN}"

    @cached_property
    def address(self) -> str:
        return str(ipaddress.ip_address(_FIRST_ADDRESS + self.number))

    @property
    def containers(self) -> list[Container]:
        """Its containers, one a pod, in the order in which a kubelet prints them."""
        found = []
        for number in range(self.pods):
            serial = self.number * self.pods + number
            namespace = f"team-{self.number // _GROUP * _GROUP + number % _GROUP:04}"
            cores = 0.001 * (1 + serial % 200)
            memory = 4096 * (1000 + serial % 50_000)
            found.append(Container(namespace, f"load-{serial:06}-7d9f8b6c5d-abcde", "app", cores, memory))
        return sorted(found, key=lambda one: (one.name, one.namespace, one.pod))


def node_number(address: str) -> int:
    """Return the number of the node with this address."""
    return int(ipaddress.ip_address(address)) - _FIRST_ADDRESS


def node_object(node: Node, port: int) -> dict[str, object]:
    """Return the Node for the API server."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
                "kubemetrics.dev/fleet": "bench",
            },
        },
        "spec": {"taints": [{"key": "kubemetrics.dev/fleet", "effect": "NoSchedule"}]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.address},
                {"type": "Hostname", "address": node.hostname},
            ],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        },
    }


def pod_object(node: Node, container: Container) -> dict[str, object]:
    """Return one running Pod for the API server."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": container.pod,
            "namespace": container.namespace,
            "labels": {"app": "load", "pod-template-hash": "7d9f8b6c5d"},
            "creationTimestamp": "2023-11-14T22:13:20Z",
        },
        "spec": {
            "nodeName": node.name,
            "containers": [{"name": container.name, "image": "registry.invalid/load:1"}],
            "tolerations": [{"operator": "Exists"}],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {
                    "name": container.name,
                    "image": "registry.invalid/load:1",
                    "imageID": "",
                    "ready": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": "2023-11-14T22:13:20Z"}},
                }
            ],
        },
    }
