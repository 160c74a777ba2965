#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: temporary_kubeconfig
short_description: Copy a kubeconfig from a host to the controller for the time of a play
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reads a kubeconfig on the host and writes it on the controller, for its user alone. What it has in other files is
    put into it.
  - Reports no change, because the file comes and goes within a play.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
options:
  state:
    description:
      - Whether the file shall be there.
    type: str
    choices: [present, absent]
    default: present
  path:
    description:
      - The file on the controller. It must not exist yet.
    type: str
    required: true
  source:
    description:
      - The kubeconfig on the host. Needed for V(present).
    type: str
  server:
    description:
      - The URL that the copy has as its server. Needed for V(present).
    type: str
  on_controller:
    description:
      - Whether O(path) is on the controller. If V(false), V(present) returns the content and writes nothing, and
        V(absent) removes the file from the host.
    type: bool
    default: true
attributes:
  check_mode:
    support: none
    details: It writes and removes its file in check mode, too.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details: V(present) fails where the file exists.
seealso:
  - module: kubemetrics.aggregation.cluster_info
"""

EXAMPLES = r"""
- name: Copy the administrator's kubeconfig to the controller
  kubemetrics.aggregation.temporary_kubeconfig:
    source: /etc/kubernetes/admin.conf
    server: https://192.0.2.11:6443
    path: /tmp/admin.kubeconfig
  delegate_to: cp1
  become: true

- name: Remove it
  kubemetrics.aggregation.temporary_kubeconfig:
    path: /tmp/admin.kubeconfig
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
content:
  description: The kubeconfig. Register it with C(no_log).
  returned: O(state=present) and O(on_controller=false)
  type: str
"""
