# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which API servers get new flags, what keeps these, and why one did not come back. Decides, writes nothing."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy

#: k3s, RKE2 and minikube write the flags themselves, and always have those of the aggregation layer.
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


def inventory_lines(
    inventory: t.Mapping[str, t.Any],
    kept: t.Mapping[str, t.Any],
    routed: bool,
    mounts: t.Sequence[str],
) -> t.Dict[str, t.Any]:
    """The variables of kubespray that keep the flags, as far as the inventory does not have them.

    ``inventory`` holds kubespray's variables, ``kept`` the flags that kubeadm does not set by itself, ``mounts`` the
    directories that the static pod has to see.
    """
    lines: t.Dict[str, t.Any] = {}
    if routed and not inventory.get("kube_api_aggregator_routing"):
        lines["kube_api_aggregator_routing"] = True
    extra = {name: value for name, value in kept.items() if value is not None and name != front_proxy.ROUTING}
    said = inventory.get("kube_kubeadm_apiserver_extra_args") or {}
    if any(said.get(name) != value for name, value in extra.items()):
        lines["kube_kubeadm_apiserver_extra_args"] = {**said, **extra}
    if mounts:
        volumes = [
            {"name": front_proxy.volume_name(path), "hostPath": path, "mountPath": path, "readOnly": True}
            for path in mounts
        ]
        lines["apiserver_extra_volumes"] = [*(inventory.get("apiserver_extra_volumes") or []), *volumes]
    return lines


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
