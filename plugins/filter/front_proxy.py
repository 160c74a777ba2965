# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roles' way to the decisions of plugin_utils/front_proxy.py, and to what front_proxy_report.py says of them."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy, front_proxy_report
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import with_native_arguments


def front_proxy_files(host: t.Any, peers: t.Any, files: t.Any = None) -> dict[str, str]:
    try:
        flags = front_proxy.file_flags(host, list(peers), files or {})
    except front_proxy.FrontProxyError as exc:
        raise AnsibleFilterError(str(exc)) from exc
    names = {"ca_file": front_proxy.CA_FILE, "cert_file": front_proxy.CERT_FILE, "key_file": front_proxy.KEY_FILE}
    return {name: flags[flag] for name, flag in names.items()}


def front_proxy_own_files(host: t.Any, infos: t.Any) -> dict[str, str]:
    try:
        return front_proxy.own_files(host, infos[host["name"]], infos)
    except front_proxy.FrontProxyError as exc:
        raise AnsibleFilterError(str(exc)) from exc


def front_proxy_names(hosts: t.Any) -> dict[str, list[str]]:
    return {str(host["name"]): front_proxy.names_for(host, list(hosts)) for host in hosts}


def front_proxy_publishers(infos: t.Any, hosts: t.Any) -> list[str]:
    return front_proxy.publishers(infos, list(hosts))


def front_proxy_admits_nobody(host: t.Any) -> bool:
    return front_proxy.admits_nobody(front_proxy.running_flags(host))


def front_proxy_flags(
    host: t.Any, peers: t.Any, files: t.Any = None, routing: t.Any = "auto", cluster_ip_answers: bool | None = None
) -> dict[str, t.Any]:
    text = str(routing).lower()
    if text not in ("auto", "true", "false"):
        raise AnsibleFilterError(f"The routing of the aggregator is {routing!r}, and has to be auto, true or false.")
    try:
        known = {**host, "cluster_ip_answers": cluster_ip_answers}
        return front_proxy.wanted_flags(known, list(peers), files or {}, text)
    except front_proxy.FrontProxyError as exc:
        raise AnsibleFilterError(str(exc)) from exc


def front_proxy_beside_kubeadm(wanted: t.Any, directory: t.Any) -> dict[str, t.Any]:
    return front_proxy.beside_kubeadm(wanted, str(directory))


def front_proxy_volumes(directories: t.Any) -> list[dict[str, str]]:
    return [{"name": front_proxy.volume_name(path), "host_path": path} for path in directories]


def front_proxy_shared(infos: t.Any, published: t.Any = (), replace_shared: bool = False) -> str:
    return front_proxy.shared_problem(infos, list(published), bool(replace_shared))


def front_proxy_plan(infos: t.Any, names: t.Any, threshold_days: int = 30, renew: bool = False) -> dict[str, t.Any]:
    if certs.CRYPTOGRAPHY_IMPORT_ERROR:
        raise AnsibleFilterError("The Python library cryptography is missing on the controller; install it there.")
    if not infos:
        return {"problem": "", "issue": {}, "update_ca": [], "create_ca": False, "names_in_use": []}
    try:
        settings = front_proxy.Settings(int(threshold_days), bool(renew))
        return {"problem": "", **front_proxy.plan(infos, names, settings)}
    except front_proxy.FrontProxyError as exc:
        # A finding about the cluster, which the role reports as one; an error in a template would be drowned.
        return {"problem": str(exc), "issue": {}}


def front_proxy_left_over(infos: t.Any, names: t.Any) -> str:
    if certs.CRYPTOGRAPHY_IMPORT_ERROR:
        raise AnsibleFilterError("The Python library cryptography is missing on the controller; install it there.")
    return front_proxy.left_over(infos, names)


def front_proxy_rotation(infos: t.Any, target: t.Any = None) -> dict[str, t.Any]:
    if certs.CRYPTOGRAPHY_IMPORT_ERROR:
        raise AnsibleFilterError("The Python library cryptography is missing on the controller; install it there.")
    try:
        return {"problem": "", **front_proxy.rotation(infos, target or None)}
    except front_proxy.FrontProxyError as exc:
        return {"problem": str(exc)}


class FilterModule:
    """Decisions about front proxies."""

    def filters(self) -> dict[str, t.Any]:
        filters = {
            "front_proxy_absent": front_proxy_report.absent,
            "front_proxy_admits_nobody": front_proxy_admits_nobody,
            "front_proxy_announced": front_proxy_report.announced,
            "front_proxy_announced_rotation": front_proxy_report.announced_rotation,
            "front_proxy_beside_kubeadm": front_proxy_beside_kubeadm,
            "front_proxy_files": front_proxy_files,
            "front_proxy_flags": front_proxy_flags,
            "front_proxy_left_over": front_proxy_left_over,
            "front_proxy_names": front_proxy_names,
            "front_proxy_own_files": front_proxy_own_files,
            "front_proxy_plan": front_proxy_plan,
            "front_proxy_publishers": front_proxy_publishers,
            "front_proxy_rotation": front_proxy_rotation,
            "front_proxy_shared": front_proxy_shared,
            "front_proxy_volumes": front_proxy_volumes,
        }
        return {name: with_native_arguments(function) for name, function in filters.items()}
