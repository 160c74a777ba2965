# SPDX-License-Identifier: GPL-3.0-or-later
"""Listing changes and taking them back, as the rollback playbook does it."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host.files import HostFileError, Journal, digest
from ansible_collections.kubemetrics.aggregation.plugins.modules import (
    definition_file,
    recorded_change,
    recorded_changes_info,
)


@pytest.fixture
def state_dir(tmp_path):
    return str(tmp_path / "state")


@pytest.fixture
def change(run_module, state_dir):
    def make(path, content):
        expected = digest(path.read_bytes()) if path.exists() else None
        result = run_module(
            definition_file,
            operation="replace",
            files=[
                {
                    "path": str(path),
                    "content": base64.b64encode(content.encode()).decode(),
                    "expected_sha256": expected,
                }
            ],
            what="a test",
            component="kubelet",
            state_dir=state_dir,
        )
        return result["change_id"]

    return make


def test_list_and_take_back(tmp_path, state_dir, change, run_module):
    path = tmp_path / "config"
    path.write_text("one\n")
    first, second = change(path, "two\n"), change(path, "three\n")

    def states():
        return {one["id"]: one["state"] for one in run_module(recorded_changes_info, state_dir=state_dir)["changes"]}

    assert states() == {first: "edited", second: "in_place"}
    failed = run_module(recorded_change, id=first, state_dir=state_dir)
    assert failed["failed"] and "edited after the change" in failed["msg"]
    predicted = run_module(recorded_change, check_mode=True, id=second, state_dir=state_dir, _ansible_diff=True)
    assert path.read_text() == "three\n" and predicted["changed"] and predicted["change_id"] is None
    applied = run_module(recorded_change, id=second, state_dir=state_dir, _ansible_diff=True)
    assert path.read_text() == "two\n" and applied["diff"] == predicted["diff"]
    assert applied["component"] == "kubelet" and applied["files"] == [str(path)]
    assert not run_module(recorded_change, id=second, state_dir=state_dir)["changed"]
    assert states() == {first: "in_place", second: "undone", applied["change_id"]: "in_place"}
    run_module(recorded_change, id=first, state_dir=state_dir)
    assert path.read_text() == "one\n"


def test_what_was_rolled_back_stays_so_when_others_come_after_it(tmp_path, state_dir, change, run_module):
    """Each new content is another one, as with a CA that is replaced, rolled back and replaced once more."""
    path = tmp_path / "ca.crt"
    path.write_text("one\n")

    def states():
        return [one["state"] for one in run_module(recorded_changes_info, state_dir=state_dir)["changes"]]

    first = change(path, "two\n")
    undo = run_module(recorded_change, id=first, state_dir=state_dir)["change_id"]
    second = change(path, "three\n")
    assert states() == ["undone", "edited", "in_place"]
    # Whoever takes the second one and the rollback back has the first one again.
    run_module(recorded_change, id=second, state_dir=state_dir)
    run_module(recorded_change, id=undo, state_dir=state_dir)
    assert path.read_text() == "two\n"
    change(path, "four\n")
    # first (edited by the last one), undo (undone), second (undone), and the two that undid them.
    assert states() == ["edited", "undone", "undone", "edited", "edited", "in_place"]


def test_a_change_that_was_cut_off_shows(tmp_path, state_dir, change, run_module):
    path = tmp_path / "config"
    path.write_text("one\n")
    made = change(path, "two\n")
    journal = Journal(state_dir)
    journal.write({**journal.read(made), "state": "prepared"})
    (shown,) = run_module(recorded_changes_info, state_dir=state_dir)["changes"]
    assert shown["state"] == "interrupted"


def test_an_empty_host_and_an_unknown_id(state_dir, run_module):
    assert run_module(recorded_changes_info, state_dir=state_dir)["changes"] == []
    failed = run_module(recorded_change, id="nothing", state_dir=state_dir)
    assert failed["failed"] and "no change nothing" in failed["msg"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"operation": "read", "paths": ["relative"]}, "not absolute"),
        ({"operation": "replace", "files": []}, "what"),
        ({"operation": "replace", "what": "x", "files": [{"path": "/x", "content": "?"}]}, "not base64"),
        ({"operation": "replace", "what": "x", "files": [{"path": "/x", "content": "", "mode": "9"}]}, "not octal"),
    ],
)
def test_bad_arguments_of_the_hosts_half(arguments, words, state_dir, run_module):
    failed = run_module(definition_file, state_dir=state_dir, **arguments)
    assert failed["failed"] and words in failed["msg"]


def test_a_failure_names_the_change_that_is_still_in_place(tmp_path, state_dir, run_module, monkeypatch):
    def fails(*_arguments, **_keywords):
        error = HostFileError("It fails.")
        error.change_id = "20260301T100500Z-1f0c9a3e"
        raise error

    monkeypatch.setattr(definition_file.host_files, "replace_files", fails)
    file = {"path": str(tmp_path / "x"), "content": "", "expected_sha256": None}
    result = run_module(definition_file, operation="replace", files=[file], what="a test", state_dir=state_dir)
    assert result["failed"] and result["change_id"] == "20260301T100500Z-1f0c9a3e"
