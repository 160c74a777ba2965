# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rows of kubelets (KUB) that are not about scraping, by their ids."""

from __future__ import annotations

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Row
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules import (
    kubelet_answers,
    kubelet_certificates,
    kubelet_connections,
)

ROWS: tuple[Row, ...] = tuple(
    sorted((*kubelet_certificates.ROWS, *kubelet_connections.ROWS, *kubelet_answers.ROWS), key=lambda row: row.id)
)
