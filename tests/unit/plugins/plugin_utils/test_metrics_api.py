# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.filter.metrics_api_versions import FilterModule
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import metrics_api

BOTH = ["v1beta1", "v1"]
OLD = ["v1beta1"]


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        (["v1.37.2"], BOTH),
        (["v1.37.0-rc.1", "v1.38.1"], BOTH),
        (["v1.36.3"], OLD),
        (["v1.34.4+k3s1"], OLD),
        (["v2.0.0"], BOTH),
        # An upgrade in progress.
        (["v1.37.2", "v1.36.3", "v1.37.2"], OLD),
        # One of them does not answer.
        (["v1.37.2", "", "v1.37.2"], BOTH),
        (["v1.37.2", None], BOTH),
        ([""], OLD),
        ([], OLD),
        (["unknown"], OLD),
    ],
)
def test_auto_goes_by_the_oldest_api_server_that_answers(servers, expected):
    assert metrics_api.versions("auto", servers) == expected


@pytest.mark.parametrize("version", ["v1.9.0", "v1.100.0"])
def test_minor_versions_are_numbers(version):
    assert metrics_api.versions("auto", [version]) == (BOTH if version == "v1.100.0" else OLD)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(["v1"], ["v1"]), (["v1", "v1beta1"], BOTH), ("v1beta1", OLD), ("v1, v1beta1", BOTH), (["auto"], OLD)],
)
def test_what_is_asked_for_by_name_is_kept_on_any_cluster(wanted, expected):
    assert metrics_api.versions(wanted, ["v1.30.0"]) == expected


@pytest.mark.parametrize("wanted", [[], "", None, ["v2"], ["auto", "v1"], "newest"])
def test_anything_else_is_refused_with_the_variable(wanted):
    with pytest.raises(metrics_api.MetricsApiError, match="metrics_server_api_versions is .*; set it to auto"):
        metrics_api.versions(wanted, [])


def test_the_filter_reads_the_servers_of_cluster_info():
    chosen = FilterModule().filters()["metrics_api_versions"]
    assert chosen("auto", [{"server": "https://a:6443", "version": "v1.37.2"}, {"version": None}, {}]) == BOTH
    with pytest.raises(AnsibleFilterError, match="set it to auto"):
        chosen([], [])
