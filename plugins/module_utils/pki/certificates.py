# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What certificates say, decoded with cryptography. For the controller; hosts only hand over DER or PEM."""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import re
import traceback
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import names

CRYPTOGRAPHY_IMPORT_ERROR: t.Optional[str] = None
try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID
except ImportError:
    CRYPTOGRAPHY_IMPORT_ERROR = traceback.format_exc()
    UNPARSED: t.Tuple[t.Type[Exception], ...] = (ValueError, TypeError)
else:
    #: What is raised for a certificate, or a part of one, that does not parse. The last two are no ValueError.
    UNPARSED = (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension)

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


#: A host's clock may be ahead of the controller's; what it has just signed is valid all the same.
CLOCK_SKEW = datetime.timedelta(minutes=5)


def rfc3339(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def not_after(certificate: "x509.Certificate") -> datetime.datetime:
    """The end of validity with its zone; older releases of cryptography give it without."""
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_after_utc
    return certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def not_before(certificate: "x509.Certificate") -> datetime.datetime:
    if hasattr(certificate, "not_valid_before_utc"):
        return certificate.not_valid_before_utc
    return certificate.not_valid_before.replace(tzinfo=datetime.timezone.utc)


def load_bundle(pem: bytes) -> t.List["x509.Certificate"]:
    """The certificates of a PEM bundle. Raises ValueError with a phrase when there are none, or one does not parse."""
    blocks = _PEM.findall(pem)
    if not blocks:
        raise ValueError("holds no PEM certificate")
    certificates = []
    for number, block in enumerate(blocks, 1):
        try:
            certificates.append(x509.load_pem_x509_certificate(block))
        except UNPARSED as exc:
            raise ValueError("holds a certificate (number %d) that does not parse" % number) from exc
    return certificates


def load_der(der: bytes) -> "x509.Certificate":
    try:
        return x509.load_der_x509_certificate(der)
    except UNPARSED as exc:
        raise ValueError("does not parse") from exc


def describe(certificate: "x509.Certificate", now: t.Optional[datetime.datetime] = None) -> t.Dict[str, t.Any]:
    """A certificate in words."""
    now = now or datetime.datetime.now(datetime.timezone.utc)
    dns: t.List[str] = []
    ips: t.List[str] = []
    usages: t.List[str] = []
    authority = False
    try:
        for extension in certificate.extensions:
            value = extension.value
            if isinstance(value, x509.SubjectAlternativeName):
                dns = value.get_values_for_type(x509.DNSName)
                ips = [str(ip) for ip in value.get_values_for_type(x509.IPAddress)]
            elif isinstance(value, x509.ExtendedKeyUsage):
                known = {ExtendedKeyUsageOID.SERVER_AUTH: "server auth", ExtendedKeyUsageOID.CLIENT_AUTH: "client auth"}
                usages = [known.get(oid, oid.dotted_string) for oid in value]
            elif isinstance(value, x509.BasicConstraints):
                authority = bool(value.ca)
    except (*UNPARSED, x509.UnsupportedGeneralNameType):
        # Some tool made extensions that do not parse; the rest of the certificate still tells something.
        usages = usages or ["unreadable"]
    end = not_after(certificate)
    subject = names.attributes(certificate)
    return {
        "subject": names.text(certificate),
        "issuer": names.text(certificate, "issuer"),
        "serial_number": "%x" % certificate.serial_number,
        "not_before": rfc3339(not_before(certificate)),
        "not_after": rfc3339(end),
        "expires_in_days": (end - now).days,
        "expired": end <= now,
        "not_yet_valid": not_before(certificate) > now,
        "dns_names": dns,
        "ip_addresses": ips,
        "extended_key_usages": usages,
        "is_ca": authority,
        "self_signed": subject is not None and subject == names.attributes(certificate, "issuer"),
        "fingerprint_sha256": hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest(),
    }


def issued_by(certificate: "x509.Certificate", authorities: t.Iterable["x509.Certificate"]) -> bool:
    """Whether one of the authorities has signed the certificate, or is it."""
    for authority in authorities:
        if certificate == authority:
            return True
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return True
    return False


#: What extended key usages have to name, if there are any, so that Go verifies a certificate as a client's.
_CLIENT_USAGES = frozenset({"client auth", "2.5.29.37.0"})


def why_no_client(
    chain: t.Sequence["x509.Certificate"],
    authorities: t.Sequence["x509.Certificate"],
    now: t.Optional[datetime.datetime] = None,
) -> str:
    """Why Kubernetes would not take a certificate for a client's, as the end of a sentence; empty if it would.

    ``chain`` is what the client shows: its own certificate, then intermediate ones in any order. Each certificate of
    the path has to be valid now, and may restrict the usages of all below it.
    """
    now = now or datetime.datetime.now(datetime.timezone.utc)
    reason = _why_unfit(chain[0], now)
    return reason or _why_no_path(chain[0], list(chain[1:]), authorities, now)


def _why_unfit(certificate: "x509.Certificate", now: datetime.datetime, whose: str = "it") -> str:
    words = describe(certificate, now)
    if words["expired"]:
        return "%s expired at %s" % (whose, words["not_after"])
    if not_before(certificate) > now + CLOCK_SKEW:
        return "%s is not valid before %s" % (whose, words["not_before"])
    if words["extended_key_usages"] and not _CLIENT_USAGES.intersection(words["extended_key_usages"]):
        return "%s is not made for clients (its extended key usage lacks clientAuth)" % whose
    return ""


def _why_no_path(
    certificate: "x509.Certificate",
    intermediates: t.Sequence["x509.Certificate"],
    authorities: t.Sequence["x509.Certificate"],
    now: datetime.datetime,
) -> str:
    """Why no chain of fit certificates leads to one of the authorities; empty if one does."""
    if certificate in authorities:
        return ""
    reason = "it is signed by %s, which is not among the CAs" % names.text(certificate, "issuer")
    for authority in authorities:
        if issued_by(certificate, [authority]):
            trouble = _why_unfit(authority, now, "its CA")
            if not trouble:
                return ""
            reason = trouble
    for position, one in enumerate(intermediates):
        if not issued_by(certificate, [one]) or one == certificate:
            continue
        trouble = _why_unfit(one, now, "its intermediate CA")
        if not trouble and not describe(one, now)["is_ca"]:
            trouble = "its issuer %s is no CA" % names.text(one)
        rest = [*intermediates[:position], *intermediates[position + 1 :]]
        reason = trouble or _why_no_path(one, rest, authorities, now)
        if not reason:
            return ""
    return reason


def common_name(certificate: "x509.Certificate") -> str:
    """The common name as Go has it: of several, the last one."""
    found = [value for kind, value in names.attributes(certificate) or () if kind == names.COMMON_NAME]
    return found[-1] if found else ""


def describe_bundle(encoded: t.Optional[str]) -> t.Dict[str, t.Any]:
    """A caBundle field: base64 of PEM. What does not parse is said, because the API server takes it without a word."""
    result: t.Dict[str, t.Any] = {
        "present": bool(encoded),
        "valid_pem": False,
        "message": "",
        "subjects": [],
        "not_after": None,
        "fingerprints_sha256": [],
    }
    if not encoded:
        return result
    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        result["message"] = "is not base64"
        return result
    try:
        certificates = load_bundle(pem)
    except ValueError as exc:
        result["message"] = str(exc)
        return result
    result.update(
        valid_pem=True,
        subjects=[names.text(certificate) for certificate in certificates],
        # The bundle serves as long as its longest-lived certificate, and no caller can know which one is in use.
        not_after=rfc3339(max(not_after(certificate) for certificate in certificates)),
        fingerprints_sha256=[describe(certificate)["fingerprint_sha256"] for certificate in certificates],
    )
    return result
