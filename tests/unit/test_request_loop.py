# SPDX-License-Identifier: GPL-3.0-or-later
"""The request loop of the lab tells connections that end without an answer from failures."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import ssl
import struct
from pathlib import Path

import aiohttp
import pytest

SPEC = importlib.util.spec_from_file_location(
    "request_loop", Path(__file__).resolve().parents[2] / "lab/request_loop.py"
)
request_loop = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(request_loop)


async def end(reader, writer):
    await reader.read(10)
    writer.close()


async def reset(reader, writer):
    await reader.read(10)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def answer_503(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n")
    writer.close()


async def speak_no_tls(reader, writer):
    await reader.read(10)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


def ask(serve, scheme):
    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
        async with server, aiohttp.ClientSession(connector=connector) as session:
            return await request_loop.request(session, url)

    return asyncio.run(main())


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("serve", [end, reset])
def test_a_connection_that_ends_before_or_after_its_handshake_is_asked_again(serve, scheme):
    with pytest.raises(ConnectionResetError):
        ask(serve, scheme)


def test_an_answer_that_is_not_200_is_a_failure():
    assert ask(answer_503, "http") == "503 no"


def test_a_refused_connection_is_a_failure():
    async def main():
        with contextlib.closing(socket.socket()) as unused:
            unused.bind(("127.0.0.1", 0))
            async with aiohttp.ClientSession() as session:
                return await request_loop.request(session, f"http://127.0.0.1:{unused.getsockname()[1]}/")

    assert "Connect call failed" in asyncio.run(main())


def test_a_server_that_speaks_no_tls_is_a_failure():
    assert ask(speak_no_tls, "https").startswith("ClientConnectorSSLError ")
