# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller's half of kubelet_info: decodes the certificates that kubelets show."""

from __future__ import annotations

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.decoding import DecodingAction


class ActionModule(DecodingAction):
    MODULE = "kubemetrics.aggregation.kubelet_info"
