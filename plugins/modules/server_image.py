#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: server_image
short_description: Make the bundled metrics server's image as an archive
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Puts one layer, with the server and the wheels of its pinned dependencies, onto a base image that brings Python. No
    tool is needed for it and no root, and nothing runs inside the image, so that the image of another architecture is
    made like any other. The same source, base and architecture give the same image on every machine.
  - O(tool) has it built from the Containerfile by C(buildah) or C(podman) instead, and O(archive) takes an image that
    was made elsewhere.
  - The result is an archive that every container runtime loads. It is kept, and made again only when it is missing.
  - Runs where the collection's source is, which is the controller.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.registries
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
    description: Tag of the image. Use RV(kubemetrics.aggregation.server_image_info#module:tag), so that it follows the
      source and the base.
    type: str
    required: true
  base:
    description: Image that brings Python and nothing else that is needed. The name of an image in a registry, best with
      its digest, or the path (from C(/) on) of an archive or of a folder with an archive for each architecture.
    type: str
    default: ""
  python_version:
    description: Version of Python in O(base), as C(3.13).
    type: str
    default: ""
  archive:
    description: An archive of the image itself, or a folder with one for each architecture. It is only given its name.
    type: path
  architecture:
    description: Architecture of the nodes, as Kubernetes names it.
    type: str
    default: amd64
  tool:
    description: What makes the image. V(builtin) is this module itself.
    type: str
    choices: [builtin, buildah, podman]
    default: builtin
  stage:
    description:
      - V(built) makes the archive. V(fetched) does only what needs programs and the network - it gets O(base) and the
        server's dependencies - so that whatever is missing is known before anything else is changed. In check mode it
        looks for O(base) and for the package index without keeping anything.
      - Neither does anything where the archive is there already.
    type: str
    choices: [fetched, built]
    default: built
requirements:
  - pip, for the Python that runs the module
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: An image is not text.
  idempotent:
    support: full
seealso:
  - module: kubemetrics.aggregation.server_image_info
  - module: kubemetrics.aggregation.node_image
  - module: kubemetrics.aggregation.registry_image
"""

EXAMPLES = r"""
- name: Make the metrics server's image for the arm64 nodes of a cluster
  kubemetrics.aggregation.server_image:
    source: "{{ playbook_dir }}/../metrics_server"
    cache_dir: ~/.cache/kubemetrics/image
    name: localhost/kubemetrics/metrics-server
    tag: 0123456789ab
    base: docker.io/library/python:3.13-slim-bookworm
    python_version: "3.13"
    architecture: arm64
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
archive:
  description: Path of the archive, an OCI layout that is a docker-archive, too (with another O(tool), only the latter).
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
  description: Size of the archive in bytes, 0 while it is not there yet (check mode).
  type: int
  returned: success
"""

import fcntl
import re
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, assemble, tools
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.assemble import BUILTIN
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import Blobs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import ARGUMENTS, Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError, reason_of
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.wheels import Wheels


class Build:
    """One image of one architecture."""

    def __init__(self, params: dict):
        self.source = Path(params["source"])
        self.cache = Path(params["cache_dir"])
        self.image = f"{params['name']}:{params['tag']}"
        self.base = params["base"]
        self.architecture = params["architecture"]
        self.tool = params["tool"]
        self.given = Path(params["archive"]) if params["archive"] else None
        self.registries = Registries(params["registries"])
        self.blobs = Blobs(self.cache / "blobs")
        if self.given is None:
            self.wheels = Wheels(self.source, self.cache, params["python_version"], self.architecture)
        self.archive = self.cache / f"{self.key(params['python_version'])}-{self.architecture}.tar"

    def key(self, python_version: str) -> str:
        """The archive's name: the image's and, since a tag can be given by hand, a checksum of what it is made of."""
        flat = re.sub(r"[^A-Za-z0-9.-]+", "_", self.image)
        if self.given is not None:
            return f"{flat}-{assemble.tag_of_archive(self.given)}"
        identity = self.base
        if assemble.is_file(self.base):
            identity = assemble.Base(self.base, self.registries).resolve()
        identity = identity.rpartition("@")[2]
        return f"{flat}-{assemble.tag_of_source(self.source, identity, python_version, self.tool)}"

    def find(self) -> None:
        """Know that all can be had, and keep nothing."""
        if self.given is not None:
            known = archives.survey(self.given)
            if self.architecture not in known:
                raise ImageError(
                    f"{self.given} has no image for the architecture {self.architecture} "
                    f"(only for {', '.join(sorted(known)) or 'none'})."
                )
            return
        if self.tool == BUILTIN:
            assemble.Base(self.base, self.registries).find(self.architecture)
        else:
            tools.Tool(self.tool).find_base(self.base, self.architecture, pull=False)
        self.wheels.find()

    def fetch(self) -> None:
        """Do what needs programs and the network."""
        if self.given is not None:
            self.find()
            return
        if self.tool == BUILTIN:
            base = assemble.Base(self.base, self.registries)
            if base.path is None:
                base.fetch(self.architecture, self.blobs)
            else:
                base.find(self.architecture)
        else:
            tools.Tool(self.tool).find_base(self.base, self.architecture, pull=True)
        self.wheels.fetch()

    def build(self) -> None:
        """Make the archive; it appears whole or not at all."""
        with tempfile.TemporaryDirectory(prefix=".build-", dir=self.cache) as name:
            work = Path(name)
            # What comes from a registry is kept for the next build; layers out of files are where they came from.
            blobs = Blobs(work / "blobs", self.blobs)
            made = {"architecture": self.architecture, "name": self.image, "archive": self.archive}
            if self.given is not None:
                assemble.repack(given=self.given, blobs=blobs, **made)
            elif self.tool != BUILTIN:
                tool = tools.Tool(self.tool)
                tool.build(root=self.source, base=self.base, wheels=self.wheels, work=work, **made)
            else:
                base = assemble.Base(self.base, self.registries)
                fetched = base.fetch(self.architecture, blobs if base.path is not None else self.blobs)
                assemble.build(root=self.source, base=fetched, wheels=self.wheels.fetch(), blobs=blobs, **made)


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "cache_dir": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            "base": {"type": "str", "default": ""},
            "python_version": {"type": "str", "default": ""},
            "archive": {"type": "path"},
            "architecture": {"type": "str", "default": "amd64"},
            "tool": {"type": "str", "choices": [BUILTIN, "buildah", "podman"], "default": BUILTIN},
            "stage": {"type": "str", "choices": ["fetched", "built"], "default": "built"},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    params = module.params
    if not params["archive"]:
        if not re.fullmatch(r"3\.\d+", params["python_version"]):
            module.fail_json(msg=f"python_version is {params['python_version']!r}, a version such as 3.13 is meant.")
        if not params["base"]:
            module.fail_json(msg="Either base or archive has to be given.")
    fetch = params["stage"] == "fetched"
    try:
        build = Build(params)
        changed = not build.archive.is_file()
        if changed and module.check_mode:
            build.find()
        elif changed:
            build.cache.mkdir(parents=True, exist_ok=True)
            with (build.cache / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Another run may have made it while this one waited.
                changed = not build.archive.is_file()
                if changed and fetch:
                    build.fetch()
                elif changed:
                    build.build()
    except ImageError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"The image cannot be made in {params['cache_dir']}: {reason_of(exc)}.")
    size = build.archive.stat().st_size if build.archive.is_file() else 0
    # What is fetched lies in caches; the archive is what counts.
    module.exit_json(
        changed=changed and not fetch, needed=changed, archive=str(build.archive), image=build.image, size=size
    )


if __name__ == "__main__":
    main()
