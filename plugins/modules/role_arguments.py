#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: role_arguments
short_description: Validate the variables of several roles of this collection in one task
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Does in one task what Ansible does in one task for each role. With hundreds of hosts that is minutes.
  - Import the roles with C(rolespec_validate=false) then.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
attributes:
  check_mode:
    support: full
    details: The module changes nothing.
  diff_mode:
    support: N/A
    details: The module changes nothing.
  idempotent:
    support: full
    details: The module changes nothing.
options:
  roles:
    description:
      - Names of roles of this collection, without its name.
    type: list
    elements: str
    required: true
seealso:
  - module: ansible.builtin.validate_argument_spec
"""

EXAMPLES = r"""
- name: Validate the variables of two roles
  kubemetrics.aggregation.role_arguments:
    roles: [cluster, verify]

- name: Discover the cluster
  ansible.builtin.import_role:
    name: kubemetrics.aggregation.cluster
    rolespec_validate: false
"""

RETURN = r"""
argument_errors:
  description: What is wrong, each with the role that it is a variable of.
  returned: failure
  type: list
  elements: str
"""
