# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small base images as files, in the forms in which programs save them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def configuration(architecture: str, diff_ids: list[str], **more) -> bytes:
    document = {
        "architecture": architecture,
        "os": "linux",
        "created": "2026-01-02T03:04:05Z",
        "config": {"Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"], "Cmd": ["python3"], "Labels": {"maintainer": "x"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2026-01-02T03:04:05Z", "created_by": "base"}],
        **more,
    }
    return json.dumps(document).encode()


def tar_of(files: dict[str, bytes], path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def docker_archive(path: Path, architecture: str = "amd64", *, mode: str = "w", damaged: bool = False, **more) -> Path:
    """What podman save and docker save wrote for years."""
    content = layer("etc/" + architecture, b"base")
    config = configuration(architecture, [sha256(content)], **more)
    name = sha256(config)[7:] + ".json"
    files = {
        name: config,
        "layer.tar": content[:-1] + b"x" if damaged else content,
        "manifest.json": json.dumps(
            [{"Config": name, "RepoTags": ["localhost/base:1"], "Layers": ["layer.tar"]}]
        ).encode(),
    }
    return tar_of(files, path, mode)


def oci_files(architectures: tuple[str, ...] = ("amd64", "arm64"), missing: tuple[str, ...] = ()) -> dict[str, bytes]:
    """An OCI layout whose index has an index of several architectures, as docker saves one, and an attestation."""
    files: dict[str, bytes] = {}

    def blob(data: bytes) -> dict:
        files["blobs/sha256/" + sha256(data)[7:]] = data
        return {"digest": sha256(data), "size": len(data)}

    entries = []
    for architecture in architectures:
        before = set(files)
        plain = layer("etc/" + architecture, b"base")
        config = blob(configuration(architecture, [sha256(plain)]))
        packed = blob(gzip.compress(plain, mtime=0))
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **config},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", **packed}],
        }
        entry = {
            "mediaType": manifest["mediaType"],
            **blob(json.dumps(manifest).encode()),
            "platform": {
                "architecture": architecture,
                "os": "linux",
                **({"variant": "v8"} if architecture == "arm64" else {}),
            },
        }
        entries.append(entry)
        if architecture in missing:
            for name in set(files) - before:
                del files[name]
    statement = blob(b"{}")
    attestation = {
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **blob(json.dumps({"architecture": "unknown", "os": "unknown"}).encode()),
        },
        "layers": [{"mediaType": "application/vnd.in-toto+json", **statement}],
    }
    entries.append(
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            **blob(json.dumps(attestation).encode()),
            "platform": {"architecture": "unknown", "os": "unknown"},
        }
    )
    inner = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    outer = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": inner["mediaType"], **blob(json.dumps(inner).encode())}],
    }
    files["index.json"] = json.dumps(outer).encode()
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    return files


def wheel(folder: Path, name: str, files: dict[str, str]) -> Path:
    import zipfile

    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place, content in files.items():
            archive.writestr(place, content)
    return path
