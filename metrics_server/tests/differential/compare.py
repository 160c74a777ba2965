# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask upstream metrics-server and this one the same questions, and list every difference in the answers.

    python tests/differential/compare.py --upstream https://127.0.0.1:8443 --ours https://127.0.0.1:9443 \\
        --certificate admin.crt --key admin.key --node NODE --pod NAMESPACE/POD

Both servers watch the same cluster and scrape the same kubelets. Numbers and times are compared by their form, as the
two never measure at the same moment. A difference that is meant is listed with its reason; any other makes the exit
code 1.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import ssl
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PROTOBUF = "application/vnd.kubernetes.protobuf"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
BASE = "/apis/metrics.k8s.io/v1beta1"


@dataclass(frozen=True)
class Question:
    """One request."""

    path: str
    accept: str = "application/json"
    method: str = "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.path} [{self.accept}]"


@dataclass(frozen=True)
class Meant:
    """A difference that is meant."""

    #: Pattern of the question as text.
    question: str
    #: Pattern of the difference as text.
    difference: str
    reason: str


MEANT = (
    Meant(r"/apis/metrics\.k8s\.io/v1[ /]", r"^status: 404 != 200", "v1 is served here, and not by upstream"),
    Meant(r"GET (/|/apis|/apis/metrics\.k8s\.io) ", r"(\.versions|\.paths)", "v1 and other checks are served here"),
    Meant(r"GET /apis ", r"\.apiVersion: only here", "a list of groups says its version"),
    Meant(r"GET /apis ", r"serverAddressByClientCIDRs", "no client has used it for years"),
    Meant(r"", r"^error text ", "errors are Status objects, where upstream sends plain text"),
    Meant(r"GET /(nothing|apis/other) ", r"", "an unknown path is told with a Status, not with a list of paths"),
    Meant(r"\[text/html\]", r"\.(message|details)", "the answer is the same for all that is not acceptable"),
    Meant(r"\[application/\*\]", r"^status: 406 != (200|404)", "any subtype includes JSON"),
    Meant(r"HEAD ", r"^status: 405 != 200", "HEAD is answered"),
    Meant(r"as=Table", r"columnDefinitions", "the columns of an empty table stand"),
    Meant(r"as=(Table|PartialObjectMetadataList)", r"\.(rows|items): null != \[\]", "an empty list is a list"),
    Meant(r"spec\.nodeName", r"^status: 400 != 200", "pods can be selected by node"),
    Meant(r"fieldSelector=status\.phase", r"message", "the message names spec.nodeName as well"),
    Meant(r"/(livez|readyz|healthz)\?verbose", r"^body", "other checks, with the reason of each failure"),
    Meant(r"/version", r"", "the version is this server's"),
    Meant(r"/openapi", r"", "the description is this server's"),
)


def questions(node: str, namespace: str, pod: str) -> Iterator[Question]:
    """Yield everything that is asked."""
    lists = ("/nodes", "/pods", f"/namespaces/{namespace}/pods", "/namespaces/no-such-namespace/pods")
    objects = (
        f"/nodes/{node}",
        "/nodes/no-such-node",
        f"/namespaces/{namespace}/pods/{pod}",
        f"/namespaces/{namespace}/pods/no-such-pod",
        "/namespaces/no-such-namespace/pods/x",
    )
    for path in (*lists, *objects):
        for accept in ("application/json", "", "*/*", "application/*", TABLE, f"{PROTOBUF},application/json", PROTOBUF):
            yield Question(BASE + path, accept)
        for accept in ("text/html", "application/json;as=Table;v=v9;g=meta.k8s.io", "application/yaml"):
            yield Question(BASE + path, accept)
    for path in lists:
        yield Question(BASE + path, PARTIAL_LIST)
        for query in (
            "labelSelector=app",
            "labelSelector=!app",
            "labelSelector=app+in+(a,b),c!%3Dd",
            "labelSelector=a+b",
            "labelSelector=%3D",
            f"fieldSelector=metadata.name%3D{node}",
            f"fieldSelector=metadata.name!%3D{pod}",
            f"fieldSelector=metadata.namespace%3D{namespace}",
            "fieldSelector=status.phase%3DRunning",
            f"fieldSelector=spec.nodeName%3D{node}",
            "limit=1",
            "limit=x",
            "watch=true",
            "watch=1",
            "watch=false",
            "pretty=true",
            "unknown=1",
            "resourceVersion=0",
        ):
            yield Question(f"{BASE}{path}?{query}")
        yield Question(f"{BASE}{path}?includeObject=Object", TABLE)
        yield Question(f"{BASE}{path}?includeObject=None", TABLE)
    for path in objects:
        yield Question(BASE + path, PARTIAL)
    for method in ("POST", "PUT", "PATCH", "DELETE", "HEAD"):
        yield Question(f"{BASE}/nodes", method=method)
        yield Question(f"{BASE}/nodes/{node}", method=method)
    for path in (
        *(
            "/",
            "/apis",
            "/apis/metrics.k8s.io",
            BASE,
            "/apis/metrics.k8s.io/v1",
            "/version",
            "/openapi/v2",
            "/openapi/v3",
        ),
        *(
            "/livez",
            "/readyz",
            "/healthz",
            "/livez/ping",
            "/readyz/ping",
            "/readyz/metric-storage-ready",
            "/readyz?verbose",
        ),
        *("/nothing", "/apis/other", f"{BASE}/services", f"{BASE}/nodes/{node}/status", f"{BASE}/pods/{pod}"),
        *(
            f"{BASE}/namespaces/{namespace}",
            f"{BASE}/watch/nodes",
            f"{BASE}/namespaces/{namespace}/nodes",
            f"{BASE}/nodes/",
        ),
        "/apis/metrics.k8s.io/v1/nodes",
    ):
        yield Question(path)
    yield Question("/apis", AGGREGATED)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    content_type: str
    body: bytes


class Client:
    """Asks one server."""

    def __init__(self, url: str, certificate: str, key: str) -> None:
        parts = urlsplit(url)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Both servers show self-signed certificates in this set-up; who they are is not what is compared.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(certificate, key)
        self._connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=context, timeout=30)

    def ask(self, question: Question) -> Answer:
        """Return the answer."""
        headers = {"Accept": question.accept} if question.accept else {}
        self._connection.request(question.method, question.path, headers=headers)
        response = self._connection.getresponse()
        return Answer(response.status, response.getheader("Content-Type", ""), response.read())


def normal(value: Any, key: str = "") -> Any:
    """Return a value with numbers and times replaced by their form, and unordered lists in order."""
    if isinstance(value, dict):
        return {name: normal(item, name) for name, item in value.items() if name != "selfLink"}
    if isinstance(value, list):
        items = [normal(item, key) for item in value]
        if key == "containers":
            items.sort(key=lambda item: str(item["name"]))
        return items
    if not isinstance(value, str):
        return value
    if key in ("creationTimestamp", "timestamp"):
        return re.sub(r"\d", "0", value)
    if key == "window":
        return "WINDOW" if re.fullmatch(r"(\d+m)?[\d.]+s", value) else value
    if key in ("cpu", "memory"):
        return f"QUANTITY OF {key}" if re.fullmatch(r"\d+([num]|[KMGT]i|k)?", value) else value
    if key == "cells":
        return "VALUE" if re.fullmatch(r"[\d.]+([nums]|[KMGT]i|k)?|\d+m[\d.]+s", value) else value
    return value


def protobuf_shape(data: bytes) -> list[int]:
    """Return the numbers of the fields at the top of a message: a rough look, the contents are compared as JSON."""
    fields, position = [], 4
    while position < len(data):
        tag, position = _varint(data, position)
        fields.append(tag >> 3)
        if tag & 7 == 0:
            _, position = _varint(data, position)
        else:
            size, position = _varint(data, position)
            position += size
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, position


def differences(upstream: Answer, ours: Answer) -> Iterator[str]:
    """Yield what differs."""
    if upstream.status != ours.status:
        yield f"status: {upstream.status} != {ours.status}"
        return
    if upstream.status >= 400 and not upstream.content_type.startswith(("application/json", PROTOBUF)):
        yield f"error text {upstream.body[:60]!r}"
        return
    if upstream.content_type != ours.content_type:
        yield f"type: {upstream.content_type!r} != {ours.content_type!r}"
        return
    if ours.content_type == "application/json" or ours.content_type.startswith("application/json;"):
        if upstream.body or ours.body:
            yield from _unlike(normal(json.loads(upstream.body)), normal(json.loads(ours.body)), "")
    elif ours.content_type == PROTOBUF:
        if (upstream.body[:4], protobuf_shape(upstream.body)) != (ours.body[:4], protobuf_shape(ours.body)):
            yield f"protobuf: {protobuf_shape(upstream.body)} != {protobuf_shape(ours.body)}"
    elif ours.content_type.startswith("text/plain") and upstream.body != ours.body:
        yield f"body: {upstream.body[:200]!r} != {ours.body[:200]!r}"


def _unlike(upstream: Any, ours: Any, where: str) -> Iterator[str]:
    if isinstance(upstream, dict) and isinstance(ours, dict):
        for key in sorted(upstream.keys() | ours.keys()):
            if key not in ours:
                yield f"{where}.{key}: missing here ({json.dumps(upstream[key])[:80]})"
            elif key not in upstream:
                yield f"{where}.{key}: only here ({json.dumps(ours[key])[:80]})"
            else:
                yield from _unlike(upstream[key], ours[key], f"{where}.{key}")
    elif isinstance(upstream, list) and isinstance(ours, list) and len(upstream) == len(ours):
        for number, (left, right) in enumerate(zip(upstream, ours, strict=True)):
            yield from _unlike(left, right, f"{where}[{number}]")
    elif upstream != ours:
        yield f"{where}: {json.dumps(upstream)[:200]} != {json.dumps(ours)[:200]}"


def reason_for(question: Question, difference: str) -> str | None:
    """Return why a difference is meant, or None when it is not."""
    for meant in MEANT:
        if re.search(meant.question, str(question)) and re.search(meant.difference, difference):
            return meant.reason
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return 1 when something differs that is not meant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("upstream", "ours", "certificate", "key", "node", "pod"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args(arguments)
    namespace, _, pod = options.pod.partition("/")
    upstream = Client(options.upstream, options.certificate, options.key)
    ours = Client(options.ours, options.certificate, options.key)
    asked = meant = wrong = 0
    for question in questions(options.node, namespace, pod):
        asked += 1
        for difference in differences(upstream.ask(question), ours.ask(question)):
            reason = reason_for(question, difference)
            meant, wrong = (meant + 1, wrong) if reason else (meant, wrong + 1)
            print(
                f"{'meant' if reason else 'WRONG'}  {question}\n       {difference}{f'  ({reason})' if reason else ''}"
            )
    print(f"{asked} questions, {meant} meant differences, {wrong} others")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
