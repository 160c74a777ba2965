# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the number of nodes, and changes the resources of the Deployment or of its pods when they are too far off."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from metrics_server.kube.client import KubeClient, KubeError
from metrics_server.nanny.options import Options, read_configuration
from metrics_server.nanny.pods import Pods
from metrics_server.nanny.sizing import Needs, Tolerance, Wanted, expected, judge

log = logging.getLogger(__name__)

#: Names under which API servers of different ages count what they store.
_STORED = re.compile(
    r"^(?:apiserver_resource_objects|apiserver_storage_objects|etcd_object_counts)\{([^}]*)\}\s+([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?)$",
    re.M,
)

#: By how many percent the Deployment may be off, where its pods are resized in place.
_TEMPLATE_MAY_BE_OFF = 50
_VERBS = {1: "Grow", -1: "Shrink"}
_DIRECTIONS = {1: "up", -1: "down"}

Resources = Mapping[str, Mapping[str, str]]


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
        self._pods = Pods(client, options.namespace, options.deployment, options.container)
        self._configuration = Configuration(options)
        #: The start, or the last change.
        self._changed = clock()
        self._said = ""
        self._failure: str | None = "nothing has been checked yet"
        self._nodes = Gauge("metrics_server_nanny_nodes", "Nodes of the cluster", registry=registry)
        self._rewrites = Counter(
            "metrics_server_nanny_rewrites", "Changes of the Deployment", ("direction",), registry=registry
        )
        self._resizes = Counter(
            "metrics_server_nanny_resizes", "Pods that were resized in place", ("direction",), registry=registry
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
        """Compare once, and change sizes when it has to be."""
        options = self._options
        nodes = await self._count()
        self._nodes.set(nodes)
        size = options.size(nodes)
        sized = f"for {nodes} nodes" + (f" (sized as for {size})" if size != nodes else "")
        amounts = expected(self._configuration.needs(), size)
        deployment = await self._client.request("GET", self._path)
        has = self._resources(deployment)
        wanted = self._judge(has, amounts, options.tolerance)
        # New pods begin with what the Deployment says, and are resized, too. So it may be off where pods are resized in
        # place, but not by so much that they could not begin.
        roughly = Tolerance(max(options.tolerance.acceptance, _TEMPLATE_MAY_BE_OFF))
        close = options.in_place and not self._judge(has, amounts, roughly).direction
        if close and await self._pods.can_resize():
            await self._resize(deployment, wanted, amounts, sized)
        else:
            await self._roll(deployment, wanted, sized)

    def _judge(self, has: Resources, amounts: Mapping[str, Fraction], tolerance: Tolerance) -> Wanted:
        options = self._options
        try:
            return judge(has, amounts, tolerance, limit_cpu=options.cpu_limit)
        except ValueError as error:
            raise SizingError(f"Deployment {options.namespace}/{options.deployment}: {error}") from error

    def _must_wait(self, direction: int, sized: str, because: str) -> bool:
        """Say whether it is too early for a change."""
        delay = self._options.scale_up_delay if direction > 0 else self._options.scale_down_delay
        if self._clock() - self._changed >= delay:
            return False
        self._say(logging.INFO, f"{_VERBS[direction]} {sized} later, {delay:g} s after the last change: {because}")
        return True

    async def _roll(self, deployment: dict[str, Any], wanted: Wanted, sized: str) -> None:
        """Change the Deployment when its resources are off, which replaces its pods."""
        if not wanted.direction:
            self._say(logging.INFO, f"Kept {sized}")
        elif not self._must_wait(wanted.direction, sized, wanted.because):
            await self._rewrite(deployment, wanted)
            self._rewrites.labels(_DIRECTIONS[wanted.direction]).inc()
            self._note(wanted, sized, {})

    async def _resize(
        self, deployment: dict[str, Any], wanted: Wanted, amounts: Mapping[str, Fraction], sized: str
    ) -> None:
        """Resize pods where they are; where one cannot be, change the Deployment as `wanted` says."""
        pods = await self._pods.of(deployment)
        judged = [(pod, self._judge(pod.resources, amounts, self._options.tolerance)) for pod in pods]
        stuck = [f"{pod.name}: {pod.held_up}" for pod, verdict in judged if pod.held_up and not verdict.direction]
        direction = max((verdict.direction for _unused, verdict in judged if verdict.direction), default=0)
        off = [(pod, verdict) for pod, verdict in judged if direction and verdict.direction == direction]
        if off and self._must_wait(direction, sized, off[0][1].because):
            return
        for pod, verdict in off:
            refusal = await self._pods.resize(pod, verdict)
            if refusal:
                stuck.append(f"{pod.name}: {refusal}")
            else:
                self._resizes.labels(_DIRECTIONS[direction]).inc()
                self._note(verdict, sized, {"pod": pod.name})
        if stuck and wanted.direction:
            # A new pod may find room on another node, and is made with what this one cannot get while it runs.
            reason = f"by a rolling update, since a pod cannot be resized where it is ({'; '.join(stuck)})"
            await self._roll(deployment, wanted, f"{sized} {reason}")
        elif stuck:
            self._say(logging.WARNING, f"Kept {sized}, with pods that wait for their size: {'; '.join(stuck)}")
        elif not off:
            self._say(logging.INFO, f"Kept {sized}")

    def _note(self, wanted: Wanted, sized: str, where: Mapping[str, str]) -> None:
        """Log a change, and count the delays from it."""
        self._changed = self._clock()
        self._said = ""
        details = {**where, "requests": str(wanted.requests), "limits": str(wanted.limits)}
        log.info("%s %s: %s", _VERBS[wanted.direction], sized, wanted.because, extra={"kv": details})

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
