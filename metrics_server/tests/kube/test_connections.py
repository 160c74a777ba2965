# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to the API server: when they are kept, when they end, and what a peer may do to them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.pki import Authority

from metrics_server.kube import connections as module
from metrics_server.kube.client import KubeClient, KubeError
from metrics_server.tls.files import ClientTls, Source

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Peer:
    """A TLS server that writes what a test says, request by request, and counts."""

    def __init__(self) -> None:
        self.connections = 0
        #: What each request was: its first line.
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        #: The answers in turn, the last one again and again; None ends the connection instead.
        self.answers: list[bytes | None] = [OK]
        #: What is written after the answer.
        self.reply: Reply | None = None
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(head.partition("\r\n")[0])
                size = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("Content-Length:")), 0)
                self.bodies.append(await reader.readexactly(size))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    break
                writer.write(answer)
                if self.reply is not None:
                    await self.reply(reader, writer)
                if b"\r\nConnection: close\r\n" in answer or answer.startswith(b"HTTP/1.0"):
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, peer: Peer) -> AsyncIterator[KubeClient]:
    authority = Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("api", dns=("localhost",), ips=("127.0.0.1",)).write(tmp_path, "api"))
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    tls = ClientTls(ca=Source("the CA", data=authority.pem))
    client = KubeClient(f"https://127.0.0.1:{port}/base/", tls=tls, token=None, user_agent="test")
    try:
        yield client
    finally:
        await client.close()
        for writer in peer.writers:
            writer.transport.abort()
        server.close()


async def test_a_connection_is_used_again(tmp_path: Path) -> None:
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        for _unused in range(3):
            assert await client.request("GET", "/version") == {}
        await client.request("POST", "/reviews", body={"a": 1}, query={"x": "a b"})
    assert peer.connections == 1
    assert peer.requests == ["GET /base/version HTTP/1.1"] * 3 + ["POST /base/reviews?x=a+b HTTP/1.1"]
    assert peer.bodies[-1] == b'{"a":1}'


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        # The end of the connection is the end of the body.
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        # What follows belongs to no request.
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse",
        OK + b"HTTP/1.1 500 No\r\nContent-Le",
    ],
)
async def test_one_that_is_over_is_not(tmp_path: Path, answer: bytes) -> None:
    peer = Peer()
    peer.answers = [answer]
    async with serving(tmp_path, peer) as client:
        for _unused in range(2):
            assert await client.request("GET", "/version") == {}
    assert peer.connections == 2


async def test_nor_is_one_on_which_something_came_unasked(tmp_path: Path) -> None:
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        assert await client.request("GET", "/version") == {}
        peer.writers[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse")
        await asyncio.sleep(0.05)
        assert await client.request("GET", "/version") == {}
    assert peer.connections == 2


async def test_nor_one_that_was_idle_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.01)
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        await client.request("GET", "/version")
        await asyncio.sleep(0.05)
        await client.request("GET", "/version")
    assert peer.connections == 2


async def test_which_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        await asyncio.gather(*(client.request("GET", f"/{number}") for number in range(4)))
        connections = client._connections
        assert connections is not None
        assert len(connections._unused) == peer.connections > 1
        await asyncio.sleep(0.3)
        assert connections._unused == []
        assert connections._sweep is None


async def test_nothing_goes_on_after_the_end(tmp_path: Path) -> None:
    peer = Peer()
    peer.answers = [OK, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"]
    async with serving(tmp_path, peer) as client:
        await client.request("GET", "/version")
        waiting = asyncio.create_task(client.request("GET", "/version"))
        await asyncio.sleep(0.05)
        connections = client._connections
        assert connections is not None
        await client.close()
        with pytest.raises(KubeError) as caught:
            await waiting
        assert caught.value.reason == "Disconnected"
        assert (connections._unused, connections._used) == ([], set())
    assert peer.connections == 1


async def test_an_ended_connection_leaves_nothing_behind(tmp_path: Path) -> None:
    """What is alive when the engine freezes its objects is never looked through again by the garbage collector."""
    peer = Peer()
    peer.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{"]
    gc.collect()
    gc.disable()
    try:
        async with serving(tmp_path, peer) as client:
            with pytest.raises(KubeError):
                await client.request("GET", "/version")
            await asyncio.sleep(0.05)
            left = [one for one in gc.get_objects() if isinstance(one, module._Connection)]
            assert left == []
    finally:
        gc.enable()


async def test_nor_one_under_old_certificates(tmp_path: Path) -> None:
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        await client.request("GET", "/version")
        assert client.tls.ca is not None
        client.tls = ClientTls(ca=client.tls.ca)
        await client.request("GET", "/version")
    assert peer.connections == 2


@pytest.mark.parametrize(("method", "repeated"), [("GET", True), ("PUT", True), ("POST", False), ("PATCH", False)])
async def test_a_request_is_repeated_once_where_that_is_safe(tmp_path: Path, method: str, repeated: bool) -> None:
    """The API server may end an unused connection in the moment of the next request."""
    peer = Peer()
    peer.answers = [OK, None, OK]
    async with serving(tmp_path, peer) as client:
        await client.request("GET", "/version")
        if repeated:
            assert await client.request(method, "/x", body={}) == {}
        else:
            with pytest.raises(KubeError) as caught:
                await client.request(method, "/x", body={})
            assert caught.value.reason == "Disconnected"
        peer.answers = [None]
        with pytest.raises(KubeError, match="the connection was lost"):
            await client.request("GET", "/y")
    assert [line.split()[0] for line in peer.requests[1:]].count(method) == (3 if repeated else 1) + (
        method == "GET"
    ) - (method == "PUT")


async def test_requests_at_the_same_time_have_connections_of_their_own(tmp_path: Path) -> None:
    peer = Peer()

    async def slowly(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)

    peer.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"]

    async def then_the_rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await slowly(reader, writer)
        writer.write(b"}")

    peer.reply = then_the_rest
    async with serving(tmp_path, peer) as client:
        assert await asyncio.gather(*(client.request("GET", f"/{number}") for number in range(5))) == [{}] * 5
        assert peer.connections == 5
        await client.request("GET", "/again")
    assert peer.connections == 5


async def test_there_are_no_more_than_the_limit(tmp_path: Path) -> None:
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        await client.request("GET", "/version")
        connections = client._connections
        assert connections is not None
        connections._places = asyncio.Semaphore(2)
        await asyncio.gather(*(client.request("GET", f"/{number}") for number in range(20)))
    assert peer.connections == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "Malformed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n", "Malformed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "Malformed"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "Malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{", "Disconnected"),
    ],
)
async def test_what_is_no_answer_is_named(tmp_path: Path, answer: bytes, reason: str) -> None:
    peer = Peer()
    peer.answers = [answer]
    async with serving(tmp_path, peer) as client:
        with pytest.raises(KubeError) as caught:
            await client.request("GET", "/version")
        assert caught.value.reason == reason
        peer.answers = [OK]
        assert await client.request("GET", "/version") == {}
    assert peer.connections == 2


async def test_heads_before_the_answer_are_passed_over(tmp_path: Path) -> None:
    peer = Peer()
    peer.answers = [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK]
    async with serving(tmp_path, peer) as client:
        for _unused in range(2):
            assert await client.request("GET", "/version") == {}
    assert peer.connections == 1


async def test_who_leaves_a_watch_ends_its_connection(tmp_path: Path) -> None:
    peer = Peer()
    peer.answers = [b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a":1}\n\r\n', OK]
    async with serving(tmp_path, peer) as client:
        watch = client.watch("/api/v1/nodes")
        assert await anext(watch) == b'{"a":1}'
        # The protocol promises an iterator only; this one is a generator.
        await watch.aclose()  # type: ignore[attr-defined]
        assert await client.request("GET", "/version") == {}
    assert peer.connections == 2


async def test_a_silent_watch_ends_and_a_reader_may_take_its_time(tmp_path: Path) -> None:
    peer = Peer()
    peer.answers = [b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a":1}\n\r\n']
    lines: list[bytes] = []

    async def read(client: KubeClient) -> None:
        async for line in client.watch("/api/v1/nodes", idle_timeout=0.2):
            lines.append(line)
            await asyncio.sleep(0.5)

    async with serving(tmp_path, peer) as client:
        with pytest.raises(KubeError, match="no answer within 0.2 s") as caught:
            await asyncio.wait_for(read(client), 5)
    assert (lines, caught.value.reason) == ([b'{"a":1}'], "Timeout")


async def test_a_slow_reader_slows_its_peer(tmp_path: Path) -> None:
    """A watch whose reader is busy does not pile up in memory."""
    peer = Peer()
    line, sent = b"x" * 65535 + b"\n", 0

    async def much(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < 400:
            writer.write(b"10000\r\n" + line + b"\r\n")
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")

    peer.answers = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
    peer.reply = much
    async with serving(tmp_path, peer) as client:
        watch = client.watch("/api/v1/pods")
        assert len(await anext(watch)) == 65535
        await asyncio.sleep(0.5)
        # What the sockets hold is beyond our reach.
        assert sent < 300
        count = 1
        async for _unused in watch:
            count += 1
        assert (count, sent) == (400, 400)
        peer.reply, peer.answers = None, [OK]
        assert await client.request("GET", "/version") == {}
    assert peer.connections == 1


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX: y", "/ä"])
async def test_no_path_can_hold_another_header(tmp_path: Path, path: str) -> None:
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        with pytest.raises(KubeError) as caught:
            await client.request("GET", path)
    assert caught.value.reason == "Configuration"
    assert "\n" not in caught.value.message
    assert peer.requests == []


async def test_nor_can_a_token(tmp_path: Path) -> None:
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        for data in (b"a\nX: y", "ä".encode()):
            client.token = Source("the token", data=data)
            with pytest.raises(KubeError, match="the token does not hold a token"):
                await client.request("GET", "/version")
    assert peer.requests == []


async def test_every_address_of_a_name_is_tried(tmp_path: Path) -> None:
    """`localhost` is often two addresses, of which the server has one."""
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        tls = ClientTls(ca=client.tls.ca, check_hostname=False)
        by_name = KubeClient(client.server.replace("127.0.0.1", "localhost"), tls=tls, token=None, user_agent="test")
        assert await by_name.request("GET", "/version") == {}
        await by_name.close()
    closed = KubeClient("https://localhost:1", tls=tls, token=None, user_agent="test")
    with pytest.raises(KubeError) as caught:
        await closed.request("GET", "/version")
    assert caught.value.reason == "Refused"


async def test_connects_that_are_cancelled_leave_no_socket_open(tmp_path: Path) -> None:
    """At every turn of the loop: the socket may be connected already while nobody has it yet."""
    peer = Peer()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with serving(tmp_path, peer) as client:
            tls = ClientTls(ca=client.tls.ca, check_hostname=False)
            server = client.server.replace("127.0.0.1", "localhost")
            for turn in range(200):
                by_name = KubeClient(server, tls=tls, token=None, user_agent="test")
                request = asyncio.create_task(by_name.request("GET", "/version"))
                for _ in range(turn % 40):
                    await asyncio.sleep(0)
                # Threads resolve the name, and connections are made in a time of their own.
                await asyncio.sleep(turn // 40 * 0.0003)
                request.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await request
                await by_name.close()
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


async def test_a_dot_at_the_end_is_no_part_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *others, **more: resolve(str(host).rstrip("."), *others, **more)
    )
    peer = Peer()
    async with serving(tmp_path, peer) as client:
        server = client.server.replace("127.0.0.1", "localhost.")
        dotted = KubeClient(server, tls=client.tls, token=None, user_agent="test")
        assert await dotted.request("GET", "/version") == {}
        assert "localhost" in await dotted.certificate_names()
        await dotted.close()


async def test_a_peer_that_wants_no_client_without_certificate(tmp_path: Path) -> None:
    """TLS 1.3 says so after the handshake."""
    authority = Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("api", ips=("127.0.0.1",)).write(tmp_path, "api"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.pem.decode())
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        sock, _unused = listener.accept()
        with sock:
            with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
                while True:
                    try:
                        tls.do_handshake()
                    except ssl.SSLWantReadError:
                        sock.sendall(outgoing.read())
                        incoming.write(sock.recv(65536))
            sock.sendall(outgoing.read())
            # Closed at once, with a request that nobody read, the socket would take the alert back.
            while sock.recv(65536):
                pass

    refusing = asyncio.create_task(asyncio.to_thread(refuse))
    tls = ClientTls(ca=Source("the CA", data=authority.pem))
    port = listener.getsockname()[1]
    client = KubeClient(f"https://127.0.0.1:{port}", tls=tls, token=None, user_agent="test")
    with pytest.raises(KubeError) as caught:
        await client.request("GET", "/version")
    await refusing
    await client.close()
    listener.close()
    assert caught.value.reason == "TLS", caught.value.message
