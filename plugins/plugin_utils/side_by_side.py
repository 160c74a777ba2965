# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several modules at the same time for one task, so that those that wait for a timeout wait together.

An action plugin runs modules one after the other, and its connection is not made for threads. A process for each module
has a connection of its own; that holds for connections that start a program for each command.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import time
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native

Call = t.Callable[[], t.Mapping[str, t.Any]]
#: Connection plugins that start a program for each command, and so keep nothing that two processes would share.
INDEPENDENT = ("local", "ssh", "smart", "docker", "podman", "kubectl", "chroot", "nspawn", "lxc", "buildah")
_CHUNK = 1 << 16


class Outcome(t.NamedTuple):
    """What one module returned, or why it did not."""

    result: t.Optional[dict[str, t.Any]]
    error: str = ""


def run(calls: t.Mapping[str, Call], *, timeout: float, connection: t.Any) -> dict[str, Outcome]:
    """Run each call, each with its own error caught. What takes longer than the timeout is given up."""
    transport = str(connection.transport).rpartition(".")[2]
    if len(calls) < 2 or not (transport in INDEPENDENT or getattr(connection, "independent", False)):
        return {name: outcome_of(call) for name, call in calls.items()}
    return _run_forked(calls, timeout)


def outcome_of(call: Call) -> Outcome:
    """The result of a call, or its error as a sentence."""
    try:
        return Outcome(native(dict(call())))
    except Exception as exc:  # whatever goes wrong with one module is one line of the result
        return Outcome(None, " ".join(str(exc).split()) or type(exc).__name__)


class _Child(t.NamedTuple):
    name: str
    pid: int


def _run_forked(calls: t.Mapping[str, Call], timeout: float) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    received: dict[int, list[bytes]] = {}
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for name, call in calls.items():
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                _answer(call, writing)
            os.close(writing)
            # A group of its own, so that the programs that it starts can be ended with it.
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
            received[reading] = []
            selector.register(reading, selectors.EVENT_READ, _Child(name, pid))
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(max(0.0, left))
            for key, _events in ready:
                descriptor = t.cast(int, key.fd)
                chunk = os.read(descriptor, _CHUNK)
                if chunk:
                    received[descriptor].append(chunk)
                    continue
                selector.unregister(descriptor)
                os.close(descriptor)
                os.waitpid(key.data.pid, 0)
                outcomes[key.data.name] = _decode(b"".join(received[descriptor]))
            if not ready and left <= 0:
                for key in list(selector.get_map().values()):
                    selector.unregister(key.fd)
                    os.close(t.cast(int, key.fd))
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(key.data.pid, signal.SIGKILL)
                    os.waitpid(key.data.pid, 0)
                    outcomes[key.data.name] = Outcome(None, f"it did not finish within {timeout:g} s")
    return {name: outcomes[name] for name in calls}


def _answer(call: Call, descriptor: int) -> t.NoReturn:
    """The child: runs the call, writes its outcome, and goes without anything that its parent has to do at its end."""
    status = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        outcome = outcome_of(call)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(json.dumps(outcome._asdict(), default=str).encode())
        status = 0
    finally:
        os._exit(status)


def _decode(data: bytes) -> Outcome:
    try:
        return Outcome(**json.loads(data))
    except (TypeError, ValueError):
        return Outcome(None, "it ended without a result")
