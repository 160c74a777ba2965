# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a verification has shown: which layer is at fault, the result as a fact, and its summary. Pure functions."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import image_nodes
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.subject import (
    RESOURCE_METRICS,
    Subject,
)

UNDECIDED = "nobody has decided yet: it passes every check, so run site or set metrics_server_csr_approver"

Mapping = t.Mapping[str, t.Any]


def layer(message: str, observed: Mapping) -> str:
    """The layer at fault, from what apiservice_info saw last."""
    registered = observed.get("apiservices") or []
    if not registered:
        return "Between the controller and the API servers"
    for entry in registered:
        if not entry.get("exists"):
            return "Registration of the API"
    for fault, words in (
        (lambda entry: entry.get("service_exists") is False, "Service of"),
        (_without_endpoints, "Pods of"),
        (_without_valid_bundle, "Certificate of"),
    ):
        found = next((entry for entry in registered if fault(entry)), None)
        if found:
            return f"{words} {server_of(found)}"
    failing = {entry.get("name") for entry in observed.get("servers") or () if not entry.get("ok")}
    suspect = next((entry for entry in registered if entry.get("name") in failing), registered[0])
    if re.search("x509|certificate", message):
        return f"Certificate of {server_of(suspect)}"
    if any(not entry.get("ready") for entry in observed.get("servers") or ()):
        return "API servers"
    return f"Path from the API servers to {server_of(suspect)}"


def server_of(apiservice: Mapping) -> str:
    """How the server behind an APIService is called."""
    service = apiservice.get("service") or {}
    where = f"{service.get('namespace')}/{service.get('name')}" if service else ""
    return Subject(str(apiservice.get("name") or RESOURCE_METRICS), where).server


def _without_endpoints(entry: Mapping) -> bool:
    ready = any(endpoint.get("ready") for endpoint in entry.get("endpoints") or ())
    return bool(entry.get("service_exists")) and not ready


def _without_valid_bundle(entry: Mapping) -> bool:
    bundle = entry.get("ca_bundle") or {}
    return bool(bundle.get("present")) and not bundle.get("valid_pem")


def aggregation_failure(failed: Mapping, availability: Mapping) -> str:
    """The sentence for an API that is not served."""
    message = _message(failed)
    found = f"{layer(message, failed.get('last_observed') or {})}: {message}"
    if found.startswith("Pods of the metrics server") and availability.get("warning"):
        found += " " + availability["warning"]
    return found


def metrics_failure(failed: Mapping, pending: t.Sequence[Mapping], namespace: str) -> str:
    """The sentence for nodes or pods without a fresh sample."""
    observed = failed.get("last_observed") or []
    silent = sorted({name for entry in observed for name in ((entry or {}).get("nodes") or {}).get("missing") or ()})
    subject = f"Kubelets of {', '.join(silent)}" if silent else "Samples of pods"
    sentences = [
        f"{subject}: {_message(failed)}",
        "The log of the metrics server has the reason for each node (kubectl logs --namespace "
        f"{namespace} --selector 'k8s-app in (metrics-server,metrics-server-kubemetrics)').",
    ]
    if pending:
        requests = [f"{entry['name']} of {_requester(entry)}, because {entry['reason']}" for entry in pending]
        sentences.append(f"Serving certificates are pending: {'; '.join(requests)}.")
    return " ".join(sentences)


def with_distribution(sentence: str, cluster: Mapping) -> str:
    """A failure with a word on the distribution, whose configuration is elsewhere."""
    return " ".join(filter(None, [sentence, (cluster.get("distribution") or {}).get("sentence")]))


def namespace_of(aggregation: Mapping, default: str = "kube-system") -> str:
    """Where the metrics server runs, as its registration says."""
    services = [entry.get("service") or {} for entry in aggregation.get("apiservices") or ()]
    return next((str(service["namespace"]) for service in services if service.get("namespace")), default)


def pending_requests(requests: Mapping) -> list[dict[str, t.Any]]:
    """Requests for serving certificates that wait, each with its reason; from kubelet_csr in check mode."""
    undecided = [{**entry, "reason": UNDECIDED} for entry in requests.get("approved") or ()]
    return undecided + [dict(entry) for entry in requests.get("left") or ()]


def expiring_certificates(examined: t.Iterable[Mapping], days: int) -> list[dict[str, t.Any]]:
    """Serving certificates of kubelets that expire within so many days."""
    found = []
    for result in examined:
        for kubelet in result.get("kubelets") or ():
            certificate = (kubelet.get("tls") or {}).get("certificate") or {}
            left = certificate.get("expires_in_days")
            if left is not None and left < days:
                expires = {"not_after": certificate.get("not_after"), "expires_in_days": left}
                found.append({"address": kubelet.get("address"), **expires})
    return found


def result(
    aggregation: Mapping,
    metrics: Mapping,
    *,
    pending: t.Sequence[Mapping],
    expiring: t.Sequence[Mapping],
    availability: Mapping,
) -> dict[str, t.Any]:
    """The fact verify_result. Where no resource metrics are verified, there are none to be compared."""
    examined = not metrics.get("skipped") or any(
        Subject(str(entry.get("name"))).resource_metrics for entry in aggregation.get("apiservices") or ()
    )
    return {
        "ok": bool(aggregation.get("ok")) and (bool(metrics.get("ok")) or not examined),
        "apiservices": aggregation.get("apiservices") or [],
        "api_servers": aggregation.get("servers") or [],
        "metrics": metrics.get("servers") or [],
        "pending_serving_requests": list(pending),
        "expiring_kubelet_certificates": [entry["address"] for entry in expiring],
        "image_nodes": dict(availability),
    }


def measured(metrics: Mapping) -> bool:
    """Whether every API server had a sample of some node."""
    counts = [(entry.get("nodes") or {}).get("with_metrics") or 0 for entry in metrics.get("servers") or ()]
    return bool(counts) and min(counts) > 0


def summary(
    found: Mapping,
    *,
    cluster: Mapping,
    expiring: t.Sequence[Mapping],
    shown_nodes: int,
    unreached: t.Sequence[str],
) -> list[str]:
    """What a person reads at the end."""
    nodes = cluster.get("nodes") or {}
    lines = (
        _measurements(found, len(cluster.get("control_planes") or ()), shown_nodes) if found["ok"] else _faults(found)
    )
    if (cluster.get("distribution") or {}).get("sentence"):
        lines.append(cluster["distribution"]["sentence"])
    not_ready = [name for name, node in nodes.items() if not node.get("ready")]
    if not_ready:
        expected = ", and not expected to have metrics" if found["metrics"] else ""
        lines.append(f"Not Ready{expected}: {', '.join(not_ready)}.")
    if unreached:
        lines.append(f"Not examined, see above: {', '.join(unreached)}.")
    for entry in found["pending_serving_requests"]:
        lines.append(
            f"Serving certificate not approved: {entry['name']} of {_requester(entry)}, because {entry['reason']}."
        )
    names = {address["address"]: name for name, node in nodes.items() for address in node.get("addresses") or ()}
    for entry in expiring:
        name = names.get(entry["address"], entry["address"])
        lines.append(
            f"Kubelet of {name}: its serving certificate expires on {entry['not_after']}, in "
            f"{entry['expires_in_days']} days."
        )
    if found["image_nodes"].get("warning"):
        lines.append(found["image_nodes"]["warning"])
    return lines


def _faults(found: Mapping) -> list[str]:
    metrics = any(Subject(str(entry["name"])).resource_metrics for entry in found["apiservices"])
    what = "Resource metrics do not work yet" if metrics else "Not every API is served yet"
    lines = [f"{what}; check mode examines once and waits for nothing."]
    entries = list(found["api_servers"]) + list(found["metrics"])
    faults = [
        f"{entry['server']}: {entry['message']}" for entry in entries if not entry.get("ok") and entry.get("message")
    ]
    return lines + list(dict.fromkeys(faults))


def _measurements(found: Mapping, control_planes: int, shown_nodes: int) -> list[str]:
    servers = {entry["server"] for entry in found["api_servers"]}
    names = ", ".join(sorted({str(entry["name"]) for entry in found["api_servers"]}))
    # Without hosts, how many API servers there are is not known.
    through = f"{len(servers)} of {control_planes} API servers" if control_planes else "the kubeconfig's API server"
    if not found["metrics"]:
        lines = [f"{names}: served through {through}."]
        return lines + [line for line in map(_behind, found["apiservices"]) if line]
    lines = [f"Resource metrics work through {through} ({names})."]
    # All API servers pass the same server's numbers on; the first one's stand for them.
    numbers = found["metrics"][0]
    for kind in ("nodes", "pods"):
        entry = numbers.get(kind)
        if entry:
            lines.append(
                f"{kind.capitalize()}: {entry['with_metrics']} of {entry['expected']} have metrics, the oldest sample "
                f"is {entry['oldest_age']} s old."
            )
    usage = (numbers.get("nodes") or {}).get("usage") or []
    shown = usage[: max(0, shown_nodes)]
    if shown:
        width = max(12, *(len(entry["name"]) for entry in shown))
        lines.append(f"{'Node':<{width}}  {'CPU':>7}  {'Memory':>9}")
        for entry in shown:
            cpu, memory = _amount(entry.get("cpu_millicores"), "m"), _amount(entry.get("memory_mib"), "Mi")
            lines.append(f"{entry['name']:<{width}}  {cpu:>7}  {memory:>9}")
    if len(usage) > len(shown):
        lines.append(f"... and {len(usage) - len(shown)} more")
    return lines


def _behind(apiservice: Mapping) -> str:
    """What stands behind an APIService; nothing for one that API servers serve by themselves."""
    service = apiservice.get("service")
    if not service:
        return ""
    addresses = [f"{endpoint['ip']}:{endpoint['port']}" for endpoint in apiservice.get("endpoints") or ()]
    return f"{apiservice['name']}: Service {service['namespace']}/{service['name']}, endpoints {', '.join(addresses)}."


def _amount(value: t.Any, unit: str) -> str:
    return "-" if value is None else f"{value}{unit}"


def _requester(entry: Mapping) -> str:
    return f"node {entry['node']}" if entry.get("node") else "no node"


def _message(failed: Mapping) -> str:
    return " ".join(str(failed.get("msg") or "no message").split())


def availability(nodes: Mapping, hosts: t.Iterable[Mapping], placed: t.Sequence[str] | None = None) -> dict[str, t.Any]:
    """Which nodes hold the image of the server, by the hosts that were reached, or by what has just been done."""
    if placed is not None:
        return {"ready": list(placed), "lost": [], "warning": ""}
    images = {entry["node_name"]: entry["images"] for entry in hosts if entry.get("images")}
    return image_nodes.availability(nodes, images)
