# SPDX-License-Identifier: GPL-3.0-or-later
"""What a kubelet does: defaults, file, drop-ins, flags, the later one winning."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.kubelet_effective import (
    SettingsError,
    effective_settings,
)


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


def test_without_a_file_it_is_open():
    settings = effective_settings(config(source="none"))
    assert settings["authentication"]["webhook"]["enabled"] is False
    assert settings["authentication"]["anonymous"]["enabled"] is True
    assert (settings["authorization"]["mode"], settings["readOnlyPort"]) == ("AlwaysAllow", 10255)


def test_drop_ins_alone_are_a_configuration():
    settings = effective_settings(config(source="none", drop_ins=["serverTLSBootstrap: true\n"]))
    assert (settings["authorization"]["mode"], settings["serverTLSBootstrap"]) == ("Webhook", True)


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
