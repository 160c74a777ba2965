# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.filter import front_proxy

FILTERS = front_proxy.FilterModule().filters()
HOST = {
    "name": "cp1",
    "components": {"kube-apiserver": {"flags": {}, "version": "v1.36.3"}, "kube-proxy": {"running": True}},
    "kubernetes_dir": {"pki_dir": "/etc/kubernetes/pki"},
}


@pytest.mark.parametrize("routing", [True, "true", "True"])
def test_routing_may_be_a_boolean(routing):
    assert FILTERS["front_proxy_flags"](HOST, [HOST], {}, routing)["enable-aggregator-routing"] is True


def test_an_unknown_routing_is_a_sentence():
    with pytest.raises(AnsibleFilterError, match="auto, true or false"):
        FILTERS["front_proxy_flags"](HOST, [HOST], {}, "perhaps")


def test_an_unknown_directory_is_a_sentence():
    with pytest.raises(AnsibleFilterError, match="front_proxy_pki_directory"):
        FILTERS["front_proxy_flags"]({**HOST, "kubernetes_dir": {"pki_dir": None}}, [])


def test_a_finding_is_a_result():
    info = {
        "ca_file": "ca.crt",
        "cert_file": "client.crt",
        "ca": ["AAAA"],
        "client_ca": ["AAAA"],
        "certificate": None,
        "ca_key": {"exists": False, "signs": None},
        "used_elsewhere": False,
    }
    result = FILTERS["front_proxy_plan"]({"cp1": info}, {"cp1": []})
    assert list(result) == ["problem"]
    assert "cluster's own CA" in result["problem"]


def test_volumes():
    assert FILTERS["front_proxy_volumes"](["/etc/kubernetes/ssl"]) == [
        {"name": "front-proxy-etc-kubernetes-ssl", "host_path": "/etc/kubernetes/ssl"}
    ]


def test_what_kubeadm_does_itself_is_left_out():
    assert FILTERS["front_proxy_beside_kubeadm"]({"requestheader-allowed-names": "front-proxy-client"}, "/pki") == {
        "requestheader-allowed-names": None
    }
