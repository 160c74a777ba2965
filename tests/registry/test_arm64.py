# SPDX-License-Identifier: GPL-3.0-or-later
"""The image for arm64, made elsewhere: everything in it is for arm64, and the server starts in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from base_images import sha256

TREE = Path(__file__).resolve().parents[2]
MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PYTHON = "3.11"
#: What Debian's Python needs to run this server. No package's scripts are run: they could not be here.
PACKAGES = (
    "base-files",
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libsqlite3-0",
    "libstdc++6",
    "libuuid1",
    "media-types",
    "netbase",
    "python3-minimal",
    "python3.11-minimal",
    "tzdata",
    "zlib1g",
)
EMULATOR = "qemu-user-static"
AARCH64 = 183


def apt(folder: Path, architecture: str, *arguments: str) -> None:
    """apt with lists of its own, for an architecture that this machine does not have."""
    for name in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "sources.list").write_text(f"deb [arch={architecture} signed-by={keys}] {MIRROR} {SUITE} main\n")
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    settings = [f"-o{name}={value}" for name, value in options.items()]
    subprocess.run(["apt-get", "-qq", *settings, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def debian():
    """A folder with Debian's Python for arm64 and an emulator for it, unpacked once on a machine."""
    assert shutil.which("apt-get") and shutil.which("dpkg-deb"), "This test unpacks Debian packages: run it on Debian."
    cache = Path(os.environ.get("KUBEMETRICS_CACHE") or Path.home() / ".cache/kubemetrics") / "arm64"
    cache.mkdir(parents=True, exist_ok=True)
    done = cache / SUITE
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_dir():
            part = cache / "part"
            shutil.rmtree(part, ignore_errors=True)
            own = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True)
            for name, architecture, packages in (
                ("root", "arm64", PACKAGES),
                ("emulator", own.stdout.strip(), [EMULATOR]),
            ):
                work = part / f"apt-{name}"
                work.mkdir(parents=True)
                apt(work, architecture, "update")
                apt(work, architecture, "download", *packages)
                for package in sorted(work.glob("*.deb")):
                    subprocess.run(["dpkg-deb", "--extract", package, part / name], check=True)
                shutil.rmtree(work)
            os.replace(part, done)
    return done


@pytest.fixture(scope="session")
def base(debian, tmp_path_factory):
    """Debian's Python as an image in a docker-archive."""
    folder = tmp_path_factory.mktemp("base")
    layer = folder / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        for path in sorted((debian / "root").rglob("*")):
            relative = str(path.relative_to(debian / "root"))
            if not relative.startswith(("usr/share/doc", "usr/share/man", "usr/share/locale")):
                archive.add(path, relative, recursive=False)
    content = layer.read_bytes()
    config = json.dumps(
        {
            "architecture": "arm64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(content)]},
        }
    ).encode()
    (folder / "config.json").write_bytes(config)
    manifest = [{"Config": "config.json", "RepoTags": ["localhost/debian-python:1"], "Layers": ["layer.tar"]}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    path = folder / "base.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("config.json", "layer.tar", "manifest.json"):
            archive.add(folder / name, name)
    layer.unlink()
    return path


@pytest.fixture(scope="session")
def image(base, tmp_path_factory):
    """The server's image, as the module makes it with wheels from the package index."""
    folder = tmp_path_factory.mktemp("made")
    arguments = {
        "source": str(TREE / "metrics_server"),
        "cache_dir": str(folder / "cache"),
        "name": "localhost/kubemetrics/metrics-server",
        "tag": "arm64",
        "base": str(base),
        "python_version": PYTHON,
        "architecture": "arm64",
    }
    argv = ["ansible", "localhost", "-c", "local", "-m", "kubemetrics.aggregation.server_image"]
    argv += ["-e", f"ansible_python_interpreter={sys.executable}", "-a", json.dumps(arguments)]
    environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])["archive"]


@pytest.fixture(scope="session")
def unpacked(image, tmp_path_factory):
    """The image's file system, and what its documents say."""
    folder = tmp_path_factory.mktemp("unpacked")
    # It is the root of a user without rights.
    folder.chmod(0o755)
    with tarfile.open(image) as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))
        config = json.load(archive.extractfile(entry["Config"]))
        (described,) = json.load(archive.extractfile("index.json"))["manifests"]
        for name in entry["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                layer.extractall(folder, **({"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}))
    return folder, config, described


def machine_of(path: Path) -> int | None:
    """The machine that an ELF file is for; none for other files."""
    with path.open("rb") as file:
        start = file.read(20)
    return struct.unpack("<H", start[18:20])[0] if start[:4] == b"\x7fELF" else None


def test_everything_in_it_is_for_arm64(unpacked):
    folder, config, described = unpacked
    assert (config["architecture"], described["platform"]["architecture"]) == ("arm64", "arm64")
    libraries = [path for path in (folder / "opt/metrics-server").rglob("*.so*") if path.is_file()]
    names = {path.relative_to(folder / "opt/metrics-server").parts[0] for path in libraries}
    assert {"aiohttp", "cryptography", "httptools", "msgspec", "yaml"} <= names
    assert {machine_of(path) for path in libraries} == {AARCH64}
    assert machine_of(folder / "usr/bin/python3.11") == AARCH64


def test_the_server_starts_in_it(unpacked, debian):
    folder, config, _described = unpacked
    emulator = next((debian / "emulator/usr/bin").glob("qemu-aarch64-static"))
    shutil.copy(emulator, folder / "emulator")
    environment = dict(entry.partition("=")[::2] for entry in config["config"]["Env"])
    settings = ["--no-such-flag"]
    program = [
        "/usr/sbin/chroot",
        "--userspec=65534:65534",
        folder,
        "/emulator",
        "/usr/bin/python3",
        "-m",
        "metrics_server",
    ]
    for arguments, code, said in ((["--version"], 0, "v0."), (["--help"], 0, "Usage:"), (settings, 2, "no-such-flag")):
        done = subprocess.run([*program, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
    done = subprocess.run(
        [
            *program[:5],
            "-c",
            "import platform, cryptography.x509, aiohttp, msgspec, httptools, yaml; print(platform.machine())",
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "aarch64", done.stderr
