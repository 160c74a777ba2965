# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image that is put together is the one of the Containerfile, on every machine the same."""

from __future__ import annotations

import json
import re
import shlex
import tarfile
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, assemble, oci
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import Blobs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from base_images import docker_archive, oci_files, tar_of, wheel

ROOT = Path(__file__).resolve().parents[5]
SERVER = ROOT / "metrics_server"


def instructions():
    """The instructions of the Containerfile, continued lines joined."""
    text = (SERVER / "Containerfile").read_text(encoding="utf-8")
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text))
    found = {}
    for line in text.splitlines():
        name, _space, rest = line.partition(" ")
        if name:
            found[name] = rest
    return found


def pairs(text):
    return dict(part.partition("=")[::2] for part in shlex.split(text))


def test_it_is_what_the_containerfile_says():
    said = instructions()
    settings = assemble.SETTINGS
    assert pairs(said["ENV"]) == settings["Env"]
    assert pairs(said["LABEL"]) == settings["Labels"]
    assert json.loads(said["ENTRYPOINT"]) == settings["Entrypoint"]
    assert said["USER"] == settings["User"]
    assert said["WORKDIR"] == settings["WorkingDir"]
    assert {said["EXPOSE"] + "/tcp"} == set(settings["ExposedPorts"])
    assert said["COPY"].split() == ["site-packages", assemble.TARGET]
    assert said.keys() == {"ARG", "FROM", "LABEL", "COPY", "ENV", "USER", "WORKDIR", "EXPOSE", "ENTRYPOINT"}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "server/src/metrics_server").mkdir(parents=True)
    (tmp_path / "server/src/metrics_server/__main__.py").write_text("print()\n")
    (tmp_path / "server/pyproject.toml").write_text("[project]\nname = 'x'\n")
    return tmp_path / "server"


def made(tmp_path, source, base, architecture="amd64", turn="one"):
    blobs = Blobs(tmp_path / turn)
    wheels = [wheel(tmp_path, "dependency", {"dependency.py": "1"})]
    fetched = assemble.Base(str(base), Registries()).fetch(architecture, blobs)
    return assemble.assemble(source, fetched, wheels, blobs), blobs


def test_one_layer_more_than_the_base(tmp_path, source):
    base = docker_archive(tmp_path / "base.tar")
    image, blobs = made(tmp_path, source, base)
    config = json.loads(image.config)
    assert len(image.layers) == len(config["rootfs"]["diff_ids"]) == len(config["history"]) == 2
    assert config["rootfs"]["diff_ids"][-1] == image.layers[-1]["digest"]
    assert config["created"] == oci.EPOCH
    assert config["config"]["Env"][:2] == ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"]
    assert "PYTHONSAFEPATH=1" in config["config"]["Env"]
    assert config["config"]["Labels"]["maintainer"] == "x"
    assert "Cmd" not in config["config"]
    with tarfile.open(blobs.path(image.layers[-1]["digest"])) as archive:
        assert {"opt/metrics-server/dependency.py", "opt/metrics-server/metrics_server/__main__.py"} < set(
            archive.getnames()
        )
    assert made(tmp_path, source, base, turn="two")[0] == image


def test_every_architecture_is_made_alike(tmp_path, source):
    base = tar_of(oci_files(), tmp_path / "base.tar")
    image, blobs = made(tmp_path, source, base, "arm64")
    archives.write(tmp_path / "made.tar", "localhost/a:1", image, blobs, {})
    assert archives.survey(tmp_path / "made.tar") == {"arm64": oci.digest_of(image.config)}


def test_tags_follow_base_source_and_recipe(tmp_path, source, monkeypatch):
    def tag(base="sha256:1", python="3.13", tool="builtin"):
        return assemble.tag_of_source(source, base, python, tool)

    first = tag()
    assert len({first, tag(base="sha256:2"), tag(python="3.12"), tag(tool="buildah")}) == 4
    assert tag() == first
    monkeypatch.setitem(assemble.SETTINGS, "User", "0:0")
    assert tag() != first


def test_the_tag_of_an_archive_follows_its_images(tmp_path):
    one = tar_of(oci_files(), tmp_path / "one.tar")
    two = tar_of(oci_files(("amd64",)), tmp_path / "two.tar", "w:gz")
    same = tar_of(oci_files(("amd64",)), tmp_path / "same.tar")
    assert assemble.tag_of_archive(one) != assemble.tag_of_archive(two) == assemble.tag_of_archive(same)


def test_bases_that_cannot_be_had(tmp_path):
    with pytest.raises(ImageError, match="is in no registry; save it"):
        assemble.Base("localhost/base:1", Registries())
    with pytest.raises(ImageError, match="is not there"):
        assemble.Base("/no/such/base.tar", Registries()).resolve()
    base = assemble.Base(str(docker_archive(tmp_path / "base.tar")), Registries())
    with pytest.raises(ImageError, match="not there for the architecture arm64"):
        base.find("arm64")


def test_a_file_is_known_by_its_content(tmp_path):
    one, two = docker_archive(tmp_path / "one.tar"), docker_archive(tmp_path / "two.tar")
    other = docker_archive(tmp_path / "other.tar", author="somebody")
    digests = [assemble.Base(str(path), Registries()).resolve().rpartition("@")[2] for path in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]
