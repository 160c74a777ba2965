# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image of the metrics server, put together without any tool: a base image and one layer.

What the Containerfile says of the image is said here again; a test compares them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, layer, oci, source
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import reference as references
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import Blobs, sync_path
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.registry import Registry

#: The tool that needs none.
BUILTIN = "builtin"
#: Where the server is in the image.
TARGET = "/opt/metrics-server"
CREATED_BY = "kubemetrics.aggregation: the metrics server and its wheels"
SETTINGS: t.Dict[str, t.Any] = {
    "Env": {
        "PYTHONPATH": TARGET,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
    },
    "Labels": {
        "org.opencontainers.image.title": "kubemetrics metrics server",
        "org.opencontainers.image.description": "The resource metrics API (metrics.k8s.io) of a Kubernetes cluster",
        "org.opencontainers.image.licenses": "GPL-3.0-or-later",
    },
    "ExposedPorts": {"10250/tcp": {}},
    "Entrypoint": ["python3", "-m", "metrics_server"],
    "User": "65534:65534",
    "WorkingDir": "/tmp",
}


def is_file(base: str) -> bool:
    """Whether a base is a file or a folder, and no name in a registry."""
    return base.startswith(("/", "~", "./", "../"))


class Base:
    """The image that brings Python, from a registry or from a file."""

    def __init__(self, base: str, registries: Registries):
        self.text = base
        self.registries = registries
        self.path: t.Optional[Path] = None
        #: Empty where it is a file.
        self.reference = references.Reference("", "", "", "")
        if is_file(base):
            self.path = Path(base).expanduser()
            return
        self.reference = references.parse(base)
        if self.reference.registry == references.NO_REGISTRY:
            raise ImageError(
                "The base image %s is in no registry; save it (podman save --output base.tar %s) and name the file as "
                "metrics_server_image_base, or set metrics_server_build_tool to buildah or podman, which have it."
                % (base, base)
            )

    def registry(self) -> Registry:
        return Registry(self.reference.host, self.registries)

    def resolve(self) -> str:
        """The base as it is now: with its digest, or a file with the digest of what is in it."""
        if self.path is not None:
            found = archives.survey(self.path)
            return "%s@%s" % (self.text, oci.digest_of(oci.dump(found)))
        if self.reference.digest:
            return str(self.reference)
        digest = self.registry().digest_of(self.reference)
        if digest is None:
            raise ImageError("The registry %s has no %s." % (self.reference.registry, self.reference))
        return str(self.reference.pinned(digest))

    def document(self, registry: Registry, reference: references.Reference, blobs: t.Optional[Blobs]) -> oci.Document:
        """A manifest or an index; what is asked for by its digest is not asked for twice."""
        data = blobs.find(reference.digest) if blobs is not None and reference.digest else None
        if data is None:
            data = registry.manifest(reference)[0]
            if blobs is not None:
                blobs.add_bytes(data)
        return oci.load(data, "The base image %s" % (reference,))

    def manifest(self, architecture: str, blobs: t.Optional[Blobs] = None) -> oci.Document:
        """The manifest for an architecture."""
        registry = self.registry()
        document = self.document(registry, self.reference, blobs)
        if oci.is_index(document):
            chosen = oci.choose(document, architecture, "The base image %s" % (self.reference,))
            document = self.document(registry, self.reference.pinned(chosen["digest"]), blobs)
        return document

    def find(self, architecture: str) -> None:
        """Know that it can be had. Raises ImageError."""
        if self.path is None:
            oci.base_layers(self.manifest(architecture), "The base image %s" % self.text)
        elif architecture not in archives.survey(self.path):
            raise ImageError("The base image in %s is not there for the architecture %s." % (self.path, architecture))

    def fetch(self, architecture: str, blobs: Blobs) -> archives.Image:
        """Have it here."""
        if self.path is not None:
            return archives.load(self.path, architecture, blobs)
        registry, reference = self.registry(), self.reference
        what = "The base image %s" % (reference,)
        manifest = self.manifest(architecture, blobs)
        layers = oci.base_layers(manifest, what)
        described = oci.check_descriptor(manifest.get("config"), what)
        for entry in (described, *layers):

            def fetch(entry: oci.Document = entry) -> None:
                blobs.add_expected(lambda write: registry.read_blob(reference, entry, write), entry, what)

            registry.patiently(fetch)
        config = blobs.read(described["digest"])
        oci.check_config(oci.load(config, what), architecture, len(layers), what)
        return archives.Image(config, layers)


def own_files(root: Path) -> t.Dict[str, bytes]:
    """The server's own package. It is pure Python, so a wheel would hold these very files."""
    return {
        str(Path(*relative.parts[1:])): (root / relative).read_bytes()
        for relative in source.source_files(root)
        if relative.parts[0] == "src"
    }


def assemble(root: Path, base: archives.Image, wheels: t.Sequence[Path], blobs: Blobs) -> archives.Image:
    """The base with the server's layer on top of it."""
    files = layer.collect(wheels, own_files(root))
    digest, size = blobs.add(lambda write: layer.write_tar(files, TARGET, write))
    config = oci.extended_config(oci.load(base.config, "the base image"), digest, SETTINGS, CREATED_BY)
    described = {"mediaType": oci.LAYER, "digest": digest, "size": size}
    return archives.Image(oci.dump(config), [*base.layers, described])


def build(
    *,
    root: Path,
    base: archives.Image,
    wheels: t.Sequence[Path],
    blobs: Blobs,
    architecture: str,
    name: str,
    archive: Path,
) -> None:
    """Write the image as an archive; it appears whole or not at all."""
    save(archive, name, assemble(root, base, wheels, blobs), blobs)


def repack(*, given: Path, blobs: Blobs, architecture: str, name: str, archive: Path) -> None:
    """Write an image that is given in a file under another name, which becomes its label, too.

    A kubelet that has pulled the given image with a login, from a registry that somebody copied it to, would ask for
    the login again where it finds the same image in its runtime (see `push.send_image`).
    """
    image = archives.load(given, architecture, blobs)
    config = oci.with_label(image.config, oci.REF_NAME, references.parse(name).name)
    save(archive, name, image._replace(config=config), blobs)


def save(archive: Path, name: str, image: archives.Image, blobs: Blobs) -> None:
    handle, partial = tempfile.mkstemp(prefix=".image-", dir=archive.parent)
    os.close(handle)
    try:
        archives.write(Path(partial), name, image, blobs, {})
        sync_path(Path(partial))
        os.replace(partial, archive)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def tag_of_source(root: Path, base: str, python_version: str, tool: str) -> str:
    """The tag of an image that is made here: it follows from all that decides its content."""
    recipe = oci.digest_of(oci.dump([TARGET, SETTINGS])) if tool == BUILTIN else ""
    return source.source_tag(root, base, python_version, tool, recipe)


def tag_of_archive(path: Path) -> str:
    """The tag of an image that is given in a file: it follows from what the image is, for all its architectures, and
    from what `repack` adds to it."""
    return hashlib.sha256(oci.dump([oci.REF_NAME, archives.survey(path)])).hexdigest()[: source.TAG_LENGTH]
