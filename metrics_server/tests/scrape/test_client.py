# SPDX-License-Identifier: GPL-3.0-or-later
"""The kubelet client against kubelets that are well, wrongly set up, slow, broken or hostile. TLS is real."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.fake_kubelet import (
    FakeKubelet,
    Request,
    Writer,
    hang,
    hang_up,
    respond,
    respond_endless,
    respond_raw,
    running,
)
from support.pki import Authority, Pair

from metrics_server.scrape.address import Target
from metrics_server.scrape.client import KubeletClient
from metrics_server.scrape.errors import Reason, ScrapeError
from metrics_server.scrape.source import SUMMARY_PATH
from metrics_server.tls.files import ClientTls, Source

PATH = "/metrics/resource"
CA = Authority()
GOOD = CA.issue("system:node:n1", dns=("n1",), ips=("127.0.0.1",))


def target(
    kubelet: FakeKubelet, *, names: tuple[str, ...] = ("n1", "127.0.0.1"), hosts: tuple[str, ...] = ()
) -> Target:
    return Target("n1", hosts or (kubelet.host,), kubelet.port, frozenset(names))


def make_client(
    *,
    authority: Authority = CA,
    token: bytes | None = b"secret-token\n",
    timeout: float = 5.0,
    max_body: int = 1_000_000,
    identity: Pair | None = None,
    insecure: bool = False,
    plain: bool = False,
    resolver: Callable[[str, int], object] | None = None,
) -> KubeletClient:
    tls = ClientTls(
        ca=Source("CA", data=authority.pem),
        certificate=Source("certificate", data=identity.certificate) if identity else None,
        key=Source("key", data=identity.key) if identity else None,
        check_hostname=False,
        insecure=insecure,
    )
    return KubeletClient(
        tls=None if plain else tls,
        token=None if token is None else Source("token", data=token),
        timeout=timeout,
        max_body=max_body,
        insecure=insecure,
        resolver=resolver,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def closing(client: KubeletClient) -> AsyncIterator[KubeletClient]:
    try:
        yield client
    finally:
        client.close()


async def failure(client: KubeletClient, where: Target) -> ScrapeError:
    async with closing(client):
        with pytest.raises(ScrapeError) as caught:
            await client.get(where, PATH)
    assert "secret-token" not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


async def test_good(tmp_path: Path) -> None:
    kubelet = FakeKubelet(respond(body=b"metrics"), GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        for _ in range(3):
            assert (await client.get(target(kubelet), PATH)).body == b"metrics"
        request = kubelet.requests[0]
        assert (request.method, request.path) == ("GET", PATH)
        assert request.headers["authorization"] == "Bearer secret-token"
        assert request.headers["host"] == f"127.0.0.1:{kubelet.port}"
        assert request.headers["accept-encoding"] == "identity"
        # One connection for all: a handshake each time would cost more than the scrape.
        assert kubelet.connections == client.opened == client.open_connections == 1


async def test_large_answer_in_many_records(tmp_path: Path) -> None:
    body = bytes(range(256)) * 3000
    kubelet = FakeKubelet(respond(body=body), GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        assert (await client.get(target(kubelet), PATH)).body == body
        assert (await client.get(target(kubelet), PATH)).body == body
        assert client.opened == 1


async def test_chunked(tmp_path: Path) -> None:
    behaviour = respond_raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"4\r\nmetr\r\n3;x=y\r\nics\r\n",
        b"0\r\nTrailer: 1\r\n\r\n",
    )
    kubelet = FakeKubelet(behaviour, GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        assert (await client.get(target(kubelet), PATH)).body == b"metrics"
        assert (await client.get(target(kubelet), PATH)).body == b"metrics"
        assert client.opened == 1


async def test_continue_before_the_answer(tmp_path: Path) -> None:
    behaviour = respond_raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    kubelet = FakeKubelet(behaviour, GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        assert (await client.get(target(kubelet), PATH)).body == b"ok"


async def test_http_1_0(tmp_path: Path) -> None:
    kubelet = FakeKubelet(respond(body=b"old", version="1.0"), GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        assert (await client.get(target(kubelet), PATH)).body == b"old"
        assert client.open_connections == 0
        assert (await client.get(target(kubelet), PATH)).body == b"old"


async def test_a_body_without_length_must_end_properly(tmp_path: Path) -> None:
    """Over TLS, an end without close_notify can be anyone's work: half an answer must not pass for a whole."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*GOOD.write(tmp_path, "kubelet"))

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf of it")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = asyncio.create_task(asyncio.to_thread(serve, listener))
        where = Target("n1", ("127.0.0.1",), listener.getsockname()[1], frozenset({"n1"}))
        error = await failure(make_client(), where)
        await served
    assert error.reason is Reason.MALFORMED
    assert "cut off" in error.message


@pytest.mark.parametrize("certificate", [GOOD, None])
async def test_body_until_the_end_of_the_connection(tmp_path: Path, certificate: Pair | None) -> None:
    kubelet = FakeKubelet(respond_raw(b"HTTP/1.0 200 OK\r\n\r\n", b"all of it", close=True), certificate)
    async with running(tmp_path, kubelet), closing(make_client(plain=certificate is None)) as client:
        assert (await client.get(target(kubelet), PATH)).body == b"all of it"


async def test_plain_http_never_carries_the_token(tmp_path: Path) -> None:
    kubelet = FakeKubelet(respond(body=b"open"))
    async with running(tmp_path, kubelet), closing(make_client(plain=True)) as client:
        assert (await client.get(target(kubelet), PATH)).body == b"open"
    assert "authorization" not in kubelet.requests[0].headers


# Certificates


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(CA.issue("x", dns=("n1",)), id="node name only"),
        pytest.param(CA.issue("x", ips=("127.0.0.1",)), id="dialled address only"),
        pytest.param(CA.issue("x", ips=("192.0.2.7",)), id="another address of the node"),
    ],
)
async def test_any_name_of_the_node_will_do(tmp_path: Path, certificate: Pair) -> None:
    kubelet = FakeKubelet(respond(body=b"ok"), certificate)
    names = ("n1", "127.0.0.1", "192.0.2.7")
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        assert (await client.get(target(kubelet, names=names), PATH)).body == b"ok"


@pytest.mark.parametrize(
    ("certificate", "reason", "text"),
    [
        (CA.issue("n1"), Reason.IP_SAN_MISSING, "no name at all"),
        (CA.issue("n1", dns=("n2",), ips=("192.0.2.9",)), Reason.IP_SAN_MISSING, "n2, 192.0.2.9"),
        (Authority().issue("n1", dns=("n1",)), Reason.UNKNOWN_AUTHORITY, "--kubelet-certificate-authority"),
        (CA.issue("n1", dns=("n1",), expired=True), Reason.EXPIRED, "not valid now"),
        (CA.issue("n1", dns=("n1",), future=True), Reason.EXPIRED, "not valid now"),
        (CA.issue("n1", dns=("n1",), client=True), Reason.TLS, "refused"),
    ],
)
async def test_refused_certificates(tmp_path: Path, certificate: Pair, reason: Reason, text: str) -> None:
    kubelet = FakeKubelet(respond(body=b"ok"), certificate)
    async with running(tmp_path, kubelet):
        error = await failure(make_client(), target(kubelet))
    assert error.reason is reason
    assert text in error.message
    # The token is for the kubelet alone: nothing was sent before it was verified to be that.
    assert kubelet.requests == []


async def test_a_certificate_as_its_own_authority(tmp_path: Path) -> None:
    """The CA file may hold the kubelets' own certificates instead of a CA."""
    kubelet = FakeKubelet(respond(body=b"ok"), GOOD)
    tls = ClientTls(ca=Source("CA", data=GOOD.certificate), check_hostname=False)
    async with running(tmp_path, kubelet), closing(KubeletClient(tls=tls)) as client:
        assert (await client.get(target(kubelet), PATH)).body == b"ok"


async def test_insecure_is_possible_but_only_when_asked_for(tmp_path: Path) -> None:
    kubelet = FakeKubelet(respond(body=b"ok"), Authority().issue("other", expired=True))
    async with running(tmp_path, kubelet), closing(make_client(insecure=True)) as client:
        assert (await client.get(target(kubelet), PATH)).body == b"ok"


async def test_client_certificate(tmp_path: Path) -> None:
    kubelet = FakeKubelet(respond(body=b"ok"), GOOD, client_authority=CA)
    async with running(tmp_path, kubelet):
        identity = CA.issue("metrics-server", client=True)
        async with closing(make_client(identity=identity, token=None)) as client:
            assert (await client.get(target(kubelet), PATH)).body == b"ok"
        assert "authorization" not in kubelet.requests[0].headers


async def test_client_certificate_is_missing(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*GOOD.write(tmp_path, "kubelet"))
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(listener: socket.socket) -> str:
        connection, _ = listener.accept()
        # Not asyncio's TLS: it aborts the connection before the alert has left.
        with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secured:
            try:
                secured.do_handshake()
            except ssl.SSLError as error:
                secured.shutdown(socket.SHUT_WR)
                while secured.recv(65536):
                    pass
                return str(error.reason)
        return "accepted"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = asyncio.create_task(asyncio.to_thread(serve, listener))
        where = Target("n1", ("127.0.0.1",), listener.getsockname()[1], frozenset({"n1"}))
        error = await failure(make_client(token=None), where)
        assert await served == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    assert error.reason is Reason.TLS
    assert "ALERT_CERTIFICATE_REQUIRED" in error.message


async def test_the_authority_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics_server.tls.files.CHECK_INTERVAL", 0.0)
    new = Authority("new-ca")
    file = tmp_path / "ca.crt"
    file.write_bytes(CA.pem)
    tls = ClientTls(ca=Source("CA", path=file), check_hostname=False)
    kubelet = FakeKubelet(respond(body=b"ok"), new.issue("n1", dns=("n1",)))
    async with running(tmp_path, kubelet), closing(KubeletClient(tls=tls)) as client:
        with pytest.raises(ScrapeError) as caught:
            await client.get(target(kubelet), PATH)
        assert caught.value.reason is Reason.UNKNOWN_AUTHORITY
        file.write_bytes(CA.pem + new.pem)
        assert (await client.get(target(kubelet), PATH)).body == b"ok"
        # A file that is being written is not taken for the new truth.
        file.write_bytes(b"")
        assert (await client.get(target(kubelet), PATH)).body == b"ok"
        file.write_bytes(b"-----BEGIN CERT")
        assert (await client.get(target(kubelet), PATH)).body == b"ok"
        # Distrust ends kept-alive connections too.
        file.write_bytes(CA.pem)
        with pytest.raises(ScrapeError):
            await client.get(target(kubelet), PATH)


async def test_the_token_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics_server.tls.files.CHECK_INTERVAL", 0.0)
    file = tmp_path / "token"
    file.write_bytes(b"first")
    kubelet = FakeKubelet(respond(body=b"ok"), GOOD)
    tls = ClientTls(ca=Source("CA", data=CA.pem), check_hostname=False)
    async with running(tmp_path, kubelet), closing(KubeletClient(tls=tls, token=Source("token", path=file))) as client:
        await client.get(target(kubelet), PATH)
        file.write_bytes(b"second")
        await client.get(target(kubelet), PATH)
        file.unlink()
        await client.get(target(kubelet), PATH)
    assert [request.headers["authorization"] for request in kubelet.requests] == [
        "Bearer first",
        "Bearer second",
        "Bearer second",
    ]


# Answers that are errors


@pytest.mark.parametrize(
    ("status", "reason", "text"),
    [
        (401, Reason.UNAUTHORIZED, "webhook authentication"),
        (403, Reason.FORBIDDEN, "nodes/metrics"),
        (404, Reason.NOT_FOUND, "no such path"),
        (500, Reason.HTTP_ERROR, "500: it said why"),
        (204, Reason.HTTP_ERROR, "204"),
    ],
)
async def test_status(tmp_path: Path, status: int, reason: Reason, text: str) -> None:
    body = b"" if status == 204 else b"it said\n\x1b why"
    kubelet = FakeKubelet(respond(status, body), GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        for _ in range(2):
            with pytest.raises(ScrapeError) as caught:
                await client.get(target(kubelet), PATH)
            assert caught.value.reason is reason
            assert text in caught.value.message
            assert caught.value.message.isprintable()
        assert client.opened == 1


async def test_a_refused_summary_names_the_right_that_it_needs(tmp_path: Path) -> None:
    kubelet = FakeKubelet(respond(403), GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        with pytest.raises(ScrapeError, match="the ClusterRole must allow get on nodes/stats"):
            await client.get(target(kubelet), SUMMARY_PATH)


async def test_redirects_are_not_followed(tmp_path: Path) -> None:
    elsewhere = FakeKubelet(respond(body=b"caught"), GOOD)
    async with running(tmp_path, elsewhere):
        location = f"Location: https://127.0.0.1:{elsewhere.port}/"
        kubelet = FakeKubelet(respond(302, headers=(location,)), GOOD)
        async with running(tmp_path, kubelet):
            error = await failure(make_client(), target(kubelet))
        assert error.reason is Reason.HTTP_ERROR
        assert "not followed" in error.message
        assert elsewhere.requests == []


async def test_a_long_error_text_is_cut(tmp_path: Path) -> None:
    behaviour = respond_endless(b"HTTP/1.1 500 No\r\nContent-Length: 99999999\r\n\r\n", b"x" * 8192)
    kubelet = FakeKubelet(behaviour, GOOD)
    async with running(tmp_path, kubelet):
        error = await failure(make_client(max_body=10**9), target(kubelet))
    assert error.reason is Reason.HTTP_ERROR
    assert len(error.message) < 400


# Hostile and broken kubelets


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(hang, Reason.TIMEOUT, id="never answers"),
        pytest.param(respond_endless(b"HTTP/1.1 200 OK\r\nX: ", b"a", 0.02), Reason.TIMEOUT, id="slow header"),
        pytest.param(
            respond_endless(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", b"a", 0.02),
            Reason.TIMEOUT,
            id="slow body",
        ),
    ],
)
async def test_the_deadline_spans_the_whole_scrape(
    tmp_path: Path, behaviour: Callable[..., object], reason: Reason
) -> None:
    kubelet = FakeKubelet(behaviour, GOOD)  # type: ignore[arg-type]
    async with running(tmp_path, kubelet):
        started = asyncio.get_running_loop().time()
        error = await failure(make_client(timeout=0.3), target(kubelet))
        assert 0.25 < asyncio.get_running_loop().time() - started < 2.0
    assert error.reason is reason
    assert "0.3 s" in error.message


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(
            respond_endless(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
            ),
            Reason.TOO_LARGE,
            id="endless chunks",
        ),
        pytest.param(respond_endless(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 8192), Reason.TOO_LARGE, id="endless body"),
        pytest.param(
            respond_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n"), Reason.TOO_LARGE, id="announced"
        ),
        pytest.param(
            respond_endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 2000),
            Reason.TOO_LARGE,
            id="chunks of one byte",
        ),
        pytest.param(
            respond_endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 1000),
            Reason.TOO_LARGE,
            id="endless trailers",
        ),
        pytest.param(
            respond_endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 100), Reason.MALFORMED, id="endless headers"
        ),
        pytest.param(respond_endless(b"HTTP/1.1 200 OK\r\nA: ", b"b" * 1000), Reason.MALFORMED, id="one long header"),
        pytest.param(respond_endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50), Reason.MALFORMED, id="endless 100"),
        pytest.param(respond_raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Reason.MALFORMED, id="not HTTP"),
        pytest.param(respond_raw(b"\x00\xff" * 50), Reason.MALFORMED, id="binary"),
        pytest.param(
            respond_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456"),
            Reason.MALFORMED,
            id="two lengths",
        ),
        pytest.param(
            respond_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            Reason.MALFORMED,
            id="bad chunk",
        ),
        pytest.param(
            respond_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nonly this", close=True),
            Reason.MALFORMED,
            id="cut off",
        ),
        pytest.param(
            respond(body=gzip.compress(b"metrics"), headers=("Content-Encoding: gzip",)),
            Reason.MALFORMED,
            id="gzip unasked",
        ),
        pytest.param(
            respond_raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", close=True),
            Reason.MALFORMED,
            id="upgrade",
        ),
        pytest.param(
            respond_raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
            Reason.MALFORMED,
            id="upgrade that goes on",
        ),
        pytest.param(hang_up, Reason.UNREACHABLE, id="hangs up"),
    ],
)
@pytest.mark.parametrize("certificate", [GOOD, None], ids=["tls", "plain"])
async def test_hostile_answers(
    tmp_path: Path, behaviour: Callable[..., object], reason: Reason, certificate: Pair | None
) -> None:
    kubelet = FakeKubelet(behaviour, certificate)  # type: ignore[arg-type]
    async with running(tmp_path, kubelet):
        client = make_client(plain=certificate is None, max_body=300_000)
        error = await failure(client, target(kubelet))
        assert client.open_connections == 0
    assert error.reason is reason


async def test_a_second_answer_is_not_taken_for_the_next(tmp_path: Path) -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    kubelet = FakeKubelet(respond_raw(one + b"one" + one + b"two"), GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        for _ in range(3):
            assert (await client.get(target(kubelet), PATH)).body == b"one"
        assert client.opened == 3


async def test_bytes_that_come_unasked_end_the_connection(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def behave(_request: Request, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none")
        await writer.drain()
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo")
        await writer.drain()

    kubelet = FakeKubelet(behave, GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        assert (await client.get(target(kubelet), PATH)).body == b"one"
        release.set()
        await until(lambda: client.open_connections == 0)
        assert (await client.get(target(kubelet), PATH)).body == b"one"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_kubelet_that_restarts_costs_no_scrape(tmp_path: Path) -> None:
    kubelet = FakeKubelet(respond(body=b"ok"), GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        await client.get(target(kubelet), PATH)
        kubelet.drop_connections()
        # Noticed while idle ...
        await until(lambda: client.open_connections == 0)
        assert (await client.get(target(kubelet), PATH)).body == b"ok"
        # ... or only when it is used.
        kubelet.drop_connections()
        assert (await client.get(target(kubelet), PATH)).body == b"ok"


async def test_connection_that_dies_at_its_second_request(tmp_path: Path) -> None:
    async def behave(request: Request, writer: Writer) -> None:
        if sum(1 for other in kubelet.requests if other.connection == request.connection) == 1:
            await respond(body=b"ok")(request, writer)
        else:
            writer.close()

    kubelet = FakeKubelet(behave, GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        for _ in range(3):
            assert (await client.get(target(kubelet), PATH)).body == b"ok"
        assert client.opened == 3


async def test_letting_a_node_go_ends_its_scrape(tmp_path: Path) -> None:
    kubelet = FakeKubelet(hang, GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        task = asyncio.create_task(client.get(target(kubelet), PATH))
        await until(lambda: len(kubelet.requests) == 1)
        client.forget("n1")
        with pytest.raises(ScrapeError, match="given up"):
            await task
        assert client.open_connections == 0


async def test_a_cancelled_scrape_leaves_no_answer_behind(tmp_path: Path) -> None:
    async def behave(request: Request, writer: Writer) -> None:
        await asyncio.sleep(0.1 if len(kubelet.requests) == 1 else 0)
        await respond(body=f"answer {len(kubelet.requests)}".encode())(request, writer)

    kubelet = FakeKubelet(behave, GOOD)
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        task = asyncio.create_task(client.get(target(kubelet), PATH))
        await until(lambda: len(kubelet.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.get(target(kubelet), PATH)).body == b"answer 2"


# Reaching it at all


async def test_refused(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = Target("n1", ("127.0.0.1",), unused.getsockname()[1], frozenset({"n1"}))
        error = await failure(make_client(), where)
    assert error.reason is Reason.REFUSED


async def test_no_answer_to_the_handshake(tmp_path: Path) -> None:
    async def silent(_request: Request, _writer: Writer) -> None:
        raise AssertionError("no request can have come")

    kubelet = FakeKubelet(silent)
    async with running(tmp_path, kubelet):
        error = await failure(make_client(timeout=0.2), target(kubelet))
    assert error.reason is Reason.TIMEOUT


@pytest.mark.parametrize(
    ("greeting", "text"),
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "handshake failed", id="plain HTTP"),
        # A kubelet whose signing request waits for approval answers with the alert `internal error`.
        pytest.param(bytes([21, 3, 3, 0, 2, 2, 80]), "approval", id="no certificate yet"),
        pytest.param(b"", "closed during the TLS handshake", id="hangs up"),
    ],
)
async def test_no_tls(greeting: bytes, text: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: Writer) -> None:
        await reader.read(10)
        writer.write(greeting)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    where = Target("n1", ("127.0.0.1",), server.sockets[0].getsockname()[1], frozenset({"n1"}))
    error = await failure(make_client(), where)
    server.close()
    assert error.reason is Reason.TLS
    assert text in error.message


async def test_a_socket_that_python_refuses_before_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does where the peer has spoken and ended already (CVE-2023-40217)."""

    def refuse(*_unused: object, **_options: object) -> ssl.SSLSocket:
        error = ssl.SSLError("Closed before TLS handshake with data in recv buffer.")
        error.reason = str(error)
        raise error

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", refuse)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    where = Target("n1", ("127.0.0.1",), server.sockets[0].getsockname()[1], frozenset({"n1"}))
    error = await failure(make_client(), where)
    server.close()
    assert error.reason is Reason.TLS
    assert "kubelet n1 at 127.0.0.1" in error.message


async def test_names_are_resolved_and_remembered(tmp_path: Path) -> None:
    asked: list[str] = []

    async def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    kubelet = FakeKubelet(respond(body=b"ok", close=True), GOOD)
    async with running(tmp_path, kubelet), closing(make_client(resolver=resolver)) as client:
        where = target(kubelet, hosts=("n1",))
        assert (await client.get(where, PATH)).body == b"ok"
        assert (await client.get(where, PATH)).body == b"ok"
    assert asked == ["n1"]


async def test_name_that_cannot_be_resolved(tmp_path: Path) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    where = Target("n1", ("n1",), 10250, frozenset({"n1"}))
    error = await failure(make_client(resolver=resolver), where)
    assert error.reason is Reason.DNS
    assert "InternalIP" in error.message

    async def slow(_host: str, _port: int) -> list[str]:
        await asyncio.sleep(5)
        return []

    assert (await failure(make_client(resolver=slow, timeout=0.1), where)).reason is Reason.DNS


async def test_a_name_that_is_not_resolved_does_not_stand_before_one_that_is(tmp_path: Path) -> None:
    async def resolver(host: str, _port: int) -> list[str]:
        if host == "gone":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ["127.0.0.1"]

    kubelet = FakeKubelet(respond(body=b"ok"), GOOD)
    async with running(tmp_path, kubelet), closing(make_client(resolver=resolver)) as client:
        assert (await client.get(target(kubelet, hosts=("gone", "n1")), PATH)).body == b"ok"


async def test_names_of_nodes_that_have_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics_server.scrape.client._DNS_LIFETIME", 0.05)

    async def resolver(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with closing(make_client(resolver=resolver)) as client:
        for number in range(200):
            with pytest.raises(ScrapeError):
                await client.get(Target(f"n{number}", (f"n{number}",), 1, frozenset({"n"})), PATH)
            await asyncio.sleep(0.002)
        assert len(client._names) < 150


async def test_the_second_address_when_the_first_refuses(tmp_path: Path) -> None:
    """In a dual-stack cluster the first family may have no route."""
    kubelet = FakeKubelet(respond(body=b"ok"), GOOD, host="127.0.0.2")
    async with running(tmp_path, kubelet), closing(make_client()) as client:
        where = target(kubelet, hosts=("127.0.0.1", "127.0.0.2"))
        assert (await client.get(where, PATH)).body == b"ok"


async def test_a_wrong_certificate_is_not_tried_away(tmp_path: Path) -> None:
    """Only an unreachable address sends us to the next one, not one whose certificate is wrong."""
    wrong = FakeKubelet(respond(body=b"wrong"), CA.issue("x", dns=("n2",)))
    async with running(tmp_path, wrong):
        right = FakeKubelet(respond(body=b"right"), GOOD, host="127.0.0.2", port=wrong.port)
        async with running(tmp_path, right):
            error = await failure(make_client(), target(right, hosts=("127.0.0.1", "127.0.0.2")))
    assert error.reason is Reason.IP_SAN_MISSING


async def test_one_hostile_node_does_not_delay_others(tmp_path: Path) -> None:
    good = FakeKubelet(respond(body=b"ok"), GOOD)
    slow = FakeKubelet(respond_endless(b"HTTP/1.1 200 OK\r\nX: ", b"a", 0.01), GOOD)
    huge = FakeKubelet(respond_endless(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 65536), GOOD)
    async with running(tmp_path, good, slow, huge), closing(make_client(timeout=1.0, max_body=50_000_000)) as client:
        bad = [
            asyncio.create_task(client.get(Target(name, ("127.0.0.1",), kubelet.port, frozenset({"n1"})), PATH))
            for name, kubelet in (("slow", slow), ("huge", huge))
        ]
        await until(lambda: bool(slow.requests) and bool(huge.requests))
        loop = asyncio.get_running_loop()
        for _ in range(5):
            started = loop.time()
            assert (await client.get(target(good), PATH)).body == b"ok"
            assert loop.time() - started < 0.5
        results = await asyncio.gather(*bad, return_exceptions=True)
    assert all(isinstance(result, ScrapeError) for result in results)


async def test_sessions_use_modern_tls(tmp_path: Path) -> None:
    tls = ClientTls(ca=Source("CA", data=CA.pem), check_hostname=False)
    assert tls.context().minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls.context().verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
async def test_no_socket_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    kubelet = FakeKubelet(respond(body=b"ok"), GOOD)
    async with running(tmp_path, kubelet):

        def refuse(*_unused: object) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", refuse)
            error = await failure(make_client(), target(kubelet))
    assert error.reason is Reason.EXHAUSTED
    assert "open files" in error.message


async def test_slow_dns_takes_no_thread_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large answers are compressed in the threads that asyncio resolves names in."""
    answer = threading.Event()

    def slow(*_unused: object, **_options: object) -> list[object]:
        answer.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    names = [f"node-{number}.example" for number in range(64)]
    try:
        async with closing(make_client(timeout=5.0)) as client:
            scrapes = [
                asyncio.create_task(client.get(Target(name, (name,), 10250, frozenset({name})), PATH)) for name in names
            ]
            await asyncio.sleep(0.1)
            async with asyncio.timeout(2):
                assert await asyncio.to_thread(lambda: "done") == "done"
            for scrape in scrapes:
                scrape.cancel()
            await asyncio.gather(*scrapes, return_exceptions=True)
    finally:
        answer.set()
