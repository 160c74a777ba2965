# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubespray

TREE = Path(__file__).parents[4]
DEFAULTS = yaml.safe_load((TREE / "roles/metrics_server/defaults/main.yml").read_text())
THEIRS = yaml.safe_load((TREE / "tests/unit/plugins/corpus/kubespray-metrics-server.yml").read_text())


def translate(enabled=False, **given):
    values = {"metrics_server_" + name: value for name, value in given.items()}
    return kubespray.translate({**DEFAULTS, **values}, [*values, "ansible_host"], enabled)


def test_every_variable_that_kubespray_has_or_had_is_decided_on():
    assert set(kubespray.SHARED).isdisjoint(kubespray.LEFT_ALONE)
    assert {*kubespray.SHARED, *kubespray.LEFT_ALONE} == set(THEIRS)


def test_a_name_is_the_roles_only_where_it_means_the_same():
    assert set(THEIRS).intersection(DEFAULTS) == set(kubespray.SHARED)


@pytest.mark.parametrize("name", kubespray.SHARED)
def test_a_default_of_kubespray_is_a_value_of_the_role(name):
    assert type(THEIRS[name]["default"]) is type(DEFAULTS[name])


def test_nothing_is_said_of_an_inventory_without_these_variables():
    assert translate() == {"problem": "", "settings": {}, "used": [], "changed": {}, "left_alone": {}}
    assert kubespray.notes(translate(), DEFAULTS, "kubespray") == []


def test_kubesprays_switch_is_not_the_one_of_the_role():
    found = translate(enabled=False)
    assert found["problem"] == ""
    for value in (True, "true", "yes", "1"):
        problem = translate(enabled=value)["problem"]
        assert problem.startswith("metrics_server_enabled is true, so that kubespray deploys a metrics server")
        assert "set metrics_server_enabled to false in group_vars/k8s_cluster/addons.yml" in problem
    assert translate(enabled="False")["problem"] == ""


def test_old_sizes_of_kubesprays_resizer_reach_no_nanny():
    found = translate(cpu="20m", memory="15Mi", memory_per_node="2Mi", min_cluster_size=10)
    assert found["settings"] == {}
    assert sorted(found["left_alone"]) == [
        "metrics_server_cpu",
        "metrics_server_memory",
        "metrics_server_memory_per_node",
        "metrics_server_min_cluster_size",
    ]
    (line,) = kubespray.notes(found, {}, "kubespray")
    assert line.startswith("Left alone: metrics_server_cpu, metrics_server_memory, metrics_server_memory_per_node, ")
    assert "metrics_server_nanny_*" in line


@pytest.mark.parametrize(
    ("limit", "raised"),
    [
        ("55Mi", True),
        ("79.9Mi", True),
        ("80000Ki", True),
        (50_000_000, True),
        ("1000m", True),
        ("80Mi", False),
        ("0.1Gi", False),
        ("200M", False),
        (100_000_000, False),
        ("", False),
        ("lots", False),
    ],
)
def test_a_limit_that_would_not_start_the_server_is_raised(limit, raised):
    found = translate(limits_memory=limit)
    assert found["settings"] == ({"metrics_server_limits_memory": "80Mi"} if raised else {})
    assert ("metrics_server_limits_memory" in found["used"]) is not raised
    assert bool(kubespray.notes(found, DEFAULTS, "kubeadm")) is raised


def test_the_least_memory_is_what_the_nanny_begins_with():
    assert kubespray.LEAST_MEMORY == DEFAULTS["metrics_server_nanny_memory"]


def test_what_is_used_and_what_is_left_alone_is_said():
    given = {"replicas": 2, "metric_resolution": "30s", "kubelet_insecure_tls": True, "enabled": False, "version": "0"}
    values = {"metrics_server_" + name: value for name, value in given.items()}
    found = translate(**given)
    assert kubespray.notes(found, values, "kubespray") == [
        "This metrics server has the settings of kubespray's: metrics_server_metric_resolution (30s), "
        "metrics_server_replicas (2).",
        "Left alone: metrics_server_kubelet_insecure_tls (kubelets are verified here, unless "
        "metrics_server_kubelet_insecure_skip_tls_verify is true).",
        "Left alone: metrics_server_version (upstream's image; the bundled server's is built, or named by "
        "metrics_server_image_name).",
    ]
    # Elsewhere it is the role's own setting; what the role does not read is still worth a line.
    assert len(kubespray.notes(found, values, "kubeadm")) == 2


def test_long_values_are_shortened():
    values = {"metrics_server_nodeselector": {"label/" + "x" * 80: ""}}
    (line,) = kubespray.notes(translate(nodeselector=values["metrics_server_nodeselector"]), values, "kubespray")
    assert line.endswith("xxx...).")


def test_variables_of_kubesprays_own_server_are_not_read():
    names = ["metrics_server_image_repo", "metrics_server_replicas", "metrics_server_nanny"]
    assert kubespray.own(names) == ["metrics_server_replicas", "metrics_server_nanny"]
