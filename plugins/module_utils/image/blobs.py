# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A folder of blobs under their digests. What is in it is verified when it comes in, and again when it is used.

The folder outlives the run, and a disk that was full, a power failure or somebody's cleaning may have left less in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import oci
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.reference import is_digest

CHUNK = 1 << 20


def sync(file: t.IO[bytes]) -> None:
    """Have a file on its disk. Some file systems keep a new name rather than the content, when power fails."""
    file.flush()
    os.fsync(file.fileno())


def sync_path(path: Path) -> None:
    with path.open("rb") as file:
        sync(file)


class Checked:
    """A file whose digest is known once it has been read."""

    def __init__(self, file: t.IO[bytes]):
        self.file = file
        self.checksum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self.file.read(size)
        self.checksum.update(piece)
        return piece

    @property
    def digest(self) -> str:
        return "sha256:" + self.checksum.hexdigest()


class Blobs:
    """Blobs are written beside their place and renamed, so that no half of one is ever taken for the whole."""

    def __init__(self, folder: Path, kept: t.Optional["Blobs"] = None):
        self.folder = folder
        #: Another store that has some of them already.
        self.kept = kept

    def path(self, digest: str) -> Path:
        # Whoever forgets to check a digest must not reach a file outside of the folder by it.
        if not is_digest(digest):
            raise ImageError("%r is no digest of a part of an image; get the image anew." % digest)
        own = self.folder / digest.partition(":")[2]
        return self.kept.path(digest) if self.kept is not None and not own.is_file() else own

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob is there in its whole length."""
        path = self.path(digest)
        return path.is_file() and path.stat().st_size == size

    def find(self, digest: str) -> t.Optional[bytes]:
        """A small blob; none where it is missing or damaged, and is to be had anew."""
        path = self.path(digest)
        data = path.read_bytes() if path.is_file() else None
        return data if data is not None and oci.digest_of(data) == digest else None

    def read(self, digest: str) -> bytes:
        """A small blob that has been stored. Raises ImageError."""
        data = self.find(digest)
        if data is None:
            raise self.damaged(digest)
        return data

    @contextlib.contextmanager
    def open(self, digest: str) -> t.Iterator["Checked"]:
        """A blob to be read to its end, where ImageError is raised if it was not what it is called."""
        with self.path(digest).open("rb") as file:
            checked = Checked(file)
            yield checked
        if checked.digest != digest:
            raise self.damaged(digest)

    def damaged(self, digest: str) -> ImageError:
        """Drop a blob that is not what it is called, so that the next run gets it anew."""
        path = self.path(digest)
        if path.is_file():
            path.unlink()
        return ImageError(
            "A part of an image that was kept as %s was damaged, and is removed; run this again, and check the disk if "
            "it happens again." % path
        )

    def add(self, produce: t.Callable[[t.Callable[[bytes], t.Any]], t.Any]) -> t.Tuple[str, int]:
        """Keep what `produce` hands over piece by piece; return its digest and size."""
        return self._store(produce, None, "")

    def add_bytes(self, data: bytes) -> str:
        return self.add(lambda write: write(data))[0]

    def add_expected(
        self, produce: t.Callable[[t.Callable[[bytes], t.Any]], t.Any], descriptor: t.Mapping[str, t.Any], what: str
    ) -> None:
        """Keep it only if it is what a descriptor says."""
        if not self.has(descriptor["digest"], descriptor["size"]):
            self._store(produce, descriptor, what)

    def _store(
        self,
        produce: t.Callable[[t.Callable[[bytes], t.Any]], t.Any],
        descriptor: t.Optional[t.Mapping[str, t.Any]],
        what: str,
    ) -> t.Tuple[str, int]:
        self.folder.mkdir(parents=True, exist_ok=True)
        checksum = hashlib.sha256()
        size = 0
        handle, name = tempfile.mkstemp(prefix=".part-", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:

                def write(piece: bytes) -> None:
                    nonlocal size
                    checksum.update(piece)
                    size += len(piece)
                    file.write(piece)

                produce(write)
                sync(file)
            digest = "sha256:" + checksum.hexdigest()
            if descriptor is not None and (digest, size) != (descriptor["digest"], descriptor["size"]):
                raise ImageError(
                    "%s is damaged: a part that should be %s is %s." % (what, descriptor["digest"], digest)
                )
            os.replace(name, self.folder / digest.partition(":")[2])
        except BaseException:
            if os.path.exists(name):
                os.unlink(name)
            raise
        return digest, size
