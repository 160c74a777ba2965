# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of images are read as podman and docker read them."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import reference
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "host", "name", "version"),
    [
        ("python", "registry-1.docker.io", "docker.io/library/python", "latest"),
        ("python:3.13-slim", "registry-1.docker.io", "docker.io/library/python", "3.13-slim"),
        ("docker.io/library/python:3.13", "registry-1.docker.io", "docker.io/library/python", "3.13"),
        ("docker.io/python:3.13", "registry-1.docker.io", "docker.io/library/python", "3.13"),
        ("index.docker.io/python", "registry-1.docker.io", "docker.io/library/python", "latest"),
        ("Docker.io/python", "registry-1.docker.io", "docker.io/library/python", "latest"),
        (f"docker.io/python@{DIGEST}", "registry-1.docker.io", "docker.io/library/python", DIGEST),
        ("index.docker.io/user/thing:1", "registry-1.docker.io", "docker.io/user/thing", "1"),
        ("registry.example.com/python:1", "registry.example.com", "registry.example.com/python", "1"),
        ("user/thing:1", "registry-1.docker.io", "docker.io/user/thing", "1"),
        ("registry.example.com:5000/a/b_c:1.0", "registry.example.com:5000", "registry.example.com:5000/a/b_c", "1.0"),
        ("localhost:5000/a", "localhost:5000", "localhost:5000/a", "latest"),
        ("localhost/a:1", "localhost", "localhost/a", "1"),
        (f"registry.example.com/a@{DIGEST}", "registry.example.com", "registry.example.com/a", DIGEST),
        (f"registry.example.com/a:1@{DIGEST}", "registry.example.com", "registry.example.com/a", DIGEST),
        ("[2001:db8::1]:5000/a:1", "[2001:db8::1]:5000", "[2001:db8::1]:5000/a", "1"),
    ],
)
def test_names(text, host, name, version):
    found = reference.parse(text)
    assert (found.host, found.name, found.version) == (host, name, version)


@pytest.mark.parametrize(
    "text",
    ["a@sha256:12", "registry.example.com/A:1", "a b", "", "a:", "https://registry.example.com/a", "a/:1"]
    + ["registry..example.com/a:1", "-r.example.com/a", "r.example.com:65536/a", f"{'a' * 64}.example.com/a"],
)
def test_what_is_no_name(text):
    with pytest.raises(ImageError, match="no name of an image"):
        reference.parse(text)


def test_a_pinned_name_keeps_its_tag():
    assert str(reference.parse("python:3.13").pinned(DIGEST)) == f"docker.io/library/python:3.13@{DIGEST}"


def test_hosts_in_one_spelling():
    for name in ("docker.io", "index.docker.io", "Registry-1.docker.io:443"):
        assert reference.normalized(name) == "registry-1.docker.io"
    assert reference.normalized("R.Example.com:443") == "r.example.com"
    assert reference.normalized("R.Example.com:4430") == "r.example.com:4430"
