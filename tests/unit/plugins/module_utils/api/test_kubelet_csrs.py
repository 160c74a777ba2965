# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kubelet_csrs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.kubelet_csrs import Owners
from cryptography import x509
from cryptography.hazmat.primitives import serialization


def node(name, *addresses, labels=None):
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


NODES = [
    node("cp1", "192.0.2.11", "cp1", labels={"node-role.kubernetes.io/control-plane": ""}),
    node("w1", "192.0.2.21", "W1.example.com.", "2001:db8::0:21"),
]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("W1.Example.com.", "w1.example.com"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_normalize(address, expected):
    assert kubelet_csrs.normalize(address) == expected


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("w1", None),
        ("192.0.2.21", None),
        ("W1.example.com", None),
        ("2001:db8::21", None),
        ("192.0.2.22", "is no address of node w1"),
        ("192.0.2.11", "also belongs to node cp1"),
        ("cp1", "also belongs to node cp1"),
        ("127.0.0.1", "no address of a machine"),
        ("::1", "no address of a machine"),
        ("0.0.0.0", "no address of a machine"),
        ("224.0.0.1", "no address of a machine"),
        ("10.233.0.1", "kubernetes Service"),
        ("kubernetes", "name of services"),
        ("kubernetes.default.svc.cluster.local", "name of services"),
        ("metrics-server.kube-system.svc", "name of services"),
        ("*.example.com", "wildcard"),
    ],
)
def test_addresses_by_node_objects(address, words):
    fault = Owners({}, NODES, service_ips=["10.233.0.1"]).fault("w1", address)
    assert fault is None if words is None else words in fault


def test_what_a_kubelet_states_of_itself_does_not_get_it_names_of_services():
    states = [node("w1", "kubernetes.default.svc", "127.0.0.1", "10.233.0.1")]
    owners = Owners({}, states, service_ips=["10.233.0.1"])
    assert all(owners.fault("w1", address) for address in ("kubernetes.default.svc", "127.0.0.1", "10.233.0.1"))


def test_an_address_that_two_nodes_state_belongs_to_neither():
    owners = Owners({}, [node("a", "10.0.2.15"), node("b", "10.0.2.15")])
    assert "also belongs to node b" in owners.fault("a", "10.0.2.15")
    assert "also belongs to node a" in owners.fault("b", "10.0.2.15")


def test_the_caller_decides_between_two_nodes():
    owners = Owners({"a": ["10.0.2.15"]}, [node("a", "10.0.2.15"), node("b", "10.0.2.15")])
    assert owners.fault("a", "10.0.2.15") is None
    assert "also belongs to node a" in owners.fault("b", "10.0.2.15")


def test_an_address_given_to_two_nodes_belongs_to_neither():
    owners = Owners({"a": ["192.0.2.1"], "b": ["192.0.2.1"]})
    assert owners.fault("a", "192.0.2.1")
    assert owners.fault("b", "192.0.2.1")


def test_a_node_cannot_take_the_name_of_another():
    assert "also belongs to node cp1" in Owners({"cp1": [], "w1": []}).fault("w1", "cp1")


def test_the_address_of_the_api_server_is_for_control_planes():
    owners = Owners({}, [node("w1", "192.0.2.100"), *NODES[:1]], api_hosts=["192.0.2.100"])
    assert "address of the API server" in owners.fault("w1", "192.0.2.100")
    owners = Owners({}, NODES, api_hosts=["192.0.2.11"])
    assert owners.fault("cp1", "192.0.2.11") is None


def test_a_nodes_own_name_is_checked_as_any_other():
    nodes = [node("api.example.com", "192.0.2.9"), *NODES[:1]]
    owners = Owners({}, nodes, api_hosts=["api.example.com", "cp1"], service_cidrs=["10.96.0.0/12"])
    assert owners.fault("api.example.com", "api.example.com").code == "AddressOfAPIServer"
    assert owners.fault("10.96.3.4", "10.96.3.4").code == "AddressReserved"
    # An API server's certificate names its own host.
    assert owners.fault("cp1", "cp1") is None
    assert Owners({"w1": []}).fault("w1", "w1") is None


def test_a_control_plane_without_the_label_is_one_if_the_caller_says_so():
    owners = Owners({}, [node("cp1", "192.0.2.11")], api_hosts=["192.0.2.11"], control_planes=["cp1"])
    assert owners.fault("cp1", "192.0.2.11") is None


def test_no_address_in_the_network_of_services_is_taken_from_a_node_object():
    states = [node("w1", "10.233.7.7", "fd00:1234::7")]
    owners = Owners({}, states, service_cidrs=["10.233.0.0/18", "fd00:1234::/108"])
    assert "network of Services 10.233.0.0/18" in owners.fault("w1", "10.233.7.7")
    assert "network of Services fd00:1234::/108" in owners.fault("w1", "fd00:1234::7")
    assert Owners({"w1": ["10.233.7.7"]}, states, service_cidrs=["10.233.0.0/18"]).fault("w1", "10.233.7.7") is None


def test_without_node_objects_only_given_addresses_count():
    owners = Owners({"w1": ["192.0.2.21"]})
    assert owners.fault("w1", "192.0.2.21") is None
    assert owners.fault("w1", "w1") is None
    assert owners.fault("w1", "w1.example.com")


# --- whole requests -------------------------------------------------------------------------------------------------


OWNERS = Owners({"w1": ["192.0.2.21"], "w2": ["192.0.2.22"]})


def test_a_sound_request(make_csr):
    request = kubelet_csrs.examine(make_csr(), OWNERS)
    assert request.fault == ""
    assert (request.node, request.addresses) == ("w1", ["w1", "192.0.2.21"])


def test_rsa_kubelets_ask_for_key_encipherment(make_csr):
    usages = ["digital signature", "key encipherment", "server auth"]
    assert not kubelet_csrs.examine(make_csr(usages=usages), OWNERS).fault


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"signer": "kubernetes.io/kube-apiserver-client"}, "its signer is"),
        ({"username": "admin"}, "sent by admin, which is no node"),
        ({"username": "system:node:"}, "which is no node"),
        ({"username": None}, "sent by nobody"),
        ({"groups": ["system:authenticated"]}, "not in group system:nodes"),
        ({"groups": None}, "not in group system:nodes"),
        ({"usages": ["digital signature"]}, "does not ask for usage server auth"),
        ({"usages": None}, "does not ask for usage server auth"),
        ({"usages": ["server auth", "client auth"]}, "asks for usage client auth"),
        ({"common_name": "system:node:w2"}, "its subject is"),
        ({"organizations": ["system:nodes", "system:masters"]}, "its subject is"),
        ({"organizations": ["system:masters"]}, "its subject is"),
        ({"organizations": []}, "its subject is"),
        ({"names": []}, "names no address"),
        ({"names": [x509.UniformResourceIdentifier("spiffe://a")]}, "neither an IP nor a DNS name"),
        ({"names": [x509.RFC822Name("a@example.com")]}, "neither an IP nor a DNS name"),
        ({"names": ["w1", "192.0.2.22"]}, "192.0.2.22 also belongs to node w2"),
        ({"names": ["w1", "192.0.2.99"]}, "192.0.2.99 is no address of node w1"),
        ({"names": ["kubernetes.default.svc"]}, "name of services"),
    ],
)
def test_each_check(make_csr, changes, words):
    assert words in kubelet_csrs.examine(make_csr(**changes), OWNERS).fault


@pytest.mark.parametrize(
    ("request_field", "words"),
    [
        (None, "is missing"),
        ("%%%", "is not base64"),
        (base64.b64encode(b"hello").decode(), "is not exactly one PEM block"),
        (
            base64.b64encode(
                b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
            ).decode(),
            "does not parse",
        ),
    ],
)
def test_what_is_no_request(make_csr, request_field, words):
    csr = make_csr()
    csr["spec"]["request"] = request_field
    assert words in kubelet_csrs.examine(csr, OWNERS).fault


def test_two_requests_in_one(make_csr):
    csr = make_csr()
    pem = base64.b64decode(csr["spec"]["request"])
    csr["spec"]["request"] = base64.b64encode(pem + pem).decode()
    assert "not exactly one PEM block" in kubelet_csrs.examine(csr, OWNERS).fault


def test_a_request_signed_by_another_key(make_csr):
    csr = make_csr()
    request = x509.load_pem_x509_csr(base64.b64decode(csr["spec"]["request"]))
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der))
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"
    csr["spec"]["request"] = base64.b64encode(pem).decode()
    assert "not signed by its own key" in kubelet_csrs.examine(csr, OWNERS).fault


def test_examine_survives_anything():
    for csr in ({}, {"spec": None, "metadata": None}, {"spec": {"signerName": kubelet_csrs.SIGNER}}):
        assert kubelet_csrs.examine(csr, OWNERS).fault


def test_only_the_newest_request_of_a_node_is_approved(make_csr):
    csrs = [
        make_csr("old", created="2026-03-01T10:00:00Z", version=5),
        make_csr("newest", created="2026-03-01T10:00:01Z", version=10),
        make_csr("same-second", created="2026-03-01T10:00:01Z", version=9),
    ]
    decision = kubelet_csrs.decide(csrs, OWNERS)
    assert [request.name for request in decision.approve] == ["newest"]
    assert [(request.name, reason) for request, reason in decision.leave] == [
        ("same-second", "node w1 has asked again since, with newest"),
        ("old", "node w1 has asked again since, with newest"),
    ]


@pytest.mark.parametrize("state", ["Approved", "issued"])
def test_a_request_older_than_an_approved_one_is_left(make_csr, state):
    csrs = [make_csr("old", version=1), make_csr("done", version=2, state=state)]
    decision = kubelet_csrs.decide(csrs, OWNERS)
    assert not decision.approve
    assert [request.name for request, unused in decision.leave] == ["old"]


def test_a_request_newer_than_an_issued_one_is_approved(make_csr):
    csrs = [make_csr("done", version=1, state="issued"), make_csr("renewal", version=2)]
    assert [request.name for request in kubelet_csrs.decide(csrs, OWNERS).approve] == ["renewal"]


def test_a_denied_request_does_not_stand_in_the_way(make_csr):
    csrs = [make_csr("sound", version=1), make_csr("denied", version=2, state="Denied")]
    assert [request.name for request in kubelet_csrs.decide(csrs, OWNERS).approve] == ["sound"]


def test_somebody_elses_request_does_not_supersede(make_csr):
    csrs = [make_csr("sound", version=1), make_csr("fake", version=2, username="mallory")]
    decision = kubelet_csrs.decide(csrs, OWNERS)
    assert [request.name for request in decision.approve] == ["sound"]
    assert [request.name for request in decision.refuse] == ["fake"]


def test_nodes_that_were_not_asked_for_are_left(make_csr):
    csrs = [make_csr("a"), make_csr("b", node="w2", names=["192.0.2.99"])]
    decision = kubelet_csrs.decide(csrs, OWNERS, ["w1"])
    assert [request.name for request in decision.approve] == ["a"]
    assert decision.refuse == []
    assert decision.leave[0][1] == "node w2 is none of those that may be approved"


def test_other_signers_are_not_looked_at(make_csr):
    decision = kubelet_csrs.decide([make_csr(signer="example.com/x")], OWNERS)
    assert decision == ([], [], [])


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], "none"),
        (["pending"], "pending"),
        (["Approved"], "approved"),
        (["Denied"], "denied"),
        (["issued", "pending"], "issued"),
        (["pending", "Failed"], "failed"),
    ],
)
def test_progress(make_csr, states, expected):
    csrs = [make_csr(f"c{number}", version=number, state=state) for number, state in enumerate(states)]
    assert kubelet_csrs.progress(csrs, "w1")["state"] == expected
    assert kubelet_csrs.progress(csrs, "w2")["state"] == "none"


def test_progress_since(make_csr):
    csrs = [make_csr("old", created="2026-03-01T10:00:00Z", state="issued"), make_csr("new", version=9)]
    csrs[1]["metadata"]["creationTimestamp"] = "2026-03-01T10:05:00Z"
    assert kubelet_csrs.progress(csrs, "w1", "2026-03-01T10:05:00Z") == {
        "state": "pending",
        "csr": "new",
        "created": "2026-03-01T10:05:00Z",
    }


def test_conditions_are_added_to_those_there_are(make_csr):
    csr = make_csr()
    csr["status"] = {"conditions": [{"type": "Odd"}]}
    changed = kubelet_csrs.with_condition(csr, approve=False, message="no", now="2026-03-01T10:00:00Z")
    assert [condition["type"] for condition in changed["status"]["conditions"]] == ["Odd", "Denied"]
    assert changed["kind"] == "CertificateSigningRequest"
    assert csr["status"] == {"conditions": [{"type": "Odd"}]}


# --- the same rules as the bundled approver ------------------------------------------------------------------------


CORPUS = json.loads(
    (Path(__file__).parents[5] / "metrics_server" / "tests" / "corpus" / "kubelet_csrs.json").read_text(
        encoding="utf-8"
    )
)


@pytest.mark.parametrize("case", CORPUS["cases"], ids=[case["title"] for case in CORPUS["cases"]])
def test_the_corpus_that_the_approver_is_tested_with(case):
    owners = Owners(
        {}, CORPUS["nodes"], service_ips=CORPUS["service_addresses"], api_hosts=CORPUS["control_plane_addresses"]
    )
    decision = kubelet_csrs.decide(case["csrs"], owners)
    found = {request.name: "Approved" for request in decision.approve}
    found.update({request.name: request.code for request in decision.refuse})
    found.update({request.name: "Superseded" for request, unused in decision.leave})
    assert found == case["expected"]


def test_a_request_of_a_node_that_nobody_knows(make_csr):
    assert "there is no node w9" in kubelet_csrs.examine(make_csr(node="w9", names=["w9"]), OWNERS).fault
