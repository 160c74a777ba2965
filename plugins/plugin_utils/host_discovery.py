# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How one host is examined: component_info there, and one sentence where that fails."""

from __future__ import annotations

import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import cluster

RESTART_SLEEP = 2.0
SSH = ("ssh", "paramiko", "paramiko_ssh", "libssh")
#: The same in each of the shells that sshd of Windows may start; nothing on other hosts.
WINDOWS_VERSION = "cmd.exe /d /c ver"


class HostDiscovery(ActionBase):
    """An action that examines its host."""

    task_vars: dict[str, t.Any]
    unreachable = False

    def discover(self, name: str, arguments: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """The fact of the host. Raises ClusterError, and WindowsHostError of these."""
        try:
            found = self.examine(arguments)
        except cluster.ClusterError:
            if not arguments["control_plane"] and not self.unreachable and self.runs_windows():
                raise cluster.WindowsHostError() from None
            raise
        return cluster.host_facts(
            name,
            found,
            control_plane=arguments["control_plane"],
            api_server_url=arguments["api_server_url"],
            address=arguments["address"],
            access_address=arguments["access_address"],
            addresses=arguments["addresses"],
            node_name=arguments["node_name"],
        )

    def runs_windows(self) -> bool:
        """Whether a host that was taken for one with a POSIX shell runs Windows."""
        if str(self._connection.transport).rpartition(".")[2] not in SSH:
            return False
        try:
            _status, output, _errors = self._connection.exec_command(WINDOWS_VERSION, in_data=None, sudoable=False)
        except AnsibleError:
            return False
        return b"Microsoft Windows" in output

    def examine(self, arguments: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """What component_info finds. An API server that may be just being restarted is waited for."""
        deadline = time.monotonic() + arguments["restart_timeout"]
        while True:
            found = self.probe(arguments)
            waits = arguments["control_plane"] and cluster.api_server_is_expected(found)
            if not waits or time.monotonic() + RESTART_SLEEP > deadline:
                return found
            time.sleep(RESTART_SLEEP)

    def probe(self, arguments: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
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
            # Without its shell, the first thing that fails on a host that was reached is a directory.
            self.unreachable = "temporary directory" not in str(exc)
            raise cluster.ClusterError(cluster.explain({"msg": str(exc)}, unreachable=True)) from exc
        except AnsibleError as exc:
            raise cluster.ClusterError(cluster.explain({"msg": str(exc)}, unreachable=False)) from exc
        if found.get("failed") or "components" not in found:
            raise cluster.ClusterError(cluster.explain(found, unreachable=bool(found.get("unreachable"))))
        return found
