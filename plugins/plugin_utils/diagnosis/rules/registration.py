# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the APIServices and the Service behind them (AGG-01, AGG-07, AGG-08, AGG-12)."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.families import joined
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
    Elsewhere,
    Finding,
    Observation,
    Repair,
    Row,
    Standing,
)

Mapping = t.Mapping[str, t.Any]

OURS = "kubemetrics"


def registered(evidence: Evidence) -> list[Mapping]:
    """The APIServices of the group that a Service of the cluster serves."""
    return [entry for entry in evidence.apiservices if entry.get("exists") and entry.get("service")]


def service_name(entry: Mapping) -> str:
    return f"{get(entry, 'service', 'namespace')}/{get(entry, 'service', 'name')}"


def owners(evidence: Evidence) -> dict[str, str]:
    """Who made each APIService of the group."""
    return {
        str(entry.get("name")): str(entry.get("owner") or "somebody else")
        for entry in evidence.api("provider", "apiservices", default=[])
    }


def foreign(evidence: Evidence) -> str:
    """Who made the server where it was not this collection, empty where it was, or where there is none."""
    found = [evidence.api("provider", kind, "owner") for kind in ("deployment", "service")]
    found += [get(entry, "owner") for entry in get(evidence.objects, "workloads", default=[])]
    return next((str(owner) for owner in found if owner and owner != OURS), "")


def failures(evidence: Evidence, name: str, limit: int = 2) -> list[str]:
    """What clients get for an APIService, each text once."""
    lines = {
        str(entry["message"]): f"{name} through {entry['host']}: {entry['message']}"
        for entry in evidence.requests
        if entry.get("name") == name and not entry.get("ok") and entry.get("message")
    }
    return list(lines.values())[:limit]


def advice_to(owner: str, text: str, *commands: str) -> Repair:
    return Repair("advice", f"{text} It belongs to {owner}, so do it there.", commands=commands)


# --- AGG-01 ---------------------------------------------------------------------------------------------------------


def not_registered(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-01: there is no APIService for the version that clients ask for."""
    if not evidence.api_answered:
        return
    missing = [str(entry["name"]) for entry in evidence.apiservices if not entry.get("exists")]
    if evidence.subject.apiservice not in missing:
        return
    others = [str(entry["name"]) for entry in evidence.apiservices if entry.get("exists")]
    lines = [f'apiservices.apiregistration.k8s.io "{name}" not found' for name in missing]
    cause = ""
    if others:
        lines.append(f"registered: {', '.join(others)}")
        cause = (
            "The metrics API is registered in a version that kubectl does not ask for."
            if evidence.subject.resource_metrics
            else f"The group {evidence.subject.group} is registered in another version."
        )
    deployment = evidence.api("provider", "deployment", default={})
    if deployment:
        name = f"{deployment.get('namespace')}/{deployment.get('name')}"
        lines.append(f"Deployment {name} of {deployment.get('owner')}: {deployment.get('available') or 0} available")
        cause = cause or (
            "The metrics server runs, but its API is no longer registered: somebody deleted the APIService, or it went "
            "with another provider that was removed."
        )
    owner = foreign(evidence)
    repair = (
        advice_to(owner, "Register the API again.", "helm upgrade, or kubectl apply of its manifests")
        if owner
        else None
    )
    yield Observation(tuple(lines), cause=cause, repair=repair)


# --- AGG-07 ---------------------------------------------------------------------------------------------------------


def certificate_not_verified(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-07: API servers cannot verify the server's certificate. Their condition does not show it."""
    for entry in registered(evidence):
        name = str(entry["name"])
        if entry.get("insecure_skip_tls_verify"):
            continue
        lines, cause = _unverified(evidence, entry)
        if not lines:
            continue
        lines += failures(evidence, name)
        condition = entry.get("message") or entry.get("reason")
        lines.append(f"{name} is Available={entry.get('available')}: {condition or 'no reason given'}")
        owner = (
            owners(evidence).get(name, OURS)
            if evidence.subject.resource_metrics
            # Its own owner is not read, but that of what it leads to; where that is not known, the row's advice does.
            else foreign(evidence) or OURS
        )
        repair = None
        if owner != OURS:
            text = "Issue a certificate for the Service's name, and write the CA that signed it into the caBundle."
            repair = advice_to(owner, text, f"kubectl get apiservice {name} --output=jsonpath='{{.spec.caBundle}}'")
        yield Observation(tuple(dict.fromkeys(lines)), cause=cause, repair=repair)


def _unverified(evidence: Evidence, entry: Mapping) -> tuple[list[str], str]:
    """What shows that the certificate does not verify, and why it does not; no lines where it does."""
    name, server = str(entry["name"]), evidence.subject.server
    bundle = t.cast(Mapping, entry.get("ca_bundle") or {})
    if bundle.get("present") and not bundle.get("valid_pem"):
        why = bundle.get("message") or "does not parse"
        return [f"caBundle of {name}: {why}"], (
            "The caBundle is no PEM certificate. API servers accept it, show the API as available for a while, and "
            "fail every request."
        )
    shown = [
        (host.name, target)
        for host in evidence.control_planes
        for target in get(host.aggregators().get(name) or {}, "targets", default=[])
        # A ClusterIP without kube-proxy may lead to some other server.
        if target.get("kind") == "endpoint" and get(target, "tls", "verified") is False
    ]
    said = [line for line in failures(evidence, name) if "x509:" in line or "certificate" in line]
    if not bundle.get("present"):
        return (
            said and [f"{name} has no caBundle", *said]
        ), "There is no caBundle, so nothing verifies the certificate."
    if not shown:
        return said, ""
    host, target = shown[0]
    certificate = t.cast(Mapping, get(target, "tls", "certificate", default={}))
    wanted = f"{get(entry, 'service', 'name')}.{get(entry, 'service', 'namespace')}.svc"
    lines = [
        f"{host}: the certificate of {joined(target.get('host'), target.get('port'))} does not verify for {wanted}: "
        f"{get(target, 'tls', 'error', 'message')}",
        f"it was issued by {certificate.get('issuer')} for {', '.join(certificate.get('dns_names') or ['no name'])}",
        f"caBundle of {name}: {', '.join(bundle.get('subjects') or ())}",
    ]
    if certificate.get("expired"):
        return lines, f"The certificate of {server} expired on {certificate.get('not_after')}."
    if certificate and not _names(wanted, certificate.get("dns_names") or ()):
        return lines, f"The certificate of {server} is not for {wanted}, the name that API servers verify."
    return lines, f"The caBundle is not the CA that signed the certificate of {server}."


def _names(wanted: str, names: t.Iterable[str]) -> bool:
    return any(name == wanted or (name.startswith("*.") and name[2:] == wanted.partition(".")[2]) for name in names)


# --- AGG-08 ---------------------------------------------------------------------------------------------------------


def several_providers(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-08: more than one metrics server claims the API."""
    entries = registered(evidence)
    known = owners(evidence)
    services = {service_name(entry): str(entry["name"]) for entry in reversed(entries)}
    deployment = t.cast(Mapping, evidence.api("provider", "deployment", default={}))
    own = t.cast(Mapping, evidence.api("provider", "service", default={}))
    own_name = f"{own.get('namespace')}/{own.get('name')}" if own else ""
    lines = [
        f"APIService {entry['name']} of {known.get(str(entry['name']), 'somebody')} is served by Service "
        f"{service_name(entry)}"
        for entry in entries
    ]
    if deployment:
        name = f"{deployment.get('namespace')}/{deployment.get('name')}"
        lines.append(f"Deployment {name} of {deployment.get('owner')}: {deployment.get('available') or 0} available")
    apart = bool(deployment and own and services and own_name not in services)
    conflict = _conflict(known.get(str(entries[0]["name"]), "") if entries else "", str(deployment.get("owner") or ""))
    if len(services) < 2 and not apart and not conflict:
        return
    failing = bool(evidence.failing_servers)
    cause = ""
    if len(services) < 2 and not apart:
        cause = (
            "The APIService and the Deployment belong to different tools. Each tool refuses the objects of the other, "
            "or takes the API along when it is removed."
        )
    yield Observation(
        (*lines, *(line for entry in entries for line in failures(evidence, str(entry["name"]), 1))),
        cause=cause,
        severity="error" if failing and (len(services) > 1 or apart) else "warning",
    )


def _conflict(one: str, other: str) -> bool:
    """Whether both are tools that keep what they own. Objects that were applied by hand belong to nobody."""
    keepers = [owner for owner in (one, other) if owner == OURS or "Helm release" in owner or "add-on" in owner]
    return len(keepers) == 2 and one != other


def _other_provider_fails(cause: Finding, _consequence: Finding) -> bool:
    """A conflict about who owns an object breaks nothing by itself."""
    return cause.severity == "error"


# --- AGG-12 ---------------------------------------------------------------------------------------------------------


def no_endpoints(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-12: the Service behind the API leads nowhere."""
    seen: set[str] = set()
    for entry in registered(evidence):
        name = service_name(entry)
        endpoints = entry.get("endpoints") or ()
        if name in seen or any(endpoint.get("ready") for endpoint in endpoints):
            continue
        if _leads_elsewhere(evidence, name) and _served(evidence, str(entry.get("name"))):
            continue
        seen.add(name)
        lines, cause, standing = _why_empty(evidence, entry)
        condition = entry.get("message")
        lines = [*lines, *([f"{entry['name']}: {condition}"] if condition else [])]
        owner = foreign(evidence)
        repair = advice_to(owner, "Correct the Service or the Deployment.") if owner else None
        yield Observation(tuple(lines), cause=cause, repair=repair, standing=standing)


def _leads_elsewhere(evidence: Evidence, name: str) -> bool:
    """Whether a Service is of the type ExternalName. It has no endpoints, and API servers connect all the same."""
    service = get(evidence.objects, "service", default={})
    return service.get("type") == "ExternalName" and f"{service.get('namespace')}/{service.get('name')}" == name


def _served(evidence: Evidence, apiservice: str) -> bool:
    """Whether every API server that was asked serves the API."""
    asked = [entry for entry in evidence.requests if entry.get("name") == apiservice]
    return bool(asked) and all(entry.get("ok") for entry in asked)


def _why_empty(evidence: Evidence, entry: Mapping) -> tuple[list[str], str, Standing]:
    """The reason, as far as the objects tell; where only the pods are to blame, their own rows have to say why."""
    name = service_name(entry)
    port = get(entry, "service", "port")
    service = t.cast(Mapping, get(evidence.objects, "service", default={}))
    if _leads_elsewhere(evidence, name):
        return (
            [f"Service {name} is of the type ExternalName, and has no endpoints of its own"],
            "API servers connect to the name that the Service gives, and nothing there serves the API.",
            "own",
        )
    if entry.get("service_exists") is False:
        if service and f"{service.get('namespace')}/{service.get('name')}" == name:
            ports = ", ".join(str(other.get("port")) for other in service.get("ports") or ()) or "none"
            return (
                [f"Service {name} has the ports {ports}, not {port}"],
                f"The Service is not listening on port {port}.",
                "own",
            )
        return [f"Service {name} does not exist"], "The Service that the APIService names does not exist.", "own"
    # A pod that ends is ready still, and no endpoint any more.
    pods = [pod for pod in evidence.server_pods if not pod.get("terminating")]
    selected = [pod for pod in pods if pod.get("selected")]
    selector = ", ".join(f"{key}={value}" for key, value in sorted((service.get("selector") or {}).items()))
    if pods and not selected:
        return (
            [
                f"Service {name} selects {selector or 'nothing'}",
                f"pod {_pod(pods[0])} has the labels {_labels(pods[0])}",
            ],
            f"The selector of the Service matches no pod of {evidence.subject.server}.",
            "own",
        )
    pending = [pod for pod in selected if pod.get("phase") == "Pending" and _unschedulable(pod)]
    if pending and len(pending) == len(selected):
        return (
            [f"pod {_pod(pending[0])} is Pending: {_unschedulable(pending[0])}"],
            f"No node takes the pod of {evidence.subject.server}.",
            "own",
        )
    if any(pod.get("ready") for pod in selected) and not entry.get("endpoints"):
        ports = ", ".join(
            f"{p.get('name') or p.get('port')} -> {p.get('target_port')}" for p in service.get("ports") or ()
        )
        return (
            [f"Service {name} has the ports {ports}", f"pod {_pod(selected[0])} has the ports {_ports(selected[0])}"],
            "The port of the Service leads to no port of the pods.",
            "own",
        )
    if not pods:
        return _why_no_pods(evidence, name)
    unready = selected[0]
    return (
        [f"pod {_pod(unready)} is {unready.get('phase')} and not ready"],
        "The pods that the Service selects are not ready.",
        "consequence",
    )


def _why_no_pods(evidence: Evidence, name: str) -> tuple[list[str], str, Standing]:
    workloads = get(evidence.objects, "workloads", default=[])
    server = evidence.subject.Server
    if not workloads and evidence.subject.resource_metrics:
        return [f"no pod and no Deployment is behind Service {name}"], "There is no metrics server.", "own"
    if not workloads:
        # Whatever it is called: only what the Service selects would tell.
        selector = get(evidence.objects, "service", "selector", default={})
        shown = ", ".join(f"{key}={value}" for key, value in sorted(selector.items())) or "nothing"
        return (
            [f"Service {name} selects {shown}, which no pod and no Deployment of its namespace has"],
            "There is no pod behind the Service: its server was removed, or the selector is wrong.",
            "own",
        )
    workload = workloads[0]
    shown = f"{workload.get('kind')} {workload.get('namespace')}/{workload.get('name')}"
    if not workload.get("replicas"):
        return [f"{shown} has 0 replicas"], f"{server} was scaled to 0.", "own"
    trouble = [
        f"{shown}: {condition.get('message')}"
        for condition in workload.get("conditions") or ()
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
    ]
    return trouble or [f"{shown} has no pods yet"], f"The pods of {evidence.subject.server} were not created.", "own"


def _pod(pod: Mapping) -> str:
    return f"{pod.get('namespace')}/{pod.get('name')}"


def _labels(pod: Mapping) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted((pod.get("labels") or {}).items())) or "none"


def _ports(pod: Mapping) -> str:
    found = [
        f"{port.get('name') or ''} {port.get('port')}".strip()
        for container in pod.get("containers") or ()
        for port in container.get("ports") or ()
    ]
    return ", ".join(found) or "none"


def _unschedulable(pod: Mapping) -> str:
    return next(
        (
            str(condition.get("message") or condition.get("reason"))
            for condition in pod.get("conditions") or ()
            if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable"
        ),
        "",
    )


# --- rows -----------------------------------------------------------------------------------------------------------

DEPLOY = ("metrics_server",)

ROWS: tuple[Row, ...] = (
    Row(
        id="AGG-01",
        title="$Api is not registered",
        layer="registration",
        symptom="$missing. kubectl get apiservice $apiservice: Error from server "
        '(NotFound): apiservices.apiregistration.k8s.io "$apiservice" not found',
        cause="No APIService says who serves $group: no $kind_of_server was installed, or the registration was "
        "removed together with another provider.",
        repair=Repair(
            "automatic",
            "Apply ${server}'s objects: its APIServices, and its Service and Deployment where they differ.",
            risk="none; another provider is not replaced",
            steps=DEPLOY,
        ),
        avoid="Do not install a second $kind_of_server beside one that only lost its registration (AGG-08).",
        rule=not_registered,
        elsewhere=Elsewhere(
            repair=Repair(
                "advice",
                "Register $apiservice again, with the manifests or the chart that its server comes with.",
                commands=("kubectl get apiservices", "helm upgrade, or kubectl apply of its manifests"),
            ),
            avoid="Do not write an APIService with insecureSkipTLSVerify: then API servers send the front proxy's "
            "headers to whoever answers at that address.",
        ),
        covers=("registration", "request"),
    ),
    Row(
        id="AGG-07",
        title="API servers cannot verify the certificate of $server",
        layer="service",
        symptom="Error from server (ServiceUnavailable): error trying to reach service: tls: failed to verify "
        "certificate: x509: certificate signed by unknown authority. Before Kubernetes 1.36 the APIService says "
        "Available=True all the same",
        cause="The certificate of $server was not signed by the CA in the APIService's caBundle, or is "
        "not for the name of the Service.",
        repair=Repair(
            "automatic",
            "Apply ${server}'s objects, with its right to write the caBundle. The server then writes the CA "
            "of its certificate into the APIServices within a minute.",
            risk="none; requests fail already",
            steps=DEPLOY,
        ),
        avoid="Do not set insecureSkipTLSVerify: then API servers send the front proxy's headers to whoever answers "
        "at that address.",
        rule=certificate_not_verified,
        elsewhere=Elsewhere(
            repair=Repair(
                "advice",
                "Issue a certificate for the Service's name, and write the CA that signed it into the caBundle of "
                "$apiservice.",
                commands=("kubectl get apiservice $apiservice --output=jsonpath='{.spec.caBundle}' | base64 --decode",),
            )
        ),
        covers=("request",),
    ),
    Row(
        id="AGG-08",
        title="Two providers claim $api",
        layer="registration",
        symptom='helm: APIService "v1beta1.metrics.k8s.io" in namespace "" exists and cannot be imported into the '
        "current release: invalid ownership metadata. Or kubectl top fails after another metrics server was "
        "installed or removed",
        cause="There is one APIService for metrics.k8s.io, and it leads to another Service than that of the metrics "
        "server that runs. Removing one provider removes the registration of the other.",
        repair=Repair(
            "consent",
            "Decide for one provider. If it is this collection's, the repair takes the registration over; "
            "otherwise remove the other metrics server.",
            risk="the other provider's registration is replaced, and whoever relies on it gets this one's answers; "
            "an add-on manager may write its own back",
            steps=DEPLOY,
            variables=("metrics_server_takeover=true",),
            commands=(
                "kubectl get apiservice v1beta1.metrics.k8s.io --output=yaml",
                "helm uninstall RELEASE --namespace NAMESPACE",
            ),
        ),
        avoid="Do not overwrite an add-on that a cloud provider or k3s manages: it comes back. Switch it off there. "
        "Do not edit meta.helm.sh annotations to make Helm accept objects of somebody else.",
        rule=several_providers,
        only_resource_metrics=True,
        # Such as the rights that the other provider does not need, or no longer has.
        explains=("AGG-07", "AGG-12", "POD-04", "POD-05", "KUB-05"),
        related=_other_provider_fails,
        covers=("request", "server_pod"),
    ),
    Row(
        id="AGG-12",
        title="The Service of $server has no endpoints",
        layer="service",
        symptom="$unavailable. APIService: endpointslices for service/$name in "
        '"$namespace" have no addresses with port name "https"; or: service/$name in "$namespace" is not '
        "present",
        cause="The Service that the APIService names is missing, has another port, or selects no pod that is ready.",
        repair=Repair(
            "automatic",
            "Apply ${server}'s objects: Service, Deployment with the tolerations of its variables.",
            risk="none; the API is not served anyway",
            steps=DEPLOY,
        ),
        avoid="Do not remove taints from nodes to get the pod placed; give the pod the toleration "
        "(metrics_server_extra_tolerations). Do not write EndpointSlices by hand.",
        rule=no_endpoints,
        elsewhere=Elsewhere(
            repair=Repair(
                "advice",
                "Correct the Service $service, or the workload behind it, where they come from.",
                commands=(
                    "kubectl --namespace $namespace get service $name --output wide",
                    "kubectl --namespace $namespace get deployments,pods --show-labels",
                ),
            ),
            avoid="Do not remove taints from nodes to get the pod placed; give the pod the toleration. Do not write "
            "EndpointSlices by hand.",
        ),
        covers=("request", "server_pod"),
    ),
)
