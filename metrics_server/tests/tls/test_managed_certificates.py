# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets with a CA that this server has not made."""

from __future__ import annotations

import asyncio
import base64
import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from support.virtual_time import run_virtual

from metrics_server.serving_certificate import ManagedCertificates, ManagedNames, TlsSettings
from metrics_server.tls import pki

NAMES = ManagedNames("serving", "metrics-server", "kube-system", [])
DAY = datetime.timedelta(days=1)


def certificate(name: str, key: Any, issuer: str, issuer_key: Any, days: int, *names: str) -> x509.Certificate:
    """Return a certificate that has been in use since 300 days."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 300 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False
        )
    return builder.sign(issuer_key, None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def encoded(value: Any) -> str:
    if isinstance(value, x509.Certificate):
        raw = value.public_bytes(serialization.Encoding.PEM)
    else:
        raw = value.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return base64.b64encode(raw).decode()


class Client:
    """An API server that has the Secret."""

    def __init__(self, data: dict[str, str]) -> None:
        self.secret: dict[str, Any] = {"metadata": {"name": "serving"}, "data": data}

    async def request(self, method: str, path: str, *, body: Any = None, **_unused: Any) -> Any:
        assert path.endswith("/secrets/serving")
        if method == "PUT":
            self.secret = body
        return self.secret


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), True, id="rsa"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), True, id="p-384"),
        pytest.param(ed25519.Ed25519PrivateKey.generate, False, id="ed25519"),
    ],
)
def test_a_ca_of_another_kind_does_not_end_the_server_when_the_certificate_is_due(make: Any, kept: bool) -> None:
    ca_key, leaf_key = make(), ec.generate_private_key(ec.SECP256R1())
    ca = certificate("ca", ca_key, "ca", ca_key, 3000)
    leaf = certificate("leaf", leaf_key, "ca", ca_key, 10, *NAMES.dns_names())
    client = Client(
        {"ca.crt": encoded(ca), "ca.key": encoded(ca_key), "tls.crt": encoded(leaf), "tls.key": encoded(leaf_key)}
    )
    managed = ManagedCertificates(client, NAMES, TlsSettings(), lambda: True)

    async def run() -> None:
        task = asyncio.create_task(managed.run(lambda _unused: None))
        await asyncio.sleep(60)
        assert not task.done()
        task.cancel()

    run_virtual(run())
    assert managed.problem() is None
    data = client.secret["data"]
    renewed = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
    assert renewed.not_valid_after_utc > datetime.datetime.now(datetime.UTC) + 300 * DAY
    bundle = x509.load_pem_x509_certificates(base64.b64decode(data["ca.crt"]))
    assert (bundle[0] == ca) is kept
    assert pki.issued_by(renewed, bundle[0])
