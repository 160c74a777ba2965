# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Texts of definitions as they may be shown: what looks like a secret is taken out."""

from __future__ import annotations

import re

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host.processes import MASK, mask_kubelet_config

_SECRET_NAME = re.compile(r"(?i)(pass|secret|token|credential|access_?key|private)")
_VARIABLE = re.compile(r"""^(\s*(?:Environment=)?["']?([A-Za-z_][A-Za-z0-9_]*)=)""")


def mask_definition(text: str) -> str:
    """A unit, an environment file, a manifest or a kubelet configuration for a diff."""
    lines = []
    for line in mask_kubelet_config(text).split("\n"):
        match = _VARIABLE.match(line)
        lines.append(match.group(1) + MASK if match and _SECRET_NAME.search(match.group(2)) else line)
    return "\n".join(lines)
