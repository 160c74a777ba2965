#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: metrics_reader_token
short_description: Request a short-lived token of a service account that may read kubelets' metrics
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Whether a kubelet accepts service accounts can only be tested with the token of one. This module requests a token
    for the account of the metrics server, which expires after ten minutes.
  - Where that account does not exist or may not get C(nodes/metrics), a temporary one is created, which may do
    that and nothing else - the ServiceAccount C(kubemetrics-probe) in C(kube-system), and a ClusterRole and
    ClusterRoleBinding named C(kubemetrics-probe). Remove it with O(state=absent).
  - The token is a secret. Run the task with C(no_log), and pass it to M(kubemetrics.aggregation.kubelet_info).
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.attributes
options:
  state:
    description:
      - V(present) returns a token, V(absent) removes the temporary account.
    type: str
    choices: [present, absent]
    default: present
  namespace:
    description:
      - The namespace of the metrics server's account.
    type: str
    default: kube-system
  service_account:
    description:
      - The metrics server's account.
    type: str
    default: metrics-server
  temporary_account:
    description:
      - Whether to create the temporary account where the metrics server's own one does not exist or has not the right.
      - With V(false) nothing is ever created. The token is that of the metrics server's account, whatever its rights,
        and null where there is no such account.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    details: There is no token in check mode.
  diff_mode:
    support: none
  idempotent:
    support: full
    details: Each run gets another token.
seealso:
  - module: kubemetrics.aggregation.kubelet_info
"""

EXAMPLES = r"""
- name: Request a token
  kubemetrics.aggregation.metrics_reader_token:
    kubeconfig: "{{ kubeconfig_file }}"
  delegate_to: localhost
  no_log: true
  register: reader

- name: Ask a kubelet with it
  kubemetrics.aggregation.kubelet_info:
    addresses: [192.0.2.21]
    ca_file: /etc/kubernetes/pki/ca.crt
    token: "{{ reader.token }}"

- name: Take the temporary account away
  kubemetrics.aggregation.metrics_reader_token:
    kubeconfig: "{{ kubeconfig_file }}"
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
token:
  description: The token; null in check mode, for O(state=absent), and without an account.
  returned: success
  type: str
  sample: eyJhbGciOi...
account:
  description: The account that it belongs to, as NAMESPACE/NAME; null for O(state=absent).
  returned: success
  type: str
  sample: kube-system/metrics-server
temporary:
  description: Whether that is the temporary account.
  returned: success
  type: bool
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.wait import Observation, wait_until

NAME = "kubemetrics-probe"
NAMESPACE = "kube-system"
LIFETIME = 600
RBAC = "/apis/rbac.authorization.k8s.io/v1"
LABELS = {cluster_state.MANAGED_BY: cluster_state.MANAGER}

#: The collection and the object of each part of the temporary account, in the order of their making.
OBJECTS: t.Tuple[t.Tuple[str, t.Dict[str, t.Any]], ...] = (
    (
        "/api/v1/namespaces/%s/serviceaccounts" % NAMESPACE,
        {"apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": False},
    ),
    (
        RBAC + "/clusterroles",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "rules": [{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}],
        },
    ),
    (
        RBAC + "/clusterrolebindings",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
        },
    ),
)


def allowed(api: kube.Api, namespace: str, name: str) -> bool:
    """Whether the account may read kubelets' metrics, which the API answers also for accounts that do not exist."""
    spec = {
        "user": "system:serviceaccount:%s:%s" % (namespace, name),
        "groups": ["system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"],
        "resourceAttributes": {"verb": "get", "resource": "nodes", "subresource": "metrics"},
    }
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = api.send("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return bool((answer.get("status") or {}).get("allowed"))


def token_of(api: kube.Api, namespace: str, name: str) -> t.Optional[str]:
    """A token, or None when there is no such account."""
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": LIFETIME},
    }
    try:
        answer = api.send("POST", "/api/v1/namespaces/%s/serviceaccounts/%s/token" % (namespace, name), body)
    except kube.KubeError as exc:
        if exc.status == 404:
            return None
        raise
    return str(answer["status"]["token"])


def create(api: kube.Api) -> bool:
    """Make what is missing of the temporary account. True when something was."""
    made = False
    for path, template in OBJECTS:
        try:
            api.send("POST", path, {**template, "metadata": {"name": NAME, "labels": LABELS}})
            made = True
        except kube.KubeError as exc:
            if exc.status != 409:
                raise
    # Until every API server knows the binding, a kubelet would remember a refusal for half a minute.
    waited = wait_until(lambda: Observation(allowed(api, NAMESPACE, NAME), None, ""), timeout=10, sleep=0.2)
    if not waited.observation.done:
        raise kube.KubeError(
            "The temporary account %s/%s may not get nodes/metrics although it is bound to a role that may; does the "
            "API server use RBAC (--authorization-mode, --authorization-config)?" % (NAMESPACE, NAME)
        )
    return made


def remove(api: kube.Api, *, dry_run: bool) -> bool:
    removed = False
    for path, _template in reversed(OBJECTS):
        try:
            api.get("%s/%s" % (path, NAME))
            removed = True
            if not dry_run:
                api.send("DELETE", "%s/%s" % (path, NAME), None)
        except kube.KubeError as exc:
            if exc.status != 404:
                raise
    return removed


def own_token(api: kube.Api, namespace: str, name: str, *, dry_run: bool) -> t.Dict[str, t.Any]:
    """A token of the server's account as it is, to see what kubelets make of it."""
    token = None if dry_run else token_of(api, namespace, name)
    return {"changed": False, "token": token, "account": "%s/%s" % (namespace, name), "temporary": False}


def lend(api: kube.Api, namespace: str, name: str, *, dry_run: bool) -> t.Dict[str, t.Any]:
    token = None
    if allowed(api, namespace, name):
        if dry_run:
            return {"changed": False, "token": None, "account": "%s/%s" % (namespace, name), "temporary": False}
        token = token_of(api, namespace, name)
        if token:
            return {"changed": False, "token": token, "account": "%s/%s" % (namespace, name), "temporary": False}
    made = False
    if not dry_run:
        made = create(api)
        token = token_of(api, NAMESPACE, NAME)
        if token is None:
            raise kube.KubeError("The temporary account %s/%s was removed meanwhile; run again." % (NAMESPACE, NAME))
    return {"changed": made or dry_run, "token": token, "account": "%s/%s" % (NAMESPACE, NAME), "temporary": True}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **kube.API_ARGUMENTS,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "namespace": {"type": "str", "default": "kube-system"},
            "service_account": {"type": "str", "default": "metrics-server"},
            "temporary_account": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    try:
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        if params["state"] == "absent":
            result: t.Dict[str, t.Any] = {
                "changed": remove(api, dry_run=module.check_mode),
                "token": None,
                "account": None,
                "temporary": False,
            }
        elif not params["temporary_account"]:
            result = own_token(api, params["namespace"], params["service_account"], dry_run=module.check_mode)
        else:
            result = lend(api, params["namespace"], params["service_account"], dry_run=module.check_mode)
    except kube.KubeError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
