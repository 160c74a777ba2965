#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: front_proxy_info
short_description: Show the front proxy's CA and client certificate on a control plane
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reads the certificates of the front proxy, which the API server proves itself with to aggregated API servers, and
    tells whether certificates and keys belong together.
  - Certificates are returned as they are, for the controller to decode. Keys do not leave the host.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.host
options:
  ca_file:
    description:
      - The CA of front proxies, which is the API server's C(--requestheader-client-ca-file).
    type: path
    required: true
  cert_file:
    description:
      - The client certificate, which is the API server's C(--proxy-client-cert-file).
    type: path
    required: true
  key_file:
    description:
      - Its key, which is the API server's C(--proxy-client-key-file).
    type: path
    required: true
  ca_key_file:
    description:
      - The key of the CA. Without it, the name of O(ca_file) with the suffix C(.key).
    type: path
  client_ca_file:
    description:
      - The CA of the cluster's clients, which is the API server's C(--client-ca-file).
    type: path
  other_files:
    description:
      - Files that the API server uses for other purposes.
    type: list
    elements: str
    default: []
seealso:
  - module: kubemetrics.aggregation.front_proxy_certificate
  - module: kubemetrics.aggregation.extension_authentication_info
"""

EXAMPLES = r"""
- name: Look at the front proxy of a control plane
  kubemetrics.aggregation.front_proxy_info:
    ca_file: /etc/kubernetes/pki/front-proxy-ca.crt
    cert_file: /etc/kubernetes/pki/front-proxy-client.crt
    key_file: /etc/kubernetes/pki/front-proxy-client.key
    client_ca_file: /etc/kubernetes/pki/ca.crt
  become: true
  register: front_proxy
"""

RETURN = r"""
ca_file:
  description: The file of the CA.
  returned: success
  type: str
cert_file:
  description: The file of the certificate.
  returned: success
  type: str
key_file:
  description: The file of its key.
  returned: success
  type: str
ca:
  description: The certificates in O(ca_file), DER in base64; none if there is no such file.
  returned: success
  type: list
  elements: str
client_ca:
  description: The certificates in O(client_ca_file), DER in base64.
  returned: success
  type: list
  elements: str
certificate:
  description: The first certificate in O(cert_file), DER in base64, or null.
  returned: success
  type: str
pair:
  description: Whether certificate and key are RV(ignore:usable) together, and why not (RV(ignore:message)).
  returned: success
  type: dict
  sample: {usable: true, message: ""}
ca_key:
  description: Where the key of the CA is or would be, whether it RV(ignore:exists), and which certificate of O(ca_file)
    it RV(ignore:signs) for, DER in base64 or null.
  returned: success
  type: dict
  sample: {path: /etc/kubernetes/pki/front-proxy-ca.key, exists: true, signs: MIIDAz...}
used_elsewhere:
  description: Whether O(cert_file) or O(key_file) is one of O(other_files).
  returned: success
  type: bool
"""

import base64
import os
import re
import ssl
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def certificates_in(path: t.Optional[str]) -> t.List[str]:
    """The certificates of a PEM file, DER in base64. Raises HostFileError when it cannot be read."""
    if not path:
        return []
    text = host_files.read_file(path).content.decode("utf-8", "replace")
    found = []
    for block in _PEM.findall(text):
        try:
            found.append(base64.b64encode(ssl.PEM_cert_to_DER_cert(block)).decode("ascii"))
        except ValueError:
            # A damaged block is no certificate; what is missing then is said by whoever judges the rest.
            continue
    return found


def why_unusable(certificate: str, key: str) -> str:
    """Why certificate and key do not go together, or an empty string."""
    for path in (certificate, key):
        if not os.path.exists(path):
            return "%s does not exist" % path
    try:
        # A password that is asked for would hang the run; this one makes an encrypted key an error instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as exc:
        return str(getattr(exc, "reason", None) or getattr(exc, "strerror", None) or exc)
    return ""


def signed_with(certificates: t.Sequence[str], key: str) -> t.Optional[str]:
    """The one of the certificates that the key belongs to."""
    for der in certificates:
        with tempfile.NamedTemporaryFile("w", suffix=".crt") as handle:
            handle.write(ssl.DER_cert_to_PEM_cert(base64.b64decode(der)))
            handle.flush()
            if not why_unusable(handle.name, key):
                return der
    return None


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "ca_file": {"type": "path", "required": True},
            "cert_file": {"type": "path", "required": True},
            "key_file": {"type": "path", "required": True, "no_log": False},
            "ca_key_file": {"type": "path", "no_log": False},
            "client_ca_file": {"type": "path"},
            "other_files": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    ca_key = params["ca_key_file"] or os.path.splitext(params["ca_file"])[0] + ".key"
    try:
        authorities = certificates_in(params["ca_file"])
        clients = certificates_in(params["client_ca_file"])
        own = certificates_in(params["cert_file"])
    except host_files.HostFileError as exc:
        module.fail_json(msg=str(exc))
    message = why_unusable(params["cert_file"], params["key_file"])
    exists = os.path.exists(ca_key)
    module.exit_json(
        changed=False,
        ca_file=params["ca_file"],
        cert_file=params["cert_file"],
        key_file=params["key_file"],
        ca=authorities,
        client_ca=clients,
        certificate=own[0] if own else None,
        pair={"usable": not message, "message": message},
        ca_key={"path": ca_key, "exists": exists, "signs": signed_with(authorities, ca_key) if exists else None},
        used_elsewhere=bool({params["cert_file"], params["key_file"]} & set(params["other_files"])),
    )


if __name__ == "__main__":
    main()
