# SPDX-License-Identifier: GPL-3.0-or-later
"""An inventory of kubespray works as it is: its sample, with the values that users uncomment."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import role_docs
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubespray
from ansible_programs import play, run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SAMPLE = HERE / "plugins/corpus/kubespray-inventory"
HISTORY = HERE / "plugins/corpus/kubespray-metrics-server.yml"


def uncommented(path):
    """Keys whose values the sample has in comments. One stands there as an invalid YAML."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return yaml.safe_load(text.replace("{{ inventory_hostname }}\n", '"{{ inventory_hostname }}"\n')) or {}


@pytest.fixture(scope="module")
def variables():
    """Group -> file -> what is set there."""
    found = {
        group.name: {
            path.stem: {**(yaml.safe_load(path.read_text()) or {}), **uncommented(path.with_suffix(".uncommented"))}
            for path in group.glob("*.yml")
        }
        for group in (SAMPLE / "group_vars").iterdir()
    }
    # An offline site names its mirror's image by variables that only kubespray knows.
    found["all"]["offline"]["metrics_server_image_repo"] = "{{ kubespray_knows_this }}/metrics-server/metrics-server"
    found["k8s_cluster"]["k8s-cluster"].update(
        loadbalancer_apiserver={"address": "203.0.113.10", "port": 8383},
        apiserver_loadbalancer_domain_name="{{ kubespray_knows_this }}",
        supplementary_addresses_in_ssl_keys=["api.example.com"],
    )
    # The sample has both networks of IPv6, for those who switch it on by a variable of their own.
    found["k8s_cluster"]["k8s-cluster"].update(ipv6_stack=True, ipv4_stack="{{ kubespray_knows_this }}")
    # An inventory that has been carried along since 2.15.
    found["k8s_cluster"]["addons"].update(metrics_server_memory="15Mi", metrics_server_limits_memory="55Mi")
    return found


def written(inventory, variables):
    """The inventory in a folder, as a user has it."""
    hosts = yaml.safe_load((SAMPLE / "hosts.yml").read_text())
    hosts["all"]["children"]["etcd"]["hosts"]["etcd1"] = {"ansible_host": "198.51.100.16"}
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    for group, files in variables.items():
        (inventory / "group_vars" / group).mkdir(parents=True)
        for name, values in files.items():
            (inventory / "group_vars" / group / f"{name}.yml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return inventory / "hosts.yml"


def played(playbook, inventory, extra):
    return play("-i", inventory, "-e", json.dumps(extra), playbook)


@pytest.fixture(scope="module")
def seen(variables, tmp_path_factory):
    """Host -> what the roles see of its variables."""
    inventory = tmp_path_factory.mktemp("kubespray")
    hosts = written(inventory, variables)
    results = tmp_path_factory.mktemp("results")
    names = [name for role in role_docs.roles() if role != "rollback" for name in role_docs.options(role)]
    extra = {"results": str(results), "names": names, "python": sys.executable}
    done = played(HERE / "kubespray.yml", hosts, extra)
    assert done.returncode == 0, done.stdout + done.stderr
    # A lookup in kubespray's variables writes files when something evaluates it.
    assert sorted(path.name for path in inventory.iterdir()) == ["group_vars", "hosts.yml"]
    return {path.stem: json.loads(path.read_text()) for path in results.iterdir()}


def test_names_in_common_are_meant_to_be(variables):
    theirs = {name for files in variables.values() for values in files.values() for name in values}
    ours = {name for role in role_docs.roles() for name in role_docs.options(role)}
    history = set(yaml.safe_load(HISTORY.read_text()))
    assert {name for name in theirs if name.startswith("metrics_server_")} < history
    assert ours & (theirs | history) == set(kubespray.SHARED)
    assert len(theirs) > 100


def test_hosts_with_a_kubelet_are_taken(seen):
    # A route reflector of Calico is a node; a bastion and a host that only runs etcd are none.
    assert sorted(seen) == ["node1", "node2", "node3", "node4", "rr1"]
    groups = seen["node1"]["more"]["groups"]
    assert sorted(groups["k8s_cluster"]) == sorted(seen)
    assert groups["kube_control_plane"] == ["node1", "node2", "node3"]


def test_kubesprays_values_win(seen):
    values = seen["node4"]["values"]
    assert int(values["kubelet_access_read_only_port"]) == 10255
    assert values["metrics_server_kubelet_insecure_skip_tls_verify"] is False
    assert int(values["metrics_server_container_port"]) == 10250


def test_networks_are_those_of_both_stacks(seen):
    more = seen["node4"]["more"]
    networks = {
        "service_cidrs": "10.233.0.0/18,fd85:ee78:d8a6:8607::1000/116",
        "pod_cidrs": "10.233.64.0/18,fd85:ee78:d8a6:8607::1:0000/112",
    }
    assert {name: more[name] for name in networks} == networks
    assert {name: more["doctor"][name] for name in networks} == networks


def test_hosts_behind_a_bastion_are_reached_through_it(seen):
    # The bastion's key is checked where Ansible checks those of hosts; this tree's ansible.cfg has it so.
    wanted = "-o ProxyCommand='ssh -W %h:%p -p 22 ops@198.51.100.10'"
    assert {found["more"]["ssh"] for found in seen.values()} == {wanted}


def test_python_is_found_where_kubespray_puts_it_on_flatcar(seen):
    pythons = seen["node1"]["more"]["pythons"]
    assert pythons[-1] == "/opt/bin/python"
    assert "/usr/bin/python3" in pythons


def test_addresses_of_the_api_servers_that_belong_to_no_node(seen):
    found = seen["node4"]["more"]["kubespray"]["api_addresses"]
    assert found == ["203.0.113.10", "192.168.56.120", "api.example.com"]


def test_what_an_offline_site_has_to_know(seen):
    (note,) = seen["node1"]["more"]["kubespray"]["notes"]
    assert note.startswith("docker_image_repo is myprivateregisry.com, for kubespray's images.")


def test_kubespray_does_not_deploy_its_own_so_this_one_is_deployed(variables, seen):
    assert variables["k8s_cluster"]["addons"]["metrics_server_enabled"] is False
    assert seen["node1"]["values"]["metrics_server_deploy"] is True


def test_what_becomes_of_its_variables_for_its_own_server(seen):
    found = seen["node1"]["more"]["metrics_server"]
    assert found["problem"] == ""
    assert sorted(found["left_alone"]) == [
        "metrics_server_enabled",
        "metrics_server_image_repo",
        "metrics_server_kubelet_insecure_tls",
        "metrics_server_memory",
    ]
    # The sample's values are set, whatever the defaults of the role are.
    assert found["used"] == [
        "metrics_server_container_port",
        "metrics_server_host_network",
        "metrics_server_kubelet_preferred_address_types",
        "metrics_server_metric_resolution",
        "metrics_server_replicas",
    ]
    settings = seen["node1"]["more"]["settings"]
    assert settings["metrics_server_limits_memory"] == "80Mi"
    # The role's default of 200Mi would exceed it, which API servers refuse.
    assert settings["metrics_server_requests_memory"] == "80Mi"
    assert settings["metrics_server_nanny_memory"] == "80Mi"
    assert settings["metrics_server_metric_resolution"] == "15s"
    assert set(settings).isdisjoint(kubespray.LEFT_ALONE)


def test_addresses_of_a_host(seen):
    assert seen["node1"]["more"]["addresses"] == ["198.51.100.11", "192.0.2.11"]


@pytest.mark.parametrize("document", ["docs/kubespray.md", "playbooks/kubespray.yml"])
def test_the_inventory_of_the_documents_is_read_under_kubesprays_configuration(document, tmp_path):
    """kubespray's ansible.cfg leaves out files that end with .ini, as that of its sample, unless they are named."""
    sample = tmp_path / "inventory/mycluster/inventory.ini"
    sample.parent.mkdir(parents=True)
    sample.write_text("[kube_control_plane]\nnode1 ip=192.0.2.11\n\n[kube_node]\nnode2\n")
    configuration = tmp_path / "ansible.cfg"
    configuration.write_text("[defaults]\ninventory_ignore_extensions = ~, .orig, .bak, .ini, .cfg, .retry, .gpg\n")
    program = ["env", f"ANSIBLE_CONFIG={configuration}", Path(sys.executable).with_name("ansible-inventory")]
    commands = re.findall(r"ansible-playbook -i (\S+) ", (ROOT / document).read_text())
    assert commands
    for named in commands:
        done = run(*program, "-i", tmp_path / named, "--list")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout).get("kube_node", {}).get("hosts") == ["node2"], named


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"kube_external_ca_mode": True}, "the cluster does not have the key of its CA"),
        ({"kube_external_ca_mode": True, "kubelet_access_serving_certificates": False}, ""),
    ],
)
def test_settings_that_leave_nothing_to_do_end_the_check(said, words, tmp_path):
    (tmp_path / "hosts").write_text("[kube_control_plane]\nnode1\n")
    check = tmp_path / "check.yml"
    task = {"import_role": {"name": "kubemetrics.aggregation.cluster", "tasks_from": "kubespray.yml"}}
    check.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "connection": "local", "tasks": [task]}]))
    done = played(check, tmp_path / "hosts", said)
    assert (done.returncode != 0) is bool(words), done.stdout
    assert words in " ".join(done.stdout.split())


def test_kubesprays_own_server_ends_the_playbook_before_any_host_is_asked(variables, tmp_path):
    addons = {**variables["k8s_cluster"]["addons"], "metrics_server_enabled": True}
    changed = {**variables, "k8s_cluster": {**variables["k8s_cluster"], "addons": addons}}
    # These addresses are for documentation: a connection would be another failure.
    done = played(ROOT / "playbooks/kubespray.yml", written(tmp_path, changed), {})
    assert done.returncode != 0
    assert "metrics_server_enabled is true, so that kubespray deploys" in " ".join(done.stdout.split())
    assert "unreachable=0" in done.stdout
    assert "unreachable=1" not in done.stdout
