# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the number of nodes and the Deployment, and rewrites its resources when they are too far off."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from metrics_server.kube.client import KubeClient, KubeError
from metrics_server.nanny.options import Options, read_configuration
from metrics_server.nanny.sizing import Needs, Wanted, expected, judge

log = logging.getLogger(__name__)

#: Names under which API servers of different ages count what they store.
_STORED = re.compile(
    r"^(?:apiserver_resource_objects|apiserver_storage_objects|etcd_object_counts)\{([^}]*)\}\s+([0-9.e+-]+)", re.M
)


class SizingError(Exception):
    """A check could not be finished; the text is one sentence."""


class Nanny:
    """`run()` goes on until it is cancelled."""

    def __init__(
        self,
        client: KubeClient,
        options: Options,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._options = options
        self._clock = clock
        self._path = f"/apis/apps/v1/namespaces/{options.namespace}/deployments/{options.deployment}"
        self._configuration = Configuration(options)
        #: The start, or the last change.
        self._changed = clock()
        self._said = ""
        self._failure: str | None = "nothing has been checked yet"
        self._nodes = Gauge("metrics_server_nanny_nodes", "Nodes of the cluster", registry=registry)
        self._rewrites = Counter(
            "metrics_server_nanny_rewrites", "Changes of the Deployment", ("direction",), registry=registry
        )
        self._errors = Counter("metrics_server_nanny_errors", "Checks that failed", registry=registry)

    def problem(self) -> str | None:
        """Return why the last check failed, or None."""
        return self._failure

    async def run(self) -> None:
        """Check once in every period."""
        while True:
            try:
                await self.check()
                self._failure = None
            except (KubeError, SizingError) as error:
                self._failure = str(error)
                self._errors.inc()
                self._say(logging.WARNING, str(error))
            await asyncio.sleep(self._options.poll_period / 1000)

    async def check(self) -> None:
        """Compare once, and rewrite when it has to be."""
        options = self._options
        nodes = await self._count()
        self._nodes.set(nodes)
        size = options.size(nodes)
        amounts = expected(self._configuration.needs(), size)
        deployment = await self._client.request("GET", self._path)
        try:
            wanted = judge(self._resources(deployment), amounts, options.tolerance, limit_cpu=options.cpu_limit)
        except ValueError as error:
            raise SizingError(f"Deployment {options.namespace}/{options.deployment}: {error}") from error
        sized = f"for {nodes} nodes" + (f" (sized as for {size})" if size != nodes else "")
        if not wanted.direction:
            self._say(logging.INFO, f"Kept {sized}")
            return
        verb = "Grow" if wanted.direction > 0 else "Shrink"
        delay = options.scale_up_delay if wanted.direction > 0 else options.scale_down_delay
        if self._clock() - self._changed < delay:
            self._say(logging.INFO, f"{verb} {sized} later, {delay:g} s after the last change: {wanted.because}")
            return
        await self._rewrite(deployment, wanted)
        self._changed = self._clock()
        self._rewrites.labels("up" if wanted.direction > 0 else "down").inc()
        self._said = ""
        log.info(
            "%s %s: %s",
            verb,
            sized,
            wanted.because,
            extra={"kv": {"requests": str(wanted.requests), "limits": str(wanted.limits)}},
        )

    def _say(self, level: int, text: str) -> None:
        """Log a decision when it is a new one."""
        log.log(level if text != self._said else logging.DEBUG, "%s", text)
        self._said = text

    async def _count(self) -> int:
        if self._options.use_metrics:
            counted = nodes_in_metrics((await self._client.request_raw("GET", "/metrics")).decode("utf-8", "replace"))
            if counted:
                return counted
            raise SizingError("the API server's /metrics does not say how many nodes it has: leave --use-metrics out")
        count, token = 0, ""
        while True:
            # The server tells how many there are after the first, so that one node is all that has to be sent.
            query = {"limit": "500", "continue": token} if token else {"limit": "1"}
            answer = await self._client.request("GET", "/api/v1/nodes", query=query)
            count += len(answer.get("items") or ())
            metadata = answer.get("metadata") or {}
            token = metadata.get("continue") or ""
            remaining = metadata.get("remainingItemCount")
            if not token or remaining is not None:
                count += remaining or 0
                break
        if not count:
            # This runs on one of them.
            raise SizingError("the API server lists no nodes, which cannot be")
        return count

    def _resources(self, deployment: dict[str, Any]) -> dict[str, dict[str, str]]:
        options = self._options
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            if container["name"] == options.container:
                return container.get("resources") or {}
        raise SizingError(
            f"Deployment {options.namespace}/{options.deployment} has no container {options.container}: see --container"
        )

    async def _rewrite(self, deployment: dict[str, Any], wanted: Wanted) -> None:
        resources = {"requests": wanted.requests, "limits": wanted.limits}
        body = {
            # Somebody else's change in between is a conflict, and the next check sees it.
            "metadata": {"resourceVersion": deployment["metadata"]["resourceVersion"]},
            "spec": {
                "template": {
                    "spec": {"containers": [{"name": self._options.container, "resources": resources}]},
                }
            },
        }
        await self._client.request(
            "PATCH",
            self._path,
            query={"fieldManager": "metrics-server-nanny"},
            body=body,
            content_type="application/strategic-merge-patch+json",
        )


class Configuration:
    """The configuration file, read again when it changes. A broken one leaves the last good one in force."""

    def __init__(self, options: Options) -> None:
        self._path: Path | None = options.configuration
        self._amounts = options.amounts
        self._flags: Needs = options.needs
        self._needs: Needs = options.needs
        self._seen: str | None = ""

    def needs(self) -> Needs:
        """Return what is in force now."""
        if self._path is None:
            return self._needs
        text: str | None
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            text = None
        if text == self._seen:
            return self._needs
        self._seen = text
        if text is None:
            log.warning("%s cannot be read, the flags are in force", self._path)
            self._needs = self._flags
            return self._needs
        try:
            self._needs = read_configuration(text, self._amounts)
            log.info("Sizes are taken from %s", self._path)
        except ValueError as error:
            log.warning("%s is not used: %s", self._path, error)
        return self._needs


def nodes_in_metrics(text: str) -> int:
    """Return the number of nodes that an API server's metrics tell, 0 when they do not."""
    for match in _STORED.finditer(text):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
        if labels.get("resource") == "nodes" and labels.get("group", "") == "":
            return max(0, int(float(match[2])))
    return 0
