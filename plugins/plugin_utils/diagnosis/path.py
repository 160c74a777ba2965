# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The path of a request from a client to the kubelets, hop by hop, with what is known of each. Pure functions.

A hop is broken where that was measured or where an error was found; ok where it was measured to work, through the path
or by a probe of its own. What lies behind a broken hop and has no probe of its own is unknown, never ok.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import kubelet_view
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Finding
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.symptoms import Measured

OK, BROKEN, UNKNOWN = "ok", "broken", "unknown"

Hop = dict[str, t.Any]
State = tuple[str, str]
Mapping = t.Mapping[str, t.Any]


def hops(evidence: Evidence, found: t.Sequence[Finding], measured: t.Sequence[Measured]) -> list[Hop]:
    """Client, each API server, Service, each pod of the server, each kubelet; state ok, broken or unknown.

    Behind another API than that of resource metrics are no kubelets.
    """
    places = _Places(evidence, found)
    states = _kubelets(evidence, places.kubelets)
    kubelets = [_hop("kubelet", name, places.at("kubelet", name), states[name]) for name in places.kubelets]
    kind = "server" if evidence.subject.resource_metrics else "extension_server"
    pods = [_hop(kind, _pod_name(pod), places.at("server", _pod_name(pod)), _pod(pod)) for pod in places.pods] or [
        _hop(kind, _nameless(evidence), places.at("server", _nameless(evidence)), _no_pod(evidence))
    ]
    service = _hop("service", _service_name(evidence), places.at("service"), _service(evidence))
    elsewhere = sorted(
        {
            (finding.id, name)
            for name in places.api_servers
            for finding in places.at("api_server", name)
            if finding.severity == "error"
        }
    )
    behind = service["state"] == BROKEN or all(pod["state"] == BROKEN for pod in pods)
    servers = [
        _hop(
            "api_server",
            name,
            places.at("api_server", name),
            _api_server(evidence, name, measured, elsewhere=elsewhere, behind=behind),
        )
        for name in places.api_servers
    ]
    client = _hop(
        "client",
        "kubectl top" if evidence.subject.resource_metrics else "kubectl get",
        places.at("client"),
        _client(evidence),
    )
    return [client, *servers, service, *pods, *kubelets]


def _hop(kind: str, name: str, here: t.Sequence[Finding], measured: State) -> Hop:
    """A hop; what was found there prevails over what was measured."""
    state, text = measured
    errors = [finding for finding in here if finding.severity == "error"]
    if errors and state != BROKEN:
        state, text = BROKEN, errors[0].row.title
    return {"kind": kind, "name": name, "state": state, "text": text, "findings": [finding.id for finding in here]}


class _Places:
    """The hops by name, and which of the findings sits at which."""

    def __init__(self, evidence: Evidence, found: t.Sequence[Finding]) -> None:
        self.evidence = evidence
        self.pods = evidence.server_pods or _endpoints(evidence)
        self.kubelets = _nodes(evidence) if evidence.subject.resource_metrics else []
        self.api_servers = _api_servers(evidence)
        self._found: dict[tuple[str, str], list[Finding]] = {}
        for finding in found:
            for place in self._of(finding):
                self._found.setdefault(place, []).append(finding)

    def at(self, kind: str, name: str = "") -> t.Sequence[Finding]:
        return self._found.get((kind, name), [])

    def _of(self, finding: Finding) -> list[tuple[str, str]]:
        layer = finding.row.layer
        hosts = set(finding.hosts)
        servers = [("api_server", name) for name in self.api_servers if name in hosts or self._node_of(name) in hosts]
        pods = [("server", _pod_name(pod)) for pod in self.pods if self._on(str(pod.get("node") or ""), hosts)]
        if layer == "client":
            return [("client", "")]
        if layer == "api_server":
            return servers or [("api_server", name) for name in self.api_servers]
        if layer == "registration":
            return [("service", "")]
        if layer == "service":
            # What one end of the connection lacks is that end's; what both have in common is the Service's.
            return servers or pods or [("service", "")]
        if layer == "server":
            return pods or [("server", _pod_name(pod)) for pod in self.pods] or [("server", _nameless(self.evidence))]
        if layer == "kubelet":
            return [("kubelet", name) for name in self.kubelets if not hosts or self._on(name, hosts)]
        # What others suffer is no hop of this path.
        return []

    def _on(self, node: str, hosts: t.Container[str]) -> bool:
        return bool(node) and (node in hosts or self.evidence.host_of_node(node) in hosts)

    def _node_of(self, server: str) -> str:
        host = self.evidence.host(server)
        return host.node if host else ""


# --- what the hops are called ---------------------------------------------------------------------------------------


def _nodes(evidence: Evidence) -> list[str]:
    """Every node that the API knows; without the API every host of the inventory that may have a kubelet."""
    known = [str(node.get("name")) for node in evidence.nodes]
    if known:
        return known
    return [host.node for host in evidence.hosts if host.get("host") is None or host.running("kubelet")]


def _api_servers(evidence: Evidence) -> list[str]:
    """Inventory names of control planes, then the URLs of API servers that are on none of them."""
    urls = [
        *(entry.get("server") for entry in evidence.api("cluster", "api_servers", default=[])),
        *(entry.get("server") for entry in evidence.api("state", "servers", default=[])),
        *(entry.get("server") for entry in evidence.requests),
    ]
    names = [host.name for host in evidence.control_planes]
    return list(dict.fromkeys([*names, *(evidence.host_of_server(str(url)) for url in urls if url)]))


def _service_name(evidence: Evidence) -> str:
    for entry in evidence.apiservices:
        service = entry.get("service")
        if service:
            return f"{service.get('namespace')}/{service.get('name')}"
    return _nameless(evidence)


def _nameless(evidence: Evidence) -> str:
    """The name of a hop of which nothing is known."""
    about = evidence.subject
    return about.name if about.resource_metrics or about.service else about.group


def _endpoints(evidence: Evidence) -> list[Mapping]:
    """The endpoints of the Service, where the pods themselves were not seen."""
    found: dict[str, Mapping] = {}
    for entry in evidence.apiservices:
        for endpoint in entry.get("endpoints") or ():
            found.setdefault(str(endpoint.get("ip")), {**endpoint, "endpoint": True})
    return list(found.values())


def _pod_name(pod: Mapping) -> str:
    return str(pod.get("ip")) if pod.get("endpoint") else str(pod.get("name"))


# --- what was measured at each of them ------------------------------------------------------------------------------


def _client(evidence: Evidence) -> State:
    if not evidence.api():
        return UNKNOWN, "the API was not asked"
    if not evidence.api_answered:
        return BROKEN, _short(evidence.api("message"))
    if evidence.apiservices and not any(entry.get("exists") for entry in evidence.apiservices):
        return BROKEN, evidence.subject.told("$missing")
    failing = evidence.failing_servers
    working = [entry["host"] for entry in evidence.requests if entry["host"] not in failing]
    if failing:
        works = f", works through {_listed(list(dict.fromkeys(working)))}" if working else ""
        return BROKEN, f"fails through {_listed(failing)}{works}"
    without = evidence.nodes_without_metrics()
    if without:
        return BROKEN, f"shows <unknown> for {_listed(without)}"
    return (OK, "works through every API server") if working else (UNKNOWN, "no API server was asked")


def _api_server(
    evidence: Evidence,
    name: str,
    measured: t.Sequence[Measured],
    *,
    elsewhere: t.Sequence[tuple[str, str]],
    behind: bool,
) -> State:
    """behind: whether the Service or every pod behind it is broken; elsewhere: errors found at API servers."""
    host = evidence.host(name)
    down = next((entry for entry in measured if entry.symptom == "api_server" and name in entry.hosts), None)
    if down:
        return BROKEN, _short(down.evidence[0])
    requests = [entry for entry in evidence.requests if entry["host"] == name]
    failed = [entry for entry in requests if not entry.get("ok")]
    registered = not evidence.apiservices or any(entry.get("exists") for entry in evidence.apiservices)
    if failed and registered:
        said = _short(failed[0].get("message") or "requests fail")
        probed = _cluster_ip(host) if host else None
        if failed[0].get("reachable") is False or (probed is not None and probed.get("verdict") != "ok" and not behind):
            return BROKEN, said
        if probed is not None and probed.get("verdict") == "ok" and [e for e in elsewhere if e[1] != name]:
            # Every API server writes the one status of the APIService: a fault of one makes the others answer 503.
            return OK, f"reaches {evidence.subject.server}; {said} while the status of the APIService changes"
        if behind:
            return OK, "ready; what is behind it does not answer"
        works_elsewhere = any(entry.get("ok") for entry in evidence.requests)
        return (BROKEN if works_elsewhere or probed is not None or not elsewhere else UNKNOWN), said
    if requests and registered:
        return OK, f"serves {evidence.subject.api}"
    ready = next(
        (
            entry
            for source in ("cluster", "state")
            for entry in evidence.api(source, "api_servers" if source == "cluster" else "servers", default=[])
            if evidence.host_of_server(str(entry.get("server"))) == name
        ),
        None,
    )
    if ready is not None and ready.get("ready"):
        return OK, "ready"
    if host is not None and host.get("api_server", "ready"):
        return OK, "ready"
    if ready is not None:
        return BROKEN, _short(ready.get("message") or "not ready")
    return UNKNOWN, _short(host.get("message")) if host and not host.reachable else "not examined"


def _cluster_ip(host: Host) -> Mapping | None:
    targets = host.targets("cluster_ip")
    return targets[0] if targets else None


def _service(evidence: Evidence) -> State:
    registered = evidence.apiservices
    probes = [target for host in evidence.control_planes for target in host.targets("cluster_ip")]
    connected = any(get(target, "connect", "ok") for target in probes)
    if registered:
        missing = [entry for entry in registered if not entry.get("exists")]
        if missing:
            return BROKEN, f"{missing[0].get('name')} is not registered"
        entry = next((entry for entry in registered if entry.get("service")), registered[0])
        if entry.get("service_exists") is False:
            return BROKEN, "there is no such Service with that port"
        ready = [endpoint for endpoint in entry.get("endpoints") or () if endpoint.get("ready")]
        if entry.get("service") and not ready:
            return BROKEN, "no ready endpoint"
        count = f"{len(ready)} ready endpoint{'' if len(ready) == 1 else 's'}"
        if connected or any(request.get("ok") for request in evidence.requests):
            return OK, count
        if probes:
            endpoints = [target for host in evidence.control_planes for target in host.targets("endpoint")]
            if any(get(target, "connect", "ok") for target in endpoints):
                return BROKEN, "its endpoint can be reached, its ClusterIP cannot"
        return UNKNOWN, f"{count}; no API server gets through to it"
    return (OK, "accepts connections") if connected else (UNKNOWN, "not seen without the API")


def _pod(pod: Mapping) -> State:
    where = f"on {_called(str(pod['node']))}, " if pod.get("node") else ""
    if pod.get("ready"):
        return OK, f"{where}ready"
    for container in pod.get("containers") or ():
        for state in (container.get("state") or {}, container.get("last_state") or {}):
            if state.get("kind") in ("waiting", "terminated") and state.get("reason"):
                return BROKEN, f"{where}{state['reason']}"
    return BROKEN, f"{where}{pod.get('phase') or ''}, not ready".replace(", ,", ",").lstrip(", ")


def _no_pod(evidence: Evidence) -> State:
    about = evidence.subject
    # Where another API is not registered, nobody knows what its pods would be.
    if "pods" in evidence.objects and (about.resource_metrics or about.service):
        return BROKEN, "there is no pod"
    if evidence.requests and not evidence.failing_servers:
        return OK, "answers"
    return UNKNOWN, "its pods were not seen"


def _kubelets(evidence: Evidence, names: t.Sequence[str]) -> dict[str, State]:
    """The state of each kubelet. One pass over everything: a cluster may have thousands."""
    without = set(evidence.nodes_without_metrics())
    served = any(get(entry, "nodes") for entry in evidence.api("metrics", "servers", default=[]))
    nodes = {str(node.get("name")): node for node in evidence.nodes}
    answers = {
        kubelet.node: [(probe.source, probe.entry) for probe in kubelet.probes]
        for kubelet in kubelet_view.kubelets(evidence)
    }
    return {name: _kubelet(nodes.get(name), name in without, served, answers.get(name, [])) for name in names}


def _kubelet(node: Mapping | None, without: bool, served: bool, answers: t.Sequence[tuple[str, Mapping]]) -> State:
    if node and not node.get("ready"):
        return UNKNOWN, "the node is not Ready, no metrics are expected"
    if without:
        return BROKEN, "no recent metrics"
    if node and served:
        return OK, "recent metrics"
    for prober, kubelet in answers:
        if get(kubelet, "authenticated", "status") == 200:
            return OK, f"answers the server's account, from {_called(prober)}"
    for prober, kubelet in answers:
        trouble = _trouble(kubelet)
        if trouble:
            return BROKEN, f"from {_called(prober)}: {_short(trouble)}"
    if any(get(kubelet, "tls", "verified") for _prober, kubelet in answers):
        return UNKNOWN, "its certificate verifies; what it answers to the server was not seen"
    return UNKNOWN, "not requested"


def _trouble(kubelet: Mapping) -> str:
    if get(kubelet, "connect", "ok") is False:
        return str(get(kubelet, "connect", "error", "message", default="no connection"))
    if get(kubelet, "tls", "ok") is False or get(kubelet, "tls", "verified") is False:
        return str(get(kubelet, "tls", "error", "message", default="its certificate does not verify"))
    status = get(kubelet, "authenticated", "status")
    if status is not None:
        return f"{status} {get(kubelet, 'authenticated', 'message', default='')}".strip()
    return ""


def _listed(names: t.Sequence[str]) -> str:
    called = [_called(name) for name in names]
    return ", ".join(called) if len(called) <= 4 else f"{', '.join(called[:3])} and {len(called) - 3} more"


def _called(name: str) -> str:
    """Without its domain where it is long; the hop itself has the whole name."""
    return name.partition(".")[0] if len(name) > 30 and not set("/:") & set(name) else name


def _short(text: t.Any, limit: int = 160) -> str:
    """One line of it."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"
