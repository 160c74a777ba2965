# SPDX-License-Identifier: GPL-3.0-or-later
"""The seams of HTTP: two readings of one request, other spellings of a path or a header, methods that nobody needs."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from pathlib import Path

import pytest
from api.conftest import World, config_map
from api.support import FakeApiServer, client_context, eventually, running_server

from hardening.raw import check, exchange, one, read_reply
from metrics_server import server
from metrics_server.api import http
from metrics_server.tls import listener as tls

pytestmark = pytest.mark.usefixtures("quiet_log")

NODES = b"/apis/metrics.k8s.io/v1beta1/nodes"
ADMIN = b"X-Remote-User: admin\r\nX-Remote-Group: system:masters\r\n"
SMUGGLED = b"GET /version HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        pytest.param(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", id="length and chunks"),
        pytest.param(b"Content-Length: 5\r\nContent-Length: 6\r\n", id="two lengths"),
        pytest.param(b"Content-Length: +5\r\n", id="signed length"),
        pytest.param(b"Content-Length: 5, 5\r\n", id="list of lengths"),
        pytest.param(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", id="chunked is not last"),
        pytest.param(b"Transfer-Encoding: xchunked\r\n", id="unknown coding"),
        pytest.param(b"Transfer-Encoding:\x0bchunked\r\n", id="control character"),
        pytest.param(b"Transfer-Encoding : chunked\r\n", id="space before the colon"),
        pytest.param(b"X: y\r\n Transfer-Encoding: chunked\r\n", id="folded line"),
        pytest.param(b"X: y\nTransfer-Encoding: chunked\r\n", id="bare line feed"),
    ],
)
async def test_a_request_that_can_be_read_in_two_ways_is_refused(world: World, framing: bytes) -> None:
    head = b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + framing + b"\r\n"
    replies = await exchange(world.running.port, head + b"0\r\n\r\n" + SMUGGLED, client_context(world.front_proxy))
    # One answer, then the end: what comes after it is never taken for a request of its own.
    assert [reply.status for reply in replies] == [400]
    check(replies[0])


async def test_pipelined_requests_are_answered_in_order_and_by_their_own_identity(world: World) -> None:
    def request(user: bytes) -> bytes:
        return b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + user + b"\r\n"

    world.api.denied.add(("bob", "list", "nodes"))
    data = request(ADMIN) + request(b"X-Remote-User: bob\r\n") + request(b"") + request(ADMIN)
    replies = await exchange(world.running.port, data, client_context(world.front_proxy))
    assert [reply.status for reply in replies] == [200, 403, 401, 200]


async def test_a_client_that_sends_many_requests_at_once_gets_one_answer_a_turn(world: World) -> None:
    """A thousand of them in one piece hold up nobody, and are all answered."""
    context, number = client_context(world.front_proxy), 1000
    reader, writer = await asyncio.open_connection("127.0.0.1", world.running.port, ssl=context, limit=1 << 24)
    writer.write((b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"\r\n") * number)
    turns = 0
    answered = asyncio.ensure_future(_answers(reader, number))
    while not answered.done():
        await asyncio.sleep(0)
        turns += 1
    assert await answered == [200] * number
    assert turns > number
    writer.close()


async def _answers(reader: asyncio.StreamReader, number: int) -> list[int]:
    replies = [await read_reply(reader) for _ in range(number)]
    return [reply.status for reply in replies if reply is not None]


async def test_a_request_in_single_bytes_is_read_as_one_in_a_piece(world: World) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", world.running.port, ssl=client_context(world.front_proxy)
    )
    for byte in (b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"\r\n") * 2:
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert await _answers(reader, 2) == [200, 200]
    writer.close()


async def test_a_user_may_be_in_hundreds_of_groups(world: World) -> None:
    groups = b"".join(b"X-Remote-Group: group-%03d\r\n" % number for number in range(400))
    request = b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\nX-Remote-User: alice\r\n" + groups + b"\r\n"
    reply = await one(world.running.port, request, client_context(world.front_proxy))
    assert reply.status == 200
    assert len(world.api.reviews[-1]["groups"]) == 401


async def test_a_client_that_never_reads_is_not_read_from(world: World) -> None:
    """It sends requests for as long as somebody takes them; each answer is small, and none is read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", world.running.port))
    context = client_context(world.front_proxy)
    _, writer = await asyncio.open_connection(sock=sock, server_hostname="", ssl=context, limit=1024)
    request = b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"\r\n"
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 1 << 26:
            writer.write(request * 500)
            sent += 500 * len(request)
            async with asyncio.timeout(1):
                await writer.drain()
    assert sent < 1 << 25
    # Others are answered meanwhile.
    assert (await world.running.get("/livez")).status == 200
    writer.transport.abort()


@pytest.mark.parametrize("framing", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"])
async def test_after_a_request_with_a_body_the_connection_ends(world: World, framing: bytes) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", world.running.port, ssl=client_context(world.front_proxy)
    )
    writer.write(b"POST " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + framing)
    reply = await read_reply(reader)
    assert reply is not None
    assert (reply.status, reply.headers["connection"]) == (405, "close")
    async with asyncio.timeout(3):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    ("version", "header", "stays"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
    ],
)
async def test_how_long_a_connection_stays(world: World, version: bytes, header: bytes, stays: bool) -> None:
    request = b"GET /livez HTTP/" + version + b"\r\nHost: x\r\n" + header + b"\r\n"
    replies = await exchange(world.running.port, request * 2, client_context())
    assert [reply.status for reply in replies] == [200] * (2 if stays else 1)
    assert replies[0].headers.get("connection") == (
        "close" if not stays else "keep-alive" if version == b"1.0" else None
    )


async def test_a_body_is_no_request(world: World) -> None:
    data = b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED)
    replies = await exchange(world.running.port, data + SMUGGLED, client_context(world.front_proxy))
    assert len(replies) == 1


async def test_an_endless_body_ends_with_the_answer(world: World) -> None:
    context = client_context(world.front_proxy)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.running.port, ssl=context)
    writer.write(b"POST " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"Content-Length: 100000000000\r\n\r\n")
    assert b" 405 " in await reader.readline()
    sent = 0
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(10):
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16
                await asyncio.sleep(0.01)
    assert sent < 1 << 28
    writer.close()


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        pytest.param(None, b"\x16", id="handshake"),
        pytest.param(b"GET /livez HTTP/1.1\r\n", b"A: b\r\n", id="first request"),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET / HTTP/1.1\r\n", b"A: b\r\n", id="later one"
        ),
    ],
)
async def test_slow_clients_have_deadlines(
    api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None, piece: bytes
) -> None:
    """A byte now and then does not put them off."""
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT", 0.5)
    monkeypatch.setattr(tls, "FIRST_REQUEST_TIMEOUT", 0.5)
    monkeypatch.setattr(server, "_KEEPALIVE_SECONDS", 0.5)
    async with running_server(api, tmp_path) as running:
        context = None if before is None else client_context()
        _, writer = await asyncio.open_connection("127.0.0.1", running.port, ssl=context)
        # Not a whole TLS record: the handshake stays open however many bytes come.
        writer.write(b"\x16\x03\x01\x40\x00" if before is None else before)
        await eventually(lambda: running.server.listener.connections == 1)
        async with asyncio.timeout(5):
            while running.server.listener.connections:
                writer.write(piece)
                await asyncio.sleep(0.1)
        writer.close()


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"X_Remote_User: root", "underscores"),
        (b"X-Remote_User: root", "one underscore"),
        (b"X-Remote-User\x00: root", "a zero byte"),
        (b"X-Remote-Us\xc4\x93r: root", "not ASCII"),
        (b" X-Remote-User: root", "a folded first line"),
        (b"X-Remote-User : root", "a space"),
    ],
)
async def test_other_spellings_of_a_header_name_nobody(world: World, header: bytes, why: str) -> None:
    request = b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n"
    reply = await one(world.running.port, request, client_context(world.front_proxy))
    assert reply.status in (400, 401), why
    assert world.api.reviews == []


async def test_of_two_names_the_first_counts(world: World) -> None:
    """As in Kubernetes' own servers; the front proxy removes what its clients send."""
    headers = b"X-Remote-User: alice\r\nx-remote-user: root\r\n"
    request = b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n"
    await one(world.running.port, request, client_context(world.front_proxy))
    assert [review["user"] for review in world.api.reviews] == ["alice"]


@pytest.mark.parametrize(
    "path",
    [
        "/healthz/../metrics",
        "/healthz/%2e%2e/metrics",
        "/readyz/..%2fmetrics",
        "/readyz%2f..%2fmetrics",
        "//metrics",
        "/livez//metrics",
        "/livez/./metrics",
        "/livez;/metrics",
        "/livez%00/metrics",
        "/livez?/../metrics",
        "/LIVEZ",
        "/readyz/metric-storage-ready",
        "/livez\\..\\metrics",
        "https://elsewhere/metrics",
        "/%6detrics",
    ],
)
async def test_no_spelling_of_a_path_goes_around_the_authorizer(world: World, path: str) -> None:
    reply = await one(world.running.port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), client_context())
    check(reply)
    if path.startswith("/livez?"):
        assert reply.body == b"ok"
    else:
        assert reply.status in (400, 403, 404)
    assert b"apiserver_request" not in reply.body


async def test_an_encoded_path_is_authorized_as_what_it_is_read_as(world: World) -> None:
    path = b"/apis/metrics.k8s.io/v1beta1/namespaces/%64efault/pods/%77eb-1"
    request = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nX-Remote-User: alice\r\n\r\n"
    reply = await one(world.running.port, request, client_context(world.front_proxy))
    assert reply.json()["metadata"]["name"] == "web-1"
    asked = world.api.reviews[-1]["resourceAttributes"]
    assert (asked["namespace"], asked["name"]) == ("default", "web-1")


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("HEAD", NODES, 200),
        ("OPTIONS", NODES, 405),
        ("OPTIONS", b"*", 404),
        ("TRACE", NODES, 405),
        ("CONNECT", b"elsewhere:443", 405),
        ("PROPFIND", NODES, 405),
        ("DELETE", NODES, 405),
        ("POST", b"/readyz", 405),
        ("TRACE", b"/livez", 405),
    ],
)
async def test_methods(world: World, method: str, target: bytes, code: int) -> None:
    request = method.encode() + b" " + target + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"X-Secret: s3cr3t\r\n\r\n"
    reply = await one(world.running.port, request, client_context(world.front_proxy), method=method)
    check(reply)
    assert reply.status == code
    # TRACE would give scripts the headers that were added on the way.
    assert b"s3cr3t" not in reply.body
    assert "access-control-allow-origin" not in reply.headers


async def test_an_upgrade_is_not_made(world: World) -> None:
    request = b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    reply = await one(world.running.port, request, client_context(world.front_proxy))
    assert reply.status == 200


async def test_strangers_learn_no_reasons(world: World) -> None:
    world.running.engine.reason = "none of 3 Ready nodes has metrics: n1 (refused)"
    for path in ("/readyz", "/readyz?verbose", "/readyz?exclude=ping"):
        reply = await world.running.get(path)
        assert (reply.status, b"n1" in reply.body, b"reason withheld" in reply.body) == (500, False, True)
    assert (await world.running.get("/readyz/metric-storage-ready")).status == 403
    told = await world.running.get(
        "/readyz/metric-storage-ready", credential=world.front_proxy, headers=[("X-Remote-User", "operator")]
    )
    assert told.body == b"internal server error: none of 3 Ready nodes has metrics: n1 (refused)\n"


async def test_the_servers_own_rights_are_nothing_for_strangers(world: World) -> None:
    world.api.forbidden_paths.add("/apis/authorization.k8s.io/v1/subjectaccessreviews")
    reply = await world.running.get(NODES.decode())
    assert (reply.status, b"subjectaccessreviews" in reply.body) == (503, False)


async def test_strangers_leave_places_to_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad tokens wait for the API server's review; certificates are judged here."""
    app, release = world.running.server.app, asyncio.Event()
    tokens = app._authenticator._tokens
    assert tokens is not None

    async def slow(*_: object, **__: object) -> dict[str, object]:
        await release.wait()
        return {"status": {"authenticated": False}}

    monkeypatch.setattr(tokens._client, "request", slow)
    monkeypatch.setattr(app, "_config", dataclasses.replace(app._config, max_requests_inflight=8))
    unauthenticated = [asyncio.ensure_future(world.running.get("/metrics", token=f"t{n}")) for n in range(5)]
    await eventually(lambda: app._inflight == 2 and sum(task.done() for task in unauthenticated) == 3)
    assert [task.result().status for task in unauthenticated if task.done()] == [429] * 3
    admin = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")]
    assert (await world.running.get(NODES.decode(), credential=world.front_proxy, headers=admin)).status == 200
    release.set()
    assert {task.result().status for task in (await asyncio.wait(unauthenticated))[0]} == {401, 429}


async def test_hanging_token_reviews_hold_up_nothing_else(world: World) -> None:
    """Each takes a connection to the API server until its time-out; watches and access reviews need theirs."""
    world.api.answering_tokens.clear()
    admins = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")]
    unauthenticated = [
        asyncio.ensure_future(world.running.get("/metrics", token=f"t{number}")) for number in range(100)
    ]
    try:
        await eventually(lambda: world.running.server.app._unauthenticated == 100)
        await eventually(lambda: world.api.token_reviews >= 50)
        for number in range(3):
            user = [("X-Remote-User", f"user-{number}")]
            async with asyncio.timeout(3):
                reply = await world.running.get(NODES.decode(), credential=world.front_proxy, headers=user)
            assert reply.status == 200
        data = config_map(world.front_proxy_ca, world.client_ca)
        data["requestheader-username-headers"] = '["X-Other-User"]'
        await world.api.change_config_map(data)
        await eventually(lambda: world.running.server.trust.front_proxy.username_headers == ("X-Other-User",), 3)  # type: ignore[union-attr]
        reply = await world.running.get(NODES.decode(), credential=world.front_proxy, headers=admins)
        assert reply.status == 401
    finally:
        world.api.answering_tokens.set()
        await asyncio.wait(unauthenticated)


async def test_no_answer_tells_versions(world: World) -> None:
    context = client_context(world.front_proxy)
    for request in (
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET " + NODES + b" HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"\r\n",
        b"GET /apis HTTP/1.1\r\nHost: x\r\n" + ADMIN + b"\r\n",
        b"no request\r\n\r\n",
    ):
        reply = await one(world.running.port, request, context)
        assert reply.headers["server"] == "metrics-server"
        assert not any("aiohttp" in value or "Python" in value for value in reply.headers.values())


async def test_what_strangers_send_is_kept_nowhere_and_logged_seldom(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cache = world.running.server.app._authorizer._cache
    for number in range(20):
        await one(
            world.running.port,
            b"GET /" + b"a" * 7000 + b"%d HTTP/1.1\r\nHost: x\r\nAccept: %s/x\r\n\r\n" % (number, b"m" * 9000),
            client_context(),
        )
        await world.running.get("/metrics", token=f"guess-{number}")
    assert len(cache) > 0
    assert all(len(key) == 32 for key in cache._entries)
    assert sum("Token refused" in message for message in caplog.messages) <= 1
    assert sum("Unable to authenticate" in message for message in caplog.messages) <= 1
    assert "guess-" not in caplog.text


async def test_who_does_not_read_the_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio closes a connection when everything is sent, which a client can put off for ever."""
    monkeypatch.setattr(http, "_CLOSE_SECONDS", 0.1)

    async def answer_much(request: http.Request) -> None:
        request.send_head(200, {"Content-Length": "50000000"})
        for _unused in range(50):
            request._connection.write(b"x" * 1_000_000)
        request._connection.close()

    server = http.HttpServer(answer_much, request_timeout=5.0, keepalive_timeout=5.0)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: http.HttpConnection(server), "127.0.0.1", 0)
    sock = socket.create_connection(listener.sockets[0].getsockname())
    try:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.05)
        assert len(server.connections) == 1
        await asyncio.sleep(0.3)
        assert len(server.connections) == 0
    finally:
        sock.close()
        listener.close()
