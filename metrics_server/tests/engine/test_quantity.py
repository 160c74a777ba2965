# SPDX-License-Identifier: GPL-3.0-or-later
"""Canonical quantities, Go durations, timestamps: the expected strings are those that Kubernetes' own library gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_server.quantity import cpu_quantity, go_duration, memory_quantity, rfc3339

_FACTORS = {"n": 1, "u": 10**3, "m": 10**6, "": 10**9, "k": 10**12, "M": 10**15, "G": 10**18}
_BINARY = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60, "k": 1000}


@pytest.mark.parametrize(
    ("nanocores", "text"),
    [
        (0, "0"),
        (1, "1n"),
        (123456789, "123456789n"),
        (1500000, "1500u"),
        (250_000_000, "250m"),
        (2_000_000_000, "2"),
        (1_500_000_000, "1500m"),
        (2_000_000_000_000, "2k"),
        (2_000_000_000_001, "2000000000001n"),
    ],
)
def test_cpu(nanocores: int, text: str) -> None:
    assert cpu_quantity(nanocores) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1, "1"),
        (1000, "1k"),
        (1023, "1023"),
        (1024, "1Ki"),
        (1025, "1025"),
        (2000, "2000"),
        (147532 * 1024, "147532Ki"),
        (1 << 30, "1Gi"),
        (3 << 29, "1536Mi"),
        (1 << 62, "4Ei"),
        ((1 << 62) + 1, str((1 << 62) + 1)),
    ],
)
def test_memory(size: int, text: str) -> None:
    assert memory_quantity(size) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (800_000_000, "800ms"),
        (1_000_000_000, "1s"),
        (15_029_000_000, "15.029s"),
        (15_000_000_001, "15.000000001s"),
        (60_000_000_000, "1m0s"),
        (60_029_000_000, "1m0.029s"),
        (3_600_000_000_000, "1h0m0s"),
        (3_661_500_000_000, "1h1m1.5s"),
        (-1_500_000_000, "-1.5s"),
    ],
)
def test_duration(nanoseconds: int, text: str) -> None:
    assert go_duration(nanoseconds) == text


def test_timestamp() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(1_704_164_645) == "2024-01-02T03:04:05Z"


def _split(text: str) -> tuple[int, str]:
    digits = text.rstrip("numkKMGTPEi")
    return int(digits), text[len(digits) :]


@given(st.integers(0, 10**18))
def test_cpu_is_exact_and_canonical(nanocores: int) -> None:
    value, suffix = _split(cpu_quantity(nanocores))
    assert value * _FACTORS[suffix] == nanocores
    assert value % 1000 or not value or suffix == "G"


@given(st.integers(0, 2**63 - 1))
def test_memory_is_exact_and_canonical(size: int) -> None:
    value, suffix = _split(memory_quantity(size))
    assert value * _BINARY[suffix] == size
    assert size < 1024 or value % 1024
