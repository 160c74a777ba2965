# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI description of the API, in version 2 and 3, so that `kubectl explain` and generated clients know it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from metrics_server import __version__
from metrics_server.api.discovery import RESOURCES, VERSIONS, Document, Resource
from metrics_server.api.negotiate import JSON, MEDIA_TYPES
from metrics_server.api.status import GROUP

_INFO = {"title": "Kubernetes metrics-server", "version": f"v{__version__}"}
_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_METRICS = "io.k8s.metrics.pkg.apis.metrics"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"

_API_VERSION = {
    "type": "string",
    "description": "Versioned schema of this representation of an object: the group and the version.",
}
_KIND = {"type": "string", "description": "The REST resource that this object represents, in CamelCase."}

#: Schemas that do not depend on the version of the API. References are bare names here, and made whole for each
#: document.
_COMMON: dict[str, dict[str, Any]] = {
    _QUANTITY: {
        "type": "string",
        "description": "A number with a unit suffix: CPU in cores (123456789n, 250m), memory in bytes (147532Ki, 1Gi).",
    },
    f"{_META}.Time": {"type": "string", "format": "date-time", "description": "A moment, as in RFC 3339, in UTC."},
    f"{_META}.Duration": {"type": "string", "description": "A span of time as Go writes it, such as 15.029s."},
    f"{_META}.ObjectMeta": {
        "type": "object",
        "description": "Metadata of the node or pod that was measured.",
        "properties": {
            "name": {"type": "string", "description": "Name of the node or pod."},
            "namespace": {"type": "string", "description": "Namespace of the pod."},
            "labels": {
                "type": "object",
                "description": "Labels of the node or pod.",
                "additionalProperties": {"type": "string", "default": ""},
            },
            "creationTimestamp": {"ref": f"{_META}.Time", "description": "When this answer was made."},
        },
    },
    f"{_META}.ListMeta": {
        "type": "object",
        "description": "Metadata of a list.",
        "properties": {
            "resourceVersion": {"type": "string", "description": "Always empty: metrics have no version."},
            "continue": {"type": "string", "description": "Always empty: lists are complete."},
        },
    },
}

_TIMES = {
    "timestamp": {
        "ref": f"{_META}.Time",
        "description": "The end of the interval over which the usage was measured.",
    },
    "window": {"ref": f"{_META}.Duration", "description": "The length of that interval."},
}


def _usage(whose: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": f"{whose}: cpu is an average over the interval, memory the working set at its end.",
        "additionalProperties": {"ref": _QUANTITY},
    }


def _object(resource: Resource, version: str, description: str, own: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": ["timestamp", "window", *own],
        "properties": {
            "apiVersion": _API_VERSION,
            "kind": _KIND,
            "metadata": {"ref": f"{_META}.ObjectMeta", "description": "Metadata of what was measured."},
            **_TIMES,
            **own,
        },
        "x-kubernetes-group-version-kind": [{"group": GROUP, "kind": resource.kind, "version": version}],
    }


def _list(resource: Resource, version: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": f"A list of {resource.kind}.",
        "required": ["items"],
        "properties": {
            "apiVersion": _API_VERSION,
            "kind": _KIND,
            "metadata": {"ref": f"{_META}.ListMeta", "description": "Metadata of the list."},
            "items": {
                "type": "array",
                "description": "The objects, ordered by namespace and name.",
                "items": {"ref": f"{_METRICS}.{version}.{resource.kind}"},
            },
        },
        "x-kubernetes-group-version-kind": [{"group": GROUP, "kind": f"{resource.kind}List", "version": version}],
    }


def _schemas(version: str) -> dict[str, dict[str, Any]]:
    nodes, pods = RESOURCES
    package = f"{_METRICS}.{version}"
    return {
        f"{package}.NodeMetrics": _object(
            nodes, version, "Resource usage of a node.", {"usage": _usage("Usage of the whole node")}
        ),
        f"{package}.NodeMetricsList": _list(nodes, version),
        f"{package}.PodMetrics": _object(
            pods,
            version,
            "Resource usage of a pod.",
            {
                "containers": {
                    "type": "array",
                    "description": "Usage of each running container, ordered by name.",
                    "items": {"ref": f"{package}.ContainerMetrics"},
                }
            },
        ),
        f"{package}.PodMetricsList": _list(pods, version),
        f"{package}.ContainerMetrics": {
            "type": "object",
            "description": "Resource usage of a container.",
            "required": ["name", "usage"],
            "properties": {
                "name": {"type": "string", "description": "Name of the container.", "default": ""},
                "usage": _usage("Usage of the container"),
            },
        },
    }


def _resolved(value: Any, prefix: str, *, siblings: bool) -> Any:
    """Return a schema with whole references. Version 3.0 takes no siblings of `$ref`, hence `allOf` there."""
    if isinstance(value, dict):
        if "ref" in value:
            target = {"$ref": f"{prefix}{value['ref']}"}
            others = {key: _resolved(item, prefix, siblings=siblings) for key, item in value.items() if key != "ref"}
            if not others:
                return target
            return {**others, **target} if siblings else {**others, "allOf": [target]}
        return {key: _resolved(item, prefix, siblings=siblings) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(item, prefix, siblings=siblings) for item in value]
    return value


def _parameter(name: str, where: str, description: str, kind: str, *, three: bool) -> dict[str, Any]:
    schema = {"type": kind}
    parameter: dict[str, Any] = {"name": name, "in": where, "description": description}
    if where == "path":
        parameter["required"] = True
    return (
        {**parameter, "schema": {**schema, "uniqueItems": True}}
        if three
        else {**parameter, **schema, "uniqueItems": True}
    )


def _operation(resource: Resource, version: str, path: str, *, three: bool) -> dict[str, Any]:
    many = "{name}" not in path
    kind = f"{resource.kind}List" if many else resource.kind
    scope = "" if not resource.namespaced else ("Namespaced" if "{namespace}" in path else "ForAllNamespaces")
    stem = f"Metrics{version.capitalize()}"
    name = {
        "": f"{resource.kind}",
        "Namespaced": f"Namespaced{resource.kind}",
        "ForAllNamespaces": f"{resource.kind}ForAllNamespaces",
    }[scope]
    action = "list" if many else "read"
    reference = {"ref": f"{_METRICS}.{version}.{kind}"}
    operation: dict[str, Any] = {
        "description": f"{'list objects' if many else 'read one object'} of kind {resource.kind}",
        "tags": [f"metrics_{version}"],
        "operationId": f"{action}{stem}{name}",
        "x-kubernetes-action": "list" if many else "get",
        "x-kubernetes-group-version-kind": {"group": GROUP, "kind": resource.kind, "version": version},
    }
    if three:
        operation["responses"] = {
            "200": {
                "description": "OK",
                "content": {media_type: {"schema": reference} for media_type in MEDIA_TYPES},
            },
            "401": {"description": "Unauthorized"},
        }
    else:
        operation["schemes"] = ["https"]
        operation["produces"] = list(MEDIA_TYPES)
        operation["consumes"] = ["*/*"]
        operation["responses"] = {
            "200": {"description": "OK", "schema": reference},
            "401": {"description": "Unauthorized"},
        }
    if many:
        operation["parameters"] = [
            _parameter("labelSelector", "query", "Only objects whose labels match.", "string", three=three),
            _parameter("fieldSelector", "query", "Only objects whose fields match.", "string", three=three),
            _parameter("pretty", "query", "If true, the output is indented.", "string", three=three),
        ]
    else:
        operation["parameters"] = [
            _parameter("pretty", "query", "If true, the output is indented.", "string", three=three)
        ]
    return operation


def _paths(version: str, *, three: bool) -> dict[str, Any]:
    base = f"/apis/{GROUP}/{version}"
    paths: dict[str, Any] = {
        f"{base}/": {
            "get": {
                "description": "get available resources",
                "operationId": f"getMetrics{version.capitalize()}APIResources",
                "tags": [f"metrics_{version}"],
                "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
            }
        }
    }
    for resource in RESOURCES:
        namespaced = [f"{base}/namespaces/{{namespace}}/{resource.name}"] if resource.namespaced else []
        scope = namespaced[0] if namespaced else f"{base}/{resource.name}"
        for path in (f"{base}/{resource.name}", *namespaced, f"{scope}/{{name}}"):
            item: dict[str, Any] = {"get": _operation(resource, version, path, three=three)}
            parameters = [
                _parameter(name, "path", description, "string", three=three)
                for name, description in (
                    ("name", f"Name of the {resource.kind}"),
                    ("namespace", "Namespace of the pods"),
                )
                if f"{{{name}}}" in path
            ]
            if parameters:
                item["parameters"] = parameters
            paths[path] = item
    return paths


def _version_two() -> Document:
    definitions = dict(_COMMON)
    paths: dict[str, Any] = {}
    for version in VERSIONS:
        definitions.update(_schemas(version))
        paths.update(_paths(version, three=False))
    document = {"swagger": "2.0", "info": _INFO, "paths": paths, "definitions": definitions}
    return _document(_resolved(document, "#/definitions/", siblings=True))


def _version_three(version: str) -> Document:
    document = {
        "openapi": "3.0.0",
        "info": _INFO,
        "paths": _paths(version, three=True),
        "components": {"schemas": {**_COMMON, **_schemas(version)}},
    }
    return _document(_resolved(document, "#/components/schemas/", siblings=False))


def _document(value: Any, media_types: tuple[str, ...] = (JSON,)) -> Document:
    body = msgspec.json.encode(value)
    return Document(JSON, body, f'"{hashlib.sha512(body).hexdigest().upper()}"', media_types=media_types)


V2 = _version_two()
V3 = {version: _version_three(version) for version in VERSIONS}
V3_INDEX = _document(
    {
        "paths": {
            f"apis/{GROUP}/{version}": {
                "serverRelativeURL": f"/openapi/v3/apis/{GROUP}/{version}?hash={V3[version].etag.strip(chr(34))}"
            }
            for version in VERSIONS
        }
    },
    # As in Kubernetes' own servers: the index is JSON for everybody.
    media_types=(),
)
