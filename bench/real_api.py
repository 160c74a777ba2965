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
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from machine import BenchError, free_port, running, wait_for
from shape import Container, Node, node_object, pod_object
from support.pki import Authority, Pair

#: Objects in one transaction, which etcd has to be told.
_BATCH = 500


class RealApi:
    """The running API server; what changes in it is written past it, into etcd."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        kubeconfig: Path,
        context: ssl.SSLContext,
        ports: tuple[int, int],
        kubelet_port: int,
    ) -> None:
        self._command, self._log, self._context = command, log, context
        self._port, self._etcd_port = ports
        self.kubeconfig, self.kubelet_port = kubeconfig, kubelet_port
        self._running = contextlib.ExitStack()
        #: How often it lists for itself when it starts.
        self.own: Mapping[str, int] = {}

    def start(self) -> None:
        """Run it and wait until it is ready."""
        process = self._running.enter_context(running(self._command, self._log))
        wait_for(
            "kube-apiserver", lambda: _answers(_secure(self._port, self._context), "/readyz"), process, self._log, 600
        )

    def stop(self) -> None:
        """End it."""
        self._running.close()

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        """Put these values at their keys in etcd, and delete the keys without one."""
        with contextlib.closing(_plain(self._etcd_port)) as connection:
            _change(connection, changes)

    def restart(self, meanwhile: Mapping[str, bytes | None]) -> None:
        """Stop it, change something while nobody can watch, and run it again."""
        self.stop()
        self.write(meanwhile)
        self.start()

    def listings(self, resource: str) -> int:
        """Return how often all objects were given since the start, by a list or by a watch that begins with one."""
        connection = _secure(self._port, self._context)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            body = connection.getresponse().read().decode()
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in body.splitlines()
            if f'resource="{resource}"' in line
            and (
                line.startswith("apiserver_watch_list_duration_seconds_count{")
                or (line.startswith("apiserver_request_total{") and 'verb="LIST"' in line)
            )
        )


@contextlib.contextmanager
def real_api(
    binaries: Path, directory: Path, *, nodes: int, pods: int, kubelet_port: int, ca: Authority, user: Pair
) -> Iterator[RealApi]:
    """Run both with all objects in them. `ca` signs clients, of which `user` is one."""
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
        _fill(client_port, _records(nodes, pods, kubelet_port))
        api = RealApi(
            server,
            api_log,
            kubeconfig=kubeconfig,
            context=context,
            ports=(port, client_port),
            kubelet_port=kubelet_port,
        )
        try:
            api.start()
            # Its own informers have listed before it is ready, as they will after each start.
            api.own = {resource: api.listings(resource) for resource in ("nodes", "pods")}
            yield api
        finally:
            api.stop()


def _plain(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def _secure(port: int, context: ssl.SSLContext) -> http.client.HTTPConnection:
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)


def _answers(connection: http.client.HTTPConnection, path: str) -> bool:
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


def node_record(node: Node, port: int, *, fresh: bool = False) -> tuple[str, bytes]:
    """Return the key and the value in etcd; a fresh one has a heartbeat of now."""
    found = node_object(node, port)
    if fresh:
        beat = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        # A JSON document of which the type is no more than an object.
        found["status"]["conditions"][0]["lastHeartbeatTime"] = beat  # type: ignore[index]
    return f"/registry/minions/{node.name}", _identified(found, "")


def pod_record(node: Node, container: Container, *, fresh: bool = False) -> tuple[str, bytes]:
    """Return the key and the value in etcd; a fresh one is another pod of the same name."""
    salt = str(time.time()) if fresh else ""
    return f"/registry/pods/{container.namespace}/{container.pod}", _identified(pod_object(node, container), salt)


def _identified(one: dict[str, object], salt: str) -> bytes:
    metadata = one["metadata"]
    assert isinstance(metadata, dict)
    name = f"{metadata.get('namespace', '')}/{metadata['name']}{salt}"
    metadata |= {"uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), "creationTimestamp": "2023-11-14T22:13:20Z"}
    return json.dumps(one).encode()


def _records(nodes: int, pods: int, port: int) -> Iterator[tuple[str, bytes]]:
    for number in range(nodes):
        node = Node(number, pods)
        yield node_record(node, port)
        for one in node.containers:
            yield pod_record(node, one)


def _fill(port: int, objects: Iterable[tuple[str, bytes]]) -> None:
    items = iter(objects)
    with contextlib.closing(_plain(port)) as connection:
        while batch := dict(islice(items, _BATCH)):
            _change(connection, batch)


def _change(connection: http.client.HTTPConnection, changes: Mapping[str, bytes | None]) -> None:
    requests = [
        {"requestDeleteRange": {"key": _base64(key.encode())}}
        if value is None
        else {"requestPut": {"key": _base64(key.encode()), "value": _base64(value)}}
        for key, value in changes.items()
    ]
    connection.request("POST", "/v3/kv/txn", json.dumps({"success": requests}))
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise BenchError(f"etcd refused the objects with {response.status}: {text[:200]!r}")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
