# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes wrong with an image is told in one sentence.

Runs on the controller only, as everything in this package.
"""

from __future__ import annotations


class ImageError(Exception):
    """An image cannot be read, made or sent; the message is one sentence for the operator."""


class Unreachable(ImageError):
    """A registry does not answer: another time it may, after the seconds that it has asked for."""

    def __init__(self, message: str, retry_after: float = 0.0):
        super().__init__(message)
        self.retry_after = retry_after


def reason_of(exc: OSError) -> str:
    """What the system said, and of which file."""
    said = exc.strerror or str(exc) or type(exc).__name__
    return "%s: %s" % (said, exc.filename) if exc.filename else said
