#!/usr/bin/env python3
# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks every API server of a lab, and a balancer before them, the same things again and again, and counts what failed.

    lab/request_loop.py --state .lab/NAME --output loop.json [--rate 5]

The balancer is a part of this program: it passes TCP connections on to API servers whose /readyz says ok, and takes the
next one when a connection is refused, as the load balancer before a real control plane does. One that does not answer
stays until it has failed three checks, as with HAProxy; if none is left, all are tried, as with those of clouds.
SIGTERM ends the loop.
Then, and every second until then, the output file holds for each way (`balancer`, or the node) and question (`core`,
`metrics`) the number of requests, of those that failed, and of those that still failed when asked again a second later,
and what the failures looked like. A connection that ends without an answer is no failure yet: kubectl and every other
client with client-go's transport asks again then (`resets` counts these), as an API server that ends may have to leave
connections that it has not accepted yet.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import errno
import json
import os
import random
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubernetes.config.kube_config import FileOrData

QUESTIONS = {"core": "/api/v1/namespaces/kube-system", "metrics": "/apis/metrics.k8s.io/v1beta1/nodes"}
#: A name that is in the certificates of all API servers.
SERVER_NAME = "kubernetes.default.svc"
TIMEOUT = aiohttp.ClientTimeout(total=10)


class Tally:
    """What became of the requests to one way with one question."""

    def __init__(self) -> None:
        self.asked = self.resets = self.failed = self.failed_again = 0
        self.failures: collections.Counter[str] = collections.Counter()
        self.first_failure = self.last_failure = ""
        #: When one first failed again, in seconds since 1970; 0 when none did.
        self.failed_again_at = 0

    def note(self, failure: str, again: str) -> None:
        self.failed += 1
        self.failed_again += bool(again)
        if again and not self.failed_again_at:
            self.failed_again_at = int(time.time())
        self.failures[failure] += 1
        self.last_failure = time.strftime("%H:%M:%S")
        self.first_failure = self.first_failure or self.last_failure

    def words(self) -> dict[str, Any]:
        return {**vars(self), "failures": dict(self.failures.most_common(5))}


#: Checks without an answer, each of so many seconds, before an API server is left out: a busy machine is slow.
SILENT_CHECKS, CHECK_SECONDS = 3, 5


class Balancer:
    """A TCP balancer with health checks."""

    def __init__(self, backends: dict[str, tuple[str, int]], context: ssl.SSLContext) -> None:
        self.backends, self.context = backends, context
        self.healthy: set[str] = set()

    async def start(self) -> int:
        self.tasks = [asyncio.create_task(self.check(name)) for name in self.backends]
        while not self.healthy:
            await asyncio.sleep(0.1)
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.tasks.append(asyncio.create_task(server.serve_forever()))
        return int(server.sockets[0].getsockname()[1])

    async def check(self, name: str) -> None:
        host, port = self.backends[name]
        connector = aiohttp.TCPConnector(ssl=self.context, force_close=True)
        silent = 0
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=CHECK_SECONDS)
        ) as session:
            while True:
                try:
                    url = f"https://{host}:{port}/readyz"
                    async with session.get(url, server_hostname=SERVER_NAME) as answer:
                        ready, silent = answer.status == 200, 0
                except TimeoutError:
                    silent += 1
                    ready = name in self.healthy and silent < SILENT_CHECKS
                except (aiohttp.ClientError, OSError):
                    ready = False
                (self.healthy.add if ready else self.healthy.discard)(name)
                await asyncio.sleep(0.5)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        names = sorted(self.healthy or self.backends)
        for name in random.sample(names, len(names)):
            try:
                return await asyncio.wait_for(asyncio.open_connection(*self.backends[name]), 3)
            except TimeoutError:
                continue
            except OSError:
                self.healthy.discard(name)
        raise ConnectionRefusedError

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled when the loop ends; asyncio would log that of a stream's callback.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await self.connect()
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


class Loop:
    def __init__(self, ways: dict[str, str], context: ssl.SSLContext, rate: float) -> None:
        self.ways, self.context, self.rate = ways, context, rate
        self.tallies = {f"{way} {question}": Tally() for way in ways for question in QUESTIONS}

    async def run(self) -> None:
        await asyncio.gather(*(self.repeat(way, question) for way in self.ways for question in QUESTIONS))

    async def repeat(self, way: str, question: str) -> None:
        """Ask at a steady rate, without waiting for slow answers before the next request."""
        # Clients of a balancer come and go; those of a single API server stay connected.
        connector = aiohttp.TCPConnector(ssl=self.context, force_close=way == "balancer", limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session, asyncio.TaskGroup() as group:
            due = time.monotonic() + random.random() / self.rate
            while True:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += 1 / self.rate
                group.create_task(self.ask(session, way, question))

    async def ask(self, session: aiohttp.ClientSession, way: str, question: str) -> None:
        tally = self.tallies[f"{way} {question}"]
        url = self.ways[way] + QUESTIONS[question]
        tally.asked += 1
        try:
            failure = await request(session, url)
        except ConnectionResetError:
            tally.resets += 1
            failure = await request_again(session, url)
        if failure:
            await asyncio.sleep(1)
            tally.note(failure, await request_again(session, url))


async def request_again(session: aiohttp.ClientSession, url: str) -> str:
    """As `request`, where a connection that ends is a failure like any other."""
    try:
        return await request(session, url)
    except ConnectionResetError as exc:
        return str(exc)


async def request(session: aiohttp.ClientSession, url: str) -> str:
    """What went wrong, or an empty string. Raises ConnectionResetError where the connection ended without an answer."""
    try:
        async with session.get(url, server_hostname=SERVER_NAME) as answer:
            text = await answer.text()
            return "" if answer.status == 200 else f"{answer.status} {' '.join(text.split())[:160]}"
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        words = f"{type(exc).__name__} {exc}"[:160]
        # One that ends in its handshake is a ConnectionResetError without a number, wrapped by aiohttp.
        if (
            isinstance(exc, aiohttp.ServerDisconnectedError)
            or isinstance(getattr(exc, "os_error", exc), ConnectionResetError)
            or getattr(exc, "errno", None) == errno.ECONNRESET
        ):
            raise ConnectionResetError(words) from None
        return words


def read_state(state: Path) -> tuple[dict[str, tuple[str, int]], ssl.SSLContext]:
    """The API servers of a lab, and a TLS context with the administrator's certificate."""
    inventory = yaml.safe_load((state / "inventory.yml").read_text(encoding="utf-8"))["all"]
    names = inventory["children"]["kube_control_plane"]["hosts"]
    backends = {name: (inventory["hosts"][name]["ansible_host"], 6443) for name in names}
    kubeconfig = yaml.safe_load((state / "kubeconfig").read_text(encoding="utf-8"))
    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    ca_file, cert_file, key_file = (
        FileOrData(source, name, f"{name}-data").as_file()
        for source, name in ((cluster, "certificate-authority"), (user, "client-certificate"), (user, "client-key"))
    )
    context = ssl.create_default_context(cafile=ca_file)
    context.load_cert_chain(cert_file, key_file)
    return backends, context


def write(path: Path, loop: Loop) -> None:
    part = path.with_suffix(".part")
    part.write_text(
        json.dumps({name: tally.words() for name, tally in loop.tallies.items()}, indent=2), encoding="utf-8"
    )
    os.replace(part, path)


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="the folder of the lab")
    parser.add_argument("--output", type=Path, required=True, help="where to write the counts (JSON)")
    parser.add_argument("--rate", type=float, default=5, help="requests a second, for each way and question")
    options = parser.parse_args()
    backends, context = read_state(options.state)
    port = await Balancer(backends, context).start()
    ways = {"balancer": f"https://127.0.0.1:{port}"}
    ways.update({name: f"https://{host}:{port}" for name, (host, port) in backends.items()})

    loop = Loop(ways, context, options.rate)
    asking = asyncio.create_task(loop.run())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set() and not asking.done():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1)
        write(options.output, loop)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    write(options.output, loop)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
