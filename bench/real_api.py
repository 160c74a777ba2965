# SPDX-License-Identifier: GPL-3.0-or-later
"""A real kube-apiserver with etcd as plain processes, full of the fleet's nodes and pods.

The objects go straight into etcd before the API server starts: through the API, 150,000 pods would take 20 minutes.
There is no scheduler and no controller, so they stay as they are.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from machine import BenchError, free_port, running, wait_for
from shape import Node, node_object, pod_object
from support.pki import Authority, Pair

#: Objects in one transaction, which etcd has to be told.
_BATCH = 500


@contextlib.contextmanager
def real_api(
    binaries: Path, directory: Path, *, nodes: int, pods: int, kubelet_port: int, ca: Authority, user: Pair
) -> Iterator[Path]:
    """Run both with all objects in them; yield a kubeconfig. `ca` signs clients, of which `user` is one."""
    client_port, peer_port, port = free_port(), free_port(), free_port()
    etcd_log, api_log = directory / "etcd.log", directory / "kube-apiserver.log"
    etcd = [
        str(binaries / "etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client_port}",
        f"--advertise-client-urls=http://127.0.0.1:{client_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-cluster=default=http://127.0.0.1:{peer_port}",
        f"--max-txn-ops={_BATCH}",
        "--quota-backend-bytes=4294967296",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]
    for pair, name in ((ca.issue("api", ips=("127.0.0.1",)), "api"), (ca.issue("accounts"), "accounts")):
        pair.write(directory, name)
    certificate, key = user.write(directory, "user")
    ca_file = directory / "ca.crt"
    ca_file.write_bytes(ca.pem)
    server = [
        str(binaries / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{client_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={directory / 'api.crt'}",
        f"--tls-private-key-file={directory / 'api.key'}",
        f"--client-ca-file={ca_file}",
        "--service-account-issuer=https://bench.invalid",
        f"--service-account-signing-key-file={directory / 'accounts.key'}",
        f"--service-account-key-file={directory / 'accounts.crt'}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",
        "--authorization-mode=AlwaysAllow",
    ]
    kubeconfig = directory / "kubeconfig"
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(ca_file)}
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "bench",
                "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
                "clusters": [{"name": "bench", "cluster": cluster}],
                "users": [{"name": "bench", "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
            }
        )
    )
    context = ssl.create_default_context(cafile=str(ca_file))
    context.load_cert_chain(certificate, key)
    with running(etcd, etcd_log) as process:
        wait_for("etcd", lambda: _answers(_plain(client_port), "/health"), process, etcd_log, 30)
        _fill(client_port, chain(_nodes(nodes, pods, kubelet_port), _pods(nodes, pods)))
        with running(server, api_log) as process:
            wait_for("kube-apiserver", lambda: _answers(_secure(port, context), "/readyz"), process, api_log, 120)
            yield kubeconfig


def _plain(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def _secure(port: int, context: ssl.SSLContext) -> http.client.HTTPConnection:
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)


def _answers(connection: http.client.HTTPConnection, path: str) -> bool:
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


def _identified(one: dict[str, object]) -> bytes:
    metadata = one["metadata"]
    assert isinstance(metadata, dict)
    name = f"{metadata.get('namespace', '')}/{metadata['name']}"
    metadata |= {"uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), "creationTimestamp": "2023-11-14T22:13:20Z"}
    return json.dumps(one).encode()


def _nodes(nodes: int, pods: int, port: int) -> Iterator[tuple[str, bytes]]:
    for number in range(nodes):
        node = Node(number, pods)
        yield f"/registry/minions/{node.name}", _identified(node_object(node, port))


def _pods(nodes: int, pods: int) -> Iterator[tuple[str, bytes]]:
    for number in range(nodes):
        node = Node(number, pods)
        for one in node.containers:
            yield f"/registry/pods/{one.namespace}/{one.pod}", _identified(pod_object(node, one))


def _fill(port: int, objects: Iterable[tuple[str, bytes]]) -> None:
    connection = _plain(port)
    items = iter(objects)
    with contextlib.closing(connection):
        while batch := list(islice(items, _BATCH)):
            puts = [{"requestPut": {"key": _base64(key.encode()), "value": _base64(value)}} for key, value in batch]
            connection.request("POST", "/v3/kv/txn", json.dumps({"success": puts}))
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise BenchError(f"etcd refused the objects with {response.status}: {text[:200]!r}")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
