# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of each host, and what becomes of the answers, by evidence of real clusters."""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import evidence_document as documents

CORPUS = Path(__file__).resolve().parents[1] / "corpus/evidence"
NOW = datetime.datetime(2026, 3, 1, 10, 0, tzinfo=datetime.timezone.utc)


def saved(name):
    return json.loads((CORPUS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def healthy():
    return saved("healthy-1-1")


@pytest.fixture
def down():
    return saved("api-down-1-1")


def about(document):
    known = documents.known(document["api"], [entry["host"] for entry in document["hosts"].values()], {})
    # As Ansible passes it from one task to the other.
    return documents.Known(**json.loads(json.dumps(known._asdict())))


def assemble(hosts, api, **more):
    return documents.assemble(hosts, api, started=NOW, now=NOW, versions={"collection": "1", "ansible": "2"}, **more)


class TestProbes:
    def test_a_worker_tests_its_network_and_that_of_a_pod(self, healthy):
        probes = documents.probes_of(healthy["hosts"]["w1"], about(healthy), token="secret", timeout=5)
        assert sorted(probes) == ["network", "pod"]
        network = probes["network"].arguments
        assert network["pod_cidrs"] == ["10.233.64.0/18"]
        assert network["cluster_ip"] == "10.233.0.1"
        assert network["time_server"] == "https://10.89.0.11:6443"
        assert network["peers"] == ["10.89.0.11"]
        pod = probes["pod"].arguments
        assert pod["pod_uids"] == [healthy["api"]["objects"]["pods"][0]["uid"]]
        assert [(target["kind"], target["host"]) for target in pod["targets"]] == [
            ("cluster_ip", "10.233.0.1"),
            ("api_server", "10.89.0.11"),
            ("endpoint", healthy["api"]["objects"]["pods"][0]["pod_ip"]),
            ("kubelet", "10.89.0.11"),
            ("kubelet", "10.89.0.31"),
        ]
        assert "secret" not in str(probes)

    def test_for_another_api_no_kubelet_is_asked(self, healthy):
        text = json.dumps(healthy).replace("metrics.k8s.io", "sample.example.com")
        document, name = json.loads(text), "v1beta1.sample.example.com"
        hosts = [entry["host"] for entry in document["hosts"].values()]
        known = documents.known(document["api"], hosts, {}, name)
        probes = documents.probes_of(document["hosts"]["cp1"], known, token=None, timeout=5)
        assert sorted(probes) == [f"aggregator {name}", "network", "pod"]
        assert probes[f"aggregator {name}"].arguments["path"] == "/apis/sample.example.com/v1beta1"
        assert "kubelet" not in {target["kind"] for target in probes["pod"].arguments["targets"]}
        # Where it is not registered, the certificates are examined all the same.
        unregistered = known._replace(apiservices=[])
        options = documents.probes_of(document["hosts"]["cp1"], unregistered, token=None, timeout=5)
        assert "endpoints" not in options[f"aggregator {name}"].arguments

    def test_a_control_plane_also_asks_the_server_and_the_kubelets(self, healthy):
        probes = documents.probes_of(healthy["hosts"]["cp1"], about(healthy), token="secret", timeout=5)
        assert sorted(probes) == ["aggregator v1beta1.metrics.k8s.io", "kubelets 10250", "network", "pod"]
        # Its own clock would agree with itself.
        assert "time_server" not in probes["network"].arguments
        aggregator = probes["aggregator v1beta1.metrics.k8s.io"].arguments
        assert aggregator["server_name"] == "metrics-server.kube-system.svc"
        assert aggregator["path"] == "/apis/metrics.k8s.io/v1beta1"
        assert "BEGIN CERTIFICATE" in aggregator["ca_data"]
        kubelets = probes["kubelets 10250"].arguments
        assert kubelets["addresses"] == ["10.89.0.11", "10.89.0.31"]
        assert kubelets["token"] == "secret"
        # A token goes only where a certificate can be verified.
        assert kubelets["ca_file"] == "/etc/kubernetes/pki/ca.crt"

    def test_without_a_ca_no_token_is_sent(self, healthy):
        host = healthy["hosts"]["cp1"]
        host["host"]["kubelet_answers"]["ca_file"] = None
        del host["host"]["components"]["kube-apiserver"]["flags"]["client-ca-file"]
        options = documents.kubelet_options(host["host"], about(healthy), "secret", 5)[10250]
        assert "token" not in options
        assert "ca_file" not in options

    def test_while_the_api_is_down_flags_name_the_networks(self, down):
        known = about(down)
        assert known.service_cidrs == ["10.233.0.0/18"]
        assert known.servers == ["https://10.89.0.11:6443"]
        assert known.api_cluster_ip == "10.233.0.1"
        probes = documents.probes_of(down["hosts"]["cp1"], known, token=None, timeout=5)
        assert sorted(probes) == ["kubelets 10250", "network", "pod"]
        assert "10.89.0.31" in probes["kubelets 10250"].arguments["addresses"]

    def test_what_the_inventory_says_stands_in_for_flags(self):
        known = documents.known({}, [], {"service": "10.96.0.0/12,fd00::/108", "pod": "10.244.0.0/16"})
        assert known.service_cidrs == ["10.96.0.0/12", "fd00::/108"]
        assert known.pod_cidrs == ["10.244.0.0/16"]

    def test_many_kubelets_are_shared_among_the_control_planes(self, healthy):
        node = healthy["api"]["state"]["nodes"][1]
        healthy["api"]["state"]["nodes"] = [
            {**node, "name": f"n{at}", "addresses": [{"type": "InternalIP", "address": f"10.0.0.{at}"}]}
            for at in range(1, 101)
        ]
        known = about(healthy)._replace(control_planes=("cp1", "cp2", "cp3"))
        asked = [
            documents.kubelet_options({**healthy["hosts"]["cp1"]["host"], "name": name}, known, None, 5)[10250][
                "addresses"
            ]
            for name in ("cp1", "cp2", "cp3")
        ]
        assert sorted(sum(asked, [])) == sorted(f"10.0.0.{at}" for at in range(1, 101))
        # A pod of another host than the server's need not reach all of them.
        targets = documents.pod_options({**healthy["hosts"]["w1"]["host"], "node_name": "n7"}, known, 5)["targets"]
        assert [target["host"] for target in targets if target["kind"] == "kubelet"] == ["10.0.0.7"]

    def test_kubelets_of_a_silent_api_are_where_they_listen(self, healthy):
        # The address of the default route is another one where the inventory has ip unlike ansible_host.
        host = copy.deepcopy(healthy["hosts"]["w1"]["host"])
        host["host"]["default_ipv4"] = "192.0.2.31"
        host["kubelet_answers"]["url"] = "https://192.0.2.131:10250/metrics/resource"
        assert documents.kubelets_of_hosts([host]) == [("w1", 10250, "192.0.2.131")]
        host["kubelet_answers"] = None
        host["components"]["kubelet"]["flags"]["node-ip"] = "192.0.2.141,2001:db8::31"
        assert documents.kubelets_of_hosts([host]) == [("w1", 10250, "192.0.2.141")]
        del host["components"]["kubelet"]["flags"]["node-ip"]
        assert documents.kubelets_of_hosts([host]) == [("w1", 10250, "192.0.2.31")]


class TestResults:
    def test_nothing_secret_and_nothing_of_ansibles_is_kept(self):
        jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl"
        key = "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----"
        kept = documents.plain(
            {"a": [f"token {jwt}"], "b": {"c": key}, "invocation": {"module_args": {}}, "changed": False}
        )
        assert kept == {"a": ["token ********"], "b": {"c": "********\n\n"}}

    def test_certificates_are_kept_in_words(self, healthy):
        text = json.dumps(healthy)
        assert "certificate_der" not in text
        assert healthy["hosts"]["w1"]["host"]["kubelet_answers"]["certificate"]["subject"].startswith(
            "CN=system:node:w1"
        )

    def test_of_the_checks_of_an_api_server_the_failing_ones_are_kept(self):
        checks = [{"name": "ping", "ok": True, "message": ""}, {"name": "etcd", "ok": False, "message": "failed"}]
        assert documents.plain_api_server({"checks": checks})["checks"] == checks[1:]
        assert documents.plain_api_server({"checks": None}) == {"checks": None}


class TestDocument:
    def test_it_is_the_same_when_it_is_put_together_again(self, healthy):
        hosts = {
            name: {
                "discovered": {
                    "reachable": True,
                    "message": "",
                    "control_plane": entry["control_plane"],
                    "host": entry["host"],
                    "api_server": entry["api_server"],
                    "errors": {},
                },
                "connected": {
                    "errors": {},
                    "results": {
                        "network": entry["network"],
                        "pod": entry["pod"],
                        **{f"aggregator {key}": value for key, value in entry["aggregator"].items()},
                        "kubelets 10250": {
                            "kubelets": [
                                {key: value for key, value in kubelet.items() if key != "node"}
                                for kubelet in entry["kubelets"]
                            ]
                        },
                    },
                },
            }
            for name, entry in healthy["hosts"].items()
        }
        again = assemble(hosts, healthy["api"])
        assert again["hosts"] == healthy["hosts"]
        assert again["collected"]["scope"] == "hosts_and_api"
        assert again["not_collected"] == []
        assert documents.from_text(documents.to_text(again), "x") == json.loads(json.dumps(again))

    def test_a_host_that_was_not_reached_hides_nothing_and_is_named(self, healthy):
        lost = {
            "reachable": False,
            "message": "it does not answer.",
            "control_plane": False,
            "host": None,
            "errors": {},
        }
        found = assemble({"w1": {"discovered": lost, "connected": None}}, healthy["api"])
        assert found["hosts"]["w1"]["reachable"] is False
        assert found["not_collected"][0]["what"] == "w1"
        assert found["not_collected"][0]["why"] == "it does not answer"

    def test_hosts_alone(self, down):
        assert down["collected"]["scope"] == "hosts"
        assert [entry["what"] for entry in down["not_collected"]] == ["the API"]

    def test_an_api_alone_says_what_is_not_seen(self, healthy):
        found = assemble({}, healthy["api"])
        assert found["collected"]["scope"] == "api"
        assert found["not_collected"][0]["what"] == "the hosts"

    def test_missing_rights_are_named_once(self, healthy):
        healthy["api"]["denied"] = [
            {
                "verb": "list",
                "group": "",
                "resource": "nodes",
                "subresource": "",
                "namespace": "",
                "name": "",
                "path": "",
            },
            {
                "verb": "get",
                "group": "",
                "resource": "",
                "subresource": "",
                "namespace": "",
                "name": "",
                "path": "/metrics",
            },
        ]
        healthy["api"]["user"]["name"] = "jane"
        healthy["api"]["errors"] = {"state": "https://192.0.2.1:6443 answered 403 to /api/v1/nodes: forbidden."}
        (missing,) = documents.not_collected({"w1": healthy["hosts"]["w1"]}, healthy["api"])
        assert missing["what"] == "the user jane may not"
        assert missing["why"] == "list nodes, get /metrics"

    @pytest.mark.parametrize(
        ("right", "words"),
        [
            (
                {"verb": "get", "group": "", "resource": "pods", "subresource": "log", "namespace": "a"},
                "get pods/log in a",
            ),
            ({"verb": "list", "group": "apps", "resource": "deployments"}, "list deployments.apps"),
            ({"verb": "get", "resource": "configmaps", "name": "x", "namespace": "b"}, "get configmaps x in b"),
        ],
    )
    def test_a_right_in_words(self, right, words):
        assert documents.right_in_words(right) == words

    def test_many_hosts_are_cut_and_that_is_said(self, healthy):
        found = {"reachable": True, "message": "", "control_plane": False, "host": None, "errors": {}}
        hosts = {f"w{at:04}": {"discovered": found, "connected": None} for at in range(600)}
        document = assemble(hosts, healthy["api"])
        assert len(document["hosts"]) == 500
        assert "100 of 600 hosts" in [entry["what"] for entry in document["not_collected"]]

    def test_many_nodes_are_cut_and_that_is_said(self, healthy):
        node = healthy["api"]["state"]["nodes"][0]
        healthy["api"]["state"]["nodes"] = [{**node, "name": f"n{at:04}"} for at in range(700)]
        document = assemble({}, healthy["api"])
        assert len(document["api"]["state"]["nodes"]) == 500
        assert "200 of 700 nodes and their kubelets" in [entry["what"] for entry in document["not_collected"]]

    def test_what_is_no_evidence(self):
        with pytest.raises(ValueError, match="x.json is no JSON object"):
            documents.from_text("[1", "x.json")
