# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import aggregator_info

PATH = "/apis/metrics.k8s.io/v1beta1"
NAME = "metrics-server.kube-system.svc"


@pytest.fixture
def front_proxy(other_authority, tmp_path):
    """The front-proxy pair and its authority, as files."""
    certificate, key = other_authority.issue("front-proxy-client")
    for name, content in (("c.crt", certificate), ("c.key", key), ("ca.crt", other_authority.pem)):
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def metrics_server(start_server, other_authority):
    """A server that believes front proxies of its authority."""

    def start(status=None, **arguments):
        server = start_server(**{"ips": (), "dns": (NAME,), "client_ca": other_authority.pem, **arguments})

        def answer(request):
            known = bool(request.handler.connection.getpeercert()) and request.headers["X-Remote-User"]
            return (status or (200 if known else 401)), {"message": str(request.headers["X-Remote-Group"])}

        server.get(PATH, answer)
        return server

    return start


@pytest.fixture
def probe(run_module, front_proxy, authority):
    def run(*servers, **arguments):
        return run_module(
            aggregator_info,
            **{
                "client_cert": str(front_proxy / "c.crt"),
                "client_key": str(front_proxy / "c.key"),
                "requestheader_ca_file": str(front_proxy / "ca.crt"),
                "server_name": NAME,
                "ca_data": authority.pem.decode(),
                "endpoints": [{"ip": "127.0.0.1", "port": server.port} for server in servers],
                "timeout": 2,
                **arguments,
            },
        )

    return run


def test_all_is_well(metrics_server, probe):
    server = metrics_server()
    result = probe(server)
    assert result["client"]["usable"]
    assert result["client"]["certificate_der"]
    assert len(result["requestheader_ca"]) == 1
    (target,) = result["targets"]
    assert (target["kind"], target["verdict"], target["response"]["status"]) == ("endpoint", "ok", 200)
    assert server.requests[0].headers["X-Remote-User"] == "system:kube-aggregator"
    assert server.requests[0].headers["Host"] == f"{NAME}:{server.port}"


def test_the_cluster_ip_comes_first(metrics_server, probe):
    server = metrics_server()
    result = probe(server, cluster_ip="127.0.0.1", port=server.port)
    assert [target["kind"] for target in result["targets"]] == ["cluster_ip", "endpoint"]


def test_a_stranger_gets_neither_certificate_nor_headers(metrics_server, probe, other_authority):
    server = metrics_server(issuer=other_authority)
    seen = []
    server.get(PATH, lambda request: seen.append(request) or (200, {}))
    (target,) = probe(server)["targets"]
    assert target["verdict"] == "untrusted"
    assert target["tls"]["ok"]
    assert target["tls"]["certificate_der"]
    assert seen == []


def test_a_certificate_for_another_name(metrics_server, probe):
    (target,) = probe(metrics_server(dns=("other.ns.svc",)))["targets"]
    assert target["verdict"] == "untrusted"
    assert "Hostname mismatch" in target["tls"]["error"]["message"]


def test_without_a_ca_nothing_is_sent(metrics_server, probe):
    server = metrics_server()
    (target,) = probe(server, ca_data=None)["targets"]
    assert (target["verdict"], target["tls"]["verified"]) == ("not_sent", None)
    assert server.requests == []


def test_a_ca_that_does_not_parse(metrics_server, probe):
    (target,) = probe(metrics_server(), ca_data="nonsense")["targets"]
    assert (target["verdict"], target["tls"]["verified"]) == ("untrusted", False)


@pytest.mark.parametrize(
    ("status", "verdict"), [(401, "front_proxy_refused"), (403, "wrong_identity"), (503, "bad_status")]
)
def test_verdicts(metrics_server, probe, status, verdict):
    (target,) = probe(metrics_server(status))["targets"]
    assert (target["response"]["status"], target["verdict"]) == (status, verdict)


def test_a_server_that_cuts_the_connection_of_an_unknown_client(metrics_server, probe, authority):
    # It asks for certificates of another authority, and this one fails its handshake.
    (target,) = probe(metrics_server(client_ca=authority.pem))["targets"]
    assert target["tls"]["verified"]
    assert target["verdict"] == "tls"
    assert target["response"]["error"]["kind"] in ("tls", "closed", "reset")


def test_nobody_there(metrics_server, probe):
    server = metrics_server()
    (target,) = probe(endpoints=[{"ip": "127.0.0.9", "port": server.port}])["targets"]
    assert target["verdict"] == "unreachable"
    assert target["connect"]["error"]["kind"] == "refused"


def test_a_pair_that_does_not_belong_together(metrics_server, probe, front_proxy, other_authority):
    (front_proxy / "c.key").write_bytes(other_authority.issue("other")[1])
    result = probe(metrics_server())
    assert not result["client"]["usable"]
    assert result["client"]["error"]["kind"] == "client_certificate"
    assert result["client"]["certificate_der"]
    assert result["targets"][0]["verdict"] == "not_sent"


def test_files_that_are_missing(probe):
    result = probe(client_cert="/nonexistent", requestheader_ca_file="/nonexistent")
    assert not result["client"]["usable"]
    assert result["requestheader_ca"] == []
    assert result["targets"] == []


def test_the_group_can_be_left_out(metrics_server, probe):
    server = metrics_server()
    probe(server, group="", user="nobody")
    assert server.requests[0].headers["X-Remote-Group"] is None
    assert server.requests[0].headers["X-Remote-User"] == "nobody"


def test_a_proxy_in_the_way(metrics_server, probe):
    server = metrics_server()
    environment = {"HTTPS_PROXY": "http://me:pw@127.0.0.1:1"}
    (target,) = probe(endpoints=[{"ip": "127.0.0.1", "port": server.port}], proxy_environment=environment)["targets"]
    assert target["proxy"] is None, "loopback is never proxied"
    (target,) = probe(endpoints=[{"ip": "0.0.0.0", "port": server.port}], proxy_environment=environment)["targets"]
    assert target["proxy"] == "http://127.0.0.1:1"
    assert target["tunnel"]["error"]["kind"] == "refused"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"path": "apis"}, "start with a slash"),
        ({"cluster_ip": "127.0.0.1", "port": 0}, "0 is no port of 127.0.0.1"),
        ({"endpoints": [{"ip": "127.0.0.1"}]}, "port"),
    ],
)
def test_bad_arguments(probe, arguments, words):
    result = probe(**arguments)
    assert result["failed"]
    assert words in result["msg"]
