# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.kubemetrics.aggregation.plugins.modules import cluster_state_info

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def answer(server, version):
    server.get("/readyz", "ok")
    server.get("/version", {"gitVersion": version})
    server.get("/api/v1/nodes", {"items": []})
    server.get(REQUESTS, {"items": []})
    return server


def test_every_server_says_its_own_version(start_server, api_server, kubeconfig, run_module):
    new, old = answer(api_server, "v1.37.2"), answer(start_server(), "v1.36.3")
    silent = answer(start_server(), "")
    silent.get("/version", "no", status=500)
    servers = [new.url, old.url, silent.url, "https://127.0.0.1:1"]
    result = run_module(cluster_state_info, kubeconfig=kubeconfig, servers=servers)
    found = [(server["ready"], server["version"]) for server in result["servers"]]
    assert found == [(True, "v1.37.2"), (True, "v1.36.3"), (True, ""), (False, "")]
    assert result["version"] == "v1.37.2"


def node(version, **labels):
    return {
        "metadata": {"name": "n", "labels": {key.replace("__", "/"): value for key, value in labels.items()}},
        "status": {"nodeInfo": {"kubeletVersion": version}},
    }


def test_the_api_says_which_distribution_it_is(api_server, kubeconfig, run_module):
    answer(api_server, "v1.33.4+k3s1")
    found = run_module(cluster_state_info, kubeconfig=kubeconfig)["distribution"]
    assert found == {"key": "k3s", "because": "its API server says v1.33.4+k3s1"}
    answer(api_server, "v1.36.3")
    assert run_module(cluster_state_info, kubeconfig=kubeconfig)["distribution"] == {"key": "", "because": ""}


def test_a_label_of_openshift_needs_its_version_object(api_server, kubeconfig, run_module):
    answer(api_server, "v1.33.3")
    labels = {"node.openshift.io__os_id": "rhcos"}
    api_server.get("/api/v1/nodes", {"items": [node("v1.33.3", **labels)]})
    assert run_module(cluster_state_info, kubeconfig=kubeconfig)["distribution"]["key"] == ""
    path = "/apis/config.openshift.io/v1/clusterversions/version"
    api_server.get(path, {"kind": "ClusterVersion"})
    found = run_module(cluster_state_info, kubeconfig=kubeconfig)["distribution"]
    assert found == {"key": "openshift", "because": f"its API has {path}"}
