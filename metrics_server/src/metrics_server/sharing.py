# SPDX-License-Identifier: GPL-3.0-or-later
"""One object for equal values: pods come in replicas, and what they have in common need not be kept 100,000 times."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=16384)
def shared_text(text: str) -> str:
    """Return the same string object for equal strings."""
    return text


@lru_cache(maxsize=8192)
def shared_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the same tuple object for equal tuples; comparing them is then a comparison of references."""
    return names


@lru_cache(maxsize=8192)
def shared_slots(slots: tuple[int, ...]) -> tuple[int, ...]:
    """Return the same tuple object for equal tuples."""
    return slots
