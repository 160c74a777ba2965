# SPDX-License-Identifier: GPL-3.0-or-later
"""What plugins compute with and serialize has Python's own types, whatever Ansible wrapped it in."""

from __future__ import annotations

import pytest
import yaml
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native

NESTED = {"path": "/etc/kubernetes/pki/ca.crt", "list": ["a", 2, 2.5, True, None], "inner": {"key": b"bytes"}}


class Marked(str):
    """As ansible-core 2.18 marks text: its methods return its own kind."""

    def __str__(self):
        return self


class Encrypted:
    _ciphertext = "$ANSIBLE_VAULT"

    def __str__(self):
        return Marked("secret")


def types(value):
    if isinstance(value, dict):
        return {(type(key), key): types(entry) for key, entry in value.items()}
    return [types(entry) for entry in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("value", [NESTED, wrap_var(NESTED), wrap_var(["x", b"y"]), wrap_var("x"), wrap_var(b"x")])
def test_what_ansible_wraps_becomes_plain(value):
    plain = native(value)
    assert plain == value
    assert {str, int, float, bool, bytes, dict, type(None)} >= set(flattened(types(plain)))


def flattened(tree):
    if isinstance(tree, dict):
        for (kind, _key), entry in tree.items():
            yield kind
            yield from flattened(entry)
    elif isinstance(tree, list):
        for entry in tree:
            yield from flattened(entry)
    else:
        yield tree


def test_marked_text_is_plain_in_keys_and_values():
    plain = native({Marked("a"): (Marked("b"), {Marked("c")})})
    assert types(plain) == {(str, "a"): [str, [str]]}
    assert yaml.safe_dump(plain) == "a:\n- b\n- - c\n"


def test_the_vault_is_opened():
    assert (native(Encrypted()), type(native(Encrypted()))) == ("secret", str)
