# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes client: where it gets its configuration from, and how it fails."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from support.fake_api import FakeApi, answer, failure, node, stream
from support.pki import Authority

from metrics_server.kube import client as kube
from metrics_server.kube.client import KubeClient, KubeError

AGENT = "test"


async def collect(client: KubeClient, **query: str) -> list[bytes]:
    return [line async for line in client.watch("/api/v1/nodes", query={"resourceVersion": "1", **query})]


async def test_request(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        await api.put(node("n1"))
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent=AGENT)
        found = await client.request("GET", "/api/v1/nodes", query={"labelSelector": "a in (b,c),d!=e/f"})
        assert [one["metadata"]["name"] for one in found["items"]] == ["n1"]
        assert api.requests == [("list nodes", {"labelSelector": "a in (b,c),d!=e/f"})]
        await client.close()


@pytest.mark.parametrize(
    ("handler", "status", "reason", "text"),
    [
        (answer(403, failure(403, "Forbidden", "no way")), 403, "Forbidden", "no way"),
        (answer(410, failure(410, "Expired")), 410, "Expired", "410"),
        (answer(500, b"<html>"), 500, "HTTP500", "<html>"),
        (answer(503, b""), 503, "HTTP503", "no text"),
        (answer(200, b"not json"), None, "Malformed", "not JSON"),
        (answer(302, b""), 302, "HTTP302", "302"),
    ],
)
async def test_failures(tmp_path: Path, handler: Any, status: int | None, reason: str, text: str) -> None:
    async with FakeApi(tmp_path) as api:
        api.order("list nodes", handler)
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent=AGENT)
        with pytest.raises(KubeError, match=text) as caught:
            await client.request("GET", "/api/v1/nodes")
        await client.close()
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert "api-token" not in caught.value.message


async def test_transport_failures(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:

        async def hang(_request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(5)
            return web.Response()

        async def cut(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        # A request is repeated once when a kept-alive connection turns out to be dead.
        api.order("list nodes", hang, cut, cut)
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent=AGENT)
        for reason, timeout in (("Timeout", 0.2), ("Disconnected", 5.0)):
            with pytest.raises(KubeError) as caught:
                await client.request("GET", "/api/v1/nodes", timeout=timeout)
            assert (caught.value.status, caught.value.reason) == (None, reason)
        await api.close()
        with pytest.raises(KubeError) as caught:
            await client.request("GET", "/api/v1/nodes")
        assert caught.value.reason == "Refused"
        await client.close()


async def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        path = api.kubeconfig()
        (tmp_path / "ca.crt").write_bytes(Authority().pem)
        client = KubeClient.from_kubeconfig(path, user_agent=AGENT)
        with pytest.raises(KubeError, match="not trusted") as caught:
            await client.request("GET", "/api/v1/nodes")
        await client.close()
    assert caught.value.reason == "TLS"
    assert api.requests == []


async def test_token_and_authority_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics_server.tls.files.CHECK_INTERVAL", 0.0)
    async with FakeApi(tmp_path) as api:
        path = api.kubeconfig(tokenFile="token")
        (tmp_path / "token").write_text("old\n")
        client = KubeClient.from_kubeconfig(path, user_agent=AGENT)
        with pytest.raises(KubeError) as caught:
            await client.request("GET", "/api/v1/nodes")
        assert caught.value.status == 401
        (tmp_path / "token").write_text(api.token)
        await client.request("GET", "/api/v1/nodes")
        (tmp_path / "ca.crt").write_bytes(Authority().pem)
        with pytest.raises(KubeError, match="not trusted"):
            await client.request("GET", "/api/v1/nodes")
        await client.close()


async def test_client_certificate_from_embedded_data(tmp_path: Path) -> None:
    pair = Authority().issue("admin", client=True)
    data = {"client-certificate-data": pair.certificate, "client-key-data": pair.key}
    async with FakeApi(tmp_path) as api:
        user = {name: base64.b64encode(value).decode() for name, value in data.items()}
        client = KubeClient.from_kubeconfig(api.kubeconfig(**user), user_agent=AGENT)
        with pytest.raises(KubeError) as caught:
            await client.request("GET", "/api/v1/nodes")
        await client.close()
    # This server knows tokens only; that it answered at all shows that the handshake went well.
    assert caught.value.status == 401
    assert client.tls.certificate is not None


async def test_watch_yields_lines_however_they_are_cut(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        api.order("watch nodes", stream(b'{"a"', b":1}\n\n{", b'"b":2}\n{"c":3}\n'))
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent=AGENT)
        assert await collect(client) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
        assert api.requests[0] == ("watch nodes", {"watch": "1", "resourceVersion": "1"})
        await client.close()


async def test_watch_bounds_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "MAX_WATCH_LINE", 1000)
    async with FakeApi(tmp_path) as api:
        api.order("watch nodes", stream(b"x" * 600, b"x" * 600))
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent=AGENT)
        with pytest.raises(KubeError, match="larger than"):
            await collect(client)
        await client.close()


async def test_watch_that_is_refused(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        api.order("watch nodes", answer(410, failure(410, "Expired")))
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent=AGENT)
        with pytest.raises(KubeError) as caught:
            await collect(client)
        await client.close()
    assert caught.value.status == 410


# Configuration


def config(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    document.update(changes)
    return document


def cluster(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443", **fields}}]


def user(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "u", "user": fields}]


def make(tmp_path: Path, document: Any) -> KubeClient:
    path = tmp_path / "config"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return KubeClient.from_kubeconfig(str(path), user_agent=AGENT)


def test_minimal_configuration(tmp_path: Path) -> None:
    assert make(tmp_path, config()).server == "https://192.0.2.1:6443"


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("", "is not a kubeconfig"),
        ("a: [", "not valid YAML"),
        (config(**{"current-context": ""}), "current-context is not set"),
        (config(contexts=[]), "contexts has no entry 'one'"),
        (config(clusters=[{"name": "other", "cluster": {}}]), "clusters has no entry 'c'"),
        (config(users=None), "users has no entry 'u'"),
        (config(clusters=cluster(server="http://192.0.2.1")), "must be an https:// URL"),
        (config(clusters=cluster(server=None)), "cluster.server is not set"),
        *(
            (config(clusters=cluster(server=f"https://{address}")), "must be an https:// URL")
            for address in ("h:64430000", "h:x", "[fd00::1", "a..b", ".b", "x" * 64)
        ),
        (config(clusters=cluster(**{"insecure-skip-tls-verify": True})), "TLS is always verified"),
        (config(clusters=cluster(**{"proxy-url": "http://proxy"})), "proxy"),
        (config(clusters=cluster(**{"certificate-authority-data": "%%%"})), "not base64"),
        (config(clusters=cluster(**{"certificate-authority-data": "aGVsbG8="})), "no usable PEM certificate"),
        (config(clusters=cluster(**{"certificate-authority": "missing.crt"})), "missing.crt cannot be read"),
        (config(users=user(exec={"command": "aws"})), "user.exec cannot be used"),
        (config(users=user(username="a", password="b")), "user.username cannot be used"),
        (config(users=user(tokenFile="missing")), "missing cannot be read"),
        (config(users=user(**{"client-certificate-data": "aGVsbG8="})), "must be given together"),
        (
            config(users=user(**{"client-certificate-data": "aGVsbG8=", "client-key-data": "aGVsbG8="})),
            "not a certificate and its private key",
        ),
    ],
)
def test_configuration_errors_say_what_to_do(tmp_path: Path, document: Any, text: str) -> None:
    with pytest.raises(KubeError, match=text) as caught:
        make(tmp_path, document)
    assert caught.value.reason == "Configuration"
    assert "\n" not in caught.value.message


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(KubeError, match="cannot be read: No such file"):
        KubeClient.from_kubeconfig(str(tmp_path / "none"), user_agent=AGENT)


def test_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "SERVICE_ACCOUNT_DIR", tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubeError, match="--kubeconfig"):
        KubeClient.from_kubeconfig(None, user_agent=AGENT)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    with pytest.raises(KubeError, match="token"):
        KubeClient.from_kubeconfig(None, user_agent=AGENT)
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_bytes(Authority().pem)
    assert KubeClient.from_kubeconfig(None, user_agent=AGENT).server == "https://[fd00::1]:6443"


async def test_unreachable_name(tmp_path: Path) -> None:
    client = make(tmp_path, config(clusters=cluster(server="https://does-not-exist.invalid")))
    with pytest.raises(KubeError) as caught:
        await client.request("GET", "/version", timeout=5)
    await client.close()
    assert caught.value.reason in ("DNS", "Timeout")


async def test_the_names_of_the_api_server(tmp_path: Path) -> None:
    async with FakeApi(tmp_path, names=("kubernetes", "api.example.com")) as api:
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent=AGENT)
        assert await client.certificate_names() == ("127.0.0.1", "kubernetes", "api.example.com", "127.0.0.1")
        await api.close()
        with pytest.raises(KubeError) as caught:
            await client.certificate_names()
        assert caught.value.reason == "Refused"
        await client.close()


async def test_no_names_of_a_server_that_is_not_trusted(tmp_path: Path) -> None:
    async with FakeApi(tmp_path) as api:
        path = api.kubeconfig()
        (tmp_path / "ca.crt").write_bytes(Authority("another").pem)
        client = KubeClient.from_kubeconfig(path, user_agent=AGENT)
        with pytest.raises(KubeError) as caught:
            await client.certificate_names()
        assert caught.value.reason == "TLS"
        await client.close()
