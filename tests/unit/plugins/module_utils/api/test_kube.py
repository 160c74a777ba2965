# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import json
import socket
import threading
import time

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube

UTC = datetime.timezone.utc


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T10:00:00Z", datetime.datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-03-01T10:00:00.123456789Z", datetime.datetime(2026, 3, 1, 10, 0, 0, 123456, UTC)),
        ("2026-03-01T12:00:00+02:00", datetime.datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-03-01T04:30:00-05:30", datetime.datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-13-01T10:00:00Z", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_parse_rfc3339(text, expected):
    assert kube.parse_rfc3339(text) == expected


def test_http_dates():
    assert kube.parse_http_date("Sun, 01 Mar 2026 10:00:00 GMT") == datetime.datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert kube.parse_http_date("soon") is None
    assert kube.parse_http_date(None) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://192.0.2.1:6443/", "https://192.0.2.1:6443"),
        (" https://[2001:db8::1]:6443", "https://[2001:db8::1]:6443"),
        ("https://host/k8s/clusters/c-1", "https://host/k8s/clusters/c-1"),
        ("http://192.0.2.1:6443", None),
        ("192.0.2.1:6443", None),
        ("https://", None),
        ("https://host:port", None),
        ("https://me@host", None),
        ("https://host?x=1", None),
    ],
)
def test_normalize_server(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="is no URL of an API server"):
            kube.normalize_server(text)
    else:
        assert kube.normalize_server(text) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"kind":"Status","reason":"Forbidden","message":"no"}', ("Forbidden", "no")),
        (b"service\nunavailable\n", ("", "service unavailable")),
        (b"[1]", ("", "[1]")),
        (b"", ("", "")),
        (b"\xff", ("", "\ufffd")),
    ],
)
def test_status_message(body, expected):
    assert kube.status_message(body) == expected


def connect(path, **arguments):
    return kube.Api.connect(kubeconfig=path, **{"request_timeout": 5, **arguments})


def test_an_object_and_the_servers_clock(api_server, kubeconfig):
    api_server.get("/api/v1/nodes/n1", {"metadata": {"name": "n1"}})
    body, date = connect(kubeconfig).get("/api/v1/nodes/n1")
    assert body["metadata"]["name"] == "n1"
    assert abs((datetime.datetime.now(UTC) - date).total_seconds()) < 5
    assert api_server.requests[0].headers["Authorization"] == "Bearer secret-token"


def test_an_error_is_one_sentence(api_server, kubeconfig):
    api_server.get("/x", {"kind": "Status", "reason": "Forbidden", "message": "who are you"}, status=403)
    with pytest.raises(kube.KubeError) as raised:
        connect(kubeconfig).get("/x")
    assert str(raised.value) == f"{api_server.url} answered 403 to /x: who are you."
    assert (raised.value.status, raised.value.reason, raised.value.final) == (403, "Forbidden", False)


def test_a_list_is_read_in_pages(api_server, kubeconfig):
    pages = {"": ([{"a": 1}], "next page"), "next+page": ([{"a": 2}, "odd"], "")}

    def answer(request):
        token = dict(part.split("=") for part in request.query.split("&")).get("continue", "")
        items, following = pages[token]
        return 200, {"items": items, "metadata": {"continue": following}}

    api_server.get("/api/v1/pods", answer)
    items, unused_date = connect(kubeconfig).list("/api/v1/pods", query={"fieldSelector": "a"})
    assert items == [{"a": 1}, {"a": 2}]
    assert len(api_server.requests) == 2


def test_a_list_without_items(api_server, kubeconfig):
    api_server.get("/api/v1/pods", {"items": None})
    assert connect(kubeconfig).list("/api/v1/pods")[0] == []


def test_what_is_not_json(api_server, kubeconfig):
    api_server.get("/x", "<html>")
    with pytest.raises(kube.KubeError, match="not JSON"):
        connect(kubeconfig).get("/x")


def test_a_body_is_sent_as_json(api_server, kubeconfig):
    api_server.routes["PUT", "/x"] = lambda request: (201, {"got": json.loads(request.raw)})
    assert connect(kubeconfig).send("PUT", "/x", {"a": 1}) == {"got": {"a": 1}}
    assert api_server.requests[0].headers["Content-Type"] == "application/json"


def test_client_certificates(start_server, write_kubeconfig, authority, tmp_path):
    server = start_server(client_ca=authority.pem)
    certificate, key = authority.issue("admin")
    (tmp_path / "c.crt").write_bytes(certificate)
    (tmp_path / "c.key").write_bytes(key)
    server.get("/who", lambda request: (200, request.handler.connection.getpeercert()["subject"][0][0][1]))
    user = {"client-certificate": str(tmp_path / "c.crt"), "client-key": str(tmp_path / "c.key")}
    assert connect(write_kubeconfig(server.url, user=user)).request("GET", "/who").body == b"admin"


def test_missing_client_certificate(api_server, write_kubeconfig):
    path = write_kubeconfig(api_server.url, user={"client-certificate": "/nonexistent", "client-key": "/nonexistent"})
    with pytest.raises(kube.KubeError) as raised:
        connect(path).get("/x")
    assert raised.value.final


def test_each_server_is_verified_by_its_own_host(start_server, write_kubeconfig):
    named = start_server(ips=(), dns=("api.example.com",))
    named.get("/readyz", "ok")
    unnamed = start_server(ips=(), dns=("api.example.com",))
    api = connect(write_kubeconfig(named.url, cluster={"tls-server-name": "api.example.com"}))
    assert api.ready()
    # The kubeconfig's tls-server-name speaks for its own server alone.
    with pytest.raises(kube.KubeError, match="is not trusted") as raised:
        api.get("/readyz", server=unnamed.url)
    assert raised.value.final
    assert unnamed.requests == []


def test_a_certificate_of_another_authority(start_server, write_kubeconfig, other_authority):
    server = start_server(issuer=other_authority)
    with pytest.raises(kube.KubeError, match="is not trusted: its certificate does not verify: .*issuer") as raised:
        connect(write_kubeconfig(server.url)).get("/x")
    assert raised.value.final
    assert "_ssl.c" not in str(raised.value)


@pytest.mark.parametrize("cluster", [{}, {"extensions": []}], ids=["plain", "by the official client"])
def test_an_intermediate_authority_is_a_trust_anchor(start_server, write_kubeconfig, intermediate_authority, cluster):
    server = start_server(issuer=intermediate_authority)
    server.get("/x", {"a": 1})
    api = connect(write_kubeconfig(server.url, cluster=cluster, ca=intermediate_authority.pem))
    assert api.get("/x")[0] == {"a": 1}
    assert api.certificate_names() == ["127.0.0.1"]


def test_an_expired_certificate(start_server, write_kubeconfig):
    server = start_server(days=-1)
    with pytest.raises(kube.KubeError, match="certificate has expired"):
        connect(write_kubeconfig(server.url)).get("/x")


def test_verification_cannot_be_switched_off(write_kubeconfig, api_server):
    path = write_kubeconfig(api_server.url, cluster={"insecure-skip-tls-verify": True})
    with pytest.raises(kube.KubeError, match="switches certificate verification off"):
        connect(path)


def test_a_refused_connection(write_kubeconfig):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(kube.KubeError, match="refused the connection") as raised:
            connect(write_kubeconfig(url)).get("/x")
    assert (raised.value.status, raised.value.final) == (None, False)


def test_a_name_that_does_not_resolve(write_kubeconfig):
    with pytest.raises(kube.KubeError, match="does not resolve"):
        connect(write_kubeconfig("https://no-such-host.invalid:6443")).get("/x")


def test_a_server_that_does_not_speak(write_kubeconfig):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = time.monotonic()
        with pytest.raises(kube.KubeError, match=r"did not answer within 0.3 s"):
            connect(write_kubeconfig(f"https://127.0.0.1:{listener.getsockname()[1]}"), request_timeout=0.3).get("/x")
        assert time.monotonic() - started < 3


def test_an_answer_that_never_ends(api_server, kubeconfig):
    stop = threading.Event()

    def drip(request):
        request.handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not stop.wait(0.05):
            request.handler.wfile.write(b"2\r\na\n\r\n")

    api_server.get("/drip", drip)
    api = connect(kubeconfig, request_timeout=0.5)
    for read in (lambda: api.request("GET", "/drip"), lambda: list(api.lines("/drip"))):
        started = time.monotonic()
        with pytest.raises(kube.KubeError, match=r"within 0.5 s"):
            read()
        assert time.monotonic() - started < 3
    stop.set()


def test_a_connection_that_is_cut(api_server, kubeconfig):
    api_server.get("/cut", lambda request: None)
    with pytest.raises(kube.KubeError, match="could not be reached"):
        connect(kubeconfig).get("/cut")


def test_lines_end_when_the_reader_has_enough(api_server, kubeconfig):
    api_server.get("/metrics", "".join(f"line {number}\n" for number in range(200000)) + "last")
    api = connect(kubeconfig)
    assert next(iter(api.lines("/metrics"))) == "line 0"
    lines = list(api.lines("/metrics"))
    assert len(lines) == 200001
    assert lines[-1] == "last"


def test_lines_of_an_error(api_server, kubeconfig):
    api_server.get("/metrics", {"reason": "Forbidden", "message": "no metrics for you"}, status=403)
    with pytest.raises(kube.KubeError, match="answered 403 to /metrics: no metrics for you"):
        list(connect(kubeconfig).lines("/metrics"))


@pytest.mark.parametrize(("ready", "final"), [(200, True), (503, False)])
def test_a_refusal_is_final_once_the_server_is_ready(api_server, kubeconfig, ready, final):
    api_server.get("/readyz", "x", status=ready)
    assert connect(kubeconfig).is_final(kube.KubeError("x", status=403)) is final


def test_other_errors_are_not_final(kubeconfig):
    api = connect(kubeconfig)
    assert not api.is_final(kube.KubeError("x", status=503))
    assert not api.is_final(kube.KubeError("x"))
    assert api.is_final(kube.KubeError("x", final=True))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("", "cannot be used"),
        ("just text", "is no kubeconfig"),
        ("a: [", "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "is not valid YAML"),
        ("apiVersion: v1\nkind: Config\n", "cannot be used"),
        ('{"current-context": "x", "contexts": [{"name": "x", "context": {}}], "clusters": [], "users": []}', "cannot"),
    ],
)
def test_what_is_no_kubeconfig(tmp_path, content, words):
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(kube.KubeError, match=words) as raised:
        connect(str(path))
    assert raised.value.final
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


def test_an_unknown_context(kubeconfig):
    with pytest.raises(kube.KubeError, match="nope"):
        connect(kubeconfig, context="nope")


def test_a_credential_plugin(api_server, write_kubeconfig, tmp_path):
    plugin = tmp_path / "plugin"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-plugin"},
    }
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    plugin.chmod(0o755)
    execute = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    api_server.get("/x", {})
    connect(write_kubeconfig(api_server.url, user={"exec": execute})).get("/x")
    assert api_server.requests[0].headers["Authorization"] == "Bearer from-plugin"
