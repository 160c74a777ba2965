# SPDX-License-Identifier: GPL-3.0-or-later
"""What is served here, for clients that ask: groups, versions and resources, in the old form and the aggregated one."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from metrics_server import __version__
from metrics_server.api import protobuf
from metrics_server.api.negotiate import JSON, MEDIA_TYPES, PROTOBUF, parse_accept
from metrics_server.api.status import GROUP

#: The preferred version comes first. v1beta1 is what every client in the field asks for.
VERSIONS = ("v1beta1", "v1")
_VERBS = ("get", "list")
#: The kernel's names of architectures in Kubernetes' words.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_AGGREGATED_GROUP = "apidiscovery.k8s.io"
_AGGREGATED_KIND = "APIGroupDiscoveryList"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the API."""

    name: str
    kind: str
    namespaced: bool
    #: The name in errors about missing metrics.
    metrics_name: str


RESOURCES = (
    Resource("nodes", "NodeMetrics", False, "nodemetrics"),
    Resource("pods", "PodMetrics", True, "podmetrics"),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A finished answer."""

    content_type: str
    body: bytes
    etag: str = ""
    #: The same as protobuf, where there is such a form.
    protobuf: bytes = b""
    #: The forms that a client may ask for; empty where its wishes do not matter.
    media_types: tuple[str, ...] = ()

    def as_type(self, media_type: str) -> Document:
        """Return the document in one of its forms. JSON is valid YAML."""
        return Document(media_type, self.protobuf if media_type == PROTOBUF else self.body, self.etag)


def _document(value: Any, content_type: str = JSON, *, tagged: bool = False) -> Document:
    body = msgspec.json.encode(value)
    tag = f'"{hashlib.sha512(body).hexdigest().upper()}"' if tagged else ""
    return Document(content_type, body + b"\n", tag)


def _typed(value: dict[str, Any], message: bytes) -> Document:
    """Return a document in all forms; `value` without kind and version is what the message says."""
    document = _document(value)
    return Document(JSON, document.body, "", protobuf.core_envelope(value["kind"], message), MEDIA_TYPES)


def _versions() -> list[dict[str, str]]:
    return [{"groupVersion": f"{GROUP}/{version}", "version": version} for version in VERSIONS]


def _group() -> dict[str, Any]:
    return {"name": GROUP, "versions": _versions(), "preferredVersion": _versions()[0]}


_GROUP_MESSAGE = protobuf.api_group(GROUP, VERSIONS)
GROUP_LIST = _typed(
    {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group()]}, protobuf.api_group_list([_GROUP_MESSAGE])
)
API_GROUP = _typed({"kind": "APIGroup", "apiVersion": "v1", **_group()}, _GROUP_MESSAGE)
RESOURCE_LISTS = {
    version: _typed(
        {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{GROUP}/{version}",
            "resources": [
                {
                    "name": resource.name,
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": resource.kind,
                    "verbs": _VERBS,
                }
                for resource in RESOURCES
            ],
        },
        protobuf.api_resource_list(
            f"{GROUP}/{version}",
            [(resource.name, resource.kind, resource.namespaced) for resource in RESOURCES],
            _VERBS,
        ),
    )
    for version in VERSIONS
}


def _aggregated(version: str) -> Document:
    return _document(
        {
            "kind": _AGGREGATED_KIND,
            "apiVersion": f"{_AGGREGATED_GROUP}/{version}",
            "metadata": {},
            "items": [
                {
                    "metadata": {"name": GROUP},
                    "versions": [
                        {
                            "version": served,
                            "resources": [
                                {
                                    "resource": resource.name,
                                    "responseKind": {"group": GROUP, "version": served, "kind": resource.kind},
                                    "scope": "Namespaced" if resource.namespaced else "Cluster",
                                    "singularResource": "",
                                    "verbs": _VERBS,
                                }
                                for resource in RESOURCES
                            ],
                            "freshness": "Current",
                        }
                        for served in VERSIONS
                    ],
                }
            ],
        },
        f"{JSON};g={_AGGREGATED_GROUP};v={version};as={_AGGREGATED_KIND}",
        tagged=True,
    )


_AGGREGATED = {version: _aggregated(version) for version in ("v2", "v2beta1")}


def groups(accept: str) -> Document | None:
    """Return the answer for `/apis` in the form that the client likes best, or None when it likes none."""
    for clause in parse_accept(accept or JSON):
        parameters = clause.parameters
        if not parameters.keys() & {"as", "g", "v"}:
            for media_type in MEDIA_TYPES:
                if clause.quality > 0 and clause.accepts(media_type):
                    return GROUP_LIST.as_type(media_type)
        elif (
            clause.quality > 0
            and clause.accepts(JSON)
            and parameters.get("g") == _AGGREGATED_GROUP
            and parameters.get("as") == _AGGREGATED_KIND
            and parameters.get("v") in _AGGREGATED
        ):
            return _AGGREGATED[parameters["v"]]
    return None


def root(paths: Sequence[str]) -> Document:
    """Return the index of all paths."""
    return _document({"paths": sorted(paths)})


_VERSION_PARTS = __version__.split(".")
VERSION = _document(
    {
        "major": _VERSION_PARTS[0],
        "minor": _VERSION_PARTS[1],
        "gitVersion": f"v{__version__}",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": f"python{platform.python_version()}",
        "compiler": sys.implementation.name,
        "platform": f"{platform.system().lower()}/{_ARCHITECTURES.get(platform.machine(), platform.machine())}",
    }
)
