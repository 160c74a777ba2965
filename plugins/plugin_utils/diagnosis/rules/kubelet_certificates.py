# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the serving certificates of kubelets (KUB-01 to KUB-03), from evidence to observations."""

from __future__ import annotations

import re
import shlex
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import kubelet_view
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.kubelet_view import Kubelet
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation, Repair, Row
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules.kubelet_observations import (
    LOGGED_CERTIFICATE,
    LOGGED_EXPIRED,
    LOGGED_NO_CERTIFICATE,
    Observations,
    connects,
    observe,
    quoted,
    same_kubelet,
)

#: How long a node that has just joined may wait for its first certificate, in seconds.
JOINING = 120
#: How long a renewal may wait for somebody who approves it, in seconds.
RENEWING = 3600


def _unverified(kubelet: Kubelet) -> str:
    """Why its certificate does not verify, by a control plane or else by its own host."""
    for probe in kubelet.probes:
        if probe.error("tls") == "untrusted":
            return connects(kubelet, probe, probe.get("tls", "error", "message"))
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
            f"openssl x509 -in {shlex.quote(str(path))} -noout -issuer -enddate -ext subjectAltName",
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
                yield observe(kubelet, *quoted(lines))


def _why_untrusted(kubelet: Kubelet) -> str:
    issuer = str(kubelet.certificate.get("issuer") or "")
    if re.search(r"-ca@\d+$", issuer) or kubelet.certificate.get("self_signed"):
        return ""
    named = set(kubelet.certificate.get("ip_addresses", ()))
    # Nobody dials the others, of which a certificate need not know.
    missing = [address for address in kubelet.internal[:1] if address not in named]
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
                yield observe(kubelet, *quoted(lines))


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
            line = connects(kubelet, first, first.get("tls", "error", "message"))
            repair = _own_file(kubelet) if kubelet.managed_elsewhere else None
            yield observe(kubelet, line, *requests, repair=repair)
            continue
        lines = kubelet.logged(LOGGED_NO_CERTIFICATE) if not kubelet.probes and kubelet.suffers else []
        if lines:
            yield observe(kubelet, *quoted(lines), *requests)
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
)
