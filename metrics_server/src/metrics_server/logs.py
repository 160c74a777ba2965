# SPDX-License-Identifier: GPL-3.0-or-later
"""The log, in the forms that operators of Kubernetes components read and parse: klog's text, or JSON."""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

#: From this verbosity on the steps in between are logged (Python's DEBUG).
_DEBUG_VERBOSITY = 4
_LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.gmtime(record.created)
        micros = int(record.created % 1 * 1_000_000)
        head = (
            f"{_LETTERS.get(record.levelno, 'I')}{time.strftime('%m%d %H:%M:%S', moment)}.{micros:06d} "
            f"{os.getpid():7d} {record.filename}:{record.lineno}] "
        )
        text = head + json.dumps(record.getMessage(), ensure_ascii=False)
        for key, value in _pairs(record).items():
            text += f" {key}={_text_value(value)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": round(record.created * 1000, 4),
            "caller": f"{record.filename}:{record.lineno}",
            "msg": record.getMessage(),
        }
        if record.levelno < logging.WARNING:
            entry["v"] = _DEBUG_VERBOSITY if record.levelno <= logging.DEBUG else 0
        entry.update({key: value if _plain(value) else str(value) for key, value in _pairs(record).items()})
        if record.exc_info:
            entry["stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _pairs(record: logging.LogRecord) -> Mapping[str, Any]:
    pairs = getattr(record, "kv", None)
    return pairs if isinstance(pairs, Mapping) else {}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | dict)


def _text_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(str(value), ensure_ascii=False)


class Seldom:
    """Limits the lines that unauthenticated clients can cause, so that they cannot fill the log."""

    def __init__(self, interval: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._last = float("-inf")

    def __call__(self) -> bool:
        """Return whether it is time for another line, and count it."""
        now = self._clock()
        if now - self._last < self._interval:
            return False
        self._last = now
        return True


class _ModuleFilter(logging.Filter):
    """Lets a module speak as much as `--vmodule` says, and all others as much as `-v` says."""

    def __init__(self, verbosity: int, modules: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self._verbosity = verbosity
        self._modules = modules

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.DEBUG:
            return True
        stem = record.filename.removesuffix(".py")
        level = next((level for pattern, level in self._modules if fnmatch.fnmatch(stem, pattern)), self._verbosity)
        return level >= _DEBUG_VERBOSITY


def set_up(*, form: str, verbosity: int, vmodule: Sequence[str] = (), stream: TextIO | None = None) -> None:
    """Send the log to standard error in the given form."""
    modules = [(pattern, int(level)) for pattern, _unused, level in (pair.partition("=") for pair in vmodule)]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    handler.addFilter(_ModuleFilter(verbosity, modules))
    debug = verbosity >= _DEBUG_VERBOSITY or any(level >= _DEBUG_VERBOSITY for _unused, level in modules)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # The libraries' own debugging is of no use to an operator.
    root.setLevel(logging.INFO)
    logging.getLogger("metrics_server").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.captureWarnings(True)
