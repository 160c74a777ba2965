# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read access to an evidence document. Parts that are missing are empty; nothing here raises because of them."""

from __future__ import annotations

import datetime
import functools
import re
import typing as t
from collections import abc

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.subject import RESOURCE_METRICS, Subject

SCHEMA = "kubemetrics.aggregation/evidence"
SCHEMA_VERSION = 1

Mapping = t.Mapping[str, t.Any]


class EvidenceError(Exception):
    """One sentence: why a document is no evidence that can be diagnosed."""


def get(value: t.Any, *path: str | int, default: t.Any = None) -> t.Any:
    """What is at that path; the default where a part of it is missing or null."""
    for key in path:
        # Asked a million times for 500 nodes: the class of collections answers ten times faster than that of typing.
        if isinstance(value, abc.Mapping):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and -len(value) <= key < len(value):
            value = value[key]
        else:
            return default
    return default if value is None else value


def instant(text: t.Any) -> datetime.datetime | None:
    """A time stamp as the API and the probes write it; None for what is none."""
    try:
        return datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None


#: Seconds after it became ready in which a metrics server may not have a sample of every pod: kubelets measure every 10
#: to 20 seconds, and two measurements of a container make its first sample.
STARTING = 60
#: How long a pod may take to get its first sample, in seconds.
FIRST_SAMPLE = 90


#: Why an autoscaler does not scale, by the group of the API that it reads.
AUTOSCALING = {
    "metrics.k8s.io": ("FailedGetResourceMetric", "FailedGetContainerResourceMetric"),
    "custom.metrics.k8s.io": ("FailedGetPodsMetric", "FailedGetObjectMetric"),
    "external.metrics.k8s.io": ("FailedGetExternalMetric",),
}


class Host:
    """One host of the evidence."""

    def __init__(self, name: str, document: Mapping) -> None:
        self.name = name
        self.document = document

    def get(self, *path: str | int, default: t.Any = None) -> t.Any:
        return get(self.document, *path, default=default)

    @property
    def node(self) -> str:
        return str(self.get("node", default="") or self.name)

    @property
    def control_plane(self) -> bool:
        return bool(self.get("control_plane"))

    @property
    def reachable(self) -> bool:
        return bool(self.get("reachable"))

    @property
    def api_server_url(self) -> str:
        return str(self.get("host", "api_server_url", default=""))

    def component(self, name: str) -> Mapping:
        return t.cast(Mapping, self.get("host", "components", name, default={}))

    def running(self, name: str) -> bool:
        return bool(self.component(name).get("running"))

    def flags(self, component: str) -> Mapping:
        """The flags of the running process, empty where none runs or it cannot be seen (as in k3s)."""
        return t.cast(Mapping, self.component(component).get("flags") or {})

    def aggregators(self) -> dict[str, Mapping]:
        """aggregator_info by the name of the APIService."""
        return dict(self.get("aggregator", default={}))

    @property
    def front_proxy(self) -> Mapping:
        """The front-proxy client certificate that the API server here presents, as aggregator_info shows it."""
        return t.cast(Mapping, next((get(entry, "client", default={}) for entry in self.aggregators().values()), {}))

    @property
    def front_proxy_cas(self) -> list[Mapping]:
        """The certificates in the requestheader CA file of the API server here."""
        found = next((get(entry, "requestheader_ca", default=[]) for entry in self.aggregators().values()), [])
        return [certificate for entry in found if (certificate := get(entry, "certificate", default={}))]

    def targets(self, kind: str = "") -> list[Mapping]:
        """What aggregator_info got from the Service and its endpoints, each once."""
        found: dict[tuple[t.Any, ...], Mapping] = {}
        for result in self.aggregators().values():
            for target in get(result, "targets", default=[]):
                if not kind or target.get("kind") == kind:
                    found.setdefault((target.get("kind"), target.get("host"), target.get("port")), target)
        return list(found.values())

    @property
    def routed(self) -> bool:
        """Whether its API server goes to endpoints by itself, instead of to the ClusterIP."""
        value = self.flags("kube-apiserver").get("enable-aggregator-routing", "")
        return str(value).lower() in ("1", "t", "true")

    def used_targets(self) -> list[Mapping]:
        """Those of the targets that its API server connects to."""
        return self.targets("endpoint" if self.routed else "cluster_ip")

    def pod_targets(self, kind: str = "") -> list[Mapping]:
        """What a pod of this host reaches, without what was not tried."""
        return [
            target
            for target in self.get("pod", "targets", default=[])
            if (not kind or target.get("kind") == kind) and get(target, "connect", "error", "kind") != "not_tried"
        ]


class Evidence:
    """A whole evidence document."""

    def __init__(self, document: Mapping) -> None:
        if document.get("schema") != SCHEMA:
            raise EvidenceError(f"This is no evidence: its schema is not {SCHEMA}; give a file that doctor has saved.")
        if document.get("schema_version") != SCHEMA_VERSION:
            raise EvidenceError(
                f"The evidence has version {document.get('schema_version')!r}, and this collection reads version "
                f"{SCHEMA_VERSION}: use the version of the collection that saved it."
            )
        self.document = document

    def get(self, *path: str | int, default: t.Any = None) -> t.Any:
        return get(self.document, *path, default=default)

    def api(self, *path: str | int, default: t.Any = None) -> t.Any:
        """A part of what the API said."""
        return self.get("api", *path, default=default)

    @functools.cached_property
    def subject(self) -> Subject:
        """What the diagnosis is about. Evidence that does not say so is of the resource metrics API."""
        name = str(self.get("collected", "apiservice", default=RESOURCE_METRICS))
        # Another version of the group may have a Service where the one in question is not registered.
        for entry in sorted(self.apiservices, key=lambda entry: entry.get("name") != name):
            if entry.get("service"):
                return Subject(name, f"{get(entry, 'service', 'namespace')}/{get(entry, 'service', 'name')}")
        return Subject(name)

    @property
    def api_answered(self) -> bool:
        return bool(self.api()) and not self.api("message")

    def age(self, moment: t.Any) -> float | None:
        """Seconds from a time stamp of the API until the evidence was collected; None where either is not known."""
        then, now = instant(moment), instant(self.get("collected", "at"))
        return (now - then).total_seconds() if then and now else None

    @functools.cached_property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(Host(name, entry) for name, entry in sorted(self.get("hosts", default={}).items()))

    @property
    def control_planes(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.control_plane)

    # Each is looked up for every node by some rule; of several with the same key, the first one counts.

    @functools.cached_property
    def _by_name(self) -> dict[str, Host]:
        return {host.name: host for host in reversed(self.hosts)}

    @functools.cached_property
    def _by_node(self) -> dict[str, Host]:
        return {host.node: host for host in reversed(self.hosts)}

    @functools.cached_property
    def _by_server(self) -> dict[str, Host]:
        return {host.api_server_url: host for host in reversed(self.hosts)}

    @functools.cached_property
    def _nodes_by_name(self) -> dict[str, Mapping]:
        return {str(node.get("name")): node for node in reversed(self.nodes)}

    def host(self, name: str) -> Host | None:
        return self._by_name.get(name)

    def host_of_node(self, node: str) -> str:
        """The inventory's name of a node, or the node's name where the inventory does not have it."""
        return self._by_node[node].name if node in self._by_node else node

    def host_of_server(self, url: str) -> str:
        """The inventory's name of the host of an API server, or its URL."""
        return self._by_server[url].name if url in self._by_server else url

    # --- what the API says ------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Mapping]:
        return list(self.api("state", "nodes", default=[]))

    def node(self, name: str) -> Mapping:
        return self._nodes_by_name.get(name, {})

    @property
    def apiservices(self) -> list[Mapping]:
        return list(self.api("apiservices", "apiservices", default=[]))

    @property
    def requests(self) -> list[Mapping]:
        """What each API server answers for each APIService (apiservice_info's servers), with RV(host) beside it."""
        return [
            {**entry, "host": self.host_of_server(str(entry.get("server")))}
            for entry in self.api("apiservices", "servers", default=[])
        ]

    @functools.cached_property
    def refused_lists(self) -> dict[str, str]:
        """What API servers answer to requests for metrics, by host, where it is an error of the metrics server itself.

        Discovery is open to every authenticated client, and so may work where metrics do not.
        """
        return {
            self.host_of_server(str(entry.get("server"))): str(entry["message"])
            for entry in self.api("metrics", "servers", default=[])
            if not (entry.get("nodes") or entry.get("pods"))
            and re.search(r"answered (40[0-35-9]|500) to", entry.get("message") or "")
            and not self._denied_to_the_user(str(entry["message"]))
        }

    def _denied_to_the_user(self, message: str) -> bool:
        """Whether an API server itself refuses metrics to the user of the kubeconfig, for want of rights.

        A server of the API that refuses another user, or one who has the rights, is broken: it takes the API server for
        that user, or does not learn the user's groups.
        """
        named = re.search(r'answered 403 to .*\bUser "([^"]*)"', message)
        user = self.api("user", "name")
        if not named or (user and named.group(1) != user):
            return False
        return any(
            right.get("group") == self.subject.group and right.get("verb") == "list"
            for right in self.api("denied", default=[])
        )

    def answers_requests(self, host: str) -> bool:
        """Whether the API server of a host was ready and answered every request when it was asked through the API."""
        asked = [entry for entry in self.requests if entry["host"] == host]
        return bool(asked) and all(
            entry.get("ready") and None not in (entry.get("statuses") or [None]) for entry in asked
        )

    @functools.cached_property
    def failing_servers(self) -> tuple[str, ...]:
        """Hosts (or URLs) of API servers that do not serve the API by themselves."""
        found = dict.fromkeys(entry["host"] for entry in self.requests if not entry.get("ok"))
        return tuple(host for host in found if host not in self.disturbed_servers)

    @functools.cached_property
    def disturbed_servers(self) -> tuple[str, ...]:
        """Hosts (or URLs) of API servers that would serve the API, and answer 503 because of another one.

        All API servers write the one status of an APIService. While another one fails, it flips, and those that are
        well answer 503 to a part of the requests. Their own gauge tells them apart.
        """
        broken = {
            (entry["host"], entry.get("name"))
            for entry in self.requests
            if not entry.get("ok") and (entry.get("aggregator_unavailable") or 200 not in entry.get("statuses", ()))
        }
        found: dict[str, bool] = {}
        for entry in self.requests:
            if entry.get("ok"):
                continue
            other = any(name == entry.get("name") and host != entry["host"] for host, name in broken)
            gauge = entry.get("aggregator_unavailable")
            well = gauge == 0 or (gauge is None and 200 in entry.get("statuses", ()))
            only = all(status in (200, 503) for status in entry.get("statuses", ()))
            disturbed = bool(entry.get("ready")) and other and well and only
            found[entry["host"]] = found.get(entry["host"], True) and disturbed
        return tuple(host for host, disturbed in found.items() if disturbed)

    def said_by(self, host: str) -> list[str]:
        """What the API server of a host, and the condition of the APIService, say of the metrics API; each once."""
        said = [str(entry.get("message") or "") for entry in self.requests if entry["host"] == host]
        said += [str(entry.get("message") or "") for entry in self.apiservices if not entry.get("available")]
        return [message for message in dict.fromkeys(said) if message]

    @property
    def endpoints(self) -> list[Mapping]:
        """The addresses behind the Services of the metrics API, each once, with RV(host) beside its node."""
        found: dict[tuple[t.Any, t.Any], Mapping] = {}
        for entry in self.apiservices:
            for endpoint in get(entry, "endpoints", default=[]):
                host = self.host_of_node(str(endpoint.get("node") or ""))
                found.setdefault((endpoint.get("ip"), endpoint.get("port")), {**endpoint, "host": host})
        return list(found.values())

    @property
    def server_hosts(self) -> tuple[str, ...]:
        """The hosts that pods of the metrics server are on."""
        nodes = [str(pod.get("node")) for pod in self.server_pods if pod.get("node")]
        nodes += [str(endpoint["node"]) for endpoint in self.endpoints if endpoint.get("node")]
        return tuple(dict.fromkeys(self.host_of_node(node) for node in nodes))

    @property
    def objects(self) -> Mapping:
        return t.cast(Mapping, self.api("objects", default={}))

    @property
    def server_pods(self) -> list[Mapping]:
        return list(get(self.objects, "pods", default=[]))

    @property
    def unready_pods(self) -> list[Mapping]:
        """Pods of the metrics server that are to serve and do not."""
        return [pod for pod in self.server_pods if not pod.get("ready") and not pod.get("terminating")]

    @property
    def server_serves(self) -> bool:
        """Whether some pod of the metrics server is ready."""
        return any(pod.get("ready") and not pod.get("terminating") for pod in self.server_pods)

    @property
    def server_started_just_now(self) -> bool:
        """Whether a pod of the metrics server became ready within the last minute: a rate takes two samples."""
        since = [
            condition.get("since")
            for pod in self.server_pods
            for condition in pod.get("conditions") or ()
            if pod.get("ready") and condition.get("type") == "Ready"
        ]
        return any(age is not None and age < STARTING for age in map(self.age, since))

    @property
    def pods_created_just_now(self) -> list[str]:
        """Pods of the server that are not ready, and were created within the last minute: they may still become so."""
        ages = ((str(pod.get("name")), self.age(pod.get("created"))) for pod in self.unready_pods)
        return [name for name, age in ages if age is not None and age < STARTING]

    @property
    def api_servers_started_just_now(self) -> tuple[str, ...]:
        """The hosts whose API server runs for less than the time in which pods get their first sample.

        Static pods beside it may have been restarted with it, and their status in the API may be older than that.
        """
        started = {
            host.name: self.age(host.component("kube-apiserver").get("start_time")) for host in self.control_planes
        }
        return tuple(name for name, age in started.items() if age is not None and age < FIRST_SAMPLE)

    @property
    def service_keeps_traffic_local(self) -> bool:
        """Whether the Service leads to pods on the client's own host only."""
        return bool(get(self.objects, "service", "internal_traffic_policy") == "Local")

    @property
    def server_workload(self) -> Mapping:
        """The Deployment (or the like) of the metrics server; empty where there is none, or it could not be read."""
        return t.cast(Mapping, get(self.objects, "workloads", 0, default={}))

    @property
    def server_deployed(self) -> bool:
        """Whether there is a metrics server at all, so that its account has rights to be missed."""
        return bool(self.server_workload or self.server_pods)

    @property
    def server_reads_kubelets(self) -> bool:
        """Whether it is a metrics server: an adapter of Prometheus serves the same API, and asks no kubelet."""
        named = [self.server_workload.get("name"), *(pod.get("name") for pod in self.server_pods)]
        return any("metrics-server" in str(name) for name in named) or any(
            "kubelet" in argument for argument in self.server_arguments()
        )

    @property
    def server_managed(self) -> bool:
        """Whether it is this collection's metrics server, so that the roles of site.yml mend it."""
        return self.subject.resource_metrics and self.server_workload.get("owner") == "kubemetrics"

    def server_log(self) -> list[str]:
        """The last lines of all pods of the metrics server, those of containers that have ended first."""
        lines: list[str] = []
        for pod in self.server_pods:
            lines += [*get(pod, "previous_log", default=[]), *get(pod, "log", default=[])]
        return lines

    def server_arguments(self) -> list[str]:
        """The arguments of the metrics server's container, of its first pod."""
        for pod in self.server_pods:
            containers = [entry for entry in get(pod, "containers", default=[]) if not entry.get("init")]
            # Beside it may be a nanny, or the proxy of a mesh.
            named = [entry for entry in containers if entry.get("name") == "metrics-server"]
            listening = [
                entry for entry in containers if "--secure-port" in " ".join(map(str, entry.get("args") or ()))
            ]
            for container in (listening or named or containers)[:1]:
                return [str(argument) for argument in container.get("args") or ()]
        return []

    def nodes_without_metrics(self) -> tuple[str, ...]:
        """Ready nodes that some API server has no recent sample of, while it answers at all."""
        found: list[str] = []
        for entry in self.api("metrics", "servers", default=[]):
            found += get(entry, "nodes", "missing", default=[])
            found += [stale["name"] for stale in get(entry, "nodes", "stale", default=[])]
        return tuple(dict.fromkeys(found))

    def pods_without_metrics(self) -> tuple[str, ...]:
        """Running pods that some API server has no recent sample of, while it answers at all."""
        servers = self.api("metrics", "servers", default=[])
        return tuple(dict.fromkeys(name for entry in servers for name in get(entry, "pods", "missing", default=[])))

    def kubelet_answers(self) -> list[dict[str, t.Any]]:
        """What each kubelet answered to the metrics server's token, as node, status and message; each answer once."""
        found: dict[tuple[t.Any, ...], dict[str, t.Any]] = {}
        for host in self.control_planes:
            for entry in host.get("kubelets", default=[]):
                answer = get(entry, "authenticated", default={})
                if answer.get("status"):
                    view = {
                        "node": str(entry.get("node") or entry.get("address")),
                        "status": answer["status"],
                        "message": str(answer.get("message") or ""),
                    }
                    found.setdefault(tuple(view.values()), view)
        return list(found.values())

    def review(self, what: str) -> Mapping:
        """A SubjectAccessReview by its name; empty where it was not asked."""
        return next((entry for entry in get(self.objects, "reviews", default=[]) if entry.get("what") == what), {})

    # --- what others suffer -----------------------------------------------------------------------------------------

    @property
    def dead_apiservices(self) -> list[Mapping]:
        """APIServices that are not available, those of the API that the diagnosis is about among them."""
        return list(get(self.objects, "apiservices_unavailable", default=[]))

    @property
    def foreign_dead_apiservices(self) -> list[Mapping]:
        """Those of them that register another API than the one that the diagnosis is about."""
        own = self.subject.group
        return [entry for entry in self.dead_apiservices if str(entry.get("name")).partition(".")[2] != own]

    @property
    def discovery_is_incomplete(self) -> bool:
        discovery = get(self.objects, "discovery", default={})
        return bool(discovery.get("stale")) or bool(discovery) and discovery.get("status") != 200

    @property
    def stuck_namespaces(self) -> list[tuple[str, str]]:
        """Name and message of namespaces whose deletion waits for an API that does not answer."""
        if not self.dead_apiservices and not self.discovery_is_incomplete:
            # Their conditions are those of the last attempt; the next one succeeds.
            return []
        return [
            (str(namespace.get("name")), str(condition.get("message") or condition.get("reason")))
            for namespace in get(self.objects, "namespaces", default=[])
            for condition in namespace.get("conditions") or ()
            if condition.get("type") == "NamespaceDeletionDiscoveryFailure" and condition.get("status") == "True"
        ]

    @property
    def autoscalers_not_judged(self) -> list[str]:
        """Those of CPU and memory for which their controller has not said yet whether it gets metrics."""
        if not self.subject.resource_metrics:
            return []
        return [
            f"{autoscaler.get('namespace')}/{autoscaler.get('name')}"
            for autoscaler in get(self.objects, "autoscalers", default=[])
            if {"cpu", "memory"} & set(autoscaler.get("metrics") or ())
            and "ScalingActive" not in [condition.get("type") for condition in autoscaler.get("conditions") or ()]
        ]

    @property
    def failing_autoscalers(self) -> list[tuple[Mapping, str]]:
        """HorizontalPodAutoscalers that get no metrics from the API, each with the message of its condition."""
        reasons = AUTOSCALING.get(self.subject.group, ())
        return [
            (autoscaler, str(condition.get("message") or ""))
            for autoscaler in get(self.objects, "autoscalers", default=[])
            for condition in autoscaler.get("conditions") or ()
            if condition.get("type") == "ScalingActive"
            and condition.get("status") == "False"
            and condition.get("reason") in reasons
        ]
