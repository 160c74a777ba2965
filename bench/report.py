# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures as a Markdown table and as a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TypedDict

Figures = dict[str, float]


class Results(TypedDict):
    """One run of the bench."""

    date: str
    pods: int
    resolution: float
    processors: int
    processor: str
    python: str
    minutes: float
    #: The highest load average that was seen.
    load: float
    #: By number of nodes, then by server.
    sizes: dict[str, dict[str, Figures]]


#: The highest ratio that is aimed at: for every number of nodes, or for some.
Goal = float | Mapping[int, float]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    key: str
    show: Callable[[float], str]
    goal: Goal = field(default_factory=dict)

    def goal_at(self, nodes: int) -> float | None:
        """Return the goal at a size, or None where there is none."""
        return self.goal if isinstance(self.goal, float) else self.goal.get(nodes)


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _unit(unit: str) -> Callable[[float], str]:
    return lambda value: f"{_number(value)} {unit}"


_QUESTIONS = {
    "pod": "one pod",
    "pod, 8 clients": "one pod, 8 clients",
    "namespace": "one namespace",
    "namespace, 8 clients": "one namespace, 8 clients",
    "nodes": "all nodes",
    "pods": "all pods",
    "pods, gzip": "all pods, gzip",
    "pods, protobuf": "all pods, protobuf",
}
#: Answers with all objects, which are rendered ahead.
_LISTS = ("nodes", "pods", "pods, gzip", "pods, protobuf")


_NO_WORSE = 1.0
_A_THIRD = 0.35
_MEMORY = {2: 0.85, 100: 0.6, 1000: 0.22, 5000: 0.15}
_SCRAPE = {100: 0.6, 1000: 0.25, 5000: 0.25}
_START = {5000: 0.5}


def _latency(key: str) -> Goal:
    return _A_THIRD if key in _LISTS else _NO_WORSE


_ROWS = (
    Row("CPU for one scrape of a node", "cpu_us_per_scrape", _unit("µs"), _SCRAPE),
    Row("CPU in the steady state (1000m is one core)", "cpu_millicores", _unit("m"), _SCRAPE),
    Row("memory in the steady state", "rss_mib", _unit("MiB"), _MEMORY),
    Row("memory, peak with 4 full lists at once", "rss_four_lists_mib", _unit("MiB"), _MEMORY),
    Row("age of a sample, median", "age_median", _unit("s")),
    Row("age of a sample, p99", "age_p99", _unit("s")),
    Row("from start to all nodes served", "seconds_to_all", _unit("s"), _START),
    *(Row(f"{title}: p50", f"{key}: p50", _unit("ms"), _latency(key)) for key, title in _QUESTIONS.items()),
    *(Row(f"{title}: p99", f"{key}: p99", _unit("ms"), _latency(key)) for key, title in _QUESTIONS.items()),
    *(Row(f"{title}: CPU of the server", f"{key}: CPU", _unit("ms"), _NO_WORSE) for key, title in _QUESTIONS.items()),
    Row("usual life: CPU", "life: CPU", _unit("m"), _NO_WORSE),
    Row("usual life, one pod: p50", "life, pod: p50", _unit("ms"), _NO_WORSE),
    Row("usual life, one pod: p99", "life, pod: p99", _unit("ms"), _NO_WORSE),
    Row("usual life, a probe: slowest", "life, probe: p99", _unit("ms"), _NO_WORSE),
    Row("usual life, Prometheus: p50", "life, Prometheus: p50", _unit("ms"), _NO_WORSE),
    Row("listing anew: CPU", "relist: CPU", _unit("ms"), _NO_WORSE),
    Row("listing anew: peak of the memory", "relist: peak", _unit("MiB"), _MEMORY),
    Row("listing anew, one pod: p99", "relist, pod: p99", _unit("ms"), _NO_WORSE),
    Row("listing anew, one pod: slowest", "relist, pod: slowest", _unit("ms"), _NO_WORSE),
)


def markdown(results: Results) -> str:
    """Return the tables, one a size."""
    return "\n".join(_lines(results))


def _lines(results: Results) -> Iterator[str]:
    yield (
        f"{results['date']}, {results['processors']} cores of {results['processor']}, load average up to "
        f"{results['load']:.1f}, Python {results['python']}. {results['pods']} pods a node, a scrape each "
        f"{results['resolution']:.0f} s. The run took {results['minutes']:.0f} minutes."
    )
    missed: list[str] = []
    for size, servers in results["sizes"].items():
        upstream, ours = servers.get("upstream"), servers.get("ours")
        yield f"\n### {int(size):,} nodes\n"
        yield "| | upstream | this server | ratio | goal |"
        yield "|---|---:|---:|---:|---:|"
        for row in _ROWS:
            if not any(row.key in one for one in servers.values()):
                continue
            cells = [row.show(one[row.key]) if one and row.key in one else "" for one in (upstream, ours)]
            ratio = ours[row.key] / upstream[row.key] if upstream and ours and upstream[row.key] > 0 else None
            goal = row.goal_at(int(size))
            shown = ["" if value is None else f"{value:.2f}" for value in (ratio, goal)]
            yield f"| {row.title} | {' | '.join([*cells, *shown])} |"
            # What the table shows is what is judged.
            if ratio is not None and goal is not None and round(ratio, 2) > goal:
                missed.append(f"{row.title} at {int(size):,} nodes: {shown[0]}, goal {shown[1]}")
        failed = [f"{name} {one['failed_scrapes']:.0f}" for name, one in servers.items() if one["failed_scrapes"]]
        yield f"\nFailed scrapes while measuring: {', '.join(failed) or 'none'}."
    if all("upstream" in one and "ours" in one for one in results["sizes"].values()):
        yield "\n### Goals that this run missed\n"
        yield "".join(f"- {one}\n" for one in missed) or "None.\n"


def summary(results: Results) -> str:
    """Return the few lines for the README: the largest size."""
    size, servers = max(results["sizes"].items(), key=lambda item: int(item[0]))
    upstream, ours = servers["upstream"], servers["ours"]
    lines = [f"| {int(size):,} nodes, {int(size) * results['pods']:,} pods | upstream v0.9.0 | this server |"]
    lines.append("|---|---:|---:|")
    for row in _ROWS:
        if row.key in ("cpu_us_per_scrape", "rss_mib", "age_median", "pod: p99", "pods: p50"):
            lines.append(f"| {row.title} | {row.show(upstream[row.key])} | {row.show(ours[row.key])} |")
    return "\n".join(lines)


def write(root: Path, results: Results) -> None:
    """Put the results into the documents."""
    (root / "docs" / "bench.svg").write_text(drawing(results))
    _replace(root / "docs" / "bench.md", markdown(results))
    _replace(root / "README.md", summary(results))


def _replace(path: Path, text: str) -> None:
    begin, end = "<!-- figures -->\n", "<!-- end of figures -->"
    document = path.read_text()
    head, found, rest = document.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{path} has no place for the figures: the lines {begin.strip()} and {end}")
    path.write_text(f"{head}{begin}\n{text.strip()}\n\n{end}{tail}")


# The drawing: one panel a figure, in it a pair of bars a size, each as a part of the pair's larger one.

_PANELS = (
    ("cpu_us_per_scrape", "CPU for one scrape"),
    ("rss_mib", "Memory"),
    ("age_median", "Age of a sample, median"),
    ("pod: p99", "One pod, p99"),
    ("pods: p50", "All pods as JSON, p50"),
    ("pods: CPU", "All pods as JSON, CPU"),
)
_COLOURS = {"upstream": "#8a94a6", "ours": "#1769aa"}
_WIDTH, _PANEL, _TOP, _BAR, _COLUMNS = 900, 300, 58, 14, 3


def drawing(results: Results) -> str:
    """Return an SVG document."""
    sizes = results["sizes"]
    panel_height = 30 + len(sizes) * (2 * _BAR + 14)
    rows = -(-len(_PANELS) // _COLUMNS)
    height = _TOP + rows * panel_height + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="12" fill="#1c2430">',
        "<title>Upstream metrics-server and this server, side by side; shorter is better</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="24" font-size="15" font-weight="bold">Shorter is better</text>',
    ]
    for number, (name, label) in enumerate((("upstream", "upstream metrics-server v0.9.0"), ("ours", "this server"))):
        x = 180 + 230 * number
        parts.append(f'<rect x="{x}" y="13" width="14" height="14" fill="{_COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 20}" y="24">{label}</text>')
    rows_by_key = {row.key: row for row in _ROWS}
    for number, (key, title) in enumerate(_PANELS):
        left = 16 + number % _COLUMNS * _PANEL
        y = _TOP + number // _COLUMNS * panel_height
        parts.append(f'<text x="{left}" y="{y + 10}" font-weight="bold">{escape(title)}</text>')
        for place, (size, servers) in enumerate(sizes.items()):
            top = y + 20 + place * (2 * _BAR + 14)
            largest = max(one[key] for one in servers.values()) or 1.0
            parts.append(f'<text x="{left + 36}" y="{top + _BAR + 4}" text-anchor="end">{int(size)}</text>')
            for line, (name, one) in enumerate(servers.items()):
                width = max(1.0, 150 * one[key] / largest)
                place_y = top + line * _BAR
                parts.append(
                    f'<rect x="{left + 42}" y="{place_y}" width="{width:.1f}" height="{_BAR - 2}" '
                    f'fill="{_COLOURS[name]}"/>'
                )
                text = escape(rows_by_key[key].show(one[key]))
                parts.append(f'<text x="{left + 46 + width:.1f}" y="{place_y + 10}" font-size="11">{text}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
