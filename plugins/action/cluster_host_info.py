# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Examines one host with component_info, and says in one sentence why that failed."""

from __future__ import annotations

import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import cluster
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native

RESTART_SLEEP = 2.0


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "control_plane": {"type": "bool", "required": True},
        "address": {"type": "str", "default": ""},
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
            found = self.examine(arguments)
        except cluster.ClusterError as exc:
            shown = f"{name} ({arguments['address'] or 'no ansible_host'})"
            result.update(failed=True, changed=False, msg=f"{shown} was left out, because {exc}")
            return result
        result.update(
            changed=False,
            **cluster.host_facts(
                name,
                found,
                control_plane=arguments["control_plane"],
                api_server_url=arguments["api_server_url"],
                address=arguments["address"],
                addresses=arguments["addresses"],
                node_name=arguments["node_name"],
            ),
        )
        return result

    def examine(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        """What component_info finds. An API server that may be just being restarted is waited for."""
        deadline = time.monotonic() + arguments["restart_timeout"]
        while True:
            found = self.probe(arguments)
            waits = arguments["control_plane"] and cluster.api_server_is_expected(found)
            if not waits or time.monotonic() + RESTART_SLEEP > deadline:
                return found
            time.sleep(RESTART_SLEEP)

    def probe(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        options: dict[str, t.Any] = {
            "timeout": arguments["timeout"],
            "gather_subset": ["forwarding", "kubelet_answers"],
        }
        if arguments["image_repository"]:
            options["gather_subset"].append("images")
        for name in ("image_repository", "kubelet_serving_ca_file"):
            if arguments[name]:
                options[name] = arguments[name]
        try:
            found: dict[str, t.Any] = self._execute_module(
                module_name="kubemetrics.aggregation.component_info", module_args=options, task_vars=self.task_vars
            )
        except AnsibleConnectionFailure as exc:
            raise cluster.ClusterError(cluster.explain({"msg": str(exc)}, unreachable=True)) from exc
        except AnsibleError as exc:
            raise cluster.ClusterError(cluster.explain({"msg": str(exc)}, unreachable=False)) from exc
        if found.get("failed") or "components" not in found:
            raise cluster.ClusterError(cluster.explain(found, unreachable=bool(found.get("unreachable"))))
        return found
