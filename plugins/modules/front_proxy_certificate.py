#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: front_proxy_certificate
short_description: Make the front proxy's CA and client certificates on control planes
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - The steps by which a control plane gets a front-proxy client certificate while every key stays where it was made.
    With V(request) it makes a key beside the old one and hands out a certificate signing request, with V(sign) the
    host of the CA answers it, and with V(install) key and certificate take the places of the old ones. In between,
    V(stage) puts the certificate beside the new key, so that the pair can be tried before it is used.
  - With V(create_ca) a CA of its own is made, and with V(trust) a control plane gets the CA file.
  - Use the role C(front_proxy_pki), which decides what has to be done.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
options:
  operation:
    description:
      - The step.
    type: str
    choices: [create_ca, trust, request, sign, stage, install]
    required: true
  ca_file:
    description:
      - The CA file. For V(create_ca) and V(trust).
    type: path
  ca_key_file:
    description:
      - The key of the CA. For V(create_ca) and V(sign).
    type: path
  ca_certificate:
    description:
      - What O(ca_file) shall hold (V(trust)), or the certificate that belongs to O(ca_key_file) (V(sign)), as PEM text.
    type: str
  cert_file:
    description:
      - The client certificate. For V(stage) and V(install).
    type: path
  key_file:
    description:
      - The key of the client certificate. For V(request), V(stage) and V(install).
    type: path
  common_name:
    description:
      - The name in the certificate. For V(create_ca) and V(request).
    type: str
  request:
    description:
      - The certificate signing request. For V(sign).
    type: str
  certificate:
    description:
      - The certificate that was signed. For V(stage) and V(install).
    type: str
  reuse_key:
    description:
      - Whether to keep the key that is in O(ca_key_file), so that what it signed stays valid. For V(create_ca).
    type: bool
    default: false
  keep_trusted:
    description:
      - Whether the CAs that are in O(ca_file) stay there, after the new one. For V(create_ca).
    type: bool
    default: false
  days:
    description:
      - How long the certificate is valid. For V(create_ca) and V(sign).
    type: int
    default: 365
  like_key:
    description:
      - A key on the host whose mode and owner a new key gets. Without it, V(0600) and root.
    type: path
  like_cert:
    description:
      - A certificate on the host whose mode and owner a new certificate gets. Without it, V(0644) and root.
    type: path
attributes:
  check_mode:
    support: full
    details: Every step but V(trust) reports a change without taking it, and hands out nothing.
  diff_mode:
    support: none
  idempotent:
    support: none
    details: V(trust) is idempotent. The other steps make something new each time.
requirements:
  - The C(openssl) program on the control planes, 1.1.1 or later
notes:
  - Files are replaced atomically. A kube-apiserver loads new ones by itself, and keeps the old pair until the new one
    is complete.
seealso:
  - module: kubemetrics.aggregation.front_proxy_info
"""

EXAMPLES = r"""
- name: Make a key and ask for a certificate
  kubemetrics.aggregation.front_proxy_certificate:
    operation: request
    key_file: /etc/kubernetes/pki/front-proxy-client.key
    common_name: front-proxy-client
  become: true
  register: asked

- name: Sign it on the host of the CA
  kubemetrics.aggregation.front_proxy_certificate:
    operation: sign
    request: "{{ asked.request }}"
    ca_certificate: "{{ ca_certificate_pem }}"
    ca_key_file: /etc/kubernetes/pki/front-proxy-ca.key
    days: 365
  become: true
  delegate_to: cp1
  register: signed

- name: Put both in place
  kubemetrics.aggregation.front_proxy_certificate:
    operation: install
    cert_file: /etc/kubernetes/pki/front-proxy-client.crt
    key_file: /etc/kubernetes/pki/front-proxy-client.key
    certificate: "{{ signed.certificate }}"
  become: true
"""

RETURN = r"""
certificate:
  description: The certificate as PEM text.
  returned: O(operation=create_ca) and O(operation=sign), not in check mode
  type: str
request:
  description: The certificate signing request as PEM text.
  returned: O(operation=request), not in check mode
  type: str
staged:
  description: Where the new pair lies until it is installed.
  returned: O(operation=stage), not in check mode
  type: dict
  sample:
    cert_file: /etc/kubernetes/pki/.kubemetrics-new-front-proxy-client.crt
    key_file: /etc/kubernetes/pki/.kubemetrics-new-front-proxy-client.key
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files

TIMEOUT = 60
KEY_BITS = "rsa:2048"
#: Dot-files beside the key and the certificate that they shall replace.
STAGED = ".kubemetrics-new-"

# Of our own, because distributions put extensions of theirs into the default configuration.
CONFIGURATION = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = {common_name}
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyEncipherment, keyCertSign
subjectKeyIdentifier = hash
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""

NEEDED = {
    "create_ca": ["ca_file", "ca_key_file", "common_name"],
    "trust": ["ca_file", "ca_certificate"],
    "request": ["key_file", "common_name"],
    "sign": ["request", "ca_certificate", "ca_key_file"],
    "stage": ["cert_file", "key_file", "certificate"],
    "install": ["cert_file", "key_file", "certificate"],
}


class CertificateError(Exception):
    """One sentence for the user."""


def openssl(*arguments: str) -> None:
    program = shutil.which("openssl", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin:/opt/bin")
    if not program:
        raise CertificateError("There is no openssl program on this host; install its package (openssl).")
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CertificateError("openssl %s did not end within %d s." % (arguments[0], TIMEOUT)) from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise CertificateError("openssl %s failed: %s" % (arguments[0], said or "it gave no reason."))


def write(path: str, text: str, mode: int, like: t.Optional[str]) -> None:
    """Replace a file. One that exists keeps its mode and owner, a new one gets those of ``like``."""
    before = host_files.read_file(path)
    model = before if before.exists else host_files.read_file(like) if like else before
    if model.exists:
        mode = model.mode & (0o640 if mode == 0o600 else 0o644)
    staged = host_files.stage(before.resolved, text.encode("ascii"), mode, model.uid, model.gid)
    host_files.rename_into_place(staged, before.resolved)


def put(directory: str, name: str, text: str) -> str:
    path = os.path.join(directory, name)
    with open(path, "w", encoding="ascii") as handle:
        handle.write(text)
    return path


def get(path: str) -> str:
    with open(path, encoding="ascii") as handle:
        return handle.read()


def staged_beside(path: str) -> str:
    directory, name = os.path.split(os.path.realpath(path))
    return os.path.join(directory, STAGED + name)


def create_ca(params: t.Mapping[str, t.Any], directory: str, configuration: str) -> t.Dict[str, str]:
    key, certificate = os.path.join(directory, "ca.key"), os.path.join(directory, "ca.crt")
    with_key = ("-key", params["ca_key_file"]) if params["reuse_key"] else ("-newkey", KEY_BITS, "-keyout", key)
    openssl(
        *("req", "-x509", "-new", "-nodes", *with_key, "-sha256", "-config", configuration),
        *("-extensions", "authority", "-days", str(params["days"]), "-set_serial", "0x" + secrets.token_hex(8)),
        *("-out", certificate),
    )
    # The key first: a CA file without a key would be somebody else's CA to the next run.
    if not params["reuse_key"]:
        write(params["ca_key_file"], get(key), 0o600, params["like_key"])
    others = (
        host_files.read_file(params["ca_file"]).content.decode("ascii", "replace") if params["keep_trusted"] else ""
    )
    write(params["ca_file"], get(certificate) + others, 0o644, params["like_cert"])
    return {"certificate": get(certificate)}


def request(params: t.Mapping[str, t.Any], directory: str, configuration: str) -> t.Dict[str, str]:
    key, answer = os.path.join(directory, "client.key"), os.path.join(directory, "client.csr")
    openssl(
        *("req", "-new", "-nodes", "-newkey", KEY_BITS, "-sha256", "-config", configuration),
        *("-keyout", key, "-out", answer),
    )
    path = staged_beside(params["key_file"])
    host_files.rename_into_place(host_files.stage(path, get(key).encode("ascii"), 0o600, None, None), path)
    return {"request": get(answer)}


def sign(params: t.Mapping[str, t.Any], directory: str, configuration: str) -> t.Dict[str, str]:
    certificate = os.path.join(directory, "client.crt")
    openssl(
        *("x509", "-req", "-sha256", "-in", put(directory, "client.csr", params["request"])),
        *("-CA", put(directory, "ca.crt", params["ca_certificate"]), "-CAkey", params["ca_key_file"]),
        *("-days", str(params["days"]), "-set_serial", "0x" + secrets.token_hex(8)),
        *("-extfile", configuration, "-extensions", "client", "-out", certificate),
    )
    return {"certificate": get(certificate)}


def stage(params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    staged = {name: staged_beside(params[name]) for name in ("cert_file", "key_file")}
    if not os.path.exists(staged["key_file"]):
        raise CertificateError("There is no new key for %s; ask for a certificate first." % params["key_file"])
    path, content = staged["cert_file"], params["certificate"].encode("ascii")
    host_files.rename_into_place(host_files.stage(path, content, 0o600, None, None), path)
    return {"staged": staged}


def install(params: t.Mapping[str, t.Any]) -> None:
    staged = staged_beside(params["key_file"])
    key = host_files.read_file(staged)
    if not key.exists:
        raise CertificateError("There is no new key for %s; ask for a certificate first." % params["key_file"])
    write(params["key_file"], key.content.decode("ascii"), 0o600, params["like_key"])
    write(params["cert_file"], params["certificate"], 0o644, params["like_cert"])
    for path in (staged, staged_beside(params["cert_file"])):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def run(params: t.Mapping[str, t.Any], check_mode: bool) -> t.Dict[str, t.Any]:
    operation = params["operation"]
    if operation == "trust":
        before = host_files.read_file(params["ca_file"])
        changed = before.content.decode("utf-8", "replace").split() != params["ca_certificate"].split()
        if changed and not check_mode:
            write(params["ca_file"], params["ca_certificate"], 0o644, params["like_cert"])
        return {"changed": changed}
    if check_mode:
        return {"changed": True}
    if operation == "install":
        install(params)
        return {"changed": True}
    if operation == "stage":
        return {"changed": True, **stage(params)}
    os.umask(0o077)
    with tempfile.TemporaryDirectory(prefix="kubemetrics-") as directory:
        text = CONFIGURATION.format(common_name=params["common_name"] or "unused")
        configuration = put(directory, "openssl.cnf", text)
        step = {"create_ca": create_ca, "request": request, "sign": sign}[operation]
        return {"changed": True, **step(params, directory, configuration)}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "operation": {"type": "str", "choices": list(NEEDED), "required": True},
            "ca_file": {"type": "path"},
            "ca_key_file": {"type": "path", "no_log": False},
            "ca_certificate": {"type": "str"},
            "cert_file": {"type": "path"},
            "key_file": {"type": "path", "no_log": False},
            "common_name": {"type": "str"},
            "request": {"type": "str"},
            "certificate": {"type": "str"},
            "reuse_key": {"type": "bool", "default": False},
            "keep_trusted": {"type": "bool", "default": False},
            "days": {"type": "int", "default": 365},
            "like_key": {"type": "path", "no_log": False},
            "like_cert": {"type": "path"},
        },
        required_if=[("operation", operation, needed) for operation, needed in NEEDED.items()],
        supports_check_mode=True,
    )
    params = module.params
    if params["days"] < 1:
        module.fail_json(msg="days is %d; give at least 1." % params["days"])
    name = params["common_name"]
    if name is not None and not all(sign.isalnum() or sign in "-._: " for sign in name):
        module.fail_json(msg="common_name is %r; give letters, digits and the signs -._: only." % name)
    try:
        module.exit_json(**run(params, module.check_mode))
    except (CertificateError, host_files.HostFileError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg="Cannot write %s: %s." % (exc.filename or "a temporary file", exc.strerror or exc))


if __name__ == "__main__":
    main()
