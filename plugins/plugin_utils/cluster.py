# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the facts cluster_host and cluster_info say, from what each host and the API answered. Pure functions."""

from __future__ import annotations

import base64
import binascii
import datetime
import ipaddress
import posixpath
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import names as pki_names
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions

Host = t.Mapping[str, t.Any]

#: What the fact of a host takes over as it is.
FROM_COMPONENT_INFO = (
    "components",
    "kubelet_config",
    "kubelet_answers",
    "kubernetes_dir",
    "forwarding",
    "images",
    "interrupted_certificates",
    "lost_flags",
)
DEFAULT_API_PORT = 6443
#: kubespray's name for the file, in its kube_config_dir. Clusters made by hand use the name as well.
KUBESPRAY_KUBELET_CONFIG = "kubelet-config.yaml"
KUBESPRAY_CONFIG_DIR = "/etc/kubernetes"
_NODE_USER = re.compile(r"(?:^|,)CN=system:node:([^,+]+)")
_MOST_SAID = 300


class ClusterError(Exception):
    """One sentence for the user: what is wrong, where, and what to do."""


class WindowsHostError(ClusterError):
    """The host runs Windows, which nothing in the inventory says."""

    def __init__(self) -> None:
        super().__init__(
            "it runs Windows, so that nothing here can run on it (ansible_shell_type: powershell says so)."
        )


# --- one host -------------------------------------------------------------------------------------------------------


def host_facts(
    name: str,
    found: t.Mapping[str, t.Any],
    *,
    control_plane: bool,
    api_server_url: str = "",
    address: str = "",
    access_address: str = "",
    addresses: t.Sequence[str] = (),
    node_name: str = "",
) -> dict[str, t.Any]:
    """The fact cluster_host, from what component_info found and what the inventory says."""
    host = dict(found["host"])
    certificate = host.pop("kubelet_client_certificate", None)
    url = api_server_url or url_of_api_server(found, address or name, access_address)
    return {
        "name": name,
        "node_name": node_name or node_of_certificate(certificate) or host["node_name"],
        "node_name_given": bool(node_name),
        "node_name_certified": bool(node_of_certificate(certificate)),
        "addresses": list(dict.fromkeys(entry for entry in addresses if entry)),
        "control_plane": control_plane,
        "api_server_url": url if control_plane else None,
        "host": host,
        **{key: found[key] for key in FROM_COMPONENT_INFO if key in found},
    }


def node_of_certificate(encoded: str | None) -> str | None:
    """The node that a kubelet's client certificate (DER in base64) is of; the API server knows the kubelet by it."""
    if not encoded:
        return None
    try:
        subject = pki_names.text(certs.load_der(base64.b64decode(encoded)))
    except (binascii.Error, ValueError):
        return None
    match = _NODE_USER.search(subject)
    return match.group(1) if match else None


def url_of_api_server(found: t.Mapping[str, t.Any], address: str, access_address: str = "") -> str:
    """Where the API server of a host listens: where others reach the host, by the inventory, else at the address that
    it advertises, else at that of the host."""
    flags = found["components"].get("kube-apiserver", {}).get("flags", {})
    chosen = access_address or advertised_address(found) or address
    shown = f"[{chosen}]" if ":" in chosen else chosen
    return f"https://{shown}:{flags.get('secure-port') or DEFAULT_API_PORT}"


def advertised_address(found: t.Mapping[str, t.Any]) -> str:
    """What an API server tells others as its address: a flag for that, else the one address that it listens at, else
    that of the host's default route."""
    flags = found["components"].get("kube-apiserver", {}).get("flags", {})
    given = (comparable(flags.get(name) or "") for name in ("advertise-address", "bind-address"))
    chosen = next((one for one in given if one and not ipaddress.ip_address(one).is_unspecified), None)
    return chosen or found["host"].get("default_ipv4") or ""


def api_server_is_expected(found: t.Mapping[str, t.Any]) -> bool:
    """Whether an API server is defined on the host and does not run, which a restart would explain."""
    component = found["components"].get("kube-apiserver", {})
    return (
        not component.get("running")
        and bool(component.get("definition_files"))
        # With half of a pair of certificates it will not come.
        and not found.get("interrupted_certificates")
    )


def said(result: t.Mapping[str, t.Any]) -> str:
    """What a failed attempt said, in a line, without what Ansible puts before it."""
    parts = [str(result.get(key) or "") for key in ("msg", "module_stderr", "module_stdout")]
    text = re.sub(r"\s+", " ", " ".join(part for part in parts if part))
    text = re.sub(r"^.*(can be reached over ssh: |Task failed: )", "", text)
    text = text.replace("Module result deserialization failed: No start of json char found ", "")
    text = re.sub(r"[.:]$", "", text.strip())
    return text if len(text) <= _MOST_SAID else text[: _MOST_SAID - 3].rstrip() + "..."


def explain(result: t.Mapping[str, t.Any], *, unreachable: bool) -> str:
    """Why a host could not be examined, and what to do; a clause that ends its sentence."""
    words = said(result)
    if re.search(r"(?i)not as root|sudo|privilege escalation|password is required|incorrect .* password|\bsu: ", words):
        return (
            f"becoming root failed ({words}): connect as root, or let the user become root (become: true, and "
            "--ask-become-pass where a password is asked for)."
        )
    if re.search(r"(?i)minimum of python|python[0-9.]*.? (was )?not found|no python|interpreter|SyntaxError", words):
        return (
            f"its Python cannot be used ({words}): install Python 3.8 or newer there, or name it as "
            "ansible_python_interpreter."
        )
    if unreachable:
        return (
            f"it does not answer ({words}): check that it is up and that ansible_host, ansible_user and the SSH key "
            "in the inventory are right."
        )
    return f"its processes could not be read ({words}): run again with -vvv for more."


# --- the cluster ----------------------------------------------------------------------------------------------------


def runs_api_server(host: Host) -> bool:
    return bool(host["components"].get("kube-apiserver", {}).get("running"))


def api_server_age(hosts: t.Iterable[Host]) -> float | None:
    """Seconds since the youngest API server started, by the clock of its own host; None where none runs."""
    ages = []
    for host in hosts:
        if runs_api_server(host):
            moments = (host["host"]["time"], host["components"]["kube-apiserver"]["start_time"])
            now, start = (datetime.datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ") for moment in moments)
            ages.append((now - start).total_seconds())
    return min(ages, default=None)


def flavour_of(host: Host | None, said: t.Mapping[str, t.Any] | None = None) -> str:
    """Who made the cluster, by its first control plane, and by what the API says (cluster_state_info).

    What runs on the host comes first. Only a version that is compiled into the API server is stronger: then the host
    was not recognized, as where the distribution's directories have other names.
    """
    key = str((said or {}).get("key") or "")
    if host is None:
        return key or "unknown"
    found = _flavour_of_host(host)
    if found not in distributions.TABLE and key and (found == "unknown" or distributions.TABLE[key].version):
        return key
    return found


def _flavour_of_host(host: Host) -> str:
    manager = str(host["components"]["kube-apiserver"]["managed_by"])
    if manager in distributions.TABLE:
        return manager
    directory, name = posixpath.split(host["kubelet_config"].get("path") or "")
    if name == KUBESPRAY_KUBELET_CONFIG and (directory == KUBESPRAY_CONFIG_DIR or manager == "static_pod"):
        return "kubespray"
    if manager == "static_pod" and host["kubernetes_dir"].get("kubeadm"):
        return "kubeadm"
    return manager


def distribution_view(flavour: str, said: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    """The distribution in words; empty for a cluster whose configuration is on its hosts, to be changed there."""
    if flavour not in distributions.TABLE:
        return {}
    said = said or {}
    because = str(said.get("because") or "") if said.get("key") == flavour else "its processes say so"
    entry = distributions.TABLE[flavour]
    return {
        "key": flavour,
        "name": entry.name,
        "hosted": entry.hosted,
        "because": because,
        "sentence": distributions.sentence(flavour, because),
    }


def control_plane_problem(
    found: t.Sequence[Host],
    control_planes: t.Sequence[str],
    play_hosts: t.Sequence[str],
    group: str = "kube_control_plane",
) -> str:
    """Why no API server can be asked, as one sentence, or an empty text.

    ``found`` is what was found on each control plane that was examined; those that the play lacks are none of them.
    """
    if any(runs_api_server(host) for host in found):
        return ""
    if not found and not set(control_planes).intersection(play_hosts):
        return (
            f"No control plane is in this play (--limit); run this playbook without --limit, or with --limit "
            f"'NODE:{group}'; a --limit for kubespray's own playbooks is not for this one, so run kubespray.yml as a "
            "second command."
        )
    if not found:
        return (
            f"No control plane could be examined ({', '.join(control_planes)}); bring one back, or give the path of a "
            "kubeconfig as cluster_kubeconfig."
        )
    names = ", ".join(str(host["name"]) for host in found)
    changes = [change for host in found for change in host.get("interrupted_certificates") or ()]
    if changes:
        return (
            f"No kube-apiserver runs on {names}: the replacement of its certificates was interrupted, run "
            f"playbooks/site.yml or roll the change {changes[0]} back (playbooks/rollback.yml)."
        )
    return (
        f"No kube-apiserver runs on {names}: start the cluster first (on a control plane, journalctl -u kubelet and "
        "the logs below /var/log/pods say why it does not run)."
    )


def cidrs_of(flags: t.Mapping[str, t.Any], name: str, otherwise: str) -> list[str]:
    """Address ranges from a flag, or from what the inventory says."""
    value = flags.get(name) or otherwise or ""
    parts = value if isinstance(value, list) else str(value).split(",")
    return [part.strip() for part in parts if part.strip()]


def comparable(address: t.Any) -> str | None:
    """An address in its one form, or None for a name."""
    try:
        return str(ipaddress.ip_address(str(address).strip("[]")))
    except ValueError:
        return None


class Match(t.NamedTuple):
    #: Node name -> host of the play.
    hosts: dict[str, str]
    #: Host of the play -> node name, for all that have one.
    nodes: dict[str, str]


def match_nodes(hosts: t.Sequence[Host], nodes: t.Sequence[t.Mapping[str, t.Any]], where: str) -> Match:
    """Which host is which node: by the name in the kubelet's certificate, else by the inventory's addresses.

    What the host says of itself, its name first, comes last. A host that has no kubelet need not be a node. Raises
    ClusterError where a host is no node of this cluster, or two hosts are the same one.
    """
    known = {str(node["name"]) for node in nodes}
    by_address: dict[str, set[str]] = {}
    for node in nodes:
        for entry in node["addresses"]:
            address = comparable(entry["address"])
            if address:
                by_address.setdefault(address, set()).add(str(node["name"]))
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    lost: dict[str, str] = {}
    for host in hosts:
        name, node = str(host["name"]), str(host["node_name"])
        settled = host["node_name_given"] or (host["node_name_certified"] and node in known)
        if not settled:
            candidates = (
                _node_by_address(host["addresses"], by_address),
                node,
                str(host["host"]["node_name"]),
                _node_by_address([host["host"].get("default_ipv4")], by_address),
            )
            node = next((candidate for candidate in candidates if candidate in known), "")
        if node not in known:
            if host["components"].get("kubelet", {}).get("running"):
                lost[name] = str(host["node_name"])
            continue
        if node in taken:
            raise ClusterError(
                f"The hosts {taken[node]} and {name} both are the node {node}: take one of them out of the inventory, "
                "or name the right node of each as cluster_node_name."
            )
        taken[node] = name
        found[name] = node
    if lost:
        listed = ", ".join(sorted(known))
        listed = listed if len(listed) <= 200 else listed[:197] + "..."
        raise ClusterError(
            f"The kubelets of {', '.join(lost)} call their nodes {', '.join(lost.values())}, but the cluster behind "
            f"{where} has only {listed or 'no nodes'}: the kubeconfig is of another cluster, these hosts have not "
            "joined yet, or the names of their nodes have to be given as cluster_node_name."
        )
    return Match(taken, found)


def _node_by_address(addresses: t.Sequence[str | None], by_address: t.Mapping[str, set[str]]) -> str:
    """The one node that has one of the addresses, or an empty text."""
    matching: set[str] = set()
    for address in addresses:
        matching |= by_address.get(comparable(address or "") or "", set())
    return matching.pop() if len(matching) == 1 else ""


def cluster_facts(
    hosts: t.Sequence[Host],
    state: t.Mapping[str, t.Any],
    *,
    control_planes: t.Sequence[str],
    kubeconfig: str,
    context: str = "",
    service_cidrs: str = "",
    pod_cidrs: str = "",
    api_addresses: t.Sequence[str] = (),
    where: str = "",
) -> dict[str, t.Any]:
    """The fact cluster_info. ``hosts`` are those that were examined, in the order of the inventory."""
    match = match_nodes(hosts, state["nodes"], where or kubeconfig)
    running = [host for host in hosts if host["name"] in control_planes and runs_api_server(host)]
    running.sort(key=lambda host: list(control_planes).index(host["name"]))
    components: t.Mapping[str, t.Any] = running[0]["components"] if running else {}
    flavour = flavour_of(running[0] if running else None, state.get("distribution"))
    return {
        "kubeconfig": kubeconfig,
        "context": context,
        "version": state["version"],
        "flavour": flavour,
        "distribution": distribution_view(flavour, state.get("distribution")),
        "servers": state["servers"],
        "pending_serving_requests": int(state["pending_serving_requests"]),
        "nodes": {node["name"]: node for node in state["nodes"]},
        "node_hosts": match.hosts,
        "host_nodes": match.nodes,
        "control_planes": list(control_planes),
        "api_addresses": list(api_addresses),
        "service_cidrs": cidrs_of(
            components.get("kube-apiserver", {}).get("flags", {}), "service-cluster-ip-range", service_cidrs
        ),
        "pod_cidrs": cidrs_of(
            components.get("kube-controller-manager", {}).get("flags", {}), "cluster-cidr", pod_cidrs
        ),
    }
