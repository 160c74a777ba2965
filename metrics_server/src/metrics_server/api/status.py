# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors as Kubernetes clients know them: `Status` objects, with the texts of the Kubernetes API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from metrics_server.auth.authorize import Attributes

GROUP = "metrics.k8s.io"


@dataclass(eq=False)
class ApiError(Exception):
    """An answer that is an error."""

    code: int
    reason: str
    message: str
    details: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def body(self) -> bytes:
        """Return the JSON of the Status object."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            status["details"] = dict(self.details)
        status["code"] = self.code
        return msgspec.json.encode(status) + b"\n"


def bad_request(message: str) -> ApiError:
    """Return what a request with wrong parameters is told."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """Return what a request with a bad credential is told; the reason is for the log only."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(user: str, attributes: Attributes, reason: str) -> ApiError:
    """Return what an authenticated user without the right is told."""
    user, verb = quote(user), attributes.verb
    if not attributes.resource_request:
        what = f"User {user} cannot {verb} path {quote(attributes.path)}"
    else:
        resource = attributes.resource + (f"/{attributes.subresource}" if attributes.subresource else "")
        where = f"in the namespace {quote(attributes.namespace)}" if attributes.namespace else "at the cluster scope"
        what = f"User {user} cannot {verb} resource {quote(resource)} in API group {quote(attributes.group)} {where}"
    what = what.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if reason:
        what += f": {reason}"
    subject = _qualified(attributes.resource, attributes.group)
    if not subject:
        message = f"forbidden: {what}"
    elif attributes.name:
        message = f"{subject} {quote(attributes.name)} is forbidden: {what}"
    else:
        message = f"{subject} is forbidden: {what}"
    return ApiError(403, "Forbidden", message, _details(attributes.name, attributes.group, attributes.resource))


def not_found(resource: str, name: str, group: str = GROUP) -> ApiError:
    """Return what is told of an object that does not exist."""
    return ApiError(
        404, "NotFound", f"{_qualified(resource, group)} {quote(name)} not found", _details(name, group, resource)
    )


def unknown_path() -> ApiError:
    """Return what is told of a path that nothing is served at."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed(allowed: str) -> ApiError:
    """Return what a request that wants to write is told."""
    return ApiError(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        {},
        headers={"Allow": allowed},
    )


def watch_not_supported(resource: str) -> ApiError:
    """Return what a watch is told."""
    return ApiError(
        405,
        "MethodNotAllowed",
        f"watch is not supported on resources of kind {quote(f'{resource}.{GROUP}')}",
        {"group": GROUP, "kind": resource},
    )


def not_acceptable(accepted: tuple[str, ...]) -> ApiError:
    """Return what a client is told that accepts nothing of what is served."""
    return ApiError(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(accepted)}")


def target_too_long(size: int) -> ApiError:
    """Return what is told when a path and a query are not looked into."""
    return ApiError(414, "RequestURITooLong", f"the request's path and query are longer than {size} bytes")


def head_too_large(size: int, headers: int) -> ApiError:
    """Return what is told when the head of a request is not read to its end."""
    return ApiError(
        431,
        "BadRequest",
        f"the request's head is larger than {size} bytes, or has more than {headers} headers",
    )


def too_many_requests() -> ApiError:
    """Return what is told when all places are taken."""
    return ApiError(
        429,
        "TooManyRequests",
        "Too many requests, please try again later.",
        {"retryAfterSeconds": 1},
        {"Retry-After": "1"},
    )


def internal_error(message: str) -> ApiError:
    """Return what is told when the server itself is at fault."""
    return ApiError(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})


def unavailable(message: str) -> ApiError:
    """Return what is told when something is missing for a moment."""
    return ApiError(503, "ServiceUnavailable", message, {"retryAfterSeconds": 1}, {"Retry-After": "1"})


def quote(text: str) -> str:
    """Return a text in double quotes, with what is special escaped."""
    return msgspec.json.encode(text).decode()


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if resource and group else resource


def _details(name: str, group: str, resource: str) -> dict[str, Any]:
    return {key: value for key, value in (("name", name), ("group", group), ("kind", resource)) if value}
