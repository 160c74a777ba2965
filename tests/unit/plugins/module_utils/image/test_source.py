# SPDX-License-Identifier: GPL-3.0-or-later
"""The image's tag follows from what decides its content, and from nothing else."""

from __future__ import annotations

import os

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import source as server_image


@pytest.fixture
def source(tmp_path):
    (tmp_path / "src" / "metrics_server").mkdir(parents=True)
    (tmp_path / "src" / "metrics_server" / "a.py").write_text("a = 1\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["b==2", "a==1"]\n')
    (tmp_path / "Containerfile").write_text("FROM scratch\n")
    return tmp_path


def test_the_same_source_has_the_same_tag(source):
    tag = server_image.source_tag(source, "base")
    os.utime(source / "src" / "metrics_server" / "a.py", (0, 0))
    assert server_image.source_tag(source, "base") == tag
    assert len(tag) == 12


@pytest.mark.parametrize(
    "file", ["src/metrics_server/a.py", "src/metrics_server/new.py", "Containerfile", "requirements.txt"]
)
def test_what_changes_the_image_changes_the_tag(source, file):
    before = server_image.source_tag(source, "base")
    (source / file).write_text("changed\n")
    assert server_image.source_tag(source, "base") != before


@pytest.mark.parametrize(
    "file", ["README.md", "tests/t.py", ".venv/x.py", "src/metrics_server/__pycache__/a.pyc", "src/b.pyc"]
)
def test_what_does_not_come_into_the_image_does_not(source, file):
    before = server_image.source_tag(source, "base")
    (source / file).parent.mkdir(parents=True, exist_ok=True)
    (source / file).write_text("x")
    assert server_image.source_tag(source, "base") == before


def test_the_base_counts(source):
    assert len({server_image.source_tag(source, *parts) for parts in ([], ["a"], ["b"], ["a", "b"], ["ab"])}) == 5


def test_moving_text_between_files_changes_the_tag(source):
    package = source / "src" / "metrics_server"
    (package / "a.py").write_text("xy")
    (package / "b.py").write_text("z")
    before = server_image.source_tag(source)
    (package / "a.py").write_text("x")
    (package / "b.py").write_text("yz")
    assert server_image.source_tag(source) != before


def test_a_folder_without_server(tmp_path):
    with pytest.raises(server_image.SourceError, match="metrics_server_image_source"):
        server_image.source_files(tmp_path)


def test_requirements(source):
    assert server_image.pinned_requirements(source) == ["a==1", "b==2"]
    (source / "requirements.txt").write_text("# all of them\nc==3  # why\n\nb==2\n")
    assert server_image.pinned_requirements(source) == ["b==2", "c==3"]


def test_a_broken_project_file(source):
    (source / "pyproject.toml").write_text("[project")
    with pytest.raises(server_image.SourceError, match="cannot be read"):
        server_image.pinned_requirements(source)


def test_platforms():
    assert "manylinux_2_28_x86_64" in server_image.wheel_platforms("amd64")
    assert "manylinux2014_aarch64" in server_image.wheel_platforms("arm64")
    with pytest.raises(server_image.SourceError, match="s390x"):
        server_image.wheel_platforms("s390x")
