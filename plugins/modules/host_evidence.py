#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_evidence
short_description: Collect what one host contributes to the evidence of a diagnosis
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - In the step V(discovery), does what M(kubemetrics.aggregation.cluster_host_info) does, and on control planes what
    M(kubemetrics.aggregation.api_server_info) does. A host that cannot be reached
    is a result, not a failure.
  - In the step V(connections), runs M(kubemetrics.aggregation.host_network_info) and
    M(kubemetrics.aggregation.pod_network_info) on the host, and on control planes also
    M(kubemetrics.aggregation.aggregator_info) and
    M(kubemetrics.aggregation.kubelet_info), with what M(kubemetrics.aggregation.api_evidence) has found. They run at
    the same time, each with its own error.
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
  step:
    description:
      - What to collect.
    type: str
    choices: [discovery, connections]
    required: true
  control_planes:
    description:
      - The control planes by their inventory names.
    type: list
    elements: str
    required: true
  address:
    description:
      - As in M(kubemetrics.aggregation.cluster_host_info).
    type: str
    default: ""
  access_address:
    description:
      - As there.
    type: str
    default: ""
  addresses:
    description:
      - As there.
    type: list
    elements: str
    default: []
  api_server_url:
    description:
      - As there.
    type: str
    default: ""
  node_name:
    description:
      - As there.
    type: str
    default: ""
  kubelet_serving_ca_file:
    description:
      - As there.
    type: str
    default: ""
  image_repository:
    description:
      - As there.
    type: str
    default: ""
  discovery_variable:
    description:
      - The variable that the first step was registered as.
    type: str
    default: ""
  api_variable:
    description:
      - The variable that M(kubemetrics.aggregation.api_evidence) was registered as.
    type: str
    default: ""
  token_variable:
    description:
      - The variable that M(kubemetrics.aggregation.metrics_reader_token) was registered as. Without it kubelets are not
        asked as the metrics server would.
    type: str
    default: ""
  timeout:
    description:
      - Seconds for one step of a probe. A probe that hangs is given up after twelve times as long.
    type: int
    default: 5
requirements:
  - cryptography (Python library) on the controller
seealso:
  - module: kubemetrics.aggregation.api_evidence
  - module: kubemetrics.aggregation.diagnosis
"""

EXAMPLES = r"""
- name: Discover what runs on each host
  kubemetrics.aggregation.host_evidence:
    step: discovery
    control_planes: "{{ groups['kube_control_plane'] }}"
    address: "{{ ansible_host }}"
  become: true
  register: discovered
"""

RETURN = r"""
reachable:
  description: In the step V(discovery), whether the host could be examined.
  returned: success
  type: bool
message:
  description: In the step V(discovery), why not.
  returned: success
  type: str
host:
  description: In the step V(discovery), what M(kubemetrics.aggregation.cluster_host_info) returns, or null.
  returned: success
  type: dict
api_server:
  description: In the step V(discovery), what M(kubemetrics.aggregation.api_server_info) returns, or null.
  returned: success
  type: dict
kubeconfig:
  description:
    - In the step V(discovery), an administrator's kubeconfig on a control plane that runs an API server, else null.
  returned: success
  type: str
results:
  description: In the step V(connections), the result of each probe by its name.
  returned: success
  type: dict
errors:
  description: Why a probe has no result, by its name.
  returned: success
  type: dict
"""
