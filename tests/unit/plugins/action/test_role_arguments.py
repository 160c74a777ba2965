# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.action import role_arguments
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubespray

ROOT = Path(__file__).parents[4]


@pytest.fixture
def validate(monkeypatch):
    def run(roles, **variables):
        action = role_arguments.ActionModule.__new__(role_arguments.ActionModule)
        action._templar = SimpleNamespace(template=lambda value: value)
        monkeypatch.setattr(role_arguments.ActionBase, "run", lambda self, tmp, task_vars: {})
        monkeypatch.setattr(action, "validate_argument_spec", lambda argument_spec: (None, {"roles": roles}))
        return action.run(task_vars=variables)

    return run


def test_variables_that_are_right(validate):
    assert validate(["cluster", "verify"], cluster_request_timeout="5", verify_wait="false", other=[]) == {
        "changed": False
    }


def test_variables_that_are_wrong(validate):
    result = validate(["cluster", "forward_policy"], cluster_probe_timeout="soon", forward_policy_state="gone")
    assert result["failed"]
    assert "cluster: argument 'cluster_probe_timeout' is of type" in result["msg"]
    assert "forward_policy: value of forward_policy_state must be one of" in result["msg"]


@pytest.mark.parametrize("name", ["nobody", "../playbooks", ""])
def test_a_role_that_is_not_there(validate, name):
    assert f"this collection has no role {name}" in validate([name])["msg"]


@pytest.mark.parametrize("name", kubespray.SHARED)
def test_a_variable_of_kubespray_without_a_value_is_its_default(validate, name):
    assert validate(["metrics_server"], **{name: None}) == {"changed": False}


@pytest.mark.parametrize("name", ["extra_tolerations", "extra_affinity", "nodeselector"])
def test_an_empty_text_is_no_list_and_no_mapping(validate, name):
    assert validate(["metrics_server"], **{"metrics_server_" + name: ""}) == {"changed": False}
    assert validate(["metrics_server"], **{"metrics_server_" + name: "text"})["failed"]


def test_other_variables_need_a_value(validate):
    assert "metrics_server_extra_args" in validate(["metrics_server"], metrics_server_extra_args=None)["msg"]


ENTRY_POINTS_WITHOUT_OPTIONS = ("prepare.yml", "remove.yml")
IMPORTING = [
    path
    for path in sorted([*(ROOT / "playbooks").glob("*.yml"), *(ROOT / "roles").glob("*/tasks/*.yml")])
    if "name: kubemetrics.aggregation.metrics_server\n" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", IMPORTING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_play_refuses_kubesprays_variables_without_a_value(path):
    """Ansible's own validation, which comes with an imported role, takes no variable without a value."""
    text = path.read_text(encoding="utf-8")
    imports = re.findall(r"name: kubemetrics\.aggregation\.metrics_server\n((?: +[a-z_]+: .*\n)*)", text)
    validated = [
        more for more in imports if not any(f"tasks_from: {name}" in more for name in ENTRY_POINTS_WITHOUT_OPTIONS)
    ]
    assert all("rolespec_validate: false" in more for more in validated)
    assert not validated or "kubemetrics.aggregation.role_arguments:" in text


def test_the_site_playbook_validates_the_roles_that_it_imports():
    tasks = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text(encoding="utf-8"))[1]["tasks"][0]["block"]
    validated = tasks[0]["kubemetrics.aggregation.role_arguments"]["roles"]
    imports = [task["ansible.builtin.import_role"] for task in tasks[1:]]
    mains = [role for role in imports if "tasks_from" not in role]
    assert all(role["rolespec_validate"] is False for role in mains)
    assert sorted(role["name"].rpartition(".")[2] for role in mains) == sorted(validated)
