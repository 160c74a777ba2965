# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags and kubelet settings in the documents that kubeadm keeps in the cluster."""

from __future__ import annotations

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.kubeadm import (
    ClusterConfiguration,
    KubeadmError,
    KubeletDocument,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flag_plan

V1BETA3 = """\
apiServer:
  extraArgs:
    audit-log-maxage: "30"
    enable-aggregator-routing: "False"
  timeoutForControlPlane: 4m0s
apiVersion: kubeadm.k8s.io/v1beta3
certificatesDir: /etc/kubernetes/ssl
clusterName: cluster.local
controllerManager: {}
kind: ClusterConfiguration
kubernetesVersion: v1.29.5
"""

V1BETA4 = """\
apiServer:
  certSANs:
  - 192.0.2.10
  extraArgs:
  # how long, in days
  - name: audit-log-maxage
    value: "30"
  - name: service-account-issuer
    value: https://one
  - name: service-account-issuer
    value: https://two
apiVersion: kubeadm.k8s.io/v1beta4
controllerManager: {}
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
scheduler: {}
"""

KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
kind: KubeletConfiguration
rotateCertificates: true
"""


def apply(text, section, wanted):
    configuration = ClusterConfiguration(text)
    previous = configuration.set_flags(section, wanted)
    again = ClusterConfiguration(configuration.text)
    assert again.set_flags(section, wanted) == {}
    assert again.text == configuration.text
    # What was there before brings it back.
    back = ClusterConfiguration(configuration.text)
    back.set_flags(section, previous)
    for name in wanted:
        restored, original = back.values(section, name), ClusterConfiguration(text).values(section, name)
        assert flag_plan.same_values("kube-apiserver", name, restored, original)
    return yaml.safe_load(configuration.text), previous, configuration.text


def test_the_map_of_v1beta3():
    data, previous, text = apply(
        V1BETA3, "apiServer", {"enable-aggregator-routing": True, "audit-log-maxage": None, "v": 2}
    )
    assert data["apiServer"]["extraArgs"] == {"enable-aggregator-routing": "true", "v": "2"}
    assert previous == {"enable-aggregator-routing": "False", "audit-log-maxage": "30", "v": None}
    assert '    enable-aggregator-routing: "true"\n' in text
    assert ClusterConfiguration(V1BETA3).minor_version == "1.29"


def test_a_truth_value_that_already_holds_is_left_as_it_is_written():
    configuration = ClusterConfiguration(V1BETA3)
    assert configuration.set_flags("apiServer", {"enable_aggregator_routing": False}) == {}
    assert configuration.text == V1BETA3


def test_the_list_of_v1beta4():
    data, previous, text = apply(
        V1BETA4,
        "apiServer",
        {"enable-aggregator-routing": True, "audit-log-maxage": 7, "service-account-issuer": ["https://two"]},
    )
    assert data["apiServer"]["extraArgs"] == [
        {"name": "audit-log-maxage", "value": "7"},
        {"name": "service-account-issuer", "value": "https://two"},
        {"name": "enable-aggregator-routing", "value": "true"},
    ]
    assert previous == {
        "audit-log-maxage": "30",
        "enable-aggregator-routing": None,
        "service-account-issuer": ["https://one", "https://two"],
    }
    assert "  # how long, in days\n" in text


NAMES = """\
apiServer:
  extraArgs:
  - name: requestheader-allowed-names
    value: front-proxy-client
  - name: requestheader-allowed-names
    value: '"system:aggregator"'
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
"""


def test_a_list_that_is_given_once_for_each_value_adds_up():
    names = ["front-proxy-client", "system:aggregator"]
    for wanted in (names, ",".join(names)):
        _data, previous, text = apply(NAMES, "apiServer", {"requestheader-allowed-names": wanted})
        assert previous == {} and text == NAMES
    data, previous, text = apply(NAMES, "apiServer", {"requestheader-allowed-names": [*names, "x"]})
    assert data["apiServer"]["extraArgs"] == [{"name": "requestheader-allowed-names", "value": ",".join([*names, "x"])}]
    assert previous == {"requestheader-allowed-names": names}
    assert apply(text, "apiServer", previous)[0]["apiServer"]["extraArgs"][0]["value"] == ",".join(names)


def test_the_last_flag_takes_the_empty_list_along():
    data, _previous, _text = apply(V1BETA4, "apiServer", {"audit-log-maxage": None, "service-account-issuer": None})
    assert "extraArgs" not in data["apiServer"]


@pytest.mark.parametrize("text", [V1BETA3, V1BETA4])
def test_a_section_without_extra_args_or_none_at_all(text):
    for section in ("controllerManager", "scheduler"):
        data, previous, _text = apply(text, section, {"bind-address": "0.0.0.0"})
        assert previous == {"bind-address": None}
        expected = {"bind-address": "0.0.0.0"} if text is V1BETA3 else [{"name": "bind-address", "value": "0.0.0.0"}]
        assert data[section]["extraArgs"] == expected


def test_a_list_is_joined_where_a_flag_takes_commas():
    data, _previous, _text = apply(V1BETA3, "apiServer", {"requestheader-allowed-names": ["a", "b"]})
    assert data["apiServer"]["extraArgs"]["requestheader-allowed-names"] == "a,b"


def test_a_repeated_flag_needs_the_list():
    with pytest.raises(KubeadmError, match="v1beta4"):
        ClusterConfiguration(V1BETA3).set_flags("apiServer", {"service-account-issuer": ["a", "b"]})


def test_volumes_are_told_apart_by_name():
    volume = {"name": "front-proxy", "hostPath": "/srv/pki", "mountPath": "/srv/pki", "readOnly": True}
    configuration = ClusterConfiguration(V1BETA4)
    assert configuration.set_volumes("apiServer", [volume])
    assert not configuration.set_volumes("apiServer", [volume])
    assert configuration.set_volumes("apiServer", [dict(volume, hostPath="/srv/other")])
    assert configuration.set_volumes("apiServer", [dict(volume, name="second")])
    assert [item["name"] for item in yaml.safe_load(configuration.text)["apiServer"]["extraVolumes"]] == [
        "front-proxy",
        "second",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a mapping"),
        ("apiVersion: v1\nkind: ClusterConfiguration\n", "apiVersion v1"),
        ("apiVersion: kubeadm.k8s.io/v1beta3\nkind: InitConfiguration\n", "does not know"),
        ("a: [", "not valid YAML"),
    ],
)
def test_other_documents_are_refused(text, words):
    with pytest.raises(KubeadmError, match=words) as error:
        ClusterConfiguration(text)
    assert "kube-system/kubeadm-config" in str(error.value)


@pytest.mark.parametrize("extra", ["[a, b]", "{a: 1}", "text"])
def test_extra_args_of_a_wrong_shape_are_refused(extra):
    text = f"apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\napiServer:\n  extraArgs: {extra}\n"
    with pytest.raises(KubeadmError, match="extraArgs"):
        ClusterConfiguration(text).set_flags("apiServer", {"v": 2})


def test_kubelet_settings_are_merged_and_can_be_taken_back():
    document = KubeletDocument(KUBELET, "kubelet-config")
    previous = document.merge(
        {"serverTLSBootstrap": True, "authentication": {"webhook": {"cacheTTL": "2m"}}, "rotateCertificates": True}
    )
    # 2m is what a kubelet makes of 0s.
    assert previous == {"serverTLSBootstrap": None}
    assert document.text == KUBELET + "serverTLSBootstrap: true\n"
    document.merge(previous)
    assert document.text == KUBELET
