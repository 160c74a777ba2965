#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_image
short_description: Send images for several architectures to a registry, as one tag
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Sends what a registry lacks of the images in O(archives), and an index that makes them one tag, from which each node
    pulls the image of its own architecture. No tool is needed for it.
  - Images for other architectures that the tag has already stay in it where they are of the same O(revision), so that
    clusters with different nodes can share a registry.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.registries
options:
  name:
    description: Name of the image in its registry, without a tag.
    type: str
    required: true
  tag:
    description: Tag of the image.
    type: str
    required: true
  revision:
    description: What the images are made of, as RV(kubemetrics.aggregation.server_image_info#module:tag).
    type: str
    required: true
  architectures:
    description: The architectures that the tag shall have, as Kubernetes names them.
    type: list
    elements: str
    required: true
  archives:
    description: Archives of the images, as M(kubemetrics.aggregation.server_image) makes them.
    type: list
    elements: path
    default: []
  stage:
    description:
      - V(sent) sends the images. V(checked) only finds out what is missing in the registry and, where something is,
        whether images can be sent there; for that an upload is begun and given up.
    type: str
    choices: [checked, sent]
    default: sent
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: An image is not text.
  idempotent:
    support: full
seealso:
  - module: kubemetrics.aggregation.server_image
"""

EXAMPLES = r"""
- name: Send the metrics server's image to a registry
  kubemetrics.aggregation.registry_image:
    name: registry.example.com/kubemetrics/metrics-server
    tag: 0123456789ab
    revision: 0123456789ab
    architectures: [amd64, arm64]
    archives: [/tmp/metrics-server-amd64.tar, /tmp/metrics-server-arm64.tar]
    registries:
      - host: registry.example.com
        username: writer
        password: "{{ vault_registry_password }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
missing:
  description: Those of O(architectures) that the tag did not have an image of O(revision) for.
  type: list
  elements: str
  returned: success
  sample: [arm64]
digest:
  description: The digest of the index that the tag stands for. Empty where nothing was sent.
  type: str
  returned: success
"""

import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, push, reference
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import Blobs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import ARGUMENTS, Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError, reason_of
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.registry import Registry


def run(params: dict, *, check_mode: bool) -> dict:
    wanted = reference.parse(f"{params['name']}:{params['tag']}")
    if wanted.registry == reference.NO_REGISTRY:
        raise ImageError(
            f"{wanted.name} is in no registry; name one, such as registry.example.com/{wanted.repository}."
        )
    registry = Registry(wanted.host, Registries(params["registries"]))
    there = push.architectures_there(push.index_there(registry, wanted), params["revision"])
    missing = sorted(set(params["architectures"]) - there)
    if params["stage"] == "checked" or check_mode or not missing:
        if params["stage"] == "checked" and missing:
            registry.may_push(wanted)
        return {"changed": bool(missing) and params["stage"] == "sent", "missing": missing, "digest": ""}
    given = [Path(path) for path in params["archives"]]
    lacking = sorted(set(missing) - {name for path in given for name in archives.survey(path)})
    if lacking:
        raise ImageError(f"None of the archives has an image for {', '.join(lacking)}.")
    with tempfile.TemporaryDirectory(prefix="kubemetrics-") as folder:
        changed, digest = push.send(registry, wanted, given, Blobs(Path(folder)), params["revision"])
    return {"changed": changed, "missing": missing, "digest": digest}


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            "revision": {"type": "str", "required": True},
            "architectures": {"type": "list", "elements": "str", "required": True},
            "archives": {"type": "list", "elements": "path", "default": []},
            "stage": {"type": "str", "choices": ["checked", "sent"], "default": "sent"},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, check_mode=module.check_mode)
    except ImageError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"The image cannot be sent: {reason_of(exc)}.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
