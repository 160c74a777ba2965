# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rows of the aggregation layer (AGG), by their ids."""

from __future__ import annotations

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Row
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules import (
    front_proxy,
    one_api_server,
    registration,
)

ROWS: tuple[Row, ...] = tuple(
    sorted((*front_proxy.ROWS, *registration.ROWS, *one_api_server.ROWS), key=lambda row: row.id)
)
