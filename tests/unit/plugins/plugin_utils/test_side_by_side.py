# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules at the same time: each with its own error, and none for ever."""

from __future__ import annotations

import os
import subprocess
import time
from types import SimpleNamespace

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import side_by_side

LOCAL = SimpleNamespace(transport="local")


def failing():
    raise RuntimeError("no\n  route")


@pytest.mark.parametrize("transport", ["local", "ansible.builtin.ssh", "paramiko_ssh"])
def test_each_has_its_own_error(transport):
    found = side_by_side.run(
        {"good": lambda: {"a": [1, "é"]}, "bad": failing, "large": lambda: {"text": "x" * 1_000_000}},
        timeout=10,
        connection=SimpleNamespace(transport=transport),
    )
    assert list(found) == ["good", "bad", "large"]
    assert found["good"] == side_by_side.Outcome({"a": [1, "é"]})
    assert found["bad"] == side_by_side.Outcome(None, "no route")
    assert len(found["large"].result["text"]) == 1_000_000


def test_they_wait_together():
    def slow():
        time.sleep(0.4)
        return {}

    started = time.monotonic()
    side_by_side.run(dict.fromkeys("abcdef", slow), timeout=10, connection=LOCAL)
    assert time.monotonic() - started < 2


def test_what_hangs_is_given_up_with_what_it_has_started(tmp_path):
    def hanging():
        with open(tmp_path / "pid", "w") as stream:
            child = subprocess.Popen(["sleep", "60"])
            stream.write(str(child.pid))
        child.wait()

    found = side_by_side.run({"hangs": hanging, "good": dict}, timeout=1, connection=LOCAL)
    assert found["good"] == side_by_side.Outcome({})
    assert found["hangs"].error == "it did not finish within 1 s"
    for _attempt in range(50):
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", (tmp_path / "pid").read_text()], capture_output=True, text=True, check=False
        ).stdout.strip()
        if not state or state.startswith("Z"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the program still runs")


def test_one_that_dies_says_so():
    found = side_by_side.run({"dies": lambda: os._exit(3), "good": dict}, timeout=5, connection=LOCAL)
    assert found["dies"].error == "it ended without a result"
