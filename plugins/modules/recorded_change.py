#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: recorded_change
short_description: Roll back a change that this collection made to definitions on a host
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Restores the files of a recorded change, their modes and owners to what they were before it. That is a new change,
    which is recorded too and can be rolled back in the same way.
  - Refuses if one of the files was edited since, because that edit would be lost.
  - Files only. Restarting what reads them is up to the caller; the kubelet does it by itself for a static pod.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
  - kubemetrics.aggregation.records
options:
  id:
    description:
      - The id of the change, from M(kubemetrics.aggregation.recorded_changes_info) or from the task that made it.
    type: str
    required: true
  force:
    description:
      - Whether to roll the change back although a file was edited since. That edit is backed up.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: What looks like a secret is masked.
  idempotent:
    support: full
seealso:
  - module: kubemetrics.aggregation.recorded_changes_info
"""

EXAMPLES = r"""
- name: Roll back the change of the API server's manifest
  kubemetrics.aggregation.recorded_change:
    id: 20260301T100500Z-1f0c9a3e
  become: true
"""

RETURN = r"""
files:
  description: The files that were or would be changed.
  returned: success
  type: list
  elements: str
  sample: [/etc/kubernetes/manifests/kube-apiserver.yaml]
component:
  description: The component that is concerned.
  returned: success
  type: str
  sample: kube-apiserver
change_id:
  description: The id of the new change; null when nothing was recorded.
  returned: success
  type: str
  sample: 20260301T113000Z-77aa01b2
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.masking import mask_text


def shown(content: t.Optional[bytes]) -> str:
    return mask_text((content or b"").decode("utf-8", "replace"))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "id": {"type": "str", "required": True},
            "force": {"type": "bool", "default": False},
            "state_dir": {"type": "path", "default": host_files.STATE_DIR},
        },
        supports_check_mode=True,
    )
    params = module.params
    if not os.path.isabs(params["state_dir"]):
        module.fail_json(msg=f"state_dir is {params['state_dir']!r}, and has to be an absolute path.")
    journal = host_files.Journal(params["state_dir"])
    try:
        component = journal.read(params["id"]).get("component")
        record, replaced = host_files.restore_change(
            params["id"], journal, force=params["force"], check_mode=module.check_mode
        )
    except host_files.HostFileError as exc:
        module.fail_json(msg=str(exc))
    result = {
        "changed": record is not None,
        "files": [item.path for item in replaced],
        "component": component,
        "change_id": record["id"] if record and not module.check_mode else None,
    }
    if module._diff:
        result["diff"] = [
            {
                "before_header": item.path,
                "after_header": item.path if item.content is not None else f"{item.path} (absent)",
                "before": shown(item.before.content),
                "after": shown(item.content),
            }
            for item in replaced
        ]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
