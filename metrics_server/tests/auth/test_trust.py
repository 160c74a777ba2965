# SPDX-License-Identifier: GPL-3.0-or-later
"""How often the authentication configuration is asked for while something is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.virtual_time import run_virtual

from metrics_server.auth.trust import Trust
from metrics_server.kube.client import KubeError


class Client:
    """An API server whose GET always works, and whose watch ends as it is told."""

    def __init__(self, error: KubeError | None, seconds: float) -> None:
        self.error = error
        self.seconds = seconds
        self.gets = 0

    async def request(self, *_unused: Any, **_others: Any) -> dict[str, Any]:
        self.gets += 1
        await asyncio.sleep(0.005)
        return {"metadata": {"resourceVersion": "1"}, "data": {}}

    async def watch(self, *_unused: Any, **_others: Any) -> AsyncIterator[bytes]:
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        nothing: tuple[bytes, ...] = ()
        for line in nothing:
            yield line


def followed(client: Client, seconds: float) -> None:
    async def follow() -> None:
        task = asyncio.create_task(Trust(client).run())
        await asyncio.sleep(seconds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    run_virtual(follow())


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(KubeError(410, "Expired", "too old"), id="expired"),
        pytest.param(KubeError(403, "Forbidden", "configmaps is forbidden"), id="forbidden"),
        pytest.param(None, id="ends"),
    ],
)
def test_a_watch_that_fails_at_once_is_asked_for_ever_more_seldom(
    error: KubeError | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    client = Client(error, 0.005)
    followed(client, 600)
    # 0.2 s doubling up to half a minute.
    assert 20 <= client.gets <= 32
    said = [record for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(said) == (1 if error is not None and error.status == 403 else 0)


def test_a_watch_that_lasts_is_begun_anew_soon() -> None:
    client = Client(None, 100)
    followed(client, 1000)
    assert client.gets == 10
