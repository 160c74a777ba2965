# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import prometheus_rules

ROOT = Path(__file__).parents[4]
RULES = [rule for group in prometheus_rules.groups()["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("path", prometheus_rules.files(), ids=lambda path: path.name)
def test_files_are_those_that_the_rules_make(path):
    wanted = prometheus_rules.files()[path]
    assert path.read_text(encoding="utf-8") == wanted, "run python -m ...plugins.plugin_utils.prometheus_rules"


def test_both_files_have_the_same_rules():
    plain, rule = (yaml.safe_load(text) for text in prometheus_rules.files().values())
    assert rule["spec"] == plain
    assert rule["kind"] == "PrometheusRule"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"] + rule["labels"].get("finding", ""))
def test_every_alert_leads_to_a_page_that_is_there(rule):
    url = rule["annotations"]["runbook_url"]
    assert url.startswith(prometheus_rules.URL)
    assert (ROOT / "docs" / url.removeprefix(prometheus_rules.URL)).is_file()
    assert rule["labels"].get("finding", "") in url
    assert rule["labels"]["severity"] in ("warning", "critical")


def test_every_reason_of_the_server_has_its_alert():
    """`reason` of kubemetrics_kubelet_failing_nodes, from the server's source."""
    source = (ROOT / "metrics_server/src/metrics_server/scrape/errors.py").read_text(encoding="utf-8")
    reasons = {line.split('"')[1] for line in source.splitlines() if ' = "' in line}
    assert len(reasons) > 10
    known = [reason for group in prometheus_rules.REASONS.values() for reason in group]
    assert sorted([*known, *prometheus_rules.OWN_REASONS]) == sorted(reasons)


def test_the_limit_for_the_age_of_samples_follows_the_resolution():
    (rule,) = (rule for rule in prometheus_rules.samples(60.0) if rule["alert"] == "MetricsServerSamplesOld")
    assert rule["expr"].endswith("> 180")
    assert "resolution of 60 s" in rule["annotations"]["description"]
