# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine alone against the fleet and the static API server: CPU per scrape, memory, lag, age of samples.

Starts everything it needs and ends it. `PYTHONPATH=metrics_server/src:metrics_server/tests python bench/engine_load.py
--nodes 1000`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from metrics_server.engine import Engine, EngineConfig
from metrics_server.kube.client import KubeClient
from metrics_server.telemetry import EngineTelemetry
from prometheus_client import CollectorRegistry

_HERE = Path(__file__).parent


@contextlib.contextmanager
def _helper(script: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, str(_HERE / script), *arguments], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _memory() -> tuple[float, float]:
    """Return resident and peak memory in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, float]:
    """Run the engine and return figures of its steady state."""
    kubeconfig = directory / "kubeconfig"
    ca = directory / "fleet-ca.crt"
    for _ in range(200):
        if kubeconfig.exists() and ca.exists():
            break
        await asyncio.sleep(0.1)
    client = KubeClient.from_kubeconfig(str(kubeconfig), user_agent="bench")
    registry = CollectorRegistry()
    engine = Engine(
        EngineConfig(
            metric_resolution=arguments.resolution,
            kubelet_use_node_status_port=True,
            kubelet_preferred_address_types=("InternalIP",),
            kubelet_certificate_authority=str(ca),
        ),
        client,
        EngineTelemetry(registry),
    )
    started = time.monotonic()
    await engine.start()
    while engine.ready_reason() is not None and time.monotonic() - started < 120:
        await asyncio.sleep(0.1)
    result = {"seconds_to_ready": time.monotonic() - started}
    while time.monotonic() - started < 120 and engine.store.counts().nodes < arguments.nodes - arguments.failing:
        await asyncio.sleep(0.1)
    result["seconds_to_all_nodes"] = time.monotonic() - started
    result["cpu_seconds_to_all_nodes"] = time.process_time()
    await asyncio.sleep(arguments.resolution)

    def count(success: str) -> float:
        total = 0.0
        for family in registry.collect():
            if family.name == "metrics_server_kubelet_request":
                total += sum(sample.value for sample in family.samples if sample.labels.get("success") == success)
        return total

    before_ok, before_failed, before_files = count("true"), count("false"), _open_files()
    rss_before, _ = _memory()
    cpu, wall = time.process_time(), time.monotonic()
    ages: list[float] = []
    missing = 0
    while time.monotonic() - wall < arguments.seconds:
        await asyncio.sleep(min(arguments.resolution, arguments.seconds))
        now = time.time()
        readings = [engine.store.node_reading(node.name) for node in engine.index.nodes()]
        ages += [now - reading.timestamp_ns / 1e9 for reading in readings if reading is not None]
        missing = max(missing, readings.count(None))
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    scrapes = count("true") - before_ok
    rss, peak = _memory()
    result |= {
        "nodes": arguments.nodes,
        "scrapes": scrapes,
        "failed_scrapes": count("false") - before_failed,
        "cpu_millicores": cpu / wall * 1000,
        "cpu_us_per_scrape": cpu / max(scrapes, 1) * 1e6,
        "rss_mib": rss,
        "rss_growth_mib": rss - rss_before,
        "rss_peak_mib": peak,
        "open_files": _open_files(),
        "open_files_growth": _open_files() - before_files,
        "age_median": statistics.median(ages) if ages else -1,
        "age_p99": statistics.quantiles(ages, n=100)[98] if len(ages) > 100 else -1,
        "nodes_without_reading": missing,
    }
    for family in registry.collect():
        if family.name == "kubemetrics_scheduler_lag_seconds":
            values = {sample.name: sample.value for sample in family.samples if not sample.labels}
            result["lag_mean"] = values["kubemetrics_scheduler_lag_seconds_sum"] / max(
                values["kubemetrics_scheduler_lag_seconds_count"], 1
            )
    await engine.stop()
    await client.close()
    return result


def main() -> None:
    """Read the command line, run, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--pods", type=int, default=30)
    parser.add_argument("--resolution", type=float, default=15.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the measured steady state")
    parser.add_argument("--failing", type=int, default=0, help="how many kubelets fail at any time")
    parser.add_argument("--kubelet-port", type=int, default=11250)
    parser.add_argument("--api-port", type=int, default=16443)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    size = ("--nodes", str(arguments.nodes), "--pods", str(arguments.pods))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        kubelets = ("--port", str(arguments.kubelet_port), "--write-ca", str(directory / "fleet-ca.crt"))
        faults = ("--failing", str(arguments.failing))
        api = ("--port", str(arguments.api_port), "--kubelet-port", str(arguments.kubelet_port))
        with (
            _helper("fleet.py", *size, *kubelets, *faults),
            _helper("static_api.py", *size, *api, "--write-kubeconfig", str(directory / "kubeconfig")),
        ):
            result = asyncio.run(measure(arguments, directory))
    print(json.dumps({key: round(value, 3) for key, value in result.items()}, indent=2))


if __name__ == "__main__":
    main()
