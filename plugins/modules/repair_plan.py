#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: repair_plan
short_description: Plan the repair of what a diagnosis has found
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Chooses the findings that are repaired and the steps that this takes, shows the plan, and says why others are left.
  - The role C(repair) applies it.
  - Only roots are repaired; their consequences go with them.
  - It runs on the controller and contacts no host.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
options:
  diagnosis:
    description:
      - The diagnosis, as the role C(doctor) leaves it in the fact C(doctor_diagnosis).
    type: dict
    required: true
  findings:
    description:
      - Ids of findings, separated by commas, or V(safe) for all findings whose repair needs no consent. To name an id
        is to consent to its repair.
    type: str
    default: ""
  done:
    description:
      - An earlier RV(plan) that was applied. Then the module only compares it with O(diagnosis).
    type: dict
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
seealso:
  - module: kubemetrics.aggregation.recorded_changes_info
"""

EXAMPLES = r"""
- name: Plan what can be repaired without consent
  kubemetrics.aggregation.repair_plan:
    diagnosis: "{{ doctor_diagnosis }}"
    findings: safe
  register: repair
"""

RETURN = r"""
plan:
  description: What the repair does.
  returned: without O(done)
  type: dict
  contains:
    apply:
      description:
        - The findings that are repaired, with RV(ignore:id), RV(ignore:hosts), RV(ignore:risk), RV(ignore:downtime).
      type: list
      elements: dict
    left:
      description: The findings that are left, each with the reason as RV(ignore:why) and RV(ignore:commands) to type.
      type: list
      elements: dict
    missing:
      description: The ids that were asked for and are not found.
      type: list
      elements: str
    steps:
      description: The parts of the sequence of C(site.yml) that are applied, in this order.
      type: list
      elements: str
    restart_hosts:
      description: The hosts whose API servers are restarted.
      type: list
      elements: str
  sample:
    apply: [{id: AGG-05, hosts: [cp1], risk: none, downtime: none}]
    left: []
    missing: []
    steps: [front_proxy_pki]
    restart_hosts: []
remaining:
  description: The ids of findings that were repaired and are still found.
  returned: with O(done)
  type: list
  elements: str
  sample: []
"""
