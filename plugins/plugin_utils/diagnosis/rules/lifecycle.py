# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about upgrades and clocks (LIF). Each is a pure function from evidence to observations."""

from __future__ import annotations

import re
import statistics
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import (
    Evidence,
    Host,
    get,
    instant,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation, Repair, Row

Mapping = t.Mapping[str, t.Any]

#: The flags without which the aggregation layer may stop to work.
_AGGREGATION = re.compile(r"^(enable-aggregator-routing|requestheader-.*|proxy-client-.*)$")
#: More than this between two clocks is no accident of the measurement.
SKEW = 5.0


# --- LIF-01: an upgrade took flags away -----------------------------------------------------------------------------


def upgrade_dropped_flags(evidence: Evidence) -> t.Iterator[Observation]:
    kept = evidence.api("objects", "kubeadm", "api_server_extra_args", default={})
    for host in evidence.control_planes:
        running = host.flags("kube-apiserver")
        if not running or (evidence.requests and host.name not in evidence.failing_servers):
            continue
        lines = []
        for flag in host.get("host", "lost_flags", default=[]):
            name = str(flag.get("name"))
            if flag.get("component") != "kube-apiserver" or not _AGGREGATION.match(name) or name in running:
                continue
            lines.append(
                f"{host.name}: kube-apiserver had --{name}={flag.get('value')} (in {flag.get('source')}) and runs "
                "without it"
            )
            if evidence.api("objects", "kubeadm") is not None and name not in kept:
                lines.append(
                    f"kubeadm's ClusterConfiguration (ConfigMap kube-system/kubeadm-config) does not have {name}"
                )
        if lines:
            yield Observation(tuple(lines), (host.name,))


# --- LIF-02: clocks -------------------------------------------------------------------------------------------------


def clocks_differ(evidence: Evidence) -> t.Iterator[Observation]:
    skewed = _skewed_clocks(evidence)
    for name, line in skewed.items():
        yield Observation((line,), (name,), repair=CLOCK_REPAIR)
    for host in evidence.hosts:
        lines = [
            f"{host.name}: {what} is not valid before {certificate.get('not_before')}"
            for what, certificate in _certificates(evidence, host)
            if _starts_later(certificate, host, evidence)
        ]
        if lines:
            yield Observation(tuple(dict.fromkeys(lines)), (host.name,))


def _skewed_clocks(evidence: Evidence) -> dict[str, str]:
    """Hosts whose clock differs, with a line to quote."""
    clocks = _clocks(evidence)
    # Of two, nobody can tell whose is wrong.
    return _unlike_most(evidence, clocks) if len(clocks) > 2 else _unlike_the_server(evidence)


def _clocks(evidence: Evidence) -> dict[str, tuple[float, float]]:
    """How far each clock is ahead of the same one, and how far off that may be; by host, or by URL of an API server.

    Each host compares its clock with that of one API server, and control planes with another one than the rest: an
    offset alone does not tell which of both is wrong. Empty where the evidence does not say who was asked.
    """
    compared: dict[str, list[tuple[str, float, float]]] = {}
    for host in evidence.hosts:
        clock = host.get("network", "clock", default={})
        offset, server = clock.get("offset"), clock.get("server")
        if not isinstance(offset, (int, float)):
            continue
        if not server:
            return {}
        other, uncertainty = evidence.host_of_server(str(server)), float(clock.get("uncertainty") or 0.5)
        compared.setdefault(host.name, []).append((other, -float(offset), uncertainty))
        compared.setdefault(other, []).append((host.name, float(offset), uncertainty))
    found: list[dict[str, tuple[float, float]]] = []
    # From whom most were compared with: the fewest measurements are between two clocks.
    for start in sorted(compared, key=lambda name: -len(compared[name])):
        if any(start in group for group in found):
            continue
        group = {start: (0.0, 0.0)}
        waiting = [start]
        while waiting:
            name = waiting.pop()
            ahead, doubt = group[name]
            for other, offset, uncertainty in compared[name]:
                if other not in group:
                    group[other] = (ahead + offset, doubt + uncertainty)
                    waiting.append(other)
        found.append(group)
    return max(found, key=len, default={})


def _unlike_most(evidence: Evidence, clocks: t.Mapping[str, tuple[float, float]]) -> dict[str, str]:
    middle = statistics.median_low(ahead for ahead, _doubt in clocks.values())
    doubt = min(doubt for ahead, doubt in clocks.values() if ahead == middle)
    found = {}
    for name, (ahead, own) in clocks.items():
        difference = ahead - middle
        if evidence.host(name) is not None and abs(difference) - own - doubt > SKEW:
            direction = "ahead of" if difference > 0 else "behind"
            found[name] = f"{name}: its clock is {abs(difference):.0f} s {direction} those of most hosts"
    return found


def _unlike_the_server(evidence: Evidence) -> dict[str, str]:
    """Where most differ from one server, that server's is wrong."""
    measured: dict[str, tuple[float, float]] = {}
    for host in evidence.hosts:
        offset = host.get("network", "clock", "offset")
        if isinstance(offset, (int, float)):
            uncertainty = host.get("network", "clock", "uncertainty", default=0.5)
            measured[host.name] = (float(offset), float(uncertainty))
    if not measured:
        return {}
    middle = statistics.median(offset for offset, _uncertainty in measured.values()) if len(measured) > 2 else 0.0
    found = {}
    if abs(middle) > SKEW:
        for host in evidence.control_planes[:1]:
            found[host.name] = f"{host.name}: its clock differs from those of most hosts by {abs(middle):.0f} s"
    for name, (offset, uncertainty) in measured.items():
        difference = offset - middle
        if abs(difference) - uncertainty > SKEW and name not in found:
            direction = "ahead of" if difference > 0 else "behind"
            found[name] = f"{name}: its clock is {abs(difference):.0f} s {direction} the clock of the API server"
    return found


def _certificates(evidence: Evidence, host: Host) -> t.Iterator[tuple[str, Mapping]]:
    """The certificates that were seen on a host, with what they are."""
    for result in host.aggregators().values():
        yield "the front proxy's client certificate", get(result, "client", "certificate", default={})
        for entry in get(result, "requestheader_ca", default=[]):
            yield "a CA of front proxies", get(entry, "certificate", default={})
        for target in get(result, "targets", default=[]):
            yield f"the certificate of {evidence.subject.server}", get(target, "tls", "certificate", default={})
    yield "the certificate of its kubelet", host.get("host", "kubelet_answers", "certificate", default={})


def _starts_later(certificate: Mapping, host: Host, evidence: Evidence) -> bool:
    if not certificate.get("not_before"):
        return False
    start, now = (
        instant(certificate["not_before"]),
        instant(host.get("host", "host", "time") or evidence.get("collected", "at")),
    )
    return start is not None and now is not None and (start - now).total_seconds() > SKEW


CLOCK_REPAIR = Repair(
    "advice",
    "Have an NTP client keep the clock of this host, and let it slew the difference.",
    risk="Setting the clock in one step disturbs etcd's leases where it runs.",
    commands=(
        "timedatectl status",
        "systemctl enable --now chrony   # or systemd-timesyncd",
        "chronyc makestep   # not on a member of etcd",
    ),
)

ROWS: tuple[Row, ...] = (
    Row(
        id="LIF-01",
        title="An upgrade has written an API server's manifest without flags that it had",
        layer="api_server",
        symptom="$Served worked before kubeadm upgrade, and since then: 503, i/o timeout or 401",
        cause=(
            "kubeadm writes the manifests of static pods anew, from its ClusterConfiguration and its patches. A "
            "flag that was added to the manifest only "
            "is gone after the next upgrade."
        ),
        repair=Repair(
            "consent",
            "Restore the flags that aggregation needs, in kubeadm's ConfigMap as well as in the manifest, so that "
            "they stay.",
            risk="Each API server restarts; if one does not become healthy, its old manifest is restored.",
            downtime="each API server 45 s, one after the other; with a single one the API is unavailable that long",
            steps=("front_proxy_pki", "apiserver_aggregation"),
        ),
        avoid="Do not add the flags to the manifest alone: the next upgrade takes them away again.",
        rule=upgrade_dropped_flags,
        explains=("NET-01",),
        related=lambda cause, consequence: set(cause.hosts) >= set(consequence.hosts),
        covers_everywhere=("request", "autoscaler", "namespace", "discovery"),
    ),
    Row(
        id="LIF-02",
        title="Clocks differ, or a certificate is not valid yet",
        layer="api_server",
        symptom="x509: certificate has expired or is not yet valid: current time ... is before ...; gaps in $answers",
        cause=(
            "A certificate begins to be valid in the future: it was issued by a host whose clock was ahead, or it "
            "is checked by one whose clock is behind."
        ),
        repair=Repair(
            "consent",
            "Issue the front proxy's client certificate anew, after all clocks agree. API servers load it by "
            "themselves.",
            risk="The old pair is kept for the rollback.",
            steps=("front_proxy_pki",),
        ),
        avoid="Do not set the clock of a member of etcd in one step, and do not wait for the certificate to become "
        "valid: the clock stays wrong.",
        rule=clocks_differ,
        covers_everywhere=("request", "autoscaler", "namespace", "discovery", "node_metrics", "pod_metrics"),
    ),
)
