# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image of the metrics server, built with buildah or podman from its Containerfile."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, assemble, layer, reference
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import sync_path
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.wheels import Wheels, run

SITE = "site-packages"


class Tool:
    """buildah or podman of this machine."""

    def __init__(self, name: str):
        path = shutil.which(name)
        if path is None:
            raise ImageError(
                "Building the image with metrics_server_build_tool=%s needs %s on the controller; install it (apt "
                "install %s, dnf install %s), or leave metrics_server_build_tool out, which needs no tool."
                % ((name,) * 4)
            )
        self.name = name
        self.path = path

    def has(self, base: str) -> bool:
        """Whether an image is in the tool's own storage."""
        argv = ["inspect", "--type", "image"] if self.name == "buildah" else ["image", "exists"]
        try:
            run("Inspecting the base image", [self.path, *argv, base])
        except ImageError:
            return False
        return True

    def find_base(self, text: str, architecture: str, *, pull: bool) -> None:
        """Have the base image here, or know at least that its registry has it."""
        base = base_of(text)
        if assemble.is_file(text) or self.has(base):
            return
        argv = ["pull", "--quiet", "--arch", architecture] if pull else ["manifest", "inspect"]
        try:
            run("Pulling" if pull else "Finding", [self.path, *argv, base])
        except ImageError as exc:
            if not pull and "not a manifest list" in str(exc):
                # It was found; it is an image of one architecture.
                return
            said = str(exc).partition("): ")[2] or str(exc)
            raise ImageError(
                "The base image %s is neither on the controller nor can it be had from its registry (%s); name a copy "
                "that can as metrics_server_image_base, or set metrics_server_image_source to pull."
                % (base, said.rstrip("."))
            ) from exc

    def build(
        self, *, root: Path, base: str, wheels: Wheels, architecture: str, name: str, work: Path, archive: Path
    ) -> None:
        """Write the image as an archive."""
        context = work / "context"
        for place, content in layer.collect(wheels.fetch(), assemble.own_files(root)).items():
            path = context / SITE / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        argv = [self.path, "build", "--isolation", "chroot", "--format", "docker", "--timestamp", "0"]
        argv += ["--arch", architecture, "--build-arg", "BASE_IMAGE=" + base_of(base)]
        argv += ["--file", str(root / "Containerfile"), "--tag", name, str(context)]
        run("Building the image on " + base, argv)
        # Plain tar: containerd before 2.0 takes no compressed archive.
        saved = work / "image.tar"
        if self.name == "podman":
            argv = [self.path, "save", "--quiet", "--format", "docker-archive", "--output", str(saved), name]
        else:
            argv = [self.path, "push", "--quiet", name, "docker-archive:%s:%s" % (saved, name)]
        run("Saving the image", argv)
        # The archive is what is kept; a copy in the builder's own storage would stay behind with every new tag.
        run("Removing the image from the builder's storage", [self.path, "rmi", name])
        sync_path(saved)
        saved.rename(archive)


def base_of(text: str) -> str:
    """A base as buildah and podman want it: with a transport in front of a file, and no tag beside a digest."""
    if not assemble.is_file(text):
        found = reference.parse(text)
        return str(found._replace(tag="")) if found.digest and found.tag else text
    path = Path(text).expanduser()
    with archives.Files(path) as files:
        layout = files.read(archives.LAYOUT) is not None
    return "%s:%s" % (("oci" if path.is_dir() else "oci-archive") if layout else "docker-archive", path)
