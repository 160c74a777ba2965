# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which API servers get new flags, what keeps these, and why one did not come back. Decides, writes nothing."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flag_plan, flags, masking
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy

#: Distributions write the flags themselves, and always have those of the aggregation layer.
EDITED = ("static_pod", "systemd")

#: What a component logs before it exits: an error of its command line, or a fatal message of klog.
_FATAL = re.compile(r"^(?:Error: |error: |F[0-9]{4} |panic: )")
_CONTAINER_LOG = re.compile(r"^\S+ std(?:err|out) [FP] ")


def edited(hosts: t.Iterable[t.Mapping[str, t.Any]]) -> t.List[str]:
    """The control planes whose API server's definition is on the host, by the fact of each."""
    return [str(host["name"]) for host in hosts if host["components"]["kube-apiserver"]["managed_by"] in EDITED]


def pending(plans: t.Mapping[str, t.Mapping[str, t.Any]]) -> t.List[str]:
    """Those whose definition has to change, or whose process does not run with it; by what component_flags plans."""
    return [name for name, plan in plans.items() if plan.get("files") or plan.get("running_differs")]


def may_change(host: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any], replace_shared: bool) -> bool:
    """Whether it is worth while to find out, before anything changes, that a definition can be edited.

    A unit may start something else or wait for a restart. The kubelet has read every manifest, so that one is edited
    only where the process lacks something.
    """
    component = host["components"]["kube-apiserver"]
    if component["managed_by"] != "static_pod":
        return component["managed_by"] in EDITED
    running = flags.of_argv(component["argv"], "kube-apiserver")
    lacking = flag_plan.outstanding(running, masking.mask_flags(wanted), "kube-apiserver")
    return bool(lacking) or replace_shared or front_proxy.routes_unknown(host)


def staged(
    host: t.Mapping[str, t.Any], plan: t.Mapping[str, t.Any], replace_shared: bool = False
) -> t.Dict[str, t.Any]:
    """What somebody's edit of a definition means that no process has read yet, by what component_flags plans.

    An API server that has to restart for another reason would read it, too. Where it says something else than what is
    needed, somebody has to decide first: that is the ``problem``. ``notes`` say what is left as it is, and what else
    a restart brings into effect.
    """
    name, component = host["name"], host["components"]["kube-apiserver"]
    waits = bool(pending({name: plan}))
    replaces = replace_shared and front_proxy.shares_client_ca(front_proxy.running_flags(host))
    edits, others = dashed(plan.get("staged_flags")), dashed(plan.get("unread_flags"))
    if edits and (waits or replaces):
        files = ", ".join(component["definition_files"]) or "on its host"
        problem = (
            "The API server of %s has to restart with other flags, and somebody has edited %s in its definition (%s) "
            "without a restart; restart it so that the edit takes effect, or revert the edit, and run again."
            % (name, edits, files)
        )
        return {"problem": problem, "notes": []}
    notes = []
    if edits:
        notes.append(
            "The API server of %s has not read an edit of %s in its definition. It does what aggregation needs, and "
            "both are left as they are; restart it when that edit shall take effect." % (name, edits)
        )
    if waits and others:
        notes.append("The restart of the API server of %s also brings an edit of %s into effect." % (name, others))
    return {"problem": "", "notes": notes}


def dashed(names: t.Optional[t.Sequence[str]]) -> str:
    return ", ".join("--" + name for name in names or [])


def routed(plans: t.Mapping[str, t.Mapping[str, t.Any]]) -> bool:
    """Whether API servers go to endpoints by themselves, by what component_flags plans."""
    return any(
        str((plan.get("flags") or {}).get(front_proxy.ROUTING, "")).lower() in ("1", "t", "true")
        for plan in plans.values()
    )


def cluster_ip(service_cidrs: t.Sequence[str]) -> str:
    """The address of the API's own Service: the first one of the first network. Raises ValueError."""
    if not service_cidrs:
        raise ValueError(
            "The networks of Services are not known; set kube_service_addresses, or apiserver_aggregation_routing to "
            "true or false."
        )
    return str(ipaddress.ip_network(service_cidrs[0].strip(), strict=False).network_address + 1)


def newly_routed(host: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any]) -> bool:
    """Whether the API server is going to rely on routes to pods that it has not used before."""
    before = str(front_proxy.running_flags(host).get(front_proxy.ROUTING, "")).lower()
    return bool(wanted.get(front_proxy.ROUTING)) and before not in ("1", "t", "true")


def failure(result: t.Mapping[str, t.Any]) -> str:
    """Why a health check failed, from what its last attempt saw; when attempts run out, Ansible has no message."""
    message = re.sub(r"^.*Unknown error\.?$", "", str(result.get("msg") or "")).strip()
    unready = [str(server.get("message") or "") for server in result.get("servers") or [] if not server.get("ready")]
    reasons = [message, "; ".join(one for one in unready if one)]
    if result.get("running_differs"):
        reasons.append("the process lacks --" + ", --".join(result["running_differs"]))
    elif "running_differs" in result:
        reasons.append("no process runs")
    return next((one for one in reasons if one), "no message").rstrip(".")


def newest_log(files: t.Iterable[t.Mapping[str, t.Any]]) -> str:
    """The log of the newest container of kube-apiserver's static pod; the directory of a pod goes with it."""
    own = [file for file in files if "/kube-system_kube-apiserver-" in file["path"]]
    return str(max(own, key=lambda file: float(file["mtime"]))["path"]) if own else ""


def last_error(lines: t.Iterable[str]) -> str:
    """The last line in which a component says why it exits."""
    texts = [_CONTAINER_LOG.sub("", line) for line in lines]
    found = [text for text in texts if _FATAL.search(text)]
    if not found:
        return ""
    return found[-1] if len(found[-1]) <= 300 else found[-1][:297] + "..."


def change_to_roll_back(edit: t.Mapping[str, t.Any] | None, history: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    """The recorded change that a failed API server runs with, or would; empty where its definition was not changed.

    A run that was killed after it wrote the file has left its change to the next one, which wrote nothing itself.
    """
    edit = edit or {}
    if edit.get("change_id"):
        return str(edit["change_id"])
    if not edit.get("running_differs"):
        return ""
    changes = [
        str(change["id"])
        for change in history
        if change["component"] == "kube-apiserver"
        and change["state"] in ("in_place", "interrupted")
        and not change["undoes"]
    ]
    return changes[-1] if changes else ""
