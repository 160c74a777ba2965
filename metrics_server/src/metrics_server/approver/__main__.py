# SPDX-License-Identifier: GPL-3.0-or-later
"""`metrics-server csr-approver`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from metrics_server.approver.options import FLAGS, Options, read_options
from metrics_server.approver.service import Approver, Telemetry
from metrics_server.companion import Companion, connect, exit_code, start, until_signal
from metrics_server.health import Health

NAME = "csr-approver"


async def approve(options: Options, started: Callable[[int], None] | None = None) -> None:
    """Run the approver until a signal."""
    client = connect(options, NAME)
    registry = CollectorRegistry()
    approver = Approver(client, options.policy, Telemetry(registry), resync=options.resync_period)
    companion = Companion(
        Health({"livez": {}, "readyz": {"lists": approver.problem}, "healthz": {}}),
        registry,
    )
    until_signal(companion)
    try:
        await companion.run(options, approver.tasks(), started)
    finally:
        await client.close()


def main(arguments: list[str]) -> int:
    """Run the program and return its exit code. Raises FlagError."""
    parsed = start(FLAGS, NAME, "Approve serving certificates of kubelets that pass every check.", arguments)
    return 0 if parsed is None else exit_code(approve(read_options(parsed)))
