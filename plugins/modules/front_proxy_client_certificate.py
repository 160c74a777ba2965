#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: front_proxy_client_certificate
short_description: Keep the front proxy's client certificate and its key on a control plane
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Replaces the pair while the key stays on the host where it was made. A new key waits beside the old one and its
    certificate signing request goes out (O(state=requested)). The certificate that comes back can be put beside the
    new key, to try the pair before it is used (O(state=staged)). Then both take the places of the old ones
    (O(state=present)).
  - What was there before is backed up and recorded before the first of the two files is replaced, so that
    M(kubemetrics.aggregation.recorded_change) can roll it back, also when the run ended between the two.
  - A running kube-apiserver loads a new pair by itself, and keeps the old one until the new one is complete.
  - A key is closed to everybody but its owner and group (V(0640) at most). Where a kube-apiserver runs as another user
    who could not read it then, it stays open, with a warning.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
  - kubemetrics.aggregation.records
  - kubemetrics.aggregation.front_proxy
  - kubemetrics.aggregation.front_proxy.like
options:
  state:
    description:
      - V(requested) - a new key waits beside O(key_file). One that is there already is used.
      - V(staged) - O(certificate) waits beside the new key that it belongs to.
      - V(present) - O(cert_file) holds O(certificate), and O(key_file) its key, which is the new one or the one that is
        there.
    type: str
    choices: [requested, staged, present]
    default: present
  certificate:
    description:
      - The certificate as PEM text, for V(staged) and V(present).
    type: str
  common_name:
    description:
      - The name in the request.
    type: str
    default: front-proxy-client
attributes:
  check_mode:
    support: full
    details: A request is handed out only where its key exists already.
  diff_mode:
    support: full
    details: Certificates are shown by their fingerprints. Keys are not shown.
  idempotent:
    support: full
requirements:
  - The C(openssl) program on the host, 1.1.1 or later, for O(state=requested)
seealso:
  - module: kubemetrics.aggregation.front_proxy_ca
  - module: kubemetrics.aggregation.front_proxy_certificate_pipe
  - module: kubemetrics.aggregation.front_proxy_info
"""

EXAMPLES = r"""
- name: Have a new key, and ask for a certificate
  kubemetrics.aggregation.front_proxy_client_certificate:
    state: requested
    cert_file: /etc/kubernetes/pki/front-proxy-client.crt
    key_file: /etc/kubernetes/pki/front-proxy-client.key
  become: true
  register: asked

- name: Sign it where the key of the CA is
  kubemetrics.aggregation.front_proxy_certificate_pipe:
    request: "{{ asked.request }}"
    ca_certificate: "{{ ca_certificate_pem }}"
    ca_key_file: /etc/kubernetes/pki/front-proxy-ca.key
  become: true
  delegate_to: cp1
  register: signed

- name: Use both
  kubemetrics.aggregation.front_proxy_client_certificate:
    cert_file: /etc/kubernetes/pki/front-proxy-client.crt
    key_file: /etc/kubernetes/pki/front-proxy-client.key
    certificate: "{{ signed.certificate }}"
  become: true
"""

RETURN = r"""
request:
  description: The certificate signing request as PEM text.
  returned: O(state=requested), in check mode only if the new key is there already
  type: str
staged:
  description: Where the new pair lies until it is used.
  returned: O(state=requested) and O(state=staged)
  type: dict
  sample:
    cert_file: /etc/kubernetes/pki/.kubemetrics-new-front-proxy-client.crt
    key_file: /etc/kubernetes/pki/.kubemetrics-new-front-proxy-client.key
change_id:
  description: The id of the recorded change, or null.
  returned: O(state=present)
  type: str
  sample: 20260301T100500Z-1f0c9a3e
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import processes
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import openssl

COMPONENT = "front_proxy"
#: Dot-files beside the key and the certificate that they are to replace.
STAGED = ".kubemetrics-new-"


def staged_beside(path: str) -> str:
    directory, name = os.path.split(os.path.realpath(path))
    return os.path.join(directory, STAGED + name)


def staged_files(params: t.Mapping[str, t.Any]) -> t.Dict[str, str]:
    return {name: staged_beside(params[name]) for name in ("cert_file", "key_file")}


def put(path: str, text: str) -> None:
    """A file for root alone."""
    host_files.rename_into_place(host_files.stage(path, text.encode("ascii"), 0o600, None, None), path)


def requested(params: t.Mapping[str, t.Any], *, check_mode: bool) -> t.Dict[str, t.Any]:
    staged = staged_files(params)
    there = os.path.exists(staged["key_file"])
    result: t.Dict[str, t.Any] = {"changed": not there, "staged": staged}
    if not there and check_mode:
        return result
    with openssl.workshop(params["common_name"]) as shop:
        key = staged["key_file"] if there else shop.path("client.key")
        with_key = ("-key", key) if there else (*openssl.NEW_KEY, "-keyout", key)
        openssl.openssl(
            *("req", "-new", "-nodes", *with_key, "-sha256", "-config", shop.configuration),
            *("-out", shop.path("client.csr")),
        )
        if not there:
            put(staged["key_file"], shop.get("client.key"))
        result["request"] = shop.get("client.csr")
    return result


def staged(params: t.Mapping[str, t.Any], *, check_mode: bool) -> t.Dict[str, t.Any]:
    paths = staged_files(params)
    changed = openssl.text_of(paths["cert_file"]) != params["certificate"]
    if os.path.exists(paths["key_file"]) or not check_mode:
        check_pair(params, paths["key_file"])
    if changed and not check_mode:
        put(paths["cert_file"], params["certificate"])
    return {"changed": changed, "staged": paths}


def check_pair(params: t.Mapping[str, t.Any], key_file: str) -> None:
    if not os.path.exists(key_file):
        raise openssl.CertificateError(
            "There is no new key for %s; have one made first (state requested)." % params["key_file"]
        )
    if not openssl.pair_of(params["certificate"], key_file):
        raise openssl.CertificateError(
            "The certificate for %s does not belong to the key in %s; have it signed again by the request of that key."
            % (params["cert_file"], key_file)
        )


def replace_key(params: t.Mapping[str, t.Any], key: str) -> t.Tuple[host_files.Replacement, t.List[str]]:
    """The step that puts the new key in place, and what to warn of."""
    path, like = params["key_file"], params["like_key"]
    readers = processes.Proc().credentials_of("kube-apiserver")
    shut_out = openssl.shut_out(path, like, readers)
    warnings = []
    if shut_out:
        # Closing it now would leave the API server without a pair at its next start.
        warnings.append(
            "%s stays readable for everybody, because kube-apiserver runs as the user %d, who is neither its owner "
            "nor in its group; run chgrp %d %s && chmod 0640 %s." % (path, shut_out.uid, shut_out.gids[0], path, path)
        )
    return openssl.replacement(path, key, key=True, like=like, readers=readers), warnings


def present(params: t.Mapping[str, t.Any], *, check_mode: bool, diff: bool) -> t.Dict[str, t.Any]:
    before, after = openssl.ders_in_file(params["cert_file"]), openssl.ders_in(params["certificate"])
    paths = staged_files(params)
    usable = not openssl.why_unusable(params["cert_file"], params["key_file"])
    if before == after and usable:
        return {"changed": False, "change_id": None}
    # Also the key that is there may be the one: then it stays.
    new_key = not (os.path.exists(params["key_file"]) and openssl.pair_of(params["certificate"], params["key_file"]))
    if new_key and (os.path.exists(paths["key_file"]) or not check_mode):
        check_pair(params, paths["key_file"])
    result: t.Dict[str, t.Any] = {"changed": True, "change_id": None}
    steps = [openssl.replacement(params["cert_file"], params["certificate"], key=False, like=params["like_cert"])]
    if new_key and os.path.exists(paths["key_file"]):
        key = openssl.text_of(paths["key_file"])
        step, warnings = replace_key(params, key)
        steps.insert(0, step)
        if warnings:
            result["warnings"] = warnings
    record = host_files.replace_files(
        steps,
        what="front proxy: client certificate %s" % params["cert_file"],
        component=COMPONENT,
        journal=host_files.Journal(params["state_dir"]),
        check_mode=check_mode,
    )
    if not check_mode:
        result["change_id"] = record["id"] if record else None
        openssl.discard(*paths.values())
    if diff:
        result["diff"] = openssl.difference(params["cert_file"], before, after, ["with a new key"] if new_key else [])
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["requested", "staged", "present"], "default": "present"},
            "cert_file": {"type": "path", "required": True},
            "key_file": {"type": "path", "required": True, "no_log": False},
            "certificate": {"type": "str"},
            "common_name": {"type": "str", "default": "front-proxy-client"},
            "like_key": {"type": "path", "no_log": False},
            "like_cert": {"type": "path"},
            "state_dir": {"type": "path", "default": host_files.STATE_DIR},
        },
        required_if=[("state", "staged", ["certificate"]), ("state", "present", ["certificate"])],
        supports_check_mode=True,
    )
    params = module.params
    with openssl.reported(module):
        openssl.check_common_name(params["common_name"])
        if params["state"] == "requested":
            result = requested(params, check_mode=module.check_mode)
        elif not openssl.ders_in(params["certificate"]):
            raise openssl.CertificateError("certificate holds no PEM certificate.")
        elif params["state"] == "staged":
            result = staged(params, check_mode=module.check_mode)
        else:
            result = present(params, check_mode=module.check_mode, diff=module._diff)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
