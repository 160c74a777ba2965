# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images for several architectures as one tag of a registry."""

from __future__ import annotations

import io
import typing as t
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, oci
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import Blobs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.reference import Reference
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.registry import PUSH, Registry


def index_there(registry: Registry, reference: Reference) -> t.Optional[oci.Document]:
    """The index under a tag; none where the tag is missing or is an image of one architecture."""
    if registry.digest_of(reference, PUSH) is None:
        return None
    document = oci.load(registry.manifest(reference, PUSH)[0], str(reference))
    return document if oci.is_index(document) else None


def architectures_there(index: t.Optional[oci.Document], revision: str) -> t.Set[str]:
    """The architectures that a tag has an image of this revision for."""
    return {
        oci.platform_name(entry.get("platform"))
        for entry in oci.entries_of(index)
        if oci.revision_of(entry) == revision
    }


def send_image(registry: Registry, reference: Reference, image: archives.Image, blobs: Blobs) -> oci.Document:
    """Send what the registry lacks of an image of one architecture; return the descriptor of its manifest.

    The image gets the repository as a label. A kubelet remembers by the identity of an image that it has pulled it with
    a login, and asks for this login again under every other name (KEP-2535, on since Kubernetes 1.35). The same image
    loaded into the node as localhost/..., with nothing to log in to, could never start there.
    """
    image = image._replace(config=oci.with_label(image.config, oci.REF_NAME, reference.name))
    for entry in image.layers:
        if not registry.has_blob(reference, entry["digest"]):
            with blobs.path(entry["digest"]).open("rb") as file:
                registry.write_blob(reference, entry["digest"], entry["size"], file)
    digest = oci.digest_of(image.config)
    if not registry.has_blob(reference, digest):
        registry.write_blob(reference, digest, len(image.config), io.BytesIO(image.config))
    described, manifest = archives.described(image, {})
    registry.write_manifest(reference._replace(tag="", digest=described["digest"]), manifest, oci.MANIFEST)
    return described


def send(
    registry: Registry, reference: Reference, given: t.Iterable[Path], blobs: Blobs, revision: str
) -> t.Tuple[bool, str]:
    """Send the images in these archives, and the index that makes them one tag. Return whether that changed the tag."""
    before = registry.digest_of(reference, PUSH)
    ours = []
    for path in given:
        for architecture in sorted(archives.survey(path)):
            described = send_image(registry, reference, archives.load(path, architecture, blobs), blobs)
            ours.append({**described, "annotations": {oci.REVISION: revision}})
    index = oci.dump(oci.merged_index(ours, index_there(registry, reference), revision))
    digest = oci.digest_of(index)
    if digest != before:
        registry.write_manifest(reference, index, oci.INDEX)
    return digest != before, digest
