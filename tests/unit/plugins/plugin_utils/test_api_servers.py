# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import api_servers


def host(name, managed_by="static_pod", **flags):
    return {"name": name, "components": {"kube-apiserver": {"managed_by": managed_by, "flags": flags}}}


def test_distributions_that_write_the_flags_themselves_are_left_out():
    hosts = [host("a"), host("b", "systemd"), host("c", "k3s"), host("d", "pod")]
    assert api_servers.edited(hosts) == ["a", "b"]


def test_pending_are_files_that_change_and_processes_that_lag_behind():
    plans = {
        "done": {"files": [], "running_differs": []},
        "file": {"files": ["x"], "running_differs": ["y"]},
        "stopped": {"files": [], "running_differs": None},
        "lags": {"files": [], "running_differs": ["y"]},
    }
    assert api_servers.pending(plans) == ["file", "lags"]


def control_plane(managed_by="systemd", running=(), proxy=True):
    component = {
        "managed_by": managed_by,
        "argv": ["kube-apiserver", *(f"--{name}={value}" for name, value in dict(running).items())],
        "flags": dict(running),
        "definition_files": ["/etc/systemd/system/kube-apiserver.service"],
    }
    return {"name": "cp1", "components": {"kube-apiserver": component, "kube-proxy": {"running": proxy}}}


WANTED = {"requestheader-allowed-names": ["a"]}
HAS = {"requestheader-allowed-names": "a"}


@pytest.mark.parametrize(
    ("host", "replace_shared", "may"),
    [
        (control_plane("systemd", HAS), False, True),
        (control_plane("k3s"), False, False),
        (control_plane("static_pod", HAS), False, False),
        (control_plane("static_pod"), False, True),
        (control_plane("static_pod", HAS, proxy=False), False, True),
        (control_plane("static_pod", HAS), True, True),
    ],
)
def test_a_definition_that_may_change_is_examined_before_certificates_are_issued(host, replace_shared, may):
    assert api_servers.may_change(host, WANTED, replace_shared) is may


def test_an_edit_that_no_process_has_read_is_left_alone_where_nothing_restarts():
    plan = {"files": [], "running_differs": [], "staged_flags": ["x"], "unread_flags": ["v"]}
    found = api_servers.staged(control_plane(), plan)
    assert found["problem"] == ""
    assert found["notes"] == [
        "The API server of cp1 has not read an edit of --x in its definition. It does what aggregation needs, and both "
        "are left as they are; restart it when that edit shall take effect."
    ]


@pytest.mark.parametrize("lacks", [{"files": ["f"], "running_differs": []}, {"files": [], "running_differs": ["x"]}])
def test_an_edit_that_contradicts_what_is_needed_stops_the_restart(lacks):
    found = api_servers.staged(control_plane(), {**lacks, "staged_flags": ["x", "y"], "unread_flags": []})
    assert found["notes"] == []
    assert "cp1 has to restart with other flags, and somebody has edited --x, --y in its def" in found["problem"]


def test_a_shared_ca_that_is_replaced_is_a_restart_to_come():
    shared = control_plane(running={"requestheader-client-ca-file": "/ca", "client-ca-file": "/ca"})
    plan = {"files": [], "running_differs": [], "staged_flags": ["x"]}
    assert api_servers.staged(shared, plan, True)["problem"]
    assert not api_servers.staged(shared, plan, False)["problem"]
    assert not api_servers.staged(control_plane(), plan, True)["problem"]


def test_other_edits_are_named_where_a_restart_brings_them_into_effect():
    plan = {"files": ["f"], "running_differs": [], "staged_flags": [], "unread_flags": ["v"]}
    assert api_servers.staged(control_plane(), plan)["notes"] == [
        "The restart of the API server of cp1 also brings an edit of --v into effect."
    ]
    assert api_servers.staged(control_plane(), {**plan, "files": []}) == {"problem": "", "notes": []}


@pytest.mark.parametrize(
    ("before", "wanted", "new"),
    [(None, True, True), ("true", True, False), ("false", True, True), (None, None, False), (None, False, False)],
)
def test_routes_matter_where_they_are_new(before, wanted, new):
    flags = {} if before is None else {"enable-aggregator-routing": before}
    assert api_servers.newly_routed(host("a", **flags), {"enable-aggregator-routing": wanted}) is new


def test_routed_is_what_the_plans_say():
    assert api_servers.routed({"a": {"flags": {}}, "b": {"flags": {"enable-aggregator-routing": "true"}}})
    assert not api_servers.routed({"a": {"flags": {"enable-aggregator-routing": "false"}}, "skipped": {}})


@pytest.mark.parametrize(
    ("networks", "address"),
    [(["10.233.0.0/18"], "10.233.0.1"), (["fd00::/112", "10.0.0.0/16"], "fd00::1"), (["10.96.0.0/12 "], "10.96.0.1")],
)
def test_the_apis_own_service_has_the_first_address(networks, address):
    assert api_servers.cluster_ip(networks) == address


def test_unknown_networks_of_services_are_a_sentence():
    with pytest.raises(ValueError, match="kube_service_addresses"):
        api_servers.cluster_ip([])


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"msg": "It is away.\n"}, "It is away"),
        ({"msg": "Task failed: Unknown error.", "servers": [{"ready": False, "message": "refused"}]}, "refused"),
        ({"running_differs": ["a", "b"]}, "the process lacks --a, --b"),
        ({"running_differs": None}, "no process runs"),
        ({}, "no message"),
    ],
)
def test_why_a_health_check_failed(result, reason):
    assert api_servers.failure(result) == reason


def test_the_log_of_the_newest_container():
    files = [
        {"path": "/var/log/pods/kube-system_kube-apiserver-cp1_1/kube-apiserver/0.log", "mtime": 9.0},
        {"path": "/var/log/pods/kube-system_kube-apiserver-cp1_2/kube-apiserver/1.log", "mtime": 10.5},
        {"path": "/var/log/pods/kube-system_etcd-cp1_2/etcd/1.log", "mtime": 99.0},
    ]
    assert api_servers.newest_log(files).endswith("_2/kube-apiserver/1.log")
    assert api_servers.newest_log([]) == ""


def test_the_last_error_of_a_component():
    lines = [
        "2026-01-01T00:00:00Z stderr F I0101 fine",
        "2026-01-01T00:00:00Z stderr F Error: unknown flag: --x",
        "F0101 gone",
        "I0102 fine",
    ]
    assert api_servers.last_error(lines) == "F0101 gone"
    assert api_servers.last_error(lines[:2]) == "Error: unknown flag: --x"
    assert api_servers.last_error(["I0102 fine"]) == ""
    assert len(api_servers.last_error(["panic: " + "x" * 400])) == 300


def change(number, **differs):
    return {"id": str(number), "component": "kube-apiserver", "state": "in_place", "undoes": None, **differs}


def test_the_change_of_a_failed_api_server():
    history = [change(1), change(2), change(3, component="kubelet"), change(4, undoes="1"), change(5, state="undone")]
    assert api_servers.change_to_roll_back({"change_id": "9"}, history) == "9"
    assert api_servers.change_to_roll_back({"change_id": None, "running_differs": ["x"]}, history) == "2"
    assert api_servers.change_to_roll_back({"change_id": None, "running_differs": []}, history) == ""
    assert api_servers.change_to_roll_back({}, history) == ""
    assert api_servers.change_to_roll_back({"running_differs": ["x"]}, []) == ""
