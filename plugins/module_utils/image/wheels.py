# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wheels of the server's pinned dependencies, for the Python and the architecture of a base image."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import sync_path
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.source import (
    LOCK,
    pinned_requirements,
    wheel_platforms,
)

PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")


def run(step: str, argv: t.Sequence[str]) -> str:
    """Run one tool to its end and return what it printed."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise ImageError("%s failed: %s could not be started (%s)." % (step, argv[0], exc.strerror)) from exc
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        name = Path(argv[0]).name
        raise ImageError("%s failed (%s ended with %d): %s" % (step, name, done.returncode, " | ".join(said[-4:])))
    return done.stdout


class Requirements:
    """The wheels of a lock file for one Python and one architecture of Linux, in a folder that is kept."""

    def __init__(self, lock: Path, cache: Path, python_version: str, architecture: str):
        self.python_version = python_version
        self.architecture = architecture
        self.requirements = ["--no-deps", "--require-hashes", "--requirement", str(lock)]
        self.folder = self.named(cache, lock.read_text(encoding="utf-8"))

    def named(self, cache: Path, wanted: str) -> Path:
        key = hashlib.sha256(("%s\n%s\n%s" % (wanted, self.python_version, self.architecture)).encode())
        return cache / ("wheels-" + key.hexdigest()[:12])

    def _download(self, step: str, folder: Path, requirements: t.Sequence[str]) -> None:
        argv = [sys.executable, *PIP, "download", "--quiet", "--only-binary=:all:", "--dest", str(folder)]
        argv += ["--implementation", "cp", "--python-version", self.python_version]
        for platform in wheel_platforms(self.architecture):
            argv += ["--platform", platform]
        run(step, [*argv, *requirements])

    def fetch(self, step: str = "Fetching the controller's packages") -> t.List[Path]:
        """The wheels, downloaded where they are not yet there."""
        if not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".wheels-", dir=self.folder.parent) as name:
                folder = Path(name) / "wheels"
                self._download(step, folder, self.requirements)
                for path in folder.iterdir():
                    sync_path(path)
                os.replace(folder, self.folder)
        return sorted(self.folder.glob("*.whl"))


class Wheels(Requirements):
    """The wheels of the server. The hashes of its lock file decide what is taken."""

    def __init__(self, source: Path, cache: Path, python_version: str, architecture: str):
        self.source = source
        self.python_version = python_version
        self.architecture = architecture
        self.folder = self.named(cache, "\n".join(pinned_requirements(source)))
        lock = source / LOCK
        # The list is complete and has the hash of every file. Left to itself, pip would judge markers by this machine's
        # Python.
        self.requirements = ["--no-deps", "--require-hashes", "--requirement", str(lock)]
        if not lock.is_file():
            self.requirements = pinned_requirements(source)

    def find(self) -> None:
        """Know that the package index has what the server needs, by fetching the first of it and keeping nothing."""
        if self.folder.is_dir():
            return
        first = next(line for line in pinned_requirements(self.source) if not line.startswith("-"))
        name = first.split(";")[0].split("\\")[0].strip()
        with tempfile.TemporaryDirectory(prefix="kubemetrics-") as folder:
            self._download("Asking the package index for the server's dependencies", Path(folder), ["--no-deps", name])

    def fetch(self, step: str = "Fetching the server's dependencies") -> t.List[Path]:
        return super().fetch(step)
