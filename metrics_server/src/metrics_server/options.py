# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: upstream metrics-server's flags, with its rules, and a few of this server's own.

Each field of `Options` declares its flag, with default and help; `FLAGS` follows from them.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from metrics_server.api.selectors import SelectorError, parse_label_selector
from metrics_server.flags import FlagError, FlagSet, flag, flags_of, format_duration
from metrics_server.scrape.address import ADDRESS_TYPES
from metrics_server.tls.listener import BROKEN_CIPHER_SUITES, CIPHER_SUITES, TLS13_CIPHER_SUITES
from metrics_server.unused_flags import (
    AUTHENTICATION,
    AUTHORIZATION,
    FEATURES,
    GENERIC,
    KUBELET,
    LOGGING,
    MAIN,
    MANAGED,
    SERVING,
    UNUSED_FLAGS,
)

_TLS_VERSIONS = ("VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13")
_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_READ_ONLY_PORT = 10255


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a run."""

    metric_resolution: float = flag("duration", 60.0, MAIN, "How often each kubelet is asked, at least 10s.")
    kubeconfig: str = flag(
        "string",
        "",
        MAIN,
        "Kubeconfig file for the API server and the kubelets; without it the pod's service account is used.",
    )
    version: bool = flag("bool", False, MAIN, "Print the version and exit.")
    help: bool = flag("bool", False, MAIN, "Print this help and exit.", shorthand="h")
    max_requests_inflight: int = flag(
        "int", 400, GENERIC, "Requests that may be under way at once; more are answered 429. 0 sets no limit."
    )
    request_timeout: float = flag(
        "duration", 60.0, GENERIC, "How long one request may take, including a client that reads its answer slowly."
    )
    max_connections: int = flag(
        "int",
        2000,
        GENERIC,
        "Connections open at once; at most a quarter unauthenticated; the oldest of those is evicted first.",
    )
    shutdown_delay_duration: float = flag(
        "duration",
        0.0,
        GENERIC,
        "How long to go on serving after SIGTERM while /readyz already fails, for load balancers to notice.",
    )
    shutdown_send_retry_after: bool = flag(
        "bool",
        False,
        GENERIC,
        "While requests under way are finished, answer new ones with 429 instead of refusing connections.",
    )
    strict_transport_security_directives: tuple[str, ...] = flag(
        "strings",
        (),
        GENERIC,
        "Directives of the Strict-Transport-Security header, for example max-age=31536000,includeSubDomains.",
    )
    kubelet_port: int = flag("int", 10250, KUBELET, "The port of the kubelets.")
    kubelet_use_node_status_port: bool = flag(
        "bool", False, KUBELET, "Use the port that each Node names in its status, before --kubelet-port."
    )
    kubelet_preferred_address_types: tuple[str, ...] = flag(
        "strings", ADDRESS_TYPES, KUBELET, "Which of a node's addresses to dial, in order of preference."
    )
    kubelet_request_timeout: float = flag("duration", 10.0, KUBELET, "How long one request to a kubelet may take.")
    kubelet_certificate_authority: str = flag(
        "string",
        "",
        KUBELET,
        "CA file to verify the kubelets' certificates with; without it the CA of the API server's connection.",
    )
    kubelet_client_certificate: str = flag("string", "", KUBELET, "Client certificate to show to the kubelets.")
    kubelet_client_key: str = flag("string", "", KUBELET, "Key of --kubelet-client-certificate.")
    kubelet_insecure_tls: bool = flag(
        "bool",
        False,
        KUBELET,
        "Do not verify the kubelets' certificates. For tests only: anyone on the path can read the server's token.",
    )
    kubelet_summary_api: bool = flag(
        "bool",
        False,
        KUBELET,
        "Ask kubelets for the Summary API (/stats/summary) instead of /metrics/resource; needs get on nodes/stats.",
    )
    deprecated_kubelet_completely_insecure: bool = flag(
        "bool", False, KUBELET, "Plain HTTP without any credential, for the kubelets' old read-only port (10255)."
    )
    node_selector: str = flag(
        "string",
        "",
        KUBELET,
        "Only nodes with matching labels, for example -l key1=value1,key2!=value2.",
        shorthand="l",
    )
    bind_address: str = flag(
        "ip", "0.0.0.0", SERVING, "Address to listen on; 0.0.0.0 and :: mean all addresses of both families."
    )
    secure_port: int = flag("int", 443, SERVING, "Port to serve HTTPS on.")
    cert_dir: str = flag(
        "string",
        "apiserver.local.config/certificates",
        SERVING,
        "Where a self-signed certificate is kept when none is given.",
    )
    tls_cert_file: str = flag(
        "string", "", SERVING, "Serving certificate with its chain (PEM); read again when it changes."
    )
    tls_private_key_file: str = flag("string", "", SERVING, "Key of --tls-cert-file.")
    tls_min_version: str = flag(
        "string", "", SERVING, "Oldest TLS version to speak: VersionTLS12 (also without the flag) or VersionTLS13."
    )
    tls_cipher_suites: tuple[str, ...] = flag(
        "strings", (), SERVING, f"Cipher suites to offer, of {', '.join((*TLS13_CIPHER_SUITES, *CIPHER_SUITES))}."
    )
    permit_port_sharing: bool = flag("bool", False, SERVING, "Use SO_REUSEPORT: several servers may share the port.")
    self_managed_certificate: bool = flag(
        "bool",
        False,
        MANAGED,
        "Keep CA and certificate in a Secret that all replicas share, and the APIServices' caBundle up to date.",
    )
    serving_secret: str = flag("string", "metrics-server-serving-cert", MANAGED, "Name of that Secret.")
    service_name: str = flag("string", "metrics-server", MANAGED, "Service that the certificate is for.")
    service_namespace: str = flag(
        "string", "", MANAGED, "Namespace of the Service and the Secret; without it the pod's."
    )
    apiservice: tuple[str, ...] = flag(
        "strings", ("v1beta1.metrics.k8s.io",), MANAGED, "APIServices whose caBundle is kept up to date."
    )
    authentication_kubeconfig: str = flag(
        "string",
        "",
        AUTHENTICATION,
        "Kubeconfig for token reviews and the cluster's settings; without it --kubeconfig, or the pod's account.",
    )
    authentication_skip_lookup: bool = flag(
        "bool",
        False,
        AUTHENTICATION,
        "Do not look up the cluster's authentication settings; only the flags below count.",
    )
    authentication_tolerate_lookup_failure: bool = flag(
        "bool",
        False,
        AUTHENTICATION,
        "Become ready although the cluster's authentication settings cannot be looked up.",
    )
    authentication_token_webhook_cache_ttl: float = flag(
        "duration", 10.0, AUTHENTICATION, "How long the answer to a token review is remembered."
    )
    client_ca_file: str = flag("string", "", AUTHENTICATION, "CA file for client certificates (CN = user, O = groups).")
    requestheader_client_ca_file: str = flag(
        "string",
        "",
        AUTHENTICATION,
        "CA file for the front proxy's certificate; headers that name users are believed from it alone.",
    )
    requestheader_allowed_names: tuple[str, ...] = flag(
        "strings", (), AUTHENTICATION, "Common names that the front proxy's certificate may have; without it any."
    )
    requestheader_username_headers: tuple[str, ...] = flag(
        "strings", ("x-remote-user",), AUTHENTICATION, "Headers with the user's name."
    )
    requestheader_group_headers: tuple[str, ...] = flag(
        "strings", ("x-remote-group",), AUTHENTICATION, "Headers with the user's groups."
    )
    requestheader_uid_headers: tuple[str, ...] = flag("strings", (), AUTHENTICATION, "Headers with the user's UID.")
    requestheader_extra_headers_prefix: tuple[str, ...] = flag(
        "strings", ("x-remote-extra-",), AUTHENTICATION, "Prefixes of headers with more about the user."
    )
    authorization_kubeconfig: str = flag(
        "string",
        "",
        AUTHORIZATION,
        "Kubeconfig file for access reviews; without it --kubeconfig, or the pod's account.",
    )
    authorization_always_allow_paths: tuple[str, ...] = flag(
        "strings",
        ("/healthz", "/readyz", "/livez"),
        AUTHORIZATION,
        "Paths that everybody may read; a * at the end allows all below.",
    )
    authorization_webhook_cache_authorized_ttl: float = flag(
        "duration", 10.0, AUTHORIZATION, "How long a yes of an access review is remembered."
    )
    authorization_webhook_cache_unauthorized_ttl: float = flag(
        "duration", 10.0, AUTHORIZATION, "How long a no of an access review is remembered."
    )
    profiling: bool = flag(
        "bool", True, FEATURES, "Serve profiles under /debug/pprof/ to those who may read that path."
    )
    logging_format: str = flag("string", "text", LOGGING, "Form of the log: text or json.")
    v: int = flag("int", 0, LOGGING, "Verbosity of the log: 4 and more show what is done step by step.", shorthand="v")
    vmodule: tuple[str, ...] = flag(
        "strings", (), LOGGING, "Verbosity of single modules, as pattern=N, for example scheduler=4 (text format only)."
    )
    #: Sentences to log at the start: flags without effect here, risky settings.
    warnings: tuple[str, ...] = ()


FLAGS = FlagSet((*flags_of(Options), *UNUSED_FLAGS))


def parse_options(arguments: Sequence[str]) -> Options:
    """Return the settings that a command line asks for; raise `FlagError` with one sentence when it cannot be."""
    parsed = FLAGS.parse(arguments)
    options = parsed.options(Options)
    if options.help or options.version:
        return options
    warnings = FLAGS.warnings(parsed)
    if parsed.values["source"]:
        raise FlagError(_replacement_of_source(parsed.values["source"]))
    _validate_kubelet(options, warnings)
    _validate_generic(options)
    _validate_serving(options, warnings)
    _validate_authentication(options)
    _validate_logging(options)
    namespace = options.service_namespace
    if options.self_managed_certificate and not namespace:
        namespace = _own_namespace()
    return replace(options, service_namespace=namespace, warnings=tuple(warnings))


def _validate_kubelet(options: Options, warnings: list[str]) -> None:
    authority, insecure_tls = options.kubelet_certificate_authority, options.kubelet_insecure_tls
    certificate, key = options.kubelet_client_certificate, options.kubelet_client_key
    insecure = options.deprecated_kubelet_completely_insecure
    timeout, resolution = options.kubelet_request_timeout, options.metric_resolution
    if authority and insecure_tls:
        raise FlagError("cannot use both --kubelet-certificate-authority and --kubelet-insecure-tls")
    if bool(certificate) != bool(key):
        raise FlagError("need both --kubelet-client-key and --kubelet-client-certificate")
    for name, value in (
        ("kubelet-client-key", key),
        ("kubelet-client-certificate", certificate),
        ("kubelet-insecure-tls", insecure_tls),
        ("kubelet-certificate-authority", authority),
    ):
        if value and insecure:
            raise FlagError(f"cannot use both --{name} and --deprecated-kubelet-completely-insecure")
    if timeout <= 0:
        raise FlagError("kubelet-request-timeout should be positive")
    if resolution < 10:
        raise FlagError(
            "metric-resolution should be a time duration at least 10s, "
            f"but value {format_duration(resolution)} provided"
        )
    # In nanoseconds, as 0.9 x 10 s must not fail by a rounding error.
    if round(resolution * 1e9) * 9 // 10 < round(timeout * 1e9):
        raise FlagError(
            "metric-resolution should be larger than kubelet-request-timeout, but metric-resolution value "
            f"{format_duration(resolution)} kubelet-request-timeout value {format_duration(timeout)} provided"
        )
    _port("kubelet-port", options.kubelet_port, lowest=1)
    if not options.kubelet_preferred_address_types:
        raise FlagError("--kubelet-preferred-address-types must name at least one type, for example InternalIP")
    unknown = [kind for kind in options.kubelet_preferred_address_types if kind not in ADDRESS_TYPES]
    if unknown:
        raise FlagError(
            f'--kubelet-preferred-address-types: unknown type "{unknown[0]}", must be one of {", ".join(ADDRESS_TYPES)}'
        )
    try:
        parse_label_selector(options.node_selector.strip())
    except SelectorError as error:
        raise FlagError(f'--node-selector "{options.node_selector}" is not a label selector: {error}') from None
    if insecure_tls:
        warnings.append("--kubelet-insecure-tls: the kubelets' certificates are not verified, use it for tests only")
    if insecure:
        warnings.append("--deprecated-kubelet-completely-insecure: the kubelets are asked in plain HTTP")
    elif options.kubelet_port == _READ_ONLY_PORT:
        warnings.append(
            "--kubelet-port=10255 is the kubelets' old read-only port, which does not speak HTTPS: "
            "use --kubelet-port=10250, or --deprecated-kubelet-completely-insecure where it must be"
        )


def _validate_generic(options: Options) -> None:
    for option in ("max_requests_inflight", "shutdown_delay_duration"):
        if getattr(options, option) < 0:
            raise FlagError(f"--{option.replace('_', '-')} can not be negative value")
    if options.request_timeout <= 0:
        raise FlagError("--request-timeout must be positive, for example 1m0s")
    if options.max_connections < 1:
        raise FlagError("--max-connections must be at least 1")
    for directive in options.strict_transport_security_directives:
        if directive not in ("includeSubDomains", "preload") and not (
            directive.startswith("max-age=") and directive[8:].isdecimal()
        ):
            raise FlagError(
                "--strict-transport-security-directives: invalid value "
                f'"{directive}", must be max-age=SECONDS, includeSubDomains or preload'
            )


def _validate_serving(options: Options, warnings: list[str]) -> None:
    if options.secure_port == 0:
        raise FlagError("--secure-port 0 would serve nothing: give a port between 1 and 65535")
    _port("secure-port", options.secure_port, lowest=1)
    certificate, key = options.tls_cert_file, options.tls_private_key_file
    if bool(certificate) != bool(key):
        raise FlagError("need both --tls-cert-file and --tls-private-key-file")
    if certificate and options.self_managed_certificate:
        raise FlagError("cannot use both --tls-cert-file and --self-managed-certificate")
    version = options.tls_min_version
    if version and version not in _TLS_VERSIONS:
        raise FlagError(
            f'--tls-min-version: unknown tls version "{version}", must be one of {", ".join(_TLS_VERSIONS)}'
        )
    if version in ("VersionTLS10", "VersionTLS11"):
        warnings.append(f"--tls-min-version={version}: versions before TLS 1.2 are broken and not offered")
    for suite in options.tls_cipher_suites:
        if suite in BROKEN_CIPHER_SUITES:
            raise FlagError(f"--tls-cipher-suites: {suite} is broken and not offered by this server")
        if suite not in CIPHER_SUITES and suite not in TLS13_CIPHER_SUITES:
            raise FlagError(f"--tls-cipher-suites: Cipher suite {suite} not supported or doesn't exist (see --help)")
    if options.self_managed_certificate:
        for option in ("serving_secret", "service_name"):
            if not getattr(options, option):
                raise FlagError(f"--{option.replace('_', '-')} must not be empty with --self-managed-certificate")


def _validate_authentication(options: Options) -> None:
    if options.requestheader_client_ca_file and not options.requestheader_username_headers:
        raise FlagError("--requestheader-username-headers must name at least one header")
    for kind in ("username", "group", "uid"):
        for header in getattr(options, f"requestheader_{kind}_headers"):
            if not header.strip():
                raise FlagError(f"--requestheader-{kind}-headers: the name of a header must not be empty")
    for prefix in options.requestheader_extra_headers_prefix:
        if not prefix.strip():
            raise FlagError("--requestheader-extra-headers-prefix: a prefix must not be empty")
    for option in (
        "authentication_token_webhook_cache_ttl",
        "authorization_webhook_cache_authorized_ttl",
        "authorization_webhook_cache_unauthorized_ttl",
    ):
        if getattr(options, option) < 0:
            raise FlagError(f"--{option.replace('_', '-')} must not be negative")
    for path in options.authorization_always_allow_paths:
        if "*" in path[:-1]:
            raise FlagError(f'--authorization-always-allow-paths: "{path}": only trailing * allowed')


def _validate_logging(options: Options) -> None:
    if options.logging_format not in ("text", "json"):
        raise FlagError(
            f'--logging-format: Invalid value: "{options.logging_format}": Unsupported log format, must be text or json'
        )
    if options.v < 0:
        raise FlagError("-v must not be negative")
    for pair in options.vmodule:
        pattern, equals, level = pair.partition("=")
        if not equals or not pattern or not level.isdecimal():
            raise FlagError(f'--vmodule: "{pair}" is not of the form pattern=N')
        fnmatch.translate(pattern)
    if options.vmodule and options.logging_format != "text":
        raise FlagError("--vmodule: Only supported for text log format")


def _port(name: str, value: int, *, lowest: int) -> None:
    if not lowest <= value <= 65535:
        raise FlagError(f"--{name} {value} must be between {lowest} and 65535, inclusive")


def _own_namespace() -> str:
    namespace = os.environ.get("POD_NAMESPACE", "").strip()
    if not namespace:
        try:
            namespace = Path(_NAMESPACE_FILE).read_text(encoding="utf-8").strip()
        except OSError:
            namespace = ""
    if not namespace:
        raise FlagError("--self-managed-certificate needs --service-namespace (or POD_NAMESPACE) outside of a pod")
    return namespace


def _replacement_of_source(source: str) -> str:
    """Return the sentence that translates a `--source` of the old days."""
    # Not by urlsplit alone: the underscore makes `kubernetes.summary_api` no scheme of a URL.
    kind, _unused, address = source.partition(":")
    if kind not in ("kubernetes.summary_api", "kubernetes"):
        return f"--source={source} is not known: this server always asks the kubelets, remove the flag"
    query = parse_qs(urlsplit(address).query)
    port = query.get("kubeletPort", ["10250"])[0]
    replacements = [f"--kubelet-port={port}"]
    if query.get("kubeletHttps", ["true"])[0] == "false" or (port == "10255" and "kubeletHttps" not in query):
        replacements.append("--deprecated-kubelet-completely-insecure")
    elif query.get("insecure", ["false"])[0] == "true":
        replacements.append("--kubelet-certificate-authority=FILE (or, for tests only, --kubelet-insecure-tls)")
    return f"--source is a flag of the 0.2 generation and was replaced: use {' '.join(replacements)} instead"
