# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kubespray's variables mean to this collection. Pure functions over an inventory's values."""

from __future__ import annotations

import re
import typing as t
from decimal import Decimal

from ansible.module_utils.parsing.convert_bool import boolean

#: The same setting for kubespray's metrics server and for the bundled one, by the same name.
SHARED = (
    "metrics_server_container_port",
    "metrics_server_extra_affinity",
    "metrics_server_extra_tolerations",
    "metrics_server_host_network",
    "metrics_server_kubelet_preferred_address_types",
    "metrics_server_limits_cpu",
    "metrics_server_limits_memory",
    "metrics_server_metric_resolution",
    "metrics_server_nodeselector",
    "metrics_server_replicas",
    "metrics_server_requests_cpu",
    "metrics_server_requests_memory",
)
_UPSTREAM_IMAGE = "upstream's image; the bundled server's is built, or named by metrics_server_image_name"
_RESIZER = "kubespray's addon-resizer up to 2.18; the nanny's sizes are metrics_server_nanny_*"
#: What only means kubespray's own metrics server, of all releases since 2.8, and why it is left alone.
LEFT_ALONE = {
    "metrics_server_cpu": _RESIZER,
    "metrics_server_digest_checksum": _UPSTREAM_IMAGE,
    "metrics_server_enabled": "whether kubespray deploys a metrics server of its own; the switch here is "
    "metrics_server_deploy",
    "metrics_server_image_repo": _UPSTREAM_IMAGE,
    "metrics_server_image_tag": _UPSTREAM_IMAGE,
    "metrics_server_kubelet_insecure_tls": "kubelets are verified here, unless "
    "metrics_server_kubelet_insecure_skip_tls_verify is true",
    # Registered by kubespray's tasks, which a play behind them in the same run still sees.
    "metrics_server_manifests": "a result of kubespray's own tasks",
    "metrics_server_memory": _RESIZER,
    "metrics_server_memory_per_node": _RESIZER,
    "metrics_server_min_cluster_size": _RESIZER,
    "metrics_server_resizer": _RESIZER,
    "metrics_server_templates": "a list of kubespray's own tasks",
    "metrics_server_version": _UPSTREAM_IMAGE,
}
#: In every inventory or in none of a user's making: not worth a line at the end of a run.
_UNSAID = ("metrics_server_enabled", "metrics_server_manifests", "metrics_server_templates")
#: What the bundled server takes without any node; upstream's is smaller there, and kubespray 2.15 limited it to 55Mi.
LEAST_MEMORY = "80Mi"

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(|m|k|[MGTPE]|[KMGTPE]i)")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def own(names: t.Iterable[str]) -> list[str]:
    """The names of variables that are not kubespray's alone, whose values may refer to what only kubespray has."""
    return [name for name in names if name not in LEFT_ALONE]


def translate(values: t.Mapping[str, t.Any], given: t.Iterable[str], enabled: t.Any = False) -> dict[str, t.Any]:
    """What the bundled server takes over from kubespray's variables, and what not.

    ``values`` are the variables of the role metrics_server by name, ``given`` the names that the inventory sets,
    ``enabled`` is what it says of kubespray's own server.
    """
    names = set(given)
    used = sorted(names.intersection(SHARED))
    left_alone = {name: LEFT_ALONE[name] for name in sorted(names.intersection(LEFT_ALONE))}
    settings: dict[str, t.Any] = {}
    raised = {}
    limit = "metrics_server_limits_memory"
    if limit in used and _too_little(values.get(limit)):
        settings[limit] = LEAST_MEMORY
        raised[limit] = f"{values[limit]} would not start the bundled server; it gets {LEAST_MEMORY}"
        used.remove(limit)
    return {
        "problem": _deployed_twice() if boolean(enabled, strict=False) else "",
        "settings": settings,
        "used": used,
        "changed": raised,
        "left_alone": left_alone,
    }


def _deployed_twice() -> str:
    return (
        "metrics_server_enabled is true, so that kubespray deploys a metrics server of its own, now and on every later "
        "run of cluster.yml and upgrade-cluster.yml; set metrics_server_enabled to false in "
        "group_vars/k8s_cluster/addons.yml (this metrics server needs no switch), or metrics_server_deploy to false "
        "to keep kubespray's."
    )


def _too_little(memory: t.Any) -> bool:
    found, least = _bytes(memory), _bytes(LEAST_MEMORY)
    return found is not None and least is not None and found < least


def _bytes(quantity: t.Any) -> Decimal | None:
    """A quantity of memory, or None for what is none; the API server says what is wrong with that."""
    match = _QUANTITY.fullmatch(str(quantity).strip())
    if not match:
        return None
    number, unit = Decimal(match.group(1)), match.group(2)
    if unit == "m":
        return number / 1000
    return number * (1024 if unit.endswith("i") else 1000) ** _POWERS["k" if unit == "Ki" else unit[:1]]


def notes(translated: t.Mapping[str, t.Any], values: t.Mapping[str, t.Any], flavour: str) -> list[str]:
    """Lines for the end of a run: what the inventory says of kubespray's metrics server, and what became of it."""
    lines = []
    if translated["used"] and flavour == "kubespray":
        said = ", ".join(f"{name} ({_short(values[name])})" for name in translated["used"])
        lines.append(f"This metrics server has the settings of kubespray's: {said}.")
    lines += [f"{name} was changed: {reason}." for name, reason in translated["changed"].items()]
    reasons: dict[str, list[str]] = {}
    for name, reason in translated["left_alone"].items():
        if name not in _UNSAID:
            reasons.setdefault(reason, []).append(name)
    lines += [f"Left alone: {', '.join(names)} ({reason})." for reason, names in reasons.items()]
    return lines


def _short(value: t.Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
