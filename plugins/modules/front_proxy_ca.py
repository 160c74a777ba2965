#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: front_proxy_ca
short_description: Keep the CA file of the front proxy on a control plane, and the CA itself where its key is
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - With O(certificates), O(ca_file) holds these CA certificates and no others.
  - Without it, O(ca_file) holds a CA certificate whose key is in O(ca_key_file). If there is none, one is made, with
    the key that is there, so that what this key has signed stays valid, or else with a new one.
  - Files are replaced atomically. What was there before is backed up and recorded, so that
    M(kubemetrics.aggregation.recorded_change) can roll it back. A running kube-apiserver loads a new CA file by itself.
  - The role C(front_proxy_pki) decides what the control planes of a cluster need.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
  - kubemetrics.aggregation.records
  - kubemetrics.aggregation.front_proxy.like
options:
  ca_file:
    description:
      - The CA file, which is the API server's C(--requestheader-client-ca-file).
    type: path
    required: true
  ca_key_file:
    description:
      - The key of the CA. Required without O(certificates). With them, a key that belongs to a certificate that is
        taken out of O(ca_file) is removed with it.
    type: path
  certificates:
    description:
      - The CA certificates that O(ca_file) holds, as PEM text.
    type: str
  common_name:
    description:
      - The name of a CA that is made.
    type: str
    default: front-proxy-ca
  days:
    description:
      - How many days a CA that is made is valid.
    type: int
    default: 3650
  retired:
    description:
      - CA certificates that may not be the one whose key is in O(ca_key_file), DER in base64. If the key there belongs
        to one of them, a new key and a new CA are made.
      - The cluster's own CA belongs here; for a rotation, the CA that is to be replaced.
    type: list
    elements: str
    default: []
  keep_trusted:
    description:
      - Whether the certificates that are in O(ca_file) stay there when a CA is made, after the new one.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Certificates are shown by their fingerprints. Keys are not shown.
  idempotent:
    support: full
requirements:
  - The C(openssl) program on the host, 1.1.1 or later, where a CA is made
seealso:
  - module: kubemetrics.aggregation.front_proxy_client_certificate
  - module: kubemetrics.aggregation.front_proxy_certificate_pipe
  - module: kubemetrics.aggregation.front_proxy_info
"""

EXAMPLES = r"""
- name: Have a front-proxy CA on the first control plane
  kubemetrics.aggregation.front_proxy_ca:
    ca_file: /etc/kubernetes/pki/front-proxy-ca.crt
    ca_key_file: /etc/kubernetes/pki/front-proxy-ca.key
  become: true
  delegate_to: cp1
  run_once: true
  register: authority

- name: Trust it on every control plane
  kubemetrics.aggregation.front_proxy_ca:
    ca_file: /etc/kubernetes/pki/front-proxy-ca.crt
    certificates: "{{ authority.certificate }}"
  become: true
"""

RETURN = r"""
certificate:
  description: The CA certificate whose key is in O(ca_key_file), as PEM text.
  returned: O(certificates) is not given; in check mode only if it is there already
  type: str
ca:
  description: The certificates that O(ca_file) holds now, DER in base64. In check mode, those that are known.
  returned: success
  type: list
  elements: str
change_id:
  description: The id of the recorded change, or null.
  returned: success
  type: str
  sample: 20260301T100500Z-1f0c9a3e
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import openssl

COMPONENT = "front_proxy"


class Change(t.NamedTuple):
    """What there is to do: the new text of the CA file, and of its key where that changes (None: it goes)."""

    pem: str
    what: str
    with_key: bool = False
    key: t.Optional[str] = None
    note: str = ""


def certificate_for(params: t.Mapping[str, t.Any], present: t.Sequence[str]) -> t.Optional[str]:
    """The certificate of the CA file whose key is there, unless it is retired."""
    if not os.path.exists(params["ca_key_file"]):
        return None
    retired = set(params["retired"])
    return openssl.signed_with([der for der in present if der not in retired], params["ca_key_file"])


def make(params: t.Mapping[str, t.Any], present: t.Sequence[str], *, dry: bool) -> Change:
    """A CA that is not there yet."""
    key_file = params["ca_key_file"]
    keep_key = os.path.exists(key_file) and openssl.signed_with(params["retired"], key_file) is None
    what = "front proxy: a CA in %s" % params["ca_file"]
    note = "a new CA certificate" + (" for the key that is there" if keep_key else " and its key")
    kept = openssl.pem_of(present) if params["keep_trusted"] else ""
    if dry:
        return Change(kept, what, not keep_key, "", note)
    with openssl.workshop(params["common_name"]) as shop:
        key = key_file if keep_key else shop.path("ca.key")
        with_key = ("-key", key) if keep_key else (*openssl.NEW_KEY, "-keyout", key)
        request = shop.path("ca.csr")
        openssl.openssl(
            *("req", "-new", "-nodes", *with_key, "-sha256", "-config", shop.configuration, "-out", request)
        )
        pem = openssl.sign(shop, request, "authority", params["days"], "-selfsign", "-keyfile", key)
        return Change(pem + kept, what, not keep_key, None if keep_key else shop.get("ca.key"), note)


def trust(params: t.Mapping[str, t.Any], present: t.Sequence[str]) -> t.Optional[Change]:
    """The certificates that were given, and no key of one that goes."""
    wanted = openssl.ders_in(params["certificates"])
    if not wanted:
        raise openssl.CertificateError("certificates holds no PEM certificate; a CA file must not be empty.")
    if set(wanted) == set(present):
        return None
    gone = [der for der in present if der not in wanted]
    key_file = params["ca_key_file"]
    stale = bool(key_file) and os.path.exists(key_file) and openssl.signed_with(gone, key_file) is not None
    what = "front proxy: trusted CAs in %s" % params["ca_file"]
    return Change(openssl.pem_of(wanted), what, stale, None, "the key of a CA that is no longer trusted goes" * stale)


def apply(params: t.Mapping[str, t.Any], change: Change, *, check_mode: bool) -> t.Optional[str]:
    """Put it in place; the id of the record."""
    # The key first: a CA file whose key is missing would be somebody else's CA to the next run.
    steps = []
    if change.with_key:
        steps.append(openssl.replacement(params["ca_key_file"], change.key, key=True, like=params["like_key"]))
    steps.append(openssl.replacement(params["ca_file"], change.pem, key=False, like=params["like_cert"]))
    record = host_files.replace_files(
        steps,
        what=change.what,
        component=COMPONENT,
        journal=host_files.Journal(params["state_dir"]),
        check_mode=check_mode,
    )
    return record["id"] if record and not check_mode else None


def run(params: t.Mapping[str, t.Any], *, check_mode: bool, diff: bool) -> t.Dict[str, t.Any]:
    before = openssl.ders_in_file(params["ca_file"])
    result: t.Dict[str, t.Any] = {"changed": False, "change_id": None, "ca": before}
    if params["certificates"] is not None:
        change = trust(params, before)
    else:
        there = certificate_for(params, before)
        if there:
            result["certificate"] = openssl.pem_of([there])
        change = None if there else make(params, before, dry=check_mode)
    if change is None:
        return result
    after = openssl.ders_in(change.pem)
    result.update(changed=True, ca=after, change_id=apply(params, change, check_mode=check_mode))
    if params["certificates"] is None and not check_mode:
        result["certificate"] = openssl.pem_of(after[:1])
    if diff:
        result["diff"] = openssl.difference(params["ca_file"], before, after, [change.note] if change.note else [])
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "ca_file": {"type": "path", "required": True},
            "ca_key_file": {"type": "path", "no_log": False},
            "certificates": {"type": "str"},
            "common_name": {"type": "str", "default": "front-proxy-ca"},
            "days": {"type": "int", "default": 3650},
            "retired": {"type": "list", "elements": "str", "default": []},
            "keep_trusted": {"type": "bool", "default": False},
            "like_key": {"type": "path", "no_log": False},
            "like_cert": {"type": "path"},
            "state_dir": {"type": "path", "default": host_files.STATE_DIR},
        },
        required_one_of=[("certificates", "ca_key_file")],
        supports_check_mode=True,
    )
    params = module.params
    with openssl.reported(module):
        openssl.check_days(params["days"])
        openssl.check_common_name(params["common_name"])
        module.exit_json(**run(params, check_mode=module.check_mode, diff=module._diff))


if __name__ == "__main__":
    main()
