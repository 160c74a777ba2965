# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import (
    forwarding,
    network,
    packet_filter,
    pod_network,
    processes,
)
from ansible_collections.kubemetrics.aggregation.plugins.modules import forward_rules

CORPUS = Path(__file__).parents[1] / "corpus"
ARGUMENTS = {"pod_cidrs": ["10.233.64.0/18"], "peers": ["192.0.2.11"]}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host whose programs are scripts and whose files are below tmp_path. Its rules are what a test says."""

    class Host:
        state = tmp_path / "state"
        log = tmp_path / "log"
        units: dict[str, str] = {}

        def program(self, name, script):
            path = tmp_path / "sbin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{script}\n')
            path.chmod(0o755)

        def rules(self, backend, name):
            saved = CORPUS / f"forward-{name}.save"
            self.program(f"iptables-{backend}-save", f"exec /bin/cat {saved}")
            self.program(f"iptables-{backend}", "")

        def said(self):
            return self.log.read_text().splitlines() if self.log.exists() else []

    host = Host()
    host.units = {}
    monkeypatch.setattr(pod_network, "read_bridges", lambda pods: [])
    monkeypatch.setattr(packet_filter, "EXTRA_PATH", str(tmp_path / "sbin"))
    monkeypatch.setenv("PATH", str(tmp_path / "sbin"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        processes,
        "show_units",
        lambda names, timeout: {
            name: {"loaded": True, "active_state": host.units[name]} for name in names if name in host.units
        },
    )
    loaded = tmp_path / "ip_tables_names"
    loaded.write_text("filter\n")
    backends = {**packet_filter.BACKENDS, "legacy": ("iptables-legacy-save", 4, str(loaded))}
    monkeypatch.setattr(packet_filter, "BACKENDS", backends)
    files = {name: str(tmp_path / "etc" / name) for name in ("kubemetrics-forward.service", "dropin.conf")}
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(forwarding, "UNIT_FILE", files["kubemetrics-forward.service"])
    monkeypatch.setattr(forwarding, "DROPIN_FILE", files["dropin.conf"])
    monkeypatch.setattr(forwarding, "OWN_FILES", tuple(files.values()))
    monkeypatch.setattr(forwarding, "link_paths", lambda: [str(tmp_path / "multi-user.target.wants" / "unit")])
    host.program("systemctl", "")
    host.program("systemd-run", "")
    for name in ("sh", "rm"):
        host.program(name, f'exec /bin/{name} "$@"')
    return host


def run(run_module, host, check_mode=False, **arguments):
    return run_module(forward_rules, check_mode=check_mode, state_dir=str(host.state), **{**ARGUMENTS, **arguments})


def test_a_sound_host_is_only_looked_at(host, run_module):
    host.rules("nft", "kube-proxy")
    result = run(run_module, host)
    assert (result["changed"], result["mode"], result["dropped"], result["advice"]) == (False, None, [], [])
    assert host.said() == ["iptables-nft-save -c -t filter"]
    assert not host.state.exists()


def test_a_host_without_iptables(host, run_module):
    assert not run(run_module, host)["changed"]


def test_the_prediction_touches_nothing(host, run_module):
    host.rules("nft", "docker20")
    result = run(run_module, host, check_mode=True, revert_after=60)
    assert (result["changed"], result["mode"], result["backends"]) == (True, "rules", ["nft"])
    assert result["commands"][-1] == "nft: -A FORWARD -j KUBEMETRICS-FORWARD"
    assert host.said() == ["iptables-nft-save -c -t filter"]
    assert not host.state.exists()


def test_both_backends_count(host, run_module):
    host.rules("nft", "kube-proxy")
    host.rules("legacy", "docker24-legacy")
    assert run(run_module, host, check_mode=True)["backends"] == ["legacy"]
    host.rules("nft", "docker28")
    assert run(run_module, host, check_mode=True)["backends"] == ["nft", "legacy"]


def test_a_single_backend_without_its_name(host, run_module):
    host.program("iptables", "echo 'iptables v1.8.4 (nf_tables)'")
    host.program(
        "iptables-save", f"[ \"$1\" = -V ] && echo '(nf_tables)' || exec /bin/cat {CORPUS}/forward-docker20.save"
    )
    result = run(run_module, host, check_mode=True)
    assert result["backends"] == ["nft"]


@pytest.mark.parametrize(
    ("units", "ufw", "words"),
    [
        ({"firewalld.service": "active"}, None, "firewalld is in charge"),
        ({"ufw.service": "active"}, "ENABLED=yes\n", "ufw route allow from 10.233.64.0/18"),
    ],
)
def test_firewall_services_are_not_fought(host, run_module, monkeypatch, units, ufw, words):
    host.rules("nft", "ufw")
    host.units = units
    read_text = processes.read_text
    monkeypatch.setattr(processes, "read_text", lambda path: ufw if "ufw" in path else read_text(path))
    result = run(run_module, host, check_mode=True)
    assert (result["changed"], result["dropped"]) == (False, ["nft"])
    assert words in result["advice"][0]
    # Whoever names a mode has decided.
    result = run(run_module, host, check_mode=True, mode="rules")
    assert (result["changed"], result["advice"]) == (True, [])


def test_a_rule_that_rejects_is_named_and_left_alone(host, run_module):
    host.rules("nft", "firewalld")
    result = run(run_module, host, mode="rules")
    assert not result["changed"]
    assert "(FORWARD: -j REJECT --reject-with icmp-host-prohibited)" in result["advice"][0]


def test_pods_behind_docker0_are_accepted(host, run_module, monkeypatch):
    """What comes from other nodes to pods here is surely dropped, although rules for docker0 accept what they send."""
    host.rules("nft", "docker0-pods")
    pods = network.parse_networks(["172.20.0.0/16"])
    routes = pod_network.connected_routes((CORPUS / "forward-docker0-pods.route").read_text())
    bridges = pod_network.find_bridges(routes, {"docker0"}, None, pods)
    arguments = {"pod_cidrs": ["172.20.0.0/16"], "check_mode": True}
    # By its name alone, docker0 is a bridge of other containers.
    monkeypatch.setattr(pod_network, "read_bridges", lambda pods: bridges)
    result = run(run_module, host, **arguments)
    assert (result["changed"], result["mode"], result["dropped"]) == (True, "rules", ["nft"])
    assert result["commands"][1:3] == [
        "nft: -A KUBEMETRICS-FORWARD -s 172.20.0.0/16 -j ACCEPT",
        "nft: -A KUBEMETRICS-FORWARD -d 172.20.0.0/16 -j ACCEPT",
    ]


def test_what_is_not_certain_takes_a_decision(host, run_module):
    host.rules("nft", "calico")
    assert not run(run_module, host, check_mode=True)["changed"]
    assert run(run_module, host, check_mode=True, mode="rules")["changed"]


def test_a_backend_that_cannot_be_read_is_named(host, run_module):
    host.program("iptables-nft-save", "echo 'Fatal: cannot open' >&2; exit 1")
    result = run(run_module, host)
    assert not result["changed"]
    assert result["advice"] == ["The rules of nft: Fatal: cannot open, so that they were left out."]
    host.program("iptables-nft-save", "echo 'Failed to initialize nft: Protocol not supported' >&2; exit 1")
    assert run(run_module, host)["advice"] == []


def test_a_change_that_does_not_hold_is_taken_back(host, run_module):
    """The rules never change here, as on a host where something removes them at once."""
    host.rules("nft", "docker20")
    result = run(run_module, host, revert_after=60)
    assert result["failed"]
    assert "all is as it was before: afterwards the rules still lack -N KUBEMETRICS-FORWARD" in result["msg"]
    assert not os.path.exists(forwarding.UNIT_FILE)
    said = host.said()
    armed = next(at for at, line in enumerate(said) if line.startswith("systemd-run"))
    assert armed < said.index("systemctl restart kubemetrics-forward.service")
    assert "iptables-nft -w 10 -D FORWARD -j KUBEMETRICS-FORWARD" in said
    assert said[-1] == "systemctl stop kubemetrics-forward-revert.timer"
    assert [path.read_text() for path in (host.state / "iptables").iterdir()] == [
        (CORPUS / "forward-docker20.save").read_text()
    ]


def test_a_lock_that_is_held(host, run_module):
    host.rules("nft", "docker20")
    host.program("iptables-nft", "echo 'Another app is currently holding the xtables lock; still 9s left' >&2; exit 4")
    host.units = {"docker.service": "active"}
    result = run(run_module, host, mode="docker_dropin")
    assert "-w 10 -P FORWARD ACCEPT failed (Another app is currently holding the xtables lock" in result["msg"]
    assert not os.path.exists(forwarding.DROPIN_FILE)


def test_the_timer_stays_when_not_all_could_be_taken_back(host, run_module):
    host.rules("nft", "docker20")
    host.program("rm", "exit 1")
    result = run(run_module, host, revert_after=60)
    assert "kubemetrics-forward-revert.timer tries to restore it once more" in result["msg"]
    said = host.said()
    armed = next(at for at, line in enumerate(said) if line.startswith("systemd-run"))
    assert "systemctl stop kubemetrics-forward-revert.timer" not in said[armed:]


def test_a_unit_that_fails_says_why(host, run_module):
    host.rules("nft", "docker20")
    host.program("systemctl", '[ "$1" != restart ] || { echo "Job failed. See journalctl." >&2; exit 1; }')
    assert "(Job failed. See journalctl)" in run(run_module, host)["msg"]
    host.program("journalctl", "echo 'Another app is currently holding the xtables lock.'")
    message = run(run_module, host)["msg"]
    assert "kubemetrics-forward.service failed (Another app is currently holding the xtables lock)" in message
    assert not os.path.exists(forwarding.UNIT_FILE)


def test_a_host_without_systemd(host, run_module, tmp_path):
    host.rules("nft", "docker20")
    (tmp_path / "sbin" / "systemd-run").unlink()
    result = run(run_module, host, revert_after=60)
    assert "systemd-run is missing; a change has to survive a restart" in result["msg"]
    assert not os.path.exists(forwarding.UNIT_FILE)


def test_the_drop_in_needs_docker(host, run_module):
    host.rules("nft", "docker20")
    assert "no docker.service on this host" in run(run_module, host, mode="docker_dropin")["msg"]


def test_absent_removes_what_is_there(host, run_module):
    host.rules("nft", "docker20-repaired")
    setup = forwarding.Setup("rules", ["nft"], ARGUMENTS["pod_cidrs"])
    for path, text in forwarding.render_files(setup, {"nft": "iptables-nft"}, {"nft": 4}).items():
        if text:
            Path(path).write_text(text)
    result = run(run_module, host, check_mode=True, state="absent")
    assert (result["mode"], result["backends"]) == (None, [])
    assert result["commands"][-1] == "nft: -X KUBEMETRICS-FORWARD"
    host.rules("nft", "docker20")
    result = run(run_module, host, state="absent")
    assert result["changed"]
    assert not os.path.exists(forwarding.UNIT_FILE)
    record = json.loads((host.state / "changes" / f"{result['change_id']}.json").read_text())
    assert record["component"] == "forward_policy"
    assert not run(run_module, host, state="absent")["changed"]


def set_up(mode):
    setup = forwarding.Setup(mode, ["nft"], ARGUMENTS["pod_cidrs"])
    for path, text in forwarding.render_files(setup, {"nft": "iptables-nft"}, {"nft": 4}).items():
        if text:
            Path(path).write_text(text)


@pytest.mark.parametrize("units", [{}, {"docker.service": "active"}])
@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("policy", {"state": "absent"}),
        ("docker_dropin", {"state": "absent"}),
        ("policy", {"mode": "rules"}),
        ("docker_dropin", {"mode": "rules"}),
    ],
)
def test_a_policy_is_closed_only_where_docker_still_is(host, run_module, mode, arguments, units):
    host.rules("nft", "kube-proxy")
    host.units = units
    set_up(mode)
    result = run(run_module, host, check_mode=True, **arguments)
    assert result["changed"] and ("nft: -P FORWARD DROP" in result["commands"]) == bool(units)
    advice = [line for line in result["advice"] if "stays ACCEPT" in line]
    assert len(advice) == (0 if units else 1)
    assert units or advice[0].endswith("/sbin/iptables-nft -P FORWARD DROP).")


def test_a_drop_in_of_a_docker_that_is_gone_becomes_rules_without_closing(host, run_module):
    host.rules("nft", "kube-proxy")
    set_up("docker_dropin")
    result = run(run_module, host, check_mode=True)
    assert result["mode"] == "rules" and "nft: -P FORWARD DROP" not in result["commands"]
    assert [line for line in result["advice"] if "stays ACCEPT" in line]


def test_absent_succeeds_where_the_policy_stays_open(host, run_module):
    host.rules("nft", "kube-proxy")
    set_up("policy")
    result = run(run_module, host, state="absent")
    assert result["changed"] and not os.path.exists(forwarding.UNIT_FILE)
    assert not [line for line in host.said() if "DROP" in line]
    again = run(run_module, host, state="absent")
    assert (again["changed"], again["advice"]) == (False, [])


def test_synced_closes_the_policy_that_a_removed_unit_had_opened(host, run_module):
    host.rules("nft", "kube-proxy")
    # Without Docker it would stay open, because nothing would have closed it.
    host.units = {"docker.service": "active"}
    setup = forwarding.Setup("policy", ["nft"], [])
    content = forwarding.render_files(setup, {"nft": "iptables-nft"}, {"nft": 4})[forwarding.UNIT_FILE]
    backup = host.state / "backup"
    (host.state / "changes").mkdir(parents=True)
    backup.write_text(content)
    entry = {"path": forwarding.UNIT_FILE, "backup": str(backup)}
    (host.state / "changes" / "one.json").write_text(json.dumps({"id": "one", "files": [entry]}))
    result = run(run_module, host, check_mode=True, state="synced", change_id="one")
    assert result["commands"] == ["nft: -P FORWARD DROP"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pod_cidrs": ["10.0.0.0/40"]}, "'10.0.0.0/40' is no CIDR"),
        ({"pod_cidrs": []}, "pod_cidrs is empty"),
        ({"revert_after": -1}, "revert_after is -1"),
        ({"state_dir": "state"}, "has to be an absolute path"),
        ({"state": "synced"}, "change_id"),
        ({"state": "synced", "change_id": "gone"}, "There is no change gone"),
    ],
)
def test_bad_arguments(host, run_module, arguments, words):
    result = run_module(forward_rules, **{"state_dir": str(host.state), **ARGUMENTS, **arguments})
    assert result["failed"]
    assert words in result["msg"]


def test_root_is_needed(host, run_module, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "become: true" in run(run_module, host)["msg"]
