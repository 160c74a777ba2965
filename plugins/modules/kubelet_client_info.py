#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubelet_client_info
short_description: See whether kubelets with webhook authorization would still answer the API servers
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - A kubelet with webhook authorization asks the API server whether a client may, and the API servers themselves are
    such clients - C(kubectl logs), C(exec) and C(port-forward) go through them. With anonymous access off, their client
    certificate has to verify with the kubelet's client CA.
  - This module checks both before a kubelet is changed. It takes the user and the groups from each API server's client
    certificate and asks for their rights by SubjectAccessReviews, and it verifies each certificate with the client CA
    of each kubelet.
  - Keys are not needed.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.attributes.info
options:
  clients:
    description:
      - The client certificate of each API server (C(--kubelet-client-certificate)) as PEM, by a name of the caller's
        choice.
    type: dict
    required: true
  authorities:
    description:
      - The client CA of each kubelet (C(clientCAFile)) as PEM, by a name of the caller's choice.
    type: dict
    default: {}
requirements:
  - cryptography (Python library) on the machine that the module runs on
notes:
  - Sends SubjectAccessReviews. The API server answers them and stores nothing.
seealso:
  - module: kubemetrics.aggregation.kubelet_config
  - module: kubemetrics.aggregation.kubelet_info
"""

EXAMPLES = r"""
- name: Read the client certificate of the API server
  ansible.builtin.slurp:
    src: /etc/kubernetes/pki/apiserver-kubelet-client.crt
  register: client

- name: Check that it may do at kubelets what it has to
  kubemetrics.aggregation.kubelet_client_info:
    kubeconfig: /etc/kubernetes/admin.conf
    clients:
      cp1: "{{ client.content | b64decode }}"
  delegate_to: localhost
  register: review
  failed_when: review.ok is not defined or not review.ok
"""

RETURN = r"""
ok:
  description: Whether every client has its rights and verifies with every authority.
  returned: success
  type: bool
clients:
  description: Who each API server is to a kubelet, and what it is not allowed.
  returned: success
  type: dict
  sample:
    cp1:
      user: kube-apiserver-kubelet-client
      groups: [kubeadm:cluster-admins]
      denied: []
denied_subjects:
  description: Whom of them to bind to the ClusterRole C(system:kubelet-api-admin), as subjects of a binding.
  returned: success
  type: list
  elements: dict
  sample: []
denied_requests:
  description: What any of them is not allowed.
  returned: success
  type: list
  elements: str
  sample: []
untrusted:
  description: The pairs of client and authority that do not fit, with the reason.
  returned: success
  type: list
  elements: dict
  contains:
    client:
      description: Name of the client.
      type: str
    authority:
      description: Name of the authority.
      type: str
    reason:
      description: Why.
      type: str
  sample: []
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import names as pki_names

#: What kubectl logs, attach, exec and port-forward need.
REQUESTS = (("get", "proxy"), ("create", "proxy"))
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class Client(t.NamedTuple):
    """The certificates of a client, the leaf first, and who it is to an API server."""

    chain: t.List[t.Any]
    user: str
    groups: t.List[str]


def load_client(name: str, pem: str) -> Client:
    """Raises ValueError with a sentence."""
    try:
        chain = certs.load_bundle(pem.encode("utf-8"))
    except ValueError as exc:
        raise ValueError("The client certificate of %s %s; correct it first." % (name, exc)) from exc
    names: t.Dict[str, t.List[str]] = {"2.5.4.3": [], "2.5.4.10": []}
    for kind, value in pki_names.attributes(chain[0]) or ():
        names.setdefault(kind, []).append(value)
    if not names["2.5.4.3"]:
        raise ValueError(
            "The client certificate of %s has no common name, so that no kubelet would know its user; make a new one."
            % name
        )
    return Client(chain, names["2.5.4.3"][-1], names["2.5.4.10"])


def denied(api: kube.Api, client: Client) -> t.List[str]:
    """The requests that the client may not send."""
    found = []
    for verb, subresource in REQUESTS:
        spec = {
            "user": client.user,
            "groups": [*client.groups, "system:authenticated"],
            "resourceAttributes": {"verb": verb, "resource": "nodes", "subresource": subresource},
        }
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        if not (api.send("POST", REVIEWS, body).get("status") or {}).get("allowed"):
            found.append("%s nodes/%s" % (verb, subresource))
    return found


def untrusted(clients: t.Mapping[str, Client], authorities: t.Mapping[str, str]) -> t.List[t.Dict[str, str]]:
    found = []
    for name, pem in sorted(authorities.items()):
        try:
            known = certs.load_bundle(pem.encode("utf-8"))
        except ValueError as exc:
            known, unreadable = [], str(exc)
        else:
            unreadable = ""
        for client in sorted(clients):
            reason = "the file " + unreadable if unreadable else certs.why_no_client(clients[client].chain, known)
            if reason:
                found.append({"authority": name, "client": client, "reason": reason})
    return found


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **kube.API_ARGUMENTS,
            "clients": {"type": "dict", "required": True},
            "authorities": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    if certs.CRYPTOGRAPHY_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=certs.CRYPTOGRAPHY_IMPORT_ERROR)
    try:
        clients = {name: load_client(name, str(pem)) for name, pem in params["clients"].items()}
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        reviewed = {
            name: {"user": client.user, "groups": client.groups, "denied": denied(api, client)}
            for name, client in sorted(clients.items())
        }
    except (kube.KubeError, ValueError) as exc:
        module.fail_json(msg=str(exc))
    unknown = untrusted(clients, {name: str(pem) for name, pem in params["authorities"].items()})
    module.exit_json(
        changed=False,
        ok=not unknown and not any(client["denied"] for client in reviewed.values()),
        clients=reviewed,
        denied_subjects=[
            {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}
            for name in sorted({client["user"] for client in reviewed.values() if client["denied"]})
        ],
        denied_requests=sorted({request for client in reviewed.values() for request in client["denied"]}),
        untrusted=unknown,
    )


if __name__ == "__main__":
    main()
