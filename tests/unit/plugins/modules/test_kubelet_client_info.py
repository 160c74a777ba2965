# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import ssl

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import kubelet_client_info

REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


@pytest.fixture
def rights(api_server):
    """Who may, by (user or group, verb); and what was asked."""
    allowed = set()

    def answer(request):
        spec = json.loads(request.raw)["spec"]
        assert spec["resourceAttributes"]["resource"] == "nodes"
        assert spec["resourceAttributes"]["subresource"] == "proxy"
        assert "system:authenticated" in spec["groups"]
        verb = spec["resourceAttributes"]["verb"]
        return 201, {"status": {"allowed": any((who, verb) in allowed for who in [spec["user"], *spec["groups"]])}}

    api_server.routes["POST", REVIEWS] = answer
    return allowed


@pytest.fixture
def review(kubeconfig, run_module):
    def run(**arguments):
        return run_module(kubelet_client_info, kubeconfig=kubeconfig, **arguments)

    return run


def test_an_administrator_that_verifies(rights, review, authority):
    rights |= {("kubeadm:cluster-admins", "get"), ("kubeadm:cluster-admins", "create")}
    pem = authority.issue("kube-apiserver-kubelet-client", organization="kubeadm:cluster-admins")[0].decode()
    result = review(clients={"cp1": pem}, authorities={"w1": authority.pem.decode()})
    assert result["ok"]
    assert result["untrusted"] == []
    assert result["clients"] == {
        "cp1": {"user": "kube-apiserver-kubelet-client", "groups": ["kubeadm:cluster-admins"], "denied": []}
    }


def test_a_user_without_rights_is_named(rights, review, authority):
    rights.add(("kubernetes", "get"))
    result = review(clients={"cp1": authority.issue("kubernetes")[0].decode()})
    assert not result["ok"]
    assert result["clients"]["cp1"]["denied"] == ["create nodes/proxy"]


def test_a_kubelet_with_another_ca_is_named(rights, review, authority, other_authority):
    rights |= {("kubernetes", "get"), ("kubernetes", "create")}
    result = review(
        clients={"cp1": authority.issue("kubernetes")[0].decode()},
        authorities={
            "w1": (other_authority.pem + authority.pem).decode(),
            "w2": other_authority.pem.decode(),
            "w3": "empty",
        },
    )
    assert not result["ok"]
    assert result["untrusted"] == [
        {"authority": "w2", "client": "cp1", "reason": "it is signed by CN=test-ca, which is not among the CAs"},
        {"authority": "w3", "client": "cp1", "reason": "the file holds no PEM certificate"},
    ]


def test_an_expired_certificate_is_named(rights, review, authority):
    result = review(
        clients={"cp1": authority.issue("kubernetes", days=-1)[0].decode()}, authorities={"w1": authority.pem.decode()}
    )
    assert result["untrusted"][0]["reason"].startswith("it expired at ")


def test_what_is_no_certificate_is_refused(review):
    result = review(clients={"cp1": "nothing"})
    assert result["failed"]
    assert result["msg"] == "The client certificate of cp1 holds no PEM certificate; correct it first."


def test_an_api_that_does_not_answer_the_question(review, authority):
    result = review(clients={"cp1": authority.issue("kubernetes")[0].decode()})
    assert result["failed"]
    assert "answered 404" in result["msg"]


def test_a_name_that_cryptography_does_not_decode(umlaut_certificate):
    client = kubelet_client_info.load_client("cp1", ssl.DER_cert_to_PEM_cert(umlaut_certificate("kube-apiserver")))
    assert (client.user, client.groups) == ("kube-apiserver", ["Universität"])
