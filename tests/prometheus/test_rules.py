# SPDX-License-Identifier: GPL-3.0-or-later
"""Each alert fires when it has to, and not otherwise, as promtool sees it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs/prometheus/rules.yml"
CASES = yaml.safe_load((Path(__file__).parent / "alerts.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def run(*argv: object) -> str:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def identity(alert: str, labels: dict[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    return alert, tuple(sorted(labels.items()))


def test_the_rules_are_sound(promtool):
    text = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert f"SUCCESS: {len(ALERTS)} rules found" in text


def test_every_alert_has_its_case():
    rules = [identity(rule["alert"], rule["labels"]) for rule in ALERTS]
    assert sorted(identity(case["alert"], case["labels"]) for case in CASES) == sorted(rules)


def expectation(case: dict, series: list[dict[str, str]], *, fires: bool) -> dict:
    """One test of promtool: what of this alert fires at the end of the series, and not before its time."""
    inputs = [{"series": name, "values": values} for entry in series for name, values in entry.items()]
    labels = ", ".join(f'{key}="{value}"' for key, value in {**case["labels"], **case.get("with", {})}.items())
    expression = f'ALERTS{{alertname="{case["alert"]}", alertstate="firing", severity="{case["labels"]["severity"]}"'
    if "finding" in case["labels"]:
        expression += f', finding="{case["labels"]["finding"]}"'
    expression += "}"
    sample = f'ALERTS{{alertname="{case["alert"]}", alertstate="firing", {labels}}}'
    wait = case.get("after", "20m")
    return {
        "name": f"{sample} {'fires' if fires else 'does not fire'} with {inputs}",
        "interval": "1m",
        "input_series": inputs,
        "promql_expr_test": [
            {"expr": expression, "eval_time": "3m", "exp_samples": []},
            {"expr": expression, "eval_time": wait, "exp_samples": [{"labels": sample, "value": 1}] if fires else []},
        ],
    }


def check(promtool: Path, directory: Path, tests: list[dict[str, Any]]) -> None:
    path = directory / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    run(promtool, "test", "rules", path)


def test_every_alert_fires_and_does_not(promtool, tmp_path):
    tests = []
    for case in CASES:
        assert case["quiet"], case
        tests.append(expectation(case, case["fires"], fires=True))
        tests += [expectation(case, one, fires=False) for one in case["quiet"]]
    check(promtool, tmp_path, tests)


def test_a_wrong_expectation_fails(promtool, tmp_path):
    with pytest.raises(AssertionError, match="FAILED"):
        check(promtool, tmp_path, [expectation(CASES[0], CASES[0]["quiet"][0], fires=True)])


def test_what_an_alert_says(promtool, tmp_path):
    """Its texts are templates, of which the checks above see nothing."""
    texts = {
        "MetricsServerSamplesOld": (
            [{'metrics_server_api_metric_freshness_seconds_bucket{le="60"}': "0+0x40"},
             {'metrics_server_api_metric_freshness_seconds_bucket{le="120"}': "0+60x40"},
             {'metrics_server_api_metric_freshness_seconds_bucket{le="+Inf"}': "0+60x40"}],
            {},
            "One in ten samples that the metrics server hands out is older than 1m 54s.",
        ),
        "MetricsServerMostScrapesFailing": (
            [{'kubemetrics_kubelet_failing_nodes{reason="timeout"}': "3x40"}, {"kubemetrics_nodes": "4x40"}],
            {},
            "75% of all nodes cannot be read by the metrics server.",
        ),
        "MetricsServerFault": (
            [{'kubemetrics_kubelet_failing_nodes{reason="internal"}': "3x40"}],
            {"reason": "internal"},
            "The metrics server cannot read 3 nodes for a reason of its own: internal.",
        ),
        "FrontProxyCertificateExpires": (
            [{"kubemetrics_front_proxy_certificate_expiration_timestamp_seconds": "88200x40"}],
            {},
            "The front-proxy client certificate of an API server expires in 1d 0h 0m 0s.",
        ),
    }  # fmt: skip
    tests = []
    for name, (series, labels, summary) in texts.items():
        (rule,) = (rule for rule in ALERTS if rule["alert"] == name)
        expected = {
            "exp_labels": {**rule["labels"], **labels},
            "exp_annotations": {**rule["annotations"], "summary": summary},
        }
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": key, "values": value} for entry in series for key, value in entry.items()],
                "alert_rule_test": [{"alertname": name, "eval_time": "30m", "exp_alerts": [expected]}],
            }
        )
    check(promtool, tmp_path, tests)
