# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kubelets change, why, and in which order: decided over all hosts at once, from facts."""

from __future__ import annotations

import base64
import copy

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubelet_health, kubelet_waves, rollout
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.kubelet_settings import RolloutError, Settings
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.rollout import Cluster, Host
from cryptography import x509
from cryptography.hazmat.primitives import serialization

CONFIG = "/var/lib/kubelet/config.yaml"
CLOSED = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
serverTLSBootstrap: true
"""
OPEN = CLOSED.replace("serverTLSBootstrap: true", "readOnlyPort: 10255\nauthorization: {mode: AlwaysAllow}")
STARTED = "2026-03-01T10:00:00Z"


def der(pem):
    certificate = x509.load_pem_x509_certificate(pem)
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()


@pytest.fixture(scope="module")
def certificate(authority):
    return der(authority.issue("system:node:w1", dns=["w1"], ips=["192.0.2.21"])[0])


@pytest.fixture
def facts(certificate):
    """What the role cluster leaves behind of a kubelet, except for what a test changes."""

    def make(node="w1", text=CLOSED, *, newer=(), answers=None, kubelet=None, **config):
        return {
            "node_name": node,
            "components": {
                "kubelet": {
                    "running": True,
                    "managed_by": "systemd",
                    "unit": "kubelet.service",
                    "unit_state": {"need_daemon_reload": False},
                    "flags": {},
                    "start_time": STARTED,
                    **(kubelet or {}),
                }
            },
            "host": {"default_ipv4": "192.0.2.21"},
            "kubernetes_dir": {"pki_dir": "/etc/kubernetes/pki"},
            "kubelet_config": {
                "path": CONFIG,
                "source": "flag",
                "text": text,
                "drop_in_dir": None,
                "drop_ins": [],
                "overriding_flags": {},
                "changed_since_start": bool(newer),
                "newer_files": list(newer),
                **config,
            },
            "kubelet_answers": {
                "url": "https://192.0.2.21:10250/metrics/resource",
                "ca_file": "/etc/kubernetes/pki/ca.crt",
                "reachable": True,
                "verified": True,
                "status": 401,
                "error": "",
                "certificate": certificate,
                "read_only_port": {"port": 10255, "open": False},
                **(answers or {}),
            },
        }

    return make


def node(name="w1", address="192.0.2.21", **more):
    return {
        "name": name,
        "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
        "kubelet_port": 10250,
        "operating_system": "linux",
        **more,
    }


def cluster(*nodes, **more):
    known = {entry["name"]: entry for entry in nodes or (node(),)}
    return Cluster(**{"flavour": "kubeadm", "nodes": known, "control_planes": ["cp1"], **more})


def host(facts, name="w1", settings=None, addresses=("192.0.2.21",), **more):
    return Host(name, facts, settings or Settings(), addresses, **more)


def decided(facts, where=None, **more):
    return rollout.decide(host(facts, **more), where or cluster())


# --- types ----------------------------------------------------------------------------------------------------------


def test_settings_are_read_as_text_too():
    """As ansible-core 2.18 and -e on the command line hand them on."""
    given = {"webhook": "False", "read_only_port": "10255", "restart_stale": "yes", "tls_cert_file": None, "other": 1}
    found = Settings.of(given)
    assert (found.webhook, found.read_only_port, found.restart_stale, found.tls_cert_file) == (False, 10255, True, "")
    assert Settings.of({}) == Settings()


@pytest.mark.parametrize("given", [{"webhook": "perhaps"}, {"read_only_port": "many"}, {"read_only_port": True}])
def test_settings_that_mean_nothing(given):
    with pytest.raises(RolloutError, match=f"kubelet_access_{next(iter(given))} is"):
        Settings.of(given)


# --- addresses ------------------------------------------------------------------------------------------------------


def test_only_the_inventory_names_addresses():
    """A name is not resolved, and is none; what the user lists for this purpose may be a name."""
    assert rollout.own_addresses(["w1.example.com", "192.0.2.21", "", None, "2001:DB8::1"], ["w1.lan"]) == [
        "192.0.2.21",
        "2001:db8::1",
        "w1.lan",
    ]


def test_what_a_host_reports_about_itself_is_in_no_certificate(facts):
    lying = facts()
    lying["host"]["default_ipv4"] = "192.0.2.100"
    lying["kubelet_answers"]["url"] = "https://192.0.2.100:10250/metrics/resource"
    plan = rollout.plan([host(lying)], cluster())
    assert plan["allowed_addresses"] == {"w1": ["192.0.2.21"]}


def test_a_variable_that_the_host_itself_returned_as_a_fact_stops_it(facts):
    found = rollout.plan([host(facts(text=OPEN), addresses=["192.0.2.100"], reported=["access_ip"])], cluster())
    assert "w1 itself reports the variable access_ip" in found["hosts"]["w1"]["trouble"]
    assert (found["pending"], found["allowed_addresses"]) == ([], {})


def test_an_address_is_demanded_where_the_inventory_alone_counts(facts):
    where = cluster(use_node_addresses=False)
    assert "kubelet_access_addresses" in decided(facts(), where, addresses=[])["trouble"]
    assert decided(facts(), where)["trouble"] == ""
    assert decided(facts(), addresses=[])["trouble"] == ""


def test_two_hosts_of_one_node_are_both_left_alone(facts):
    plan = rollout.plan([host(facts(text=OPEN), "a"), host(facts(text=OPEN), "b")], cluster())
    assert plan["pending"] == []
    assert all("a and b both say that they are node w1" in plan["hosts"][name]["trouble"] for name in "ab")


# --- reasons --------------------------------------------------------------------------------------------------------


def test_a_kubelet_as_it_should_be_is_left_alone(facts):
    found = decided(facts())
    assert (found["reasons"], found["notes"], found["trouble"]) == ([], [], "")
    assert found["changes"] == {"config": {}, "flags": {}, "settings": []}


def test_an_open_kubelet_is_repaired(facts):
    found = decided(facts(text=OPEN, answers={"status": 200}))
    assert found["reasons"] == [
        "it differs in authorization.mode, readOnlyPort, serverTLSBootstrap",
        "it answers unauthenticated clients although its files forbid it",
    ]
    assert found["changes"]["config"] == {
        "readOnlyPort": 0,
        "authorization": {"mode": "Webhook"},
        "serverTLSBootstrap": True,
    }
    assert found["tightens"]


def test_a_kubelet_of_flags_alone_gets_flags_and_the_ca_of_the_api_server(facts):
    found = decided(
        facts(text=None, path=None, source="none", answers={"verified": False, "error": "x", "certificate": None}),
        cluster(client_ca_file="/etc/kubernetes/ssl/ca.pem"),
    )
    assert found["client_ca"] == found["serving_ca"] == "/etc/kubernetes/ssl/ca.pem"
    assert found["changes"]["flags"]["client-ca-file"] == "/etc/kubernetes/ssl/ca.pem"
    assert found["changes"]["flags"]["anonymous-auth"] is False


def test_a_file_that_is_newer_than_the_process_is_named_and_left(facts):
    found = decided(facts(newer=[CONFIG]))
    assert found["reasons"] == []
    assert found["notes"] == [
        f"The kubelet of w1 has not read {CONFIG}, which is newer than its process. It does what this role asks for, "
        "and is left as it is; restart it when that edit shall take effect, or set kubelet_access_restart_stale to "
        "true."
    ]
    asked = decided(facts(newer=[CONFIG]), settings=Settings(restart_stale=True))
    assert asked["reasons"] == [f"{CONFIG} is newer than its process"]
    assert asked["notes"] == []


def recorded(when="2026-03-01T10:00:05Z", state="in_place", component="kubelet", path=CONFIG):
    return {"time": when, "state": state, "component": component, "files": [{"path": path}]}


@pytest.mark.parametrize(
    ("change", "converges"),
    [
        (recorded(), True),
        (recorded(state="interrupted"), True),
        (recorded(when=STARTED), True),
        (recorded(when="2026-03-01T09:59:59Z"), False),
        (recorded(state="undone"), False),
        (recorded(state="edited"), False),
        (recorded(component="kube-apiserver"), False),
        (recorded(path="/etc/other"), False),
    ],
)
def test_a_run_that_ended_between_writing_and_restarting_converges(facts, change, converges):
    found = decided(facts(newer=[CONFIG]), recorded=[change])
    assert bool(found["reasons"]) is converges
    if converges:
        assert found["reasons"] == [f"what this collection wrote at {change['time']} is not in effect yet"]
        assert found["notes"] == []


def test_a_restart_that_activates_somebody_elses_edit_says_so(facts):
    found = decided(facts(text=OPEN, newer=[CONFIG]))
    assert len(found["reasons"]) == 1
    assert found["notes"] == [
        f"The restart of the kubelet of w1 also activates {CONFIG}, which is newer than its process."
    ]


def test_a_staged_edit_that_forbids_what_the_process_still_does_is_not_enough(facts):
    found = decided(facts(newer=[CONFIG], answers={"status": 200, "read_only_port": {"port": 10255, "open": True}}))
    assert found["reasons"] == [
        "it answers unauthenticated clients although its files forbid it",
        "its port without TLS is open although its files close it",
    ]


def test_another_process_on_the_old_port_is_no_reason(facts):
    assert decided(facts(answers={"read_only_port": {"port": 10255, "open": True}}))["reasons"] == []


def test_a_component_info_that_names_no_newer_files(facts):
    given = facts(newer=[CONFIG])
    del given["kubelet_config"]["newer_files"]
    assert CONFIG in decided(given)["notes"][0]


def test_what_cannot_be_read_is_named(facts):
    assert f"{CONFIG} is not valid YAML" in decided(facts(text="a: [\n"))["trouble"]


# --- certificates ---------------------------------------------------------------------------------------------------


def test_a_certificate_for_another_address_is_none_for_this_node(facts, authority):
    other = der(authority.issue("x", dns=["w1"], ips=["192.0.2.99"])[0])
    found = decided(facts(answers={"certificate": other}))
    assert found["reasons"] == ["its certificate does not verify (it is not for 192.0.2.21)"]


def test_the_address_of_the_node_counts_and_not_the_one_that_the_host_takes_for_its_own(facts):
    answers = {
        "url": "https://10.0.2.15:10250/metrics/resource",
        "verified": False,
        "error": "the certificate does not verify (IP address mismatch, certificate is not valid for '10.0.2.15')",
    }
    assert decided(facts(answers=answers))["reasons"] == []


UNTRUSTED = "the certificate does not verify (unable to get local issuer certificate)"


def test_another_ca_that_signs_for_the_cluster_is_named_before_any_restart(facts, other_authority):
    foreign = der(other_authority.issue("system:node:w1", dns=["w1"], ips=["192.0.2.21"])[0])
    found = decided(facts(answers={"verified": False, "error": UNTRUSTED, "certificate": foreign}))
    assert found["reasons"] == []
    assert "by CN=other-ca" in found["trouble"] and "kubelet_access_serving_ca_file" in found["trouble"]
    # Once it is named, the probe verifies against it.
    named = Settings(serving_ca_file="/etc/kubernetes/pki/serving-ca.crt")
    found = decided(facts(answers={"certificate": foreign}), settings=named)
    assert (found["reasons"], found["trouble"]) == ([], "")
    assert found["expected"]["ca_file"] == found["serving_ca"] == "/etc/kubernetes/pki/serving-ca.crt"
    assert found["client_ca"] == "/etc/kubernetes/pki/ca.crt"


def test_a_certificate_that_the_kubelet_signed_itself_is_replaced(facts, authority):
    own = copy.copy(authority)
    own.name = x509.Name.from_rfc4514_string("CN=w1-ca@1767225600")
    signed = der(own.issue("w1@1767225600", dns=["w1"])[0])
    answers = {"verified": False, "error": UNTRUSTED, "certificate": signed}
    found = decided(facts(answers=answers))
    assert found["trouble"] == ""
    assert found["reasons"] == [f"its certificate does not verify ({UNTRUSTED})"]
    left = decided(facts(CLOSED, answers=answers), settings=Settings(serving_certificates=False))
    assert left["reasons"] == []


def test_a_given_certificate_of_an_unknown_ca(facts):
    text = CLOSED.replace("serverTLSBootstrap: true", "tlsCertFile: /etc/kubernetes/own.crt")
    found = decided(facts(text=text, answers={"verified": False, "error": UNTRUSTED}))
    assert "serves a certificate of its own" in found["trouble"]
    assert "kubelet_access_serving_ca_file" in found["trouble"]
    assert not found["managed"]


def test_a_kubelet_that_signs_for_itself_is_checked_by_that_certificate(facts):
    text = CLOSED.replace("serverTLSBootstrap: true\n", "")
    found = decided(facts(text=text), settings=Settings(serving_certificates=False))
    assert found["expected"]["ca_file"] == "/var/lib/kubelet/pki/kubelet.crt"
    assert found["expected"]["server_name"] == "w1"


# --- who takes part -------------------------------------------------------------------------------------------------


def test_a_windows_node_is_named_and_left_out(facts):
    plan = rollout.plan([host(facts(text=OPEN))], cluster(node(operating_system="windows")))
    assert plan["left_out"] == ["w1 is a Windows node, whose kubelet is not managed here."]
    assert (plan["pending"], plan["hosts"]["w1"]["trouble"]) == ([], "")


@pytest.mark.parametrize("flavour", ["k3s", "rke2", "minikube"])
def test_distributions_are_examined_only(facts, flavour):
    where = cluster(flavour=flavour)
    assert decided(facts(), where)["reasons"] == []
    name = distributions.TABLE[flavour].name
    trouble = decided(facts(text=OPEN), where)["trouble"]
    assert f"{name} writes its configuration itself; " in trouble
    assert "authentication-token-webhook=true" in trouble
    # A certificate alone is theirs.
    assert decided(facts(answers={"verified": False, "error": UNTRUSTED}), where)["trouble"] == ""


def test_a_kubelet_inside_another_process_is_judged_by_its_answers(facts):
    """Its settings cannot be read, and the defaults of a kubelet without any are not its."""
    where, kubelet = cluster(flavour="k3s"), {"managed_by": "k3s", "in_process": True}
    unseen = facts(text=None, kubelet=kubelet)
    unseen["kubelet_config"].update(source="none", path=None)
    assert decided(unseen, where)["trouble"] == ""
    unseen["kubelet_answers"]["status"] = 200
    assert "The kubelet of w1 answers unauthenticated clients, and k3s writes" in decided(unseen, where)["trouble"]


def test_a_kubelet_that_cannot_be_restarted_from_here(facts):
    found = decided(facts(text=OPEN, kubelet={"managed_by": "unknown"}))
    assert "is no systemd service" in found["trouble"]
    assert decided(facts(kubelet={"managed_by": "unknown"}))["trouble"] == ""


def test_a_restart_is_no_upgrade(facts):
    upgraded = {"binary": "/usr/bin/kubelet", "binary_replaced": True}
    assert "program /usr/bin/kubelet was replaced" in decided(facts(text=OPEN, kubelet=upgraded))["trouble"]
    # Nothing restarts here, or the operator wants it.
    assert decided(facts(kubelet=upgraded))["trouble"] == ""
    assert decided(facts(text=OPEN, kubelet=upgraded), settings=Settings(restart_stale=True))["trouble"] == ""


def test_a_kubelet_that_does_not_run(facts):
    assert decided(facts(kubelet={"running": False}))["trouble"].startswith("No kubelet runs on w1; start it")


def test_half_a_pair(facts):
    assert "only one is set for w1" in decided(facts(), settings=Settings(tls_cert_file="/x"))["trouble"]


# --- waves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("serial", "count", "limit", "expected"),
    [
        ([1, 5, "25%"], 500, 50, [1, 5, *[50] * 9, 44]),
        ([1, 5, "25%"], 3, 50, [1, 2]),
        ([1, 5, "25%"], 40, 50, [1, 5, 10, 10, 10, 4]),
        ("25%", 500, 500, [1, 5, 125, 125, 125, 119]),
        ("2", 6, 50, [1, 2, 2, 1]),
        (1, 3, 50, [1, 1, 1]),
        ([100], 150, 50, [100, 50]),
        ("1%", 10, 50, [1] * 10),
        ([1, 5, "25%"], 0, 50, []),
    ],
)
def test_sizes_of_waves(serial, count, limit, expected):
    names = [f"w{number}" for number in range(count)]
    steps = kubelet_waves.waves(names, serial, count, limit)
    assert [len(step) for step in steps] == expected
    assert [name for step in steps for name in step] == names


@pytest.mark.parametrize("serial", [[], "many", [0], "0%", "120%", True, [1, None]])
def test_waves_that_mean_nothing(serial):
    with pytest.raises(RolloutError, match=r"\[1, 5, 25%\]"):
        kubelet_waves.waves(["w1"], serial, 1, 50)


def test_workers_go_before_control_planes(facts):
    hosts = [host(facts(name, text=OPEN), name) for name in ("cp1", "w1", "w2")]
    plan = rollout.plan(hosts, cluster(*(node(name) for name in ("cp1", "w1", "w2"))), serial=[1])
    assert plan["waves"] == [["w1"], ["w2"], ["cp1"]]
    assert [plan["hosts"][name]["wave"] for name in ("cp1", "w1", "w2")] == [2, 0, 1]
    assert plan["tightened"] == plan["pending"] == ["w1", "w2", "cp1"]


def test_the_time_is_linear_in_the_number_of_hosts(facts, processor_seconds):
    def seconds(count):
        hosts = [host(facts(f"n{number}", text=OPEN), f"n{number}") for number in range(count)]
        where = cluster(*(node(f"n{number}") for number in range(count)))
        return processor_seconds(rollout.plan, hosts, where)

    seconds(20)
    assert seconds(400) < 8 * max(seconds(100), 0.05)


def test_a_key_that_is_there_twice_is_named_before_anything_changes(facts):
    text = OPEN + "authorization: {mode: AlwaysAllow}\n"
    trouble = decided(facts(text=text))["trouble"]
    assert trouble == (
        f"{CONFIG} of w1 has the key authorization twice, and the kubelet takes the second one; take one of the two "
        "out."
    )
    trouble = decided(facts(text=text), cluster(flavour="kubespray"))["trouble"]
    assert "kubelet_config_extra_args of the inventory writes it again; take authorization out there" in trouble
    # A kubelet that does what is asked for is not edited.
    assert decided(facts(text=CLOSED + "serverTLSBootstrap: true\n"))["trouble"] == ""


# --- the health check -----------------------------------------------------------------------------------------------

EXPECTED = {"port": 10250, "webhook": True, "read_only_port": 10255, "read_only": False}


def answer(**more):
    return {
        "connect": {"ok": True},
        "tls": {"verified": True, "error": None},
        "anonymous": {"status": 401},
        "authenticated": {"status": 200, "message": ""},
        "read_only": {"open": False},
        **more,
    }


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, None),
        ({"connect": {"ok": False}}, "nothing listens on port 10250"),
        ({"tls": {"verified": False, "error": {"message": "expired"}}}, "its certificate does not verify (expired)"),
        ({"anonymous": {"status": 200}}, "it answers 200 to unauthenticated clients instead of 401"),
        (
            {"authenticated": {"status": 403, "message": "Forbidden "}},
            "it answers 403 to a service account that may get nodes/metrics (Forbidden)",
        ),
        ({"authenticated": None}, None),
        # A kubelet that cannot reach an API server to ask it lets its client wait.
        (
            {"authenticated": {"status": None, "message": "", "error": {"kind": "timeout", "message": "timed out"}}},
            "it does not answer a service account that may get nodes/metrics (timed out)",
        ),
        (
            {"anonymous": {"status": None, "error": None}},
            "it does not answer unauthenticated clients (no answer)",
        ),
        ({"read_only": {"open": True}}, "port 10255 without TLS is open"),
    ],
)
def test_health(given, problem):
    assert kubelet_health.health_problems(answer(**given), EXPECTED) == ([problem] if problem else [])


def test_health_without_webhook_and_with_the_old_port():
    expected = {**EXPECTED, "webhook": False, "read_only": True}
    assert kubelet_health.health_problems(answer(anonymous={"status": 200}), expected) == [
        "port 10255 without TLS is closed"
    ]


def test_the_last_error_of_a_kubelet():
    lines = [
        'E0301 10:00:00 run.go:72] "command failed" err="an older one"',
        'E0301 10:00:01 run.go:72] "command failed" err="failed to load config file, path: \\"/x\\", error: no."',
        "kubelet.service: Main process exited",
    ]
    assert kubelet_health.last_error(lines) == 'failed to load config file, path: \\"/x\\", error: no'
    assert kubelet_health.last_error(["nothing of it"]) == ""


def test_ports_without_tls_are_named_by_the_hosts_that_ask_for_them(facts):
    def ports(*wanted):
        hosts = [host(facts(f"w{i}"), f"w{i}", Settings(read_only_port=port)) for i, port in enumerate(wanted)]
        return rollout.open_ports(hosts)

    assert ports(0, 0) == []
    assert ports(10255, 10255)[0].startswith("Port 10255 of all kubelets serves without TLS and authentication, as kub")
    assert [note.split(" serves")[0] for note in ports(0, 10255, 1, 1)] == ["Port 1 of w2 and w3", "Port 10255 of w1"]
    assert ports(*[1] * 12, 0)[0].startswith("Port 1 of w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 and 2 more serves")
    assert rollout.plan([host(facts(), settings=Settings(read_only_port=1))], cluster())["notes"][-1].startswith(
        "Port 1"
    )
