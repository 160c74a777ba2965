# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.filter import api_servers, front_proxy

FILTERS = front_proxy.FilterModule().filters()
API_SERVERS = api_servers.FilterModule().filters()
HOST = {
    "name": "cp1",
    "components": {
        "kube-apiserver": {"flags": {}, "version": "v1.36.3", "running": True},
        "kube-proxy": {"running": True},
    },
    "kubernetes_dir": {"pki_dir": "/etc/kubernetes/pki"},
}
INFO = {
    "ca_file": "ca.crt",
    "cert_file": "client.crt",
    "key_file": "client.key",
    "ca": ["AAAA"],
    "client_ca": ["AAAA"],
    "chain": [],
    "ca_key": {"path": "ca.key", "exists": False, "signs": None},
    "used_by": {"ca_file": ["x"], "cert_file": [], "key_file": [], "ca_key": []},
}


@pytest.mark.parametrize("routing", [True, "true", "True"])
def test_routing_may_be_a_boolean(routing):
    assert FILTERS["front_proxy_flags"](HOST, [HOST], {}, routing)["enable-aggregator-routing"] is True


def test_an_unknown_routing_is_a_sentence():
    with pytest.raises(AnsibleFilterError, match="auto, true or false"):
        FILTERS["front_proxy_flags"](HOST, [HOST], {}, "perhaps")


@pytest.mark.parametrize("name", ["front_proxy_flags", "front_proxy_files"])
def test_an_unknown_directory_is_a_sentence(name):
    with pytest.raises(AnsibleFilterError, match="front_proxy_pki_directory"):
        FILTERS[name]({**HOST, "kubernetes_dir": {"pki_dir": None}}, [])


def test_no_directory_for_new_files_is_a_sentence():
    with pytest.raises(AnsibleFilterError, match="front_proxy_pki_directory"):
        FILTERS["front_proxy_own_files"](HOST, {"cp1": INFO})
    assert FILTERS["front_proxy_own_files"](HOST, {"cp1": {**INFO, "new_files": {"ca_file": "new"}}}) == {
        "ca_file": "new"
    }


def test_a_finding_is_a_result():
    shared = FILTERS["front_proxy_shared"]({"cp1": INFO}, [], False)
    assert "cluster's own CA" in shared
    result = FILTERS["front_proxy_plan"]({"cp1": INFO}, {"cp1": []})
    assert "serves something else, too" in result["problem"]
    assert FILTERS["front_proxy_rotation"]({"cp1": INFO})["problem"]


def test_without_control_planes_there_is_nothing_to_do():
    result = FILTERS["front_proxy_plan"]({}, {})
    assert (result["problem"], result["issue"], result["update_ca"]) == ("", {}, [])


def test_files_have_the_names_of_the_modules_options():
    assert FILTERS["front_proxy_files"](HOST, [HOST], {"directory": "/pki"}) == {
        "ca_file": "/pki/front-proxy-ca.crt",
        "cert_file": "/pki/front-proxy-client.crt",
        "key_file": "/pki/front-proxy-client.key",
    }


def test_names_of_all():
    assert FILTERS["front_proxy_names"]([HOST]) == {"cp1": ["front-proxy-client"]}


def test_nobody_is_admitted_by_an_empty_name():
    flags = {"requestheader-allowed-names": [""]}
    quoted = {**HOST, "components": {"kube-apiserver": {"flags": flags}}}
    assert FILTERS["front_proxy_admits_nobody"](quoted)
    assert not FILTERS["front_proxy_admits_nobody"](HOST)


def test_volumes():
    assert FILTERS["front_proxy_volumes"](["/etc/kubernetes/ssl"]) == [
        {"name": "front-proxy-etc-kubernetes-ssl", "host_path": "/etc/kubernetes/ssl"}
    ]


def test_what_kubeadm_does_itself_is_left_out():
    assert FILTERS["front_proxy_beside_kubeadm"]({"requestheader-allowed-names": ["front-proxy-client"]}, "/pki") == {
        "requestheader-allowed-names": None
    }


def test_a_cluster_without_service_networks_is_a_sentence():
    with pytest.raises(AnsibleFilterError, match="kube_service_addresses"):
        API_SERVERS["api_server_cluster_ip"]([])


@pytest.mark.parametrize("name", [*FILTERS, *API_SERVERS])
def test_every_filter_is_documented(name, pytestconfig):
    documentation = yaml.safe_load((pytestconfig.rootpath / "plugins" / "filter" / f"{name}.yml").read_text())
    assert documentation["DOCUMENTATION"]["name"] == name
