# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks: a user named by the front proxy, a client certificate, a bearer token, or nobody.

Headers that name a user are believed only on a connection whose certificate was issued by the front proxy's CA and
bears an allowed name; on every other connection they are as if not sent.
"""

from __future__ import annotations

import datetime
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from multidict import CIMultiDictProxy

from metrics_server.auth.identity import ANONYMOUS_USER, Rejected, Undecided, User
from metrics_server.auth.token import TokenAuthenticator
from metrics_server.auth.trust import FrontProxy, Trust
from metrics_server.logs import Seldom
from metrics_server.tls.client_certificates import UNREADABLE, CertificateError, common_name, organizations

_log = logging.getLogger(__name__)

#: So many certificates are remembered; API servers have one each.
_MAX_JUDGEMENTS = 256


class Connection(Protocol):
    """The part of `tls.listener.TlsConnection` that matters here."""

    def peer_certificates(self) -> tuple[x509.Certificate, ...]:
        """Return what the client showed, unverified."""


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What the certificate of a connection is worth, until the authorities change or something in the chain expires."""

    generation: int
    good_until: float
    front_proxy: bool = False
    client: User | None = None
    problems: tuple[str, ...] = ()


class Authenticator:
    """Finds the user of a request."""

    def __init__(
        self,
        trust: Trust,
        tokens: TokenAuthenticator | None,
        *,
        anonymous: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self._tokens = tokens
        self._anonymous = anonymous
        self._clock = clock
        self._judgements: weakref.WeakKeyDictionary[Connection, _Judgement] = weakref.WeakKeyDictionary()
        #: Of certificates that somebody vouches for, by the fingerprints of all that was shown: a new connection of
        #: the same API server need not be judged anew.
        self._by_fingerprint: OrderedDict[bytes, _Judgement] = OrderedDict()
        self._seldom = Seldom()

    async def authenticate(self, connection: Connection | None, headers: CIMultiDictProxy[str]) -> User:
        """Return the user; raise `Rejected` (a credential is bad) or `Undecided` (nobody can tell now)."""
        problems: tuple[str, ...] = ()
        if connection is not None:
            judgement = self._judge(connection)
            problems = judgement.problems
            front_proxy = self._trust.front_proxy
            if judgement.front_proxy and front_proxy is not None:
                user = user_from_headers(front_proxy, headers)
                if user is not None:
                    return user.authenticated()
            if judgement.client is not None:
                return judgement.client.authenticated()
            if judgement.front_proxy and self._trust.clients is not None:
                problems = ("the front proxy's certificate came without a user's name in the headers",)
        token = bearer_token(headers)
        if token is not None and self._tokens is not None:
            try:
                return (await self._tokens.authenticate(token)).authenticated()
            except Rejected as error:
                problems = (*problems, str(error))
        if problems:
            if self._trust.problem is not None:
                raise Undecided(self._trust.problem)
            self._log_refusal(problems)
            raise Rejected("; ".join(problems))
        if not self._anonymous:
            raise Rejected("no credentials")
        return ANONYMOUS_USER

    def certificate_is_trusted(self, connection: Connection) -> bool:
        """Whether one of the authorities vouches for the certificate of a connection, as far as is known now."""
        try:
            judgement = self._judge(connection)
        except Undecided:
            return False
        return judgement.front_proxy or judgement.client is not None

    def front_proxy_expiry(self, connections: Iterable[Connection]) -> float:
        """Return when the first certificate of a front proxy among these connections expires, or 0 without one.

        In seconds since the epoch. Authorities count, too: a certificate is not good for longer than its issuer's.
        """
        known = (self._judgements.get(connection) for connection in connections)
        return min((one.good_until for one in known if one is not None and one.front_proxy), default=0.0)

    def _judge(self, connection: Connection) -> _Judgement:
        known = self._judgements.get(connection)
        if known is not None and self._holds(known):
            return known
        try:
            presented = connection.peer_certificates()
            judgement = self._judge_fingerprints(presented) if presented else self._no_certificate()
        except UNREADABLE as error:
            problem = f"x509: the client's certificate does not parse ({type(error).__name__})"
            judgement = _Judgement(self._trust.generation, 0.0, problems=(problem,))
        self._judgements[connection] = judgement
        return judgement

    def _holds(self, judgement: _Judgement) -> bool:
        return judgement.generation == self._trust.generation and self._clock() < judgement.good_until

    def _judge_fingerprints(self, presented: Sequence[x509.Certificate]) -> _Judgement:
        fingerprints = b"".join(certificate.fingerprint(hashes.SHA256()) for certificate in presented)
        known = self._by_fingerprint.get(fingerprints)
        if known is not None and self._holds(known):
            self._by_fingerprint.move_to_end(fingerprints)
            return known
        judgement = self._judge_certificates(presented)
        if judgement.front_proxy or judgement.client is not None:
            # Others are not kept: whoever makes up certificates would put out those of the API servers.
            self._by_fingerprint[fingerprints] = judgement
            while len(self._by_fingerprint) > _MAX_JUDGEMENTS:
                self._by_fingerprint.popitem(last=False)
        return judgement

    def _no_certificate(self) -> _Judgement:
        return _Judgement(self._trust.generation, float("inf"))

    def _judge_certificates(self, presented: Sequence[x509.Certificate]) -> _Judgement:
        generation = self._trust.generation
        if self._trust.front_proxy is None and self._trust.clients is None:
            if self._trust.problem is not None:
                raise Undecided(self._trust.problem)
            # Nobody to vouch for any certificate: as if none had been shown.
            return _Judgement(generation, float("inf"))
        leaf = presented[0]
        front_proxy, user, problems = False, None, []
        good_until = float("inf")
        if self._trust.front_proxy is not None:
            name, allowed = common_name(leaf), self._trust.front_proxy.allowed_names
            # Where one authority signs both and no name is set, every client could call itself the front proxy.
            shared = () if allowed or self._trust.clients is None else self._trust.clients.certificates
            try:
                expiry = self._trust.front_proxy.bundle.verify_client(presented, excluded=shared)
                if allowed and name not in allowed:
                    problems.append(f"x509: subject with cn={name} is not in the allowed list: [{' '.join(allowed)}]")
                else:
                    front_proxy = True
                    good_until = min(good_until, _timestamp(expiry))
            except CertificateError as error:
                problems.append(f"front proxy: {error}")
        if self._trust.clients is not None:
            try:
                expiry = self._trust.clients.verify_client(presented)
                good_until = min(good_until, _timestamp(expiry))
                if common_name(leaf):
                    user = User(common_name(leaf), groups=organizations(leaf))
            except CertificateError as error:
                problems.append(f"client: {error}")
        # A certificate that one authority vouches for is good; what the other says of it does not matter then.
        kept = () if front_proxy or user is not None else tuple(problems)
        if kept:
            # It may become valid: check again with the next request, a refused client costs its own time.
            good_until = 0.0
        return _Judgement(generation, good_until, front_proxy, user, kept)

    def _log_refusal(self, problems: Sequence[str]) -> None:
        if self._seldom():
            _log.error("Unable to authenticate the request", extra={"kv": {"err": "; ".join(problems)}})


def _timestamp(moment: datetime.datetime) -> float:
    return moment.timestamp()


def bearer_token(headers: CIMultiDictProxy[str]) -> str | None:
    """Return the bearer token of a request, or None when it has none."""
    scheme, _unused, token = headers.get("Authorization", "").strip().partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token else None


def user_from_headers(front_proxy: FrontProxy, headers: CIMultiDictProxy[str]) -> User | None:
    """Return the user that the front proxy names, or None when it names none."""
    name = _first(headers, front_proxy.username_headers)
    if not name:
        return None
    groups = tuple(value for header in front_proxy.group_headers for value in headers.getall(header, ()) if value)
    prefixes = tuple(prefix.lower() for prefix in front_proxy.extra_prefixes if prefix)
    extra: dict[str, list[str]] = {}
    for header, value in headers.items():
        lowered = header.lower()
        if not lowered.startswith(prefixes):
            continue
        for prefix in prefixes:
            if lowered.startswith(prefix):
                extra.setdefault(unquote(lowered[len(prefix) :]), []).append(value)
    uid = _first(headers, front_proxy.uid_headers)
    texts = (name, uid, *groups, *extra, *(value for values in extra.values() for value in values))
    if not "".join(texts).isascii() and not all(map(_is_text, texts)):
        # Another identity than the one that was meant would be reviewed.
        raise Rejected("the headers that name the user are not UTF-8")
    return User(name, uid, groups, {key: tuple(values) for key, values in extra.items()})


def _is_text(value: str) -> bool:
    """Whether a header was UTF-8: what was not is kept as lone surrogates."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _first(headers: CIMultiDictProxy[str], names: Sequence[str]) -> str:
    return next((value for value in (headers.get(name, "") for name in names) if value), "")
