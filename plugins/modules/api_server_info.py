#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: api_server_info
short_description: Show whether the API server of a host is ready
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Asks the API server of the host for C(/readyz), over a connection that verifies. Where it refuses that without
    credentials, it is asked with the client certificates of O(kubeconfigs), one after the other.
  - The certificate is verified as the clients on this host do it, by the CA in their kubeconfigs. The CA by which an
    API server verifies its clients may be another one.
  - Needs no other API server and nothing but Python on the host.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.host
options:
  address:
    description:
      - The address of the API server, for which its certificate has to be valid.
    type: str
    required: true
  port:
    description:
      - Its port.
    type: int
    default: 6443
  ca_file:
    description:
      - File on the host with the CA that signed its certificate. Then nothing else is looked for.
    type: path
  kubeconfigs:
    description:
      - Kubeconfigs on the host. The CA of the first that names one is taken. Their client certificates are used where
        the API server refuses unauthenticated clients.
    type: list
    elements: path
    default: [/etc/kubernetes/kubelet.conf, /etc/kubernetes/admin.conf]
  client_ca_file:
    description:
      - The CA of its clients, which is taken where no kubeconfig names one.
    type: path
  checks:
    description:
      - Whether to read what C(/readyz?verbose) says of each check, too.
    type: bool
    default: false
  log_lines:
    description:
      - How many of the last warnings and errors in the log of the API server to return, each once. They are read from
        the log of its static pod, or from the journal of O(unit).
    type: int
    default: 0
  unit:
    description:
      - The systemd unit that runs the API server. Empty for a static pod.
    type: str
    default: ""
  timeout:
    description:
      - Seconds for the request.
    type: float
    default: 5
seealso:
  - module: kubemetrics.aggregation.cluster_state_info
  - module: kubemetrics.aggregation.component_info
"""

EXAMPLES = r"""
- name: Wait until the API server of this host is ready
  kubemetrics.aggregation.api_server_info:
    address: "{{ ansible_host }}"
  register: server
  until: server.ready
  retries: 60
  delay: 2
"""

RETURN = r"""
ready:
  description:
    - Whether it says that it is ready. One that refuses unauthenticated clients counts as ready where O(kubeconfigs)
      has no client certificate that it accepts.
  returned: success
  type: bool
  sample: true
status:
  description: The HTTP status, or null.
  returned: success
  type: int
  sample: 200
client:
  description: The kubeconfig with whose client certificate it was asked in the end, or null for none.
  returned: success
  type: str
  sample: null
ca_source:
  description: The file that the CA was taken from, or null where none was found.
  returned: success
  type: str
  sample: /etc/kubernetes/kubelet.conf
error:
  description: What is wrong, in one clause, or an empty text.
  returned: success
  type: str
  sample: ""
checks:
  description:
    - The checks behind C(/readyz), each with RV(ignore:name), RV(ignore:ok) and RV(ignore:message). Null without
      O(checks), and where the API server does not tell.
  returned: success
  type: list
  elements: dict
  sample: [{name: ping, ok: true, message: ""}, {name: etcd, ok: false, message: "failed: reason withheld"}]
log:
  description: Its last warnings and errors, the newest last, without what is secret in them.
  returned: success
  type: list
  elements: str
  sample: []
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import api_servers


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "default": 6443},
            "ca_file": {"type": "path"},
            "kubeconfigs": {
                "type": "list",
                "elements": "path",
                "default": ["/etc/kubernetes/kubelet.conf", "/etc/kubernetes/admin.conf"],
            },
            "client_ca_file": {"type": "path"},
            "checks": {"type": "bool", "default": False},
            "log_lines": {"type": "int", "default": 0},
            "unit": {"type": "str", "default": ""},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["timeout"] <= 0:
        module.fail_json(msg="timeout is %g; give more than 0 seconds." % params["timeout"])
    authority = api_servers.choose(params["ca_file"] or "", params["kubeconfigs"], params["client_ca_file"] or "")
    if params["ca_file"] and authority is None:
        module.fail_json(msg="%s holds no certificate; give ca_file the path of a CA on the host." % params["ca_file"])
    address = params["address"].strip("[]")
    result = api_servers.readiness(address, params["port"], authority, params["timeout"], params["kubeconfigs"])
    result["checks"] = None
    if params["checks"] and authority and result["status"] is not None:
        clients = api_servers.clients_of(params["kubeconfigs"])
        client = next((found for found in clients if found.source == result["client"]), None)
        result["checks"] = api_servers.read_checks(address, params["port"], authority, params["timeout"], client)
    lines = params["log_lines"]
    result["log"] = api_servers.read_log(params["unit"], lines, params["timeout"]) if lines > 0 else []
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
