#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubeadm_config
short_description: Keep flags and kubelet settings in kubeadm's own configuration of the cluster
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - kubeadm writes static pod manifests and kubelet configurations anew at every upgrade and at every join, from two
    ConfigMaps in C(kube-system). What is changed only on the hosts is lost then. This module makes the same change
    there.
  - The flags of a control-plane component go to C(extraArgs) of the C(ClusterConfiguration), a mapping up to C(v1beta3)
    and a list of names and values from C(v1beta4) on; settings of all kubelets go to the C(KubeletConfiguration).
  - Everything else in the documents, comments and order included, stays byte for byte as it is.
  - Running hosts are not changed by this; see M(kubemetrics.aggregation.component_flags) and
    M(kubemetrics.aggregation.kubelet_config).
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.attributes
options:
  component:
    description:
      - Whose configuration to change.
    type: str
    choices: [apiserver, controller-manager, scheduler, kubelet]
    default: apiserver
  flags:
    description:
      - Flags by their names without dashes. V(null) takes a flag out, so that kubeadm's own default holds again.
      - A list is written as a line of CSV, except for the few flags that are given once for each value, such as
        C(service-account-issuer); those need C(v1beta4).
      - For every component but V(kubelet).
    type: dict
  volumes:
    description:
      - Host paths that the component's pod has to see in addition (C(extraVolumes)), told apart by their names.
    type: list
    elements: dict
    suboptions:
      name:
        description: The name of the volume.
        type: str
        required: true
      host_path:
        description: The path on the host.
        type: str
        required: true
      mount_path:
        description: The path in the container; by default the same as O(volumes[].host_path).
        type: str
      read_only:
        description: Whether the container can only read it.
        type: bool
        default: true
      path_type:
        description: The type of the host path.
        type: str
        choices: [Directory, DirectoryOrCreate, File, FileOrCreate]
        default: Directory
  kubelet:
    description:
      - Settings of the C(KubeletConfiguration), merged into it. Mappings are merged, lists and scalars are replaced,
        and V(null) removes a setting. For O(component=kubelet).
    type: dict
  required:
    description:
      - Whether a cluster without kubeadm's ConfigMap is an error. If V(false), nothing is done there.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: What is a secret is masked.
  idempotent:
    support: full
notes:
  - The ConfigMap is changed only if it still is the one that the decision was based on; otherwise it is read again.
seealso:
  - module: kubemetrics.aggregation.component_flags
  - module: kubemetrics.aggregation.kubelet_config
"""

EXAMPLES = r"""
- name: Keep a flag of the API server over the next kubeadm upgrade
  kubemetrics.aggregation.kubeadm_config:
    kubeconfig: /etc/kubernetes/admin.conf
    component: apiserver
    flags:
      enable-aggregator-routing: true
  run_once: true

- name: Let kubelets that join later ask the cluster for their serving certificates
  kubemetrics.aggregation.kubeadm_config:
    kubeconfig: "{{ kubeconfig_file }}"
    component: kubelet
    kubelet:
      serverTLSBootstrap: true
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
exists:
  description: Whether the cluster has kubeadm's ConfigMap.
  returned: success
  type: bool
config_map:
  description: The ConfigMap that was or would be changed.
  returned: success
  type: str
  sample: kube-system/kubeadm-config
api_version:
  description: The version of the C(ClusterConfiguration); null for O(component=kubelet).
  returned: success
  type: str
  sample: kubeadm.k8s.io/v1beta4
previous:
  description:
    - What changed had these values before, in the form of O(flags) or O(kubelet); given to them, it takes the change
      back.
  returned: success
  type: dict
  sample: {enable-aggregator-routing: null}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube, kubeadm
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flag_plan, flags, kubelet_values
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.masking import mask_text

ATTEMPTS = 5


class Outcome(t.NamedTuple):
    """What has become, or would become, of one ConfigMap."""

    config_map: str
    exists: bool = False
    api_version: t.Optional[str] = None
    before: str = ""
    after: str = ""
    previous: t.Mapping[str, t.Any] = {}


def path_of(name: str) -> str:
    return f"/api/v1/namespaces/{kubeadm.NAMESPACE}/configmaps/{name}"


def read(api: kube.Api, name: str) -> t.Optional[t.Dict[str, t.Any]]:
    """A ConfigMap, or None when there is none of this name."""
    try:
        return t.cast(t.Dict[str, t.Any], api.get(path_of(name))[0])
    except kube.KubeError as exc:
        if exc.status == 404:
            return None
        raise


def text_in(config_map: t.Mapping[str, t.Any], key: str) -> str:
    text = (config_map.get("data") or {}).get(key)
    if not isinstance(text, str):
        name = config_map["metadata"]["name"]
        raise kubeadm.KubeadmError(f"The ConfigMap {kubeadm.NAMESPACE}/{name} has no entry {key}; restore it first.")
    return text


def save(api: kube.Api, config_map: t.Mapping[str, t.Any], key: str, text: str) -> None:
    """Write one entry, on condition that nobody wrote since it was read."""
    metadata = config_map["metadata"]
    patch = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "data": {key: text}}
    api.send("PATCH", path_of(metadata["name"]), patch, content_type="application/merge-patch+json")


def edit_cluster(api: kube.Api, params: t.Mapping[str, t.Any], dry_run: bool) -> Outcome:
    name = f"{kubeadm.NAMESPACE}/{kubeadm.CLUSTER_MAP}"
    config_map = read(api, kubeadm.CLUSTER_MAP)
    if config_map is None:
        return Outcome(name)
    before = text_in(config_map, kubeadm.CLUSTER_KEY)
    configuration = kubeadm.ClusterConfiguration(before)
    section = kubeadm.SECTIONS[params["component"]]
    previous = configuration.set_flags(section, params["flags"] or {})
    configuration.set_volumes(section, [volume_of(volume) for volume in params["volumes"] or []])
    if configuration.text != before and not dry_run:
        save(api, config_map, kubeadm.CLUSTER_KEY, configuration.text)
    return Outcome(name, True, configuration.api_version, before, configuration.text, previous)


def edit_kubelet(api: kube.Api, params: t.Mapping[str, t.Any], dry_run: bool) -> Outcome:
    name = kubeadm.KUBELET_MAP
    config_map = read(api, name)
    if config_map is None:
        # Up to 1.23 its name ended in the version.
        cluster = read(api, kubeadm.CLUSTER_MAP)
        version = kubeadm.ClusterConfiguration(text_in(cluster, kubeadm.CLUSTER_KEY)).minor_version if cluster else None
        name = f"{kubeadm.KUBELET_MAP}-{version}" if version else name
        config_map = read(api, name) if version else None
    if config_map is None:
        return Outcome(f"{kubeadm.NAMESPACE}/{name}")
    before = text_in(config_map, kubeadm.KUBELET_KEY)
    document = kubeadm.KubeletDocument(before, name)
    previous = document.merge(params["kubelet"])
    if document.text != before and not dry_run:
        save(api, config_map, kubeadm.KUBELET_KEY, document.text)
    return Outcome(f"{kubeadm.NAMESPACE}/{name}", True, None, before, document.text, previous)


def volume_of(volume: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    return {
        "name": volume["name"],
        "hostPath": volume["host_path"],
        "mountPath": volume["mount_path"] or volume["host_path"],
        "readOnly": volume["read_only"],
        "pathType": volume["path_type"],
    }


def check_arguments(params: t.Mapping[str, t.Any]) -> t.Optional[str]:
    """What is wrong with the arguments, or None."""
    if params["component"] == "kubelet":
        if params["flags"] is not None or params["volumes"]:
            return "flags and volumes are for the control plane; give kubelet the settings of the kubelets."
        problem = kubelet_values.check(params["kubelet"] or {})
        return f"kubelet: {problem}" if problem else None
    if params["kubelet"] is not None:
        return "kubelet goes with component=kubelet; give flags for a component of the control plane."
    if params["flags"] is None and params["volumes"]:
        return None
    try:
        flag_plan.check_wanted(params["flags"] or {}, f"kube-{params['component']}")
    except flags.FlagError as exc:
        return str(exc)
    return None


def run(api: kube.Api, params: t.Mapping[str, t.Any], dry_run: bool) -> Outcome:
    edit = edit_kubelet if params["component"] == "kubelet" else edit_cluster
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return edit(api, params, dry_run)
        except kube.KubeError as exc:
            if exc.status != 409 or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "component": {
                "type": "str",
                "choices": ["apiserver", "controller-manager", "scheduler", "kubelet"],
                "default": "apiserver",
            },
            "flags": {"type": "dict"},
            "volumes": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "host_path": {"type": "str", "required": True},
                    "mount_path": {"type": "str"},
                    "read_only": {"type": "bool", "default": True},
                    "path_type": {
                        "type": "str",
                        "choices": ["Directory", "DirectoryOrCreate", "File", "FileOrCreate"],
                        "default": "Directory",
                    },
                },
            },
            "kubelet": {"type": "dict"},
            "required": {"type": "bool", "default": True},
            **kube.API_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    params = module.params
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    problem = check_arguments(params)
    if problem:
        module.fail_json(msg=problem)
    try:
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        outcome = run(api, params, module.check_mode)
    except (kube.KubeError, kubeadm.KubeadmError) as exc:
        module.fail_json(msg=mask_text(str(exc)))
    if not outcome.exists and params["required"]:
        module.fail_json(
            msg=f"The cluster has no ConfigMap {outcome.config_map}, so kubeadm did not make it; change the source "
            "that its installer uses, or set required to false."
        )
    result = {
        "changed": outcome.before != outcome.after,
        "exists": outcome.exists,
        "config_map": outcome.config_map,
        "api_version": outcome.api_version,
        "previous": dict(outcome.previous),
    }
    if module._diff:
        result["diff"] = {
            "before_header": outcome.config_map,
            "after_header": outcome.config_map,
            "before": mask_text(outcome.before),
            "after": mask_text(outcome.after),
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
