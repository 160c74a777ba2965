# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # Keep in step with API_ARGUMENTS of module_utils/api/kube.py.
    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path of a kubeconfig on the machine that the module runs on.
      - Without it, E(KUBECONFIG) and then C(~/.kube/config) are used, as C(kubectl) does.
      - Credential plugins (C(exec)) and proxies that it names are used.
      - One that switches certificate verification off is refused.
    type: path
  context:
    description:
      - The context of the kubeconfig. Without it, its current context.
    type: str
  request_timeout:
    description:
      - Seconds that a single request may take, from connecting to the last byte.
    type: float
    default: 10
attributes:
  action_group:
    description: Action is part of action groups, for which C(module_defaults) sets options once.
    support: full
    membership:
      - kubemetrics.aggregation.api
requirements:
  - kubernetes (Python library) on the machine that the module runs on
notes:
  - Talks to the Kubernetes API, and so runs where a kubeconfig and a route to the API servers are, which is usually the
    controller (C(delegate_to=localhost) or C(connection=local)).
"""
