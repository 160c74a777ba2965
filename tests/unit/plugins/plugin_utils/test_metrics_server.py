# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import image_nodes, metrics_server

TREE = Path(__file__).parents[4]
DEFAULTS = yaml.safe_load((TREE / "roles/metrics_server/defaults/main.yml").read_text())
IMAGE = "localhost/kubemetrics/metrics-server:0123456789ab"
CLUSTER = {
    "nodes": {"cp1": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]}},
    "servers": [{"server": "https://192.0.2.11:6443"}, {"server": "https://[2001:db8::10]:6443"}],
    "service_cidrs": ["10.233.0.0/18"],
}


def values(**changes):
    return {**DEFAULTS, **{"metrics_server_" + name: value for name, value in changes.items()}}


def describe(**changes):
    return metrics_server.describe(values(**changes), CLUSTER, IMAGE, ["v1beta1", "v1"])


def test_the_defaults_are_sound():
    assert metrics_server.problems(values()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_source": "pull"}, "metrics_server_image_name and metrics_server_image_version have to name an image"),
        ({"image_source": "pull", "image_version": "1"}, "names no registry; put its host in front"),
        (
            {"image_source": "push"},
            "image_source is push, but metrics_server_image_name (localhost/kubemetrics/metrics-",
        ),
        ({"image_source": "push", "image_name": "kubemetrics/server"}, "names no registry; put its host in front"),
        ({"image_source": "archive"}, "metrics_server_image_archive has to name an archive"),
        ({"image_archive": "/a.tar"}, "is set, but metrics_server_image_source is build; set it to archive"),
        ({"image_pull_policy": "Always"}, "the image is in no registry"),
        (
            {"image_source": "push", "image_name": "registry.example.com/a", "image_pull_policy": "Never"},
            "nodes have to pull the image",
        ),
        ({"image_name": "kubemetrics/server"}, "take for an image of docker.io; put localhost/ in front"),
        ({"image_name": "server"}, "put localhost/ in front of the name"),
        ({"image_nodes": "many"}, "metrics_server_image_nodes is 'many'"),
        ({"container_port": "0"}, "metrics_server_container_port is 0"),
        ({"host_network": "true"}, "the port 10250 is the kubelet's own"),
        ({"kubelet_insecure_skip_tls_verify": True, "kubelet_certificate_authority": "/ca"}, "exclude each other"),
        ({"metric_resolution": "5s"}, "metrics_server_metric_resolution is 5s"),
        ({"metric_resolution": "15"}, "metrics_server_metric_resolution is 15"),
        ({"replicas": "0"}, "metrics_server_replicas is 0"),
        ({"kubelet_preferred_address_types": "InternalIP,Internal"}, "address_types has Internal, which is no type"),
        (
            {"requests_memory": "200Mi", "limits_memory": "80Mi"},
            "metrics_server_requests_memory is 200Mi, and metrics_server_limits_memory is 80Mi; set the limit to 200Mi",
        ),
        (
            {"requests_cpu": 1, "limits_cpu": "900m"},
            "metrics_server_requests_cpu is 1, and metrics_server_limits_cpu is",
        ),
    ],
)
def test_what_cannot_be_meant(changes, words):
    (found,) = metrics_server.problems(values(**changes))
    assert words in found


@pytest.mark.parametrize(
    "changes",
    [
        {"image_source": "pull", "image_name": "example/server", "image_version": "1", "image_nodes": "unused"},
        {"image_name": "registry.example.com:5000/a/b"},
        {"host_network": "false"},
        {"host_network": True, "container_port": "4443"},
        {"metric_resolution": "1m30s"},
        {"metric_resolution": "10000ms"},
        {"requests_memory": "1Gi", "limits_memory": "1024Mi"},
        {"requests_memory": "1Gi", "limits_memory": "lots"},
        {"requests_memory": "1Gi", "limits_memory": ""},
        # The nanny owns them.
        {"requests_memory": "1Gi", "nanny": True},
    ],
)
def test_what_can_be_meant(changes):
    assert metrics_server.problems(values(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "provider", "words"),
    [
        ({}, {"foreign": ["Deployment a/b was made by X"]}, "Another metrics server is here already"),
        ({}, {"namespace": {"terminating": True}}, "The namespace kube-system is being deleted"),
        (
            {"host_network": True},
            {"namespace": {"pod_security": "baseline"}},
            "enforces the Pod Security level baseline",
        ),
        ({}, {"missing": ["the PriorityClass x"]}, "Nothing would start without the PriorityClass x"),
    ],
)
def test_what_stands_in_the_way(changes, provider, words):
    (found,) = metrics_server.obstacles(values(**changes), provider)
    assert words in found


def test_nothing_stands_in_the_way():
    assert metrics_server.obstacles(values(), {"foreign": [], "namespace": None, "missing": []}) == []
    assert metrics_server.obstacles(values(takeover="yes"), {"foreign": ["x"]}) == []
    restricted = {"namespace": {"terminating": False, "pod_security": "restricted"}}
    assert metrics_server.obstacles(values(), restricted) == []


def test_pods_of_a_built_image_are_put_where_it_is():
    pod = describe(nodeselector={"zone": "a"})
    assert pod["node_selector"] == {"kubernetes.io/os": "linux", "zone": "a", **image_nodes.label_of(IMAGE)}
    assert (pod["pull_policy"], pod["image"]) == ("Never", IMAGE)
    assert "nodeAffinity" not in pod["affinity"]


def test_pods_of_a_pulled_image_can_be_anywhere():
    pod = describe(image_source="pull", image_pull_policy="Always")
    assert pod["node_selector"] == {"kubernetes.io/os": "linux"}
    assert pod["pull_policy"] == "Always"
    assert describe(image_source="pull")["pull_policy"] == "IfNotPresent"


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        ("", []),
        (" , ", []),
        ([], []),
        ("InternalIP, Hostname,", ["InternalIP,Hostname"]),
        (["InternalIP"], ["InternalIP"]),
        (DEFAULTS["metrics_server_kubelet_preferred_address_types"], ["InternalIP,ExternalIP,Hostname"]),
    ],
)
def test_an_empty_list_of_address_types_is_no_flag(said, flags):
    name = "--kubelet-preferred-address-types="
    arguments = describe(kubelet_preferred_address_types=said)["args"]
    # The pod does not start with a flag that names no type.
    assert [argument for argument in arguments if argument.startswith(name)] == [name + flag for flag in flags]


def test_the_types_of_addresses_are_those_of_the_server():
    source = (TREE / "metrics_server/src/metrics_server/scrape/address.py").read_text()
    (line,) = [line for line in source.splitlines() if line.startswith("ADDRESS_TYPES = ")]
    assert ast.literal_eval(line.partition(" = ")[2]) == metrics_server.ADDRESS_TYPES


def test_arguments():
    pod = describe(kubelet_insecure_skip_tls_verify="yes", extra_args=["--v=2"], container_port="4443", namespace="m")
    assert "--secure-port=4443" in pod["args"]
    assert "--service-namespace=m" in pod["args"]
    assert "--apiservice=v1beta1.metrics.k8s.io,v1.metrics.k8s.io" in pod["args"]
    assert pod["args"][-2:] == ["--kubelet-insecure-tls", "--v=2"]
    assert "--kubelet-certificate-authority=/ca" in describe(kubelet_certificate_authority="/ca")["args"]
    assert describe(nanny_extra_args=["--x"])["nanny_args"][-1] == "--x"
    assert describe()["csr_approver_args"] == [
        "csr-approver",
        "--control-plane-addresses=2001:db8::10",
        "--service-cidrs=10.233.0.0/18",
    ]
    # What kubespray's inventory says of the API servers, except for what is a node's own.
    balanced = {**CLUSTER, "api_addresses": ["203.0.113.10", "192.0.2.11"]}
    arguments = metrics_server.describe(values(), balanced, IMAGE, ["v1beta1"])["csr_approver_args"]
    assert arguments[1] == "--control-plane-addresses=203.0.113.10,2001:db8::10"
    given = describe(csr_approver_control_plane_addresses=["lb.example.com"], csr_approver_allowed_cidrs=["10.0.0.0/8"])
    assert given["csr_approver_args"][1:3] == [
        "--allowed-cidrs=10.0.0.0/8",
        "--control-plane-addresses=lb.example.com,2001:db8::10",
    ]


def test_api_servers_that_make_pods_pull_their_image():
    def host(name, running=True, **flags):
        return {"name": name, "components": {"kube-apiserver": {"running": running, "flags": flags}}}

    hosts = [
        host("cp1", **{"enable-admission-plugins": ["NodeRestriction", "AlwaysPullImages"]}),
        host("cp2", **{"enable-admission-plugins": "AlwaysPullImages,NodeRestriction"}),
        host("cp3", **{"enable-admission-plugins": ["NodeRestriction"]}),
        host("cp4", running=False, **{"enable-admission-plugins": ["AlwaysPullImages"]}),
        host("cp5"),
        {"name": "w1", "components": {}},
    ]
    assert metrics_server.pulling_servers(hosts) == ["cp1", "cp2"]


@pytest.mark.parametrize(
    ("changes", "servers", "kubelets", "in_place"),
    [
        ({}, ["v1.37.2"], ["v1.33.0", "v1.37.2"], True),
        ({"nanny_in_place": "false"}, ["v1.37.2"], ["v1.37.2"], False),
        # While a cluster is upgraded, the oldest decides.
        ({}, ["v1.37.2", "v1.32.13"], ["v1.37.2"], False),
        ({}, ["v1.37.2"], ["v1.37.2", "v1.32.13"], False),
        # One that does not answer has no say.
        ({}, ["v1.34.4", None], ["v1.34.4"], True),
        ({}, [], [], False),
    ],
)
def test_where_pods_are_resized_in_place(changes, servers, kubelets, in_place):
    cluster = {
        "servers": [{"server": "https://192.0.2.1:6443", "version": version} for version in servers],
        "nodes": {f"n{number}": {"kubelet_version": version} for number, version in enumerate(kubelets)},
    }
    found = metrics_server.describe(values(nanny=True, **changes), cluster, IMAGE, ["v1beta1"])
    assert found["nanny_in_place"] is in_place
    assert ("--in-place" in found["nanny_args"]) is in_place


def test_how_the_nanny_counts():
    assert "--use-metrics" not in describe()["nanny_args"]
    assert "--use-metrics" in describe(nanny_use_metrics="true")["nanny_args"]


def test_resources():
    assert describe()["resources"] == {"requests": {"cpu": "100m", "memory": "200Mi"}, "limits": {"memory": "200Mi"}}
    assert describe(limits_memory="", limits_cpu=1)["resources"]["limits"] == {"cpu": "1"}


def test_affinity_and_tolerations():
    assert "podAntiAffinity" in describe()["affinity"]
    # As in kubespray, further kinds of affinity come beside it, and one of the same kind wins.
    assert sorted(describe(extra_affinity={"podAffinity": {}})["affinity"]) == ["podAffinity", "podAntiAffinity"]
    assert describe(extra_affinity={"podAntiAffinity": {}})["affinity"] == {"podAntiAffinity": {}}
    assert describe(extra_tolerations=[{"operator": "Exists"}])["tolerations"][-1] == {"operator": "Exists"}
    assert metrics_server.placement(values())["selector"] == {"kubernetes.io/os": "linux"}


PLACE = "/namespaces/kube-system/"
REGISTRATION = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"
NEWER = REGISTRATION.replace("v1beta1.", "v1.")
REMOVABLE = [f"/apis/apps/v1{PLACE}deployments/metrics-server", f"/api/v1{PLACE}services/metrics-server"]
UIDS = {path: f"uid-{number}" for number, path in enumerate(REMOVABLE)}


def provider(kind="manifest", switch_off="", version="v1beta1"):
    name = f"{version}.metrics.k8s.io"
    return {
        "apiservices": [{"name": name, "service": {"namespace": "kube-system", "name": "metrics-server"}}],
        "owners": {name: {"kind": kind, "owner": "OWNER", "since": "2026-03-01T10:05:00Z", "switch_off": switch_off}},
        "registrations": {name: REGISTRATION.replace("v1beta1.", f"{version}.")},
        "removable": REMOVABLE,
        "uids": UIDS,
        "foreign": ["Deployment kube-system/metrics-server was made by OWNER"],
    }


def test_without_a_takeover_the_owner_is_named():
    (found,) = metrics_server.obstacles(values(), provider())
    assert "APIService v1beta1.metrics.k8s.io belongs to OWNER since 2026-03-01T10:05:00Z" in found
    assert "served by Service kube-system/metrics-server; remove it" in found
    assert metrics_server.obstacles(values(takeover=True), provider()) == []


@pytest.mark.parametrize("changes", [{}, {"takeover": True}, {"takeover_force": True}])
def test_who_puts_objects_back_is_refused(changes):
    (found,) = metrics_server.obstacles(values(**changes), provider("k3s", "put `disable` there"))
    assert "it puts its objects back, so put `disable` there, or set" in found
    assert found.endswith("metrics_server_takeover_force to true.")


def test_who_puts_objects_back_is_replaced_on_a_second_word():
    asked = values(takeover="yes", takeover_force="yes")
    assert metrics_server.obstacles(asked, provider("k3s", "put `disable` there")) == []


def test_a_takeover_switches_before_it_removes():
    plan = metrics_server.takeover(provider(), ["v1beta1.metrics.k8s.io"])
    assert plan == {"keep": [REGISTRATION, *REMOVABLE], "switch": [REGISTRATION], "remove": REMOVABLE, "uids": UIDS}


def test_a_new_version_is_registered_with_the_switch():
    """Without its CA it would be unavailable, and clients prefer it."""
    wanted = ["v1beta1.metrics.k8s.io", "v1.metrics.k8s.io"]
    assert metrics_server.takeover(provider(), wanted)["switch"] == [REGISTRATION, NEWER]
    mine = provider()
    mine["apiservices"].append({"name": "v1.metrics.k8s.io", "managed": True, "service": None})
    assert metrics_server.takeover(mine, wanted)["switch"] == [REGISTRATION]


def test_a_version_that_nobody_serves_any_more_goes_with_its_server():
    plan = metrics_server.takeover(provider(version="v1"), ["v1beta1.metrics.k8s.io"])
    assert plan["switch"] == []
    assert plan["remove"] == [REGISTRATION.replace("v1beta1.", "v1."), *REMOVABLE]
    elsewhere = {**provider(version="v1"), "removable": []}
    assert metrics_server.takeover(elsewhere, ["v1beta1.metrics.k8s.io"])["remove"] == []


def test_nobody_else_is_there():
    nothing = {"keep": [], "switch": [], "remove": [], "uids": {}}
    assert metrics_server.takeover({"changed": False, "skipped": True}, ["v1beta1.metrics.k8s.io"]) == nothing


WANTED = [
    {"kind": "Service", "metadata": {"name": "metrics-server-kubemetrics", "namespace": "kube-system"}},
    {
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io", "labels": {"a": "b"}},
        "spec": {"group": "g"},
    },
    {"kind": "APIService", "metadata": {"name": "v1.metrics.k8s.io"}, "spec": {"group": "g"}},
]


def test_only_what_another_server_serves_waits_for_the_switch():
    plan = metrics_server.takeover(provider(), ["v1beta1.metrics.k8s.io"])
    assert metrics_server.unregistered(WANTED, plan) == [WANTED[0], WANTED[2]]
    switched = metrics_server.switched(WANTED, plan, "CA")
    metadata = {**WANTED[1]["metadata"], "annotations": {"kubemetrics.aggregation/replaces": json.dumps(UIDS)}}
    spec = {"group": "g", "caBundle": "Q0E="}
    assert switched == {REGISTRATION: {**WANTED[1], "metadata": metadata, "spec": spec}}
    assert "annotations" not in WANTED[1]["metadata"]


def test_a_service_is_kept_without_its_address():
    service = {"kind": "Service", "spec": {"clusterIP": "10.233.0.7", "clusterIPs": ["10.233.0.7"], "ports": []}}
    headless = {"kind": "Service", "spec": {"clusterIP": "None"}}
    found = metrics_server.kept({"a": service, "b": headless, "c": None})
    assert found == {"a": {"kind": "Service", "spec": {"ports": []}}, "b": headless, "c": None}
    assert service["spec"]["clusterIP"]


def test_the_old_server_is_back_before_its_registration():
    deployment = {"kind": "Deployment", "metadata": {"name": "metrics-server", "namespace": "kube-system"}}
    registrations = {REGISTRATION: {"kind": "APIService"}, NEWER: None}
    found = metrics_server.handed_back({**registrations, REMOVABLE[0]: deployment, "/gone": None})
    assert found == {
        "registrations": registrations,
        "workloads": {REMOVABLE[0]: deployment},
        "deployments": [{"name": "metrics-server", "namespace": "kube-system"}],
        "current": [REGISTRATION, NEWER],
    }


def target(kind, verdict):
    return {"kind": kind, "host": "10.233.0.9", "port": 443, "verdict": verdict}


def test_one_way_to_the_new_server_suffices():
    reached = {"targets": [target("cluster_ip", "unreachable"), target("endpoint", "ok")]}
    half = {"targets": [target("cluster_ip", "untrusted"), target("endpoint", "ok"), target("endpoint", "bad_status")]}
    answers = {"a": reached, "b": half, "c": {"targets": []}, "d": {"msg": "no key"}, "e": {"skipped": True}}
    found = metrics_server.unreached(answers)
    assert found == [
        "b: 10.233.0.9:443 untrusted, 10.233.0.9:443 ok, 10.233.0.9:443 bad_status",
        "c: the server has no endpoint",
        "d: no key",
    ]


def test_the_other_name_is_everywhere():
    found = metrics_server.describe(values(nanny=True), CLUSTER, IMAGE, ["v1beta1"], "metrics-server-kubemetrics")
    assert "--service-name=metrics-server-kubemetrics" in found["args"]
    assert "--serving-secret=metrics-server-kubemetrics-serving-cert" in found["args"]
    assert found["nanny_args"][1:4] == [
        "--namespace=kube-system",
        "--deployment=metrics-server-kubemetrics",
        "--container=metrics-server",
    ]
    assert "metrics-server-kubemetrics" in str(found["affinity"])


def test_the_checksum_is_that_of_all_objects():
    objects = [
        {"kind": "Service", "metadata": {"name": "metrics-server", "namespace": "m"}},
        {"kind": "Deployment", "metadata": {"name": "metrics-server", "namespace": "m"}},
        {"kind": "ClusterRole", "metadata": {"name": "r"}},
    ]
    stamped = metrics_server.stamped(objects)
    assert [cluster_state.DIGEST in entry["metadata"].get("annotations", {}) for entry in stamped["objects"]] == [
        False,
        True,
        False,
    ]
    assert cluster_state.deployment_view(stamped["objects"][1])["digest"] == stamped["digest"]
    assert "annotations" not in objects[1]["metadata"]
    objects[0]["metadata"]["labels"] = {"a": "b"}
    assert metrics_server.stamped(objects)["digest"] != stamped["digest"]
    assert [entry["kind"] for entry in metrics_server.without_namespace(objects, "m")] == ["ClusterRole"]


def test_one_value_says_who_manages_an_object():
    """What one part of the collection makes, every other part has to know again."""
    wrong = {}
    pattern = re.compile(r"app\.kubernetes\.io/managed-by[\"']?\s*[:=]\s*[\"']?([\w.-]+)")
    for folder in ("plugins", "roles", "metrics_server/src", "playbooks"):
        for path in (TREE / folder).rglob("*"):
            if path.suffix in (".py", ".yml", ".j2"):
                found = set(pattern.findall(path.read_text(encoding="utf-8"))) - {cluster_state.MANAGER}
                if found:
                    wrong[str(path.relative_to(TREE))] = found
    assert wrong == {}
