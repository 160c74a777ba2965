# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role cluster's way to the decisions of plugin_utils/cluster.py."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import cluster
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import with_native_arguments


class FilterModule:
    """Decisions about the control planes of a play."""

    def filters(self) -> dict[str, t.Any]:
        return {"control_plane_problem": with_native_arguments(cluster.control_plane_problem)}
