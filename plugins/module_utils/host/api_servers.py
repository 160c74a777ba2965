# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the API server of this host is ready, verified as the clients on this host do. Standard library only."""

from __future__ import annotations

import base64
import binascii
import os
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import probes, processes

PATH = "/readyz"
#: An API server that refuses unauthenticated clients has answered.
READY = (200, 401, 403)


class Authority(t.NamedTuple):
    """What verifies the API server, and the file that it was found in."""

    pem: str
    source: str


def authority_of(kubeconfig: str) -> t.Optional[Authority]:
    """The CA by which a kubeconfig verifies the API server, or None where it has none that can be read."""
    text = processes.read_text(kubeconfig) or ""
    inline = processes.yaml_value(text, "certificate-authority-data")
    if inline:
        try:
            return Authority(base64.b64decode(inline, validate=True).decode("ascii"), kubeconfig)
        except (binascii.Error, ValueError):
            return None
    path = processes.yaml_value(text, "certificate-authority")
    return authority_in(os.path.join(os.path.dirname(kubeconfig), path)) if path else None


def authority_in(path: str) -> t.Optional[Authority]:
    pem = processes.read_text(path)
    return Authority(pem, path) if pem and "BEGIN CERTIFICATE" in pem else None


def choose(ca_file: str, kubeconfigs: t.Sequence[str], client_ca_file: str) -> t.Optional[Authority]:
    """The given CA alone, else the first that a kubeconfig on this host names, else the CA of clients."""
    if ca_file:
        return authority_in(ca_file)
    for path in kubeconfigs:
        found = authority_of(path) if path else None
        if found:
            return found
    return authority_in(client_ca_file) if client_ca_file else None


def readiness(address: str, port: int, authority: t.Optional[Authority], timeout: float) -> t.Dict[str, t.Any]:
    """One request to /readyz."""
    result: t.Dict[str, t.Any] = {"ready": False, "status": None, "ca_source": None, "error": ""}
    if authority is None:
        result["error"] = "nothing on this host says which CA signed its certificate"
        return result
    result["ca_source"] = authority.source
    try:
        context = probes.client_context(ca_data=authority.pem)
    except probes.ProbeError as exc:
        result["error"] = "%s: %s" % (authority.source, exc)
        return result
    answer = probes.ask(address, port, PATH, timeout, context=context, server_name=address)
    result.update(status=answer["status"], ready=answer["status"] in READY)
    if answer["error"]:
        result["error"] = answer["error"]["message"]
    elif not result["ready"]:
        result["error"] = "it answers %s (%s)" % (answer["status"], answer["message"])
    return result
