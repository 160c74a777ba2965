# SPDX-License-Identifier: GPL-3.0-or-later
"""A kubelet on loopback that answers, or misbehaves, exactly as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from support.pki import Authority, Pair

Writer = asyncio.StreamWriter


@dataclass
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    #: Number of the connection, from 0.
    connection: int


Behaviour = Callable[[Request, Writer], Awaitable[None]]


def respond(
    status: int = 200,
    body: bytes = b"",
    *,
    headers: tuple[str, ...] = (),
    version: str = "1.1",
    close: bool = False,
) -> Behaviour:
    """Answer with a body of known length."""

    async def behave(_request: Request, writer: Writer) -> None:
        head = [f"HTTP/{version} {status} Whatever", f"Content-Length: {len(body)}", *headers]
        if close:
            head.append("Connection: close")
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()
        if close or version == "1.0":
            writer.close()

    return behave


def respond_raw(*pieces: bytes, pause: float = 0.0, close: bool = False) -> Behaviour:
    """Write pieces as they are, with a pause before each but the first."""

    async def behave(_request: Request, writer: Writer) -> None:
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(pause)
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return behave


def respond_endless(head: bytes, piece: bytes, pause: float = 0.0) -> Behaviour:
    """Write a head and then the same piece for ever."""

    async def behave(_request: Request, writer: Writer) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return behave


async def hang(_request: Request, _writer: Writer) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def hang_up(_request: Request, writer: Writer) -> None:
    """Close the connection instead of answering."""
    writer.close()


@dataclass
class FakeKubelet:
    """Listens on 127.0.0.1 while used as `async with`; `behaviour` may be changed at any time."""

    behaviour: Behaviour
    certificate: Pair | None = None
    #: With it, clients must show a certificate of this authority.
    client_authority: Authority | None = None
    host: str = "127.0.0.1"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _writers: set[Writer] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, directory: Path) -> None:
        """Listen; `directory` takes the certificate files."""
        context: ssl.SSLContext | None = None
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.certificate.write(directory, f"kubelet-{id(self)}"))
            if self.client_authority is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=self.client_authority.pem.decode())
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.drop_connections()
        self._server = None

    def drop_connections(self) -> None:
        """Cut all connections, as a kubelet that restarts."""
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        number = self.connections
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                request_line, *header_lines = head.decode("latin-1").split("\r\n")
                method, path, _ = request_line.split(" ", 2)
                headers = {}
                for line in header_lines:
                    name, _, value = line.partition(":")
                    if name:
                        headers[name.lower()] = value.strip()
                request = Request(method, path, headers, number)
                self.requests.append(request)
                await self.behaviour(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            # The client went away: that is its right.
            return
        except asyncio.CancelledError:
            return
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(0.2):
                    await writer.wait_closed()


class running:
    """Run fake kubelets for the length of a block: `async with running(tmp_path, kubelet):`."""

    def __init__(self, directory: Path, *kubelets: FakeKubelet) -> None:
        self._directory = directory
        self._kubelets = kubelets

    async def __aenter__(self) -> None:
        for kubelet in self._kubelets:
            await kubelet.start(self._directory)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for kubelet in self._kubelets:
            await kubelet.stop()
