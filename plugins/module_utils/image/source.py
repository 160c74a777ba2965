# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the bundled server's image is made of: which files count, which tag follows from them, which wheels fit a base.

Runs on the controller only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError

try:
    import tomllib
except ImportError:  # older than Python 3.11
    tomllib = None  # type: ignore[assignment]

#: The files that decide what runs in the image. Tests, caches and tool configuration do not.
LOCK = "requirements.txt"
TOP_LEVEL = ("Containerfile", "pyproject.toml", LOCK)
IGNORED_DIRECTORIES = frozenset({"__pycache__"})
IGNORED_SUFFIXES = frozenset({".pyc", ".pyo"})
TAG_LENGTH = 12

#: Kubernetes' name of an architecture -> the one in wheel tags.
WHEEL_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
#: Oldest glibc first; every base that has Python 3.11 or newer from a living distribution has at least 2.28.
MANYLINUX = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_26", "manylinux_2_27", "manylinux_2_28")


class SourceError(ImageError):
    """The source tree cannot be what an image is made of; the message is one sentence for the operator."""


def source_files(root: Path) -> list[Path]:
    """Return the files of the server that decide what the image does, in a stable order, relative to `root`."""
    if not (root / "pyproject.toml").is_file():
        raise SourceError(
            f"{root} holds no metrics server (pyproject.toml is missing there); "
            "install the whole collection, or set metrics_server_image_source to pull."
        )
    found = [Path(name) for name in TOP_LEVEL if (root / name).is_file()]
    for path in (root / "src").rglob("*"):
        relative = path.relative_to(root)
        if (
            path.is_file()
            and path.suffix not in IGNORED_SUFFIXES
            and not IGNORED_DIRECTORIES.intersection(relative.parts)
        ):
            found.append(relative)
    return sorted(found, key=lambda path: path.as_posix())


def source_tag(root: Path, *ingredients: str) -> str:
    """Return the image tag of a source tree: the same files and ingredients give the same tag on every machine."""
    digest = hashlib.sha256()
    for relative in source_files(root):
        content = (root / relative).read_bytes()
        # Lengths keep two neighbouring files from being mistaken for one.
        digest.update(f"{relative.as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    for ingredient in ingredients:
        digest.update(f"\0{len(ingredient)}\0{ingredient}".encode())
    return digest.hexdigest()[:TAG_LENGTH]


def pinned_requirements(root: Path) -> list[str]:
    """Return what the server needs, as it is pinned: all in requirements.txt, or what pyproject.toml names."""
    lock = root / LOCK
    if lock.is_file():
        lines = (line.partition("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
        return sorted(line for line in lines if line)
    if tomllib is None:
        raise SourceError(f"Reading {root / 'pyproject.toml'} needs Python 3.11 or newer, where the image is built.")
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return sorted(str(entry) for entry in project.get("dependencies", []))
    except (tomllib.TOMLDecodeError, KeyError) as exc:
        raise SourceError(f"{root / 'pyproject.toml'} cannot be read: {exc}.") from exc


def wheel_platforms(architecture: str) -> list[str]:
    """Return the platform tags of wheels that run on a Linux base of this architecture."""
    machine = WHEEL_MACHINES.get(architecture)
    if machine is None:
        known = ", ".join(sorted(WHEEL_MACHINES))
        raise SourceError(
            f"No image can be built here for the architecture {architecture} (known: {known}); "
            "set metrics_server_image_source to pull and give an image for it."
        )
    return [f"{name}_{machine}" for name in reversed(MANYLINUX)]
