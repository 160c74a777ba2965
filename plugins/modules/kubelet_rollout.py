#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubelet_rollout
short_description: Decide which kubelets change, why, and in which waves
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Compares what each kubelet of the play does with what is asked of it, and says which of them have to restart, what
    changes in their configuration and command line, in which order and in which waves.
  - One call decides over all hosts. It runs on the controller, reads the fact C(cluster_host) of each host, which the
    role C(kubemetrics.aggregation.cluster) leaves behind, and touches no host.
  - A file that is newer than the process is left alone, because somebody may only have staged that edit. What this
    collection wrote itself is different; there a run ended between writing and restarting, and the restart follows.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
options:
  hosts:
    description:
      - The hosts to decide over, as C(ansible_play_hosts). Those without the facts are passed over.
    type: list
    elements: str
    required: true
  cluster:
    description:
      - The fact C(cluster_info) of the role C(kubemetrics.aggregation.cluster).
    type: dict
    required: true
  settings:
    description:
      - The name of the variable in which each host holds what is asked of its kubelet.
      - Its keys are the variables of the role C(kubemetrics.aggregation.kubelet_access) without that prefix; what the
        inventory says of the host's addresses, as C(ansible_host), C(ip), C(ip6), C(access_ip), C(access_ip6) and
        C(addresses); C(recorded), which is RV(kubemetrics.aggregation.recorded_changes_info#module:changes); and
        C(kubespray), a dictionary of kubespray's own variables for kubelets.
    type: str
    required: true
  serial:
    description:
      - How many kubelets restart together, as Ansible's keyword of that name - a list of numbers and shares of all
        hosts, of which the last one repeats.
      - A single value comes after one kubelet alone and at most five together.
    type: raw
    default: [1, 5, 25%]
  serial_limit:
    description:
      - The most kubelets that a share stands for.
    type: int
    default: 50
  use_node_addresses:
    description:
      - Whether addresses of the Node object are accepted as well. If V(false), the inventory has to name an address of
        each host.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details: The module changes nothing.
  idempotent:
    support: full
requirements:
  - cryptography (Python library) on the controller
seealso:
  - module: kubemetrics.aggregation.component_info
  - module: kubemetrics.aggregation.kubelet_config
  - module: kubemetrics.aggregation.kubelet_csr
"""

EXAMPLES = r"""
- name: Say what is asked of each kubelet
  ansible.builtin.set_fact:
    asked:
      webhook: true
      read_only_port: 0
      ansible_host: "{{ ansible_host | default('') }}"

- name: Decide over all of them
  kubemetrics.aggregation.kubelet_rollout:
    hosts: "{{ ansible_play_hosts }}"
    cluster: "{{ cluster_info }}"
    settings: asked
  run_once: true
  register: rollout

- name: Show why kubelets would restart
  ansible.builtin.debug:
    msg: "{{ (rollout.hosts[inventory_hostname] | from_json).reasons }}"
"""

RETURN = r"""
hosts:
  description:
    - What happens to each host, as JSON text by its name, so that a host that reads its own part need not template the
      others'. The keys of each are described by their names - C(pending), C(wave) (V(-1) for none), C(reasons),
      C(trouble) (why nothing may be changed), C(notes), C(left_out), C(changes) (C(config) for
      M(kubemetrics.aggregation.kubelet_config), C(flags) for M(kubemetrics.aggregation.component_flags), C(settings)),
      C(managed) (whether the cluster signs its serving certificate), C(own_certificate) (whether it has its
      own), C(tightens), C(client_ca), C(serving_ca), C(expected) (for the filter
      P(kubemetrics.aggregation.kubelet_health#filter)), C(unit), C(daemon_reload).
  returned: success
  type: dict
  sample:
    w1: '{"pending": true, "reasons": ["it differs in authorization.mode"], "wave": 0}'
pending:
  description: The hosts whose kubelet restarts, in their order, workers first.
  returned: success
  type: list
  elements: str
  sample: [w1, w2, cp1]
waves:
  description: The same hosts, one list for each wave.
  returned: success
  type: list
  elements: list
  sample: [[w1], [w2, cp1]]
tightened:
  description: Those of them that turn clients away which they let in now.
  returned: success
  type: list
  elements: str
  sample: [w1]
concerned:
  description:
    - The hosts that take part in what follows - those whose kubelet changes or cannot be managed, and where some turn
      clients away, those of the API servers.
  returned: success
  type: list
  elements: str
  sample: [w1]
notes:
  description: What is left as it is, or happens beside, in sentences.
  returned: success
  type: list
  elements: str
  sample: []
left_out:
  description: Why hosts take no part, in sentences.
  returned: success
  type: list
  elements: str
  sample: []
allowed_addresses:
  description:
    - The addresses that the inventory gives to each node whose certificate the cluster signs, for
      O(kubemetrics.aggregation.kubelet_csr#module:nodes). What a host reports about itself is not among them.
  returned: success
  type: dict
  sample:
    w1: [192.0.2.21]
known_addresses:
  description:
    - The addresses that the inventory gives to each node, for
      O(kubemetrics.aggregation.kubelet_csr#module:other_nodes).
  returned: success
  type: dict
  sample:
    w1: [192.0.2.21]
api_servers:
  description: The hosts of the play on which an API server runs.
  returned: success
  type: list
  elements: str
  sample: [cp1]
api_servers_without_client_certificate:
  description: Those whose API server has no C(--kubelet-client-certificate).
  returned: success
  type: list
  elements: str
  sample: []
lasting:
  description: The settings that hold for all kubelets alike, and for those that join later.
  returned: success
  type: dict
  sample:
    readOnlyPort: 0
    authorization: {mode: Webhook}
inventory_lines:
  description: The variables that kubespray's inventory lacks so that its next run keeps these settings.
  returned: success
  type: dict
  sample:
    kubelet_rotate_server_certificates: true
inventory_notes:
  description:
    - What has to be known before these lines are put into the inventory, in sentences, such as which kubelets have
      certificates of their own that API servers would then verify by the cluster's CA.
  returned: success
  type: list
  elements: str
  sample: []
"""
