#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_expiry_info
short_description: Say when certificates expire on which resource metrics depend, and what renews them
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Names the serving certificates of kubelets that the cluster signed, and the front proxy's certificates, by what the
    roles C(kubemetrics.aggregation.kubelet_access) and C(kubemetrics.aggregation.front_proxy_pki) have found in the
    same play.
  - It runs on the controller and contacts no host.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
options:
  hosts:
    description:
      - The hosts to check, as C(ansible_play_hosts).
    type: list
    elements: str
    required: true
  approver:
    description:
      - Whether the approver of certificate requests runs in the cluster.
    type: bool
    default: false
  renew_before_days:
    description:
      - From how many days before it expires the role C(front_proxy_pki) renews a client certificate.
    type: int
    default: 30
requirements:
  - cryptography (Python library) on the controller
seealso:
  - module: kubemetrics.aggregation.kubelet_rollout
  - module: kubemetrics.aggregation.front_proxy_info
"""

EXAMPLES = r"""
- name: Find out which certificate expires first
  kubemetrics.aggregation.certificate_expiry_info:
    hosts: "{{ ansible_play_hosts }}"
  run_once: true
  register: expiry

- name: Show it
  ansible.builtin.debug:
    msg: "{{ expiry.report }}"
  run_once: true
"""

RETURN = r"""
certificates:
  description: The certificates, the first to expire first.
  returned: success
  type: list
  elements: dict
  contains:
    not_after:
      description: When it expires (RFC 3339).
      type: str
    what:
      description: Whose it is.
      type: str
    renewal:
      description: What renews it.
      type: str
  sample:
    - not_after: "2027-03-01T10:00:00Z"
      what: the front proxy's client certificate on cp1
      renewal: playbooks/rotate_certs.yml renews it, and site.yml does from 30 days before
report:
  description: The same in sentences, the first of each kind.
  returned: success
  type: list
  elements: str
  sample: []
"""
