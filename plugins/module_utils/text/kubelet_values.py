# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the values of a KubeletConfiguration mean: types, defaults, durations, and the flags that win over them."""

from __future__ import annotations

import re
import typing as t
from fractions import Fraction

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flags import Value
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.kubelet_flags import CONFIG_FLAGS
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import same_value

API_VERSION = "kubelet.config.k8s.io/v1beta1"
KIND = "KubeletConfiguration"

Path = t.Tuple[str, ...]


class Duration:
    """Marks a setting whose value is a Go duration."""


#: The settings whose type is checked, each with what the kubelet takes when its file leaves it out (None: nothing).
SETTINGS: t.Dict[Path, t.Tuple[type, t.Any]] = {
    ("authentication", "anonymous", "enabled"): (bool, False),
    ("authentication", "webhook", "enabled"): (bool, True),
    ("authentication", "webhook", "cacheTTL"): (Duration, "2m"),
    ("authentication", "x509", "clientCAFile"): (str, None),
    ("authorization", "mode"): (str, "Webhook"),
    ("authorization", "webhook", "cacheAuthorizedTTL"): (Duration, "5m"),
    ("authorization", "webhook", "cacheUnauthorizedTTL"): (Duration, "30s"),
    ("enableServer",): (bool, True),
    ("port",): (int, 10250),
    ("readOnlyPort",): (int, 0),
    ("rotateCertificates",): (bool, False),
    ("serverTLSBootstrap",): (bool, False),
    ("staticPodPath",): (str, None),
    ("tlsCertFile",): (str, None),
    ("tlsPrivateKeyFile",): (str, None),
}

_UNITS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),  # micro sign
    "μs": Fraction(1, 10**6),  # Greek mu; Go takes both
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_WORDS_OF_TYPE = {bool: "true or false", int: "a number", str: "a string", Duration: "a duration such as 2m or 30s"}
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


def duration(value: t.Any) -> t.Optional[Fraction]:
    """The seconds of a Go duration, or None when it is none."""
    if not isinstance(value, str):
        return None
    if value in ("0", "+0", "-0"):
        return Fraction(0)
    sign = -1 if value.startswith("-") else 1
    rest = value[1:] if value[:1] in ("-", "+") else value
    total, position = Fraction(0), 0
    for match in _DURATION_PART.finditer(rest):
        if match.start() != position:
            return None
        number = match.group(1)
        total += Fraction(number if not number.endswith(".") else number[:-1]) * _UNITS[match.group(2)]
        position = match.end()
    return sign * total if rest and position == len(rest) else None


def leaves(config: t.Mapping[str, t.Any], path: Path = ()) -> t.Iterator[t.Tuple[Path, t.Any]]:
    """Each setting of a nested mapping with its path; an empty mapping has none."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def lookup(config: t.Any, path: Path) -> t.Any:
    """The value at ``path``; None where a step of it is missing."""
    for step in path:
        if not isinstance(config, dict):
            return None
        config = config.get(step)
    return config


def nest(path: Path, value: t.Any, into: t.Dict[str, t.Any]) -> None:
    """Put ``value`` into the nested mapping ``into`` at ``path``."""
    for step in path[:-1]:
        into = into.setdefault(step, {})
    into[path[-1]] = value


def type_error(path: Path, value: t.Any) -> t.Optional[str]:
    """What is wrong with ``value`` for the setting at ``path``, or None."""
    if path not in SETTINGS or value is None:
        return None
    wanted = SETTINGS[path][0]
    fits = duration(value) is not None if wanted is Duration else isinstance(value, wanted)
    if wanted is int and isinstance(value, bool):
        fits = False
    if fits:
        return None
    return f"{'.'.join(path)} is {value!r}, and has to be {_WORDS_OF_TYPE[wanted]}."


def holds(path: Path, current: t.Any, wanted: t.Any) -> bool:
    """Whether the kubelet already does what ``wanted`` asks for, given ``current`` (None: not set) in its file."""
    wanted_type, default = SETTINGS.get(path, (None, None))
    if wanted is None:
        return current is None
    if wanted_type is Duration:
        # The kubelet takes a zero duration as "not set", which is what kubeadm writes.
        current_seconds = duration(current) or duration(default)
        return current_seconds == (duration(wanted) or duration(default))
    if current is None:
        return default is not None and same_value(default, wanted)
    return same_value(current, wanted)


def outstanding(config: t.Mapping[str, t.Any], current: t.Any) -> t.Dict[str, t.Any]:
    """The part of ``config`` that ``current`` does not do yet."""
    result: t.Dict[str, t.Any] = {}
    for path, wanted in leaves(config):
        if not holds(path, lookup(current, path), wanted):
            nest(path, wanted, result)
    return result


def check(config: t.Mapping[str, t.Any]) -> t.Optional[str]:
    """What is wrong with settings that a user asks for, or None."""
    if not config:
        return "it is empty; name the settings to change, for example {serverTLSBootstrap: true}."
    for key in ("apiVersion", "kind"):
        if key in config:
            return f"it must not set {key}, which belongs to the file itself."
    for path, value in leaves(config):
        if not all(isinstance(step, str) for step in path):
            return f"the key {path[-1]!r} is not a string."
        problem = type_error(path, value)
        if problem:
            return problem
    return None


def flag_agrees(value: Value, path: Path, wanted: t.Any) -> bool:
    """Whether a flag says the same as the setting that is wanted."""
    if isinstance(value, list) or isinstance(wanted, list):
        return isinstance(value, list) and isinstance(wanted, list) and value == [str(part) for part in wanted]
    if isinstance(wanted, bool):
        return value in (_TRUE if wanted else _FALSE)
    if path in SETTINGS and SETTINGS[path][0] is Duration:
        return duration(value) == duration(wanted)
    return value == str(wanted)


def overriding(flags: t.Mapping[str, Value], config: t.Mapping[str, t.Any]) -> t.Dict[str, Value]:
    """The flags that make a setting of ``config`` void because they say something else and win over the file."""
    asked = list(leaves(config))
    found = {}
    for name, value in sorted(flags.items()):
        flag_path = CONFIG_FLAGS.get(name)
        if flag_path is None:
            continue
        for path, wanted in asked:
            below = path[: len(flag_path)] == flag_path
            if below and (path != flag_path or wanted is None or not flag_agrees(value, path, wanted)):
                found[name] = value
    return found
