# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about kubelets (KUB). Each is a pure function from evidence to observations."""

from __future__ import annotations

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Row

ROWS: tuple[Row, ...] = ()
