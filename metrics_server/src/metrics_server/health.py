# SPDX-License-Identifier: GPL-3.0-or-later
"""`/livez`, `/readyz` and `/healthz`: named checks, each with the reason when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

#: A check that passed must fail for this long before the server is taken out of service: a moment's trouble of one
#: kind must not take away the numbers that are there.
HYSTERESIS_SECONDS = 15.0

#: Returns None, or one sentence that says what is wrong. It may name nodes: unauthenticated clients are not told it.
Check = Callable[[], str | None]


#: What Kubernetes' own servers say to those who may not know.
WITHHELD = "reason withheld"


class Hysteresis:
    """A check that, once passed, fails only after its condition has failed for some time without a break."""

    def __init__(
        self, check: Check, seconds: float = HYSTERESIS_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._check = check
        self._seconds = seconds
        self._clock = clock
        self._passed = False
        self._failing_since: float | None = None

    def __call__(self) -> str | None:
        reason = self._check()
        if reason is None:
            self._passed, self._failing_since = True, None
            return None
        if not self._passed:
            return reason
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since < self._seconds:
            return None
        # Down for good: it takes a pass to be up again.
        self._passed = False
        return reason


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one request to a health path."""

    text: str
    #: Names and reasons of the checks that failed; empty when all passed.
    failures: str = ""

    @property
    def healthy(self) -> bool:
        """Whether all checks passed."""
        return not self.failures


class Health:
    """The checks behind the three paths."""

    def __init__(self, checks: Mapping[str, Mapping[str, Check]]) -> None:
        """Take the checks by path name (`livez`, ...) and check name, in the order in which they are shown."""
        self._checks = {path: {"ping": lambda: None, **named} for path, named in checks.items()}

    def paths(self) -> tuple[str, ...]:
        """Return all paths."""
        return tuple(
            path
            for group, named in self._checks.items()
            for path in (f"/{group}", *(f"/{group}/{name}" for name in named))
        )

    def report(
        self, path: str, *, verbose: bool = False, excluded: Sequence[str] = (), reasons: bool = True
    ) -> Report | None:
        """Return the report for a path, or None when there is no such check.

        Without `reasons` the text says which check fails and not why; the report's `failures` always do.
        """
        group, _unused, name = path.strip("/").partition("/")
        named = self._checks.get(group)
        if named is None:
            return None
        if name:
            check = named.get(name)
            if check is None:
                return None
            reason = check()
            told = reason if reasons else WITHHELD
            return Report("ok") if reason is None else Report(f"internal server error: {told}\n", reason)
        lines: list[str] = []
        failed: list[str] = []
        for check_name, check in named.items():
            if check_name in excluded:
                lines.append(f"[+]{check_name} excluded: ok")
                continue
            reason = check()
            if reason is None:
                lines.append(f"[+]{check_name} ok")
            else:
                failed.append(f"{check_name}: {reason}")
                lines.append(f"[-]{check_name} failed: {reason if reasons else WITHHELD}")
        unknown = [text for text in excluded if text not in named]
        if unknown:
            quoted = ", ".join(f'"{text}"' for text in sorted(unknown))
            lines.append(f"warn: some health checks cannot be excluded: no matches for {quoted}")
        if failed:
            return Report("\n".join([*lines, f"{group} check failed\n"]), "; ".join(failed))
        if not verbose:
            return Report("ok")
        return Report("\n".join([*lines, f"{group} check passed\n"]))
