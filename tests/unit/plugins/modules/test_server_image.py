# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import sys
import tarfile

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import oci, registry, tools
from ansible_collections.kubemetrics.aggregation.plugins.modules import server_image, server_image_info
from base_images import docker_archive, oci_files, tar_of, wheel

BUILDAH = """\
#!/bin/sh
echo "$*" >> {log}
case "$*" in
"inspect --type image "*) [ -e {folder}/has-base ] ;;
"manifest inspect "*) [ -e {folder}/registry ] || {{ echo "Error: no such host" >&2; exit 125; }} ;;
"pull "*) [ -e {folder}/registry ] && : > {folder}/has-base || {{ echo "Error: no such host" >&2; exit 125; }} ;;
"push "*) for last; do :; done; path=${{last#docker-archive:}}; echo image > "${{path%%:*}}" ;;
esac
"""


@pytest.fixture
def controller(tmp_path, monkeypatch):
    """A controller whose buildah and pip are scripts."""

    class Controller:
        log = tmp_path / "log"
        cache = tmp_path / "cache"
        source = tmp_path / "source"
        base = docker_archive(tmp_path / "base.tar")

        def said(self):
            return self.log.read_text().splitlines() if self.log.exists() else []

        def arguments(self, changes):
            arguments = {"source": str(self.source), "cache_dir": str(self.cache), "base": str(self.base)}
            return {**arguments, "python_version": "3.13", **changes}

        def run(self, run_module, **changes):
            own = {"name": "localhost/a/server", "tag": "1"}
            return run_module(server_image, **self.arguments({**own, **changes}))

        def info(self, run_module, **changes):
            return run_module(server_image_info, **self.arguments(changes))

    controller = Controller()
    programs = tmp_path / "bin"
    programs.mkdir()
    (controller.source / "src/metrics_server").mkdir(parents=True)
    (controller.source / "src/metrics_server/__main__.py").write_text("print()\n")
    (controller.source / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (controller.source / "requirements.txt").write_text("# A list.\nfirst==1 \\\n    --hash=sha256:0\nsecond==2\n")
    (tmp_path / "wheels").mkdir()
    wheel(tmp_path / "wheels", "first", {"first.py": "1"})
    buildah = programs / "buildah"
    buildah.write_text(BUILDAH.format(log=controller.log, folder=tmp_path))
    buildah.chmod(0o755)
    python = programs / "python"
    python.write_text(
        f'#!/bin/sh\necho "$*" >> {controller.log}\n'
        f'[ -e {tmp_path}/index ] || {{ echo "No matching distribution" >&2; exit 1; }}\n'
        f'while [ $# -gt 0 ]; do [ "$1" = --dest ] && mkdir -p "$2" && cp {tmp_path}/wheels/* "$2"; shift; done\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(tools.shutil, "which", lambda name: str(buildah) if name == "buildah" else None)
    return controller


def test_what_is_missing_is_known_in_check_mode(controller, run_module, tmp_path):
    assert "is not there" in controller.run(run_module, check_mode=True, base="/no/such.tar")["msg"]
    assert (
        "not there for the architecture arm64"
        in controller.run(run_module, check_mode=True, architecture="arm64")["msg"]
    )
    assert "is in no registry; save it" in controller.run(run_module, check_mode=True, base="localhost/base:1")["msg"]
    assert "Asking the package index" in controller.run(run_module, check_mode=True)["msg"]
    (tmp_path / "index").touch()
    for stage, changed in (("fetched", False), ("built", True)):
        result = controller.run(run_module, check_mode=True, stage=stage)
        assert (result["changed"], result["needed"], result["size"]) == (changed, True, 0)
    assert controller.said()[-1].endswith("--no-deps first==1")
    assert not controller.cache.exists()


def test_it_is_made_once(controller, run_module, tmp_path):
    (tmp_path / "index").touch()
    fetched = controller.run(run_module, stage="fetched")
    assert (fetched["changed"], fetched["needed"], fetched["size"]) == (False, True, 0)
    before = len(controller.said())
    result = controller.run(run_module)
    assert (result["changed"], result["image"]) == (True, "localhost/a/server:1")
    assert len(controller.said()) == before
    with tarfile.open(result["archive"]) as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))
        with tarfile.open(fileobj=archive.extractfile(entry["Layers"][-1])) as layer:
            assert {"opt/metrics-server/first.py", "opt/metrics-server/metrics_server/__main__.py"} < set(
                layer.getnames()
            )
    for check_mode in (True, False):
        again = controller.run(run_module, check_mode=check_mode)
        assert (again["changed"], again["needed"], again["archive"]) == (False, False, result["archive"])
    # A tag that was given by hand does not bring back what was made of another source.
    (controller.source / "src/metrics_server/__main__.py").write_text("changed\n")
    assert controller.run(run_module)["changed"]
    assert sorted(path.name for path in controller.cache.iterdir() if path.name.startswith(".")) == [".lock"]


def test_pip_takes_what_the_lock_file_says_for_the_base(controller, run_module, tmp_path):
    (tmp_path / "index").touch()
    base = tar_of(oci_files(), tmp_path / "both.tar")
    controller.run(run_module, base=str(base), architecture="arm64")
    (line,) = controller.said()
    assert line.startswith("-m pip ") and " download " in line
    assert "--platform manylinux_2_28_aarch64" in line and "x86_64" not in line
    assert line.endswith(f"--no-deps --require-hashes --requirement {controller.source}/requirements.txt")


def test_an_image_that_is_given_gets_its_name(controller, run_module, tmp_path):
    given = tar_of(oci_files(), tmp_path / "given.tar")
    result = controller.run(run_module, archive=str(given), architecture="arm64")
    assert result["changed"] and controller.said() == []
    with tarfile.open(result["archive"]) as archive:
        index = json.load(archive.extractfile("index.json"))
    assert index["manifests"][0]["annotations"][oci.REF_NAME] == "localhost/a/server:1"
    assert (
        "has no image for the architecture s390x"
        in controller.run(run_module, archive=str(given), architecture="s390x", stage="fetched")["msg"]
    )
    info = controller.info(run_module, archive=str(given))
    assert info["architectures"] == ["amd64", "arm64"] and len(info["tag"]) == 12


def test_the_tag_follows_the_base(controller, run_module, tmp_path):
    info = controller.info(run_module)
    assert (info["base"], info["architectures"]) == (str(controller.base), [])
    docker_archive(controller.base, author="somebody")
    assert controller.info(run_module)["tag"] != info["tag"]
    assert controller.info(run_module, tool="buildah")["tag"] != controller.info(run_module)["tag"]
    assert "is in no registry" in controller.info(run_module, base="localhost/base:1")["msg"]
    assert controller.info(run_module, base="localhost/base:1", tool="buildah")["base"] == "localhost/base:1"


def test_a_registry_that_cannot_be_reached(controller, run_module, monkeypatch):
    monkeypatch.setattr(registry.time, "sleep", lambda seconds: None)
    base = "127.0.0.1:9/base:1"
    said = controller.info(run_module, base=base)["msg"]
    assert said.startswith("The registry 127.0.0.1:9 cannot be reached") and said.count(". ") == 1
    assert f"depends on its base {base}: make that registry reachable, or set" in said
    assert "metrics_server_image_version to the tag that runs" in said
    controller.cache.mkdir()
    known = f"127.0.0.1:9/base@sha256:{'0' * 64}"
    (controller.cache / "bases.json").write_text(json.dumps({base: known}))
    assert controller.info(run_module, base=base)["base"] == known


def test_buildah_gets_the_base_and_builds(controller, run_module, tmp_path):
    arguments = {"base": "localhost/base:1", "tool": "buildah"}
    said = (
        "The base image localhost/base:1 is neither on the controller nor can it be had from its registry (Error: no "
    )
    assert said in controller.run(run_module, check_mode=True, **arguments)["msg"]
    assert said in controller.run(run_module, stage="fetched", **arguments)["msg"]
    (tmp_path / "registry").touch()
    assert "Asking the package index" in controller.run(run_module, check_mode=True, **arguments)["msg"]
    (tmp_path / "index").touch()
    assert controller.run(run_module, check_mode=True, **arguments)["needed"]
    assert not (tmp_path / "has-base").exists()
    controller.run(run_module, stage="fetched", **arguments)
    assert (tmp_path / "has-base").exists()
    result = controller.run(run_module, **arguments)
    assert result["changed"] and result["size"] > 0
    assert any("BASE_IMAGE=localhost/base:1" in line for line in controller.said())


def test_an_image_of_one_architecture_is_found(controller, run_module, tmp_path):
    buildah = tmp_path / "bin/buildah"
    buildah.write_text(buildah.read_text().replace("no such host", "is not a manifest list"))
    (tmp_path / "index").touch()
    assert controller.run(run_module, check_mode=True, base="localhost/base:1", tool="buildah")["needed"]


def test_how_buildah_calls_a_base(tmp_path):
    digest = "sha256:" + "0" * 64
    assert tools.base_of(f"docker.io/library/python:3.13@{digest}") == f"docker.io/library/python@{digest}"
    assert tools.base_of(str(docker_archive(tmp_path / "a.tar"))) == f"docker-archive:{tmp_path}/a.tar"
    assert tools.base_of(str(tar_of(oci_files(), tmp_path / "b.tar"))) == f"oci-archive:{tmp_path}/b.tar"


def test_a_tool_that_is_not_there(controller, run_module):
    message = controller.run(run_module, check_mode=True, tool="podman")["msg"]
    assert message.startswith("Building the image with metrics_server_build_tool=podman needs podman on the controller")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"python_version": "3"}, "a version such as 3.13 is meant"),
        ({"base": ""}, "Either base or archive has to be given"),
        ({"base": "Base"}, "is no name of an image"),
        ({"registries": [{"host": "https://r"}]}, "give the host"),
    ],
)
def test_what_cannot_be_meant(controller, run_module, changes, said):
    assert said in controller.run(run_module, **changes)["msg"]
