# SPDX-License-Identifier: GPL-3.0-or-later
"""May this user do that? The API server says (SubjectAccessReview) where it is not decided beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from metrics_server.auth.cache import AnswerCache
from metrics_server.auth.identity import PRIVILEGED_GROUP, Undecided, User
from metrics_server.auth.token import undecided
from metrics_server.kube.client import KubeError, Requester

_PATH = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_CACHE_SIZE = 8192


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked for: a resource, or a path."""

    verb: str
    path: str
    resource_request: bool = False
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to an access review."""

    allowed: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.allowed


class Authorizer:
    """Decides about open paths and privileged groups by itself, and about the rest as the API server says."""

    def __init__(
        self, client: Requester, *, allowed_ttl: float, denied_ttl: float, always_allow_paths: Sequence[str]
    ) -> None:
        self._client = client
        self._allowed_ttl = allowed_ttl
        self._denied_ttl = denied_ttl
        self._cache: AnswerCache[bytes, Decision] = AnswerCache(_CACHE_SIZE)
        self._open_paths = frozenset(path.strip("/") for path in always_allow_paths if not path.endswith("*"))
        self._open_prefixes = tuple(path[:-1].lstrip("/") for path in always_allow_paths if path.endswith("*"))

    def open_to_all(self, attributes: Attributes) -> bool:
        """Whether everybody may, without being known."""
        if attributes.resource_request:
            return False
        path = attributes.path.lstrip("/")
        return path.rstrip("/") in self._open_paths or path.startswith(self._open_prefixes or ("\0",))

    async def authorize(self, user: User, attributes: Attributes) -> Decision:
        """Return the decision; raise `Undecided` when nobody can tell."""
        if PRIVILEGED_GROUP in user.groups or self.open_to_all(attributes):
            return Decision(allowed=True)
        return await self._cache.get(_key(user, attributes), self._asker(user, attributes))

    def _asker(self, user: User, attributes: Attributes) -> Callable[[], Any]:
        async def ask() -> tuple[Decision, float]:
            try:
                answer = await self._client.request("POST", _PATH, body=_review(user, attributes))
            except KubeError as error:
                raise undecided(error, "access reviews (subjectaccessreviews.authorization.k8s.io)") from error
            status = answer.get("status") if isinstance(answer, dict) else None
            if not isinstance(status, dict):
                raise Undecided("the API server's answer to an access review has no status")
            allowed = status.get("allowed") is True and status.get("denied") is not True
            decision = Decision(allowed, str(status.get("reason") or ""))
            return decision, self._allowed_ttl if allowed else self._denied_ttl

        return ask


def _key(user: User, attributes: Attributes) -> bytes:
    """Return what stands for a question in the cache: of one size, however long the path or the user's groups are."""
    extra = sorted((key, tuple(values)) for key, values in user.extra.items())
    asked = (
        attributes.verb,
        attributes.path,
        attributes.resource_request,
        attributes.group,
        attributes.version,
        attributes.resource,
        attributes.subresource,
        attributes.namespace,
        attributes.name,
    )
    question = repr((user.name, user.uid, user.groups, extra, asked))
    return hashlib.blake2b(question.encode(), digest_size=32).digest()


def _review(user: User, attributes: Attributes) -> dict[str, Any]:
    spec: dict[str, Any] = {"user": user.name}
    if user.uid:
        spec["uid"] = user.uid
    if user.groups:
        spec["groups"] = list(user.groups)
    if user.extra:
        spec["extra"] = {key: list(values) for key, values in user.extra.items()}
    if attributes.resource_request:
        resource = {
            "verb": attributes.verb,
            "group": attributes.group,
            "version": attributes.version,
            "resource": attributes.resource,
            "subresource": attributes.subresource,
            "namespace": attributes.namespace,
            "name": attributes.name,
        }
        spec["resourceAttributes"] = {key: value for key, value in resource.items() if value}
    else:
        spec["nonResourceAttributes"] = {"path": attributes.path, "verb": attributes.verb}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
