# SPDX-License-Identifier: GPL-3.0-or-later
"""What the variables of the role make of the metrics server's objects, as Ansible renders them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubespray, prometheus_rules, server_access
from ansible_programs import play

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEFAULTS = yaml.safe_load((ROOT / "roles/metrics_server/defaults/main.yml").read_text())
READERS = [
    {"kind": "Group", "name": "developers"},
    {"kind": "User", "name": "jane@example.com"},
    {"kind": "ServiceAccount", "name": "dashboard", "namespace": "monitoring"},
]
HOSTS = {
    "default": {},
    "summary": {"metrics_server_kubelet_summary_api": "true"},
    "old-kubelet": {"kubelet_version": "v1.17.17"},
    "readers": {"metrics_server_readers": READERS},
    "annotations": {
        "metrics_server_prometheus": "annotations",
        "metrics_server_prometheus_service_account": "monitoring/prometheus",
    },
    "monitor": {
        "metrics_server_prometheus": "service_monitor",
        "metrics_server_prometheus_rule": True,
        "metrics_server_prometheus_labels": {"release": "stack"},
        "metrics_server_namespace": "metrics",
        "metrics_server_metric_resolution": "30s",
    },
}
HOSTS["nanny"] = {"metrics_server_nanny": True}
# Beside somebody else's server, which has the usual name.
HOSTS["other-name"] = {**HOSTS["nanny"], "metrics_server_csr_approver": True, "called": "metrics-server-kubemetrics"}
HOSTS["old-nanny"] = {"metrics_server_nanny": True, "kubelet_version": "v1.32.13"}
HOSTS["rolling-nanny"] = {
    "metrics_server_nanny": True,
    "metrics_server_nanny_in_place": False,
    "metrics_server_nanny_use_metrics": True,
}
HOSTS["everything"] = {
    **HOSTS["summary"],
    **HOSTS["readers"],
    **HOSTS["monitor"],
    "metrics_server_csr_approver": True,
    "metrics_server_nanny": True,
}
# kubespray takes a variable without a value for its default.
HOSTS["null"] = dict.fromkeys(kubespray.SHARED)
ALWAYS = {
    ("ServiceAccount", "metrics-server"),
    ("ClusterRole", "system:aggregated-metrics-reader"),
    ("ClusterRole", "system:metrics-server"),
    ("ClusterRoleBinding", "system:metrics-server"),
    ("ClusterRoleBinding", "metrics-server:system:auth-delegator"),
    ("RoleBinding", "metrics-server-auth-reader"),
    ("Role", "metrics-server"),
    ("RoleBinding", "metrics-server"),
    ("Service", "metrics-server"),
    ("PodDisruptionBudget", "metrics-server"),
    ("Deployment", "metrics-server"),
    ("APIService", "v1beta1.metrics.k8s.io"),
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Host -> kind and name -> object."""
    folder = tmp_path_factory.mktemp("manifests")
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": HOSTS}}))
    # Templates are found beside the playbook, or by tasks of their role, none of which runs.
    shutil.copy(HERE / "manifests.yml", folder)
    (folder / "templates").symlink_to(ROOT / "roles/metrics_server/templates")
    extra = json.dumps({"results": str(folder), "python": sys.executable})
    done = play("-i", inventory, "-e", extra, folder / "manifests.yml")
    assert done.returncode == 0, done.stdout[-4000:]
    found = {}
    for name in HOSTS:
        result = json.loads((folder / f"{name}.json").read_text())
        found[name] = {(one["kind"], one["metadata"]["name"]): one for one in result["objects"]}
        found[name]["token"] = result["token"]
    return found


def kinds(objects):
    return set(objects) - {"token"}


def rules(objects, name="system:metrics-server"):
    return objects["ClusterRole", name]["rules"]


def reads(objects):
    """What of kubelets the server may read."""
    return {resource for rule in rules(objects) for resource in rule["resources"] if resource.startswith("nodes/")}


def arguments(objects):
    return objects["Deployment", "metrics-server"]["spec"]["template"]["spec"]["containers"][0]["args"]


def test_nothing_optional_is_there_by_default(rendered):
    assert kinds(rendered["default"]) == ALWAYS
    assert "annotations" not in rendered["default"]["Service", "metrics-server"]["metadata"]


def test_variables_of_kubespray_without_a_value_are_the_defaults(rendered):
    assert rendered["null"] == rendered["default"]


def test_the_server_may_read_summaries_only_where_it_asks_for_them(rendered):
    usual = {name: objects for name, objects in rendered.items() if "called" not in HOSTS[name]}
    assert {name: reads(objects) for name, objects in usual.items()} == {
        name: {"nodes/metrics", "nodes/stats"}
        if name in ("summary", "old-kubelet", "everything")
        else {"nodes/metrics"}
        for name in usual
    }
    asked = {name for name, objects in usual.items() if "--kubelet-summary-api" in arguments(objects)}
    assert asked == {"summary", "everything"}


def companions(objects):
    """Kinds of the objects of each program beside the server, by its name."""
    found = {}
    for kind, name in kinds(objects):
        program = name.removeprefix("system:").removeprefix("metrics-server-")
        if program in ("csr-approver", "nanny"):
            found.setdefault(program, set()).add(kind)
    return found


def test_all_options_together_are_the_objects_of_each(rendered):
    cluster_wide = {"Deployment", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
    assert companions(rendered["nanny"]) == {"nanny": {*cluster_wide, "Role", "RoleBinding"}}
    assert companions(rendered["everything"]) == {**companions(rendered["nanny"]), "csr-approver": cluster_wide}
    beside = {pair for pair in kinds(rendered["everything"]) if pair[1].endswith(("-csr-approver", "-nanny"))}
    assert kinds(rendered["everything"]) == kinds(rendered["readers"]) | kinds(rendered["monitor"]) | beside


def test_what_can_be_made_can_be_removed(rendered):
    """What is not known to be optional would stay when nothing asks for it any more."""
    values = {**DEFAULTS, **HOSTS["everything"]}
    optional = {
        (one["kind"], one["name"]) for one, _variable in server_access.optional_objects(values, "metrics-server")
    }
    assert kinds(rendered["everything"]) - ALWAYS - {("Namespace", "metrics")} <= optional


def test_the_nanny_has_an_account_of_its_own_for_one_deployment(rendered):
    objects, nanny = rendered["nanny"], "metrics-server-nanny"
    account = {"kind": "ServiceAccount", "name": nanny, "namespace": "kube-system"}
    pod = objects["Deployment", nanny]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == nanny
    (container,) = pod["containers"]
    assert {"--deployment=metrics-server", "--namespace=kube-system", "--in-place"} <= set(container["args"])
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        name = nanny if kind == "RoleBinding" else f"system:{nanny}"
        assert objects[kind, name]["subjects"] == [account]
        assert objects[kind, name]["roleRef"]["name"] == name
    change = {
        "apiGroups": ["apps"],
        "resources": ["deployments"],
        "resourceNames": ["metrics-server"],
        "verbs": ["get", "patch"],
    }
    resize = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["pods/resize"], "verbs": ["patch"]},
    ]
    count = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}
    assert objects["Role", nanny]["rules"] == [change, *resize]
    assert rules(objects, f"system:{nanny}") == [count]
    # What is not needed is not given.
    for host in ("rolling-nanny", "old-nanny"):
        assert rendered[host]["Role", nanny]["rules"] == [change]
    assert rules(rendered["rolling-nanny"], f"system:{nanny}") == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


def test_beside_another_server_nothing_has_its_name(rendered):
    objects, name = rendered["other-name"], "metrics-server-kubemetrics"
    usual = {"metrics-server" + end for end in ("", "-nanny", "-csr-approver")}
    named = {called.removeprefix("system:") for _kind, called in kinds(objects)}
    assert named & usual == set()
    assert {f"{name}-nanny", f"{name}-csr-approver"} <= named
    assert objects["Role", f"{name}-nanny"]["rules"][0]["resourceNames"] == [name]
    assert (
        f"--deployment={name}"
        in objects["Deployment", f"{name}-nanny"]["spec"]["template"]["spec"]["containers"][0]["args"]
    )


def test_the_server_has_nothing_of_the_nannys(rendered):
    """But for its resources, which are the nanny's."""
    server, objects = rendered["default"], rendered["nanny"]
    assert objects["Role", "metrics-server"] == server["Role", "metrics-server"]
    assert rules(objects) == rules(server)
    (without,) = objects["Deployment", "metrics-server"]["spec"]["template"]["spec"]["containers"]
    (with_sizes,) = server["Deployment", "metrics-server"]["spec"]["template"]["spec"]["containers"]
    assert with_sizes.pop("resources")
    assert without == with_sizes


def test_readers_are_bound_to_a_role_that_only_reads(rendered):
    objects = rendered["readers"]
    assert kinds(objects) - ALWAYS == {("ClusterRole", "read-metrics"), ("ClusterRoleBinding", "read-metrics")}
    assert rules(objects, "read-metrics") == [
        {"apiGroups": ["metrics.k8s.io"], "resources": ["nodes", "pods"], "verbs": ["get", "list"]}
    ]
    binding = objects["ClusterRoleBinding", "read-metrics"]
    assert binding["roleRef"]["name"] == "read-metrics"
    assert binding["subjects"] == [
        {"kind": "Group", "name": "developers", "apiGroup": "rbac.authorization.k8s.io"},
        {"kind": "User", "name": "jane@example.com", "apiGroup": "rbac.authorization.k8s.io"},
        {"kind": "ServiceAccount", "name": "dashboard", "namespace": "monitoring"},
    ]


def test_annotations_come_with_the_right_to_read_metrics(rendered):
    objects = rendered["annotations"]
    annotations = objects["Service", "metrics-server"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/scheme": "https",
        "prometheus.io/path": "/metrics",
    }
    scraper = "metrics-server-scraper"
    assert kinds(objects) - ALWAYS == {("ClusterRole", scraper), ("ClusterRoleBinding", scraper)}
    assert rules(objects, scraper) == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    assert objects["ClusterRoleBinding", scraper]["subjects"] == [
        {"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"}
    ]


def test_a_service_monitor_verifies_the_server_with_an_account_of_its_own(rendered):
    objects = rendered["monitor"]
    scraper = "metrics-server-scraper"
    assert kinds(objects) - ALWAYS == {
        ("Namespace", "metrics"),
        ("ServiceAccount", scraper),
        ("ClusterRole", scraper),
        ("ClusterRoleBinding", scraper),
        ("ServiceMonitor", "metrics-server"),
        ("PrometheusRule", "metrics-server"),
    }
    assert rules(objects, scraper) == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    assert objects["ClusterRoleBinding", scraper]["subjects"] == [
        {"kind": "ServiceAccount", "name": scraper, "namespace": "metrics"}
    ]
    token = objects["token"]
    assert token["type"] == "kubernetes.io/service-account-token"
    assert token["metadata"]["annotations"] == {"kubernetes.io/service-account.name": scraper}
    monitor = objects["ServiceMonitor", "metrics-server"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": token["metadata"]["name"], "key": "token"}
    secret = next(entry for entry in arguments(objects) if entry.startswith("--serving-secret=")).partition("=")[2]
    assert endpoint["tlsConfig"] == {
        "ca": {"secret": {"name": secret, "key": "ca.crt"}},
        "serverName": "metrics-server.metrics.svc",
    }
    service = objects["Service", "metrics-server"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert monitor["metadata"]["labels"]["release"] == "stack"


def test_alerts_pass_through_ansible_as_they_are(rendered):
    rule = rendered["monitor"]["PrometheusRule", "metrics-server"]
    assert rule["metadata"]["labels"]["release"] == "stack"
    assert rule["spec"] == prometheus_rules.groups(30.0)
    assert "{{ $labels.reason }}" in json.dumps(rule["spec"])
