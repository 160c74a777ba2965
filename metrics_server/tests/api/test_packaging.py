# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes into the image is pinned, whole, and what the tests ran with."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, tuple[str, int]]:
    """Return version and number of hashes of every entry."""
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)", line)
            assert match is not None, line
            found[normal(match[1])] = (match[2], match[3].count("--hash"))
    return found


def test_the_lock_agrees_with_the_project_and_with_what_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = locked()
    for entry in project["dependencies"]:
        name, version = entry.split("==")
        assert lock[normal(name)][0] == version
    for name, (version, _) in lock.items():
        assert metadata.version(name) == version


def test_the_lock_is_whole() -> None:
    lock = locked()
    for name in lock:
        for requirement in metadata.requires(name) or ():
            if "extra ==" not in requirement and "platform_system ==" not in requirement:
                needed = re.match(r"[A-Za-z0-9._-]+", requirement)
                assert needed is not None
                marker = requirement.partition(";")[2]
                if 'python_version < "3.' in marker and "3.13" not in marker:
                    # For a Python older than any that the server runs on.
                    continue
                assert normal(needed[0]) in lock, (name, requirement)


def test_nothing_runs_while_the_image_is_built() -> None:
    steps = {
        line.split()[0] for line in (ROOT / "Containerfile").read_text().splitlines() if re.match(r"[A-Z]+ ", line)
    }
    assert "RUN" not in steps
    assert {"ARG", "FROM", "COPY", "USER", "ENTRYPOINT"} <= steps
