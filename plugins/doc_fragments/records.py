# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # For modules that keep records on the host.
    DOCUMENTATION = r"""
options:
  state_dir:
    description:
      - Directory on the host for records of changes and for backups, accessible to root only.
      - Must not be a directory that a kubelet or systemd loads files from.
    type: path
    default: /var/lib/kubemetrics
"""

    # For editors, which can do without.
    BACKUP = r"""
options:
  backup:
    description:
      - Whether to keep the old files and a record of the change in O(state_dir), so that
        M(kubemetrics.aggregation.recorded_change) can restore them.
    type: bool
    default: true
"""
