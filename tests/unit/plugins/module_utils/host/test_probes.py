# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import email.utils
import errno
import socket
import ssl
import threading
import time

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import probes
from cryptography.hazmat.primitives import serialization


@pytest.fixture
def listener():
    """A TCP server that does what a test says with its first connection."""
    opened = []

    def listen(serve):
        server = socket.create_server(("127.0.0.1", 0))

        def run():
            try:
                connection, unused_peer = server.accept()
            except OSError:
                return
            with connection:
                serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        opened.append((server, thread))
        return server.getsockname()[1]

    yield listen
    for server, thread in opened:
        server.close()
        thread.join(5)


def verified(authority):
    return probes.client_context(ca_data=authority.pem.decode())


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "refused"),
        (OSError(errno.EHOSTUNREACH, "x"), "no_route"),
        (OSError(errno.ENETUNREACH, "x"), "network_unreachable"),
        (OSError(errno.ETIMEDOUT, "x"), "timeout"),
        (OSError(errno.EPERM, "x"), "forbidden_here"),
        (OSError("odd"), "error"),
        (TimeoutError("x"), "timeout"),
        (socket.gaierror(-2, "x"), "resolve"),
        (RuntimeError("x"), "error"),
    ],
)
def test_classify(exc, kind):
    error = probes.classify(exc)
    assert error.kind == kind
    assert error.as_dict()["message"]


def test_reach(start_server):
    assert probes.reach("127.0.0.1", start_server().port, 2)["ok"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = probes.reach("127.0.0.1", unused.getsockname()[1], 2)
    assert (refused["ok"], refused["error"]["kind"]) == (False, "refused")
    assert probes.reach("no-such-host.invalid", 1, 2)["error"]["kind"] == "resolve"


def test_a_certificate_is_seen_whether_it_verifies_or_not(start_server, other_authority):
    server = start_server(issuer=other_authority)
    shown = probes.look_at_tls("127.0.0.1", server.port, probes.client_context(verify=False), "127.0.0.1", 2)
    assert shown["ok"]
    assert shown["version"] == "TLSv1.3"
    assert base64.b64decode(shown["certificate_der"])[:1] == b"\x30"


@pytest.mark.parametrize(
    ("server", "name", "words"),
    [
        ({}, "127.0.0.1", None),
        ({"ips": (), "dns": ("metrics-server.kube-system.svc",)}, "metrics-server.kube-system.svc", None),
        ({}, "metrics-server.kube-system.svc", "Hostname mismatch"),
        ({"ips": (), "dns": ("w1",)}, "127.0.0.1", "IP address mismatch"),
        ({"days": -1}, "127.0.0.1", "expired"),
    ],
)
def test_verification(start_server, authority, server, name, words):
    port = start_server(**server).port
    shown = probes.look_at_tls("127.0.0.1", port, verified(authority), name, 2)
    assert shown["ok"] is (words is None)
    if words:
        assert shown["error"]["kind"] == "untrusted"
        assert words in shown["error"]["message"]


def test_an_intermediate_authority_is_a_trust_anchor(start_server, intermediate_authority):
    port = start_server(issuer=intermediate_authority).port
    assert probes.look_at_tls("127.0.0.1", port, verified(intermediate_authority), "127.0.0.1", 2)["ok"]
    error = probes.look_at_tls("127.0.0.1", port, verified(intermediate_authority), "other", 2)["error"]
    assert (error["kind"], "Hostname mismatch" in error["message"]) == ("untrusted", True)


def test_a_servers_own_certificate_is_a_trust_anchor(start_server, other_authority):
    port = start_server(issuer=other_authority).port
    shown = probes.look_at_tls("127.0.0.1", port, probes.client_context(verify=False), "127.0.0.1", 2)
    pem = ssl.DER_cert_to_PEM_cert(base64.b64decode(shown["certificate_der"]))
    assert probes.look_at_tls("127.0.0.1", port, probes.client_context(ca_data=pem), "127.0.0.1", 2)["ok"]


def test_a_certificate_of_another_authority(start_server, authority, other_authority):
    port = start_server(issuer=other_authority).port
    error = probes.look_at_tls("127.0.0.1", port, verified(authority), "127.0.0.1", 2)["error"]
    assert error["kind"] == "untrusted"


def test_ca_files(authority, tmp_path):
    path = tmp_path / "ca.crt"
    with pytest.raises(probes.ProbeError, match="cannot be used"):
        probes.client_context(ca_file=str(path))
    path.write_bytes(b"nonsense")
    with pytest.raises(probes.ProbeError, match="cannot be used") as raised:
        probes.client_context(ca_file=str(path))
    assert raised.value.kind == "untrusted"
    path.write_bytes(authority.pem)
    assert probes.client_context(ca_file=str(path)).verify_mode == ssl.CERT_REQUIRED


def test_nothing_to_trust_is_no_trust_in_everything():
    with pytest.raises(probes.ProbeError, match="cannot be used"):
        probes.client_context()


def test_a_server_without_a_certificate(listener):
    # The alert that a kubelet sends while its request is not approved: level fatal, internal error.
    def alert(connection):
        connection.recv(4096)
        connection.sendall(b"\x15\x03\x03\x00\x02\x02\x50")

    shown = probes.look_at_tls("127.0.0.1", listener(alert), probes.client_context(verify=False), "w1", 2)
    assert shown["error"]["kind"] == "no_certificate"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent plain", "not_tls"), (b"", "closed")],
)
def test_servers_that_do_not_speak_tls(listener, answer, kind):
    def serve(connection):
        connection.recv(4096)
        connection.sendall(answer)

    shown = probes.look_at_tls("127.0.0.1", listener(serve), probes.client_context(verify=False), "w1", 2)
    assert shown["error"]["kind"] == kind


def test_a_server_that_says_nothing(listener):
    stop = threading.Event()
    started = time.monotonic()
    port = listener(lambda connection: stop.wait(10))
    shown = probes.look_at_tls("127.0.0.1", port, probes.client_context(verify=False), "w1", 0.3)
    stop.set()
    assert shown["error"]["kind"] == "timeout"
    assert time.monotonic() - started < 3


def test_an_answer_that_drips_ends_in_time(listener):
    stop = threading.Event()

    def drip(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not stop.wait(0.05):
            try:
                connection.sendall(b"x")
            except OSError:
                return

    started = time.monotonic()
    answer = probes.ask("127.0.0.1", listener(drip), "/x", 0.4)
    stop.set()
    assert answer["error"]["kind"] == "timeout"
    assert time.monotonic() - started < 3


def test_what_is_not_http(listener):
    def serve(connection):
        connection.recv(4096)
        connection.sendall(b"220 mail ready\r\n\r\n")

    assert probes.ask("127.0.0.1", listener(serve), "/x", 2)["error"]["kind"] == "http"


def test_requests(start_server, authority):
    server = start_server()
    server.get("/ok", lambda request: (200, request.headers["X-Who"]))
    server.get("/no", {"kind": "Status", "message": "who\nare you"}, status=401)
    context = verified(authority)
    assert (
        probes.ask(
            "127.0.0.1", server.port, "/ok", 2, context=context, server_name="127.0.0.1", headers={"X-Who": "me"}
        )["status"]
        == 200
    )
    answer = probes.ask("127.0.0.1", server.port, "/no", 2, context=context, server_name="127.0.0.1")
    assert (answer["status"], answer["message"]) == (401, "who are you")
    assert server.requests[0].headers["Host"] == f"127.0.0.1:{server.port}"


def test_only_the_start_of_a_long_answer_is_read(start_server, authority):
    server = start_server()
    server.get("/long", "x" * (probes.MAX_BODY * 4))
    deadline = probes.Deadline(5)
    with probes.handshake(
        probes.open_connection("127.0.0.1", server.port, deadline), verified(authority), "127.0.0.1", deadline
    ) as connection:
        assert len(probes.request(connection, "h", "/long", deadline).body) == probes.MAX_BODY


def test_client_certificates(start_server, authority, tmp_path):
    server = start_server(client_ca=authority.pem)
    server.get("/who", lambda request: (403, request.handler.connection.getpeercert()["subject"][0][0][1]))
    certificate, key = authority.issue("front-proxy-client")
    (tmp_path / "c.crt").write_bytes(certificate)
    (tmp_path / "c.key").write_bytes(key)
    context = verified(authority)
    probes.load_client_pair(context, str(tmp_path / "c.crt"), str(tmp_path / "c.key"))
    answer = probes.ask("127.0.0.1", server.port, "/who", 2, context=context, server_name="127.0.0.1")
    assert answer["message"] == "front-proxy-client"

    (tmp_path / "c.key").write_bytes(authority.issue("other")[1])
    with pytest.raises(probes.ProbeError) as raised:
        probes.load_client_pair(verified(authority), str(tmp_path / "c.crt"), str(tmp_path / "c.key"))
    assert raised.value.kind == "client_certificate"
    with pytest.raises(probes.ProbeError, match="No such file"):
        probes.load_client_pair(verified(authority), str(tmp_path / "none"), str(tmp_path / "none"))


def test_certificate_of(start_server, authority):
    deadline = probes.Deadline(2)
    server = start_server()
    with probes.handshake(
        probes.open_connection("127.0.0.1", server.port, deadline), verified(authority), "127.0.0.1", deadline
    ) as connection:
        der = base64.b64decode(probes.certificate_of(connection))
    assert ssl.DER_cert_to_PEM_cert(der).startswith("-----BEGIN CERTIFICATE-----")
    assert der != authority.certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("ahead", [-7200, 0, 90])
def test_clock_offset(start_server, authority, ahead):
    def answer(request):
        date = email.utils.formatdate(time.time() - ahead, usegmt=True)
        text = f"HTTP/1.1 401 Unauthorized\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"
        request.handler.wfile.write(text.encode())

    server = start_server()
    server.get("/version", answer)
    offset, uncertainty = probes.clock_offset("127.0.0.1", server.port, verified(authority), 2)
    assert abs(offset - ahead) <= uncertainty + 0.01
    assert uncertainty < 1


def test_a_server_without_a_clock(start_server, authority):
    server = start_server()
    server.get("/version", lambda request: request.handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n") and None)
    with pytest.raises(probes.ProbeError, match="no Date"):
        probes.clock_offset("127.0.0.1", server.port, verified(authority), 2)


def test_who_answers_is_a_known_server(start_server, authority, other_authority, tmp_path):
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "other.crt").write_bytes(other_authority.pem)
    # Its names do not matter: certificates of hand-made clusters lack the ClusterIP.
    port = start_server(ips=("192.0.2.1",)).port
    verified_by_ca = probes.answers_as("127.0.0.1", port, str(tmp_path / "ca.crt"), [], 2)
    assert verified_by_ca == {"answers": True, "verified_by": "ca", "error": None}
    shown = probes.look_at_tls("127.0.0.1", port, probes.client_context(verify=False), None, 2)["certificate_der"]
    for ca_file in (str(tmp_path / "other.crt"), None, "/nonexistent"):
        known = probes.answers_as("127.0.0.1", port, ca_file, [shown], 2)
        assert (known["answers"], known["verified_by"]) == (True, "certificate")
    stranger = probes.answers_as("127.0.0.1", port, str(tmp_path / "other.crt"), ["AAAA"], 2)
    assert (stranger["answers"], stranger["error"]["kind"]) == (False, "untrusted")


def test_nobody_answers(tmp_path, authority):
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for ca_file in (str(tmp_path / "ca.crt"), None):
        answer = probes.answers_as("127.0.0.1", port, ca_file, ["AAAA"], 2)
        assert (answer["answers"], answer["error"]["kind"]) == (False, "refused")


PROXY = {"HTTPS_PROXY": "http://proxy:3128"}


@pytest.mark.parametrize(
    ("host", "environ", "expected"),
    [
        ("10.233.0.5", {}, None),
        ("10.233.0.5", PROXY, "http://proxy:3128"),
        ("10.233.0.5", {"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ("10.233.0.5", {"HTTPS_PROXY": "", "https_proxy": "http://low"}, "http://low"),
        ("10.233.0.5", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("10.233.0.5", {**PROXY, "NO_PROXY": "10.233.0.0/18"}, None),
        ("10.233.0.5", {**PROXY, "NO_PROXY": "10.96.0.0/12, 10.233.0.5"}, None),
        ("10.233.0.5", {**PROXY, "no_proxy": "*"}, None),
        ("10.233.0.5", {**PROXY, "NO_PROXY": ".svc,odd/cidr,10.233.0"}, "http://proxy:3128"),
        ("10.233.0.5", {**PROXY, "NO_PROXY": "10.233.0.5:443"}, None),
        ("10.233.0.5", {**PROXY, "NO_PROXY": "10.233.0.5:8443"}, "http://proxy:3128"),
        ("127.0.0.1", PROXY, None),
        ("localhost", PROXY, None),
        ("fd00::5", {**PROXY, "NO_PROXY": "fd00::/8"}, None),
        ("[fd00::5]", {**PROXY, "NO_PROXY": "[fd00::5]:443"}, None),
        ("ms.kube-system.svc", {**PROXY, "NO_PROXY": ".svc"}, None),
        ("ms.kube-system.svc", {**PROXY, "NO_PROXY": "svc"}, None),
        ("svc", {**PROXY, "NO_PROXY": ".svc"}, "http://proxy:3128"),
        ("MS.kube-system.svc.", {**PROXY, "NO_PROXY": "*.svc"}, None),
    ],
)
def test_proxy_for(host, environ, expected):
    assert probes.proxy_for(host, 443, environ) == expected


@pytest.mark.parametrize(
    ("line", "ok", "status"),
    [(b"HTTP/1.1 200 Connection established\r\n\r\n", True, 200), (b"HTTP/1.1 403 Forbidden\r\n\r\n", False, 403)],
)
def test_through_proxy(listener, line, ok, status):
    seen = []

    def serve(connection):
        seen.append(connection.recv(4096))
        connection.sendall(line)

    port = listener(serve)
    tunnel = probes.through_proxy(f"http://me:pw@127.0.0.1:{port}/", "fd00::5", 443, 2)
    assert (tunnel["ok"], tunnel["status"]) == (ok, status)
    assert seen[0].startswith(b"CONNECT [fd00::5]:443 HTTP/1.1\r\n")
    assert b"pw" not in seen[0]


def test_proxies_that_cannot_be_asked(listener):
    assert probes.through_proxy("https://proxy:3128", "h", 443, 1)["ok"] is None
    assert probes.through_proxy("socks5://proxy", "h", 443, 1)["error"]["kind"] == "unsupported"
    closing = listener(lambda connection: connection.recv(4096) and None)
    assert probes.through_proxy(f"http://127.0.0.1:{closing}", "h", 443, 2)["error"]["kind"] == "closed"
