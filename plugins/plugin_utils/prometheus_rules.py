# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Alerts about the resource metrics API, as groups of Prometheus rules. The files in docs/prometheus are made of this:

python -m ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.prometheus_rules
"""

from __future__ import annotations

import typing as t
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parents[2] / "docs"
URL = "https://github.com/kubemetrics/kubemetrics.aggregation/blob/main/docs/"
#: The default of metrics_server_metric_resolution, in seconds.
RESOLUTION = 15.0
DAY = 86400
#: The API server's name for what the metrics API is registered as.
APISERVICES = r'name=~"v1(beta1)?\\.metrics\\.k8s\\.io"'

#: Finding -> why scrapes fail, by the label of the server's metric.
REASONS = {
    "KUB-01": ("unknown_authority", "ip_san_missing", "tls"),
    "KUB-03": ("expired",),
    "KUB-04": ("unauthorized",),
    "KUB-05": ("forbidden",),
    "KUB-07": ("dns",),
    "KUB-08": ("no_address", "unreachable"),
    "KUB-09": ("refused",),
    "KUB-10": ("timeout",),
    "KUB-11": ("malformed", "not_found", "too_large", "http_error"),
}
#: Reasons of the server itself: its log has the details.
OWN_REASONS = ("exhausted", "internal")

Rule = dict[str, t.Any]


class Dumper(yaml.SafeDumper):
    """Indents lists as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def alert(
    name: str,
    severity: str,
    expr: str,
    wait: str,
    summary: str,
    description: str,
    page: str = "doctor.md",
    **labels: str,
) -> Rule:
    return {
        "alert": name,
        "expr": expr,
        "for": wait,
        "labels": {"severity": severity, **labels},
        "annotations": {"summary": summary, "description": description, "runbook_url": URL + page},
    }


def finding(identifier: str) -> str:
    return f"findings/{identifier}.md"


def serving() -> list[Rule]:
    """Whether the metrics API answers."""
    unavailable = f"aggregator_unavailable_apiservice{{{APISERVICES}}}"
    return [
        alert(
            "MetricsServerAbsent",
            "critical",
            "absent(kubemetrics_nodes)",
            "10m",
            "Prometheus gets no metrics from any metrics server.",
            "No metrics server runs, or Prometheus cannot read its /metrics. kubectl top and autoscalers may fail.",
            finding("AGG-12"),
        ),
        alert(
            "MetricsAPIUnavailable",
            "critical",
            f"min by (name) ({unavailable}) == 1",
            "5m",
            "No API server can use {{ $labels.name }}.",
            "kubectl top fails and autoscalers get no metrics. The doctor playbook names the cause.",
            "findings/README.md",
        ),
        alert(
            "MetricsAPIPartlyUnavailable",
            "warning",
            f"(avg by (name) ({unavailable}) > 0) < 1",
            "5m",
            "Some API servers cannot use {{ $labels.name }}.",
            "Requests for metrics fail for clients of one control plane and not of others.",
            finding("AGG-09"),
        ),
    ]


def samples(resolution: float) -> list[Rule]:
    """Whether what it answers is fresh."""
    old = f"{3 * resolution:g}"
    failing = "max by (reason) (kubemetrics_kubelet_failing_nodes{%s}) > 0"
    rules = [
        alert(
            "MetricsServerSamplesOld",
            "warning",
            "histogram_quantile(0.9, sum by (le) (rate(metrics_server_api_metric_freshness_seconds_bucket[10m]))) > "
            + old,
            "10m",
            "One in ten samples that the metrics server hands out is older than {{ $value | humanizeDuration }}.",
            f"With a resolution of {resolution:g} s they should not be older than {old} s: autoscalers act late.",
            finding("KUB-11"),
        ),
        alert(
            "MetricsServerMostScrapesFailing",
            "critical",
            "max(sum without (reason) (kubemetrics_kubelet_failing_nodes) / (kubemetrics_nodes > 0)) > 0.5",
            "5m",
            "{{ $value | humanizePercentage }} of all nodes cannot be read by the metrics server.",
            "Their pods have no metrics, so autoscalers do not scale. MetricsServerScrapesFailing says why.",
            "findings/README.md",
        ),
    ]
    for identifier, reasons in REASONS.items():
        rules.append(
            alert(
                "MetricsServerScrapesFailing",
                "warning",
                failing % f'reason=~"{"|".join(reasons)}"' if len(reasons) > 1 else failing % f'reason="{reasons[0]}"',
                "10m",
                "The metrics server cannot read {{ $value }} nodes: {{ $labels.reason }}.",
                "These nodes and their pods have no metrics. Nodes that are down are among them.",
                finding(identifier),
                finding=identifier,
            )
        )
    rules.append(
        alert(
            "MetricsServerFault",
            "warning",
            failing % f'reason=~"{"|".join(OWN_REASONS)}"',
            "10m",
            "The metrics server cannot read {{ $value }} nodes for a reason of its own: {{ $labels.reason }}.",
            "Its log has the details.",
        )
    )
    rules += [
        alert(
            "MetricsServerUnusableSamples",
            "warning",
            "sum by (reason) (increase(kubemetrics_kubelet_bad_lines_total[15m])) > 0",
            "30m",
            "Kubelets report values that cannot be used: {{ $labels.reason }}.",
            "The containers that they are of have no metrics. The log of the metrics server names the nodes.",
            finding("KUB-11"),
        ),
        alert(
            "MetricsServerNodeClocksSet",
            "warning",
            "sum(increase(kubemetrics_node_clock_changes_total[1h])) > 3",
            "10m",
            "Clocks of nodes are set again and again.",
            "Rates begin anew each time, and certificates may not be valid yet. The server's log names the nodes.",
            finding("LIF-02"),
        ),
        alert(
            "MetricsServerWatchStale",
            "warning",
            "max by (resource) (kubemetrics_watch_last_contact_seconds) > 600",
            "5m",
            "The metrics server has heard nothing of {{ $labels.resource }} for {{ $value | humanizeDuration }}.",
            "New nodes and pods have no metrics: it does not reach the API server.",
            finding("POD-03"),
        ),
    ]
    return rules


def certificates() -> list[Rule]:
    """Whether a certificate expires that nobody renews."""
    rules = []
    for metric, name, page, days, what, then in (
        (
            "kubemetrics_serving_certificate_expiration_timestamp_seconds",
            "MetricsServerCertificate",
            finding("AGG-07"),
            {"warning": 30, "critical": 3},
            "The serving certificate of the metrics server",
            "It renews its own months before. Once it has expired, API servers do not connect to it any more.",
        ),
        (
            "kubemetrics_front_proxy_certificate_expiration_timestamp_seconds",
            "FrontProxyCertificate",
            finding("AGG-05"),
            {"warning": 14, "critical": 2},
            "The front-proxy client certificate of an API server",
            "Once it has expired, all aggregated APIs refuse that API server. The rotate playbook renews it.",
        ),
    ):
        for severity, limit in days.items():
            rules.append(
                alert(
                    f"{name}Expires{'Soon' if severity == 'warning' else ''}",
                    severity,
                    f"min({metric} > 0) - time() < {limit} * {DAY}",
                    "15m",
                    what + " expires in {{ $value | humanizeDuration }}.",
                    then,
                    page,
                )
            )
    return rules


def groups(resolution: float = RESOLUTION) -> dict[str, t.Any]:
    """The content of a rules file, and the spec of a PrometheusRule."""
    parts = {"serving": serving(), "samples": samples(resolution), "certificates": certificates()}
    return {"groups": [{"name": f"kubemetrics.{name}", "rules": rules} for name, rules in parts.items()]}


def prometheus_rule(namespace: str, name: str, labels: t.Mapping[str, str], resolution: float) -> dict[str, t.Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": groups(resolution),
    }


def files() -> dict[Path, str]:
    """The files for those who run Prometheus themselves, with the default resolution."""
    head = "# SPDX-License-Identifier: GPL-3.0-or-later\n# Written by plugins/plugin_utils/prometheus_rules.py.\n"
    rule = prometheus_rule("kube-system", "metrics-server", {"app.kubernetes.io/name": "metrics-server"}, RESOLUTION)
    return {
        DOCS / "prometheus" / name: head + yaml.dump(content, Dumper=Dumper, sort_keys=False, width=120)
        for name, content in (("rules.yml", groups()), ("prometheus-rule.yml", rule))
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(path)
