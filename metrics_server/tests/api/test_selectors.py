# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_server.api.selectors import SelectorError, parse_field_selector, parse_label_selector

FIELDS = ("metadata.name", "metadata.namespace")


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a = b", {"a": "b"}, True),
        ("a=", {"a": ""}, True),
        ("a=", {}, False),
        ("a=,b=c", {"a": "", "b": "c"}, True),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (b, c)", {"a": "c"}, True),
        ("a in (b,c)", {}, False),
        ("a in ()", {"a": ""}, True),
        ("a in (,b)", {"a": ""}, True),
        ("a in (b,)", {"a": ""}, True),
        ("a in (b,,c)", {"a": ""}, True),
        ("a notin (b,c)", {}, True),
        ("a notin (b,c)", {"a": "b"}, False),
        ("a", {"a": "x"}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("! a", {"a": "x"}, False),
        ("a>1", {"a": "2"}, True),
        ("a>1", {"a": "1"}, False),
        ("a<10", {"a": "9"}, True),
        ("a<10", {"a": "nine"}, False),
        ("a<10", {}, False),
        ("in=in", {"in": "in"}, True),
        ("in in (in,notin)", {"in": "notin"}, True),
        ("x.y/a=b,!c , d in (e)", {"x.y/a": "b", "d": "e"}, True),
        ("app.kubernetes.io/name=web", {"app.kubernetes.io/name": "web"}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], matches: bool) -> None:
    assert parse_label_selector(selector).matches(labels) is matches


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b,", "found '', expected: identifier after ','"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
        ("a==!b", "unable to parse requirement: found '!', expected: identifier"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a>b", "the value must be an integer"),
        ("a>99999999999999999999", "the value must be an integer"),
        ("-a=b", "name part must consist of alphanumeric characters"),
        ("/a=b", "prefix part must be non-empty"),
        ("a/b/c=d", "a valid label key must consist of a name with an optional DNS subdomain prefix"),
        ("A.B/c=d", "a lowercase RFC 1123 subdomain"),
        (f"{'a' * 64}=b", "name part must be no more than 63 bytes"),
        (f"a={'b' * 64}", "must be no more than 63 bytes"),
        ("a=-b", "a valid label must be an empty string or consist of"),
        ("a=" + "b" * 20000, "longer than"),
    ],
)
def test_what_is_no_label_selector(selector: str, message: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_label_selector(selector)
    assert message in str(caught.value)


@given(st.text(alphabet="ab!=,()<> \tin/.-é\x00", max_size=30))
def test_any_text_is_a_selector_or_an_error(text: str) -> None:
    try:
        parse_label_selector(text).matches({"a": "b", "in": "1"})
    except SelectorError as error:
        assert str(error)


@given(st.text(max_size=30))
def test_any_text_is_a_field_selector_or_an_error(text: str) -> None:
    try:
        parse_field_selector(text, FIELDS).matches(lambda _: "x")
    except SelectorError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("selector", "name", "matches"),
    [
        ("", "x", True),
        (",", "x", True),
        ("metadata.name=x", "x", True),
        ("metadata.name==x", "y", False),
        ("metadata.name!=x", "y", True),
        ("metadata.name!=x,metadata.name!=y", "y", False),
        (r"metadata.name=a\,b\=c\\", "a,b=c\\", True),
    ],
)
def test_field_selectors(selector: str, name: str, matches: bool) -> None:
    assert parse_field_selector(selector, FIELDS).matches(lambda _: name) is matches


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("metadata.name", "can't understand 'metadata.name'"),
        ("spec.x=y", '"spec.x" is not a known field selector: only "metadata.name", "metadata.namespace"'),
        (r"metadata.name=a\b", "invalid escape sequence"),
        ("metadata.name=a=b", "unescaped character"),
    ],
)
def test_what_is_no_field_selector(selector: str, message: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_field_selector(selector, FIELDS)
    assert message in str(caught.value)
