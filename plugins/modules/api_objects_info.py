#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: api_objects_info
short_description: Show whether objects of the API exist, and who made them
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Says of each object whether the API has its kind, whether it exists, and who made it. Its content is not returned.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.attributes.info
options:
  objects:
    description:
      - The objects.
    type: list
    elements: dict
    required: true
    suboptions:
      api_version:
        description: Group and version, such as V(monitoring.coreos.com/v1).
        type: str
        required: true
      kind:
        description: Kind, such as V(ServiceMonitor).
        type: str
        required: true
      name:
        description: Name.
        type: str
        required: true
      namespace:
        description: Namespace. Without it, the object is one of the whole cluster.
        type: str
seealso:
  - module: kubemetrics.aggregation.api_objects
  - module: kubemetrics.aggregation.metrics_provider_info
"""

EXAMPLES = r"""
- name: See who made a role
  kubemetrics.aggregation.api_objects_info:
    objects:
      - {api_version: rbac.authorization.k8s.io/v1, kind: ClusterRole, name: read-metrics}
  register: roles
"""

RETURN = r"""
objects:
  description: The objects, in the order of O(objects).
  returned: success
  type: list
  elements: dict
  contains:
    api_version: {description: As given., type: str}
    kind: {description: As given., type: str}
    name: {description: As given., type: str}
    namespace: {description: As given., type: str}
    served: {description: Whether the API has this kind., type: bool}
    exists: {description: Whether the object exists., type: bool}
    managed: {description: Whether this collection made it., type: bool}
    owner: {description: Who made it; empty when it does not exist., type: str}
  sample:
    - api_version: rbac.authorization.k8s.io/v1
      kind: ClusterRole
      name: read-metrics
      namespace: null
      served: true
      exists: true
      managed: true
      owner: kubemetrics
"""

import typing as t
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube


def get_or_none(api: t.Any, path: str) -> t.Optional[t.Dict[str, t.Any]]:
    try:
        return dict(api.get(path)[0])
    except kube.KubeError as exc:
        if exc.status == 404:
            return None
        raise


def base_path(api_version: str) -> str:
    parts = api_version.split("/")
    return "/".join(["/apis" if len(parts) == 2 else "/api", *(quote(part, safe="") for part in parts)])


def plurals(discovery: t.Optional[t.Mapping[str, t.Any]]) -> t.Dict[str, str]:
    """The kinds of a version of a group, with the names that they have in paths."""
    resources = [entry for entry in (discovery or {}).get("resources") or () if "/" not in str(entry.get("name"))]
    return {str(entry.get("kind")): str(entry.get("name")) for entry in resources}


def examine(api: t.Any, objects: t.Sequence[t.Mapping[str, t.Any]]) -> t.List[t.Dict[str, t.Any]]:
    kinds: t.Dict[str, t.Dict[str, str]] = {}
    views = []
    for one in objects:
        base = base_path(one["api_version"])
        if base not in kinds:
            kinds[base] = plurals(get_or_none(api, base))
        plural = kinds[base].get(one["kind"])
        found = None
        if plural:
            within = "/namespaces/" + quote(one["namespace"], safe="") if one["namespace"] else ""
            found = get_or_none(api, "%s%s/%s/%s" % (base, within, plural, quote(one["name"], safe="")))
        views.append(
            dict(
                one,
                served=bool(plural),
                exists=bool(found),
                managed=cluster_state.is_managed(found),
                owner=cluster_state.owner_of(found) if found else "",
            )
        )
    return views


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=dict(
            kube.API_ARGUMENTS,
            objects={
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "api_version": {"type": "str", "required": True},
                    "kind": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                    "namespace": {"type": "str"},
                },
            },
        ),
        supports_check_mode=True,
    )
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    params = module.params
    try:
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        found = examine(api, params["objects"])
    except kube.KubeError as exc:
        module.fail_json(msg="%s %s" % (exc.message, cluster_state.advice(exc.status, exc.reason)))
    module.exit_json(changed=False, objects=found)


if __name__ == "__main__":
    main()
