# SPDX-License-Identifier: GPL-3.0-or-later
"""Alerts and the dashboard use metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from support.fake_api import FakeApi

from metrics_server.api.telemetry import ApiTelemetry
from metrics_server.engine import Engine, EngineConfig
from metrics_server.kube.client import KubeClient
from metrics_server.telemetry import EngineTelemetry

DOCS = Path(__file__).parents[3] / "docs/prometheus"
#: Metrics of others: kube-apiserver's (kube-aggregator, pkg/controllers/status/metrics).
OTHERS = {"aggregator_unavailable_apiservice"}
#: What follows a metric's name in a histogram.
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
_WORDS = {"by", "without", "on", "ignoring", "and", "or", "unless", "group_left", "group_right", "bool", "offset"}


def metrics_of(expression: str) -> set[str]:
    """Return the names of metrics in a PromQL expression."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![a-zA-Z0-9_:.])[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\(|[a-zA-Z0-9_:])", bare)
    return {name for name in names if name not in _WORDS}


def expressions() -> list[tuple[str, str]]:
    """Return where an expression is, and what it says."""
    groups = yaml.safe_load((DOCS / "rules.yml").read_text())["groups"]
    found = [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]
    dashboard = json.loads((DOCS / "dashboard.json").read_text())
    found += [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric = re.fullmatch(r"label_values\((\w+), \w+\)", variable["query"]["query"])
            assert metric
            found.append((variable["name"], metric.group(1)))
    return found


async def exported(tmp_path: Path) -> set[str]:
    """Return the names of all series that the server can export."""
    async with FakeApi(tmp_path) as api:
        registry = CollectorRegistry()
        client = KubeClient.from_kubeconfig(api.kubeconfig(), user_agent="test")
        engine = Engine(EngineConfig(), client, EngineTelemetry(registry))
        _type, parts = await ApiTelemetry(registry, engine.node_lines).expose(None)
        await engine.stop()
        await client.close()
    types = re.findall(r"^# TYPE (\S+) (\w+)$", b"".join(parts).decode(), re.MULTILINE)
    return {name + suffix for name, kind in types for suffix in _SUFFIXES[kind]}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (a, b) (rate(x_total{c="by (q)", d=~"e|f"}[5m])) > 0', {"x_total"}),
        ("topk(10, x - max by (n) (y)) / z unless w", {"x", "y", "z", "w"}),
        ("histogram_quantile(0.9, sum by (le) (rate(x_bucket[10m]))) > 1e3", {"x_bucket"}),
        ("min(x > 0) - time() < 3 * 86400", {"x"}),
        ("sum without (reason) (x) / (y > 0)", {"x", "y"}),
    ],
)
def test_names_in_expressions(expression: str, names: set[str]) -> None:
    assert metrics_of(expression) == names


async def test_alerts_and_dashboard_use_metrics_that_exist(tmp_path: Path) -> None:
    known = await exported(tmp_path) | OTHERS
    assert {"metrics_server_kubelet_request_total", "process_cpu_seconds_total", "kubemetrics_nodes"} <= known
    found = expressions()
    assert len(found) > 40
    unknown = {where: metrics_of(text) - known for where, text in found if not metrics_of(text) <= known}
    assert unknown == {}
    assert all(metrics_of(text) for _where, text in found)
