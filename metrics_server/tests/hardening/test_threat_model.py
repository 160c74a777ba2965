# SPDX-License-Identifier: GPL-3.0-or-later
"""The threat model says nothing that no test shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from api.conftest import World

TESTS = Path(__file__).parents[1]
REPOSITORY = TESTS.parents[1]
MODEL = (REPOSITORY / "docs/threat-model.md").read_text()
TEMPLATES = REPOSITORY / "roles/metrics_server/templates"
CLAIMS = re.findall(r"^\| (C\d+) \| .+ \| (.+) \|$", MODEL, re.MULTILINE)


def test_claims_are_numbered() -> None:
    assert [name for name, _ in CLAIMS] == [f"C{number}" for number in range(1, len(CLAIMS) + 1)]
    assert len(CLAIMS) == MODEL.count("\n| C")


@pytest.mark.parametrize(("claim", "tests"), CLAIMS, ids=[name for name, _ in CLAIMS])
def test_every_claim_has_tests_that_exist(claim: str, tests: str) -> None:
    named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", tests)
    assert named, claim
    assert len(named) == tests.count("::")
    for path, name in named:
        text = (TESTS / path).read_text()
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{claim}: {path} has no {name}"


def _rules(template: str) -> list[tuple[str, str]]:
    """Return resources and verbs of all rules in a template, with the names that they are limited to."""
    text = (TEMPLATES / template).read_text()
    rule = re.compile(r"(?:resources|nonResourceURLs): \[(.+)\]\n(?: +resourceNames: (.+)\n)? +verbs: \[(.+)\]")
    found = [(resources + (f" {names}" if names else ""), verbs) for resources, names, verbs in rule.findall(text)]
    # No rule in another form than the one that is understood here.
    assert len(found) == len(re.findall(r"^ *(?:- )?verbs:", text, re.MULTILINE))
    return found


def test_the_rights_are_those_that_are_documented() -> None:
    server = [
        # What users get who may view.
        ("nodes, pods", "get, list, watch"),
        ("nodes/metrics", "get"),
        # Only where it asks for summaries.
        ("nodes/stats", "get"),
        ("nodes, pods", "get, list, watch"),
        ("apiservices {{ _metrics_server_apiservices | to_json }}", "get, patch"),
        ("secrets", "create"),
        ("secrets [{{ name }}-serving-cert]", "get, list, watch, update, patch"),
    ]
    rules = _rules("manifests.yml.j2")
    assert rules[: len(server)] == server
    assert rules[len(server) :] in ([], [("nodes, pods", "get, list, watch")])
    # Those of its readers and of Prometheus.
    assert _rules("readers.yml.j2") == [("nodes, pods", "get, list")]
    assert _rules("prometheus.yml.j2") == [("/metrics", "get")]
    assert _rules("csr-approver.yml.j2") == [
        ("certificatesigningrequests", "get, list, watch"),
        ("certificatesigningrequests/approval", "update"),
        ("signers [kubernetes.io/kubelet-serving]", "approve"),
        ("nodes", "get, list, watch"),
    ]
    assert _rules("nanny.yml.j2") == [
        # One of these two, and the last two only where pods are resized in place.
        ("/metrics", "get"),
        ("nodes", "list"),
        ("deployments [{{ _metrics_server_name }}]", "get, patch"),
        ("pods", "list"),
        ("pods/resize", "patch"),
    ]
    assert _rules("companion.yml.j2") == []


def test_each_program_has_an_account_of_its_own() -> None:
    """The accounts of pods in the template of the server, and in the one of the programs beside it."""
    accounts = {
        template: re.findall(r"serviceAccountName: (.+)", (TEMPLATES / template).read_text())
        for template in ("manifests.yml.j2", "companion.yml.j2", "nanny.yml.j2", "csr-approver.yml.j2")
    }
    assert accounts == {
        "manifests.yml.j2": ["{{ name }}"],
        "companion.yml.j2": ["{{ companion.name }}"],
        "nanny.yml.j2": [],
        "csr-approver.yml.j2": [],
    }
    for template in ("nanny.yml.j2", "csr-approver.yml.j2"):
        text = (TEMPLATES / template).read_text()
        assert text.rstrip().endswith("{% include 'companion.yml.j2' %}")
        # Whatever is bound there is bound to that account.
        assert set(re.findall(r"kind: ServiceAccount\n +name: (.+)", text)) <= {"{{ companion.name }}"}


def test_no_template_is_left_out() -> None:
    known = set(re.findall(r'_rules\("([\w.-]+)"\)', Path(__file__).read_text()))
    assert {path.name for path in TEMPLATES.iterdir()} == known


async def test_made_up_names_create_no_series(world: World) -> None:
    admin = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")]

    async def series() -> int:
        answer = await world.running.get("/metrics", credential=world.front_proxy, headers=admin)
        return sum(line.startswith(b"apiserver_request") for line in answer.body.splitlines())

    paths = [f"/apis/metrics.k8s.io/v{n}/thing{n}/x" for n in range(30)] + [f"/made/up/{n}" for n in range(30)]
    for path in (paths[0], paths[-1]):
        await world.running.get(path)
    await series()
    before = await series()
    for path in paths:
        await world.running.get(path)
    assert await series() == before
