# SPDX-License-Identifier: GPL-3.0-or-later
"""The parser of /metrics/resource: both of its ways, and what it does with lines that are wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.resource_text import Container, resource_text

from metrics_server.scrape import parse as parse_module
from metrics_server.scrape.batch import MAX_CONTAINERS, Batch, Layout, ParseError
from metrics_server.scrape.parse import parse_resource
from metrics_server.scrape.summary import parse_summary

NOW = 1_700_000_200_000

WEB = Container("default", "web-1", "app", 12.5, 52_428_800)
SIDE = Container("default", "web-1", "sidecar", 0.25, 1_048_576, time=1_700_000_099_500)
DNS = Container("kube-system", "coredns-1", "coredns", 4.710169, 12_533_760)
IDLE = Container("default", "idle", "app", 0.0, 0)


def plain(batch: Batch) -> dict[tuple[str, str, str], tuple[int, float, float, float]]:
    """Return a batch as a dictionary."""
    found = {}
    for (namespace, pod), index in batch.layout.pods.items():
        for name, slot in zip(batch.layout.names[index], batch.layout.slots[index], strict=True):
            found[namespace, pod, name] = (
                batch.times[slot],
                batch.cpu[slot],
                batch.memory[slot],
                batch.starts[slot],
            )
    assert len(found) == batch.layout.size == len(batch.times)
    if batch.times:
        assert (batch.oldest, batch.newest) == (min(batch.times), max(batch.times))
    return found


def expect(*containers: Container) -> dict[tuple[str, str, str], tuple[int, float, float, float]]:
    # A counter of 0 is no usage, of which a working set of 0 is the sign.
    return {
        (one.namespace, one.pod, one.name): (one.time, one.cpu, float(one.memory) if one.cpu else 0.0, one.start)
        for one in containers
    }


def refuse_careful(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on only the fast way may be used."""

    def fail(*_: object) -> None:
        raise AssertionError("the careful way was taken")

    monkeypatch.setattr(parse_module._Careful, "read", fail)


def test_reads_a_kubelets_answer() -> None:
    batch = parse_resource(resource_text([WEB, SIDE, DNS], node_swap=4096), None, NOW)
    assert plain(batch) == expect(WEB, SIDE, DNS)
    assert batch.node is not None
    assert (batch.node.time, batch.node.cpu, batch.node.memory, batch.node.swap) == (
        1_700_000_100_000,
        100.5,
        2_000_000_000.0,
        4096.0,
    )
    assert batch.bad == {}
    assert batch.layout.names[batch.layout.pods["default", "web-1"]] == ("app", "sidecar")


def test_takes_the_fast_way_when_nothing_came_or_went(monkeypatch: pytest.MonkeyPatch) -> None:
    first = parse_resource(resource_text([WEB, SIDE, DNS]), None, NOW)
    refuse_careful(monkeypatch)
    later = [
        Container(one.namespace, one.pod, one.name, one.cpu + 1, one.memory + 4096, time=one.time + 15_000)
        for one in (WEB, SIDE, DNS)
    ]
    second = parse_resource(resource_text(later, node_cpu=101.25, node_time=1_700_000_115_000), first.layout, NOW)
    assert second.layout is first.layout
    assert plain(second) == expect(*later)
    assert second.node is not None
    assert second.node.cpu == 101.25


def test_fast_way_with_start_times_that_carry_timestamps(monkeypatch: pytest.MonkeyPatch) -> None:
    def old_style(start: float) -> bytes:
        text = resource_text([Container("a", "b", "c", 1.5, 4096, start)])
        return re.sub(rb"(container_start_time_seconds\{.*)", rb"\1 1700000100000", text)

    first = parse_resource(old_style(1.7e9), None, NOW)
    refuse_careful(monkeypatch)
    second = parse_resource(old_style(1.7e9 + 50), first.layout, NOW)
    assert plain(second)["a", "b", "c"][3] == 1.7e9 + 50


def test_fast_way_where_a_container_has_no_start_time(monkeypatch: pytest.MonkeyPatch) -> None:
    without = Container("default", "web-1", "app", 1.0, 4096, start=0.0)
    first = parse_resource(resource_text([without, SIDE, DNS]), None, NOW)
    refuse_careful(monkeypatch)
    assert plain(parse_resource(resource_text([without, SIDE, DNS]), first.layout, NOW)) == expect(without, SIDE, DNS)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace(b'pod="web-1"', b'pod="web-2"'), id="another pod"),
        pytest.param(lambda text: text.replace(b"12.5 ", b"12,5 "), id="a value that is none"),
        pytest.param(lambda text: text.replace(b"12.5 ", b"NaN "), id="NaN"),
        pytest.param(lambda text: text.replace(b"12.5 ", b"+Inf "), id="infinite"),
        pytest.param(lambda text: text.replace(b"12.5 ", b"-12.5 "), id="negative"),
        pytest.param(lambda text: text.replace(b"12.5 1700000100000", b"12.5"), id="no timestamp"),
        pytest.param(lambda text: text.replace(b"12.5 1700000100000", b"12.5 17"), id="a timestamp of 1970"),
        pytest.param(
            lambda text: text + b'container_cpu_usage_seconds_total{container="z",namespace="n",pod="p"} 1\n',
            id="stray",
        ),
        pytest.param(lambda text: text.replace(b"node_cpu_usage_seconds_total 100.5", b"x 1"), id="no node"),
        pytest.param(lambda text: text.replace(b"1.7e+09", b"1.70000005e+09"), id="restarted"),
        pytest.param(lambda text: text[: len(text) // 2], id="cut off"),
    ],
)
def test_fast_way_gives_up_rather_than_guess(change: object) -> None:
    """Whatever differs from the known shape, the result is that of the careful way."""
    assert callable(change)
    text = resource_text([WEB, SIDE, DNS])
    layout = parse_resource(text, None, NOW).layout
    changed = change(text)
    assert changed != text
    again, fresh = parse_resource(changed, layout, NOW), parse_resource(changed, None, NOW)
    assert plain(again) == plain(fresh)
    assert (again.node, again.bad) == (fresh.node, fresh.bad)


def test_labels_in_any_order_and_spacing() -> None:
    text = (
        b'container_cpu_usage_seconds_total{pod="p",namespace="n",container="c"} 1.5 1700000100000\n'
        b'container_memory_working_set_bytes{ namespace = "n" , container="c", pod="p", } 4096\t1700000100000\r\n'
        b'container_start_time_seconds{namespace="n",pod="p",container="c",extra="x"} 1.7e9\n'
    )
    assert plain(parse_resource(text, None, NOW)) == {("n", "p", "c"): (1_700_000_100_000, 1.5, 4096.0, 1.7e9)}


def test_escaped_label_values() -> None:
    text = (
        rb'container_cpu_usage_seconds_total{container="a\"b\\c\nd",namespace="n",pod="}"} 1 1700000100000'
        b"\n"
        rb'container_memory_working_set_bytes{container="a\"b\\c\nd",namespace="n",pod="}"} 2 1700000100000'
    )
    assert list(plain(parse_resource(text, None, NOW))) == [("n", "}", 'a"b\\c\nd')]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p" 1 1700000100000', "labels"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod=p} 1 1700000100000', "labels"),
        (b'container_cpu_usage_seconds_total{container="x",container="y",namespace="n",pod="p"} 1', "labels"),
        (b'container_cpu_usage_seconds_total{container="\xff",namespace="n",pod="p"} 1', "labels"),
        (b"container_cpu_usage_seconds_total 1 1700000100000", "labels"),
        (b'container_cpu_usage_seconds_total{namespace="n",pod="p"} 1 1700000100000', "missing_label"),
        (b'container_cpu_usage_seconds_total{container="",namespace="n",pod="p"} 1', "missing_label"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p"} one', "value"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p"} NaN', "value"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p"} 1e300', "value"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p"} -1', "value"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p"} 1 2.5', "timestamp"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p"} 1 -5', "timestamp"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p"} 1 2 3', "syntax"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p"}', "syntax"),
        (b'container_cpu_usage_seconds_total{container="x",namespace="n",pod="p"}1', "syntax"),
        (b"<html>", "syntax"),
        (b"\x00\xff\xfe", "syntax"),
        (
            b'container_cpu_usage_seconds_total{container="app",namespace="default",pod="web-1"} 1 1700000000000',
            "duplicate",
        ),
        (b"node_cpu_usage_seconds_total 5 1700000100000", "duplicate"),
    ],
)
def test_one_bad_line_costs_one_line(line: bytes, reason: str) -> None:
    text = resource_text([WEB, SIDE, DNS])
    batch = parse_resource(text + line + b"\n", None, NOW)
    assert batch.bad == {reason: 1}
    assert plain(batch) == expect(WEB, SIDE, DNS)
    assert batch.node is not None
    assert batch.node.cpu == 100.5


def test_of_two_instances_the_newer_counts() -> None:
    newer = b'container_cpu_usage_seconds_total{container="app",namespace="default",pod="web-1"} 99 1700000100500\n'
    batch = parse_resource(resource_text([WEB, SIDE, DNS]) + newer, None, NOW)
    assert plain(batch)["default", "web-1", "app"][:2] == (1_700_000_100_500, 99.0)


def test_a_container_without_memory_takes_its_pod_with_it_but_not_others() -> None:
    text = resource_text([WEB, SIDE, DNS])
    text = b"\n".join(
        line for line in text.split(b"\n") if not (line.startswith(b"container_memory") and b"sidecar" in line)
    )
    batch = parse_resource(text, None, NOW)
    assert plain(batch) == expect(DNS)
    assert batch.layout.incomplete == 1


def test_zero_is_a_value() -> None:
    assert plain(parse_resource(resource_text([IDLE, WEB, SIDE]), None, NOW)) == expect(IDLE, WEB, SIDE)


def test_missing_timestamps_mean_now() -> None:
    text = re.sub(rb" 1700000\d+\n", b"\n", resource_text([WEB, DNS]))
    batch = parse_resource(text, None, NOW)
    assert {time for time, *_ in plain(batch).values()} == {NOW}
    assert batch.node is not None
    assert batch.node.time == NOW


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"<html><body>Login</body></html>", "no line of the answer can be used"),
        (b'{"node": {}}', "no line of the answer can be used"),
        (b"# TYPE scrape_error gauge\nscrape_error 1\n", "could not collect"),
        (b"go_goroutines 5\n", "none of the kubelet's resource metrics"),
    ],
)
def test_never_returns_nothing(body: bytes, text: str) -> None:
    with pytest.raises(ParseError, match=text):
        parse_resource(body, None, NOW)


def test_a_node_without_pods_is_fine() -> None:
    batch = parse_resource(resource_text([]), None, NOW)
    assert batch.layout.size == 0
    again = parse_resource(resource_text([]), batch.layout, NOW)
    assert again.layout is batch.layout


def test_the_number_of_containers_is_bounded() -> None:
    def lines(count: int) -> bytes:
        return b"".join(
            b'container_cpu_usage_seconds_total{container="c",namespace="n",pod="p%d"} 1 1700000100000\n' % number
            for number in range(count)
        )

    with pytest.raises(ParseError, match="more than 10000 containers"):
        parse_resource(lines(MAX_CONTAINERS + 1), None, NOW)


def test_500_pods() -> None:
    containers = [Container(f"ns-{i % 7}", f"pod-{i}", f"c{i % 3}", i / 8, i * 4096) for i in range(500)]
    text = resource_text(containers)
    first = parse_resource(text, None, NOW)
    assert plain(first) == plain(parse_resource(text, first.layout, NOW)) == expect(*containers)


_WORDS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
_CONTAINERS = st.lists(
    st.builds(
        Container,
        namespace=_WORDS,
        pod=_WORDS,
        name=_WORDS,
        cpu=st.floats(0, 1e8),
        memory=st.integers(0, 2**50),
        start=st.one_of(st.just(0.0), st.floats(1e9, 2e9)),
        time=st.integers(1_600_000_000_000, 1_800_000_000_000),
    ),
    max_size=12,
    unique_by=lambda one: (one.namespace, one.pod, one.name),
)


@given(_CONTAINERS, _CONTAINERS)
def test_both_ways_agree(before: list[Container], now: list[Container]) -> None:
    layout: Layout | None = parse_resource(resource_text(before), None, NOW).layout
    for containers in (before, now, now):
        text = resource_text(containers)
        batch = parse_resource(text, layout, NOW)
        assert plain(batch) == plain(parse_resource(text, None, NOW)) == expect(*containers)
        layout = batch.layout


_TEXT = resource_text([WEB, SIDE, DNS, IDLE], node_swap=1)
_LAYOUT = parse_resource(_TEXT, None, NOW).layout


# No deadline: on a busy machine an example may have to wait for the processor.
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutilated_text_never_breaks_and_both_ways_agree(data: st.DataObject) -> None:
    text = bytearray(_TEXT)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 60)))
        pieces = [
            b"",
            b"\n",
            b" ",
            b'"',
            b"{",
            b"}",
            b"1",
            b"e",
            b"#",
            b"\\",
            b",",
            b"\x00",
            b"\xff",
            bytes(_TEXT[-80:]),
        ]
        text[start:end] = data.draw(st.one_of(st.sampled_from(pieces), st.binary(max_size=12)))
    body = bytes(text)
    try:
        careful = parse_resource(body, None, NOW)
    except ParseError:
        with pytest.raises(ParseError):
            parse_resource(body, _LAYOUT, NOW)
        return
    fast = parse_resource(body, _LAYOUT, NOW)
    assert plain(fast) == plain(careful)
    assert fast.node == careful.node


@given(st.binary(max_size=300))
def test_any_bytes(body: bytes) -> None:
    with pytest.raises(ParseError):
        parse_resource(body, _LAYOUT, NOW)


# /stats/summary


def summary(**changes: object) -> bytes:
    container = {
        "name": "app",
        "startTime": "2023-11-14T22:13:20Z",
        "cpu": {"time": "2023-11-14T22:15:00Z", "usageNanoCores": 5, "usageCoreNanoSeconds": 12_500_000_000},
        "memory": {"time": "2023-11-14T22:15:00Z", "workingSetBytes": 52_428_800},
    }
    document = {
        "node": {
            "nodeName": "n1",
            "cpu": {"time": "2023-11-14T22:15:00Z", "usageCoreNanoSeconds": 100_500_000_000},
            "memory": {"time": "2023-11-14T22:15:00Z", "workingSetBytes": 2_000_000_000},
            "swap": {"time": "2023-11-14T22:15:00Z", "swapUsageBytes": 4096},
        },
        "pods": [
            {"podRef": {"name": "web-1", "namespace": "default", "uid": "u"}, "containers": [{**container, **changes}]},
            {"podRef": {"name": "coredns-1", "namespace": "kube-system"}, "containers": [{**container, "name": "dns"}]},
        ],
    }
    return json.dumps(document).encode()


def test_summary() -> None:
    batch = parse_summary(summary(), None, NOW)
    assert plain(batch) == {
        ("default", "web-1", "app"): (1_700_000_100_000, 12.5, 52_428_800.0, 1_700_000_000.0),
        ("kube-system", "coredns-1", "dns"): (1_700_000_100_000, 12.5, 52_428_800.0, 1_700_000_000.0),
    }
    assert batch.node is not None
    assert (batch.node.time, batch.node.cpu, batch.node.swap) == (1_700_000_100_000, 100.5, 4096.0)
    assert parse_summary(summary(), batch.layout, NOW).layout is batch.layout


@pytest.mark.parametrize(
    ("changes", "bad", "incomplete"),
    [
        ({"cpu": {"time": "2023-11-14T22:15:00Z"}}, {}, 1),
        ({"memory": None}, {}, 1),
        ({"cpu": "much"}, {"value": 1}, 0),
        ({"cpu": {"time": "yesterday", "usageCoreNanoSeconds": 1}}, {"value": 1}, 0),
        ({"cpu": {"time": "0001-01-01T00:00:00Z", "usageCoreNanoSeconds": 1}}, {"timestamp": 1}, 0),
        ({"name": ""}, {"missing_label": 1}, 0),
    ],
)
def test_summary_with_one_strange_container(changes: dict[str, object], bad: dict[str, int], incomplete: int) -> None:
    batch = parse_summary(summary(**changes), None, NOW)
    assert list(plain(batch)) == [("kube-system", "coredns-1", "dns")]
    assert batch.bad == bad
    assert batch.layout.incomplete == incomplete


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b'{"node": null, "pods": null}', b"{" * 100_000, b"text"])
def test_summary_that_is_none(body: bytes) -> None:
    with pytest.raises(ParseError):
        parse_summary(body, None, NOW)


def test_layouts_share_their_containers_as_long_as_none_comes_or_goes() -> None:
    text = resource_text([WEB, SIDE, DNS])
    first = parse_resource(text, None, NOW).layout
    assert parse_resource(text, first, NOW).layout is first
    # A line that cannot be used, or a restart: another text, but the same containers in the same slots.
    bad = parse_resource(text + b"container_memory_working_set_bytes{} 1\n", first, NOW).layout
    restarted = parse_resource(resource_text([replace(WEB, start=1_700_000_050.0), SIDE, DNS]), bad, NOW).layout
    for layout in (bad, restarted):
        assert layout is not first
        assert layout.same_containers(first)
        assert (layout.names, layout.slots, layout.size) == (first.names, first.slots, first.size)
    assert (bad.shapes, restarted.shapes == first.shapes) == (None, True)
    for others in ([WEB, SIDE], [WEB, SIDE, DNS, IDLE], [WEB, replace(SIDE, name="other"), DNS]):
        assert not parse_resource(resource_text(others), first, NOW).layout.same_containers(first)
