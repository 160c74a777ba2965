#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: aggregator_info
short_description: Test the connection from an API server's host to an aggregated API server
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Connects from a control plane to the server behind an APIService as the aggregator of the API server there does,
    to its ClusterIP and to each of its endpoints, with the front-proxy client certificate, and shows which step
    fails.
  - The TLS handshake is tried twice - unverified, which is all that the C(Available) check of older API servers does,
    and verified with the CA bundle, which real requests need.
  - The front-proxy certificate and the headers that name a user are sent only to a server whose certificate verifies.
    Where routing to a ClusterIP is broken, its packets may reach an unrelated server.
  - Tells whether the API server would go through an HTTP proxy, by its environment as
    M(kubemetrics.aggregation.component_info) shows it, and whether the proxy forwards the connection.
  - The host needs nothing but Python. Certificates are decoded on the controller.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.host.probe
options:
  client_cert:
    description:
      - File on the host with the front-proxy client certificate, which is the API server's C(--proxy-client-cert-file).
    type: path
    required: true
  client_key:
    description:
      - File on the host with its key, which is the API server's C(--proxy-client-key-file). It does not leave the host.
    type: path
    required: true
  requestheader_ca_file:
    description:
      - File on the host with the CA of front proxies, which is the API server's C(--requestheader-client-ca-file).
        With it RV(client.issued_by_requestheader_ca) is known.
    type: path
  server_name:
    description:
      - The name that the server's certificate has to be valid for, which is C(SERVICE.NAMESPACE.svc).
    type: str
    required: true
  ca_data:
    description:
      - The CA that the certificate has to be signed by, as PEM text. That is the APIService's C(caBundle), decoded.
      - Without it nothing can be verified, and no request is sent.
    type: str
  cluster_ip:
    description:
      - The ClusterIP of the Service.
    type: str
  port:
    description:
      - The port of the Service.
    type: int
    default: 443
  endpoints:
    description:
      - The endpoints of the Service.
    type: list
    elements: dict
    default: []
    suboptions:
      ip:
        description: The address.
        type: str
        required: true
      port:
        description: The port.
        type: int
        required: true
  path:
    description:
      - The path to ask for.
    type: str
    default: /apis/metrics.k8s.io/v1beta1
  user:
    description:
      - The user to ask as, in C(X-Remote-User).
    type: str
    default: system:kube-aggregator
  group:
    description:
      - The group to ask as, in C(X-Remote-Group). The default is what the API server's own check uses.
      - An empty string sends none.
    type: str
    default: system:masters
  proxy_environment:
    description:
      - The proxy variables of the API server, RV(kubemetrics.aggregation.component_info#module:components.environ).
    type: dict
    default: {}
notes:
  - Needs root on the host, to read the key.
seealso:
  - module: kubemetrics.aggregation.apiservice_info
  - module: kubemetrics.aggregation.component_info
"""

EXAMPLES = r"""
- name: Test the connection from each control plane to the metrics server
  kubemetrics.aggregation.aggregator_info:
    client_cert: "{{ apiserver.flags['proxy-client-cert-file'] }}"
    client_key: "{{ apiserver.flags['proxy-client-key-file'] }}"
    requestheader_ca_file: "{{ apiserver.flags['requestheader-client-ca-file'] }}"
    server_name: metrics-server.kube-system.svc
    ca_data: "{{ apiservice.spec.caBundle | b64decode }}"
    cluster_ip: "{{ service.spec.clusterIP }}"
    endpoints: >-
      {{ aggregated.apiservices[0].endpoints | map('dict2items') | map('selectattr', 'key', 'in', ['ip', 'port'])
         | map('items2dict') }}
    proxy_environment: "{{ apiserver.environ }}"
  become: true
  register: probe
"""

RETURN = r"""
client:
  description: The front-proxy client certificate.
  returned: success
  type: dict
  contains:
    usable:
      description: Whether certificate and key can be read and belong together.
      type: bool
    error:
      description: Why not, with RV(ignore:kind) and RV(ignore:message).
      type: dict
    certificate:
      description: The certificate in words.
      type: dict
    certificate_der:
      description: The certificate, DER in base64.
      type: str
    issued_by_requestheader_ca:
      description: Whether it was signed by a CA in O(requestheader_ca_file), or null without that file.
      type: bool
  sample:
    usable: true
    error:
    certificate: {subject: CN=front-proxy-client, issuer: CN=front-proxy-ca, not_after: "2027-03-01T10:00:00Z"}
    certificate_der: MIIDAz...
    issued_by_requestheader_ca: true
requestheader_ca:
  description:
    - The certificates in O(requestheader_ca_file), each with RV(ignore:certificate) and RV(ignore:certificate_der), or
      null.
  returned: success
  type: list
  elements: dict
  sample: []
targets:
  description: What the ClusterIP and each endpoint answers.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(cluster_ip) or V(endpoint).
      type: str
    host:
      description: The address.
      type: str
    port:
      description: The port.
      type: int
    connect:
      description: The TCP connection, with RV(ignore:ok), RV(ignore:seconds) and RV(ignore:error).
      type: dict
    tls:
      description: The TLS handshakes.
      type: dict
      contains:
        ok:
          description: Whether there was one, verified or not.
          type: bool
        version:
          description: The protocol version.
          type: str
        verified:
          description: Whether the certificate verifies, or null without O(ca_data).
          type: bool
        error:
          description: Why there was none, or why it does not verify, with RV(ignore:kind) and RV(ignore:message).
          type: dict
        certificate:
          description: The certificate in words.
          type: dict
        certificate_der:
          description: The certificate, DER in base64.
          type: str
    response:
      description:
        - The request as the aggregator sends it, with RV(ignore:status), RV(ignore:message), RV(ignore:seconds) and
          RV(ignore:error).
      type: dict
    verdict:
      description:
        - V(ok), or the step that fails. V(unreachable), V(tls), V(untrusted), V(not_sent) (nothing to verify with, or
          no usable client certificate), V(front_proxy_refused) (401, the server does not trust the certificate),
          V(wrong_identity) (403), V(bad_status).
      type: str
    proxy:
      description: The proxy that the API server would use, or null. API servers ask through it instead of directly.
      type: str
    tunnel:
      description:
        - Whether that proxy opens a tunnel, with RV(ignore:ok), RV(ignore:status) and RV(ignore:error), or null.
      type: dict
  sample:
    - kind: cluster_ip
      host: 10.233.12.7
      port: 443
      connect:
        ok: false
        seconds: 5.0
        error: {kind: timeout, message: "nothing answers: packets are dropped by a firewall or have no way back"}
      tls: {ok: false, version: null, verified: null, error: null, certificate: null, certificate_der: null}
      response: {status: null, message: "", seconds: null, error: null}
      verdict: unreachable
      proxy:
      tunnel:
"""

import base64
import re
import ssl
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import probes, processes
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import masking

MAX_PARALLEL = 16
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def certificates_in(path: str) -> t.List[str]:
    """The certificates of a PEM file, DER in base64."""
    found = []
    for block in _PEM.findall(processes.read_text(path) or ""):
        try:
            found.append(base64.b64encode(ssl.PEM_cert_to_DER_cert(block)).decode("ascii"))
        except ValueError:
            # A block that is no base64 is left out here; the pair as a whole is judged by the TLS library.
            continue
    return found


def look_at_client(certificate: str, key: str) -> t.Dict[str, t.Any]:
    found = certificates_in(certificate)
    result: t.Dict[str, t.Any] = {"usable": True, "error": None, "certificate_der": found[0] if found else None}
    try:
        probes.load_client_pair(probes.client_context(verify=False), certificate, key)
    except probes.ProbeError as exc:
        result.update(usable=False, error=exc.as_dict())
    return result


def look_at_tls(host: str, port: int, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """Both handshakes, without the client certificate."""
    name, timeout = params["server_name"], params["timeout"]
    shown = probes.look_at_tls(host, port, probes.client_context(verify=False), name, timeout)
    shown["verified"] = None
    if shown["ok"] and params["ca_data"]:
        try:
            context = probes.client_context(ca_data=params["ca_data"])
        except probes.ProbeError as exc:
            shown.update(verified=False, error=exc.as_dict())
            return shown
        verified = probes.look_at_tls(host, port, context, name, timeout)
        shown.update(verified=verified["ok"], error=verified["error"])
    return shown


def send_request(host: str, port: int, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """The request of the aggregator. The server is verified in the very connection that carries it."""
    try:
        context = probes.client_context(ca_data=params["ca_data"])
        probes.load_client_pair(context, params["client_cert"], params["client_key"])
    except probes.ProbeError as exc:
        return {"status": None, "message": "", "seconds": None, "error": exc.as_dict()}
    headers = {"X-Remote-User": params["user"], "Accept": "application/json"}
    if params["group"]:
        headers["X-Remote-Group"] = params["group"]
    return probes.ask(
        host,
        port,
        params["path"],
        params["timeout"],
        context=context,
        server_name=params["server_name"],
        headers=headers,
    )


def verdict_of(target: t.Mapping[str, t.Any]) -> str:
    """The first step that fails, in one word."""
    if not target["connect"]["ok"]:
        return "unreachable"
    if not target["tls"]["ok"]:
        return "tls"
    if target["tls"]["verified"] is False:
        return "untrusted"
    status = target["response"]["status"]
    if status is None:
        # With TLS 1.3 a server refuses a client certificate only after the handshake, by cutting the connection.
        return "not_sent" if target["response"]["error"] is None else "tls"
    return {200: "ok", 401: "front_proxy_refused", 403: "wrong_identity"}.get(status, "bad_status")


def probe(kind: str, host: str, port: int, usable: bool, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    target: t.Dict[str, t.Any] = {
        "kind": kind,
        "host": host,
        "port": port,
        "connect": probes.reach(host, port, params["timeout"]),
        "tls": {"ok": False, "version": None, "verified": None, "error": None, "certificate_der": None},
        "response": {"status": None, "message": "", "seconds": None, "error": None},
        "proxy": probes.proxy_for(host, port, params["proxy_environment"]),
        "tunnel": None,
    }
    if target["connect"]["ok"]:
        target["tls"] = look_at_tls(host, port, params)
        if target["tls"]["verified"] and usable:
            target["response"] = send_request(host, port, params)
    if target["proxy"]:
        target["tunnel"] = probes.through_proxy(target["proxy"], host, port, params["timeout"])
        target["proxy"] = masking.strip_userinfo(target["proxy"])
    target["verdict"] = verdict_of(target)
    return target


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "client_cert": {"type": "path", "required": True},
            "client_key": {"type": "path", "required": True, "no_log": False},
            "requestheader_ca_file": {"type": "path"},
            "server_name": {"type": "str", "required": True},
            "ca_data": {"type": "str"},
            "cluster_ip": {"type": "str"},
            "port": {"type": "int", "default": 443},
            "endpoints": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"ip": {"type": "str", "required": True}, "port": {"type": "int", "required": True}},
            },
            "path": {"type": "str", "default": "/apis/metrics.k8s.io/v1beta1"},
            "user": {"type": "str", "default": "system:kube-aggregator"},
            "group": {"type": "str", "default": "system:masters"},
            "proxy_environment": {"type": "dict", "default": {}},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["timeout"] <= 0:
        module.fail_json(msg="timeout is %g; give more than 0 seconds." % params["timeout"])
    if not params["path"].startswith("/"):
        module.fail_json(msg="path is %r and has to start with a slash." % params["path"])
    params["proxy_environment"] = {str(name): str(value) for name, value in params["proxy_environment"].items()}
    aims = [("cluster_ip", params["cluster_ip"], params["port"])] if params["cluster_ip"] else []
    aims += [("endpoint", endpoint["ip"], endpoint["port"]) for endpoint in params["endpoints"]]
    for _kind, host, port in aims:
        if not 1 <= port <= 65535:
            module.fail_json(msg="%d is no port of %s." % (port, host))
    client = look_at_client(params["client_cert"], params["client_key"])
    targets: t.List[t.Dict[str, t.Any]] = []
    if aims:
        with ThreadPoolExecutor(max_workers=min(MAX_PARALLEL, len(aims))) as pool:
            targets = list(pool.map(lambda aim: probe(aim[0], aim[1], aim[2], client["usable"], params), aims))
    authorities = None
    if params["requestheader_ca_file"]:
        authorities = [{"certificate_der": der} for der in certificates_in(params["requestheader_ca_file"])]
    module.exit_json(changed=False, client=client, requestheader_ca=authorities, targets=targets)


if __name__ == "__main__":
    main()
