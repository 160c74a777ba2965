# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTPS to registries: whom it trusts, where it follows to, and what answers ask for.

Connections are TLS, verified; there is no switch for anything else.
"""

from __future__ import annotations

import base64
import email.utils
import os
import re
import ssl
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host.probes import proxy_for
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import reference as references
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import anchors

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
#: A scheme, or a parameter of the scheme before it.
_CHALLENGE = re.compile(r'(%s)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]+)))?' % _TOKEN)


def host_of(url: str) -> str:
    """The host of a URL in its usual spelling; nothing where it is no URL of HTTPS."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return ""
    return references.normalized(parts.netloc.rpartition("@")[2]) if parts.scheme == "https" else ""


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows to another place (where blobs really are), but never out of TLS."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        host = host_of(newurl)
        if not host:
            raise urllib.error.URLError("it redirects to %s, which is not encrypted" % newurl.partition("?")[0])
        # Older Pythons do not know 308, which is 307 for good.
        follow = super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)
        if follow is None:
            return None
        if req.get_method() == "HEAD":
            # Python before 3.13 makes a GET of it. A storage's signature is for one method only.
            follow.method = "HEAD"
        authorization = req.unredirected_hdrs.get("Authorization")
        if authorization and host == host_of(req.full_url):
            # Other places have an authorization of their own in the URL.
            follow.add_unredirected_header("Authorization", authorization)
        return follow

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302


def proxy_parts(proxy: str) -> t.Tuple[str, str]:
    """The address of a proxy with its port, and the value of Proxy-Authorization or nothing. Raises ImageError."""
    try:
        parts = urllib.parse.urlsplit(proxy)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme not in ("http", "https"):
        # The value is not shown: it may have a password.
        raise ImageError("HTTPS_PROXY is no address of an HTTP proxy; one looks like http://proxy.example.com:3128.")
    address = "[%s]:%d" % (host, port) if ":" in host else "%s:%d" % (host, port)
    if parts.username is None:
        return address, ""
    login = "%s:%s" % (urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
    return address, "Basic " + base64.b64encode(login.encode()).decode()


class EnvironmentProxy(urllib.request.BaseHandler):
    """The proxy that the environment names for a host, as container runtimes and the API server read it.

    Python's own rules for NO_PROXY know neither networks nor addresses of IPv6.
    """

    #: Before the handler that connects.
    handler_order = 100

    def __init__(self, environment: t.Optional[t.Mapping[str, str]] = None):
        self.environment = os.environ if environment is None else environment

    def https_open(self, req):
        parts = urllib.parse.urlsplit(req.full_url)
        proxy = proxy_for(parts.hostname or "", parts.port or 443, self.environment)
        if proxy:
            address, authorization = proxy_parts(proxy)
            if authorization:
                # It goes to the proxy only, and not along with redirects.
                req.add_unredirected_header("Proxy-Authorization", authorization)
            req.set_proxy(address, "https")
        # Next is the handler that connects.


def tls(ca_file: str) -> ssl.SSLContext:
    """What the system trusts (SSL_CERT_FILE, SSL_CERT_DIR), and the given CA."""
    # Container runtimes, which pull from the same registry, are of Go, too.
    context = anchors.like_kubernetes(ssl.create_default_context())
    if not context.get_ca_certs() and not ssl.get_default_verify_paths().capath:
        # Python of python.org on macOS brings no CA of its own; certifi comes with the kubernetes client.
        try:
            import certifi
        except ImportError:
            pass
        else:
            context.load_verify_locations(cafile=certifi.where())
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (ssl.SSLError, OSError) as exc:
            raise ImageError("%s holds no certificate in PEM form." % ca_file) from exc
    return context


def opener(ca_file: str) -> urllib.request.OpenerDirector:
    """What sends requests."""
    return urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=tls(ca_file)),
        SafeRedirects(),
        # Instead of Python's own handler.
        urllib.request.ProxyHandler({}),
        EnvironmentProxy(),
    )


def challenges(headers: t.Iterable[str]) -> t.List[t.Tuple[str, t.Dict[str, str]]]:
    """The schemes, each with its parameters, of the headers WWW-Authenticate, each of which may have several."""
    found: t.List[t.Tuple[str, t.Dict[str, str]]] = []
    for header in headers:
        for match in _CHALLENGE.finditer(header):
            name, quoted, plain = match.groups()
            if quoted is None and plain is None:
                found.append((name.lower(), {}))
            elif found:
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1][1][name.lower()] = value
    return found


def retry_after(headers: t.Any, now: float) -> float:
    """Seconds that an answer asks to wait for, as a number or a date; 0 where it says nothing of the kind."""
    said = str(headers.get("Retry-After") or "").strip()
    if said.isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
