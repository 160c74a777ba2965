# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a long command on this machine, and reports its progress every 20 seconds."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from typing import Any, TextIO

from ansible.plugins.action import ActionBase

INTERVAL = 20
TAIL = 15


def read(log: TextIO) -> list[str]:
    """What the command has written so far. The file position is shared with the command, so it is not moved."""
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace").splitlines()


def progress(lines: list[str], total: int, seconds: float) -> str:
    """One line for the user: elapsed time, share of the expected lines of output, and the newest line."""
    minutes, rest = divmod(int(seconds), 60)
    share = f"{len(lines)} of about {total} steps" if total else f"{len(lines)} steps"
    newest = f", now: {lines[-1].strip()[:70]}" if lines else ""
    return f"    {minutes}:{rest:02d}  {share}{newest}"


class ActionModule(ActionBase):
    """Arguments: argv, chdir, environment, and expected_lines, the usual number of lines of output."""

    _supports_check_mode = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        argv = [str(word) for word in arguments["argv"]]
        environment = {str(name): str(value) for name, value in (arguments.get("environment") or {}).items()}
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=arguments.get("chdir"),
                env=os.environ | environment,
            )
            try:
                self.watch(process, log, int(arguments.get("expected_lines", 0)))
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
            lines = read(log)
        result.update(changed=True, rc=process.returncode)
        if process.returncode:
            result.update(
                failed=True, msg=f"{argv[0]} failed with exit code {process.returncode}.", output=lines[-TAIL:]
            )
        return result

    def watch(self, process: subprocess.Popen[bytes], log: TextIO, total: int) -> None:
        started = time.monotonic()
        while True:
            try:
                process.wait(INTERVAL)
                return
            except subprocess.TimeoutExpired:
                self._display.display(progress(read(log), total, time.monotonic() - started))
