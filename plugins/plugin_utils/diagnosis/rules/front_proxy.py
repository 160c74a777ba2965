# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the flags of the aggregation layer and the front proxy's certificates (AGG-02 to AGG-06)."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki.names import UNREADABLE
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.families import joined
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation, Repair, Row

Mapping = t.Mapping[str, t.Any]

#: Without any of these an API server does not act as a front proxy. Names may be left out: then any is allowed.
NEEDED_FLAGS = (
    "requestheader-client-ca-file",
    "requestheader-username-headers",
    "requestheader-group-headers",
    "proxy-client-cert-file",
    "proxy-client-key-file",
)
#: What an extended key usage has to name, if there is any.
CLIENT_USAGES = {"client auth", "2.5.29.37.0"}
RENEW_DAYS = 30


# --- what the hosts and the API say of the front proxy --------------------------------------------------------------


def common_name(subject: str) -> str:
    """The common name in a distinguished name as RFC 4514 writes it."""
    found = re.search(r"(?:^|[,+])CN=((?:\\.|[^,+\\])*)", subject)
    return re.sub(r"\\(.)", r"\1", found.group(1)) if found else ""


def published_cas(evidence: Evidence) -> list[Mapping]:
    """CAs of front proxies that servers of aggregated APIs trust, by the ConfigMap."""
    return list(evidence.api("authentication", "front_proxy_ca", default=[]))


def client_cas(evidence: Evidence) -> list[Mapping]:
    return list(evidence.api("authentication", "client_ca", default=[]))


def fingerprints(certificates: t.Iterable[Mapping]) -> set[str]:
    return {str(entry["fingerprint_sha256"]) for entry in certificates if entry.get("fingerprint_sha256")}


def allowed_names(evidence: Evidence, host: Host) -> list[str]:
    """The names that servers accept: those of the ConfigMap, or of the API server's own flag where it is not known."""
    if evidence.api("authentication", "exists"):
        return [str(name) for name in evidence.api("authentication", "allowed_names", default=[])]
    return _names(host)


def _names(host: Host) -> list[str]:
    names = host.flags("kube-apiserver").get("requestheader-allowed-names") or []
    return [str(name) for name in (names if isinstance(names, list) else [names])]


def refused(host: Host) -> bool:
    """Whether the server behind the API answers 401 to the certificate of this control plane."""
    return any(target.get("verdict") == "front_proxy_refused" for target in host.targets())


def accepted(host: Host) -> bool:
    return any(target.get("verdict") == "ok" for target in host.targets())


def uses_client_ca(evidence: Evidence, host: Host) -> bool:
    """Whether the front proxy's CA or certificate on this host is that of the cluster's clients."""
    clients = client_cas(evidence)
    if fingerprints(host.front_proxy_cas) & fingerprints(clients):
        return True
    flags = host.flags("kube-apiserver")
    if flags.get("client-ca-file") and flags.get("client-ca-file") == flags.get("requestheader-client-ca-file"):
        return True
    # By the CA of clients, and so taken for an ordinary client of that name.
    issuer = get(host.front_proxy, "certificate", "issuer", default="")
    known = {entry.get("subject") for entry in clients}
    return _readable(issuer) and issuer in known and _taken_for_client(evidence, host)


def _taken_for_client(evidence: Evidence, host: Host) -> bool:
    name = common_name(str(get(host.front_proxy, "certificate", "subject", default="")))
    answers = [str(get(target, "response", "message")) for target in host.targets()]
    return any(f'User "{name}"' in text for text in [*answers, evidence.refused_lists.get(host.name, "")])


def _readable(name: t.Any) -> bool:
    """Whether a distinguished name could be read: two that could not are not the same for that."""
    return bool(name) and name != UNREADABLE


def fault_of(evidence: Evidence, host: Host) -> str:
    """The id of the row that fits the certificate of this control plane, empty where none does.

    One at a time: whoever mends the first of them makes a new certificate.
    """
    certificate = t.cast(Mapping, get(host.front_proxy, "certificate", default={}))
    if uses_client_ca(evidence, host):
        return "AGG-06"
    if not certificate:
        return "AGG-04" if host.front_proxy and not host.front_proxy.get("usable") else ""
    if certificate.get("expired"):
        return "AGG-05"
    if certificate.get("not_yet_valid"):
        # A matter of clocks.
        return ""
    names = allowed_names(evidence, host)
    # A name that nobody here could read is no other name: only a refusal tells that it is not allowed.
    judged = _readable(certificate.get("subject")) or refused(host)
    if names and judged and common_name(str(certificate.get("subject"))) not in names:
        return "AGG-03"
    return "AGG-04" if accepted(host) is False and _untrusted(evidence, host, certificate) else ""


def _untrusted(evidence: Evidence, host: Host, certificate: Mapping) -> bool:
    usages = set(certificate.get("extended_key_usages") or ())
    return (
        host.front_proxy.get("usable") is False
        or host.front_proxy.get("issued_by_requestheader_ca") is False
        or bool(usages and not usages & CLIENT_USAGES)
        or (refused(host) and bool(_unpublished(evidence, host)))
    )


def _unpublished(evidence: Evidence, host: Host) -> list[Mapping]:
    """CAs in the file of this host that the ConfigMap does not have."""
    if not evidence.api("authentication", "exists"):
        return []
    known = fingerprints(published_cas(evidence))
    return [entry for entry in host.front_proxy_cas if entry.get("fingerprint_sha256") not in known]


def _file(host: Host) -> str:
    return str(host.flags("kube-apiserver").get("proxy-client-cert-file") or "the front-proxy client certificate")


def _answers(evidence: Evidence, host: Host) -> list[str]:
    """What the server behind the API answers to this control plane, and what clients get there."""
    lines = [
        f"{host.name}: {evidence.subject.server} at {joined(target.get('host'), target.get('port'))} answers "
        f"{get(target, 'response', 'status')} ({get(target, 'response', 'message') or 'no text'})"
        for target in host.targets()
        if get(target, "response", "status") not in (None, 200)
    ]
    return [*lines[:1], *_requests(evidence, host.name)[:1]]


def _requests(evidence: Evidence, name: str) -> list[str]:
    lines = [
        f"{entry.get('name')} through {name}: {entry['message']}"
        for entry in evidence.requests
        if entry["host"] == name and not entry.get("ok") and entry.get("message")
    ]
    refused = evidence.refused_lists.get(name)
    return lines or ([f"metrics through {name}: {refused}"] if refused else [])


def _said(evidence: Evidence, pattern: str) -> list[str]:
    """The newest refusal in the server's log, if it says so; only where no host was examined and requests fail now."""
    if any(host.get("host") for host in evidence.control_planes) or not evidence.failing_servers:
        return []
    refusals = [line for line in evidence.server_log() if "Unable to authenticate the request" in line]
    return [line for line in refusals[-1:] if re.search(pattern, line)]


def _by_log(evidence: Evidence, pattern: str) -> t.Iterator[Observation]:
    """Without access to the hosts: whom the certificate belongs to is then unknown where several fail."""
    lines = _said(evidence, pattern)
    if lines:
        failing = evidence.failing_servers
        quoted = [f"log of {evidence.subject.server}: {line}" for line in lines]
        yield Observation((*quoted, *_requests(evidence, failing[0])[:1]), failing)


# --- AGG-02 ---------------------------------------------------------------------------------------------------------


def missing_flags(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-02: an API server runs without flags of the aggregation layer."""
    seen = False
    for host in evidence.control_planes:
        component = host.component("kube-apiserver")
        if not component.get("running") or component.get("in_process") or not component.get("flags"):
            continue
        seen = True
        missing = [f"--{name}" for name in NEEDED_FLAGS if not host.flags("kube-apiserver").get(name)]
        if missing:
            line = f"{host.name}: kube-apiserver runs without {', '.join(missing)}"
            yield Observation((line, *_requests(evidence, host.name)[:1]), (host.name,))
    if not seen and evidence.api("authentication", "exists") and not published_cas(evidence):
        yield Observation(
            ("ConfigMap kube-system/extension-apiserver-authentication has no requestheader-client-ca-file",),
        )


# --- AGG-03 ---------------------------------------------------------------------------------------------------------


def name_not_allowed(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-03: the certificate has a name that is not allowed."""
    for host in evidence.control_planes:
        subject = str(get(host.front_proxy, "certificate", "subject", default=""))
        fault = fault_of(evidence, host)
        if fault == "AGG-03":
            names = allowed_names(evidence, host)
            lines = (
                f"{host.name}: {_file(host)} has the subject {subject}",
                f"allowed names: {', '.join(name or '(an empty one)' for name in names)}",
                *_answers(evidence, host),
            )
            yield Observation(lines, (host.name,))
        elif not fault and _readable(subject) and _names_removed(evidence, common_name(subject)):
            yield Observation(
                (
                    f"{host.name}: {_file(host)} has the subject {subject}",
                    f"--requestheader-allowed-names of the running API servers: {', '.join(_all_names(evidence))}",
                    "ConfigMap kube-system/extension-apiserver-authentication lists that name still",
                ),
                (host.name,),
                cause="The name was taken out of the flags. It works until the ConfigMap is written anew, which keeps "
                "names that no API server has any more.",
                severity="warning",
            )
    yield from _by_log(evidence, r"subject with cn=.* is not in the allowed list")


def _all_names(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(name for host in evidence.control_planes for name in _names(host)))


def _names_removed(evidence: Evidence, name: str) -> bool:
    """Whether only the memory of the ConfigMap allows a name: every API server is known, and none allows it."""
    planes = evidence.control_planes
    if not planes or not all(host.flags("kube-apiserver") for host in planes):
        return False
    return all(_names(host) for host in planes) and name not in _all_names(evidence)


# --- AGG-04 ---------------------------------------------------------------------------------------------------------


def untrusted_certificate(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-04: servers of aggregated APIs do not trust the certificate."""
    broken = False
    for host in evidence.control_planes:
        if fault_of(evidence, host) != "AGG-04":
            continue
        broken = True
        certificate = get(host.front_proxy, "certificate", default={})
        usages = set(certificate.get("extended_key_usages") or ())
        cause = ""
        if host.front_proxy.get("usable") is False:
            why = get(host.front_proxy, "error", "message") or "certificate and key do not belong together"
            lines = [f"{host.name}: {why}"]
            cause = "Certificate and key of the front proxy cannot be used together, as after half a renewal."
        elif host.front_proxy.get("issued_by_requestheader_ca") is False:
            trusted = ", ".join(_named(entry) for entry in host.front_proxy_cas) or "none"
            lines = [
                f"{host.name}: {_file(host)} was issued by {certificate.get('issuer')}",
                f"{host.name}: CA of --requestheader-client-ca-file, which has not signed it: {trusted}",
            ]
        elif usages and not usages & CLIENT_USAGES:
            lines = [f"{host.name}: {_file(host)} is for {', '.join(sorted(usages))} only"]
            cause = (
                "The front-proxy client certificate is not meant for clients: its extended key usage lacks clientAuth."
            )
        else:
            unpublished = ", ".join(_named(entry) for entry in _unpublished(evidence, host))
            lines = [f"{host.name}: not in ConfigMap kube-system/extension-apiserver-authentication: {unpublished}"]
            cause = "The API server has not published the CA that is in its file."
        yield Observation((*lines, *_answers(evidence, host)), (host.name,), cause=cause)
    logged = list(_by_log(evidence, r"signed by unknown authority|incompatible key usage|unable to get local issuer"))
    yield from logged
    if not broken and not logged:
        yield from _different_cas(evidence)


def _different_cas(evidence: Evidence) -> t.Iterator[Observation]:
    """Control planes whose CA files differ. Servers trust the union of all, so nothing fails as long as that stays."""
    files = {host.name: fingerprints(host.front_proxy_cas) for host in evidence.control_planes if host.front_proxy_cas}
    everywhere = set().union(*files.values()) if files else set()
    odd = [name for name, held in files.items() if held != everywhere]
    if odd and not any(fault_of(evidence, host) for host in evidence.control_planes):
        lines = [
            f"{host.name}: {', '.join(_named(entry) for entry in host.front_proxy_cas)}"
            for host in evidence.control_planes
            if host.front_proxy_cas
        ]
        yield Observation(
            tuple(lines),
            tuple(odd),
            cause="Control planes have different CAs of front proxies. Servers of aggregated APIs trust all that were "
            "published, so nothing fails until the ConfigMap is written anew; then one control plane does.",
            severity="warning",
        )


def _named(certificate: Mapping) -> str:
    return f"{certificate.get('subject')} (SHA-256 {str(certificate.get('fingerprint_sha256') or '')[:16]}...)"


# --- AGG-05 ---------------------------------------------------------------------------------------------------------


def expired_certificate(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-05: the certificate has expired, or will soon."""
    for host in evidence.control_planes:
        certificate = t.cast(Mapping, get(host.front_proxy, "certificate", default={}))
        fault = fault_of(evidence, host)
        if fault == "AGG-05":
            line = f"{host.name}: {_file(host)} expired on {certificate.get('not_after')}"
            yield Observation((line, *_answers(evidence, host)), (host.name,))
        elif not fault and host.front_proxy_cas and all(entry.get("expired") for entry in host.front_proxy_cas):
            lines = [
                f"{host.name}: the CA {entry.get('subject')} expired on {entry.get('not_after')}"
                for entry in host.front_proxy_cas
            ]
            yield Observation(
                (*lines, *_answers(evidence, host)),
                (host.name,),
                cause="The CA of the front proxy has expired, and with it every certificate that it has signed.",
                repair=NEW_CA,
            )
        elif not fault and 0 <= certificate.get("expires_in_days", RENEW_DAYS) < RENEW_DAYS:
            left = f"in {certificate['expires_in_days']} days, on {certificate.get('not_after')}"
            yield Observation(
                (f"{host.name}: {_file(host)} expires {left}",),
                (host.name,),
                cause="The front-proxy client certificate expires soon. Then this API server serves no aggregated API.",
                severity="warning",
            )
    yield from _by_log(evidence, r"certificate has expired")


NEW_CA = Repair(
    "advice",
    "Make a new CA and certificates by it. Requests go on: the new CA is published before certificates by it are used.",
    risk="every aggregated API trusts another CA afterwards; the playbook tries each certificate before it is used",
    commands=("ansible-playbook -i INVENTORY kubemetrics.aggregation.rotate_certs -e front_proxy_pki_rotate_ca=true",),
)


# --- AGG-06 ---------------------------------------------------------------------------------------------------------


def shared_ca(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-06: the CA of front proxies is the CA of clients."""
    seen = False
    for host in evidence.control_planes:
        if not uses_client_ca(evidence, host):
            continue
        seen = True
        lines = []
        both = fingerprints(host.front_proxy_cas) & fingerprints(client_cas(evidence))
        shared = [_named(entry) for entry in host.front_proxy_cas if entry.get("fingerprint_sha256") in both]
        flags = host.flags("kube-apiserver")
        if shared:
            lines.append(
                f"{host.name}: {flags.get('requestheader-client-ca-file')} is the CA of clients, too: {shared[0]}"
            )
        elif flags.get("client-ca-file") and flags.get("client-ca-file") == flags.get("requestheader-client-ca-file"):
            lines.append(
                f"{host.name}: --client-ca-file and --requestheader-client-ca-file are {flags['client-ca-file']}"
            )
        issuer = get(host.front_proxy, "certificate", "issuer")
        if issuer:
            subject = get(host.front_proxy, "certificate", "subject")
            lines.append(f"{host.name}: {_file(host)} has the subject {subject}, issued by {issuer}")
        yield Observation((*lines, *_answers(evidence, host)), (host.name,))
    published = evidence.api("authentication", "shared", default=[])
    if published and not seen:
        names = evidence.api("authentication", "allowed_names", default=[])
        yield Observation(
            (
                "ConfigMap kube-system/extension-apiserver-authentication has these CAs for clients and for front "
                f"proxies: {'; '.join(published)}",
                f"allowed names: {', '.join(names) or 'any'}",
            )
        )


# --- rows -----------------------------------------------------------------------------------------------------------

REISSUE = Repair(
    "automatic",
    "Issue a new front-proxy client certificate by the CA that the API servers publish. They load it by themselves.",
    risk="none for requests; the old pair is kept and can be rolled back",
    steps=("front_proxy_pki",),
)
ROLL = "each API server about 45 s, one after the other; a single one is unavailable meanwhile"

ROWS: tuple[Row, ...] = (
    Row(
        id="AGG-02",
        title="An API server runs without the flags of the aggregation layer",
        layer="api_server",
        symptom="$Requests: Error from server (Forbidden), or $unavailable. The log of $a_server "
        "may say: Cluster doesn't provide requestheader-client-ca-file in configmap/extension-apiserver-"
        "authentication in kube-system",
        cause="The API server does not identify itself to the servers of aggregated APIs: it has no front-proxy "
        "certificate, or does not publish the CA that theirs are verified with. So it is an unauthenticated client "
        "there.",
        repair=Repair(
            "consent",
            "Make the front proxy's CA and certificates where there are none, and add the flags where the installer "
            "keeps them. API servers are restarted one after the other, each behind a health check.",
            risk="a restart of API servers; the old definition is restored where one does not become ready",
            downtime=ROLL,
            steps=("front_proxy_pki", "apiserver_aggregation"),
        ),
        avoid="Do not start $servers with --authentication-skip-lookup or "
        "--authentication-tolerate-lookup-failure: then they do not know who asks. Do not name the cluster's own CA "
        "as the front proxy's (AGG-06).",
        rule=missing_flags,
        covers=("request", "registration"),
    ),
    Row(
        id="AGG-03",
        title="The front-proxy client certificate has a name that is not allowed",
        layer="api_server",
        symptom="error: You must be logged in to the server (Unauthorized). Log of $server: x509: subject "
        "with cn=X is not in the allowed list: [Y]",
        cause="Servers of aggregated APIs accept front proxies with the names of --requestheader-allowed-names only, "
        "and the certificate of this API server has another common name.",
        repair=Repair(
            "automatic",
            "Issue a certificate with an allowed name. The API server loads it by itself.",
            risk="none for requests; the old pair is kept and can be rolled back",
            steps=("front_proxy_pki",),
        ),
        avoid="Do not empty --requestheader-allowed-names as a shortcut: then every certificate of that CA may name "
        "any user. A literal pair of quotes in a static pod is no empty list; it allows one empty name, and so "
        "nobody.",
        rule=name_not_allowed,
        covers=("request",),
    ),
    Row(
        id="AGG-04",
        title="$Servers do not trust the front-proxy client certificate",
        layer="api_server",
        symptom="error: You must be logged in to the server (Unauthorized), often through one control plane only. "
        "Log of $server: x509: certificate signed by unknown authority, or: certificate specifies an "
        "incompatible key usage",
        cause="The certificate was not signed by the CA that the API servers publish in ConfigMap "
        "extension-apiserver-authentication, as after a renewal on one control plane only.",
        repair=REISSUE,
        avoid="Do not copy the cluster's own CA into --requestheader-client-ca-file (AGG-06). Do not delete the "
        "ConfigMap while a control plane has a certificate of another CA: its memory may be what makes that one work.",
        rule=untrusted_certificate,
        covers=("request",),
    ),
    Row(
        id="AGG-05",
        title="The front-proxy client certificate has expired",
        layer="api_server",
        symptom="error: You must be logged in to the server (Unauthorized). Log of $server: Unable to "
        'authenticate the request err="x509: certificate has expired or is not yet valid',
        cause="The certificate by which the API server identifies itself to the servers of aggregated APIs has "
        "expired. kubeadm makes it for one year, and it renews with kubeadm certs renew or an upgrade only.",
        repair=Repair(
            "automatic",
            "Renew the front-proxy client certificate by the same CA. The API server loads it by itself.",
            risk="none for requests; the old pair is kept and can be rolled back",
            steps=("front_proxy_pki",),
        ),
        avoid="Do not set clocks back. Do not restart or reinstall $server: its certificate is another one.",
        rule=expired_certificate,
        covers=("request",),
    ),
    Row(
        id="AGG-06",
        title="Front proxies and clients have the same CA",
        layer="api_server",
        symptom='Error from server (Forbidden): $resource is forbidden: User "kube-apiserver" cannot list '
        'resource "nodes"; or everything works, and clients can act as any user',
        cause="The CA of front proxies is the one that signs the certificates of clients. So $servers may "
        "take the API server for an ordinary client with the name of its certificate. And whoever has a client "
        "certificate with an allowed name can act as any user, cluster administrators included.",
        repair=Repair(
            "consent",
            "Make a CA for the front proxy alone, certificates by it in new files, restart API servers with them one "
            "after the other, and take the shared CA out of what they publish.",
            risk="a restart of API servers, and every aggregated API trusts another CA afterwards",
            downtime=ROLL,
            steps=("front_proxy_pki", "apiserver_aggregation"),
            variables=("front_proxy_pki_replace_shared_ca=true",),
        ),
        avoid="Do not grant the user of the certificate any right (a ClusterRoleBinding for kube-apiserver or "
        "aggregator): every caller of $api would act with it.",
        rule=shared_ca,
        covers=("request", "authentication"),
    ),
)
