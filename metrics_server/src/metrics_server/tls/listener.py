# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS on the serving side: asks for a client certificate, and leaves the judgement to the authenticator.

The standard library's `ssl` module can only verify a client certificate during the handshake, and then breaks the
connection when it does not know the issuer. The Kubernetes contract is an HTTP 401 that says why, so the handshake
must only verify that the peer owns the key of the certificate that it shows (TLS always does), and
`tls.client_certificates` verifies the chain afterwards. pyOpenSSL can do that: its verify callback decides. Nothing
here is trusted: a connection yields certificates, never an identity.

The bytes travel through memory buffers, so that the transport below is asyncio's plain TCP and the protocol above any
`asyncio.Protocol` (here `api.http`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from cryptography import x509
from OpenSSL import SSL

from metrics_server.logs import Seldom

_log = logging.getLogger(__name__)

_READ_SIZE = 64 * 1024
#: One in so many connections may be one on which nobody has authenticated. An API server needs some milliseconds to do
#: so; whoever holds such a connection open for longer costs memory, about 50 KB for each.
_UNAUTHENTICATED_SHARE = 4
#: A handshake takes a few round trips; a client that needs longer is broken or hostile.
HANDSHAKE_TIMEOUT = 10.0
#: The time from the handshake to the end of the first request's headers.
FIRST_REQUEST_TIMEOUT = 30.0

#: Go's names of the cipher suites up to TLS 1.2, as `--tls-cipher-suites` has them, in OpenSSL's words.
CIPHER_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}
#: Suites of TLS 1.3 have the same name everywhere.
TLS13_CIPHER_SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
#: Suites that Go knows and that no sound TLS library offers any more.
BROKEN_CIPHER_SUITES = (
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_RC4_128_SHA",
)
#: What Go offers without the flag: forward secrecy and authenticated encryption only.
_DEFAULT_CIPHERS = tuple(
    dict.fromkeys(openssl for name, openssl in CIPHER_SUITES.items() if "ECDHE" in name and "CBC" not in name)
)


class TlsConfigError(ValueError):
    """A certificate, key or TLS setting cannot be used."""


def make_context(
    certificate_pem: bytes, key_pem: bytes, *, min_version: str = "", cipher_suites: Sequence[str] = ()
) -> SSL.Context:
    """Return a server context for a certificate chain and its key; raise `TlsConfigError` when they do not fit."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        chain = x509.load_pem_x509_certificates(certificate_pem)
    except ValueError as error:
        raise TlsConfigError(f"the serving certificate is not PEM: {error}") from None
    try:
        key: Any = load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as error:
        raise TlsConfigError(f"the serving key is not an unencrypted PEM private key: {error}") from None
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION if min_version == "VersionTLS13" else SSL.TLS1_2_VERSION)
    # No session outlives its connection: with client certificates in play a resumed session would carry an old
    # judgement.
    context.set_options(
        SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"metrics-server")
    # A connection that waits gives back its buffers, more than half of what it costs.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    legacy = [CIPHER_SUITES[name] for name in cipher_suites if name in CIPHER_SUITES]
    modern = [name for name in cipher_suites if name in TLS13_CIPHER_SUITES]
    try:
        context.set_cipher_list(":".join(dict.fromkeys(legacy or _DEFAULT_CIPHERS)).encode())
        if modern:
            context.set_tls13_ciphersuites(":".join(modern).encode())
        context.use_certificate(chain[0])
        for certificate in chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(key)
        context.check_privatekey()
    except SSL.Error:
        raise TlsConfigError("the serving certificate and key do not belong together, or are too weak to use") from None
    # See the module's head: the handshake verifies possession of the key, tls.client_certificates the chain.
    context.set_verify(SSL.VERIFY_PEER, lambda *_unused: True)
    context.set_alpn_select_callback(_select_protocol)
    return context


def _select_protocol(_connection: SSL.Connection, offered: list[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


class TlsListener:
    """Makes protected connections of TCP connections; holds the certificate in use and the number of connections.

    `context` may be replaced at any time: new connections use the new one, old ones go on with what they negotiated.
    """

    def __init__(
        self, context: SSL.Context, protocol_factory: Callable[[], asyncio.Protocol], *, max_connections: int
    ) -> None:
        self.context = context
        self.max_connections = max_connections
        self._protocol_factory = protocol_factory
        self._connections: set[TlsConnection] = set()
        #: Connections on which nobody has authenticated yet, oldest first: the first to be evicted at the limit.
        self._unauthenticated: OrderedDict[TlsConnection, None] = OrderedDict()
        self._seldom = Seldom()
        self.refused = 0

    def __call__(self) -> TlsConnection:
        """Be a protocol factory for `loop.create_server`."""
        return TlsConnection(self, self._protocol_factory)

    @property
    def connections(self) -> int:
        """Return how many connections are open."""
        return len(self._connections)

    @property
    def open_connections(self) -> Collection[TlsConnection]:
        """Return them."""
        return self._connections

    def admit(self, connection: TlsConnection) -> bool:
        """Accept a new connection if need be in place of an unauthenticated one, or say that the limit is reached."""
        limit = max(1, self.max_connections // _UNAUTHENTICATED_SHARE)
        if len(self._connections) >= self.max_connections or len(self._unauthenticated) >= limit:
            if not self._unauthenticated:
                self.refused += 1
                return False
            oldest, _unused = self._unauthenticated.popitem(last=False)
            self.refused += 1
            self._connections.discard(oldest)
            oldest.abort()
        self._connections.add(connection)
        self._unauthenticated[connection] = None
        return True

    def is_authenticated(self, connection: TlsConnection) -> bool:
        """Whether an authenticated request came over this connection."""
        return connection in self._connections and connection not in self._unauthenticated

    def mark_authenticated(self, connection: TlsConnection) -> None:
        """Note that an authenticated request came over this connection."""
        self._unauthenticated.pop(connection, None)

    def discard(self, connection: TlsConnection) -> None:
        """Forget a closed connection."""
        self._connections.discard(connection)
        self._unauthenticated.pop(connection, None)

    def log_handshake_failure(self, peer: object, reason: str) -> None:
        """Log a failed handshake, at most one line in a while."""
        if self._seldom():
            _log.info("TLS handshake failed", extra={"kv": {"peer": _address(peer), "reason": reason}})


class TlsConnection(asyncio.Protocol):
    """One connection: the protocol of the TCP transport, and the owner of the `TlsTransport` that the HTTP side
    sees."""

    def __init__(self, listener: TlsListener, protocol_factory: Callable[[], asyncio.Protocol]) -> None:
        self._listener = listener
        self._protocol_factory = protocol_factory
        #: Made with the first bytes: a connection that says nothing costs little.
        self._tls: SSL.Connection | None = None
        self._tcp: asyncio.Transport | None = None
        self._transport: TlsTransport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._write_paused = False

    # The TCP side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake's clock."""
        assert isinstance(transport, asyncio.Transport)
        self._tcp = transport
        if not self._listener.admit(self):
            transport.abort()
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, self.abort)

    def data_received(self, data: bytes) -> None:
        """Feed what arrived to TLS, and what TLS makes of it to HTTP."""
        if self._tcp is None or self._tcp.is_closing():
            return
        if self._tls is None:
            self._tls = SSL.Connection(self._listener.context, None)
            self._tls.set_accept_state()
        self._tls.bio_write(data)
        if self._transport is None and not self._handshake(self._tls, data):
            return
        self._deliver(self._tls)

    def eof_received(self) -> bool:
        """Close: HTTP knows no half-open connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell HTTP, and release the place."""
        self._cancel_deadline()
        self._listener.discard(self)
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.protocol_lost(exc)
        self._tcp = None

    def pause_writing(self) -> None:
        """Pass on that the peer reads too slowly."""
        self._write_paused = True
        if self._transport is not None:
            self._transport.get_protocol().pause_writing()

    def resume_writing(self) -> None:
        """Pass on that there is room again."""
        self._write_paused = False
        if self._transport is not None:
            self._transport.get_protocol().resume_writing()

    # Between the two.

    def _handshake(self, tls: SSL.Connection, data: bytes) -> bool:
        assert self._tcp is not None
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            self._flush()
            return False
        except SSL.Error as error:
            self._flush()
            if data[:4] in (b"GET ", b"HEAD", b"POST", b"PUT ", b"PATC", b"DELE", b"OPTI"):
                self._tcp.write(
                    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n"
                    b"Client sent an HTTP request to an HTTPS server.\n"
                )
            self._listener.log_handshake_failure(self._tcp.get_extra_info("peername"), _reason(error))
            self._tcp.close()
            return False
        self._flush()
        self._cancel_deadline()
        self._deadline = asyncio.get_running_loop().call_later(FIRST_REQUEST_TIMEOUT, self.abort)
        protocol = self._protocol_factory()
        self._transport = TlsTransport(self, self._tcp, protocol)
        protocol.connection_made(self._transport)
        return True

    def _deliver(self, tls: SSL.Connection) -> None:
        while self._transport is not None and self._tcp is not None and not self._tcp.is_closing():
            try:
                data = tls.recv(_READ_SIZE)
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self.close()
                return
            except SSL.Error:
                self.abort()
                return
            self._transport.get_protocol().data_received(data)
        self._flush()

    def _flush(self) -> None:
        if self._tcp is None or self._tls is None:
            return
        while True:
            try:
                data = self._tls.bio_read(2 * _READ_SIZE)
            except SSL.WantReadError:
                return
            self._tcp.write(data)
            if len(data) < 2 * _READ_SIZE:
                # That was all; to be told so costs as much as to read it.
                return

    # For the transport above.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._tcp is None or self._tls is None or self._tcp.is_closing() or not data:
            return
        try:
            self._tls.sendall(data)
        except SSL.Error:
            self.abort()
            return
        self._flush()

    def close(self) -> None:
        """Say goodbye as TLS wants it, and close when everything is sent."""
        if self._tcp is None or self._tls is None or self._tcp.is_closing():
            return
        try:
            self._tls.shutdown()
        except SSL.Error:
            self.abort()
            return
        self._flush()
        self._tcp.close()

    def abort(self) -> None:
        """Close at once and drop what is not sent yet."""
        if self._tcp is not None:
            self._tcp.abort()

    def request_started(self) -> None:
        """Note that the headers of a request are complete."""
        self._cancel_deadline()

    def mark_authenticated(self) -> None:
        """Note that the peer has shown a valid identity, so the connection is not the first to go when places are
        scarce."""
        self._listener.mark_authenticated(self)

    @property
    def is_authenticated(self) -> bool:
        """Whether the peer has shown a valid identity."""
        return self._listener.is_authenticated(self)

    def peer_certificates(self) -> tuple[x509.Certificate, ...]:
        """Return the client's certificate and what it sent along, unverified; empty when it showed none."""
        leaf = self._tls.get_peer_certificate(as_cryptography=True) if self._tls is not None else None
        if self._tls is None or leaf is None:
            return ()
        chain = self._tls.get_peer_cert_chain(as_cryptography=True) or []
        return (leaf, *(certificate for certificate in chain if certificate != leaf))

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class TlsTransport(asyncio.Transport):
    """What the HTTP protocol writes to."""

    def __init__(self, connection: TlsConnection, tcp: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._connection = connection
        self._tcp = tcp
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return facts of the connection; `tls_connection` is the `TlsConnection`."""
        if name == "tls_connection":
            return self._connection
        return self._tcp.get_extra_info(name, default)

    def protocol_lost(self, exc: Exception | None) -> None:
        """Tell the protocol that the connection is gone."""
        self._protocol.connection_lost(exc)

    def get_protocol(self) -> asyncio.Protocol:
        """Return the HTTP protocol."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the HTTP protocol."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        self._connection.write(data)

    def close(self) -> None:
        """Close after everything is sent."""
        self._connection.close()

    def abort(self) -> None:
        """Close at once."""
        self._connection.abort()

    def is_closing(self) -> bool:
        """Whether the connection is closing."""
        return self._tcp.is_closing()

    def is_reading(self) -> bool:
        """Whether data is being received."""
        return self._tcp.is_reading()

    def pause_reading(self) -> None:
        """Stop receiving."""
        self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Go on receiving."""
        self._tcp.resume_reading()

    def can_write_eof(self) -> bool:
        """TLS cannot close one direction only."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is told to pause."""
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return the encrypted bytes that wait to be sent."""
        return self._tcp.get_write_buffer_size()


def _address(peer: object) -> str:
    """Return the address of a peer as people write it."""
    if not isinstance(peer, tuple) or len(peer) < 2:
        return "unknown"
    host, port = str(peer[0]).removeprefix("::ffff:"), peer[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: SSL.Error) -> str:
    """Return OpenSSL's own words for an error."""
    if error.args and isinstance(error.args[0], list | tuple) and error.args[0]:
        return "; ".join(str(entry[-1]) for entry in error.args[0])
    return "the peer closed the connection" if isinstance(error, SSL.SysCallError) else "unknown"
