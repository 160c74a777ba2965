# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
notes:
  - Needs root on the host, and Python 3.8 or newer without further libraries.
"""

    # For modules that connect to servers from the host, one step after the other.
    PROBE = r"""
options:
  timeout:
    description:
      - Seconds for each step.
    type: float
    default: 5
requirements:
  - cryptography (Python library) on the controller
notes:
  - The host needs Python 3.8 or newer without further libraries. Certificates are decoded on the controller.
"""
