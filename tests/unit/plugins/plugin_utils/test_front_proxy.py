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
BARE = {"client-ca-file": "/etc/kubernetes/pki/ca.crt"}


def host(flags=KUBEADM, *, name="cp1", version="v1.36.3", proxy=True, pki="/etc/kubernetes/pki"):
    return {
        "name": name,
        "components": {"kube-apiserver": {"flags": flags, "version": version}, "kube-proxy": {"running": proxy}},
        "kubernetes_dir": {"pki_dir": pki},
    }


def der(certificate):
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()


def leaf(authority, *, name="front-proxy-client", days=300, usage=ExtendedKeyUsageOID.CLIENT_AUTH):
    now = datetime.datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.name)
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=500))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
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
            "certificate": leaf(authority),
            "pair": {"usable": True, "message": ""},
            "ca_key": {"path": "/pki/front-proxy-ca.key", "exists": True, "signs": der(authority.certificate)},
            "used_elsewhere": False,
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


def test_an_empty_list_of_names_is_a_decision():
    own = {**KUBEADM, "requestheader-allowed-names": []}
    assert front_proxy.is_complete(own)
    assert front_proxy.wanted_flags(host(own), [host(own)], {})["requestheader-allowed-names"] == []


def test_a_list_of_one_empty_name_admits_nobody_and_was_meant_to_be_empty():
    own = {**KUBEADM, "requestheader-allowed-names": [""]}
    assert front_proxy.wanted_flags(host(own), [host(own)], {})["requestheader-allowed-names"] == []


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


@pytest.mark.parametrize("version", ["v1.32.9", None])
def test_there_is_no_uid_header_for_old_versions(version):
    bare = host(BARE, version=version)
    assert "requestheader-uid-headers" not in front_proxy.wanted_flags(bare, [bare], {})


def test_given_files_win():
    files = {"ca_file": "/new/ca.crt", "cert_file": "/new/c.crt", "key_file": "/new/c.key"}
    wanted = front_proxy.wanted_flags(host(), [], files)
    assert wanted["requestheader-client-ca-file"] == "/new/ca.crt"
    assert wanted["proxy-client-key-file"] == "/new/c.key"


def test_a_borrowed_ca_takes_the_pair_with_it_only_on_request():
    own = {
        **KUBEADM,
        "requestheader-client-ca-file": KUBEADM["client-ca-file"],
        "proxy-client-cert-file": "/pki/admin.crt",
    }
    kept = front_proxy.wanted_flags(host(own), [], {})
    assert kept["proxy-client-cert-file"] == "/pki/admin.crt"
    replaced = front_proxy.wanted_flags(host(own), [], {"replace_shared": True})
    assert replaced["requestheader-client-ca-file"] == "/etc/kubernetes/pki/front-proxy-ca.crt"
    assert replaced["proxy-client-cert-file"] == "/etc/kubernetes/pki/front-proxy-client.crt"


def test_an_unknown_directory_is_a_sentence():
    with pytest.raises(front_proxy.FrontProxyError, match="front_proxy_pki_directory"):
        front_proxy.wanted_flags(host({}, pki=None), [], {})


@pytest.mark.parametrize(
    ("routing", "proxy", "present", "wanted"),
    [
        ("auto", True, None, {}),
        ("auto", True, "true", {}),
        ("auto", False, None, {"enable-aggregator-routing": True}),
        ("true", True, None, {"enable-aggregator-routing": True}),
        ("false", False, None, {}),
        ("false", True, "true", {"enable-aggregator-routing": False}),
    ],
)
def test_routing(routing, proxy, present, wanted):
    flags = {**KUBEADM, **({"enable-aggregator-routing": present} if present else {})}
    result = front_proxy.wanted_flags(host(flags, proxy=proxy), [], {}, routing)
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
        ({"certificate": None}, "no certificate"),
        ({"certificate": "AAAA"}, "does not parse"),
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
    assert reason in plan({"cp1": look(certificate=leaf(authority, **arguments))})["issue"]["cp1"]


def test_any_name_will_do_where_all_are_allowed(look, authority):
    assert plan({"cp1": look(certificate=leaf(authority, name="x"))}, names=())["issue"] == {}


def test_a_certificate_of_the_cluster_itself_is_replaced(look, other_authority):
    assert "no front-proxy CA" in plan({"cp1": look(certificate=leaf(other_authority))})["issue"]["cp1"]


def test_renewal_on_request(look):
    assert plan({"cp1": look()}, renew=True)["issue"] == {"cp1": "renewal was asked for"}


def test_a_control_plane_without_ca_gets_that_of_the_others(look):
    missing = look(ca=[], certificate=None, ca_key={"path": "x", "exists": False, "signs": None})
    result = plan({"cp1": missing, "cp2": look()})
    assert result["update_ca"] == ["cp1"]
    assert list(result["issue"]) == ["cp1"]
    assert result["signer"] == "cp2"
    assert result["bundle"] == front_proxy.pem_of(look()["ca"])


def test_different_cas_become_one_bundle(look, authority):
    third = type(authority)("third-ca")
    other = look(ca=[der(third.certificate)], certificate=leaf(third))
    result = plan({"cp1": look(), "cp2": other})
    assert result["update_ca"] == ["cp1", "cp2"]
    assert result["issue"] == {}
    assert len(certs.load_bundle(result["bundle"].encode())) == 2


def test_the_first_control_plane_makes_a_ca_where_there_is_none(look):
    bare = look(ca=[], certificate=None, ca_key={"path": "x", "exists": False, "signs": None})
    result = plan({"cp1": bare, "cp2": bare})
    assert result["create_ca"]
    assert not result["reuse_key"]
    assert result["signer"] == "cp1"
    assert list(result["issue"]) == ["cp1", "cp2"]
    assert result["update_ca"] == ["cp2"]


def test_a_key_whose_certificate_is_lost_is_used_again(look):
    bare = look(ca=[], certificate=None, ca_key={"path": "x", "exists": False, "signs": None})
    with_key = look(ca=[], ca_key={"path": "x", "exists": True, "signs": None})
    result = plan({"cp1": bare, "cp2": with_key})
    assert (result["signer"], result["reuse_key"]) == ("cp2", True)


def test_without_the_key_of_the_ca_it_only_says_so(look):
    info = look(certificate=None, ca_key={"path": "x", "exists": False, "signs": None})
    with pytest.raises(front_proxy.FrontProxyError, match="no control plane has the key"):
        plan({"cp1": info})


def test_files_with_another_use_are_not_overwritten(look):
    with pytest.raises(front_proxy.FrontProxyError, match="files of its own"):
        plan({"cp1": look(certificate=None, used_elsewhere=True)})


def test_a_shared_ca_is_a_finding(look, other_authority):
    info = look(ca=[der(other_authority.certificate)], certificate=leaf(other_authority))
    with pytest.raises(front_proxy.FrontProxyError, match="front_proxy_pki_replace_shared_ca"):
        plan({"cp1": info})
    result = plan({"cp1": info}, replace_shared=True)
    assert result["create_ca"]
    # The key there may be a copy of the cluster's own.
    assert not result["reuse_key"]
    assert result["shared"] == ["cp1"]
    assert list(result["issue"]) == ["cp1"]


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
    assert begun["stale_keys"] == {"cp2": "/pki/front-proxy-ca.key"}

    signed = {"ca": both, "certificate": leaf(newer)}
    reissued = front_proxy.rotation({"cp1": look(ca_key=key, **signed), "cp2": look(**signed)})
    assert (reissued["extend"], reissued["reissue"], reissued["drop"]) == ([], [], ["cp1", "cp2"])

    only = {"ca": both[:1], "certificate": leaf(newer)}
    nobody = {"path": "/pki/front-proxy-ca.key", "exists": False, "signs": None}
    done = front_proxy.rotation({"cp1": look(ca_key=key, **only), "cp2": look(ca_key=nobody, **only)}, both[0])
    assert (done["create"], done["extend"], done["reissue"], done["drop"]) == (False, [], [], [])
    assert (done["old"], done["stale_keys"]) == ([], {})


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
    found = front_proxy.rotation({"cp1": look(ca=both, certificate=leaf(newer), ca_key=keyless)})
    assert (found["create"], found["reissue"], found["drop"]) == (False, [], ["cp1"])


def test_rotation_without_any_ca_says_what_comes_first(look):
    with pytest.raises(front_proxy.FrontProxyError, match="run the site playbook first"):
        front_proxy.rotation({"cp1": look(ca=[])})
