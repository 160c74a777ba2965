# SPDX-License-Identifier: GPL-3.0-or-later
"""What pflag itself made of command lines, and which flags the components have (see corpus/pflag)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flag_kinds, flag_plan, flags
from hypothesis import given
from hypothesis import strategies as st

CORPUS = Path(__file__).parents[2] / "corpus" / "pflag"
LINES = json.loads((CORPUS / "lines.json").read_text())
FLAGS = json.loads((CORPUS / "flags-1.37.2.json").read_text())
KINDS = {
    "bool": flag_kinds.BOOLEAN,
    "version": flag_kinds.BOOLEAN,
    "stringSlice": flag_kinds.LIST,
    "int32Slice": flag_kinds.LIST,
    "stringArray": flag_kinds.ARRAY,
    "namedCertKey": flag_kinds.ARRAY,
    "reserved-memory": flag_kinds.ARRAY,
    "mapStringString": flag_kinds.MAP,
    "mapStringBool": flag_kinds.MAP,
    "stringToString": flag_kinds.MAP,
    "colonSeparatedMultimapStringString": flag_kinds.MAP,
}


@pytest.mark.parametrize("component", sorted(FLAGS))
def test_the_kind_of_every_flag_is_known(component):
    for flag in FLAGS[component]:
        kind = flag_kinds.kind_of(component, flags.normalize(flag["Name"]))
        assert kind == KINDS.get(flag["Type"], flag_kinds.SCALAR), flag["Name"]
        assert (kind == flag_kinds.BOOLEAN) == bool(flag["NoOpt"]), flag["Name"]


def pairs(text):
    found = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        if pair:
            assert equals
            found[key.strip()] = value.strip()
    return found


def test_a_command_line_means_what_it_means_to_pflag():
    checked = 0
    for line in LINES:
        if "error" in line:
            continue
        component = line["component"]
        found = flags.effective(flags.parse(line["words"], component), component)
        expected = line.get("means", {})
        for name, value in expected.items():
            checked += 1
            assert (pairs(found[name]) if isinstance(value, dict) else found[name]) == value, line
        assert found.keys() == expected.keys(), line
    assert checked > 700


def test_lists_that_pflag_refuses_are_refused():
    given = [word.partition("=")[2] for line in LINES for word in line["words"] if word.startswith("--")]
    errors = [line["error"] for line in LINES if "parse error" in line.get("error", "")]
    refused = {text for text in given if any(f"invalid argument {json.dumps(text)} for" in error for error in errors)}
    assert len(refused) >= 3
    for text in refused:
        with pytest.raises(flags.FlagError):
            flags.read_list(text)


NAMES = st.sampled_from(
    ["requestheader-allowed-names", "feature-gates", "anonymous-auth", "v", "tls-sni-cert-key", "unheard-of"]
)
WORDS = st.lists(
    st.one_of(
        st.builds(lambda name, value: f"--{name}={value}", NAMES, st.text('a,"= -', max_size=6)),
        st.builds(lambda name: f"--{name}", NAMES),
        st.text("a-,", max_size=3),
    ),
    max_size=8,
)


@given(WORDS)
def test_every_word_belongs_to_one_flag_at_most(words):
    found = flags.parse(words, "kube-apiserver")
    spans = [(flag.start, flag.end) for flag in found]
    assert spans == sorted(spans)
    assert all(spans[index][1] <= spans[index + 1][0] for index in range(len(spans) - 1))
    flags.effective(found, "kube-apiserver")


@given(WORDS, st.lists(st.text('ab", ', max_size=4), max_size=4))
def test_a_plan_arrives_at_what_is_wanted(words, names):
    """The steps of a plan, carried out on the words, give the meaning that is wanted; a second plan has no step."""
    component, wanted = "kube-apiserver", {"requestheader-allowed-names": names, "v": 4, "anonymous-auth": False}
    words = [word for word in words if word != "--"]
    for _step in range(40):
        steps = flag_plan.plan(flags.parse(words, component), wanted, component)
        if not steps:
            break
        step = steps[0]
        text = [] if step.action == "remove" else [f"--{step.name}={step.value}"]
        start, end = (step.flag.start, step.flag.end) if step.flag else (0, 0)
        words = words[:start] + text + words[end:]
    found = flags.effective(flags.parse(words, component), component)
    assert found["requestheader-allowed-names"] == names
    assert (found["v"], found["anonymous-auth"]) == ("4", "false")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=5), max_size=5))
def test_any_list_survives_writing_and_reading(entries):
    assert flags.read_list(flags.write_list(entries)) == entries
