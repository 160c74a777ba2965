# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Objects as they were, and what it takes to have them so again."""

from __future__ import annotations

import copy

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube
from ansible_collections.kubemetrics.aggregation.plugins.modules import api_objects

PATH = "/api/v1/namespaces/kube-system/services/metrics-server"
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "metrics-server", "namespace": "kube-system"},
    "spec": {"ports": [{"port": 443}]},
}
LIVE = {
    **SERVICE,
    "metadata": {**SERVICE["metadata"], "resourceVersion": "7", "uid": "u", "managedFields": []},
    "status": {"loadBalancer": {}},
}


class Api:
    def __init__(self, found):
        self.found = copy.deepcopy(found)
        self.sent = []

    def get(self, path):
        if path not in self.found:
            raise kube.KubeError("not found", status=404)
        return self.found[path], None

    def send(self, method, path, body):
        self.sent.append((method, path, body))


def test_an_object_is_kept_without_what_the_server_adds():
    assert api_objects.plain(LIVE) == SERVICE


def test_what_does_not_exist_is_none():
    assert api_objects.read(Api({}), PATH) is None


def test_another_error_is_not_taken_for_absence():
    class Broken(Api):
        def get(self, path):
            raise kube.KubeError("forbidden", status=403)

    with pytest.raises(kube.KubeError):
        api_objects.read(Broken({}), PATH)


def test_what_is_as_it_was_stays():
    api = Api({PATH: LIVE})
    assert api_objects.restore(api, PATH, SERVICE, check_mode=False) is False
    assert api.sent == []


def test_what_differs_is_replaced_and_keeps_others_from_writing_between():
    changed = copy.deepcopy(LIVE)
    changed["spec"]["ports"][0]["port"] = 444
    api = Api({PATH: changed})
    assert api_objects.restore(api, PATH, SERVICE, check_mode=False) is True
    [(method, path, body)] = api.sent
    assert (method, path, body["metadata"]["resourceVersion"]) == ("PUT", PATH, "7")
    assert body["spec"] == SERVICE["spec"]


def test_what_is_missing_is_created():
    api = Api({})
    assert api_objects.restore(api, PATH, SERVICE, check_mode=False) is True
    assert api.sent == [("POST", "/api/v1/namespaces/kube-system/services", SERVICE)]


def test_what_was_absent_is_deleted():
    api = Api({PATH: LIVE})
    assert api_objects.restore(api, PATH, None, check_mode=False) is True
    assert [method for method, _path, _body in api.sent] == ["DELETE"]
    assert api_objects.restore(Api({}), PATH, None, check_mode=False) is False


@pytest.mark.parametrize("wanted", [SERVICE, None])
def test_check_mode_sends_nothing(wanted):
    changed = copy.deepcopy(LIVE)
    changed["spec"] = {}
    api = Api({PATH: changed})
    assert api_objects.restore(api, PATH, wanted, check_mode=True) is True
    assert api.sent == []
