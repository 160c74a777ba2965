# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the files that define a component, and replace them so that no reader ever sees half a file.

Runs on the managed host: standard library only, Python 3.8. A replacement is one *change*: its files are backed up,
staged beside their targets under a dot-name (the kubelet, systemd and EnvironmentFile globs all pass those over),
renamed, and recorded under ``/var/lib/kubemetrics`` so that it can be listed and undone later.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import uuid

STATE_DIR = "/var/lib/kubemetrics"
MAX_FILE_SIZE = 1024 * 1024
KEEP_CHANGES = 100
KEEP_SECONDS = 400 * 24 * 3600
STAGE_PREFIX = ".kubemetrics-"

_REASONS = {
    errno.EROFS: "its file system is read-only; remount it read-write",
    errno.ENOSPC: "no space is left on its file system; free some",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "permission is denied; run the task as root (become: true)",
    errno.EPERM: "the operation is not permitted; run the task as root and look for an immutable attribute (lsattr)",
    errno.EBUSY: "it is a mount point of its own and cannot be replaced; change it where it is mounted from",
    errno.ENAMETOOLONG: "the path is too long",
    errno.ELOOP: "its symbolic links form a loop",
}


class HostFileError(Exception):
    """One sentence for the user: what is wrong, with which file, and what to do."""


def explain(doing, path, exc):
    """The sentence for an OSError that occurred while ``doing`` something with ``path``."""
    reason = _REASONS.get(exc.errno, exc.strerror or str(exc))
    return HostFileError(f"Cannot {doing} {path}: {reason}.")


def digest(data):
    """The SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


class FileState:
    """What was found at a path."""

    def __init__(self, path):
        self.path = path
        self.resolved = os.path.realpath(path)
        self.exists = False
        self.content = b""
        self.mode = self.uid = self.gid = None

    @property
    def sha256(self):
        return digest(self.content) if self.exists else None


def read_file(path):
    """Read ``path`` whole; a missing file is a state, anything but a regular file of sane size is an error."""
    state = FileState(path)
    try:
        # O_NONBLOCK: opening a FIFO that somebody left in a configuration directory must not hang the run.
        fd = os.open(state.resolved, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return state
    except NotADirectoryError:
        raise HostFileError(f"Cannot read {path}: a part of its path is not a directory.") from None
    except OSError as exc:
        raise explain("read", path, exc) from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise HostFileError(f"Cannot read {path}: it is not a regular file.")
        if info.st_size > MAX_FILE_SIZE:
            raise HostFileError(
                f"Cannot read {path}: {info.st_size} bytes are too much for a configuration file; is the path right?"
            )
        with os.fdopen(fd, "rb", closefd=False) as handle:
            state.content = handle.read(MAX_FILE_SIZE + 1)
    except OSError as exc:
        raise explain("read", path, exc) from None
    finally:
        os.close(fd)
    state.exists = True
    state.mode, state.uid, state.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
    return state


class Replacement:
    """One file of a change: what must be there now (None: nothing) and what shall be there (None: nothing)."""

    def __init__(self, path, content, expected_sha256, mode=None, owner=None, make_directory=False, limit=0o7777):
        self.path = path
        self.content = content
        self.expected_sha256 = expected_sha256
        # Both for a file that does not exist yet; one that does keeps its own.
        self.mode = 0o600 if mode is None else mode
        self.owner = owner
        # What the mode of a file that exists may be at most.
        self.limit = limit
        self.make_directory = make_directory
        self.before = None
        self.staged = None
        self.backup = None
        self.done = False


class Journal:
    """The record of changes, for root alone: ``changes/<id>.json`` and ``backups/<id>/<path of the file>``."""

    def __init__(self, state_dir=STATE_DIR):
        self.state_dir = state_dir
        self.changes_dir = os.path.join(state_dir, "changes")
        self.backups_dir = os.path.join(state_dir, "backups")

    def new_id(self):
        """An id that sorts by time, to the microsecond (five hex digits), and never repeats (three random ones)."""
        second, microsecond = divmod(time.time_ns() // 1000, 1_000_000)
        return "{}-{:05x}{}".format(
            time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)), microsecond, uuid.uuid4().hex[:3]
        )

    def prepare(self):
        for path in (self.state_dir, self.changes_dir, self.backups_dir):
            make_private_dir(path)

    def backup_path(self, change_id, path):
        return os.path.join(self.backups_dir, change_id, path.lstrip("/"))

    def write(self, record):
        self.prepare()
        path = os.path.join(self.changes_dir, record["id"] + ".json")
        data = (json.dumps(record, indent=2, sort_keys=True) + "\n").encode("utf-8")
        rename_into_place(stage(path, data, mode=0o600, uid=None, gid=None), path)

    def read(self, change_id):
        if not change_id or "/" in change_id or change_id.startswith("."):
            raise HostFileError(f"'{change_id}' is not the id of a change; take one from the list of changes.")
        path = os.path.join(self.changes_dir, change_id + ".json")
        state = read_file(path)
        if not state.exists:
            raise HostFileError(f"There is no change {change_id} on this host; list the changes to see their ids.")
        try:
            record = json.loads(state.content.decode("utf-8"))
        except ValueError:
            raise HostFileError(f"The record {path} is damaged; remove it.") from None
        if not isinstance(record, dict) or not isinstance(record.get("files"), list):
            raise HostFileError(f"The record {path} is damaged; remove it.")
        return record

    def list(self):
        """All readable records, oldest first, and the paths of the damaged ones."""
        records, damaged = [], []
        try:
            names = sorted(os.listdir(self.changes_dir))
        except FileNotFoundError:
            return [], []
        except OSError as exc:
            raise explain("list", self.changes_dir, exc) from None
        for name in names:
            if not name.endswith(".json") or name.startswith("."):
                continue
            try:
                records.append(self.read(name[: -len(".json")]))
            except HostFileError:
                damaged.append(os.path.join(self.changes_dir, name))
        return records, damaged

    def remove(self, change_id):
        shutil.rmtree(os.path.join(self.backups_dir, change_id), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.changes_dir, change_id + ".json"))

    def prune(self, now=None):
        """Forget changes that are both old and beyond the number kept."""
        now = time.time() if now is None else now
        records, _damaged = self.list()
        for record in records[:-KEEP_CHANGES]:
            if now - record.get("epoch", now) > KEEP_SECONDS:
                self.remove(record["id"])


def make_private_dir(path):
    """Create ``path`` for root alone; tighten it if somebody else made it wider."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        info = os.lstat(path)
        if not stat.S_ISDIR(info.st_mode):
            raise HostFileError(f"Cannot use {path}: it is not a directory; move it away.")
        if stat.S_IMODE(info.st_mode) & 0o077:
            os.chmod(path, 0o700)
    except OSError as exc:
        raise explain("create the directory", path, exc) from None


def stage(path, content, mode, uid, gid, like=None):
    """Write ``content`` durably to a hidden file beside ``path`` and return its name."""
    directory = os.path.dirname(path)
    staged = None
    try:
        fd, staged = tempfile.mkstemp(prefix=STAGE_PREFIX, suffix=".tmp", dir=directory)
        with os.fdopen(fd, "wb") as handle:
            handle.write(content)
            handle.flush()
            if uid is not None:
                os.fchown(handle.fileno(), uid, gid)
            os.fchmod(handle.fileno(), mode)
            if like is not None:
                copy_attributes(like, staged)
            os.fsync(handle.fileno())
    except OSError as exc:
        if staged is not None:
            discard(staged)
        if exc.errno == errno.ENOENT:
            raise HostFileError(
                f"Cannot write {path}: the directory {directory} does not exist; create it first."
            ) from None
        raise explain("write", path, exc) from None
    return staged


def copy_attributes(source, target):
    """Carry extended attributes (an SELinux label above all) over to the new file, where the file system has any."""
    try:
        names = os.listxattr(source)
    except OSError:
        return
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as exc:
            # A label that cannot be set is the policy's own decision for a new file; everything else is a fault.
            if exc.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
                raise


def rename_into_place(staged, path):
    try:
        os.rename(staged, path)
    except OSError as exc:
        discard(staged)
        raise explain("replace", path, exc) from None
    sync_directory(os.path.dirname(path))


def sync_directory(path):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise explain("open the directory", path, exc) from None
    try:
        os.fsync(fd)
    except OSError as exc:
        # Some network and FUSE file systems cannot sync a directory; the rename itself has happened.
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise explain("sync the directory", path, exc) from None
    finally:
        os.close(fd)


def discard(path):
    # Best effort while another error is on its way to the user; a dot-file is loaded by nobody.
    with contextlib.suppress(OSError):
        os.unlink(path)


def changed_meanwhile(path):
    return HostFileError(f"{path} was changed by somebody else meanwhile; nothing was written, run the task again.")


def check_replaceable(item):
    """Fail now for what would fail at the write; ``item.before`` becomes what is there."""
    item.before = read_file(item.path)
    if item.before.sha256 != item.expected_sha256:
        raise changed_meanwhile(item.path)
    directory = os.path.dirname(item.before.resolved)
    if item.make_directory and not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if not os.path.isdir(directory):
        raise HostFileError(f"Cannot write {item.path}: the directory {directory} does not exist; create it first.")
    check_writable(item, directory)


def check_writable(item, directory):
    try:
        info = os.statvfs(directory)
    except OSError as exc:
        raise explain("write", item.path, exc) from None
    if info.f_flag & os.ST_RDONLY:
        raise explain("write", item.path, OSError(errno.EROFS, ""))
    if not os.access(directory, os.W_OK | os.X_OK):
        raise explain("write", item.path, OSError(errno.EACCES, ""))
    # A file system that counts no blocks at all (some FUSE and network ones) says nothing about space.
    if item.content is not None and info.f_blocks and info.f_bavail * info.f_frsize < len(item.content):
        raise explain("write", item.path, OSError(errno.ENOSPC, ""))


def replace_files(replacements, what, component=None, backup=True, journal=None, check_mode=False, undoes=None):
    """Put all ``replacements`` in place, or none of them.

    Returns the record of the change, or None when every file already is as it shall be. In check mode everything is
    examined and nothing is touched.
    """
    journal = journal or Journal()
    for item in replacements:
        check_replaceable(item)
    pending = [item for item in replacements if item.content != (item.before.content if item.before.exists else None)]
    if not pending:
        return None

    now = time.time()
    record = {
        "id": journal.new_id(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "epoch": int(now),
        "host": os.uname().nodename,
        "what": what,
        "component": component,
        "state": "prepared",
        "undoes": undoes,
        "files": [],
    }
    for item in pending:
        if backup and item.before.exists:
            item.backup = journal.backup_path(record["id"], item.before.resolved)
        record["files"].append(
            {
                "path": item.path,
                "resolved": item.before.resolved,
                "backup": item.backup,
                "sha256_before": item.before.sha256,
                "sha256_after": None if item.content is None else digest(item.content),
                "mode": item.before.mode,
                "owner": [item.before.uid, item.before.gid] if item.before.exists else None,
            }
        )
    if check_mode:
        return record

    try:
        if backup:
            journal.prepare()
            for item in pending:
                if item.backup:
                    save_backup(journal, item)
            # Written before the first rename: a run that is killed in between still leaves a change that can be undone.
            journal.write(record)
        for item in pending:
            if item.content is not None:
                item.staged = stage_item(item)
        for item in pending:
            put_in_place(item)
    except HostFileError:
        undo(pending)
        if backup:
            journal.remove(record["id"])
        raise
    if backup:
        record["state"] = "done"
        journal.write(record)
        journal.prune()
    return record


def save_backup(journal, item):
    make_private_dir(os.path.dirname(item.backup))
    before = item.before
    rename_into_place(stage(item.backup, before.content, mode=before.mode & 0o700, uid=None, gid=None), item.backup)


def stage_item(item):
    before = item.before
    directory = os.path.dirname(before.resolved)
    if item.make_directory and not os.path.isdir(directory):
        try:
            os.mkdir(directory, 0o755)
        except OSError as exc:
            raise explain("create the directory", directory, exc) from None
    if before.exists:
        mode = before.mode & item.limit
        return stage(before.resolved, item.content, mode, before.uid, before.gid, like=before.resolved)
    uid, gid = item.owner or (None, None)
    return stage(before.resolved, item.content, item.mode, uid, gid)


def put_in_place(item):
    target = item.before.resolved
    # The last look before the rename: what an installer wrote meanwhile is not lost.
    if read_file(item.path).sha256 != item.expected_sha256:
        raise changed_meanwhile(item.path)
    if item.content is None:
        try:
            os.unlink(target)
        except OSError as exc:
            raise explain("remove", item.path, exc) from None
        sync_directory(os.path.dirname(target))
    else:
        staged, item.staged = item.staged, None
        rename_into_place(staged, target)
    item.done = True


def undo(replacements):
    """Undo the part of a change that was made before one of its files failed."""
    for item in replacements:
        if item.staged:
            discard(item.staged)
            item.staged = None
    for item in reversed([item for item in replacements if item.done]):
        before = item.before
        if before.exists:
            staged = stage(before.resolved, before.content, before.mode, before.uid, before.gid)
            rename_into_place(staged, before.resolved)
        else:
            discard(before.resolved)
        item.done = False


def state_of(entry):
    """Whether a file of a recorded change is as the change left it, as it was before, or something else."""
    current = read_file(entry["path"]).sha256
    if current == entry["sha256_after"]:
        return "in_place"
    return "undone" if current == entry["sha256_before"] else "edited"


def half_done(journal=None, component=None):
    """The ids of changes of which some files are as they were and others as they were to become, the oldest first."""
    found = []
    for record in (journal or Journal()).list()[0]:
        if record.get("state") == "done" or (component and record.get("component") != component):
            continue
        if {state_of(entry) for entry in record["files"]} == {"in_place", "undone"}:
            found.append(record["id"])
    return found


def discard_leftovers(record):
    """Remove what an interrupted change has staged beside its files."""
    for directory in sorted({os.path.dirname(entry["resolved"]) for entry in record["files"]}):
        for path in glob.glob(os.path.join(directory, STAGE_PREFIX + "*")):
            discard(path)


def restore_change(change_id, journal=None, force=False, check_mode=False):
    """Bring back the files as they were before the change ``change_id``; this is a new change of its own.

    Refuses when a file was edited since, because that edit would be lost, unless ``force``.
    """
    journal = journal or Journal()
    record = journal.read(change_id)
    replacements = []
    for entry in record["files"]:
        current = read_file(entry["path"])
        if current.sha256 == entry["sha256_before"]:
            continue
        if current.sha256 != entry["sha256_after"] and not force:
            raise HostFileError(
                "{} was edited after the change {}; undo the later changes first, or restore with force.".format(
                    entry["path"], change_id
                )
            )
        content = None
        if entry["sha256_before"] is not None:
            if not entry["backup"]:
                raise HostFileError(
                    "The change {} kept no backup of {}; it cannot be undone.".format(change_id, entry["path"])
                )
            saved = read_file(entry["backup"])
            if saved.sha256 != entry["sha256_before"]:
                raise HostFileError(
                    "The backup {} is missing or damaged; it cannot be restored.".format(entry["backup"])
                )
            content = saved.content
        replacements.append(Replacement(entry["path"], content, current.sha256, entry.get("mode"), entry.get("owner")))
    if record.get("state") != "done" and not check_mode:
        discard_leftovers(record)
    if not replacements:
        return None, []
    result = replace_files(
        replacements,
        what="undo {}: {}".format(change_id, record.get("what")),
        component=record.get("component"),
        journal=journal,
        check_mode=check_mode,
        undoes=change_id,
    )
    return result, replacements
