# SPDX-License-Identifier: GPL-3.0-or-later
"""What one scrape of a 30-pod node costs the server in CPU time, step by step, without any network.

Run it with the server's environment: `PYTHONPATH=metrics_server/src python bench/engine_micro.py`. The minimum over
many rounds is printed, which is what the code needs when nobody else wants the machine.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from metrics_server.api.protobuf import MEASURED
from metrics_server.kube.entries import PodEntry
from metrics_server.scrape.parse import parse_resource
from metrics_server.store import Store

RESOLUTION_MS = 15_000
START_MS = 1_700_000_000_000


def node_text(pods: int, step: int) -> bytes:
    """Return the text of one scrape; counters grow with the step."""
    values = random.Random(step)
    containers = sorted(
        (f"c{number % 3}", f"ns{number % 5}", f"app-{number}-7d9f8b6c5d-x{number:04}") for number in range(pods)
    )
    now = START_MS + step * RESOLUTION_MS
    lines: list[str] = []

    def family(name: str, kind: str, value: Callable[[], str]) -> None:
        lines.append(f"# HELP {name} [STABLE] Something about {name}")
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(
            f'{name}{{container="{container}",namespace="{namespace}",pod="{pod}"}} {value()}'
            for container, namespace, pod in containers
        )

    def stamp() -> int:
        return now - values.randrange(900)

    family("container_cpu_usage_seconds_total", "counter", lambda: f"{100 + step * 3 + values.random():.9f} {stamp()}")
    family("container_memory_working_set_bytes", "gauge", lambda: f"{values.randrange(2**20) * 4096:.10g} {stamp()}")
    family("container_start_time_seconds", "gauge", lambda: "1.69e+09")
    lines += ["# TYPE node_cpu_usage_seconds_total counter", f"node_cpu_usage_seconds_total {100 + step * 9.5} {now}"]
    lines += ["# TYPE node_memory_working_set_bytes gauge", f"node_memory_working_set_bytes 1.5e+09 {now}"]
    for name in ("pod_cpu_usage_seconds_total", "pod_memory_working_set_bytes"):
        lines.append(f"# TYPE {name} gauge")
        lines.extend(
            f'{name}{{namespace="{space}",pod="{pod}"}} {values.random()} {now}' for _, space, pod in containers
        )
    lines += ["# TYPE resource_scrape_error gauge", "resource_scrape_error 0", ""]
    return "\n".join(lines).encode()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    texts = [node_text(arguments.pods, step) for step in range(12)]
    steps: dict[str, list[float]] = {"parse, known shape": [], "parse, unknown shape": [], "store": [], "fragments": []}
    steps["fragments, protobuf"] = []
    for _ in range(arguments.rounds):
        store = Store(lambda _namespace, _name: None, lifetime=60)
        first = parse_resource(texts[0], None, START_MS)
        store.commit("n", first)
        # The pods as the API server would tell them.
        pods = [
            PodEntry(namespace, name, "n", {}, names, 0)
            for (namespace, name), names in zip(first.layout.pods, first.layout.names, strict=True)
        ]
        for text in texts[1:]:
            unknown = time.process_time_ns()
            parse_resource(text, None, START_MS)
            known = time.process_time_ns()
            batch = parse_resource(text, store.layout("n"), START_MS)
            parsed = time.process_time_ns()
            store.commit("n", batch)
            stored = time.process_time_ns()
            fragments = [store.fragment_of(pod) for pod in pods]
            rendered = time.process_time_ns()
            messages = [store.fragment_of(pod, MEASURED) for pod in pods]
            encoded = time.process_time_ns()
            if None in fragments or None in messages:
                raise SystemExit("a pod has no reading: the measurement would be of nothing")
            for step, start, end in (
                ("parse, unknown shape", unknown, known),
                ("parse, known shape", known, parsed),
                ("store", parsed, stored),
                ("fragments", stored, rendered),
                ("fragments, protobuf", rendered, encoded),
            ):
                steps[step].append((end - start) / 1000)
    print(f"{arguments.pods} pods, {len(texts[0])} bytes; microseconds of CPU, minimum of {len(steps['store'])}")
    for step, values in steps.items():
        print(f"{step:22} {min(values):8.1f}   (median {sorted(values)[len(values) // 2]:.1f})")


if __name__ == "__main__":
    main()
