# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller's half of aggregator_info: decodes certificates and says whether the client's is of the CA beside it."""

from __future__ import annotations

import base64
import binascii
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.decoding import DecodingAction


class ActionModule(DecodingAction):
    MODULE = "kubemetrics.aggregation.aggregator_info"

    def finish(self, result: dict[str, t.Any]) -> dict[str, t.Any]:
        client = result.get("client")
        if isinstance(client, dict):
            client["issued_by_requestheader_ca"] = issued_by(
                client.get("certificate_der"), result.get("requestheader_ca")
            )
        return result


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
