# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about kubelets (KUB). Each is a pure function from evidence to observations."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import kubelet_view
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.kubelet_view import Kubelet
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
    Finding,
    Observation,
    Repair,
    Row,
)

Observations = t.Iterator[Observation]

#: How long a node that has just joined may wait for its first certificate, in seconds.
JOINING = 120
#: How long a renewal may wait for somebody who approves it, in seconds.
RENEWING = 3600

# What metrics servers log: upstream's Go, and the bundled server.
LOGGED_CERTIFICATE = (
    r"IP SANs|signed by unknown authority|self.signed certificate|certificate is valid for|not signed by the trusted CA"
    r"|its certificate covers"
)
#: Go says the same of a certificate that is not valid yet, and then names the time differently.
LOGGED_EXPIRED = r"certificate has expired(?! or is not yet valid: current time \S+ is before)"
LOGGED_NO_CERTIFICATE = r"tls: internal error|alert internal error|has no serving certificate"
LOGGED_UNAUTHORIZED = r"401 Unauthorized|answered 401"
LOGGED_TIMEOUT = r"timeout|timed out|did not finish|deadline exceeded"
LOGGED_UNREACHABLE = (
    r"i/o timeout|no route to host|connection refused|network is unreachable|no answer to the connection attempt"
    r"|\(no connection\)"
)
LOGGED_NO_SAMPLES = r"usageCoreNanoSeconds|no metrics to serve|\bzero\b"

# --- what several rules share ---------------------------------------------------------------------------------------


def same_kubelet(cause: Finding, consequence: Finding) -> bool:
    """On the same kubelets; or, where all of them fail, whatever follows from a server without metrics."""
    if consequence.id.startswith("KUB"):
        return bool(set(cause.hosts) & set(consequence.hosts))
    return "server_pod" in cause.brings


def observe(kubelet: Kubelet, *evidence: str, cause: str = "", repair: Repair | None = None) -> Observation:
    return Observation(
        evidence=evidence,
        hosts=(kubelet.name,),
        cause=cause,
        repair=repair,
        # A metrics server without the metrics of any node is not ready, and then nothing is served.
        covers=() if kubelet_view.working(kubelet.evidence) - {kubelet.node} else ("server_pod",),
    )


def _connects(kubelet: Kubelet, probe: kubelet_view.Probe, said: t.Any) -> str:
    return f"{probe.source} connects to the kubelet of {kubelet.name} at {probe.address}: {said}"


def _pod_connects(kubelet: Kubelet, probe: kubelet_view.PodProbe) -> str:
    address = f"{probe.target.get('host')}:{probe.target.get('port')}"
    said = get(probe.target, "connect", "error", "message")
    return f"a pod of {probe.source.name} connects to the kubelet of {kubelet.name} at {address}: {said}"


def _quoted(lines: t.Sequence[str]) -> list[str]:
    """The newest line of a log."""
    return [f"metrics server's log: {line}" for line in lines[-1:]]


# --- the serving certificate ----------------------------------------------------------------------------------------


def _unverified(kubelet: Kubelet) -> str:
    """Why its certificate does not verify, by a control plane or else by its own host."""
    for probe in kubelet.probes:
        if probe.error("tls") == "untrusted":
            return _connects(kubelet, probe, probe.get("tls", "error", "message"))
    answers = kubelet.answers
    if not kubelet.probes and answers.get("reachable") and not answers.get("verified") and answers.get("certificate"):
        return f"{kubelet.name} connects to {answers.get('url')}: {answers.get('error')}"
    return ""


def _certificate_matters(evidence: Evidence, kubelet: Kubelet) -> bool:
    """Not to a metrics server that verifies nothing. With a CA of its own, only the missing metrics tell."""
    if not kubelet_view.verifies(evidence):
        return False
    return kubelet.suffers or not kubelet_view.trusts_another_authority(evidence)


def _shown(kubelet: Kubelet) -> str:
    certificate = kubelet.certificate
    names = [*certificate.get("dns_names", ()), *certificate.get("ip_addresses", ())]
    return (
        f"certificate of {kubelet.name}: issuer {certificate.get('issuer')}, for {', '.join(names) or 'no name'}, "
        f"valid until {certificate.get('not_after')}"
    )


def _own_file(kubelet: Kubelet) -> Repair | None:
    """The operator's certificate is the operator's to renew; an installer's configuration is the installer's."""
    if kubelet.distribution:
        entry = distributions.TABLE[kubelet.distribution]
        return Repair("advice", f"{entry.serving_certificates} Have it issue a new one.", commands=entry.renew_serving)
    path = kubelet.settings.get("tlsCertFile")
    if not path:
        return None
    address = next(iter(kubelet.internal), kubelet.name)
    return Repair(
        "advice",
        f"Have {path} on {kubelet.name} issued anew by the CA that the metrics server trusts, for {address}; or remove "
        "tlsCertFile and tlsPrivateKeyFile from the kubelet's configuration, and the repair has the cluster sign one.",
        commands=(
            f"openssl x509 -in {path} -noout -issuer -enddate -ext subjectAltName",
            "systemctl restart kubelet",
        ),
    )


def own_certificate(evidence: Evidence) -> Observations:
    for kubelet in kubelet_view.kubelets(evidence):
        if not kubelet.ready or not _certificate_matters(evidence, kubelet):
            continue
        why, certificate = _unverified(kubelet), kubelet.certificate
        if why and not certificate.get("expired") and not certificate.get("not_yet_valid"):
            yield observe(kubelet, why, _shown(kubelet), cause=_why_untrusted(kubelet), repair=_own_file(kubelet))
        elif not kubelet.probes and not why and kubelet.suffers:
            lines = [line for line in kubelet.logged(LOGGED_CERTIFICATE) if not re.search(LOGGED_EXPIRED, line)]
            if lines:
                yield observe(kubelet, *_quoted(lines))


def _why_untrusted(kubelet: Kubelet) -> str:
    issuer = str(kubelet.certificate.get("issuer") or "")
    if re.search(r"-ca@\d+$", issuer) or kubelet.certificate.get("self_signed"):
        return ""
    named = set(kubelet.certificate.get("ip_addresses", ()))
    missing = [address for address in kubelet.internal if address not in named]
    if missing and "CN=kubernetes" in issuer:
        return (
            f"Its certificate names {', '.join(sorted(named)) or 'no address'}, and the node's address is {missing[0]}."
        )
    return f"Its certificate is signed by {issuer}, which is not the CA that kubelets' certificates are verified with."


def expired_certificate(evidence: Evidence) -> Observations:
    for kubelet in kubelet_view.kubelets(evidence):
        if not kubelet.ready or not _certificate_matters(evidence, kubelet):
            continue
        if kubelet.certificate.get("expired"):
            why = _unverified(kubelet)
            yield observe(kubelet, *([why] if why else []), _shown(kubelet), repair=_own_file(kubelet))
        elif not kubelet.probes and not kubelet.certificate and kubelet.suffers:
            lines = kubelet.logged(LOGGED_EXPIRED)
            if lines:
                yield observe(kubelet, *_quoted(lines))


def _requests(evidence: Evidence, node: str) -> list[t.Mapping[str, t.Any]]:
    """The node's pending requests for serving certificates."""
    found = [
        *evidence.api("serving_requests", "approved", default=[]),
        *evidence.api("serving_requests", "left", default=[]),
    ]
    return [request for request in found if request.get("node") == node]


def _in_words(request: t.Mapping[str, t.Any]) -> str:
    said = f", {request['reason']}" if request.get("reason") else ""
    since = f" since {request['created']}" if request.get("created") else ""
    return f"CertificateSigningRequest {request.get('name')} of node {request.get('node')}: Pending{since}{said}"


def waiting_certificate(evidence: Evidence) -> Observations:
    for kubelet in kubelet_view.kubelets(evidence):
        age = evidence.age(kubelet.view.get("created"))
        if not kubelet.ready or (age is not None and age < JOINING):
            continue
        requests = [_in_words(request) for request in _requests(evidence, kubelet.node)]
        alerts = [probe for probe in kubelet.probes if probe.error("tls") == "no_certificate"]
        if alerts:
            first = alerts[0]
            line = _connects(kubelet, first, first.get("tls", "error", "message"))
            repair = _own_file(kubelet) if kubelet.managed_elsewhere else None
            yield observe(kubelet, line, *requests, repair=repair)
            continue
        lines = kubelet.logged(LOGGED_NO_CERTIFICATE) if not kubelet.probes and kubelet.suffers else []
        if lines:
            yield observe(kubelet, *_quoted(lines), *requests)
            continue
        old = [
            _in_words(request)
            for request in _requests(evidence, kubelet.node)
            if (evidence.age(request.get("created")) or 0) > RENEWING
        ]
        if old and not kubelet.certificate.get("expired"):
            yield Observation(
                evidence=(*old, _shown(kubelet)) if kubelet.certificate else tuple(old),
                hosts=(kubelet.name,),
                severity="warning",
                cause="The kubelet has asked for the next certificate, and nobody has approved it. The present one "
                "still serves; when it has expired, the kubelet has none.",
            )


# --- authentication -------------------------------------------------------------------------------------------------


def no_webhook(evidence: Evidence) -> Observations:
    for kubelet in kubelet_view.kubelets(evidence):
        refused = [probe for probe in kubelet.probes if probe.get("authenticated", "status") == 401]
        if not refused:
            lines = kubelet.logged(LOGGED_UNAUTHORIZED) if not kubelet.probes and kubelet.suffers else []
            if lines:
                yield observe(kubelet, *_quoted(lines))
            continue
        first = refused[0]
        line = (
            f"{first.source} asks the kubelet of {kubelet.name} at {first.address} with the metrics server's token: "
            f"401 {first.get('authenticated', 'message')}".rstrip()
        )
        enabled = get(kubelet.settings, "authentication", "webhook", "enabled")
        where = kubelet.host.get("host", "kubelet_config", "path", default="its flags") if kubelet.host else ""
        if enabled is False:
            told = f"{kubelet.name}: authentication.webhook.enabled is false ({where})"
            repair = _installers(kubelet) if kubelet.managed_elsewhere else None
            yield observe(kubelet, line, told, repair=repair)
        elif enabled is None:
            yield observe(kubelet, line)
        else:
            yield observe(
                kubelet,
                line,
                f"{kubelet.name}: authentication.webhook.enabled is true ({where})",
                cause="The kubelet is told to ask the API server about tokens, and refuses this one all the same: its "
                "process is older than that setting, or it cannot ask the API server.",
            )


def _installers(kubelet: Kubelet) -> Repair:
    entry = distributions.TABLE[kubelet.distribution]
    return Repair(
        "advice",
        f"{entry.name} writes the configuration of the kubelet of {kubelet.name}: take out what contradicts these "
        "values in its own configuration, and restart it.",
        commands=tuple(
            distributions.flag_lines(kubelet.distribution, "kubelet", tuple(distributions.KUBELET_ACCESS.items()))
        ),
    )


# --- addresses and connections --------------------------------------------------------------------------------------


def addresses(evidence: Evidence) -> Observations:
    found = kubelet_view.kubelets(evidence) if evidence.nodes else []
    owners: dict[str, list[Kubelet]] = {}
    for kubelet in found:
        for address in kubelet.internal:
            owners.setdefault(address, []).append(kubelet)
    for address, sharing in sorted(owners.items()):
        if len(sharing) > 1:
            names = ", ".join(kubelet.node for kubelet in sharing)
            for kubelet in sharing:
                yield observe(
                    kubelet,
                    f"nodes {names} have the same InternalIP {address}",
                    repair=_node_ip(sharing),
                )
    order = kubelet_view.address_types(evidence)
    for kubelet in found:
        shown = ", ".join(f"{e.get('type')} {e.get('address')}" for e in kubelet.view.get("addresses") or ())
        if kubelet.ready and not kubelet.addresses:
            yield observe(
                kubelet,
                f"node {kubelet.node} has no address of {', '.join(order)}: {shown or 'none at all'}",
                cause="The Node object has no address of the types that the metrics server dials.",
                repair=_node_ip([kubelet]),
            )
            continue
        # Nobody dials the others: pods of one family need no way to the second address of a dual-stack node.
        dialed = [probe for probe in kubelet.pod_probes if probe.target.get("host") in kubelet.addresses[:1]]
        unreachable = [probe for probe in dialed if probe.kind == "network_unreachable"]
        if kubelet.ready and unreachable:
            yield observe(
                kubelet,
                _pod_connects(kubelet, unreachable[0]),
                f"addresses of node {kubelet.node}: {shown}",
                cause="The address that the node registers first is of a family, or in a network, that pods have no "
                "route to.",
                repair=_node_ip([kubelet]),
            )


def _node_ip(sharing: t.Sequence[Kubelet]) -> Repair:
    taken = {address for kubelet in sharing for address in kubelet.internal}
    commands = []
    for kubelet in sharing:
        own = kubelet.host.get("host", "addresses", default=[]) if kubelet.host else []
        own = [*own, kubelet.host.get("host", "host", "default_ipv4", default="") if kubelet.host else ""]
        better = next((str(one) for one in own if one and one not in taken and _is_address(str(one))), "ADDRESS")
        commands.append(f"# on {kubelet.name}: KUBELET_EXTRA_ARGS=--node-ip={better} in /etc/default/kubelet, then")
        commands.append("systemctl restart kubelet")
    return Repair(
        "advice",
        "Give each kubelet the address that other nodes reach it by (--node-ip), restart it, and have its serving "
        "certificate signed for that address (the repair of KUB-02, or site.yml).",
        risk="pods in the host's network change their address",
        downtime="none; the node stays Ready",
        commands=tuple(commands),
    )


def _is_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def firewall(evidence: Evidence) -> Observations:
    for kubelet in kubelet_view.kubelets(evidence):
        if not kubelet.ready:
            continue
        blocked = [
            probe
            for probe in kubelet.pod_probes
            if not get(probe.target, "connect", "ok")
            and probe.kind != "network_unreachable"
            and _pods_get_out(probe.source, kubelet)
        ]
        lines = [_pod_connects(kubelet, probe) for probe in blocked]
        closed = [probe for probe in kubelet.probes if not probe.get("connect", "ok")]
        # Where control planes do not get there either, it is no matter of pods.
        unreached = closed and len(closed) == len(kubelet.probes) and (blocked or not kubelet.pod_probes)
        lines += [_connects(kubelet, probe, probe.get("connect", "error", "message")) for probe in closed]
        lines += [_connects(kubelet, probe, "it answers") for probe in kubelet.probes if probe not in closed]
        if blocked or unreached:
            yield observe(kubelet, *lines, repair=_open_port(evidence, kubelet))
        elif not kubelet.probes and not kubelet.pod_probes and kubelet.suffers:
            logged = kubelet.logged(LOGGED_UNREACHABLE)
            if logged:
                yield observe(kubelet, *_quoted(logged), repair=_open_port(evidence, kubelet))


def _pods_get_out(source: Host, kubelet: Kubelet) -> bool:
    """Whether pods of that host reach anything beyond it: else the fault is there, and not at the kubelet."""
    if source.name != kubelet.name and source.get("network", "blocked"):
        return False
    others = [
        target
        for target in source.get("pod", "targets", default=[])
        if target.get("kind") != "endpoint"
        and target.get("name") != kubelet.node
        and get(target, "connect", "error", "kind") != "not_tried"
    ]
    return not others or any(get(target, "connect", "ok") for target in others)


def _open_port(evidence: Evidence, kubelet: Kubelet) -> Repair:
    port = kubelet.view.get("kubelet_port") or 10250
    networks = list(evidence.api("cluster", "pod_cidrs", default=[]))
    networks += [address for other in kubelet_view.kubelets(evidence) for address in other.internal[:1]]
    networks = [address for address in dict.fromkeys(networks) if address not in kubelet.internal]
    shown = networks[:6] if len(networks) <= 6 else [*networks[:5], "NODE_NETWORK"]
    service = kubelet.host.get("network", "services", default={}) if kubelet.host else {}
    if service.get("firewalld.service") == "active":
        commands = [
            f"firewall-cmd --permanent --add-rich-rule='rule family=ipv4 source address={network} port port={port} "
            "protocol=tcp accept'"
            for network in shown
        ] + ["firewall-cmd --reload"]
    elif kubelet.host and kubelet.host.get("network", "ufw_enabled"):
        commands = [f"ufw allow proto tcp from {network} to any port {port}" for network in shown]
    else:
        commands = [f"iptables -I INPUT -p tcp -s {network} --dport {port} -j ACCEPT" for network in shown]
    return Repair(
        "advice",
        f"Accept TCP port {port} on {kubelet.name} from the networks of nodes and pods, in the host's firewall or the "
        "cloud's security group, and keep it over restarts. The firewall is the operator's; no playbook changes it.",
        risk="low: it opens one port to the cluster's own networks",
        commands=(f"# on {kubelet.name}", *commands),
    )


def slow(evidence: Evidence) -> Observations:
    for kubelet in kubelet_view.kubelets(evidence):
        if not kubelet.ready:
            continue
        logged = kubelet.logged(LOGGED_TIMEOUT)
        # A single slow answer is nothing: the metrics server has to suffer from it, too.
        if not kubelet.suffers and not logged:
            continue
        late = [probe for probe in kubelet.probes if probe.get("connect", "ok") and _late(probe)]
        if late and len(late) == len([probe for probe in kubelet.probes if probe.get("connect", "ok")]):
            lines = [
                _connects(
                    kubelet, probe, f"connected in {probe.get('connect', 'seconds')} s, no answer ({_late(probe)})"
                )
                for probe in late
            ]
            yield observe(kubelet, *lines, *_quoted(logged))
        elif not kubelet.probes and kubelet.suffers and logged:
            # Without a probe it may as well be a firewall, unless the connection was made.
            made = [line for line in logged if not re.search(LOGGED_UNREACHABLE, line)]
            if made:
                yield observe(kubelet, *_quoted(made))


def _late(probe: kubelet_view.Probe) -> str:
    if probe.error("tls") == "timeout":
        return "TLS handshake"
    return "request" if "timeout" in (probe.error("anonymous"), probe.error("authenticated")) else ""


# --- what it serves -------------------------------------------------------------------------------------------------


def no_samples(evidence: Evidence) -> Observations:
    running = {pod.get("node") for pod in evidence.server_pods if pod.get("ready")}
    for kubelet in kubelet_view.kubelets(evidence):
        if not kubelet.ready:
            continue
        lines = [line for probe in kubelet.probes for line in _lacking(probe, kubelet.name, kubelet.node in running)]
        if lines:
            yield observe(kubelet, *lines, *_runtime(kubelet))
        elif not kubelet.probes and kubelet.suffers:
            logged = kubelet.logged(LOGGED_NO_SAMPLES)
            if logged:
                yield observe(kubelet, *_quoted(logged))


def _lacking(probe: kubelet_view.Probe, name: str, runs_pods: bool) -> t.Iterator[str]:
    series = probe.get("authenticated", "series", default={})
    for metric, found in series.items():
        if metric.startswith("container_") and not runs_pods:
            continue
        if not found["samples"]:
            yield f"{probe.source} asks the kubelet of {name} at {probe.address}: {metric} is missing"
        elif found["zero"] == found["samples"]:
            yield f"{probe.source} asks the kubelet of {name} at {probe.address}: {metric} is 0"


def _runtime(kubelet: Kubelet) -> list[str]:
    """What decides whether a kubelet sees its control groups."""
    if not kubelet.host:
        return []
    driver = re.search(
        r"(?m)^cgroupDriver:\s*(\S+)", str(kubelet.host.get("host", "kubelet_config", "text", default=""))
    )
    named = driver.group(1) if driver else "by default"
    words = [
        f"control groups v{kubelet.host.get('host', 'host', 'cgroup_version')}",
        f"kubelet {kubelet.view.get('kubelet_version')} with cgroupDriver {named}",
        f"{kubelet.view.get('runtime')} {kubelet.view.get('runtime_version')}",
    ]
    return [f"{kubelet.name}: {', '.join(words)}"]


ROWS: tuple[Row, ...] = (
    Row(
        id="KUB-01",
        title="The kubelet's serving certificate is not of the cluster's CA, or not for its address",
        layer="kubelet",
        symptom="x509: cannot validate certificate for ADDRESS because it doesn't contain any IP SANs",
        cause="The kubelet signed its serving certificate for itself, without its address, as kubeadm leaves it. The "
        "metrics server cannot verify who answers, and takes nothing from it.",
        repair=Repair(
            "consent",
            "Have the cluster's CA sign the certificate (serverTLSBootstrap), approve the request after every check, "
            "one kubelet after the other.",
            risk="low; the kubelet's old files are restored if it does not come back",
            downtime="none; each kubelet restarts once, its pods go on running",
            steps=("kubelet_access",),
        ),
        avoid="--kubelet-insecure-tls: the metrics server would hand its token to whoever answers at that address.",
        rule=own_certificate,
        only_resource_metrics=True,
        explains=("AGG-12",),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
    Row(
        id="KUB-02",
        title="The kubelet waits for a serving certificate that nobody has approved",
        layer="kubelet",
        symptom="remote error: tls: internal error",
        cause="The kubelet asks the cluster for its serving certificate (serverTLSBootstrap). Nothing in Kubernetes "
        "approves such requests, so it has none to show; kubectl logs and exec fail for its pods, too.",
        repair=Repair(
            "automatic",
            "Approve the node's request if its sender, names, addresses and usages pass every check.",
            risk="low; requests that fail a check stay pending and are named",
            downtime="none; the kubelet restarts once, its pods go on running",
            steps=("kubelet_access",),
        ),
        avoid="kubectl certificate approve for all that is pending: whoever has a kubelet's credentials may have asked "
        "for the name and address of another machine.",
        rule=waiting_certificate,
        only_resource_metrics=True,
        explains=("AGG-12",),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
    Row(
        id="KUB-03",
        title="The kubelet's serving certificate has expired",
        layer="kubelet",
        symptom="x509: certificate has expired or is not yet valid: current time TIME is after TIME",
        cause="kubelet.crt was made when the node joined, or signed by hand, and nothing renews it.",
        repair=Repair(
            "consent",
            "Have the cluster's CA sign a new one (serverTLSBootstrap), which kubelets renew by themselves; approve "
            "the request after every check, one kubelet after the other.",
            risk="low; the kubelet's old files are restored if it does not come back",
            downtime="none; each kubelet restarts once, its pods go on running",
            steps=("kubelet_access",),
        ),
        avoid="Deleting kubelet-client-*.pem beside it: that is the kubelet's own identity, without which the node "
        "leaves the cluster.",
        rule=expired_certificate,
        only_resource_metrics=True,
        explains=("AGG-12",),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
    Row(
        id="KUB-04",
        title="The kubelet does not accept the metrics server's token",
        layer="kubelet",
        symptom='request failed, status: "401 Unauthorized"',
        cause="The kubelet's webhook authentication is off: it cannot ask the API server whose token it is given.",
        repair=Repair(
            "consent",
            "Switch webhook authentication and authorization on, one kubelet after the other.",
            risk="low; clients without credentials are turned away from then on",
            downtime="none; each kubelet restarts once, its pods go on running",
            steps=("kubelet_access",),
        ),
        avoid="anonymous.enabled: true or AlwaysAllow: whoever reaches the port could then run commands in every pod.",
        rule=no_webhook,
        only_resource_metrics=True,
        explains=("AGG-12",),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
    Row(
        id="KUB-08",
        title="The node's address is missing, is that of another node, or cannot be reached",
        layer="kubelet",
        symptom="node NAME has no address of the types InternalIP",
        cause="The kubelet took the address of the wrong network card, for example the one that a hypervisor gives "
        "every guest (10.0.2.15). The metrics server connects to whoever answers there.",
        repair=Repair(
            "advice",
            "Give each kubelet the address that other nodes reach it by (--node-ip), restart it, and have its serving "
            "certificate signed for that address.",
        ),
        avoid="Editing the status of the Node object: the kubelet writes it again within seconds.",
        rule=addresses,
        only_resource_metrics=True,
        explains=("KUB-01", "KUB-02", "KUB-04", "KUB-09", "KUB-10", "AGG-12"),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
    Row(
        id="KUB-09",
        title="The kubelet's port cannot be reached from the metrics server",
        layer="kubelet",
        symptom="dial tcp ADDRESS:10250: i/o timeout",
        cause="A firewall on the node, or a security group, does not accept the kubelet's port from where the metrics "
        "server runs; or the kubelet listens on another address.",
        repair=Repair(
            "advice",
            "Accept the kubelet's port from the networks of nodes and pods, in the host's firewall or the cloud's.",
            risk="low: it opens one port to the cluster's own networks",
        ),
        avoid="Opening the port to the world, or switching the firewall off.",
        rule=firewall,
        only_resource_metrics=True,
        explains=("AGG-12",),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
    Row(
        id="KUB-10",
        title="The kubelet accepts connections and does not answer in time",
        layer="kubelet",
        symptom='Failed to scrape node, timeout to access kubelet ... timeout="10s"',
        cause="The node is overloaded, its runtime hangs, or packets to it get lost: its port is open and its answers "
        "come too late.",
        repair=Repair(
            "advice",
            "Relieve or repair the node. A longer --kubelet-request-timeout only helps nodes that are slow by nature, "
            "and has to stay below --metric-resolution.",
            commands=(
                "# on the node",
                "time curl -sk https://127.0.0.1:10250/healthz",
                "systemctl status kubelet containerd",
                "cat /proc/pressure/cpu /proc/pressure/memory /proc/pressure/io",
                "ping -c 20 -s 1400 NODE    # from another node: lost packets",
            ),
        ),
        avoid="Restarting the metrics server: it loses the metrics of all other nodes and gains nothing.",
        rule=slow,
        only_resource_metrics=True,
        explains=("AGG-12",),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
    Row(
        id="KUB-11",
        title="The kubelet serves no usable samples",
        layer="kubelet",
        symptom="metrics not available yet",
        cause="The kubelet does not see the control groups of its node or containers: a runtime or an operating system "
        "that does not fit the version of the control groups, or a cgroupDriver that differs from the runtime's.",
        repair=Repair(
            "advice",
            "Give kubelet and runtime the same cgroup driver, and versions that know the node's control groups; drain "
            "the node before.",
            risk="pods of the node start anew",
            downtime="that of the pods of this node",
            commands=(
                "kubectl drain NODE --ignore-daemonsets",
                "# on the node",
                "stat -fc %T /sys/fs/cgroup    # cgroup2fs: v2, tmpfs: v1",
                "grep cgroupDriver /var/lib/kubelet/config.yaml",
                "crictl info | grep -i systemdcgroup",
                "systemctl restart containerd kubelet",
                "kubectl uncordon NODE",
            ),
        ),
        avoid="Reinstalling the metrics server: it passes on what kubelets count.",
        rule=no_samples,
        only_resource_metrics=True,
        explains=("AGG-12",),
        related=same_kubelet,
        covers=("node_metrics", "pod_metrics"),
    ),
)
