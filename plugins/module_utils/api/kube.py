# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small client of API servers: raw requests to each server of a cluster, with the credentials of one kubeconfig.

The official client reads the kubeconfig and sets up TLS; discovery and typed objects are left out on purpose, because a
dead aggregated API makes full discovery slow or fail, and that is just when this collection is needed.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import email.utils
import json
import os
import re
import socket
import ssl
import threading
import time
import traceback
import typing as t
from urllib.parse import urlencode, urlsplit

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kubeconfig as kubeconfigs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import anchors

KUBERNETES_IMPORT_ERROR: t.Optional[str] = None
try:
    import urllib3
    import yaml
except ImportError:
    KUBERNETES_IMPORT_ERROR = traceback.format_exc()

API_ARGUMENTS: t.Dict[str, t.Dict[str, t.Any]] = {
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
    "request_timeout": {"type": "float", "default": 10},
}

PAGE_SIZE = 1000
MAX_BODY = 512 << 20
_CHUNK = 1 << 16
_RFC3339 = re.compile(r"^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))$")


class KubeError(Exception):
    """A request that was not answered as it should. status is None when there was no answer at all."""

    def __init__(
        self,
        message: str,
        *,
        status: t.Optional[int] = None,
        reason: str = "",
        final: bool = False,
        body: str = "",
        date: t.Optional[datetime.datetime] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        #: Asking again cannot help: the kubeconfig is wrong, or a certificate does not verify.
        self.final = final
        self.body = body
        self.date = date


class Response(t.NamedTuple):
    status: int
    body: bytes
    date: t.Optional[datetime.datetime]

    def json(self) -> t.Any:
        return json.loads(self.body)


# --- pure functions -------------------------------------------------------------------------------------------------


def parse_rfc3339(text: t.Optional[str]) -> t.Optional[datetime.datetime]:
    """A time of the Kubernetes API, or None where there is none or none that can be read."""
    match = _RFC3339.match(text) if isinstance(text, str) else None
    if not match:
        return None
    year, month, day, hour, minute, second, fraction, sign, zone_hour, zone_minute = match.groups()
    zone = datetime.timezone.utc
    try:
        if sign:
            offset = datetime.timedelta(hours=int(zone_hour), minutes=int(zone_minute))
            zone = datetime.timezone(-offset if sign == "-" else offset)
        return datetime.datetime(
            int(year),
            int(month),
            int(day),
            int(hour),
            int(minute),
            min(int(second), 59),
            int((fraction or "0")[:6].ljust(6, "0")),
            zone,
        )
    except ValueError:
        return None


def parse_http_date(text: t.Optional[str]) -> t.Optional[datetime.datetime]:
    if not text:
        return None
    try:
        return email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None


def age_seconds(moment: t.Optional[datetime.datetime], now: datetime.datetime) -> t.Optional[float]:
    return None if moment is None else (now - moment).total_seconds()


def normalize_server(text: str) -> str:
    """The URL of an API server as it is used here. Raises ValueError with a sentence."""
    url = text.strip().rstrip("/")
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme != "https" or not parts.hostname or port == -1 or parts.query or parts.fragment or parts.username:
        raise ValueError(
            "%r is no URL of an API server; give it as https://HOST:PORT, for example https://192.0.2.11:6443." % text
        )
    return url


def status_message(body: bytes) -> t.Tuple[str, str]:
    """Reason and message of an error answer: a Status object, or plain text."""
    text = body[: 1 << 16].decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError):
        status = json.loads(text)
        if isinstance(status, dict):
            return str(status.get("reason") or ""), str(status.get("message") or "")
    return "", " ".join(text.split())[:300]


def deepest(exc: BaseException) -> BaseException:
    """The cause behind the wrappers of urllib3."""
    seen = set()
    while id(exc) not in seen:
        seen.add(id(exc))
        inner = getattr(exc, "reason", None)
        if not isinstance(inner, BaseException):
            inner = exc.__cause__ or next((arg for arg in exc.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        exc = inner
    return exc


def tls_words(exc: BaseException) -> t.Optional[str]:
    """What is wrong when TLS is the trouble, without the library's decoration."""
    text = str(exc)
    match = re.search(r"certificate verify failed: (.*?)(?: \(_ssl\.c:\d+\))?['\")]*$", text)
    if match:
        return "its certificate does not verify: " + match.group(1).strip().rstrip(".")
    if "doesn't match" in text or "Hostname mismatch" in text:
        return "its certificate does not verify: " + text.rstrip(".")
    return None


def transport_error(exc: BaseException, server: str, timeout: float) -> KubeError:
    """The one sentence for a request without an answer."""
    cause = deepest(exc)
    words = tls_words(cause) or tls_words(exc)
    if words:
        return KubeError("%s is not trusted: %s." % (server, words), reason="Untrusted", final=True)
    if isinstance(cause, (socket.timeout, TimeoutError)) or "timed out" in str(cause).lower():
        return KubeError("%s did not answer within %g s." % (server, timeout), reason="Timeout")
    if isinstance(cause, ConnectionRefusedError):
        return KubeError("%s refused the connection." % server, reason="ConnectionRefused")
    if isinstance(cause, socket.gaierror):
        return KubeError("%s has a host name that does not resolve." % server, reason="NameResolution")
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return KubeError("%s could not be reached: %s." % (server, str(text).rstrip(".")), reason="Connection")


def http_error(status: int, body: bytes, server: str, path: str, date: t.Optional[datetime.datetime]) -> KubeError:
    reason, message = status_message(body)
    said = message or reason or "no text"
    return KubeError(
        "%s answered %d to %s: %s." % (server, status, path, said.rstrip(".")),
        status=status,
        reason=reason,
        body=message,
        date=date,
    )


# --- requests -------------------------------------------------------------------------------------------------------


class PlainConfiguration:
    """A kubeconfig that needs no more than a TLS context and perhaps a token."""

    def __init__(self, plain: kubeconfigs.PlainKubeconfig) -> None:
        self.host = plain.host
        self._plain = plain

    def headers(self) -> t.Dict[str, str]:
        # As for kubectl, a client certificate does not keep a token from being sent.
        return {"Authorization": "Bearer " + self._plain.token} if self._plain.token else {}

    def ssl_context(self) -> ssl.SSLContext:
        context = self._plain.ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    def server_name(self) -> t.Optional[str]:
        return urlsplit(self.host).hostname

    def pool_for(self, unused_server: str) -> t.Any:
        return urllib3.PoolManager(ssl_context=self.ssl_context(), maxsize=16)


class OfficialConfiguration:
    """Any kubeconfig, by the official client."""

    def __init__(self, configuration: t.Any, rest_client: t.Any) -> None:
        self.host = configuration.host
        self._configuration = configuration
        self._rest_client = rest_client

    def headers(self) -> t.Dict[str, str]:
        settings = self._configuration.auth_settings().values()
        return {
            setting["key"]: setting["value"]
            for setting in settings
            if setting.get("in") == "header" and setting.get("value")
        }

    def ssl_context(self) -> t.Optional[ssl.SSLContext]:
        """What verifies the API server, or None where it is reached through a proxy."""
        if self._configuration.proxy:
            return None
        context = anchors.like_kubernetes(ssl.create_default_context(cafile=self._configuration.ssl_ca_cert or None))
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    def server_name(self) -> t.Optional[str]:
        return self._configuration.tls_server_name or urlsplit(self.host).hostname

    def pool_for(self, server: str) -> t.Any:
        configuration = copy.copy(self._configuration)
        if server != normalize_server(self.host):
            configuration.host = server
            # Another server is not the one that the kubeconfig may name by tls-server-name.
            configuration.tls_server_name = None
        pool = self._rest_client(configuration).pool_manager
        # Python 3.13 refuses authorities without extensions that Kubernetes never asked for, as many hand-made ones
        # are. Chain, dates and host name are verified as before.
        context = anchors.like_kubernetes(urllib3.util.ssl_.create_urllib3_context())
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        pool.connection_pool_kw["ssl_context"] = context
        return pool


def official_configuration(kubeconfig: t.Optional[str], context: t.Optional[str], name: str) -> OfficialConfiguration:
    """Have the official client read a kubeconfig. Raises KubeError."""
    try:
        # Here, because loading it takes longer than most requests.
        from kubernetes import client as kubernetes_client
        from kubernetes import config as kubernetes_config
        from kubernetes.client.rest import RESTClientObject
    except ImportError as exc:
        raise KubeError(
            "%s needs the Python package kubernetes; install it where this module runs." % name, final=True
        ) from exc
    configuration = kubernetes_client.Configuration()
    try:
        kubernetes_config.load_kube_config(
            config_file=kubeconfig,
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except kubernetes_config.ConfigException as exc:
        raise KubeError("%s cannot be used: %s." % (name, str(exc).rstrip(".")), final=True) from exc
    except OSError as exc:
        raise KubeError("%s cannot be read: %s." % (name, _one_line(exc)), final=True) from exc
    except (ValueError, TypeError, AttributeError, KeyError) as exc:
        # What the loader lets through for files that are YAML, but of another kind.
        raise KubeError("%s is no kubeconfig (%s)." % (name, _one_line(exc)), final=True) from exc
    except yaml.YAMLError as exc:
        raise KubeError("%s is not valid YAML: %s." % (name, _one_line(exc)), final=True) from exc
    if not configuration.verify_ssl:
        raise KubeError(
            "%s switches certificate verification off (insecure-skip-tls-verify); give it the cluster's CA, as "
            "certificate-authority, instead." % name,
            final=True,
        )
    return OfficialConfiguration(configuration, RESTClientObject)


class Api:
    """API servers behind one kubeconfig. Certificates are always verified, each server's by the host in its URL."""

    def __init__(self, configuration: t.Any, *, request_timeout: float) -> None:
        self._configuration = configuration
        self._pools: t.Dict[str, t.Any] = {}
        self._lock = threading.Lock()
        self.request_timeout = request_timeout
        self.server = normalize_server(configuration.host)

    @classmethod
    def connect(
        cls, *, kubeconfig: t.Optional[str] = None, context: t.Optional[str] = None, request_timeout: float = 10.0
    ) -> "Api":
        """Read the kubeconfig. Raises KubeError; nothing is sent yet, except by a credential plugin."""
        name = kubeconfig or "the default kubeconfig ($KUBECONFIG or ~/.kube/config)"
        if request_timeout <= 0:
            raise KubeError("request_timeout is %g; give more than 0 seconds." % request_timeout, final=True)
        if kubeconfig and not os.path.isfile(kubeconfig):
            raise KubeError("%s does not exist; give kubeconfig the path of a kubeconfig file." % name, final=True)
        plain = kubeconfigs.read_plain(kubeconfig, context)
        configuration: t.Union[PlainConfiguration, OfficialConfiguration]
        configuration = PlainConfiguration(plain) if plain else official_configuration(kubeconfig, context, name)
        try:
            return cls(configuration, request_timeout=request_timeout)
        except ValueError as exc:
            raise KubeError("%s: %s" % (name, exc), final=True) from exc

    def _pool(self, server: str) -> t.Any:
        with self._lock:
            if server not in self._pools:
                try:
                    self._pools[server] = self._configuration.pool_for(server)
                except (OSError, ValueError) as exc:
                    raise KubeError(
                        "The certificates of the kubeconfig cannot be used: %s." % _one_line(exc), final=True
                    ) from exc
            return self._pools[server]

    def certificate_names(self) -> t.List[str]:
        """The addresses and names that the API server's certificate is for: by these, clients know API servers.

        Nothing is known of a server behind a proxy.
        """
        try:
            context = self._configuration.ssl_context()
            if context is None:
                return []
            parts = urlsplit(self.server)
            address = (parts.hostname or "", parts.port or 443)
            # The wrapper takes the connection over, and closes it when the handshake fails.
            connection = socket.create_connection(address, timeout=self.request_timeout)
            with context.wrap_socket(connection, server_hostname=self._configuration.server_name()) as secured:
                certificate = secured.getpeercert() or {}
        except OSError as exc:
            raise transport_error(exc, self.server, self.request_timeout) from exc
        return [str(value) for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]

    def _headers(self) -> t.Dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "kubemetrics.aggregation"}
        with self._lock:
            headers.update(self._configuration.headers())
        return headers

    @contextlib.contextmanager
    def _open(
        self,
        method: str,
        path: str,
        *,
        server: t.Optional[str] = None,
        query: t.Optional[t.Mapping[str, t.Any]] = None,
        body: t.Any = None,
        content_type: str = "application/json",
        timeout: t.Optional[float] = None,
        accept: t.Optional[str] = None,
    ) -> t.Iterator[t.Tuple[t.Any, str, float]]:
        server = server or self.server
        timeout = timeout or self.request_timeout
        pool = self._pool(server)
        headers = self._headers()
        if accept:
            headers["Accept"] = accept
        if body is not None:
            headers["Content-Type"] = content_type
        url = server + path + ("?" + urlencode(query) if query else "")
        try:
            response = pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode("utf-8"),
                headers=headers,
                timeout=urllib3.Timeout(total=timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise transport_error(exc, server, timeout) from exc
        try:
            yield response, server, timeout
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise transport_error(exc, server, timeout) from exc
        finally:
            # An answer that was not read to its end must not go back to the pool.
            if not getattr(response, "isclosed", lambda: False)():
                response.close()
            response.release_conn()

    def request(self, method: str, path: str, **arguments: t.Any) -> Response:
        """One request; any HTTP status is an answer. Raises KubeError when there is none in time."""
        deadline = time.monotonic() + (arguments.get("timeout") or self.request_timeout)
        with self._open(method, path, **arguments) as (response, server, timeout):
            chunks = []
            size = 0
            for chunk in response.stream(_CHUNK, decode_content=True):
                chunks.append(chunk)
                size += len(chunk)
                if time.monotonic() > deadline:
                    raise KubeError("%s did not finish its answer within %g s." % (server, timeout), reason="Timeout")
                if size > MAX_BODY:
                    raise KubeError("%s sent more than %d MiB." % (server, MAX_BODY >> 20), final=True)
            return Response(response.status, b"".join(chunks), parse_http_date(response.headers.get("Date")))

    def get(self, path: str, **arguments: t.Any) -> t.Tuple[t.Any, t.Optional[datetime.datetime]]:
        """A decoded object and the server's clock. Raises KubeError for everything else."""
        return self._decoded("GET", path, **arguments)

    def send(self, method: str, path: str, body: t.Any, **arguments: t.Any) -> t.Any:
        return self._decoded(method, path, body=body, **arguments)[0]

    def _decoded(self, method: str, path: str, **arguments: t.Any) -> t.Tuple[t.Any, t.Optional[datetime.datetime]]:
        server = arguments.get("server") or self.server
        response = self.request(method, path, **arguments)
        if not 200 <= response.status < 300:
            raise http_error(response.status, response.body, server, path, response.date)
        try:
            return response.json(), response.date
        except ValueError as exc:
            raise KubeError(
                "%s answered %s with something that is not JSON; is it an API server?" % (server, path),
                status=response.status,
            ) from exc

    def list(
        self, path: str, *, query: t.Optional[t.Mapping[str, t.Any]] = None, **arguments: t.Any
    ) -> t.Tuple[t.List[t.Dict[str, t.Any]], t.Optional[datetime.datetime]]:
        """All items of a collection, read in pages, and the clock of the server."""
        items: t.List[t.Dict[str, t.Any]] = []
        token = ""
        while True:
            page = dict(query or {}, limit=PAGE_SIZE)
            if token:
                page["continue"] = token
            body, date = self.get(path, query=page, **arguments)
            body = body if isinstance(body, dict) else {}
            items.extend(item for item in body.get("items") or () if isinstance(item, dict))
            token = (body.get("metadata") or {}).get("continue") or ""
            if not token:
                return items, date

    def lines(self, path: str, **arguments: t.Any) -> t.Iterator[str]:
        """The lines of a text answer as they come; a caller that has seen enough stops, and the rest is not read."""
        deadline = time.monotonic() + (arguments.get("timeout") or self.request_timeout)
        with self._open("GET", path, **arguments) as (response, server, timeout):
            if response.status != 200:
                raise http_error(
                    response.status,
                    response.read(_CHUNK, decode_content=True),
                    server,
                    path,
                    parse_http_date(response.headers.get("Date")),
                )
            rest = b""
            for chunk in response.stream(_CHUNK, decode_content=True):
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    yield line.decode("utf-8", "replace")
                if time.monotonic() > deadline:
                    raise KubeError("%s did not finish its answer within %g s." % (server, timeout), reason="Timeout")
            if rest:
                yield rest.decode("utf-8", "replace")

    def ready(self, server: t.Optional[str] = None) -> bool:
        """Whether a server says it is ready. One that starts answers other requests with 403 and 503 first."""
        try:
            return self.request("GET", "/readyz", server=server).status == 200
        except KubeError:
            return False

    def is_final(self, error: KubeError, server: t.Optional[str] = None) -> bool:
        """Whether waiting cannot heal an error: what does not verify, and a refusal by a server that is up."""
        return error.final or (error.status in (401, 403) and self.ready(server))


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()).rstrip(".") or type(exc).__name__
