# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import io
import json
import logging

import pytest

from metrics_server import logs
from metrics_server.health import Health, Hysteresis


def test_reports() -> None:
    state: dict[str, str | None] = {"reason": None}
    health = Health({"livez": {}, "readyz": {"data": lambda: state["reason"], "other": lambda: None}})
    report = health.report("/readyz")
    assert report is not None
    assert (report.healthy, report.text) == (True, "ok")
    verbose = health.report("/readyz", verbose=True)
    assert verbose is not None
    assert verbose.text == "[+]ping ok\n[+]data ok\n[+]other ok\nreadyz check passed\n"

    state["reason"] = "no metrics yet"
    failed = health.report("/readyz")
    assert failed is not None
    assert not failed.healthy
    assert failed.text == "[+]ping ok\n[-]data failed: no metrics yet\n[+]other ok\nreadyz check failed\n"
    single = health.report("/readyz/data")
    assert single is not None
    assert (single.healthy, single.text) == (False, "internal server error: no metrics yet\n")
    other = health.report("/readyz/other")
    assert other is not None
    assert other.healthy
    excluded = health.report("/readyz", excluded=["data", "nothing"], verbose=True)
    assert excluded is not None
    assert excluded.healthy
    assert "[+]data excluded: ok\n" in excluded.text
    assert 'no matches for "nothing"' in excluded.text
    assert health.report("/readyz/nothing") is None
    assert health.report("/other") is None


def test_hysteresis() -> None:
    now = 0.0
    reason: str | None = "starting"
    check = Hysteresis(lambda: reason, seconds=10, clock=lambda: now)
    assert check() == "starting"
    reason = None
    assert check() is None
    reason = "trouble"
    assert check() is None
    now = 9.0
    assert check() is None
    reason = None
    assert check() is None
    reason, now = "trouble again", 12.0
    assert check() is None
    now = 22.0
    assert check() == "trouble again"
    now = 23.0
    assert check() == "trouble again"
    reason = None
    assert check() is None


@pytest.fixture
def restored_logging() -> object:
    root, package = logging.getLogger(), logging.getLogger("metrics_server")
    handlers, level, own = root.handlers[:], root.level, package.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    package.setLevel(own)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("restored_logging")
def test_the_text_log_is_klogs() -> None:
    stream = io.StringIO()
    logs.set_up(form="text", verbosity=0, vmodule=["test_heal*=4"], stream=stream)
    log = logging.getLogger("metrics_server.test")
    log.warning('a "thing"', extra={"kv": {"node": "n1", "count": 3, "on": True}})
    log.debug("seen by vmodule")
    first, second = stream.getvalue().splitlines()
    assert first.startswith("W")
    assert first.endswith('] "a \\"thing\\"" node="n1" count=3 on=true')
    assert second.startswith("I")


@pytest.mark.usefixtures("restored_logging")
def test_the_json_log() -> None:
    stream = io.StringIO()
    logs.set_up(form="json", verbosity=0, stream=stream)
    log = logging.getLogger("metrics_server.test")
    log.info("hello %s", "world", extra={"kv": {"node": "n1"}})
    log.debug("not seen")
    entry = json.loads(stream.getvalue())
    assert (entry["msg"], entry["node"], entry["v"]) == ("hello world", "n1", 0)
