#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_image
short_description: Load an image into a node's container runtime, or remove images from it
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Manages the images of one repository in the container runtime that the host's kubelet uses, without a registry.
    With containerd a loaded image is pinned, so that the kubelet does not remove it to free space.
  - C(ctr), C(podman) or C(docker) of the host do the work. With CRI-O and without C(podman), C(skopeo) loads,
    and C(crictl) lists and removes.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
options:
  repository:
    description: Name of the images without a tag, with the registry in front, such as V(localhost/example/server).
    type: str
    required: true
  state:
    description:
      - V(present) loads O(archive) where O(image) is missing. V(absent) removes the images of O(repository) except
        O(keep).
    type: str
    choices: [present, absent]
    default: present
  image:
    description: Full name of the image that has to be there. Needed for O(state=present).
    type: str
  archive:
    description:
      - The image as a file on the host, in a format that the runtime loads. Needed for O(state=present) outside
        check mode, where O(image) is missing.
    type: path
  keep:
    description: Full names of images that O(state=absent) leaves in place.
    type: list
    elements: str
    default: []
  endpoint:
    description: The socket of the runtime. Empty - the one of the running kubelet, or the first that exists.
    type: str
    default: ""
  timeout:
    description: Seconds for each command.
    type: float
    default: 300
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
seealso:
  - module: kubemetrics.aggregation.server_image
"""

EXAMPLES = r"""
- name: Load the metrics server's image
  kubemetrics.aggregation.node_image:
    repository: localhost/kubemetrics/metrics-server
    image: localhost/kubemetrics/metrics-server:0123456789ab
    archive: /var/tmp/metrics-server.tar
  become: true

- name: Remove every other version of it
  kubemetrics.aggregation.node_image:
    repository: localhost/kubemetrics/metrics-server
    state: absent
    keep: [localhost/kubemetrics/metrics-server:0123456789ab]
  become: true
"""

RETURN = r"""
images:
  description: The images of O(repository) on the host, after the change or its prediction.
  returned: success
  type: list
  elements: str
  sample: [localhost/kubemetrics/metrics-server:0123456789ab]
runtime:
  description: The container runtime, V(containerd), V(cri-o) or V(docker).
  returned: success
  type: str
  sample: containerd
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import components, images, processes


def kubelet_endpoint() -> str:
    """The socket that the running kubelet uses."""
    host = components.Host(proc=processes.Proc(), timeout=5)
    return images.configured_endpoint(host.flags_of("kubelet"), host.kubelet_config()["text"])


def wanted_images(params: t.Mapping[str, t.Any], found: t.Sequence[str]) -> t.List[str]:
    if params["state"] == "absent":
        return [name for name in found if name in params["keep"]]
    return sorted({*found, params["image"]})


def change(runtime: images.Runtime, params: t.Mapping[str, t.Any], found: t.Sequence[str]) -> None:
    timeout = params["timeout"]
    if params["state"] == "absent":
        for command in runtime.remove_commands([name for name in found if name not in params["keep"]]):
            images.run(command, timeout)
        return
    archive = params["archive"]
    if not archive or not os.path.isfile(archive):
        raise images.ImageError(
            "%s is missing in the runtime, and archive (%s) is no file to load it from." % (params["image"], archive)
        )
    for command in runtime.load_commands(archive, params["image"]):
        images.run(command, timeout)
    loaded = images.list_images(runtime, params["repository"], timeout)
    if params["image"] not in loaded:
        raise images.ImageError("%s holds another image than %s; build it anew." % (archive, params["image"]))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "image": {"type": "str"},
            "archive": {"type": "path"},
            "keep": {"type": "list", "elements": "str", "default": []},
            "endpoint": {"type": "str", "default": ""},
            "timeout": {"type": "float", "default": 300},
        },
        required_if=[("state", "present", ("image",))],
        supports_check_mode=True,
    )
    params = module.params
    image = params["image"]
    if params["state"] == "present" and not image.startswith(params["repository"] + ":"):
        module.fail_json(msg="image is %s, and no image of the repository %s." % (image, params["repository"]))
    try:
        runtime = images.find_runtime(params["endpoint"] or kubelet_endpoint())
        found = images.list_images(runtime, params["repository"], params["timeout"])
        wanted = wanted_images(params, found)
        changed = wanted != found
        if changed and not module.check_mode:
            change(runtime, params, found)
    except images.ImageError as exc:
        module.fail_json(msg=str(exc))
    result: t.Dict[str, t.Any] = {"changed": changed, "images": wanted, "runtime": runtime.name}
    if module._diff and changed:
        result["diff"] = {
            "before_header": "images",
            "after_header": "images",
            "before": "".join(name + "\n" for name in found),
            "after": "".join(name + "\n" for name in wanted),
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
