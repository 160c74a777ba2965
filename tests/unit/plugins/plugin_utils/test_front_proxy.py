# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import datetime

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

UTC = datetime.UTC
KUBEADM = {
    "client-ca-file": "/etc/kubernetes/pki/ca.crt",
    "requestheader-client-ca-file": "/etc/kubernetes/pki/front-proxy-ca.crt",
    "requestheader-allowed-names": ["front-proxy-client"],
    "requestheader-username-headers": ["X-Remote-User"],
    "requestheader-group-headers": ["X-Remote-Group"],
    "requestheader-extra-headers-prefix": ["X-Remote-Extra-"],
    "proxy-client-cert-file": "/etc/kubernetes/pki/front-proxy-client.crt",
    "proxy-client-key-file": "/etc/kubernetes/pki/front-proxy-client.key",
}
NEW_FILES = {
    "ca_file": "/pki/front-proxy-ca.crt",
    "cert_file": "/pki/front-proxy-client.crt",
    "key_file": "/pki/front-proxy-client.key",
}
BARE = {"client-ca-file": "/etc/kubernetes/pki/ca.crt"}


def host(flags=KUBEADM, *, name="cp1", version="v1.36.3", proxy=True, pki="/etc/kubernetes/pki", answers=None):
    return {
        "name": name,
        "components": {
            "kube-apiserver": {"flags": flags, "version": version, "running": True},
            "kube-proxy": {"running": proxy},
        },
        "kubernetes_dir": {"pki_dir": pki},
        "cluster_ip_answers": answers,
    }


def der(certificate):
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()


def leaf(authority, *, name="front-proxy-client", days=300, usage=ExtendedKeyUsageOID.CLIENT_AUTH):
    """A client certificate; ``usage`` None leaves the extension out."""
    now = datetime.datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.name)
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=500))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return der(builder.sign(authority.key, hashes.SHA256()))


@pytest.fixture
def look(authority, other_authority):
    """What front_proxy_info says of a control plane on which all is well, except for what a test changes."""

    def look(**changes):
        info = {
            "ca_file": "/pki/front-proxy-ca.crt",
            "cert_file": "/pki/front-proxy-client.crt",
            "key_file": "/pki/front-proxy-client.key",
            "ca": [der(authority.certificate)],
            "client_ca": [der(other_authority.certificate)],
            "chain": [leaf(authority)],
            "pair": {"usable": True, "message": ""},
            "ca_key": {"path": "/pki/front-proxy-ca.key", "exists": True, "signs": der(authority.certificate)},
            "used_by": {"ca_file": [], "cert_file": [], "key_file": [], "ca_key": []},
            "new_files": dict(NEW_FILES),
        }
        info.update(changes)
        return info

    return look


def plan(hosts, names=("front-proxy-client",), **settings):
    return front_proxy.plan(hosts, dict.fromkeys(hosts, names), front_proxy.Settings(**settings))


# --- flags ---


def test_what_kubeadm_made_is_wanted_as_it_is():
    wanted = front_proxy.wanted_flags(host(), [host()], {})
    assert wanted == {name: KUBEADM[name] for name in front_proxy.REQUIRED}


def test_a_bare_api_server_gets_the_values_of_kubeadm_in_its_own_directory():
    bare = host({"client-ca-file": "/etc/kubernetes/ssl/ca.pem"}, pki="/etc/kubernetes/ssl")
    wanted = front_proxy.wanted_flags(bare, [bare], {})
    assert wanted["requestheader-client-ca-file"] == "/etc/kubernetes/ssl/front-proxy-ca.crt"
    assert wanted["proxy-client-key-file"] == "/etc/kubernetes/ssl/front-proxy-client.key"
    assert wanted["requestheader-allowed-names"] == ["front-proxy-client"]
    assert wanted["requestheader-uid-headers"] == ["X-Remote-Uid"]


def test_own_values_are_kept():
    own = {
        **KUBEADM,
        "requestheader-allowed-names": ["aggregator", "front-proxy-client"],
        "proxy-client-cert-file": "/x/y.pem",
    }
    wanted = front_proxy.wanted_flags(host(own), [host(own)], {})
    assert wanted["requestheader-allowed-names"] == ["aggregator", "front-proxy-client"]
    assert wanted["proxy-client-cert-file"] == "/x/y.pem"


@pytest.mark.parametrize("names", [{}, {"requestheader-allowed-names": []}])
def test_a_front_proxy_of_any_name_is_left_alone(names):
    own = {name: value for name, value in KUBEADM.items() if name != "requestheader-allowed-names"} | names
    assert front_proxy.is_complete(own)
    assert front_proxy.names_for(host(own), [host(own)]) == []
    wanted = front_proxy.wanted_flags(host(own), [host(own)], {})
    assert {name: value for name, value in own.items() if name != "client-ca-file" and value} == wanted


def test_new_names_beside_an_api_server_that_allows_all_would_shut_its_certificate_out():
    """API servers publish the union of their lists."""
    peer = host({name: value for name, value in KUBEADM.items() if name != front_proxy.ALLOWED_NAMES}, name="cp2")
    assert front_proxy.ALLOWED_NAMES not in front_proxy.wanted_flags(host(BARE), [host(BARE), peer], {})


def test_repeated_names_are_all_known_and_nothing_is_edited():
    own = {**KUBEADM, "requestheader-allowed-names": ["front-proxy-client", "system:aggregator"]}
    wanted = front_proxy.wanted_flags(host(own), [host(own)], {})
    assert wanted["requestheader-allowed-names"] == ["front-proxy-client", "system:aggregator"]
    assert front_proxy.names_for(host(own), [host(own)]) == ["front-proxy-client", "system:aggregator"]


def test_names_that_admit_nobody_become_those_of_the_certificates(look, authority):
    own = {**KUBEADM, "requestheader-allowed-names": [""]}
    assert front_proxy.admits_nobody(own)
    # The certificate in use is not judged by them, and none is made with quotes for a name.
    assert front_proxy.names_for(host(own), [host(own)]) == []
    result = plan({"cp1": look(chain=[leaf(authority, name="aggregator")])}, names=())
    assert (result["issue"], result["names_in_use"]) == ({}, ["aggregator"])
    wanted = front_proxy.wanted_flags(host(own), [host(own)], {"names": result["names_in_use"]})
    assert wanted["requestheader-allowed-names"] == ["aggregator"]


def test_what_is_missing_comes_from_the_other_api_servers():
    peer = host({**KUBEADM, "requestheader-allowed-names": ["aggregator"]}, name="cp2")
    wanted = front_proxy.wanted_flags(host(BARE), [host(BARE), peer], {})
    assert wanted["requestheader-allowed-names"] == ["aggregator"]
    # The other one is complete without it, and all shall be the same.
    assert "requestheader-uid-headers" not in wanted


def test_the_uid_header_follows_the_other_api_servers():
    peer = host({**KUBEADM, "requestheader-uid-headers": ["X-Uid"]}, name="cp2")
    assert front_proxy.wanted_flags(host(BARE), [peer], {})["requestheader-uid-headers"] == ["X-Uid"]
    assert "requestheader-uid-headers" not in front_proxy.wanted_flags(host(), [peer], {})


@pytest.mark.parametrize(
    "flags",
    [
        {"emulated-version": "1.32"},
        {"feature-gates": {"RemoteRequestHeaderUID": "false"}},
        {"feature-gates": "AllBeta=false"},
    ],
)
def test_there_is_no_uid_header_where_its_feature_may_be_off(flags):
    assert "requestheader-uid-headers" not in front_proxy.wanted_flags(host({**BARE, **flags}), [], {})


@pytest.mark.parametrize("version", ["v1.32.9", None])
def test_there_is_no_uid_header_for_old_versions(version):
    bare = host(BARE, version=version)
    assert "requestheader-uid-headers" not in front_proxy.wanted_flags(bare, [bare], {})


def test_given_files_win():
    files = {"ca_file": "/new/ca.crt", "cert_file": "/new/c.crt", "key_file": "/new/c.key"}
    wanted = front_proxy.wanted_flags(host(), [], files)
    assert wanted["requestheader-client-ca-file"] == "/new/ca.crt"
    assert wanted["proxy-client-key-file"] == "/new/c.key"


KUBE_PROXY_PAIR = {
    "client-ca-file": "/etc/kubernetes/ssl/ca.pem",
    "tls-cert-file": "/etc/kubernetes/ssl/kubernetes.pem",
    "requestheader-client-ca-file": "/etc/kubernetes/ssl/ca.pem",
    "requestheader-allowed-names": ["metrics-server", "admin", "system:kube-proxy"],
    "proxy-client-cert-file": "/etc/kubernetes/ssl/kube-proxy.pem",
    "proxy-client-key-file": "/etc/kubernetes/ssl/kube-proxy-key.pem",
    "requestheader-username-headers": ["X-Remote-User"],
    "requestheader-group-headers": ["X-Remote-Group"],
    "requestheader-extra-headers-prefix": ["X-Remote-Extra-"],
}
OWN_NAMES = {
    "ca_file": "/etc/kubernetes/ssl/front-proxy-ca.crt",
    "cert_file": "/etc/kubernetes/ssl/front-proxy-client.crt",
    "key_file": "/etc/kubernetes/ssl/front-proxy-client.key",
}


@pytest.fixture
def borrowed(look, other_authority):
    """What is seen where the requestheader CA is the client CA by the same path, and the pair is kube-proxy's."""
    kubeconfig = ["/etc/kubernetes/kube-proxy.kubeconfig"]
    return look(
        ca_file=KUBE_PROXY_PAIR["client-ca-file"],
        cert_file=KUBE_PROXY_PAIR["proxy-client-cert-file"],
        key_file=KUBE_PROXY_PAIR["proxy-client-key-file"],
        ca=[der(other_authority.certificate)],
        chain=[leaf(other_authority, name="system:kube-proxy")],
        ca_key={"path": "/etc/kubernetes/ssl/ca-key.pem", "exists": True, "signs": der(other_authority.certificate)},
        used_by={
            "ca_file": ["kube-apiserver --client-ca-file"],
            "cert_file": kubeconfig,
            "key_file": kubeconfig,
            "ca_key": ["kube-controller-manager --cluster-signing-key-file"],
        },
        new_files=OWN_NAMES,
    )


def test_a_shared_ca_by_path_is_looked_at_where_it_is():
    """Or nobody would see that it is shared."""
    own = host(KUBE_PROXY_PAIR)
    assert front_proxy.file_flags(own, [own], {}) == {
        name: KUBE_PROXY_PAIR[name] for name in ("requestheader-client-ca-file", *list(front_proxy.FILES)[1:])
    }


def test_a_shared_ca_is_a_sentence_with_the_reason_and_the_switch(borrowed):
    said = front_proxy.shared_problem({"cp1": borrowed}, [], replace_shared=False)
    assert said.startswith("Nothing was changed. On cp1 the CA of the front proxy (/etc/kubernetes/ssl/ca.pem)")
    assert "act as any user" in said
    assert "front_proxy_pki_replace_shared_ca" in said
    assert front_proxy.shared_problem({"cp1": borrowed}, ["CN=kubernetes"], replace_shared=True) == ""


def test_a_shared_ca_that_only_is_published_any_more_is_a_sentence_too(look):
    said = front_proxy.shared_problem({"cp1": look()}, ["CN=kubernetes"], replace_shared=False)
    assert "still publishes" in said
    assert "CN=kubernetes" in said
    assert front_proxy.shared_problem({"cp1": look()}, [], replace_shared=False) == ""


@pytest.mark.parametrize("count", [1, 3])
def test_with_consent_every_api_server_gets_files_of_its_own(borrowed, look, count):
    names = [f"cp{number}" for number in range(1, count + 1)]
    hosts = [host(KUBE_PROXY_PAIR, name=name) for name in names]
    infos = dict.fromkeys(names, borrowed)
    for one in hosts:
        assert front_proxy.own_files(one, infos[one["name"]], infos) == OWN_NAMES
    missing = {"ca": [], "chain": [], "ca_key": {"path": "x", "exists": False, "signs": None}, **OWN_NAMES}
    result = plan(dict.fromkeys(names, look(**missing)), names=("metrics-server", "admin", "system:kube-proxy"))
    assert (result["create_ca"], result["signer"]) == (True, "cp1")
    assert (sorted(result["issue"]), result["update_ca"]) == (names, names[1:])
    # A name that was allowed before, so that no flag has to change for it.
    assert result["names_in_use"] == ["metrics-server"]
    wanted = front_proxy.wanted_flags(hosts[-1], hosts, OWN_NAMES)
    assert wanted["requestheader-client-ca-file"] == OWN_NAMES["ca_file"]
    assert wanted["proxy-client-cert-file"] == OWN_NAMES["cert_file"]


def test_a_control_plane_without_flags_takes_no_path_from_one_that_borrows():
    own, peer = host(BARE), host(KUBE_PROXY_PAIR, name="cp2")
    assert set(front_proxy.file_flags(own, [own, peer], {}).values()) == {
        "/etc/kubernetes/pki/front-proxy-ca.crt",
        "/etc/kubernetes/pki/front-proxy-client.crt",
        "/etc/kubernetes/pki/front-proxy-client.key",
    }


def test_a_copy_of_the_clusters_ca_is_replaced_where_it_is_if_nothing_else_uses_it(look, other_authority):
    copy = look(ca=[der(other_authority.certificate)], chain=[leaf(other_authority)])
    kept = {name: copy[name] for name in ("ca_file", "cert_file", "key_file")}
    assert front_proxy.own_files(host(), copy, {"cp1": copy}) == kept
    pair = {**copy, "used_by": {**copy["used_by"], "cert_file": ["/root/.kube/config"]}, "new_files": OWN_NAMES}
    assert front_proxy.own_files(host(), pair, {"cp1": pair}) == {**OWN_NAMES, "ca_file": copy["ca_file"]}


def test_an_interrupted_replacement_of_a_shared_ca_goes_on_with_what_was_made(look):
    """The API server still runs with the old files; those of its own are there."""
    result = plan({"cp1": look(**OWN_NAMES)})
    assert (result["create_ca"], result["issue"], result["update_ca"]) == (False, {}, [])


def test_files_of_a_control_plane_that_shares_nothing_stay(look, borrowed):
    infos = {"cp1": borrowed, "cp2": look()}
    assert front_proxy.own_files(host(name="cp2"), infos["cp2"], infos)["ca_file"] == "/pki/front-proxy-ca.crt"


def test_an_unknown_directory_is_a_sentence():
    with pytest.raises(front_proxy.FrontProxyError, match="front_proxy_pki_directory"):
        front_proxy.wanted_flags(host({}, pki=None), [], {})


@pytest.mark.parametrize(
    ("routing", "proxy", "present", "wanted"),
    [
        ("auto", True, None, {}),
        ("auto", True, "true", {}),
        ("auto", False, None, {}),
        ("auto", (False, True), None, {}),
        ("auto", (False, False), None, {"enable-aggregator-routing": True}),
        ("auto", (False, False), "true", {}),
        ("true", True, None, {"enable-aggregator-routing": True}),
        ("false", False, None, {}),
        ("false", True, "true", {"enable-aggregator-routing": False}),
    ],
)
def test_routing(routing, proxy, present, wanted):
    flags = {**KUBEADM, **({"enable-aggregator-routing": present} if present else {})}
    proxy, answers = proxy if isinstance(proxy, tuple) else (proxy, None)
    one = host(flags, proxy=proxy, answers=answers)
    assert front_proxy.routes_unknown(one) == (not proxy and not present)
    result = front_proxy.wanted_flags(one, [], {}, routing)
    assert {name: value for name, value in result.items() if name == front_proxy.ROUTING} == wanted


def test_kubeadm_is_told_only_what_it_does_not_do_itself():
    wanted = {**front_proxy.wanted_flags(host(BARE), [], {}, "true"), "requestheader-allowed-names": ["aggregator"]}
    kept = front_proxy.beside_kubeadm(wanted, "/etc/kubernetes/pki")
    assert {name: value for name, value in kept.items() if value is not None} == {
        "requestheader-allowed-names": "aggregator",
        "requestheader-uid-headers": "X-Remote-Uid",
        "enable-aggregator-routing": True,
    }
    assert kept["proxy-client-key-file"] is None


@pytest.mark.parametrize("path", ["/etc/kubernetes/ssl", "/ETC/a_b/../x/" + "y" * 80 + "-"])
def test_volume_names_are_valid(path):
    name = front_proxy.volume_name(path)
    assert len(name) <= 63
    assert name[-1].isalnum()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


# --- certificates ---


def test_nothing_is_done_where_all_is_well(look):
    info = look()
    result = plan({"cp1": info, "cp2": {**info, "ca_key": {"path": "x", "exists": False, "signs": None}}})
    assert (result["issue"], result["update_ca"], result["create_ca"]) == ({}, [], False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chain": []}, "no certificate"),
        ({"chain": ["AAAA"]}, "does not parse"),
        ({"pair": {"usable": False, "message": "KEY_VALUES_MISMATCH"}}, "KEY_VALUES_MISMATCH"),
    ],
)
def test_what_cannot_be_used_is_replaced(look, changes, reason):
    result = plan({"cp1": look(**changes)})
    assert reason in result["issue"]["cp1"]
    assert result["signer"] == "cp1"
    assert result["signing_ca"] == front_proxy.pem_of(look()["ca"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"days": -1}, "expired"),
        ({"days": 20}, "expires at"),
        ({"name": "somebody"}, "somebody is not allowed"),
        ({"usage": ExtendedKeyUsageOID.SERVER_AUTH}, "clientAuth"),
    ],
)
def test_what_is_not_valid_is_replaced(look, authority, arguments, reason):
    assert reason in plan({"cp1": look(chain=[leaf(authority, **arguments)])})["issue"]["cp1"]


def test_any_name_will_do_where_all_are_allowed(look, authority):
    assert plan({"cp1": look(chain=[leaf(authority, name="x")])}, names=())["issue"] == {}


def test_a_certificate_of_the_cluster_itself_is_replaced(look, other_authority):
    assert "not among the CAs" in plan({"cp1": look(chain=[leaf(other_authority)])})["issue"]["cp1"]


def test_renewal_on_request(look):
    assert plan({"cp1": look()}, renew=True)["issue"] == {"cp1": "renewal was asked for"}


def test_a_control_plane_without_ca_gets_that_of_the_others(look):
    missing = look(ca=[], chain=[], ca_key={"path": "x", "exists": False, "signs": None})
    result = plan({"cp1": missing, "cp2": look()})
    assert result["update_ca"] == ["cp1"]
    assert list(result["issue"]) == ["cp1"]
    assert result["signer"] == "cp2"
    assert result["bundle"] == front_proxy.pem_of(look()["ca"])


def test_different_cas_become_one_bundle(look, authority):
    third = type(authority)("third-ca")
    other = look(ca=[der(third.certificate)], chain=[leaf(third)])
    result = plan({"cp1": look(), "cp2": other})
    assert result["update_ca"] == ["cp1", "cp2"]
    assert result["issue"] == {}
    assert len(certs.load_bundle(result["bundle"].encode())) == 2


def test_the_first_control_plane_makes_a_ca_where_there_is_none(look):
    bare = look(ca=[], chain=[], ca_key={"path": "x", "exists": False, "signs": None})
    result = plan({"cp1": bare, "cp2": bare})
    assert result["create_ca"]
    assert result["signer"] == "cp1"
    assert list(result["issue"]) == ["cp1", "cp2"]
    assert result["update_ca"] == ["cp2"]


def test_a_key_whose_certificate_is_lost_is_used_again(look):
    bare = look(ca=[], chain=[], ca_key={"path": "x", "exists": False, "signs": None})
    with_key = look(ca=[], ca_key={"path": "x", "exists": True, "signs": None})
    result = plan({"cp1": bare, "cp2": with_key})
    assert (result["signer"], result["create_ca"]) == ("cp2", True)


def test_without_the_key_of_the_ca_it_only_says_so(look):
    info = look(chain=[], ca_key={"path": "x", "exists": False, "signs": None})
    with pytest.raises(front_proxy.FrontProxyError, match="no control plane has the key"):
        plan({"cp1": info})


@pytest.mark.parametrize(
    ("changes", "file"),
    [({"chain": []}, "cert_file"), ({"chain": []}, "key_file"), ({"ca": []}, "ca_file"), ({"ca": []}, "ca_key")],
)
def test_files_with_another_use_are_not_overwritten(look, changes, file):
    used_by = {**look()["used_by"], file: ["/root/.kube/config"]}
    with pytest.raises(front_proxy.FrontProxyError, match=r"serves something else, too \(/root/.kube/config\)"):
        plan({"cp1": look(used_by=used_by, **changes)})


def test_rotation_overwrites_no_file_with_another_use(look):
    used_by = {**look()["used_by"], "ca_file": ["etcd --trusted-ca-file"]}
    with pytest.raises(front_proxy.FrontProxyError, match="etcd --trusted-ca-file"):
        front_proxy.rotation({"cp1": look(used_by=used_by)})


def test_rotation_makes_no_new_key_in_the_place_of_one_with_another_use(look):
    used_by = {**look()["used_by"], "ca_key": ["kube-controller-manager --cluster-signing-key-file"]}
    with pytest.raises(front_proxy.FrontProxyError, match="--cluster-signing-key-file"):
        front_proxy.rotation({"cp1": look(used_by=used_by)})


def test_the_clusters_own_ca_vouches_for_no_front_proxy(look, authority, other_authority):
    """Also beside one of its own, which stays; the cluster's goes out of the file."""
    both = [der(authority.certificate), der(other_authority.certificate)]
    result = plan({"cp1": look(ca=both)})
    assert (result["create_ca"], result["issue"], result["update_ca"]) == (False, {}, ["cp1"])
    assert result["bundle"] == front_proxy.pem_of(both[:1])


ANY = x509.ObjectIdentifier("2.5.29.37.0")


@pytest.mark.parametrize("usage", [None, ANY, ExtendedKeyUsageOID.CLIENT_AUTH])
def test_what_kubernetes_accepts_stays(look, authority, usage):
    assert plan({"cp1": look(chain=[leaf(authority, usage=usage)])})["issue"] == {}


def intermediate(authority, name="intermediate", **extensions):
    child = type(authority)(name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(child.name)
        .issuer_name(authority.name)
        .public_key(child.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.now(UTC) - datetime.timedelta(days=1))
        .not_valid_after(datetime.datetime.now(UTC) + datetime.timedelta(days=extensions.get("days", 100)))
        .add_extension(x509.BasicConstraints(ca=extensions.get("ca", True), path_length=None), critical=True)
    )
    if "usage" in extensions:
        builder = builder.add_extension(x509.ExtendedKeyUsage([extensions["usage"]]), critical=False)
    child.certificate = builder.sign(authority.key, hashes.SHA256())
    return child


def test_a_chain_with_an_intermediate_stays(look, authority):
    first = intermediate(authority)
    second = intermediate(first, "second")
    chain = [leaf(second), der(second.certificate), der(first.certificate)]
    assert plan({"cp1": look(chain=chain)})["issue"] == {}
    assert "not among the CAs" in plan({"cp1": look(chain=chain[:2])})["issue"]["cp1"]
    assert front_proxy.rotation({"cp1": look(chain=chain)})["create"]


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ({"days": 0}, "its intermediate CA expired"),
        ({"ca": False}, "is no CA"),
        ({"usage": ExtendedKeyUsageOID.SERVER_AUTH}, "its intermediate CA is not made for clients"),
    ],
)
def test_a_chain_that_kubernetes_refuses_is_replaced(look, authority, extensions, reason):
    between = intermediate(authority, **extensions)
    issue = plan({"cp1": look(chain=[leaf(between), der(between.certificate)])})["issue"]
    assert reason in issue["cp1"]


def test_publishers_are_those_that_run_with_the_file(look):
    info = {**look(), "ca_file": KUBEADM["requestheader-client-ca-file"]}
    assert front_proxy.publishers({"cp1": info}, [host()]) == ["cp1"]
    assert front_proxy.publishers({"cp1": look()}, [host()]) == []


def test_pem_is_what_it_was(authority):
    assert front_proxy.pem_of([der(authority.certificate)]).encode() == authority.pem


# --- a new CA -------------------------------------------------------------------------------------------------------


@pytest.fixture
def newer(authority):
    return type(authority)("newer-ca", hours_old=0)


def test_rotation_of_one_ca_makes_another_where_its_key_is(look, authority):
    keyless = {"path": "/pki/front-proxy-ca.key", "exists": False, "signs": None}
    found = front_proxy.rotation({"cp1": look(ca_key=keyless), "cp2": look()})
    assert (found["create"], found["signer"], found["target"]) == (True, "cp2", None)
    assert found["reissue"] == ["cp1", "cp2"]
    assert found["old"] == [authority.certificate.subject.rfc4514_string()]


def test_rotation_goes_on_to_the_newest_ca_in_steps(look, authority, newer):
    both = [der(newer.certificate), der(authority.certificate)]
    key = {"path": "/pki/front-proxy-ca.key", "exists": True, "signs": both[0]}
    begun = front_proxy.rotation({"cp1": look(ca=both, ca_key=key), "cp2": look()})
    assert (begun["create"], begun["signer"], begun["target"]) == (False, "cp1", both[0])
    assert (begun["extend"], begun["reissue"], begun["drop"]) == (["cp2"], ["cp1", "cp2"], ["cp1", "cp2"])
    assert begun["all"] == both
    assert begun["retired"] == both[1:]

    signed = {"ca": both, "chain": [leaf(newer)]}
    reissued = front_proxy.rotation({"cp1": look(ca_key=key, **signed), "cp2": look(**signed)})
    assert (reissued["extend"], reissued["reissue"], reissued["drop"]) == ([], [], ["cp1", "cp2"])

    only = {"ca": both[:1], "chain": [leaf(newer)]}
    nobody = {"path": "/pki/front-proxy-ca.key", "exists": False, "signs": None}
    done = front_proxy.rotation({"cp1": look(ca_key=key, **only), "cp2": look(ca_key=nobody, **only)}, both[0])
    assert (done["create"], done["extend"], done["reissue"], done["drop"]) == (False, [], [], [])
    assert (done["old"], done["retired"]) == ([], [])


def test_rotation_arrives_at_the_ca_that_was_made_whatever_the_clocks_say(look, authority, newer):
    both = [der(newer.certificate), der(authority.certificate)]
    found = front_proxy.rotation({"cp1": look(ca=both)}, target=both[1])
    assert (found["target"], found["reissue"], found["all"]) == (both[1], [], both[::-1])


def test_rotation_that_was_interrupted_between_key_and_certificate_makes_another_ca(look):
    lost = {"path": "/pki/front-proxy-ca.key", "exists": True, "signs": None}
    assert front_proxy.rotation({"cp1": look(ca_key=lost)})["signer"] == "cp1"


def test_rotation_without_the_key_of_the_ca_is_refused_with_the_way_to_go(look):
    keyless = {"path": "/pki/front-proxy-ca.key", "exists": False, "signs": None}
    with pytest.raises(front_proxy.FrontProxyError, match="No control plane has the key .* first add its certificate"):
        front_proxy.rotation({"cp1": look(ca_key=keyless)})


def test_rotation_to_a_ca_of_the_users_own_ends_when_its_certificates_are_in_place(look, authority, newer):
    both = [der(newer.certificate), der(authority.certificate)]
    keyless = {"path": "/pki/front-proxy-ca.key", "exists": False, "signs": None}
    found = front_proxy.rotation({"cp1": look(ca=both, chain=[leaf(newer)], ca_key=keyless)})
    assert (found["create"], found["reissue"], found["drop"]) == (False, [], ["cp1"])


def test_rotation_without_any_ca_says_what_comes_first(look):
    with pytest.raises(front_proxy.FrontProxyError, match="run the site playbook first"):
        front_proxy.rotation({"cp1": look(ca=[])})


# --- before something is taken out of what is published ---


@pytest.fixture(scope="module")
def another(authority):
    return type(authority)("another-ca")


def test_a_certificate_has_to_be_by_a_ca_of_its_own_host(look, authority, another):
    """Another control plane's CA vouches for it only as long as that one is there."""
    good = look()
    names = {"cp1": [], "cp2": []}
    assert front_proxy.left_over({"cp1": good, "cp2": look()}, names) == ""
    other = look(ca=[der(another.certificate)])
    found = front_proxy.left_over({"cp1": good, "cp2": other}, names)
    assert found.startswith("cp1: /pki/front-proxy-ca.crt lacks a CA that another control plane trusts; cp2: ")
    # Together they would do.
    assert front_proxy.plan({"cp1": good, "cp2": other}, names, front_proxy.Settings(0))["issue"] == {}


def test_all_control_planes_have_to_trust_the_same_cas(look, authority, another):
    both = look(ca=[der(authority.certificate), der(another.certificate)])
    found = front_proxy.left_over({"cp1": look(), "cp2": both}, {"cp1": [], "cp2": []})
    assert found == "cp1: /pki/front-proxy-ca.crt lacks a CA that another control plane trusts"


def test_a_name_that_is_not_allowed_is_left_over(look):
    assert "not allowed (x)" in front_proxy.left_over({"cp1": look()}, {"cp1": ["x"]})


def test_names_that_cryptography_does_not_decode(look, umlaut_certificate):
    """O=Universität as a T61String, in a CA of the file and in the name of the client."""
    encoded = base64.b64encode(umlaut_certificate("front-proxy-client")).decode()
    now = datetime.datetime.now(datetime.timezone.utc)
    info = look(ca=[*look()["ca"], encoded], chain=[encoded])
    trusted = front_proxy.authorities(info, now)
    assert len(trusted) == 2
    assert front_proxy.trouble_with(info, trusted, ["front-proxy-client"], 30, now) == ""
    assert front_proxy.plan({"cp1": info}, {"cp1": ("front-proxy-client",)}, front_proxy.Settings())["issue"] == {}
