# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks on a host that looks like k3s, and on a managed cluster: what they say, and that nothing is changed."""

from __future__ import annotations

import base64
import datetime
import os
import subprocess
import sys
from pathlib import Path

import ansible_programs
import pytest
import yaml

ROOT = Path(__file__).parents[3]
CONFIGMAP = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
REGISTRATION = "/apis/apiregistration.k8s.io/v1/apiservices"
NAME = "v1beta1.metrics.k8s.io"
#: The title of k3s' process hides its command line; its short name tells what it is.
PROGRAM = "open('/proc/self/comm', 'w').write('k3s-server')\nprint('up', flush=True)\nimport time\ntime.sleep(120)\n"


def ago(seconds):
    moment = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def node(version, **more):
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": ago(3600)}
    return {
        "metadata": {"name": "here", "labels": {}, "creationTimestamp": ago(7200)},
        "status": {"nodeInfo": {"kubeletVersion": version}, "conditions": [ready]},
        **more,
    }


def play(playbook, *variables, inventory=None):
    command = [ROOT / "playbooks" / playbook, *(["-i", inventory] if inventory else [])]
    return ansible_programs.play(*command, *(part for variable in variables for part in ("-e", variable)))


def said(done):
    """The output in one line: Ansible wraps it."""
    return " ".join(done.stdout.split())


def changes(server):
    """Requests that write, without the questions about somebody's rights."""
    return [one.path for one in server.requests if one.method != "GET" and "/authorization.k8s.io/" not in one.path]


@pytest.fixture
def k3s(tmp_path, api_server, kubeconfig, authority):
    """A host with a process of k3s, and an API that publishes a CA of front proxies."""
    api_server.get("/version", {"gitVersion": "v1.33.4+k3s1"})
    api_server.get("/api/v1/nodes", {"items": [node("v1.33.4+k3s1")]})
    api_server.get(REQUESTS, {"items": []})
    api_server.get(CONFIGMAP, {"data": {"requestheader-client-ca-file": authority.pem.decode()}})
    api_server.get(REGISTRATION, {"items": []})
    here = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "cluster_node_name": "here",
        "cluster_api_server_url": api_server.url,
        "cluster_kubeconfig": kubeconfig,
    }
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(yaml.safe_dump({"kube_control_plane": {"hosts": {"here": here}}}))
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(["k3s", str(tmp_path / "program.py")], executable=sys.executable, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    yield inventory
    process.kill()
    process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="the playbooks become root")
class TestK3s:
    def test_site_stops_with_the_lines_where_the_front_proxy_is_missing(self, k3s, api_server):
        api_server.get(CONFIGMAP, {"data": {}})
        done = play("site.yml", inventory=k3s)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "This cluster is k3s (its API server says v1.33.4+k3s1). k3s runs API server and kubelet" in said(done)
        assert "Nothing was changed: its API servers publish no CA of front proxies" in said(done)
        assert "kube-apiserver-arg:" in said(done)
        assert "requestheader-client-ca-file=/var/lib/rancher/k3s/server/tls/request-header-ca.crt" in said(done)
        assert "changed=0" in done.stdout.partition("PLAY RECAP")[2]
        assert changes(api_server) == []

    def test_site_stops_with_the_lines_where_k3s_serves_the_metrics(self, k3s, api_server):
        labels = {"objectset.rio.cattle.io/hash": "93f3"}
        service = {"namespace": "kube-system", "name": "metrics-server"}
        registration = {
            "metadata": {"name": NAME, "labels": labels, "creationTimestamp": ago(7200)},
            "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "service": service},
        }
        api_server.get(REGISTRATION, {"items": [registration]})
        api_server.get(f"{REGISTRATION}/{NAME}", registration)
        for path in ("/apis/apps/v1/deployments", "/apis/policy/v1/poddisruptionbudgets", "/api/v1/services"):
            api_server.get(path, {"items": []})
        for path in ("/apis/apps/v1", "/apis/policy/v1", "/api/v1"):
            plural = {"/apis/apps/v1": "deployments", "/api/v1": "services"}.get(path, "poddisruptionbudgets")
            api_server.get(f"{path}/namespaces/kube-system/{plural}", {"items": []})
        api_server.get("/api/v1/namespaces/kube-system/pods", {"items": []})
        api_server.get("/api/v1/namespaces/kube-system", {"metadata": {"name": "kube-system"}})
        done = play(
            "site.yml",
            "metrics_server_image_source=pull",
            "metrics_server_image_version=1",
            "metrics_server_image_name=registry.example.com/ms",
            inventory=k3s,
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert "belongs to k3s, by its built-in metrics-server" in said(done)
        assert "put `disable: [metrics-server]` into /etc/rancher/k3s/config.yaml on every server" in said(done)
        assert "changed=0" in done.stdout.partition("PLAY RECAP")[2]
        assert changes(api_server) == []

    def test_certificates_are_renewed_by_k3s(self, k3s, api_server):
        done = play("rotate_certs.yml", inventory=k3s)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Nothing was changed: k3s issues the certificates of front proxies itself" in said(done)
        assert "k3s certificate rotate --service auth-proxy" in said(done)
        assert changes(api_server) == []


@pytest.fixture
def managed(api_server, authority):
    """EKS: an API without a host."""
    api_server.get("/version", {"gitVersion": "v1.33.4-eks-e386d34"})
    api_server.get("/api/v1/nodes", {"items": [node("v1.33.1-eks-1fbb135", spec={"providerID": "aws:///a/i-1"})]})
    api_server.get("/api/v1/pods", {"items": []})
    api_server.get(REQUESTS, {"items": []})
    api_server.get(REGISTRATION, {"items": []})
    registration = {
        "metadata": {"name": NAME},
        "spec": {
            "service": {"namespace": "kube-system", "name": "metrics-server", "port": 443},
            "caBundle": base64.b64encode(authority.pem).decode(),
        },
        "status": {"conditions": [{"type": "Available", "status": "True", "reason": "Passed", "message": "ok"}]},
    }
    api_server.get(f"{REGISTRATION}/{NAME}", registration)
    api_server.get(
        "/api/v1/namespaces/kube-system/services/metrics-server", {"spec": {"ports": [{"name": "https", "port": 443}]}}
    )
    endpoints = [{"addresses": ["192.0.2.4"], "nodeName": "here"}]
    api_server.get(
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
        {"items": [{"ports": [{"name": "https", "port": 10250}], "endpoints": endpoints}]},
    )
    api_server.get("/apis/metrics.k8s.io", {"versions": [{"version": "v1beta1"}]})
    api_server.get("/apis/metrics.k8s.io/v1beta1", {"kind": "APIResourceList"})
    sample = {"metadata": {"name": "here"}, "timestamp": ago(5), "usage": {"cpu": "100m", "memory": "100Mi"}}
    api_server.get("/apis/metrics.k8s.io/v1beta1/nodes", {"items": [sample]})
    api_server.get("/apis/metrics.k8s.io/v1beta1/pods", {"items": []})
    api_server.get("/metrics", f'aggregator_unavailable_apiservice{{name="{NAME}"}} 0\n')
    return api_server


class TestManaged:
    def test_verify_needs_a_kubeconfig_only(self, managed, kubeconfig):
        done = play("verify.yml", f"cluster_kubeconfig={kubeconfig}", "ansible_become=false")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"Resource metrics work through the kubeconfig's API server ({NAME})." in said(done)
        assert "This cluster is EKS (its API server says v1.33.4-eks-e386d34)" in said(done)
        assert changes(managed) == []

    def test_a_failure_says_which_cluster_it_is(self, managed, kubeconfig):
        managed.get("/apis/metrics.k8s.io/v1beta1", "unavailable", status=503)
        done = play("verify.yml", f"cluster_kubeconfig={kubeconfig}", "ansible_become=false", "verify_wait=false")
        assert done.returncode == 2, done.stdout + done.stderr
        assert "This cluster is EKS" in said(done)

    def test_without_hosts_and_kubeconfig_there_is_nothing(self):
        done = play("verify.yml", "ansible_become=false")
        assert done.returncode == 2, done.stdout + done.stderr
        assert "with the path of a kubeconfig as cluster_kubeconfig" in said(done)

    def test_doctor_says_which_cluster_it_is(self, managed, kubeconfig):
        done = play("doctor.yml", f"cluster_kubeconfig={kubeconfig}", "ansible_become=false")
        assert "This cluster is EKS (its API server says v1.33.4-eks-e386d34). EKS has a control plane" in said(done)

    def test_site_has_no_host_to_change(self, managed, kubeconfig):
        done = play("site.yml", f"cluster_kubeconfig={kubeconfig}")
        assert done.returncode == 2, done.stdout + done.stderr
        assert "a managed cluster has no such hosts" in said(done)
        assert managed.requests == []
