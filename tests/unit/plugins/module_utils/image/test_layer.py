# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""The server's layer is the same on every machine, and says what is wrong with a wheel."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import layer
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from base_images import wheel


def test_the_same_files_give_the_same_bytes(tmp_path):
    made = set()
    for turn in ("one", "two"):
        folder = tmp_path / turn
        folder.mkdir()
        names = ["b", "a"] if turn == "one" else ["a", "b"]
        wheels = [
            wheel(folder, name, {f"{name}/__init__.py": name, f"{name}-1.dist-info/METADATA": "x"}) for name in names
        ]
        os.utime(wheels[0], (0, 0))
        files = layer.collect(wheels, {"server/main.py": b"print()"})
        made.add(layer.tar_bytes(files, "/opt/server"))
    assert len(made) == 1
    # Known: should another Python write other headers, every tag would come to mean two images.
    assert hashlib.sha256(made.pop()).hexdigest() == "f39a560a837441ac560d4d848588fab078672584313f94a6f1a073104db3a3d8"


def test_what_is_in_the_tar(tmp_path):
    long = "deep/" * 40 + "file.py"
    files = {"a/b.py": b"1", "a.py": b"", long: b"2" * 513}
    with tarfile.open(fileobj=io.BytesIO(layer.tar_bytes(files, "/opt/server"))) as archive:
        members = {member.name: member for member in archive}
        content = {name: archive.extractfile(f"opt/server/{name}").read() for name in files}
    assert content == files
    assert {(member.uid, member.gid, member.mtime, member.uname) for member in members.values()} == {(0, 0, 0, "")}
    assert {member.mode for member in members.values() if member.isfile()} == {0o644}
    assert {member.mode for member in members.values() if member.isdir()} == {0o755}
    names = list(members)
    assert all(
        str(parent) in names[: names.index(name)] for name in names for parent in [os.path.dirname(name)] if parent
    )


def test_data_folders_of_wheels(tmp_path):
    path = wheel(
        tmp_path,
        "a",
        {"a-1.data/platlib/a.so": "so", "a-1.data/scripts/tool": "#!python", "a-1.data/purelib/b/c.py": "c"},
    )
    assert sorted(layer.collect([path], {})) == ["a.so", "b/c.py"]


def test_wheels_that_cannot_be_used(tmp_path):
    with pytest.raises(ImageError, match="outside of its folder"):
        layer.collect([wheel(tmp_path, "evil", {"../x": "1"})], {})
    with pytest.raises(ImageError, match="another LICENSE"):
        layer.collect([wheel(tmp_path, "a", {"LICENSE": "1"}), wheel(tmp_path, "b", {"LICENSE": "2"})], {})
    with pytest.raises(ImageError, match="the server's own"):
        layer.collect([wheel(tmp_path, "c", {"server/main.py": "1"})], {"server/main.py": b"2"})
    (tmp_path / "broken.whl").write_text("x")
    with pytest.raises(ImageError, match=r"broken.whl cannot be read"):
        layer.collect([tmp_path / "broken.whl"], {})


def test_a_wheel_that_was_damaged_in_its_folder(tmp_path):
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", "".join(map(str, range(5000))))
    data = bytearray(path.read_bytes())
    for place in range(100, len(data) - 200, 500):
        path.write_bytes(data[:place] + b"\xff" * 40 + data[place + 40 :])
        with pytest.raises(ImageError, match=r"a.whl cannot be read .*; delete its folder"):
            layer.collect([path], {})
