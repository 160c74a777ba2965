# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from api.support import Credential, FakeApiServer, FakeEngine, Pki, Running, eventually, running_server

# How long an example takes says something about the machine only.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@dataclass
class World:
    """A running server, and the credentials of those who may talk to it."""

    running: Running
    pki: Pki
    front_proxy_ca: Credential
    front_proxy: Credential
    client_ca: Credential

    @property
    def api(self) -> FakeApiServer:
        return self.running.api


def config_map(front_proxy_ca: Credential, client_ca: Credential, **changes: str) -> dict[str, str]:
    """Return the data of the ConfigMap as a kube-apiserver writes it."""
    return {
        "client-ca-file": client_ca.pem,
        "requestheader-client-ca-file": front_proxy_ca.pem,
        "requestheader-allowed-names": json.dumps(["front-proxy-client"]),
        "requestheader-username-headers": json.dumps(["X-Remote-User"]),
        "requestheader-group-headers": json.dumps(["X-Remote-Group"]),
        "requestheader-uid-headers": json.dumps(["X-Remote-Uid"]),
        "requestheader-extra-headers-prefix": json.dumps(["X-Remote-Extra-"]),
        **changes,
    }


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    directory = tmp_path / "pki"
    directory.mkdir()
    return Pki(directory)


@pytest.fixture
async def api(pki: Pki) -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer(pki).running() as server:
        yield server


@pytest.fixture
async def world(api: FakeApiServer, pki: Pki, tmp_path: Path) -> AsyncIterator[World]:
    front_proxy_ca, client_ca = pki.ca("front-proxy-ca"), pki.ca("kubernetes-ca")
    api.config_map = config_map(front_proxy_ca, client_ca)
    engine = FakeEngine()
    engine.fill()
    async with running_server(api, tmp_path, engine=engine) as running:
        await eventually(lambda: running.server.trust.front_proxy is not None)
        yield World(running, pki, front_proxy_ca, pki.leaf(front_proxy_ca, "front-proxy-client"), client_ca)
