# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # Keep in step with WAIT_ARGUMENTS of module_utils/api/wait.py.
    DOCUMENTATION = r"""
options:
  wait:
    description:
      - Whether to check repeatedly until the expected state is reached. After O(wait_timeout) the module fails with
        the last observed state.
      - Connection errors are retried until then. A refusal by a ready server (401, 403) and a certificate that does not
        verify fail at once.
    type: bool
    default: false
  wait_sleep:
    description:
      - Seconds between two checks.
    type: float
    default: 5
  wait_timeout:
    description:
      - Seconds to wait at most. V(0) means a single check.
    type: int
    default: 120
"""
