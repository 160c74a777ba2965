# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about the front proxy, the registration and single API servers, from evidence of the lab with the fault
injected, and from variants of it."""

from __future__ import annotations

import copy
import functools
import json
import typing
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import engine
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules import front_proxy

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "evidence"
NAME = "v1beta1.metrics.k8s.io"
#: What was injected, and the hosts that are to be named.
CAPTURED = {
    "AGG-01": [],
    "AGG-02": ["cp1"],
    "AGG-03": ["cp1"],
    "AGG-04": ["cp1"],
    "AGG-05": ["cp1"],
    "AGG-06": ["cp1"],
    "AGG-07": [],
    "AGG-08": [],
    "AGG-09": ["cp2"],
    "AGG-12": [],
}


@functools.cache
def read(name):
    return json.loads((CORPUS / f"{name}.json").read_text(encoding="utf-8"))


def captured(name):
    return copy.deepcopy(read(name))


@pytest.fixture
def healthy():
    return captured("healthy-1-1")


@pytest.fixture
def three():
    return captured("healthy-3-1")


def found(document):
    return {entry["id"]: entry for entry in engine.diagnose(document)["findings"]}


def ids(document):
    return sorted(found(document))


def roots(document):
    return sorted(entry["id"] for entry in engine.diagnose(document)["findings"] if entry["root"])


def client(document, host="cp1"):
    return next(iter(document["hosts"][host]["aggregator"].values()))["client"]


def cas(document, host="cp1"):
    return next(iter(document["hosts"][host]["aggregator"].values()))["requestheader_ca"]


def flags(document, host="cp1"):
    return document["hosts"][host]["host"]["components"]["kube-apiserver"]["flags"]


def answer(document, verdict, host="cp1", status=None, message="", **more):
    """What each target of a control plane answers to the front proxy's request."""
    for result in document["hosts"][host]["aggregator"].values():
        for target in result["targets"]:
            target["verdict"] = verdict
            target["response"].update(status=status, message=message)
            target.update(more)


def requests(document, *hosts, message="answers 503 to /apis/metrics.k8s.io/v1beta1: service unavailable", **more):
    """Requests through these control planes fail."""
    urls = {document["hosts"][host]["host"]["api_server_url"] for host in hosts}
    for entry in document["api"]["apiservices"]["servers"]:
        if entry["server"] in urls:
            entry.update(ok=False, message=message, statuses=[503, 503, 503], aggregator_unavailable=1)
            entry.update(more)


def refuse(document, host="cp1"):
    answer(document, "front_proxy_refused", host, 401, "Unauthorized")
    requests(document, host)


def apiservice(document, name=NAME):
    return next(entry for entry in document["api"]["apiservices"]["apiservices"] if entry["name"] == name)


def by_kubeconfig_alone(document, *log):
    """The same cluster without its hosts; and what the metrics server has logged."""
    requests(document, *(name for name, host in document["hosts"].items() if host["control_plane"]))
    document["hosts"] = {}
    document["api"]["objects"]["pods"][0]["log"] = list(log)
    return document


@pytest.mark.parametrize(("name", "hosts"), CAPTURED.items())
class TestCaptured:
    def test_it_is_the_only_root(self, name, hosts):
        result = engine.diagnose(captured(name))
        assert [(entry["id"], entry["hosts"]) for entry in result["findings"] if entry["root"]] == [(name, hosts)]


@pytest.mark.parametrize("name", ["healthy-1-1", "healthy-3-1"])
def test_a_healthy_cluster_has_no_finding(name):
    assert ids(captured(name)) == []


class TestFlags:
    def test_missing_ones_are_named(self, healthy):
        for name in ("proxy-client-cert-file", "proxy-client-key-file"):
            del flags(healthy)[name]
        healthy["hosts"]["cp1"]["aggregator"] = {}
        requests(healthy, "cp1")
        assert roots(healthy) == ["AGG-02"]
        assert "--proxy-client-cert-file, --proxy-client-key-file" in found(healthy)["AGG-02"]["evidence"][0]

    def test_names_may_be_left_out(self, healthy):
        flags(healthy).pop("requestheader-allowed-names")
        healthy["api"]["authentication"]["allowed_names"] = []
        assert ids(healthy) == []

    def test_a_process_that_hides_its_flags_is_not_blamed(self, healthy):
        healthy["hosts"]["cp1"]["host"]["components"]["kube-apiserver"].update(in_process=True, flags={})
        assert "AGG-02" not in ids(healthy)

    def test_without_hosts_the_configmap_tells(self, healthy):
        healthy["api"]["authentication"]["front_proxy_ca"] = []
        assert roots(by_kubeconfig_alone(healthy)) == ["AGG-02"]


class TestCertificate:
    @pytest.mark.parametrize(
        ("change", "row"),
        [
            ({"expired": True, "expires_in_days": -1}, "AGG-05"),
            ({"subject": "CN=other"}, "AGG-03"),
            ({"extended_key_usages": ["server auth"]}, "AGG-04"),
        ],
    )
    def test_one_fault_is_one_finding(self, healthy, change, row):
        client(healthy)["certificate"].update(change)
        refuse(healthy)
        assert roots(healthy) == [row]

    @pytest.mark.parametrize("certificate", [{"error": "The certificate does not parse."}, {"subject": "unreadable"}])
    def test_a_name_that_could_not_be_read_is_no_other_name(self, healthy, certificate):
        healthy["api"]["authentication"]["allowed_names"] = ["front-proxy-client"]
        client(healthy).update(certificate=certificate, issued_by_requestheader_ca=False)
        assert ids(healthy) == []

    def test_a_refusal_tells_that_it_is_not_allowed(self, healthy):
        healthy["api"]["authentication"]["allowed_names"] = ["front-proxy-client"]
        client(healthy)["certificate"]["subject"] = "unreadable"
        refuse(healthy)
        assert roots(healthy) == ["AGG-03"]

    def test_an_unknown_issuer(self, healthy):
        client(healthy).update(issued_by_requestheader_ca=False)
        refuse(healthy)
        assert roots(healthy) == ["AGG-04"]

    def test_an_intermediate_ca_is_no_fault(self, healthy):
        client(healthy).update(issued_by_requestheader_ca=False)
        client(healthy)["certificate"]["issuer"] = "CN=intermediate"
        assert ids(healthy) == []

    def test_half_a_pair(self, healthy):
        client(healthy).update(usable=False, error={"kind": "client_certificate", "message": "key values mismatch"})
        answer(healthy, "not_sent")
        requests(healthy, "cp1")
        assert roots(healthy) == ["AGG-04"]
        assert "key values mismatch" in found(healthy)["AGG-04"]["evidence"][0]

    def test_one_that_expires_soon_is_a_warning(self, healthy):
        client(healthy)["certificate"]["expires_in_days"] = 12
        assert [(entry["id"], entry["severity"]) for entry in found(healthy).values()] == [("AGG-05", "warning")]

    def test_one_that_is_not_valid_yet_is_a_matter_of_clocks(self, healthy):
        client(healthy)["certificate"]["not_yet_valid"] = True
        refuse(healthy)
        assert not {"AGG-03", "AGG-04", "AGG-05"} & set(ids(healthy))

    def test_an_expired_ca(self, healthy):
        for entry in cas(healthy):
            entry["certificate"]["expired"] = True
        refuse(healthy)
        assert found(healthy)["AGG-05"]["repair"]["kind"] == "advice"

    def test_a_refusal_that_nothing_explains_is_not_guessed(self, healthy):
        refuse(healthy)
        assert ids(healthy) == [] or "AGG-04" not in ids(healthy)
        assert engine.diagnose(healthy)["verdict"] == "findings"

    def test_different_cas_are_a_warning_while_all_are_trusted(self, three):
        other = {**cas(three, "cp2")[0]["certificate"], "fingerprint_sha256": "ab" * 32}
        cas(three, "cp2")[:] = [{"certificate": other}]
        three["api"]["authentication"]["front_proxy_ca"].append(other)
        finding = found(three)["AGG-04"]
        assert (finding["severity"], sorted(finding["hosts"])) == ("warning", ["cp1", "cp2", "cp3"])

    def test_a_name_that_only_the_configmap_remembers(self, healthy):
        flags(healthy)["requestheader-allowed-names"] = ["foo"]
        healthy["api"]["authentication"]["allowed_names"] = ["front-proxy-client", "foo"]
        assert found(healthy)["AGG-03"]["severity"] == "warning"

    @pytest.mark.parametrize(
        ("line", "row"),
        [
            ('Unable to authenticate the request" err="x509: certificate has expired or is not yet valid', "AGG-05"),
            (
                '"Unable to authenticate the request" err="x509: subject with cn=a is not in the allowed list: [b]',
                "AGG-03",
            ),
            ('"Unable to authenticate the request" err="x509: certificate signed by unknown authority', "AGG-04"),
        ],
    )
    def test_without_hosts_the_log_tells(self, healthy, line, row):
        assert roots(by_kubeconfig_alone(healthy, line)) == [row]

    def test_of_several_refusals_in_the_log_the_newest_counts(self, healthy):
        old = '"Unable to authenticate the request" err="x509: certificate signed by unknown authority'
        new = '"Unable to authenticate the request" err="x509: certificate has expired or is not yet valid'
        assert roots(by_kubeconfig_alone(healthy, old, new)) == ["AGG-05"]

    def test_the_log_proves_nothing_where_hosts_were_examined(self):
        document = captured("AGG-02")
        line = '"Unable to authenticate the request" err="x509: certificate signed by unknown authority'
        document["api"]["objects"]["pods"][0]["log"] = [line]
        assert roots(document) == ["AGG-02"]

    def test_an_old_line_of_the_log_proves_nothing(self, healthy):
        line = 'Unable to authenticate the request" err="x509: certificate has expired or is not yet valid'
        healthy["api"]["objects"]["pods"][0]["log"] = [line]
        healthy["hosts"] = {}
        assert ids(healthy) == []


class TestSharedCa:
    def share(self, document, host="cp1"):
        own = document["api"]["authentication"]["client_ca"][0]
        cas(document, host)[:] = [{"certificate": own}]
        document["api"]["authentication"]["front_proxy_ca"] = [own]
        document["api"]["authentication"]["shared"] = [own["subject"]]

    def test_it_is_a_finding_although_everything_works(self, healthy):
        self.share(healthy)
        assert roots(healthy) == ["AGG-06"]
        assert engine.diagnose(healthy)["unexplained"] == []

    def test_the_name_is_no_second_root(self, healthy):
        self.share(healthy)
        client(healthy)["certificate"].update(subject="CN=kube-apiserver")
        answer(healthy, "wrong_identity", status=403, message='User "kube-apiserver" cannot get path "/apis/..."')
        requests(healthy, "cp1")
        assert roots(healthy) == ["AGG-06"]

    def test_a_certificate_of_an_ordinary_client(self, healthy):
        issuer = healthy["api"]["authentication"]["client_ca"][0]["subject"]
        client(healthy)["certificate"].update(subject="CN=kube-apiserver", issuer=issuer)
        client(healthy).update(issued_by_requestheader_ca=False)
        # Discovery works: it is open to every client.
        for entry in healthy["api"]["metrics"]["servers"]:
            message = 'https://192.0.2.11:6443 answered 403 to /apis/...: User "kube-apiserver" cannot list resource'
            entry.update(ok=False, nodes=None, pods=None, message=message)
        assert roots(healthy) == ["AGG-06"]
        assert engine.diagnose(healthy)["unexplained"] == []

    def test_only_the_configmap_has_it(self, healthy):
        healthy["api"]["authentication"]["shared"] = ["CN=kubernetes"]
        assert found(healthy)["AGG-06"]["hosts"] == []


class TestRegistration:
    def test_no_apiservice(self, healthy):
        for entry in healthy["api"]["apiservices"]["apiservices"]:
            entry.update(exists=False, available=False, service=None, service_exists=None, endpoints=[])
        requests(healthy, "cp1", message="answers 404", statuses=[404], aggregator_unavailable=None)
        assert roots(healthy) == ["AGG-01"]
        assert engine.diagnose(healthy)["unexplained"] == []

    def test_the_wrong_version(self, healthy):
        apiservice(healthy).update(exists=False, available=False, service=None)
        assert "v1.metrics.k8s.io" in " ".join(found(healthy)["AGG-01"]["evidence"])

    def test_an_owner_is_named_and_asked(self, healthy):
        apiservice(healthy).update(exists=False, available=False, service=None)
        healthy["api"]["provider"]["deployment"]["owner"] = "the Helm release ms in namespace kube-system"
        repair = found(healthy)["AGG-01"]["repair"]
        assert repair["kind"] == "advice" and "Helm release ms" in repair["text"]

    @pytest.mark.parametrize("available", [True, False])
    def test_a_wrong_bundle_whatever_the_condition_says(self, healthy, available):
        for entry in healthy["api"]["apiservices"]["apiservices"]:
            entry.update(available=available)
        for result in healthy["hosts"]["cp1"]["aggregator"].values():
            for target in result["targets"]:
                target["verdict"] = "untrusted"
                target["tls"].update(verified=False, error={"kind": "untrusted", "message": "it does not verify"})
        requests(healthy, "cp1", message="answers 503: x509: certificate signed by unknown authority")
        assert roots(healthy) == ["AGG-07"]

    def test_a_bundle_that_is_no_pem(self, healthy):
        apiservice(healthy)["ca_bundle"].update(valid_pem=False, message="holds no PEM certificate")
        requests(healthy, "cp1", message="answers 500", statuses=[500], aggregator_unavailable=0)
        assert roots(healthy) == ["AGG-07"]

    def test_a_cluster_ip_that_leads_astray_is_no_wrong_bundle(self, healthy):
        for result in healthy["hosts"]["cp1"]["aggregator"].values():
            for target in result["targets"]:
                if target["kind"] == "cluster_ip":
                    target["verdict"] = "untrusted"
                    target["tls"].update(verified=False, error={"kind": "untrusted", "message": "it does not verify"})
        assert "AGG-07" not in ids(healthy)

    def test_skipping_verification_is_no_finding(self, healthy):
        for entry in healthy["api"]["apiservices"]["apiservices"]:
            entry.update(insecure_skip_tls_verify=True, ca_bundle={"present": False})
        assert ids(healthy) == []

    def test_two_providers(self, healthy):
        apiservice(healthy)["service"] = {"namespace": "monitoring", "name": "prometheus-adapter", "port": 443}
        requests(healthy, "cp1")
        assert "AGG-08" in roots(healthy)

    def test_what_the_other_provider_lacks_is_no_fault_of_its_own(self):
        assert roots(captured("AGG-08")) == ["AGG-08"]
        assert "KUB-05" not in found(captured("AGG-08"))

    def test_a_helm_release_owns_the_apiservice_only(self, healthy):
        for entry in healthy["api"]["provider"]["apiservices"]:
            entry["owner"] = "the Helm release ms in namespace kube-system"
        assert found(healthy)["AGG-08"]["severity"] == "warning"

    def test_objects_that_were_applied_by_hand_are_no_conflict(self, healthy):
        for entry in healthy["api"]["provider"]["apiservices"]:
            entry["owner"] = "somebody using cainjector and kubectl-client-side-apply"
        for kind in ("deployment", "service"):
            healthy["api"]["provider"][kind]["owner"] = "somebody using kubectl-client-side-apply"
        assert ids(healthy) == []


class TestEndpoints:
    def empty(self, document, **more):
        for entry in document["api"]["apiservices"]["apiservices"]:
            entry.update(endpoints=[], available=False, **more)
        requests(document, *(name for name, host in document["hosts"].items() if host["control_plane"]))

    def test_a_selector_that_matches_nothing(self, healthy):
        self.empty(healthy)
        healthy["api"]["objects"]["pods"][0]["selected"] = False
        healthy["api"]["objects"]["service"]["selector"] = {"k8s-app": "other"}
        assert roots(healthy) == ["AGG-12"]
        assert "k8s-app=other" in found(healthy)["AGG-12"]["evidence"][0]

    def test_no_service(self, healthy):
        self.empty(healthy, service_exists=False)
        healthy["api"]["objects"]["service"] = None
        assert "does not exist" in found(healthy)["AGG-12"]["cause"]

    def test_another_port(self, healthy):
        self.empty(healthy, service_exists=False)
        assert "not listening on port 443" in found(healthy)["AGG-12"]["cause"]

    def test_a_port_of_the_service_that_no_container_has(self, healthy):
        self.empty(healthy)
        assert "leads to no port" in found(healthy)["AGG-12"]["cause"]

    def test_no_node_takes_the_pod(self, healthy):
        self.empty(healthy)
        message = "0/2 nodes are available: 2 node(s) had untolerated taint(s)."
        healthy["api"]["objects"]["pods"][0].update(
            phase="Pending",
            ready=False,
            conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
        )
        assert roots(healthy) == ["AGG-12"]
        assert message in found(healthy)["AGG-12"]["evidence"][0]

    def test_scaled_to_nothing(self, healthy):
        self.empty(healthy)
        healthy["api"]["objects"]["pods"] = []
        healthy["api"]["objects"]["workloads"][0].update(replicas=0, ready=0)
        assert "scaled to 0" in found(healthy)["AGG-12"]["cause"]

    def test_a_pod_that_is_not_ready_is_not_blamed_on_the_service(self, healthy):
        self.empty(healthy)
        healthy["api"]["objects"]["pods"][0]["ready"] = False
        assert ids(healthy) == []
        assert [entry["symptom"] for entry in engine.diagnose(healthy)["unexplained"]] == ["server_pod"]


class TestOneOfSeveral:
    def test_the_place_is_named_where_nothing_names_the_cause(self, three):
        requests(three, "cp2", message="answers 503: strange")
        answer(three, "bad_status", "cp2", 500, "strange")
        assert [(entry["id"], entry["hosts"]) for entry in found(three).values()] == [("AGG-09", ["cp2"])]

    def test_a_cause_is_more_than_a_place(self, three):
        client(three, "cp2")["certificate"].update(expired=True)
        refuse(three, "cp2")
        assert roots(three) == ["AGG-05"]

    def test_a_cause_on_one_leaves_the_place_of_another(self, three):
        client(three, "cp1")["certificate"].update(expired=True)
        refuse(three, "cp1")
        requests(three, "cp2", message="answers 503: strange")
        answer(three, "bad_status", "cp2", 500, "strange")
        assert "AGG-05" in roots(three)

    def test_neighbours_that_answer_503_while_the_status_flips_are_well(self, three):
        client(three, "cp2")["certificate"].update(expired=True)
        refuse(three, "cp2")
        requests(three, "cp1", "cp3", statuses=[200, 503, 200], aggregator_unavailable=0)
        result = engine.diagnose(three)
        assert [(entry["id"], entry["hosts"]) for entry in result["findings"] if entry["root"]] == [("AGG-05", ["cp2"])]
        assert result["unexplained"] == []
        assert sorted(Evidence(three).disturbed_servers) == ["cp1", "cp3"]

    def test_without_a_broken_one_such_answers_count(self, three):
        requests(three, "cp1", statuses=[200, 503, 200], aggregator_unavailable=0)
        assert Evidence(three).failing_servers == ("cp1",)

    def test_all_of_them_is_no_place(self, three):
        requests(three, "cp1", "cp2", "cp3")
        assert "AGG-09" not in ids(three)


def test_metrics_that_are_refused_are_seen_although_discovery_works(healthy):
    for entry in healthy["api"]["metrics"]["servers"]:
        entry.update(
            ok=False, nodes=None, pods=None, message="https://192.0.2.11:6443 answered 500 to /apis/...: strange"
        )
    assert [entry["symptom"] for entry in engine.diagnose(healthy)["unexplained"]] == ["request"]


class TestTransport:
    def test_a_dead_connection(self, healthy):
        requests(healthy, "cp1", message="request for /apis/metrics.k8s.io/v1beta1: no answer within 5 s (timed out)")
        assert roots(healthy) == ["AGG-10"]
        assert found(healthy)["AGG-10"]["repair"]["steps"] == ["restart_api_server"]

    def test_a_new_connection_that_fails_is_another_matter(self, healthy):
        requests(healthy, "cp1", message="error trying to reach service: dial tcp 10.96.0.9:443: i/o timeout")
        assert "AGG-10" not in ids(healthy)

    def test_a_path_that_fails_from_the_host_is_another_matter(self, healthy):
        requests(healthy, "cp1", message="request for /apis/metrics.k8s.io/v1beta1: no answer within 5 s (timed out)")
        answer(
            healthy, "unreachable", connect={"ok": False, "error": {"kind": "timeout", "message": "nothing answers"}}
        )
        assert "AGG-10" not in ids(healthy)

    def test_a_slow_path_is_another_matter(self, healthy):
        requests(healthy, "cp1", message="request for /apis/metrics.k8s.io/v1beta1: no answer within 5 s (timed out)")
        answer(healthy, "ok", status=200, connect={"ok": True, "seconds": 3.1, "error": None})
        assert "AGG-10" not in ids(healthy)

    def test_who_connects_by_an_egress_selector_does_not_connect_from_the_host(self, healthy):
        requests(healthy, "cp1", message="request for /apis/metrics.k8s.io/v1beta1: no answer within 5 s (timed out)")
        flags(healthy)["egress-selector-config-file"] = "/etc/kubernetes/egress.yaml"
        assert "AGG-10" not in ids(healthy)

    def test_an_api_server_that_waits_when_it_starts(self, healthy):
        check = {"name": "poststarthook/apiservice-discovery-controller", "ok": False, "message": "not finished"}
        healthy["hosts"]["cp1"]["api_server"].update(ready=False, status=500, checks=[check])
        requests(healthy, "cp1", message="is not ready (/readyz answers 500)", ready=False)
        assert roots(healthy) == ["AGG-11"]
        # What is registered for somebody else and does not answer is what it waits for.
        dead = {"name": "v1.slow.lab.example", "reason": "FailedDiscoveryCheck", "message": "timed out"}
        healthy["api"]["objects"]["apiservices_unavailable"] = [dead]
        assert (roots(healthy), ids(healthy)) == (["AGG-11"], ["AGG-11", "CON-02"])

    def test_one_slow_answer_of_readyz_is_a_notice(self, three):
        three["hosts"]["cp3"]["api_server"].update(ready=False, status=None, checks=None, error="nothing answers")
        result = engine.diagnose(three)
        assert (result["verdict"], result["unexplained"]) == ("well", [])
        assert any("cp3" in notice for notice in result["notices"])

    def test_one_that_waits_for_etcd_too_is_another_matter(self, healthy):
        checks = [
            {"name": name, "ok": False, "message": "failed"}
            for name in ("etcd", "poststarthook/apiservice-discovery-controller")
        ]
        healthy["hosts"]["cp1"]["api_server"].update(ready=False, status=500, checks=checks)
        assert "AGG-11" not in ids(healthy)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("CN=front-proxy-client", "front-proxy-client"),
        ("CN=a\\,b,O=c", "a,b"),
        ("O=system:masters,CN=admin", "admin"),
        ("O=nothing", ""),
    ],
)
def test_common_names(subject, name):
    assert front_proxy.common_name(subject) == name


class TestExternalName:
    def external(self, document):
        for entry in document["api"]["apiservices"]["apiservices"]:
            entry.update(service_exists=False, endpoints=[])
        document["api"]["objects"]["service"].update(type="ExternalName", ports=[], selector={})
        for host in document["hosts"].values():
            for result in (host["aggregator"] or {}).values():
                result["targets"] = []

    def test_a_service_that_leads_elsewhere_has_no_endpoints(self, healthy):
        self.external(healthy)
        assert ids(healthy) == []

    def test_where_it_leads_nothing_serves(self, healthy):
        self.external(healthy)
        requests(healthy, "cp1")
        assert "ExternalName" in found(healthy)["AGG-12"]["evidence"][0]


class TestLimitedKubeconfig:
    """A user who may not list metrics gets 403 from every API server, of a cluster in which all is well."""

    RIGHT: typing.ClassVar = {
        "verb": "list",
        "group": "metrics.k8s.io",
        "resource": "nodes",
        "subresource": "",
        "namespace": "",
    }

    def deny(self, document, *, named="jane", user="jane", denied=True):
        document["api"]["user"] = {"name": user, "groups": []} if user else None
        document["api"]["denied"] = [dict(self.RIGHT)] if denied else []
        for entry in document["api"]["metrics"]["servers"]:
            message = (
                f"{entry['server']} answered 403 to /apis/metrics.k8s.io/v1beta1/nodes: nodes.metrics.k8s.io is "
                f'forbidden: User "{named}" cannot list resource "nodes" in API group "metrics.k8s.io"'
            )
            entry.update(ok=False, nodes=None, pods=None, message=message)
        return engine.diagnose(document)

    @pytest.mark.parametrize("user", ["jane", ""])
    def test_it_is_no_fault(self, three, user):
        diagnosis = self.deny(three, user=user)
        assert (diagnosis["findings"], diagnosis["unexplained"]) == ([], [])

    @pytest.mark.parametrize(
        "changes",
        [{"named": "kube-apiserver"}, {"denied": False}],
        ids=["another user", "a user who has the rights"],
    )
    def test_what_the_server_refuses_is_one(self, three, changes):
        assert self.deny(three, **changes)["unexplained"]
