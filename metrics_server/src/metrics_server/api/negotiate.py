# SPDX-License-Identifier: GPL-3.0-or-later
"""Content negotiation as Kubernetes API servers do it: `Accept` clauses with `as=`, `g=` and `v=` parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
#: In the order in which a wildcard chooses.
MEDIA_TYPES = (JSON, YAML, PROTOBUF)
_MAX_CLAUSES = 32
_MAX_CACHED = 1024


@dataclass(frozen=True, slots=True)
class Clause:
    """One alternative of an `Accept` header."""

    main: str
    sub: str
    quality: float
    parameters: dict[str, str] = field(hash=False)

    def accepts(self, media_type: str) -> bool:
        """Whether the alternative covers a media type."""
        main, _unused, sub = media_type.partition("/")
        return (self.main == main and self.sub in (sub, "*")) or (self.main == "*" and self.sub == "*")


@dataclass(frozen=True, slots=True)
class Choice:
    """The outcome: a media type, and the kind that the object is to be turned into."""

    media_type: str
    #: Empty for the object as it is, or `Table`, `PartialObjectMetadata`, `PartialObjectMetadataList`.
    kind: str = ""
    version: str = ""
    pretty: bool = False


@lru_cache(maxsize=256)
def parse_accept(header: str) -> tuple[Clause, ...]:
    """Return the alternatives of an `Accept` header, the preferred one first. What is no media type is left out."""
    clauses: list[Clause] = []
    for text in header.split(",")[:_MAX_CLAUSES]:
        media, *rest = (part.strip() for part in text.split(";"))
        main, slash, sub = media.lower().partition("/")
        if not slash:
            if media != "*":
                continue
            main, sub = "*", "*"
        parameters = {
            name.strip().lower(): value.strip().strip('"')
            for name, _unused, value in (part.partition("=") for part in rest)
        }
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        clauses.append(Clause(main, sub, quality, parameters))
    return tuple(sorted(clauses, key=lambda clause: (-clause.quality, clause.main == "*", clause.sub == "*")))


def choose(header: str, kinds: Sequence[str], media_types: Sequence[str] = MEDIA_TYPES) -> Choice | None:
    """Return what to answer with, or None when the client accepts nothing of it.

    `kinds` are those of the group meta.k8s.io that the object can be turned into here, `media_types` the forms that
    there are, the one for a wildcard first.
    """
    if not header:
        return Choice(JSON)
    # What no client of Kubernetes sends is not kept: unauthenticated clients must not fill the cache with long headers.
    parse = parse_accept if len(header) <= _MAX_CACHED else parse_accept.__wrapped__
    for clause in parse(header):
        if clause.quality <= 0:
            continue
        for media_type in media_types:
            if clause.accepts(media_type):
                choice = _fits(clause, media_type, kinds)
                if choice is not None:
                    return choice
    return None


def _fits(clause: Clause, media_type: str, kinds: Sequence[str]) -> Choice | None:
    parameters = clause.parameters
    if parameters.get("stream") or parameters.get("sv"):
        return None
    pretty = parameters.get("pretty") == "1"
    if not parameters.keys() & {"as", "g", "v"}:
        return Choice(media_type, pretty=pretty)
    kind, version = parameters.get("as", ""), parameters.get("v", "")
    if parameters.get("g") != "meta.k8s.io" or version not in ("v1", "v1beta1") or kind not in kinds:
        return None
    if kind == "Table" and media_type == PROTOBUF:
        # Cells of a table have no protobuf form.
        return None
    return Choice(media_type, kind, version, pretty)


def accepts_gzip(header: str) -> bool:
    """Whether an `Accept-Encoding` header allows gzip."""
    for text in header.split(",")[:_MAX_CLAUSES]:
        coding, _unused, parameter = text.partition(";")
        if coding.strip().lower() in ("gzip", "*"):
            name, _unused, value = parameter.partition("=")
            try:
                return name.strip().lower() != "q" or float(value) > 0
            except ValueError:
                return False
    return False
