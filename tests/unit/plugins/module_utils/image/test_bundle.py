# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is carried into a site is complete, the same each time, and described."""

from __future__ import annotations

import hashlib
import json
import tarfile

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import bundle
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from base_images import wheel

INFORMATION = {"namespace": "example", "name": "tools", "version": "1.2.3", "license": ["MIT"], "dependencies": {}}


@pytest.fixture
def installed(tmp_path):
    """A collection as the ansible package has it: some files of the list were left out."""
    folder = tmp_path / "installed"
    (folder / "plugins").mkdir(parents=True)
    entries = [bundle.directory("."), bundle.directory("plugins"), bundle.directory("tests")]
    for name, content in {"README.md": "read", "plugins/a.py": "a = 1\n", "tests/t.py": None}.items():
        if content is not None:
            (folder / name).write_text(content)
        digest = hashlib.sha256((content or "gone").encode()).hexdigest()
        entries.append({"name": name, "ftype": "file", "chksum_type": "sha256", "chksum_sha256": digest, "format": 1})
    (folder / "FILES.json").write_text(json.dumps({"files": entries, "format": 1}))
    (folder / "MANIFEST.json").write_text(json.dumps({"collection_info": INFORMATION, "format": 1}))
    return folder


def test_an_installed_collection_is_packed_as_ansible_galaxy_wants_it(installed, tmp_path):
    collection = bundle.installed_collection(installed)
    written = []
    for name in ("one.tar.gz", "two.tar.gz"):
        bundle.write_collection(collection, tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert (collection.name, collection.archive_name) == ("example.tools", "example-tools-1.2.3.tar.gz")
    with tarfile.open(tmp_path / "one.tar.gz") as archive:
        listed = archive.extractfile("FILES.json").read()
        manifest = json.load(archive.extractfile("MANIFEST.json"))
        names = [entry["name"] for entry in json.loads(listed)["files"]]
        assert names == [".", "README.md", "plugins", "plugins/a.py"]
        assert set(archive.getnames()) == {"MANIFEST.json", "FILES.json", *names[1:]}
    assert manifest["file_manifest_file"]["chksum_sha256"] == hashlib.sha256(listed).hexdigest()
    assert manifest["collection_info"] == INFORMATION


def test_a_collection_that_somebody_has_changed(installed, tmp_path):
    (installed / "plugins/a.py").write_text("a = 2\n")
    with pytest.raises(ImageError, match=r"changed after its installation \(plugins/a.py\)"):
        bundle.installed_collection(installed)
    with pytest.raises(ImageError, match="is no installed collection"):
        bundle.installed_collection(tmp_path)


def test_checksums_are_what_sha256sum_checks(tmp_path):
    (tmp_path / "a").write_text("1")
    files = {"b/a": tmp_path / "a", "c": b"2"}
    assert bundle.sums(files).decode() == (
        f"{hashlib.sha256(b'1').hexdigest()}  b/a\n{hashlib.sha256(b'2').hexdigest()}  c\n"
    )
    for name in ("one.tar", "two.tar"):
        bundle.write_bundle(tmp_path / name, "top", files)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert archive.getnames() == ["top", "top/b", "top/b/a", "top/c"]


def test_everything_is_listed(installed, tmp_path):
    collection = bundle.installed_collection(installed)
    bundle.write_collection(collection, tmp_path / "c.tar.gz")
    metadata = "Name: A_Package\nVersion: 1\nLicense-Expression: MIT\n\nLicense: none\n"
    path = wheel(tmp_path, "a_package", {"a_package-1.dist-info/METADATA": metadata})
    main = bundle.collection_component(collection, tmp_path / "c.tar.gz")
    image = bundle.image_component("localhost/a", "1", "arm64", path, "registry.example.com/python@sha256:1")
    document = json.loads(bundle.sbom(main, [main, bundle.wheel_component(path), bundle.wheel_component(path), image]))
    assert document["metadata"]["component"]["name"] == "example.tools"
    assert [entry["name"] for entry in document["components"]] == ["localhost/a", "A_Package"]
    listed = document["components"][1]
    assert listed["purl"] == "pkg:pypi/a-package@1?file_name=a_package-1-py3-none-any.whl"
    assert listed["hashes"][0]["content"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert listed["licenses"] == [{"expression": "MIT"}]
    (tmp_path / "broken.whl").write_text("x")
    with pytest.raises(ImageError, match="cannot be read"):
        bundle.wheel_component(tmp_path / "broken.whl")
