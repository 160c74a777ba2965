# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import images, packet_filter
from ansible_collections.kubemetrics.aggregation.plugins.modules import node_image

REPOSITORY = "localhost/a/server"
CTR = """\
#!/bin/sh
echo "$*" >> {log}
case "$*" in
*"images list"*) cat {images} ;;
*"images import"*) cat "$7" >> {images} ;;
*"images remove"*) shift 6; for name; do grep -vx "$name" {images} > {images}.new; mv {images}.new {images}; done ;;
esac
"""


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node whose ctr keeps its images in a file."""

    class Node:
        log = tmp_path / "log"
        images = tmp_path / "images"
        archive = tmp_path / "image.tar"

        def said(self):
            return [line.partition(" images ")[2] for line in self.log.read_text().splitlines()]

    (tmp_path / "sbin").mkdir()
    program = tmp_path / "sbin" / "ctr"
    program.write_text(CTR.format(log=Node.log, images=Node.images))
    program.chmod(0o755)
    Node.images.write_text(f"{REPOSITORY}:1\nother:1\n")
    Node.archive.write_text(f"{REPOSITORY}:2\n")
    monkeypatch.setattr(packet_filter, "EXTRA_PATH", f"{tmp_path}/sbin")
    monkeypatch.setattr(node_image, "kubelet_endpoint", lambda: "/run/containerd/containerd.sock")
    return Node()


def run(run_module, **arguments):
    return run_module(node_image, **{"repository": REPOSITORY, **arguments})


def test_an_image_is_loaded_and_pinned(node, run_module):
    wanted = {"image": f"{REPOSITORY}:2", "archive": str(node.archive)}
    predicted = run(run_module, check_mode=True, **wanted)
    assert (predicted["changed"], predicted["images"]) == (True, [f"{REPOSITORY}:1", f"{REPOSITORY}:2"])
    assert node.said() == ["list --quiet"]
    result = run(run_module, **wanted)
    assert (result["changed"], result["images"]) == (True, predicted["images"])
    assert f"label {REPOSITORY}:2 {images.PINNED}" in node.said()
    assert not run(run_module, **wanted)["changed"]


def test_what_is_there_needs_no_archive(node, run_module):
    assert not run(run_module, image=f"{REPOSITORY}:1")["changed"]
    assert "archive (None) is no file" in run(run_module, image=f"{REPOSITORY}:2")["msg"]


def test_an_archive_of_something_else(node, run_module):
    node.archive.write_text("other:2\n")
    assert "holds another image" in run(run_module, image=f"{REPOSITORY}:2", archive=str(node.archive))["msg"]


def test_removal_keeps_what_it_is_told_to_and_all_other_repositories(node, run_module):
    node.images.write_text(f"{REPOSITORY}:1\n{REPOSITORY}:2\nother:1\n")
    assert not run(run_module, state="absent", keep=[f"{REPOSITORY}:1", f"{REPOSITORY}:2"])["changed"]
    result = run(run_module, state="absent", keep=[f"{REPOSITORY}:2"])
    assert (result["changed"], result["images"]) == (True, [f"{REPOSITORY}:2"])
    assert run(run_module, state="absent")["changed"]
    assert node.images.read_text() == "other:1\n"
    assert not run(run_module, state="absent")["changed"]


def test_bad_arguments(node, run_module):
    assert "no image of the repository" in run(run_module, image="other:1")["msg"]
    assert "image" in run(run_module)["msg"]
