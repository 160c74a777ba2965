# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to a metrics server, timed from outside."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import ssl
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

JSON, PROTOBUF = "application/json", "application/vnd.kubernetes.protobuf"


@dataclass(frozen=True)
class Times:
    """How long requests of one kind took."""

    seconds: tuple[float, ...]
    #: From the first request to the last answer.
    wall: float
    #: Size of the last answer as it came over the wire.
    size: int

    @property
    def median(self) -> float:
        """Return the middle one in seconds."""
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """Return what 99 of 100 stayed below; of a few, the slowest."""
        return sorted(self.seconds)[max(0, -(-len(self.seconds) * 99 // 100) - 1)]


class Client:
    """One kept-alive connection."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)

    def get(self, path: str, accept: str = JSON, encoding: str = "identity") -> bytes:
        """Return the body of a 200 answer; raise OSError for any other."""
        self._connection.request("GET", path, headers={"Accept": accept, "Accept-Encoding": encoding})
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise OSError(f"{path} was answered with {response.status}: {body[:200]!r}")
        return body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def timed(
    port: int,
    context: ssl.SSLContext,
    paths: Sequence[str],
    *,
    count: int,
    budget: float,
    clients: int = 1,
    accept: str = JSON,
    encoding: str = "identity",
) -> Times:
    """Ask for the paths in turn until `count` answers are there or `budget` seconds are over, but at least twice per
    client."""
    numbers = itertools.count()
    seconds: list[float] = []
    sizes: list[int] = []
    failures: list[Exception] = []
    lock = threading.Lock()
    started = 0.0

    def begin() -> None:
        nonlocal started
        started = time.perf_counter()

    opened = threading.Barrier(clients, action=begin)

    def work() -> None:
        with contextlib.closing(Client(port, context)) as client:
            # The handshake is not what is measured.
            try:
                client.get("/readyz")
            except Exception as error:
                failures.append(error)
            opened.wait()
            own = 0
            while not failures:
                number = next(numbers)
                before = time.perf_counter()
                if own >= 2 and (number >= count or before - started > budget):
                    return
                try:
                    size = len(client.get(paths[number % len(paths)], accept, encoding))
                except Exception as error:
                    failures.append(error)
                    return
                own += 1
                with lock:
                    seconds.append(time.perf_counter() - before)
                    sizes.append(size)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Times(tuple(seconds), time.perf_counter() - started, sizes[-1])
