# SPDX-License-Identifier: GPL-3.0-or-later
"""What one request costs the server in CPU time: one kept-alive TLS connection, the next request after each answer.

PYTHONPATH=metrics_server/src:metrics_server/tests python bench/request_cpu.py --nodes 1000 5000

The server runs in this process, with the fleet's nodes and pods in its store and without scrapes; the client is a
process of its own, whose time does not count. The front proxy asks for a user whose access is known already, as an API
server does for the HPA. The least of several rounds is printed, so that what else the machine does matters little.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import multiprocessing.connection
import socket
import ssl
import tempfile
import time
from array import array
from pathlib import Path

import msgspec
from api.conftest import config_map
from api.support import FakeApiServer, FakeEngine, Pki, client_context, eventually, running_server
from metrics_server.kube.entries import NodeObject, PodObject, node_entry, pod_entry
from metrics_server.kube.index import ClusterIndex
from metrics_server.scrape.batch import Batch, Layout, NodePoint
from metrics_server.store import Store
from shape import Node, node_object, pod_object

_BASE = "/apis/metrics.k8s.io/v1beta1"
_PROTOBUF = "application/vnd.kubernetes.protobuf,application/json"
_USER = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
_GROUPS = ("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated")


class Engine(FakeEngine):
    """A full store and index in place of scrapes."""

    def __init__(self, nodes: int, pods: int) -> None:
        super().__init__()
        # The stand-in declares these two as what its tests put there; here they are what the server itself has.
        index = self.index = ClusterIndex()  # type: ignore[assignment]
        store = self.store = Store(index.pod, lifetime=1e9)  # type: ignore[assignment]
        decode_node, decode_pod = msgspec.json.Decoder(NodeObject).decode, msgspec.json.Decoder(PodObject).decode
        now = int(time.time() * 1000)
        for number in range(nodes):
            node = Node(number, pods)
            index.put_node(node_entry(decode_node(json.dumps(node_object(node, 10250)))))
            containers = node.containers
            for one in containers:
                index.put_pod(pod_entry(decode_pod(json.dumps(pod_object(node, one)))))
            size = len(containers)
            layout = Layout(
                {(one.namespace, one.pod): slot for slot, one in enumerate(containers)},
                [(one.name,) for one in containers],
                [(slot,) for slot in range(size)],
                size,
            )
            for step in range(2):
                stamp = now - 20_000 + step * 15_000
                cpu = array("d", [100.0 + one.cores * (1 + 15 * step) for one in containers])
                memory = array("d", [float(one.memory) for one in containers])
                point = NodePoint(stamp, 100.0 + 9.5 * step, 2.0**30)
                times, starts = array("q", [stamp] * size), array("d", bytes(8 * size))
                store.commit(node.name, Batch(layout, point, times, cpu, memory, starts, stamp, stamp))
        index.nodes_listed()
        index.pods_listed()


def ask(port: int, context: ssl.SSLContext, pipe: multiprocessing.connection.Connection) -> None:
    """Be the client: for each (path, accept, count) ask that often, and tell the size of the answer."""
    connection = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    identity = f"X-Remote-User: {_USER}\r\n" + "".join(f"X-Remote-Group: {group}\r\n" for group in _GROUPS)
    buffer = bytearray(1 << 20)
    while (order := pipe.recv()) is not None:
        path, accept, count = order
        request = (
            f"GET {path} HTTP/1.1\r\nHost: metrics-server.kube-system.svc\r\n"
            f"User-Agent: kube-controller-manager/v1.37\r\nAccept: {accept}\r\n"
            f"Accept-Encoding: identity\r\nX-Forwarded-For: 192.0.2.7\r\n{identity}\r\n"
        ).encode()
        size = 0
        for _unused in range(count):
            connection.sendall(request)
            read, total = connection.recv_into(buffer), -1
            end = buffer.find(b"\r\n\r\n", 0, read)
            while end < 0:
                read += connection.recv_into(memoryview(buffer)[read:])
                end = buffer.find(b"\r\n\r\n", 0, read)
            head = bytes(buffer[:end]).lower()
            if not head.startswith(b"http/1.1 200 "):
                raise OSError(f"{path} was answered with {head[:80]!r}")
            total = end + 4 + int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            size = total - end - 4
            while read < total:
                read += connection.recv_into(buffer)
        pipe.send(size)
    connection.close()


async def measure(nodes: int, pods: int, rounds: int, seconds: float, only: str) -> None:
    """Print one table."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        pki = Pki(directory)
        front_proxy_ca, client_ca = pki.ca("front-proxy-ca"), pki.ca("kubernetes-ca")
        engine = Engine(nodes, pods)
        async with FakeApiServer(pki).running() as api:
            api.config_map = config_map(front_proxy_ca, client_ca)
            flags = ["--authorization-webhook-cache-authorized-ttl=1h"]
            async with running_server(api, directory, flags, engine=engine) as running:
                await eventually(lambda: running.server.trust.front_proxy is not None)
                gc.collect()
                gc.freeze()
                ours, theirs = multiprocessing.Pipe()
                context = client_context(pki.leaf(front_proxy_ca, "front-proxy-client"))
                client = multiprocessing.get_context("fork").Process(target=ask, args=(running.port, context, theirs))
                client.start()
                first = Node(nodes // 2, pods).containers[0]
                kinds = {
                    "one pod": (f"{_BASE}/namespaces/{first.namespace}/pods/{first.pod}", "application/json"),
                    "one pod, protobuf": (f"{_BASE}/namespaces/{first.namespace}/pods/{first.pod}", _PROTOBUF),
                    "one node": (f"{_BASE}/nodes/{Node(nodes // 2, pods).name}", "application/json"),
                    "one namespace": (f"{_BASE}/namespaces/{first.namespace}/pods", "application/json"),
                    "one namespace, protobuf": (f"{_BASE}/namespaces/{first.namespace}/pods", _PROTOBUF),
                    "all pods": (f"{_BASE}/pods", "application/json"),
                    "all pods, protobuf": (f"{_BASE}/pods", _PROTOBUF),
                    "readyz": ("/readyz", "*/*"),
                }
                print(f"{nodes} nodes, {nodes * pods} pods; CPU us a request, the least of {rounds} rounds")
                for title, (path, accept) in kinds.items():
                    if only not in title:
                        continue
                    count = 2
                    spent: list[float] = []
                    size = 0
                    # The first two show how many there shall be.
                    for number in range(rounds + 2):
                        before = time.process_time()
                        ours.send((path, accept, count))
                        size = await asyncio.to_thread(ours.recv)
                        each = (time.process_time() - before) / count
                        if number >= 2:
                            spent.append(each)
                        else:
                            count = max(2, int(seconds / (5 if number == 0 else 1) / each))
                    print(f"  {title:24} {min(spent) * 1e6:10.1f}   {size:10} bytes   {count} requests")
                ours.send(None)
                await asyncio.to_thread(client.join)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--pods", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="CPU time of one round")
    parser.add_argument("--only", default="", help="requests of which the title has this text")
    arguments = parser.parse_args()
    for nodes in arguments.nodes:
        asyncio.run(measure(nodes, arguments.pods, arguments.rounds, arguments.seconds, arguments.only))


if __name__ == "__main__":
    main()
