# SPDX-License-Identifier: GPL-3.0-or-later
"""When certificates expire on which resource metrics depend, and what renews them."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import expiry
from cryptography import x509
from cryptography.hazmat.primitives import serialization


@pytest.fixture
def encoded(authority):
    def make(days):
        certificate = x509.load_pem_x509_certificate(authority.issue("x", days=days)[0])
        return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()

    return make


def host(certificate=None, *, health=None, front_proxy=None):
    return {
        "__kubelet_access_health": health,
        "cluster_host": {"kubelet_answers": {"certificate": certificate}},
        "__front_proxy_pki_info": front_proxy,
    }


def test_the_first_to_expire_comes_first(encoded):
    hosts = {
        "cp1": host(encoded(300), front_proxy={"certificate": encoded(200), "ca": [encoded(3000)]}),
        "w1": host(encoded(100)),
        "w2": host(encoded(50)),
    }
    found = expiry.gather(hosts, {"cp1", "w1"}, approver=False)
    assert [entry.what for entry in found] == [
        "the serving certificate of the kubelet of w1",
        "the front proxy's client certificate on cp1",
        "the serving certificate of the kubelet of cp1",
        "the front proxy's CA on cp1",
    ]
    lines = expiry.report(found)
    assert lines[0].startswith("The first certificate to expire is the serving certificate of the kubelet of w1, at 20")
    assert "next run of site.yml approves that and nothing else does" in lines[0]
    assert "rotate_certs.yml renews it, and site.yml does from 30 days before" in lines[1]
    assert "front_proxy_pki_rotate_ca=true" in lines[2]
    assert len(lines) == 4


def test_the_approver_is_named_where_it_runs(encoded):
    found = expiry.gather({"w1": host(encoded(100))}, {"w1"}, approver=True)
    assert found[0].renewal == "the kubelet asks for a new one before, and the approver in the cluster approves that"


def test_what_the_health_check_saw_is_newer(encoded):
    health = {"kubelets": [{"tls": {"certificate": {"not_after": "2099-01-01T00:00:00Z"}}}]}
    found = expiry.gather({"w1": host(encoded(1), health=health)}, {"w1"}, approver=False)
    assert [entry.not_after for entry in found] == ["2099-01-01T00:00:00Z"]


def test_a_front_proxy_that_was_replaced_is_read_again(encoded):
    variables = host(None, front_proxy={"chain": [encoded(1)], "ca": []})
    variables["__kubelet_access_front_proxy"] = {"chain": [encoded(300)], "ca": []}
    replaced = expiry.gather({"cp1": variables}, {"w1"}, approver=False)
    variables["__kubelet_access_front_proxy"] = {"skipped": True}
    assert replaced[0].not_after > expiry.gather({"cp1": variables}, {"w1"}, approver=False)[0].not_after


def test_nothing_known():
    assert expiry.report(expiry.gather({"w1": {}, "w2": host(None)}, {"w1"}, approver=False)) == []
