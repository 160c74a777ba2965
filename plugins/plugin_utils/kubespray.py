# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kubespray's variables mean to this collection. Pure functions over an inventory's values."""

from __future__ import annotations

import copy
import re
import shlex
import typing as t

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags, kubelet_values
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.kubelet_flags import CONFIG_FLAGS
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy, metrics_server
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.kubelet_settings import Settings, truth, whole
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.role_specifications import default

Facts = t.Mapping[str, t.Any]

# --- how its hosts are reached --------------------------------------------------------------------------------------


def bastion_arguments(bastion: Facts, host: Facts, *, check_host_keys: bool = True) -> str:
    """Arguments of ssh by which a host is reached through a bastion, as kubespray's own roles reach it.

    ``bastion`` and ``host`` are the variables of connections of both. Whether the bastion's key is checked is what the
    user has told Ansible for all hosts.
    """
    address = bastion.get("ansible_host") or bastion.get("inventory_hostname")
    user = bastion.get("ansible_user") or host.get("ansible_user")
    key = host.get("ansible_ssh_private_key_file") or bastion.get("ansible_ssh_private_key_file")
    words = ["ssh", "-W", "%h:%p", "-p", str(bastion.get("ansible_port") or 22)]
    if key:
        words += ["-i", str(key)]
    if not check_host_keys:
        words += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    words.append(f"{user}@{address}" if user else str(address))
    return "-o ProxyCommand=" + shlex.quote(" ".join(map(shlex.quote, words)))


# --- its metrics server ---------------------------------------------------------------------------------------------

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
#: What kubespray takes for IPv6 where the inventory only switches it on.
IPV6_NETWORKS = {
    "kube_service_addresses_ipv6": "fd85:ee78:d8a6:8607::1000/116",
    "kube_pods_subnet_ipv6": "fd85:ee78:d8a6:8607::1:0000/112",
}
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


def own(names: t.Iterable[str]) -> list[str]:
    """The names of variables that are not kubespray's alone, whose values may refer to what only kubespray has."""
    return [name for name in names if name not in LEFT_ALONE]


def means_default(name: str, value: t.Any) -> bool:
    """Whether kubespray takes a value for none at all, as for ``metrics_server_nodeselector:`` without a value."""
    if name not in SHARED:
        return False
    return value is None or (value == "" and isinstance(default("metrics_server", name), (dict, list)))


def translate(values: t.Mapping[str, t.Any], given: t.Iterable[str], enabled: t.Any = False) -> dict[str, t.Any]:
    """What the bundled server takes over from kubespray's variables, and what not.

    ``values`` are the variables of the role metrics_server by name, ``given`` the names that the inventory sets,
    ``enabled`` is what it says of kubespray's own server.
    """
    names = set(given)
    left_alone = {name: LEFT_ALONE[name] for name in sorted(names.intersection(LEFT_ALONE))}
    unset = [name for name in SHARED if name in names and means_default(name, values.get(name))]
    settings = {name: copy.deepcopy(default("metrics_server", name)) for name in unset}
    values = {**values, **settings}
    names.difference_update(unset)
    used = sorted(names.intersection(SHARED))
    changed = {}
    limit = "metrics_server_limits_memory"
    if limit in used and _less(values.get(limit), LEAST_MEMORY):
        settings[limit] = LEAST_MEMORY
        changed[limit] = f"{values[limit]} would not start the bundled server; it gets {LEAST_MEMORY}"
        used.remove(limit)
    for resource in ("cpu", "memory"):
        for name, (value, reason) in _balanced({**values, **settings}, names, resource).items():
            settings[name], changed[name] = value, reason
    return {
        "problem": _deployed_twice() if boolean(enabled, strict=False) else "",
        "settings": settings,
        "used": used,
        "changed": changed,
        "left_alone": left_alone,
    }


def settings(said: Facts) -> dict[str, t.Any]:
    """What kubespray's variables mean, as far as that needs no host and no cluster."""
    wants_deploy = said.get("metrics_server_deploy")
    deploys = boolean(True if wants_deploy in (None, "") else wants_deploy, strict=False)
    source = said.get("metrics_server_image_source") or "build"
    twice = deploys and boolean(said.get("metrics_server_enabled") or False, strict=False)
    problem = _deployed_twice() if twice else ""
    plugins = said.get("kube_apiserver_enable_admission_plugins")
    if deploys and source in ("build", "archive") and metrics_server.ALWAYS_PULL in _names(plugins):
        problem = problem or metrics_server.always_pulled("kube_apiserver_enable_admission_plugins has")
    problem = problem or _signed_elsewhere(said)
    about_image = _image_notes(said) if deploys and source in ("build", "push") else []
    return {
        "problem": problem,
        "notes": about_image,
        "api_addresses": api_addresses(said),
        "service_cidrs": networks(said, "kube_service_addresses"),
        "pod_cidrs": networks(said, "kube_pods_subnet"),
    }


def _signed_elsewhere(said: Facts) -> str:
    """A sentence where kubelets shall have certificates of the cluster, and the cluster lacks the key of its CA."""
    external = _on(said.get("kube_external_ca_mode"), False)
    wanted = _on(said.get("kubelet_access_enabled"), True) and _on(
        said.get("kubelet_access_serving_certificates"), True
    )
    extra = said.get("kubelet_config_extra_args")
    own = said.get("kubelet_access_tls_cert_file") or (isinstance(extra, dict) and extra.get("tlsCertFile"))
    if not external or not wanted or own:
        return ""
    return (
        "kube_external_ca_mode is true, so that the cluster does not have the key of its CA and cannot sign serving "
        "certificates of kubelets; put certificates of your CA on the hosts and name them as "
        "kubelet_access_tls_cert_file and kubelet_access_tls_private_key_file, or set "
        "kubelet_access_serving_certificates to false."
    )


def networks(said: Facts, name: str) -> str:
    """The networks of Services or pods, separated by commas, by the stacks that kubespray switches on.

    Its default for IPv4 is none of this collection's: who sets nothing may have made the cluster with something else.
    Nobody but users of kubespray has its stacks.
    """
    dual = said.get("enable_dual_stack_networks")
    stacks = {
        name: _on(said.get("ipv4_stack"), True),
        name + "_ipv6": _on(said.get("ipv6_stack"), _on(dual, False)),
    }
    found = [str(said.get(one) or IPV6_NETWORKS.get(one, "")).strip() for one, on in stacks.items() if on]
    return ",".join(filter(None, found))


def _on(value: t.Any, otherwise: bool) -> bool:
    return otherwise if value in (None, "") else boolean(value, strict=False)


def _names(said: t.Any) -> list[str]:
    entries = said if isinstance(said, list) else str(said or "").split(",")
    return [str(entry).strip() for entry in entries]


def _image_notes(said: Facts) -> list[str]:
    """What an operator of mirrors and proxies has to know before the image is made, which the controller does."""
    notes = []
    mirror = str(said.get("docker_image_repo") or "").strip().rstrip("/")
    if mirror and mirror != "docker.io" and not said.get("metrics_server_image_base"):
        notes.append(
            f"docker_image_repo is {mirror}, for kubespray's images. The base image of the metrics server comes from "
            "docker.io; where the controller cannot reach that, put it into your mirror and set "
            f"metrics_server_image_base to {mirror}/library/python:3.13-slim-bookworm."
        )
    proxies = [name for name in ("http_proxy", "https_proxy") if said.get(name)]
    if proxies:
        verb = "is" if len(proxies) == 1 else "are"
        notes.append(
            f"{' and '.join(proxies)} of the inventory {verb} for kubespray's hosts. The controller "
            "fetches what the image is made of, through the proxy of its own environment (HTTPS_PROXY)."
        )
    return notes


def api_addresses(said: Facts) -> list[str]:
    """Addresses and names of the API servers beside those of their hosts: what their certificates have of them."""
    balancer = said.get("loadbalancer_apiserver")
    more = said.get("supplementary_addresses_in_ssl_keys")
    found = [
        balancer.get("address") if isinstance(balancer, dict) else None,
        said.get("apiserver_loadbalancer_domain_name"),
        said.get("kube_vip_address"),
        *_flattened(more),
    ]
    names = [str(entry).strip() for entry in found if entry and isinstance(entry, str)]
    # Every node has these.
    return [name for name in dict.fromkeys(names) if name not in ("localhost", "127.0.0.1", "::1")]


def _flattened(said: t.Any) -> list[t.Any]:
    """A list of lists, or a single value, as the list that kubespray makes of it."""
    return [one for entry in said for one in _flattened(entry)] if isinstance(said, list) else [said]


def _deployed_twice() -> str:
    return (
        "metrics_server_enabled is true, so that kubespray deploys a metrics server of its own, now and on every later "
        "run of cluster.yml and upgrade-cluster.yml; set metrics_server_enabled to false in "
        "group_vars/k8s_cluster/addons.yml (this metrics server needs no switch), or metrics_server_deploy to false "
        "to keep kubespray's."
    )


def _less(one: t.Any, other: t.Any) -> bool:
    """Whether one quantity is smaller than another. What is no quantity is not, and the API server says what it is."""
    left, right = metrics_server.quantity(one), metrics_server.quantity(other)
    return left is not None and right is not None and left < right


def _balanced(values: t.Mapping[str, t.Any], given: t.Collection[str], resource: str) -> dict[str, tuple[t.Any, str]]:
    """The request or limit whose default contradicts the other one, which the inventory sets, and why it changes."""
    request, limit = f"metrics_server_requests_{resource}", f"metrics_server_limits_{resource}"
    if not _less(values.get(limit), values.get(request)):
        return {}
    # Where the inventory sets both, or none, nobody but the user knows which one is meant.
    if limit in given and request not in given:
        return {request: (values[limit], f"a request must not exceed its limit; it gets {limit}, {values[limit]}")}
    if request in given and limit not in given:
        return {
            limit: (values[request], f"a limit must not be below its request; it gets {request}, {values[request]}")
        }
    return {}


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


# --- what its next run writes into the kubelet's files --------------------------------------------------------------


class Switch(t.NamedTuple):
    """A variable of kubespray for a setting of the kubelet that is either on or off."""

    name: str
    #: What kubespray takes where the inventory says nothing.
    default: bool
    #: The variable of the role kubelet_access for the same.
    setting: str
    path: tuple[str, ...]
    value: t.Any = True


SWITCHES = (
    Switch("kubelet_authentication_token_webhook", True, "webhook", ("authentication", "webhook", "enabled")),
    Switch("kubelet_authorization_mode_webhook", True, "webhook", ("authorization", "mode"), "Webhook"),
    Switch("kubelet_rotate_certificates", True, "rotate_certificates", ("rotateCertificates",)),
    Switch("kubelet_rotate_server_certificates", False, "serving_certificates", ("serverTLSBootstrap",)),
)
#: What kubespray's template of the kubelet's file always has, so that kubelet_config_extra_args writes it twice.
ALWAYS_WRITTEN = ("authentication", "authorization", "readOnlyPort")
#: What kubespray has no variable for: it lasts as a flag, which wins over the file and is written nowhere else.
WITHOUT_VARIABLE = (
    ("authentication", "webhook", "cacheTTL"),
    ("authorization", "webhook", "cacheAuthorizedTTL"),
    ("authorization", "webhook", "cacheUnauthorizedTTL"),
)
_FLAG_OF = {path: name for name, path in CONFIG_FLAGS.items()}


def kubelet_lines(settings: Settings, said: Facts, wanted: Facts) -> dict[str, t.Any]:
    """The variables that the inventory lacks, or has with another value, so that kubespray's next run keeps kubelets.

    ``said`` holds kubespray's variables by name, empty where the inventory does not have them; ``wanted`` is what holds
    for all kubelets alike.
    """
    lines: dict[str, t.Any] = {}
    extra = {name: said.get(name) for name in ("kubelet_config_extra_args", "kubelet_node_config_extra_args")}
    in_extra = {name: value for name, value in extra.items() if isinstance(value, dict) and value}
    if whole(said.get("kube_read_only_port") or 0, "kube_read_only_port") != settings.read_only_port:
        lines["kube_read_only_port"] = settings.read_only_port
    for switch in SWITCHES:
        value = said.get(switch.name)
        on = truth(switch.default if value in (None, "") else value, switch.name)
        # The inventory may say it in the other way, which kubespray's template writes behind its own lines.
        on = on or any(kubelet_values.lookup(one, switch.path) == switch.value for one in in_extra.values())
        if getattr(settings, switch.setting) and not on:
            lines[switch.name] = True
    if "kubelet_rotate_server_certificates" in lines and said.get("kubelet_csr_approver_enabled") in (None, ""):
        # It defaults to the same value, and denies what this collection approves.
        lines["kubelet_csr_approver_enabled"] = False
    asked = dict(kubelet_values.leaves(wanted))
    moved: dict[tuple[str, ...], t.Any] = {}
    for name, config in in_extra.items():
        left, taken = _without_repetition(config, asked)
        moved.update(taken)
        if left != config:
            lines[name] = left
    for path in WITHOUT_VARIABLE:
        if path in asked:
            moved[path] = asked[path]
    for name in ("kubelet_custom_flags", "kubelet_node_custom_flags"):
        more = moved if name == "kubelet_custom_flags" else {}
        given = _words(said.get(name))
        words = _flags_kept(given, asked, more)
        if words != given:
            lines[name] = words
    return lines


def _without_repetition(
    config: Facts, asked: t.Mapping[tuple[str, ...], t.Any]
) -> tuple[dict[str, t.Any], dict[tuple[str, ...], t.Any]]:
    """What may stay of kubelet_config_extra_args, and what has to become a flag instead of being there twice."""
    left: dict[str, t.Any] = {}
    moved: dict[tuple[str, ...], t.Any] = {}
    for path, value in kubelet_values.leaves(copy.deepcopy(dict(config))):
        if path in asked and not kubelet_values.holds(path, value, asked[path]):
            continue
        if path[0] not in ALWAYS_WRITTEN:
            kubelet_values.nest(path, value, left)
        elif path not in asked and path in _FLAG_OF:
            moved[path] = value
        elif path not in asked:
            # No flag says it; twice is better than not at all.
            kubelet_values.nest(path, value, left)
    return left, moved


def _words(given: t.Any) -> list[str]:
    """kubelet_custom_flags as a list of flags; older releases took a text as well."""
    texts = given if isinstance(given, list) else [given or ""]
    words = [word for text in texts for word in _split(str(text))]
    found = flags.parse(words, "kubelet")
    carried = {index for flag in found for index in range(flag.start, flag.end)}
    entries = [(flag.start, " ".join(words[flag.start : flag.end])) for flag in found]
    entries += [(index, word) for index, word in enumerate(words) if index not in carried]
    return [entry for _index, entry in sorted(entries)]


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _flags_kept(
    given: t.Sequence[str], asked: t.Mapping[tuple[str, ...], t.Any], more: t.Mapping[tuple[str, ...], t.Any]
) -> list[str]:
    """The flags without those that contradict what is asked for, and with what has no variable."""
    kept, there = [], set()
    for entry in given:
        found = flags.parse(_split(entry), "kubelet")
        path = CONFIG_FLAGS.get(found[0].name) if found else None
        if path in asked and not kubelet_values.flag_agrees(found[0].text, path, asked[path]):
            continue
        there.add(path)
        kept.append(entry)
    for path, value in more.items():
        if path not in there:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            kept.append(f"--{_FLAG_OF[path]}={text}")
    return kept


def repeated_key(message: str) -> str:
    """The key that stands twice in a file, by what the editor says of it; empty where it says something else."""
    match = re.search(r"sets '([^']+)' twice", message)
    return match.group(1) if match else ""


# --- what its next run writes into the API servers' definitions -----------------------------------------------------


def api_server_lines(said: Facts, kept: Facts, routed: bool, mounts: t.Sequence[str]) -> dict[str, t.Any]:
    """The variables that keep the flags of API servers, as far as the inventory does not have them.

    ``kept`` are the flags that kubeadm does not set by itself, ``mounts`` the directories that the static pod has to
    see.
    """
    lines: dict[str, t.Any] = {}
    if routed and not boolean(said.get("kube_api_aggregator_routing") or False, strict=False):
        lines["kube_api_aggregator_routing"] = True
    arguments = said.get("kube_kubeadm_apiserver_extra_args")
    arguments = dict(arguments) if isinstance(arguments, dict) else {}
    # kubespray writes its own variable as well, and of a flag that is there twice the last one counts.
    stay = {
        name: value
        for name, value in arguments.items()
        if not (routed and name == front_proxy.ROUTING and not boolean(value, strict=False))
    }
    extra = {name: value for name, value in kept.items() if value is not None and name != front_proxy.ROUTING}
    if {**stay, **extra} != arguments:
        lines["kube_kubeadm_apiserver_extra_args"] = {**stay, **extra}
    volumes = _volumes(said.get("apiserver_extra_volumes"))
    mounted = {volume.get("mountPath") for volume in volumes}
    missing = [
        {"name": front_proxy.volume_name(path), "hostPath": path, "mountPath": path, "readOnly": True}
        for path in mounts
        if path not in mounted
    ]
    if missing:
        lines["apiserver_extra_volumes"] = [*volumes, *missing]
    return lines


def _volumes(said: t.Any) -> list[dict[str, t.Any]]:
    """A list; kubespray's default is an empty mapping, and some inventories have one of volumes by their names."""
    entries = said.values() if isinstance(said, dict) else said if isinstance(said, list) else ()
    return [entry for entry in entries if isinstance(entry, dict)]
