#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: api_evidence
short_description: Collect what the API contributes to the evidence of a diagnosis
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Runs M(kubemetrics.aggregation.cluster_state_info), M(kubemetrics.aggregation.apiservice_info),
    M(kubemetrics.aggregation.resource_metrics_info), M(kubemetrics.aggregation.metrics_provider_info),
    M(kubemetrics.aggregation.extension_authentication_info), M(kubemetrics.aggregation.kubelet_csr) in check mode, and
    M(kubemetrics.aggregation.metrics_objects_info), at the same time and each with its own error.
  - Without hosts, the API servers are those that the API itself names, as far as they can be reached.
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
  hosts:
    description:
      - The hosts that M(kubemetrics.aggregation.host_evidence) was run on.
    type: list
    elements: str
    required: true
  control_planes:
    description:
      - The control planes by their inventory names.
    type: list
    elements: str
    required: true
  discovery_variable:
    description:
      - The variable that its step V(discovery) was registered as.
    type: str
    default: ""
  kubeconfig:
    description:
      - Path of a kubeconfig on the machine that the task is delegated to. Empty - the API is not asked.
    type: str
    default: ""
  context:
    description:
      - The context of the kubeconfig. Empty - its current context.
    type: str
    default: ""
  shown_as:
    description:
      - How the kubeconfig is called in messages. Empty - by its path.
    type: str
    default: ""
  message:
    description:
      - Why there is no kubeconfig.
    type: str
    default: ""
  service_cidrs:
    description:
      - The networks of Services, separated by commas, where no process tells them.
    type: str
    default: ""
  pod_cidrs:
    description:
      - The same of pods.
    type: str
    default: ""
  namespace:
    description:
      - The namespace of the metrics server, where no APIService names it.
    type: str
    default: kube-system
  apiservice:
    description:
      - The APIService that the diagnosis is about, with every other registered version of its group.
      - For another group than C(metrics.k8s.io), what only resource metrics have is not asked for - samples of nodes
        and pods, requests of kubelets for serving certificates, and whose the metrics server is.
    type: str
    default: v1beta1.metrics.k8s.io
  previous_variable:
    description:
      - The variable that an earlier run of this module was registered as. Then that is returned again, but with the
        metrics as they are now; those that are missing are waited for up to 20 seconds.
    type: str
    default: ""
  timeout:
    description:
      - Seconds for one request. A module that hangs is given up after twelve times as long.
    type: int
    default: 5
requirements:
  - kubernetes (Python library) on the machine that the task is delegated to
seealso:
  - module: kubemetrics.aggregation.host_evidence
  - module: kubemetrics.aggregation.diagnosis
"""

EXAMPLES = r"""
- name: Read what the API says
  kubemetrics.aggregation.api_evidence:
    hosts: []
    control_planes: []
    kubeconfig: "{{ lookup('ansible.builtin.env', 'HOME') }}/.kube/config"
  delegate_to: localhost
  run_once: true
  register: asked
"""

RETURN = r"""
api:
  description:
    - The part C(api) of the evidence, which docs/evidence.md describes. Null where there is neither a kubeconfig nor a
      control plane that was examined.
  returned: success
  type: dict
known:
  description:
    - What M(kubemetrics.aggregation.host_evidence) needs to know of the cluster in its step V(connections).
    - Where the API could not be asked, it is what the processes of the control planes were given, and the kubelets of
      the hosts.
  returned: success
  type: dict
started:
  description: When it began.
  returned: success
  type: str
"""
