# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import forwarding, network

CORPUS = Path(__file__).parents[2] / "corpus"
PODS = ipaddress.ip_network("10.233.64.0/18")
PODS6 = ipaddress.ip_network("fd00:10:233::/56")
NODE = ipaddress.ip_network("192.0.2.11")
CONNECTIONS = [network.Connection(*pair) for pair in ((PODS, PODS), (PODS, NODE), (NODE, PODS))]
CIDRS = [str(PODS)]
VERSIONS = {"nft": 4, "legacy": 4, "nft6": 6, "legacy6": 6}
PROGRAMS = {name: "/usr/sbin/iptables-" + name for name in VERSIONS}
RULES = forwarding.Setup("rules", ["nft"], CIDRS)
POLICY = forwarding.Setup("policy", ["nft"], CIDRS)
DROPIN = forwarding.Setup("docker_dropin", ["nft"], CIDRS)


def load(name):
    return network.parse_save((CORPUS / f"forward-{name}.save").read_text())


def plan(before, after, **tables):
    """The commands, and the tables after them."""
    remove, add = forwarding.plan_rules(before, after, tables, VERSIONS)
    return remove + add, forwarding.apply_to(tables, remove + add)


@pytest.mark.parametrize(
    ("name", "dropped", "doubtful", "refused"),
    [
        ("kube-proxy", False, False, None),
        ("docker20", True, False, None),
        ("docker24-legacy", True, False, None),
        ("docker28", True, False, None),
        ("ufw", True, False, None),
        # These accept pods themselves, by network or by mark.
        ("flannel", False, False, None),
        ("calico", False, True, None),
        ("firewalld", False, False, "FORWARD: -j REJECT --reject-with icmp-host-prohibited"),
    ],
)
def test_judge(name, dropped, doubtful, refused):
    assert forwarding.judge(load(name), CONNECTIONS) == (dropped, doubtful, refused)


def test_our_own_rules_do_not_hide_the_need_for_them():
    repaired = load("docker20-repaired")
    assert forwarding.judge(repaired, CONNECTIONS) == forwarding.judge(load("docker20"), CONNECTIONS)
    assert network.simulate(repaired, network.Connection(PODS, NODE)).action == "ACCEPT"


@pytest.mark.parametrize("name", ["kube-proxy", "flannel", "docker20", "calico", "firewalld", "docker0-pods"])
def test_accepts_everything(name):
    """What a probe may say without knowing pods' networks: only where no rule and no policy can be in the way."""
    assert forwarding.accepts_everything(load(name)) is (name == "kube-proxy")


@pytest.mark.parametrize(
    "rule", ["-i docker0 -j DROP", "-s 10.0.0.0/8 -j DROP", "-p tcp -m tcp --dport 80 -j REJECT", "-d fd00::/8 -j DROP"]
)
def test_a_rule_that_may_be_in_the_way_needs_a_closer_examination(rule):
    assert not forwarding.accepts_everything({"FORWARD": network.Chain("ACCEPT", 0, [rule])})
    assert forwarding.accepts_everything({"FORWARD": network.Chain("ACCEPT", 0, [])})


@pytest.mark.parametrize(
    ("asked", "existing", "judged", "foreign", "chosen"),
    [
        ("auto", None, (False, False, None), False, None),
        ("auto", None, (True, False, None), False, "rules"),
        ("auto", None, (True, False, None), True, None),
        ("auto", None, (False, True, None), False, None),
        ("auto", None, (False, False, "a rule"), False, None),
        ("auto", "docker_dropin", (False, False, None), True, "docker_dropin"),
        ("rules", None, (True, False, None), True, "rules"),
        ("rules", None, (False, True, None), False, "rules"),
        ("rules", None, (False, False, "a rule"), False, None),
        ("policy", "rules", (False, False, None), False, "policy"),
        ("docker_dropin", None, (False, False, None), False, None),
    ],
)
def test_choose_mode(asked, existing, judged, foreign, chosen):
    assert forwarding.choose_mode(asked, existing, [forwarding.Judgement(*judged)], foreign) == chosen


def test_one_backend_that_drops_is_enough():
    judged = [forwarding.Judgement(False, False, None), forwarding.Judgement(True, False, None)]
    assert forwarding.choose_mode("auto", None, judged, False) == "rules"


@pytest.mark.parametrize("name", ["docker20", "docker24-legacy", "docker28", "ufw"])
def test_rules_are_appended_and_nothing_else_changes(name):
    chains = load(name)
    commands, after = plan(None, RULES, nft=chains)
    assert commands == [
        ("nft", ["-N", "KUBEMETRICS-FORWARD"]),
        ("nft", ["-A", "KUBEMETRICS-FORWARD", "-s", "10.233.64.0/18", "-j", "ACCEPT"]),
        ("nft", ["-A", "KUBEMETRICS-FORWARD", "-d", "10.233.64.0/18", "-j", "ACCEPT"]),
        ("nft", ["-A", "FORWARD", "-j", "KUBEMETRICS-FORWARD"]),
    ]
    assert after["nft"]["FORWARD"].rules == [*chains["FORWARD"].rules, "-j KUBEMETRICS-FORWARD"]
    assert forwarding.without_own(after["nft"]) == chains
    for connection in CONNECTIONS:
        assert network.simulate(after["nft"], connection).action == "ACCEPT"
    assert network.simulate(after["nft"], network.Connection(NODE, NODE)).action == "DROP"
    assert plan(RULES, RULES, nft=after["nft"])[0] == []


def test_the_prediction_is_what_a_host_showed_afterwards():
    _commands, after = plan(None, RULES, nft=load("docker20"))
    repaired = load("docker20-repaired")
    assert sorted(after["nft"]["FORWARD"].rules) == sorted(repaired["FORWARD"].rules)
    assert after["nft"][forwarding.CHAIN].rules == repaired[forwarding.CHAIN].rules
    assert plan(RULES, RULES, nft=repaired)[0] == []


def test_what_a_later_insertion_moved_stays():
    chains = load("docker20-repaired")
    chains["FORWARD"].rules.insert(0, "-j DOCKER-NEW")
    chains["FORWARD"].rules.append("-j LATER")
    assert plan(RULES, RULES, nft=chains)[0] == []


def test_only_the_backends_of_the_setup_are_touched():
    commands, _after = plan(None, RULES, nft=load("docker20"), legacy=load("docker24-legacy"))
    assert {backend for backend, _arguments in commands} == {"nft"}


def test_each_ip_version_has_its_own_networks():
    setup = forwarding.Setup("rules", ["nft", "nft6"], [str(PODS), str(PODS6)])
    table = {"FORWARD": network.Chain("DROP", 0, [])}
    _commands, after = plan(None, setup, nft=table, nft6=table)
    assert after["nft"][forwarding.CHAIN].rules == ["-s 10.233.64.0/18 -j ACCEPT", "-d 10.233.64.0/18 -j ACCEPT"]
    assert after["nft6"][forwarding.CHAIN].rules == ["-s fd00:10:233::/56 -j ACCEPT", "-d fd00:10:233::/56 -j ACCEPT"]


def test_what_was_lost_and_what_is_left_over_is_mended():
    chains = load("docker20-repaired")
    chains["FORWARD"].rules.extend(["-j KUBEMETRICS-FORWARD", "-i eth0 -j KUBEMETRICS-FORWARD"])
    chains[forwarding.CHAIN].rules[:] = ["-s 10.1.0.0/16 -j ACCEPT", "-d 10.233.64.0/18 -j ACCEPT"]
    commands, after = plan(RULES, RULES, nft=chains)
    assert [arguments[0] for _backend, arguments in commands] == ["-D", "-D", "-D", "-A"]
    assert plan(RULES, RULES, nft=after["nft"])[0] == []
    assert after["nft"]["FORWARD"].rules.count("-j KUBEMETRICS-FORWARD") == 1
    assert sorted(after["nft"][forwarding.CHAIN].rules) == sorted(forwarding.own_rules(CIDRS, 4))


def test_taking_the_rules_away():
    commands, after = plan(RULES, None, nft=load("docker20-repaired"))
    assert commands[-1] == ("nft", ["-X", "KUBEMETRICS-FORWARD"])
    assert forwarding.CHAIN not in after["nft"]
    assert network.simulate(after["nft"], network.Connection(PODS, NODE)).action == "DROP"
    assert plan(None, None, nft=load("docker20"))[0] == []


@pytest.mark.parametrize("setup", [POLICY, DROPIN])
def test_the_policy_is_opened_and_closed(setup):
    commands, opened = plan(None, setup, nft=load("docker20"))
    assert commands == [("nft", ["-P", "FORWARD", "ACCEPT"])]
    assert plan(setup, setup, nft=opened["nft"])[0] == []
    assert plan(setup, None, nft=opened["nft"])[0] == [("nft", ["-P", "FORWARD", "DROP"])]
    # Somebody has closed it meanwhile.
    assert plan(setup, None, nft=load("docker20"))[0] == []


def test_switching_from_the_policy_to_rules_leaves_no_gap():
    opened = plan(None, POLICY, nft=load("docker20"))[1]
    remove, add = forwarding.plan_rules(POLICY, RULES, opened, VERSIONS)
    assert remove == [("nft", ["-P", "FORWARD", "DROP"])]
    assert add[-1] == ("nft", ["-A", "FORWARD", "-j", "KUBEMETRICS-FORWARD"])


@pytest.mark.parametrize("before", [None, RULES, POLICY, DROPIN])
@pytest.mark.parametrize("after", [None, RULES, POLICY, DROPIN])
def test_every_change_has_an_opposite(before, after):
    start = plan(None, before, nft=load("docker20"))[1]
    commands, end = plan(before, after, nft=start["nft"])
    back = forwarding.apply_to(end, map(forwarding.opposite, reversed(commands)))
    assert forwarding.without_own(back["nft"]) == forwarding.without_own(start["nft"])
    own = [tables["nft"].get(forwarding.CHAIN) for tables in (back, start)]
    assert [chain and sorted(chain.rules) for chain in own] in (
        [None, None],
        [sorted(own[1].rules if own[1] else [])] * 2,
    )


@pytest.mark.parametrize("setup", [None, RULES, POLICY, DROPIN, forwarding.Setup("rules", [], [])])
def test_files_say_what_they_set_up(setup):
    assert forwarding.parse_files(forwarding.render_files(setup, PROGRAMS, VERSIONS)) == setup


def test_a_file_that_somebody_rewrote_is_written_anew():
    files = {forwarding.UNIT_FILE: "[Service]\nExecStart=/bin/true\n"}
    assert forwarding.parse_files(files) == ("rules", [], [])
    assert forwarding.parse_files({forwarding.DROPIN_FILE: "[X-Kubemetrics]\nMode=odd\n"}).mode == "docker_dropin"


def test_the_unit_runs_the_commands_of_the_plan():
    text = forwarding.render_files(RULES, PROGRAMS, VERSIONS)[forwarding.UNIT_FILE]
    for _backend, arguments in plan(None, RULES, nft=load("docker20"))[0]:
        assert f"exec /usr/sbin/iptables-nft -w 10 {' '.join(arguments)}'" in text
    assert "-I " not in text and "-F " not in text
    # A stop of Docker must not take the rules with it.
    assert "ExecStop" not in text
    for line in ("After=", "PartOf=", "WantedBy=multi-user.target "):
        assert f"\n{line}docker.service " in text


def test_docker_starts_even_where_iptables_fails():
    files = forwarding.render_files(DROPIN, PROGRAMS, VERSIONS)
    assert "\nExecStartPost=-/usr/sbin/iptables-nft -w 10 -P FORWARD ACCEPT\n" in files[forwarding.DROPIN_FILE]
    assert files[forwarding.UNIT_FILE] is None


def test_the_unit_is_sound_for_systemd(tmp_path):
    """The lines of a unit that a shell reads are what they should be once systemd has split them."""
    text = forwarding.render_files(RULES, PROGRAMS, VERSIONS)[forwarding.UNIT_FILE]
    lines = [line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")]
    assert len(lines) == 4
    for line in lines:
        shell, option, script = line.split(" ", 2)
        assert (shell, option, script[0], script[-1]) == ("/bin/sh", "-c", "'", "'")
        assert not set("'\"$%\\") & set(script[1:-1])
        subprocess.run(["sh", "-n", "-c", script[1:-1]], check=True)


def test_the_script_restores_what_was(tmp_path):
    """The script is run for real, with a program that notes how it was called."""
    program = tmp_path / "iptables"
    log = tmp_path / "log"
    program.write_text(f'#!/bin/sh\necho "$*" >> {log}\n[ "$3" != -C ]\n')
    program.chmod(0o755)
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "systemctl $*" >> {log}\n')
    systemctl.chmod(0o755)
    old = tmp_path / "old.conf"
    new = tmp_path / "new.service"
    new.write_text("new")
    text = "it's \\n what was there: 100%\n"
    commands = [
        ("nft", ["-N", "KUBEMETRICS-FORWARD"]),
        ("nft", ["-A", "FORWARD", "-j", "KUBEMETRICS-FORWARD"]),
        ("nft", ["-D", "FORWARD", "-j", "OTHER"]),
        ("nft", ["-P", "FORWARD", "DROP"]),
    ]
    script = forwarding.revert_script(commands, {str(old): text, str(new): None}, {"nft": str(program)})
    assert "$" not in script
    script = script.replace("/etc/systemd/system", str(tmp_path))
    subprocess.run(["sh", "-c", script], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert log.read_text().splitlines() == [
        "-w 10 -P FORWARD ACCEPT",
        "-w 10 -C FORWARD -j OTHER",
        "-w 10 -A FORWARD -j OTHER",
        "-w 10 -D FORWARD -j KUBEMETRICS-FORWARD",
        "-w 10 -X KUBEMETRICS-FORWARD",
        "systemctl stop kubemetrics-forward.service",
        "systemctl daemon-reload",
    ]
    assert old.read_text() == text
    assert not new.exists()


def test_advice_names_the_commands():
    assert "ufw route allow from 10.233.64.0/18; ufw route allow to 10.233.64.0/18" in forwarding.advice_for_firewall(
        "ufw", CIDRS
    )
    said = forwarding.advice_for_firewall("firewalld", [*CIDRS, str(PODS6)])
    assert "--zone=trusted --add-source=10.233.64.0/18 --add-source=fd00:10:233::/56; firewall-cmd --reload" in said


def test_show():
    assert forwarding.show({"nft": {"FORWARD": network.Chain("DROP", 0, ["-j X"])}}, VERSIONS) == (
        "# nft, IPv4\n-P FORWARD DROP\n-A FORWARD -j X\n"
    )
