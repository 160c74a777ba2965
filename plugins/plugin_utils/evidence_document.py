# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The evidence of a diagnosis: which probes run where and with what, and the document that their results become."""

from __future__ import annotations

import datetime
import ipaddress
import json
import typing as t
from urllib.parse import urlsplit

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import masking
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import api_servers, cluster, decoding
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import SCHEMA, SCHEMA_VERSION
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.subject import (
    RESOURCE_METRICS,
    Subject,
)

Mapping = t.Mapping[str, t.Any]

#: How many of a kind a document holds. What was left out is said.
MOST_HOSTS = 500
#: How many kubelets each control plane connects to; of more, each takes a part.
EVERY_KUBELET = 50
#: What Ansible adds to the results of modules, and what certificates say in words beside it.
_NOISE = ("ansible_facts", "changed", "deprecations", "failed", "invocation", "warnings")
_LEAVES_OPEN = {
    "hosts": "The certificates, flags and packet filters of the hosts, and what they reach, stay unknown.",
    "host": "Its certificates, flags and packet filters, and what it reaches, stay unknown.",
    "rights": "What these rights show stays unknown.",
    "api": "The objects of the cluster, and what clients get from each API server, stay unknown.",
}


class Probe(t.NamedTuple):
    """One module and what it is given."""

    module: str
    arguments: dict[str, t.Any]


# --- which probes run on a host -------------------------------------------------------------------------------------


class Known(t.NamedTuple):
    """What is known of the cluster when hosts make their connections. Each host reads it, so it is no more."""

    #: URLs of API servers.
    servers: t.Sequence[str] = ()
    service_cidrs: t.Sequence[str] = ()
    pod_cidrs: t.Sequence[str] = ()
    #: The nodes: name, port of the kubelet, address. None where the server behind the API needs no kubelet.
    kubelets: t.Sequence[tuple[str, int, str]] = ()
    #: The control planes that could be examined, by their inventory names.
    control_planes: t.Sequence[str] = ()
    #: Of the API, where it could be asked: APIServices with Service and endpoints, and what lies behind them.
    apiservices: t.Sequence[Mapping] = ()
    ca_bundles: Mapping = {}
    cluster_ips: Mapping = {}
    #: The ClusterIP of the API's own Service.
    api_cluster_ip: str | None = None
    #: Uids of the server's pods with a network of their own, by node.
    pods: Mapping = {}
    #: The APIService that the diagnosis is about.
    apiservice: str = RESOURCE_METRICS


def known(api: Mapping, hosts: t.Sequence[Mapping], cidrs: Mapping, apiservice: str = RESOURCE_METRICS) -> Known:
    """From what the API says; where it could not be asked, from what the processes of control planes were given."""
    planes = [host for host in hosts if host.get("control_plane")]
    flags = [_flags(host, "kube-apiserver") for host in planes]
    # The controller manager knows the networks, too, and outlives an API server that does not start.
    flags += [_flags(host, "kube-controller-manager") for host in planes]
    described = api.get("cluster") or {}
    nodes = (api.get("state") or {}).get("nodes") or []
    objects = api.get("objects") or {}
    servers = [entry["server"] for entry in described.get("api_servers") or ()]
    servers += [host["api_server_url"] for host in planes if host.get("api_server_url") not in servers]
    services = described.get("service_cidrs") or _first_cidrs(flags, "service-cluster-ip-range", cidrs.get("service"))
    pods = described.get("pod_cidrs") or _first_cidrs(flags, "cluster-cidr", cidrs.get("pod"))
    pods = pods or sorted({entry for node in nodes for entry in node.get("pod_cidrs") or ()})
    of_the_server: dict[str, list[str]] = {}
    for pod in objects.get("pods") or ():
        if pod.get("node") and pod.get("uid") and not pod.get("host_network"):
            of_the_server.setdefault(str(pod["node"]), []).append(pod["uid"])
    return Known(
        servers=[server for server in servers if server],
        service_cidrs=services,
        # Each network costs a look-up of its route on every host.
        pod_cidrs=pods[:16],
        kubelets=(kubelets_of(nodes) or kubelets_of_hosts(hosts))[:MOST_HOSTS]
        if Subject(apiservice).resource_metrics
        else [],
        control_planes=[str(host["name"]) for host in planes],
        apiservices=[
            {key: entry.get(key) for key in ("name", "exists", "service", "endpoints")}
            for entry in (api.get("apiservices") or {}).get("apiservices") or ()
        ],
        ca_bundles=objects.get("ca_bundles") or {},
        cluster_ips=objects.get("cluster_ips") or {},
        api_cluster_ip=(objects.get("kubernetes") or {}).get("cluster_ip") or _first_address(services),
        pods=of_the_server,
        apiservice=apiservice,
    )


def _first_cidrs(flags: t.Iterable[Mapping], name: str, otherwise: t.Any) -> list[str]:
    """The networks of the first process that was given some, else what the inventory says."""
    return cluster.cidrs_of(next((entry for entry in flags if entry.get(name)), {}), name, str(otherwise or ""))


def _first_address(service_cidrs: t.Sequence[str]) -> str | None:
    try:
        return api_servers.cluster_ip(service_cidrs) if service_cidrs else None
    except ValueError:
        return None


def kubelets_of(nodes: t.Iterable[Mapping]) -> list[tuple[str, int, str]]:
    """Name, port and each internal address of the nodes."""
    return [
        (str(node["name"]), int(node.get("kubelet_port") or 10250), str(entry["address"]))
        for node in nodes
        for entry in node.get("addresses") or ()
        if entry.get("type") == "InternalIP"
    ]


def kubelets_of_hosts(hosts: t.Iterable[Mapping]) -> list[tuple[str, int, str]]:
    """The same from the facts of the hosts, where the API does not tell."""
    found = []
    for host in hosts:
        asked = urlsplit(str((host.get("kubelet_answers") or {}).get("url") or "")).hostname
        address = asked or _flags(host, "kubelet").get("node-ip") or (host.get("host") or {}).get("default_ipv4")
        if address and (host.get("components") or {}).get("kubelet", {}).get("running"):
            name = str(host.get("node_name") or host.get("name"))
            found.append(
                (name, int(_flags(host, "kubelet").get("port") or 10250), str(address).split(",", maxsplit=1)[0])
            )
    return found


def probes_of(entry: Mapping, about: Known, *, token: str | None, timeout: float) -> dict[str, Probe]:
    """The probes of one host, by the part of the document that each becomes."""
    host = entry["host"]
    found = {"network": Probe("host_network_info", network_options(host, about, timeout))}
    found["pod"] = Probe("pod_network_info", pod_options(host, about, timeout))
    if not entry.get("control_plane"):
        return found
    for name, options in aggregator_options(host, about, timeout).items():
        found[f"aggregator {name}"] = Probe("aggregator_info", options)
    for port, options in kubelet_options(host, about, token, timeout).items():
        found[f"kubelets {port}"] = Probe("kubelet_info", options)
    return found


def network_options(host: Mapping, about: Known, timeout: float) -> dict[str, t.Any]:
    authority = authority_file(host)
    # Its own clock tells a control plane nothing.
    others = [server for server in about.servers if server != host.get("api_server_url")]
    options: dict[str, t.Any] = {
        "pod_cidrs": list(about.pod_cidrs),
        "service_cidrs": list(about.service_cidrs),
        "peers": [address for address in map(address_of, about.servers) if address],
        "pod_addresses": endpoint_addresses(about)[:8],
        "cluster_ip": about.api_cluster_ip,
        "ca_file": authority,
        "time_server": others[0] if others and authority else None,
        "attempts": 1,
        "timeout": min(timeout, 3),
    }
    return {key: value for key, value in options.items() if value is not None}


def endpoint_addresses(about: Known) -> list[str]:
    """The addresses behind the Services of the API."""
    found = [endpoint.get("ip") for service in about.apiservices for endpoint in service.get("endpoints") or ()]
    return list(dict.fromkeys(str(address) for address in found if address))


def pod_options(host: Mapping, about: Known, timeout: float) -> dict[str, t.Any]:
    """What a pod of the host connects to. A metrics server's has to reach every kubelet, others their own."""
    own = str(host.get("node_name") or "")
    pods = list(about.pods.get(own) or ())
    targets: list[dict[str, t.Any]] = []
    if about.api_cluster_ip:
        targets.append({"kind": "cluster_ip", "name": "kubernetes", "host": about.api_cluster_ip, "port": 443})
    for server in about.servers:
        parts = urlsplit(server)
        if parts.hostname:
            targets.append({"kind": "api_server", "name": server, "host": parts.hostname, "port": parts.port or 6443})
    for service in about.apiservices:
        for endpoint in service.get("endpoints") or ():
            target = {"kind": "endpoint", "name": "", "host": endpoint["ip"], "port": endpoint["port"]}
            if endpoint.get("port") and target not in targets:
                targets.append(target)
    for name, port, node_address in about.kubelets:
        if pods or name == own or len(about.kubelets) <= EVERY_KUBELET:
            targets.append({"kind": "kubelet", "name": name, "host": node_address, "port": port})
    options: dict[str, t.Any] = {
        "pod_uids": pods,
        "targets": targets,
        "ca_file": authority_file(host),
        "timeout": min(timeout, 3),
        "total_timeout": 8,
    }
    return {key: value for key, value in options.items() if value is not None}


def api_server_options(host: Mapping, timeout: float) -> dict[str, t.Any]:
    parts = urlsplit(str(host.get("api_server_url") or ""))
    component = (host.get("components") or {}).get("kube-apiserver") or {}
    flags = component.get("flags") or {}
    kubeconfigs = [(host.get("kubernetes_dir") or {}).get("admin_kubeconfig")]
    kubeconfigs += ["/etc/kubernetes/kubelet.conf", "/etc/kubernetes/admin.conf"]
    options = {
        "address": parts.hostname or "127.0.0.1",
        "port": parts.port or 6443,
        "kubeconfigs": [path for path in dict.fromkeys(kubeconfigs) if path],
        "client_ca_file": flags.get("client-ca-file"),
        "checks": True,
        "log_lines": 30,
        "unit": component.get("unit") if component.get("managed_by") == "systemd" else None,
        "timeout": timeout,
    }
    return {key: value for key, value in options.items() if value is not None}


def aggregator_options(host: Mapping, about: Known, timeout: float) -> dict[str, dict[str, t.Any]]:
    """One for each Service behind the API, by the APIService: versions that share one are asked for once."""
    flags = _flags(host, "kube-apiserver")
    certificate, key = flags.get("proxy-client-cert-file"), flags.get("proxy-client-key-file")
    if not certificate or not key:
        return {}
    found: dict[str, dict[str, t.Any]] = {}
    asked = set()
    apiservices = sorted(about.apiservices, key=lambda entry: (entry["name"] != about.apiservice, entry["name"]))
    for entry in apiservices:
        service = entry.get("service")
        name = str(entry["name"])
        if not entry.get("exists") or not service:
            continue
        identity = (service["namespace"], service["name"], service["port"], about.ca_bundles.get(name))
        if identity in asked:
            continue
        asked.add(identity)
        version, _dot, group = name.partition(".")
        options: dict[str, t.Any] = {
            "client_cert": certificate,
            "client_key": key,
            "requestheader_ca_file": flags.get("requestheader-client-ca-file"),
            "server_name": f"{service['name']}.{service['namespace']}.svc",
            "ca_data": about.ca_bundles.get(name),
            "cluster_ip": about.cluster_ips.get(f"{service['namespace']}/{service['name']}"),
            "port": service["port"],
            "endpoints": [
                {"ip": endpoint["ip"], "port": endpoint["port"]}
                for endpoint in entry.get("endpoints") or ()
                if endpoint.get("port")
            ][:20],
            "path": f"/apis/{group}/{version}",
            "proxy_environment": host["components"]["kube-apiserver"].get("environ") or {},
            "timeout": timeout,
        }
        found[name] = {key: value for key, value in options.items() if value is not None}
    if not found:
        # Without a registration or the API there is nothing to connect to; the certificates tell all the same.
        subject = Subject(about.apiservice)
        options = {
            "client_cert": certificate,
            "client_key": key,
            "requestheader_ca_file": flags.get("requestheader-client-ca-file"),
            "server_name": "metrics-server.kube-system.svc" if subject.resource_metrics else subject.group,
            "timeout": timeout,
        }
        found[about.apiservice] = {key: value for key, value in options.items() if value is not None}
    return found


def kubelet_options(host: Mapping, about: Known, token: str | None, timeout: float) -> dict[int, dict[str, t.Any]]:
    """By port, the kubelets that this control plane connects to: all of them, or its part of many."""
    kubelets = list(about.kubelets)
    if len(kubelets) > EVERY_KUBELET and str(host["name"]) in about.control_planes:
        at = list(about.control_planes).index(str(host["name"]))
        kubelets = kubelets[at :: len(about.control_planes)]
    found: dict[int, dict[str, t.Any]] = {}
    authority = authority_file(host)
    for _name, port, address in kubelets:
        options: dict[str, t.Any] = {"addresses": [], "port": port, "read_only_port": 0, "timeout": min(timeout, 3)}
        if authority:
            options["ca_file"] = authority
            if token:
                options["token"] = token
        found.setdefault(port, options)["addresses"].append(address)
    return found


def authority_file(host: Mapping) -> str | None:
    """The file on a host with the CA of the cluster, as far as the host tells."""
    answers = host.get("kubelet_answers") or {}
    flags = _flags(host, "kube-apiserver")
    return answers.get("ca_file") or flags.get("client-ca-file") or None


def address_of(server: str) -> str | None:
    """The address in a URL, None for a name."""
    host = urlsplit(server).hostname
    try:
        return str(ipaddress.ip_address(host or ""))
    except ValueError:
        return None


def _flags(host: Mapping, component: str) -> Mapping:
    return ((host.get("components") or {}).get(component) or {}).get("flags") or {}


# --- results --------------------------------------------------------------------------------------------------------


def plain(result: Mapping) -> dict[str, t.Any]:
    """The result of a module as it is kept: certificates in words, without what Ansible adds, without secrets."""
    kept = {key: value for key, value in result.items() if key not in _NOISE}
    return t.cast("dict[str, t.Any]", _without_der(_without_secrets(decoding.decode(kept))))


def plain_api_server(result: Mapping) -> dict[str, t.Any]:
    """What api_server_info returns; of dozens of checks, those that fail."""
    kept = plain(result)
    if kept.get("checks") is not None:
        kept["checks"] = [check for check in kept["checks"] if not check["ok"]]
    return kept


def plain_host(facts: Mapping) -> dict[str, t.Any]:
    """The fact of a host, its kubelet's certificate in words."""
    kept = plain(facts)
    answers = kept.get("kubelet_answers")
    if isinstance(answers, dict):
        answers["certificate"] = decoding.in_words(answers.get("certificate"))
    return kept


def _without_der(value: t.Any) -> t.Any:
    if isinstance(value, list):
        return [_without_der(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _without_der(entry) for key, entry in value.items() if not str(key).endswith("certificate_der")}
    return value


def _without_secrets(value: t.Any) -> t.Any:
    """A last filter behind those of the modules: whatever looks like a key or a token by itself."""
    if isinstance(value, str):
        return masking.mask_standing_alone(value)
    if isinstance(value, list):
        return [_without_secrets(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _without_secrets(entry) for key, entry in value.items()}
    return value


def host_entry(discovered: Mapping | None, connected: Mapping | None, kubelets: Mapping) -> dict[str, t.Any]:
    """One host of the document. ``kubelets`` are the names of nodes by address."""
    discovered = discovered or {"reachable": False, "message": "Ansible left it out before it was examined."}
    connected = connected or {}
    host = discovered.get("host")
    entry: dict[str, t.Any] = {
        "node": (host or {}).get("node_name"),
        "control_plane": bool(discovered.get("control_plane")),
        "reachable": bool(discovered.get("reachable")),
        "message": str(discovered.get("message") or ""),
        "host": host,
        "network": None,
        "api_server": discovered.get("api_server"),
        "aggregator": {},
        "pod": None,
        "kubelets": [],
        "errors": {**(discovered.get("errors") or {}), **(connected.get("errors") or {})},
    }
    for part, result in (connected.get("results") or {}).items():
        kind, _space, name = str(part).partition(" ")
        if kind == "aggregator":
            entry["aggregator"][name] = result
        elif kind == "kubelets":
            entry["kubelets"] += [
                {"node": kubelets.get(kubelet["address"]), **kubelet} for kubelet in result.get("kubelets") or ()
            ]
        else:
            entry[kind] = result
    return entry


def assemble(
    hosts: Mapping,
    api: Mapping | None,
    *,
    started: datetime.datetime,
    now: datetime.datetime,
    versions: Mapping,
    left_out: t.Sequence[Mapping] = (),
    apiservice: str = RESOURCE_METRICS,
) -> dict[str, t.Any]:
    """The evidence document. ``hosts`` holds, by name, what each step found there."""
    api = dict(api) if api else None
    nodes = ((api or {}).get("state") or {}).get("nodes") or []
    by_address = {address: name for name, _port, address in kubelets_of(nodes)}
    if not by_address:
        found = [host for entry in hosts.values() if (host := (entry.get("discovered") or {}).get("host"))]
        by_address = {address: name for name, _port, address in kubelets_of_hosts(found)}
    entries = {
        name: host_entry(entry.get("discovered"), entry.get("connected"), by_address) for name, entry in hosts.items()
    }
    known_nodes = (((api or {}).get("cluster")) or {}).get("node_hosts") or {}
    for node, name in known_nodes.items():
        if name in entries:
            entries[name]["node"] = node
    cut = dict(sorted(entries.items())[:MOST_HOSTS])
    answered = bool(api and not api.get("message"))
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "collected": {
            "at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "seconds": round((now - started).total_seconds(), 1),
            "scope": ("hosts_and_api" if answered else "hosts") if entries else "api",
            "apiservice": apiservice,
            **versions,
        },
        "hosts": cut,
        "api": shortened_api(api),
        "not_collected": [*left_out, *not_collected(entries, api)],
    }
    if len(entries) > len(cut):
        document["not_collected"].append(
            _missing(f"{len(entries) - len(cut)} of {len(entries)} hosts", f"a document holds {MOST_HOSTS}", "host")
        )
    return document


def shortened_api(api: Mapping | None) -> dict[str, t.Any] | None:
    """What the API said, with lists that end somewhere."""
    if api is None:
        return None
    kept = dict(api)
    nodes = (kept.get("state") or {}).get("nodes") or []
    if len(nodes) > MOST_HOSTS:
        kept["state"] = {**kept["state"], "nodes": nodes[:MOST_HOSTS]}
    for entry in (kept.get("metrics") or {}).get("servers") or ():
        for kind in ("nodes", "pods"):
            part = entry.get(kind) or {}
            for name in ("missing", "stale", "usage"):
                if isinstance(part.get(name), list):
                    part[name] = part[name][:MOST_HOSTS]
    return kept


def not_collected(hosts: Mapping, api: Mapping | None) -> list[dict[str, str]]:
    """What the document lacks, why, and what nobody can say without it."""
    found = []
    if not hosts:
        found.append(_missing("the hosts", "no inventory was given, only a kubeconfig", "hosts"))
    for name, entry in sorted(hosts.items()):
        if not entry["reachable"]:
            found.append(_missing(name, entry["message"], "host"))
        for probe, why in sorted(entry["errors"].items()):
            found.append(_missing(f"{probe} on {name}", why, ""))
    if api is None:
        found.append(_missing("the API", "there is no kubeconfig to ask it with", "api"))
        return found
    if api.get("message"):
        found.append(_missing("the API", str(api["message"]), "api"))
        return found
    denied = [right_in_words(right) for right in api.get("denied") or ()]
    if denied:
        found.append(_missing(f"the user {_user(api)} may not", ", ".join(denied), "rights"))
    for probe, why in sorted((api.get("errors") or {}).items()):
        if api.get("denied") and " answered 403 " in why:
            # The right says it better.
            continue
        found.append(_missing(f"{probe} of the API", why, ""))
    for why in (api.get("objects") or {}).get("truncated") or ():
        found.append(_missing("a part of the objects", str(why), ""))
    nodes = len((api.get("state") or {}).get("nodes") or ())
    if nodes > MOST_HOSTS:
        found.append(_missing(f"{nodes - MOST_HOSTS} of {nodes} nodes and their kubelets", "there are too many", ""))
    return found


def right_in_words(right: Mapping) -> str:
    """A right as a person says it: get configmaps kube-system/kubeadm-config."""
    if right.get("path"):
        return f"{right['verb']} {right['path']}"
    resource = f"{right['resource']}.{right['group']}" if right.get("group") else str(right["resource"])
    resource += f"/{right['subresource']}" if right.get("subresource") else ""
    named = f" {right['name']}" if right.get("name") else ""
    where = f" in {right['namespace']}" if right.get("namespace") else ""
    return f"{right['verb']} {resource}{named}{where}"


def _user(api: Mapping) -> str:
    return str((api.get("user") or {}).get("name") or "of the kubeconfig")


def _missing(what: str, why: str, leaves_open: str) -> dict[str, str]:
    return {"what": what, "why": why.rstrip("."), "leaves_open": _LEAVES_OPEN.get(leaves_open, "")}


# --- files ----------------------------------------------------------------------------------------------------------


def to_text(document: Mapping) -> str:
    """The document as it is saved: sorted, so that two of them can be compared."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def from_text(text: str, path: str) -> dict[str, t.Any]:
    """A saved document. Raises ValueError with a sentence."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ValueError(f"{path} is no JSON object; give doctor_evidence a file that doctor_evidence_file has saved.")
    return document
