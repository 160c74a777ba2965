# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the rules about kubelets share: how they quote, and what follows from one kubelet."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import kubelet_view
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.families import joined
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.kubelet_view import Kubelet
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
    Finding,
    Observation,
    Repair,
)

Observations = t.Iterator[Observation]

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


def connects(kubelet: Kubelet, probe: kubelet_view.Probe, said: t.Any) -> str:
    return f"{probe.source} connects to the kubelet of {kubelet.name} at {probe.address}: {said}"


def pod_connects(kubelet: Kubelet, probe: kubelet_view.PodProbe) -> str:
    address = joined(probe.target.get("host"), probe.target.get("port"))
    said = get(probe.target, "connect", "error", "message")
    return f"a pod of {probe.source.name} connects to the kubelet of {kubelet.name} at {address}: {said}"


def quoted(lines: t.Sequence[str]) -> list[str]:
    """The newest line of a log."""
    return [f"metrics server's log: {line}" for line in lines[-1:]]
