# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""front_proxy_info and front_proxy_certificate, with the real openssl."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import front_proxy_certificate, front_proxy_info
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy
from cryptography import x509
from cryptography.hazmat.primitives import serialization


@pytest.fixture
def files(tmp_path):
    names = {
        "ca_file": "front-proxy-ca.crt",
        "cert_file": "front-proxy-client.crt",
        "key_file": "front-proxy-client.key",
    }
    return {option: str(tmp_path / name) for option, name in names.items()}


@pytest.fixture
def step(run_module):
    def step(operation, **arguments):
        return run_module(front_proxy_certificate, operation=operation, **arguments)

    return step


@pytest.fixture
def made(tmp_path, files, step):
    """A CA and a client pair, made as the role does."""
    key = str(tmp_path / "front-proxy-ca.key")
    authority = step("create_ca", ca_file=files["ca_file"], ca_key_file=key, common_name="front-proxy-ca", days=3650)
    asked = step("request", key_file=files["key_file"], common_name="front-proxy-client")
    signed = step("sign", request=asked["request"], ca_certificate=authority["certificate"], ca_key_file=key, days=100)
    done = step("install", cert_file=files["cert_file"], key_file=files["key_file"], certificate=signed["certificate"])
    assert done["changed"]
    return authority["certificate"]


def test_what_was_made_is_in_order(made, files, run_module, tmp_path):
    info = run_module(front_proxy_info, **files)
    plan = front_proxy.plan({"cp1": info}, {"cp1": ["front-proxy-client"]}, front_proxy.Settings())
    assert (plan["issue"], plan["update_ca"]) == ({}, [])
    assert info["ca_key"] == {"path": str(tmp_path / "front-proxy-ca.key"), "exists": True, "signs": info["ca"][0]}
    assert not info["changed"]


def test_the_certificate_is_for_clients_and_for_as_long_as_asked(made, files):
    certificate = x509.load_pem_x509_certificate(Path(files["cert_file"]).read_bytes())
    extensions = certificate.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    assert 99 <= left.days <= 100
    authority = x509.load_pem_x509_certificate(made.encode())
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_keys_are_for_root_alone_and_nothing_is_left_behind(made, files, tmp_path):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {
        "front-proxy-ca.crt": 0o644,
        "front-proxy-ca.key": 0o600,
        "front-proxy-client.crt": 0o644,
        "front-proxy-client.key": 0o600,
    }


def test_a_new_file_is_like_its_model_and_an_old_one_keeps_its_mode(made, files, step, tmp_path):
    model = tmp_path / "model.key"
    model.write_text("x")
    model.chmod(0o640)
    (tmp_path / "front-proxy-client.key").unlink()
    (tmp_path / "front-proxy-client.crt").chmod(0o640)
    asked = step("request", key_file=files["key_file"], common_name="x")
    assert "PRIVATE" not in str(asked)
    step("install", cert_file=files["cert_file"], key_file=files["key_file"], certificate=made, like_key=str(model))
    assert stat.S_IMODE((tmp_path / "front-proxy-client.key").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "front-proxy-client.crt").stat().st_mode) == 0o640


def test_a_ca_that_is_made_anew_with_its_key_vouches_for_what_it_signed(made, files, step, tmp_path, run_module):
    (tmp_path / "front-proxy-ca.crt").unlink()
    key = str(tmp_path / "front-proxy-ca.key")
    step("create_ca", ca_file=files["ca_file"], ca_key_file=key, common_name="front-proxy-ca", reuse_key=True)
    info = run_module(front_proxy_info, **files)
    assert front_proxy.plan({"cp1": info}, {"cp1": []}, front_proxy.Settings())["issue"] == {}


def test_trust_is_idempotent(made, files, step):
    assert not step("trust", ca_file=files["ca_file"], ca_certificate=made + "\n")["changed"]
    assert step("trust", ca_file=files["ca_file"], ca_certificate=made + made)["changed"]
    assert Path(files["ca_file"]).read_text() == made + made


def test_check_mode_makes_nothing(files, run_module, tmp_path):
    arguments = {"ca_file": files["ca_file"], "ca_key_file": str(tmp_path / "k"), "common_name": "x"}
    result = run_module(front_proxy_certificate, check_mode=True, operation="create_ca", **arguments)
    assert result["changed"]
    assert "certificate" not in result
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_another_pair_is_told(made, files, run_module, step):
    step("request", key_file=files["key_file"], common_name="x")
    step("install", cert_file=files["cert_file"], key_file=files["key_file"], certificate=made)
    assert run_module(front_proxy_info, **files)["pair"] == {"usable": False, "message": "KEY_VALUES_MISMATCH"}


def test_missing_and_damaged_files_are_states(files, run_module, tmp_path):
    (tmp_path / "front-proxy-ca.crt").write_text("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
    info = run_module(front_proxy_info, **files, client_ca_file=str(tmp_path / "none"), other_files=[files["key_file"]])
    assert info["certificate"] is None
    assert info["client_ca"] == []
    assert not info["pair"]["usable"]
    assert info["used_elsewhere"]
    assert info["ca_key"]["signs"] is None


def test_an_encrypted_key_is_told_and_does_not_ask(made, files, run_module, tmp_path):
    path = tmp_path / "front-proxy-client.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    pair = run_module(front_proxy_info, **files)["pair"]
    assert not pair["usable"]
    assert pair["message"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"operation": "request", "key_file": "/nonexistent/x.key", "common_name": "x"}, "create it first"),
        ({"operation": "request", "key_file": "/x.key", "common_name": "a\nb"}, "common_name"),
        ({"operation": "sign", "request": "x", "ca_certificate": "x", "ca_key_file": "/none", "days": 0}, "at least 1"),
        ({"operation": "sign", "request": "x", "ca_certificate": "x", "ca_key_file": "/none"}, "openssl x509 failed"),
    ],
)
def test_errors_are_one_sentence(run_module, arguments, sentence):
    result = run_module(front_proxy_certificate, **arguments)
    assert result["failed"]
    assert sentence in result["msg"]
    assert "\n" not in result["msg"]


def test_install_needs_a_request_first(step, files):
    result = step("install", cert_file=files["cert_file"], key_file=files["key_file"], certificate="x")
    assert "ask for a certificate first" in result["msg"]


def test_no_openssl_is_a_sentence(step, files, monkeypatch):
    monkeypatch.setattr(front_proxy_certificate.shutil, "which", lambda *unused, **also_unused: None)
    assert "install its package" in step("request", key_file=files["key_file"], common_name="x")["msg"]


def test_a_pair_can_be_tried_before_it_is_used(made, files, step, run_module, tmp_path):
    before = Path(files["cert_file"]).read_text()
    asked = step("request", key_file=files["key_file"], common_name="front-proxy-client")
    key = str(tmp_path / "front-proxy-ca.key")
    signed = step("sign", request=asked["request"], ca_certificate=made, ca_key_file=key, days=100)
    pair = {"cert_file": files["cert_file"], "key_file": files["key_file"], "certificate": signed["certificate"]}
    staged = step("stage", **pair)["staged"]
    assert Path(files["cert_file"]).read_text() == before
    assert run_module(front_proxy_info, ca_file=files["ca_file"], **staged)["pair"]["usable"]
    step("install", **pair)
    assert Path(files["cert_file"]).read_text() == signed["certificate"]
    assert run_module(front_proxy_info, **files)["pair"]["usable"]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_certificate_is_not_staged_without_its_key(files, step):
    pair = {"cert_file": files["cert_file"], "key_file": files["key_file"], "certificate": "x"}
    assert "There is no new key" in step("stage", **pair)["msg"]


def test_a_new_ca_comes_before_those_that_stay_trusted(made, files, step, tmp_path):
    key = str(tmp_path / "front-proxy-ca.key")
    new = step(
        "create_ca", ca_file=files["ca_file"], ca_key_file=key, common_name="front-proxy-ca", days=9, keep_trusted=True
    )
    assert Path(files["ca_file"]).read_text() == new["certificate"] + made
