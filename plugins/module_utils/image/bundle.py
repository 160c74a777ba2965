# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is carried into a site without internet: archives of collections, wheels, images, and papers about all of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import typing as t
import zipfile
from email.parser import Parser
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import oci
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError

CHUNK = 1 << 20
SBOM = "sbom.cdx.json"
SUMS = "SHA256SUMS"
GUIDE = "INSTALL.md"
MANIFEST, FILES = "MANIFEST.json", "FILES.json"


def sha256_of(path: Path) -> str:
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while True:
            piece = file.read(CHUNK)
            if not piece:
                return checksum.hexdigest()
            checksum.update(piece)


# --- collections ------------------------------------------------------------------------------------------------------


class Collection(t.NamedTuple):
    """A collection as a folder: what its manifest says, and the files that it consists of."""

    information: t.Dict[str, t.Any]
    files: t.Dict[str, t.Optional[Path]]

    @property
    def name(self) -> str:
        return "%(namespace)s.%(name)s" % self.information

    @property
    def archive_name(self) -> str:
        return "%(namespace)s-%(name)s-%(version)s.tar.gz" % self.information


def installed_collection(folder: Path) -> Collection:
    """A collection that ansible-galaxy or the ansible package has installed; files that they left out are left out."""
    try:
        information = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["collection_info"]
        listed = json.loads((folder / FILES).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as exc:
        raise ImageError("%s is no installed collection (%s)." % (folder, type(exc).__name__)) from exc
    files: t.Dict[str, t.Optional[Path]] = {}
    for entry in listed:
        name, path = str(entry["name"]), folder / str(entry["name"])
        if name == "." or ".." in Path(name).parts:
            continue
        if entry.get("ftype") == "file" and path.is_file():
            if sha256_of(path) != entry.get("chksum_sha256"):
                raise ImageError("The collection in %s was changed after its installation (%s)." % (folder, name))
            files[name] = path
    return Collection(information, with_folders(files))


def with_folders(files: t.Dict[str, t.Optional[Path]]) -> t.Dict[str, t.Optional[Path]]:
    found = dict(files)
    for name in files:
        for parent in Path(name).parents:
            if str(parent) != ".":
                found.setdefault(parent.as_posix(), None)
    return found


def write_collection(collection: Collection, path: Path) -> None:
    """The archive that ansible-galaxy installs, the same for the same files."""
    entries: t.List[t.Dict[str, t.Any]] = [directory(".")]
    for name, file in sorted(collection.files.items()):
        if file is None:
            entries.append(directory(name))
        else:
            described = {"name": name, "ftype": "file", "chksum_type": "sha256", "chksum_sha256": sha256_of(file)}
            entries.append({**described, "format": 1})
    listed = oci.dump({"files": entries, "format": 1})
    manifest = {
        "collection_info": collection.information,
        "file_manifest_file": {
            "name": FILES,
            "ftype": "file",
            "chksum_type": "sha256",
            "chksum_sha256": hashlib.sha256(listed).hexdigest(),
            "format": 1,
        },
        "format": 1,
    }
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as compressed:
        _write_files(
            compressed, {MANIFEST: oci.dump(manifest), FILES: listed, **dict(sorted(collection.files.items()))}
        )


def _write_files(stream: t.Any, files: t.Mapping[str, t.Union[bytes, Path, None]]) -> None:
    """A tar of these files, in this order; what has no content is a folder."""
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            if content is None:
                add_folder(archive, name)
            elif isinstance(content, bytes):
                add_bytes(archive, name, content)
            else:
                add_file(archive, name, content)


def directory(name: str) -> t.Dict[str, t.Any]:
    return {"name": name, "ftype": "dir", "chksum_type": None, "chksum_sha256": None, "format": 1}


# --- the archive ------------------------------------------------------------------------------------------------------


def add_folder(archive: tarfile.TarFile, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(info)


def add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    archive.addfile(info, io.BytesIO(content))


def add_file(archive: tarfile.TarFile, name: str, path: Path) -> None:
    info = tarfile.TarInfo(name)
    info.size = path.stat().st_size
    info.mode = 0o755 if path.stat().st_mode & 0o100 and path.suffix not in (".tar", ".whl", ".gz") else 0o644
    with path.open("rb") as file:
        archive.addfile(info, file)


def write_bundle(path: Path, top: str, files: t.Mapping[str, t.Union[bytes, Path]]) -> None:
    """One tar with everything below one folder, without times and owners; what is large in it is compressed already."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        folders = {parent.as_posix() for name in files for parent in (Path(top) / name).parents} - {"."}
        for name in sorted({*folders, *("%s/%s" % (top, name) for name in files)}):
            content = files.get(name[len(top) + 1 :])
            if content is None:
                add_folder(archive, name)
            elif isinstance(content, bytes):
                add_bytes(archive, name, content)
            else:
                add_file(archive, name, content)


def sums(files: t.Mapping[str, t.Union[bytes, Path]]) -> bytes:
    """What sha256sum --check reads."""
    lines = []
    for name, content in sorted(files.items()):
        digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_of(content)
        lines.append("%s  %s\n" % (digest, name))
    return "".join(lines).encode()


# --- the list of what is in it ----------------------------------------------------------------------------------------


def wheel_component(path: Path) -> t.Dict[str, t.Any]:
    """A wheel as a component of CycloneDX."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(entry for entry in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", entry))
            headers = Parser().parsestr(archive.read(name).decode("utf-8", "replace"), headersonly=True)
    except (OSError, zipfile.BadZipFile, StopIteration) as exc:
        raise ImageError("The wheel %s cannot be read." % path) from exc
    project, version = str(headers["Name"]), str(headers["Version"])
    purl = "pkg:pypi/%s@%s" % (re.sub(r"[-_.]+", "-", project).lower(), version)
    component = {
        "type": "library",
        "bom-ref": "%s?file_name=%s" % (purl, path.name),
        "name": project,
        "version": version,
        "purl": "%s?file_name=%s" % (purl, path.name),
        "hashes": [{"alg": "SHA-256", "content": sha256_of(path)}],
    }
    expression, said = headers.get("License-Expression"), " ".join((headers.get("License") or "").split())
    if expression:
        component["licenses"] = [{"expression": expression}]
    elif said and len(said) < 100:
        component["licenses"] = [{"license": {"name": said}}]
    return component


def collection_component(collection: Collection, path: Path) -> t.Dict[str, t.Any]:
    purl = "pkg:ansible/%s@%s" % (collection.name, collection.information["version"])
    component = {
        "type": "library",
        "bom-ref": purl,
        "name": collection.name,
        "version": str(collection.information["version"]),
        "hashes": [{"alg": "SHA-256", "content": sha256_of(path)}],
    }
    names = [str(name) for name in collection.information.get("license") or ()]
    if names:
        component["licenses"] = [{"license": {"name": name}} for name in names]
    return component


def image_component(name: str, version: str, architecture: str, path: Path, base: str) -> t.Dict[str, t.Any]:
    """The image of one architecture, with the base that it stands on."""
    return {
        "type": "container",
        "bom-ref": "%s:%s/%s" % (name, version, architecture),
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": sha256_of(path)}],
        "properties": [
            {"name": "kubemetrics:architecture", "value": architecture},
            {"name": "kubemetrics:base", "value": base},
        ],
    }


def sbom(main: t.Mapping[str, t.Any], components: t.Iterable[t.Mapping[str, t.Any]]) -> bytes:
    """A CycloneDX document. Without a time and a random number, so that the same bundle is the same file."""
    listed = sorted(
        {entry["bom-ref"]: dict(entry) for entry in components}.values(), key=lambda entry: entry["bom-ref"]
    )
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": dict(main)},
        "components": [entry for entry in listed if entry["bom-ref"] != main["bom-ref"]],
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
