# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubespray, metrics_server, rollout
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.kubelet_settings import Settings

TREE = Path(__file__).parents[4]
DEFAULTS = yaml.safe_load((TREE / "roles/metrics_server/defaults/main.yml").read_text())
THEIRS = yaml.safe_load((TREE / "tests/unit/plugins/corpus/kubespray-metrics-server.yml").read_text())


# --- how hosts and API servers are reached --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bastion", "host", "check", "expected"),
    [
        (
            {"inventory_hostname": "bastion", "ansible_host": "198.51.100.10", "ansible_user": "ops"},
            {"ansible_user": "core"},
            True,
            "ssh -W %h:%p -p 22 ops@198.51.100.10",
        ),
        (
            {"inventory_hostname": "jump.example.com", "ansible_host": "", "ansible_port": "2222", "ansible_user": ""},
            {"ansible_user": "core", "ansible_ssh_private_key_file": "/home/a b/key"},
            True,
            "ssh -W %h:%p -p 2222 -i '/home/a b/key' core@jump.example.com",
        ),
        (
            {"inventory_hostname": "bastion", "ansible_ssh_private_key_file": "/k"},
            {},
            False,
            "ssh -W %h:%p -p 22 -i /k -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null bastion",
        ),
    ],
)
def test_the_way_through_a_bastion(bastion, host, check, expected):
    found = kubespray.bastion_arguments(bastion, host, check_host_keys=check)
    # As Ansible and ssh take it apart.
    flag, option = shlex.split(found)
    assert (flag, option) == ("-o", f"ProxyCommand={expected}")


@pytest.mark.parametrize(
    ("said", "addresses"),
    [
        ({}, []),
        ({"loadbalancer_apiserver": {"address": "1.2.3.4", "port": 1234}}, ["1.2.3.4"]),
        ({"loadbalancer_apiserver": "", "kube_vip_address": ""}, []),
        ({"loadbalancer_apiserver": "1.2.3.4"}, []),
        ({"apiserver_loadbalancer_domain_name": "elb.example.com", "kube_vip_address": "1.2.3.4"}, None),
        ({"apiserver_loadbalancer_domain_name": "localhost"}, []),
        ({"supplementary_addresses_in_ssl_keys": ["a", "", None, "a", "::1"]}, ["a"]),
        # kubespray flattens what it is given.
        ({"supplementary_addresses_in_ssl_keys": "a"}, ["a"]),
        ({"supplementary_addresses_in_ssl_keys": [["a", ["b"]], "c", []]}, ["a", "b", "c"]),
        ({"supplementary_addresses_in_ssl_keys": None}, []),
    ],
)
def test_addresses_of_the_api_servers(said, addresses):
    expected = ["elb.example.com", "1.2.3.4"] if addresses is None else addresses
    assert kubespray.settings(said)["api_addresses"] == expected


V4 = {"kube_service_addresses": "10.233.0.0/18", "kube_pods_subnet": "10.233.64.0/18"}
V6 = {"kube_service_addresses_ipv6": "fd00:1::/116", "kube_pods_subnet_ipv6": "fd00:2::/112"}


@pytest.mark.parametrize(
    ("said", "services", "pods"),
    [
        ({}, "", ""),
        (V4, "10.233.0.0/18", "10.233.64.0/18"),
        # The sample has all four, and only switches decide.
        ({**V4, **V6}, "10.233.0.0/18", "10.233.64.0/18"),
        ({**V4, **V6, "ipv6_stack": True}, "10.233.0.0/18,fd00:1::/116", "10.233.64.0/18,fd00:2::/112"),
        ({**V4, **V6, "ipv6_stack": "true", "ipv4_stack": ""}, "10.233.0.0/18,fd00:1::/116", None),
        ({**V4, **V6, "enable_dual_stack_networks": True}, "10.233.0.0/18,fd00:1::/116", None),
        ({**V4, **V6, "enable_dual_stack_networks": True, "ipv6_stack": False}, "10.233.0.0/18", None),
        ({**V4, **V6, "ipv4_stack": "False", "ipv6_stack": True}, "fd00:1::/116", "fd00:2::/112"),
        # Its defaults.
        ({"ipv6_stack": True, "ipv4_stack": False}, "fd85:ee78:d8a6:8607::1000/116", "fd85:ee78:d8a6:8607::1:0000/112"),
    ],
)
def test_networks_by_the_stacks_that_are_on(said, services, pods):
    found = kubespray.settings(said)
    assert found["service_cidrs"] == services
    assert pods is None or found["pod_cidrs"] == pods


# --- its metrics server ---------------------------------------------------------------------------------------------


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


def test_a_second_metrics_server_is_found_without_any_host():
    assert kubespray.settings({"metrics_server_enabled": "true", "metrics_server_deploy": ""})["problem"]
    assert kubespray.settings({"metrics_server_enabled": True})["problem"]
    for said in ({}, {"metrics_server_enabled": False}, {"metrics_server_enabled": ""}):
        assert kubespray.settings(said)["problem"] == ""
    # Who keeps kubespray's, uses the rest of this collection.
    assert kubespray.settings({"metrics_server_enabled": True, "metrics_server_deploy": "false"})["problem"] == ""


def test_a_hardened_cluster_needs_a_registry():
    hardened = {"kube_apiserver_enable_admission_plugins": ["EventRateLimit", "AlwaysPullImages", "NodeRestriction"]}
    problem = kubespray.settings(hardened)["problem"]
    assert problem.startswith("kube_apiserver_enable_admission_plugins has the admission plugin AlwaysPullImages, ")
    assert "set metrics_server_image_source to push" in problem
    assert kubespray.settings({"kube_apiserver_enable_admission_plugins": "A,AlwaysPullImages"})["problem"] == problem
    for more in ({"metrics_server_image_source": "pull"}, {"metrics_server_deploy": False}):
        assert kubespray.settings({**hardened, **more})["problem"] == ""
    assert kubespray.settings({"kube_apiserver_enable_admission_plugins": ["NodeRestriction"]})["problem"] == ""


def test_a_cluster_without_the_key_of_its_ca_signs_nothing():
    problem = kubespray.settings({"kube_external_ca_mode": True})["problem"]
    assert problem.startswith("kube_external_ca_mode is true, so that the cluster does not have the key of its CA")
    assert "or set kubelet_access_serving_certificates to false." in problem
    assert kubespray.settings({"kube_external_ca_mode": "true", "metrics_server_deploy": False})["problem"] == problem
    for more in (
        {"kubelet_access_serving_certificates": "false"},
        {"kubelet_access_enabled": False},
        {"kubelet_access_tls_cert_file": "/etc/kubernetes/kubelet.crt"},
        {"kubelet_config_extra_args": {"tlsCertFile": "/k.crt", "tlsPrivateKeyFile": "/k.key"}},
    ):
        assert kubespray.settings({"kube_external_ca_mode": True, **more})["problem"] == "", more
    for said in ("", None, False, "no"):
        assert kubespray.settings({"kube_external_ca_mode": said})["problem"] == ""


def test_mirrors_and_proxies_are_said_before_anything_changes():
    (note,) = kubespray.settings({"docker_image_repo": "mirror.example.com/hub/"})["notes"]
    assert "set metrics_server_image_base to mirror.example.com/hub/library/python:3.13-slim-bookworm" in note
    (note,) = kubespray.settings({"http_proxy": "http://p:1", "https_proxy": "http://p:1", "no_proxy": ""})["notes"]
    assert note.startswith("http_proxy and https_proxy of the inventory are for kubespray's hosts.")
    (note,) = kubespray.settings({"https_proxy": "http://p:1", "http_proxy": ""})["notes"]
    assert note.startswith("https_proxy of the inventory is for")
    for said in (
        {"docker_image_repo": "docker.io", "http_proxy": ""},
        {"docker_image_repo": "mirror.example.com", "metrics_server_image_base": "/base.tar"},
        {"docker_image_repo": "mirror.example.com", "https_proxy": "http://p:1", "metrics_server_image_source": "pull"},
    ):
        assert kubespray.settings(said)["notes"] == []


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
    assert (found["settings"].get("metrics_server_limits_memory") == "80Mi") is raised
    assert ("metrics_server_limits_memory" in found["used"]) is not raised
    assert any("would not start" in note for note in kubespray.notes(found, DEFAULTS, "kubeadm")) is raised


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        # kubespray 2.15 and 2.16 have this limit, and a request of their own as default.
        ({"limits_memory": "55Mi"}, {"limits_memory": "80Mi", "requests_memory": "80Mi"}),
        ({"limits_memory": "150Mi"}, {"requests_memory": "150Mi"}),
        ({"limits_memory": 100_000_000}, {"requests_memory": 100_000_000}),
        ({"limits_cpu": "50m"}, {"requests_cpu": "50m"}),
        ({"limits_cpu": 0.05, "limits_memory": "1Gi"}, {"requests_cpu": 0.05}),
        ({"requests_memory": "500Mi"}, {"limits_memory": "500Mi"}),
        ({"requests_cpu": 2}, {}),
        ({"limits_memory": "200Mi", "limits_cpu": "100m"}, {}),
        ({"limits_memory": "", "limits_cpu": ""}, {}),
        # Which one is meant? The role asks.
        ({"limits_memory": "100Mi", "requests_memory": "150Mi"}, {}),
        ({"limits_memory": "55Mi", "requests_memory": "55Mi"}, {"limits_memory": "80Mi"}),
    ],
)
def test_a_request_never_exceeds_its_limit_by_a_default(given, settings):
    found = translate(**given)
    assert found["settings"] == {"metrics_server_" + name: value for name, value in settings.items()}
    assert set(found["changed"]) == set(found["settings"])
    values = {**DEFAULTS, **{"metrics_server_" + name: value for name, value in given.items()}, **found["settings"]}
    contradicting = "requests_memory" in given and "limits_memory" in given and not settings
    assert bool(metrics_server.problems(values)) is contradicting


@pytest.mark.parametrize("name", kubespray.SHARED)
def test_a_variable_without_a_value_is_the_default(name):
    found = translate(**{name.removeprefix("metrics_server_"): None})
    assert found["settings"] == {name: DEFAULTS[name]}
    assert (found["used"], found["changed"]) == ([], {})
    assert kubespray.notes(found, {name: None}, "kubespray") == []


def test_an_empty_text_is_a_value_where_it_means_one():
    assert translate(limits_cpu="", kubelet_preferred_address_types="")["settings"] == {}
    assert translate(nodeselector="")["settings"] == {"metrics_server_nodeselector": {}}


def test_a_request_that_follows_its_limit_is_said():
    assert kubespray.notes(translate(limits_cpu="50m"), {"metrics_server_limits_cpu": "50m"}, "kubeadm") == [
        "metrics_server_requests_cpu was changed: a request must not exceed its limit; it gets "
        "metrics_server_limits_cpu, 50m."
    ]


def test_the_least_memory_is_what_the_nanny_begins_with():
    assert DEFAULTS["metrics_server_nanny_memory"] == kubespray.LEAST_MEMORY


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


# --- lines for the kubelet ------------------------------------------------------------------------------------------


def kubelet_lines(said=None, **settings):
    asked = Settings(**settings)
    wanted = rollout.lasting(asked)
    if asked.serving_certificates:
        wanted["serverTLSBootstrap"] = True
    return kubespray.kubelet_lines(asked, {"kubelet_rotate_server_certificates": True, **(said or {})}, wanted)


def test_lines_that_the_inventory_lacks():
    said = {"kube_read_only_port": "", "kubelet_rotate_server_certificates": ""}
    line = {"kubelet_rotate_server_certificates": True}
    # Without the second line kubespray deploys an approver of its own with the first.
    assert kubelet_lines(said) == {**line, "kubelet_csr_approver_enabled": False}
    assert kubelet_lines({**said, "kubelet_csr_approver_enabled": True}) == line
    assert kubelet_lines({**said, "kubelet_csr_approver_enabled": "false"}) == line
    said = {"kube_read_only_port": "10255", "kubelet_rotate_server_certificates": "true"}
    said["kubelet_authorization_mode_webhook"] = "False"
    assert kubelet_lines(said) == {"kube_read_only_port": 0, "kubelet_authorization_mode_webhook": True}


def test_an_inventory_that_says_all_of_it_gets_no_lines():
    assert kubelet_lines() == {}
    # Who has certificates of the cluster already, has kubespray's approver as well; it is left alone.
    assert kubelet_lines({"kubelet_config_extra_args": {}, "kubelet_custom_flags": []}) == {}
    assert kubelet_lines({"kubelet_config_extra_args": "", "kubelet_custom_flags": ""}) == {}
    harmless = {"maxParallelImagePulls": 5, "serverTLSBootstrap": True, "evictionHard": {"memory.available": "1Gi"}}
    assert kubelet_lines({"kubelet_config_extra_args": harmless, "kubelet_rotate_server_certificates": False}) == {}


@pytest.mark.parametrize(
    ("said", "left", "flags"),
    [
        # It contradicts.
        ({"readOnlyPort": 10255, "maxPods": 200}, {"maxPods": 200}, None),
        ({"authorization": {"mode": "AlwaysAllow"}}, {}, None),
        ({"authentication": {"anonymous": {"enabled": True}}, "maxPods": 200}, {"maxPods": 200}, None),
        ({"serverTLSBootstrap": False}, {}, None),
        # It agrees, and is there twice.
        ({"readOnlyPort": 0}, {}, None),
        ({"authentication": {"webhook": {"enabled": True}}}, {}, None),
        # Nobody asked for something else: as a flag it is there once.
        (
            {"authentication": {"webhook": {"enabled": True, "cacheTTL": "30s"}}},
            {},
            ["--authentication-token-webhook-cache-ttl=30s"],
        ),
        ({"authentication": {"x509": {"clientCAFile": "/ca"}}}, {}, ["--client-ca-file=/ca"]),
        # No flag says it.
        ({"authorization": {"later": {"setting": 1}}}, None, None),
        ({"cpuManagerPolicy": "static"}, None, None),
    ],
)
def test_what_contradicts_or_is_there_twice_in_the_extra_arguments(said, left, flags):
    lines = kubelet_lines({"kubelet_config_extra_args": said})
    assert lines == {
        **({} if left is None else {"kubelet_config_extra_args": left}),
        **({} if flags is None else {"kubelet_custom_flags": flags}),
    }


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (["--read-only-port=10255", "--v=4"], ["--v=4"]),
        (["--authorization-mode AlwaysAllow"], []),
        (["--authorization-mode", "AlwaysAllow", "--v", "4"], ["--v 4"]),
        ("--anonymous-auth=true --event-qps=0", ["--event-qps=0"]),
        (["--rotate-server-certificates=false"], []),
        (["--anonymous-auth"], []),
        (["--anonymous-auth=false", "--authorization-mode=Webhook", "--read-only-port=0"], None),
        (["--node-labels=a=b,c=d", "--fail-swap-on=false"], None),
        ("--node-labels='a b'", None),
        ("--broken='", None),
        (None, None),
    ],
)
def test_flags_that_contradict(said, left):
    lines = kubelet_lines({"kubelet_custom_flags": said})
    assert lines == ({} if left is None else {"kubelet_custom_flags": left})


def test_what_kubespray_has_no_variable_for_lasts_as_a_flag():
    ttls = {"token_cache_ttl": "1m", "authorized_cache_ttl": "2m", "unauthorized_cache_ttl": "10s"}
    flags = [
        "--authentication-token-webhook-cache-ttl=1m",
        "--authorization-webhook-cache-authorized-ttl=2m",
        "--authorization-webhook-cache-unauthorized-ttl=10s",
    ]
    assert kubelet_lines({"kubelet_custom_flags": ["--v=4"]}, **ttls) == {"kubelet_custom_flags": ["--v=4", *flags]}
    assert kubelet_lines({"kubelet_custom_flags": ["--v=4", *flags]}, **ttls) == {}
    other = ["--authentication-token-webhook-cache-ttl=5m"]
    assert kubelet_lines({"kubelet_custom_flags": other}, **ttls) == {"kubelet_custom_flags": flags}


def test_workers_may_have_lines_of_their_own():
    said = {
        "kubelet_node_custom_flags": ["--read-only-port=10255"],
        "kubelet_node_config_extra_args": {"readOnlyPort": 1},
    }
    assert kubelet_lines(said) == {"kubelet_node_custom_flags": [], "kubelet_node_config_extra_args": {}}


def test_the_lines_are_what_the_inventory_needs():
    """With them in the inventory, nothing is left to say."""
    said = {
        "kube_read_only_port": 10255,
        "kubelet_rotate_server_certificates": "",
        "kubelet_config_extra_args": {
            "authentication": {"webhook": {"cacheTTL": "30s"}},
            "readOnlyPort": 1,
            "maxPods": 9,
        },
        "kubelet_custom_flags": "--read-only-port=1 --v=2",
    }
    assert kubelet_lines({**said, **kubelet_lines(said)}) == {}


def test_a_key_that_is_there_twice_is_named():
    text = "kubelet-config.yaml sets 'readOnlyPort' twice in the same mapping (line 9); correct the file first."
    assert kubespray.repeated_key(text) == "readOnlyPort"
    assert kubespray.repeated_key("kubelet-config.yaml is not valid YAML") == ""


# --- lines for API servers ------------------------------------------------------------------------------------------


def test_kubespray_is_told_what_its_inventory_lacks():
    kept = {
        "requestheader-allowed-names": "aggregator",
        "enable-aggregator-routing": True,
        "proxy-client-key-file": None,
    }
    assert kubespray.api_server_lines({}, kept, True, ["/etc/pki"]) == {
        "kube_api_aggregator_routing": True,
        "kube_kubeadm_apiserver_extra_args": {"requestheader-allowed-names": "aggregator"},
        "apiserver_extra_volumes": [
            {"name": "front-proxy-etc-pki", "hostPath": "/etc/pki", "mountPath": "/etc/pki", "readOnly": True}
        ],
    }
    inventory = {
        "kube_api_aggregator_routing": True,
        "kube_kubeadm_apiserver_extra_args": {"requestheader-allowed-names": "aggregator", "profiling": "false"},
    }
    assert kubespray.api_server_lines(inventory, kept, True, []) == {}
    assert kubespray.api_server_lines({}, {"enable-aggregator-routing": None}, False, []) == {}


def test_what_the_inventory_has_stays_in_its_lines():
    inventory = {
        "kube_kubeadm_apiserver_extra_args": {"profiling": "false"},
        "apiserver_extra_volumes": [{"name": "x"}],
    }
    lines = kubespray.api_server_lines(inventory, {"a": "b"}, False, ["/p"])
    assert lines["kube_kubeadm_apiserver_extra_args"] == {"profiling": "false", "a": "b"}
    assert [volume["name"] for volume in lines["apiserver_extra_volumes"]] == ["x", "front-proxy-p"]


@pytest.mark.parametrize("said", [{}, [], None, "", {"a": "b"}])
def test_extra_volumes_that_are_none(said):
    lines = kubespray.api_server_lines({"apiserver_extra_volumes": said}, {}, False, ["/p"])
    assert [volume["name"] for volume in lines["apiserver_extra_volumes"]] == ["front-proxy-p"]


def test_extra_volumes_by_their_names():
    said = {"audit": {"name": "audit", "hostPath": "/a", "mountPath": "/a"}}
    lines = kubespray.api_server_lines({"apiserver_extra_volumes": said}, {}, False, ["/p"])
    assert [volume["name"] for volume in lines["apiserver_extra_volumes"]] == ["audit", "front-proxy-p"]
    assert kubespray.api_server_lines({"apiserver_extra_volumes": said}, {}, False, ["/a"]) == {}


def test_extra_arguments_that_contradict():
    said = {"kube_api_aggregator_routing": True, "kube_kubeadm_apiserver_extra_args": {"v": "2"}}
    said["kube_kubeadm_apiserver_extra_args"]["enable-aggregator-routing"] = "false"
    assert kubespray.api_server_lines(said, {}, True, []) == {"kube_kubeadm_apiserver_extra_args": {"v": "2"}}
    assert kubespray.api_server_lines(said, {}, False, []) == {}
    assert kubespray.api_server_lines({"kube_kubeadm_apiserver_extra_args": ""}, {}, False, []) == {}
