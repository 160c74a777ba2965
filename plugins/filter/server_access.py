# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roles' way to the decisions of plugin_utils/server_access.py, and to the alerts of prometheus_rules.py there."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import (
    metrics_server,
    prometheus_rules,
    server_access,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import with_native_arguments


def server_access_problem(values: t.Any, name: str = "", found: t.Any = None) -> str:
    try:
        sentences = server_access.problems(values)
        if not sentences and found is not None:
            sentences = server_access.obstacles(values, name, found)
    except (TypeError, ValueError) as exc:
        raise AnsibleFilterError(f"A variable of the role metrics_server has a value of another kind: {exc}") from exc
    return sentences[0] if sentences else ""


def server_access_objects(values: t.Any, name: str) -> list[t.Any]:
    return [one for one, _variable in server_access.optional_objects(values, name)]


def prometheus_rules_spec(resolution: t.Any) -> dict[str, t.Any]:
    return prometheus_rules.groups(metrics_server.seconds(str(resolution)) or prometheus_rules.RESOLUTION)


class FilterModule:
    """Decisions about who may read what."""

    def filters(self) -> dict[str, t.Any]:
        filters = {
            "prometheus_rules": prometheus_rules_spec,
            "server_access": server_access.describe,
            "server_access_objects": server_access_objects,
            "server_access_problem": server_access_problem,
            "server_access_unwanted": server_access.unwanted,
        }
        return {name: with_native_arguments(function) for name, function in filters.items()}
