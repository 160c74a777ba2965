# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Collects what one host contributes to the evidence of a diagnosis; what fails is a part of it."""

from __future__ import annotations

import datetime
import functools
import typing as t

from ansible.errors import AnsibleError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import (
    cluster,
    decoding,
    evidence_document,
    side_by_side,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.host_discovery import HostDiscovery
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native

#: Every step of a probe has its own timeout. This is for what hangs all the same, and leaves a busy machine its time.
GIVE_UP = 12


class ActionModule(HostDiscovery):
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "step": {"type": "str", "required": True, "choices": ["discovery", "connections"]},
        "control_planes": {"type": "list", "elements": "str", "required": True},
        "address": {"type": "str", "default": ""},
        "access_address": {"type": "str", "default": ""},
        "addresses": {"type": "list", "elements": "str", "default": []},
        "api_server_url": {"type": "str", "default": ""},
        "node_name": {"type": "str", "default": ""},
        "kubelet_serving_ca_file": {"type": "str", "default": ""},
        "image_repository": {"type": "str", "default": ""},
        "discovery_variable": {"type": "str", "default": ""},
        "api_variable": {"type": "str", "default": ""},
        "token_variable": {"type": "str", "default": ""},
        "timeout": {"type": "int", "default": 5},
    }

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        _validation, given = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        arguments = native(given)
        result["changed"] = False
        if certs.CRYPTOGRAPHY_IMPORT_ERROR:
            result.update(
                failed=True, msg="The Python library cryptography is missing on the controller; install it there."
            )
            return result
        step = self.find_components if arguments["step"] == "discovery" else self.connect
        result.update(step(arguments))
        return result

    def find_components(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        """The first step: what runs on the host. A host that cannot be examined is a result, too."""
        started = datetime.datetime.now(datetime.timezone.utc)
        name = str(self.task_vars["inventory_hostname"])
        found: dict[str, t.Any] = {
            "started": started.isoformat(),
            "control_plane": name in arguments["control_planes"],
            "reachable": True,
            "message": "",
            "host": None,
            "api_server": None,
            "kubeconfig": None,
            "errors": {},
        }
        options = {**arguments, "control_plane": found["control_plane"], "restart_timeout": 0}
        # Reading processes takes longer than a single connection.
        options["timeout"] = 2 * arguments["timeout"]
        try:
            found["host"] = evidence_document.plain_host(native(self.discover(name, options)))
        except cluster.ClusterError as exc:
            # Also where it answers, and yet nothing can be known of it.
            found.update(reachable=False, message=str(exc))
            return found
        if found["control_plane"]:
            # Before the API is asked, so that a server which answers is chosen.
            probe = evidence_document.Probe(
                "api_server_info", evidence_document.api_server_options(found["host"], arguments["timeout"])
            )
            outcome = side_by_side.outcome_of(functools.partial(self.execute, probe))
            found["api_server"] = outcome.result
            if outcome.error:
                found["errors"]["api_server"] = outcome.error
            if cluster.runs_api_server(found["host"]):
                found["kubeconfig"] = found["host"]["kubernetes_dir"]["admin_kubeconfig"]
        return found

    def connect(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        """The second step: what the host and its pods reach, with what the API has told meanwhile."""
        discovered = native(self.task_vars.get(arguments["discovery_variable"]) or {})
        if not discovered.get("host"):
            return {"results": {}, "errors": {}}
        told = native((self.task_vars.get(arguments["api_variable"]) or {}).get("known") or {})
        token = native(self.task_vars.get(arguments["token_variable"]) or {}).get("token")
        probes = evidence_document.probes_of(
            discovered, evidence_document.Known(**told), token=token, timeout=arguments["timeout"]
        )
        outcomes = side_by_side.run(
            {name: functools.partial(self.execute, probe) for name, probe in probes.items()},
            timeout=GIVE_UP * arguments["timeout"],
            connection=self._connection,
        )
        return {
            "results": {name: outcome.result for name, outcome in outcomes.items() if outcome.result is not None},
            "errors": {name: outcome.error for name, outcome in outcomes.items() if outcome.error},
        }

    def execute(self, probe: evidence_document.Probe) -> dict[str, t.Any]:
        """Run one module on the host. Raises AnsibleError with the module's sentence."""
        answer: dict[str, t.Any] = native(
            self._execute_module(
                module_name="kubemetrics.aggregation." + probe.module,
                module_args=probe.arguments,
                task_vars=self.task_vars,
            )
        )
        if answer.get("failed") or answer.get("unreachable"):
            raise AnsibleError(cluster.said(answer) or f"{probe.module} failed without a word")
        if probe.module == "aggregator_info":
            return evidence_document.plain(decoding.with_issuer(answer))
        if probe.module == "api_server_info":
            return evidence_document.plain_api_server(answer)
        return evidence_document.plain(answer)
