# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about what the metrics server asks of kubelets, and how (KUB-05, KUB-06, KUB-07): pure functions."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation, Repair, Row
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules import server_pods

# --- KUB-05 ----------------------------------------------------------------------------------------------------------

_ANONYMOUS = "system:anonymous"
#: Braces are doubled for str.format.
_ADD_RULE = (
    "kubectl patch clusterrole system:metrics-server --type=json --patch='"
    '[{{"op": "add", "path": "/rules/-", "value": '
    '{{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}}}}]'
    "'"
)


def not_authorized(evidence: Evidence) -> t.Iterator[Observation]:
    """The account of the metrics server lacks a right, kubelets take it for nobody, or they cannot ask who may what."""
    denied = _role_lacks(evidence)
    if denied:
        yield Observation(
            evidence=(*denied, *_logged(evidence, _FORBIDDEN)),
            repair=server_pods.foreign(
                evidence,
                "Restore upstream's ClusterRole of its version: nodes/metrics since 0.6, nodes/stats before.",
                "kubectl get clusterrole system:metrics-server --output yaml",
                _ADD_RULE,
            ),
        )
    for answer in evidence.kubelet_answers():
        said = f"kubelet of {answer['node']}: {answer['status']} {answer['message']}".rstrip()
        hosts = (evidence.host_of_node(answer["node"]),)
        if answer["status"] == 403 and _ANONYMOUS in answer["message"]:
            yield Observation(
                evidence=(said,),
                hosts=hosts,
                cause="The kubelet does not verify tokens (authentication.webhook.enabled is false) and takes the "
                "metrics server for an anonymous user.",
                repair=_ACCESS,
            )
        elif answer["status"] == 500 and "uthorization error" in answer["message"]:
            yield Observation(
                evidence=(said,),
                hosts=hosts,
                cause="The kubelet's own SubjectAccessReview failed: its kubeconfig has no right to create one, or "
                "it does not reach the API server.",
                repair=Repair(
                    "advice",
                    "Find out what its review fails of, in the kubelet's log on that node.",
                    commands=(
                        "journalctl --unit kubelet --since '-5 min' | grep -i 'authorization error'",
                        "kubectl auth can-i create subjectaccessreviews.authorization.k8s.io "
                        f"--as=system:node:{answer['node']} --as-group=system:nodes",
                    ),
                ),
            )


def _role_lacks(evidence: Evidence) -> list[str]:
    if not evidence.server_reads_kubelets:
        return []
    metrics, stats = evidence.review("server_nodes_metrics"), evidence.review("server_nodes_stats")
    wants_stats = any("subresource=stats" in line or "nodes/stats" in line for line in evidence.server_log())
    return [
        f"SubjectAccessReview: {review.get('user')} may not get nodes/{review.get('subresource')}"
        for review, needed in ((metrics, not wants_stats), (stats, wants_stats))
        if review and needed and not review.get("allowed")
    ]


_FORBIDDEN = re.compile(r"answered 403|403 Forbidden|\bForbidden \(user=")


def _logged(evidence: Evidence, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """The newest lines of the server's log that match."""
    lines = dict.fromkeys(server_pods.excerpt(line, pattern) for line in evidence.server_log() if pattern.search(line))
    return tuple(f"log of the metrics server: {line}" for line in list(lines)[-3:])


# --- KUB-06 ----------------------------------------------------------------------------------------------------------

_READ_ONLY_FLAGS = re.compile(
    r"--deprecated-kubelet-completely-insecure(?:=true)?$|--kubelet-port=10255$|--source=.*10255"
)
_READ_ONLY_PORT = re.compile(r":10255\b.*(?:refused|timeout)|(?:refused|timeout).*:10255\b")


def read_only_port(evidence: Evidence) -> t.Iterator[Observation]:
    flags = [argument for argument in evidence.server_arguments() if _READ_ONLY_FLAGS.search(argument)]
    lines = _logged(evidence, _READ_ONLY_PORT)
    if not flags or not (lines or evidence.nodes_without_metrics()):
        return
    yield Observation(
        evidence=(f"arguments of the metrics server: {' '.join(flags)}", *lines),
        repair=server_pods.foreign(
            evidence,
            "Replace it by a version that asks the secure port with its token.",
            "kubectl --namespace {namespace} edit deployment {name}  "
            "# remove --deprecated-kubelet-completely-insecure and --kubelet-port=10255, and use an image since 0.3",
        ),
    )


# --- KUB-07 ----------------------------------------------------------------------------------------------------------

_NO_NAME = re.compile(
    r"no such host|lookup \S+ on \S+|the name \S+ (?:cannot|could not) be resolved|server misbehaving"
)
_ADDRESS_TYPES = "--kubelet-preferred-address-types="


def names_not_resolved(evidence: Evidence) -> t.Iterator[Observation]:
    lines = _logged(evidence, _NO_NAME)
    arguments = evidence.server_arguments()
    order = next((entry for entry in reversed(arguments) if entry.startswith(_ADDRESS_TYPES)), "")
    first = order.removeprefix(_ADDRESS_TYPES).partition(",")[0] or "Hostname"
    if not lines or (arguments and first in ("InternalIP", "ExternalIP")):
        return
    seen = order or "no --kubelet-preferred-address-types, and the default prefers Hostname"
    yield Observation(
        evidence=(*lines, f"arguments of the metrics server: {seen}"),
        repair=server_pods.foreign(
            evidence,
            "Have it ask for addresses; certificates of kubelets have to name them (KUB-01).",
            "kubectl --namespace {namespace} edit deployment {name}  "
            "# --kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
        ),
    )


_ACCESS = Repair(
    "consent",
    "Have the kubelet verify tokens and ask the API server who may what, and restart it.",
    risk="a kubelet whose configuration is refused does not start; its old one is restored then",
    downtime="none for pods; each kubelet restarts in turn",
    steps=("kubelet_access",),
)

ROWS: tuple[Row, ...] = (
    Row(
        id="KUB-05",
        title="Kubelets refuse the metrics server: it may not read nodes/metrics",
        layer="kubelet",
        symptom="Forbidden (user=system:serviceaccount:kube-system:metrics-server, verb=get, resource=nodes, "
        "subresource(s)=[metrics]); no node has metrics",
        cause="The ClusterRole of the metrics server lacks nodes/metrics, or is not bound to its account.",
        repair=Repair(
            "automatic",
            "Restore the ClusterRole system:metrics-server and its binding. Kubelets keep an answer for some minutes "
            "at most.",
            steps=("metrics_server",),
        ),
        avoid="Do not grant nodes/proxy: it lets its holder run commands in every pod.",
        rule=not_authorized,
        only_resource_metrics=True,
        explains=("AGG-12",),
        covers=("node_metrics", "pod_metrics", "server_pod", "request"),
        covers_everywhere=("pod_metrics", "server_pod", "request"),
    ),
    Row(
        id="KUB-06",
        title="The metrics server asks the read-only port of kubelets, which is closed",
        layer="kubelet",
        symptom="dial tcp 192.0.2.21:10255: connect: connection refused; no node has metrics",
        cause="The metrics server has the flags (or is of a version, 0.2 or older) of the time when kubelets "
        "answered without authentication on port 10255. That port is off on every cluster that is set up with care.",
        repair=Repair(
            "automatic",
            "Deploy the metrics server with the flags that site.yml gives it: port 10250, TLS verified, with its "
            "token.",
            steps=("metrics_server",),
        ),
        avoid="Do not open readOnlyPort: it serves everything about pods, without authentication.",
        rule=read_only_port,
        only_resource_metrics=True,
        explains=("AGG-12",),
        covers=("node_metrics", "pod_metrics", "server_pod", "request"),
    ),
    Row(
        id="KUB-07",
        title="The metrics server asks for nodes by names that its DNS does not know",
        layer="kubelet",
        symptom="dial tcp: lookup k8s-node1 on 10.96.0.10:53: no such host; no node has metrics",
        cause="The metrics server prefers host names of nodes (its default), and the DNS of pods knows Services, not "
        "nodes.",
        repair=Repair(
            "automatic",
            "Deploy the metrics server with the order of addresses that site.yml gives it: InternalIP first.",
            steps=("metrics_server",),
        ),
        avoid="Do not add nodes to /etc/hosts, to CoreDNS or to hostAliases: every new node fails again.",
        rule=names_not_resolved,
        only_resource_metrics=True,
        explains=("AGG-12",),
        covers=("node_metrics", "pod_metrics", "server_pod", "request"),
    ),
)
