# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images in files: what podman, docker, buildah and skopeo save is read; what every container runtime loads is written.

Read are OCI layouts (a folder or a tar) and docker-archives, compressed or not, and a folder of such files, one for
each architecture. Written is an OCI layout that is a docker-archive, too.
"""

from __future__ import annotations

import io
import json
import lzma
import posixpath
import tarfile
import typing as t
import zlib
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import oci
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import CHUNK, Blobs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError

LAYOUT = "oci-layout"
#: What reading a damaged archive raises.
DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".oci")
#: How deep indexes may be in indexes.
DEEPEST = 4
#: How many links may lead to a file.
LONGEST_CHAIN = 40
MAGIC = ((b"\x1f\x8b", "+gzip"), (b"\x28\xb5\x2f\xfd", "+zstd"))


class Found(t.NamedTuple):
    """An image of one architecture in a file: its configuration, and the layers' places there."""

    architecture: str
    config: bytes
    layers: t.List[t.Union[str, oci.Document]]


class Image(t.NamedTuple):
    """An image of one architecture, whose layers are in a store of blobs."""

    config: bytes
    layers: t.List[oci.Document]


class Files:
    """The files of an OCI layout or a docker-archive, be it a folder or a tar."""

    def __init__(self, path: Path):
        self.path = path
        self.tar: t.Optional[tarfile.TarFile] = None
        if not path.is_dir():
            try:
                self.tar = tarfile.open(path)  # noqa: SIM115 - closed when the object is left
                self.members = {posixpath.normpath(entry.name): entry for entry in self.tar}
            except DAMAGED as exc:
                raise ImageError("%s is no archive of an image (%s)." % (path, str(exc).rstrip("."))) from exc

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *unused: t.Any) -> None:
        if self.tar is not None:
            self.tar.close()

    def open(self, name: str) -> t.Optional[t.IO[bytes]]:
        if self.tar is None:
            path = self.path / name
            # What is named in a document stays in the folder.
            inside = self.path.resolve() in path.resolve().parents
            return path.open("rb") if inside and path.is_file() else None
        member = self.member(name)
        return self.tar.extractfile(member) if member is not None else None

    def member(self, name: str) -> t.Optional[tarfile.TarInfo]:
        """What a name of the tar stands for in the end; docker save has links for layers that are the same."""
        for _link in range(LONGEST_CHAIN):
            found = self.members.get(posixpath.normpath(name))
            if found is None or not (found.issym() or found.islnk()):
                return found
            # A symbolic link is relative to its folder, a hard link to the top.
            folder = posixpath.dirname(found.name) if found.issym() else ""
            name = posixpath.join(folder, found.linkname)
        raise ImageError("%s is damaged: the link %s leads in a circle." % (self.path, name))

    def read(self, name: str) -> t.Optional[bytes]:
        file = self.open(name)
        if file is None:
            return None
        with file:
            pieces: t.List[bytes] = []
            copy(file, pieces.append, str(self.path))
            return b"".join(pieces)

    def blob(self, digest: str) -> t.Optional[bytes]:
        data = self.read(blob_name(digest))
        if data is not None and oci.digest_of(data) != digest:
            raise ImageError("%s is damaged: %s is not what it is called." % (self.path, digest))
        return data


def blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def candidates(path: Path) -> t.List[Path]:
    """The files that a path stands for: itself, or the archives in a folder that is no layout."""
    if path.is_dir() and not (path / LAYOUT).is_file():
        found = sorted(
            entry for entry in path.iterdir() if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".")
        )
        if not found:
            raise ImageError("The folder %s has no archive of an image (a file that ends in .tar)." % path)
        return found
    if not path.exists():
        raise ImageError("%s, which should be an archive of an image, is not there." % path)
    return [path]


def images_in(files: Files) -> t.Iterator[Found]:
    """Every Linux image in a file that is there as a whole."""
    index = files.read("index.json")
    if index is not None and files.read(LAYOUT) is not None:
        yield from _oci_images(files, oci.load(index, "index.json in %s" % files.path), DEEPEST)
        return
    listed = files.read("manifest.json")
    try:
        entries = json.loads(listed) if listed is not None else None
        images = [(entry["Config"], [str(name) for name in entry["Layers"]]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        raise ImageError(
            "%s is no archive of an image: it has neither index.json nor manifest.json as podman save, docker save or "
            "skopeo copy write them." % files.path
        ) from None
    for name, layers in images:
        config = files.read(name)
        if config is None:
            raise ImageError("%s lacks the configuration %s of its image." % (files.path, name))
        yield Found(architecture_of(config, files.path), config, list(layers))


def _oci_images(files: Files, index: oci.Document, depth: int) -> t.Iterator[Found]:
    what = "the image in %s" % files.path
    for entry in index.get("manifests") or ():
        data = files.blob(oci.check_descriptor(entry, what)["digest"])
        if data is None:
            # What docker saves names other architectures, too, without having them.
            continue
        document = oci.load(data, what)
        if oci.is_index(document):
            if depth:
                yield from _oci_images(files, document, depth - 1)
            continue
        config = files.blob(oci.check_descriptor(document.get("config"), what)["digest"])
        # Attestations are manifests, too, for no system at all.
        if config is not None and architecture_of(config, files.path):
            layers = oci.base_layers(document, what)
            yield Found(architecture_of(config, files.path), config, list(layers))


def architecture_of(config: bytes, path: Path) -> str:
    """The architecture of an image for Linux; nothing for attestations and other systems."""
    return oci.platform_name(oci.load(config, "the configuration in %s" % path))


def survey(path: Path) -> t.Dict[str, str]:
    """The architectures that a path has an image for, each with the digest of its configuration: its identity."""
    found: t.Dict[str, str] = {}
    for candidate in candidates(path):
        with Files(candidate) as files:
            for image in images_in(files):
                digest = oci.digest_of(image.config)
                if found.setdefault(image.architecture, digest) != digest:
                    raise ImageError(
                        "%s has several images for %s; leave only the one that is meant." % (path, image.architecture)
                    )
    return found


def load(path: Path, architecture: str, blobs: Blobs) -> Image:
    """Take the image for an architecture out of a path into a store of blobs."""
    known = set()
    for candidate in candidates(path):
        with Files(candidate) as files:
            for image in images_in(files):
                known.add(image.architecture)
                if image.architecture == architecture:
                    return _take(files, image, blobs)
    raise ImageError(
        "%s has no image for the architecture %s (only for %s)."
        % (path, architecture, ", ".join(sorted(known)) or "none")
    )


def _take(files: Files, image: Found, blobs: Blobs) -> Image:
    what = "the image in %s" % files.path
    config = oci.load(image.config, what)
    oci.check_config(config, image.architecture, len(image.layers), what)
    layers = []
    for layer, diff_id in zip(image.layers, config["rootfs"]["diff_ids"]):  # noqa: B905 - compared by check_config
        name = layer if isinstance(layer, str) else blob_name(layer["digest"])
        file = files.open(name)
        if file is None:
            raise ImageError("%s lacks %s." % (files.path, name))
        with file:
            if isinstance(layer, str):
                layers.append(_take_layer(file, diff_id, blobs, what))
            else:
                blobs.add_expected(lambda write, file=file: copy(file, write, what), layer, what)
                layers.append(layer)
    return Image(image.config, layers)


def _take_layer(file: t.IO[bytes], diff_id: str, blobs: Blobs, what: str) -> oci.Document:
    """A layer of a docker-archive, which is known by the digest of its content only."""
    digest, size = blobs.add(lambda write: copy(file, write, what))
    with blobs.path(digest).open("rb") as kept:
        start = kept.read(4)
    compression = next((suffix for magic, suffix in MAGIC if start.startswith(magic)), "")
    if not compression and digest != diff_id:
        raise ImageError("%s is damaged: a layer that should be %s is %s." % (what, diff_id, digest))
    return {"mediaType": oci.LAYER + compression, "digest": digest, "size": size}


def copy(file: t.IO[bytes], write: t.Callable[[bytes], t.Any], what: str) -> None:
    """Hand a file over piece by piece. Raises ImageError where it cannot be read, and what `write` raises."""
    while True:
        try:
            piece = file.read(CHUNK)
        except DAMAGED as exc:
            raise ImageError("%s is damaged (%s); get the file anew." % (what, str(exc).rstrip("."))) from exc
        if not piece:
            return
        write(piece)


def described(image: Image, annotations: t.Mapping[str, str]) -> t.Tuple[oci.Document, bytes]:
    """The descriptor of an image's manifest, with the image's platform, and the manifest."""
    manifest = oci.dump(oci.manifest_of(oci.descriptor(image.config, oci.CONFIG), image.layers, annotations))
    config = oci.load(image.config, "the configuration")
    platform = {key: config[key] for key in ("architecture", "os", "variant") if config.get(key)}
    return {**oci.descriptor(manifest, oci.MANIFEST), "platform": platform}, manifest


def write(path: Path, name: str, image: Image, blobs: Blobs, annotations: t.Mapping[str, str]) -> oci.Document:
    """Write an image of one architecture as a file, and return the descriptor of its manifest."""
    entry, manifest = described(image, annotations)
    named = {**entry, "annotations": {oci.REF_NAME: name, oci.CONTAINERD_NAME: name}}
    small = {
        LAYOUT: oci.dump({"imageLayoutVersion": "1.0.0"}),
        "index.json": oci.dump(oci.index_of([named])),
        "manifest.json": oci.dump(
            [
                {
                    "Config": blob_name(oci.digest_of(image.config)),
                    "RepoTags": [name],
                    "Layers": [blob_name(layer["digest"]) for layer in image.layers],
                }
            ]
        ),
        blob_name(entry["digest"]): manifest,
        blob_name(oci.digest_of(image.config)): image.config,
    }
    large = {blob_name(layer["digest"]): layer["digest"] for layer in image.layers}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for folder in ("blobs", "blobs/sha256"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for place in sorted({*small, *large}):
            info = tarfile.TarInfo(place)
            info.mode = 0o644
            if place in small:
                info.size = len(small[place])
                archive.addfile(info, io.BytesIO(small[place]))
            else:
                _add_layer(archive, info, large[place], blobs)
    return entry


def _add_layer(archive: tarfile.TarFile, info: tarfile.TarInfo, digest: str, blobs: Blobs) -> None:
    """Add a layer, whose digest is checked on its way."""
    with blobs.open(digest) as file:
        info.size = blobs.path(digest).stat().st_size
        archive.addfile(info, file)
