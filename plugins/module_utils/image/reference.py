# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of images, as container runtimes read them."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError

DOCKER_HUB = "docker.io"
#: Where Docker Hub serves the registry API, and the key under which its credentials are kept.
DOCKER_HUB_HOST = "registry-1.docker.io"
DOCKER_HUB_LOGIN = "https://index.docker.io/v1/"
DOCKER_HUB_ALIASES = (DOCKER_HUB, "index.docker.io")
DOCKER_HUB_NAMES = (*DOCKER_HUB_ALIASES, DOCKER_HUB_HOST)
#: Names of images that are in no registry.
NO_REGISTRY = "localhost"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_REGISTRY = re.compile(r"(?:%s(?:\.%s)*|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?" % (_LABEL, _LABEL))


class Reference(t.NamedTuple):
    """The name of an image, with its tag or its digest or both."""

    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        return "%s/%s" % (self.registry, self.repository)

    @property
    def host(self) -> str:
        """Where the registry's API is."""
        return DOCKER_HUB_HOST if self.registry == DOCKER_HUB else self.registry

    @property
    def version(self) -> str:
        """What is asked for: the digest where there is one, since a tag may have moved on."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return self.name + (":" + self.tag if self.tag else "") + ("@" + self.digest if self.digest else "")

    def pinned(self, digest: str) -> "Reference":
        return self._replace(digest=digest)


def is_digest(text: str) -> bool:
    return bool(_DIGEST.fullmatch(text))


def normalized(host: str) -> str:
    """A registry's host as it is compared: hosts have no case, 443 is the default port, Docker Hub has three names."""
    host = host.strip().lower()
    host = host[: -len(":443")] if host.endswith(":443") else host
    return DOCKER_HUB_HOST if host in DOCKER_HUB_NAMES else host


def is_registry(host: str) -> bool:
    """Whether a registry can be called so."""
    found = _REGISTRY.fullmatch(host)
    return bool(found) and int(found.group(1) or 443) < 1 << 16


def split_registry(name: str) -> t.Tuple[str, str]:
    """The registry and the rest. A first part that looks like a host is a registry; otherwise all is Docker Hub's."""
    first, slash, rest = name.partition("/")
    if slash and (first == NO_REGISTRY or "." in first or ":" in first):
        return first, rest
    return DOCKER_HUB, name


def parse(text: str) -> Reference:
    """Read the name of an image. Raises ImageError."""
    name, at, digest = text.strip().partition("@")
    tag = ""
    before, colon, after = name.rpartition(":")
    if colon and "/" not in after:
        name, tag = before, after
    registry, repository = split_registry(name)
    if registry.lower() in DOCKER_HUB_ALIASES:
        registry, repository = DOCKER_HUB, repository if "/" in repository else "library/" + repository
    if at and not is_digest(digest):
        raise ImageError("%s is no name of an image: after @ stands no digest such as sha256:0123..." % text)
    if not (
        is_registry(registry)
        and _REPOSITORY.fullmatch(repository)
        and (not colon or "/" in after or _TAG.fullmatch(tag))
    ):
        raise ImageError(
            "%r is no name of an image; one looks like registry.example.com/library/python:3.13-slim-bookworm." % text
        )
    if not tag and not digest:
        tag = "latest"
    return Reference(registry, repository, tag, digest)
