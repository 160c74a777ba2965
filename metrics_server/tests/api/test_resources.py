# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API answers: paths, forms, selectors, errors. The whole server, asked over TLS by the front proxy."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from api.conftest import World
from api.support import Answer

V1BETA1 = "/apis/metrics.k8s.io/v1beta1"
TABLE = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)
ADMIN = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")]


async def ask(world: World, path: str, *, accept: str = "", method: str = "GET", **headers: str) -> Answer:
    pairs = [*ADMIN, *((name.replace("_", "-"), value) for name, value in headers.items())]
    pairs.append(("Accept", accept or "application/json"))
    return await world.running.get(path, credential=world.front_proxy, headers=pairs, method=method)


def names(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [item["metadata"]["name"] for item in answer.json()["items"]]


def stripped(value: dict[str, Any]) -> dict[str, Any]:
    """Return an object without its creation time, having checked that it is there."""
    assert value["metadata"].pop("creationTimestamp").endswith("Z")
    return value


@pytest.mark.parametrize("version", ["v1beta1", "v1"])
async def test_a_node(world: World, version: str) -> None:
    answer = await ask(world, f"/apis/metrics.k8s.io/{version}/nodes/n1")
    assert answer.headers["Content-Type"] == "application/json"
    assert stripped(answer.json()) == {
        "kind": "NodeMetrics",
        "apiVersion": f"metrics.k8s.io/{version}",
        "metadata": {"name": "n1", "labels": {"zone": "a", "kubernetes.io/hostname": "n1"}},
        "timestamp": "2025-10-09T08:53:20Z",
        "window": "15.029s",
        "usage": {"cpu": "123456789n", "memory": "147532Ki"},
    }
    assert len(world.running.ages) == 1


async def test_a_pod(world: World) -> None:
    answer = await ask(world, f"{V1BETA1}/namespaces/default/pods/web-1")
    assert stripped(answer.json()) == {
        "kind": "PodMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"app": "web", "tier": "front"}},
        "timestamp": "2025-10-09T08:53:20Z",
        "window": "10s",
        "containers": [
            {"name": "a", "usage": {"cpu": "1500u", "memory": "1Mi"}},
            {"name": "b", "usage": {"cpu": "0", "memory": "512Ki"}},
        ],
    }


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/nodes", "nodes"),
        ("/nodes/n1", "nodes"),
        ("/pods", "pods"),
        ("/namespaces/default/pods", "pods"),
        ("/namespaces/default/pods/web-1", "pods"),
    ],
)
async def test_a_part_of_the_objects_is_not_taken_for_all(world: World, path: str, resource: str) -> None:
    index = world.running.engine.index
    setattr(index, f"{resource}_synced", False)
    answer = await ask(world, V1BETA1 + path)
    assert (answer.status, answer.json()["reason"]) == (503, "ServiceUnavailable")
    assert answer.json()["message"] == f"{resource} have not been listed yet"
    setattr(index, f"{resource}_synced", True)
    assert (await ask(world, V1BETA1 + path)).status == 200


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/nodes", ["n1", "n2"]),
        ("/nodes/", ["n1", "n2"]),
        ("/nodes?labelSelector=zone%3Db", ["n2"]),
        ("/nodes?fieldSelector=metadata.name%3Dn1", ["n1"]),
        ("/nodes?limit=1&continue=abc", ["n1", "n2"]),
        *((f"/nodes?limit={limit}", ["n1", "n2"]) for limit in ("-1", "%2B5", "9223372036854775807", "0" * 5000)),
        ("/nodes?watch=false", ["n1", "n2"]),
        ("/nodes?watch=False", ["n1", "n2"]),
        ("/nodes?watch=0", ["n1", "n2"]),
        ("/nodes?labelSelector=zone+in+(b," + ",".join(["x" * 60] * 200) + ")", ["n2"]),
        ("/pods", ["web-1", "web-2", "dns"]),
        ("/namespaces/default/pods", ["web-1", "web-2"]),
        ("/namespaces/none/pods", []),
        ("/pods?labelSelector=app+in+(web,dns),tier", ["web-1"]),
        ("/pods?labelSelector=app!%3Dweb", ["dns"]),
        ("/pods?fieldSelector=metadata.namespace%3Dkube-system", ["dns"]),
        ("/pods?fieldSelector=metadata.namespace!%3Dkube-system", ["web-1", "web-2"]),
        ("/pods?fieldSelector=spec.nodeName%3Dn1", ["web-1", "dns"]),
        ("/pods?fieldSelector=spec.nodeName%3Dn1,metadata.namespace%3Ddefault&labelSelector=app%3Dweb", ["web-1"]),
        ("/namespaces/default/pods?fieldSelector=metadata.name%3Dweb-2", ["web-2"]),
        ("/namespaces/default/pods?fieldSelector=metadata.name%3Dweb-2,metadata.namespace%3Dother", []),
    ],
)
async def test_lists(world: World, path: str, expected: list[str]) -> None:
    answer = await ask(world, V1BETA1 + path)
    assert names(answer) == expected
    assert answer.json()["metadata"] == {}


async def test_an_empty_list_has_items(world: World) -> None:
    answer = await ask(world, f"{V1BETA1}/namespaces/none/pods")
    assert answer.body == (
        b'{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[]}\n'
    )


@pytest.mark.parametrize(
    ("method", "path", "code", "reason", "message"),
    [
        ("GET", f"{V1BETA1}/nodes/n9", 404, "NotFound", 'node "n9" not found'),
        ("GET", f"{V1BETA1}/nodes/n3", 404, "NotFound", 'nodemetrics.metrics.k8s.io "n3" not found'),
        ("GET", f"{V1BETA1}/namespaces/default/pods/x", 404, "NotFound", 'pods "x" not found'),
        (
            "GET",
            f"{V1BETA1}/namespaces/kube-system/pods/fresh",
            404,
            "NotFound",
            'podmetrics.metrics.k8s.io "kube-system/fresh" not found',
        ),
        *(
            (
                "GET",
                f"{V1BETA1}/pods?watch{value}",
                405,
                "MethodNotAllowed",
                'watch is not supported on resources of kind "pods.metrics.k8s.io"',
            )
            for value in ("=true", "=1", "", "=", "=f", "=no")
        ),
        (
            "GET",
            f"{V1BETA1}/pods?fieldSelector=status.phase%3DRunning",
            400,
            "BadRequest",
            '"status.phase" is not a known field selector: only "metadata.name", "metadata.namespace", "spec.nodeName"',
        ),
        (
            "GET",
            f"{V1BETA1}/pods?labelSelector=a+b",
            400,
            "BadRequest",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        (
            "GET",
            f"{V1BETA1}/pods?limit=x",
            400,
            "BadRequest",
            'strconv.ParseInt: parsing "x": invalid syntax',
        ),
        *(
            ("GET", f"{V1BETA1}/pods?{query}", 400, "BadRequest", f"strconv.ParseInt: parsing {message}")
            for query, message in (
                ("limit=", '"": invalid syntax'),
                ("limit=%D9%A3", '"٣": invalid syntax'),
                ("limit=--5", '"--5": invalid syntax'),
                ("limit=9223372036854775808", '"9223372036854775808": value out of range'),
                ("limit=" + "9" * 5000, f'"{"9" * 5000}": value out of range'),
                ("timeoutSeconds=1s", '"1s": invalid syntax'),
            )
        ),
        *(
            (
                method,
                f"{V1BETA1}/nodes/n1",
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )
            for method in ("POST", "PUT", "PATCH", "DELETE")
        ),
        *(
            ("GET", path, 404, "NotFound", "the server could not find the requested resource")
            for path in (
                "/nothing",
                "/apis/other.k8s.io",
                "/apis/metrics.k8s.io/v2",
                "/apis/metrics.k8s.io/v2/nodes",
                f"{V1BETA1}/services",
                f"{V1BETA1}/pods/web-1",
                f"{V1BETA1}/nodes/n1/status",
                f"{V1BETA1}/namespaces/default",
                f"{V1BETA1}/namespaces/default/nodes",
                f"{V1BETA1}/namespaces/default/pods/web-1/log",
                f"{V1BETA1}/watch/nodes",
                f"{V1BETA1}/proxy/nodes",
                f"{V1BETA1}//nodes",
                "/healthz/none",
                "/openapi/v3/apis/other",
            )
        ),
        (
            "GET",
            f"{V1BETA1}/nodes?labelSelector=zone%3D{'x' * 20_000}",
            414,
            "RequestURITooLong",
            "the request's path and query are longer than 16384 bytes",
        ),
    ],
)
async def test_errors(world: World, method: str, path: str, code: int, reason: str, message: str) -> None:
    answer = await ask(world, path, method=method)
    status = answer.json()
    assert (answer.status, status["code"], status["reason"], status["message"]) == (code, code, reason, message)
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")


async def test_nothing_acceptable_is_406(world: World) -> None:
    answer = await ask(world, f"{V1BETA1}/nodes", accept="text/html, application/json;as=Table;v=v9;g=meta.k8s.io")
    assert answer.status == 406
    assert answer.json()["message"] == (
        "only the following media types are accepted: "
        "application/json, application/yaml, application/vnd.kubernetes.protobuf"
    )


async def test_a_table_for_kubectl_get(world: World) -> None:
    answer = await ask(world, f"{V1BETA1}/namespaces/default/pods", accept=TABLE)
    table = answer.json()
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "cpu", "memory", "Window"]
    assert [row["cells"] for row in table["rows"]] == [
        ["web-1", "1500u", "1536Ki", "10s"],
        ["web-2", "1500u", "1536Ki", "10s"],
    ]
    shown = stripped(table["rows"][0]["object"])
    assert shown["kind"] == "PartialObjectMetadata"
    assert shown["metadata"] == {"name": "web-1", "namespace": "default", "labels": {"app": "web", "tier": "front"}}


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_the_rows_of_a_table_have_its_version(world: World, version: str) -> None:
    for path in ("nodes", "nodes/n1"):
        table = (
            await ask(world, f"{V1BETA1}/{path}", accept=f"application/json;as=Table;v={version};g=meta.k8s.io")
        ).json()
        shown = table["rows"][0]["object"]
        assert table["apiVersion"] == shown["apiVersion"] == f"meta.k8s.io/{version}"


async def test_a_table_of_one_and_of_none(world: World) -> None:
    one = (await ask(world, f"{V1BETA1}/nodes/n2?includeObject=Object", accept=TABLE)).json()
    assert [row["cells"] for row in one["rows"]] == [["n2", "250m", "1Gi", "15.029s"]]
    assert one["rows"][0]["object"]["kind"] == "NodeMetrics"
    assert one["rows"][0]["object"]["usage"] == {"cpu": "250m", "memory": "1Gi"}
    none = (await ask(world, f"{V1BETA1}/namespaces/none/pods?includeObject=None", accept=TABLE)).json()
    assert none["rows"] == []
    assert len(none["columnDefinitions"]) == 4
    assert (await ask(world, f"{V1BETA1}/nodes?includeObject=All", accept=TABLE)).status == 400


async def test_partial_objects(world: World) -> None:
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    many = (await ask(world, f"{V1BETA1}/nodes", accept=accept)).json()
    assert (many["kind"], many["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    # A node without metrics is no object of this API.
    assert [item["metadata"]["name"] for item in many["items"]] == ["n1", "n2"]
    assert all(set(item) == {"kind", "apiVersion", "metadata"} for item in many["items"])
    accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
    one = stripped((await ask(world, f"{V1BETA1}/nodes/n2", accept=accept)).json())
    assert one == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "n2", "labels": {"zone": "b"}},
    }


async def test_head_has_the_headers_only(world: World) -> None:
    answer = await ask(world, f"{V1BETA1}/nodes", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 100


async def test_yaml_and_pretty(world: World) -> None:
    answer = await ask(world, f"{V1BETA1}/nodes", accept="application/yaml")
    assert answer.headers["Content-Type"] == "application/yaml"
    assert len(json.loads(answer.body)["items"]) == 2
    assert b'\n  "kind": "NodeMetricsList"' in (await ask(world, f"{V1BETA1}/nodes?pretty=1")).body


async def test_large_lists_are_compressed_for_those_who_ask(world: World) -> None:
    engine = world.running.engine
    for number in range(2500):
        name = f"bulk-{number:04}"
        engine.index.add_pod("bulk", name, "n1", {"app": "bulk"})
        engine.store.pod_readings["bulk", name] = engine.store.pod_readings["default", "web-1"]
    plain = await ask(world, f"{V1BETA1}/namespaces/bulk/pods", Accept_Encoding="identity")
    assert "Content-Encoding" not in plain.headers
    assert int(plain.headers["Content-Length"]) == len(plain.body) > 128 * 1024
    zipped = await ask(world, f"{V1BETA1}/namespaces/bulk/pods", Accept_Encoding="gzip")
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert len(zipped.body) < len(plain.body) / 5
    unzipped = json.loads(gzip.decompress(zipped.body))
    assert [item["metadata"]["name"] for item in unzipped["items"]] == [f"bulk-{number:04}" for number in range(2500)]
    small = await ask(world, f"{V1BETA1}/namespaces/default/pods", Accept_Encoding="gzip")
    assert "Content-Encoding" not in small.headers
    # A few samples of a long list are enough for the histogram of ages.
    assert 0 < len(world.running.ages) < 1000


async def test_discovery(world: World) -> None:
    groups = (await ask(world, "/apis")).json()
    assert groups["kind"] == "APIGroupList"
    assert [version["version"] for version in groups["groups"][0]["versions"]] == ["v1beta1", "v1"]
    assert (await ask(world, "/apis/metrics.k8s.io")).json()["preferredVersion"]["version"] == "v1beta1"
    for version in ("v1beta1", "v1"):
        resources = (await ask(world, f"/apis/metrics.k8s.io/{version}")).json()
        assert resources["groupVersion"] == f"metrics.k8s.io/{version}"
        assert [
            (entry["name"], entry["kind"], entry["namespaced"], entry["verbs"]) for entry in resources["resources"]
        ] == [
            ("nodes", "NodeMetrics", False, ["get", "list"]),
            ("pods", "PodMetrics", True, ["get", "list"]),
        ]
    assert "/apis/metrics.k8s.io/v1beta1" in (await ask(world, "/")).json()["paths"]
    assert (await ask(world, "/version")).json()["gitVersion"].startswith("v")


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
async def test_aggregated_discovery(world: World, version: str) -> None:
    kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
    answer = await ask(world, "/apis", accept=f"{kind},application/json")
    assert answer.headers["Content-Type"] == kind
    assert answer.json()["apiVersion"] == f"apidiscovery.k8s.io/{version}"
    served = answer.json()["items"][0]["versions"]
    assert [entry["version"] for entry in served] == ["v1beta1", "v1"]
    assert [resource["resource"] for resource in served[0]["resources"]] == ["nodes", "pods"]
    again = await ask(world, "/apis", accept=kind, If_None_Match=answer.headers["ETag"])
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("path", ["/apis", "/apis/metrics.k8s.io", "/apis/metrics.k8s.io/v1"])
async def test_discovery_in_the_form_that_is_asked_for(world: World, path: str) -> None:
    plain = await ask(world, path, accept="*/*")
    assert plain.headers["Content-Type"] == "application/json"
    yaml = await ask(world, path, accept="application/yaml")
    assert (yaml.headers["Content-Type"], yaml.body) == ("application/yaml", plain.body)
    binary = await ask(world, path, accept="application/vnd.kubernetes.protobuf, */*")
    assert binary.headers["Content-Type"] == "application/vnd.kubernetes.protobuf"
    assert binary.headers["Vary"] == "Accept"
    assert binary.body.startswith(b"k8s\0")
    for text in (plain.json()["kind"].encode(), b"metrics.k8s.io"):
        assert text in binary.body
    for other in ("text/html", "application/json;q=0", "application/json;as=Table;v=v1;g=meta.k8s.io"):
        refused = await ask(world, path, accept=other)
        assert (refused.status, refused.json()["reason"]) == (406, "NotAcceptable")


@pytest.mark.parametrize("path", ["/openapi/v2", "/openapi/v3/apis/metrics.k8s.io/v1"])
async def test_openapi_is_json_or_not_acceptable(world: World, path: str) -> None:
    for accept in ("application/json", "*/*", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf, */*"):
        assert (await ask(world, path, accept=accept)).headers["Content-Type"] == "application/json"
    for other in ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/yaml"):
        assert (await ask(world, path, accept=other)).status == 406


async def test_openapi_references_are_whole(world: World) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if "$ref" in value else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    two = (await ask(world, "/openapi/v2")).json()
    assert references(two) == {f"#/definitions/{name}" for name in two["definitions"]} & references(two)
    index = (await ask(world, "/openapi/v3")).json()["paths"]
    assert set(index) == {"apis/metrics.k8s.io/v1beta1", "apis/metrics.k8s.io/v1"}
    for version in ("v1beta1", "v1"):
        url = index[f"apis/metrics.k8s.io/{version}"]["serverRelativeURL"]
        three = (await ask(world, url)).json()
        schemas = {f"#/components/schemas/{name}" for name in three["components"]["schemas"]}
        assert references(three) <= schemas
        assert f"/apis/metrics.k8s.io/{version}/namespaces/{{namespace}}/pods/{{name}}" in three["paths"]
        operations = [item["get"]["operationId"] for item in three["paths"].values()]
        assert len(operations) == len(set(operations))


async def test_its_own_metrics(world: World) -> None:
    await ask(world, f"{V1BETA1}/nodes")
    await ask(world, "/nothing")
    text = (await ask(world, "/metrics")).body.decode()
    assert (
        'apiserver_request_total{code="200",group="metrics.k8s.io",resource="nodes",verb="list",version="v1beta1"} 1.0'
        in text
    )
    assert 'apiserver_request_total{code="404",group="",resource="",verb="get",version=""} 1.0' in text
    assert "kubemetrics_serving_certificate_expiration_timestamp_seconds 1." in text
    # The one who asks is such a front proxy.
    assert "kubemetrics_front_proxy_certificate_expiration_timestamp_seconds 1." in text


async def test_profiles(world: World) -> None:
    assert b"Application" in (await ask(world, "/debug/pprof/tasks")).body
    assert b"cumulative" in (await ask(world, "/debug/pprof/profile?seconds=0.1")).body
    assert (await ask(world, "/debug/pprof/profile?seconds=abc")).status == 400
