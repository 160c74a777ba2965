# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import kubelet_info

PATH = "/metrics/resource"


@pytest.fixture
def kubelet(start_server):
    """A kubelet with webhook authentication, as it should be."""

    def start(**arguments):
        server = start_server(**arguments)
        tokens = {None: 401, "Bearer good": 200, "Bearer weak": 403}
        server.get(PATH, lambda request: (tokens.get(request.headers["Authorization"], 401), "x"))
        return server

    return start


@pytest.fixture
def probe(run_module, authority):
    def run(server, **arguments):
        defaults = {"addresses": ["127.0.0.1"], "port": server.port, "read_only_port": 0, "timeout": 2}
        given = {**defaults, "ca_data": authority.pem.decode(), **arguments}
        return run_module(kubelet_info, **{name: value for name, value in given.items() if value is not None})

    return run


def test_a_kubelet_as_it_should_be(kubelet, probe):
    (found,) = probe(kubelet(), token="good\n")["kubelets"]
    assert found["connect"]["ok"]
    assert (found["tls"]["ok"], found["tls"]["verified"], found["tls"]["error"]) == (True, True, None)
    assert found["anonymous"]["status"] == 401
    assert found["authenticated"]["status"] == 200
    assert found["read_only"] is None


def test_what_usage_is_made_of(start_server, probe):
    series = [
        "# TYPE container_cpu_usage_seconds_total counter",
        *(f'container_cpu_usage_seconds_total{{container="c{i}",pod="p"}} 0.5 1790000000000' for i in range(2000)),
        'container_memory_working_set_bytes{container="c",pod="p"} 1.5e+06 1790000000000',
        "node_cpu_usage_seconds_total 0 1790000000000",
        "node_swap_usage_bytes 3 1790000000000",
    ]
    server = start_server()
    server.get(PATH, lambda request: (200, "\n".join(series) + "\n"))
    assert probe(server, token="good")["kubelets"][0]["authenticated"]["series"] == {
        "node_cpu_usage_seconds_total": {"samples": 1, "zero": 1},
        "node_memory_working_set_bytes": {"samples": 0, "zero": 0},
        "container_cpu_usage_seconds_total": {"samples": 2000, "zero": 0},
        "container_memory_working_set_bytes": {"samples": 1, "zero": 0},
    }


def test_a_token_without_rights(kubelet, probe):
    assert probe(kubelet(), token="weak")["kubelets"][0]["authenticated"]["status"] == 403


def test_without_a_token(kubelet, probe):
    assert probe(kubelet())["kubelets"][0]["authenticated"] is None


def test_the_token_does_not_go_to_a_stranger(kubelet, probe, other_authority):
    server = kubelet(issuer=other_authority)
    (found,) = probe(server, token="good")["kubelets"]
    assert (found["tls"]["ok"], found["tls"]["verified"]) == (True, False)
    assert found["tls"]["certificate_der"]
    assert found["tls"]["error"]["kind"] == "untrusted"
    assert found["anonymous"]["error"]["kind"] == "not_sent"
    assert found["authenticated"]["error"]["kind"] == "not_sent"
    assert server.requests == []


def test_unless_told_so(kubelet, probe, other_authority):
    (found,) = probe(kubelet(issuer=other_authority), token="good", validate_certs=False)["kubelets"]
    assert found["tls"]["verified"] is False
    assert found["authenticated"]["status"] == 200


def test_without_a_ca_nothing_is_known_of_trust(kubelet, probe):
    (found,) = probe(kubelet(), ca_data=None, validate_certs=True)["kubelets"]
    assert found["tls"]["verified"] is None
    assert found["anonymous"]["error"]["kind"] == "not_sent"


def test_a_certificate_that_lacks_the_address(kubelet, probe):
    server = kubelet(ips=(), dns=("w1",))
    assert "IP address mismatch" in probe(server)["kubelets"][0]["tls"]["error"]["message"]
    assert probe(server, server_name="w1")["kubelets"][0]["tls"]["verified"]


def test_a_ca_file_that_is_missing(kubelet, probe):
    (found,) = probe(kubelet(), ca_data=None, ca_file="/nonexistent")["kubelets"]
    assert found["tls"]["verified"] is False
    assert "/nonexistent cannot be used" in found["tls"]["error"]["message"]
    assert found["tls"]["certificate_der"]


def test_several_kubelets_one_of_them_away(kubelet, probe):
    found = probe(kubelet(ips=("127.0.0.1", "127.0.0.2")), addresses=["127.0.0.2", "127.0.0.1"], token="good")[
        "kubelets"
    ]
    assert [entry["address"] for entry in found] == ["127.0.0.2", "127.0.0.1"]
    # The server listens on the second address only.
    assert [entry["connect"]["ok"] for entry in found] == [False, True]
    for key in ("connect", "tls", "anonymous", "authenticated"):
        assert found[0][key]["error"]["kind"] == "refused"


def test_the_read_only_port(kubelet, probe):
    server = kubelet()
    (found,) = probe(server, read_only_port=server.port)["kubelets"]
    # What speaks TLS is no open read-only port.
    assert not found["read_only"]["open"]


def test_nobody_to_ask(kubelet, probe):
    assert probe(kubelet(), addresses=[])["kubelets"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"path": "metrics"}, "start with a slash"),
        ({"port": 70000}, "port is 70000"),
        ({"read_only_port": -1}, "read_only_port is -1"),
        ({"token": "x", "ca_data": None}, "give ca_file or ca_data"),
        ({"ca_file": "/x"}, "mutually exclusive"),
    ],
)
def test_bad_arguments(kubelet, probe, arguments, words):
    result = probe(kubelet(), **arguments)
    assert result["failed"]
    assert words in result["msg"]
