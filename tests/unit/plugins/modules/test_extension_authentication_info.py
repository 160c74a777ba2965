# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import ssl

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import extension_authentication_info
from cryptography.hazmat.primitives import serialization

PATH = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"


def der(authority):
    return base64.b64encode(authority.certificate.public_bytes(serialization.Encoding.DER)).decode()


@pytest.fixture
def config_map(authority, other_authority):
    return {
        "data": {
            "client-ca-file": other_authority.pem.decode(),
            "requestheader-client-ca-file": authority.pem.decode(),
            "requestheader-allowed-names": '["front-proxy-client"]',
            "requestheader-username-headers": '["X-Remote-User"]',
            "requestheader-group-headers": "not json",
        }
    }


def test_it_says_who_is_trusted(api_server, kubeconfig, run_module, config_map, authority):
    api_server.get(PATH, config_map)
    result = run_module(
        extension_authentication_info,
        kubeconfig=kubeconfig,
        contains_ca=[der(authority)],
        contains_names=["front-proxy-client"],
    )
    assert result["ok"]
    assert result["exists"]
    assert [ca["subject"] for ca in result["front_proxy_ca"]] == ["CN=test-ca"]
    assert result["shared"] == []
    assert result["headers"] == {"username": ["X-Remote-User"], "uid": [], "group": [], "extra": []}


def test_it_says_what_is_missing(api_server, kubeconfig, run_module, config_map, other_authority):
    api_server.get(PATH, config_map)
    result = run_module(
        extension_authentication_info,
        kubeconfig=kubeconfig,
        contains_ca=[der(other_authority)],
        contains_names=["aggregator"],
    )
    assert not result["ok"]
    assert result["message"] == "the front-proxy CA CN=other-ca is not published; the name aggregator is not allowed"


def test_an_empty_list_allows_every_name(api_server, kubeconfig, run_module, config_map):
    config_map["data"]["requestheader-allowed-names"] = "[]"
    api_server.get(PATH, config_map)
    assert run_module(extension_authentication_info, kubeconfig=kubeconfig, contains_names=["x"])["ok"]


def test_a_shared_ca_is_named(api_server, kubeconfig, run_module, config_map):
    config_map["data"]["requestheader-client-ca-file"] += config_map["data"]["client-ca-file"]
    api_server.get(PATH, config_map)
    assert run_module(extension_authentication_info, kubeconfig=kubeconfig)["shared"] == ["CN=other-ca"]


def test_no_config_map_is_a_state(api_server, kubeconfig, run_module):
    result = run_module(extension_authentication_info, kubeconfig=kubeconfig)
    assert not result["exists"]
    assert "no ConfigMap" in result["message"]


def test_it_waits_for_what_is_published_late(api_server, kubeconfig, run_module, config_map, authority):
    answers = iter([(503, "starting"), (404, "none"), (200, config_map)])
    api_server.get(PATH, lambda request: next(answers))
    result = run_module(
        extension_authentication_info,
        kubeconfig=kubeconfig,
        contains_ca=[der(authority)],
        wait=True,
        wait_sleep=0.01,
        wait_timeout=5,
    )
    assert result["ok"]


def test_the_end_of_patience_has_a_reason(api_server, kubeconfig, run_module, config_map, other_authority):
    api_server.get(PATH, config_map)
    result = run_module(
        extension_authentication_info,
        kubeconfig=kubeconfig,
        contains_ca=[der(other_authority)],
        wait=True,
        wait_sleep=0.01,
        wait_timeout=0,
    )
    assert result["failed"]
    assert "CN=other-ca is not published" in result["msg"]
    assert result["last_observed"]["allowed_names"] == ["front-proxy-client"]


@pytest.mark.parametrize("arguments", [{"contains_ca": ["x"]}, {"server": "http://x"}, {"wait_timeout": -1}])
def test_bad_arguments_are_a_sentence(kubeconfig, run_module, arguments):
    result = run_module(extension_authentication_info, kubeconfig=kubeconfig, **arguments)
    assert result["failed"]
    assert result["msg"].endswith(".")


def test_a_refusal_is_an_error(api_server, kubeconfig, run_module):
    api_server.get(PATH, "no", status=403)
    result = run_module(extension_authentication_info, kubeconfig=kubeconfig, wait=True, wait_timeout=5)
    assert "403" in result["msg"]


def test_it_names_what_should_not_be_published_any_more(
    api_server, kubeconfig, run_module, config_map, authority, other_authority
):
    config_map["data"]["requestheader-client-ca-file"] += other_authority.pem.decode()
    api_server.get(PATH, config_map)
    arguments = {"kubeconfig": kubeconfig, "contains_ca": [der(authority)]}
    assert run_module(extension_authentication_info, **arguments)["ok"]
    result = run_module(extension_authentication_info, no_other_ca=True, **arguments)
    assert result["message"] == "the front-proxy CA CN=other-ca is published, which no control plane's file holds"


def test_a_name_that_cryptography_does_not_decode(
    api_server, kubeconfig, run_module, config_map, umlaut_certificate, authority
):
    odd = ssl.DER_cert_to_PEM_cert(umlaut_certificate("corporate-ca"))
    config_map["data"].update({"client-ca-file": odd, "requestheader-client-ca-file": odd})
    api_server.get(PATH, config_map)
    result = run_module(extension_authentication_info, kubeconfig=kubeconfig, contains_ca=[der(authority)])
    assert result["message"] == "the front-proxy CA CN=test-ca is not published"
    assert result["shared"] == ["CN=corporate-ca,O=Universität"]
