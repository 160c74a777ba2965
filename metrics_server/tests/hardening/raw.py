# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes to the server and answers from it, without a library between that would mend what is sent."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import Any


@dataclass
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(port: int, data: bytes, context: ssl.SSLContext, *, method: str = "GET") -> list[Reply]:
    """Send bytes and return all answers until the server closes or falls silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    replies: list[Reply] = []
    try:
        writer.write(data)
        while True:
            async with asyncio.timeout(0.3 if replies else 5):
                reply = await read_reply(reader, has_body=method != "HEAD")
            if reply is None:
                return replies
            replies.append(reply)
            if reply.headers.get("connection") == "close":
                return replies
    except (TimeoutError, ConnectionResetError):
        return replies
    finally:
        writer.close()


async def one(port: int, data: bytes, context: ssl.SSLContext, *, method: str = "GET") -> Reply:
    """Send one request and return its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(data)
        async with asyncio.timeout(5):
            reply = await read_reply(reader, has_body=method != "HEAD")
        assert reply is not None, data
        return reply
    finally:
        writer.close()


async def read_reply(reader: asyncio.StreamReader, *, has_body: bool = True) -> Reply | None:
    """Read one answer; None at the end of the connection."""
    line = await reader.readline()
    if not line:
        return None
    version, code, _ = line.decode().split(" ", 2)
    assert version.startswith("HTTP/1."), line
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip().lower() if name.lower() == "connection" else value.strip()
    length = int(headers.get("content-length", "0"))
    return Reply(int(code), headers, await reader.readexactly(length) if has_body and length else b"")


def check(reply: Reply) -> None:
    """Fail unless the answer is one that a client of Kubernetes understands, and no fault of the server."""
    assert reply.status != 500, reply
    if reply.status >= 400 and reply.headers["content-type"] == "application/json" and reply.body:
        status = reply.json()
        assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
        assert status["code"] == reply.status
        assert status["reason"]
        assert status["message"]
    elif reply.headers.get("content-type", "").startswith("application/json") and reply.body:
        reply.json()
    assert b"Traceback" not in reply.body
    assert b".py" not in reply.body
