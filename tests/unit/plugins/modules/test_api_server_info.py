# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the API server of a host is ready, verified as the clients on that host do it."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import api_server_info


@pytest.fixture
def ask(api_server, run_module):
    def run(**arguments):
        return run_module(api_server_info, address="127.0.0.1", port=api_server.port, **arguments)

    return run


@pytest.fixture
def client_ca(tmp_path, other_authority):
    """The CA of clients, which is not the one that signed the API server's certificate."""
    path = tmp_path / "client-ca.crt"
    path.write_bytes(other_authority.pem)
    return str(path)


def test_the_ca_of_a_kubeconfig_counts_and_not_that_of_clients(ask, kubeconfig, client_ca, tmp_path):
    result = ask(kubeconfigs=["/nonexistent", kubeconfig], client_ca_file=client_ca)
    assert (result["ready"], result["status"], result["error"]) == (True, 200, "")
    assert result["ca_source"] == str(tmp_path / "ca.crt")


def test_the_ca_inside_of_a_kubeconfig(ask, tmp_path, authority):
    inline = tmp_path / "kubelet.conf"
    inline.write_text(
        "clusters:\n- cluster:\n    certificate-authority-data: "
        + base64.b64encode(authority.pem).decode()
        + "\n    server: https://x\n"
    )
    assert ask(kubeconfigs=[str(inline)])["ca_source"] == str(inline)
    assert ask(kubeconfigs=[str(inline)])["ready"]


def test_the_ca_of_clients_is_the_last_resort(ask, client_ca):
    result = ask(kubeconfigs=[], client_ca_file=client_ca)
    assert not result["ready"]
    assert "does not verify" in result["error"]
    assert result["ca_source"] == client_ca


def test_a_given_ca_alone(ask, kubeconfig, client_ca, tmp_path):
    assert not ask(ca_file=client_ca, kubeconfigs=[kubeconfig])["ready"]
    assert ask(ca_file=str(tmp_path / "ca.crt"), kubeconfigs=[])["ready"]
    assert "holds no certificate" in ask(ca_file="/nonexistent")["msg"]


def test_nothing_to_verify_with(ask):
    assert "which CA" in ask(kubeconfigs=[])["error"]


@pytest.mark.parametrize(("status", "ready"), [(401, True), (403, True), (500, False)])
def test_answers(ask, api_server, kubeconfig, status, ready):
    api_server.get("/readyz", {"message": "[-]etcd failed"}, status=status)
    result = ask(kubeconfigs=[kubeconfig])
    assert result["ready"] is ready
    assert result["error"] == ("" if ready else "it answers 500 ([-]etcd failed)")
