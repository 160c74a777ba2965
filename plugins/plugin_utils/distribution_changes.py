# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What would have to change in the configuration of a distribution that writes it itself, known before anything
changes: one sentence, and the lines to write. Pure functions."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import api_servers, front_proxy, rollout
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions import kubelet_effective

Facts = t.Mapping[str, t.Any]

#: The issuer of a certificate that a kubelet has made for itself.
_OWN_ISSUER = re.compile(r"-ca@\d+$")


def problem(
    cluster: Facts,
    hosts: t.Sequence[Facts],
    authentication: Facts,
    *,
    front_proxies: bool = True,
    kubelets: bool = True,
    certificates: bool = True,
    renew: bool = False,
) -> list[str]:
    """Why nothing may go on: a sentence, and after it the lines to write; empty where nothing has to change.

    ``authentication`` is what extension_authentication_info found. ``front_proxies`` and ``kubelets`` say which of the
    concerns the user has left to this collection, ``certificates`` that those of kubelets are verified, and ``renew``
    that certificates of front proxies are to be replaced.
    """
    key = str((cluster.get("distribution") or {}).get("key") or "")
    if not key:
        return []
    entry = distributions.TABLE[key]
    found = (
        _of_its_provider(entry)
        or _of_another_installer(entry, hosts)
        or (_certificates(entry) if renew else [])
        or (_front_proxies(key, hosts, authentication) if front_proxies else [])
        or (_kubelets(key, hosts) if kubelets else [])
        or (_serving_certificates(entry, hosts) if certificates else [])
    )
    return [f"Nothing was changed: {found[0]}", *found[1:]] if found else []


# --- reasons, each a clause that ends its sentence, and lines -------------------------------------------------------


def _of_its_provider(entry: distributions.Distribution) -> list[str]:
    if not entry.hosted:
        return []
    return [
        f"the control plane and the nodes of {entry.name} belong to its provider, so that playbooks/verify.yml and "
        "playbooks/doctor.yml examine it, and no playbook changes it.",
        *entry.switch_off_lines,
    ]


def _of_another_installer(entry: distributions.Distribution, hosts: t.Sequence[Facts]) -> list[str]:
    strange = _unlike(hosts)
    if not strange:
        return []
    return [
        f"this cluster is {entry.name}, and what starts the components of {', '.join(strange)} looks like another "
        "installer's, as where its data is in another directory; change its configuration by hand, by what "
        "playbooks/doctor.yml finds."
    ]


def _certificates(entry: distributions.Distribution) -> list[str]:
    return [
        f"{entry.name} issues the certificates of front proxies itself; have it issue new ones.",
        *entry.renew_front_proxy,
    ]


def _front_proxies(key: str, hosts: t.Sequence[Facts], authentication: Facts) -> list[str]:
    entry, why = distributions.TABLE[key], _front_proxy(hosts, authentication)
    if not why:
        return []
    return [
        f"{why}, and {entry.name} writes what concerns that itself; take out what contradicts it in its configuration, "
        "so that these values are in effect.",
        *distributions.flag_lines(key, "kube-apiserver", tuple(entry.front_proxy.items())),
    ]


def _kubelets(key: str, hosts: t.Sequence[Facts]) -> list[str]:
    wrong = [clause for clause in map(_open_kubelet, hosts) if clause]
    if not wrong:
        return []
    return [
        f"{'; '.join(wrong)}, and {distributions.TABLE[key].name} configures its kubelets itself; take out what "
        "contradicts it in its configuration, so that these values are in effect.",
        *distributions.flag_lines(key, "kubelet", tuple(distributions.KUBELET_ACCESS.items())),
    ]


def _serving_certificates(entry: distributions.Distribution, hosts: t.Sequence[Facts]) -> list[str]:
    unsigned = [str(host["name"]) for host in hosts if _signed_for_itself(host)]
    if not unsigned:
        return []
    return [
        f"the kubelets of {', '.join(unsigned)} have signed their serving certificates themselves, which nothing can "
        f"verify, and {entry.name} configures them itself; have the cluster's CA sign them, or set "
        "metrics_server_kubelet_insecure_skip_tls_verify to true to go on without.",
        *entry.renew_serving,
    ]


# --- what is seen ---------------------------------------------------------------------------------------------------


def _unlike(hosts: t.Sequence[Facts]) -> list[str]:
    """The hosts whose API server would be changed as another installer's."""
    return [
        str(host["name"])
        for host in hosts
        if _component(host, "kube-apiserver").get("running")
        and _component(host, "kube-apiserver").get("managed_by") in api_servers.EDITED
    ]


def _front_proxy(hosts: t.Sequence[Facts], authentication: Facts) -> str:
    """What is wrong with the front proxy, as a clause. Flags that cannot be seen are judged by what they publish."""
    for host in hosts:
        component = _component(host, "kube-apiserver")
        flags = component.get("flags") or {}
        # An API server inside another process, or with a file of its own for flags, shows none of them.
        if component.get("running") and front_proxy.CA_FILE in flags and not front_proxy.is_complete(flags):
            return f"the API server of {host['name']} lacks flags of the aggregation layer"
        if component.get("running") and front_proxy.shares_client_ca(flags):
            return f"front proxies and clients of the API server of {host['name']} have the same CA"
    if authentication and not authentication.get("front_proxy_ca"):
        return "its API servers publish no CA of front proxies, without which no aggregated API is served"
    if authentication.get("shared"):
        return f"front proxies and clients have the same CA ({'; '.join(authentication['shared'])})"
    return ""


def _open_kubelet(host: Facts) -> str:
    """What a kubelet does that no metrics server needs and nobody should want, as a clause; else nothing."""
    answers = host.get("kubelet_answers") or {}
    name = host["name"]
    if answers.get("status") == 200:
        return f"the kubelet of {name} answers unauthenticated clients"
    if (answers.get("read_only_port") or {}).get("open") is True:
        return f"the kubelet of {name} has an open port without TLS"
    config, kubelet = host.get("kubelet_config"), _component(host, "kubelet")
    # Inside another process it has settings that nobody sees.
    if not config or not kubelet.get("running") or kubelet.get("in_process"):
        return ""
    try:
        settings = kubelet_effective.effective_settings(config)
    except kubelet_effective.SettingsError:
        return ""
    if settings["authentication"]["webhook"]["enabled"] is False:
        return f"the kubelet of {name} does not accept tokens"
    return ""


def _signed_for_itself(host: Facts) -> bool:
    certificate = rollout.decoded((host.get("kubelet_answers") or {}).get("certificate"))
    return bool(certificate.get("self_signed") or _OWN_ISSUER.search(str(certificate.get("issuer") or "")))


def _component(host: Facts, name: str) -> Facts:
    return t.cast("Facts", (host.get("components") or {}).get(name) or {})
