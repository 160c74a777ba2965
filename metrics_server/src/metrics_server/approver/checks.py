# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may have which kubelet serving certificate. Pure: objects in, findings out.

The collection's module kubelet_csr has the same rules and the same codes; tests/corpus holds the requests that both are
tested with.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

SIGNER = "kubernetes.io/kubelet-serving"
_USER_PREFIX = "system:node:"
_GROUP = "system:nodes"
_USAGES = frozenset({"digital signature", "key encipherment", "server auth"})
_NEEDED_USAGES = ("server auth", "digital signature")
#: Names that lead to the API server and to services inside of a cluster, whoever writes them into a Node.
_RESERVED_NAMES = frozenset({"kubernetes", "kubernetes.default", "localhost"})
_CONTROL_PLANE_LABELS = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class FaultError(Exception):
    """A request must not be approved: a code for programs, and a phrase that follows `because`."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None


class _Address(msgspec.Struct):
    address: str = ""


class _NodeStatus(msgspec.Struct):
    addresses: list[_Address] | None = None


class NodeObject(msgspec.Struct):
    """The part of a Node that matters here."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class Spec(msgspec.Struct, rename="camel"):
    """What a request asks for, and who sent it as the API server saw it."""

    signer_name: str = ""
    username: str = ""
    groups: list[str] | None = None
    usages: list[str] | None = None
    request: str | None = None


class _Condition(msgspec.Struct):
    type: str = ""


class _CsrStatus(msgspec.Struct):
    certificate: str | None = None
    conditions: list[_Condition] | None = None


class CsrObject(msgspec.Struct):
    """A CertificateSigningRequest."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: Spec = msgspec.field(default_factory=Spec)
    status: _CsrStatus | None = None

    @property
    def state(self) -> str:
        """Return pending, approved (no certificate yet), issued, denied or failed."""
        status = self.status or _CsrStatus()
        conditions = {condition.type for condition in status.conditions or ()}
        for closed in ("Denied", "Failed"):
            if closed in conditions:
                return closed.lower()
        if status.certificate:
            return "issued"
        return "approved" if "Approved" in conditions else "pending"

    @property
    def node(self) -> str:
        """Return the node that sent the request, empty when the sender is none."""
        username = self.spec.username
        return username.removeprefix(_USER_PREFIX) if username.startswith(_USER_PREFIX) else ""


def normalize(address: str) -> str:
    """Return one spelling for an address: canonical IP, or DNS name in lower case without its final dot."""
    text = address.strip()
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return text.lower().rstrip(".")
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows, beyond what the cluster itself says."""

    #: IPs have to be in one of these networks; empty: anywhere.
    allowed_cidrs: tuple[Network, ...] = ()
    #: Names other than the node's own without a domain have to be in one of these domains; empty: anywhere.
    allowed_domains: tuple[str, ...] = ()
    #: Addresses of the kubernetes Service.
    service_addresses: frozenset[str] = frozenset()
    #: Networks of Services, which no node has an address in.
    service_cidrs: tuple[Network, ...] = ()
    #: Addresses and names of API servers, which only control planes may have.
    control_plane_addresses: frozenset[str] = frozenset()

    def with_api_server(self, names: Iterable[str]) -> Policy:
        """Return the policy with addresses and names by which clients know an API server."""
        hosts = {normalize(name) for name in names if name} - self.service_addresses
        return replace(self, control_plane_addresses=self.control_plane_addresses | hosts)


class Addresses:
    """Which node states which address. One that several nodes state counts for none of them."""

    def __init__(self) -> None:
        self._of: dict[str, frozenset[str]] = {}
        self._stated_by: dict[str, set[str]] = {}
        self._control_planes: set[str] = set()

    def replace(self, nodes: Iterable[NodeObject]) -> None:
        """Take all nodes of the cluster."""
        self._of.clear()
        self._stated_by.clear()
        self._control_planes.clear()
        for node in nodes:
            self.put(node)

    def put(self, node: NodeObject) -> bool:
        """Take a node that is new or changed; say whether anything about it is different now."""
        name = node.metadata.name
        stated = frozenset(
            {normalize(entry.address) for entry in node.status.addresses or () if entry.address.strip()}
            | {normalize(name)}
        )
        labels = node.metadata.labels or {}
        control_plane = any(label in labels for label in _CONTROL_PLANE_LABELS)
        if self._of.get(name) == stated and (name in self._control_planes) == control_plane:
            return False
        self.delete(name)
        self._of[name] = stated
        for address in stated:
            self._stated_by.setdefault(address, set()).add(name)
        if control_plane:
            self._control_planes.add(name)
        return True

    def delete(self, name: str) -> None:
        """Forget a node."""
        for address in self._of.pop(name, ()):
            owners = self._stated_by[address]
            owners.discard(name)
            if not owners:
                del self._stated_by[address]
        self._control_planes.discard(name)

    def check(self, node: str, address: str, policy: Policy) -> None:
        """Raise FaultError unless the node may have the address in its certificate."""
        _check_reserved(address, policy)
        others = sorted(self._stated_by.get(address, set()) - {node})
        if others:
            raise FaultError("AddressOfOtherNode", f"{address} also belongs to node {others[0]}")
        if address not in self._of[node]:
            raise FaultError("AddressUnknown", f"{address} is no address of node {node}")
        # A kubelet chooses the name of its node itself, so that this name is checked as any other.
        if address in policy.control_plane_addresses and node not in self._control_planes:
            raise FaultError(
                "AddressOfAPIServer",
                f"{address} is the address of the API server, and node {node} does not have a control plane's label "
                f"({_CONTROL_PLANE_LABELS[0]})",
            )
        _check_allowed(node, address, policy)

    def __contains__(self, name: str) -> bool:
        return name in self._of


def _check_reserved(address: str, policy: Policy) -> None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        if address in _RESERVED_NAMES or address.endswith(".svc") or ".svc." in address:
            raise FaultError("AddressReserved", f"{address} is a name of services inside of the cluster") from None
        if "*" in address:
            raise FaultError("AddressReserved", f"{address} is a wildcard") from None
        return
    if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast:
        raise FaultError("AddressReserved", f"{address} is no address of a machine")
    if address in policy.service_addresses:
        raise FaultError("AddressReserved", f"{address} is the address of the kubernetes Service")
    if any(parsed in network for network in policy.service_cidrs):
        raise FaultError("AddressReserved", f"{address} is an address of Services")


def _check_allowed(node: str, address: str, policy: Policy) -> None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        # A node's own name without a domain is in none; with one it could be that of any machine.
        if not policy.allowed_domains or (address == normalize(node) and "." not in address):
            return
        if not any(address == domain or address.endswith("." + domain) for domain in policy.allowed_domains):
            raise FaultError("DomainNotAllowed", f"{address} is in none of the allowed domains") from None
        return
    if policy.allowed_cidrs and not any(parsed in network for network in policy.allowed_cidrs):
        raise FaultError("CIDRNotAllowed", f"{address} is in none of the allowed CIDRs")


@dataclass(slots=True)
class Request:
    """A request with what its signed part asks for, which is decoded once."""

    csr: CsrObject
    _content: list[str] | FaultError | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Return the object's name."""
        return self.csr.metadata.name

    @property
    def addresses(self) -> list[str]:
        """Return what the certificate is to be for. Raises FaultError when the request itself is not sound."""
        if self._content is None:
            try:
                self._content = _read(self.csr.spec)
            except FaultError as error:
                self._content = error
        if isinstance(self._content, FaultError):
            # A new one each time: a raised exception holds on to its callers.
            raise FaultError(self._content.code, str(self._content))
        return self._content

    @property
    def order(self) -> tuple[str, int, str]:
        """Return what sorts by age: creation times have whole seconds, within one the version tells."""
        meta = self.csr.metadata
        version = int(meta.resource_version) if meta.resource_version.isdigit() else 0
        return meta.creation_timestamp or "", version, meta.name


def _read(spec: Spec) -> list[str]:
    """Check all of a request that does not depend on nodes, and return its addresses."""
    if spec.signer_name != SIGNER:
        raise FaultError("Signer", f"its signer is {spec.signer_name} and not {SIGNER}")
    if not spec.username.startswith(_USER_PREFIX) or spec.username == _USER_PREFIX:
        raise FaultError("Requester", f"it was sent by {spec.username or 'nobody'}, which is no node")
    if _GROUP not in (spec.groups or ()):
        raise FaultError("Group", f"its sender {spec.username} is not in group {_GROUP}")
    usages = set(spec.usages or ())
    extra = sorted(usages - _USAGES)
    if extra:
        raise FaultError("Usages", f"it asks for usage {extra[0]}")
    for usage in _NEEDED_USAGES:
        if usage not in usages:
            raise FaultError("Usages", f"it does not ask for usage {usage}")
    request = _parse(spec.request)
    addresses = _names(request)
    wanted = {(NameOID.COMMON_NAME, spec.username), (NameOID.ORGANIZATION_NAME, _GROUP)}
    try:
        found = [(attribute.oid, attribute.value) for attribute in request.subject]
    except (ValueError, TypeError):
        # A name is decoded only here, and Go, which checks a request for the API server, reads more kinds of values.
        raise FaultError("Malformed", "its request has a subject that does not parse") from None
    if len(found) != len(wanted) or set(found) != wanted:
        raise FaultError(
            "Subject", f"its subject is {request.subject.rfc4514_string()!r} and not O={_GROUP},CN={spec.username}"
        )
    return addresses


def _parse(encoded: str | None) -> x509.CertificateSigningRequest:
    if encoded is None:
        raise FaultError("Malformed", "its request is missing")
    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise FaultError("Malformed", "its request is not base64") from None
    if pem.count(b"-----BEGIN ") != 1:
        raise FaultError("Malformed", "its request is not exactly one PEM block")
    try:
        request = x509.load_pem_x509_csr(pem)
        signed = request.is_signature_valid
    except (UnsupportedAlgorithm, x509.InvalidVersion):
        raise FaultError("Malformed", "its request uses an unknown algorithm or version") from None
    except ValueError:
        raise FaultError("Malformed", "its request does not parse") from None
    if not signed:
        raise FaultError("Malformed", "its request is not signed by its own key")
    return request


def _names(request: x509.CertificateSigningRequest) -> list[str]:
    addresses: list[str] = []
    try:
        names: Iterable[x509.GeneralName] = request.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except x509.ExtensionNotFound:
        names = ()
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise FaultError("Malformed", "its request has extensions that do not parse") from None
    for name in names:
        if not isinstance(name, x509.DNSName | x509.IPAddress):
            kind = type(name).__name__
            raise FaultError("NameType", f"its request asks for a name that is neither an IP nor a DNS name ({kind})")
        addresses.append(normalize(str(name.value)))
    if not addresses:
        raise FaultError("NoAddress", "its request names no address")
    return addresses


def examine(request: Request, nodes: Addresses, policy: Policy) -> list[str]:
    """Run every check and return the addresses that a certificate would be for. Raises FaultError."""
    addresses = request.addresses
    node = request.csr.node
    if node not in nodes:
        raise FaultError("NodeUnknown", f"there is no node {node}")
    for address in addresses:
        nodes.check(node, address, policy)
    return addresses


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with pending requests."""

    #: Requests that passed, with their addresses.
    approve: list[tuple[Request, list[str]]]
    #: Requests that stay pending, with the reason.
    leave: list[tuple[Request, FaultError]]


def decide(requests: Iterable[Request], nodes: Addresses, policy: Policy) -> Decision:
    """Decide on every pending request.

    A kubelet that asks again makes a new key and forgets the old one, so only its newest request is approved.
    """
    decision = Decision([], [])
    newest: dict[str, str] = {}
    for request in sorted(requests, key=lambda one: one.order, reverse=True):
        csr = request.csr
        if csr.spec.signer_name != SIGNER:
            continue
        state = csr.state
        if state == "pending":
            try:
                addresses = examine(request, nodes, policy)
                if csr.node in newest:
                    raise FaultError("Superseded", f"node {csr.node} has asked again since, with {newest[csr.node]}")
                decision.approve.append((request, addresses))
            except FaultError as error:
                decision.leave.append((request, error))
            except Exception as error:  # pylint: disable=broad-exception-caught
                # Whoever sends a request that nobody has thought of must not hold up those of all other nodes.
                unread = FaultError("Malformed", f"its request cannot be checked ({type(error).__name__})")
                decision.leave.append((request, unread))
        if csr.node and state in ("pending", "approved", "issued"):
            newest.setdefault(csr.node, request.name)
    return decision
