# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows requests and nodes, and approves what passes every check. The rest stays pending, with its reason."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter as Tally
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from metrics_server.approver.checks import (
    SIGNER,
    Addresses,
    CsrObject,
    FaultError,
    NodeObject,
    Policy,
    Request,
    decide,
)
from metrics_server.kube.client import KubeClient, KubeError
from metrics_server.kube.watch import Watcher

log = logging.getLogger(__name__)

CSR_PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_REASON = "KubemetricsChecksPassed"
_MESSAGE = "Sender, usages and every address were checked against the cluster's nodes by the CSR approver."
#: Events come in groups: a node registers, states its addresses, asks for a certificate.
_SETTLE = 0.1
_RETRY = 5.0


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _NodeList(msgspec.Struct):
    metadata: _ListMeta
    items: list[NodeObject] | None = None


class _CsrList(msgspec.Struct):
    metadata: _ListMeta
    items: list[CsrObject] | None = None


class Telemetry(Collector):
    """What the approver counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter(
            "metrics_server_csr_approver_decisions",
            "Requests that were approved or left pending, each once for every reason",
            ("decision", "reason"),
            registry=registry,
        )
        self.errors = Counter(
            "metrics_server_csr_approver_errors",
            "Approvals that the API server refused",
            ("reason",),
            registry=registry,
        )
        self.pending: Tally[str] = Tally()
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is pending at this time."""
        pending = GaugeMetricFamily(
            "metrics_server_csr_approver_pending", "Requests that are left pending, by reason", labels=["reason"]
        )
        for reason, number in sorted(self.pending.items()):
            pending.add_metric([reason], number)
        yield pending


class NodeSink:
    """Nodes, by their addresses."""

    _list = msgspec.json.Decoder(_NodeList)
    _object = msgspec.json.Decoder(NodeObject)

    def __init__(self, addresses: Addresses, changed: Callable[[], None]) -> None:
        self._addresses = addresses
        self._changed = changed
        self._listed: list[NodeObject] = []
        self.synced = False

    def decode_list(self, raw: bytes) -> tuple[list[NodeObject], str, str]:
        """Return nodes, resourceVersion and the continue token of one page."""
        page = self._list.decode(raw)
        return page.items or [], page.metadata.resource_version, page.metadata.continue_

    def decode_object(self, raw: bytes) -> tuple[NodeObject, str]:
        """Return one node and its resourceVersion."""
        node = self._object.decode(raw)
        return node, node.metadata.resource_version

    def begin_list(self) -> None:
        """Expect a complete list."""
        self._listed = []

    def put_listed(self, entry: NodeObject) -> None:
        """Take a node of the list."""
        self._listed.append(entry)

    def end_list(self) -> Iterator[None]:
        """Take the list in place of what was known."""
        self._addresses.replace(self._listed)
        self._listed = []
        self.synced = True
        self._changed()
        yield

    def put(self, entry: NodeObject) -> None:
        """Take a node. Most changes are the kubelet's reports, which change nothing here."""
        if self._addresses.put(entry):
            self._changed()

    def delete(self, entry: NodeObject) -> None:
        """Take a node that is gone."""
        self._addresses.delete(entry.metadata.name)
        self._changed()


class RequestSink:
    """Requests for serving certificates of kubelets."""

    _list = msgspec.json.Decoder(_CsrList)
    _object = msgspec.json.Decoder(CsrObject)

    def __init__(self, changed: Callable[[], None]) -> None:
        self.requests: dict[str, Request] = {}
        self._changed = changed
        self._listed: list[CsrObject] = []
        self.synced = False

    def decode_list(self, raw: bytes) -> tuple[list[CsrObject], str, str]:
        """Return requests, resourceVersion and the continue token of one page."""
        page = self._list.decode(raw)
        return page.items or [], page.metadata.resource_version, page.metadata.continue_

    def decode_object(self, raw: bytes) -> tuple[CsrObject, str]:
        """Return one request and its resourceVersion."""
        csr = self._object.decode(raw)
        return csr, csr.metadata.resource_version

    def begin_list(self) -> None:
        """Expect a complete list."""
        self._listed = []

    def put_listed(self, entry: CsrObject) -> None:
        """Take a request of the list."""
        self._listed.append(entry)

    def end_list(self) -> Iterator[None]:
        """Take the list in place of what was known."""
        self.requests.clear()
        for entry in self._listed:
            self._keep(entry)
        self._listed = []
        self.synced = True
        self._changed()
        yield

    def put(self, entry: CsrObject) -> None:
        """Take a request that is new or changed."""
        self._keep(entry)
        self._changed()

    def delete(self, entry: CsrObject) -> None:
        """Take a request that is gone."""
        self.requests.pop(entry.metadata.name, None)
        self._changed()

    def _keep(self, entry: CsrObject) -> None:
        if entry.state != "pending":
            # That it was asked for is all that counts from now on.
            entry.spec.request = None
        self.requests[entry.metadata.name] = Request(entry)


class Approver:
    """Approves as long as all of its `tasks()` run, which go on until they are cancelled."""

    def __init__(self, client: KubeClient, policy: Policy, telemetry: Telemetry, *, resync: float = 300.0) -> None:
        self._client = client
        self._policy = policy
        self._telemetry = telemetry
        self._resync = resync
        self._wake = asyncio.Event()
        self._addresses = Addresses()
        #: Why it is not known by which names clients know the API server.
        self._unknown: str | None = "not asked yet"
        #: The reason that was logged for each request that is left pending.
        self._left: dict[str, str] = {}
        self._nodes = NodeSink(self._addresses, self._wake.set)
        self._requests = RequestSink(self._wake.set)
        self.node_watch = Watcher(client, "nodes", self._nodes)
        self.request_watch = Watcher(
            client,
            "certificatesigningrequests",
            self._requests,
            path=CSR_PATH,
            query={"fieldSelector": f"spec.signerName={SIGNER}"},
        )

    def tasks(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return what has to run."""
        return self.node_watch.run(), self.request_watch.run(), self.follow_api_server(), self.run()

    def problem(self) -> str | None:
        """Return why nothing can be approved yet, or None."""
        for watch, sink in ((self.node_watch, self._nodes), (self.request_watch, self._requests)):
            if not sink.synced:
                return f"the list of {watch.resource} has not been received yet" + (
                    f": {watch.problem}" if watch.problem else ""
                )
        if self._unknown is not None:
            return f"the names in the API server's certificate are not known yet: {self._unknown}"
        return None

    async def follow_api_server(self) -> None:
        """Keep to control planes what the API servers' certificates name.

        Behind one address there may be several of them: what one of them named once, stays.
        """
        while True:
            delay = self._resync
            try:
                names = await self._client.certificate_names()
            except KubeError as error:
                if self._unknown is not None:
                    # What was known before stays in force.
                    self._unknown = str(error)
                    delay = min(_RETRY, self._resync)
                log.warning("Names of the API server cannot be read: %s", error)
            else:
                self._policy = self._policy.with_api_server(names)
                self._unknown = None
                self._wake.set()
            await asyncio.sleep(delay)

    async def run(self) -> None:
        """Decide whenever something has changed, and once in a while."""
        delay = self._resync
        while True:
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
                    await asyncio.sleep(_SETTLE)
            except TimeoutError:
                pass
            self._wake.clear()
            if self.problem() is None:
                delay = self._resync if await self._round() else min(_RETRY, self._resync)

    async def _round(self) -> bool:
        """Check all requests once; say whether everything could be done."""
        decision = decide(self._requests.requests.values(), self._addresses, self._policy)
        self._telemetry.pending = Tally(error.code for _unused, error in decision.leave)
        left = {}
        for request, error in decision.leave:
            left[request.name] = error.code
            if self._left.get(request.name) != error.code:
                self._note(request, error)
        self._left = left
        results = [await self._approve(request, addresses) for request, addresses in decision.approve]
        return all(results)

    def _note(self, request: Request, error: FaultError) -> None:
        self._telemetry.decisions.labels("left", error.code).inc()
        # Superseded requests are everyday life: a kubelet has restarted.
        log.log(
            logging.INFO if error.code == "Superseded" else logging.WARNING,
            "Left pending because %s",
            error,
            extra={"kv": {"csr": request.name, "node": request.csr.node, "reason": error.code}},
        )

    async def _approve(self, request: Request, addresses: list[str]) -> bool:
        """Approve one request; False when it has to be tried again."""
        path = f"{CSR_PATH}/{request.name}"
        try:
            current = await self._client.request("GET", path)
            fresh = msgspec.convert(current, CsrObject)
            if fresh.state != "pending" or fresh.spec != request.csr.spec:
                # Somebody was faster; the watch brings what came of it.
                return True
            answer = await self._client.request("PUT", f"{path}/approval", body=_approved(current))
        except KubeError as error:
            if error.status in (404, 409):
                log.debug("request %s has changed meanwhile: %s", request.name, error)
                return True
            self._telemetry.errors.labels(error.reason).inc()
            log.warning("Not approved, will try again: %s", error, extra={"kv": {"csr": request.name}})
            return False
        # Before the watch says so, lest the next round approves it once more.
        request.csr.status = msgspec.convert(answer, CsrObject).status
        self._telemetry.decisions.labels("approved", "ChecksPassed").inc()
        log.info(
            "Approved", extra={"kv": {"csr": request.name, "node": request.csr.node, "addresses": list(addresses)}}
        )
        return True


def _approved(csr: dict[str, Any]) -> dict[str, Any]:
    status = dict(csr.get("status") or {})
    condition = {
        "type": "Approved",
        "status": "True",
        "reason": _REASON,
        "message": _MESSAGE,
        "lastUpdateTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return {**csr, "status": {**status, "conditions": [*(status.get("conditions") or ()), condition]}}
