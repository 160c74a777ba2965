# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documents of the OCI image specification. Pure functions: what is read and written is elsewhere.

Docker's older forms of the same documents are read, too; what is written is OCI's.
"""

from __future__ import annotations

import copy
import hashlib
import json
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.reference import is_digest

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (INDEX, DOCKER_INDEX)
MANIFESTS = (INDEX, DOCKER_INDEX, MANIFEST, DOCKER_MANIFEST)
#: Docker's media types of layers, and OCI's for the same bytes.
LAYERS = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER + "+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": LAYER + "+zstd",
    **{name: name for name in (LAYER, LAYER + "+gzip", LAYER + "+zstd")},
}
#: The variant of an architecture that every machine of it has.
USUAL_VARIANTS = {"amd64": "v1", "arm64": "v8"}
EPOCH = "1970-01-01T00:00:00Z"
#: The name of an image in an archive: the specification's annotation, and the one that containerd prefers.
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
REVISION = "org.opencontainers.image.revision"

Document = t.Dict[str, t.Any]


def dump(document: t.Any) -> bytes:
    """A document as bytes, the same on every machine."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def load(data: bytes, what: str) -> Document:
    try:
        document = json.loads(data)
    except ValueError as exc:
        raise ImageError("%s is no JSON document." % what) from exc
    if not isinstance(document, dict):
        raise ImageError("%s is no document of an image." % what)
    return document


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(data: bytes, media_type: str) -> Document:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def is_index(document: Document) -> bool:
    return document.get("mediaType") in INDEXES or ("manifests" in document and "layers" not in document)


def check_descriptor(entry: t.Any, what: str) -> Document:
    digest = entry.get("digest") if isinstance(entry, dict) else None
    # A digest becomes the name of a file and a part of a URL.
    if not (isinstance(digest, str) and is_digest(digest)):
        raise ImageError("%s names its parts in a way that is not known here (only sha256 is)." % what)
    if not isinstance(entry.get("size"), int) or entry["size"] < 0:
        raise ImageError("%s does not say how large its parts are." % what)
    return entry


def platform_name(platform: t.Any) -> str:
    """An architecture as Kubernetes names it, with its variant where that is not the usual one."""
    if not isinstance(platform, dict) or platform.get("os", "linux") != "linux":
        return ""
    architecture = str(platform.get("architecture") or "")
    variant = str(platform.get("variant") or "")
    return architecture if variant in ("", USUAL_VARIANTS.get(architecture)) else architecture + "/" + variant


def entries_of(index: t.Optional[Document]) -> t.List[Document]:
    """The manifests in an index, be it from whom it may."""
    listed = (index or {}).get("manifests")
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def revision_of(entry: Document) -> str:
    """The source that a manifest was made of."""
    annotations = entry.get("annotations")
    return str(annotations.get(REVISION) or "") if isinstance(annotations, dict) else ""


def choose(index: Document, architecture: str, what: str) -> Document:
    """The manifest for an architecture among those of an index."""
    entries = entries_of(index)
    for entry in entries:
        if platform_name(entry.get("platform")) == architecture:
            return check_descriptor(entry, what)
    unnamed = [entry for entry in entries if entry.get("platform") is None]
    if len(unnamed) == 1:
        # The platform is optional; the configuration has the architecture as well, and is checked.
        return check_descriptor(unnamed[0], what)
    known = sorted({platform_name(entry.get("platform")) for entry in entries} - {"", "unknown"})
    raise ImageError(
        "%s is not there for the architecture %s (only for %s)." % (what, architecture, ", ".join(known) or "none")
    )


def base_layers(manifest: Document, what: str) -> t.List[Document]:
    """The layers of a base image, under OCI's media types."""
    if manifest.get("schemaVersion") != 2 or not isinstance(manifest.get("layers"), list):
        raise ImageError("%s is in a form that registries gave up years ago; name a newer one." % what)
    layers = []
    for entry in manifest["layers"]:
        layer = check_descriptor(entry, what)
        media_type = LAYERS.get(str(layer.get("mediaType")))
        if media_type is None or layer.get("urls"):
            raise ImageError("%s has a layer that may not be copied (%s)." % (what, layer.get("mediaType")))
        layers.append({"mediaType": media_type, "digest": layer["digest"], "size": layer["size"]})
    return layers


def check_config(config: Document, architecture: str, layers: int, what: str) -> None:
    if config.get("os", "linux") != "linux" or config.get("architecture") != architecture:
        raise ImageError(
            "%s is for %s/%s, and not for linux/%s."
            % (what, config.get("os") or "linux", config.get("architecture") or "an unknown architecture", architecture)
        )
    found = (config.get("rootfs") or {}).get("diff_ids")
    if not isinstance(found, list) or len(found) != layers:
        raise ImageError("%s contradicts itself in the number of its layers." % what)


def extended_config(base: Document, diff_id: str, changes: t.Mapping[str, t.Any], created_by: str) -> Document:
    """The configuration of a base image with one more layer and other settings."""
    config = copy.deepcopy(base)
    config["created"] = EPOCH
    for machine in ("author", "container", "container_config", "docker_version"):
        config.pop(machine, None)
    config["rootfs"] = {"type": "layers", "diff_ids": [*base["rootfs"]["diff_ids"], diff_id]}
    config["history"] = [*(base.get("history") or ()), {"created": EPOCH, "created_by": created_by}]
    settings = dict(config.get("config") or {})
    environment = dict(entry.partition("=")[::2] for entry in settings.get("Env") or ())
    environment.update(changes["Env"])
    settings["Env"] = ["%s=%s" % pair for pair in environment.items()]
    settings["Labels"] = {**(settings.get("Labels") or {}), **changes["Labels"]}
    settings["ExposedPorts"] = {**(settings.get("ExposedPorts") or {}), **changes["ExposedPorts"]}
    settings.update({name: changes[name] for name in ("Entrypoint", "User", "WorkingDir")})
    # It would be handed to the entry point.
    settings.pop("Cmd", None)
    config["config"] = settings
    return config


def with_label(config: bytes, name: str, value: str) -> bytes:
    """The configuration of an image with a label more, and thereby an identity of its own."""
    document = load(config, "the configuration")
    settings = dict(document.get("config") or {})
    document["config"] = {**settings, "Labels": {**(settings.get("Labels") or {}), name: value}}
    return dump(document)


def manifest_of(config: Document, layers: t.Sequence[Document], annotations: t.Mapping[str, str]) -> Document:
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": list(layers),
        **({"annotations": dict(annotations)} if annotations else {}),
    }


def index_of(manifests: t.Sequence[Document]) -> Document:
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}


def merged_index(ours: t.Sequence[Document], there: t.Optional[Document], revision: str) -> Document:
    """An index of these manifests, and of those for other architectures that were sent from the same source."""
    architectures = {platform_name(entry.get("platform")) for entry in ours}
    kept = [
        entry
        for entry in entries_of(there)
        if revision_of(entry) == revision and platform_name(entry.get("platform")) not in architectures
    ]
    return index_of(sorted([*ours, *kept], key=lambda entry: platform_name(entry.get("platform"))))
