# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.modules import server_image

BUILDAH = """\
#!/bin/sh
echo "$*" >> {log}
case "$*" in
"inspect --type image "*) [ -e {folder}/has-base ] ;;
"manifest inspect "*) [ -e {folder}/registry ] || {{ echo "Error: no such host" >&2; exit 125; }} ;;
"pull "*) [ -e {folder}/registry ] && : > {folder}/has-base || {{ echo "Error: no such host" >&2; exit 125; }} ;;
esac
"""


@pytest.fixture
def controller(tmp_path, monkeypatch):
    """A controller whose buildah and pip are scripts."""

    class Controller:
        log = tmp_path / "log"
        cache = tmp_path / "cache"
        programs = tmp_path / "bin"
        source = tmp_path / "source"

        def said(self):
            return self.log.read_text().splitlines() if self.log.exists() else []

        def run(self, run_module, **changes):
            arguments = {
                "source": str(self.source),
                "cache_dir": str(self.cache),
                "name": "localhost/a/server",
                "tag": "1",
                "base": "localhost/base:1",
                "python_version": "3.13",
                "stage": "fetched",
            }
            return run_module(server_image, **{**arguments, **changes})

    controller = Controller()
    controller.programs.mkdir()
    controller.source.mkdir()
    (controller.source / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (controller.source / "requirements.txt").write_text("# A list.\nfirst==1 \\\n    --hash=sha256:0\nsecond==2\n")
    buildah = controller.programs / "buildah"
    buildah.write_text(BUILDAH.format(log=controller.log, folder=tmp_path))
    buildah.chmod(0o755)
    python = controller.programs / "python"
    python.write_text(
        f'#!/bin/sh\necho "$*" >> {controller.log}\n'
        f'[ -e {tmp_path}/index ] || {{ echo "No matching distribution" >&2; exit 1; }}\n'
        'while [ $# -gt 0 ]; do [ "$1" = --target ] && mkdir -p "$2"; shift; done\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", f"{controller.programs}:/usr/bin:/bin")
    monkeypatch.setattr(server_image.shutil, "which", lambda name: str(buildah) if name == "buildah" else None)
    return controller


def test_what_is_missing_is_known_in_check_mode(controller, run_module, tmp_path, monkeypatch):
    assert (
        "The base image localhost/base:1 is neither on the controller nor can it be had from its registry (Error: no "
        in (controller.run(run_module, check_mode=True)["msg"])
    )
    (tmp_path / "registry").touch()
    assert "Asking the package index" in controller.run(run_module, check_mode=True)["msg"]
    (tmp_path / "index").touch()
    result = controller.run(run_module, check_mode=True)
    assert (result["changed"], result["needed"]) == (False, True)
    assert controller.said()[-1].endswith("first==1")
    assert not controller.cache.exists()
    assert not (tmp_path / "has-base").exists()
    monkeypatch.setattr(server_image.shutil, "which", lambda name: None)
    message = controller.run(run_module, check_mode=True)["msg"]
    assert message.startswith("Building the image needs buildah or podman on the controller; install it")
    assert controller.run(run_module, check_mode=True, stage="built")["msg"] == message


def test_what_is_fetched_is_kept(controller, run_module, tmp_path):
    (tmp_path / "registry").touch()
    (tmp_path / "index").touch()
    result = controller.run(run_module)
    assert (result["changed"], result["needed"]) == (False, True)
    assert (tmp_path / "has-base").exists()
    (folder,) = controller.cache.glob("dependencies-*")
    before = len(controller.said())
    controller.run(run_module)
    controller.run(run_module, check_mode=True)
    assert all(line.startswith("inspect ") for line in controller.said()[before:])
    assert folder.is_dir()


def test_the_same_sentences_without_check_mode(controller, run_module, tmp_path):
    assert "is neither on the controller nor" in controller.run(run_module)["msg"]
    (tmp_path / "has-base").touch()
    assert "Fetching the server's dependencies failed" in controller.run(run_module)["msg"]


def test_an_image_of_one_architecture_is_found(controller, run_module, tmp_path):
    text = (controller.programs / "buildah").read_text().replace("no such host", "is not a manifest list")
    (controller.programs / "buildah").write_text(text)
    (tmp_path / "index").touch()
    assert controller.run(run_module, check_mode=True)["needed"]


def test_what_is_built_needs_nothing(controller, run_module):
    controller.cache.mkdir()
    (controller.cache / "localhost_a_server_1-amd64.tar").write_text("archive")
    for check_mode in (True, False):
        result = controller.run(run_module, check_mode=check_mode)
        assert (result["changed"], result["needed"], result["size"]) == (False, False, 7)
    assert controller.said() == []


def test_a_version_that_is_none(controller, run_module):
    assert "a version such as 3.13 is meant" in controller.run(run_module, python_version="3")["msg"]
