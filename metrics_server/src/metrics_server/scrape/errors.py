# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a scrape failed."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Stable words for logs and the `reason` label."""

    IP_SAN_MISSING = "ip_san_missing"
    UNKNOWN_AUTHORITY = "unknown_authority"
    EXPIRED = "expired"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNREACHABLE = "unreachable"
    HTTP_ERROR = "http_error"
    TLS = "tls"
    DNS = "dns"
    NO_ADDRESS = "no_address"
    #: This server has no file descriptors or other resources left.
    EXHAUSTED = "exhausted"
    #: A fault of this server; the log has the details.
    INTERNAL = "internal"


class ScrapeError(Exception):
    """One scrape of one kubelet failed; `message` is one sentence for the operator."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
