# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Prometheus scrapes the real server, between fake kubelets and API servers: every query returns data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from api.support import client_context
from hardening.site import ADMIN, Site, free_port, running_site
from support.fake_kubelet import Request, Writer, respond

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "docs/prometheus/dashboard.json").read_text(encoding="utf-8"))
RULES = ROOT / "docs/prometheus/rules.yml"
ACCOUNT = "system:serviceaccount:kube-system:metrics-server-scraper"
#: What Grafana puts into the place of its variables.
VARIABLES = {"$job": "metrics-server", "$__rate_interval": "30s"}
#: kube-apiserver's own, which no process stands for here.
UNAVAILABLE = """# TYPE aggregator_unavailable_apiservice gauge
aggregator_unavailable_apiservice{name="v1beta1.metrics.k8s.io"} 0
"""


def queries() -> dict[str, str]:
    found = {}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = text
    return found


def misbehave(site: Site) -> None:
    """Have one kubelet refuse, and one send what cannot be used, so that there is something to see."""
    site.kubelets.kubelets["n1"].behaviour = respond(403)
    sound = site.kubelets.kubelets["n2"].behaviour

    async def with_a_bad_line(request: Request, writer: Writer) -> None:
        class Extended:
            def __getattr__(self, name: str) -> Any:
                return getattr(writer, name)

            def write(self, data: bytes) -> None:
                head, separator, body = data.partition(b"\r\n\r\n")
                body += b"container_cpu_usage_seconds_total{what is this\n"
                lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
                lines.append(b"Content-Length: %d" % len(body))
                writer.write(b"\r\n".join(lines) + separator + body)

        await sound(request, Extended())

    site.kubelets.kubelets["n2"].behaviour = with_a_bad_line


def configuration(site: Site, directory: Path) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "metrics-server",
                "scheme": "https",
                "authorization": {"credentials": "scraper-token"},
                # Its certificate is its own authority.
                "tls_config": {"ca_file": str(directory / "certs/apiserver.crt"), "server_name": "localhost"},
                "static_configs": [{"targets": [f"127.0.0.1:{site.port}"]}],
            },
            {
                "job_name": "apiserver",
                "scheme": "https",
                "tls_config": {"ca_file": str(directory / "cluster/ca.crt")},
                "static_configs": [{"targets": [f"127.0.0.1:{site.cluster.port}"]}],
            },
        ],
    }


@contextlib.asynccontextmanager
async def running(program: Path, config: dict[str, Any], directory: Path) -> AsyncIterator[str]:
    port, file = free_port(), directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    with (directory / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}/api/v1/"
    finally:
        process.terminate()
        await process.wait()


async def ask(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        answer = await response.json()
    assert answer["status"] == "success", answer
    return answer["data"]


async def seen(program: Path, directory: Path) -> dict[str, Any]:
    """What Prometheus has to say when every query has had the time to return something."""
    async with running_site(directory, nodes=3) as site:
        site.reviews.tokens["scraper-token"] = {"username": ACCOUNT, "groups": ["system:serviceaccounts"]}
        site.cluster.metrics = UNAVAILABLE
        misbehave(site)
        connector = aiohttp.TCPConnector(ssl=client_context(site.front_proxy))
        async with (
            running(program, configuration(site, directory), directory) as api,
            aiohttp.ClientSession(connector=connector, headers=ADMIN) as client,
            aiohttp.ClientSession() as session,
        ):
            missing, deadline = queries(), time.monotonic() + 90
            while missing and time.monotonic() < deadline:
                await asyncio.sleep(1)
                # As autoscalers do, over a connection that stays: the front proxy is seen, and samples are handed out.
                async with client.get(f"https://127.0.0.1:{site.port}/apis/metrics.k8s.io/v1beta1/pods") as answer:
                    await answer.read()
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    for name, text in list(missing.items()):
                        data = await ask(session, f"{api}query?query={urllib.parse.quote(text)}")
                        if any(sample["value"][1] != "NaN" for sample in data["result"]):
                            del missing[name]
            return {
                "missing": missing,
                "rules": await ask(session, f"{api}rules"),
                "targets": await ask(session, f"{api}targets?state=active"),
                "reviews": [review for review in site.reviews.reviews if review["user"] == ACCOUNT],
            }


@pytest.fixture(scope="module")
def found(prometheus, tmp_path_factory):
    return asyncio.run(seen(prometheus, tmp_path_factory.mktemp("live")))


def test_every_query_of_the_dashboard_returns_data(found):
    assert len(queries()) > 25
    assert found["missing"] == {}


def test_prometheus_evaluates_every_rule(found):
    rules = [rule for group in found["rules"]["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
    pending = {(rule["name"], rule["labels"].get("finding")) for rule in rules if rule["state"] == "pending"}
    # The kubelet that answers 403.
    assert ("MetricsServerScrapesFailing", "KUB-05") in pending


def test_the_scraper_needs_one_right_over_verified_tls(found):
    targets = found["targets"]["activeTargets"]
    assert [target["health"] for target in targets] == ["up", "up"]
    asked = {json.dumps(review["nonResourceAttributes"], sort_keys=True) for review in found["reviews"]}
    assert asked == {'{"path": "/metrics", "verb": "get"}'}
    assert not any("resourceAttributes" in review for review in found["reviews"])
