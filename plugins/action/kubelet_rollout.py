# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kubelet_rollout: gathers the facts of all hosts of a play, and has plugin_utils/rollout.py decide over them."""

from __future__ import annotations

import json
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubelet_settings, kubespray, rollout
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native

ARGUMENTS: dict[str, t.Any] = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "cluster": {"type": "dict", "required": True},
    "settings": {"type": "str", "required": True},
    "serial": {"type": "raw", "default": [1, 5, "25%"]},
    "serial_limit": {"type": "int", "default": 50},
    "use_node_addresses": {"type": "bool", "default": True},
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        if certs.CRYPTOGRAPHY_IMPORT_ERROR:
            result.update(failed=True, msg="The Python library cryptography is missing on the controller; install it.")
            return result
        try:
            result.update(changed=False, **planned(native(arguments), (task_vars or {})["hostvars"]))
        except kubelet_settings.RolloutError as exc:
            result.update(failed=True, msg=str(exc))
        return result


def planned(arguments: dict[str, t.Any], hostvars: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What kubelet_rollout returns. Raises RolloutError."""
    cluster = arguments["cluster"]
    hosts, said = [], []
    for name in arguments["hosts"]:
        variables = hostvars[name]
        if variables.get("cluster_host") and variables.get(arguments["settings"]):
            hosts.append(host_of(name, variables, arguments["settings"]))
            inventory = native(variables[arguments["settings"]]).get("kubespray") or {}
            # Groups may differ, a thousand hosts of one group do not.
            if inventory not in said:
                said.append(inventory)
    plan = rollout.plan(
        hosts,
        rollout.Cluster(
            flavour=str(cluster["flavour"]),
            nodes=cluster["nodes"],
            control_planes=cluster["control_planes"],
            client_ca_file=client_ca_of(cluster["control_planes"], hosts),
            use_node_addresses=arguments["use_node_addresses"],
        ),
        serial=arguments["serial"],
        limit=arguments["serial_limit"],
    )
    common = hosts[0].settings if hosts else kubelet_settings.Settings()
    api_servers = [host for host in hosts if api_server_flags(host.facts) is not None]
    # What would last for all, where none of them lets the cluster sign, would take their certificates from them.
    signed = common.serving_certificates and any(entry["managed"] for entry in plan["hosts"].values())
    lasting = rollout.lasting(common)
    if signed:
        lasting["serverTLSBootstrap"] = True
    lines: dict[str, t.Any] = {}
    if cluster["flavour"] == "kubespray":
        lines = lines_for(common._replace(serving_certificates=signed), said, lasting)
    return {
        **plan,
        # As text: older versions of Ansible would go through all of it, whenever a host reads its own part.
        "hosts": {name: json.dumps(entry, sort_keys=True) for name, entry in plan["hosts"].items()},
        "concerned": concerned(plan, [host.name for host in api_servers]),
        "api_servers": [host.name for host in api_servers],
        "api_servers_without_client_certificate": [
            host.name
            for host in api_servers
            if not (api_server_flags(host.facts) or {}).get("kubelet-client-certificate")
        ],
        "lasting": lasting,
        "inventory_lines": lines,
        "inventory_notes": rollout.inventory_notes(lines, plan["hosts"]),
    }


def lines_for(
    settings: kubelet_settings.Settings, said: t.Sequence[t.Mapping[str, t.Any]], lasting: t.Mapping[str, t.Any]
) -> dict[str, t.Any]:
    """The lines for kubespray's inventory. Where groups of hosts differ, the first one that lacks a line decides."""
    found: dict[str, t.Any] = {}
    for inventory in said:
        found = {**kubespray.kubelet_lines(settings, inventory, lasting), **found}
    return found


def concerned(plan: t.Mapping[str, t.Any], api_servers: t.Sequence[str]) -> list[str]:
    """The hosts that have to take part in what follows; each task that hundreds of others skip would cost time."""
    involved = {name for name, entry in plan["hosts"].items() if entry["trouble"] or entry["pending"]}
    if plan["tightened"]:
        involved.update(api_servers)
    return [name for name in plan["hosts"] if name in involved]


def host_of(name: str, variables: t.Mapping[str, t.Any], settings: str) -> rollout.Host:
    asked = native(variables[settings])
    facts = native(variables["cluster_host"])
    further = asked.get("addresses") or []
    reported = variables.get("ansible_facts") or {}
    return rollout.Host(
        name=name,
        facts=facts,
        settings=kubelet_settings.Settings.of(asked),
        addresses=rollout.own_addresses(
            [asked.get(variable) or "" for variable in rollout.ADDRESS_VARIABLES] + [name],
            further if isinstance(further, list) else [further],
        ),
        recorded=asked.get("recorded") or [],
        reported=[entry for entry in (*rollout.ADDRESS_VARIABLES, "kubelet_access_addresses") if entry in reported],
    )


def api_server_flags(facts: t.Mapping[str, t.Any]) -> t.Mapping[str, t.Any] | None:
    """The flags of the API server that runs on a host; None where none runs."""
    component = facts["components"].get("kube-apiserver") or {}
    return t.cast("t.Mapping[str, t.Any]", component["flags"]) if component.get("running") else None


def client_ca_of(control_planes: t.Sequence[str], hosts: t.Sequence[rollout.Host]) -> str:
    """The CA of clients by the first running API server."""
    known = {host.name: host for host in hosts}
    for name in control_planes:
        flags = api_server_flags(known[name].facts) if name in known else None
        if flags and flags.get("client-ca-file"):
            return str(flags["client-ca-file"])
    return ""
