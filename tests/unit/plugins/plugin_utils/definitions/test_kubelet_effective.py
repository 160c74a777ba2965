# SPDX-License-Identifier: GPL-3.0-or-later
"""What a kubelet does: defaults, file, drop-ins, flags, the later one winning."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.kubelet_effective import (
    SettingsError,
    effective_settings,
    listening,
    planned_changes,
)

WANTED = {
    "authentication": {
        "anonymous": {"enabled": False},
        "webhook": {"enabled": True, "cacheTTL": "2m"},
        "x509": {"clientCAFile": "/pki/ca.crt"},
    },
    "authorization": {"mode": "Webhook"},
    "readOnlyPort": 0,
    "serverTLSBootstrap": True,
}


def config(text=None, *, source="flag", drop_ins=(), **flags):
    return {
        "path": "/var/lib/kubelet/config.yaml",
        "source": source,
        "text": text,
        "drop_ins": [{"path": f"/etc/k/{number}.conf", "text": entry} for number, entry in enumerate(drop_ins)],
        "overriding_flags": {name.replace("_", "-"): value for name, value in flags.items()},
    }


def test_a_file_that_says_nothing_is_closed():
    settings = effective_settings(config("kind: KubeletConfiguration\n"))
    assert settings["authentication"]["webhook"]["enabled"] is True
    assert settings["authentication"]["anonymous"]["enabled"] is False
    assert settings["authorization"]["mode"] == "Webhook"
    assert settings["serverTLSBootstrap"] is False


def test_json_may_have_tabs():
    text = (
        '{\n\t"kind": "KubeletConfiguration",\n\t"readOnlyPort": 10255,\n'
        '\t"authorization": {\t"mode": "AlwaysAllow"}\n}\n'
    )
    settings = effective_settings(config(text))
    assert (settings["readOnlyPort"], settings["authorization"]["mode"]) == (10255, "AlwaysAllow")
    with pytest.raises(SettingsError, match="not valid YAML"):
        effective_settings(config('{\n\t"kind": }'))


def test_without_a_file_it_is_open():
    settings = effective_settings(config(source="none"))
    assert settings["authentication"]["webhook"]["enabled"] is False
    assert settings["authentication"]["anonymous"]["enabled"] is True
    assert (settings["authorization"]["mode"], settings["readOnlyPort"]) == ("AlwaysAllow", 10255)


def test_drop_ins_alone_stand_on_the_open_defaults():
    settings = effective_settings(config(source="none", drop_ins=["serverTLSBootstrap: true\n"]))
    assert (settings["authorization"]["mode"], settings["serverTLSBootstrap"]) == ("AlwaysAllow", True)


def test_the_later_one_wins():
    given = config(
        "serverTLSBootstrap: true\nauthorization: {mode: Webhook}\nreadOnlyPort: 10255\n",
        drop_ins=["readOnlyPort: 0\n", "authentication: {webhook: {enabled: false}}\n"],
        rotate_server_certificates="false",
        authorization_mode="AlwaysAllow",
        read_only_port="10256",
        fail_swap_on="false",
        unknown_flag="x",
    )
    settings = effective_settings(given)
    assert settings["serverTLSBootstrap"] is False
    assert settings["authorization"]["mode"] == "AlwaysAllow"
    assert settings["authentication"]["webhook"]["enabled"] is False
    assert settings["authentication"]["anonymous"]["enabled"] is False
    assert settings["readOnlyPort"] == 10256


@pytest.mark.parametrize("text", ["true", "1", "T"])
def test_a_flag_that_is_true(text):
    assert effective_settings(config("", rotate_server_certificates=text))["serverTLSBootstrap"] is True


def test_null_is_the_default():
    settings = effective_settings(config("authentication:\n  webhook:\nauthorization:\n  mode:\n"))
    assert (settings["authentication"]["webhook"]["enabled"], settings["authorization"]["mode"]) == (True, "Webhook")


@pytest.mark.parametrize(("text", "words"), [("a: [", "not valid YAML"), ("- a\n", "no KubeletConfiguration")])
def test_what_cannot_be_understood(text, words):
    with pytest.raises(SettingsError, match=words):
        effective_settings(config(text))


@pytest.mark.parametrize(
    ("found", "address", "port"),
    [
        (config("kind: KubeletConfiguration\n"), "127.0.0.1", 10250),
        # kubespray: the variable ip, which need not be the address of the default route.
        (config('address: "192.0.2.111"\n'), "192.0.2.111", 10250),
        (config('address: "::"\nport: 10350\n'), "127.0.0.1", 10350),
        (config("address: 0.0.0.0\n"), "127.0.0.1", 10250),
        (config("address: 2001:db8::7\n"), "2001:db8::7", 10250),
        (config("address: 192.0.2.111\n", drop_ins=["address: 192.0.2.112\nport: 10260\n"]), "192.0.2.112", 10260),
        (config("address: 192.0.2.111\n", address="192.0.2.113", port="10251"), "192.0.2.113", 10251),
        (config(source="none", address="127.0.0.1"), "127.0.0.1", 10250),
        # The node's address says nothing of where its kubelet listens.
        (config("address: 192.0.2.111\n", node_ip="192.0.2.11"), "192.0.2.111", 10250),
    ],
)
def test_where_a_kubelet_is_found_on_its_host(found, address, port):
    assert listening(found) == {"address": address, "port": port}


def test_a_kubelet_that_serves_nothing_is_found_nowhere():
    assert listening(config("address: 192.0.2.111\nenableServer: false\n")) == {}
    assert listening(config("", enable_server="false")) == {}


def test_what_holds_needs_no_change():
    given = config(
        "authentication: {x509: {clientCAFile: /pki/ca.crt}, webhook: {cacheTTL: 0s}}\nserverTLSBootstrap: true\n"
    )
    assert planned_changes(given, WANTED) == {"config": {}, "flags": {}, "settings": []}


def test_what_a_flag_says_alike_is_left_alone():
    given = config(
        "serverTLSBootstrap: true\nreadOnlyPort: 10255\n",
        read_only_port="0",
        client_ca_file="/pki/ca.crt",
    )
    assert planned_changes(given, WANTED)["settings"] == []


def test_the_file_is_corrected_where_the_file_says_so():
    given = config("authorization: {mode: AlwaysAllow}\nauthentication: {anonymous: {enabled: true}}\n")
    assert planned_changes(given, WANTED) == {
        "config": {
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": "/pki/ca.crt"}},
            "authorization": {"mode": "Webhook"},
            "serverTLSBootstrap": True,
        },
        "flags": {},
        "settings": [
            "authentication.anonymous.enabled",
            "authentication.x509.clientCAFile",
            "authorization.mode",
            "serverTLSBootstrap",
        ],
    }


def test_flags_that_win_over_the_file_go_and_the_file_says_it_right():
    given = config(
        "authentication: {x509: {clientCAFile: /pki/ca.crt}}\nserverTLSBootstrap: true\nreadOnlyPort: 10255\n",
        anonymous_auth="true",
        read_only_port="10255",
        fail_swap_on="false",
    )
    assert planned_changes(given, WANTED) == {
        "config": {"readOnlyPort": 0},
        "flags": {"anonymous-auth": None, "read-only-port": None},
        "settings": ["authentication.anonymous.enabled", "readOnlyPort"],
    }


def test_a_kubelet_with_flags_only_keeps_flags_only():
    given = config(source="none", client_ca_file="/pki/ca.crt", authorization_mode="Webhook")
    assert planned_changes({**given, "path": None}, WANTED) == {
        "config": {},
        "flags": {
            "anonymous-auth": False,
            "authentication-token-webhook": True,
            "read-only-port": 0,
            "rotate-server-certificates": True,
        },
        "settings": [
            "authentication.anonymous.enabled",
            "authentication.webhook.enabled",
            "readOnlyPort",
            "serverTLSBootstrap",
        ],
    }


def test_a_kubelet_with_a_drop_in_directory_only_gets_a_drop_in():
    given = {**config(source="none"), "path": None, "drop_in_dir": "/etc/k"}
    changes = planned_changes(given, {"readOnlyPort": 0})
    assert (changes["config"], changes["flags"]) == ({"readOnlyPort": 0}, {})


def test_what_no_flag_can_say_needs_a_file():
    with pytest.raises(SettingsError, match="shutdownGracePeriod has no flag"):
        planned_changes(config(source="none"), {"shutdownGracePeriod": "30s"})


def test_settings_of_the_wrong_type_are_refused():
    with pytest.raises(SettingsError, match="cacheTTL is 'soon', and has to be a duration"):
        planned_changes(config(""), {"authentication": {"webhook": {"cacheTTL": "soon"}}})
