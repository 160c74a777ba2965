# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import tunnels


@pytest.mark.parametrize("text", ["", "[]", "[{}]", "no JSON", "{}"])
def test_no_device(text):
    assert tunnels.names(text) == []


def test_devices():
    assert tunnels.names(json.dumps([{"ifname": "vxlan.calico"}, {}, {"ifname": "flannel.1"}])) == [
        "flannel.1",
        "vxlan.calico",
    ]


def test_a_device_that_is_not_there():
    assert tunnels.tx_checksum_offload("nothing0") is None
