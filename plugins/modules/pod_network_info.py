#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pod_network_info
short_description: Test connections from the network of a pod on this host
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Enters the network namespace of a pod on the host and connects from there, as a process in that pod would. Nothing
    is started in the pod, and nothing is sent but the greeting of TLS.
  - What a pod reaches is not what its host reaches. Packets of pods are forwarded, and filters treat them differently.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.host
options:
  pod_uids:
    description:
      - Pods by their uids. The first one that is on the host is taken, and any other pod with a network of its own
        where none of them is.
    type: list
    elements: str
    default: []
  targets:
    description:
      - What to connect to.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description:
          - What it is, such as V(cluster_ip), V(api_server), V(kubelet) or V(endpoint). It is returned as it is.
        type: str
        required: true
      name:
        description: Its name.
        type: str
        default: ""
      host:
        description: The address.
        type: str
        required: true
      port:
        description: The port.
        type: int
        required: true
  ca_file:
    description:
      - File on the host with the CA of API servers. With it, RV(targets[].answers) tells API servers from other
        servers.
    type: path
  api_certificates:
    description:
      - Certificates that API servers show, DER in base64, as for M(kubemetrics.aggregation.host_network_info).
    type: list
    elements: str
    default: []
  timeout:
    description:
      - Seconds for each connection.
    type: float
    default: 3
  total_timeout:
    description:
      - Seconds for all of them. Targets that are not tried within that time say so.
    type: float
    default: 8
seealso:
  - module: kubemetrics.aggregation.host_network_info
  - module: kubemetrics.aggregation.kubelet_info
"""

EXAMPLES = r"""
- name: See whether pods of each host reach the API
  kubemetrics.aggregation.pod_network_info:
    targets:
      - {kind: cluster_ip, name: kubernetes, host: 10.233.0.1, port: 443}
      - {kind: api_server, name: cp1, host: 192.0.2.11, port: 6443}
    ca_file: /etc/kubernetes/pki/ca.crt
  become: true
  register: pod_network
"""

RETURN = r"""
pod:
  description:
    - The pod as NAMESPACE/NAME, as far as its files tell, or null where the host has no pod with a network of its
      own.
  returned: success
  type: str
  sample: kube-system/metrics-server-7c4f9d9b6b-x2x7k
uid:
  description: Its uid, or null.
  returned: success
  type: str
  sample: 3f0e7a52-9f1c-4f55-8f57-0a6c3d4a1b2c
preferred:
  description: Whether it is one of O(pod_uids).
  returned: success
  type: bool
message:
  description: Why nothing was tried, or an empty text.
  returned: success
  type: str
  sample: ""
targets:
  description:
    - The O(targets) in their order, each with its RV(ignore:kind), RV(ignore:name), RV(ignore:host) and
      RV(ignore:port).
  returned: success
  type: list
  elements: dict
  contains:
    connect:
      description:
        - The TCP connection, with RV(ignore:ok), RV(ignore:seconds) and RV(ignore:error). The kind V(not_tried) means
          that O(total_timeout) was over.
      type: dict
    answers:
      description:
        - Whether an API server answers there, for the kinds V(cluster_ip) and V(api_server) with O(ca_file) or
          O(api_certificates); else null.
      type: bool
  sample:
    - kind: cluster_ip
      name: kubernetes
      host: 10.233.0.1
      port: 443
      connect: {ok: true, seconds: 0.001, error: null}
      answers: true
"""

import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import pod_namespaces, probes, processes

MAX_PARALLEL = 64
#: Whose certificate is known.
API_KINDS = ("cluster_ip", "api_server")
NOT_TRIED = {"kind": "not_tried", "message": "it was not tried within the time for all connections"}


def probe(target: t.Mapping[str, t.Any], params: t.Mapping[str, t.Any], end: float) -> t.Dict[str, t.Any]:
    result: t.Dict[str, t.Any] = {key: target[key] for key in ("kind", "name", "host", "port")}
    result["answers"] = None
    left = end - time.monotonic()
    if left <= 0:
        result["connect"] = {"ok": False, "seconds": None, "error": NOT_TRIED}
        return result
    timeout = min(params["timeout"], left)
    result["connect"] = probes.reach(target["host"], target["port"], timeout)
    known = params["ca_file"] or params["api_certificates"]
    if result["connect"]["ok"] and target["kind"] in API_KINDS and known:
        answer = probes.answers_as(
            target["host"], target["port"], params["ca_file"], params["api_certificates"], timeout
        )
        result["answers"] = answer["answers"]
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "pod_uids": {"type": "list", "elements": "str", "default": []},
            "targets": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "kind": {"type": "str", "required": True},
                    "name": {"type": "str", "default": ""},
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                },
            },
            "ca_file": {"type": "path"},
            "api_certificates": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "float", "default": 3},
            "total_timeout": {"type": "float", "default": 8},
        },
        supports_check_mode=True,
    )
    params = module.params
    for name in ("timeout", "total_timeout"):
        if params[name] <= 0:
            module.fail_json(msg="%s is %g; give more than 0 seconds." % (name, params[name]))
    for target in params["targets"]:
        if not 1 <= target["port"] <= 65535:
            module.fail_json(msg="%d is no port of %s." % (target["port"], target["host"]))
    proc = processes.Proc()
    pod = pod_namespaces.choose(pod_namespaces.find_pods(proc), params["pod_uids"])
    result: t.Dict[str, t.Any] = {"pod": None, "uid": None, "preferred": False, "message": "", "targets": []}
    if pod is None:
        result["message"] = "no pod with a network of its own runs on this host"
        module.exit_json(changed=False, **result)
    result["pod"] = "/".join(part for part in (pod.namespace, pod.name) if part) or pod.uid
    result["uid"] = pod.uid
    result["preferred"] = pod.uid in params["pod_uids"]
    try:
        pod_namespaces.enter(proc, pod.pid)
    except pod_namespaces.NamespaceError as exc:
        result["message"] = "the network of the pod could not be used: %s" % exc
        module.exit_json(changed=False, **result)
    end = time.monotonic() + params["total_timeout"]
    if params["targets"]:
        # Threads are in the network of the one that starts them.
        with ThreadPoolExecutor(max_workers=min(MAX_PARALLEL, len(params["targets"]))) as pool:
            result["targets"] = list(pool.map(lambda target: probe(target, params, end), params["targets"]))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
