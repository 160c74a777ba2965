# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may read what: the users of the metrics API, Prometheus, and the metrics server at kubelets. And which optional
objects there are: theirs, and those of the programs beside the server.

Pure functions over the variables of the role metrics_server.
"""

from __future__ import annotations

import re
import typing as t

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import metrics_api

RBAC = "rbac.authorization.k8s.io/v1"
MONITORING = "monitoring.coreos.com/v1"
READERS_ROLE = "read-metrics"
KINDS = ("User", "Group", "ServiceAccount")
MODES = ("none", "annotations", "service_monitor")
#: The first release whose kubelets have /metrics/resource.
FIRST_WITH_RESOURCE_METRICS = (1, 18)
SUMMARY_FLAG = "--kubelet-summary-api"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_EXAMPLE = "{kind: Group, name: developers}"

Values = t.Mapping[str, t.Any]
Object = dict[str, t.Any]


def mode(values: Values) -> str:
    return str(values["metrics_server_prometheus"]).strip()


def has_rules(values: Values) -> bool:
    return boolean(values["metrics_server_prometheus_rule"], strict=False)


def problems(values: Values) -> list[str]:
    """Sentences for variables that cannot be meant."""
    found = reader_problems(values["metrics_server_readers"])
    if mode(values) not in MODES:
        found.append(f"metrics_server_prometheus is {mode(values)}; set it to one of {', '.join(MODES)}.")
    account = str(values["metrics_server_prometheus_service_account"] or "")
    if account:
        parts = account.split("/")
        if len(parts) != 2 or not all(map(_LABEL.fullmatch, parts)):
            found.append(
                f"metrics_server_prometheus_service_account is {account}; set it to NAMESPACE/NAME, such as "
                "monitoring/prometheus."
            )
        if mode(values) != "annotations":
            found.append(
                "metrics_server_prometheus_service_account is only used with metrics_server_prometheus=annotations: a "
                "ServiceMonitor brings an account of its own; unset it."
            )
    labels = values["metrics_server_prometheus_labels"] or {}
    if not isinstance(labels, t.Mapping) or not all(isinstance(value, str) for value in labels.values()):
        found.append(
            "metrics_server_prometheus_labels has to be a mapping of labels to text, such as {release: prometheus}."
        )
    elif labels and mode(values) != "service_monitor" and not has_rules(values):
        found.append(
            "metrics_server_prometheus_labels are for the ServiceMonitor and the PrometheusRule, and neither is asked "
            "for; set metrics_server_prometheus to service_monitor or metrics_server_prometheus_rule to true."
        )
    return found


def reader_problems(readers: t.Any) -> list[str]:
    if not isinstance(readers, list):
        return [f"metrics_server_readers has to be a list, such as [{_EXAMPLE}]."]
    found = []
    seen = []
    for number, reader in enumerate(readers, 1):
        where = f"Entry {number} of metrics_server_readers"
        if not isinstance(reader, t.Mapping):
            found.append(f"{where} is {reader}; it has to have kind and name, such as {_EXAMPLE}.")
            continue
        kind, name, namespace = (str(reader.get(key) or "") for key in ("kind", "name", "namespace"))
        unknown = sorted(set(map(str, reader)) - {"kind", "name", "namespace"})
        if kind not in KINDS:
            found.append(f"{where} is of the kind {kind or '(none)'}; set it to one of {', '.join(KINDS)}.")
        elif not name:
            found.append(f"{where} has no name; give one, such as {_EXAMPLE}.")
        elif kind == "ServiceAccount" and not namespace:
            found.append(f"{where} is the service account {name}, which needs its namespace.")
        elif kind != "ServiceAccount" and namespace:
            found.append(f"{where} is the {kind.lower()} {name}, which has no namespace; remove it.")
        elif kind == "User" and name.startswith("system:serviceaccount:"):
            found.append(f"{where} is a service account; write it with kind ServiceAccount, name and namespace.")
        elif unknown:
            found.append(f"{where} has {unknown[0]}, which nothing reads; it may have kind, name and namespace.")
        elif (kind, name, namespace) in seen:
            found.append(f"{where} is {kind} {name} once more; remove it.")
        seen.append((kind, name, namespace))
    return found


def subjects(readers: t.Sequence[t.Mapping[str, t.Any]]) -> list[Object]:
    """The readers as RBAC has them."""
    return [
        {"kind": one["kind"], "name": str(one["name"]), "namespace": str(one["namespace"])}
        if one["kind"] == "ServiceAccount"
        else {"kind": one["kind"], "name": str(one["name"]), "apiGroup": RBAC.partition("/")[0]}
        for one in readers
    ]


def scrapers(values: Values, name: str) -> list[Object]:
    """Who may read the server's own metrics, as RBAC has them."""
    if mode(values) == "service_monitor":
        namespace = str(values["metrics_server_namespace"])
        return [{"kind": "ServiceAccount", "name": f"{name}-scraper", "namespace": namespace}]
    account = str(values["metrics_server_prometheus_service_account"] or "")
    if mode(values) != "annotations" or not account:
        return []
    namespace, _unused, account = account.partition("/")
    return [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]


def optional_objects(values: Values, name: str) -> list[tuple[Object, str]]:
    """All objects that some variable asks for, each with what asks for it now; empty for what nothing asks for."""
    namespace = str(values["metrics_server_namespace"])
    present = values["metrics_server_state"] == "present"
    readers = "metrics_server_readers" if values["metrics_server_readers"] else ""
    monitor = "metrics_server_prometheus" if mode(values) == "service_monitor" else ""
    right = "metrics_server_prometheus" if scrapers(values, name) else ""
    rule = "metrics_server_prometheus_rule" if has_rules(values) else ""
    wanted = [
        *companion_objects(values, f"{name}-csr-approver", "metrics_server_csr_approver", namespaced=False),
        *companion_objects(values, f"{name}-nanny", "metrics_server_nanny", namespaced=True),
        (MONITORING, "ServiceMonitor", name, namespace, monitor),
        (MONITORING, "PrometheusRule", name, namespace, rule),
        (RBAC, "ClusterRoleBinding", READERS_ROLE, None, readers),
        (RBAC, "ClusterRole", READERS_ROLE, None, readers),
        (RBAC, "ClusterRoleBinding", f"{name}-scraper", None, right),
        (RBAC, "ClusterRole", f"{name}-scraper", None, right),
        ("v1", "Secret", f"{name}-scraper-token", namespace, monitor),
        ("v1", "ServiceAccount", f"{name}-scraper", namespace, monitor),
    ]
    return [
        ({"api_version": version, "kind": kind, "name": called, "namespace": within}, variable if present else "")
        for version, kind, called, within, variable in wanted
    ]


def companion_objects(
    values: Values, name: str, variable: str, *, namespaced: bool
) -> list[tuple[str, str, str, str | None, str]]:
    """The objects of a program beside the server: first what acts, then what allows it to. `namespaced` rights too."""
    namespace = str(values["metrics_server_namespace"])
    asked = variable if boolean(values[variable], strict=False) else ""
    cluster_wide = [(RBAC, kind, f"system:{name}", None, asked) for kind in ("ClusterRoleBinding", "ClusterRole")]
    within = [(RBAC, kind, name, namespace, asked) for kind in ("RoleBinding", "Role")] if namespaced else []
    return [
        ("apps/v1", "Deployment", name, namespace, asked),
        *cluster_wide,
        *within,
        ("v1", "ServiceAccount", name, namespace, asked),
    ]


def _asked(values: Values, name: str, found: t.Iterable[t.Mapping[str, t.Any]]) -> list[tuple[t.Any, str]]:
    wanted = {(one["kind"], one["name"]): variable for one, variable in optional_objects(values, name)}
    return [(view, wanted.get((view["kind"], view["name"]), "")) for view in found]


def obstacles(values: Values, name: str, found: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """Sentences for what the cluster has or lacks, from api_objects_info."""
    sentences = []
    for view, variable in _asked(values, name, found):
        if not variable:
            continue
        if not view["served"]:
            other = "set metrics_server_prometheus to annotations" if view["kind"] == "ServiceMonitor" else "unset it"
            sentences.append(
                f"{variable} asks for a {view['kind']}, but the cluster has no such kind ({view['api_version']}); "
                f"install the Prometheus Operator, or {other}."
            )
        elif view["exists"] and not view["managed"]:
            sentences.append(
                f"{variable} asks for the {view['kind']} {view['name']}, which is there already, was made by "
                f"{view['owner']}, and was left alone; remove it, or unset {variable}."
            )
    return sentences


def unwanted(values: Values, name: str, found: t.Iterable[t.Mapping[str, t.Any]]) -> list[Object]:
    """What an earlier run made and nothing asks for any more."""
    return [
        {key: view[key] for key in ("api_version", "kind", "name", "namespace")}
        for view, variable in _asked(values, name, found)
        if not variable and view["exists"] and view["managed"]
    ]


def reads_summaries(values: Values, nodes: t.Mapping[str, t.Mapping[str, t.Any]]) -> bool:
    """Whether the server asks some kubelet for the Summary API, and needs the right to."""
    asked = boolean(values["metrics_server_kubelet_summary_api"], strict=False)
    arguments = [str(entry) for entry in values["metrics_server_extra_args"] or ()]
    versions = (metrics_api.minor_version(str(node.get("kubelet_version") or "")) for node in nodes.values())
    return (
        asked
        or any(entry in (SUMMARY_FLAG, f"{SUMMARY_FLAG}=true") for entry in arguments)
        or any(version and version < FIRST_WITH_RESOURCE_METRICS for version in versions)
    )


def describe(values: Values, name: str, nodes: t.Mapping[str, t.Mapping[str, t.Any]]) -> Object:
    """What the manifests' template cannot know by itself."""
    return {
        "readers": subjects(values["metrics_server_readers"]),
        "scrapers": scrapers(values, name),
        "summaries": reads_summaries(values, nodes),
    }
