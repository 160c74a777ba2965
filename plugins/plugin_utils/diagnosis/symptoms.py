# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was measured to be wrong, whatever the cause; and what could not be measured. Pure functions."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Finding, Layer, Symptom


@dataclasses.dataclass(frozen=True)
class Measured:
    """One symptom, on one host where it belongs to one."""

    symptom: Symptom
    layer: Layer
    evidence: tuple[str, ...]
    hosts: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, t.Any]:
        return {
            "symptom": self.symptom,
            "layer": self.layer,
            "hosts": list(self.hosts),
            "evidence": list(self.evidence),
        }


def measure(evidence: Evidence) -> list[Measured]:
    """Every symptom that the evidence shows, in the order of the path of a request."""
    return [
        *_api_servers(evidence),
        *_registration(evidence),
        *_requests(evidence),
        *_server_pods(evidence),
        *_metrics(evidence),
        *_others(evidence),
    ]


def notices(evidence: Evidence) -> list[str]:
    """What a reader should know and what is no fault of the API."""
    reasons: dict[str, list[str]] = {}
    for node in evidence.nodes:
        if not node.get("ready"):
            reason = str(node.get("ready_message") or "no reason given").rstrip(".")
            reasons.setdefault(reason, []).append(str(node["name"]))
    metrics = evidence.subject.resource_metrics
    expected = "; no metrics are expected" if metrics else ""
    found = [f"{_not_ready(names)} ({reason}){expected}." for reason, names in reasons.items()]
    cordoned = [str(node["name"]) for node in evidence.nodes if node.get("unschedulable") and node.get("ready")]
    if cordoned and metrics:
        found.append(f"Cordoned: {', '.join(cordoned)}. Their metrics are read all the same.")
    slow = [
        host.name for host in evidence.control_planes if _not_ready_now(host) and evidence.answers_requests(host.name)
    ]
    if slow:
        found.append(f"API servers that served requests, and were not ready a few seconds later: {', '.join(slow)}.")
    fresh = evidence.pods_created_just_now
    if fresh:
        found.append(
            f"Created within the last minute, and not ready yet: {_first_names(fresh)}. Where nothing else explains "
            "what is seen, run doctor again in a minute."
        )
    waiting = [
        f"{autoscaler.get('namespace')}/{autoscaler.get('name')}"
        for autoscaler, message in evidence.failing_autoscalers
        if awaits_samples(message)
    ]
    if waiting:
        found.append(f"Autoscalers whose pods do not run, or have no sample yet: {', '.join(waiting[:8])}.")
    pods = evidence.pods_without_metrics()
    started = _started_just_now(evidence)
    if pods and not evidence.nodes_without_metrics() and started:
        found.append(
            f"{started} just started, and there is no sample yet of {_first_names(pods)}. Run doctor again in a minute."
        )
    return found


def _started_just_now(evidence: Evidence) -> str:
    """What has just started, so that pods may lack a sample without a fault; nothing where all runs for longer."""
    if evidence.server_started_just_now:
        return "The metrics server has"
    hosts = ", ".join(evidence.api_servers_started_just_now)
    if not hosts:
        return ""
    return f"The API servers of {hosts} have" if "," in hosts else f"The API server of {hosts} has"


def _not_ready(names: t.Sequence[str]) -> str:
    """A node by its name; of many the first ones, since a whole rack may be down."""
    if len(names) == 1:
        return f"Node {names[0]} is not Ready"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{len(names)} nodes are not Ready: {', '.join(names[:8])}{more}"


def unknown(evidence: Evidence, found: t.Sequence[Finding]) -> list[str]:
    """What was not seen, and what a fault hides: never said to be well."""
    lines = [
        f"{entry.get('what')}: {entry.get('why')}. {entry.get('leaves_open') or ''}".strip()
        for entry in evidence.get("not_collected", default=[])
    ]
    layers = {finding.row.layer for finding in found if finding.root and finding.severity == "error"}
    measured = evidence.api("metrics", "servers", default=[])
    hidden = evidence.subject.resource_metrics and layers & {"api_server", "registration", "service", "server"}
    if hidden and not any(get(e, "nodes") for e in measured):
        lines.append(
            "Whether every node and pod has recent metrics cannot be seen until the API is served: run doctor again "
            "after the repair."
        )
    fresh = evidence.autoscalers_not_judged
    if fresh:
        lines.append(
            f"Whether {_first_names(fresh)} can scale: Kubernetes has not said yet whether metrics serve "
            f"{'this autoscaler' if len(fresh) == 1 else 'these autoscalers'}. Run doctor again in a minute."
        )
    return lines


def _api_servers(evidence: Evidence) -> t.Iterator[Measured]:
    for host in evidence.control_planes:
        if not host.reachable or host.get("host") is None:
            continue
        if not host.running("kube-apiserver") and not host.component("kube-apiserver").get("in_process"):
            log = [str(line) for line in host.get("api_server", "log", default=[])][-2:]
            yield Measured("api_server", "api_server", (f"no kube-apiserver runs on {host.name}", *log), (host.name,))
        elif _not_ready_now(host) and not evidence.answers_requests(host.name):
            said = host.get("api_server", "error", default="") or "no reason given"
            yield Measured("api_server", "api_server", (f"/readyz of {host.name}: {said}",), (host.name,))
    if evidence.api() and evidence.api("message"):
        yield Measured("api_server", "api_server", (str(evidence.api("message")),))


def _not_ready_now(host: Host) -> bool:
    return host.get("api_server") is not None and not host.get("api_server", "ready")


def _registration(evidence: Evidence) -> t.Iterator[Measured]:
    registered = evidence.apiservices
    if registered and not any(entry.get("exists") for entry in registered):
        yield Measured("registration", "registration", (f"APIService {registered[0].get('name')}: does not exist",))


def _requests(evidence: Evidence) -> t.Iterator[Measured]:
    if evidence.apiservices and not any(entry.get("exists") for entry in evidence.apiservices):
        return
    for host in evidence.failing_servers:
        failed = [entry for entry in evidence.requests if entry["host"] == host and not entry.get("ok")]
        lines = dict.fromkeys(
            f"{entry.get('name')} through {host}: {entry.get('message') or 'fails'}" for entry in failed
        )
        yield Measured("request", "service", tuple(lines), (host,))
    for host, message in evidence.refused_lists.items():
        if host not in evidence.failing_servers and host not in evidence.disturbed_servers:
            yield Measured("request", "service", (f"metrics through {host}: {message}",), (host,))


def _server_pods(evidence: Evidence) -> t.Iterator[Measured]:
    pods = evidence.server_pods
    if pods and not any(pod.get("ready") for pod in pods):
        lines = tuple(f"pod {pod.get('namespace')}/{pod.get('name')}: {_trouble(pod)}" for pod in pods)
        yield Measured("server_pod", "server" if evidence.subject.resource_metrics else "extension_server", lines)


def _trouble(pod: t.Mapping[str, t.Any]) -> str:
    for container in pod.get("containers") or ():
        for state in (container.get("state") or {}, container.get("last_state") or {}):
            if state.get("kind") in ("waiting", "terminated") and state.get("reason"):
                message = f": {state['message']}" if state.get("message") else ""
                return f"container {container.get('name')} {state['kind']}: {state['reason']}{message}"
    return f"{pod.get('phase') or 'unknown'}, not ready"


def _metrics(evidence: Evidence) -> t.Iterator[Measured]:
    for node in evidence.nodes_without_metrics():
        host = evidence.host_of_node(node)
        yield Measured("node_metrics", "kubelet", (f"node {node} is Ready and has no recent metrics",), (host,))
    if evidence.nodes_without_metrics():
        # Their pods have none either.
        return
    pods = evidence.pods_without_metrics()
    if pods and not _started_just_now(evidence):
        yield Measured("pod_metrics", "kubelet", (f"no recent metrics of {_first_names(pods)}",))


def _first_names(names: t.Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _others(evidence: Evidence) -> t.Iterator[Measured]:
    shared = evidence.api("authentication", "shared", default=[])
    if shared:
        yield Measured(
            "authentication", "api_server", (f"CAs of clients that are CAs of front proxies, too: {'; '.join(shared)}",)
        )
    for name, message in evidence.stuck_namespaces:
        yield Measured("namespace", "consequence", (f"namespace {name} cannot be deleted: {message}",))
    if evidence.discovery_is_incomplete:
        discovery = get(evidence.objects, "discovery", default={})
        stale = (
            ", ".join(discovery.get("stale") or ()) or discovery.get("message") or f"status {discovery.get('status')}"
        )
        yield Measured("discovery", "consequence", (f"discovery is incomplete: {stale}",))
    for autoscaler, message in evidence.failing_autoscalers:
        if not awaits_samples(message):
            name = f"{autoscaler.get('namespace')}/{autoscaler.get('name')}"
            yield Measured("autoscaler", "consequence", (f"HorizontalPodAutoscaler {name}: {message}",))


def awaits_samples(message: str) -> bool:
    """Whether an autoscaler got an answer, without a sample of its pods: they do not run, or have just started."""
    return "no metrics returned" in message or "did not receive metrics" in message
