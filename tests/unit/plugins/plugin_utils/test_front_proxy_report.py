# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy_report

INFO = {"ca_file": "/pki/ca.crt", "cert_file": "/pki/client.crt", "ca_key": {"path": "/pki/ca.key"}}
NOTHING = {"create_ca": False, "signer": None, "update_ca": [], "issue": {}}


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({}, ""),
        ({"update_ca": ["cp2"], "issue": {"cp2": "it expired"}, "create_ca": True, "signer": "cp2"}, ""),
        ({"signer": "cp1"}, ""),
        ({"update_ca": ["cp1"]}, "/pki/ca.crt gets the CAs of all control planes."),
        (
            {"create_ca": True, "signer": "cp1", "issue": {"cp1": "there is no certificate in /pki/client.crt"}},
            "A CA of its own is made for the front proxy, and its key stays in /pki/ca.key here; /pki/client.crt is "
            "replaced, because there is no certificate in /pki/client.crt.",
        ),
    ],
)
def test_what_happens_on_a_control_plane(plan, sentence):
    assert front_proxy_report.announced(INFO, "cp1", {**NOTHING, **plan}) == sentence


def test_what_a_rotation_does():
    rotation = {"create": True, "signer": "cp1", "reissue": ["cp1", "cp2"], "old": ["CN=a"]}
    said = front_proxy_report.announced_rotation(rotation)
    assert said.startswith("A new CA is made for the front proxy on cp1; then")
    assert "the certificates of cp1, cp2 are replaced, and CN=a is no longer trusted" in said
    said = front_proxy_report.announced_rotation({"create": False, "signer": None, "reissue": [], "old": ["a", "b"]})
    assert "is continued; then" in said and "no certificate has to be replaced, and a, b are no longer trusted" in said


def absent(**changes):
    given = {
        "known": ["192.0.2.11", "192.0.2.12"],
        "endpoints": ["192.0.2.12", "192.0.2.11"],
        "servers": [{"server": "https://192.0.2.11:6443", "ready": True}],
    }
    flags = {"cp1": {"requestheader-client-ca-file": "/pki/ca.crt"}, **changes.pop("flags", {})}
    return front_proxy_report.absent(dict.fromkeys(flags, INFO), flags, **{**given, **changes})


def test_every_api_server_takes_part():
    assert absent() == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoints": ["192.0.2.11", "192.0.2.13"]}, "API servers that this play does not know (192.0.2.13)"),
        ({"flags": {"cp2": {}}}, "the API servers of cp2 do not run with the certificates"),
        ({"flags": {"cp2": {"requestheader-client-ca-file": "/ca.pem"}}}, "the API servers of cp2 do not run"),
        ({"servers": [{"server": "https://a:1", "ready": False}]}, "the API servers https://a:1 are not ready"),
    ],
)
def test_what_keeps_a_ca_from_being_replaced(changes, words):
    assert words in absent(**changes)


def test_all_reasons_are_given():
    assert absent(endpoints=["192.0.2.13"], flags={"cp2": {}}).count("; ") == 1
