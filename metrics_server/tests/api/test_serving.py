# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections: certificates and their rotation, limits, hostile clients, the end of the server."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.conftest import World, config_map
from api.support import FakeApiServer, FakeEngine, Pki, Running, client_context, eventually, running_server
from metrics_server import serving_certificate
from metrics_server.api import app as app_module
from metrics_server.server import StartError
from metrics_server.tls import pki as own_pki

MANAGED = ["--self-managed-certificate", "--service-namespace=kube-system"]
SECRET = "metrics-server-serving-cert"
API_SERVICE = "v1beta1.metrics.k8s.io"


def served(running: Running, server_name: str = "x", ca: bytes | None = None, **limits: Any) -> x509.Certificate:
    """Return the certificate that the server shows, verified against a CA if one is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=ca.decode())
    for name, value in limits.items():
        setattr(context, name, value)
    with (
        socket.create_connection(("127.0.0.1", running.port), 5) as raw,
        context.wrap_socket(raw, server_hostname=server_name) as tls,
    ):
        shown = tls.getpeercert(True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown)


async def shown(running: Running, server_name: str = "x", ca: bytes | None = None, **limits: Any) -> x509.Certificate:
    return await asyncio.to_thread(served, running, server_name, ca, **limits)


def api_service(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": API_SERVICE, "resourceVersion": "1"},
        "spec": {"service": {"name": "metrics-server", "namespace": "kube-system"}, **spec},
    }


def bundle(api: FakeApiServer) -> bytes:
    return base64.b64decode(api.api_services[API_SERVICE]["spec"].get("caBundle", ""))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_certificate, "_FILE_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(serving_certificate, "_SECRET_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(serving_certificate, "_RETRY_SECONDS", (0.05,) * 5)
    monkeypatch.setattr(serving_certificate, "_SWITCH_DELAY", 0.1)


async def test_a_self_signed_pair_is_kept(api: FakeApiServer, tmp_path: Path) -> None:
    async with running_server(api, tmp_path) as running:
        first = await shown(running)
        assert own_pki.dns_names(first) == {"localhost"}
    assert (tmp_path / "certs" / "apiserver.key").stat().st_mode & 0o777 == 0o600
    async with running_server(api, tmp_path) as running:
        assert await shown(running) == first


async def test_files_are_reloaded_when_both_have_changed(
    api: FakeApiServer, pki: Pki, tmp_path: Path, quick: None
) -> None:
    ca = pki.ca("serving-ca")
    old, new = (pki.leaf(ca, name, usage=ExtendedKeyUsageOID.SERVER_AUTH, names=["ms"]) for name in ("old", "new"))
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def put(target: Path, source: Path) -> None:
        temporary = target.with_suffix(".new")
        temporary.write_bytes(source.read_bytes())
        temporary.replace(target)

    put(certificate, old.certificate_file)
    put(key, old.key_file)
    arguments = [f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"]
    async with running_server(api, tmp_path, arguments) as running:
        assert await shown(running, "ms", ca.pem.encode()) == old.certificate
        put(certificate, new.certificate_file)
        await asyncio.sleep(1.5)
        assert await shown(running) == old.certificate
        put(key, new.key_file)
        async with asyncio.timeout(5):
            while await shown(running, "ms", ca.pem.encode()) != new.certificate:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("fault", ["missing", "not-pem", "other-key"])
async def test_unusable_files_are_one_sentence(api: FakeApiServer, pki: Pki, tmp_path: Path, fault: str) -> None:
    ca = pki.ca("serving-ca")
    pair, other = pki.leaf(ca, "a"), pki.leaf(ca, "b")
    certificate = {"missing": tmp_path / "none", "not-pem": tmp_path / "junk"}.get(fault, pair.certificate_file)
    (tmp_path / "junk").write_text("junk")
    arguments = [f"--tls-cert-file={certificate}", f"--tls-private-key-file={other.key_file}"]
    with pytest.raises(StartError) as caught:
        async with running_server(api, tmp_path, arguments):
            pass
    assert "certificate" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_the_managed_certificate_verifies_by_the_ca_bundle(
    api: FakeApiServer, tmp_path: Path, quick: None
) -> None:
    api.api_services[API_SERVICE] = api_service()
    async with running_server(api, tmp_path, MANAGED) as running:
        await eventually(lambda: bundle(api) != b"")
        await eventually(lambda: running.server.certificates.problem() is None)
        leaf = await shown(running, "metrics-server.kube-system.svc", bundle(api))
        assert own_pki.dns_names(leaf) == {
            "metrics-server",
            "metrics-server.kube-system",
            "metrics-server.kube-system.svc",
            "metrics-server.kube-system.svc.cluster.local",
        }
        assert api.secrets[SECRET]["type"] == "kubernetes.io/tls"
        # A second replica uses the same.
        second = tmp_path / "second"
        second.mkdir()
        async with running_server(api, second, MANAGED) as replica:
            await eventually(lambda: replica.server.certificates.problem() is None)
            assert await shown(replica) == leaf
    assert len([entry for entry in api.log if entry[0] in ("POST", "PUT") and "secrets" in entry[1]]) == 1


async def test_two_replicas_that_start_at_once_agree(api: FakeApiServer, tmp_path: Path, quick: None) -> None:
    api.api_services[API_SERVICE] = api_service()
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir()
    async with (
        running_server(api, directories[0], MANAGED) as one,
        running_server(api, directories[1], MANAGED) as two,
    ):
        for replica in (one, two):
            await eventually(lambda replica=replica: replica.server.certificates.problem() is None)  # type: ignore[misc]
        assert await shown(one) == await shown(two)
        assert await shown(one, "metrics-server.kube-system.svc", bundle(api))


async def test_a_new_ca_is_trusted_before_it_is_used(api: FakeApiServer, tmp_path: Path, quick: None) -> None:
    api.api_services[API_SERVICE] = api_service()
    async with running_server(api, tmp_path, MANAGED) as running:
        await eventually(lambda: running.server.certificates.problem() is None)
        before = await shown(running)
        del api.secrets[SECRET]
        seen: list[x509.Certificate] = []
        async with asyncio.timeout(5):
            while not seen or seen[-1] == before:
                # Whatever is served must verify by what the kube-apiserver trusts at that moment, old and new alike.
                seen.append(await shown(running, "metrics-server.kube-system.svc", bundle(api)))
        assert len(x509.load_pem_x509_certificates(bundle(api))) == 2


async def test_an_old_ca_leaves_the_bundle(
    api: FakeApiServer, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.api_services[API_SERVICE] = api_service()
    async with running_server(api, tmp_path, MANAGED) as running:
        await eventually(lambda: running.server.certificates.problem() is None)
        del api.secrets[SECRET]
        await eventually(lambda: len(x509.load_pem_x509_certificates(bundle(api))) == 2)
        monkeypatch.setattr(serving_certificate, "_OLD_CA_GRACE", own_pki.CA_LIFETIME * 0)
        await eventually(lambda: len(x509.load_pem_x509_certificates(bundle(api))) == 1)
        async with asyncio.timeout(5):
            while True:
                try:
                    await shown(running, "metrics-server.kube-system.svc", bundle(api))
                    break
                except ssl.SSLCertVerificationError:
                    await asyncio.sleep(0.05)


async def test_a_leaf_is_renewed_before_it_expires(
    api: FakeApiServer, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.api_services[API_SERVICE] = api_service()
    async with running_server(api, tmp_path, MANAGED) as running:
        await eventually(lambda: running.server.certificates.problem() is None)
        before, trusted = await shown(running), bundle(api)
        monkeypatch.setattr(serving_certificate, "_RENEW_BEFORE", own_pki.LEAF_LIFETIME * 2)
        async with asyncio.timeout(5):
            while await shown(running, "metrics-server.kube-system.svc", trusted) == before:
                await asyncio.sleep(0.02)
        monkeypatch.setattr(serving_certificate, "_RENEW_BEFORE", own_pki.LEAF_LIFETIME / 3)
        # The same CA signed it: nobody had to trust anything new.
        assert bundle(api) == trusted


async def test_the_api_service_of_somebody_else_is_left_alone(
    api: FakeApiServer, tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    api.api_services[API_SERVICE] = {
        "metadata": {"name": API_SERVICE, "resourceVersion": "1"},
        "spec": {"service": {"name": "prometheus-adapter", "namespace": "monitoring"}, "insecureSkipTLSVerify": True},
    }
    async with running_server(api, tmp_path, MANAGED) as running:
        await eventually(lambda: running.server.certificates.problem() is None)
        await asyncio.sleep(0.2)
    assert api.api_services[API_SERVICE]["spec"]["insecureSkipTLSVerify"] is True
    assert "belongs to another service" in caplog.text


async def test_a_server_before_us_keeps_its_trust_until_there_are_data(
    api: FakeApiServer, tmp_path: Path, quick: None
) -> None:
    api.api_services[API_SERVICE] = api_service(insecureSkipTLSVerify=True)
    engine = FakeEngine()
    engine.reason = "no metrics yet"
    async with running_server(api, tmp_path, MANAGED, engine=engine) as running:
        await eventually(lambda: running.server.certificates.problem() is None)
        await asyncio.sleep(0.2)
        assert api.api_services[API_SERVICE]["spec"]["insecureSkipTLSVerify"] is True
        engine.reason = None
        await eventually(lambda: api.api_services[API_SERVICE]["spec"]["insecureSkipTLSVerify"] is False)
        assert b"BEGIN CERTIFICATE" in bundle(api)


async def test_without_rights_the_server_lives_but_is_not_ready(
    api: FakeApiServer, tmp_path: Path, quick: None
) -> None:
    api.forbidden_paths.add(f"/api/v1/namespaces/kube-system/secrets/{SECRET}")
    async with running_server(api, tmp_path, MANAGED) as running:
        await eventually(lambda: "403" in (running.server.certificates.problem() or ""))
        assert (await running.get("/livez")).status == 200
        ready = await running.get("/readyz")
        assert ready.status == 500
        assert b"[-]serving-certificate failed: reason withheld" in ready.body


async def test_not_ready_while_the_authentication_settings_are_unknown(api: FakeApiServer, tmp_path: Path) -> None:
    api.config_map = None
    async with running_server(api, tmp_path) as running:
        await eventually(lambda: "404" in (running.server.trust.problem or ""))
        assert b"[-]authentication-configuration failed" in (await running.get("/readyz")).body
        unknown = api.pki.leaf(api.pki.ca("x"), "x")
        # Who is unknown cannot be told yet: a 401 would be wrong.
        assert (await running.get("/metrics", credential=unknown)).status == 503


@pytest.mark.parametrize(
    ("arguments", "works"),
    [
        ([], ["TLSv1_2", "TLSv1_3"]),
        (["--tls-min-version=VersionTLS13"], ["TLSv1_3"]),
        (["--tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"], ["TLSv1_2", "TLSv1_3"]),
        (["--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"], ["TLSv1_3"]),
    ],
)
async def test_tls_versions_and_suites(
    api: FakeApiServer, tmp_path: Path, arguments: list[str], works: list[str]
) -> None:
    async with running_server(api, tmp_path, arguments) as running:
        for version in ("TLSv1_2", "TLSv1_3"):
            wanted = ssl.TLSVersion[version]
            try:
                await shown(running, minimum_version=wanted, maximum_version=wanted)
                worked = True
            except (ssl.SSLError, ConnectionError):
                worked = False
            assert worked is (version in works), version


async def exchange(port: int, data: bytes, seconds: float = 2.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(4096), seconds)
    finally:
        writer.close()


async def test_garbage_before_and_after_the_handshake(world: World) -> None:
    port = world.running.port
    assert b"Client sent an HTTP request to an HTTPS server" in await exchange(port, b"GET / HTTP/1.1\r\n\r\n")
    await exchange(port, os.urandom(600))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for code, request in (
        (400, b"\x00\x01\x02\r\n\r\n"),
        (431, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A" * 100_000 + b": b\r\n\r\n"),
        (414, b"GET /" + b"a" * 50_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        (431, b"GET /livez HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % number for number in range(3000)) + b"\r\n"),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(65536), 5)
        assert answer.startswith(b"HTTP/1.1 %d " % code), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code
        writer.close()
    assert (await world.running.get("/livez")).status == 200


async def test_a_full_house_makes_room_by_dropping_strangers(api: FakeApiServer, pki: Pki, tmp_path: Path) -> None:
    front_proxy_ca, client_ca = pki.ca("fp"), pki.ca("c")
    api.config_map = config_map(front_proxy_ca, client_ca)
    async with running_server(api, tmp_path, ["--max-connections=5"]) as running:
        silent = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(12)]
        assert (await running.get("/livez")).status == 200
        await asyncio.sleep(0.1)
        closed = 0
        for reader, writer in silent:
            try:
                closed += await asyncio.wait_for(reader.read(1), 0.05) == b""
            except TimeoutError:
                pass
            except ConnectionResetError:
                closed += 1
            writer.close()
        assert closed >= 7


async def test_too_many_requests_are_429(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    app = world.running.server.app
    monkeypatch.setattr(app, "_inflight", 400)
    answer = await world.running.get("/metrics", credential=world.front_proxy, headers=[("X-Remote-User", "x")])
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    assert answer.json()["reason"] == "TooManyRequests"
    # Probes need no place.
    assert (await world.running.get("/livez")).status == 200


async def test_a_client_that_does_not_read_is_dropped(api: FakeApiServer, pki: Pki, tmp_path: Path) -> None:
    front_proxy_ca, client_ca = pki.ca("fp"), pki.ca("c")
    api.config_map = config_map(front_proxy_ca, client_ca)
    engine = FakeEngine()
    engine.fill()
    for number in range(40_000):
        engine.index.add_pod("bulk", f"p{number}", "n1", {"app": "x"})
        engine.store.pod_readings["bulk", f"p{number}"] = engine.store.pod_readings["default", "web-1"]
    async with running_server(api, tmp_path, ["--request-timeout=1s"], engine=engine) as running:
        await eventually(lambda: running.server.trust.front_proxy is not None)
        proxy = pki.leaf(front_proxy_ca, "front-proxy-client")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(proxy.certificate_file, proxy.key_file)
        _, writer = await asyncio.open_connection("127.0.0.1", running.port, ssl=context, limit=1024)
        writer.write(
            b"GET /apis/metrics.k8s.io/v1/pods HTTP/1.1\r\nHost: x\r\n"
            b"X-Remote-User: x\r\nX-Remote-Group: system:masters\r\n\r\n"
        )
        started = asyncio.get_running_loop().time()
        await eventually(lambda: running.server.app._inflight == 1)
        await eventually(lambda: running.server.app._inflight == 0, 10)
        assert asyncio.get_running_loop().time() - started < 5
        await eventually(lambda: running.server.listener.connections == 0)
        writer.close()


async def test_sigterm_fails_readiness_drains_and_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    running = world.running
    monkeypatch.setattr(
        running.server, "_options", dataclasses.replace(running.server._options, shutdown_delay_duration=0.4)
    )
    release = asyncio.Event()

    async def slow(_request: object) -> tuple[str, list[bytes]]:
        await release.wait()
        return "text/plain", [b"done"]

    monkeypatch.setitem(running.server.app._paths, "/slow", slow)
    proxy = {"credential": world.front_proxy, "headers": [("X-Remote-User", "x")]}
    under_way = asyncio.ensure_future(running.get("/slow", **proxy))  # type: ignore[arg-type]
    await eventually(lambda: running.server.app._inflight == 1)
    running.server.stop()
    await asyncio.sleep(0.05)
    ready = await running.get("/readyz")
    assert (ready.status, b"[-]shutdown failed: reason withheld" in ready.body) == (500, True)
    assert (await running.get("/livez")).status == 200
    late = await running.get("/metrics", **proxy)  # type: ignore[arg-type]
    assert (late.status, late.headers.get("Connection")) == (200, "close")
    await asyncio.sleep(0.6)
    with pytest.raises(OSError):
        await running.get("/livez")
    assert not running.task.done()
    release.set()
    assert (await under_way).body == b"done"
    await asyncio.wait_for(running.task, 5)
    assert running.engine.running is False


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("fault", ["raises", "hangs"])
async def test_a_fault_in_mid_answer_ends_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch, coding: str, fault: str
) -> None:
    """A second answer would be read as a part of the first one."""
    engine = world.running.engine
    for number in range(2500):
        engine.index.add_pod("bulk", f"bulk-{number:04}", "n1", {})
        engine.store.pod_readings["bulk", f"bulk-{number:04}"] = engine.store.pod_readings["default", "web-1"]

    async def pieces(*_unused: object, **_options: object) -> AsyncIterator[bytes]:
        yield b"the first piece"
        if fault == "raises":
            raise ZeroDivisionError
        await asyncio.sleep(30)

    app = world.running.server.app
    monkeypatch.setattr(app_module, "_body", pieces)
    monkeypatch.setattr(world.running.server._web, "request_timeout", 0.4)
    path = b"/apis/metrics.k8s.io/v1beta1/namespaces/bulk/pods"
    user = b"X-Remote-User: x\r\nX-Remote-Group: system:masters\r\n"
    request = b"GET %b HTTP/1.1\r\nHost: x\r\nAccept-Encoding: %b\r\n%b\r\n" % (path, coding.encode(), user)
    context = client_context(world.front_proxy)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.running.port, ssl=context)
    received = b""
    try:
        writer.write(request + request)
        async with asyncio.timeout(5):
            while data := await reader.read(1 << 16):
                received += data
    except ConnectionError:
        pass
    finally:
        writer.close()
    assert b" 200 OK" in received
    assert received.count(b"HTTP/1.1") == 1
    assert b"Status" not in received
    await eventually(lambda: app._inflight == 0)


async def test_every_health_check_can_fail(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ping` says that the process answers, and fails by not being answered."""
    running = world.running
    causes: dict[str, Callable[[], object]] = {
        "/livez/metric-collection-timely": lambda: setattr(running.engine, "failure", "over"),
        "/readyz/metric-storage-ready": lambda: setattr(running.engine, "reason", "nothing yet"),
        "/readyz/metric-informer-sync": lambda: setattr(running.engine.index, "synced", False),
        "/readyz/metadata-informer-sync": lambda: setattr(running.engine.index, "pods_synced", False),
        "/readyz/authentication-configuration": lambda: setattr(running.server.trust, "_looked_up", False),
        "/readyz/serving-certificate": lambda: setattr(
            running.server.certificates, "not_after", datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        ),
        "/readyz/shutdown": running.server._stopping.set,
        "/healthz/metadata-informer-sync": lambda: None,
    }
    health = running.server.app._health
    # It takes some time to fail when it has passed before.
    monkeypatch.setattr(health._checks["readyz"]["metric-storage-ready"], "_seconds", 0.0)
    paths = [path for path in health.paths() if path.count("/") == 2 and not path.endswith("/ping")]
    assert sorted(paths) == sorted(causes)
    for path, cause in causes.items():
        before = health.report(path)
        assert before is not None
        assert before.healthy or path.startswith("/healthz"), path
        cause()
        after = health.report(path)
        assert after is not None
        assert not after.healthy, path
    running.server._stopping.clear()


async def test_without_a_config_map_nothing_is_said_of_it(api: FakeApiServer, tmp_path: Path) -> None:
    async with running_server(api, tmp_path, ["--authentication-skip-lookup"]) as running:
        answer = await running.get("/readyz?verbose")
        assert b"authentication-configuration" not in answer.body
        assert b"[+]metadata-informer-sync ok" in answer.body
