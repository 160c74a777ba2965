# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about what kubelets answer (KUB-04 and KUB-11), from evidence to observations."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions import flag_history
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import kubelet_view
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.kubelet_view import Kubelet
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Repair, Row
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules.kubelet_observations import (
    LOGGED_NO_SAMPLES,
    LOGGED_UNAUTHORIZED,
    Observations,
    observe,
    quoted,
    same_kubelet,
)


def no_webhook(evidence: Evidence) -> Observations:
    for kubelet in kubelet_view.kubelets(evidence):
        refused = [probe for probe in kubelet.probes if probe.get("authenticated", "status") == 401]
        if not refused:
            lines = kubelet.logged(LOGGED_UNAUTHORIZED) if not kubelet.probes and kubelet.suffers else []
            if lines:
                yield observe(kubelet, *quoted(lines))
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
                yield observe(kubelet, *quoted(logged))


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
    text = str(kubelet.host.get("host", "kubelet_config", "text", default=""))
    driver = re.search(r"(?m)^cgroupDriver:\s*(\S+)", text)
    named = f"cgroupDriver {driver.group(1) if driver else 'by default'}"
    gate = "KubeletCgroupDriverFromCRI"
    if _asks_the_runtime(kubelet.view) and gate not in text and gate not in str(kubelet.host.component("kubelet")):
        named = "the runtime's cgroup driver"
    words = [
        f"control groups v{kubelet.host.get('host', 'host', 'cgroup_version')}",
        f"kubelet {kubelet.view.get('kubelet_version')} with {named}",
        f"{kubelet.view.get('runtime')} {kubelet.view.get('runtime_version')}",
    ]
    return [f"{kubelet.name}: {', '.join(words)}"]


def _asks_the_runtime(view: t.Mapping[str, t.Any]) -> bool:
    """Whether the kubelet takes the cgroup driver from its runtime (KEP-4033), if no feature gate says otherwise."""
    known = {"containerd": (2, 0), "cri-o": (1, 28)}
    kubelet, runtime = (
        flag_history.parse_version(str(view.get(name))) for name in ("kubelet_version", "runtime_version")
    )
    oldest = known.get(str(view.get("runtime")))
    return bool(kubelet and runtime and oldest and kubelet >= (1, 31) and runtime >= oldest)


ROWS: tuple[Row, ...] = (
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
        id="KUB-11",
        title="The kubelet serves no usable samples",
        layer="kubelet",
        symptom="metrics not available yet",
        cause="The kubelet does not see the control groups of its node or containers: a runtime or an operating system "
        "that does not fit the version of the control groups, or a cgroupDriver that differs from the runtime's (which "
        "counts up to Kubernetes 1.30, and with a runtime that does not say its own).",
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
