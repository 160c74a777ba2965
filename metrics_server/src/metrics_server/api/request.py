# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request asks for, as the authorizer and the handlers see it."""

from __future__ import annotations

from collections.abc import Mapping

from metrics_server.api.selectors import SelectorError, parse_field_selector
from metrics_server.auth.authorize import Attributes

_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


def wants_watch(query: Mapping[str, str]) -> bool:
    """Whether the parameters ask for a watch, as apimachinery reads them: all but `0` and `false` mean yes."""
    return query.get("watch", "false").lower() not in ("0", "false")


def attributes_of(method: str, path: str, query: Mapping[str, str]) -> Attributes:
    """Return what a request asks for."""
    parts = path.strip("/").split("/")
    verb = method.lower()
    if len(parts) < 3 or parts[0] not in ("api", "apis") or (parts[0] == "apis" and len(parts) < 4):
        return Attributes(verb, path)
    group = ""
    if parts[0] == "apis":
        group, parts = parts[1], parts[1:]
    version, rest = parts[1], parts[2:]
    if rest[0] in ("watch", "proxy"):
        if len(rest) < 2:
            return Attributes(verb, path)
        verb, rest = rest[0], rest[1:]
    else:
        verb = _VERBS.get(method, "")
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    resource = rest[0]
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 and verb != "proxy" else ""
    if not name and verb == "get":
        verb = "watch" if wants_watch(query) else "list"
        name = _pinned_name(query.get("fieldSelector", ""))
    if not name and verb == "delete":
        verb = "deletecollection"
    return Attributes(verb, path, True, group, version, resource, subresource, namespace, name)


def _pinned_name(selector: str) -> str:
    """Return the name that a field selector asks for: who may get one object may also list it alone."""
    if "metadata.name" not in selector:
        return ""
    try:
        name = parse_field_selector(selector, ("metadata.name", "metadata.namespace", "spec.nodeName")).exact(
            "metadata.name"
        )
    except SelectorError:
        return ""
    return name if name and name not in (".", "..") and "/" not in name and "%" not in name else ""
