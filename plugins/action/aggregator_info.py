# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller's half of aggregator_info: decodes certificates and says whether the client's is of the CA beside it."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.decoding import DecodingAction, with_issuer


class ActionModule(DecodingAction):
    MODULE = "kubemetrics.aggregation.aggregator_info"

    def finish(self, result: dict[str, t.Any]) -> dict[str, t.Any]:
        return with_issuer(result)
