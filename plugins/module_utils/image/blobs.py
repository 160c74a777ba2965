# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A folder of blobs under their digests. What is in it has been verified when it came in."""

from __future__ import annotations

import hashlib
import os
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.reference import is_digest

CHUNK = 1 << 20


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

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def add(self, produce: t.Callable[[t.Callable[[bytes], t.Any]], t.Any]) -> t.Tuple[str, int]:
        """Keep what `produce` hands over piece by piece; return its digest and size."""
        return self._store(produce, None, "")

    def add_bytes(self, data: bytes) -> str:
        return self.add(lambda write: write(data))[0]

    def add_expected(
        self, produce: t.Callable[[t.Callable[[bytes], t.Any]], t.Any], descriptor: t.Mapping[str, t.Any], what: str
    ) -> None:
        """Keep it only if it is what a descriptor says."""
        if not self.has(descriptor["digest"]):
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
