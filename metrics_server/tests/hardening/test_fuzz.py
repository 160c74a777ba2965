# SPDX-License-Identifier: GPL-3.0-or-later
"""Anything in any place of a request: the answer is the resource or a Status, and never a fault of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote

import pytest
from api.conftest import World
from api.support import client_context
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from hardening.raw import Reply, check, one
from metrics_server.api.negotiate import accepts_gzip, choose

pytestmark = pytest.mark.usefixtures("quiet_log")
Test = TypeVar("Test", bound=Callable[..., object])

USER = b"X-Remote-User: fuzz\r\nX-Remote-Group: system:masters\r\n"
BASE = "/apis/metrics.k8s.io/v1beta1"
#: All that may stand in the value of a header.
header_bytes = st.binary(max_size=60).map(
    lambda value: bytes(byte for byte in value if byte >= 32 and byte != 127).strip()
)
words = st.sampled_from(
    ["apis", "api", "metrics.k8s.io", "v1", "v1beta1", "nodes", "pods", "namespaces", "default", "web-1", "watch"]
    + ["proxy", "..", ".", "%2e%2e", "%2f", "%00", "%ff", "%zz", "%", "", "NODES", "readyz", "metrics", "openapi", "v2"]
)


def fuzz(examples: int) -> Callable[[Test], Test]:
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def ask(world: World, target: str | bytes, *headers: bytes, user: bytes = USER, method: str = "GET") -> Reply:
    raw = target.encode() if isinstance(target, str) else target
    lines = b"".join(header + b"\r\n" for header in headers)
    request = method.encode() + b" " + raw + b" HTTP/1.1\r\nHost: x\r\n" + user + lines + b"\r\n"
    reply = await one(world.running.port, request, client_context(world.front_proxy), method=method)
    check(reply)
    return reply


@fuzz(40)
@given(st.lists(st.one_of(words, st.text(max_size=8).map(quote)), max_size=8), st.sampled_from(["", "/", "//"]))
@example(["apis", "metrics.k8s.io", "v1beta1", "pods", "%ff"], "")
async def test_paths(world: World, parts: list[str], end: str) -> None:
    await ask(world, "/" + "/".join(parts) + end)


@fuzz(40)
@given(
    st.sampled_from(["/pods", "/nodes", "/nodes/n1", "/namespaces/default/pods"]),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["labelSelector", "fieldSelector", "limit", "continue", "watch", "pretty", "includeObject", "timeout"]
            ),
            st.one_of(
                st.text(max_size=30).map(quote),
                st.text("=!(),<> \\inotx/.-1", max_size=20).map(quote),
                st.sampled_from(["%ff", "%", "+", "=", "metadata.name%3D%ff", "metadata.name%3Dn1", "true"]),
            ),
        ),
        max_size=4,
    ),
)
@example("/pods", [("labelSelector", "a%20in%20(%ed%a0%80)")])
@example("/pods", [("limit", "%D9%A1")])
@example("/pods", [("watch", "%ff")])
async def test_queries(world: World, path: str, pairs: list[tuple[str, str]]) -> None:
    await ask(world, BASE + path + "?" + "&".join(f"{key}={value}" for key, value in pairs))


@fuzz(30)
@given(st.binary(max_size=40).map(lambda raw: bytes(byte for byte in raw if byte > 32 and byte != 127)))
@example("/ä".encode())
@example(b"?labelSelector=\xff")
@example(b"#fragment")
async def test_raw_targets(world: World, tail: bytes) -> None:
    await ask(world, BASE.encode() + b"/pods" + tail)


@fuzz(40)
@given(st.one_of(header_bytes, st.text("apliction/json*;=,gvTbqk8.01- ", max_size=60).map(str.encode)))
@example(b"application/json;q=nan")
@example(b"*/*;q=-inf,application/json;q=1e999")
@example(b"application/json;as=Table;g=meta.k8s.io;v=v1;as=Table")
async def test_accept(world: World, value: bytes) -> None:
    assert (await ask(world, BASE + "/nodes", b"Accept: " + value)).status in (200, 406)


@given(st.text(max_size=100))
def test_negotiation_of_any_text(value: str) -> None:
    choose(value, ("Table",))
    accepts_gzip(value)


@fuzz(40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"X-Remote-User", b"X-Remote-Group", b"X-Remote-Uid", b"X-Remote-Extra-", b"X-Remote-"]),
            st.text("abcXYZ%-_.019", max_size=8).map(str.encode),
            header_bytes,
        ),
        max_size=6,
    )
)
@example([(b"X-Remote-User", b"", b"\xff")])
@example([(b"X-Remote-User", b"", b"a"), (b"X-Remote-Extra-", b"%ff%00", b"\xed\xa0\x80")])
@example([(b"X-Remote-User", b"", b"a"), (b"X-Remote-Group", b"", b"\x80system:masters")])
async def test_identities(world: World, headers: list[tuple[bytes, bytes, bytes]]) -> None:
    before = len(world.api.reviews)
    lines = [name + (suffix if name.endswith(b"-") else b"") + b": " + value for name, suffix, value in headers]
    reply = await ask(world, BASE + "/nodes", *lines, user=b"")
    assert reply.status in (200, 401, 403)
    for review in world.api.reviews[before:]:
        # Nobody becomes somebody whose name was not sent.
        assert review["user"].encode() in [value for name, _, value in headers if name == b"X-Remote-User"]


@fuzz(40)
@given(header_bytes)
@example(b"Bearer \xff")
@example(b"Bearer a b")
@example(b"bearer  ")
async def test_authorization(world: World, value: bytes) -> None:
    request = b"GET " + BASE.encode() + b"/nodes HTTP/1.1\r\nHost: x\r\nAuthorization: " + value + b"\r\n\r\n"
    reply = await one(world.running.port, request, client_context())
    check(reply)
    assert reply.status in (401, 403)


@fuzz(40)
@given(st.binary(min_size=1, max_size=120))
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\x00: y\r\n\r\n")
@example(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
@example(b"GET / HTTP/9.9\r\n\r\n")
async def test_what_is_no_request(world: World, data: bytes) -> None:
    # Empty lines may stand before a request (RFC 9112): after nothing but them, it is still to come.
    assume(data.strip(b"\r\n"))
    reply = await one(world.running.port, data + b"\r\n\r\n", client_context())
    check(reply)
    assert reply.status >= 400
    assert reply.headers["content-type"] == "application/json"
