#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_info
short_description: Describe a cluster from what its hosts and its API say
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Runs M(kubemetrics.aggregation.cluster_state_info) once and joins its nodes with hosts that
    M(kubemetrics.aggregation.cluster_host_info) has examined. The result is the fact C(cluster_info) of the role
    C(cluster).
  - Meant for a task with C(run_once) that is delegated to where the kubeconfig is. It needs time in proportion to the
    number of hosts.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
options:
  hosts:
    description:
      - The hosts of the play, by their inventory names.
    type: list
    elements: str
    required: true
  variable:
    description:
      - The name under which each host has registered its result of M(kubemetrics.aggregation.cluster_host_info). A host
        without one is left out.
    type: str
    required: true
  control_planes:
    description:
      - All control planes of the inventory, by their inventory names.
    type: list
    elements: str
    required: true
  kubeconfig:
    description:
      - Path of the kubeconfig of an administrator.
    type: str
    required: true
  context:
    description:
      - The context of the kubeconfig. If empty, its current context.
    type: str
    default: ""
  shown_as:
    description:
      - What messages call the cluster. If empty, the path of the kubeconfig.
    type: str
    default: ""
  service_cidrs:
    description:
      - Address ranges of Services, separated by commas, where no API server says them.
    type: str
    default: ""
  pod_cidrs:
    description:
      - Address ranges of pods, separated by commas, where no controller manager says them.
    type: str
    default: ""
  api_addresses:
    description:
      - Addresses and names by which clients reach the API servers and that belong to no node, by the inventory.
    type: list
    elements: str
    default: []
  request_timeout:
    description:
      - Seconds that a single request may take.
    type: float
    default: 10
  restart_timeout:
    description:
      - Seconds within which an API server that has just been started has to answer.
    type: int
    default: 0
seealso:
  - module: kubemetrics.aggregation.cluster_state_info
  - module: kubemetrics.aggregation.cluster_host_info
"""

EXAMPLES = r"""
- name: Describe the cluster
  kubemetrics.aggregation.cluster_info:
    hosts: "{{ ansible_play_hosts_all }}"
    variable: discovered
    control_planes: "{{ groups['kube_control_plane'] }}"
    kubeconfig: /home/me/.kube/config
  delegate_to: localhost
  become: false
  run_once: true
  register: cluster_info
"""

RETURN = r"""
kubeconfig:
  description: The kubeconfig that was used.
  returned: success
  type: str
context:
  description: The context that was used.
  returned: success
  type: str
version:
  description: Version of the API server.
  returned: success
  type: str
  sample: v1.36.3
flavour:
  description:
    - Who made the cluster - V(kubeadm), V(kubespray), V(systemd), V(k3s), V(rke2), V(minikube), V(k0s),
      V(microk8s), V(openshift), V(eks), V(aks), V(gke), or V(unknown) where no control plane was examined and the API
      does not tell.
  returned: success
  type: str
distribution:
  description:
    - The same where it is a distribution that writes flags and certificates itself, in words; empty for other clusters.
  returned: success
  type: dict
  contains:
    key:
      description: The same as RV(flavour).
      type: str
    name:
      description: How it is written.
      type: str
    hosted:
      description: Whether its control plane belongs to a provider and has no hosts.
      type: bool
    because:
      description: What says so.
      type: str
    sentence:
      description: Which distribution it is, what says so, and what that means.
      type: str
servers:
  description: Each API server with its URL, whether it is ready, and why not.
  returned: success
  type: list
  elements: dict
pending_serving_requests:
  description: Number of kubelets' requests for serving certificates that nobody has decided on.
  returned: success
  type: int
nodes:
  description: Every node by its name.
  returned: success
  type: dict
node_hosts:
  description: The inventory host of each node that is in the play.
  returned: success
  type: dict
host_nodes:
  description: The node of each host of the play that is one.
  returned: success
  type: dict
control_planes:
  description: All control planes of the inventory.
  returned: success
  type: list
  elements: str
service_cidrs:
  description: Address ranges of Services.
  returned: success
  type: list
  elements: str
pod_cidrs:
  description: Address ranges of pods.
  returned: success
  type: list
  elements: str
"""
