# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an extension API server consists of: its workloads, pods, logs, events, policies and roles."""

from __future__ import annotations

import typing as t
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import metrics_objects as views
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.cluster_state import dig
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.parts import Parts

WORKLOADS = (("Deployment", "deployments"), ("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets"))
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_READER = "system:aggregated-metrics-reader"
#: Pods whose logs are read: the first ones tell enough.
_MAX_LOGS = 12
_LOG_TAIL = 400
_LOG_BYTES = 1 << 18
_MAX_PARALLEL = 12


class ServerObjects:
    """Reads what is in the namespace of the server."""

    def __init__(self, parts: Parts, namespace: str, log_lines: int) -> None:
        self.parts = parts
        self.namespace = namespace
        self.log_lines = log_lines

    def workloads(self, name: str, selector: t.Mapping[str, t.Any]) -> t.List[t.Dict[str, t.Any]]:
        found = []
        for kind, resource in WORKLOADS:
            for item in self.parts.list("/apis/apps/v1/namespaces/%s/%s" % (quote(self.namespace, safe=""), resource)):
                if views.is_the_servers(item, name, selector):
                    found.append(views.workload_view(item, kind))
        return self.parts.cut(found, "workloads")

    def pods(
        self, selector: t.Mapping[str, t.Any], workloads: t.Sequence[t.Mapping[str, t.Any]]
    ) -> t.List[t.Dict[str, t.Any]]:
        found = []
        for item in self.parts.list("/api/v1/namespaces/%s/pods" % quote(self.namespace, safe="")):
            labels = dig(item, "metadata", "labels") or {}
            selected = bool(selector) and all(labels.get(key) == value for key, value in selector.items())
            owner = next(
                (
                    entry["name"]
                    for entry in workloads
                    if entry["match_labels"] and views.matches({"matchLabels": entry["match_labels"]}, labels)
                ),
                "",
            )
            if selected or owner:
                found.append(views.pod_view(item, selected=selected, workload=owner))
        return self.parts.cut(sorted(found, key=lambda pod: str(pod["name"])), "pods of the server")

    def logs(self, pods: t.Sequence[t.Dict[str, t.Any]]) -> None:
        """Add the logs to pods. One that cannot be read is said once, with the first reason."""
        wanted = []
        for pod in pods[:_MAX_LOGS]:
            for container in pod["containers"]:
                # A container that never started has no log.
                if container["state"]["kind"] in ("running", "terminated") or container["restarts"]:
                    wanted.append((pod, container, False))
                if container["restarts"]:
                    wanted.append((pod, container, True))
        if not wanted:
            return
        with ThreadPoolExecutor(max_workers=_MAX_PARALLEL) as pool:
            list(pool.map(lambda entry: self._read_log(*entry), wanted))
        if len(pods) > _MAX_LOGS:
            self.parts.truncated.append("the logs of %d of %d pods were not read" % (len(pods) - _MAX_LOGS, len(pods)))

    def _read_log(self, pod: t.Dict[str, t.Any], container: t.Mapping[str, t.Any], previous: bool) -> None:
        path = "/api/v1/namespaces/%s/pods/%s/log" % (quote(pod["namespace"], safe=""), quote(pod["name"], safe=""))
        query: t.Dict[str, t.Any] = {
            "container": container["name"],
            "tailLines": _LOG_TAIL,
            "limitBytes": _LOG_BYTES,
        }
        if previous:
            query["previous"] = "true"
        try:
            answer = self.parts.api.request("GET", path, query=query)
            if answer.status != 200:
                raise kube.http_error(answer.status, answer.body, self.parts.api.server, path, None)
        except kube.KubeError as exc:
            # What ended long ago may have left no log.
            if not previous:
                self.parts.errors.setdefault("logs", exc.message)
            return
        lines = views.distinct_lines(answer.body.decode("utf-8", "replace").splitlines(), self.log_lines)
        if len([entry for entry in pod["containers"] if not entry["init"]]) > 1:
            lines = ["[%s] %s" % (container["name"], line) for line in lines]
        pod["previous_log" if previous else "log"] += lines

    def events(self, names: t.Collection[str]) -> t.List[t.Dict[str, t.Any]]:
        items = self.parts.list(
            "/api/v1/namespaces/%s/events" % quote(self.namespace, safe=""), {"fieldSelector": "type=Warning"}
        )
        found = [
            views.event_view(item)
            for item in items
            # Replica sets and pods bear the name of their Deployment and more.
            if any(
                str(dig(item, "involvedObject", "name")) == name
                or str(dig(item, "involvedObject", "name")).startswith(name + "-")
                for name in names
            )
        ]
        return self.parts.cut(sorted(found, key=lambda event: str(event["time"]), reverse=True), "events")[:50]

    def network_policies(self, pods: t.Sequence[t.Mapping[str, t.Any]]) -> t.List[t.Dict[str, t.Any]]:
        path = "/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies" % quote(self.namespace, safe="")
        return self.parts.cut(
            [
                views.policy_view(item)
                for item in self.parts.list(path)
                if any(views.matches(dig(item, "spec", "podSelector") or {}, pod["labels"]) for pod in pods)
            ],
            "network policies",
        )

    def roles(self, account: str) -> t.Dict[str, t.Any]:
        bindings = self.parts.list(_RBAC + "/clusterrolebindings")
        local = self.parts.list(_RBAC + "/namespaces/kube-system/rolebindings")
        reader = self.parts.get(_RBAC + "/clusterroles/" + _READER)
        view = self.parts.get(_RBAC + "/clusterroles/view")
        bound = views.roles_of(bindings, self.namespace, account)
        rules = []
        for kind, name in bound:
            role = self.parts.get(_RBAC + "/clusterroles/" + quote(name, safe="")) if kind == "ClusterRole" else None
            # What every user may is no matter of the server.
            if not name.startswith("system:") or name.startswith("system:metrics-server"):
                rules += [dict(rule, role=name) for rule in (role or {}).get("rules") or ()]
        labels = dig(reader, "metadata", "labels") or {}
        return {
            "aggregated_reader": reader is not None,
            "view_reads_metrics": any(
                cluster_state.METRICS_GROUP in (rule.get("apiGroups") or ()) for rule in (view or {}).get("rules") or ()
            ),
            "aggregated_to": sorted(
                key.rpartition("-to-")[2]
                for key, value in labels.items()
                if key.startswith("rbac.authorization.k8s.io/aggregate-to-") and value == "true"
            ),
            "auth_delegator": ("ClusterRole", "system:auth-delegator") in bound,
            "auth_reader": ("Role", "extension-apiserver-authentication-reader")
            in views.roles_of(local, self.namespace, account),
            "bound": ["%s/%s" % entry for entry in bound],
            "server_role_rules": rules,
        }
