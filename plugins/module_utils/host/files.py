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

    #: The recorded change that is in place, in whole or in part, although it failed.
    change_id = None


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

    def __init__(
        self, path, content, expected_sha256, mode=None, owner=None, make_directory=False, limit=0o7777, exact=False
    ):
        self.path = path
        self.content = content
        self.expected_sha256 = expected_sha256
        # Both for a file that does not exist yet; one that does keeps its own, unless ``exact`` is set.
        self.mode = 0o600 if mode is None else mode
        self.owner = owner
        # What the mode of a file that exists may be at most.
        self.limit = limit
        self.exact = exact
        self.make_directory = make_directory
        self.before = None
        self.staged = None
        self.attributes = None
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
        # Whatever keeps a record there is no reason to fail: the change itself is made or undone by now.
        with contextlib.suppress(OSError):
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


def stage(path, content, mode, uid, gid, attributes=None):
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
            set_attributes(staged, attributes or {})
            # After them, because an access control list sets the mode, too.
            os.fchmod(handle.fileno(), mode)
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


def attributes_of(path):
    """The extended attributes of a file (an SELinux label above all), where the file system has any."""
    try:
        return {name: os.getxattr(path, name) for name in os.listxattr(path)}
    except OSError:
        return {}


def set_attributes(path, attributes):
    for name, value in attributes.items():
        try:
            os.setxattr(path, name, value)
        except OSError as exc:
            # A label that cannot be set is the policy's own decision for a new file; everything else is a fault.
            if exc.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
                raise


def rename_into_place(staged, path):
    rename(staged, path)
    sync_directory(os.path.dirname(path))


def rename(staged, path):
    try:
        os.rename(staged, path)
    except OSError as exc:
        discard(staged)
        raise explain("replace", path, exc) from None


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
    examined and nothing is touched. A HostFileError with a ``change_id`` says that some file could not be brought back.
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
    except HostFileError as exc:
        left = undo(pending)
        if left:
            raise left_changed(exc, left, record["id"] if backup else None) from None
        if backup:
            journal.remove(record["id"])
        raise
    if backup:
        finish(journal, record)
    return record


def finish(journal, record):
    """Mark the record of a change that is in place as done.

    The files are there, and whoever called has to know the change by its id: what fails here leaves the record as it
    is, and it can be rolled back like any other.
    """
    try:
        journal.write({**record, "state": "done"})
    except HostFileError:
        return
    record["state"] = "done"
    with contextlib.suppress(HostFileError):
        journal.prune()


def left_changed(cause, left, change_id):
    """The error of a change that failed and could not be undone whole."""
    files = ", ".join(item.path for item in left)
    if change_id:
        todo = f"roll back the recorded change {change_id} when that is mended"
    else:
        todo = "there is no backup; bring back the old content by hand"
    error = HostFileError(
        f"{str(cause).rstrip('.')}, and the old content of {files} could not be brought back; {todo}."
    )
    error.change_id = change_id
    return error


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
    if before.exists and item.exact:
        uid, gid = item.owner or (before.uid, before.gid)
        return stage(before.resolved, item.content, item.mode, uid, gid, attributes_of(before.resolved))
    if before.exists:
        mode = before.mode & item.limit
        return stage(before.resolved, item.content, mode, before.uid, before.gid, attributes_of(before.resolved))
    uid, gid = item.owner or (None, None)
    return stage(before.resolved, item.content, item.mode, uid, gid)


def put_in_place(item):
    target = item.before.resolved
    # The last look before the rename: what an installer wrote meanwhile is not lost.
    if read_file(item.path).sha256 != item.expected_sha256:
        raise changed_meanwhile(item.path)
    # Done before the directory is synced: the file is another one from here on, whether or not that fails.
    item.attributes = attributes_of(target)
    if item.content is None:
        try:
            os.unlink(target)
        except OSError as exc:
            raise explain("remove", item.path, exc) from None
    else:
        staged, item.staged = item.staged, None
        rename(staged, target)
    item.done = True
    sync_directory(os.path.dirname(target))


def undo(replacements):
    """Undo the part of a change that was made before one of its files failed; those that stay changed."""
    for item in replacements:
        if item.staged:
            discard(item.staged)
            item.staged = None
    left = []
    for item in reversed([item for item in replacements if item.done]):
        before = item.before
        try:
            if before.exists:
                rename(
                    stage(before.resolved, before.content, before.mode, before.uid, before.gid, item.attributes),
                    before.resolved,
                )
            else:
                os.unlink(before.resolved)
        except FileNotFoundError:
            pass
        except (HostFileError, OSError):
            left.append(item)
            continue
        item.done = False
        # What failed may have been this; the old content is there all the same.
        with contextlib.suppress(HostFileError):
            sync_directory(os.path.dirname(before.resolved))
    return left


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
    """Bring back the files, their modes and owners as they were before ``change_id``; this is a new change of its own.

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
        mode, owner = entry.get("mode"), entry.get("owner")
        replacements.append(Replacement(entry["path"], content, current.sha256, mode, owner, exact=mode is not None))
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
