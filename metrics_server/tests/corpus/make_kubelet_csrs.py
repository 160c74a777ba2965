# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes kubelet_csrs.json: signing requests, and what every approver of this project has to say about each.

python metrics_server/tests/corpus/make_kubelet_csrs.py
"""

from __future__ import annotations

import base64
import ipaddress
import json
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_KEY = ec.generate_private_key(ec.SECP256R1())


def node(name: str, *addresses: str, control_plane: bool = False) -> dict[str, Any]:
    """Return a Node that states addresses."""
    return {
        "metadata": {
            "name": name,
            "labels": {"node-role.kubernetes.io/control-plane": ""} if control_plane else {},
        },
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


NODES = [
    node("cp1", "192.0.2.11", "192.0.2.100", control_plane=True),
    node("w1", "192.0.2.21", "W1.example.com.", "2001:db8:0::21"),
    node("w2", "192.0.2.22", "192.0.2.101"),
    node("w3", "10.0.2.15"),
    node("w4", "10.0.2.15"),
    # A kubelet chooses the name of its node: these are called as others are.
    node("api.example.com", "192.0.2.31"),
    node("192.0.2.102", "192.0.2.32"),
    node("kubernetes", "192.0.2.33"),
    node("kubernetes.default.svc", "192.0.2.34"),
    node("dns.kube-system.svc.cluster.local", "192.0.2.35"),
    node("192.0.2.41", "192.0.2.36"),
    node("w6", "192.0.2.41"),
    node("cp2.example.com", "192.0.2.12", control_plane=True),
    node("w5", "kubernetes.default.svc", "127.0.0.1", "10.233.0.1", "*.example.com", "cp1"),
]


def general_name(value: Any) -> x509.GeneralName:
    """Return an IP or DNS name; anything else as it is."""
    if not isinstance(value, str):
        return value  # type: ignore[no-any-return]
    try:
        return x509.IPAddress(ipaddress.ip_address(value))
    except ValueError:
        return x509.DNSName(value)


def pem(names: tuple[Any, ...], subject: list[tuple[x509.ObjectIdentifier, str]]) -> bytes:
    """Return a signed request."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(kind, value) for kind, value in subject])
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([general_name(value) for value in names]), critical=False
        )
    return builder.sign(_KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def csr(name: str = "a", *names: Any, sender: str = "w1", version: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a request as the kubelet of `sender` sends it, except for the changes."""
    user = f"system:node:{sender}"
    subject = changes.pop("subject", [(NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, user)])
    status = changes.pop("status", {})
    raw = changes.pop("raw", None) or pem(names, subject)
    spec = {
        "signerName": "kubernetes.io/kubelet-serving",
        "username": user,
        "groups": ["system:nodes", "system:authenticated"],
        "usages": ["digital signature", "server auth"],
        "request": base64.b64encode(raw).decode(),
        **changes,
    }
    metadata = {"name": name, "resourceVersion": str(version), "creationTimestamp": "2026-03-01T10:00:00Z"}
    return {"metadata": metadata, "spec": spec, "status": status}


def broken_signature() -> bytes:
    """Return a request whose signature is another's."""
    request = x509.load_pem_x509_csr(
        pem(("w1",), [(NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, "system:node:w1")])
    )
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der))
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"


def sequence(content: bytes) -> bytes:
    """Return a DER sequence of 256 bytes and more."""
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


def foreign_subject(tag: int, value: bytes) -> bytes:
    """Return a request with a common name more, of a type that OpenSSL and Go read, whatever is in it."""
    marker = b"x" * len(value)
    made = pem(
        ("w1", "192.0.2.21", "W1.example.com"),
        [
            (NameOID.ORGANIZATION_NAME, "system:nodes"),
            (NameOID.COMMON_NAME, "system:node:w1"),
            (NameOID.COMMON_NAME, marker.decode()),
        ],
    )
    content = x509.load_pem_x509_csr(made).tbs_certrequest_bytes
    size = bytes([len(value)])
    changed = content.replace(b"\x0c" + size + marker, bytes([tag]) + size + value)
    assert changed != content
    signature = b"\0" + _KEY.sign(changed, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    der = sequence(changed + algorithm + b"\x03" + bytes([len(signature)]) + signature)
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE REQUEST-----\n"


def cases() -> list[tuple[str, list[dict[str, Any]], dict[str, str]]]:
    """Return title, requests, and the code for each pending one."""
    organization, common = NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME
    user = "system:node:w1"
    one = pem(("w1",), [(organization, "system:nodes"), (common, user)])
    done = {"certificate": "eA==", "conditions": [{"type": "Approved"}]}
    sound = ("w1", "192.0.2.21")
    single: list[tuple[str, dict[str, Any], str]] = [
        ("as a kubelet sends it", csr("a", *sound), "Approved"),
        ("IPv6 and a name that is written otherwise", csr("a", "2001:DB8::21", "w1.EXAMPLE.com"), "Approved"),
        ("an IPv4 address in IPv6 clothes", csr("a", "::ffff:192.0.2.21"), "Approved"),
        ("a key of RSA", csr("a", *sound, usages=["digital signature", "key encipherment", "server auth"]), "Approved"),
        ("a control plane with the address of the API server", csr("a", "192.0.2.100", sender="cp1"), "Approved"),
        ("another signer", csr("a", *sound, signerName="kubernetes.io/kube-apiserver-client-kubelet"), "-"),
        ("sent by a person", csr("a", *sound, username="admin"), "Requester"),
        ("sent by a node without a name", csr("a", *sound, username="system:node:"), "Requester"),
        ("sent by a service account", csr("a", *sound, username="system:serviceaccount:kube-system:x"), "Requester"),
        ("not in the group of nodes", csr("a", *sound, groups=["system:authenticated"]), "Group"),
        ("in no group", csr("a", *sound, groups=None), "Group"),
        (
            "client auth beside server auth",
            csr("a", *sound, usages=["digital signature", "server auth", "client auth"]),
            "Usages",
        ),
        ("no server auth", csr("a", *sound, usages=["digital signature", "key encipherment"]), "Usages"),
        ("no digital signature", csr("a", *sound, usages=["key encipherment", "server auth"]), "Usages"),
        ("no usages", csr("a", *sound, usages=None), "Usages"),
        (
            "the subject of another node",
            csr("a", *sound, subject=[(organization, "system:nodes"), (common, "system:node:w2")]),
            "Subject",
        ),
        (
            "a second organization",
            csr(
                "a", *sound, subject=[(organization, "system:nodes"), (organization, "system:masters"), (common, user)]
            ),
            "Subject",
        ),
        (
            "the same organization twice",
            csr("a", *sound, subject=[(organization, "system:nodes"), (organization, "system:nodes"), (common, user)]),
            "Subject",
        ),
        ("no organization", csr("a", *sound, subject=[(common, user)]), "Subject"),
        (
            "a country beside the rest",
            csr("a", *sound, subject=[(NameOID.COUNTRY_NAME, "DE"), (common, user), (organization, "system:nodes")]),
            "Subject",
        ),
        ("no address", csr("a"), "NoAddress"),
        ("a URI", csr("a", *sound, x509.UniformResourceIdentifier("spiffe://cluster/w1")), "NameType"),
        ("an e-mail address", csr("a", *sound, x509.RFC822Name("a@example.com")), "NameType"),
        ("no request", csr("a", request=None), "Malformed"),
        ("not base64", csr("a", request="%%%"), "Malformed"),
        ("not PEM", csr("a", raw=b"hello"), "Malformed"),
        (
            "not a request",
            csr("a", raw=b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
            "Malformed",
        ),
        ("two requests in one", csr("a", raw=one + one), "Malformed"),
        ("signed by another key", csr("a", raw=broken_signature()), "Malformed"),
        ("an integer as a name", csr("a", raw=foreign_subject(2, b"\x05")), "Malformed"),
        ("a bit string as a name", csr("a", raw=foreign_subject(3, b"\0abc")), "Malformed"),
        ("a name in Latin-1", csr("a", raw=foreign_subject(20, b"\xe4")), "Malformed"),
        ("half a character as a name", csr("a", raw=foreign_subject(30, b"\xe4")), "Malformed"),
        ("a node that is not there", csr("a", "w9", sender="w9"), "NodeUnknown"),
        ("an address of nobody", csr("a", "w1", "192.0.2.99"), "AddressUnknown"),
        ("the address of another node", csr("a", "w1", "192.0.2.22"), "AddressOfOtherNode"),
        ("the name of another node", csr("a", "w1", "cp1"), "AddressOfOtherNode"),
        ("the name of another node, which this one states", csr("a", "cp1", sender="w5"), "AddressOfOtherNode"),
        ("an address that two nodes state", csr("a", "10.0.2.15", sender="w3"), "AddressOfOtherNode"),
        (
            "an address of the API server that a worker states",
            csr("a", "192.0.2.101", sender="w2"),
            "AddressOfAPIServer",
        ),
        ("a loopback address", csr("a", "127.0.0.1", sender="w5"), "AddressReserved"),
        ("the loopback address of IPv6", csr("a", "::1", sender="w5"), "AddressReserved"),
        ("the address of the kubernetes Service", csr("a", "10.233.0.1", sender="w5"), "AddressReserved"),
        ("the name of a Service", csr("a", "kubernetes.default.svc", sender="w5"), "AddressReserved"),
        ("the long name of a Service", csr("a", "x.kube-system.svc.cluster.local", sender="w5"), "AddressReserved"),
        ("the short name of the kubernetes Service", csr("a", "kubernetes", sender="w5"), "AddressReserved"),
        ("a wildcard", csr("a", "*.example.com", sender="w5"), "AddressReserved"),
        (
            "a worker that is called like the API server",
            csr("a", "api.example.com", "192.0.2.31", sender="api.example.com"),
            "AddressOfAPIServer",
        ),
        (
            "a worker that is called like an address of the API server",
            csr("a", "192.0.2.102", "192.0.2.32", sender="192.0.2.102"),
            "AddressOfAPIServer",
        ),
        (
            "a control plane that is called like the API server",
            csr("a", "cp2.example.com", "192.0.2.12", sender="cp2.example.com"),
            "Approved",
        ),
        (
            "a node that is called like the kubernetes Service",
            csr("a", "kubernetes", "192.0.2.33", sender="kubernetes"),
            "AddressReserved",
        ),
        (
            "a node that is called like a Service",
            csr("a", "kubernetes.default.svc", sender="kubernetes.default.svc"),
            "AddressReserved",
        ),
        (
            "a node that is called like the long name of a Service",
            csr(
                "a",
                "dns.kube-system.svc.cluster.local",
                sender="dns.kube-system.svc.cluster.local",
            ),
            "AddressReserved",
        ),
        (
            "a node that is called like the address of another",
            csr("a", "192.0.2.41", sender="192.0.2.41"),
            "AddressOfOtherNode",
        ),
        (
            "only its own address, in spite of its name",
            csr("a", "192.0.2.34", sender="kubernetes.default.svc"),
            "Approved",
        ),
    ]
    several: list[tuple[str, list[dict[str, Any]], dict[str, str]]] = [
        (
            "the newest of three",
            [csr("old", *sound, version=9), csr("new", *sound, version=10), csr("oldest", *sound, version=2)],
            {"new": "Approved", "old": "Superseded", "oldest": "Superseded"},
        ),
        (
            "older than one that was issued",
            [csr("old", *sound), csr("done", *sound, version=2, status=done)],
            {"old": "Superseded"},
        ),
        ("a renewal", [csr("done", *sound, status=done), csr("new", *sound, version=2)], {"new": "Approved"}),
        (
            "beside one that was denied",
            [csr("a", *sound), csr("denied", *sound, version=2, status={"conditions": [{"type": "Denied"}]})],
            {"a": "Approved"},
        ),
        (
            "a forged one that is newer",
            [csr("a", *sound), csr("forged", "192.0.2.99", version=2)],
            {"a": "Superseded", "forged": "AddressUnknown"},
        ),
        (
            "one of somebody else that is newer",
            [csr("a", *sound), csr("b", *sound, version=2, username="mallory")],
            {"a": "Approved", "b": "Requester"},
        ),
        ("two nodes", [csr("a", *sound), csr("b", "192.0.2.22", sender="w2")], {"a": "Approved", "b": "Approved"}),
    ]
    return [(title, [request], {} if code == "-" else {"a": code}) for title, request, code in single] + several


def main() -> None:
    """Write the file."""
    corpus = {
        "nodes": NODES,
        "service_addresses": ["10.233.0.1"],
        "control_plane_addresses": ["192.0.2.100", "192.0.2.101", "192.0.2.102", "api.example.com", "cp2.example.com"],
        "cases": [{"title": title, "csrs": csrs, "expected": expected} for title, csrs, expected in cases()],
    }
    Path(__file__).with_name("kubelet_csrs.json").write_text(json.dumps(corpus, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
