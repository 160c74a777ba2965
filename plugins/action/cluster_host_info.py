# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Examines one host with component_info, and says in one sentence why that failed."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import cluster
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.host_discovery import HostDiscovery
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native


class ActionModule(HostDiscovery):
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "control_plane": {"type": "bool", "required": True},
        "address": {"type": "str", "default": ""},
        "access_address": {"type": "str", "default": ""},
        "addresses": {"type": "list", "elements": "str", "default": []},
        "api_server_url": {"type": "str", "default": ""},
        "node_name": {"type": "str", "default": ""},
        "kubelet_serving_ca_file": {"type": "str", "default": ""},
        "image_repository": {"type": "str", "default": ""},
        "restart_timeout": {"type": "int", "default": 0},
        "timeout": {"type": "int", "default": 10},
    }

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        _validation, given = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        arguments = native(given)
        name = str(self.task_vars["inventory_hostname"])
        if certs.CRYPTOGRAPHY_IMPORT_ERROR:
            result.update(
                failed=True, msg="The Python library cryptography is missing on the controller; install it there."
            )
            return result
        try:
            result.update(changed=False, windows=False, **self.discover(name, arguments))
        except cluster.WindowsHostError:
            result.update(changed=False, windows=True)
        except cluster.ClusterError as exc:
            shown = f"{name} ({arguments['address'] or 'no ansible_host'})"
            result.update(failed=True, changed=False, msg=f"{shown} was left out, because {exc}")
        return result
