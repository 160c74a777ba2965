# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification of client certificates against a bundle of CAs.

The TLS handshake has verified that the peer owns the key of its certificate, nothing more. Here the chain is built and
verified by OpenSSL (signatures, validity periods, basic constraints, path length), and on top of it what OpenSSL
leaves to the application: the certificate must be meant for client authentication, and no certificate below the
trusted one may be signed with a broken hash or use a key that is too short.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

_MIN_RSA_BITS = 2048
_SOUND_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512, hashes.SHA3_256, hashes.SHA3_384, hashes.SHA3_512)
#: What a client may send along with its certificate; real chains have one or two.
_MAX_INTERMEDIATES = 8


#: What cryptography raises when it meets a part of a certificate that OpenSSL let pass: it decodes late, part by part.
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)


class CertificateError(Exception):
    """No authority of the bundle vouches for the certificate; the text is for the log, not for the client."""


class CertificateBundle:
    """The CAs of one PEM file or ConfigMap entry."""

    def __init__(self, pem: bytes) -> None:
        """Load the bundle; raise `ValueError` when it holds no certificate or something that is none."""
        certificates = x509.load_pem_x509_certificates(pem)
        self.pem = pem
        self.certificates = tuple(dict.fromkeys(certificates))
        # A store of its own for each CA: two CAs of the same name (a rotation) would hide each other in one store
        # when their certificates carry no key identifiers.
        self._stores: list[crypto.X509Store] = []
        for certificate in self.certificates:
            store = crypto.X509Store()
            store.add_cert(crypto.X509.from_cryptography(certificate))
            # As in Go, every certificate of the bundle is an anchor, be it a root or an intermediate.
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
            self._stores.append(store)

    def verify_client(
        self, presented: Sequence[x509.Certificate], *, excluded: Collection[x509.Certificate] = ()
    ) -> datetime.datetime:
        """Verify a client's certificate (first) with the intermediates it sent; return when the verified chain expires.

        `excluded` authorities of the bundle are not asked. Raise `CertificateError` with the reason if nobody vouches.
        """
        leaf, intermediates = presented[0], presented[1:]
        if len(intermediates) > _MAX_INTERMEDIATES:
            raise CertificateError("the client sent more intermediate certificates than any sound chain has")
        reasons: list[str] = []
        for certificate, store in zip(self.certificates, self._stores, strict=True):
            if certificate in excluded:
                reasons.append("its authority also signs ordinary clients, and no names are set for the front proxy")
                continue
            context = crypto.X509StoreContext(
                store,
                crypto.X509.from_cryptography(leaf),
                [crypto.X509.from_cryptography(intermediate) for intermediate in intermediates],
            )
            try:
                chain = [link.to_cryptography() for link in context.get_verified_chain()]
                _check_chain(chain)
            except crypto.X509StoreContextError as error:
                reasons.append(str(error))
            except CertificateError as error:
                reasons.append(str(error))
            else:
                return min(link.not_valid_after_utc for link in chain)
        raise CertificateError(f"x509: {_describe(leaf)}: {_most_telling(reasons)}")


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of the subject, or an empty text."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    # The last one counts, as in Go.
    return str(names[-1].value) if names else ""


def organizations(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the organizations of the subject."""
    return tuple(str(name.value) for name in certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME))


def _check_chain(chain: Sequence[x509.Certificate]) -> None:
    """Check what OpenSSL does not on its own. The last certificate is the trusted one."""
    for depth, certificate in enumerate(chain):
        if depth < len(chain) - 1 or len(chain) == 1:
            _check_strength(certificate)
            _check_purpose(certificate)
        if 0 < depth < len(chain) - 1:
            _check_intermediate(certificate)


def _check_strength(certificate: x509.Certificate) -> None:
    algorithm = certificate.signature_hash_algorithm
    # No hash algorithm is named by signatures that carry their own (Ed25519, Ed448).
    if algorithm is not None and not isinstance(algorithm, _SOUND_HASHES):
        raise CertificateError(f"signed with the broken hash {algorithm.name}")
    key = certificate.public_key()
    if isinstance(key, dsa.DSAPublicKey) or (isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS):
        raise CertificateError("the key is too weak")


def _check_purpose(certificate: x509.Certificate) -> None:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
        raise CertificateError("certificate specifies an incompatible key usage")


def _check_intermediate(certificate: x509.Certificate) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise CertificateError("an intermediate certificate is not a CA") from None
    if not constraints.ca:
        raise CertificateError("an intermediate certificate is not a CA")


def _describe(certificate: x509.Certificate) -> str:
    return f"certificate SN={certificate.serial_number}, subject {certificate.subject.rfc4514_string()!r}"


def _most_telling(reasons: Sequence[str]) -> str:
    """With several CAs all but one say that they did not sign: the other answer is the one of interest."""
    telling = [reason for reason in reasons if "unable to get" not in reason and "signature failure" not in reason]
    return telling[0] if telling else "certificate signed by unknown authority"
