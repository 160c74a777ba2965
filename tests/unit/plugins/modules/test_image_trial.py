# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import image_trial

PODS = "/api/v1/namespaces/kube-system/pods"


def waiting(reason, message=""):
    return {
        "phase": "Pending",
        "containerStatuses": [{"name": "trial", "state": {"waiting": {"reason": reason, "message": message}}}],
    }


def ended(code, phase="Failed"):
    state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
    return {"phase": phase, "containerStatuses": [{"name": "trial", "state": state}]}


@pytest.fixture
def nodes(api_server, monkeypatch):
    """A cluster whose nodes go through the given states with a pod."""
    monkeypatch.setattr(image_trial, "SLEEP", 0.01)
    there = {}
    seen = []
    states = {}

    def create(request):
        body = json.loads(request.raw)
        name = body["metadata"]["name"]
        if name in there:
            return 409, {"reason": "AlreadyExists"}
        there[name] = body
        seen.append(body)
        return 201, body

    def for_node(node, log):
        name = image_trial.pod_name(node)

        def read(_request):
            if name not in there:
                return 404, {"reason": "NotFound"}
            status = states[node][0] if len(states[node]) == 1 else states[node].pop(0)
            return 200, {**there[name], "status": status}

        def delete(_request):
            return (200, {}) if there.pop(name, None) else (404, {"reason": "NotFound"})

        api_server.routes["GET", f"{PODS}/{name}"] = read
        api_server.routes["DELETE", f"{PODS}/{name}"] = delete
        api_server.get(f"{PODS}/{name}/log", log)

    def become(node, *sequence, log="v0.1.0\n"):
        states[node] = list(sequence)
        for_node(node, log)

    api_server.routes["POST", PODS] = create
    become.there, become.seen = there, seen
    return become


@pytest.fixture
def start(kubeconfig, run_module):
    def run(*names, **arguments):
        own = {"kubeconfig": str(kubeconfig), "image": "registry.example.com/a:1", "nodes": list(names), "timeout": 5}
        return run_module(image_trial, **{**own, **arguments})

    return run


def test_an_image_that_starts(nodes, start):
    nodes("w1", {"phase": "Pending"}, waiting("ContainerCreating"), ended(0, "Succeeded"))
    nodes("w2", ended(0, "Succeeded"))
    result = start("w1", "w2", pull_secrets=["login"], pull_policy="Always")
    assert (result["changed"], result["nodes"]) == (False, {"w1": "v0.1.0", "w2": "v0.1.0"})
    assert nodes.there == {}
    spec = nodes.seen[0]["spec"]
    assert (spec["nodeName"], spec["imagePullSecrets"]) == ("w1", [{"name": "login"}])
    assert spec["automountServiceAccountToken"] is False
    assert spec["containers"][0]["imagePullPolicy"] == "Always"


@pytest.mark.parametrize(
    ("sequence", "said"),
    [
        (
            [
                waiting(
                    "ErrImagePull",
                    'failed to do request: Head "https://r/v2/": x509: certificate signed by unknown authority',
                ),
                waiting("ImagePullBackOff", "Back-off pulling image"),
            ],
            ["x509: certificate signed", "make the node's container runtime trust the registry's CA"],
        ),
        (
            [waiting("ErrImagePull", "401 Unauthorized"), waiting("ImagePullBackOff")],
            ["401 Unauthorized", "metrics_server_image_pull_secrets"],
        ),
        (
            [waiting("ImagePullBackOff", "dial tcp: lookup r: no such host")],
            ["no such host", "let the node reach the registry"],
        ),
        ([waiting("ErrImageNeverPull", "not present with pull policy of Never")], ["run this again", "source to push"]),
        ([waiting("CreateContainerError", "no space left")], ["CreateContainerError: no space left"]),
    ],
)
def test_why_it_does_not_start(nodes, start, sequence, said):
    nodes("w1", *sequence)
    message = start("w1")["msg"]
    assert message.startswith("The image registry.example.com/a:1 cannot be started on w1 (")
    assert all(part in message for part in [*said, "nothing was rolled out"])
    assert nodes.there == {}


def test_an_image_that_ends_badly_says_its_last_lines(nodes, start):
    nodes("w1", ended(1), log="Traceback\n  File x\nImportError: cannot import name\n")
    message = start("w1")["msg"]
    assert "it ended with 1 (Error): Traceback | File x | ImportError" in message
    assert message.endswith("has to be the version of Python in metrics_server_image_base.")


def test_every_node_is_named(nodes, start):
    nodes("w1", waiting("ImagePullBackOff", "not found"))
    nodes("w2", ended(0, "Succeeded"))
    nodes("w3", waiting("ImagePullBackOff", "not found"))
    message = start("w1", "w2", "w3")["msg"]
    assert "w1 (" in message and "w3 (" in message and "w2" not in message


def test_a_pod_that_never_starts(nodes, start):
    nodes("w1", waiting("ContainerCreating"))
    message = start("w1", timeout=0.1)["msg"]
    assert "w1 (after 0 seconds: container trial waits: ContainerCreating)" in message
    assert nodes.there == {}


def test_what_an_interrupted_run_left_is_replaced(nodes, start):
    nodes("w1", ended(0, "Succeeded"))
    nodes.there[image_trial.pod_name("w1")] = {"metadata": {"name": image_trial.pod_name("w1")}}
    assert start("w1")["nodes"] == {"w1": "v0.1.0"}


def test_an_api_server_that_refuses(api_server, start, nodes):
    nodes("w1", ended(0, "Succeeded"))
    api_server.routes["POST", PODS] = lambda request: (403, {"reason": "Forbidden", "message": "pods is forbidden"})
    assert "pods is forbidden" in start("w1")["msg"]


LOGIN, REACH, NAME = "image_pull_secrets", "let the node reach", "correct metrics_server_image_name"
PYTHON, MUSL = "has to bring Python as python3", "has an older one, or musl"
VERSION, NEVER = "metrics_server_image_python_version has to be", "run this again"


@pytest.mark.parametrize(
    ("node", "image", "message", "expected"),
    [
        (
            "w1",
            "r.example.com/ms:40312ab4f6c1",
            'ErrImagePull: failed to resolve reference "r.example.com/ms:40312ab4f6c1": '
            "r.example.com/ms:40312ab4f6c1: not found",
            NAME,
        ),
        ("w1", "r.example.com/ms:a1b2c4015d6e", "manifest for r.example.com/ms:a1b2c4015d6e not found", NAME),
        ("w1", "r.example.com/ms:401", "ErrImagePull: manifest for r.example.com/ms:401 not found", NAME),
        ("w1", "denied/ms:1", 'ErrImagePull: failed to resolve "docker.io/denied/ms:1": not found', NAME),
        ("w1", "refused.example.com/ms:1", "ErrImagePull: refused.example.com/ms:1: not found", NAME),
        ("w1", "denied.example.com/ms:1", "dial tcp: lookup denied.example.com on 10.0.0.10: no such host", REACH),
        ("node-denied", "r/ms:1", "it ended with 1 (Error): ModuleNotFoundError: x", VERSION),
        ("node-403", "r/ms:1", "ErrImageNeverPull: Container image is not present on node-403", NEVER),
        ("x509", "r/ms:1", "ErrImagePull: the node x509 says 403 Forbidden", LOGIN),
        ("w1", "r/ms:1", "ErrImagePull: unexpected status code 401", LOGIN),
        (
            "w1",
            "r/ms:1",
            "it ended with 1 (Error): ImportError: Error loading shared library ld-linux-x86-64.so.2: No such file",
            MUSL,
        ),
        (
            "w1",
            "r/ms:1",
            'it ended with 127 (StartError): exec: "python3": executable file not found in $PATH: unknown',
            PYTHON,
        ),
        ("w1", "r/ms:1", "executable file `python3` not found in $PATH: No such file or directory", PYTHON),
        ("w1", "r/ms:1", "it ended with 1: version `GLIBC_2.34' not found", MUSL),
        ("w1", "r/ms:1", "it ended with 1 (Error): PermissionError: Permission denied", ""),
        ("w1", "r/ms:1", "CreateContainerError: no space left on device", ""),
    ],
)
def test_what_to_do(node, image, message, expected):
    found = image_trial.advice(image_trial.without_names(message, [*image_trial.names_of(image), node]))
    assert expected in found and bool(found) == bool(expected)


def test_names_decide_nothing(nodes, start):
    nodes("node-401", waiting("ImagePullBackOff", "r.example.com/denied:403 not found"))
    message = start("node-401", image="r.example.com/denied:403")["msg"]
    assert message.startswith("The image r.example.com/denied:403 cannot be started on node-401 (ImagePullBackOff: ")
    assert message.endswith("correct metrics_server_image_name and metrics_server_image_version.")
