# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the text of /metrics/resource."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Container:
    """One container of a fake node."""

    namespace: str
    pod: str
    name: str
    cpu: float
    memory: int
    start: float = 1_700_000_000.0
    #: Milliseconds.
    time: int = 1_700_000_100_000


def number(value: float) -> str:
    """Return a number as Go's Prometheus library prints it: 1.5, 1e+06, 1.253376e+07."""
    if value == int(value) and abs(value) < 1_000_000:
        return str(int(value))
    if abs(value) >= 1_000_000:
        mantissa, _, exponent = f"{value!r}".partition("e")
        if not exponent:
            digits = f"{value:.17g}"
            mantissa, _, exponent = f"{float(digits):.16e}".partition("e")
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e+{int(exponent):02d}"
    return repr(value)


def resource_text(
    containers: Iterable[Container],
    *,
    node_cpu: float | None = 100.5,
    node_memory: int | None = 2_000_000_000,
    node_swap: int | None = None,
    node_time: int = 1_700_000_100_000,
    pods: bool = True,
) -> bytes:
    """Return what a kubelet prints: families in order of their names, series in order of their labels."""
    ordered = sorted(containers, key=lambda one: (one.name, one.namespace, one.pod))
    lines: list[str] = []

    def family(name: str, kind: str, series: Iterable[str]) -> None:
        lines.append(f"# HELP {name} [STABLE] Something about {name}")
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(series)

    def labels(one: Container) -> str:
        return f'{{container="{one.name}",namespace="{one.namespace}",pod="{one.pod}"}}'

    cpu, memory, start = (
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_start_time_seconds",
    )
    family(cpu, "counter", (f"{cpu}{labels(one)} {number(one.cpu)} {one.time}" for one in ordered))
    family(memory, "gauge", (f"{memory}{labels(one)} {number(one.memory)} {one.time}" for one in ordered))
    family(start, "gauge", (f"{start}{labels(one)} {number(one.start)}" for one in ordered if one.start))
    for name, value in (
        ("node_cpu_usage_seconds_total", node_cpu),
        ("node_memory_working_set_bytes", node_memory),
        ("node_swap_usage_bytes", node_swap),
    ):
        if value is not None:
            family(name, "gauge", [f"{name} {number(value)} {node_time}"])
    if pods:
        sums: dict[tuple[str, str], float] = {}
        for one in ordered:
            key = (one.namespace, one.pod)
            sums[key] = sums.get(key, 0.0) + one.cpu
        name = "pod_cpu_usage_seconds_total"
        family(
            name,
            "counter",
            (
                f'{name}{{namespace="{namespace}",pod="{pod}"}} {number(value)} {node_time}'
                for (namespace, pod), value in sorted(sums.items())
            ),
        )
    family("resource_scrape_error", "gauge", ["resource_scrape_error 0"])
    return ("\n".join(lines) + "\n").encode()
