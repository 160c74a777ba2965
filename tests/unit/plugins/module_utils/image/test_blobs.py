# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is kept between runs may be damaged, and is then got anew and in no image."""

from __future__ import annotations

import json
import os

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, assemble, oci
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import Blobs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from base_images import configuration, layer, sha256

LAYER = layer("etc/x", b"base")
CONFIG = configuration("amd64", [sha256(LAYER)])
PARTS = [{"digest": sha256(data), "size": len(data)} for data in (CONFIG, LAYER)]
MANIFEST = json.dumps(
    {"schemaVersion": 2, "config": PARTS[0], "layers": [{**PARTS[1], "mediaType": oci.LAYER}]}
).encode()


class Registry:
    """A registry that counts what it is asked for."""

    def __init__(self):
        self.asked = []

    def patiently(self, step):
        return step()

    def manifest(self, reference):
        self.asked.append("manifest")
        return MANIFEST, sha256(MANIFEST)

    def read_blob(self, reference, descriptor, write):
        self.asked.append(descriptor["digest"])
        write({sha256(data): data for data in (CONFIG, LAYER)}[descriptor["digest"]])


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def fetch(registry, blobs, monkeypatch):
    base = assemble.Base(f"registry.example.com/a@{sha256(MANIFEST)}", Registries())
    monkeypatch.setattr(base, "registry", lambda: registry)

    def run():
        registry.asked.clear()
        return base.fetch("amd64", blobs)

    run()
    return run


def test_what_is_whole_is_not_asked_for_again(fetch, registry):
    fetch()
    assert registry.asked == []


def test_half_a_layer_is_asked_for_again(fetch, registry, blobs):
    os.truncate(blobs.path(sha256(LAYER)), 100)
    fetch()
    assert registry.asked == [sha256(LAYER)]
    assert blobs.path(sha256(LAYER)).read_bytes() == LAYER


def test_a_damaged_manifest_is_asked_for_again(fetch, registry, blobs):
    for damaged in (b"", MANIFEST.replace(b"2", b"3", 1)):
        blobs.path(sha256(MANIFEST)).write_bytes(damaged)
        fetch()
        assert registry.asked == ["manifest"]


def test_a_damaged_configuration_is_removed(fetch, registry, blobs):
    blobs.path(sha256(CONFIG)).write_bytes(CONFIG.replace(b"linux", b"minix"))
    with pytest.raises(ImageError, match=f"{sha256(CONFIG)[7:]} was damaged, and is removed; run this again"):
        fetch()
    assert fetch().config == CONFIG


def test_a_damaged_layer_gets_into_no_archive(fetch, blobs, tmp_path):
    blobs.path(sha256(LAYER)).write_bytes(LAYER[:-1] + b"x")
    image = fetch()
    archive = tmp_path / "made.tar"
    with pytest.raises(ImageError, match=f"{sha256(LAYER)[7:]} was damaged, and is removed; run this again"):
        assemble.save(archive, "localhost/a:1", image, blobs)
    assert [path.name for path in tmp_path.iterdir()] == ["blobs"]
    assemble.save(archive, "localhost/a:1", fetch(), blobs)
    assert archives.survey(archive) == {"amd64": sha256(CONFIG)}


def test_content_is_on_the_disk_before_its_name(fetch, blobs, tmp_path, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (steps.append(name), real(*args)))
    blobs.add_bytes(b"new")
    assert steps == ["fsync", "replace"]
    assemble.save(tmp_path / "made.tar", "localhost/a:1", fetch(), blobs)
    assert steps == ["fsync", "replace"] * 2
