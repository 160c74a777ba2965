#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubelet_info
short_description: Test connections to kubelets as a metrics server makes them
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Connects from the host to kubelets, step by step, as a metrics server does - the port, the certificate and whether
    it verifies, the answer without credentials, the answer with a token, and the old read-only port.
  - The host needs nothing but Python. Certificates are decoded on the controller.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.host.probe
options:
  addresses:
    description:
      - The IPs or DNS names of kubelets, as the metrics server would dial them.
    type: list
    elements: str
    required: true
  server_name:
    description:
      - The name that the certificate has to be valid for. Without it, the address itself.
    type: str
  port:
    description:
      - The port of the kubelets.
    type: int
    default: 10250
  read_only_port:
    description:
      - The read-only port, which serves without TLS and authentication. V(0) skips it.
    type: int
    default: 10255
  path:
    description:
      - The path to ask for.
    type: str
    default: /metrics/resource
  ca_file:
    description:
      - File on the host with the CA that the certificates have to be signed by.
    type: path
  ca_data:
    description:
      - That CA as PEM text.
    type: str
  token:
    description:
      - A bearer token to ask with, for example one of the metrics server's service account.
    type: str
  validate_certs:
    description:
      - Whether requests, and with them O(token), go only to a kubelet whose certificate verifies.
      - V(false) sends them to any server that answers. Use it only with a token that grants nothing else, for kubelets
        that have no certificate of the cluster yet.
      - RV(kubelets[].tls.verified) shows the result either way.
    type: bool
    default: true
seealso:
  - module: kubemetrics.aggregation.kubelet_csr
"""

EXAMPLES = r"""
- name: Test the kubelet of each node as the metrics server does
  kubemetrics.aggregation.kubelet_info:
    addresses: ["{{ ansible_facts['default_ipv4']['address'] }}"]
    ca_file: /etc/kubernetes/pki/ca.crt
    token: "{{ metrics_server_token }}"
  register: kubelet

- name: Insist on verified TLS and on authentication
  ansible.builtin.assert:
    that:
      - kubelet.kubelets[0].tls.verified
      - kubelet.kubelets[0].anonymous.status == 401
      - kubelet.kubelets[0].authenticated.status == 200
      - not kubelet.kubelets[0].read_only.open
    fail_msg: "The kubelet is not as it should be: {{ kubelet.kubelets[0] }}"

- name: See which kubelets this control plane reaches
  kubemetrics.aggregation.kubelet_info:
    addresses: "{{ groups['kube_node'] | map('extract', hostvars, ['ip']) }}"
    ca_file: /etc/kubernetes/pki/ca.crt
"""

RETURN = r"""
kubelets:
  description: What each kubelet answers, in the order of O(addresses).
  returned: success
  type: list
  elements: dict
  contains:
    address:
      description: The address.
      type: str
    port:
      description: The port.
      type: int
    connect:
      description: The TCP connection, with RV(ignore:ok), RV(ignore:seconds) and RV(ignore:error).
      type: dict
    tls:
      description: The TLS handshake.
      type: dict
      contains:
        ok:
          description: Whether there was one, verified or not.
          type: bool
        version:
          description: The protocol version.
          type: str
        verified:
          description:
            - Whether the certificate verifies with the CA and the name, or null without O(ca_file) and O(ca_data).
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
    anonymous:
      description: The request without credentials. A safe kubelet answers 401.
      type: dict
      contains:
        status:
          description: The HTTP status, or null.
          type: int
        message:
          description: What an answer other than 200 says.
          type: str
        seconds:
          description: What the request took.
          type: float
        error:
          description:
            - Why there was no answer, with RV(ignore:kind) and RV(ignore:message). The kind V(not_sent) means that the
              certificate does not verify.
          type: dict
    authenticated:
      description:
        - The request with O(token), like RV(kubelets[].anonymous); null without a token.
        - With status 200, RV(ignore:series) says of each series that usage is made of how many RV(ignore:samples) there
          are, and how many of these are RV(ignore:zero).
      type: dict
    read_only:
      description:
        - The read-only port with RV(ignore:open), RV(ignore:status) and RV(ignore:error); null when it was left out.
      type: dict
  sample:
    - address: 192.0.2.21
      port: 10250
      connect: {ok: true, seconds: 0.001, error: null}
      tls:
        ok: true
        version: TLSv1.3
        verified: false
        error: {kind: untrusted, message: "the certificate does not verify (self-signed certificate in chain)"}
        certificate: {subject: "CN=w1@1767225600", issuer: "CN=w1-ca@1767225600", dns_names: [w1], ip_addresses: []}
        certificate_der: MIIDAz...
      anonymous:
        status:
        message: ""
        seconds:
        error: {kind: not_sent, message: "the certificate does not verify, so nothing was sent"}
      authenticated: null
      read_only: {open: false, status: null, error: {kind: refused, message: nothing listens there}}
"""

import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import kubelets, probes

MAX_PARALLEL = 16
NOT_SENT = {"kind": "not_sent", "message": "the certificate does not verify, so nothing was sent"}


def no_answer(error: t.Optional[t.Mapping[str, str]]) -> t.Dict[str, t.Any]:
    return {"status": None, "message": "", "seconds": None, "error": error}


def look_at_certificate(address: str, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """Which certificate there is, and whether it verifies: two handshakes, since a failed one shows no certificate."""
    port, timeout = params["port"], params["timeout"]
    name = params["server_name"] or address
    shown = probes.look_at_tls(address, port, probes.client_context(verify=False), name, timeout)
    shown["verified"] = None
    if shown["ok"] and (params["ca_file"] or params["ca_data"]):
        try:
            context = probes.client_context(ca_file=params["ca_file"], ca_data=params["ca_data"])
        except probes.ProbeError as exc:
            shown.update(verified=False, error=exc.as_dict())
            return shown
        verified = probes.look_at_tls(address, port, context, name, timeout)
        shown.update(verified=verified["ok"], error=verified["error"])
    return shown


def probe(address: str, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    port, timeout = params["port"], params["timeout"]
    token = params["token"]
    result: t.Dict[str, t.Any] = {
        "address": address,
        "port": port,
        "connect": probes.reach(address, port, timeout),
        "tls": {"ok": False, "version": None, "verified": None, "error": None, "certificate_der": None},
        "anonymous": no_answer(None),
        "authenticated": no_answer(None) if token else None,
        "read_only": None,
    }
    if params["read_only_port"]:
        result["read_only"] = look_at_read_only(address, params)
    if not result["connect"]["ok"]:
        for key in ("tls", "anonymous", "authenticated"):
            if result[key]:
                result[key]["error"] = result["connect"]["error"]
        return result
    result["tls"] = look_at_certificate(address, params)
    if not result["tls"]["ok"]:
        failed = no_answer(result["tls"]["error"])
    elif params["validate_certs"] and not result["tls"]["verified"]:
        failed = no_answer(NOT_SENT)
    else:
        failed = {}
    if failed:
        result["anonymous"] = failed
        result["authenticated"] = dict(failed) if token else None
        return result
    # The certificate is checked again in the very connection that carries the token.
    context = probes.client_context(
        ca_file=params["ca_file"], ca_data=params["ca_data"], verify=bool(params["validate_certs"])
    )
    name = params["server_name"] or address
    result["anonymous"] = probes.ask(address, port, params["path"], timeout, context=context, server_name=name)
    if token:
        result["authenticated"] = probes.ask(
            address,
            port,
            params["path"],
            timeout,
            context=context,
            server_name=name,
            headers={"Authorization": "Bearer " + token},
            max_body=kubelets.MAX_METRICS,
            read=lambda body: {"series": kubelets.samples_in(body)},
        )
    return result


def look_at_read_only(address: str, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    answer = probes.ask(address, params["read_only_port"], params["path"], params["timeout"])
    return {"open": answer["status"] is not None, "status": answer["status"], "error": answer["error"]}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "addresses": {"type": "list", "elements": "str", "required": True},
            "server_name": {"type": "str"},
            "port": {"type": "int", "default": 10250},
            "read_only_port": {"type": "int", "default": 10255},
            "path": {"type": "str", "default": "/metrics/resource"},
            "ca_file": {"type": "path"},
            "ca_data": {"type": "str"},
            "token": {"type": "str", "no_log": True},
            "validate_certs": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 5},
        },
        mutually_exclusive=[("ca_file", "ca_data")],
        supports_check_mode=True,
    )
    params = module.params
    if params["timeout"] <= 0:
        module.fail_json(msg="timeout is %g; give more than 0 seconds." % params["timeout"])
    if not params["path"].startswith("/"):
        module.fail_json(msg="path is %r and has to start with a slash." % params["path"])
    for name, least in (("port", 1), ("read_only_port", 0)):
        if not least <= params[name] <= 65535:
            module.fail_json(msg="%s is %d and no port." % (name, params[name]))
    if params["token"] and params["validate_certs"] and not (params["ca_file"] or params["ca_data"]):
        module.fail_json(msg="token is sent only to a kubelet whose certificate verifies; give ca_file or ca_data.")
    # A token from a file brings its newline, which no header may hold.
    params["token"] = (params["token"] or "").strip()
    answers: t.List[t.Dict[str, t.Any]] = []
    if params["addresses"]:
        with ThreadPoolExecutor(max_workers=min(MAX_PARALLEL, len(params["addresses"]))) as pool:
            answers = list(pool.map(lambda address: probe(address.strip("[]"), params), params["addresses"]))
    module.exit_json(changed=False, kubelets=answers)


if __name__ == "__main__":
    main()
