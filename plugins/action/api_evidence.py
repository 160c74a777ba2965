# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Collects what the API contributes to the evidence of a diagnosis; what fails is a part of it."""

from __future__ import annotations

import datetime
import functools
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import (
    api_evidence,
    cluster,
    evidence_document,
    side_by_side,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native

#: Every request has its own timeout. This is for what hangs all the same, and leaves a busy machine its time.
GIVE_UP = 12


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "control_planes": {"type": "list", "elements": "str", "required": True},
        "discovery_variable": {"type": "str", "default": ""},
        "kubeconfig": {"type": "str", "default": ""},
        "context": {"type": "str", "default": ""},
        "shown_as": {"type": "str", "default": ""},
        "message": {"type": "str", "default": ""},
        "service_cidrs": {"type": "str", "default": ""},
        "pod_cidrs": {"type": "str", "default": ""},
        "namespace": {"type": "str", "default": "kube-system"},
        "apiservice": {"type": "str", "default": "v1beta1.metrics.k8s.io"},
        "previous_variable": {"type": "str", "default": ""},
        "timeout": {"type": "int", "default": 5},
    }

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        _validation, given = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        self.given: dict[str, t.Any] = native(given)
        # Whatever a module could change, it changes nothing here.
        self._task.check_mode = True
        if self.given["previous_variable"]:
            result.update(changed=False, **self.again(self.task_vars.get(self.given["previous_variable"])))
            return result
        started = datetime.datetime.now(datetime.timezone.utc).isoformat()
        hosts = self.discovered()
        asked = self.given["kubeconfig"] or any(host.get("control_plane") for host in hosts)
        # Without a kubeconfig and a control plane nobody knows anything of the API, not even that it is down.
        api = self.collect(hosts) if asked else None
        cidrs = {"service": self.given["service_cidrs"], "pod": self.given["pod_cidrs"]}
        known = evidence_document.known(api or {}, hosts, cidrs, self.given["apiservice"])._asdict()
        result.update(changed=False, started=started, api=api, known=known)
        return result

    def again(self, previous: t.Any) -> dict[str, t.Any]:
        """What an earlier look has returned, with the metrics as they are now."""
        found = {key: value for key, value in native(previous or {}).items() if key in ("started", "api", "known")}
        probe = api_evidence.asked_again(self.given, found.get("api") or {})
        if probe:
            metrics = api_evidence.result_of(self.run_all({"metrics": probe}), "metrics")
            found["api"] = {**found["api"], "metrics": metrics or found["api"]["metrics"]}
        return found

    def collect(self, hosts: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
        if not self.given["kubeconfig"]:
            return api_evidence.unavailable(self.given["message"] or "there is no kubeconfig to ask the API with")
        planes = [host for host in hosts if host["name"] in self.given["control_planes"]]
        servers = [host["api_server_url"] for host in planes if host.get("api_server_url")]
        first = api_evidence.first_probes(servers, self.given)
        if servers:
            first.update(api_evidence.request_probes(servers, self.given))
        found = self.run_all(first)
        if not servers and api_evidence.answers(found):
            # Only a kubeconfig is known: the API itself names its servers, of which some can be reached from here.
            others = api_evidence.servers_of(found)
            found.update(self.run_all(api_evidence.later_probes(others, self.given)))
            servers = api_evidence.reached(found, others)
            found.update(self.run_all(api_evidence.request_probes(servers, self.given)))
        return api_evidence.document(found, hosts, self.given)

    def run_all(self, probes: t.Mapping[str, evidence_document.Probe]) -> dict[str, side_by_side.Outcome]:
        return side_by_side.run(
            {name: functools.partial(self.execute, probe) for name, probe in probes.items()},
            timeout=GIVE_UP * self.given["timeout"],
            connection=self._connection,
        )

    def execute(self, probe: evidence_document.Probe) -> dict[str, t.Any]:
        """Run one module where the API is asked. What failed keeps its sentence, and what it has seen before."""
        answer: dict[str, t.Any] = native(
            self._execute_module(
                module_name="kubemetrics.aggregation." + probe.module,
                module_args=probe.arguments,
                task_vars=self.task_vars,
            )
        )
        if answer.get("failed") or answer.get("unreachable"):
            return {"failed": True, "message": cluster.said(answer), "servers": answer.get("servers")}
        return evidence_document.plain(answer)

    def discovered(self) -> list[dict[str, t.Any]]:
        """The facts of those hosts that were examined, as they are, without a template over all of them."""
        known = self.task_vars["hostvars"]
        found = []
        for name in self.given["hosts"]:
            entry = known.raw_get(name).get(self.given["discovery_variable"]) if name in known else None
            if isinstance(entry, dict) and entry.get("host"):
                found.append(native(entry["host"]))
        # Groups have no order that lasts.
        return sorted(found, key=lambda host: str(host["name"]))
