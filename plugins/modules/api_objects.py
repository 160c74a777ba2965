#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: api_objects
short_description: Read objects of the API so that they can be restored, or restore them
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - With O(state=read), returns what is at each path, without what the API server adds, and which of them do not exist.
  - With O(state=restored), makes it so again. What exists is replaced, what is missing is created, and what was absent
    is deleted.
  - It is not meant for Secrets, whose content would be in the result.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.attributes
options:
  state:
    description:
      - What to do.
    type: str
    choices: [read, restored]
    default: read
  paths:
    description:
      - Paths of single objects, such as V(/api/v1/namespaces/kube-system/services/metrics-server). Needed for V(read).
    type: list
    elements: str
    default: []
  objects:
    description:
      - The objects by their paths, as RV(objects) of an earlier call; null for one that did not exist. Needed for
        V(restored).
    type: dict
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
seealso:
  - module: kubemetrics.aggregation.recorded_change
"""

EXAMPLES = r"""
- name: Read the Service of the metrics server
  kubemetrics.aggregation.api_objects:
    paths: [/api/v1/namespaces/kube-system/services/metrics-server]
  register: before
  delegate_to: localhost

- name: Restore it
  kubemetrics.aggregation.api_objects:
    state: restored
    objects: "{{ before.objects }}"
  delegate_to: localhost
"""

RETURN = r"""
objects:
  description: The objects by their paths, null for one that does not exist.
  returned: success
  type: dict
  sample:
    /api/v1/namespaces/kube-system/serviceaccounts/metrics-server:
      apiVersion: v1
      kind: ServiceAccount
      metadata: {name: metrics-server, namespace: kube-system}
restored:
  description: The paths of the objects that were changed, or would be in check mode.
  returned: with O(state=restored)
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube

#: What the API server sets, and what another object of the same name does not have.
SERVER_SIDE = (
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)
SECRETS = "/secrets/"

Object = t.Dict[str, t.Any]


def plain(found: Object) -> Object:
    """The object without its status and what the API server adds."""
    metadata = {key: value for key, value in (found.get("metadata") or {}).items() if key not in SERVER_SIDE}
    return {**{key: value for key, value in found.items() if key not in ("metadata", "status")}, "metadata": metadata}


def read(api: t.Any, path: str) -> t.Optional[Object]:
    """The object at a path, or None."""
    try:
        found = api.get(path)[0]
    except kube.KubeError as exc:
        if exc.status == 404:
            return None
        raise
    return dict(found)


def restore(api: t.Any, path: str, wanted: t.Optional[Object], *, check_mode: bool) -> bool:
    """Makes the object at a path what it was; whether that is a change."""
    found = read(api, path)
    if wanted is None:
        if found is not None and not check_mode:
            api.send("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"})
        return found is not None
    if found is None:
        if not check_mode:
            api.send("POST", path.rsplit("/", 1)[0], wanted)
        return True
    if plain(found) == plain(wanted):
        return False
    if not check_mode:
        metadata = {**wanted["metadata"], "resourceVersion": found["metadata"]["resourceVersion"]}
        api.send("PUT", path, {**wanted, "metadata": metadata})
    return True


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **kube.API_ARGUMENTS,
            "state": {"type": "str", "choices": ["read", "restored"], "default": "read"},
            "paths": {"type": "list", "elements": "str", "default": []},
            "objects": {"type": "dict"},
        },
        required_if=[("state", "read", ["paths"]), ("state", "restored", ["objects"])],
        supports_check_mode=True,
    )
    params = module.params
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    wanted: t.Dict[str, t.Optional[Object]] = params["objects"] or {}
    secrets = [path for path in (*params["paths"], *wanted) if SECRETS in path]
    if secrets:
        module.fail_json(msg="Secrets are not read, because they would be in the result: %s." % ", ".join(secrets))
    try:
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        if params["state"] == "read":
            found = {path: read(api, path) for path in params["paths"]}
            module.exit_json(changed=False, objects={path: entry and plain(entry) for path, entry in found.items()})
        restored = [path for path, entry in wanted.items() if restore(api, path, entry, check_mode=module.check_mode)]
    except kube.KubeError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=bool(restored), objects=wanted, restored=restored)


if __name__ == "__main__":
    main()
