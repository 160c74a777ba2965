# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections from the network of a pod: which pod, and what becomes of its connections."""

from __future__ import annotations

import os
import socket

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import pod_namespaces, processes
from ansible_collections.kubemetrics.aggregation.plugins.modules import pod_network_info as module

UIDS = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222")


@pytest.fixture
def proc(tmp_path):
    """A process table: the host, a pod of its network, and two pods with networks of their own."""

    def process(pid, *, net, uid="", name="", namespace=""):
        root = tmp_path / str(pid)
        (root / "ns").mkdir(parents=True)
        (root / "ns/net").symlink_to(f"net:[{net}]")
        path = f"/kubepods.slice/kubepods-pod{uid.replace('-', '_')}.slice/cri-containerd-abc.scope" if uid else "/"
        (root / "cgroup").write_text(f"0::{path}\n")
        if name:
            (root / "root/etc").mkdir(parents=True)
            (root / "root/etc/hostname").write_text(name + "\n")
        if namespace:
            secrets = root / "root/run/secrets/kubernetes.io/serviceaccount"
            secrets.mkdir(parents=True)
            (secrets / "namespace").write_text(namespace)

    process("self", net=1)
    process(10, net=1)
    process(20, net=1, uid="33333333-3333-3333-3333-333333333333")
    process(30, net=2, uid=UIDS[0])
    process(31, net=2, uid=UIDS[0], name="web-1", namespace="shop")
    process(40, net=3, uid=UIDS[1], name="metrics-server-1", namespace="kube-system")
    return processes.Proc(str(tmp_path))


def test_pods_of_the_hosts_network_are_none_here(proc):
    found = pod_namespaces.find_pods(proc)
    assert [(pod.uid, pod.pid, pod.name, pod.namespace) for pod in found] == [
        (UIDS[0], 30, "web-1", "shop"),
        (UIDS[1], 40, "metrics-server-1", "kube-system"),
    ]


def test_the_preferred_pod_or_any(proc):
    found = pod_namespaces.find_pods(proc)
    assert pod_namespaces.choose(found, ["unknown", UIDS[1]]).name == "metrics-server-1"
    assert pod_namespaces.choose(found, ["unknown"]).name == "web-1"
    assert pod_namespaces.choose([], []) is None


def test_a_namespace_that_is_gone(proc):
    with pytest.raises(pod_namespaces.NamespaceError, match="cannot be opened"):
        pod_namespaces.enter(proc, 4711)


@pytest.fixture
def here(monkeypatch):
    """A pod whose network is this one."""
    pod = pod_namespaces.Pod(UIDS[0], os.getpid(), "web-1", "shop")
    monkeypatch.setattr(pod_namespaces, "find_pods", lambda proc: [pod])
    monkeypatch.setattr(pod_namespaces, "enter", lambda proc, pid: None)


def targets(*ports, kind="api_server"):
    return [{"kind": kind, "name": "x", "host": "127.0.0.1", "port": port} for port in ports]


def test_who_answers(here, api_server, authority, tmp_path, run_module):
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unused = socket.create_server(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
        unused.close()
        wanted = [*targets(api_server.port, closed), *targets(listener.getsockname()[1], kind="kubelet")]
        result = run_module(module, targets=wanted, ca_file=str(ca), pod_uids=[UIDS[0]])
    assert (result["pod"], result["uid"], result["preferred"]) == ("shop/web-1", UIDS[0], True)
    one, two, three = result["targets"]
    assert (one["connect"]["ok"], one["answers"]) == (True, True)
    assert (two["connect"]["error"]["kind"], two["answers"]) == ("refused", None)
    assert (three["connect"]["ok"], three["answers"]) == (True, None)


def test_another_server_is_no_api_server(here, start_server, other_authority, authority, tmp_path, run_module):
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    other = start_server(issuer=other_authority)
    (found,) = run_module(module, targets=targets(other.port), ca_file=str(ca))["targets"]
    assert (found["connect"]["ok"], found["answers"]) == (True, False)


def test_all_together_have_a_time(here, monkeypatch, run_module):
    monkeypatch.setattr(module, "MAX_PARALLEL", 1)

    def reach(host, port, timeout):
        import time

        time.sleep(0.2)
        return {"ok": True, "seconds": 0.2, "error": None}

    monkeypatch.setattr(module.probes, "reach", reach)
    found = run_module(module, targets=targets(1, 2, 3, 4, kind="kubelet"), total_timeout=0.3)["targets"]
    kinds = [(entry["connect"]["error"] or {}).get("kind") for entry in found]
    assert kinds == [None, None, "not_tried", "not_tried"]


def test_a_host_without_pods(monkeypatch, run_module):
    monkeypatch.setattr(pod_namespaces, "find_pods", lambda proc: [])
    result = run_module(module, targets=targets(1))
    assert (result["pod"], result["targets"]) == (None, [])
    assert "no pod with a network of its own" in result["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"timeout": 0}, "timeout is 0"), ({"targets": targets(0)}, "0 is no port of 127.0.0.1")],
)
def test_bad_arguments(run_module, arguments, words):
    result = run_module(module, **arguments)
    assert result["failed"]
    assert words in result["msg"]
