# SPDX-License-Identifier: GPL-3.0-or-later
"""kubelet_rollout and certificate_expiry_info: how the facts of hosts come to the decisions."""

from __future__ import annotations

import copy
import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.action import kubelet_rollout
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.kubelet_settings import RolloutError

ARGUMENTS = {"settings": "asked", "serial": [1, 5, "25%"], "serial_limit": 50, "use_node_addresses": True}
TEXT = "kind: KubeletConfiguration\nserverTLSBootstrap: true\nauthorization: {mode: AlwaysAllow}\n"


def variables(node, *, api_server=None, asked=None, facts=None):
    component = {"running": api_server is not None, "flags": api_server or {}}
    return {
        "cluster_host": {
            "node_name": node,
            "components": {
                "kubelet": {"running": True, "managed_by": "systemd", "unit": "kubelet.service", "flags": {}},
                "kube-apiserver": component,
            },
            "host": {"default_ipv4": "198.51.100.9"},
            "kubernetes_dir": {"pki_dir": None},
            "kubelet_config": {"path": "/c", "source": "flag", "text": TEXT, "drop_ins": [], "overriding_flags": {}},
            "kubelet_answers": None,
        },
        "asked": {"webhook": "True", "read_only_port": "0", "ip": "", **(asked or {})},
        "ansible_facts": facts or {},
    }


CLUSTER = {
    "flavour": "kubespray",
    "control_planes": ["cp1"],
    "nodes": {
        name: {
            "name": name,
            "addresses": [{"type": "InternalIP", "address": address}],
            "kubelet_port": 10250,
            "operating_system": "linux",
        }
        for name, address in (("cp1", "192.0.2.11"), ("w1", "192.0.2.21"))
    },
}
HOSTVARS = {
    "cp1": variables("cp1", api_server={"client-ca-file": "/pki/ca.crt"}, asked={"ansible_host": "192.0.2.11"}),
    "w1": variables("w1", asked={"ansible_host": "w1.example.com", "ip": "192.0.2.21", "addresses": "w1.lan"}),
    "late": {},
}


def planned(hostvars=None, **arguments):
    given = {"hosts": list(hostvars or HOSTVARS), "cluster": CLUSTER, **ARGUMENTS, **arguments}
    return kubelet_rollout.planned(given, hostvars or HOSTVARS)


def test_the_facts_of_all_hosts_become_one_plan():
    plan = planned()
    assert plan["waves"] == [["w1"], ["cp1"]]
    assert plan["api_servers"] == plan["api_servers_without_client_certificate"] == ["cp1"]
    assert plan["allowed_addresses"] == {"cp1": ["192.0.2.11"], "w1": ["192.0.2.21", "w1.lan"]}
    assert json.loads(plan["hosts"]["w1"])["client_ca"] == "/pki/ca.crt"
    assert plan["lasting"]["serverTLSBootstrap"] is True
    assert plan["inventory_lines"] == {
        "kubelet_rotate_server_certificates": True,
        "kubelet_csr_approver_enabled": False,
    }
    assert plan["inventory_notes"] == []
    assert "late" not in plan["hosts"]


def test_groups_of_hosts_may_have_other_lines():
    hosts = dict(HOSTVARS)
    for name, flags in (("cp1", []), ("w1", ["--read-only-port=10255"])):
        said = {"kubelet_rotate_server_certificates": True, "kubelet_custom_flags": flags}
        hosts[name] = variables(name, asked={"ip": HOSTVARS[name]["asked"]["ip"] or "192.0.2.11", "kubespray": said})
    assert planned(hosts)["inventory_lines"] == {"kubelet_custom_flags": []}


OWN = {
    "kubelet_access_tls": {"tls_cert_file": "/pki/k.crt", "tls_private_key_file": "/pki/k.key"},
    "kubelet's file": {},
}
OWN_TEXT = TEXT.replace("serverTLSBootstrap: true", "tlsCertFile: /pki/k.crt\ntlsPrivateKeyFile: /pki/k.key")


def with_own_certificates(names, how):
    hosts = copy.deepcopy(HOSTVARS)
    for name in names:
        hosts[name]["asked"].update(OWN[how])
        if not OWN[how]:
            hosts[name]["cluster_host"]["kubelet_config"]["text"] = OWN_TEXT
    return hosts


@pytest.mark.parametrize("how", OWN)
@pytest.mark.parametrize("flavour", ["kubespray", "kubeadm"])
def test_certificates_of_their_own_last(how, flavour):
    plan = planned(with_own_certificates(["cp1", "w1"], how), cluster={**CLUSTER, "flavour": flavour})
    # kubeadm's ConfigMap and kubespray's inventory alike: the cluster would sign over them at the next upgrade.
    assert "serverTLSBootstrap" not in plan["lasting"]
    assert plan["inventory_lines"] == {}
    assert plan["inventory_notes"] == []


@pytest.mark.parametrize("how", OWN)
def test_kubelets_with_certificates_of_their_own_are_named_beside_the_line(how):
    plan = planned(with_own_certificates(["cp1"], how))
    assert plan["lasting"]["serverTLSBootstrap"] is True
    assert plan["inventory_lines"]["kubelet_rotate_server_certificates"] is True
    (note,) = plan["inventory_notes"]
    assert note.startswith("The kubelet of cp1 has tlsCertFile, and with kubelet_rotate_server_certificates kubespray")
    assert "--kubelet-certificate-authority" in note
    assert (
        planned(with_own_certificates(["cp1"], how), cluster={**CLUSTER, "flavour": "kubeadm"})["inventory_notes"] == []
    )


def test_an_inventory_that_lets_the_cluster_sign_already_gets_no_note():
    hosts = with_own_certificates(["cp1"], "kubelet's file")
    for name in ("cp1", "w1"):
        hosts[name]["asked"]["kubespray"] = {"kubelet_rotate_server_certificates": True}
    plan = planned(hosts)
    assert (plan["inventory_lines"], plan["inventory_notes"]) == ({}, [])


def test_a_host_whose_name_is_an_address():
    lone = {"192.0.2.21": variables("w1")}
    assert planned(lone)["allowed_addresses"] == {"w1": ["192.0.2.21"]}


@pytest.mark.parametrize("name", ["ip", "access_ip6", "kubelet_access_addresses"])
def test_a_fact_of_the_host_is_not_the_inventory(name):
    hostile = {"w1": variables("w1", asked={"ip": "192.0.2.100"}, facts={name: "192.0.2.100", "os_family": "Debian"})}
    plan = planned(hostile)
    assert plan["allowed_addresses"] == {}
    assert f"w1 itself reports the variable {name} as a fact" in json.loads(plan["hosts"]["w1"])["trouble"]


def test_a_setting_that_means_nothing():
    with pytest.raises(RolloutError, match="kubelet_access_webhook is 'perhaps'"):
        planned({"w1": variables("w1", asked={"webhook": "perhaps"})})
