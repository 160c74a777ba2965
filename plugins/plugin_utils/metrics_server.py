# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the metrics server's objects say, and what stands in their way. Pure functions over the role's variables."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import typing as t
from decimal import Decimal
from urllib.parse import urlsplit

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, providers
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import image_nodes, metrics_api

NAME = providers.NAME
#: What a container is called, whatever the Deployment is.
CONTAINER = "metrics-server"
KUBELET_PORT = 10250
#: The types of addresses that a Node may have, as the server names them.
ADDRESS_TYPES = ("Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP")
SHORTEST_RESOLUTION = 10.0
#: The first release that resizes running pods without being told to.
FIRST_WITH_RESIZE = (1, 33)

CONTROL_PLANE_TOLERATIONS = [
    {"key": "node-role.kubernetes.io/" + role, "operator": "Exists", "effect": "NoSchedule"}
    for role in ("control-plane", "master")
]


def separate_nodes(name: str) -> dict[str, t.Any]:
    """Pods of one Deployment on different nodes, where there are several."""
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "podAffinityTerm": {
                        "topologyKey": cluster_state.HOSTNAME_LABEL,
                        "labelSelector": {"matchLabels": {"k8s-app": name}},
                    },
                }
            ]
        }
    }


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(|m|k|[MGTPE]|[KMGTPE]i)")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_REGISTRY = re.compile(r"[^/]*[.:][^/]*|localhost")


class Settings:
    """The variables of the role, in the types that they mean: on the command line everything is text."""

    def __init__(self, values: t.Mapping[str, t.Any]) -> None:
        self.values = values

    def text(self, name: str) -> str:
        return str(self.values["metrics_server_" + name]).strip()

    def flag(self, name: str) -> bool:
        return boolean(self.values["metrics_server_" + name], strict=False)

    def number(self, name: str) -> int:
        return int(self.values["metrics_server_" + name])

    def items(self, name: str) -> list[t.Any]:
        value = self.values["metrics_server_" + name]
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return list(value or ())

    def mapping(self, name: str) -> dict[str, t.Any]:
        return dict(self.values["metrics_server_" + name] or {})

    @property
    def source(self) -> str:
        return self.text("image_source")

    @property
    def loads(self) -> bool:
        """Whether the image is loaded into nodes, and in no registry."""
        return self.source in ("build", "archive")


def seconds(duration: str) -> float | None:
    """A duration as Go writes it, or None."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def quantity(said: t.Any) -> Decimal | None:
    """An amount of memory or CPU, or None for what is none; the API server says what is wrong with that."""
    match = _QUANTITY.fullmatch(str(said).strip())
    if not match:
        return None
    number, unit = Decimal(match.group(1)), match.group(2)
    if unit == "m":
        return number / 1000
    return number * (1024 if unit.endswith("i") else 1000) ** _POWERS["k" if unit == "Ki" else unit[:1]]


def problems(values: t.Mapping[str, t.Any]) -> list[str]:
    """Sentences for variables that cannot be meant, known without a request."""
    settings = Settings(values)
    found = image_problems(settings)
    port = settings.number("container_port")
    if not 0 < port < 65536:
        found.append(f"metrics_server_container_port is {port}, and no port; set it to 10250, for example.")
    if settings.flag("host_network") and port == KUBELET_PORT:
        found.append(
            "With metrics_server_host_network the port 10250 is the kubelet's own; set metrics_server_container_port, "
            "for example to 4443."
        )
    if settings.flag("kubelet_insecure_skip_tls_verify") and settings.text("kubelet_certificate_authority"):
        found.append(
            "metrics_server_kubelet_insecure_skip_tls_verify and metrics_server_kubelet_certificate_authority exclude "
            "each other; unset the first one."
        )
    resolution = seconds(settings.text("metric_resolution"))
    if resolution is None or resolution < SHORTEST_RESOLUTION:
        found.append(
            f"metrics_server_metric_resolution is {settings.text('metric_resolution')}; set it to 10s or more, such as "
            "15s."
        )
    if settings.number("replicas") < 1:
        found.append(
            f"metrics_server_replicas is {settings.number('replicas')}; set it to 1 or more, or metrics_server_state "
            "to absent to remove the server."
        )
    unknown = [kind for kind in settings.items("kubelet_preferred_address_types") if kind not in ADDRESS_TYPES]
    if unknown:
        found.append(
            f"metrics_server_kubelet_preferred_address_types has {unknown[0]}, which is no type of address; set it to "
            f"one or more of {', '.join(ADDRESS_TYPES)}, or leave it empty."
        )
    return found + resource_problems(settings)


def resource_problems(settings: Settings) -> list[str]:
    """Sentences for requests that exceed their limits, which API servers refuse in the middle of a run."""
    # With the nanny, the Deployment has neither.
    if settings.flag("nanny"):
        return []
    found = []
    for resource in ("cpu", "memory"):
        request, limit = settings.text(f"requests_{resource}"), settings.text(f"limits_{resource}")
        asked, most = quantity(request), quantity(limit)
        if asked is not None and most is not None and asked > most:
            found.append(
                f"metrics_server_requests_{resource} is {request}, and metrics_server_limits_{resource} is {limit}; "
                f"set the limit to {request} or more, or the request to {limit} or less."
            )
    return found


def image_problems(settings: Settings) -> list[str]:
    """Sentences for variables of the image that cannot be meant."""
    found = []
    source, repository, policy = settings.source, settings.text("image_name"), settings.text("image_pull_policy")
    if source == "pull" and not settings.text("image_version"):
        found.append(
            "metrics_server_image_source is pull, so metrics_server_image_name and metrics_server_image_version have "
            "to name an image (for example registry.example.com/kubemetrics/metrics-server and 0.1.0)."
        )
    registry = repository.partition("/")[0] if "/" in repository else ""
    if settings.loads and not _REGISTRY.fullmatch(registry):
        found.append(
            f"metrics_server_image_name is {repository}, which container runtimes take for an image of docker.io; put "
            f"localhost/ in front of the name of an image that is loaded (localhost/{repository})."
        )
    if (not found and not settings.loads) and (
        registry == "localhost" or (source == "push" and not _REGISTRY.fullmatch(registry))
    ):
        found.append(
            f"metrics_server_image_source is {source}, but metrics_server_image_name ({repository}) names no registry; "
            "put its host in front (for example registry.example.com/kubemetrics/metrics-server)."
        )
    archive = settings.text("image_archive")
    if source == "archive" and not archive:
        found.append(
            "metrics_server_image_source is archive, so metrics_server_image_archive has to name an archive of the "
            "image on the controller, or a folder with one for each architecture."
        )
    if archive and source not in ("archive", "push"):
        found.append(
            f"metrics_server_image_archive is set, but metrics_server_image_source is {source}; set it to archive to "
            "load that image into nodes, or to push to send it to a registry."
        )
    if settings.loads and policy == "Always":
        found.append(
            f"metrics_server_image_pull_policy is Always, but with metrics_server_image_source={source} the image is "
            "in no registry; leave metrics_server_image_pull_policy empty, or set metrics_server_image_source to push."
        )
    if not settings.loads and policy == "Never":
        found.append(
            f"metrics_server_image_pull_policy is Never, but with metrics_server_image_source={source} nodes have to "
            "pull the image; leave metrics_server_image_pull_policy empty."
        )
    if settings.loads:
        try:
            image_nodes.wanted_workers(settings.text("image_nodes"))
        except image_nodes.ImageNodesError as exc:
            found.append(str(exc))
    return found


def obstacles(values: t.Mapping[str, t.Any], provider: t.Mapping[str, t.Any]) -> list[str]:
    """Sentences for what the cluster has or lacks, from metrics_provider_info."""
    settings = Settings(values)
    found = []
    found += takeover_refusals(settings, provider)
    name = settings.text("namespace")
    namespace = provider.get("namespace") or {}
    if namespace.get("terminating"):
        found.append(
            f"The namespace {name} is being deleted; wait until it is gone, or name another one as "
            "metrics_server_namespace."
        )
    level = namespace.get("pod_security")
    if settings.flag("host_network") and level in ("baseline", "restricted"):
        found.append(
            f"The namespace {name} enforces the Pod Security level {level}, which has no room for "
            "metrics_server_host_network; name another namespace as metrics_server_namespace, or do without it."
        )
    for missing in provider.get("missing") or ():
        found.append(
            f"Nothing would start without {missing}; create it, or correct metrics_server_priority_class and "
            "metrics_server_image_pull_secrets."
        )
    return found


def takeover_refusals(settings: Settings, provider: t.Mapping[str, t.Any]) -> list[str]:
    """Sentences for another provider that is not replaced: whose it is, since when, and what to do."""
    asked, forced = settings.flag("takeover"), settings.flag("takeover_force")
    backends = {entry["name"]: entry["service"] for entry in provider.get("apiservices") or ()}
    found = []
    for name, owner in (provider.get("owners") or {}).items():
        backend = backends.get(name) or {}
        subject = (
            f"Another metrics server is here already, and nothing was changed: APIService {name} belongs to "
            f"{owner['owner']} since {owner['since'] or 'an unknown time'} and is served by Service "
            f"{backend.get('namespace')}/{backend.get('name')}"
        )
        if owner["switch_off"] and not (asked and forced):
            returns = (
                "it would take the API back" if owner["kind"] == "prometheus-adapter" else "it puts its objects back"
            )
            found.append(
                f"{subject}; {returns}, so {owner['switch_off']}, or set metrics_server_takeover and "
                "metrics_server_takeover_force to true."
            )
        elif not asked:
            found.append(
                f"{subject}; remove it with the tool that made it, or set metrics_server_takeover to true to change "
                "over to this one without a gap."
            )
    rest = provider.get("foreign") or ()
    if not found and rest and not asked:
        found.append(
            f"Another metrics server is here already, and nothing was changed: {'; '.join(rest)}; remove it with the "
            "tool that made it, or set metrics_server_takeover to true to replace it."
        )
    return found


#: Makes every container pull its image, whatever its policy says. kubespray's guide to hardening has it.
ALWAYS_PULL = "AlwaysPullImages"


def always_pulled(who: str) -> str:
    return (
        f"{who} the admission plugin {ALWAYS_PULL}, which makes every pod pull its image, so that one that is only "
        "loaded into nodes never starts; set metrics_server_image_source to push, and metrics_server_image_name to a "
        f"place in a registry of yours, or do without {ALWAYS_PULL}."
    )


def pulling_servers(hosts: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """The hosts whose API server makes pods pull their images, by the fact of each."""
    found = []
    for host in hosts:
        component = host["components"].get("kube-apiserver") or {}
        named = (component.get("flags") or {}).get("enable-admission-plugins") or []
        plugins = named if isinstance(named, list) else str(named).split(",")
        if component.get("running") and ALWAYS_PULL in plugins:
            found.append(str(host["name"]))
    return found


def describe(
    values: t.Mapping[str, t.Any],
    cluster: t.Mapping[str, t.Any],
    image: str,
    versions: t.Sequence[str],
    name: str = NAME,
) -> dict[str, t.Any]:
    """What the manifests' template cannot know by itself."""
    settings = Settings(values)
    selector = {"kubernetes.io/os": "linux", **settings.mapping("nodeselector")}
    if settings.loads:
        selector.update(image_nodes.label_of(image))
    return {
        "image": image,
        "pull_policy": settings.text("image_pull_policy") or ("Never" if settings.loads else "IfNotPresent"),
        "args": server_arguments(settings, versions, name),
        "nanny_args": nanny_arguments(settings, cluster, name),
        "nanny_in_place": resizes_in_place(settings, cluster),
        "csr_approver_args": approver_arguments(settings, cluster),
        "resources": resources(settings),
        "node_selector": selector,
        "affinity": {**separate_nodes(name), **settings.mapping("extra_affinity")},
        "tolerations": tolerations(settings),
    }


def placement(values: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What decides which nodes may run the server, the label of the image left out."""
    settings = Settings(values)
    return {
        "selector": {"kubernetes.io/os": "linux", **settings.mapping("nodeselector")},
        "affinity": settings.mapping("extra_affinity"),
        "tolerations": tolerations(settings),
    }


def tolerations(settings: Settings) -> list[dict[str, t.Any]]:
    return [*map(dict, CONTROL_PLANE_TOLERATIONS), *settings.items("extra_tolerations")]


def server_arguments(settings: Settings, versions: t.Sequence[str], name: str) -> list[str]:
    arguments = [
        "--cert-dir=/tmp",
        f"--secure-port={settings.number('container_port')}",
        "--kubelet-use-node-status-port",
        f"--metric-resolution={settings.text('metric_resolution')}",
        # A server that ends still answers while API servers and kube-proxies learn that it has left the Service.
        "--shutdown-delay-duration=5s",
        "--self-managed-certificate",
        f"--serving-secret={name}-serving-cert",
        f"--service-name={name}",
        f"--service-namespace={settings.text('namespace')}",
        "--apiservice=" + ",".join(f"{version}.{cluster_state.METRICS_GROUP}" for version in versions),
    ]
    preferred = settings.items("kubelet_preferred_address_types")
    # The server refuses an empty list, and has an order of its own.
    if preferred:
        arguments.insert(2, f"--kubelet-preferred-address-types={','.join(preferred)}")
    if settings.flag("kubelet_insecure_skip_tls_verify"):
        arguments.append("--kubelet-insecure-tls")
    if settings.flag("kubelet_summary_api"):
        arguments.append("--kubelet-summary-api")
    authority = settings.text("kubelet_certificate_authority")
    if authority:
        arguments.append(f"--kubelet-certificate-authority={authority}")
    return arguments + [str(entry) for entry in settings.items("extra_args")]


def resizes_in_place(settings: Settings, cluster: t.Mapping[str, t.Any]) -> bool:
    """Whether running pods are resized: where every API server and every kubelet can, the oldest decides."""
    servers = [str(server.get("version") or "") for server in cluster.get("servers") or ()]
    kubelets = [str(node.get("kubelet_version") or "") for node in (cluster.get("nodes") or {}).values()]
    versions = [version for version in map(metrics_api.minor_version, servers + kubelets) if version]
    return settings.flag("nanny_in_place") and bool(versions) and min(versions) >= FIRST_WITH_RESIZE


def nanny_arguments(settings: Settings, cluster: t.Mapping[str, t.Any], name: str) -> list[str]:
    arguments = [
        "nanny",
        f"--namespace={settings.text('namespace')}",
        f"--deployment={name}",
        f"--container={CONTAINER}",
        f"--cpu={settings.text('nanny_cpu')}",
        f"--extra-cpu={settings.text('nanny_cpu_per_node')}",
        # Without a limit of CPU, as the server has none.
        "--cpu-limit=false",
        f"--memory={settings.text('nanny_memory')}",
        f"--extra-memory={settings.text('nanny_memory_per_node')}",
        "--estimator=exponential",
        f"--minClusterSize={settings.number('nanny_min_cluster_size')}",
        "--threshold=5",
        # Slow to shrink, so that nodes which come and go are no rolling updates.
        "--scale-down-delay=30m",
        "--poll-period=30000",
    ]
    if resizes_in_place(settings, cluster):
        arguments.append("--in-place")
    if settings.flag("nanny_use_metrics"):
        arguments.append("--use-metrics")
    return arguments + [str(entry) for entry in settings.items("nanny_extra_args")]


def approver_arguments(settings: Settings, cluster: t.Mapping[str, t.Any]) -> list[str]:
    lists = {
        "allowed-cidrs": settings.items("csr_approver_allowed_cidrs"),
        "allowed-domains": settings.items("csr_approver_allowed_domains"),
        "control-plane-addresses": control_plane_addresses(settings, cluster),
        "service-cidrs": list(cluster.get("service_cidrs") or ()),
    }
    arguments = [f"--{name}={','.join(map(str, entries))}" for name, entries in lists.items() if entries]
    return ["csr-approver", *arguments, *(str(entry) for entry in settings.items("csr_approver_extra_args"))]


def control_plane_addresses(settings: Settings, cluster: t.Mapping[str, t.Any]) -> list[str]:
    """What of the API servers' addresses is no node's: those of nodes are guarded by their nodes."""
    nodes = {
        address["address"] for node in (cluster.get("nodes") or {}).values() for address in node.get("addresses") or ()
    }
    hosts = [urlsplit(str(server["server"])).hostname or "" for server in cluster.get("servers") or ()]
    given = [str(entry) for entry in settings.items("csr_approver_control_plane_addresses")]
    given += [str(entry) for entry in cluster.get("api_addresses") or () if entry not in nodes]
    return list(dict.fromkeys(given + [host for host in hosts if host and host not in nodes]))


def resources(settings: Settings) -> dict[str, dict[str, str]]:
    requests = {"cpu": settings.text("requests_cpu"), "memory": settings.text("requests_memory")}
    limits = {"cpu": settings.text("limits_cpu"), "memory": settings.text("limits_memory")}
    return {
        "requests": {name: value for name, value in requests.items() if value},
        "limits": {name: value for name, value in limits.items() if value},
    }


def stamped(objects: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """The objects with their checksum on the Deployment: what was applied with it has been accepted already."""
    digest = hashlib.sha256(json.dumps(objects, sort_keys=True, default=str).encode()).hexdigest()[:16]
    result = copy.deepcopy(list(objects))
    for entry in result:
        if entry.get("kind") == "Deployment" and entry["metadata"]["name"] in (NAME, providers.OTHER_NAME):
            entry["metadata"].setdefault("annotations", {})[cluster_state.DIGEST] = digest
    return {"digest": digest, "objects": result}


def takeover(provider: t.Mapping[str, t.Any], wanted: t.Sequence[str]) -> dict[str, t.Any]:
    """What a takeover keeps, switches and removes, as paths. All of them are empty where nobody else is there.

    What an interrupted one has left is only removed: it was kept before the switch, together with its registration.
    With them are the UIDs of what is removed, so that it is known again after an interruption.

    All registrations of the new server are written together: one written before could be asked before its CA is there.
    An APIService that this collection does not serve goes with the server behind it. Empty, too, where nobody has asked
    for the provider: what a task uses is evaluated also when the task is then skipped.
    """
    registrations = provider.get("registrations") or {}
    removable = list(provider.get("removable") or ())
    entries = provider.get("apiservices") or ()
    backends = {entry["name"]: entry["service"] or {} for entry in entries}
    own = {entry["name"] for entry in entries if entry.get("managed")}
    others = [name for name in wanted if name in registrations]
    missing = [name for name in wanted if name not in own and name not in registrations]
    switched = [registration_path(name) for name in [*others, *(missing if others else [])]]
    gone = [
        path
        for name, path in registrations.items()
        if name not in wanted and any(path_of_service(backends.get(name) or {}) == entry for entry in removable)
    ]
    removed = gone + removable
    unfinished = provider.get("unfinished") or ()
    kept = [path for path in removed if path not in unfinished]
    return {"keep": switched + kept, "switch": switched, "remove": removed, "uids": dict(provider.get("uids") or {})}


def handed_back(objects: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What a recorded takeover gives back: first the old server, then, when it is ready, its registrations."""
    registrations = {path: entry for path, entry in objects.items() if "/apiservices/" in path}
    workloads = {path: entry for path, entry in objects.items() if path not in registrations and entry}
    deployments = [entry["metadata"] for entry in workloads.values() if entry["kind"] == "Deployment"]
    return {
        "registrations": registrations,
        "workloads": workloads,
        "deployments": [{"name": entry["name"], "namespace": entry["namespace"]} for entry in deployments],
        "current": list(registrations),
    }


def registration_path(name: str) -> str:
    return providers.path_of("APIService", {"metadata": {"name": name}})


def path_of_service(backend: t.Mapping[str, t.Any]) -> str:
    return providers.path_of("Service", {"metadata": dict(backend)}) if backend.get("name") else ""


def unregistered(
    objects: t.Sequence[t.Mapping[str, t.Any]], plan: t.Mapping[str, t.Sequence[str]]
) -> list[t.Mapping[str, t.Any]]:
    """The objects without the APIServices that another server serves until it is replaced."""
    return [
        entry
        for entry in objects
        if entry["kind"] != "APIService" or providers.path_of("APIService", entry) not in plan["switch"]
    ]


def switched(objects: t.Sequence[t.Mapping[str, t.Any]], plan: t.Mapping[str, t.Any], ca_data: str) -> dict[str, t.Any]:
    """The APIServices of a takeover by their paths, whole: labels and annotations of their old owner go with it.

    One that stayed could have cert-manager write its CA into the registration again. In the same write they get what is
    removed after the switch: nothing else would lead to it then.
    """
    uids = plan.get("uids") or {}
    replaces = json.dumps({path: uids[path] for path in plan["remove"] if path in uids})
    bundle = base64.b64encode(ca_data.encode()).decode()
    found = {}
    for entry in objects:
        path = providers.path_of("APIService", entry) if entry["kind"] == "APIService" else ""
        if path in plan["switch"]:
            annotations = {**(entry["metadata"].get("annotations") or {}), cluster_state.REPLACES: replaces}
            found[path] = {
                **entry,
                "metadata": {**entry["metadata"], "annotations": annotations},
                "spec": {**entry["spec"], "caBundle": bundle},
            }
    return found


def kept(objects: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Objects as they are restored: with an address that is free then, instead of one that may be taken."""
    result = copy.deepcopy(dict(objects))
    for entry in result.values():
        if entry and entry.get("kind") == "Service" and entry["spec"].get("clusterIP") != "None":
            for key in ("clusterIP", "clusterIPs"):
                entry["spec"].pop(key, None)
    return result


def unreached(answers: t.Mapping[str, t.Any]) -> list[str]:
    """What keeps each control plane from its new server, by the result of aggregator_info for each of them.

    One of the Service's address and its endpoints suffices: which one the API server takes depends on its flags.
    """
    found = []
    for host, answer in answers.items():
        # Its API server has no front-proxy certificate, so that it asks nobody.
        if answer.get("skipped"):
            continue
        targets = answer.get("targets") or ()
        ways: dict[str, list[t.Mapping[str, t.Any]]] = {}
        for target in targets:
            ways.setdefault(target["kind"], []).append(target)
        if any(all(target["verdict"] == "ok" for target in group) for group in ways.values()):
            continue
        seen = ", ".join(f"{target['host']}:{target['port']} {target['verdict']}" for target in targets)
        found.append(f"{host}: {seen or answer.get('msg') or 'the server has no endpoint'}")
    return found


def without_namespace(objects: t.Sequence[t.Mapping[str, t.Any]], namespace: str) -> list[t.Mapping[str, t.Any]]:
    """Those that can be tried out before their namespace exists."""
    return [entry for entry in objects if entry["metadata"].get("namespace") != namespace]
