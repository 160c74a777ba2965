# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: metrics_api_versions
short_description: The versions of metrics.k8s.io to register
version_added: 0.1.0
author: The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Chooses the versions of the resource metrics API for a cluster by the oldest of its API servers.
positional: servers
options:
  _input:
    description: V(auto), or a list of V(v1beta1) and V(v1), which is returned as it is.
    type: raw
    required: true
  servers:
    description:
      - API servers, each with its C(version), such as RV(kubemetrics.aggregation.cluster_state_info#module:servers).
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show what is registered on this cluster
  ansible.builtin.debug:
    msg: "{{ 'auto' | kubemetrics.aggregation.metrics_api_versions(cluster_info.servers) }}"
"""

RETURN = r"""
_value:
  description: For V(auto), V(v1beta1), and also V(v1) where every API server that answers is 1.37 or newer.
  type: list
  elements: str
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import metrics_api


def metrics_api_versions(wanted, servers=()):
    try:
        return metrics_api.versions(wanted, [str(server.get("version") or "") for server in servers])
    except metrics_api.MetricsApiError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Decisions about the resource metrics API."""

    def filters(self):
        return {"metrics_api_versions": metrics_api_versions}
