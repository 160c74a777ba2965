# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roles' way to the decisions of plugin_utils/front_proxy.py."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native


def front_proxy_flags(host: t.Any, peers: t.Any, files: t.Any = None, routing: t.Any = "auto") -> dict[str, t.Any]:
    text = str(routing).lower()
    if text not in ("auto", "true", "false"):
        raise AnsibleFilterError(f"The routing of the aggregator is {routing!r}, and has to be auto, true or false.")
    try:
        return front_proxy.wanted_flags(native(host), native(peers), native(files or {}), text)
    except front_proxy.FrontProxyError as exc:
        raise AnsibleFilterError(str(exc)) from exc


def front_proxy_beside_kubeadm(wanted: t.Any, directory: t.Any) -> dict[str, t.Any]:
    return front_proxy.beside_kubeadm(native(wanted), native(directory))


def front_proxy_volumes(directories: t.Any) -> list[dict[str, str]]:
    return [{"name": front_proxy.volume_name(path), "host_path": path} for path in native(directories)]


def front_proxy_plan(
    hosts: t.Any,
    allowed_names: t.Any,
    threshold_days: int = 30,
    renew: bool = False,
    replace_shared: bool = False,
) -> dict[str, t.Any]:
    if certs.CRYPTOGRAPHY_IMPORT_ERROR:
        raise AnsibleFilterError("The Python library cryptography is missing on the controller; install it there.")
    settings = front_proxy.Settings(int(threshold_days), bool(renew), bool(replace_shared))
    try:
        return {"problem": "", **front_proxy.plan(native(hosts), native(allowed_names), settings)}
    except front_proxy.FrontProxyError as exc:
        # A finding about the cluster, which the role reports as one; an error in a template would be drowned.
        return {"problem": str(exc)}


def front_proxy_rotation(hosts: t.Any, target: t.Any = None) -> dict[str, t.Any]:
    if certs.CRYPTOGRAPHY_IMPORT_ERROR:
        raise AnsibleFilterError("The Python library cryptography is missing on the controller; install it there.")
    try:
        return {"problem": "", **front_proxy.rotation(native(hosts), native(target) or None)}
    except front_proxy.FrontProxyError as exc:
        return {"problem": str(exc)}


class FilterModule:
    """Decisions about front proxies."""

    def filters(self) -> dict[str, t.Any]:
        return {
            "front_proxy_flags": front_proxy_flags,
            "front_proxy_beside_kubeadm": front_proxy_beside_kubeadm,
            "front_proxy_plan": front_proxy_plan,
            "front_proxy_rotation": front_proxy_rotation,
            "front_proxy_volumes": front_proxy_volumes,
        }
