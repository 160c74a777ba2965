# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about what others suffer from it (CON). Each is a pure function from evidence to observations.

They are consequences where the API that the diagnosis is about does not answer, and roots where another API is.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Mapping, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
    Elsewhere,
    Observation,
    Repair,
    Row,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.symptoms import awaits_samples

_MISSING_REQUEST = "missing request for"


def namespaces_not_deleted(evidence: Evidence) -> t.Iterator[Observation]:
    stuck = evidence.stuck_namespaces
    if stuck:
        dead = evidence.foreign_dead_apiservices
        yield Observation(
            evidence=(*(f"namespace {name}: {message}" for name, message in stuck[:5]), *map(_dead, dead)),
            cause=_cause(evidence, dead),
            repair=_repair(dead) if dead else None,
            independent=bool(dead),
        )


def discovery_incomplete(evidence: Evidence) -> t.Iterator[Observation]:
    dead = evidence.foreign_dead_apiservices
    if not evidence.discovery_is_incomplete and not dead:
        return
    discovery = get(evidence.objects, "discovery", default={})
    stale = [f"GET /apis: {version} is stale" for version in discovery.get("stale") or ()]
    if discovery.get("status") not in (None, 200):
        stale.append(f"GET /apis: {discovery['status']} {discovery.get('message') or ''}".rstrip())
    yield Observation(
        evidence=(*stale, *map(_dead, dead)),
        cause=_cause(evidence, dead),
        severity="warning" if dead else "error",
        repair=_repair(dead) if dead else None,
        independent=bool(dead),
    )


def _dead(apiservice: Mapping) -> str:
    return f"APIService {apiservice.get('name')}: {apiservice.get('reason')}: {apiservice.get('message')}"


def _cause(evidence: Evidence, dead: t.Sequence[Mapping]) -> str:
    if not dead:
        return ""
    about = evidence.subject
    api = "that of resource metrics" if about.resource_metrics else f"{about.group}/{about.version}"
    parts = []
    for entry in dead:
        service = get(entry, "service", default={})
        where = f"{service.get('namespace')}/{service.get('name')}"
        state = "does not exist" if entry.get("service_exists") is False else "does not answer"
        parts.append(f"{entry.get('name')} (of {entry.get('owner')}), whose Service {where} {state}")
    verb = "is an APIService" if len(parts) == 1 else "are APIServices"
    return f"{'; '.join(parts)}: this {verb} of another API than {api}."


def _repair(dead: t.Sequence[Mapping]) -> Repair:
    commands: list[str] = []
    for entry in dead:
        name, service = entry.get("name"), get(entry, "service", default={})
        if entry.get("service_exists") is False:
            # Its server is gone for good: what is left is the registration.
            commands += [
                f"kubectl get apiservice {name} --output yaml > {name}.yaml",
                f"kubectl delete apiservice {name}",
            ]
        else:
            commands += [
                f"kubectl --namespace {service.get('namespace')} get pods,endpointslices",
                f"kubectl get apiservice {name} --output jsonpath={{.status.conditions}}",
                f"ansible-playbook -i INVENTORY kubemetrics.aggregation.doctor -e doctor_apiservice={name}",
            ]
    return Repair(
        "advice",
        "Have its owner restore the server behind it. Where the server is gone for good (its Service does not "
        "exist), save the APIService and delete it.",
        risk="clients of that API lose it, until the saved APIService is applied again",
        commands=tuple(commands),
    )


def autoscalers_without_metrics(evidence: Evidence) -> t.Iterator[Observation]:
    for autoscaler, message in evidence.failing_autoscalers:
        if awaits_samples(message):
            continue
        namespace, name = autoscaler.get("namespace"), autoscaler.get("name")
        said = f"HorizontalPodAutoscaler {namespace}/{name}: {message}"
        if _MISSING_REQUEST in message:
            yield _without_requests(autoscaler, said)
        elif evidence.failing_servers:
            yield Observation(evidence=(said,))


def _without_requests(autoscaler: Mapping, said: str) -> Observation:
    target = get(autoscaler, "target", default={})
    kind, name, namespace = str(target.get("kind")), target.get("name"), autoscaler.get("namespace")
    lacking = [str(entry) for entry in autoscaler.get("containers_without_requests") or ()]
    if lacking:
        cause = (
            f"{kind} {namespace}/{name} has containers without a request, and a percentage of nothing is no number: "
        )
        cause += f"{', '.join(lacking)}. That is the owner's to decide, and no fault of the metrics API."
    else:
        cause = (
            f"A pod that the selector of {kind} {namespace}/{name} matches has no request; it may belong to another "
            "workload with the same labels. No fault of the metrics API."
        )
    resources = sorted({entry.rpartition(": ")[2] for entry in lacking}) or ["cpu"]
    values = ",".join(f"{resource}={'100m' if resource == 'cpu' else '128Mi'}" for resource in resources)
    containers = ",".join(dict.fromkeys(entry.rpartition(": ")[0] for entry in lacking))
    return Observation(
        evidence=(said, *(f"{kind} {namespace}/{name}: no request: {entry}" for entry in lacking)),
        severity="warning",
        cause=cause,
        repair=Repair(
            "advice",
            f"Ask the owner of {namespace}/{name} for requests that fit; the values below are examples.",
            risk="its pods are replaced, and need that much room on nodes",
            commands=(
                f"kubectl --namespace {namespace} set resources {kind.lower()} {name}"
                + (f" --containers={containers}" if containers else "")
                + f" --requests={values}",
            ),
        ),
        independent=True,
    )


_WITH_ITS_CAUSE = Repair("advice", "It goes away with its cause: nothing is to be done here.")

ROWS: tuple[Row, ...] = (
    Row(
        id="CON-01",
        title="Namespaces cannot be deleted, since an API does not answer",
        layer="consequence",
        symptom="NamespaceDeletionDiscoveryFailure True DiscoveryFailed; the namespace stays Terminating",
        cause="Before a namespace goes, everything of every API in it is deleted, and $api does not answer.",
        repair=_WITH_ITS_CAUSE,
        avoid="Do not remove finalizers with /finalize: what is left in the namespace stays in etcd for ever.",
        rule=namespaces_not_deleted,
        explains=("CON-02",),
        covers=("namespace", "discovery"),
    ),
    Row(
        id="CON-02",
        title="Discovery is incomplete, since an API does not answer",
        layer="consequence",
        symptom="unable to retrieve the complete list of server APIs: ...: stale GroupVersion discovery",
        cause="Clients that list all APIs, such as helm, operators and garbage collection, ask for $api, "
        "too, and it does not answer.",
        repair=_WITH_ITS_CAUSE,
        avoid="Do not delete the APIService of an API that is needed: what calls it fails for good then.",
        rule=discovery_incomplete,
        covers=("discovery",),
    ),
    Row(
        id="CON-03",
        title="Autoscalers get no metrics",
        layer="consequence",
        symptom="FailedGetResourceMetric: unable to get metrics for resource cpu (or: missing request for cpu)",
        cause="HorizontalPodAutoscalers of CPU and memory read $api, and it does not answer.",
        repair=_WITH_ITS_CAUSE,
        avoid="Do not inject requests into workloads of others: they decide where their pods have room.",
        rule=autoscalers_without_metrics,
        elsewhere=Elsewhere(
            symptom="FailedGetPodsMetric, FailedGetObjectMetric or FailedGetExternalMetric: unable to fetch metrics "
            "from the API",
            cause="HorizontalPodAutoscalers of such metrics read $api, and it does not answer.",
        ),
        covers=("autoscaler",),
    ),
)
