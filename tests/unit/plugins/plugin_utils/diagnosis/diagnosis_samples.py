# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence of clusters of any size, and rows as the catalogue has them, for the tests of path and report."""

from __future__ import annotations

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import engine, evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation, Repair, Row

NAME = "v1beta1.metrics.k8s.io"
TARGET = {"kind": "cluster_ip", "host": "10.96.14.3", "port": 443, "connect": {"ok": True}, "verdict": "ok"}


def url(number):
    return f"https://192.0.2.{10 + number}:6443"


def cluster(nodes=3, control_planes=1, **api):
    """Evidence of a healthy cluster: control planes cp1.., workers w1.., the metrics server on the first worker."""
    masters = [f"cp{number}" for number in range(1, control_planes + 1)]
    workers = [f"w{number}" for number in range(1, nodes - control_planes + 1)]
    servers = [url(number) for number in range(1, control_planes + 1)]
    home = (workers or masters)[0]
    hosts = {
        name: {
            "node": name,
            "control_plane": name in masters,
            "reachable": True,
            "message": "",
            "host": {"components": {"kubelet": {"running": True}}},
            "errors": {},
        }
        for name in [*masters, *workers]
    }
    for name, server in zip(masters, servers, strict=True):
        hosts[name]["host"]["components"]["kube-apiserver"] = {"running": True, "flags": {}}
        hosts[name]["host"]["api_server_url"] = server
        hosts[name]["api_server"] = {"ready": True, "status": 200, "error": ""}
        hosts[name]["aggregator"] = {NAME: {"targets": [dict(TARGET)]}}
    nodes_seen = {"expected": nodes, "with_metrics": nodes, "missing": [], "stale": []}
    return {
        "schema": evidence.SCHEMA,
        "schema_version": evidence.SCHEMA_VERSION,
        "collected": {"at": "2026-03-01T02:14:05Z", "seconds": 12.3, "scope": "hosts_and_api", "collection": "0.1.0"},
        "hosts": hosts,
        "api": {
            "url": servers[0],
            "message": "",
            "cluster": {"api_servers": [{"server": server, "ready": True, "message": ""} for server in servers]},
            "state": {"nodes": [{"name": name, "ready": True} for name in [*masters, *workers]]},
            "apiservices": {
                "apiservices": [
                    {
                        "name": NAME,
                        "exists": True,
                        "available": True,
                        "service": {"namespace": "kube-system", "name": "metrics-server", "port": 443},
                        "service_exists": True,
                        "endpoints": [{"ip": "10.244.1.7", "port": 10250, "ready": True, "node": home}],
                    }
                ],
                "servers": [
                    {"server": server, "name": NAME, "reachable": True, "ready": True, "ok": True, "message": ""}
                    for server in servers
                ],
            },
            "metrics": {"servers": [{"server": server, "ok": True, "nodes": dict(nodes_seen)} for server in servers]},
            "objects": {
                "pods": [
                    {
                        "namespace": "kube-system",
                        "name": "metrics-server-74c54c6b4f-z7s47",
                        "node": home,
                        "ready": True,
                        "phase": "Running",
                        "containers": [{"name": "metrics-server", "state": {"kind": "running", "reason": ""}}],
                    }
                ]
            },
            **api,
        },
        "not_collected": [],
    }


def failing(document, *hosts, message="503 the server is currently unable to handle the request", verdict=None):
    """The same cluster where requests through these API servers fail; verdict: what the probes there get."""
    for host in hosts:
        server = document["hosts"][host]["host"]["api_server_url"]
        for entry in document["api"]["apiservices"]["servers"]:
            if entry["server"] == server:
                entry.update(ok=False, message=message)
        document["api"]["metrics"]["servers"] = [
            {**entry, "ok": False, "nodes": None} if entry["server"] == server else entry
            for entry in document["api"]["metrics"]["servers"]
        ]
        if verdict:
            target = {**TARGET, "verdict": verdict, "connect": {"ok": verdict != "unreachable"}}
            document["hosts"][host]["aggregator"] = {NAME: {"targets": [target]}}
    return document


def row(identifier, title, layer, *observations, **options):
    options = {
        "symptom": "error: Metrics API not available",
        "cause": "A cause in a sentence or two.",
        "repair": Repair("automatic", "Mend it."),
        "avoid": "Do not switch verification off.",
        **options,
    }
    return Row(identifier, title, layer, rule=lambda _evidence: observations, **options)


def expired(*hosts):
    return row(
        "AGG-05",
        "The front-proxy client certificate has expired",
        "api_server",
        Observation(
            tuple(
                f"{host}: /etc/kubernetes/pki/front-proxy-client.crt expired at 2026-02-28T23:59:59Z" for host in hosts
            )
            + ('metrics server: "Unable to authenticate the request" err="[x509: certificate has expired]"',),
            hosts,
        ),
        symptom="kubectl top answers 401 Unauthorized through these control planes, and works through others.",
        cause="The API server presents this certificate to the metrics server, which refuses it since it has expired. "
        "kubeadm issues it for a year and renews it with an upgrade only.",
        repair=Repair(
            "automatic",
            "Issue a new client certificate by the same CA; the API server loads it without a restart.",
            risk="low, the old certificate is kept",
            steps=("front_proxy_pki",),
        ),
        avoid="Do not restart the API server, and do not set --authentication-skip-lookup: neither helps.",
        covers=("request",),
        covers_everywhere=("request",),
    )


def forwarding(*hosts):
    """NET-04, which explains POD-03, which explains AGG-12."""
    return (
        row(
            "NET-04",
            "Docker drops pod traffic that this host forwards",
            "service",
            Observation(("w1: iptables-nft: -P FORWARD DROP (1284 packets)",), hosts),
            repair=Repair("consent", "Accept forwarded traffic of pods.", risk="low", steps=("forward_policy",)),
            explains=("POD-03",),
            covers_everywhere=("request", "server_pod"),
        ),
        row("POD-03", "The metrics server cannot reach the API server", "server", Observation(("log: i/o timeout",)),
            explains=("AGG-12",)),
        row("AGG-12", "The Service has no ready endpoint", "registration", Observation(("MissingEndpoints",))),
    )  # fmt: skip


def pending(*hosts):
    return row(
        "KUB-02",
        "Kubelets wait for the approval of their serving certificate",
        "kubelet",
        Observation(tuple(f"CSR csr-{host} of node {host}: no condition" for host in hosts), hosts),
        symptom="remote error: tls: internal error",
        repair=Repair("consent", "Approve the requests that pass every check.", steps=("kubelet_access",)),
        covers=("node_metrics",),
    )


def overlapping():
    return row(
        "NET-10",
        "The pod network overlaps the network of the nodes",
        "service",
        Observation(("pod CIDR 192.0.2.0/24 contains w1 (192.0.2.21)",)),
        repair=Repair(
            "advice",
            "Move the pods to another range; that is a migration.",
            commands=("kubectl get nodes -o custom-columns=NAME:.metadata.name,CIDR:.spec.podCIDR",),
        ),
    )


def diagnose(document, *rows):
    return engine.diagnose(document, rows=rows)
