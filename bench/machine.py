# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bench asks of this machine: processes that end with it, and what another process uses."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


class BenchError(Exception):
    """The measurement cannot be made; the text is one sentence."""


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the background until the block ends; its output goes to a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(
    what: str, condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float
) -> float:
    """Wait until the condition holds and return how long that took; the process has to stay alive meanwhile."""
    started = time.monotonic()
    while not condition():
        passed = time.monotonic() - started
        if process.poll() is not None or passed > seconds:
            state = "ended" if process.poll() is not None else f"did not get there in {seconds:.0f} s"
            tail = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
            raise BenchError(f"{what}: the process {state}; its last output: {tail}")
        time.sleep(0.1)
    return time.monotonic() - started


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, all threads, to the nanosecond: Linux has a clock for each
    process."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_mib(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process, and its peak since `reset_peak`."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def reset_peak(pid: int) -> None:
    """Let the peak of the memory begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def raise_file_limit() -> None:
    """Allow as many open files as this process may have; its children inherit that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
