#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: front_proxy_certificate_pipe
short_description: Sign a front proxy's client certificate where the key of the CA is
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Takes a certificate signing request and returns a certificate for clients. No file is written, and the key of the CA
    does not leave its host.
  - If O(content) is a certificate that answers the request already, it is returned as it is.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
options:
  request:
    description:
      - The certificate signing request as PEM text.
    type: str
    required: true
  ca_certificate:
    description:
      - The certificate of the CA as PEM text.
    type: str
    required: true
  ca_key_file:
    description:
      - The key of the CA.
    type: path
    required: true
  content:
    description:
      - A certificate that was signed earlier, as PEM text.
    type: str
  days:
    description:
      - How many days the certificate is valid.
    type: int
    default: 365
attributes:
  check_mode:
    support: full
    details: No certificate is signed, and only one that need not be signed is returned.
  diff_mode:
    support: N/A
    details: The module changes nothing on the host.
  idempotent:
    support: partial
    details: It does if O(content) is what the first run returned.
requirements:
  - The C(openssl) program on the host, 1.1.1 or later
notes:
  - The name is that of the request, everything else is decided here - clients only (C(clientAuth)), no CA.
seealso:
  - module: kubemetrics.aggregation.front_proxy_client_certificate
  - module: kubemetrics.aggregation.front_proxy_ca
"""

EXAMPLES = r"""
- name: Sign a request on the control plane that has the key of the CA
  kubemetrics.aggregation.front_proxy_certificate_pipe:
    request: "{{ asked.request }}"
    ca_certificate: "{{ authority.certificate }}"
    ca_key_file: /etc/kubernetes/pki/front-proxy-ca.key
    days: 365
  become: true
  delegate_to: cp1
  register: signed
"""

RETURN = r"""
certificate:
  description: The certificate as PEM text.
  returned: success, in check mode only if O(content) answers the request
  type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import openssl


def answers(shop: openssl.Workshop, content: str) -> bool:
    """Whether a certificate is for the key of the request, by the CA, and valid now."""
    if not openssl.ders_in(content):
        return False
    certificate = shop.put("content.crt", content)
    try:
        key_asked = openssl.openssl("req", "-in", shop.path("client.csr"), "-noout", "-pubkey")
        key_there = openssl.openssl("x509", "-in", certificate, "-noout", "-pubkey")
        openssl.openssl(
            "verify", "-CAfile", shop.path("ca.crt"), "-partial_chain", "-purpose", "sslclient", certificate
        )
    except openssl.CertificateError:
        return False
    return key_asked == key_there


def run(params: t.Mapping[str, t.Any], *, check_mode: bool) -> t.Dict[str, t.Any]:
    with openssl.workshop() as shop:
        request, authority = shop.put("client.csr", params["request"]), shop.put("ca.crt", params["ca_certificate"])
        if params["content"] and answers(shop, params["content"]):
            return {"changed": False, "certificate": params["content"]}
        if check_mode:
            return {"changed": True}
        signer = ("-cert", authority, "-keyfile", params["ca_key_file"])
        return {"changed": True, "certificate": openssl.sign(shop, request, "client", params["days"], *signer)}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "request": {"type": "str", "required": True},
            "ca_certificate": {"type": "str", "required": True},
            "ca_key_file": {"type": "path", "required": True, "no_log": False},
            "content": {"type": "str"},
            "days": {"type": "int", "default": 365},
        },
        supports_check_mode=True,
    )
    params = module.params
    with openssl.reported(module):
        openssl.check_days(params["days"])
        module.exit_json(**run(params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
