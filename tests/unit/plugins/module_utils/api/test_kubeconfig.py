# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as a plain kubeconfig, and that everything else is left to the official client."""

from __future__ import annotations

import base64

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kubeconfig


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def document(*, cluster=None, user=None, **changes):
    data = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "admin@c",
        "contexts": [{"name": "admin@c", "context": {"cluster": "c", "user": "admin"}}],
        "clusters": [
            {
                "name": "c",
                "cluster": cluster
                or {"server": "https://192.0.2.11:6443", "certificate-authority-data": encoded("CA\n")},
            }
        ],
        "users": [
            {
                "name": "admin",
                "user": user or {"client-certificate-data": encoded("CERT\n"), "client-key-data": encoded("KEY\n")},
            }
        ],
    }
    data.update(changes)
    return data


def test_a_client_certificate():
    assert kubeconfig.parse_plain(document(), "/", None) == kubeconfig.PlainKubeconfig(
        "https://192.0.2.11:6443", "CA\n", "CERT\n", "KEY\n", None
    )


def test_a_token():
    found = kubeconfig.parse_plain(document(user={"token": "t"}), "/", None)
    assert (found.certificate, found.token) == (None, "t")


def test_files_are_found_beside_the_kubeconfig(tmp_path, monkeypatch):
    (tmp_path / "ca.crt").write_text("CA\n")
    (tmp_path / "config").write_text(
        yaml.safe_dump(
            document(cluster={"server": "https://h:1", "certificate-authority": "ca.crt"}, user={"token": "t"})
        )
    )
    monkeypatch.chdir("/")
    assert kubeconfig.read_plain(str(tmp_path / "config"), None).authority == "CA\n"


def test_another_context():
    data = document(contexts=[{"name": "b", "context": {"cluster": "c", "user": "admin"}}])
    assert kubeconfig.parse_plain(data, "/", "b") is not None
    assert kubeconfig.parse_plain(data, "/", None) is None


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        document(contexts=None),
        document(users=[]),
        document(user={"exec": {"command": "login"}}),
        document(user={"username": "a", "password": "b"}),
        document(user={"tokenFile": "/t"}),
        document(user={"client-certificate-data": encoded("CERT")}),
        document(user={"token": 1}),
        document(user={"client-certificate-data": "no base64!", "client-key-data": encoded("KEY")}),
        document(cluster={"server": "https://h:1"}),
        document(cluster={"server": "https://h:1", "insecure-skip-tls-verify": True}),
        document(
            cluster={"server": "https://h:1", "certificate-authority-data": encoded("CA"), "proxy-url": "http://p"}
        ),
        document(
            cluster={"server": "https://h:1", "certificate-authority-data": encoded("CA"), "tls-server-name": "x"}
        ),
    ],
)
def test_what_is_not_plain(data):
    assert kubeconfig.parse_plain(data, "/", None) is None


def test_a_proxy_in_the_environment_is_not_plain(tmp_path, monkeypatch):
    (tmp_path / "config").write_text(yaml.safe_dump(document()))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert kubeconfig.read_plain(str(tmp_path / "config"), None) is not None
    monkeypatch.setenv("HTTPS_PROXY", "http://192.0.2.1:3128")
    assert kubeconfig.read_plain(str(tmp_path / "config"), None) is None


def test_what_cannot_be_read_is_left_to_the_official_client(tmp_path):
    assert kubeconfig.read_plain(str(tmp_path / "missing"), None) is None
    (tmp_path / "config").write_text("a: [")
    assert kubeconfig.read_plain(str(tmp_path / "config"), None) is None


def test_the_file_with_the_key_does_not_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(kubeconfig.tempfile, "tempdir", str(tmp_path))
    plain = kubeconfig.PlainKubeconfig("https://h:1", "no certificate", "CERT\n", "KEY\n", None)
    with pytest.raises(OSError):
        plain.ssl_context()
    monkeypatch.setattr(kubeconfig.ssl.SSLContext, "load_verify_locations", lambda *args, **kwargs: None)
    with pytest.raises(OSError):
        plain.ssl_context()
    assert list(tmp_path.iterdir()) == []
