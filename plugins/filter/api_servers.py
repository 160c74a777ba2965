# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role apiserver_aggregation's way to the decisions of plugin_utils/api_servers.py."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import (
    api_servers,
    cluster,
    front_proxy,
    kubespray,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import with_native_arguments


def cluster_ip(service_cidrs: t.Any) -> str:
    try:
        return api_servers.cluster_ip(service_cidrs)
    except ValueError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Decisions about API servers."""

    def filters(self) -> dict[str, t.Any]:
        filters = {
            "api_server_address": cluster.advertised_address,
            "api_server_cluster_ip": cluster_ip,
            "api_servers_routed": api_servers.routed,
            "api_servers_edited": api_servers.edited,
            "api_servers_pending": api_servers.pending,
            "api_server_may_change": api_servers.may_change,
            "api_server_staged": api_servers.staged,
            "api_server_needs_cluster_ip": front_proxy.routes_unknown,
            "api_server_newly_routed": api_servers.newly_routed,
            "api_server_inventory_lines": kubespray.api_server_lines,
            "api_server_failure": api_servers.failure,
            "api_server_newest_log": api_servers.newest_log,
            "api_server_last_error": api_servers.last_error,
            "api_server_change_to_roll_back": api_servers.change_to_roll_back,
        }
        return {name: with_native_arguments(function) for name, function in filters.items()}
