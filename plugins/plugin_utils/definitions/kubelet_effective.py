# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kubelet really does, from its file, its drop-ins and its flags. Runs on the controller, where PyYAML is."""

from __future__ import annotations

import ipaddress
import json
import typing as t

import yaml
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import kubelets
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flags import Value
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.kubelet_flags import CONFIG_FLAGS
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.kubelet_values import (
    check,
    leaves,
    lookup,
    nest,
    outstanding,
    overriding,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import merged

#: A kubelet that listens on all addresses answers there, by IPv4 also where it listens on ``::``.
LOOPBACK = "127.0.0.1"

#: What holds where a configuration file is given and leaves a setting out.
FILE_DEFAULTS: dict[str, t.Any] = {
    "authentication": {
        "anonymous": {"enabled": False},
        "webhook": {"enabled": True, "cacheTTL": "2m"},
        "x509": {"clientCAFile": ""},
    },
    "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "5m", "cacheUnauthorizedTTL": "30s"}},
    "enableServer": True,
    "readOnlyPort": 0,
    "rotateCertificates": False,
    "serverTLSBootstrap": False,
    "tlsCertFile": "",
    "tlsPrivateKeyFile": "",
}
#: What holds for a kubelet without --config, also below its drop-in files: the old defaults, without authentication.
FLAG_DEFAULTS: dict[str, t.Any] = merged(
    FILE_DEFAULTS,
    {
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "readOnlyPort": 10255,
    },
)
#: Setting -> the flag that carries it, for a kubelet that has nothing but flags.
FLAG_OF = {path: flag for flag, path in CONFIG_FLAGS.items()}


class SettingsError(Exception):
    """A file of the kubelet cannot be understood; the message is one sentence."""


def load(text: str | None, path: str) -> dict[str, t.Any]:
    """A KubeletConfiguration as data. JSON may be indented with tabs, which YAML forbids."""
    try:
        data = json_object(text or "") or yaml.safe_load(text or "")
    except yaml.YAMLError as exc:
        line = getattr(getattr(exc, "problem_mark", None), "line", None)
        where = "" if line is None else " (line %d)" % (line + 1)
        raise SettingsError("%s is not valid YAML%s; correct it first." % (path, where)) from exc
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsError("%s holds no KubeletConfiguration; correct it first." % path)
    return data


def json_object(text: str) -> dict[str, t.Any] | None:
    """The object in a text of JSON; None where it is no such text."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def flag_value(value: Value, default: t.Any) -> t.Any:
    """A flag as the type that its setting has."""
    if isinstance(value, list):
        return value
    text = str(value)
    if isinstance(default, bool):
        return text.strip().lower() in ("true", "1", "t")
    if isinstance(default, int):
        return int(text) if text.strip().lstrip("-").isdigit() else default
    return text


def effective_settings(kubelet_config: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The settings in effect, from what component_info says of a kubelet: defaults, file, drop-ins in order, flags."""
    layers = []
    defaults = FLAG_DEFAULTS
    if kubelet_config.get("source") != "none":
        defaults = FILE_DEFAULTS
        layers.append((kubelet_config.get("path") or "the kubelet's configuration", kubelet_config.get("text")))
    layers += [(entry["path"], entry.get("text")) for entry in kubelet_config.get("drop_ins") or ()]
    settings = merged({}, defaults)
    for path, text in layers:
        # An explicit null is the default, as it is to the kubelet.
        settings = merged(settings, without_nulls(load(text, path)))
    for flag, value in (kubelet_config.get("overriding_flags") or {}).items():
        setting = CONFIG_FLAGS.get(flag)
        if setting:
            override: dict[str, t.Any] = {}
            nest(setting, flag_value(value, lookup(defaults, setting)), override)
            settings = merged(settings, override)
    return settings


def listening(kubelet_config: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Where a process on the host itself finds the kubelet: ``address`` and ``port``; empty where it does not serve.

    That need be neither the address that the host is reached by nor that of its default route: kubespray has kubelets
    listen at ``ip`` only.
    """
    settings = effective_settings(kubelet_config)
    if not settings["enableServer"]:
        return {}
    given = str(settings.get("address") or "").strip()
    try:
        everywhere = ipaddress.ip_address(given).is_unspecified
    except ValueError:
        everywhere = True
    port = kubelets.number(str(settings.get("port")), kubelets.PORT)
    return {"address": LOOPBACK if everywhere else given, "port": port}


def planned_changes(kubelet_config: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What has to change so that the kubelet does what is wanted, and where: in its file, in its command line.

    ``flags`` is in the form that component_flags takes. Where there is a file, the flags that win over it go; a kubelet
    that has flags only keeps having flags only.
    """
    problem = check(wanted)
    if problem:
        raise SettingsError("The wanted settings of the kubelet cannot be used: " + problem)
    differing = outstanding(wanted, effective_settings(kubelet_config))
    config: dict[str, t.Any] = {}
    flags: dict[str, t.Any] = {}
    if kubelet_config.get("source") == "none" and not kubelet_config.get("drop_in_dir"):
        for path, value in leaves(differing):
            if path not in FLAG_OF:
                raise SettingsError(
                    "The kubelet runs without a configuration file, and %s has no flag; give it a file."
                    % ".".join(path)
                )
            flags[FLAG_OF[path]] = value
    else:
        flags = dict.fromkeys(overriding(kubelet_config.get("overriding_flags") or {}, differing))
        config = outstanding(differing, effective_settings({**kubelet_config, "overriding_flags": {}}))
    return {
        "config": config,
        "flags": flags,
        "settings": sorted(".".join(path) for path, _value in leaves(differing)),
    }


def without_nulls(data: t.Any) -> t.Any:
    """The same data without keys whose value is null."""
    if not isinstance(data, dict):
        return data
    return {key: without_nulls(value) for key, value in data.items() if value is not None}
