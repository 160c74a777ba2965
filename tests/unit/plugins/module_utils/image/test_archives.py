# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images in files are read in every form, and what is written is read by all."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, oci, push
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import Blobs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from base_images import configuration, docker_archive, layer, oci_files, sha256, tar_of


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path / "blobs")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_docker_archive(tmp_path, blobs, mode):
    path = docker_archive(tmp_path / "base.tar", mode=mode)
    assert list(archives.survey(path)) == ["amd64"]
    image = archives.load(path, "amd64", blobs)
    assert image.layers == [
        {
            "mediaType": oci.LAYER,
            "digest": sha256(layer("etc/amd64", b"base")),
            "size": len(layer("etc/amd64", b"base")),
        }
    ]
    assert blobs.has(image.layers[0]["digest"], image.layers[0]["size"])
    with pytest.raises(ImageError, match=r"no image for the architecture arm64 \(only for amd64\)"):
        archives.load(path, "arm64", blobs)


@pytest.mark.parametrize("folder", [True, False])
def test_an_oci_layout(tmp_path, blobs, folder):
    files = oci_files()
    path = tmp_path / "layout"
    if folder:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        tar_of({"./" + name: content for name, content in files.items()}, path)
    assert sorted(archives.survey(path)) == ["amd64", "arm64"]
    image = archives.load(path, "arm64", blobs)
    assert json.loads(image.config)["architecture"] == "arm64"
    assert [entry["mediaType"] for entry in image.layers] == [oci.LAYER + "+gzip"]


def test_architectures_that_are_only_named(tmp_path):
    path = tar_of(oci_files(missing=("arm64",)), tmp_path / "saved.tar")
    assert list(archives.survey(path)) == ["amd64"]


def test_a_folder_with_an_archive_for_each_architecture(tmp_path, blobs):
    folder = tmp_path / "images"
    folder.mkdir()
    for architecture in ("amd64", "arm64"):
        docker_archive(folder / f"{architecture}.tar", architecture)
    (folder / "SHA256SUMS").write_text("")
    assert sorted(archives.survey(folder)) == ["amd64", "arm64"]
    assert json.loads(archives.load(folder, "arm64", blobs).config)["architecture"] == "arm64"
    docker_archive(folder / "another.tar", "arm64", author="somebody")
    with pytest.raises(ImageError, match="several images for arm64"):
        archives.survey(folder)


def test_what_is_no_image(tmp_path, blobs):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("no tar")
    tar_of({"a": b"1"}, tmp_path / "other.tar")
    tar_of({"manifest.json": b"[{}]"}, tmp_path / "odd.tar")
    for name, said in {
        "empty": "has no archive of an image",
        "text.tar": "is no archive of an image",
        "other.tar": "neither index.json nor manifest.json",
        "odd.tar": "neither index.json nor manifest.json",
        "missing.tar": "is not there",
    }.items():
        with pytest.raises(ImageError, match=said):
            archives.survey(tmp_path / name)
    with pytest.raises(ImageError, match="is damaged"):
        archives.load(docker_archive(tmp_path / "damaged.tar", damaged=True), "amd64", blobs)
    files = oci_files(("amd64",))
    name = max((name for name in files if name.startswith("blobs")), key=lambda name: files[name][:2] == b"\x1f\x8b")
    with pytest.raises(ImageError, match="is damaged"):
        archives.load(tar_of({**files, name: files[name] + b"x"}, tmp_path / "flipped.tar"), "amd64", blobs)
    assert list(blobs.folder.glob(".part-*")) == []


def test_a_name_that_leads_out_of_the_folder(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "layout").mkdir()
    assert archives.Files(tmp_path / "layout").read("../secret") is None


def test_what_is_written_is_read_back(tmp_path, blobs):
    image = archives.load(tar_of(oci_files(), tmp_path / "base.tar"), "arm64", blobs)
    written = []
    for turn in ("one.tar", "two.tar"):
        described = archives.write(tmp_path / turn, "localhost/a/server:1", image, blobs, {})
        written.append((tmp_path / turn).read_bytes())
    assert written[0] == written[1]
    assert described["platform"] == {"architecture": "arm64", "os": "linux"}
    assert archives.load(tmp_path / "one.tar", "arm64", Blobs(tmp_path / "others")) == image
    with tarfile.open(tmp_path / "one.tar") as archive:
        index = json.load(archive.extractfile("index.json"))
        (entry,) = json.load(archive.extractfile("manifest.json"))
        assert {entry["Config"], *entry["Layers"]} <= set(archive.getnames())
    assert index["manifests"][0]["annotations"][oci.CONTAINERD_NAME] == "localhost/a/server:1"
    assert entry["RepoTags"] == ["localhost/a/server:1"]


@pytest.mark.parametrize("digest", ["/etc/hostname", "../../secret", "0" * 63 + "g", "A" * 64, "0" * 64 + "\n"])
def test_a_digest_is_no_path(blobs, digest):
    named = "sha256:" + "/" * (64 - len(digest)) + digest
    with pytest.raises(ImageError, match="in a way that is not known here"):
        oci.check_descriptor({"digest": named, "size": 1}, "The base image")
    manifest = {"schemaVersion": 2, "layers": [{"mediaType": oci.LAYER, "digest": named, "size": 1}]}
    with pytest.raises(ImageError, match="in a way that is not known here"):
        oci.base_layers(manifest, "The base image")
    with pytest.raises(ImageError, match="no digest"):
        blobs.path(named)


def with_links(tmp_path, links, prefix=""):
    """A docker-archive whose second layer is a link."""
    content = layer("etc/amd64", b"base")
    files = {
        "config.json": configuration("amd64", [sha256(content)] * 2),
        "1/layer.tar": content,
        "manifest.json": json.dumps([{"Config": "config.json", "Layers": ["1/layer.tar", "2/layer.tar"]}]).encode(),
    }
    path = tar_of({prefix + name: content for name, content in files.items()}, tmp_path / "linked.tar")
    with tarfile.open(path, "a") as archive:
        for name, (kind, target) in links.items():
            info = tarfile.TarInfo(prefix + name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return path


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("link", [(tarfile.SYMTYPE, "../1/layer.tar"), (tarfile.LNKTYPE, "1/layer.tar")])
def test_layers_that_are_links(tmp_path, blobs, prefix, link):
    path = with_links(tmp_path, {"2/layer.tar": link}, prefix)
    assert len(archives.load(path, "amd64", blobs).layers) == 2


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ({"2/layer.tar": (tarfile.SYMTYPE, "../nowhere/layer.tar")}, "lacks 2/layer.tar"),
        ({"2/layer.tar": (tarfile.LNKTYPE, "nowhere")}, "lacks 2/layer.tar"),
        ({"2/layer.tar": (tarfile.SYMTYPE, "../../../etc/passwd")}, "lacks 2/layer.tar"),
        ({"2/layer.tar": (tarfile.SYMTYPE, "layer.tar")}, "leads in a circle"),
        ({"2/layer.tar": (tarfile.SYMTYPE, "a"), "2/a": (tarfile.LNKTYPE, "2/layer.tar")}, "leads in a circle"),
    ],
)
def test_links_that_lead_nowhere(tmp_path, blobs, links, said):
    with pytest.raises(ImageError, match=said):
        archives.load(with_links(tmp_path, links), "amd64", blobs)


def test_every_amd64_machine_is_v1(tmp_path):
    path = docker_archive(tmp_path / "base.tar", variant="v1")
    assert list(archives.survey(path)) == ["amd64"]
    assert oci.platform_name({"architecture": "amd64", "variant": "v2"}) == "amd64/v2"


def test_what_an_index_has_for_an_architecture():
    def index(*platforms):
        return {
            "manifests": [
                {"digest": "sha256:" + str(number) * 64, "size": 1, **entry} for number, entry in enumerate(platforms)
            ]
        }

    plain, first, second = (
        {"platform": {"architecture": "amd64", **more}} for more in ({}, {"variant": "v1"}, {"variant": "v2"})
    )
    assert oci.choose(index(second, first), "amd64", "The image")["digest"] == "sha256:" + "1" * 64
    assert oci.choose(index({}), "amd64", "The image")["digest"] == "sha256:" + "0" * 64
    assert oci.choose(index({}, plain), "amd64", "The image")["digest"] == "sha256:" + "1" * 64
    assert oci.choose(index(second, {}), "amd64", "The image")["digest"] == "sha256:" + "1" * 64
    with pytest.raises(ImageError, match="not there for the architecture amd64"):
        oci.choose(index({}, {}), "amd64", "The image")


@pytest.mark.parametrize("index", [None, {}, {"manifests": {}}, {"manifests": [1, {"annotations": 1}]}])
def test_odd_indexes_have_nothing_of_ours(index):
    assert push.architectures_there(index, "r1") == set()
    assert oci.merged_index([], index, "r1")["manifests"] == []


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_compressed_archives_that_are_damaged(tmp_path, blobs, pack):
    content = layer("etc/x", b"".join(b"%d," % (number * number) for number in range(20000)))
    files = {
        "config.json": configuration("amd64", [sha256(content)]),
        "manifest.json": json.dumps([{"Config": "config.json", "Layers": ["layer.tar"]}]).encode(),
        "layer.tar": content,
    }
    data = pack(tar_of(files, tmp_path / "plain.tar").read_bytes())
    path = tmp_path / "base.tar"
    for place in range(200, len(data) - 200, len(data) // 7):
        path.write_bytes(data[:place] + bytes(range(40)) + data[place + 40 :])
        with pytest.raises(ImageError, match=r"is damaged|is no archive of an image"):
            archives.load(path, "amd64", blobs)
    assert list(blobs.folder.glob(".part-*")) == []
