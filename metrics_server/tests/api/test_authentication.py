# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is believed: the whole server over real TLS, against an API server of the test's own."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.conftest import World, config_map
from api.support import Credential, Pki, client_context, eventually
from metrics_server.tls.client_certificates import CertificateBundle, CertificateError, common_name

NODES = "/apis/metrics.k8s.io/v1beta1/nodes"
ALICE = [
    ("X-Remote-User", "alice"),
    ("X-Remote-Group", "dev"),
    ("X-Remote-Group", "system:authenticated"),
    ("X-Remote-Uid", "42"),
    ("X-Remote-Extra-Scopes.Example%2Fcom", "read"),
]


async def test_the_front_proxy_is_believed(world: World) -> None:
    answer = await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)
    assert answer.status == 200
    review = world.api.reviews[-1]
    assert review == {
        "user": "alice",
        "uid": "42",
        "groups": ["dev", "system:authenticated"],
        "extra": {"scopes.example/com": ["read"]},
        "resourceAttributes": {"verb": "list", "group": "metrics.k8s.io", "version": "v1beta1", "resource": "nodes"},
    }


@pytest.mark.parametrize(
    "kind",
    ["wrong-name", "wrong-ca", "expired", "not-yet-valid", "server-certificate", "same-named-ca", "no-user"],
)
async def test_a_bad_front_proxy_certificate_is_401(world: World, kind: str) -> None:
    pki, ca = world.pki, world.front_proxy_ca
    headers = ALICE if kind != "no-user" else []
    bad: Credential = {
        "wrong-name": lambda: pki.leaf(ca, "somebody"),
        "wrong-ca": lambda: pki.leaf(pki.ca("another-ca"), "front-proxy-client"),
        "expired": lambda: pki.leaf(ca, "front-proxy-client", lifetime=(-3, -1)),
        "not-yet-valid": lambda: pki.leaf(ca, "front-proxy-client", lifetime=(1, 3)),
        "server-certificate": lambda: pki.leaf(ca, "front-proxy-client", usage=ExtendedKeyUsageOID.SERVER_AUTH),
        "same-named-ca": lambda: pki.leaf(pki.ca("front-proxy-ca"), "front-proxy-client"),
        "no-user": lambda: world.front_proxy,
    }[kind]()
    answer = await world.running.get(NODES, credential=bad, headers=headers)
    assert answer.status == 401
    assert answer.json() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "Unauthorized",
        "reason": "Unauthorized",
        "code": 401,
    }
    assert world.api.reviews == []


def altered(issuer: Credential, good: Credential, old: bytes, new: bytes) -> Credential:
    """Return a certificate with other bytes of the same length in it, signed by the same CA once more."""
    content = good.certificate.tbs_certificate_bytes
    assert content.count(old) == 1 and len(old) == len(new)
    content = content.replace(old, new)
    signature = b"\0" + issuer.key.sign(content, ec.ECDSA(hashes.SHA256()))
    inner = content + bytes.fromhex("300a06082a8648ce3d040302") + b"\x03" + bytes([len(signature)]) + signature
    der = b"\x30\x82" + len(inner).to_bytes(2, "big") + inner
    body = base64.encodebytes(der).decode()
    good.certificate_file.write_text(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
    return good


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"\x0c\x06Juergn", b"\x14\x06J\xfcrgen", id="a-name-in-latin-1"),
        pytest.param(b"\x0c\x06Juergn", b"\x03\x06\x00uergn", id="a-bit-string-as-name"),
        pytest.param(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", id="a-version-of-the-future"),
    ],
)
async def test_a_certificate_that_openssl_reads_and_cryptography_does_not_is_401(
    world: World, old: bytes, new: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever makes one up must not get a traceback into the log for each request."""
    good = world.pki.leaf(world.front_proxy_ca, "Juergn")
    answer = await world.running.get(NODES, credential=altered(world.front_proxy_ca, good, old, new), headers=ALICE)
    assert (answer.status, answer.json()["reason"]) == (401, "Unauthorized")
    assert [record for record in caplog.records if record.exc_info] == []
    assert world.api.reviews == []


async def test_headers_without_a_certificate_are_as_if_not_sent(world: World) -> None:
    masters = [("X-Remote-User", "root"), ("X-Remote-Group", "system:masters")]
    answer = await world.running.get(NODES, headers=masters)
    assert answer.status == 403
    assert world.api.reviews[-1]["user"] == "system:anonymous"
    assert world.api.reviews[-1]["groups"] == ["system:unauthenticated"]
    assert answer.json()["message"] == (
        'nodes.metrics.k8s.io is forbidden: User "system:anonymous" cannot list resource "nodes" in API group '
        '"metrics.k8s.io" at the cluster scope'
    )


async def test_headers_on_a_client_certificate_are_as_if_not_sent(world: World) -> None:
    bob = world.pki.leaf(world.client_ca, "bob", organizations=["ops", "dev"])
    answer = await world.running.get(NODES, credential=bob, headers=[("X-Remote-Group", "system:masters"), *ALICE])
    assert answer.status == 200
    assert world.api.reviews[-1]["user"] == "bob"
    assert world.api.reviews[-1]["groups"] == ["ops", "dev", "system:authenticated"]


async def test_a_client_certificate_signed_by_a_leaf_is_401(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bob = world.pki.leaf(world.client_ca, "bob")
    forged = world.pki.leaf(bob, "root", organizations=["system:masters"])
    chain = tmp_path_factory.mktemp("chain") / "chain.pem"
    chain.write_text(forged.pem + bob.pem)
    answer = await world.running.get(NODES, credential=forged, chain=chain)
    assert answer.status == 401


async def test_an_intermediate_ca_that_the_client_sends_is_used(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    between = world.pki.leaf(world.client_ca, "between", usage=None, is_ca=True)
    carol = world.pki.leaf(between, "carol")
    chain = tmp_path_factory.mktemp("chain") / "chain.pem"
    chain.write_text(carol.pem + between.pem)
    answer = await world.running.get(NODES, credential=carol, chain=chain)
    assert answer.status == 200
    assert world.api.reviews[-1]["user"] == "carol"


async def test_an_intermediate_for_servers_only_is_401(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    between = world.pki.leaf(world.client_ca, "between", usage=ExtendedKeyUsageOID.SERVER_AUTH, is_ca=True)
    carol = world.pki.leaf(between, "carol")
    chain = tmp_path_factory.mktemp("chain") / "chain.pem"
    chain.write_text(carol.pem + between.pem)
    assert (await world.running.get(NODES, credential=carol, chain=chain)).status == 401


async def test_masters_are_not_asked_for(world: World) -> None:
    headers = [("X-Remote-User", "system:kube-aggregator"), ("X-Remote-Group", "system:masters")]
    answer = await world.running.get(NODES, credential=world.front_proxy, headers=headers)
    assert answer.status == 200
    assert world.api.reviews == []


async def test_a_second_ca_of_the_same_name_is_trusted_at_once_and_no_longer_when_removed(world: World) -> None:
    new_ca = world.pki.ca("front-proxy-ca")
    new = world.pki.leaf(new_ca, "front-proxy-client")
    trust = world.running.server.trust
    assert (await world.running.get(NODES, credential=new, headers=ALICE)).status == 401

    both = {"requestheader-client-ca-file": world.front_proxy_ca.pem + new_ca.pem}
    before = trust.generation
    await world.api.change_config_map(config_map(world.front_proxy_ca, world.client_ca, **both))
    await eventually(lambda: trust.generation > before)
    assert (await world.running.get(NODES, credential=new, headers=ALICE)).status == 200
    assert (await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)).status == 200

    before = trust.generation
    await world.api.change_config_map(config_map(new_ca, world.client_ca))
    await eventually(lambda: trust.generation > before)
    assert (await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)).status == 401
    assert (await world.running.get(NODES, credential=new, headers=ALICE)).status == 200


async def test_names_and_headers_follow_the_config_map(world: World) -> None:
    trust = world.running.server.trust
    before = trust.generation
    changed = config_map(
        world.front_proxy_ca,
        world.client_ca,
        **{
            "requestheader-allowed-names": json.dumps(["other", "somebody"]),
            "requestheader-username-headers": json.dumps(["X-User"]),
        },
    )
    await world.api.change_config_map(changed)
    await eventually(lambda: trust.generation > before)
    assert (await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)).status == 401
    other = world.pki.leaf(world.front_proxy_ca, "somebody")
    answer = await world.running.get(NODES, credential=other, headers=[("x-user", "zoe"), ("X-Remote-Group", "dev")])
    assert answer.status == 200
    assert world.api.reviews[-1]["user"] == "zoe"


async def test_a_broken_config_map_leaves_the_old_one_in_force(world: World) -> None:
    broken = {
        "requestheader-allowed-names": "not json",
        "requestheader-client-ca-file": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }
    await world.api.change_config_map(config_map(world.front_proxy_ca, world.client_ca, **broken))
    await asyncio.sleep(0.2)
    somebody = world.pki.leaf(world.front_proxy_ca, "somebody")
    assert (await world.running.get(NODES, credential=somebody, headers=ALICE)).status == 401
    assert (await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)).status == 200


async def test_a_deleted_config_map_is_read_again_when_it_returns(world: World) -> None:
    await world.api.change_config_map(None)
    await asyncio.sleep(0.1)
    assert (await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)).status == 200
    new_ca = world.pki.ca("front-proxy-ca-2")
    await world.api.change_config_map(config_map(new_ca, world.client_ca))
    trust = world.running.server.trust
    await eventually(
        lambda: trust.front_proxy is not None and new_ca.certificate in trust.front_proxy.bundle.certificates
    )
    assert (await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)).status == 401


async def test_empty_groups_are_none(world: World) -> None:
    headers = [("X-Remote-User", "alice"), ("X-Remote-Group", ""), ("X-Remote-Group", "dev"), ("X-Remote-Group", "")]
    assert (await world.running.get(NODES, credential=world.front_proxy, headers=headers)).status == 200
    assert world.api.reviews[-1]["groups"] == ["dev", "system:authenticated"]


async def test_a_certificate_is_judged_once_and_not_for_each_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    verify = CertificateBundle.verify_client

    def counting(self: CertificateBundle, presented: Any, **options: Any) -> Any:
        judged.append(common_name(presented[0]))
        return verify(self, presented, **options)

    monkeypatch.setattr(CertificateBundle, "verify_client", counting)
    for _unused in range(4):
        assert (await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)).status == 200
    # By both authorities, each once.
    assert judged == ["front-proxy-client"] * 2
    # Another certificate of the same name is another one.
    unknown = world.pki.leaf(world.pki.ca("front-proxy-ca"), "front-proxy-client")
    for _unused in range(2):
        assert (await world.running.get(NODES, credential=unknown, headers=ALICE)).status == 401
    assert len(judged) > 4
    # Whom nobody vouches for is not kept.
    authenticator = world.running.server.app._authenticator
    assert len(authenticator._by_fingerprint) == 1
    # And a judgement does not outlive the authorities that it was made by.
    trust = world.running.server.trust
    await world.api.change_config_map(config_map(world.pki.ca("front-proxy-ca"), world.client_ca))
    await eventually(lambda: trust.generation == 2)
    assert (await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)).status == 401


async def test_a_judgement_ends_with_the_certificate(world: World) -> None:
    brief = world.pki.leaf(world.front_proxy_ca, "front-proxy-client", lifetime=(-1.0, 1.5 / 3600))
    assert (await world.running.get(NODES, credential=brief, headers=ALICE)).status == 200
    await asyncio.sleep(2.6)
    assert (await world.running.get(NODES, credential=brief, headers=ALICE)).status == 401


async def test_the_first_front_proxy_that_expires_is_exported_while_it_is_connected(world: World) -> None:
    def session(credential: Credential) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            world.running.url, connector=aiohttp.TCPConnector(ssl=client_context(credential)), headers=ALICE
        )

    soon = world.pki.leaf(world.front_proxy_ca, "front-proxy-client", lifetime=(-1.0, 0.5))
    user = world.pki.leaf(world.client_ca, "jane", lifetime=(-1.0, 0.1))
    server = world.running.server

    def expiry() -> float:
        return server.app._authenticator.front_proxy_expiry(server.listener.open_connections)

    assert expiry() == 0.0
    async with session(world.front_proxy) as later, session(user) as client:
        for connection in (later, client):
            await (await connection.get(NODES)).read()
        distant = expiry()
        async with session(soon) as first:
            await (await first.get(NODES)).read()
            assert time.time() < expiry() < time.time() + 1860 < distant
        await eventually(lambda: expiry() == distant)


async def test_a_shared_ca_without_names_makes_nobody_a_front_proxy(world: World) -> None:
    trust = world.running.server.trust
    before = trust.generation
    shared = config_map(world.client_ca, world.client_ca, **{"requestheader-allowed-names": "[]"})
    await world.api.change_config_map(shared)
    await eventually(lambda: trust.generation > before)
    mallory = world.pki.leaf(world.client_ca, "mallory")
    answer = await world.running.get(
        NODES, credential=mallory, headers=[("X-Remote-User", "root"), ("X-Remote-Group", "system:masters")]
    )
    assert answer.status == 200
    assert world.api.reviews[-1]["user"] == "mallory"


async def test_tokens_are_reviewed_once_and_then_remembered(world: World) -> None:
    world.api.tokens["good"] = {
        "username": "system:serviceaccount:a:b",
        "uid": "u",
        "groups": ["system:serviceaccounts"],
    }
    for _ in range(3):
        assert (await world.running.get(NODES, token="good")).status == 200
    assert world.api.token_reviews == 1
    assert world.api.reviews[-1]["groups"] == ["system:serviceaccounts", "system:authenticated"]
    assert len(world.api.reviews) == 1


async def test_a_bad_token_is_401(world: World) -> None:
    answer = await world.running.get(NODES, token="bad")
    assert (answer.status, answer.json()["message"]) == (401, "Unauthorized")


async def test_a_good_token_beside_an_unknown_certificate_counts(world: World) -> None:
    world.api.tokens["good"] = {"username": "tom"}
    unknown = world.pki.leaf(world.pki.ca("unknown"), "unknown")
    assert (await world.running.get(NODES, credential=unknown, token="good")).status == 200
    assert (await world.running.get(NODES, credential=unknown)).status == 401


async def test_an_api_server_that_is_away_makes_503_and_never_401(world: World) -> None:
    world.api.tokens["good"] = {"username": "tom"}
    assert (await world.running.get(NODES, token="good")).status == 200
    world.api.away = True
    # Known a moment ago: still good. Unknown: nobody can tell.
    assert (await world.running.get(NODES, token="good")).status == 200
    answer = await world.running.get(NODES, token="other")
    assert (answer.status, answer.json()["reason"]) == (503, "ServiceUnavailable")
    assert answer.headers["Retry-After"] == "1"


async def test_a_denied_request_names_user_verb_and_place(world: World) -> None:
    world.api.denied.add(("alice", "get", "pods"))
    answer = await world.running.get(
        "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/web-1", credential=world.front_proxy, headers=ALICE
    )
    assert answer.status == 403
    assert answer.json()["details"] == {"name": "web-1", "group": "metrics.k8s.io", "kind": "pods"}
    assert answer.json()["message"] == (
        'pods.metrics.k8s.io "web-1" is forbidden: User "alice" cannot get resource "pods" in API group '
        '"metrics.k8s.io" in the namespace "default"'
    )


async def test_a_denied_path_says_so(world: World) -> None:
    world.api.denied.add(("alice", "get", "/metrics"))
    answer = await world.running.get("/metrics", credential=world.front_proxy, headers=ALICE)
    assert (answer.status, answer.json()["message"]) == (403, 'forbidden: User "alice" cannot get path "/metrics"')


async def test_missing_rights_of_the_server_itself_are_500_and_named(world: World) -> None:
    world.api.forbidden_paths.add("/apis/authorization.k8s.io/v1/subjectaccessreviews")
    answer = await world.running.get(NODES, credential=world.front_proxy, headers=ALICE)
    assert answer.status == 500
    assert "subjectaccessreviews.authorization.k8s.io" in answer.json()["message"]


async def test_impersonation_is_refused_rather_than_ignored(world: World) -> None:
    headers = [*ALICE, ("Impersonate-User", "bob")]
    assert (await world.running.get(NODES, credential=world.front_proxy, headers=headers)).status == 403


async def test_health_needs_nobody(world: World) -> None:
    unknown = world.pki.leaf(world.pki.ca("unknown"), "unknown")
    for credential in (None, unknown):
        answer = await world.running.get("/readyz", credential=credential, token="bad")
        assert (answer.status, answer.body) == (200, b"ok")
    assert world.api.reviews == []


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    ca = pki.ca("ca")
    now = datetime.datetime.now(datetime.UTC)
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak")])
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(ca.key, hashes.SHA256())
    )
    with pytest.raises(CertificateError, match="too weak"):
        CertificateBundle(ca.pem.encode()).verify_client((leaf,))
