# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks: the user of a request, and what can go wrong on the way to know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ANONYMOUS = "system:anonymous"
UNAUTHENTICATED_GROUP = "system:unauthenticated"
AUTHENTICATED_GROUP = "system:authenticated"
#: Members may do everything without asking the API server, as in every Kubernetes API server.
PRIVILEGED_GROUP = "system:masters"


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated user."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def authenticated(self) -> User:
        """Return the user with the group of all authenticated users."""
        if self.name == ANONYMOUS or AUTHENTICATED_GROUP in self.groups or UNAUTHENTICATED_GROUP in self.groups:
            return self
        return User(self.name, self.uid, (*self.groups, AUTHENTICATED_GROUP), self.extra)


ANONYMOUS_USER = User(ANONYMOUS, groups=(UNAUTHENTICATED_GROUP,))


class Rejected(Exception):
    """The credential is bad (401); the text is for the log, not for the client."""


class Undecided(Exception):
    """Nobody can tell now whether the credential or the access is good (503 or 500)."""

    def __init__(self, message: str, *, misconfigured: bool = False) -> None:
        super().__init__(message)
        #: True when waiting does not help: the server's own rights are missing.
        self.misconfigured = misconfigured
