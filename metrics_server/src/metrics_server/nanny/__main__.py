# SPDX-License-Identifier: GPL-3.0-or-later
"""`metrics-server nanny`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from metrics_server.companion import Companion, connect, exit_code, start, until_signal
from metrics_server.health import Health
from metrics_server.nanny.options import FLAGS, Options, read_options
from metrics_server.nanny.service import Nanny

NAME = "nanny"


async def size(options: Options, started: Callable[[int], None] | None = None) -> None:
    """Run the nanny until a signal."""
    client = connect(options, NAME)
    registry = CollectorRegistry()
    nanny = Nanny(client, options, registry)
    companion = Companion(Health({"livez": {}, "readyz": {"last-check": nanny.problem}, "healthz": {}}), registry)
    until_signal(companion)
    try:
        await companion.run(options, (nanny.run(),), started)
    finally:
        await client.close()


def main(arguments: list[str]) -> int:
    """Run the program and return its exit code. Raises FlagError."""
    parsed = start(FLAGS, NAME, "Size a container of a Deployment by the number of nodes.", arguments)
    return 0 if parsed is None else exit_code(size(read_options(parsed)))
