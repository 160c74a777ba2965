# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The part of the evidence that the API gives: which modules are run, and what becomes of their results."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import cluster
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.subject import Subject
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.evidence_document import Mapping, Probe
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.side_by_side import Outcome

#: Parts of the document by the module that each is the result of.
PARTS = ("state", "apiservices", "metrics", "provider", "authentication", "serving_requests", "objects")
#: A sample of the metrics server is due every 15 s, or as slowly as every minute; older than twice that is stale.
MAX_AGE = 150
#: What modules advise who wants to change a cluster; the report has its own.
_ADVICE = re.compile(r"\.? (Check that|The user of|The credentials of|The kubeconfig belongs) .*$", re.DOTALL)
#: Seconds that nodes and pods have to run before metrics are expected of them: a sample takes two scrapes, and a
#: metrics server sees a pod that started with its API server only when it has listed all pods anew.
GRACE = 90
#: Seconds in which metrics are looked for again whose lack nothing explains: the metrics server may have reached a
#: kubelet again a moment ago, and a rate takes two samples, which are 15 seconds apart unless somebody sets another
#: resolution.
PATIENCE = 20


def _options(given: Mapping, **more: t.Any) -> dict[str, t.Any]:
    options = {"kubeconfig": given["kubeconfig"], "request_timeout": given["timeout"], **more}
    if given["context"]:
        options["context"] = given["context"]
    return {key: value for key, value in options.items() if value is not None}


def first_probes(servers: t.Sequence[str], given: Mapping) -> dict[str, Probe]:
    """What can be asked before the API servers are known."""
    about, namespace = Subject(given["apiservice"]), given["namespace"]
    # Where another API is not registered, no name says where its server would be.
    named = {"namespace": namespace} if about.resource_metrics else {"name": ""}
    found = {
        "state": Probe("cluster_state_info", _options(given, servers=list(servers) or None)),
        "authentication": Probe("extension_authentication_info", _options(given)),
        "objects": Probe("metrics_objects_info", _options(given, apiservice=about.apiservice, **named)),
    }
    if about.resource_metrics:
        found["provider"] = Probe("metrics_provider_info", _options(given, namespace=namespace, pods=True, log_lines=0))
        # In check mode, as all of them: it says what it would approve, and why not.
        found["serving_requests"] = Probe("kubelet_csr", _options(given))
    return found


def later_probes(servers: t.Sequence[str], given: Mapping) -> dict[str, Probe]:
    """Which of the API servers, that the API itself has named, can be reached."""
    return {"state": Probe("cluster_state_info", _options(given, servers=list(servers)))}


def request_probes(servers: t.Sequence[str], given: Mapping) -> dict[str, Probe]:
    """What each API server serves."""
    about = Subject(given["apiservice"])
    found = {
        "apiservices": Probe(
            "apiservice_info",
            _options(given, name=[about.apiservice], all_versions=True, servers=list(servers), attempts=3),
        )
    }
    if about.resource_metrics:
        found["metrics"] = metrics_probe(servers, given)
    return found


def metrics_probe(servers: t.Sequence[str], given: Mapping, patience: int = 0) -> Probe:
    """Who has recent metrics, through each API server."""
    options = _options(given, servers=list(servers), max_age=MAX_AGE, grace=GRACE, patience=patience)
    return Probe("resource_metrics_info", options)


def asked_again(given: Mapping, previous: Mapping) -> Probe | None:
    """The probe for metrics that an earlier look has missed; nothing where it could not ask for them."""
    looked = (previous.get("metrics") or {}).get("servers") or ()
    servers = [str(entry["server"]) for entry in looked]
    return metrics_probe(servers, given, PATIENCE) if servers else None


def result_of(found: t.Mapping[str, Outcome], name: str) -> dict[str, t.Any]:
    """What a module returned; empty where it failed or was not run."""
    outcome = found.get(name)
    result = (outcome.result if outcome else None) or {}
    return {} if result.get("failed") else result


def answers(found: t.Mapping[str, Outcome]) -> bool:
    """Whether any part of the API answered."""
    return any(result_of(found, name) for name in PARTS if name != "objects") or bool(
        result_of(found, "objects").get("user")
    )


def states_of(found: t.Mapping[str, Outcome]) -> list[dict[str, t.Any]]:
    """The state of each API server, also where the nodes could not be read."""
    outcome = found.get("state")
    return list(((outcome.result if outcome else None) or {}).get("servers") or ())


def servers_of(found: t.Mapping[str, Outcome]) -> list[str]:
    """The API servers that the API knows: the kubeconfig's own first."""
    named = [entry["server"] for entry in states_of(found)]
    endpoints = (result_of(found, "objects").get("kubernetes") or {}).get("endpoints") or []
    return list(dict.fromkeys([*named, *(f"https://{endpoint}" for endpoint in endpoints)]))


def reached(found: t.Mapping[str, Outcome], servers: t.Sequence[str]) -> list[str]:
    """Those of them that answer from here."""
    states = {entry["server"]: entry for entry in states_of(found)}
    reachable = [server for server in servers if (states.get(server) or {}).get("version")]
    return reachable or list(servers[:1])


def unavailable(message: str) -> dict[str, t.Any]:
    """The part of the document where the API could not be asked."""
    return {
        "url": None,
        "message": message,
        "user": None,
        "denied": [],
        "cluster": None,
        **dict.fromkeys(PARTS),
        "errors": {},
    }


def document(found: t.Mapping[str, Outcome], hosts: t.Sequence[Mapping], given: Mapping) -> dict[str, t.Any]:
    """The part of the document."""
    state = result_of(found, "state")
    errors = {}
    for name, outcome in found.items():
        why = outcome.error or ((outcome.result or {}).get("message") if (outcome.result or {}).get("failed") else "")
        if why:
            errors[name] = _ADVICE.sub("", str(why))
    result = unavailable("" if answers(found) else errors.get("state") or "The API did not answer.")
    result["url"] = given["shown_as"] or given["kubeconfig"]
    for name in PARTS:
        result[name] = result_of(found, name) or None
    objects = result["objects"] or {}
    result["user"] = objects.pop("user", None)
    result["denied"] = objects.pop("denied", None) or []
    errors.update({f"objects: {part}": why for part, why in (objects.pop("errors", None) or {}).items()})
    result["cluster"], trouble = cluster_of(state, states_of(found), hosts, given)
    if trouble:
        errors["cluster"] = trouble
    # Where nothing answers, one reason says it all.
    result["errors"] = {} if result["message"] else dict(sorted(errors.items()))
    return result


def cluster_of(
    state: Mapping, servers: t.Sequence[Mapping], hosts: t.Sequence[Mapping], given: Mapping
) -> tuple[dict[str, t.Any], str]:
    """The cluster as a whole, and why hosts and nodes could not be joined."""
    trouble = ""
    node_hosts: dict[str, str] = {}
    nodes = state.get("nodes") or []
    try:
        if nodes:
            node_hosts = cluster.match_nodes(hosts, nodes, given["shown_as"] or given["kubeconfig"]).hosts
    except cluster.ClusterError as exc:
        trouble = str(exc)
    running = [host for host in hosts if host["control_plane"] and cluster.runs_api_server(host)]
    components = running[0]["components"] if running else {}
    flavour = cluster.flavour_of(running[0] if running else None, state.get("distribution"))
    api_server = (components.get("kube-apiserver") or {}).get("flags") or {}
    manager = (components.get("kube-controller-manager") or {}).get("flags") or {}
    return (
        {
            "flavour": flavour,
            "distribution": cluster.distribution_view(flavour, state.get("distribution")),
            "version": state.get("version") or next((entry["version"] for entry in servers if entry["version"]), ""),
            "service_cidrs": cluster.cidrs_of(api_server, "service-cluster-ip-range", given["service_cidrs"]),
            "pod_cidrs": cluster.cidrs_of(manager, "cluster-cidr", given["pod_cidrs"]),
            "node_hosts": node_hosts,
            "api_servers": [
                {key: entry.get(key) for key in ("server", "ready", "message", "version")} for entry in servers
            ],
        },
        trouble,
    )
