# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: upstream metrics-server's flags, with its rules, and a few of this server's own."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from metrics_server.api.selectors import SelectorError, parse_label_selector
from metrics_server.flags import FlagError, format_duration
from metrics_server.server_flags import ADDRESS_TYPES, FLAGS
from metrics_server.tls.listener import BROKEN_CIPHER_SUITES, CIPHER_SUITES, TLS13_CIPHER_SUITES

_TLS_VERSIONS = ("VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13")
_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_READ_ONLY_PORT = 10255


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a run, validated."""

    metric_resolution: float
    kubeconfig: str
    max_requests_inflight: int
    request_timeout: float
    max_connections: int
    shutdown_delay_duration: float
    shutdown_send_retry_after: bool
    strict_transport_security_directives: tuple[str, ...]
    kubelet_port: int
    kubelet_use_node_status_port: bool
    kubelet_preferred_address_types: tuple[str, ...]
    kubelet_request_timeout: float
    kubelet_certificate_authority: str
    kubelet_client_certificate: str
    kubelet_client_key: str
    kubelet_insecure_tls: bool
    deprecated_kubelet_completely_insecure: bool
    node_selector: str
    bind_address: str
    secure_port: int
    cert_dir: str
    tls_cert_file: str
    tls_private_key_file: str
    tls_min_version: str
    tls_cipher_suites: tuple[str, ...]
    permit_port_sharing: bool
    self_managed_certificate: bool
    serving_secret: str
    service_name: str
    service_namespace: str
    apiservice: tuple[str, ...]
    authentication_kubeconfig: str
    authentication_skip_lookup: bool
    authentication_tolerate_lookup_failure: bool
    authentication_token_webhook_cache_ttl: float
    client_ca_file: str
    requestheader_client_ca_file: str
    requestheader_allowed_names: tuple[str, ...]
    requestheader_username_headers: tuple[str, ...]
    requestheader_group_headers: tuple[str, ...]
    requestheader_uid_headers: tuple[str, ...]
    requestheader_extra_headers_prefix: tuple[str, ...]
    authorization_kubeconfig: str
    authorization_always_allow_paths: tuple[str, ...]
    authorization_webhook_cache_authorized_ttl: float
    authorization_webhook_cache_unauthorized_ttl: float
    profiling: bool
    logging_format: str
    v: int
    vmodule: tuple[str, ...]
    help: bool
    version: bool
    #: Sentences to log at the start: flags without effect here, risky settings.
    warnings: tuple[str, ...] = ()


def parse_options(arguments: Sequence[str]) -> Options:
    """Return the settings that a command line asks for; raise `FlagError` with one sentence when it cannot be."""
    parsed = FLAGS.parse(arguments)
    values = parsed.values
    if values["help"] or values["version"]:
        return _options(values, ())
    warnings = FLAGS.warnings(parsed)
    if values["source"]:
        raise FlagError(_replacement_of_source(values["source"]))
    _validate_kubelet(values, warnings)
    _validate_generic(values)
    _validate_serving(values, warnings)
    _validate_authentication(values)
    _validate_logging(values)
    return _options(values, warnings)


def _options(values: dict[str, Any], warnings: Sequence[str]) -> Options:
    known = {field.name: values[field.name] for field in fields(Options) if field.name != "warnings"}
    return Options(**known, warnings=tuple(warnings))


def _validate_kubelet(values: dict[str, Any], warnings: list[str]) -> None:
    authority, insecure_tls = values["kubelet_certificate_authority"], values["kubelet_insecure_tls"]
    certificate, key = values["kubelet_client_certificate"], values["kubelet_client_key"]
    insecure = values["deprecated_kubelet_completely_insecure"]
    timeout, resolution = values["kubelet_request_timeout"], values["metric_resolution"]
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
    _port("kubelet-port", values["kubelet_port"], lowest=1)
    if not values["kubelet_preferred_address_types"]:
        raise FlagError("--kubelet-preferred-address-types must name at least one type, for example InternalIP")
    unknown = [kind for kind in values["kubelet_preferred_address_types"] if kind not in ADDRESS_TYPES]
    if unknown:
        raise FlagError(
            f'--kubelet-preferred-address-types: unknown type "{unknown[0]}", must be one of {", ".join(ADDRESS_TYPES)}'
        )
    try:
        parse_label_selector(values["node_selector"].strip())
    except SelectorError as error:
        raise FlagError(f'--node-selector "{values["node_selector"]}" is not a label selector: {error}') from None
    if insecure_tls:
        warnings.append("--kubelet-insecure-tls: the kubelets' certificates are not verified, use it for tests only")
    if insecure:
        warnings.append("--deprecated-kubelet-completely-insecure: the kubelets are asked in plain HTTP")
    elif values["kubelet_port"] == _READ_ONLY_PORT:
        warnings.append(
            "--kubelet-port=10255 is the kubelets' old read-only port, which does not speak HTTPS: "
            "use --kubelet-port=10250, or --deprecated-kubelet-completely-insecure where it must be"
        )


def _validate_generic(values: dict[str, Any]) -> None:
    for option in ("max_requests_inflight", "shutdown_delay_duration"):
        if values[option] < 0:
            raise FlagError(f"--{option.replace('_', '-')} can not be negative value")
    if values["request_timeout"] <= 0:
        raise FlagError("--request-timeout must be positive, for example 1m0s")
    if values["max_connections"] < 1:
        raise FlagError("--max-connections must be at least 1")
    for directive in values["strict_transport_security_directives"]:
        if directive not in ("includeSubDomains", "preload") and not (
            directive.startswith("max-age=") and directive[8:].isdecimal()
        ):
            raise FlagError(
                "--strict-transport-security-directives: invalid value "
                f'"{directive}", must be max-age=SECONDS, includeSubDomains or preload'
            )


def _validate_serving(values: dict[str, Any], warnings: list[str]) -> None:
    if values["secure_port"] == 0:
        raise FlagError("--secure-port 0 would serve nothing: give a port between 1 and 65535")
    _port("secure-port", values["secure_port"], lowest=1)
    certificate, key = values["tls_cert_file"], values["tls_private_key_file"]
    if bool(certificate) != bool(key):
        raise FlagError("need both --tls-cert-file and --tls-private-key-file")
    if certificate and values["self_managed_certificate"]:
        raise FlagError("cannot use both --tls-cert-file and --self-managed-certificate")
    version = values["tls_min_version"]
    if version and version not in _TLS_VERSIONS:
        raise FlagError(
            f'--tls-min-version: unknown tls version "{version}", must be one of {", ".join(_TLS_VERSIONS)}'
        )
    if version in ("VersionTLS10", "VersionTLS11"):
        warnings.append(f"--tls-min-version={version}: versions before TLS 1.2 are broken and not offered")
    for suite in values["tls_cipher_suites"]:
        if suite in BROKEN_CIPHER_SUITES:
            raise FlagError(f"--tls-cipher-suites: {suite} is broken and not offered by this server")
        if suite not in CIPHER_SUITES and suite not in TLS13_CIPHER_SUITES:
            raise FlagError(f"--tls-cipher-suites: Cipher suite {suite} not supported or doesn't exist (see --help)")
    if values["self_managed_certificate"]:
        if not values["service_namespace"]:
            values["service_namespace"] = _own_namespace()
        for option in ("serving_secret", "service_name"):
            if not values[option]:
                raise FlagError(f"--{option.replace('_', '-')} must not be empty with --self-managed-certificate")


def _validate_authentication(values: dict[str, Any]) -> None:
    if values["requestheader_client_ca_file"] and not values["requestheader_username_headers"]:
        raise FlagError("--requestheader-username-headers must name at least one header")
    for kind in ("username", "group", "uid"):
        for header in values[f"requestheader_{kind}_headers"]:
            if not header.strip():
                raise FlagError(f"--requestheader-{kind}-headers: the name of a header must not be empty")
    for prefix in values["requestheader_extra_headers_prefix"]:
        if not prefix.strip():
            raise FlagError("--requestheader-extra-headers-prefix: a prefix must not be empty")
    for option in (
        "authentication_token_webhook_cache_ttl",
        "authorization_webhook_cache_authorized_ttl",
        "authorization_webhook_cache_unauthorized_ttl",
    ):
        if values[option] < 0:
            raise FlagError(f"--{option.replace('_', '-')} must not be negative")
    for path in values["authorization_always_allow_paths"]:
        if "*" in path[:-1]:
            raise FlagError(f'--authorization-always-allow-paths: "{path}": only trailing * allowed')


def _validate_logging(values: dict[str, Any]) -> None:
    if values["logging_format"] not in ("text", "json"):
        raise FlagError(
            f'--logging-format: Invalid value: "{values["logging_format"]}": '
            "Unsupported log format, must be text or json"
        )
    if values["v"] < 0:
        raise FlagError("-v must not be negative")
    for pair in values["vmodule"]:
        pattern, equals, level = pair.partition("=")
        if not equals or not pattern or not level.isdecimal():
            raise FlagError(f'--vmodule: "{pair}" is not of the form pattern=N')
        fnmatch.translate(pattern)
    if values["vmodule"] and values["logging_format"] != "text":
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
