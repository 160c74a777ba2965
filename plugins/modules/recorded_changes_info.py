#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: recorded_changes_info
short_description: List the changes that this collection made to definitions on a host
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Lists what the editors M(kubemetrics.aggregation.component_flags) and M(kubemetrics.aggregation.kubelet_config),
    M(kubemetrics.aggregation.front_proxy_ca) and others recorded on the host, the oldest change first, and whether the
    files of each are unchanged since.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.host
  - kubemetrics.aggregation.records
seealso:
  - module: kubemetrics.aggregation.recorded_change
"""

EXAMPLES = r"""
- name: See what was changed on each host
  kubemetrics.aggregation.recorded_changes_info:
  register: history
  become: true
"""

RETURN = r"""
changes:
  description: The recorded changes, the oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The id by which the change can be undone. Ids sort by time.
      type: str
    time:
      description: When it was made (RFC 3339).
      type: str
    host:
      description: The name of the host.
      type: str
    what:
      description: What it was about.
      type: str
    component:
      description: The component that is concerned.
      type: str
    undoes:
      description: The id of the change that this one rolled back, or null.
      type: str
    state:
      description:
        - V(in_place) if all files are as the change left them, V(undone) if all are as they were before it or if it was
          rolled back, whatever came later, and V(edited) if somebody changed one of them since.
        - V(interrupted) if the run ended in the middle of the change; some of its files may be as before.
      type: str
    files:
      description: The files of the change.
      type: list
      elements: dict
      contains:
        path:
          description: The file.
          type: str
        backup:
          description: Where its old content is; null if there was none.
          type: str
        state:
          description: V(in_place), V(undone) or V(edited).
          type: str
  sample:
    - id: 20260301T100500Z-1f0c9a3e
      time: "2026-03-01T10:05:00Z"
      host: cp1
      what: "flags of kube-apiserver: --enable-aggregator-routing"
      component: kube-apiserver
      undoes:
      state: in_place
      files:
        - path: /etc/kubernetes/manifests/kube-apiserver.yaml
          backup: /var/lib/kubemetrics/backups/20260301T100500Z-1f0c9a3e/etc/kubernetes/manifests/kube-apiserver.yaml
          state: in_place
damaged:
  description: Records that cannot be read.
  returned: success
  type: list
  elements: str
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files


def rolled_back(records: t.Sequence[t.Mapping[str, t.Any]]) -> t.Set[str]:
    """The ids of changes that a later one has undone, unless that one was undone in its turn; records by age."""
    found: t.Set[str] = set()
    for record in reversed(records):
        if record.get("undoes") and record.get("state") == "done" and record["id"] not in found:
            found.add(record["undoes"])
    return found


def describe(record: t.Mapping[str, t.Any], was_rolled_back: bool) -> t.Dict[str, t.Any]:
    files = [
        {"path": entry["path"], "backup": entry["backup"], "state": host_files.state_of(entry)}
        for entry in record["files"]
    ]
    states = {entry["state"] for entry in files}
    state = states.pop() if len(states) == 1 else "edited"
    if state == "edited" and was_rolled_back:
        # The files belong to later changes now.
        state = "undone"
    if record.get("state") != "done" and state != "undone":
        state = "interrupted"
    shown = {key: record.get(key) for key in ("id", "time", "host", "what", "component", "undoes")}
    return {**shown, "state": state, "files": files}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={"state_dir": {"type": "path", "default": host_files.STATE_DIR}}, supports_check_mode=True
    )
    state_dir = module.params["state_dir"]
    if not os.path.isabs(state_dir):
        module.fail_json(msg=f"state_dir is {state_dir!r}, and has to be an absolute path.")
    try:
        records, damaged = host_files.Journal(state_dir).list()
        undone = rolled_back(records)
        changes = [describe(record, record["id"] in undone) for record in records]
    except host_files.HostFileError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=False, changes=changes, damaged=damaged)


if __name__ == "__main__":
    main()
