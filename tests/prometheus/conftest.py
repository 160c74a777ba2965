# SPDX-License-Identifier: GPL-3.0-or-later
"""promtool and Prometheus, built from the Go module that program/go.mod pins."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The server, and what its own tests have around it.
sys.path[:0] = [str(HERE.parents[1] / "metrics_server" / folder) for folder in ("tests", "src")]
#: Without service discovery, which would be half of the programs and of what is downloaded for them.
TAGS = "remove_all_sd"


def built(name: str) -> Path:
    """A program of the module, built once on a machine."""
    source = HERE / "program"
    key = hashlib.sha256(b"".join((source / file).read_bytes() for file in ("go.mod", "go.sum"))).hexdigest()[:12]
    cache = Path(os.environ.get("KUBEMETRICS_CACHE") or Path.home() / ".cache/kubemetrics") / "prometheus"
    path = cache / f"{name}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            assert shutil.which("go"), f"These tests build {name}: install Go."
            environment = {
                **os.environ,
                "CGO_ENABLED": "0",
                "GOFLAGS": "-mod=readonly -buildvcs=false",
                "GOTOOLCHAIN": "local",
            }
            argv = ["go", "build", "-trimpath", "-ldflags=-s -w", "-tags", TAGS, "-o", f"{path}.part"]
            argv.append(f"github.com/prometheus/prometheus/cmd/{name}")
            subprocess.run(argv, cwd=source, env=environment, check=True)
            os.replace(f"{path}.part", path)
    return path


@pytest.fixture(scope="session")
def promtool() -> Path:
    return built("promtool")


@pytest.fixture(scope="session")
def prometheus() -> Path:
    return built("prometheus")
