# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Distinguished names of certificates, those too that cryptography does not decode. Standard library only.

Go and OpenSSL read a T61String, which old tools write for umlauts, as ISO 8859-1; cryptography reads no name that has
such a character in it.
"""

from __future__ import annotations

import typing as t

#: What is shown in the place of a name that nothing here reads.
UNREADABLE = "unreadable"
COMMON_NAME = "2.5.4.3"

_SHORT = {
    COMMON_NAME: "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}
#: By the tag of ASN.1: UTF8String, UniversalString and BMPString.
_ENCODINGS = {0x0C: "utf-8", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}
_VERSION = 0xA0

Attributes = t.List[t.Tuple[str, str]]


def attributes(certificate: t.Any, field: str = "subject") -> t.Optional[Attributes]:
    """Type, as a dotted OID, and value of what the subject or the issuer consists of; None where it is unreadable."""
    try:
        return [(entry.oid.dotted_string, str(entry.value)) for entry in getattr(certificate, field)]
    except (ValueError, TypeError):
        pass
    try:
        return _decoded(certificate.tbs_certificate_bytes, field)
    except (ValueError, IndexError):
        return None


def text(certificate: t.Any, field: str = "subject") -> str:
    """The subject or the issuer as RFC 4514 writes names."""
    try:
        return str(getattr(certificate, field).rfc4514_string())
    except (ValueError, TypeError):
        found = attributes(certificate, field)
    if found is None:
        return UNREADABLE
    return ",".join("%s=%s" % (_SHORT.get(kind, kind), _escaped(value)) for kind, value in reversed(found))


def _decoded(tbs: bytes, field: str) -> Attributes:
    """From the part of a certificate that is signed. Raises ValueError and IndexError for what is no DER."""
    fields = [content for tag, content in _parts(_parts(tbs)[0][1]) if tag != _VERSION]
    name = fields[{"issuer": 2, "subject": 4}[field]]
    found = []
    for _tag, group in _parts(name):
        for _sequence, attribute in _parts(group):
            (_oid, kind), (tag, value) = _parts(attribute)
            found.append((_dotted(kind), value.decode(_ENCODINGS.get(tag, "latin-1"), "replace")))
    return found


def _parts(der: bytes) -> t.List[t.Tuple[int, bytes]]:
    """Tag and content of all values that stand in a row."""
    found = []
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(der[at : at + count], "big"), at + count
        if at + length > len(der):
            raise ValueError("is cut off")
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _dotted(encoded: bytes) -> str:
    numbers = []
    number = 0
    for byte in encoded:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def _escaped(value: str) -> str:
    shown = "".join("\\" + char if char in ',+"\\<>;' else char for char in value)
    if shown[:1] in ("#", " "):
        shown = "\\" + shown
    return shown[:-1] + "\\ " if len(value) > 1 and value.endswith(" ") else shown
