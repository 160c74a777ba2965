# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roles' way to what plugin_utils/kubespray.py says of kubespray's variables."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubespray
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import with_native_arguments


class FilterModule:
    """Decisions about kubespray's variables."""

    def filters(self) -> dict[str, t.Any]:
        filters = {
            "kubespray_bastion_arguments": kubespray.bastion_arguments,
            "kubespray_notes": kubespray.notes,
            "kubespray_own": kubespray.own,
            "kubespray_settings": kubespray.settings,
            "kubespray_translate": kubespray.translate,
        }
        return {name: with_native_arguments(function) for name, function in filters.items()}
