# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates, keys and tokens that somebody else renews under our feet: read again when the file changes."""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

#: How long a file is trusted to be unchanged. Kubernetes renews mounted secrets long before they expire, a second is
#: soon enough.
CHECK_INTERVAL = 1.0


class MaterialError(Exception):
    """A file with a certificate, key or token cannot be used; the text says which and why."""


class Source:
    """Bytes from a file that may be replaced at any time, or given inline."""

    def __init__(self, what: str, *, path: str | os.PathLike[str] | None = None, data: bytes | None = None) -> None:
        if (path is None) == (data is None):
            raise ValueError("exactly one of path and data must be given")
        self.what = what
        self.path = None if path is None else Path(path)
        self._data = data
        self._signature: tuple[int, int, int] | None = None
        self._checked = float("-inf")
        #: What was logged last: a file stays unreadable for many seconds.
        self._problem = ""
        #: Grows whenever new content was read.
        self.generation = 0 if data is None else 1

    def read(self) -> bytes:
        """Return the present content; the last good one when the file is gone for a moment."""
        if self.path is None:
            assert self._data is not None
            return self._data
        now = time.monotonic()
        if self._data is not None and now - self._checked < CHECK_INTERVAL:
            return self._data
        self._checked = now
        try:
            stat = self.path.stat()
            signature = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if self._data is None or signature != self._signature:
                data = self.path.read_bytes()
                if not data.strip():
                    raise MaterialError(f"{self.what} {self.path} is empty")
                self._signature = signature
                if data != self._data:
                    self._data = data
                    self.generation += 1
            self._problem = ""
        except OSError as error:
            self._keep(MaterialError(f"{self.what} {self.path} cannot be read: {error.strerror}"))
        except MaterialError as error:
            self._keep(error)
        assert self._data is not None
        return self._data

    def _keep(self, error: MaterialError) -> None:
        """Go on with the last content, if there is any."""
        if self._data is None:
            raise error
        if str(error) != self._problem:
            self._problem = str(error)
            log.warning("%s; the last content stays in use", error)

    def expire_check(self) -> None:
        """Check the file again at the next read, for a caller that was just told that the content is no longer
        good."""
        self._checked = float("-inf")


class ClientTls:
    """The TLS side of a client: trusted CAs and, optionally, a client certificate; rebuilt when a file changes.

    The context never skips verification of the chain. `check_hostname` can be switched off by an owner who compares
    the names in the certificate with more than the one name that was dialled; `insecure` is only for an operator's
    explicit request.
    """

    def __init__(
        self,
        *,
        ca: Source | None,
        certificate: Source | None = None,
        key: Source | None = None,
        check_hostname: bool = True,
        insecure: bool = False,
    ) -> None:
        if (certificate is None) != (key is None):
            raise ValueError("a client certificate and its key belong together")
        self.ca = ca
        self.certificate = certificate
        self.key = key
        self._check_hostname = check_hostname
        self._insecure = insecure
        self._context: ssl.SSLContext | None = None
        self._generations: tuple[int, ...] = ()
        self._checked = float("-inf")
        #: What was logged last: a file stays broken for many seconds.
        self._problem = ""

    def context(self) -> ssl.SSLContext:
        """Return the context for new connections: the same object as long as no file has changed."""
        now = time.monotonic()
        if self._context is not None and now - self._checked < CHECK_INTERVAL:
            return self._context
        self._checked = now
        sources = [source for source in (self.ca, self.certificate, self.key) if source is not None]
        contents = [source.read() for source in sources]
        generations = tuple(source.generation for source in sources)
        if self._context is None or generations != self._generations:
            try:
                self._context = self._build(dict(zip(sources, contents, strict=True)))
                self._generations = generations
                self._problem = ""
            except MaterialError as error:
                # Certificate and key are two files: in between their replacement they do not match.
                if self._context is None:
                    raise
                if str(error) != self._problem:
                    self._problem = str(error)
                    log.warning("%s; the last working TLS material stays in use", error)
        return self._context

    def _build(self, contents: dict[Source, bytes]) -> ssl.SSLContext:
        # Not create_default_context: from Python 3.13 on it adds VERIFY_X509_STRICT, which refuses the CAs of older
        # installers.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = self._check_hostname and not self._insecure
        if self._insecure:
            context.verify_mode = ssl.CERT_NONE
        elif self.ca is None:
            context.load_default_certs()
        else:
            # A certificate in the CA file is trusted as it is, also when it is not self-signed, as Kubernetes' own
            # clients do.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            try:
                # Between certificates may stand comments, and those of bundles name authorities in their own letters.
                context.load_verify_locations(cadata=contents[self.ca].decode("ascii", "ignore"))
            except (ssl.SSLError, ValueError, TypeError) as error:
                raise MaterialError(f"{_name(self.ca)} holds no usable PEM certificate") from error
        if self.certificate is not None and self.key is not None:
            pem = contents[self.certificate].rstrip() + b"\n" + contents[self.key]
            try:
                with _as_file(pem) as path:
                    context.load_cert_chain(path, password=_no_password(self.key))
            except (ssl.SSLError, ValueError) as error:
                names = f"{_name(self.certificate)} and {_name(self.key)}"
                raise MaterialError(f"{names} are not a certificate and its private key in PEM") from error
        return context


def _name(source: Source) -> str:
    return f"{source.what} {source.path}" if source.path else source.what


def _no_password(key: Source) -> Callable[[], str]:
    def ask() -> str:
        # Without this OpenSSL would ask on the terminal and hang.
        raise ValueError(f"{_name(key)} is encrypted")

    return ask


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give content a path: `load_cert_chain` takes nothing else. A memory file keeps keys off the disk where the
    system has it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("tls", os.MFD_CLOEXEC)
        try:
            os.write(fd, content)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
    else:  # pragma: no cover - not on Linux
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
