# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layer that makes a base image the metrics server: the wheels and the server itself, as one tar.

The same files give the same bytes on every machine: sorted, without times, owners and modes of this one, and not
compressed, because compressors differ between versions. Nothing is compiled either: what Python makes of a source
differs, too.
"""

from __future__ import annotations

import io
import tarfile
import typing as t
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError

#: Folders of a wheel's .data that belong beside its packages; its scripts name a Python of another machine.
PACKAGES = ("purelib", "platlib")


def wheel_files(wheel: Path) -> t.Iterator[t.Tuple[str, bytes]]:
    """The files of a wheel, and where they belong below site-packages."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if entry.is_dir():
                    continue
                path = PurePosixPath(entry.filename)
                if path.is_absolute() or ".." in path.parts:
                    raise ImageError("%s has a file outside of its folder (%s)." % (wheel.name, entry.filename))
                if path.parts[0].endswith(".data"):
                    if len(path.parts) < 3 or path.parts[1] not in PACKAGES:
                        continue
                    path = PurePosixPath(*path.parts[2:])
                yield str(path), archive.read(entry)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as exc:
        raise ImageError(
            "The wheel %s cannot be read (%s); delete its folder, so that it is fetched anew." % (wheel, exc)
        ) from exc


def collect(wheels: t.Iterable[Path], own: t.Mapping[str, bytes]) -> t.Dict[str, bytes]:
    """All files of the layer by their place below site-packages."""
    files: t.Dict[str, bytes] = {}
    for wheel in sorted(wheels, key=lambda path: path.name):
        for name, content in wheel_files(wheel):
            if files.setdefault(name, content) != content:
                raise ImageError("The wheel %s has another %s than a wheel before it." % (wheel.name, name))
    for name, content in own.items():
        if name in files:
            raise ImageError("A wheel has the file %s, which is the server's own." % name)
        files[name] = content
    return files


def folders(names: t.Iterable[str]) -> t.Set[str]:
    return {str(parent) for name in names for parent in PurePosixPath(name).parents if str(parent) != "."}


def write_tar(files: t.Mapping[str, bytes], target: str, write: t.Callable[[bytes], t.Any]) -> None:
    """Write the files below `target` as a tar, piece by piece."""
    placed = {str(PurePosixPath(target.lstrip("/")) / name): content for name, content in files.items()}
    for name in sorted({*placed, *folders(placed)}):
        info = tarfile.TarInfo(name if name in placed else name + "/")
        info.uid = info.gid = info.mtime = 0
        if name in placed:
            content = placed[name]
            info.size = len(content)
            info.mode = 0o644
            write(info.tobuf(tarfile.PAX_FORMAT))
            write(content)
            write(b"\0" * (-len(content) % tarfile.BLOCKSIZE))
        else:
            info.type = tarfile.DIRTYPE
            info.mode = 0o755
            write(info.tobuf(tarfile.PAX_FORMAT))
    write(b"\0" * (2 * tarfile.BLOCKSIZE))


def tar_bytes(files: t.Mapping[str, bytes], target: str) -> bytes:
    buffer = io.BytesIO()
    write_tar(files, target, buffer.write)
    return buffer.getvalue()
