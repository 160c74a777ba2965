# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import packet_filter, pod_network
from ansible_collections.kubemetrics.aggregation.plugins.modules import host_network_info

SAVED = """\
*filter
:FORWARD DROP [7:420]
[0:0] -A FORWARD -s 10.233.64.0/18 -j ACCEPT
COMMIT
"""
ROUTES = {
    "10.233.64.10": ("10.233.64.0/24", {"dev": "cni0", "prefsrc": "10.233.64.1"}),
    "10.233.0.10": ("default", {"dev": "eth0", "gateway": "192.0.2.1"}),
}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Stands in for the programs of a host."""
    directory = tmp_path / "sbin"
    directory.mkdir()
    monkeypatch.setattr(packet_filter, "EXTRA_PATH", str(directory))
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(pod_network, "read_bridges", lambda pods: [])

    def add(name, script):
        path = directory / name
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    return add


@pytest.fixture
def host(programs):
    programs("iptables-nft-save", f"[ \"$*\" = '-c -t filter' ] || exit 3\n/bin/cat <<'X'\n{SAVED}X\n")
    chain = {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0}
    ruleset = json.dumps({"nftables": [{"chain": {**chain, "policy": "drop"}}]})
    programs("nft", f"echo '{ruleset}'\n")
    cases = ""
    for target, (matched, route) in ROUTES.items():
        cases += f"'-4 -j route get {target}') echo '{json.dumps([{'dst': target, **route}])}' ;;\n"
        cases += f"'-4 -j route get fibmatch {target}') echo '{json.dumps([{'dst': matched, **route}])}' ;;\n"
    programs("ip", f'case "$*" in\n{cases}*) echo "RTNETLINK answers: No route to host" >&2; exit 2 ;;\nesac\n')
    return programs


def test_what_is_in_the_way(host, run_module):
    result = run_module(
        host_network_info, pod_cidrs=["10.233.64.0/18"], service_cidrs=["10.233.0.0/18"], peers=["192.0.2.11"]
    )
    assert not result["changed"]
    nft = result["backends"]["nft"]
    assert (nft["present"], nft["policy"], nft["policy_packets"]) == (True, "DROP", 7)
    assert nft["rules"] == ["-s 10.233.64.0/18 -j ACCEPT"]
    assert result["blocked"] == [
        {
            "backend": "nft",
            "source": "192.0.2.11/32",
            "destination": "10.233.64.0/18",
            "incoming": "any",
            "outgoing": "any",
            "action": "DROP",
            "certain": True,
            "rule": "policy of FORWARD",
        }
    ]
    assert len(result["verdicts"]) == 3
    assert result["nft_chains"][0]["policy"] == "drop"
    assert "nft6" not in result["backends"]

    pods, services, peer = result["routes"]
    assert (pods["ok"], pods["device"], pods["default"]) == (True, "cni0", False)
    assert (services["ok"], services["default"]) == (True, True)
    assert (peer["ok"], peer["error"]) == (False, "RTNETLINK answers: No route to host")
    assert [entry["known"] for entry in result["routes"]] == [True, True, True]


def test_legacy_tables_are_not_loaded_by_looking(host, run_module, monkeypatch, tmp_path):
    loaded = tmp_path / "ip_tables_names"
    asked = tmp_path / "asked"
    host("iptables-legacy-save", f"echo yes > {asked}\n/bin/cat <<'X'\n{SAVED}X\n")
    backends = {**packet_filter.BACKENDS, "legacy": ("iptables-legacy-save", 4, str(loaded))}
    monkeypatch.setattr(packet_filter, "BACKENDS", backends)
    for content in (None, "nat\n"):
        if content:
            loaded.write_text(content)
        assert not run_module(host_network_info)["backends"]["legacy"]["present"]
        assert not asked.exists()
    loaded.write_text("nat\nfilter\n")
    assert run_module(host_network_info)["backends"]["legacy"]["policy"] == "DROP"


def test_both_backends_count(host, run_module, monkeypatch, tmp_path):
    (tmp_path / "names").write_text("filter\n")
    host("iptables-legacy-save", "echo '*filter'; echo ':FORWARD DROP [1:1]'; echo COMMIT\n")
    backends = {**packet_filter.BACKENDS, "legacy": ("iptables-legacy-save", 4, str(tmp_path / "names"))}
    monkeypatch.setattr(packet_filter, "BACKENDS", backends)
    result = run_module(host_network_info, pod_cidrs=["10.233.64.0/18"])
    assert [(entry["backend"], entry["action"]) for entry in result["verdicts"]] == [
        ("nft", "ACCEPT"),
        ("legacy", "DROP"),
    ]


def test_ipv6_is_looked_at_when_it_is_there(host, run_module):
    host("ip6tables-nft-save", "echo '*filter'; echo ':FORWARD DROP [1:1]'; echo COMMIT\n")
    result = run_module(host_network_info, pod_cidrs=["10.233.64.0/18", "fd00::/56"])
    assert [(entry["backend"], entry["source"]) for entry in result["verdicts"]] == [
        ("nft", "10.233.64.0/18"),
        ("nft6", "fd00::/56"),
    ]


def test_programs_that_fail_or_hang(programs, run_module):
    programs("iptables-nft-save", "echo 'Permission denied (you must be root)' >&2; exit 4\n")
    programs("nft", "exec /bin/sleep 60\n")
    result = run_module(host_network_info, timeout=0.3)
    assert result["backends"]["nft"]["error"] == "Permission denied (you must be root)"
    assert result["nft_chains"] == []
    assert "did not end within 0.3 s" in result["nft_error"]


@pytest.mark.parametrize(
    "script",
    ['echo \'Option "-j" is unknown, try "ip -help".\' >&2; exit 255\n', "echo not JSON\n", "exec /bin/sleep 60\n"],
)
def test_an_ip_that_cannot_look_routes_up(host, programs, run_module, script):
    programs("ip", script)
    (route,) = run_module(host_network_info, peers=["192.0.2.11"], timeout=0.3)["routes"]
    assert (route["known"], route["ok"]) == (False, False)


def test_a_host_without_any_of_it(programs, run_module):
    result = run_module(host_network_info, pod_cidrs=["10.233.64.0/18"])
    assert not result["backends"]["nft"]["present"]
    assert result["routes"][0]["error"] == "There is no ip command on this host."
    assert not result["routes"][0]["known"]
    assert result["clock"] is None


def test_the_clock(host, run_module, start_server, authority, tmp_path):
    server = start_server()
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    clock = run_module(host_network_info, time_server=server.url, ca_file=str(tmp_path / "ca.crt"))["clock"]
    assert (clock["server"], clock["error"]) == (server.url, None)
    assert abs(clock["offset"]) < 2


def test_a_clock_of_a_stranger_is_not_believed(host, run_module, start_server, authority, other_authority, tmp_path):
    server = start_server(issuer=other_authority)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    clock = run_module(host_network_info, time_server=server.url, ca_file=str(tmp_path / "ca.crt"))["clock"]
    assert (clock["offset"], clock["error"]["kind"]) == (None, "untrusted")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"pod_cidrs": ["10.0.0.0/40"]}, "'10.0.0.0/40' is no CIDR"),
        ({"peers": ["cp1"]}, "'cp1' is no CIDR"),
        ({"time_server": "http://x"}, "time_server is 'http://x'"),
        ({"time_server": "https://x:y"}, "time_server is 'https://x:y'"),
        ({"time_server": "https://x"}, "give ca_file"),
    ],
)
def test_bad_arguments(programs, run_module, arguments, words):
    result = run_module(host_network_info, **arguments)
    assert result["failed"]
    assert words in result["msg"]


def test_a_cluster_ip_is_tried_until_it_answers(host, run_module, monkeypatch):
    tried = []

    def answers(address, port, ca_file, certificates, timeout):
        tried.append((address, port, ca_file, certificates))
        return {"answers": len(tried) == 2, "verified_by": None, "error": None}

    monkeypatch.setattr(host_network_info.probes, "answers_as", answers)
    monkeypatch.setattr(host_network_info.time, "sleep", lambda seconds: None)
    result = run_module(host_network_info, cluster_ip="10.233.0.1", ca_file="/ca", api_certificates=["AAAA"])
    assert result["cluster_ip"]["answers"]
    assert tried == [("10.233.0.1", 443, "/ca", ["AAAA"])] * 2
    tried.clear()
    assert run_module(host_network_info, cluster_ip="10.233.0.1", attempts=1)["cluster_ip"]["answers"] is False
    assert run_module(host_network_info)["cluster_ip"] is None
