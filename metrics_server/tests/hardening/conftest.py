# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from api.conftest import api, pki, world

__all__ = ["api", "pki", "world"]


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that clients send may end in an error or a traceback of this program."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        assert record.exc_info is None or not record.exc_info[0], record
        assert record.levelno < logging.ERROR or "Unable to authenticate" in record.getMessage(), record
