# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules, on the requests that the collection's module kubelet_csr is tested with as well."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metrics_server.approver import checks
from metrics_server.approver.checks import Addresses, CsrObject, NodeObject, Policy, Request, decide

CORPUS = json.loads((Path(__file__).parents[1] / "corpus" / "kubelet_csrs.json").read_text(encoding="utf-8"))
POLICY = Policy(
    service_addresses=frozenset(CORPUS["service_addresses"]),
    control_plane_addresses=frozenset(CORPUS["control_plane_addresses"]),
)


def addresses(*nodes: dict[str, Any]) -> Addresses:
    known = Addresses()
    known.replace(msgspec.convert(node, NodeObject) for node in nodes)
    return known


def outcome(csrs: list[dict[str, Any]], policy: Policy = POLICY, known: Addresses | None = None) -> dict[str, str]:
    requests = [Request(msgspec.convert(csr, CsrObject)) for csr in csrs]
    decision = decide(requests, known or addresses(*CORPUS["nodes"]), policy)
    found = {request.name: "Approved" for request, _ in decision.approve}
    return found | {request.name: error.code for request, error in decision.leave}


@pytest.mark.parametrize("case", CORPUS["cases"], ids=[case["title"] for case in CORPUS["cases"]])
def test_the_corpus(case: dict[str, Any]) -> None:
    assert outcome(case["csrs"]) == case["expected"]


SOUND = CORPUS["cases"][0]["csrs"]


def test_a_request_that_nobody_has_thought_of_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    read = checks._read

    def fails(spec: checks.Spec) -> list[str]:
        if spec.username == "system:node:w1":
            raise RecursionError
        return read(spec)

    monkeypatch.setattr(checks, "_read", fails)
    both = next(case["csrs"] for case in CORPUS["cases"] if case["title"] == "two nodes")
    assert outcome(both) == {"a": "Malformed", "b": "Approved"}


OTHERWISE_WRITTEN = CORPUS["cases"][1]["csrs"]


@pytest.mark.parametrize(
    ("cidrs", "expected"),
    [
        (["192.0.2.0/24"], "Approved"),
        (["198.51.100.0/24", "192.0.2.16/28"], "Approved"),
        (["198.51.100.0/24"], "CIDRNotAllowed"),
        (["2001:db8::/32"], "CIDRNotAllowed"),
    ],
)
def test_allowed_networks(cidrs: list[str], expected: str) -> None:
    policy = Policy(allowed_cidrs=tuple(ipaddress.ip_network(cidr) for cidr in cidrs))
    assert outcome(SOUND, policy) == {"a": expected}


def test_no_node_has_an_address_of_services() -> None:
    policy = Policy(service_cidrs=(ipaddress.ip_network("192.0.2.16/28"),))
    assert outcome(SOUND, policy) == {"a": "AddressReserved"}


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("example.com", "Approved"),
        ("w1.example.com", "Approved"),
        ("ample.com", "DomainNotAllowed"),
        ("example.org", "DomainNotAllowed"),
    ],
)
def test_allowed_domains(domain: str, expected: str) -> None:
    policy = Policy(allowed_domains=(domain,))
    assert outcome(OTHERWISE_WRITTEN, policy) == {"a": expected}
    # A name without a domain is in none.
    assert outcome(SOUND, policy) == {"a": "Approved"}


def test_a_nodes_own_name_is_in_the_allowed_domains() -> None:
    own = next(case["csrs"] for case in CORPUS["cases"] if case["title"].startswith("a control plane that is called"))
    assert outcome(own, replace(POLICY, allowed_domains=("example.com",))) == {"a": "Approved"}
    assert outcome(own, replace(POLICY, allowed_domains=("nodes.example.com",))) == {"a": "DomainNotAllowed"}


def test_what_the_api_servers_certificate_names_is_for_control_planes() -> None:
    own = next(case["csrs"] for case in CORPUS["cases"] if case["title"].startswith("a worker that is called like the"))
    assert outcome(own, Policy()) == {"a": "Approved"}
    policy = Policy(service_addresses=frozenset({"10.233.0.1"})).with_api_server(["", "10.233.0.1", "API.example.com."])
    assert policy.control_plane_addresses == {"api.example.com"}
    assert outcome(own, policy) == {"a": "AddressOfAPIServer"}


def test_nodes_come_change_and_go() -> None:
    w1, w2 = (node for node in CORPUS["nodes"] if node["metadata"]["name"] in ("w1", "w2"))
    known = addresses(w1, w2)
    rival = msgspec.convert(w2, NodeObject)
    assert not known.put(rival)
    rival.status.addresses = msgspec.convert(w1, NodeObject).status.addresses
    assert known.put(rival)
    assert outcome(SOUND, known=known) == {"a": "AddressOfOtherNode"}
    known.delete("w2")
    assert outcome(SOUND, known=known) == {"a": "Approved"}
    known.delete("w1")
    assert outcome(SOUND, known=known) == {"a": "NodeUnknown"}
    known.delete("w1")


def test_a_label_alone_counts_as_a_change() -> None:
    node = {"metadata": {"name": "w2"}, "status": {"addresses": [{"address": "192.0.2.101"}]}}
    known = addresses(node)
    labelled = {**node, "metadata": {"name": "w2", "labels": {"node-role.kubernetes.io/master": ""}}}
    csrs = next(case["csrs"] for case in CORPUS["cases"] if "AddressOfAPIServer" in case["expected"].values())
    assert outcome(csrs, known=known) == {"a": "AddressOfAPIServer"}
    assert known.put(msgspec.convert(labelled, NodeObject))
    assert outcome(csrs, known=known) == {"a": "Approved"}
