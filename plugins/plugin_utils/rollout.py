# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kubelets change, why, in what order and in which waves. Decides over all hosts at once, touches none.

The time that it takes is linear in the number of hosts: what concerns one host is decided by its own facts, and what
concerns all of them is gathered in one pass.
"""

from __future__ import annotations

import base64
import binascii
import re
import typing as t
from urllib.parse import urlsplit

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.kubelet_csrs import as_ip, normalize
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.kubelet_values import nest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import (
    YamlText,
    YamlTextError,
    merged,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubespray
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.kubelet_effective import (
    SettingsError,
    effective_settings,
    planned_changes,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.kubelet_settings import Settings
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.kubelet_waves import waves

Facts = t.Mapping[str, t.Any]

#: A kubelet that answers one of these to a client without credentials authenticates its clients.
CLOSED = (401, 403)
DEFAULT_PORT = 10250
READ_ONLY_PORT = 10255
CERT_DIR = "/var/lib/kubelet/pki"
#: What an inventory says of a host's addresses. The same names as facts would be the host's own word.
ADDRESS_VARIABLES = ("ansible_host", "ip", "ip6", "access_ip", "access_ip6")


class Host(t.NamedTuple):
    """One host of the play: its name, the fact of the role cluster, what is asked of it."""

    name: str
    facts: Facts
    settings: Settings
    #: Addresses by the inventory, as they are written there.
    addresses: t.Sequence[str] = ()
    #: The changes that this collection recorded on the host, where one of its files is newer than the kubelet.
    recorded: t.Sequence[Facts] = ()
    #: Names of address variables that the host itself reported.
    reported: t.Sequence[str] = ()

    @property
    def node(self) -> str:
        return str(self.facts["node_name"])

    @property
    def kubelet(self) -> Facts:
        return t.cast("Facts", self.facts["components"]["kubelet"])


class Cluster(t.NamedTuple):
    """What all hosts share."""

    flavour: str
    nodes: t.Mapping[str, Facts]
    control_planes: t.Sequence[str]
    #: The client CA of an API server of the play, or an empty text.
    client_ca_file: str = ""
    use_node_addresses: bool = True


# --- values ---------------------------------------------------------------------------------------------------------


def own_addresses(values: t.Iterable[t.Any], further: t.Iterable[t.Any] = ()) -> list[str]:
    """The addresses that an inventory gives to a host.

    A name is no address: who answers for it in DNS would say where it leads. ``further`` may hold names, because the
    user put them there for this purpose.
    """
    found = [normalize(str(value)) for value in values if value and as_ip(str(value).strip("[] ")) is not None]
    found += [normalize(str(value)) for value in further if value and str(value).strip()]
    return list(dict.fromkeys(address.strip("[]") for address in found))


def url(address: str, port: int) -> str:
    shown = f"[{address}]" if ":" in address else address
    return f"https://{shown}:{port}/metrics/resource"


# --- one kubelet ----------------------------------------------------------------------------------------------------


def lasting(settings: Settings) -> dict[str, t.Any]:
    """What holds for all kubelets alike, and for those that join later."""
    found: dict[str, t.Any] = {"readOnlyPort": settings.read_only_port}
    wanted: list[tuple[str, t.Any]] = []
    if settings.webhook:
        wanted += [
            ("authentication.anonymous.enabled", False),
            ("authentication.webhook.enabled", True),
            ("authorization.mode", "Webhook"),
        ]
    wanted += [
        ("authentication.x509.clientCAFile", settings.client_ca_file),
        ("authentication.webhook.cacheTTL", settings.token_cache_ttl),
        ("authorization.webhook.cacheAuthorizedTTL", settings.authorized_cache_ttl),
        ("authorization.webhook.cacheUnauthorizedTTL", settings.unauthorized_cache_ttl),
        ("rotateCertificates", settings.rotate_certificates or ""),
    ]
    for path, value in wanted:
        if value != "":
            nest(tuple(path.split(".")), value, found)
    return found


class Kubelet:
    """One kubelet: what it does, what it shall do, and what follows from that."""

    def __init__(self, host: Host, cluster: Cluster) -> None:
        self.host = host
        self.cluster = cluster
        self.settings = host.settings
        self.config: Facts = host.facts["kubelet_config"]
        self.in_effect = effective_settings(self.config)
        self.view = cluster.nodes.get(host.node) or {}
        manager = host.kubelet.get("managed_by")
        self.ours = cluster.flavour not in distributions.TABLE and manager not in distributions.TABLE
        given = bool(self.settings.tls_cert_file)
        self.own_certificate = given or bool(self.in_effect["tlsCertFile"])
        self.managed = self.settings.serving_certificates and not self.own_certificate and self.ours
        self.port = int(self.view.get("kubelet_port") or DEFAULT_PORT)
        self.address = self._address()
        self.client_ca = self._client_ca()
        self.serving_ca = self.settings.serving_ca_file or self.client_ca
        self.changes = planned_changes(self.config, self._wanted())
        self.answers = self._answers()

    def _address(self) -> str:
        """Where the others dial it: by the Node object, as the metrics server does."""
        internal = [
            str(entry["address"]) for entry in self.view.get("addresses") or () if entry["type"] == "InternalIP"
        ]
        asked = urlsplit(str((self.host.facts.get("kubelet_answers") or {}).get("url") or "")).hostname
        candidates = [
            *internal,
            *own_addresses(self.host.addresses),
            asked,
            self.host.facts["host"].get("default_ipv4"),
        ]
        return str(next((one for one in candidates if one), "127.0.0.1"))

    def _client_ca(self) -> str:
        """The CA of clients: what the user says, else what the kubelet names, else what the API server names."""
        directory = self.host.facts["kubernetes_dir"].get("pki_dir") or "/etc/kubernetes/pki"
        named = self.in_effect["authentication"]["x509"]["clientCAFile"]
        return self.settings.client_ca_file or named or self.cluster.client_ca_file or f"{directory}/ca.crt"

    def _wanted(self) -> dict[str, t.Any]:
        wanted = lasting(self.settings)
        if self.settings.webhook:
            nest(("authentication", "x509", "clientCAFile"), self.client_ca, wanted)
        if self.settings.tls_cert_file:
            wanted = merged(
                wanted,
                {
                    "tlsCertFile": self.settings.tls_cert_file,
                    "tlsPrivateKeyFile": self.settings.tls_private_key_file,
                    "serverTLSBootstrap": False,
                },
            )
        if self.managed:
            wanted["serverTLSBootstrap"] = True
        return wanted

    def _answers(self) -> dict[str, t.Any]:
        """What it answers, with a word on its certificate, at the address of its Node."""
        found = dict(self.host.facts.get("kubelet_answers") or {})
        certificate = decoded(found.get("certificate"))
        names = [*certificate.get("ip_addresses", ()), *certificate.get("dns_names", ())]
        named = normalize(self.address) in {normalize(str(name)) for name in names}
        by_name = re.search(r"(?i)mismatch|doesn't match|not valid for", str(found.get("error") or "")) is not None
        # The host knows its address less well than the Node does: another one may be the one that counts.
        verified = named and (bool(found.get("verified")) or by_name)
        return {
            "known": bool(found),
            "verified": verified,
            "status": found.get("status"),
            "error": str(found.get("error") or "").rstrip(".")
            or ("" if verified else f"it is not for {self.address}" if certificate else "it has none"),
            "certificate": certificate,
            "read_only": (found.get("read_only_port") or {}).get("open") is True,
        }

    # --- decisions ---

    @property
    def tightens(self) -> bool:
        """Whether clients may be turned away that are let in now, the API servers among them."""
        return any(
            name.startswith(("authentication.", "authorization.")) and not name.endswith("TTL")
            for name in self.changes["settings"]
        )

    @property
    def newer_files(self) -> list[str]:
        """The files that were written after the process started."""
        if not self.config.get("changed_since_start"):
            return []
        known = self.config.get("newer_files")
        files = [self.config.get("path"), *(entry["path"] for entry in self.config.get("drop_ins") or ())]
        return [str(path) for path in (files if known is None else known) if path]

    @property
    def unfinished(self) -> str:
        """When this collection wrote a file that the process has not read yet: that run did not end. Else empty."""
        started = str(self.host.kubelet.get("start_time") or "")
        newer = set(self.newer_files)
        times = [
            str(change.get("time") or "")
            for change in self.host.recorded
            if change.get("component") == "kubelet"
            and change.get("state") in ("in_place", "interrupted")
            and str(change.get("time") or "") >= started
            and newer & {str(entry.get("path")) for entry in change.get("files") or ()}
        ]
        return max(times, default="")

    def reasons(self) -> list[str]:
        """Why it has to restart; each one follows ``because``."""
        if not self.ours:
            return []
        found = []
        newer = self.newer_files
        if self.changes["settings"]:
            found.append("it differs in " + ", ".join(self.changes["settings"]))
        if self.unfinished:
            found.append(f"what this collection wrote at {self.unfinished} is not in effect yet")
        elif newer and self.settings.restart_stale:
            found.append(f"{and_join(newer)} {'is' if len(newer) == 1 else 'are'} newer than its process")
        if self.settings.webhook and self.answers["status"] == 200:
            found.append("it answers unauthenticated clients although its files forbid it")
        # Another process may hold that port; a kubelet that has read its file does not.
        if newer and self.answers["read_only"] and not self.settings.read_only_port:
            found.append("its port without TLS is open although its files close it")
        if self.managed and self.answers["known"] and not self.answers["verified"]:
            found.append(f"its certificate does not verify ({self.answers['error']})")
        return found

    def trouble(self) -> str:
        """Why nothing may be changed here, as one sentence, or an empty text."""
        name, settings = self.host.name, self.settings
        if bool(settings.tls_cert_file) != bool(settings.tls_private_key_file):
            return (
                "Of kubelet_access_tls_cert_file and kubelet_access_tls_private_key_file only one is set for "
                f"{name}; set both or none."
            )
        if not self.ours:
            return self._trouble_of_its_owner()
        return (
            self._trouble_of_addresses()
            or self._trouble_of_certificate()
            or self._trouble_of_service()
            or self._trouble_of_program()
            or self._trouble_of_file()
        )

    def _trouble_of_its_owner(self) -> str:
        """What a distribution's own configuration has to say, with the lines. Settings inside another process cannot be
        read; only what that kubelet answers is known."""
        unseen = bool(self.host.kubelet.get("in_process"))
        answers_all = self.answers["status"] == 200
        if not self.settings.webhook or not (answers_all if unseen else self.tightens):
            return ""
        manager = str(self.host.kubelet.get("managed_by"))
        key = manager if manager in distributions.TABLE else self.cluster.flavour
        differs = "answers unauthenticated clients" if unseen else f"differs in {', '.join(self.changes['settings'])}"
        lines = distributions.flags_clause(key, "kubelet", tuple(distributions.KUBELET_ACCESS.items()))
        return (
            f"The kubelet of {self.host.name} {differs}, and {distributions.TABLE[key].name} writes its configuration "
            f"itself; {lines}."
        )

    def _trouble_of_addresses(self) -> str:
        name = self.host.name
        if not self.managed:
            return ""
        if self.host.reported:
            return (
                f"{name} itself reports the variable {self.host.reported[0]} as a fact, which would win over the "
                "inventory and decide which addresses its certificate may name; find out which module returned it, and "
                "clear the fact cache."
            )
        if not self.cluster.use_node_addresses and not self.host.addresses:
            return (
                f"The inventory names no address of {name} (ansible_host is no address, and names are not resolved); "
                "set ip or kubelet_access_addresses for it, or kubelet_access_use_node_addresses to true."
            )
        return ""

    def _trouble_of_certificate(self) -> str:
        if not self.settings.serving_certificates or not self.answers["known"] or self.answers["verified"]:
            return ""
        name, error = self.host.name, self.answers["error"]
        if self.own_certificate and "tlsCertFile" not in self.changes["settings"]:
            return (
                f"The kubelet of {name} serves a certificate of its own that does not verify against {self.serving_ca} "
                f"({error}); name the CA that signed it as kubelet_access_serving_ca_file, have it signed for "
                f"{self.address}, or remove tlsCertFile so that the cluster signs one."
            )
        issuer = self._foreign_issuer()
        if issuer:
            return (
                f"The kubelet of {name} serves a certificate that the cluster issued, by {issuer}, and that does not "
                f"verify against {self.serving_ca} ({error}); name the file of that CA on the host as "
                "kubelet_access_serving_ca_file."
            )
        return ""

    def _foreign_issuer(self) -> str:
        """Who else signed a certificate that the cluster issued; a restart would bring the same one again."""
        certificate = self.answers["certificate"]
        bootstrapped = self.in_effect["serverTLSBootstrap"] and not self.changes["settings"] and not self.newer_files
        if not bootstrapped or not certificate or certificate.get("expired") or certificate.get("self_signed"):
            return ""
        # kubelets that sign for themselves make an authority of the same name for that.
        issuer = str(certificate.get("issuer") or "")
        own = re.search(r"CN=[^,]+-ca@\d+$", issuer) is not None
        by_authority = re.search(r"(?i)self.signed|unable to get|issuer|unknown ca", self.answers["error"]) is not None
        return issuer if by_authority and not own else ""

    def _trouble_of_service(self) -> str:
        if not self.reasons() or self.host.kubelet.get("managed_by") == "systemd":
            return ""
        wanted = ", ".join(self.changes["settings"]) or "what its files say"
        return (
            f"The kubelet of {self.host.name} is no systemd service, so that it cannot be restarted from here; set "
            f"{wanted} where it is started."
        )

    def _trouble_of_program(self) -> str:
        """A restart would start another version, which may want other flags or another kind of control groups."""
        if not self.reasons() or not self.host.kubelet.get("binary_replaced") or self.settings.restart_stale:
            return ""
        return (
            f"The kubelet of {self.host.name} has to restart, and its program {self.host.kubelet.get('binary')} was "
            "replaced since it started, so that the restart may also be an upgrade; finish that upgrade first (drain "
            "the node, restart the kubelet), or set kubelet_access_restart_stale to true."
        )

    def _trouble_of_file(self) -> str:
        """A file that the kubelet takes and no editor can change: of a key that is there twice, the last one counts."""
        path, text = self.config.get("path"), self.config.get("text")
        if not self.changes["config"] or not path or text is None:
            return ""
        try:
            YamlText(str(text), str(path))
        except YamlTextError as exc:
            key = kubespray.repeated_key(str(exc))
            if not key:
                return ""
            words = f"{path} of {self.host.name} has the key {key} twice, and the kubelet takes the second one"
            if self.cluster.flavour == "kubespray":
                return (
                    f"{words}: kubespray writes it, and kubelet_config_extra_args of the inventory writes it again; "
                    f"take {key} out there, and one of the two out of the file."
                )
            return f"{words}; take one of the two out."
        return ""

    def notes(self) -> list[str]:
        """What is left as it is, or happens beside what was asked for, as sentences."""
        newer = self.newer_files
        if not self.ours or not newer:
            return []
        files = f"{and_join(newer)}, which {'is' if len(newer) == 1 else 'are'} newer than its process"
        if self.unfinished or self.settings.restart_stale:
            return []
        if self.reasons():
            return [f"The restart of the kubelet of {self.host.name} also activates {files}."]
        return [
            f"The kubelet of {self.host.name} has not read {files}. It does what this role asks for, and is left as it "
            "is; restart it when that edit shall take effect, or set kubelet_access_restart_stale to true."
        ]

    def expected(self) -> dict[str, t.Any]:
        """What the health check behind a restart asks, and what has to be answered."""
        self_signed = not self.own_certificate and not self.managed and not self.in_effect["serverTLSBootstrap"]
        directory = self.host.kubelet["flags"].get("cert-dir") or CERT_DIR
        # A kubelet that signed its certificate itself is known by that very certificate, for its node's name.
        return {
            "address": self.address,
            "port": self.port,
            "ca_file": f"{directory}/kubelet.crt" if self_signed else self.serving_ca,
            "server_name": self.host.node if self_signed else self.address,
            # The port that has to be closed is the one that was open.
            "read_only_port": self.settings.read_only_port or int(self.in_effect["readOnlyPort"] or READ_ONLY_PORT),
            "read_only": self.settings.read_only_port > 0,
            "webhook": self.settings.webhook,
        }

    def described(self) -> dict[str, t.Any]:
        trouble = self.trouble()
        reasons = [] if trouble else self.reasons()
        state = self.host.kubelet.get("unit_state") or {}
        return {
            "trouble": trouble,
            "left_out": "",
            "reasons": reasons,
            "notes": [] if trouble else self.notes(),
            "changes": self.changes,
            "tightens": bool(reasons) and self.tightens,
            "managed": self.managed,
            "own_certificate": self.own_certificate and self.ours,
            "client_ca": self.client_ca,
            "serving_ca": self.serving_ca,
            "expected": self.expected(),
            "unit": self.host.kubelet.get("unit") or "kubelet.service",
            "daemon_reload": bool(state.get("need_daemon_reload")),
        }


def decoded(encoded: t.Any) -> dict[str, t.Any]:
    """A certificate in words; empty where there is none that can be read."""
    if not encoded:
        return {}
    try:
        certificate = certs.load_der(base64.b64decode(encoded))
    except (binascii.Error, ValueError, TypeError):
        return {}
    return certs.describe(certificate)


def and_join(names: t.Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


# --- all of them ----------------------------------------------------------------------------------------------------

#: What a host that takes no part has instead of a decision.
NOTHING: dict[str, t.Any] = {
    "trouble": "",
    "left_out": "",
    "reasons": [],
    "notes": [],
    "changes": {"config": {}, "flags": {}, "settings": []},
    "tightens": False,
    "managed": False,
    "own_certificate": False,
}


def decide(host: Host, cluster: Cluster) -> dict[str, t.Any]:
    """What happens to one kubelet."""
    if str((cluster.nodes.get(host.node) or {}).get("operating_system") or "").lower() == "windows":
        return {**NOTHING, "left_out": f"{host.name} is a Windows node, whose kubelet is not managed here."}
    if not host.kubelet.get("running"):
        words = f"No kubelet runs on {host.name}; start it (journalctl -u kubelet says why it stopped)."
        return {**NOTHING, "trouble": words}
    try:
        return Kubelet(host, cluster).described()
    except SettingsError as exc:
        return {**NOTHING, "trouble": f"The kubelet of {host.name} cannot be changed. {exc}"}


def plan(
    hosts: t.Sequence[Host], cluster: Cluster, *, serial: t.Any = (1, 5, "25%"), limit: int = 50
) -> dict[str, t.Any]:
    """What happens to all kubelets, and in which order. Raises RolloutError."""
    claims: dict[str, list[str]] = {}
    for host in hosts:
        claims.setdefault(host.node, []).append(host.name)
    found = {host.name: decide(host, cluster) for host in hosts}
    for node, names in claims.items():
        for name in names if len(names) > 1 else ():
            found[name] = {
                **NOTHING,
                "trouble": f"{and_join(names)} both say that they are node {node}; name the node of each as "
                "cluster_node_name.",
            }
    control_planes = set(cluster.control_planes)
    pending = [host.name for host in hosts if found[host.name]["reasons"]]
    # A worker goes first: it carries no API server.
    order = sorted(pending, key=lambda name: name in control_planes)
    steps = waves(order, serial, len(hosts), limit)
    wave_of = {name: number for number, names in enumerate(steps) for name in names}
    for name, entry in found.items():
        entry.update(pending=name in wave_of, wave=wave_of.get(name, -1))
    return {
        "hosts": found,
        "pending": order,
        "waves": steps,
        "tightened": [name for name in order if found[name]["tightens"]],
        "notes": [note for host in hosts for note in found[host.name]["notes"]] + open_ports(hosts),
        "left_out": [found[host.name]["left_out"] for host in hosts if found[host.name]["left_out"]],
        # By the inventory: what belongs to one node is refused to all others, whoever may be approved.
        "known_addresses": {host.node: list(host.addresses) for host in hosts if not host.reported},
        "allowed_addresses": {
            host.node: list(host.addresses) for host in hosts if found[host.name]["managed"] and not host.reported
        },
    }


def inventory_notes(lines: Facts, hosts: t.Mapping[str, Facts]) -> list[str]:
    """What has to be known before the lines are put into kubespray's inventory, as sentences."""
    own = [name for name, entry in hosts.items() if entry["own_certificate"]]
    if "kubelet_rotate_server_certificates" not in lines or not own:
        return []
    one = len(own) == 1
    have = f"The kubelet{'' if one else 's'} of {shortened(own)} {'has' if one else 'have'} tlsCertFile"
    return [
        f"{have}, and with kubelet_rotate_server_certificates kubespray's next "
        "upgrade gives API servers --kubelet-certificate-authority with the cluster's CA, so that kubectl logs and "
        "kubectl exec fail where another CA signed that file; have the cluster's CA sign it, or take tlsCertFile and "
        "tlsPrivateKeyFile out of kubelet_config_extra_args, before you put that line into the inventory."
    ]


def open_ports(hosts: t.Sequence[Host]) -> list[str]:
    """A sentence for each port without TLS that somebody asked for."""
    ports: dict[int, list[str]] = {}
    for host in hosts:
        if host.settings.read_only_port:
            ports.setdefault(host.settings.read_only_port, []).append(host.name)
    return [
        f"Port {port} of {'all kubelets' if len(names) == len(hosts) else shortened(names)} serves without TLS and "
        "authentication, as kubelet_access_read_only_port asks for; set it to 0 as soon as its last consumer can read "
        "the port with TLS."
        for port, names in sorted(ports.items())
    ]


def shortened(names: t.Sequence[str], most: int = 10) -> str:
    more = len(names) - most
    return and_join(names) if more <= 0 else ", ".join(names[:most]) + f" and {more} more"
