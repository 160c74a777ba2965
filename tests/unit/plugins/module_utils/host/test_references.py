# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import references, units

OWN = {"proxy-client-cert-file"}


@pytest.fixture(autouse=True)
def systemd(tmp_path_factory, monkeypatch):
    """Directories of systemd that hold what a test puts there."""
    directory = tmp_path_factory.mktemp("systemd")
    (directory / "etc").mkdir()
    (directory / "lib").mkdir()
    monkeypatch.setattr(units, "UNIT_DIRECTORIES", (str(directory / "etc"), str(directory / "lib")))
    return directory


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--tls-cert-file=/a.pem"], [("/a.pem", "tls-cert-file")]),
        (["--tls_cert_file", "/a.pem"], [("/a.pem", "tls-cert-file")]),
        (["--proxy-client-cert-file=/a.pem", "--proxy-client-cert-file", "/a.pem"], []),
        (["/a.pem", "-f", "/b,/c"], [("/a.pem", ""), ("/b", "f"), ("/c", "f")]),
        (["--v=2", "run", "--etcd-servers=https://x"], []),
    ],
)
def test_command_lines(words, found):
    assert references.in_words(words, OWN) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ExecStart=/bin/x --a=/a.pem \\\n --b '/b.pem'", ["/bin/x", "/a.pem", "/b.pem"]),
        ("    - --proxy-client-cert-file=/a.pem\n    - --x=/b.pem", ["/b.pem"]),
        ("    - --proxy-client-cert-file\n    - /a.pem\n    - --x\n    - /b.pem", ["/b.pem"]),
        ("    - --proxy-client-cert-file=/a.pem\n    - /b.pem", ["/b.pem"]),
        ("extraArgs: {proxy-client-cert-file: /a.pem, 'x': '/b.pem'}", ["/b.pem"]),
        ("- name: proxy-client-cert-file\n  value: /a.pem\n- name: x\n  value: /b.pem", ["/b.pem"]),
        ('"proxy_client_cert_file": "/a.pem"', []),
        ("clientCAFile: /a.pem", ["/a.pem"]),
        ('{"client-certificate": "a.pem", "client-key": "../k.pem"}', ["/etc/a.pem", "/k.pem"]),
        ("client-certificate: /a.pem", ["/a.pem"]),
        ("client-certificate-data: QUJD/K==", []),
    ],
)
def test_files(text, found):
    assert [path for path in references.in_text(text, "/etc", OWN) if path.endswith(".pem") or "bin" in path] == found


def test_everything_on_a_host(tmp_path):
    process = tmp_path / "proc" / "12"
    process.mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir()
    kubeconfig = tmp_path / "somewhere" / "proxy.kubeconfig"
    kubeconfig.parent.mkdir()
    kubeconfig.write_text("users: [{user: {client-certificate: p.pem}}]")
    (process / "cmdline").write_bytes(f"/bin/kube-proxy\0--kubeconfig={kubeconfig}\0".encode())
    (tmp_path / "unit").write_text("ExecStart=/bin/etcd --cert-file=/etc/etcd.pem")
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n/not/a/path\n")
    (tmp_path / "binary").write_bytes(b"\0/not/a/path")
    found = references.References(
        references.gather(OWN, str(tmp_path / "proc"), [str(tmp_path / "*")]),
    )
    # A file that only a process names is read, too.
    assert found.of(str(kubeconfig.parent / "p.pem")) == [str(kubeconfig)]
    assert found.of(str(kubeconfig)) == ["kube-proxy --kubeconfig"]
    assert found.of("/etc/etcd.pem") == [str(tmp_path / "unit")]
    assert found.of("/not/a/path") == []


def test_the_process_that_looks_is_no_user(tmp_path):
    """Without pipelining, the arguments of a module are in a file that its own command line names."""
    module = tmp_path / "module.py"
    module.write_text("cert_file=/etc/front-proxy.pem")
    for pid, parent in ((os.getpid(), 40), (40, 1), (50, 1)):
        process = tmp_path / "proc" / str(pid)
        process.mkdir(parents=True)
        (process / "stat").write_text(f"{pid} (odd ) name) S {parent} 0")
        (process / "cmdline").write_bytes(f"python\0--config={module}\0--x=/etc/{pid}.pem\0".encode())
    assert references.lineage(str(tmp_path / "proc"), os.getpid()) == {os.getpid(), 40}
    (tmp_path / "proc" / "50" / "cmdline").write_bytes(f"editor\0{module}\0/etc/50.pem\0".encode())
    found = references.References(references.gather(OWN, str(tmp_path / "proc"), []))
    assert found.of("/etc/50.pem") == ["editor"]
    assert found.of("/etc/40.pem") == []
    # What is no configuration is not read.
    assert found.of("/etc/front-proxy.pem") == []


def test_links_lead_to_the_same_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    found = references.References([references.Reference(str(tmp_path / "link"), "x"), references.Reference("/y", "z")])
    assert found.of(str(tmp_path / "file")) == ["x"]


def test_units_of_packages_and_drop_ins_of_all_services_are_read_with_their_environment_files(tmp_path, systemd):
    (tmp_path / "proc").mkdir()
    (tmp_path / "etcd.env").write_text("ETCD_CERT_FILE=/etc/shared.pem\n")
    (tmp_path / "more.env").write_text("ARGS='--proxy-client-cert-file=/etc/own.pem --tls-cert-file=/etc/more.pem'\n")
    (systemd / "lib" / "etcd.service").write_text(
        f"[Service]\nEnvironmentFile=-{tmp_path}/etcd.env\nExecStart=/bin/etcd\n"
    )
    (systemd / "etc" / "service.d").mkdir()
    (systemd / "etc" / "service.d" / "10.conf").write_text(
        f"[Service]\nEnvironmentFile={tmp_path}/mor*.env\nEnvironment=X=/etc/unit.pem\n"
    )
    found = references.References(references.gather(OWN, str(tmp_path / "proc"), []))
    assert found.of("/etc/shared.pem") == [f"{tmp_path}/etcd.env"]
    assert found.of("/etc/more.pem") == [f"{tmp_path}/more.env"]
    assert found.of("/etc/unit.pem") == [f"{systemd}/etc/service.d/10.conf"]
    assert found.of("/etc/own.pem") == []


def test_the_environment_of_a_process_names_files_too(tmp_path):
    process = tmp_path / "proc" / "12"
    process.mkdir(parents=True)
    (process / "cmdline").write_bytes(b"/bin/etcd\0")
    (process / "environ").write_bytes(
        b"ETCD_CERT_FILE=/etc/a.pem\0ARGS=--proxy-client-cert-file=/etc/own.pem --x=/etc/b.pem\0PATH=/bin:/sbin\0odd\0"
    )
    found = references.References(references.gather(OWN, str(tmp_path / "proc"), []))
    assert found.of("/etc/a.pem") == ["etcd $ETCD_CERT_FILE"]
    assert found.of("/etc/b.pem") == ["etcd $ARGS"]
    assert found.of("/etc/own.pem") == []
