# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may have which kubelet serving certificate: checks on certificate signing requests, without any I/O."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import traceback
import typing as t

CRYPTOGRAPHY_IMPORT_ERROR: t.Optional[str] = None
try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509.oid import NameOID
except ImportError:
    CRYPTOGRAPHY_IMPORT_ERROR = traceback.format_exc()

#: The message of a condition is of any length, and whoever may approve requests writes it.
MOST_SAID = 240
#: How the approver that kubespray installs calls itself in these messages. It looks names of nodes up in DNS.
KUBESPRAYS_APPROVER = "kubelet-csr-approver"

SIGNER = "kubernetes.io/kubelet-serving"
NODE_USER_PREFIX = "system:node:"
NODES_GROUP = "system:nodes"
ALLOWED_USAGES = frozenset({"digital signature", "key encipherment", "server auth"})
REQUIRED_USAGES = ("server auth", "digital signature")

#: Names that lead to the API server and to services inside of a cluster. A kubelet writes its own addresses into its
#: Node, and so could ask for a certificate that passes for one of them.
RESERVED_NAMES = frozenset({"kubernetes", "kubernetes.default", "localhost"})


class Fault(str):
    """Why a request must not be approved: a phrase for people, with a code that the bundled approver uses as well."""

    code: str

    def __new__(cls, code: str, words: str) -> "Fault":
        fault = super().__new__(cls, words)
        fault.code = code
        return fault


class RequestError(ValueError):
    """A request that cannot be approved as it is written; the text is a phrase that follows `its request`."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


class Request(t.NamedTuple):
    """A pending request and what it asks for."""

    name: str
    node: str
    created: str
    addresses: t.List[str]
    #: Why it must not be approved; empty when every check passed.
    fault: str
    #: The fault in one word.
    code: str = ""


def normalize(address: str) -> str:
    """One spelling for an address: canonical IP, or DNS name in lower case without its final dot."""
    text = address.strip()
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return text.lower().rstrip(".")
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def as_ip(address: str) -> t.Optional[t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]]:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def reserved_reason(address: str, service_ips: t.Collection[str] = ()) -> t.Optional[Fault]:
    """Why an address can never be one of a node, however it got into a list, or None."""
    parsed = as_ip(address)
    if parsed is not None:
        if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast:
            return Fault("AddressReserved", "%s is no address of a machine" % address)
        if address in service_ips:
            return Fault("AddressReserved", "%s is the address of the kubernetes Service" % address)
        return None
    if address in RESERVED_NAMES or address.endswith(".svc") or ".svc." in address:
        return Fault("AddressReserved", "%s is a name of services inside of the cluster" % address)
    if "*" in address:
        return Fault("AddressReserved", "%s is a wildcard" % address)
    return None


def node_addresses(node: t.Mapping[str, t.Any]) -> t.List[str]:
    """The addresses that a Node object states."""
    status = node.get("status") or {}
    return [
        normalize(entry["address"])
        for entry in status.get("addresses") or ()
        if isinstance(entry, dict) and isinstance(entry.get("address"), str) and entry["address"].strip()
    ]


def is_control_plane(node: t.Mapping[str, t.Any]) -> bool:
    labels = (node.get("metadata") or {}).get("labels") or {}
    return any("node-role.kubernetes.io/" + role in labels for role in ("control-plane", "master"))


class Owners:
    """Which addresses belong to which node.

    An address that the caller gave for one node belongs to that node alone. One that only Node objects state counts for
    nobody when several nodes state it, because a kubelet writes that list itself. For the same reason such an address,
    and the node's own name, must be none of a Service, and none by which clients know the API servers, unless the node
    is a control plane.
    """

    def __init__(
        self,
        given: t.Mapping[str, t.Iterable[str]],
        nodes: t.Iterable[t.Mapping[str, t.Any]] = (),
        *,
        service_ips: t.Collection[str] = (),
        service_cidrs: t.Collection[str] = (),
        api_hosts: t.Collection[str] = (),
        control_planes: t.Collection[str] = (),
    ) -> None:
        self._given = {name: {normalize(address) for address in addresses} for name, addresses in given.items()}
        self._stated: t.Dict[str, t.Set[str]] = {}
        self._service_ips = frozenset(service_ips)
        self._service_networks = [ipaddress.ip_network(cidr.strip(), strict=False) for cidr in service_cidrs]
        self._api_hosts = frozenset(normalize(host) for host in api_hosts)
        self._control_planes = set(control_planes)
        for node in nodes:
            name = (node.get("metadata") or {}).get("name")
            if name:
                self._stated[name] = set(node_addresses(node))
                if is_control_plane(node):
                    self._control_planes.add(name)

    def knows(self, node: str) -> bool:
        """Whether there is such a node, as far as the caller and the Node objects say."""
        return node in self._given or node in self._stated

    def fault(self, node: str, address: str) -> t.Optional[Fault]:
        """Why a node must not have an address in its certificate, or None."""
        address = normalize(address)
        reserved = reserved_reason(address, self._service_ips)
        if reserved:
            return reserved
        if address in self._given.get(node, ()):
            return self._also(
                address, [name for name, given in self._given.items() if name != node and address in given]
            )
        others = [name for name, given in self._given.items() if name != node and address in given]
        others += [name for name, stated in self._stated.items() if name != node and address in stated]
        others += [
            name for name in list(self._given) + list(self._stated) if name != node and normalize(name) == address
        ]
        if others:
            return self._also(address, others)
        # A kubelet chooses the name of its node itself, so that this name is checked as any other.
        if address != normalize(node) and address not in self._stated.get(node, ()):
            return Fault("AddressUnknown", "%s is no address of node %s" % (address, node))
        parsed = as_ip(address)
        network = next((str(one) for one in self._service_networks if parsed is not None and parsed in one), None)
        if network:
            return Fault("AddressReserved", "%s belongs to the network of Services %s" % (address, network))
        if address in self._api_hosts and node not in self._control_planes:
            words = "%s is the address of the API server, and node %s is no control plane" % (address, node)
            return Fault("AddressOfAPIServer", words)
        return None

    @staticmethod
    def _also(address: str, others: t.Sequence[str]) -> t.Optional[Fault]:
        if not others:
            return None
        return Fault("AddressOfOtherNode", "%s also belongs to node %s" % (address, sorted(others)[0]))


def conditions_of(csr: t.Mapping[str, t.Any]) -> t.Set[str]:
    status = csr.get("status") or {}
    return {
        entry["type"]
        for entry in status.get("conditions") or ()
        if isinstance(entry, dict) and isinstance(entry.get("type"), str)
    }


def state_of(csr: t.Mapping[str, t.Any]) -> str:
    """pending, approved (no certificate yet), issued, denied or failed."""
    conditions = conditions_of(csr)
    for condition in ("Denied", "Failed"):
        if condition in conditions:
            return condition.lower()
    if (csr.get("status") or {}).get("certificate"):
        return "issued"
    return "approved" if "Approved" in conditions else "pending"


def why_refused(csr: t.Mapping[str, t.Any]) -> str:
    """What whoever denied a request, or could not sign it, says of that; empty for all others."""
    for condition in (csr.get("status") or {}).get("conditions") or ():
        if isinstance(condition, dict) and condition.get("type") in ("Denied", "Failed"):
            words = " ".join(str(condition.get("message") or condition.get("reason") or "").split()).rstrip(".")
            return words if len(words) <= MOST_SAID else words[: MOST_SAID - 3] + "..."
    return ""


def requesting_node(csr: t.Mapping[str, t.Any]) -> t.Optional[str]:
    """The node that sent a request, by the identity that the API server wrote down."""
    username = (csr.get("spec") or {}).get("username")
    if isinstance(username, str) and username.startswith(NODE_USER_PREFIX):
        return username[len(NODE_USER_PREFIX) :] or None
    return None


def fault_of_spec(spec: t.Mapping[str, t.Any]) -> t.Optional[Fault]:
    """What is wrong with the requester, the signer or the usages, or None."""
    username = spec.get("username") or "nobody"
    if spec.get("signerName") != SIGNER:
        return Fault("Signer", "its signer is %s and not %s" % (spec.get("signerName"), SIGNER))
    if not username.startswith(NODE_USER_PREFIX) or username == NODE_USER_PREFIX:
        return Fault("Requester", "it was sent by %s, which is no node" % username)
    if NODES_GROUP not in (spec.get("groups") or ()):
        return Fault("Group", "its sender %s is not in group %s" % (username, NODES_GROUP))
    usages = set(spec.get("usages") or ())
    extra = usages - ALLOWED_USAGES
    if extra:
        return Fault("Usages", "it asks for usage %s" % sorted(extra)[0])
    for usage in REQUIRED_USAGES:
        if usage not in usages:
            return Fault("Usages", "it does not ask for usage %s" % usage)
    return None


def parse_request(encoded: t.Any) -> "x509.CertificateSigningRequest":
    """The certificate request in spec.request. Raises RequestError."""
    if not isinstance(encoded, str):
        raise RequestError("Malformed", "is missing")
    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise RequestError("Malformed", "is not base64") from exc
    if pem.count(b"-----BEGIN ") != 1:
        raise RequestError("Malformed", "is not exactly one PEM block")
    try:
        request = x509.load_pem_x509_csr(pem)
        signed = request.is_signature_valid
    except (UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise RequestError("Malformed", "uses an unknown algorithm or version") from exc
    except ValueError as exc:
        raise RequestError("Malformed", "does not parse") from exc
    if not signed:
        raise RequestError("Malformed", "is not signed by its own key")
    return request


def addresses_of(request: "x509.CertificateSigningRequest") -> t.List[str]:
    """The IPs and DNS names a request asks for. Raises RequestError."""
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as exc:
        raise RequestError("NoAddress", "names no address") from exc
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise RequestError("Malformed", "has extensions that do not parse") from exc
    addresses = []
    for name in names:
        if isinstance(name, (x509.DNSName, x509.IPAddress)):
            addresses.append(normalize(str(name.value)))
        else:
            kind = type(name).__name__
            raise RequestError("NameType", "asks for a name that is neither an IP nor a DNS name (%s)" % kind)
    if not addresses:
        raise RequestError("NoAddress", "names no address")
    return addresses


def subject_fault(request: "x509.CertificateSigningRequest", username: str) -> t.Optional[Fault]:
    """The subject has to be exactly the node and its group, nothing beside."""
    wanted = sorted([(NameOID.COMMON_NAME, username), (NameOID.ORGANIZATION_NAME, NODES_GROUP)], key=str)
    try:
        found = sorted(((attribute.oid, attribute.value) for attribute in request.subject), key=str)
    except (ValueError, TypeError):
        # A name is decoded only here, and Go, which checks a request for the API server, reads more kinds of values.
        return Fault("Malformed", "its request has a subject that does not parse")
    if found != wanted:
        words = "its subject is %r and not O=%s,CN=%s" % (request.subject.rfc4514_string(), NODES_GROUP, username)
        return Fault("Subject", words)
    return None


def examine(csr: t.Mapping[str, t.Any], owners: Owners) -> Request:
    """Run every check on a request."""
    metadata = csr.get("metadata") or {}
    spec = csr.get("spec") or {}
    node = requesting_node(csr) or ""
    addresses: t.List[str] = []
    fault = fault_of_spec(spec)
    if not fault:
        try:
            request = parse_request(spec.get("request"))
            fault = subject_fault(request, spec["username"])
            addresses = addresses_of(request)
        except RequestError as exc:
            fault = Fault(exc.code, "its request %s" % exc)
    if not fault and not owners.knows(node):
        fault = Fault("NodeUnknown", "there is no node %s" % node)
    if not fault:
        fault = next(filter(None, (owners.fault(node, address) for address in addresses)), None)
    return Request(
        name=str(metadata.get("name")),
        node=node,
        created=str(metadata.get("creationTimestamp") or ""),
        addresses=addresses,
        fault=str(fault or ""),
        code=fault.code if fault else "",
    )


class Decision(t.NamedTuple):
    approve: t.List[Request]
    #: Requests that fail a check.
    refuse: t.List[Request]
    #: Requests that are none of the caller's business, or that nobody waits for any more, with the reason.
    leave: t.List[t.Tuple[Request, str]]


def decide(
    csrs: t.Iterable[t.Mapping[str, t.Any]], owners: Owners, nodes: t.Optional[t.Collection[str]] = None
) -> Decision:
    """What to do with each pending request of the signer; nodes limits whose requests may be approved (None: all).

    A kubelet that asks again makes a new key and forgets the old one, so only the newest request of a node is approved.
    """
    decision = Decision([], [], [])
    newest: t.Dict[str, str] = {}
    own = [csr for csr in csrs if (csr.get("spec") or {}).get("signerName") == SIGNER]
    for csr in sorted(own, key=_age_order, reverse=True):
        state = state_of(csr)
        node = requesting_node(csr)
        if state == "pending":
            request = examine(csr, owners)
            if node and nodes is not None and node not in nodes:
                decision.leave.append((request, "node %s is none of those that may be approved" % node))
            elif request.fault:
                decision.refuse.append(request)
            elif request.node in newest:
                reason = "node %s has asked again since, with %s" % (request.node, newest[request.node])
                decision.leave.append((request, reason))
            else:
                decision.approve.append(request)
        if node and state in ("pending", "approved", "issued"):
            newest.setdefault(node, str((csr.get("metadata") or {}).get("name")))
    return decision


def _age_order(csr: t.Mapping[str, t.Any]) -> t.Tuple[str, int, str]:
    """Creation times have whole seconds; within one the resource version tells, while it is a number."""
    metadata = csr.get("metadata") or {}
    version = str(metadata.get("resourceVersion") or "")
    return (
        str(metadata.get("creationTimestamp") or ""),
        int(version) if version.isdigit() else 0,
        str(metadata.get("name") or ""),
    )


def progress(csrs: t.Iterable[t.Mapping[str, t.Any]], node: str, issued_after: str = "") -> t.Dict[str, t.Any]:
    """How far the newest request of a node is that was made at or after a time (RFC 3339, UTC, whole seconds)."""
    own = [
        csr
        for csr in csrs
        if requesting_node(csr) == node
        and (csr.get("spec") or {}).get("signerName") == SIGNER
        and str((csr.get("metadata") or {}).get("creationTimestamp") or "") >= issued_after
    ]
    if not own:
        return {"state": "none", "csr": None, "created": None}
    states = {id(csr): state_of(csr) for csr in own}
    newest = max(own, key=lambda csr: (states[id(csr)] == "issued", _age_order(csr)))
    metadata = newest.get("metadata") or {}
    return {
        "state": states[id(newest)],
        "csr": metadata.get("name"),
        "created": metadata.get("creationTimestamp"),
    }


def with_condition(csr: t.Mapping[str, t.Any], *, approve: bool, message: str, now: str) -> t.Dict[str, t.Any]:
    """The object to send to the approval subresource."""
    status = dict(csr.get("status") or {})
    condition = {
        "type": "Approved" if approve else "Denied",
        "status": "True",
        "reason": "KubemetricsChecksPassed" if approve else "KubemetricsChecksFailed",
        "message": message,
        "lastUpdateTime": now,
    }
    status["conditions"] = list(status.get("conditions") or ()) + [condition]
    changed = dict(csr, status=status)
    changed.setdefault("apiVersion", "certificates.k8s.io/v1")
    changed.setdefault("kind", "CertificateSigningRequest")
    return changed
