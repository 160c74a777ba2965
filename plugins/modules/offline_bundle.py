#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: offline_bundle
short_description: Make one archive of all that an installation without internet needs
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Puts this collection and those that it depends on, images of the metrics server, and the wheels of the server and of
    the controller's Python packages into one tar, with checksums, a list of everything (CycloneDX) and a guide.
  - Runs where the collection is, which is the controller. The same versions give the same archive there.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
options:
  path:
    description: The archive to write.
    type: path
    required: true
  collection:
    description: Folder of this collection, installed or a checkout.
    type: path
    required: true
  dependencies:
    description: Names of the collections that it depends on. They are taken from where C(ansible-galaxy) finds them.
    type: list
    elements: str
    default: []
  archives:
    description: Archives of the image as M(kubemetrics.aggregation.server_image) makes them, for each architecture.
    type: list
    elements: path
    required: true
  name:
    description: Name of the image, without its tag.
    type: str
    required: true
  tag:
    description: Tag of the image.
    type: str
    required: true
  base:
    description: What the image stands on, for the list.
    type: str
    default: ""
  source:
    description: Folder of the server's source.
    type: path
    required: true
  cache_dir:
    description: Folder that keeps wheels.
    type: path
    required: true
  python_version:
    description: Version of Python in the image. Empty - the server's wheels are only in the images.
    type: str
    default: ""
  controller_requirements:
    description: File with the Python packages of a controller, pinned with hashes.
    type: path
    required: true
  controller_python:
    description: Version of Python on the site's controller. Empty - the one that runs the module.
    type: str
    default: ""
  controller_architectures:
    description: Architectures of Linux controllers.
    type: list
    elements: str
    required: true
requirements:
  - pip, for the Python that runs the module
  - ansible-galaxy
attributes:
  check_mode:
    support: partial
    details: Without the archive, a change is predicted; whether an archive would differ is not found out.
  diff_mode:
    support: none
    details: An archive is not text.
  idempotent:
    support: full
seealso:
  - module: kubemetrics.aggregation.server_image
"""

EXAMPLES = r"""
- name: Make a bundle
  kubemetrics.aggregation.offline_bundle:
    path: ~/kubemetrics-bundle.tar
    collection: "{{ playbook_dir }}/.."
    dependencies: [kubernetes.core]
    archives: [/tmp/metrics-server-amd64.tar, /tmp/metrics-server-arm64.tar]
    name: localhost/kubemetrics/metrics-server
    tag: 0123456789ab
    source: "{{ playbook_dir }}/../metrics_server"
    cache_dir: ~/.cache/kubemetrics/image
    python_version: "3.13"
    controller_requirements: "{{ playbook_dir }}/../roles/metrics_server/files/controller.txt"
    controller_python: "3.12"
    controller_architectures: [amd64, arm64]
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The archive.
  type: str
  returned: success
folder:
  description: The folder that everything in it is below.
  type: str
  returned: success
  sample: kubemetrics-aggregation-0.1.0
sha256:
  description: Its checksum. Empty in check mode.
  type: str
  returned: success
files:
  description: What is in it. Empty in check mode.
  type: list
  elements: str
  returned: success
"""

import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, bundle
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError, reason_of
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.wheels import Requirements, Wheels, run

GUIDE = """\
# An installation without internet

Everything that is needed is in this folder; nothing is fetched from anywhere. The controller needs Python {python}:

```console
sha256sum --check SHA256SUMS                 # macOS: shasum -a 256 -c SHA256SUMS
python{python} -m venv ~/kubemetrics && . ~/kubemetrics/bin/activate
pip install --no-index --find-links wheels/controller --require-hashes --no-deps -r controller.txt
ansible-galaxy collection install --offline collections/*.tar.gz
ansible-playbook -i INVENTORY kubemetrics.aggregation.site \\
    -e metrics_server_image_source=archive -e metrics_server_image_archive="$PWD/images"
```

Put the two variables into the inventory, with the folder's path, so that later runs find them. Where nodes shall pull
the image from a registry of the site, set `metrics_server_image_source` to `push`, and name the registry in
`metrics_server_image_name`.

| folder or file | content |
|---|---|
| `collections` | this collection and those that it depends on |
| `wheels/controller`, `controller.txt` | Python packages of the controller, with their hashes |
| `images` | the metrics server's image, one file for each architecture |
| `wheels/server` | the wheels that are in these images |
| `sbom.cdx.json` | all of it with versions and checksums (CycloneDX 1.6) |
"""


def galaxy() -> str:
    """The ansible-galaxy of the Ansible that runs this."""
    beside = Path(sys.executable).parent / "ansible-galaxy"
    path = str(beside) if beside.is_file() else shutil.which("ansible-galaxy")
    if not path:
        raise ImageError("ansible-galaxy, which comes with Ansible, is not on the controller's search path.")
    return path


def own_collection(folder: Path, work: Path) -> "tuple[bundle.Collection, Path]":
    """This collection: as it was installed, or built from a checkout."""
    if (folder / bundle.MANIFEST).is_file():
        return packed(bundle.installed_collection(folder), work)
    run("Building the collection", [galaxy(), "collection", "build", "--output-path", str(work), str(folder)])
    (path,) = work.glob("*.tar.gz")
    unpacked = work / "checkout"
    with tarfile.open(path) as archive:
        # Python 3.11 has filters from 3.11.4 on; the archive was made a moment ago.
        archive.extractall(unpacked, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    path.unlink()
    # Packed again: the archive of ansible-galaxy has today's times in it.
    return packed(bundle.installed_collection(unpacked), work)


def packed(collection: bundle.Collection, work: Path) -> "tuple[bundle.Collection, Path]":
    path = work / collection.archive_name
    bundle.write_collection(collection, path)
    return collection, path


def dependency(name: str, work: Path) -> "tuple[bundle.Collection, Path]":
    """Another collection, from where it is installed."""
    listed = run("Finding the collection " + name, [galaxy(), "collection", "list", name, "--format", "json"])
    try:
        found = json.loads(listed[listed.index("{") :])
    except ValueError:
        found = {}
    for folder, collections in found.items():
        if name in collections:
            return packed(bundle.installed_collection(Path(folder).joinpath(*name.split("."))), work)
    raise ImageError(f"The collection {name} is not installed here; ansible-galaxy collection install {name} does it.")


def contents(params: dict, work: Path) -> dict:
    """Everything that is carried, by its place below the folder."""
    own, path = own_collection(Path(params["collection"]), work)
    collections = [(own, path), *(dependency(name, work) for name in params["dependencies"])]
    files: dict = {f"collections/{path.name}": path for _collection, path in collections}
    components = [bundle.collection_component(*entry) for entry in collections]
    images = {name: Path(path) for path in params["archives"] for name in archives.survey(Path(path))}
    for architecture, archive in images.items():
        files[f"images/metrics-server-{params['tag']}-{architecture}.tar"] = archive
        components.append(bundle.image_component(params["name"], params["tag"], architecture, archive, params["base"]))
    cache, wheels = Path(params["cache_dir"]), {}
    lock = Path(params["controller_requirements"])
    for architecture in params["controller_architectures"]:
        wanted = Requirements(lock, cache, params["controller_python"], architecture)
        wheels.update({f"wheels/controller/{path.name}": path for path in wanted.fetch()})
    if params["python_version"]:
        for architecture in images:
            wanted = Wheels(Path(params["source"]), cache, params["python_version"], architecture)
            wheels.update({f"wheels/server/{path.name}": path for path in wanted.fetch()})
    components += [bundle.wheel_component(path) for path in wheels.values()]
    files.update(wheels)
    files["controller.txt"] = lock.read_bytes()
    files[bundle.GUIDE] = GUIDE.format(python=params["controller_python"]).encode()
    files[bundle.SBOM] = bundle.sbom(components[0], components)
    files[bundle.SUMS] = bundle.sums(files)
    return {"folder": f"kubemetrics-aggregation-{own.information['version']}", "files": files}


def write(params: dict) -> dict:
    target = Path(params["path"])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=target.parent) as name:
        work = Path(name)
        found = contents(params, work)
        partial = work / "bundle.tar"
        bundle.write_bundle(partial, found["folder"], found["files"])
        checksum = bundle.sha256_of(partial)
        changed = not target.is_file() or bundle.sha256_of(target) != checksum
        if changed:
            os.replace(partial, target)
    return {"changed": changed, "folder": found["folder"], "sha256": checksum, "files": sorted(found["files"])}


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "collection": {"type": "path", "required": True},
            "dependencies": {"type": "list", "elements": "str", "default": []},
            "archives": {"type": "list", "elements": "path", "required": True},
            "name": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            "base": {"type": "str", "default": ""},
            "source": {"type": "path", "required": True},
            "cache_dir": {"type": "path", "required": True},
            "python_version": {"type": "str", "default": ""},
            "controller_requirements": {"type": "path", "required": True},
            "controller_python": {"type": "str", "default": ""},
            "controller_architectures": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    params["controller_python"] = params["controller_python"] or f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not re.fullmatch(r"3\.\d+", params["controller_python"]):
        module.fail_json(msg=f"controller_python is {params['controller_python']!r}, a version such as 3.12 is meant.")
    if module.check_mode:
        changed = not Path(params["path"]).is_file()
        module.exit_json(changed=changed, path=params["path"], folder="", sha256="", files=[])
    try:
        result = write(params)
    except ImageError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"{params['path']} cannot be made: {reason_of(exc)}.")
    module.exit_json(path=params["path"], **result)


if __name__ == "__main__":
    main()
