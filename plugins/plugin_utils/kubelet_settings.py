# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the user asks of one kubelet, in real types: older versions of Ansible hand on text."""

from __future__ import annotations

import re
import typing as t

Facts = t.Mapping[str, t.Any]


class RolloutError(ValueError):
    """One sentence for the user: what was asked for cannot be done."""


class Settings(t.NamedTuple):
    """What the user asks of one kubelet, in real types."""

    webhook: bool = True
    token_cache_ttl: str = ""
    authorized_cache_ttl: str = ""
    unauthorized_cache_ttl: str = ""
    client_ca_file: str = ""
    serving_ca_file: str = ""
    read_only_port: int = 0
    serving_certificates: bool = True
    tls_cert_file: str = ""
    tls_private_key_file: str = ""
    rotate_certificates: bool = False
    restart_stale: bool = False

    @classmethod
    def of(cls, values: Facts) -> Settings:
        """From variables, which older versions of Ansible hand on as text. Raises RolloutError."""
        found = {}
        for name, default in cls._field_defaults.items():
            value = values.get(name, default)
            if isinstance(default, bool):
                found[name] = truth(value, "kubelet_access_" + name)
            elif isinstance(default, int):
                found[name] = whole(value, "kubelet_access_" + name)
            else:
                found[name] = "" if value is None else str(value)
        return cls(**found)


def truth(value: t.Any, name: str) -> bool:
    """A boolean that may be text. Raises RolloutError."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "yes", "on", "1", "y", "t"):
        return True
    if text in ("false", "no", "off", "0", "n", "f", "", "none"):
        return False
    raise RolloutError(f"{name} is {value!r}, and has to be true or false.")


def whole(value: t.Any, name: str) -> int:
    """A number that may be text. Raises RolloutError."""
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"\d+", text):
        raise RolloutError(f"{name} is {value!r}, and has to be a whole number.")
    return int(text)
