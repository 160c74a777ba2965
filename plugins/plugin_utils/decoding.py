# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of probes that see certificates: hosts have no library to decode them, and need none."""

from __future__ import annotations

import base64
import binascii
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native

SUFFIX = "certificate_der"


def decode(value: t.Any) -> t.Any:
    """A result in which every *certificate_der has its words beside it, under the same name without _der."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        if isinstance(key, str) and key.endswith(SUFFIX):
            result[key[: -len("_der")]] = in_words(item)
        result[key] = decode(item)
    return result


def in_words(encoded: t.Any) -> dict[str, t.Any] | None:
    """A DER certificate in base64 in words; what does not parse says so."""
    if not encoded:
        return None
    try:
        return certs.describe(certs.load_der(base64.b64decode(encoded, validate=True)))
    except (binascii.Error, ValueError, TypeError):
        return {"error": "The certificate does not parse."}


def issued_by(leaf: t.Any, authorities: t.Any) -> bool | None:
    """Whether one of the authorities signed the leaf; None where there is nothing to compare."""
    if not leaf or not isinstance(authorities, list):
        return None
    try:
        certificate = certs.load_der(base64.b64decode(leaf))
        trusted = [certs.load_der(base64.b64decode(entry["certificate_der"])) for entry in authorities]
    except (binascii.Error, ValueError, TypeError):
        return False
    return certs.issued_by(certificate, trusted)


def with_issuer(result: dict[str, t.Any]) -> dict[str, t.Any]:
    """What aggregator_info returns, with whether the client's certificate is of the CA beside it."""
    client = result.get("client")
    if isinstance(client, dict):
        client["issued_by_requestheader_ca"] = issued_by(client.get("certificate_der"), result.get("requestheader_ca"))
    return result


class DecodingAction(ActionBase):
    """Runs the module of the same name on the host and decodes what it brings back."""

    _supports_check_mode = True
    _supports_async = False
    _requires_connection = True

    MODULE: t.ClassVar[str]

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if certs.CRYPTOGRAPHY_IMPORT_ERROR:
            raise AnsibleActionFail("The Python library cryptography is missing on the controller; install it there.")
        answer = self._execute_module(
            module_name=self.MODULE, module_args=self.arguments(dict(self._task.args)), task_vars=task_vars
        )
        result.update(self.finish(decode(native(answer))))
        return result

    def arguments(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        return arguments

    def finish(self, result: dict[str, t.Any]) -> dict[str, t.Any]:
        return result
