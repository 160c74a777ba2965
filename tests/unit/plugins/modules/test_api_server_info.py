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


@pytest.fixture
def closed(start_server, other_authority):
    """An API server that tells nothing to unauthenticated clients, and the rest to those of a CA."""
    server = start_server(client_ca=other_authority.pem)

    def answer(says):
        def said(request):
            return says if request.handler.connection.getpeercert() else (401, {"message": "Unauthorized"})

        server.get("/readyz", said)

    server.answer = answer
    return server


@pytest.fixture
def with_client(write_kubeconfig, closed, other_authority):
    """A kubeconfig with a client certificate, inside of it or in a file beside it."""

    def write(inline=True, tmp_path=None):
        certificate, key = other_authority.issue("kubernetes-admin")
        if not inline:
            (tmp_path / "client.pem").write_bytes(certificate + key)
            return write_kubeconfig(closed.url, user={"client-certificate": "client.pem", "client-key": "client.pem"})
        parts = {"client-certificate-data": certificate, "client-key-data": key}
        user = {name: base64.b64encode(part).decode() for name, part in parts.items()}
        return write_kubeconfig(closed.url, user=user)

    return write


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(
    ("says", "ready", "error"),
    [
        ((200, "ok"), True, ""),
        ((500, {"message": "[-]etcd failed"}), False, "it answers 500 to the client of {path} ([-]etcd failed)"),
        # It has not read its roles yet.
        ((403, {"message": "forbidden"}), False, "it answers 403 to the client of {path} (forbidden)"),
    ],
)
def test_who_refuses_unauthenticated_clients_is_asked_with_a_certificate(
    run_module, closed, with_client, tmp_path, inline, says, ready, error
):
    closed.answer(says)
    path = with_client(inline, tmp_path)
    found = run_module(api_server_info, address="127.0.0.1", port=closed.port, kubeconfigs=[path], checks=True)
    assert (found["ready"], found["status"], found["client"]) == (ready, says[0], path)
    assert found["error"] == error.format(path=path)


def test_a_client_certificate_that_is_not_accepted_is_none(run_module, closed, with_client):
    """It has expired, say: then nothing says how the API server is, as before."""
    closed.answer((401, {"message": "Unauthorized"}))
    path = with_client()
    found = run_module(api_server_info, address="127.0.0.1", port=closed.port, kubeconfigs=[path])
    assert (found["ready"], found["status"], found["client"], found["error"]) == (True, 401, None, "")


def test_a_client_certificate_that_cannot_be_used_is_none(run_module, closed, write_kubeconfig):
    closed.answer((200, "ok"))
    path = write_kubeconfig(closed.url, user={"client-certificate-data": "bm8=", "client-key-data": "bm8="})
    found = run_module(api_server_info, address="127.0.0.1", port=closed.port, kubeconfigs=[path])
    assert (found["ready"], found["status"], found["client"]) == (True, 401, None)
