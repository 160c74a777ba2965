# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the metrics server's pods (POD). Each is a pure function from evidence to observations."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation, Repair, Row
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules.network import failed, said_of

# --- POD-03: the pod does not reach the API -------------------------------------------------------------------------

#: What upstream's server and this project's log while they cannot read whom to trust.
_NO_API = re.compile(
    r"(extension-apiserver-authentication|configmap based request-header-client-ca-file|https://\S+:443/)"
    r".*(i/o timeout|timed out|deadline exceeded|no route to host|connection refused|unreachable|cannot connect)",
    re.IGNORECASE,
)


def pod_does_not_reach_api(evidence: Evidence) -> t.Iterator[Observation]:
    measured = False
    for name in evidence.server_hosts:
        host = evidence.host(name)
        services = host.pod_targets("cluster_ip") if host else []
        measured = measured or bool(services)
        broken = [target for target in services if failed(target) or target.get("answers") is False]
        if not broken:
            continue
        servers = host.pod_targets("api_server") if host else []
        reached = [target for target in servers if not failed(target)]
        lines = [said_of(f"pod on {name}", target) for target in [*broken, *servers[:2]]]
        lines += _log_lines(evidence)[:1]
        endpoints = [str(address) for address in get(evidence.objects, "kubernetes", "endpoints", default=[])]
        known = {f"{target.get('host')}:{target.get('port')}" for target in servers}
        odd = [address for address in endpoints if known and address not in known]
        if odd:
            lines.append(f"Service default/kubernetes leads to {', '.join(odd)}, which is no API server that is known")
        yield Observation(
            tuple(lines), (name,), cause=_cause(name, bool(reached), odd), repair=_repair(name, bool(reached))
        )
    # Without a look from the host, what the server says has to do.
    logged = _log_lines(evidence)
    if not measured and logged and not any(pod.get("ready") for pod in evidence.server_pods):
        yield Observation(tuple(logged[:2]), evidence.server_hosts)


def _log_lines(evidence: Evidence) -> list[str]:
    return [f"metrics server: {line}" for line in evidence.server_log() if _NO_API.search(line)][-2:]


def _cause(name: str, reached: bool, odd: t.Sequence[str]) -> str:
    if odd:
        return (
            "The Service kubernetes leads to an address at which pods find no API server: an API server advertises "
            "an address that "
            "others cannot reach (--advertise-address)."
        )
    if reached:
        return (
            f"Pods on {name} reach the API servers themselves and not their ClusterIP: nothing on that node "
            "translates ClusterIPs "
            "(kube-proxy, or the CNI plugin in its place)."
        )
    return ""


def _repair(name: str, reached: bool) -> Repair | None:
    if not reached:
        return None
    return Repair(
        "advice",
        f"Start kube-proxy on {name}; the metrics server connects by itself then.",
        risk="none",
        commands=(
            f"kubectl --namespace kube-system get pods --output wide --field-selector spec.nodeName={name} "
            "--selector k8s-app=kube-proxy",
            f"systemctl status kube-proxy   # on {name}, where it is a service",
        ),
    )


POD_03 = Row(
    id="POD-03",
    title="The metrics server's pod does not reach the API",
    layer="server",
    symptom=(
        'unable to load configmap based request-header-client-ca-file: Get "https://10.96.0.1:443/...": dial tcp '
        "10.96.0.1:443: i/o timeout"
    ),
    cause=(
        "Nothing that the pod sends to the API comes back, so that the server never learns whom to trust, and "
        "never becomes ready. The network of "
        "pods on its node does not work."
    ),
    repair=Repair(
        "advice",
        "Mend the network of pods on that node: its CNI plugin, kube-proxy, and what the host's firewall forwards.",
        risk="none",
        commands=("kubectl --namespace kube-system get pods --output wide", "iptables -S FORWARD", "ip route"),
    ),
    avoid="Do not add rights: that the log goes on about RBAC misleads, the request never got as far.",
    rule=pod_does_not_reach_api,
    covers_everywhere=("request", "server_pod", "autoscaler", "namespace", "discovery", "node_metrics", "pod_metrics"),
)

ROWS: tuple[Row, ...] = (POD_03,)
