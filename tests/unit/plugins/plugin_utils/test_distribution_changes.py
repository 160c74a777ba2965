# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stops a playbook on a distribution before anything is changed, and the lines that it prints."""

from __future__ import annotations

import base64
import datetime

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import distribution_changes as changes
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PUBLISHED = {"front_proxy_ca": [{"subject": "CN=request-header-ca"}], "shared": []}
WITH_HOSTS = [key for key, entry in distributions.TABLE.items() if not entry.hosted]


def cluster(key):
    return {"distribution": {"key": key} if key else {}}


def host(key, *, flags=None, in_process=False, **more):
    flags = distributions.TABLE[key].front_proxy if flags is None else flags
    component = {"running": True, "managed_by": key, "in_process": in_process}
    return {
        "name": "cp1",
        "components": {"kube-apiserver": {**component, "flags": dict(flags)}, "kubelet": dict(component)},
        "kubelet_config": {"source": "flag", "path": "/k", "text": "kind: KubeletConfiguration\n", "drop_ins": []},
        "kubelet_answers": {"status": 401},
        **more,
    }


def test_a_cluster_whose_configuration_is_on_its_hosts_is_changed_there():
    assert changes.problem(cluster(""), [], {}) == []
    assert changes.problem({}, [], {}, renew=True) == []


@pytest.mark.parametrize("key", WITH_HOSTS)
def test_where_nothing_has_to_change_a_playbook_goes_on(key):
    assert changes.problem(cluster(key), [host(key)], PUBLISHED) == []


@pytest.mark.parametrize("key", ["k3s", "microk8s"])
def test_what_runs_inside_another_process_is_judged_by_what_it_does(key):
    unseen = host(key, flags={}, in_process=True, kubelet_config={"source": "none", "text": None, "drop_ins": []})
    assert changes.problem(cluster(key), [unseen], PUBLISHED) == []
    unseen["kubelet_answers"]["status"] = 200
    assert "answers unauthenticated clients" in changes.problem(cluster(key), [unseen], PUBLISHED)[0]


@pytest.mark.parametrize("key", WITH_HOSTS)
def test_a_missing_front_proxy_stops_it_with_the_lines(key):
    found = changes.problem(cluster(key), [host(key, flags={})], {"front_proxy_ca": [], "shared": []})
    assert found[0].startswith("Nothing was changed: its API servers publish no CA of front proxies")
    assert any("requestheader-client-ca-file" in line for line in found[1:])
    assert changes.problem(cluster(key), [host(key, flags={})], {"front_proxy_ca": []}, front_proxies=False) == []


def test_flags_that_are_seen_are_judged_first():
    flags = {"requestheader-client-ca-file": "/other/ca.crt"}
    found = changes.problem(cluster("rke2"), [host("rke2", flags=flags)], PUBLISHED)
    assert "the API server of cp1 lacks flags of the aggregation layer" in found[0]
    assert found[1:3] == ["# /etc/rancher/rke2/config.yaml, on every server", "kube-apiserver-arg:"]
    shared = {**distributions.TABLE["k0s"].front_proxy, "client-ca-file": "/var/lib/k0s/pki/front-proxy-ca.crt"}
    assert "have the same CA" in changes.problem(cluster("k0s"), [host("k0s", flags=shared)], PUBLISHED)[0]
    published = {**PUBLISHED, "shared": ["CN=10.152.183.1"]}
    assert "have the same CA (CN=10.152.183.1)" in changes.problem(cluster("k3s"), [], published)[0]


@pytest.mark.parametrize(
    ("kubelet", "said"),
    [
        ({"kubelet_answers": {"status": 401, "read_only_port": {"open": True}}}, "has an open port without TLS"),
        (
            {"kubelet_config": {"source": "none", "drop_ins": [], "overriding_flags": {"anonymous-auth": "false"}}},
            "does not accept tokens",
        ),
    ],
)
def test_a_kubelet_that_differs_stops_it_with_the_lines(kubelet, said):
    found = changes.problem(cluster("rke2"), [host("rke2", **kubelet)], PUBLISHED)
    assert f"the kubelet of cp1 {said}, and RKE2 configures its kubelets itself" in found[0]
    assert '- "authentication-token-webhook=true"' in found
    assert changes.problem(cluster("rke2"), [host("rke2", **kubelet)], PUBLISHED, kubelets=False) == []


def certificate(issuer):
    """A serving certificate as kubelet_answers has it: DER in base64."""
    key = ec.generate_private_key(ec.SECP256R1())
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "minikube@1767225600")])
    made = x509.CertificateBuilder(name, subject, key.public_key(), 1, begin, begin + datetime.timedelta(days=365))
    return base64.b64encode(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)).decode()


def test_a_kubelet_that_signs_for_itself_stops_it_with_the_lines():
    own = host("minikube", kubelet_answers={"status": 401, "certificate": certificate("minikube-ca@1767225600")})
    found = changes.problem(cluster("minikube"), [own], PUBLISHED)
    assert "the kubelets of cp1 have signed their serving certificates themselves" in found[0]
    assert found[1] == "minikube start --extra-config=kubelet.rotate-server-certificates=true"
    assert changes.problem(cluster("minikube"), [own], PUBLISHED, certificates=False) == []
    own["kubelet_answers"]["certificate"] = certificate("minikubeCA")
    assert changes.problem(cluster("minikube"), [own], PUBLISHED) == []


def test_a_kubelet_whose_file_cannot_be_read_is_no_reason():
    broken = {"source": "flag", "path": "/k", "text": "a: [", "drop_ins": []}
    assert changes.problem(cluster("k0s"), [host("k0s", kubelet_config=broken)], PUBLISHED) == []


@pytest.mark.parametrize("key", WITH_HOSTS)
def test_certificates_of_front_proxies_are_the_distributions(key):
    found = changes.problem(cluster(key), [host(key)], PUBLISHED, renew=True)
    assert "issues the certificates of front proxies itself" in found[0]
    assert found[1:] == list(distributions.TABLE[key].renew_front_proxy)


def test_an_api_server_that_looks_like_another_installers_is_not_edited():
    """RKE2 with its data in a directory of another name: only the version of the API says that it is RKE2."""
    strange = host("rke2")
    strange["components"]["kube-apiserver"]["managed_by"] = "static_pod"
    found = changes.problem(cluster("rke2"), [strange], PUBLISHED)
    assert len(found) == 1 and "what starts the components of cp1 looks like another installer's" in found[0]


@pytest.mark.parametrize("key", [key for key, entry in distributions.TABLE.items() if entry.hosted])
def test_a_managed_cluster_is_never_changed(key):
    found = changes.problem(cluster(key), [], PUBLISHED)
    assert "belong to its provider" in found[0]
    assert found[1:] == list(distributions.TABLE[key].switch_off_lines)
