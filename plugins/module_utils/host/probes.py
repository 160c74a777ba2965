# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTPS step by step - connect, handshake, request - from a host, to see which step fails. Standard library only.

Certificates are handed over as DER; whoever has a library for it decodes them.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import errno
import http.client
import ipaddress
import json
import re
import socket
import ssl
import time
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import anchors

MAX_BODY = 1 << 16

#: What an error number of a connection usually means, by kind. The kinds are part of the interface of the modules.
KINDS: t.Dict[int, str] = {
    errno.ETIMEDOUT: "timeout",
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "no_route",
    errno.ENETUNREACH: "network_unreachable",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EACCES: "forbidden_here",
    errno.EPERM: "forbidden_here",
}
MEANINGS: t.Dict[str, str] = {
    "timeout": "nothing answers: packets are dropped by a firewall or have no way back",
    "refused": "nothing listens there",
    "no_route": "a firewall rejects it or a route is missing",
    "network_unreachable": "there is no route, or none for this address family",
    "reset": "the connection was cut",
    "forbidden_here": "a firewall on this host forbids it",
    "resolve": "the name does not resolve",
    "closed": "the connection was closed without an answer",
    "no_certificate": "it has no certificate to show (TLS alert: internal error)",
    "not_tls": "it does not speak TLS",
    "tls": "the TLS handshake failed",
    "untrusted": "the certificate does not verify",
    "http": "the answer is not HTTP",
    "client_certificate": "the client certificate cannot be used",
}


class ProbeError(Exception):
    """A step that failed, with its kind and a sentence."""

    def __init__(self, kind: str, detail: str = "") -> None:
        meaning = MEANINGS.get(kind, kind)
        super().__init__("%s (%s)" % (meaning, detail) if detail else meaning)
        self.kind = kind

    def as_dict(self) -> t.Dict[str, str]:
        return {"kind": self.kind, "message": str(self)}


class Answer(t.NamedTuple):
    status: int
    body: str
    seconds: float
    date: t.Optional[str] = None


def classify(exc: BaseException) -> ProbeError:
    """Any error of sockets, TLS or HTTP as one of the kinds."""
    if isinstance(exc, ProbeError):
        return exc
    if isinstance(exc, ssl.SSLCertVerificationError):
        return ProbeError("untrusted", (exc.verify_message or str(exc)).rstrip("."))
    if isinstance(exc, ssl.SSLError):
        reason = (exc.reason or "").replace("_", " ").lower()
        if "alert internal error" in reason:
            return ProbeError("no_certificate")
        if "wrong version number" in reason or "http request" in reason or "record layer failure" in reason:
            return ProbeError("not_tls")
        # OpenSSL 3 with Python 3.8 or 3.9 takes a connection that is closed for one that TLS has ended.
        if "unexpected eof" in reason or isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return ProbeError("closed")
        return ProbeError("tls", reason or str(exc))
    if isinstance(exc, socket.gaierror):
        return ProbeError("resolve")
    if isinstance(exc, (socket.timeout, TimeoutError)):
        return ProbeError("timeout")
    if isinstance(exc, http.client.RemoteDisconnected):
        return ProbeError("closed")
    if isinstance(exc, http.client.HTTPException):
        return ProbeError("http", type(exc).__name__)
    if isinstance(exc, OSError):
        number = exc.errno or 0
        return ProbeError(KINDS.get(number, "error"), exc.strerror or str(exc))
    return ProbeError("error", type(exc).__name__)


class Deadline:
    """The time that is left for all steps together."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise ProbeError("timeout")
        return remaining


def open_connection(host: str, port: int, deadline: Deadline) -> socket.socket:
    """A TCP connection. Raises ProbeError."""
    try:
        return socket.create_connection((host, port), timeout=deadline.left())
    except OSError as exc:
        raise classify(exc) from exc


def client_context(
    *, ca_file: t.Optional[str] = None, ca_data: t.Optional[str] = None, verify: bool = True
) -> ssl.SSLContext:
    """A context that trusts the given authorities and no others. Raises ProbeError when these cannot be used."""
    context = anchors.like_kubernetes(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context.load_verify_locations(cafile=ca_file, cadata=ca_data)
    except (OSError, ValueError, TypeError) as exc:
        where = ca_file or "the CA that was given"
        raise ProbeError("untrusted", "%s cannot be used: %s" % (where, _words(exc))) from exc
    return context


def load_client_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Add a client certificate. Raises ProbeError; the files are named, their content is not."""
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as exc:
        raise ProbeError(
            "client_certificate", "%s and %s cannot be used: %s" % (certificate, key, _words(exc))
        ) from exc


def handshake(
    connection: socket.socket, context: ssl.SSLContext, server_name: t.Optional[str], deadline: Deadline
) -> ssl.SSLSocket:
    """TLS over a connection, which is closed when it fails. Raises ProbeError."""
    try:
        connection.settimeout(deadline.left())
        return context.wrap_socket(connection, server_hostname=server_name)
    except (OSError, ValueError) as exc:
        connection.close()
        raise classify(exc) from exc


def certificate_of(tls_socket: ssl.SSLSocket) -> t.Optional[str]:
    """The certificate that a peer shows, DER in base64."""
    der = tls_socket.getpeercert(binary_form=True)
    return base64.b64encode(der).decode("ascii") if der else None


def request(
    connection: socket.socket,
    host: str,
    path: str,
    deadline: Deadline,
    *,
    headers: t.Optional[t.Mapping[str, str]] = None,
    max_body: int = MAX_BODY,
) -> Answer:
    """One GET over an open connection. Only the start of the body is read. Raises ProbeError."""
    started = time.monotonic()
    client = http.client.HTTPConnection(host)
    client.sock = connection
    try:
        connection.settimeout(deadline.left())
        client.request("GET", path, headers=dict({"User-Agent": "kubemetrics.aggregation"}, **(headers or {})))
        response = client.getresponse()
        status = response.status
        chunks: t.List[bytes] = []
        size = 0
        while size < max_body:
            connection.settimeout(deadline.left())
            chunk = response.read1(max_body - size)
            if not chunk:
                break
            chunks.append(chunk)
            size += len(chunk)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise classify(exc) from exc
    text = b"".join(chunks).decode("utf-8", "replace")
    return Answer(status, text, round(time.monotonic() - started, 3), response.headers.get("Date"))


def message_of(body: str) -> str:
    """What an error answer says: the message of a Status object, or the start of the text."""
    with contextlib.suppress(ValueError):
        status = json.loads(body)
        if isinstance(status, dict) and status.get("message"):
            return " ".join(str(status["message"]).split())[:300]
    return " ".join(body.split())[:300]


def reach(host: str, port: int, timeout: float) -> t.Dict[str, t.Any]:
    """Whether something accepts connections."""
    started = time.monotonic()
    try:
        open_connection(host, port, Deadline(timeout)).close()
    except ProbeError as exc:
        return {"ok": False, "seconds": round(time.monotonic() - started, 3), "error": exc.as_dict()}
    return {"ok": True, "seconds": round(time.monotonic() - started, 3), "error": None}


def look_at_tls(
    host: str, port: int, context: ssl.SSLContext, server_name: t.Optional[str], timeout: float
) -> t.Dict[str, t.Any]:
    """A handshake and nothing more."""
    deadline = Deadline(timeout)
    try:
        tls_socket = handshake(open_connection(host, port, deadline), context, server_name, deadline)
    except ProbeError as exc:
        return {"ok": False, "error": exc.as_dict(), "version": None, "certificate_der": None}
    with tls_socket:
        return {
            "ok": True,
            "error": None,
            "version": tls_socket.version(),
            "certificate_der": certificate_of(tls_socket),
        }


def ask(
    host: str,
    port: int,
    path: str,
    timeout: float,
    *,
    context: t.Optional[ssl.SSLContext] = None,
    server_name: t.Optional[str] = None,
    headers: t.Optional[t.Mapping[str, str]] = None,
    max_body: int = MAX_BODY,
    read: t.Optional[t.Callable[[str], t.Dict[str, t.Any]]] = None,
) -> t.Dict[str, t.Any]:
    """A request from the first to the last step; without a context in plain text.

    ``read`` makes further entries of the result from the body of an answer with status 200.
    """
    deadline = Deadline(timeout)
    try:
        connection = open_connection(host, port, deadline)
        if context is not None:
            connection = handshake(connection, context, server_name, deadline)
        with connection:
            shown = "[%s]" % host if ":" in host else host
            answer = request(
                connection, "%s:%d" % (server_name or shown, port), path, deadline, headers=headers, max_body=max_body
            )
    except ProbeError as exc:
        return {"status": None, "message": "", "seconds": None, "error": exc.as_dict()}
    message = "" if answer.status == 200 else message_of(answer.body)
    result = {"status": answer.status, "message": message, "seconds": answer.seconds, "error": None}
    if read and answer.status == 200:
        result.update(read(answer.body))
    return result


def answers_as(
    host: str, port: int, ca_file: t.Optional[str], certificates: t.Collection[str], timeout: float
) -> t.Dict[str, t.Any]:
    """Whether a known server answers at an address, and not an unrelated server that a packet reached.

    Known is who shows a certificate by the CA, whatever its names, or one of the ``certificates`` (DER in base64).
    """
    failure: t.Optional[t.Dict[str, str]] = None
    if ca_file:
        try:
            context = client_context(ca_file=ca_file)
            context.check_hostname = False
        except ProbeError as exc:
            failure = exc.as_dict()
        else:
            seen = look_at_tls(host, port, context, None, timeout)
            if seen["ok"]:
                return {"answers": True, "verified_by": "ca", "error": None}
            failure = seen["error"]
            if failure and failure["kind"] != "untrusted":
                return {"answers": False, "verified_by": None, "error": failure}
    # Nothing is sent over this connection but the greeting of TLS.
    seen = look_at_tls(host, port, client_context(verify=False), None, timeout)
    if seen["ok"] and seen["certificate_der"] in certificates:
        return {"answers": True, "verified_by": "certificate", "error": None}
    return {
        "answers": False,
        "verified_by": None,
        "error": seen["error"] or failure or ProbeError("untrusted").as_dict(),
    }


def clock_offset(host: str, port: int, context: ssl.SSLContext, timeout: float) -> t.Tuple[float, float]:
    """How far this host's clock is ahead of a server's, and how sure that is. Raises ProbeError."""
    deadline = Deadline(timeout)
    connection = handshake(open_connection(host, port, deadline), context, host, deadline)
    with connection:
        before = time.time()
        shown = "[%s]" % host if ":" in host else host
        answer = request(connection, "%s:%d" % (shown, port), "/version", deadline)
        after = time.time()
    try:
        # Any status will do: a server that refuses the request tells the time all the same.
        date = email.utils.parsedate_to_datetime(answer.date or "").timestamp()
    except (TypeError, ValueError) as exc:
        raise ProbeError("http", "it has no Date") from exc
    # The header has whole seconds, cut off.
    return (before + after) / 2 - (date + 0.5), 0.5 + (after - before) / 2


# --- proxies --------------------------------------------------------------------------------------------------------


def proxy_for(host: str, port: int, environ: t.Mapping[str, str]) -> t.Optional[str]:
    """The proxy that a Kubernetes component would use for https to an address, by its environment; None for none.

    As Go does it: the upper-case variable wins, loopback is never proxied, and NO_PROXY knows `*`, addresses, CIDRs
    and domains with and without a leading dot, each with an optional port.
    """
    proxy = environ.get("HTTPS_PROXY") or environ.get("https_proxy") or ""
    if not proxy:
        return None
    name = host.strip("[]").rstrip(".").lower()
    address = _address(name)
    if name == "localhost" or (address is not None and address.is_loopback):
        return None
    exceptions = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    for entry in (part.strip().lower() for part in exceptions.split(",")):
        if entry and _excepted(entry, name, address, port):
            return None
    return proxy if "://" in proxy else "http://" + proxy


def _address(text: str) -> t.Optional[t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]]:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _excepted(
    entry: str,
    name: str,
    address: t.Optional[t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]],
    port: int,
) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    match = re.match(r"^(\[[^\]]*\]|[^:]*):(\d+)$", entry)
    if match:
        if int(match.group(2)) != port:
            return False
        entry = match.group(1)
    entry = entry.strip("[]")
    if _address(entry) is not None or address is not None:
        return address is not None and _address(entry) == address
    if entry.startswith("*."):
        entry = entry[1:]
    if entry.startswith("."):
        return name.endswith(entry)
    return name == entry or name.endswith("." + entry)


def through_proxy(proxy: str, host: str, port: int, timeout: float) -> t.Dict[str, t.Any]:
    """Ask an http proxy for a tunnel to a target; nothing is sent through it."""
    match = re.match(r"^http://(?:[^@/]*@)?(\[[^\]]+\]|[^:/]+)(?::(\d+))?/?$", proxy)
    if not match:
        return {"ok": None, "status": None, "error": {"kind": "unsupported", "message": "no plain http proxy"}}
    proxy_host, proxy_port = match.group(1).strip("[]"), int(match.group(2) or 80)
    target = "[%s]:%d" % (host, port) if ":" in host else "%s:%d" % (host, port)
    deadline = Deadline(timeout)
    try:
        with open_connection(proxy_host, proxy_port, deadline) as connection:
            connection.settimeout(deadline.left())
            connection.sendall(("CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, target)).encode("ascii"))
            line = b""
            while b"\n" not in line and len(line) < 1024:
                connection.settimeout(deadline.left())
                chunk = connection.recv(256)
                if not chunk:
                    raise ProbeError("closed")
                line += chunk
    except (OSError, ProbeError) as exc:
        return {"ok": False, "status": None, "error": classify(exc).as_dict()}
    match_status = re.match(rb"^HTTP/1\.[01] (\d{3})", line)
    status = int(match_status.group(1)) if match_status else None
    return {"ok": status is not None and 200 <= status < 300, "status": status, "error": None}


def _words(exc: BaseException) -> str:
    reason = getattr(exc, "reason", None)
    if isinstance(reason, str):
        return reason.replace("_", " ").lower()
    return (getattr(exc, "strerror", None) or str(exc) or type(exc).__name__).rstrip(".")
