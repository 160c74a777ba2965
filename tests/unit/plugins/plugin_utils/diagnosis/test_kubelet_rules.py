# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about kubelets, from evidence of the lab with the fault injected, and from variants of it."""

from __future__ import annotations

import copy
import functools
import json
import typing
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import engine, evidence, kubelet_view

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "evidence"
#: What was injected, and where.
CAPTURED = {
    "KUB-01": ["w1"],
    "KUB-02": ["w1"],
    "KUB-03": ["w1"],
    "KUB-04": ["w1"],
    "KUB-08": ["w1", "w2"],
    "KUB-09": ["w2"],
    "KUB-10": ["w2"],
    "KUB-11": ["w2"],
}


@functools.cache
def read(name):
    return json.loads((CORPUS / f"{name}.json").read_text(encoding="utf-8"))


def captured(name):
    return copy.deepcopy(read(name))


@pytest.fixture
def healthy():
    document = captured("healthy-1-1")
    for node in document["api"]["state"]["nodes"]:
        node.setdefault("created", "2026-11-26T18:00:00Z")
    return document


def kubelet(document, node):
    """What the first control plane got from a kubelet."""
    return next(entry for entry in document["hosts"]["cp1"]["kubelets"] if entry["node"] == node)


def found(document):
    return {entry["id"]: entry for entry in engine.diagnose(document)["findings"]}


def without_hosts(document, *missing, log=()):
    """The same cluster, seen with a kubeconfig alone, while these nodes have no metrics."""
    document["hosts"] = {}
    for server in document["api"]["metrics"]["servers"]:
        server["nodes"]["missing"] = list(missing)
    document["api"]["objects"]["pods"][0]["log"] = list(log)
    return document


@pytest.mark.parametrize(("name", "hosts"), CAPTURED.items())
class TestCaptured:
    def test_it_is_the_only_root(self, name, hosts):
        diagnosis = engine.diagnose(captured(name))
        assert [(entry["id"], entry["hosts"]) for entry in diagnosis["findings"] if entry["root"]] == [(name, hosts)]
        assert diagnosis["unexplained"] == []

    def test_evidence_is_quoted_of_every_host(self, name, hosts):
        lines = found(captured(name))[name]["evidence"]
        assert lines
        assert all(any(host in line for line in lines) for host in hosts)

    def test_every_kubelet_that_is_not_named_works(self, name, hosts):
        document = evidence.Evidence(captured(name))
        working = [
            entry.name
            for entry in kubelet_view.kubelets(document)
            if any(probe.get("authenticated", "status") == 200 for probe in entry.probes)
        ]
        assert sorted({"cp1", "w1", "w2"} - set(working)) <= hosts


def test_a_healthy_cluster(healthy):
    assert found(healthy) == {}


class TestCertificates:
    def break_tls(
        self, document, kind="untrusted", message="the certificate does not verify (IP address mismatch)", **certificate
    ):
        entry = kubelet(document, "w1")
        entry["tls"].update(verified=False, ok=kind != "no_certificate", error={"kind": kind, "message": message})
        entry["tls"]["certificate"].update(certificate)
        for kind in ("anonymous", "authenticated"):
            entry[kind] = {"status": None, "message": "", "error": {"kind": "not_sent", "message": ""}}
        return entry

    def test_missing_address_is_named(self, healthy):
        self.break_tls(healthy, ip_addresses=["192.0.2.99"])
        finding = found(healthy)["KUB-01"]
        assert finding["cause"] == "Its certificate names 192.0.2.99, and the node's address is 10.89.0.31."
        assert finding["repair"]["kind"] == "consent"

    def test_another_authority_is_named(self, healthy):
        self.break_tls(healthy, issuer="CN=corporate-ca")
        assert "signed by CN=corporate-ca" in found(healthy)["KUB-01"]["cause"]

    def test_expired_certificate_is_another_finding(self, healthy):
        self.break_tls(healthy, expired=True, not_after="2026-05-01T00:00:00Z")
        assert set(found(healthy)) == {"KUB-03"}

    def test_expired_and_signed_for_itself_is_one_finding(self, healthy):
        self.break_tls(healthy, expired=True, self_signed=True, issuer="CN=w1-ca@1")
        assert set(found(healthy)) == {"KUB-03"}

    def test_not_yet_valid_certificate_is_a_matter_of_clocks(self, healthy):
        self.break_tls(healthy, not_yet_valid=True)
        assert not {"KUB-01", "KUB-03"} & set(found(healthy))

    @pytest.mark.parametrize(("expired", "identifier"), [(False, "KUB-01"), (True, "KUB-03")])
    def test_file_of_the_operator_is_only_advised_on(self, healthy, expired, identifier):
        self.break_tls(healthy, expired=expired)
        config = healthy["hosts"]["w1"]["host"]["kubelet_config"]
        config["text"] += "\ntlsCertFile: /etc/ssl/w1.crt\n"
        repair = found(healthy)[identifier]["repair"]
        assert repair["kind"] == "advice"
        assert "/etc/ssl/w1.crt on w1" in repair["text"]

    def test_server_that_verifies_nothing_has_no_such_fault(self, healthy):
        self.break_tls(healthy)
        healthy["api"]["objects"]["pods"][0]["containers"][0]["args"].append("--kubelet-insecure-tls")
        assert found(healthy) == {}

    def test_server_with_a_ca_of_its_own_has_to_miss_metrics(self, healthy):
        self.break_tls(healthy)
        arguments = healthy["api"]["objects"]["pods"][0]["containers"][0]["args"]
        arguments.append("--kubelet-certificate-authority=/ca/kubelets.crt")
        assert found(healthy) == {}
        healthy["api"]["metrics"]["servers"][0]["nodes"]["missing"] = ["w1"]
        assert set(found(healthy)) == {"KUB-01"}

    def test_node_that_is_not_ready_has_no_finding(self, healthy):
        self.break_tls(healthy)
        for node in healthy["api"]["state"]["nodes"]:
            node["ready"] = node["name"] != "w1"
        assert "KUB-01" not in found(healthy)

    def test_while_the_api_is_down_hosts_tell(self, healthy):
        healthy["api"] = {"message": "connection refused"}
        healthy["hosts"]["cp1"]["kubelets"] = []
        healthy["hosts"]["w1"]["host"]["kubelet_answers"].update(verified=False, error="self-signed certificate")
        finding = found(healthy)["KUB-01"]
        assert finding["hosts"] == ["w1"]

    def test_k3s_writes_its_own(self, healthy):
        self.break_tls(healthy)
        healthy["api"]["cluster"]["flavour"] = "k3s"
        assert found(healthy)["KUB-01"]["repair"]["kind"] == "advice"

    def test_no_certificate(self, healthy):
        self.break_tls(healthy, "no_certificate", "it has no certificate to show (TLS alert: internal error)")
        pending = {
            "name": "csr-1",
            "node": "w1",
            "created": "2026-11-26T19:00:00Z",
            "reason": "10.0.0.9 is not its own",
        }
        healthy["api"]["serving_requests"]["left"] = [pending]
        lines = found(healthy)["KUB-02"]["evidence"]
        assert lines[1] == (
            "CertificateSigningRequest csr-1 of node w1: Pending since 2026-11-26T19:00:00Z, 10.0.0.9 is not its own"
        )

    def test_node_that_has_just_joined_may_wait(self, healthy):
        self.break_tls(healthy, "no_certificate")
        for node in healthy["api"]["state"]["nodes"]:
            node["created"] = healthy["collected"]["at"]
        assert "KUB-02" not in found(healthy)

    @pytest.mark.parametrize(
        ("created", "severity"), [("2026-11-26T17:00:00Z", "warning"), ("2026-11-26T19:04:00Z", None)]
    )
    def test_renewal_that_waits_for_long_is_a_warning(self, healthy, created, severity):
        healthy["api"]["serving_requests"]["approved"] = [{"name": "csr-1", "node": "w1", "created": created}]
        assert found(healthy).get("KUB-02", {}).get("severity") == severity


class TestAuthentication:
    def refuse(self, document):
        kubelet(document, "w1")["authenticated"] = {"status": 401, "message": "Unauthorized", "error": None}

    def test_webhook_that_is_on_has_another_cause(self, healthy):
        self.refuse(healthy)
        finding = found(healthy)["KUB-04"]
        assert "its process is older than that setting, or it cannot ask the API server" in finding["cause"]

    def test_kubelet_without_a_file_has_it_switched_off(self, healthy):
        self.refuse(healthy)
        healthy["hosts"]["w1"]["host"]["kubelet_config"].update(source="none", text="", path=None)
        assert "authentication.webhook.enabled is false (its flags)" in found(healthy)["KUB-04"]["evidence"][1]


class TestAddresses:
    def set_addresses(self, document, **addresses):
        for node in document["api"]["state"]["nodes"]:
            if node["name"] in addresses:
                node["addresses"] = [
                    {"type": kind, "address": address} for kind, address in addresses[node["name"]].items()
                ]

    def test_shared_address(self, healthy):
        self.set_addresses(healthy, cp1={"InternalIP": "10.0.2.15"}, w1={"InternalIP": "10.0.2.15"})
        finding = found(healthy)["KUB-08"]
        assert finding["hosts"] == ["cp1", "w1"]
        assert finding["evidence"] == ["nodes cp1, w1 have the same InternalIP 10.0.2.15"]
        assert "--node-ip=10.89.0.31" in " ".join(finding["repair"]["commands"])

    def test_what_is_left_of_a_machine_that_has_joined_anew(self, healthy):
        nodes = healthy["api"]["state"]["nodes"]
        old = copy.deepcopy(next(node for node in nodes if node["name"] == "w1"))
        nodes.append({**old, "name": "old-w1", "hostname": "old-w1", "ready": False})
        assert found(healthy) == {}
        nodes[-1]["ready"] = True
        assert sorted(found(healthy)["KUB-08"]["hosts"]) == ["old-w1", "w1"]

    def test_certificates_for_the_old_address_are_a_consequence(self, healthy):
        self.set_addresses(healthy, cp1={"InternalIP": "10.0.2.15"}, w1={"InternalIP": "10.0.2.15"})
        TestCertificates().break_tls(healthy)
        kubelet(healthy, "w1")["address"] = "10.0.2.15"
        findings = found(healthy)
        assert [name for name, finding in findings.items() if finding["root"]] == ["KUB-08"]
        assert findings["KUB-01"]["caused_by"] == ["KUB-08"]

    def test_no_address_of_a_type_that_the_server_takes(self, healthy):
        self.set_addresses(healthy, w1={"ExternalDNS": "w1.example.com"})
        assert found(healthy)["KUB-08"]["evidence"] == [
            "node w1 has no address of InternalIP, ExternalIP, Hostname: ExternalDNS w1.example.com"
        ]

    def test_family_that_pods_do_not_have(self, healthy):
        for target in healthy["hosts"]["w1"]["pod"]["targets"]:
            if target["kind"] == "kubelet" and target["name"] == "cp1":
                target["connect"] = {"ok": False, "error": {"kind": "network_unreachable", "message": "no route"}}
        findings = found(healthy)
        assert set(findings) == {"KUB-08"}
        assert findings["KUB-08"]["hosts"] == ["cp1"]

    def test_second_family_that_pods_do_not_have(self, healthy):
        """A dual-stack node in a cluster whose pods have one family: the first address is the one that counts."""
        entry = next(node for node in healthy["api"]["state"]["nodes"] if node["name"] == "cp1")
        entry["addresses"].append({"type": "InternalIP", "address": "2001:db8::11"})
        targets = healthy["hosts"]["w1"]["pod"]["targets"]
        first = next(target for target in targets if target["kind"] == "kubelet" and target["name"] == "cp1")
        lost = {"ok": False, "error": {"kind": "network_unreachable", "message": "no route"}}
        targets.append({**first, "host": "2001:db8::11", "connect": lost})
        assert found(healthy) == {}


class TestDualStack:
    """A metrics server dials the first address of a type. The second one of each node is of another family here."""

    @staticmethod
    def add_family(document, *, first=False, **changes):
        """Give each node an address of IPv6, where its kubelet answers as at the other one but for these changes."""
        for number, node in enumerate(document["api"]["state"]["nodes"]):
            other = f"2001:db8::{number + 11}"
            here = next(entry["address"] for entry in node["addresses"] if entry["type"] == "InternalIP")
            node["addresses"].insert(0 if first else len(node["addresses"]), {"type": "InternalIP", "address": other})
            for host in document["hosts"].values():
                for entry in [one for one in host.get("kubelets") or () if one["address"] == here]:
                    host["kubelets"].append({**copy.deepcopy(entry), "address": other, **copy.deepcopy(changes)})
                targets = (host.get("pod") or {}).get("targets") or []
                for entry in [one for one in targets if one["kind"] == "kubelet" and one["host"] == here]:
                    connect = changes.get("connect", entry["connect"])
                    targets.append({**entry, "host": other, "connect": copy.deepcopy(connect)})

    REFUSED: typing.ClassVar = {"kind": "refused", "message": "nothing listens there"}
    CLOSED: typing.ClassVar = {
        "connect": {"ok": False, "seconds": 0.0, "error": REFUSED},
        "tls": {"ok": False, "version": None, "verified": None, "error": REFUSED, "certificate": None},
        "anonymous": {"status": None, "message": "", "seconds": None, "error": REFUSED},
        "authenticated": {"status": None, "message": "", "seconds": None, "error": REFUSED},
    }
    UNNAMED: typing.ClassVar = {
        "tls": {
            "ok": True,
            "verified": False,
            "error": {"kind": "untrusted", "message": "the certificate does not verify (IP address mismatch)"},
            "certificate": {"issuer": "CN=kubernetes", "ip_addresses": ["192.0.2.1"]},
        },
        "authenticated": {"status": None, "message": "", "error": {"kind": "not_sent", "message": ""}},
    }

    @pytest.mark.parametrize("changes", [CLOSED, UNNAMED], ids=["closed", "not in the certificate"])
    def test_the_second_address_does_not_matter(self, healthy, changes):
        self.add_family(healthy, **changes)
        assert found(healthy) == {}

    @pytest.mark.parametrize(
        ("changes", "identifier"), [(CLOSED, "KUB-09"), (UNNAMED, "KUB-01")], ids=["closed", "not in the certificate"]
    )
    def test_the_first_address_does(self, healthy, changes, identifier):
        self.add_family(healthy, first=True, **changes)
        finding = found(healthy)[identifier]
        assert finding["hosts"] == ["cp1", "w1"]
        assert all("2001:db8::" in line for line in finding["evidence"] if "connects to" in line)

    def test_where_the_addresses_of_nodes_are_unknown_every_probe_counts(self, healthy):
        self.add_family(healthy, **self.CLOSED)
        for node in healthy["api"]["state"]["nodes"]:
            node.update(addresses=[], ready=True)
        assert len(kubelet_view.kubelets(evidence.Evidence(healthy))[0].probes) == 2


class TestFirewall:
    def lose(self, document, *names, kind="timeout"):
        for target in document["hosts"]["w1"]["pod"]["targets"]:
            if target["kind"] == "kubelet" and target["name"] in names:
                target["connect"] = {"ok": False, "error": {"kind": kind, "message": "nothing answers"}}

    @pytest.mark.parametrize("node", ["cp1", "w1"])
    def test_kubelet_that_pods_do_not_reach(self, healthy, node):
        self.lose(healthy, node)
        findings = found(healthy)
        assert set(findings) == {"KUB-09"}
        assert findings["KUB-09"]["hosts"] == [node]
        assert "a pod of w1 connects to" in findings["KUB-09"]["evidence"][0]

    def test_pod_that_reaches_nothing_is_no_fault_of_kubelets(self, healthy):
        for target in healthy["hosts"]["w1"]["pod"]["targets"]:
            target["connect"] = {"ok": False, "error": {"kind": "timeout", "message": "nothing answers"}}
        assert "KUB-09" not in found(healthy)

    def test_kubelet_that_nobody_reaches(self, healthy):
        self.lose(healthy, "w1", kind="refused")
        error = {"kind": "refused", "message": "nothing listens there"}
        kubelet(healthy, "w1").update(connect={"ok": False, "error": error}, tls={"ok": False, "error": error})
        finding = found(healthy)["KUB-09"]
        assert finding["evidence"][-1] == "cp1 connects to the kubelet of w1 at 10.89.0.31:10250: nothing listens there"

    def test_server_in_the_network_of_its_node_is_none_of_these_pods(self, healthy):
        self.lose(healthy, "w1")
        healthy["api"]["objects"]["pods"][0]["host_network"] = True
        assert "KUB-09" not in found(healthy)

    def test_commands_are_those_of_the_firewall_that_runs(self, healthy):
        self.lose(healthy, "w1")
        assert "iptables -I INPUT" in " ".join(found(healthy)["KUB-09"]["repair"]["commands"])
        healthy["hosts"]["w1"]["network"]["services"] = {"firewalld.service": "active"}
        assert "firewall-cmd" in " ".join(found(healthy)["KUB-09"]["repair"]["commands"])

    def test_commands_are_those_of_the_family(self, healthy):
        self.lose(healthy, "w1")
        healthy["api"]["cluster"]["pod_cidrs"] = ["10.244.0.0/16", "fd00:10:244::/56"]
        commands = found(healthy)["KUB-09"]["repair"]["commands"]
        assert "iptables -I INPUT -p tcp -s 10.244.0.0/16 --dport 10250 -j ACCEPT" in commands
        assert "ip6tables -I INPUT -p tcp -s fd00:10:244::/56 --dport 10250 -j ACCEPT" in commands
        healthy["hosts"]["w1"]["network"]["services"] = {"firewalld.service": "active"}
        commands = " ".join(found(healthy)["KUB-09"]["repair"]["commands"])
        assert "rule family=ipv4 source address=10.244.0.0/16" in commands
        assert "rule family=ipv6 source address=fd00:10:244::/56" in commands


class TestSlow:
    def delay(self, document):
        error = {"kind": "timeout", "message": "nothing answers"}
        kubelet(document, "w1")["tls"] = {"ok": False, "verified": False, "error": error, "certificate": None}
        kubelet(document, "w1")["authenticated"] = {"status": None, "message": "", "error": error}

    def test_single_late_answer_is_nothing(self, healthy):
        self.delay(healthy)
        assert found(healthy) == {}

    def test_metrics_are_missing_too(self, healthy):
        self.delay(healthy)
        healthy["api"]["metrics"]["servers"][0]["nodes"]["missing"] = ["w1"]
        assert set(found(healthy)) == {"KUB-10"}

    def test_or_the_server_says_so(self, healthy):
        self.delay(healthy)
        line = 'E1126 "kubelet w1 at 10.89.0.31:10250 did not finish within 10 s (TLS handshake) [timeout]"'
        healthy["api"]["objects"]["pods"][0]["log"].append(line)
        assert found(healthy)["KUB-10"]["evidence"][-1] == f"metrics server's log: {line}"


class TestSamples:
    @pytest.mark.parametrize(
        ("counted", "said"), [({"samples": 1, "zero": 1}, "is 0"), ({"samples": 0, "zero": 0}, "is missing")]
    )
    def test_node_without_cpu_time(self, healthy, counted, said):
        kubelet(healthy, "w1")["authenticated"]["series"] = {"node_cpu_usage_seconds_total": counted}
        lines = found(healthy)["KUB-11"]["evidence"]
        assert lines[0] == f"cp1 asks the kubelet of w1 at 10.89.0.31:10250: node_cpu_usage_seconds_total {said}"
        assert "cgroupDriver cgroupfs" in lines[1]

    @pytest.mark.parametrize(
        ("version", "runtime", "said"),
        [
            ("v1.37.2", "2.1.4", "with the runtime's cgroup driver"),
            ("v1.30.9", "2.1.4", "with cgroupDriver cgroupfs"),
            ("v1.37.2", "1.7.29", "with cgroupDriver cgroupfs"),
            ("v1.37.2", None, "with cgroupDriver cgroupfs"),
        ],
    )
    def test_kubelets_ask_newer_runtimes_for_the_cgroup_driver(self, healthy, version, runtime, said):
        zero = {"samples": 1, "zero": 1}
        kubelet(healthy, "w1")["authenticated"]["series"] = {"node_cpu_usage_seconds_total": zero}
        node = next(node for node in healthy["api"]["state"]["nodes"] if node["name"] == "w1")
        node.update(kubelet_version=version, runtime="containerd", runtime_version=runtime)
        assert f"kubelet {version} {said}, " in found(healthy)["KUB-11"]["evidence"][1]

    def test_node_without_pods_has_no_containers(self, healthy):
        series = {"container_cpu_usage_seconds_total": {"samples": 0, "zero": 0}}
        kubelet(healthy, "cp1")["authenticated"]["series"] = series
        assert found(healthy) == {}
        kubelet(healthy, "w1")["authenticated"]["series"] = series
        assert set(found(healthy)) == {"KUB-11"}


@pytest.mark.parametrize(
    ("identifier", "line"),
    [
        (
            "KUB-01",
            'E "Failed to scrape node" err="Get \\"https://10.89.0.31:10250/metrics/resource\\": tls: failed to verify '
            "certificate: x509: cannot validate certificate for 10.89.0.31 because it doesn't contain any IP SANs\" "
            'node="w1"',
        ),
        (
            "KUB-02",
            'E "Failed to scrape node" err="Get \\"https://10.89.0.31:10250/\\": remote error: tls: internal error"',
        ),
        ("KUB-03", 'E "Failed to scrape node" err="x509: certificate has expired or is not yet valid" node="w1"'),
        ("KUB-04", 'E "Failed to scrape node" err="request failed, status: \\"401 Unauthorized\\"" node="w1"'),
        ("KUB-09", 'E "Failed to scrape node" err="dial tcp 10.89.0.31:10250: i/o timeout" node="w1"'),
        ("KUB-10", 'E "Failed to scrape node, timeout to access kubelet" err="context deadline exceeded" node="w1"'),
    ],
)
class TestWithoutHosts:
    """A kubeconfig alone: the log of the metrics server tells, of nodes that have no metrics."""

    def test_the_log_names_it(self, healthy, identifier, line):
        findings = found(without_hosts(healthy, "w1", log=[line]))
        assert list(findings) == [identifier]
        assert findings[identifier]["hosts"] == ["w1"]

    def test_old_lines_of_a_node_that_works_say_nothing(self, healthy, identifier, line):
        assert found(without_hosts(healthy, log=[line])) == {}

    def test_lines_of_another_node_say_nothing(self, healthy, identifier, line):
        line = line.replace("w1", "w11").replace("10.89.0.31", "10.89.0.310")
        assert identifier not in found(without_hosts(healthy, "w1", log=[line]))


@pytest.mark.parametrize(
    ("line", "identifiers"),
    [
        ("its certificate is not signed by the trusted CA (self-signed certificate)", ["KUB-01"]),
        ("its certificate covers w1, but neither the node's name nor one of its addresses", ["KUB-01"]),
        ("it has no serving certificate; is its certificate signing request waiting for approval?", ["KUB-02"]),
        ("its certificate is not valid now (certificate has expired)", ["KUB-03"]),
        ("x509: certificate has expired or is not yet valid: current time 2026 is before 2027", []),
        ("answered 401: its webhook authentication is off", ["KUB-04"]),
        ("no answer to the connection attempt; does a firewall drop it?", ["KUB-09"]),
        ("did not finish within 10 s (no connection)", ["KUB-09"]),
        ("did not finish within 10 s (no answer)", ["KUB-10"]),
    ],
)
def test_lines_of_the_bundled_server(healthy, line, identifiers):
    line = f'E1126 "kubelet w1 at 10.89.0.31:10250: {line} [reason]"'
    assert [name for name in found(without_hosts(healthy, "w1", log=[line])) if name.startswith("KUB")] == identifiers


def test_where_no_kubelet_works_the_server_is_a_consequence(healthy):
    for node in ("cp1", "w1"):
        kubelet(healthy, node)["authenticated"] = {"status": 401, "message": "Unauthorized", "error": None}
    healthy["api"]["objects"]["pods"][0]["ready"] = False
    for server in healthy["api"]["apiservices"]["servers"]:
        server.update(ok=False, message="503 service unavailable")
    diagnosis = engine.diagnose(healthy)
    assert [entry["id"] for entry in diagnosis["findings"] if entry["root"]] == ["KUB-04"]
    assert diagnosis["unexplained"] == []


def test_where_others_work_it_does_not_explain_the_server(healthy):
    kubelet(healthy, "w1")["authenticated"] = {"status": 401, "message": "Unauthorized", "error": None}
    healthy["api"]["objects"]["pods"][0]["ready"] = False
    diagnosis = engine.diagnose(healthy)
    rest = [entry["symptom"] for entry in diagnosis["unexplained"]]
    others = [entry["id"] for entry in diagnosis["findings"] if entry["root"] and entry["id"] != "KUB-04"]
    assert rest or others
