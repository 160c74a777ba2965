# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads the API once and joins what it says with what each host has said."""

from __future__ import annotations

import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import cluster
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native

RESTART_SLEEP = 2.0


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "variable": {"type": "str", "required": True},
        "control_planes": {"type": "list", "elements": "str", "required": True},
        "kubeconfig": {"type": "str", "required": True},
        "context": {"type": "str", "default": ""},
        "shown_as": {"type": "str", "default": ""},
        "service_cidrs": {"type": "str", "default": ""},
        "pod_cidrs": {"type": "str", "default": ""},
        "api_addresses": {"type": "list", "elements": "str", "default": []},
        "request_timeout": {"type": "float", "default": 10},
        "restart_timeout": {"type": "int", "default": 0},
    }

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        _validation, given = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        arguments = native(given)
        hosts = self.examined(arguments["hosts"], arguments["variable"])
        state = self.state(arguments, hosts)
        if state.get("failed"):
            result.update(failed=True, changed=False, msg=state.get("msg") or "The API could not be read.")
            return result
        try:
            found = cluster.cluster_facts(
                hosts,
                state,
                control_planes=arguments["control_planes"],
                kubeconfig=arguments["kubeconfig"],
                context=arguments["context"],
                service_cidrs=arguments["service_cidrs"],
                pod_cidrs=arguments["pod_cidrs"],
                api_addresses=arguments["api_addresses"],
                where=arguments["shown_as"],
            )
        except cluster.ClusterError as exc:
            result.update(failed=True, changed=False, msg=str(exc))
            return result
        result.update(changed=False, **found)
        return result

    def examined(self, names: t.Sequence[str], variable: str) -> list[dict[str, t.Any]]:
        """What cluster_host_info has found on those hosts that it could examine.

        Each host's variables are taken as they are: a template over all of them would be evaluated for each of them.
        """
        found = []
        for name in names:
            result = self.task_vars["hostvars"].raw_get(name).get(variable)
            if isinstance(result, dict) and "components" in result:
                found.append(native(result))
        return found

    def state(self, arguments: dict[str, t.Any], hosts: t.Sequence[cluster.Host]) -> dict[str, t.Any]:
        """What cluster_state_info says. An API server that has just been started is given time to answer."""
        planes = [host for host in hosts if host["name"] in arguments["control_planes"]]
        options = {key: arguments[key] for key in ("kubeconfig", "request_timeout")}
        options["servers"] = [host["api_server_url"] for host in planes] or None
        options["context"] = arguments["context"] or None
        age = cluster.api_server_age(planes)
        young = age is not None and age < arguments["restart_timeout"]
        deadline = time.monotonic() + (arguments["restart_timeout"] if young else 0)
        while True:
            state: dict[str, t.Any] = self._execute_module(
                module_name="kubemetrics.aggregation.cluster_state_info",
                module_args={key: value for key, value in options.items() if value is not None},
                task_vars=self.task_vars,
            )
            if not state.get("failed") or time.monotonic() + RESTART_SLEEP > deadline:
                return state
            time.sleep(RESTART_SLEEP)
