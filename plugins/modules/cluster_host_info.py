#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_host_info
short_description: Describe one host of a cluster
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Runs M(kubemetrics.aggregation.component_info) on the host, once, and puts beside it what the inventory knows. The
    result is what the role C(cluster) keeps as the fact C(cluster_host).
  - A failure says in one sentence what is wrong with the host and what to do.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
options:
  control_plane:
    description:
      - Whether the host is a control plane of the cluster.
    type: bool
    required: true
  address:
    description:
      - The address by which Ansible reaches the host. It stands in for the one that an API server advertises where that
        is not known, and in messages.
    type: str
    default: ""
  access_address:
    description:
      - The address by which other hosts reach this one, where the inventory says it. The API server is asked there,
        instead of at the address that it advertises.
    type: str
    default: ""
  addresses:
    description:
      - All addresses that the inventory knows of the host.
    type: list
    elements: str
    default: []
  api_server_url:
    description:
      - URL of the API server on this host. If empty, it is made of the flags of its process.
    type: str
    default: ""
  node_name:
    description:
      - Name of the host's Node object. If empty, the name in the client certificate of the kubelet, and without one the
        name that the kubelet registers with.
    type: str
    default: ""
  kubelet_serving_ca_file:
    description:
      - The same as in M(kubemetrics.aggregation.component_info).
    type: str
    default: ""
  image_repository:
    description:
      - The repository whose images are listed. If empty, none are.
    type: str
    default: ""
  restart_timeout:
    description:
      - Seconds to wait on a control plane for an API server that is defined and does not run, because it may be just
        being restarted.
    type: int
    default: 0
  timeout:
    description:
      - Seconds that examining the host may take.
    type: int
    default: 10
requirements:
  - cryptography (Python library) on the controller
seealso:
  - module: kubemetrics.aggregation.component_info
  - module: kubemetrics.aggregation.cluster_info
"""

EXAMPLES = r"""
- name: Discover how the Kubernetes components of each host run
  kubemetrics.aggregation.cluster_host_info:
    control_plane: "{{ inventory_hostname in groups['kube_control_plane'] }}"
    address: "{{ ansible_host }}"
  register: discovered
  become: true
"""

RETURN = r"""
name:
  description: The host's name in the inventory.
  returned: success
  type: str
  sample: cp1
node_name:
  description: The name of its Node object, as far as the host alone can tell.
  returned: success
  type: str
  sample: cp1
node_name_given:
  description: Whether O(node_name) says so.
  returned: success
  type: bool
node_name_certified:
  description: Whether the kubelet's client certificate has that name.
  returned: success
  type: bool
windows:
  description:
    - Whether the host turned out to run Windows, although C(ansible_shell_type) does not say so. Then nothing else is
      returned.
  returned: success
  type: bool
  sample: false
addresses:
  description: The O(addresses), each once.
  returned: success
  type: list
  elements: str
  sample: [192.0.2.11]
control_plane:
  description: Whether it is a control plane.
  returned: success
  type: bool
api_server_url:
  description: URL of its API server, null where it is no control plane.
  returned: success
  type: str
  sample: https://192.0.2.11:6443
components:
  description: The same as in M(kubemetrics.aggregation.component_info).
  returned: success
  type: dict
host:
  description: The same as in M(kubemetrics.aggregation.component_info), without the certificate.
  returned: success
  type: dict
kubelet_config:
  description: The same as in M(kubemetrics.aggregation.component_info).
  returned: success
  type: dict
kubelet_answers:
  description: The same as in M(kubemetrics.aggregation.component_info).
  returned: success
  type: dict
forwarding:
  description: The same as in M(kubemetrics.aggregation.component_info).
  returned: success
  type: dict
images:
  description: The same as in M(kubemetrics.aggregation.component_info).
  returned: success
  type: dict
lost_flags:
  description: The same as in M(kubemetrics.aggregation.component_info).
  returned: success
  type: list
  elements: dict
kubernetes_dir:
  description: The same as in M(kubemetrics.aggregation.component_info).
  returned: success
  type: dict
"""
