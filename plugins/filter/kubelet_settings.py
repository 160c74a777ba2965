# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: kubelet_settings
short_description: The settings of a kubelet that are in effect
version_added: 0.1.0
author: The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Puts the configuration file of a kubelet, its drop-in files and its command line together, as the kubelet does,
    over the defaults that hold for it.
options:
  _input:
    description: RV(kubemetrics.aggregation.component_info#module:kubelet_config).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show who may ask the kubelet
  ansible.builtin.debug:
    msg: "{{ (host.kubelet_config | kubemetrics.aggregation.kubelet_settings).authorization.mode }}"
"""

RETURN = r"""
_value:
  description: A KubeletConfiguration, with the settings that decide who may read the kubelet always present.
  type: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubelet_health as health
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.kubelet_effective import (
    SettingsError,
    effective_settings,
    listening,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native


def kubelet_settings(kubelet_config):
    return decided("kubelet_settings", effective_settings, kubelet_config)


def kubelet_listening(kubelet_config):
    return decided("kubelet_listening", listening, kubelet_config)


def decided(name, decision, kubelet_config):
    """What plugin_utils says of the kubelet_config of a host."""
    if not isinstance(kubelet_config, dict):
        raise AnsibleFilterError(f"{name} wants the kubelet_config that component_info returns.")
    try:
        return decision(native(kubelet_config))
    except SettingsError as exc:
        raise AnsibleFilterError(str(exc)) from exc


def kubelet_health(answer, expected):
    if not isinstance(answer, dict) or not isinstance(expected, dict):
        raise AnsibleFilterError(
            "kubelet_health wants one of the kubelets of kubelet_info, and what is expected of it."
        )
    return health.health_problems(native(answer), native(expected))


def kubelet_last_error(lines):
    return health.last_error(native(lines))


class FilterModule:
    """The collection's view of kubelets."""

    def filters(self):
        return {
            "kubelet_health": kubelet_health,
            "kubelet_last_error": kubelet_last_error,
            "kubelet_listening": kubelet_listening,
            "kubelet_settings": kubelet_settings,
        }
