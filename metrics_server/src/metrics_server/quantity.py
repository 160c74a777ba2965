# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers as the Kubernetes API writes them: canonical quantities, durations, timestamps."""

from __future__ import annotations

import re
import time
from fractions import Fraction
from functools import lru_cache

_DECIMAL = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]{1,2})|([KMGTPE]i|[numkMGTPE]?))")
_UNITS = {unit: Fraction(1000) ** (index - 3) for index, unit in enumerate(_DECIMAL)} | {
    unit: Fraction(1024) ** index for index, unit in enumerate(_BINARY)
}


def parse_quantity(text: str) -> Fraction:
    """Return the number that a quantity such as `100m`, `1.5Gi` or `2e3` stands for. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no quantity such as 100m or 200Mi')
    number, exponent, unit = match.groups()
    return Fraction(number) * (Fraction(10) ** int(exponent[1:]) if exponent else _UNITS[unit])


def cpu_quantity(nanocores: int) -> str:
    """Return nanocores as a canonical decimal quantity: 123456789 -> `123456789n`, 250000000 -> `250m`, 0 -> `0`."""
    if nanocores % 1000:
        return f"{nanocores}n"
    return _decimal(nanocores, 0)


def memory_quantity(value: int) -> str:
    """Return bytes as a canonical binary quantity: 151072768 -> `147532Ki`.

    Below 1 Ki the canonical form is decimal, as in Kubernetes: 1000 -> `1k`.
    """
    if -1024 < value < 1024:
        return _decimal(value, 3)
    exponent = 0
    while not value & 1023 and exponent < 6:
        value >>= 10
        exponent += 1
    return f"{value}{_BINARY[exponent]}"


def _decimal(value: int, exponent: int) -> str:
    if value == 0:
        return "0"
    while value % 1000 == 0 and exponent < len(_DECIMAL) - 1:
        value //= 1000
        exponent += 1
    return f"{value}{_DECIMAL[exponent]}"


def go_duration(nanoseconds: int) -> str:
    """Return a duration as Go prints it, which is how the API carries `window`: `15.029s`, `1m0.5s`, `800ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    rest = abs(nanoseconds)
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if rest < size * 1000:
            return f"{sign}{_fraction(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60_000_000_000)
    text = f"{_fraction(rest, 1_000_000_000)}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return sign + text


def _fraction(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    if not part:
        return str(whole)
    digits = str(unit + part)[1:].rstrip("0")
    return f"{whole}.{digits}"


@lru_cache(maxsize=256)
def rfc3339(seconds: int) -> str:
    """Return Unix seconds as `2024-01-02T03:04:05Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
