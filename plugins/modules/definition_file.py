#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: definition_file
short_description: Read and atomically replace the files that define a component (internal)
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Internal to this collection. Its options may change in any release; it is documented for debugging only.
  - It is the part of M(kubemetrics.aggregation.component_flags) and M(kubemetrics.aggregation.kubelet_config) that runs
    on the host. Use those modules instead.
  - A replacement takes place only if each file still has the content that the decision was based on. All files are
    backed up and staged before the first one is renamed into place; if one of them fails, the others are restored.
  - Mode, owner and extended attributes stay. A symbolic link stays, and the file that it points to is replaced.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
  - kubemetrics.aggregation.records
  - kubemetrics.aggregation.records.backup
options:
  operation:
    description:
      - V(read) returns the content of O(paths), V(replace) puts O(files) in place.
    type: str
    choices: [read, replace]
    required: true
  paths:
    description:
      - Absolute paths of the files to read. One that does not exist is reported so.
    type: list
    elements: path
    default: []
  patterns:
    description:
      - Shell patterns of more files to read, absolute too. Only files that exist match; each pattern's files are sorted
        by name, and dot-files are left out.
    type: list
    elements: path
    default: []
  expect:
    description:
      - Absolute paths that are looked for, but not read.
    type: list
    elements: path
    default: []
  services:
    description:
      - Whether to name the systemd services that read each file as an environment file, also those that are not
        loaded. For V(read).
    type: bool
    default: false
  files:
    description:
      - The files to replace.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path of the file.
        type: path
        required: true
      content:
        description: What it shall hold, in base64.
        type: str
        required: true
      expected_sha256:
        description: The SHA-256 of what it has to hold now; leave it out for a file that must not exist yet.
        type: str
      mode:
        description: The mode of a file that does not exist yet, as an octal string.
        type: str
        default: "0600"
      make_directory:
        description: Whether to create the file's directory (mode V(0755)); its parent has to exist.
        type: bool
        default: false
  what:
    description:
      - What the change is about, for the record. Required for V(replace).
    type: str
  component:
    description:
      - The component that is concerned, for the record.
    type: str
attributes:
  check_mode:
    support: full
    details: A read-only file system, lack of space and lack of permission are found in check mode, too.
  diff_mode:
    support: none
    details: The editors, which know the meaning of the files, return the diff.
  idempotent:
    support: full
seealso:
  - module: kubemetrics.aggregation.component_flags
  - module: kubemetrics.aggregation.kubelet_config
"""

EXAMPLES = r"""
- name: Read the definition of the API server on the host
  kubemetrics.aggregation.definition_file:
    operation: read
    paths:
      - /etc/kubernetes/manifests/kube-apiserver.yaml
  register: definition
  become: true
"""

RETURN = r"""
files:
  description: The files that were asked for.
  returned: O(operation=read)
  type: list
  elements: dict
  contains:
    path:
      description: The path that was asked for.
      type: str
    resolved:
      description: The file behind its symbolic links.
      type: str
    exists:
      description: Whether it is there.
      type: bool
    content:
      description: What it holds, in base64.
      type: str
    sha256:
      description: The SHA-256 of what it holds, null for a missing file.
      type: str
    written:
      description: When it was written, in seconds since 1970, null for a missing file.
      type: float
    services:
      description: The systemd services that read it as an environment file; empty unless O(services) is set.
      type: list
      elements: str
missing:
  description: Those of O(expect) that do not exist.
  returned: O(operation=read)
  type: list
  elements: str
change_id:
  description:
    - The id of the recorded change; null when nothing was recorded. In check mode no record is made.
    - Of a failure, the id of a change of which some file could not be brought back.
  returned: O(operation=replace)
  type: str
backup_files:
  description: Where the old content of each replaced file is, by its path.
  returned: O(operation=replace)
  type: dict
"""

import base64
import binascii
import glob
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import units


def read(paths: t.Sequence[str], services: bool) -> t.List[t.Dict[str, t.Any]]:
    found = []
    readers = units.readers_of(paths) if services else {}
    for path in paths:
        state = host_files.read_file(path)
        found.append(
            {
                "path": path,
                "resolved": state.resolved,
                "exists": state.exists,
                "content": base64.b64encode(state.content).decode("ascii"),
                "sha256": state.sha256,
                "written": os.stat(state.resolved).st_mtime if state.exists else None,
                "services": readers.get(path, []),
            }
        )
    return found


def replacement(entry: t.Mapping[str, t.Any]) -> host_files.Replacement:
    try:
        content = base64.b64decode(entry["content"].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise host_files.HostFileError(f"The content for {entry['path']} is not base64.") from None
    try:
        mode = int(entry["mode"], 8)
    except ValueError:
        raise host_files.HostFileError(f"The mode {entry['mode']} for {entry['path']} is not octal.") from None
    return host_files.Replacement(
        entry["path"], content, entry["expected_sha256"], mode, make_directory=entry["make_directory"]
    )


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "operation": {"type": "str", "choices": ["read", "replace"], "required": True},
            "paths": {"type": "list", "elements": "path", "default": []},
            "patterns": {"type": "list", "elements": "path", "default": []},
            "expect": {"type": "list", "elements": "path", "default": []},
            "services": {"type": "bool", "default": False},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    # Environment files may hold passwords, and arguments end in the host's log.
                    "content": {"type": "str", "required": True, "no_log": True},
                    "expected_sha256": {"type": "str"},
                    "mode": {"type": "str", "default": "0600"},
                    "make_directory": {"type": "bool", "default": False},
                },
            },
            "what": {"type": "str"},
            "component": {"type": "str"},
            "backup": {"type": "bool", "default": True},
            "state_dir": {"type": "path", "default": host_files.STATE_DIR},
        },
        required_if=[("operation", "replace", ["what"])],
        supports_check_mode=True,
    )
    params = module.params
    given = params["paths"] + params["patterns"] + params["expect"] + [entry["path"] for entry in params["files"]]
    for path in [*given, params["state_dir"]]:
        if not os.path.isabs(path):
            module.fail_json(msg=f"The path {path} is not absolute; write it from the root on.")
    try:
        if params["operation"] == "read":
            paths = list(params["paths"])
            for pattern in params["patterns"]:
                paths.extend(path for path in sorted(glob.glob(pattern)) if path not in paths)
            missing = [path for path in params["expect"] if not os.path.exists(path)]
            module.exit_json(changed=False, files=read(paths, params["services"]), missing=missing)
        record = host_files.replace_files(
            [replacement(entry) for entry in params["files"]],
            what=params["what"],
            component=params["component"],
            backup=params["backup"],
            journal=host_files.Journal(params["state_dir"]),
            check_mode=module.check_mode,
        )
    except host_files.HostFileError as exc:
        module.fail_json(msg=str(exc), change_id=exc.change_id)
    recorded = record is not None and params["backup"] and not module.check_mode
    module.exit_json(
        changed=record is not None,
        change_id=record["id"] if recorded else None,
        backup_files={entry["path"]: entry["backup"] for entry in record["files"] if entry["backup"]}
        if recorded
        else {},
    )


if __name__ == "__main__":
    main()
