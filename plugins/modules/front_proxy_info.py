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
  - Reads the certificates of the front proxy, by which aggregated API servers know the API server, and tells whether
    certificates and keys belong together, and who else on the host refers to their files.
  - Certificates are returned as they are, for the controller to decode. Keys do not leave the host.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.host
  - kubemetrics.aggregation.front_proxy
options:
  ca_file:
    description:
      - The CA of front proxies, which is the API server's C(--requestheader-client-ca-file).
    type: path
    required: true
  ca_key_file:
    description:
      - The key of the CA. Without it, a file beside O(ca_file) that is named after it as kubeadm (C(X.crt) and
        C(X.key)) or cfssl (C(X.pem) and C(X-key.pem)) name them, the one that belongs to a certificate of O(ca_file)
        before all others.
    type: path
  client_ca_file:
    description:
      - The CA of the cluster's clients, which is the API server's C(--client-ca-file).
    type: path
  serving_cert_file:
    description:
      - The certificate that the API server shows its clients, which is its C(--tls-cert-file).
    type: path
  new_directory:
    description:
      - Where new files of the front proxy would go, for RV(new_files).
    type: path
seealso:
  - module: kubemetrics.aggregation.front_proxy_ca
  - module: kubemetrics.aggregation.front_proxy_client_certificate
  - module: kubemetrics.aggregation.extension_authentication_info
"""

EXAMPLES = r"""
- name: Read the front proxy's certificates of a control plane
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
chain:
  description: The certificates in O(cert_file), DER in base64 - that of the front proxy, then intermediate ones.
  returned: success
  type: list
  elements: str
serving_certificate:
  description: The first certificate in O(serving_cert_file), DER in base64, or null.
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
used_by:
  description:
    - Who else refers to O(ca_file), O(cert_file), O(key_file) and the CA's key (RV(ignore:ca_key)) - flags of running
      processes, kubeconfigs, units, manifests and other configuration. The flags that name them for front proxies do
      not count.
  returned: success
  type: dict
  sample:
    ca_file: []
    cert_file: [/etc/kubernetes/kube-proxy.kubeconfig]
    key_file: [/etc/kubernetes/kube-proxy.kubeconfig]
    ca_key: []
new_files:
  description: Names in O(new_directory) that nothing refers to, for a front proxy with files of its own.
  returned: O(new_directory) is given
  type: dict
  sample:
    ca_file: /etc/kubernetes/ssl/front-proxy-ca.crt
    cert_file: /etc/kubernetes/ssl/front-proxy-client.crt
    key_file: /etc/kubernetes/ssl/front-proxy-client.key
leftovers:
  description: Files that a run which was interrupted has left beside these, new keys among them; nothing uses them.
  returned: success
  type: list
  elements: str
  sample: []
interrupted:
  description: Changes to the front proxy's files that were begun and not finished, by their ids, the oldest first.
  returned: success
  type: list
  elements: str
  sample: []
"""

import glob
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import references
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import openssl

#: Flags of API servers and of other components that name the front proxy's files for what they are there for.
OWN_FLAGS = frozenset({"requestheader-client-ca-file", "proxy-client-cert-file", "proxy-client-key-file"})
#: kubeadm's names first, which everybody knows; the others where something else has taken those.
NEW_NAMES = ("front-proxy", "kubemetrics-front-proxy")


def key_candidates(ca_file: str) -> t.List[str]:
    """Where the key of a CA may be, by the habits of kubeadm, openssl and cfssl; the likeliest first."""
    stem, suffix = os.path.splitext(ca_file)
    names = [stem + ".key", stem + "-key.pem", stem + "-key" + suffix, stem + ".key.pem"]
    if suffix == ".pem":
        names.insert(0, stem + "-key.pem")
    return list(dict.fromkeys(names))


def find_ca_key(ca_file: str, authorities: t.Sequence[str], given: t.Optional[str]) -> t.Dict[str, t.Any]:
    """The key of the CA: the one that belongs to a certificate, else one that is there, else where one would be."""
    candidates = [given] if given else key_candidates(ca_file)
    there = [path for path in candidates if os.path.exists(path)]
    for path in there:
        signs = openssl.signed_with(authorities, path)
        if signs:
            return {"path": path, "exists": True, "signs": signs}
    return {"path": (there or candidates)[0], "exists": bool(there), "signs": None}


def new_files(directory: str, known: references.References) -> t.Dict[str, str]:
    """Names of which nothing on the host refers to any, nor to the CA's key."""
    found: t.Dict[str, str] = {}
    for stem in NEW_NAMES:
        base = os.path.join(directory, stem)
        found = {"ca_file": base + "-ca.crt", "cert_file": base + "-client.crt", "key_file": base + "-client.key"}
        if not any(known.of(path) for path in [*found.values(), base + "-ca.key"]):
            break
    return found


def leftovers(paths: t.Iterable[str]) -> t.List[str]:
    """What was staged in the directories of these files and never came into place."""
    directories = sorted({os.path.dirname(os.path.realpath(path)) for path in paths})
    pattern = host_files.STAGE_PREFIX + "*"
    return [path for one in directories for path in sorted(glob.glob(os.path.join(glob.escape(one), pattern)))]


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "ca_file": {"type": "path", "required": True},
            "cert_file": {"type": "path", "required": True},
            "key_file": {"type": "path", "required": True, "no_log": False},
            "ca_key_file": {"type": "path", "no_log": False},
            "client_ca_file": {"type": "path"},
            "serving_cert_file": {"type": "path"},
            "new_directory": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    known = references.References(references.gather(OWN_FLAGS))
    try:
        authorities = openssl.ders_in_file(params["ca_file"])
        clients = openssl.ders_in_file(params["client_ca_file"])
        chain = openssl.ders_in_file(params["cert_file"])
        serving = openssl.ders_in_file(params["serving_cert_file"])
        ca_key = find_ca_key(params["ca_file"], authorities, params["ca_key_file"])
        unfinished = host_files.half_done(component="front_proxy")
    except host_files.HostFileError as exc:
        module.fail_json(msg=str(exc))
    message = openssl.why_unusable(params["cert_file"], params["key_file"])
    used_by = {name: known.of(params[name]) for name in ("ca_file", "cert_file", "key_file")}
    result = {
        "ca_file": params["ca_file"],
        "cert_file": params["cert_file"],
        "key_file": params["key_file"],
        "ca": authorities,
        "client_ca": clients,
        "chain": chain,
        "serving_certificate": serving[0] if serving else None,
        "pair": {"usable": not message, "message": message},
        "ca_key": ca_key,
        "used_by": {**used_by, "ca_key": known.of(ca_key["path"])},
        "interrupted": unfinished,
        "leftovers": leftovers([params["ca_file"], params["cert_file"], params["key_file"], ca_key["path"]]),
    }
    if params["new_directory"]:
        result["new_files"] = new_files(params["new_directory"], known)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
