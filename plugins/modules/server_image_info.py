#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: server_image_info
short_description: Show which image of the bundled metrics server would be made
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Finds the digest that the base image has now, and derives the tag of the metrics server's image from it and from the
    server's source, so that the same source and base have the same tag on every machine, and a changed server or a
    newer base never hides behind an old tag.
  - Makes nothing. Runs where the collection's source is, which is the controller.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.registries
options:
  source:
    description: Folder of the server's source, with its C(pyproject.toml) and C(Containerfile).
    type: path
    required: true
  cache_dir:
    description:
      - Folder that remembers the digest of O(base). It is taken from there, with a warning, when the registry cannot be
        reached.
    type: path
    required: true
  base:
    description: As in M(kubemetrics.aggregation.server_image).
    type: str
    default: ""
  python_version:
    description: As in M(kubemetrics.aggregation.server_image).
    type: str
    default: ""
  tool:
    description: As in M(kubemetrics.aggregation.server_image). Other tools than V(builtin) take O(base) as they find
      it.
    type: str
    choices: [builtin, buildah, podman]
    default: builtin
  archive:
    description: As in M(kubemetrics.aggregation.server_image).
    type: path
seealso:
  - module: kubemetrics.aggregation.server_image
"""

EXAMPLES = r"""
- name: See which base the metrics server's image would have
  kubemetrics.aggregation.server_image_info:
    source: "{{ playbook_dir }}/../metrics_server"
    cache_dir: ~/.cache/kubemetrics/image
    base: docker.io/library/python:3.13-slim-bookworm
    python_version: "3.13"
  delegate_to: localhost
  run_once: true
  register: image
"""

RETURN = r"""
tag:
  description: The tag that follows from what the image is made of, twelve hexadecimal digits.
  type: str
  returned: success
base:
  description: The base image with its digest, or its path. Empty with O(archive).
  type: str
  returned: success
  sample: registry.example.com/python:3.13@sha256:21e39cf1815802d4c6f89a0d3a166cc67ce58f95b6d1639e68a394c99310d2e5
architectures:
  description: The architectures that O(archive) has an image for.
  type: list
  elements: str
  returned: success
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, assemble
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.assemble import BUILTIN
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import ARGUMENTS, Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import (
    ImageError,
    Unreachable,
    reason_of,
)

REMEMBERED = "bases.json"


def remembered(cache: Path) -> dict:
    try:
        found = json.loads((cache / REMEMBERED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(cache: Path, base: str, resolved: str) -> None:
    known = remembered(cache)
    if known.get(base) != resolved:
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f"{REMEMBERED}.part"
        partial.write_text(json.dumps({**known, base: resolved}, indent=1, sort_keys=True), encoding="utf-8")
        partial.replace(cache / REMEMBERED)


def resolved_base(module: AnsibleModule, base: assemble.Base, cache: Path) -> str:
    """The base with its digest: as its registry has it now, or had it when it last answered."""
    try:
        resolved = base.resolve()
    except Unreachable as exc:
        last = remembered(cache).get(base.text)
        if not isinstance(last, str):
            raise Unreachable(
                "%s The tag of the metrics server's image depends on its base %s: make that registry reachable, or "
                "set metrics_server_image_base to a mirror or to a file, or metrics_server_image_version to the tag "
                "that runs." % (exc, base.text)
            ) from None
        module.warn(f"{exc} The base image is the one of an earlier run: {last}.")
        return last
    if base.path is None and not module.check_mode:
        remember(cache, base.text, resolved)
    return resolved


def examine(module: AnsibleModule) -> dict:
    params = module.params
    if params["archive"]:
        path = Path(params["archive"])
        known = sorted(archives.survey(path))
        return {"tag": assemble.tag_of_archive(path), "base": "", "architectures": known}
    root, base = Path(params["source"]), params["base"]
    identity = base
    if params["tool"] == BUILTIN:
        opened = assemble.Base(base, Registries(params["registries"]))
        identity = resolved_base(module, opened, Path(params["cache_dir"]))
        base = base if opened.path is not None else identity
        # The same bytes from a mirror are the same base.
        identity = identity.rpartition("@")[2]
    elif assemble.is_file(base):
        identity = assemble.Base(base, Registries()).resolve().rpartition("@")[2]
    return {
        "tag": assemble.tag_of_source(root, identity, params["python_version"], params["tool"]),
        "base": base,
        "architectures": [],
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "cache_dir": {"type": "path", "required": True},
            "base": {"type": "str", "default": ""},
            "python_version": {"type": "str", "default": ""},
            "tool": {"type": "str", "choices": [BUILTIN, "buildah", "podman"], "default": BUILTIN},
            "archive": {"type": "path"},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        found = examine(module)
    except ImageError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"The files of the image cannot be read: {reason_of(exc)}.")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
