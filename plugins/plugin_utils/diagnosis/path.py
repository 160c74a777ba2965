# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The path of a request from a client to the kubelets, hop by hop, with what is known of each. Pure functions."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Finding
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.symptoms import Measured


def hops(evidence: Evidence, found: t.Sequence[Finding], measured: t.Sequence[Measured]) -> list[dict[str, t.Any]]:
    """Client, each API server, Service, each pod of the metrics server, each kubelet; state ok, broken or unknown."""
    broken = {host for entry in measured for host in entry.hosts}
    served = bool(evidence.requests) and not evidence.failing_servers
    listed = [_hop("client", "kubectl top", "ok" if served else "broken" if evidence.requests else "unknown")]
    for host in evidence.control_planes:
        state = "unknown" if not host.reachable else "broken" if host.name in broken else "ok"
        listed.append(_hop("api_server", host.name, state))
    return listed


def _hop(kind: str, name: str, state: str, text: str = "", findings: t.Sequence[str] = ()) -> dict[str, t.Any]:
    return {"kind": kind, "name": name, "state": state, "text": text, "findings": list(findings)}
