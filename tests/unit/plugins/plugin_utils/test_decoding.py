# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.decoding import decode, issued_by
from cryptography.hazmat.primitives import serialization


@pytest.fixture(scope="module")
def encoded(authority):
    return base64.b64encode(authority.certificate.public_bytes(serialization.Encoding.DER)).decode()


def test_certificates_are_found_at_any_depth(encoded):
    result = decode({"a": [{"tls": {"certificate_der": encoded, "ok": True}}], "leaf_certificate_der": encoded})
    assert result["a"][0]["tls"]["certificate"]["subject"] == "CN=test-ca"
    assert result["a"][0]["tls"]["certificate_der"] == encoded
    assert result["leaf_certificate"]["is_ca"]


@pytest.mark.parametrize("value", [None, ""])
def test_no_certificate(value):
    assert decode({"certificate_der": value})["certificate"] is None


@pytest.mark.parametrize("value", ["***", "aGVsbG8=", 5])
def test_what_does_not_parse_says_so(value):
    assert decode({"certificate_der": value})["certificate"] == {"error": "The certificate does not parse."}


def test_names_that_cryptography_does_not_decode(umlaut_certificate):
    value = base64.b64encode(umlaut_certificate("front-proxy-client")).decode()
    assert decode({"certificate_der": value})["certificate"]["subject"] == "CN=front-proxy-client,O=Universit\u00e4t"


def test_a_version_that_there_is_not(encoded):
    der = base64.b64decode(encoded).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04", 1)
    odd = base64.b64encode(der).decode()
    assert decode({"certificate_der": odd})["certificate"] == {"error": "The certificate does not parse."}
    assert issued_by(odd, [{"certificate_der": encoded}]) is False


def test_other_values_stay_as_they_are():
    assert decode({"changed": False, "list": [1, "x", None]}) == {"changed": False, "list": [1, "x", None]}


def test_issued_by(encoded, authority, other_authority):
    other = base64.b64encode(other_authority.certificate.public_bytes(serialization.Encoding.DER)).decode()
    assert issued_by(encoded, [{"certificate_der": other}, {"certificate_der": encoded}]) is True
    assert issued_by(encoded, [{"certificate_der": other}]) is False
    assert issued_by(encoded, []) is False
    assert issued_by(encoded, None) is None
    assert issued_by(None, [{"certificate_der": encoded}]) is None
    assert issued_by("aGVsbG8=", [{"certificate_der": encoded}]) is False
