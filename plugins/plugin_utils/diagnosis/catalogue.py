# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The failure catalogue as code: every row, in one table.

A row stands beside its rule, in the module of its layer; its section in docs/findings/ has the same id.
"""

from __future__ import annotations

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Row
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules import (
    aggregation,
    consequences,
    intermediaries,
    kubelets,
    lifecycle,
    network,
    scrapes,
    server_pods,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.subject import Subject

_ROWS: tuple[Row, ...] = (
    *aggregation.ROWS,
    *network.ROWS,
    *intermediaries.ROWS,
    *server_pods.ROWS,
    *kubelets.ROWS,
    *scrapes.ROWS,
    *consequences.ROWS,
    *lifecycle.ROWS,
)

#: In the words of the resource metrics API.
ROWS: tuple[Row, ...] = tuple(entry.told(Subject()) for entry in _ROWS)


def rows_for(about: Subject) -> tuple[Row, ...]:
    """The rows that a diagnosis of that API has, in its words."""
    if about.resource_metrics:
        return ROWS
    return tuple(entry.told(about) for entry in _ROWS if not entry.only_resource_metrics)


def row(identifier: str) -> Row | None:
    """The row of that id."""
    return next((entry for entry in ROWS if entry.id == identifier), None)
