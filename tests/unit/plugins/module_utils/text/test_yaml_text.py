# SPDX-License-Identifier: GPL-3.0-or-later
"""Edits of YAML text: the meaning becomes what was asked for, and no other byte moves."""

from __future__ import annotations

import difflib
import random

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import (
    YamlText,
    YamlTextError,
    merged,
    render_scalar,
    same_value,
)

KUBELET = """\
# written by hand
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false   # nobody
  webhook:
    cacheTTL: 0s
    enabled: false
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}

# who may do what
authorization: {}
clusterDNS:
- 10.96.0.10
evictionHard:
kind: KubeletConfiguration
readOnlyPort:   10255 # old dashboards
staticPodPath: "/etc/kubernetes/manifests"
"""


def merge(text, desired):
    document = YamlText(text, "the file")
    document.merge(desired)
    assert yaml.safe_load(document.text) == merged(yaml.safe_load(text), desired)
    return document.text


def changed_lines(before, after):
    """(lines that went, lines that came)"""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in lines if line[0] == "-"], [line[2:] for line in lines if line[0] == "+"]


@pytest.mark.parametrize(
    ("desired", "gone", "came"),
    [
        (
            {"authentication": {"webhook": {"enabled": True}}},
            ["    enabled: false"],
            ["    enabled: true"],
        ),
        (
            {"authentication": {"anonymous": {"enabled": True}}},
            ["    enabled: false   # nobody"],
            ["    enabled: true   # nobody"],
        ),
        ({"readOnlyPort": 0}, ["readOnlyPort:   10255 # old dashboards"], ["readOnlyPort:   0 # old dashboards"]),
        ({"readOnlyPort": None}, ["readOnlyPort:   10255 # old dashboards"], []),
        ({"serverTLSBootstrap": True}, [], ["serverTLSBootstrap: true"]),
        (
            {"authentication": {"x509": {"clientCAFile": "/ca"}}},
            ["  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}"],
            ["  x509: {clientCAFile: /ca}"],
        ),
        (
            {"authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "5m"}}},
            ["authorization: {}"],
            ["authorization:", "  mode: Webhook", "  webhook:", "    cacheAuthorizedTTL: 5m"],
        ),
        ({"evictionHard": {"memory.available": "5%"}}, [], ["  memory.available: 5%"]),
        ({"clusterDNS": ["10.233.0.3", "10"]}, ["- 10.96.0.10"], ['- "10.233.0.3"', '- "10"']),
        ({"staticPodPath": "/m"}, ['staticPodPath: "/etc/kubernetes/manifests"'], ['staticPodPath: "/m"']),
        ({"authentication": {"anonymous": None, "webhook": None}}, None, []),
        (
            {"evictionHard": None, "clusterDNS": []},
            ["- 10.96.0.10", "clusterDNS:", "evictionHard:"],
            ["clusterDNS: []"],
        ),
        ({"missing": None, "authentication": {"missing": None}}, [], []),
        ({"new": {}}, [], ["new: {}"]),
    ],
)
def test_an_edit_moves_only_its_own_lines(desired, gone, came):
    after = merge(KUBELET, desired)
    lost, found = changed_lines(KUBELET, after)
    if gone is not None:
        assert sorted(lost) == sorted(gone)
    assert sorted(found) == sorted(came)


def test_removing_the_last_entries_leaves_an_empty_mapping():
    assert merge("a:\n  b: 1\nc: 2\n", {"a": {"b": None}}) == "a: {}\nc: 2\n"
    assert merge("a: 1\n", {"a": None}) == "{}\n"


def test_a_comment_behind_a_key_whose_block_goes_stays():
    assert merge("a: # why\n  b: 1\nc: 2\n", {"a": {"b": None}}) == "a: {} # why\nc: 2\n"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "{}\n", "null\n"])
def test_an_empty_document_becomes_a_mapping(text):
    assert yaml.safe_load(merge(text, {"a": {"b": 1}})) == {"a": {"b": 1}}
    assert "# nothing yet" not in text or merge(text, {"a": 1}).startswith("# nothing yet")


def test_windows_line_ends_and_a_missing_last_line_end_survive():
    assert merge("a: 1\r\nb: 2\r\n", {"c": {"d": 3}, "a": 4}) == "a: 4\r\nb: 2\r\nc:\r\n  d: 3\r\n"
    assert merge("a: 1", {"b": 2}) == "a: 1\nb: 2"


def test_the_indentation_of_the_document_is_kept():
    text = "authentication:\n    anonymous:\n        enabled: false\nkind: X\n"
    after = merge(text, {"authentication": {"webhook": {"enabled": True}}, "authorization": {"webhook": {"t": "1s"}}})
    assert after == (
        "authentication:\n    anonymous:\n        enabled: false\n    webhook:\n        enabled: true\n"
        "kind: X\nauthorization:\n    webhook:\n        t: 1s\n"
    )


def test_json_keeps_its_form():
    text = '{\n  "kind": "KubeletConfiguration",\n  "authentication": {\n    "webhook": {"enabled": false}\n  }\n}\n'
    after = merge(text, {"authentication": {"webhook": {"enabled": True}}, "readOnlyPort": 0})
    assert after == (
        '{\n  "kind": "KubeletConfiguration",\n  "authentication": {\n    "webhook": {"enabled": true}\n  },\n'
        '  "readOnlyPort": 0\n}\n'
    )


def test_json_indented_with_tabs_is_taken_as_json():
    document = YamlText('{\n\t"a": {\n\t\t"b": 1\n\t}\n}\n', "f")
    document.merge({"a": {"c": True}})
    assert document.text == '{\n\t"a": {\n\t\t"b": 1,\n\t\t"c": true\n\t}\n}\n'


def test_block_scalars_before_the_place_of_insertion():
    text = "a: |\n  one\n\n  two\n\n# end\n"
    after = merge(text, {"b": 1})
    assert after == "a: |\n  one\n\n  two\nb: 1\n\n# end\n"
    assert merge("x:\n  a: |+\n    one\n\ny: 1\n", {"x": {"b": 1}}) == "x:\n  a: |+\n    one\n\n  b: 1\ny: 1\n"


def test_items_of_sequences():
    text = 'c:\n  - one   # first\n  - "two"\n  # between\n  - three\nd: 1\n'
    document = YamlText(text, "f")
    document.set(["c", 1], "2")
    assert '  - "2"\n' in document.text
    document.set(["c", 3], "four")
    document.insert(["c", 0], "zero")
    assert document.data["c"] == ["zero", "one", "2", "three", "four"]
    document.delete(["c", 1])
    assert document.text == 'c:\n  - zero\n  - "2"\n  # between\n  - three\n  - four\nd: 1\n'
    for _ in range(4):
        document.delete(["c", 0])
    assert document.data == {"c": [], "d": 1}
    assert document.text.endswith("d: 1\n")


def test_dashes_in_comments_are_none():
    text = "a:\n- 1 # x - y\n# - z\n- # p - # q\n  2\n- # r-s\n  3\n"
    last = YamlText(text, "x")
    last.delete(["a", 2])
    assert last.text == "a:\n- 1 # x - y\n# - z\n- # p - # q\n  2\n"
    last.delete(["a", 1])
    assert last.text == "a:\n- 1 # x - y\n# - z\n"
    middle = YamlText(text, "x")
    middle.delete(["a", 1])
    assert middle.text == "a:\n- 1 # x - y\n# - z\n- # r-s\n  3\n"
    before = YamlText(text, "x")
    before.insert(["a", 2], "new")
    assert before.text == text.replace("- # r-s", "- new\n- # r-s")


def test_items_of_flow_sequences():
    document = YamlText('c: ["one", "two"] # both\n', "f")
    document.set(["c", 2], "three")
    document.delete(["c", 0])
    document.insert(["c", 0], "zero")
    assert document.text == 'c: ["zero", "two", "three"] # both\n'
    document = YamlText('{\n "c": [\n  "one",\n  "two"\n ]\n}\n', "f")
    document.set(["c", 2], "three")
    document.insert(["c", 0], "zero")
    assert document.text == '{\n "c": [\n  "zero",\n  "one",\n  "two",\n  "three"\n ]\n}\n'


def test_mappings_as_items():
    document = YamlText("args:\n- name: a\n  value: b\n", "f")
    document.set(["args", 1], {"name": "c", "value": "true"})
    assert document.text == 'args:\n- name: a\n  value: b\n- name: c\n  value: "true"\n'
    document.delete(["args", 0])
    assert document.text == 'args:\n- name: c\n  value: "true"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2\n", "not valid YAML"),
        ("a: 1\n b: 2\n", "not valid YAML"),
        ("a: 1\na: 2\n", "sets 'a' twice"),
        ("x:\n  - {a: 1, a: 2}\n", "sets 'a' twice"),
        ("a: 1\n---\nb: 2\n", "2 YAML documents"),
        ("a: \x01\n", "not valid YAML"),
        ("{" * 3000, "nested too deeply"),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
        ("? [1]\n: 2\n", "not valid YAML"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_one_sentence(text, words):
    with pytest.raises(YamlTextError) as error:
        YamlText(text, "/etc/x.yaml")
    message = str(error.value)
    assert message.startswith("/etc/x.yaml ") and words in message and "\n" not in message


@pytest.mark.parametrize(
    ("text", "desired"),
    [
        ("base: &b {x: 1}\nuse: *b\n", {"base": {"x": 2}}),
        ("base: &b\n  x: 1\nuse:\n  <<: *b\n", {"use": {"x": 2}}),
        ("base: &b\n  x: 1\nuse:\n  <<: *b\n", {"base": {"x": 2}}),
        ("base: &b\n  x: 1\nuse: *b\n", {"base": None}),
    ],
)
def test_shared_nodes_are_refused_and_the_text_stays(text, desired):
    document = YamlText(text, "f")
    try:
        document.merge(desired)
    except YamlTextError as error:
        assert "by hand" in str(error)
    else:
        assert yaml.safe_load(document.text) == merged(yaml.safe_load(text), desired)


def test_a_list_is_no_mapping_of_settings():
    with pytest.raises(YamlTextError, match="not a mapping"):
        YamlText("- a\n", "f").merge({"b": 1})


@pytest.mark.parametrize(
    "value",
    ["yes", "n", "on", "0755", "1e3", "0x1f", "1_000", "10:30", "2026-01-01", "", "~", "null", "a: b", "a #b", "- x",
     "*x", "%x", "@x", "'", '"', "tab\there", "line\nbreak", "ünïcode", "\x07", "<<", "=", ".inf", " x ", "5%", "2m0s"],
)  # fmt: skip
@pytest.mark.parametrize("style", [None, "'", '"'])
def test_strings_stay_strings(value, style):
    text = render_scalar(value, style)
    assert "\n" not in text
    assert yaml.safe_load(f"[{text}]") == [value]
    assert yaml.safe_load(f"a: {text}") == {"a": value}


@pytest.mark.parametrize("value", ["y", "N", "1e3", "0o17", "0b1", "+1", "1:30"])
def test_what_other_parsers_take_for_something_else_is_quoted(value):
    assert render_scalar(value) == f'"{value}"'


def test_same_value_tells_types_apart():
    assert not same_value(True, 1)
    assert not same_value("1", 1)
    assert not same_value({"a": [True]}, {"a": [1]})
    assert same_value({"a": [1, {"b": None}]}, {"a": [1.0, {"b": None}]})


def random_value(rng, depth):
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(3))]
    if kind == 6:
        return {rng.choice("abcdef"): random_value(rng, depth - 1) for _ in range(rng.randrange(4))}
    return rng.choice([True, False, 7, "text", "true", "x: y", "a # b", "", 1.5, "-", "*"])


def random_change(rng, depth):
    result = {}
    for _ in range(rng.randrange(1, 4)):
        key = rng.choice("abcdefgh")
        nested = depth and rng.random() < 0.5
        result[key] = random_change(rng, depth - 1) if nested else rng.choice([None, random_value(rng, 1)])
    return result


@pytest.mark.parametrize("seed", range(300))
def test_any_merge_means_what_it_has_to_mean(seed):
    rng = random.Random(seed)
    data = {key: random_value(rng, 3) for key in "abcd"}
    flow = rng.choice([False, None, True])
    text = yaml.safe_dump(data, default_flow_style=flow, indent=rng.choice([2, 4]), sort_keys=False)
    desired = random_change(rng, 2)
    document = YamlText(text, "f")
    document.merge(desired)
    assert same_value(yaml.safe_load(document.text), merged(data, desired))
    again = document.text
    document.merge(desired)
    assert document.text == again
