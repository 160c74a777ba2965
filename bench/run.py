# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's metrics server and this one, one after the other, against the same API server and the same kubelets.

make bench                                          # 2, 100, 1000 and 5000 nodes; writes docs/bench.md
make bench BENCH_SIZES=20 BENCH_FLAGS=--quick       # a look, in a minute
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import report
from life import Changes, Life
from load import PROTOBUF, Client, Times, timed
from machine import BenchError, cpu_seconds, free_port, memory_mib, raise_file_limit, reset_peak, running, wait_for
from real_api import RealApi, real_api
from shape import Node
from support.pki import Authority

_HERE = Path(__file__).parent
_ROOT = _HERE.parent
_CACHE = Path.home() / ".cache" / "kubemetrics"
_UPSTREAM = "sigs.k8s.io/metrics-server/cmd/metrics-server@v0.9.0"
_BASE = "/apis/metrics.k8s.io/v1beta1"
_STAMP = re.compile(rb'"timestamp":"([^"]+)Z"')
_SCRAPES = re.compile(
    rb'^metrics_server_kubelet_request_total\{.*success="(true|false)".*\} ([0-9.e+]+)$', re.MULTILINE
)


@dataclass(frozen=True)
class Plan:
    """How long everything is watched, in seconds."""

    resolution: float
    #: Between the first complete answer and the measurement.
    settle: float
    #: Nothing but scrapes; CPU time is taken here.
    steady: float
    #: For reading samples' ages.
    ages: float
    #: For each kind of request.
    budget: float
    #: Until all nodes must be served.
    start: float
    #: With probes, Prometheus and changes.
    life: float
    #: After everything was listed anew.
    relist: float


FULL = Plan(resolution=15, settle=15, steady=45, ages=15, budget=4, start=600, life=45, relist=20)
# A whole round of scrapes, or there may be nothing to measure.
QUICK = Plan(resolution=10, settle=0, steady=10, ages=1, budget=0.2, start=60, life=5, relist=5)


@dataclass(frozen=True)
class Question:
    """One kind of request."""

    key: str
    #: Most requests; fewer when the time is over.
    count: int
    paths: tuple[str, ...]
    clients: int = 1
    accept: str = "application/json"
    encoding: str = "identity"


def questions(nodes: int, pods: int) -> Iterator[Question]:
    """Yield what is asked."""
    fleet = [Node(number, pods) for number in range(0, nodes, max(1, nodes // 50))]
    everyone = [one for node in fleet for one in node.containers]
    some = everyone[:: max(1, len(everyone) // 200)]
    single = tuple(f"{_BASE}/namespaces/{one.namespace}/pods/{one.pod}" for one in some)
    spaces = tuple(sorted({f"{_BASE}/namespaces/{one.namespace}/pods" for one in some}))
    yield Question("pod", 2000, single)
    yield Question("pod, 8 clients", 4000, single, clients=8)
    yield Question("namespace", 1000, spaces)
    yield Question("namespace, 8 clients", 2000, spaces, clients=8)
    yield Question("nodes", 100, (f"{_BASE}/nodes",))
    yield Question("pods", 20, (f"{_BASE}/pods",))
    yield Question("pods, gzip", 20, (f"{_BASE}/pods",), encoding="gzip")
    yield Question("pods, protobuf", 20, (f"{_BASE}/pods",), accept=PROTOBUF)


class Measurement:
    """One server at one size."""

    def __init__(self, pid: int, port: int, context: ssl.SSLContext, plan: Plan, found: World) -> None:
        self._pid = pid
        self._port = port
        self._context = context
        self._plan = plan
        self._nodes, self._pods, self._api = found.nodes, found.pods, found.api
        self.figures: dict[str, float] = {}

    def serving(self) -> bool:
        """Whether the server is ready, and every node is in the answer."""
        with contextlib.suppress(OSError), contextlib.closing(Client(self._port, self._context)) as client:
            # Nodes can all be there while pods are still being listed.
            client.get("/readyz")
            return client.get(f"{_BASE}/nodes").count(b'"timestamp"') == self._nodes
        return False

    def take(self) -> None:
        """Measure the steady state, then requests."""
        with contextlib.closing(Client(self._port, self._context)) as client:
            listed = client.get(f"{_BASE}/pods").count(b'"containers"')
            if listed != self._nodes * self._pods:
                raise BenchError(f"{listed} of {self._nodes * self._pods} pods are served: not the same work")
        time.sleep(self._plan.settle)
        self._steady()
        self._ages()
        for question in questions(self._nodes, self._pods):
            self._ask(question)
        self._parallel()
        self._life()

    def _scrapes(self) -> dict[str, float]:
        with contextlib.closing(Client(self._port, self._context)) as client:
            found = {"true": 0.0, "false": 0.0}
            for success, value in _SCRAPES.findall(client.get("/metrics")):
                found[success.decode()] += float(value)
            return found

    def _steady(self) -> None:
        before = self._scrapes()
        reset_peak(self._pid)
        started, used = time.monotonic(), cpu_seconds(self._pid)
        time.sleep(self._plan.steady)
        used, passed = cpu_seconds(self._pid) - used, time.monotonic() - started
        resident, peak = memory_mib(self._pid)
        after = self._scrapes()
        # Upstream scrapes all at once: how many rounds fall into the time is chance, the rate is not.
        rate = self._nodes / self._plan.resolution
        self.figures |= {
            "cpu_millicores": used / passed * 1000,
            "cpu_us_per_scrape": used / passed / rate * 1e6,
            "rss_mib": resident,
            "rss_peak_mib": peak,
            "failed_scrapes": after["false"] - before["false"],
            "scrapes": after["true"] - before["true"],
        }

    def _ages(self) -> None:
        """Read the samples' ages at moments that cover one resolution evenly."""
        ages: list[float] = []
        with contextlib.closing(Client(self._port, self._context)) as client:
            for _ in range(10):
                body, now = client.get(f"{_BASE}/nodes"), time.time()
                ages += (
                    now - datetime.fromisoformat(stamp.decode()).replace(tzinfo=UTC).timestamp()
                    for stamp in _STAMP.findall(body)
                )
                time.sleep(self._plan.ages / 10)
        # Timestamps are cut off to whole seconds.
        self.figures["age_median"] = statistics.median(ages) - 0.5
        self.figures["age_p99"] = sorted(ages)[len(ages) * 99 // 100] - 0.5

    def _ask(self, question: Question) -> None:
        used = cpu_seconds(self._pid)
        times: Times = timed(
            self._port,
            self._context,
            question.paths,
            count=question.count,
            budget=self._plan.budget,
            clients=question.clients,
            accept=question.accept,
            encoding=question.encoding,
        )
        idle = self.figures["cpu_millicores"] / 1000 * times.wall
        used = cpu_seconds(self._pid) - used - idle
        self.figures |= {
            f"{question.key}: p50": times.median * 1000,
            f"{question.key}: p99": times.p99 * 1000,
            f"{question.key}: CPU": max(0.0, used / len(times.seconds) * 1000),
            f"{question.key}: bytes": times.size,
        }

    def _parallel(self) -> None:
        """Four full lists at once: what that needs at most."""
        reset_peak(self._pid)

        def ask() -> None:
            with contextlib.closing(Client(self._port, self._context)) as client:
                client.get(f"{_BASE}/pods")

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.figures["rss_four_lists_mib"] = memory_mib(self._pid)[1]

    def _life(self) -> None:
        """What goes on beside scrapes, and what a restart of the API server costs."""
        single = next(iter(questions(self._nodes, self._pods))).paths
        life = Life(self._pid, self._port, self._context, single, self.figures["cpu_millicores"] / 1000)
        if self._api is None:
            self.figures |= life.usual(self._plan.life, self._plan.resolution, None)
            return
        stay = frozenset(path.rpartition("/")[2] for path in single)
        changes = Changes(self._api, self._nodes, self._pods, stay)
        self.figures |= life.usual(self._plan.life, self._plan.resolution, changes)
        self.figures |= life.relist(self._plan.relist, self._api)
        changes.undo()


def flags(kubeconfig: Path, directory: Path, port: int, plan: Plan) -> list[str]:
    """Return the command line, which both servers understand."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--authentication-skip-lookup",
        f"--client-ca-file={directory / 'clients.crt'}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={directory}",
        f"--metric-resolution={plan.resolution:.0f}s",
        f"--kubelet-request-timeout={plan.resolution * 0.6:.0f}s",
        "--kubelet-use-node-status-port",
        "--kubelet-preferred-address-types=InternalIP",
        # One certificate for all fake kubelets cannot hold thousands of addresses. It is verified once per connection.
        "--kubelet-insecure-tls",
    ]


def measure(name: str, command: list[str], world: World, plan: Plan) -> dict[str, float]:
    """Run one server and return its figures."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=world.directory) as own:
        directory = Path(own)
        (directory / "clients.crt").write_bytes(world.ca.pem)
        log = world.directory / f"{name}.log"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The loader is not what is measured, and both servers make their certificates themselves.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(world.directory / "loader.crt", world.directory / "loader.key")
        with running([*command, *flags(world.kubeconfig, directory, port, plan)], log) as process:
            one = Measurement(process.pid, port, context, plan, world)
            seconds = wait_for(f"{name} at {world.nodes} nodes", one.serving, process, log, plan.start)
            one.figures["seconds_to_all"] = seconds
            one.figures["cpu_to_all"] = cpu_seconds(process.pid)
            try:
                one.take()
            except (OSError, http.client.HTTPException) as error:
                last = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
                raise BenchError(f"{name} at {world.nodes} nodes: {error}; its last output: {last}") from error
            return one.figures


@dataclass(frozen=True)
class World:
    """What the servers find."""

    directory: Path
    kubeconfig: Path
    ca: Authority
    nodes: int
    pods: int
    #: None where a stand-in takes its place.
    api: RealApi | None


@contextlib.contextmanager
def world(arguments: argparse.Namespace, nodes: int) -> Iterator[World]:
    """Run the kubelets and the API server."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        kubelet_port = free_port()
        size = ("--nodes", str(nodes), "--pods", str(arguments.pods))
        fleet_log = directory / "fleet.log"
        fleet = [sys.executable, str(_HERE / "fleet.py"), *size, "--port", str(kubelet_port)]
        fleet += [f"--framing={arguments.framing}", *getattr(arguments, "fleet_flags", [])]
        process = stack.enter_context(running(fleet, fleet_log))
        wait_for("the fleet", lambda: "kubelets" in fleet_log.read_text(), process, fleet_log, 60)
        ca = Authority("bench-ca")
        user = ca.issue("bench", organizations=("system:masters",), client=True)
        user.write(directory, "loader")
        if arguments.static_api:
            kubeconfig, log, port = directory / "kubeconfig", directory / "api.log", free_port()
            api = [sys.executable, str(_HERE / "static_api.py"), *size, "--port", str(port)]
            api += ["--kubelet-port", str(kubelet_port), "--write-kubeconfig", str(kubeconfig)]
            process = stack.enter_context(running(api, log))
            wait_for("the API server", kubeconfig.exists, process, log, 60)
            yield World(directory, kubeconfig, ca, nodes, arguments.pods, None)
        else:
            real = stack.enter_context(
                real_api(
                    arguments.kubernetes,
                    directory,
                    nodes=nodes,
                    pods=arguments.pods,
                    kubelet_port=kubelet_port,
                    ca=ca,
                    user=user,
                )
            )
            yield World(directory, real.kubeconfig, ca, nodes, arguments.pods, real)


def upstream_binary() -> Path:
    """Return upstream's binary, built from the version that is pinned here if it is not there yet."""
    directory = _CACHE / "bench" / _UPSTREAM.rpartition("@")[2]
    binary = directory / "metrics-server"
    if not binary.exists():
        print(f"building {_UPSTREAM}, which takes some minutes", file=sys.stderr, flush=True)
        command = ["nice", "-n", "19", "go", "install", "-trimpath", "-ldflags=-s -w", _UPSTREAM]
        environment = os.environ | {"GOBIN": str(directory), "CGO_ENABLED": "0"}
        if subprocess.run(command, env=environment, check=False).returncode:
            raise BenchError(f"upstream could not be built; put the binary at {binary}, or leave it out: --only ours")
    return binary


def kubernetes_binaries() -> Path:
    """Return the directory with kube-apiserver and etcd, as the lab builds them."""
    found = sorted(_CACHE.glob("kube/*/kube-apiserver"))
    if not found:
        raise BenchError("there is no kube-apiserver yet: `make lab-up` builds it, or name a directory by --kubernetes")
    return found[-1].parent


def interpreter(python: Path) -> str:
    """Return the version of the interpreter that runs this server, and whether it is one as the image has it."""
    ask = (
        "import importlib.util, platform, sysconfig; "
        "print(platform.python_version(), '--enable-optimizations' in (sysconfig.get_config_var('CONFIG_ARGS') or ''), "
        "importlib.util.find_spec('metrics_server') is not None and importlib.util.find_spec('httptools') is not None)"
    )
    try:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchError(f"the interpreter {python} cannot be run: {error.strerror}") from error
    version, optimized, complete = (done.stdout.split() or ["", "", "False"])[:3]
    if complete != "True":
        raise BenchError(f"the interpreter {python} lacks this server or what it needs: pip install ./metrics_server")
    # Distributions optimize in ways of their own, which this does not tell.
    return f"{version} (built with profile-guided optimization)" if optimized == "True" else version


def main() -> int:
    """Read the command line, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="*", default=[2, 100, 1000, 5000], help="numbers of nodes")
    parser.add_argument("--pods", type=int, default=30, help="pods a node")
    parser.add_argument("--quick", action="store_true", help="short periods: whether it works, not how fast")
    parser.add_argument("--only", choices=("upstream", "ours"), help="measure only one of the two")
    parser.add_argument(
        "--framing", choices=("go", "plain"), default="go", help="how kubelets write their answers; see fleet.py --help"
    )
    parser.add_argument("--static-api", action="store_true", help="a small stand-in for the API server, for ours only")
    parser.add_argument("--kubernetes", type=Path, help="directory with kube-apiserver and etcd; the lab's by default")
    parser.add_argument("--upstream", type=Path, help="upstream's binary; built if it is not named")
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="the interpreter for this server; this one by default"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--from-json", type=Path, help="report these figures instead of measuring")
    parser.add_argument("--docs", action="store_true", help="write docs/bench.md, its figure, and the README's lines")
    arguments = parser.parse_args()
    if arguments.docs and arguments.only:
        parser.error("--docs needs the figures of both servers: leave out --only")
    try:
        results = json.loads(arguments.from_json.read_text()) if arguments.from_json else run(arguments)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    print(report.markdown(results))
    if arguments.docs:
        report.write(_ROOT, results)
    return 0


def run(arguments: argparse.Namespace) -> report.Results:
    """Measure everything."""
    raise_file_limit()
    plan = QUICK if arguments.quick else FULL
    commands: dict[str, list[str]] = {}
    if arguments.only != "ours":
        if arguments.static_api:
            raise BenchError("upstream needs a real API server: leave out --static-api, or add --only ours")
        commands["upstream"] = [str(arguments.upstream or upstream_binary())]
    if arguments.only != "upstream":
        # The image has no compiled bytecode: its own layer has none, and the build of the default base removes it.
        no_bytecode = ("-B", "-X", "pycache_prefix=/nonexistent")
        commands["ours"] = [str(arguments.python), *no_bytecode, "-m", "metrics_server"]
    if not arguments.static_api:
        arguments.kubernetes = arguments.kubernetes or kubernetes_binaries()
    python = interpreter(arguments.python) if "ours" in commands else ""
    started = time.monotonic()
    sizes: dict[str, dict[str, dict[str, float]]] = {}
    loads: list[float] = []
    for nodes in arguments.sizes:
        with world(arguments, nodes) as found:
            for name, command in commands.items():
                print(f"{nodes} nodes: {name}", file=sys.stderr, flush=True)
                sizes.setdefault(str(nodes), {})[name] = measure(name, command, found, plan)
                loads.append(os.getloadavg()[0])
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "pods": arguments.pods,
        "resolution": plan.resolution,
        "processors": os.cpu_count() or 0,
        "processor": _processor(),
        "python": python,
        "minutes": (time.monotonic() - started) / 60,
        "load": max(loads),
        "sizes": sizes,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
