# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules front_proxy_*, with the real openssl."""

from __future__ import annotations

import datetime
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import processes, references
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates, openssl
from ansible_collections.kubemetrics.aggregation.plugins.modules import (
    front_proxy_ca,
    front_proxy_certificate_pipe,
    front_proxy_client_certificate,
    front_proxy_info,
    recorded_change,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch):
    monkeypatch.setattr(openssl, "NEW_KEY", ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"))


@pytest.fixture
def pki(tmp_path):
    directory = tmp_path / "pki"
    directory.mkdir()
    return directory


@pytest.fixture
def files(pki):
    names = {
        "ca_file": "front-proxy-ca.crt",
        "cert_file": "front-proxy-client.crt",
        "key_file": "front-proxy-client.key",
    }
    return {option: str(pki / name) for option, name in names.items()}


@pytest.fixture(autouse=True)
def state_dir(tmp_path, monkeypatch):
    directory = str(tmp_path / "state")
    monkeypatch.setattr(front_proxy_info.host_files.Journal.__init__, "__defaults__", (directory,))
    return directory


@pytest.fixture(autouse=True)
def configuration(tmp_path, monkeypatch):
    """What else is configured on the host: nothing but what a test writes there."""
    directory = tmp_path / "etc"
    directory.mkdir()
    (tmp_path / "proc").mkdir()
    gather = references.gather
    monkeypatch.setattr(
        references, "gather", lambda without: gather(without, str(tmp_path / "proc"), [str(directory / "*")])
    )
    return directory


@pytest.fixture
def authority_module(run_module, files, pki, state_dir):
    def run(**arguments):
        defaults = {"ca_file": files["ca_file"], "ca_key_file": str(pki / "front-proxy-ca.key"), "state_dir": state_dir}
        return run_module(front_proxy_ca, **{**defaults, **arguments})

    return run


@pytest.fixture
def client_module(run_module, files, state_dir):
    def run(state="present", **arguments):
        pair = {"cert_file": files["cert_file"], "key_file": files["key_file"], "state_dir": state_dir}
        return run_module(front_proxy_client_certificate, state=state, **{**pair, **arguments})

    return run


@pytest.fixture
def sign(run_module, pki):
    def run(**arguments):
        return run_module(
            front_proxy_certificate_pipe, **{"ca_key_file": str(pki / "front-proxy-ca.key"), "days": 100, **arguments}
        )

    return run


@pytest.fixture
def issue(client_module, sign):
    """A new pair by a CA, up to but without its installation."""

    def run(ca_certificate, **arguments):
        asked = client_module("requested", **arguments)
        return sign(request=asked["request"], ca_certificate=ca_certificate)["certificate"]

    return run


@pytest.fixture
def made(authority_module, client_module, issue):
    """A CA and a client pair, made as the role does."""
    authority = authority_module()["certificate"]
    assert client_module(certificate=issue(authority))["changed"]
    return authority


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# --- what is made ---


def test_what_was_made_is_in_order(made, files, run_module, pki):
    info = run_module(front_proxy_info, **files)
    plan = front_proxy.plan({"cp1": info}, {"cp1": ["front-proxy-client"]}, front_proxy.Settings())
    assert (plan["issue"], plan["update_ca"]) == ({}, [])
    assert info["ca_key"] == {"path": str(pki / "front-proxy-ca.key"), "exists": True, "signs": info["ca"][0]}
    assert info["interrupted"] == []
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


def test_certificates_are_backdated_for_clocks_that_are_behind(made, files, authority_module, pki):
    now = datetime.datetime.now(datetime.timezone.utc)
    pairs = [made.encode(), Path(files["cert_file"]).read_bytes()]
    for certificate in map(x509.load_pem_x509_certificate, pairs):
        assert datetime.timedelta(minutes=4) < now - certificate.not_valid_before_utc < datetime.timedelta(minutes=7)
        assert certificate.serial_number.bit_length() == 63
    # A CA is one that openssl verifies by, for more years than two digits can say.
    for path in pki.iterdir():
        path.unlink()
    certificate = x509.load_pem_x509_certificate(authority_module(days=36500)["certificate"].encode())
    assert certificate.not_valid_after_utc.year > 2100


def test_what_an_interrupted_run_has_left_is_named(made, client_module, files, run_module, pki):
    assert run_module(front_proxy_info, **files)["leftovers"] == []
    key = client_module("requested")["staged"]["key_file"]
    (pki / ".kubemetrics-x1y2.tmp").write_text("half a key")
    (pki / "kubemetrics-front-proxy-ca.crt").write_text("")
    assert run_module(front_proxy_info, **files)["leftovers"] == [key, str(pki / ".kubemetrics-x1y2.tmp")]


def test_keys_are_for_root_alone_and_nothing_is_left_behind(made, pki):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in pki.iterdir()}
    assert modes == {
        "front-proxy-ca.crt": 0o644,
        "front-proxy-ca.key": 0o600,
        "front-proxy-client.crt": 0o644,
        "front-proxy-client.key": 0o600,
    }


def test_a_second_run_of_each_state_changes_nothing(made, authority_module, client_module, sign, files, pki):
    before = content(pki)
    assert not authority_module()["changed"]
    assert not client_module(certificate=Path(files["cert_file"]).read_text())["changed"]
    assert content(pki) == before

    first, second = client_module("requested"), client_module("requested")
    assert (first["changed"], second["changed"]) == (True, False)
    assert x509.load_pem_x509_csr(first["request"].encode()).public_key() == (
        x509.load_pem_x509_csr(second["request"].encode()).public_key()
    )
    signed = sign(request=second["request"], ca_certificate=made)
    again = sign(request=first["request"], ca_certificate=made, content=signed["certificate"])
    assert (signed["changed"], again["changed"], again["certificate"]) == (True, False, signed["certificate"])
    assert [client_module("staged", certificate=signed["certificate"])["changed"] for unused in range(2)] == [
        True,
        False,
    ]
    assert [client_module(certificate=signed["certificate"])["changed"] for unused in range(2)] == [True, False]


def test_a_certificate_for_another_key_or_by_another_ca_does_not_answer_a_request(made, sign, client_module, files):
    asked = client_module("requested")["request"]
    old = Path(files["cert_file"]).read_text()
    assert sign(request=asked, ca_certificate=made, content=old)["changed"]
    assert sign(request=asked, ca_certificate=made, content="nonsense")["changed"]


def test_check_mode_predicts_and_makes_nothing(files, run_module, pki, state_dir):
    key = str(pki / "front-proxy-ca.key")
    authority = run_module(front_proxy_ca, check_mode=True, ca_file=files["ca_file"], ca_key_file=key)
    pair = {"cert_file": files["cert_file"], "key_file": files["key_file"]}
    asked = run_module(front_proxy_client_certificate, check_mode=True, state="requested", **pair)
    assert (authority["changed"], asked["changed"]) == (True, True)
    assert "certificate" not in authority
    assert "request" not in asked
    assert list(pki.iterdir()) == []
    assert not os.path.exists(state_dir)


def test_check_mode_after_the_change_predicts_none(made, files, run_module, pki):
    pair = {"cert_file": files["cert_file"], "key_file": files["key_file"]}
    key = str(pki / "front-proxy-ca.key")
    held = Path(files["cert_file"]).read_text()
    assert not run_module(front_proxy_ca, check_mode=True, ca_file=files["ca_file"], ca_key_file=key)["changed"]
    assert not run_module(front_proxy_client_certificate, check_mode=True, certificate=held, **pair)["changed"]


def test_a_diff_shows_fingerprints_and_no_key(made, issue, run_module, files, pki):
    pair = {"cert_file": files["cert_file"], "key_file": files["key_file"]}
    certificate = issue(made)
    result = run_module(front_proxy_client_certificate, certificate=certificate, _ansible_diff=True, **pair)
    der = openssl.ders_in(certificate)[0]
    assert f"sha256:{openssl.fingerprint(der)}" in result["diff"]["after"]
    assert "with a new key" in result["diff"]["after"]
    assert "PRIVATE" not in str(result)
    authority = run_module(
        front_proxy_ca, ca_file=str(pki / "x.crt"), ca_key_file=str(pki / "x.key"), _ansible_diff=True
    )
    assert authority["diff"]["before"] == ""
    assert "PRIVATE" not in str(authority)


def test_a_new_file_is_like_its_model_and_an_old_one_keeps_its_mode(made, issue, client_module, tmp_path, pki):
    model = tmp_path / "model.key"
    model.write_text("x")
    model.chmod(0o644)
    (pki / "front-proxy-client.key").unlink()
    (pki / "front-proxy-client.crt").chmod(0o600)
    client_module(certificate=issue(made), like_key=str(model))
    # Nobody but owner and group reads a key, whatever the model allows.
    assert stat.S_IMODE((pki / "front-proxy-client.key").stat().st_mode) == 0o640
    assert stat.S_IMODE((pki / "front-proxy-client.crt").stat().st_mode) == 0o600


def test_a_key_that_everybody_can_read_is_closed(made, issue, client_module, pki):
    (pki / "front-proxy-client.key").chmod(0o666)
    client_module(certificate=issue(made))
    assert stat.S_IMODE((pki / "front-proxy-client.key").stat().st_mode) == 0o640


@pytest.fixture
def api_server(tmp_path, monkeypatch):
    """A process table with a kube-apiserver of a user."""

    def run(uid, gid, groups="", capabilities=0, argv="kube-apiserver"):
        directory = tmp_path / "table" / "12"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cmdline").write_bytes(f"/usr/bin/{argv}\0--v=2\0".encode())
        (directory / "comm").write_text(argv)
        ids = "".join(f"{name}:\t0\t0\t0\t{one}\n" for name, one in (("Uid", uid), ("Gid", gid)))
        (directory / "status").write_text(f"Name:\tx\n{ids}Groups:\t{groups}\nCapEff:\t{capabilities:016x}\n")
        monkeypatch.setattr(processes.Proc.__init__, "__defaults__", (str(tmp_path / "table"),))

    return run


@pytest.mark.parametrize(
    ("server", "mode"),
    [
        ({"uid": 990, "gid": 991}, 0o644),
        ({"uid": 990, "gid": os.getegid(), "groups": "991"}, 0o640),
        ({"uid": 990, "gid": 991, "groups": f"5 {os.getegid()}"}, 0o640),
        ({"uid": os.geteuid(), "gid": 991}, 0o640),
        ({"uid": 990, "gid": 991, "capabilities": 2}, 0o640),
        ({"uid": 990, "gid": 991, "argv": "kube-scheduler"}, 0o640),
    ],
)
def test_a_key_stays_open_to_an_api_server_that_could_not_read_it_otherwise(
    made, issue, client_module, run_module, pki, state_dir, api_server, server, mode
):
    key = pki / "front-proxy-client.key"
    key.chmod(0o644)
    api_server(**server)
    certificate = issue(made)
    _step, warnings = front_proxy_client_certificate.replace_key({"key_file": str(key), "like_key": None}, "")
    predicted = client_module(certificate=certificate, check_mode=True)
    applied = client_module(certificate=certificate)
    assert stat.S_IMODE(key.stat().st_mode) == mode
    expected = (
        f"{key} stays readable for everybody, because kube-apiserver runs as the user 990, who is neither its owner "
        f"nor in its group; run chgrp 991 {key} && chmod 0640 {key}."
    )
    assert warnings == ([expected] if mode == 0o644 else [])
    for result in (predicted, applied):
        assert result["changed"] and (mode == 0o640 or expected in str(result["warnings"]))
    # Whatever became of its mode, a roll back gives it back.
    run_module(recorded_change, id=applied["change_id"], state_dir=state_dir)
    assert stat.S_IMODE(key.stat().st_mode) == 0o644


def test_a_new_key_is_open_to_whoever_reads_its_model(made, issue, client_module, tmp_path, pki, api_server):
    model = tmp_path / "model.key"
    model.write_text("x")
    model.chmod(0o644)
    key = pki / "front-proxy-client.key"
    key.unlink()
    api_server(990, 991)
    assert client_module(certificate=issue(made), like_key=str(model))["warnings"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o644


# --- CAs ---


def test_a_ca_that_is_made_anew_with_its_key_vouches_for_what_it_signed(made, authority_module, files, run_module):
    Path(files["ca_file"]).unlink()
    authority_module()
    info = run_module(front_proxy_info, **files)
    assert front_proxy.plan({"cp1": info}, {"cp1": []}, front_proxy.Settings())["issue"] == {}


def test_a_ca_without_an_identifier_of_its_key_signs(pki, sign, client_module):
    """As kubeadm made it with Go before 1.15, and as self-signed issuers of cert-manager make it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "front-proxy-ca")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=100))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    authority = builder.sign(key, hashes.SHA256())
    (pki / "front-proxy-ca.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    pem = authority.public_bytes(serialization.Encoding.PEM).decode()
    (pki / "front-proxy-ca.crt").write_text(pem)
    request = client_module("requested")["request"]
    answer = sign(request=request, ca_certificate=pem)["certificate"]
    certificate = x509.load_pem_x509_certificate(answer.encode())
    certificate.verify_directly_issued_by(authority)
    named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier is None and named.authority_cert_serial_number == authority.serial_number
    assert certificates.why_no_client([certificate], [authority]) == ""
    assert sign(request=request, ca_certificate=pem, content=answer)["changed"] is False
    assert client_module(certificate=answer)["changed"] is True


def test_a_ca_with_an_identifier_of_its_key_is_named_by_that_alone(made, files):
    certificate = x509.load_pem_x509_certificate(Path(files["cert_file"]).read_bytes())
    named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier and named.authority_cert_serial_number is None


def test_the_file_holds_what_is_trusted(made, authority_module, files):
    assert not authority_module(certificates=made + "\n")["changed"]
    other = authority_module(ca_file=files["ca_file"] + ".2", ca_key_file=files["ca_file"] + ".key")["certificate"]
    assert authority_module(certificates=other + made)["changed"]
    assert Path(files["ca_file"]).read_text() == other + made
    assert not authority_module(certificates=made + other)["changed"]


def test_no_trust_at_all_is_refused(made, authority_module, files):
    assert "must not be empty" in authority_module(certificates="")["msg"]
    assert Path(files["ca_file"]).read_text() == made


def test_a_rotation_makes_one_more_ca_once(made, authority_module, files, pki):
    old_key = (pki / "front-proxy-ca.key").read_bytes()
    retired = openssl.ders_in(made)
    new = authority_module(retired=retired, keep_trusted=True, days=9)
    assert Path(files["ca_file"]).read_text() == new["certificate"] + made
    assert (pki / "front-proxy-ca.key").read_bytes() != old_key
    again = authority_module(retired=retired, keep_trusted=True, days=9)
    assert (again["changed"], again["certificate"]) == (False, new["certificate"])


def test_the_key_of_a_ca_goes_with_it(made, authority_module, pki):
    other = authority_module(ca_file=str(pki / "2.crt"), ca_key_file=str(pki / "2.key"))["certificate"]
    authority_module(certificates=other + made)
    assert (pki / "front-proxy-ca.key").exists()
    assert authority_module(certificates=other)["changed"]
    assert not (pki / "front-proxy-ca.key").exists()


def test_the_clusters_own_key_makes_no_front_proxy_ca(made, authority_module, files, pki):
    Path(files["ca_file"]).unlink()
    before = (pki / "front-proxy-ca.key").read_bytes()
    authority_module(retired=openssl.ders_in(made))
    assert (pki / "front-proxy-ca.key").read_bytes() != before


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        ("front-proxy-ca.pem", "front-proxy-ca-key.pem"),
        ("front-proxy-ca.crt", "front-proxy-ca.key"),
        ("front-proxy-ca.pem", "front-proxy-ca.key"),
        ("front-proxy-ca.crt", "front-proxy-ca-key.pem"),
    ],
)
def test_the_key_of_a_ca_is_found_by_the_names_of_every_tool(
    authority_module, files, run_module, pki, certificate, key
):
    files["ca_file"] = str(pki / certificate)
    authority_module(ca_file=files["ca_file"], ca_key_file=str(pki / key))
    info = run_module(front_proxy_info, **files)
    assert info["ca_key"] == {"path": str(pki / key), "exists": True, "signs": info["ca"][0]}


def test_of_two_keys_the_one_that_fits_is_the_cas(made, files, run_module, pki):
    (pki / "front-proxy-ca.pem").write_text(made)
    (pki / "front-proxy-ca-key.pem").write_bytes((pki / "front-proxy-client.key").read_bytes())
    files["ca_file"] = str(pki / "front-proxy-ca.pem")
    assert run_module(front_proxy_info, **files)["ca_key"]["path"] == str(pki / "front-proxy-ca.key")


def test_a_new_key_goes_where_the_tool_of_its_ca_would_put_it():
    assert front_proxy_info.find_ca_key("/none/x-ca.pem", [], None)["path"] == "/none/x-ca-key.pem"
    assert front_proxy_info.find_ca_key("/none/x-ca.crt", [], None)["path"] == "/none/x-ca.key"


# --- rolling back ---


def test_what_is_written_over_can_be_rolled_back(made, issue, client_module, run_module, pki, state_dir):
    before = content(pki)
    change = client_module(certificate=issue(made))["change_id"]
    assert content(pki) != before
    backups = [path for path in Path(state_dir, "backups", change).rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in backups} == {0o600}
    undone = run_module(recorded_change, id=change, state_dir=state_dir, _ansible_diff=True)
    assert content(pki) == before
    assert "PRIVATE" not in str(undone)


def test_new_files_are_gone_after_a_roll_back(authority_module, run_module, pki, state_dir):
    change = authority_module()["change_id"]
    run_module(recorded_change, id=change, state_dir=state_dir)
    assert content(pki) == {}


def test_a_run_that_ends_between_key_and_certificate_can_be_rolled_back(made, issue, files, run_module, pki, state_dir):
    """The module's process is killed at that very point."""
    before = content(pki)
    certificate = issue(made)
    script = f"""
import os, signal, sys
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files
from ansible_collections.kubemetrics.aggregation.plugins.modules import front_proxy_client_certificate as module
put = files.put_in_place
def once(item):
    put(item)
    os.kill(os.getpid(), signal.SIGKILL)
files.put_in_place = once
module.present(
    dict({files!r}, certificate=sys.stdin.read(), like_key=None, like_cert=None, state_dir={state_dir!r}),
    check_mode=False, diff=False,
)
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script],
        input=certificate,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL
    info = run_module(front_proxy_info, **files)
    assert not info["pair"]["usable"]
    assert len(info["interrupted"]) == 1
    run_module(recorded_change, id=info["interrupted"][0], state_dir=state_dir)
    # What the killed run has staged is gone, too.
    assert content(pki) == before
    after = run_module(front_proxy_info, **files)
    assert (after["pair"]["usable"], after["interrupted"]) == (True, [])


# --- references ---


def test_who_else_uses_the_pair_is_said(made, files, run_module, configuration, tmp_path):
    (configuration / "kube-proxy.kubeconfig").write_text(
        f"users: [{{user: {{client-certificate: {files['cert_file']}, client-key: {files['key_file']}}}}}]"
    )
    (configuration / "kube-apiserver.service").write_text(
        f"ExecStart=/usr/bin/kube-apiserver \\\n  --proxy-client-cert-file={files['cert_file']} \\\n"
        f"  --requestheader-client-ca-file {files['ca_file']}\n"
    )
    process = tmp_path / "proc" / "7"
    process.mkdir()
    (process / "cmdline").write_bytes(
        b"\0".join(word.encode() for word in ("/bin/kube-apiserver", f"--client-ca-file={files['ca_file']}", ""))
    )
    used_by = run_module(front_proxy_info, **files)["used_by"]
    assert used_by == {
        "ca_file": ["kube-apiserver --client-ca-file"],
        "cert_file": [str(configuration / "kube-proxy.kubeconfig")],
        "key_file": [str(configuration / "kube-proxy.kubeconfig")],
        "ca_key": [],
    }


def test_a_name_in_a_kubeconfig_may_be_relative_and_a_link(made, files, run_module, configuration, pki):
    (configuration / "link.pem").symlink_to(files["cert_file"])
    (configuration / "x.conf").write_text("client-certificate: link.pem\n")
    assert run_module(front_proxy_info, **files)["used_by"]["cert_file"] == [str(configuration / "x.conf")]


def test_new_files_have_names_that_nothing_refers_to(files, run_module, configuration, pki):
    first = run_module(front_proxy_info, new_directory=str(pki), **files)["new_files"]
    assert first == files
    (configuration / "x.conf").write_text(f"--cluster-signing-key-file={pki}/ca-key.pem")
    (pki / "front-proxy-ca.key").symlink_to(pki / "ca-key.pem")
    second = run_module(front_proxy_info, new_directory=str(pki), **files)["new_files"]
    assert second["ca_file"] == str(pki / "kubemetrics-front-proxy-ca.crt")


# --- faults ---


def test_missing_and_damaged_files_are_states(files, run_module, pki):
    (pki / "front-proxy-ca.crt").write_text("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
    info = run_module(front_proxy_info, **files, client_ca_file=str(pki / "none"))
    assert info["chain"] == []
    assert info["client_ca"] == []
    assert not info["pair"]["usable"]
    assert info["ca_key"]["signs"] is None


def test_an_encrypted_key_is_told_and_does_not_ask(made, files, run_module, pki):
    path = pki / "front-proxy-client.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    pair = run_module(front_proxy_info, **files)["pair"]
    assert not pair["usable"]
    assert pair["message"]


def test_a_pair_can_be_tried_before_it_is_used(made, files, issue, client_module, run_module, pki):
    before = Path(files["cert_file"]).read_text()
    certificate = issue(made)
    staged = client_module("staged", certificate=certificate)["staged"]
    assert Path(files["cert_file"]).read_text() == before
    assert run_module(front_proxy_info, ca_file=files["ca_file"], **staged)["pair"]["usable"]
    client_module(certificate=certificate)
    assert Path(files["cert_file"]).read_text() == certificate
    assert run_module(front_proxy_info, **files)["pair"]["usable"]
    assert not [path.name for path in pki.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("state", ["staged", "present"])
def test_a_certificate_needs_its_key(made, issue, client_module, state, files, pki):
    foreign = issue(made)
    (pki / ".kubemetrics-new-front-proxy-client.key").unlink()
    before = content(pki)
    assert "There is no new key" in client_module(state, certificate=foreign)["msg"]
    client_module("requested")
    assert "does not belong to the key" in client_module(state, certificate=foreign)["msg"]
    assert {name: data for name, data in content(pki).items() if not name.startswith(".")} == before


def test_a_certificate_for_the_key_that_is_there_needs_no_new_one(made, files, sign, client_module, pki):
    key = (pki / "front-proxy-client.key").read_bytes()
    request = openssl.openssl("req", "-new", "-key", files["key_file"], "-subj", "/CN=front-proxy-client")
    certificate = sign(request=request, ca_certificate=made)["certificate"]
    assert client_module(certificate=certificate)["changed"]
    assert (pki / "front-proxy-client.key").read_bytes() == key


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        (front_proxy_client_certificate, {"state": "requested", "key_file": "{none}/x.key"}, "create it first"),
        (
            front_proxy_client_certificate,
            {"state": "requested", "key_file": "/x.key", "common_name": "a\nb"},
            "common_name",
        ),
        (front_proxy_client_certificate, {"key_file": "/x.key", "certificate": "x"}, "no PEM certificate"),
        (
            front_proxy_certificate_pipe,
            {"request": "x", "ca_certificate": "x", "ca_key_file": "/none", "days": 0},
            "least 1",
        ),
        (
            front_proxy_certificate_pipe,
            {"request": "x", "ca_certificate": "x", "ca_key_file": "/none"},
            "openssl ca failed",
        ),
    ],
)
def test_errors_are_one_sentence(run_module, tmp_path, module, arguments, sentence):
    if module is front_proxy_client_certificate:
        arguments = {"cert_file": "{none}/x.crt", **arguments}
    none = str(tmp_path / "none")
    result = run_module(
        module,
        **{
            name: value.replace("{none}", none) if isinstance(value, str) else value
            for name, value in arguments.items()
        },
    )
    assert result["failed"]
    assert sentence in result["msg"]
    assert "\n" not in result["msg"]


def test_no_openssl_is_a_sentence(client_module, monkeypatch):
    monkeypatch.setattr(openssl.shutil, "which", lambda *unused, **also_unused: None)
    assert "install its package" in client_module("requested")["msg"]


def test_interrupted_changes_of_other_components_are_not_of_the_front_proxy(tmp_path, state_dir):
    journal = host_files.Journal(state_dir)
    journal.write({"id": "1", "component": "kubelet", "state": "prepared", "files": []})
    assert host_files.half_done(journal, "front_proxy") == []
