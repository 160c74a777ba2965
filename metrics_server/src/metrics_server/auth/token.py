# SPDX-License-Identifier: GPL-3.0-or-later
"""Bearer tokens, reviewed by the API server (TokenReview)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from typing import Any

from metrics_server.auth.cache import AnswerCache
from metrics_server.auth.identity import Rejected, Undecided, User
from metrics_server.kube.client import KubeError, Requester
from metrics_server.logs import Seldom

_log = logging.getLogger(__name__)
_seldom = Seldom()

_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
_CACHE_SIZE = 4096
#: Kubernetes' own tokens have 1 to 2 KiB; the rest of a request's headers must fit into 64 KiB as well.
_MAX_TOKEN_LENGTH = 32 * 1024


def undecided(error: KubeError, what: str) -> Undecided:
    """Return what it means for a caller that a review could not be had."""
    if error.status in (401, 403):
        return Undecided(f"{what} are refused to this server: {error.message}", misconfigured=True)
    return Undecided(f"{what} cannot be had from the API server: {error.message}")


class TokenAuthenticator:
    """Asks the API server whose token it is, and remembers the answer for a short time."""

    def __init__(self, client: Requester, ttl: float) -> None:
        self._client = client
        self._ttl = ttl
        self._cache: AnswerCache[bytes, User | None] = AnswerCache(_CACHE_SIZE)
        # The cache's keys must neither hold tokens nor be guessable from outside.
        self._pepper = os.urandom(32)

    async def authenticate(self, token: str) -> User:
        """Return the token's user; raise `Rejected` or `Undecided`."""
        if not token or len(token) > _MAX_TOKEN_LENGTH or not token.isascii():
            raise Rejected("invalid bearer token")
        key = hashlib.blake2b(token.encode(), key=self._pepper).digest()
        user = await self._cache.get(key, self._asker(token))
        if user is None:
            raise Rejected("invalid bearer token")
        return user

    def _asker(self, token: str) -> Callable[[], Any]:
        async def ask() -> tuple[User | None, float]:
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
            try:
                answer = await self._client.request("POST", _PATH, body=body)
            except KubeError as error:
                raise undecided(error, "token reviews (tokenreviews.authentication.k8s.io)") from error
            return _user(answer), self._ttl

        return ask


def _user(answer: Any) -> User | None:
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict):
        raise Undecided("the API server's answer to a token review has no status")
    if status.get("authenticated") is not True:
        if status.get("error") and _seldom():
            _log.info("Token refused", extra={"kv": {"reason": status["error"]}})
        return None
    info = status.get("user")
    if not isinstance(info, dict) or not info.get("username"):
        raise Undecided("the API server's answer to a token review names no user")
    extra = info.get("extra") or {}
    return User(
        str(info["username"]),
        str(info.get("uid") or ""),
        tuple(str(group) for group in info.get("groups") or ()),
        {str(key): tuple(str(value) for value in values or ()) for key, values in extra.items()},
    )
