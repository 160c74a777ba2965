# SPDX-License-Identifier: GPL-3.0-or-later
"""Replacing files: all or nothing, whatever the file system does."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import time

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host.files import (
    HostFileError,
    Journal,
    Replacement,
    read_file,
    replace_files,
    restore_change,
)


@pytest.fixture
def journal(tmp_path):
    return Journal(str(tmp_path / "state"))


@pytest.fixture
def mount():
    """Mounts file systems for one test; skips it where that is not allowed."""
    mounted = []

    def run(*arguments):
        done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
        if "remount,bind,ro" not in arguments:
            mounted.append(str(arguments[-1]))

    yield run
    for path in reversed(mounted):
        subprocess.run(["umount", path], check=True)


def replace(journal, *files, check_mode=False, **arguments):
    """Replace (path, new content) pairs on the grounds of what is there now."""
    items = [Replacement(str(path), content, read_file(str(path)).sha256) for path, content in files]
    return replace_files(items, "a test", journal=journal, check_mode=check_mode, **arguments)


def everything(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_content_changes_and_the_rest_stays(tmp_path, journal):
    path = tmp_path / "config"
    path.write_text("old")
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"kept")
    record = replace(journal, (path, b"new"))
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.getxattr(path, "user.note") == b"kept"
    entry = record["files"][0]
    with open(entry["backup"]) as backup:
        assert backup.read() == "old"
    assert stat.S_IMODE(os.stat(entry["backup"]).st_mode) == 0o600
    for directory in (journal.state_dir, journal.changes_dir, journal.backups_dir):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    stored = json.loads(read_file(os.path.join(journal.changes_dir, record["id"] + ".json")).content)
    assert stored == record and stored["state"] == "done"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_the_owner_stays(tmp_path, journal):
    path = tmp_path / "config"
    path.write_text("old")
    os.chown(path, 4711, 4712)
    replace(journal, (path, b"new"))
    assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


def test_a_link_stays_a_link(tmp_path, journal):
    (tmp_path / "ssl").mkdir()
    (tmp_path / "ssl" / "config").write_text("old")
    (tmp_path / "pki").symlink_to("ssl")
    (tmp_path / "link").symlink_to("pki/config")
    replace(journal, (tmp_path / "link", b"new"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "pki").is_symlink()
    assert (tmp_path / "ssl" / "config").read_text() == "new"


def test_nothing_to_do_leaves_no_trace(tmp_path, journal):
    path = tmp_path / "config"
    path.write_text("same")
    before = path.stat()
    assert replace(journal, (path, b"same")) is None
    assert path.stat().st_ino == before.st_ino and everything(tmp_path) == ["config"]


def test_check_mode_leaves_no_trace(tmp_path, journal):
    path = tmp_path / "config"
    path.write_text("old")
    assert replace(journal, (path, b"new"), check_mode=True) is not None
    assert path.read_text() == "old" and everything(tmp_path) == ["config"]


def test_without_backup_there_is_no_record(tmp_path, journal):
    path = tmp_path / "config"
    path.write_text("old")
    replace(journal, (path, b"new"), backup=False)
    assert everything(tmp_path) == ["config"]


def test_somebody_elses_edit_is_not_lost(tmp_path, journal, monkeypatch):
    path, other = tmp_path / "config", tmp_path / "other"
    path.write_text("old")
    other.write_text("old")
    item = Replacement(str(path), b"new", host_files.digest(b"older"))
    with pytest.raises(HostFileError, match="changed by somebody else"):
        replace_files([item], "a test", journal=journal)
    # Also in the last moment, when another file of the change is in place already.
    put = host_files.put_in_place

    def meanwhile(item):
        if item.path == str(other):
            other.write_text("theirs")
        put(item)

    monkeypatch.setattr(host_files, "put_in_place", meanwhile)
    with pytest.raises(HostFileError, match="changed by somebody else"):
        replace(journal, (path, b"new"), (other, b"new"))
    assert path.read_text() == "old" and other.read_text() == "theirs"
    assert journal.list() == ([], [])
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_read_only_file_system(tmp_path, journal, mount):
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "config"
    path.write_text("old")
    mount("--bind", directory, directory)
    mount("-o", "remount,bind,ro", directory)
    for check_mode in (True, False):
        with pytest.raises(HostFileError, match=r"Cannot write .*config: its file system is read-only; remount"):
            replace(journal, (path, b"new"), check_mode=check_mode)
    assert path.read_text() == "old" and not os.path.exists(journal.state_dir)


def test_no_space_left(tmp_path, journal, mount):
    directory = tmp_path / "small"
    directory.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", directory)
    path = directory / "config"
    path.write_text("old")
    (directory / "fill").write_bytes(b"x" * (56 << 10))
    for check_mode in (True, False):
        with pytest.raises(HostFileError, match=r"Cannot write .*config: no space is left on its file system; free"):
            replace(journal, (path, b"n" * 20000), check_mode=check_mode)
    assert path.read_text() == "old" and sorted(os.listdir(directory)) == ["config", "fill"]


def test_no_space_that_only_the_write_finds(tmp_path, journal, mount, monkeypatch):
    directory = tmp_path / "small"
    directory.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", directory)
    path, other = directory / "config", tmp_path / "other"
    path.write_text("old")
    other.write_text("old")
    # As when the space goes between the look and the write.
    monkeypatch.setattr(host_files, "check_writable", lambda item, directory: None)
    with pytest.raises(HostFileError, match="no space is left"):
        replace(journal, (other, b"new"), (path, b"n" * 200000))
    assert path.read_text() == "old" and other.read_text() == "old"
    assert os.listdir(directory) == ["config"] and journal.list() == ([], [])


def test_no_space_for_the_backup(tmp_path, mount):
    directory = tmp_path / "state"
    directory.mkdir()
    mount("-t", "tmpfs", "-o", "size=16k", "tmpfs", directory)
    path = tmp_path / "config"
    path.write_bytes(b"o" * 20000)
    with pytest.raises(HostFileError, match="no space is left"):
        replace(Journal(str(directory)), (path, b"new"))
    assert path.read_bytes() == b"o" * 20000 and Journal(str(directory)).list() == ([], [])


def fail_sync(monkeypatch, directory, number, times=1):
    """Syncs of files right in a directory, or of itself, fail from the given one on, counted from 1."""
    real, seen = os.fsync, []

    def fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if str(directory) in (path, os.path.dirname(path)):
            seen.append(path)
            if number <= len(seen) < number + times:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("content", [b"new", None])
def test_a_directory_that_cannot_be_synced_has_the_old_content_again(tmp_path, journal, monkeypatch, content):
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "config"
    path.write_text("old")
    os.setxattr(path, "user.note", b"kept")
    # The staged file is synced first.
    fail_sync(monkeypatch, directory, 1 if content is None else 2)
    with pytest.raises(HostFileError, match="Cannot sync the directory .*etc: Input/output error") as caught:
        replace(journal, (path, content))
    assert path.read_text() == "old" and os.getxattr(path, "user.note") == b"kept"
    assert everything(directory) == ["config"] and journal.list() == ([], []) and caught.value.change_id is None


def test_what_cannot_be_brought_back_keeps_its_backup_and_is_named(tmp_path, journal, monkeypatch):
    directory = tmp_path / "etc"
    directory.mkdir()
    path, other = directory / "config", directory / "other"
    path.write_text("old")
    other.write_text("old")
    fail_sync(monkeypatch, directory, 3, times=2)
    with pytest.raises(HostFileError) as caught:
        replace(journal, (path, b"new"), (other, b"new"))
    monkeypatch.undo()
    (record,), _damaged = journal.list()
    assert caught.value.change_id == record["id"] and path.read_text() == "new" and other.read_text() == "old"
    assert str(caught.value) == (
        f"Cannot sync the directory {directory}: Input/output error, and the old content of {path} could not be "
        f"brought back; roll back the recorded change {record['id']} when that is mended."
    )
    assert record["state"] == "prepared"
    restore_change(record["id"], journal)
    assert path.read_text() == "old" and everything(directory) == ["config", "other"]
    os.unlink(path)
    path.write_text("old")
    fail_sync(monkeypatch, directory, 3, times=2)
    with pytest.raises(HostFileError, match="there is no backup; bring back the old content by hand"):
        replace(journal, (path, b"new"), (other, b"new"), backup=False)


@pytest.mark.parametrize("broken", ["write", "prune", "remove"])
def test_a_change_in_place_is_returned_whatever_becomes_of_its_record(tmp_path, journal, monkeypatch, broken):
    path = tmp_path / "config"
    path.write_text("older")
    replace(journal, (path, b"old"))
    if broken == "write":
        # Backup and its directory are elsewhere; the record is written twice, each with a file and its directory.
        fail_sync(monkeypatch, journal.changes_dir, 3)
    elif broken == "prune":
        real = os.listdir

        def listdir(path):
            if path == journal.changes_dir:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(path)

        monkeypatch.setattr(os, "listdir", listdir)
    else:
        monkeypatch.setattr(host_files, "KEEP_CHANGES", 1)
        monkeypatch.setattr(host_files, "KEEP_SECONDS", -10)

        def unlink(*_arguments, **_keywords):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(os, "unlink", unlink)
    record = replace(journal, (path, b"new"))
    monkeypatch.undo()
    assert path.read_text() == "new"
    stored = journal.read(record["id"])
    assert stored == record and stored["state"] == ("prepared" if broken == "write" else "done")
    restore_change(record["id"], journal)
    assert path.read_text() == "old"


def test_what_is_brought_back_keeps_its_attributes(tmp_path, journal, monkeypatch):
    paths = [tmp_path / name for name in ("changed", "removed", "failing")]
    for path in paths:
        path.write_text("old")
        os.setxattr(path, "user.note", b"kept")
    put = host_files.put_in_place

    def failing(item):
        if item.path == str(paths[2]):
            raise HostFileError("It fails.")
        put(item)

    monkeypatch.setattr(host_files, "put_in_place", failing)
    with pytest.raises(HostFileError, match="It fails"):
        replace(journal, (paths[0], b"new"), (paths[1], None), (paths[2], b"new"))
    assert [path.read_text() for path in paths] == ["old"] * 3
    assert [os.getxattr(path, "user.note") for path in paths] == [b"kept"] * 3


def test_a_file_that_is_a_mount_point(tmp_path, journal, mount):
    path, source = tmp_path / "config", tmp_path / "source"
    path.write_text("")
    source.write_text("old")
    mount("--bind", source, path)
    with pytest.raises(HostFileError, match="mount point of its own"):
        replace(journal, (path, b"new"))
    assert source.read_text() == "old" and journal.list() == ([], [])


def test_what_is_no_file(tmp_path, journal):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HostFileError, match="not a regular file"):
        read_file(str(tmp_path / "pipe"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(HostFileError, match="form a loop"):
        read_file(str(tmp_path / "loop"))
    (tmp_path / "big").write_bytes(b"x" * (host_files.MAX_FILE_SIZE + 1))
    with pytest.raises(HostFileError, match="too much for a configuration file"):
        read_file(str(tmp_path / "big"))
    with pytest.raises(HostFileError, match="does not exist; create it first"):
        replace(journal, (tmp_path / "none" / "config", b"new"))
    with pytest.raises(HostFileError, match="not a directory"):
        read_file(str(tmp_path / "big" / "config"))


def test_a_change_can_be_undone_and_that_too(tmp_path, journal):
    path, fresh = tmp_path / "config", tmp_path / "fresh"
    path.write_text("old")
    record = replace(journal, (path, b"new"), (fresh, b"made"))
    undone, _files = restore_change(record["id"], journal)
    assert path.read_text() == "old" and not fresh.exists()
    assert undone["undoes"] == record["id"]
    assert restore_change(record["id"], journal) == (None, [])
    fresh_mode = record["files"][1]["mode"]
    assert fresh_mode is None
    restore_change(undone["id"], journal)
    assert path.read_text() == "new" and fresh.read_text() == "made"
    records, damaged = journal.list()
    assert len(records) == 3 and damaged == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change owners")
def test_undoing_brings_back_the_mode_and_the_owner(tmp_path, journal):
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    os.chown(path, 4711, 4712)
    item = Replacement(str(path), b"new", read_file(str(path)).sha256, limit=0o640)
    record = replace_files([item], "a test", journal=journal)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    # As when somebody gives the file to another user, because its reader was shut out.
    os.chown(path, 0, 0)
    undone, _files = restore_change(record["id"], journal)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 and (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)
    restore_change(undone["id"], journal)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and (path.stat().st_uid, path.stat().st_gid) == (0, 0)


def test_undoing_does_not_lose_a_later_edit(tmp_path, journal):
    path = tmp_path / "config"
    path.write_text("old")
    record = replace(journal, (path, b"new"))
    path.write_text("edited")
    with pytest.raises(HostFileError, match="edited after the change"):
        restore_change(record["id"], journal)
    restore_change(record["id"], journal, check_mode=True, force=True)
    assert path.read_text() == "edited"
    restore_change(record["id"], journal, force=True)
    assert path.read_text() == "old"


def test_a_change_that_was_cut_off_can_be_undone(tmp_path, journal, monkeypatch):
    path, other = tmp_path / "config", tmp_path / "other"
    path.write_text("old")
    other.write_text("old")
    put = host_files.put_in_place

    class Killed(BaseException):
        pass

    def killed(item):
        if item.path == str(other):
            raise Killed
        put(item)

    monkeypatch.setattr(host_files, "put_in_place", killed)
    with pytest.raises(Killed):
        replace(journal, (path, b"new"), (other, b"new"))
    monkeypatch.undo()
    (record,), _damaged = journal.list()
    assert record["state"] == "prepared" and path.read_text() == "new" and other.read_text() == "old"
    restore_change(record["id"], journal)
    assert path.read_text() == "old" and other.read_text() == "old"


def test_backups_that_are_gone_or_damaged(tmp_path, journal):
    path = tmp_path / "config"
    path.write_text("old")
    record = replace(journal, (path, b"new"))
    with open(record["files"][0]["backup"], "w") as backup:
        backup.write("other")
    with pytest.raises(HostFileError, match="missing or damaged"):
        restore_change(record["id"], journal)
    assert path.read_text() == "new"
    for name in ("nothing", "../x", ""):
        with pytest.raises(HostFileError):
            restore_change(name, journal)
    with open(os.path.join(journal.changes_dir, "broken.json"), "w") as broken:
        broken.write("{")
    records, damaged = journal.list()
    assert [one["id"] for one in records] == [record["id"]] and damaged[0].endswith("broken.json")


def test_old_changes_are_forgotten_but_never_the_newest(tmp_path, journal, monkeypatch):
    monkeypatch.setattr(host_files, "KEEP_CHANGES", 2)
    path = tmp_path / "config"
    path.write_text("0")
    ids = [replace(journal, (path, str(number).encode()))["id"] for number in range(1, 5)]
    assert len(journal.list()[0]) == 4
    journal.prune(now=time.time() + host_files.KEEP_SECONDS + 10)
    kept = [record["id"] for record in journal.list()[0]]
    assert len(kept) == 2 and set(kept) < set(ids)
    assert sorted(os.listdir(journal.backups_dir)) == sorted(kept)


def test_the_directory_of_state_is_tightened(tmp_path, journal):
    os.makedirs(journal.state_dir, mode=0o755)
    path = tmp_path / "config"
    path.write_text("old")
    replace(journal, (path, b"new"))
    assert stat.S_IMODE(os.stat(journal.state_dir).st_mode) == 0o700
