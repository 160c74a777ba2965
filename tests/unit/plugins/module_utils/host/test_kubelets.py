# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import kubelets
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def ca_file(tmp_path, authority):
    path = tmp_path / "ca.crt"
    path.write_bytes(authority.pem)
    return str(path)


def test_a_kubelet_that_verifies_and_authenticates(start_server, ca_file, closed_port):
    server = start_server()
    server.get(kubelets.PATH, "Unauthorized", 401)
    found = kubelets.answers("127.0.0.1", server.port, authority=ca_file, read_only_port=closed_port)
    shown = found.pop("certificate")
    assert certificates.describe(certificates.load_der(kubelets.probes.base64.b64decode(shown)))["ip_addresses"] == [
        "127.0.0.1"
    ]
    assert found == {
        "url": f"https://127.0.0.1:{server.port}/metrics/resource",
        "ca_file": ca_file,
        "reachable": True,
        "verified": True,
        "status": 401,
        "error": "",
        "read_only_port": {"port": closed_port, "open": False},
    }
    # One connection is enough where all is well, and nobody shows credentials.
    assert len(server.requests) == 1
    assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize(("ips", "issuer"), [(("127.0.0.1",), "other_authority"), (("192.0.2.1",), "authority")])
def test_a_certificate_that_does_not_verify(request, start_server, ca_file, closed_port, ips, issuer):
    server = start_server(ips=ips, issuer=request.getfixturevalue(issuer))
    server.get(kubelets.PATH, "node_cpu 1", 200)
    found = kubelets.answers("127.0.0.1", server.port, authority=ca_file, read_only_port=closed_port)
    assert (found["reachable"], found["verified"], found["status"]) == (True, False, 200)
    assert found["error"].startswith("the certificate does not verify (")
    assert found["certificate"]


def test_a_ca_file_that_is_not_there(start_server, closed_port):
    server = start_server()
    server.get(kubelets.PATH, "", 401)
    found = kubelets.answers("127.0.0.1", server.port, authority="/nonexistent/ca.crt", read_only_port=closed_port)
    assert (found["verified"], found["status"]) == (False, 401)
    assert "/nonexistent/ca.crt cannot be used" in found["error"]


def test_no_ca_at_all(start_server, closed_port):
    server = start_server()
    server.get(kubelets.PATH, "", 401)
    found = kubelets.answers("127.0.0.1", server.port, authority=None, read_only_port=closed_port)
    assert (found["ca_file"], found["verified"], found["status"]) == (None, False, 401)
    assert found["error"] == "nobody says which CA signs the certificates of kubelets"


def test_nothing_listens(ca_file, closed_port):
    found = kubelets.answers("127.0.0.1", closed_port, authority=ca_file, read_only_port=closed_port)
    assert (found["reachable"], found["verified"], found["status"], found["certificate"]) == (False, False, None, None)
    assert found["error"].startswith("nothing listens there")


def test_the_port_without_tls_is_open(ca_file, closed_port):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = kubelets.answers("127.0.0.1", closed_port, authority=ca_file, read_only_port=port)
    assert found["read_only_port"] == {"port": port, "open": True}


def config(text=None, *drop_ins):
    return {"text": text, "drop_ins": [{"path": "x", "text": entry} for entry in drop_ins]}


@pytest.mark.parametrize(
    ("kubelet_config", "flags", "value"),
    [
        (config(), {}, ""),
        (config("port: 10260\n"), {}, "10260"),
        (config('{"port":\t10260}'), {}, "10260"),
        (config("port: 1\n", "port: 2\n", "readOnlyPort: 3\n"), {}, "2"),
        (config("port: 1\n", "port: 2\n"), {"port": "4"}, "4"),
        (config("port: 1\n", None), {}, "1"),
    ],
)
def test_a_setting_in_effect(kubelet_config, flags, value):
    assert kubelets.setting(kubelet_config, flags, "port", "port") == value


@pytest.mark.parametrize(
    ("flags", "text", "address"),
    [
        ({"node-ip": "192.0.2.21"}, None, "192.0.2.21"),
        ({"node-ip": "192.0.2.21,2001:db8::21"}, None, "192.0.2.21"),
        ({"node-ip": ["192.0.2.21"]}, None, "192.0.2.21"),
        ({"node-ip": "2001:DB8:0::21"}, None, "2001:db8::21"),
        ({"node-ip": "::"}, "address: 0.0.0.0\n", "198.51.100.7"),
        ({}, "address: 192.0.2.21\n", "192.0.2.21"),
        ({}, "address: 127.0.0.1\n", "198.51.100.7"),
        ({}, None, "198.51.100.7"),
    ],
)
def test_the_address_of_the_node(monkeypatch, flags, text, address):
    monkeypatch.setattr(kubelets, "default_address", lambda *unused: "198.51.100.7")
    assert kubelets.node_address(config(text), flags) == address


def test_a_host_without_a_default_route(monkeypatch):
    monkeypatch.setattr(kubelets, "default_address", lambda family=socket.AF_INET: None)
    assert kubelets.node_address(config(), {}) == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "port"), [("", 10250), ("0", 10250), ("x", 10250), ("70000", 10250), ("10260", 10260)]
)
def test_a_port(text, port):
    assert kubelets.number(text, kubelets.PORT) == port


def test_who_signs_serving_certificates(tmp_path, monkeypatch):
    pki = tmp_path / "pki"
    pki.mkdir()
    assert kubelets.serving_authority(config(), {}, "systemd", str(pki)) is None
    (pki / "ca.pem").write_text("")
    assert kubelets.serving_authority(config(), {}, "systemd", str(pki)) == str(pki / "ca.pem")
    (pki / "ca.crt").write_text("")
    assert kubelets.serving_authority(config(), {}, "systemd", str(pki)) == str(pki / "ca.crt")
    named = config("authentication:\n  x509:\n    clientCAFile: /a/ca.crt\n")
    assert kubelets.serving_authority(named, {}, "systemd", str(pki)) == "/a/ca.crt"
    assert kubelets.serving_authority(named, {"client-ca-file": "/b/ca.crt"}, "systemd", None) == "/b/ca.crt"
    # Theirs is no CA for servers.
    own = tmp_path / "server-ca.crt"
    own.write_text("")
    monkeypatch.setitem(kubelets.SERVER_AUTHORITIES, "k3s", str(own))
    assert kubelets.serving_authority(named, {}, "k3s", str(pki)) == str(own)
