# SPDX-License-Identifier: GPL-3.0-or-later
"""The report is handed to the end of the run, in a file that is private; and private files are whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import private_file, report_channel


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv(report_channel.VARIABLE, raising=False)


def test_a_report_waits_for_the_end():
    path = report_channel.open_channel()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert report_channel.deliver("first")
    assert report_channel.deliver("well")
    assert report_channel.close_channel(path) == "well"
    assert not os.path.exists(path)
    assert not report_channel.deliver("late")


def test_nobody_waits():
    assert not report_channel.deliver("text")


def test_nothing_is_written_where_no_file_waits(monkeypatch, tmp_path):
    monkeypatch.setenv(report_channel.VARIABLE, str(tmp_path / "not-there"))
    assert not report_channel.deliver("text")
    assert list(tmp_path.iterdir()) == []


def test_no_link_is_followed(monkeypatch, tmp_path):
    (tmp_path / "target").write_text("untouched")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    monkeypatch.setenv(report_channel.VARIABLE, str(tmp_path / "link"))
    assert not report_channel.deliver("text")
    assert (tmp_path / "target").read_text() == "untouched"


def test_a_private_file(tmp_path):
    path = tmp_path / "evidence.json"
    path.write_text("old")
    path.chmod(0o644)
    private_file.write_private(str(path), "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_that_cannot_be_written(tmp_path):
    with pytest.raises(private_file.FileError, match="cannot be written .*name a file in an existing directory"):
        private_file.write_private(str(Path(tmp_path) / "none/evidence.json"), "text")
