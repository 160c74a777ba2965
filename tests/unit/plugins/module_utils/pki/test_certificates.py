# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import datetime

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import names
from cryptography.hazmat.primitives import serialization


def encode(data):
    return base64.b64encode(data).decode()


def test_describe(authority):
    pem, unused_key = authority.issue("web", dns=["web.example.com"], ips=["192.0.2.1"], organization="o")
    words = certs.describe(certs.load_bundle(pem)[0])
    assert words["subject"] == "CN=web,O=o"
    assert words["issuer"] == "CN=test-ca"
    assert (words["dns_names"], words["ip_addresses"]) == (["web.example.com"], ["192.0.2.1"])
    assert words["extended_key_usages"] == ["server auth", "client auth"]
    assert (words["expired"], words["not_yet_valid"], words["is_ca"], words["self_signed"]) == (False,) * 4
    assert words["expires_in_days"] in (29, 30)
    assert words["not_after"].endswith("Z")


def test_describe_an_authority(authority):
    words = certs.describe(authority.certificate)
    assert words["is_ca"]
    assert words["self_signed"]


def test_an_expired_certificate(authority):
    words = certs.describe(certs.load_bundle(authority.issue("old", days=-3)[0])[0])
    assert words["expired"]
    assert words["expires_in_days"] < 0


def test_der(authority):
    der = authority.certificate.public_bytes(serialization.Encoding.DER)
    assert certs.load_der(der) == authority.certificate
    with pytest.raises(ValueError, match="does not parse"):
        certs.load_der(b"junk")


def test_issued_by(authority, other_authority):
    leaf = certs.load_bundle(authority.issue("web")[0])[0]
    assert certs.issued_by(leaf, [other_authority.certificate, authority.certificate])
    assert not certs.issued_by(leaf, [other_authority.certificate])
    assert not certs.issued_by(leaf, [])
    assert certs.issued_by(authority.certificate, [authority.certificate])


def test_bundle(authority, other_authority):
    bundle = certs.describe_bundle(encode(b"some text\n" + authority.pem + other_authority.pem))
    assert (bundle["present"], bundle["valid_pem"], bundle["message"]) == (True, True, "")
    assert bundle["subjects"] == ["CN=test-ca", "CN=other-ca"]
    assert len(bundle["fingerprints_sha256"]) == 2


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ("***", "is not base64"),
        (encode(b"hello"), "holds no PEM certificate"),
        (encode(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "number 1"),
    ],
)
def test_bundles_that_an_api_server_takes_and_then_fails_on(encoded, message):
    bundle = certs.describe_bundle(encoded)
    assert bundle["present"]
    assert not bundle["valid_pem"]
    assert message in bundle["message"]


@pytest.mark.parametrize("encoded", [None, ""])
def test_no_bundle(encoded):
    assert not certs.describe_bundle(encoded)["present"]


@pytest.mark.parametrize(("ahead", "fit"), [(0, True), (240, True), (360, False)])
def test_a_clock_that_is_a_little_behind_the_one_that_signed(authority, ahead, fit):
    certificate = certs.load_bundle(authority.issue("web")[0])[0]
    now = certs.not_before(certificate) - datetime.timedelta(seconds=ahead)
    assert (certs.why_no_client([certificate], [authority.certificate], now) == "") is fit


def test_a_name_that_cryptography_does_not_decode(umlaut_certificate):
    der = umlaut_certificate("front-proxy, client")
    certificate = certs.load_der(der)
    with pytest.raises(ValueError, match="asn1"):
        certificate.subject.rfc4514_string()
    words = certs.describe(certificate)
    assert words["subject"] == words["issuer"] == r"CN=front-proxy\, client,O=Universität"
    assert words["self_signed"]
    assert certs.common_name(certificate) == "front-proxy, client"
    assert certs.describe_bundle(encode(pem_of(der)))["subjects"] == [words["subject"]]
    assert words["subject"] in certs.why_no_client([certificate], [])


def pem_of(der):
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("tbs", [b"", b"\x30\x03\x02\x01\x01", b"\x30\x82\x01"])
def test_a_name_that_nothing_reads(tbs):
    class Odd:
        tbs_certificate_bytes = tbs

        @property
        def subject(self):
            raise ValueError("error parsing asn1 value")

    assert names.text(Odd()) == "unreadable"
    assert names.attributes(Odd()) is None


def test_a_version_that_there_is_not(authority):
    der = authority.certificate.public_bytes(serialization.Encoding.DER)
    odd = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04", 1)
    with pytest.raises(ValueError, match="does not parse"):
        certs.load_der(odd)
    with pytest.raises(ValueError, match="number 2"):
        certs.load_bundle(authority.pem + pem_of(odd))
    assert certs.describe_bundle(encode(pem_of(odd)))["message"].endswith("does not parse")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", "a"), ("a, b", r"a\, b"), ("#a", r"\#a"), (" a ", r"\ a\ "), ('a"+;<>\\', r"a\"\+\;\<\>\\")],
)
def test_characters_that_have_a_meaning_in_names(value, expected):
    assert names._escaped(value) == expected
