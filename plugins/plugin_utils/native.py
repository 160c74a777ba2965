# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values as Ansible passes them to plugins, in Python's own types.

ansible-core 2.18 marks what hosts returned with subclasses of str and bytes, whose methods return the same subclasses
again; later versions tag every kind of value with its origin. Serializers such as PyYAML refuse both.
"""

from __future__ import annotations

import functools
import typing as t
from collections.abc import Mapping, Set


def native(value: t.Any) -> t.Any:
    """The same data in Python's own types, keys included. What the vault encrypts is decrypted."""
    if isinstance(value, Mapping):
        return {native(key): native(entry) for key, entry in value.items()}
    if hasattr(value, "_ciphertext"):
        return str.__str__(str(value))
    if isinstance(value, str):
        # str(value) would call the subclass, which returns itself.
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(memoryview(value))
    if isinstance(value, (list, tuple, Set)):
        return [native(entry) for entry in value]
    for kind in (int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def with_native_arguments(function: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
    """A filter that gets its arguments in Python's own types."""

    @functools.wraps(function)
    def call(*arguments: t.Any, **options: t.Any) -> t.Any:
        return function(*map(native, arguments), **native(options))

    return call
