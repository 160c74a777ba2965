#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: server_image
short_description: Build the bundled metrics server's image into an archive
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Unpacks the wheels of the server's pinned dependencies, for the Python and the architecture of the base image, and
    puts them and the server onto the base with C(buildah) or C(podman). Nothing runs inside the image while it is
    built, so the base needs no shell and the build no network.
  - The result is an archive that every container runtime loads. It is kept, and built again only when it is missing.
  - Runs where the collection's source is, which is the controller.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
options:
  source:
    description: Folder of the server's source, with its C(pyproject.toml) and C(Containerfile).
    type: path
    required: true
  cache_dir:
    description: Folder for archives and for what builds share. It is created when missing.
    type: path
    required: true
  name:
    description: Name of the image, without its tag.
    type: str
    required: true
  tag:
    description: Tag of the image. Use P(kubemetrics.aggregation.server_image_tag#lookup), so that it follows the
      source.
    type: str
    required: true
  base:
    description: Image that brings Python and nothing else that is needed.
    type: str
    required: true
  python_version:
    description: Version of Python in O(base), as C(3.13).
    type: str
    required: true
  architecture:
    description: Architecture of the nodes, as Kubernetes names it.
    type: str
    default: amd64
  tool:
    description: What builds the image. V(auto) takes C(buildah) where it is installed and C(podman) otherwise.
    type: str
    choices: [auto, buildah, podman]
    default: auto
  stage:
    description:
      - V(built) builds the archive. V(fetched) does only what needs programs and the network - it finds the tool, pulls
        O(base) and fetches the server's dependencies - so that whatever is missing is known before anything else is
        changed. In check mode it looks for O(base) and for the package index without keeping anything.
      - Neither does anything where the archive is there already.
    type: str
    choices: [fetched, built]
    default: built
requirements:
  - pip, for the Python that runs the module
  - buildah or podman
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: An image is not text.
  idempotent:
    support: full
seealso:
  - module: kubemetrics.aggregation.node_image
  - plugin: kubemetrics.aggregation.server_image_tag
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Build the metrics server for the nodes of this cluster
  kubemetrics.aggregation.server_image:
    source: "{{ playbook_dir }}/../metrics_server"
    cache_dir: ~/.cache/kubemetrics/image
    name: localhost/kubemetrics/metrics-server
    tag: 0123456789ab
    base: docker.io/library/python:3.13-slim-bookworm
    python_version: "3.13"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
archive:
  description: Path of the archive (docker-archive format).
  type: str
  returned: success
needed:
  description: Whether the archive is missing, or was until now.
  type: bool
  returned: success
image:
  description: Name and tag of the image in it.
  type: str
  returned: success
size:
  description: Size of the archive in bytes, 0 while it is not built yet (check mode).
  type: int
  returned: success
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.source import (
    LOCK,
    SourceError,
    pinned_requirements,
    source_files,
    wheel_platforms,
)

#: Where the Containerfile expects the unpacked wheels, relative to the context.
SITE = "site-packages"
#: Where the Containerfile puts them.
TARGET = "/opt/metrics-server"


class BuildError(Exception):
    """A step of the build failed; the message is one sentence and ends with what the tool said."""


def run(step: str, argv: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run one tool to its end and return what it printed."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as exc:
        raise BuildError(f"{step} failed: {argv[0]} could not be started ({exc.strerror}).") from exc
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise BuildError(f"{step} failed ({Path(argv[0]).name} ended with {done.returncode}): {' | '.join(said[-4:])}")
    return done.stdout


class Build:
    """One image of one architecture."""

    def __init__(self, params: dict, pip: list[str]):
        self.source = Path(params["source"])
        self.cache = Path(params["cache_dir"])
        self.image = f"{params['name']}:{params['tag']}"
        self.base = params["base"]
        self.python_version = params["python_version"]
        self.architecture = params["architecture"]
        self.tool = params["tool"]
        self.pip = pip
        flat = re.sub(r"[^A-Za-z0-9.-]+", "_", self.image)
        self.archive = self.cache / f"{flat}-{self.architecture}.tar"

    def find_tool(self) -> str:
        """Return the path of what builds images here."""
        names = ["buildah", "podman"] if self.tool == "auto" else [self.tool]
        for name in names:
            path = shutil.which(name)
            if path:
                return path
        raise BuildError(
            f"Building the image needs {' or '.join(names)} on the controller; "
            "install it (apt install buildah, dnf install buildah), "
            "or set metrics_server_image_source to pull."
        )

    def dependency_folder(self) -> Path:
        """Return where the unpacked dependencies are kept."""
        wanted = pinned_requirements(self.source)
        key = hashlib.sha256("\n".join([*wanted, self.python_version, self.architecture]).encode())
        return self.cache / f"dependencies-{key.hexdigest()[:12]}"

    def dependencies(self, work: Path) -> Path:
        """Return a folder with the pinned dependencies unpacked, shared by all builds that have the same ones."""
        wanted = pinned_requirements(self.source)
        folder = self.dependency_folder()
        if folder.is_dir():
            return folder
        partial = work / "dependencies"
        argv = [*self.pip, "install", "--quiet", "--no-compile", "--target", str(partial), "--only-binary=:all:"]
        argv += ["--implementation", "cp", "--python-version", self.python_version]
        for platform in wheel_platforms(self.architecture):
            argv += ["--platform", platform]
        lock = self.source / LOCK
        if lock.is_file():
            # The list is complete and has the hash of every file. Left to itself, pip would judge markers by this
            # machine's Python.
            argv += ["--no-deps", "--require-hashes", "--requirement", str(lock)]
        else:
            argv += wanted
        run("Fetching the server's dependencies", argv)
        # Programs of the dependencies: they name this machine's Python, and the image has no use for them.
        shutil.rmtree(partial / "bin", ignore_errors=True)
        self.compile(partial)
        partial.rename(folder)
        return folder

    def unpack_server(self, target: Path) -> None:
        """Copy the server's own package. It is pure Python, so a wheel would hold these very files."""
        for relative in source_files(self.source):
            if relative.parts[0] == "src":
                copy = target.joinpath(*relative.parts[1:])
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.source / relative, copy)
        self.compile(target)

    def compile(self, folder: Path) -> None:
        """Precompile when the base has the Python that runs here: the server starts on a read-only file system."""
        if self.python_version == f"{sys.version_info[0]}.{sys.version_info[1]}":
            argv = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
            run("Compiling the server", [*argv, "-s", str(folder), "-p", TARGET, str(folder)])

    def has_base(self, tool: str) -> bool:
        """Whether the base image is in the builder's own storage."""
        exists = ["inspect", "--type", "image"] if Path(tool).name == "buildah" else ["image", "exists"]
        try:
            run("Inspecting the base image", [tool, *exists, self.base])
        except BuildError:
            return False
        return True

    def find_base(self, tool: str, *, pull: bool) -> None:
        """Have the base image here, or know at least that its registry has it."""
        if self.has_base(tool):
            return
        argv = ["pull", "--quiet", "--arch", self.architecture] if pull else ["manifest", "inspect"]
        try:
            run("Pulling" if pull else "Finding", [tool, *argv, self.base])
        except BuildError as exc:
            if not pull and "not a manifest list" in str(exc):
                # It was found; it is an image of one architecture.
                return
            said = str(exc).partition("): ")[2] or str(exc)
            raise BuildError(
                f"The base image {self.base} is neither on the controller nor can it be had from its registry "
                f"({said.rstrip('.')}); name a copy that can as metrics_server_image_base, or set "
                "metrics_server_image_source to pull."
            ) from exc

    def find_dependencies(self) -> None:
        """Know that the package index has what the server needs, by fetching the first of it and keeping nothing."""
        if self.dependency_folder().is_dir():
            return
        lines = [line for line in pinned_requirements(self.source) if not line.startswith("-")]
        first = lines[0].split(";")[0].split("\\")[0].strip()
        with tempfile.TemporaryDirectory(prefix="kubemetrics-") as name:
            argv = [*self.pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", name]
            argv += ["--implementation", "cp", "--python-version", self.python_version]
            for platform in wheel_platforms(self.architecture):
                argv += ["--platform", platform]
            run("Asking the package index for the server's dependencies", [*argv, first])

    def fetch(self, *, keep: bool) -> None:
        """Do what needs programs and the network."""
        self.find_base(self.find_tool(), pull=keep)
        if not keep:
            self.find_dependencies()
            return
        with tempfile.TemporaryDirectory(prefix=".build-", dir=self.cache) as name:
            self.dependencies(Path(name))

    def build(self) -> None:
        """Build the archive; it appears whole or not at all."""
        tool = self.find_tool()
        with tempfile.TemporaryDirectory(prefix=".build-", dir=self.cache) as name:
            work = Path(name)
            context = work / "context"
            self.unpack_server(work / "own")
            shutil.copytree(self.dependencies(work), context / SITE)
            shutil.copytree(work / "own", context / SITE, dirs_exist_ok=True)
            argv = [tool, "build", "--isolation", "chroot", "--format", "docker", "--timestamp", "0"]
            argv += ["--arch", self.architecture, "--build-arg", f"BASE_IMAGE={self.base}"]
            argv += ["--file", str(self.source / "Containerfile"), "--tag", self.image, str(context)]
            run(f"Building the image on {self.base}", argv)
            # Plain tar: containerd before 2.0 takes no compressed archive.
            archive = work / "image.tar"
            if Path(tool).name == "podman":
                argv = [tool, "save", "--quiet", "--format", "docker-archive", "--output", str(archive), self.image]
            else:
                argv = [tool, "push", "--quiet", self.image, f"docker-archive:{archive}:{self.image}"]
            run("Saving the image", argv)
            # The archive is what is kept; a copy in the builder's own storage would stay behind with every new tag.
            run("Tidying up after the build", [tool, "rmi", self.image])
            archive.rename(self.archive)


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "cache_dir": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            "base": {"type": "str", "required": True},
            "python_version": {"type": "str", "required": True},
            "architecture": {"type": "str", "default": "amd64"},
            "tool": {"type": "str", "choices": ["auto", "buildah", "podman"], "default": "auto"},
            "stage": {"type": "str", "choices": ["fetched", "built"], "default": "built"},
        },
        supports_check_mode=True,
    )
    if not re.fullmatch(r"3\.\d+", module.params["python_version"]):
        module.fail_json(msg=f"python_version is {module.params['python_version']!r}, a version such as 3.13 is meant.")
    build = Build(module.params, [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"])
    fetch = module.params["stage"] == "fetched"
    changed = not build.archive.is_file()
    try:
        if changed and module.check_mode:
            build.fetch(keep=False)
        elif changed:
            build.cache.mkdir(parents=True, exist_ok=True)
            with (build.cache / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Another run may have built it while this one waited.
                changed = not build.archive.is_file()
                if changed and fetch:
                    build.fetch(keep=True)
                elif changed:
                    build.build()
    except (BuildError, SourceError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"The image cannot be built in {build.cache}: {exc.strerror} ({exc.filename}).")
    size = build.archive.stat().st_size if build.archive.is_file() else 0
    # What is fetched lies in caches; the archive is what counts.
    module.exit_json(
        changed=changed and not fetch, needed=changed, archive=str(build.archive), image=build.image, size=size
    )


if __name__ == "__main__":
    main()
