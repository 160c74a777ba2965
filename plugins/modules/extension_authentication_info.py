#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: extension_authentication_info
short_description: Show which front proxies aggregated API servers trust
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reads ConfigMap C(kube-system/extension-apiserver-authentication), in which API servers publish which front
    proxies may act for a user, and by which headers.
  - Can wait until it holds what an API server publishes. It is the union of what all API servers have published since
    it was made, so that what has been taken away stays in it.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.wait
  - kubemetrics.aggregation.attributes.info
options:
  server:
    description:
      - The API server to ask, as C(https://HOST:PORT). Without it, the server of the kubeconfig.
    type: str
  contains_ca:
    description:
      - CA certificates that have to be in it, DER in base64, as M(kubemetrics.aggregation.front_proxy_info) returns
        them.
    type: list
    elements: str
    default: []
  no_other_ca:
    description:
      - Whether O(contains_ca) are all that may be in it.
    type: bool
    default: false
  contains_names:
    description:
      - Allowed names that have to be in it.
    type: list
    elements: str
    default: []
requirements:
  - cryptography (Python library) on the machine that the module runs on
seealso:
  - module: kubemetrics.aggregation.front_proxy_info
  - module: kubemetrics.aggregation.apiservice_info
"""

EXAMPLES = r"""
- name: Wait until the front proxy of an API server is published
  kubemetrics.aggregation.extension_authentication_info:
    server: https://192.0.2.11:6443
    contains_ca: "{{ front_proxy.ca }}"
    contains_names: [front-proxy-client]
    wait: true
    wait_sleep: 1
    wait_timeout: 60
  delegate_to: localhost
"""

RETURN = r"""
exists:
  description: Whether there is such a ConfigMap.
  returned: success
  type: bool
ok:
  description: Whether it holds all that was asked for.
  returned: success
  type: bool
message:
  description: What is missing, or an empty string.
  returned: success
  type: str
front_proxy_ca:
  description: The CAs of front proxies in words.
  returned: success
  type: list
  elements: dict
  sample: [{subject: CN=front-proxy-ca, not_after: "2036-02-27T10:00:00Z"}]
client_ca:
  description: The CAs of clients in words.
  returned: success
  type: list
  elements: dict
shared:
  description:
    - Subjects of CAs that are both. Then any client certificate may be taken for a front proxy's.
  returned: success
  type: list
  elements: str
allowed_names:
  description: The names that a front proxy's certificate may have; none means any.
  returned: success
  type: list
  elements: str
headers:
  description: The headers for RV(ignore:username), RV(ignore:uid), RV(ignore:group) and RV(ignore:extra).
  returned: success
  type: dict
  sample: {username: [X-Remote-User], uid: [], group: [X-Remote-Group], extra: [X-Remote-Extra-]}
elapsed:
  description: Seconds that the module waited.
  returned: success
  type: float
"""

import base64
import binascii
import json
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.wait import (
    WAIT_ARGUMENTS,
    Observation,
    check_wait_arguments,
    wait_until,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import names as pki_names

PATH = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
HEADERS = {
    "username": "requestheader-username-headers",
    "uid": "requestheader-uid-headers",
    "group": "requestheader-group-headers",
    "extra": "requestheader-extra-headers-prefix",
}


def names_in(text: t.Optional[str]) -> t.List[str]:
    """A JSON list of strings; what is none is taken as empty, as the servers do that read it."""
    try:
        values = json.loads(text or "[]")
    except ValueError:
        return []
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def bundle_in(text: t.Optional[str]) -> t.List[t.Any]:
    try:
        return certs.load_bundle((text or "").encode("utf-8"))
    except ValueError:
        return []


def describe(
    config_map: t.Optional[t.Mapping[str, t.Any]],
    wanted_ca: t.Sequence[t.Any],
    names: t.Sequence[str],
    no_other_ca: bool = False,
) -> t.Any:
    """What the ConfigMap says, and what is missing in it."""
    data = (config_map or {}).get("data") or {}
    front, clients = bundle_in(data.get("requestheader-client-ca-file")), bundle_in(data.get("client-ca-file"))
    allowed = names_in(data.get("requestheader-allowed-names"))
    faults = []
    if config_map is None:
        faults.append("there is no ConfigMap extension-apiserver-authentication in kube-system")
    else:
        faults += [
            "the front-proxy CA %s is not published" % pki_names.text(certificate)
            for certificate in wanted_ca
            if certificate not in front
        ]
        faults += [
            "the front-proxy CA %s is published, which no control plane's file holds" % pki_names.text(certificate)
            for certificate in front
            if no_other_ca and certificate not in wanted_ca
        ]
        # An empty list allows every name.
        faults += ["the name %s is not allowed" % name for name in names if allowed and name not in allowed]
    return {
        "exists": config_map is not None,
        "ok": not faults,
        "message": "; ".join(faults),
        "front_proxy_ca": [certs.describe(certificate) for certificate in front],
        "client_ca": [certs.describe(certificate) for certificate in clients],
        "shared": [pki_names.text(certificate) for certificate in front if certificate in clients],
        "allowed_names": allowed,
        "headers": {name: names_in(data.get(key)) for name, key in HEADERS.items()},
    }


def load_wanted(encoded: t.Sequence[str]) -> t.List[t.Any]:
    try:
        return [certs.load_der(base64.b64decode(der, validate=True)) for der in encoded]
    except (binascii.Error, ValueError):
        raise ValueError("contains_ca holds something that is no DER certificate in base64.") from None


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **kube.API_ARGUMENTS,
            **WAIT_ARGUMENTS,
            "server": {"type": "str"},
            "contains_ca": {"type": "list", "elements": "str", "default": []},
            "no_other_ca": {"type": "bool", "default": False},
            "contains_names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    if certs.CRYPTOGRAPHY_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=certs.CRYPTOGRAPHY_IMPORT_ERROR)
    complaint = check_wait_arguments(params)
    if complaint:
        module.fail_json(msg=complaint)
    try:
        wanted = load_wanted(params["contains_ca"])
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        server = kube.normalize_server(params["server"]) if params["server"] else api.server
    except (kube.KubeError, ValueError) as exc:
        module.fail_json(msg=str(exc))

    def look() -> Observation:
        try:
            config_map = api.get(PATH, server=server)[0]
        except kube.KubeError as exc:
            if exc.status == 404:
                config_map = None
            elif not params["wait"] or api.is_final(exc, server):
                raise
            else:
                return Observation(False, None, str(exc).rstrip("."))
        found = describe(config_map, wanted, params["contains_names"], params["no_other_ca"])
        return Observation(found["ok"], found, found["message"])

    try:
        waited = wait_until(look, timeout=params["wait_timeout"] if params["wait"] else 0, sleep=params["wait_sleep"])
    except kube.KubeError as exc:
        module.fail_json(msg=str(exc))
    if params["wait"] and not waited.observation.done:
        module.fail_json(
            msg="Not published by %s after %d s: %s." % (server, waited.elapsed, waited.observation.summary),
            last_observed=waited.observation.state,
            elapsed=round(waited.elapsed, 1),
        )
    module.exit_json(changed=False, elapsed=round(waited.elapsed, 1), **waited.observation.state)


if __name__ == "__main__":
    main()
