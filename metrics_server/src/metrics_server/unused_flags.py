# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags that set no option: those of upstream metrics-server that mean nothing here, and those of the old days.

A flag that only tunes what this server does not have is accepted with a warning; one that promises something that it
does not do is refused.
"""

from __future__ import annotations

from metrics_server.flags import Flag, ignored, refused

#: Groups of `--help`, named as in upstream's.
MAIN = "Metrics server"
GENERIC = "Generic"
KUBELET = "Kubelet client"
SERVING = "Apiserver secure serving"
MANAGED = "Self-managed certificate"
AUTHENTICATION = "Apiserver authentication"
AUTHORIZATION = "Apiserver authorization"
AUDIT = "Apiserver audit log"
FEATURES = "Features"
LOGGING = "Logging"
RETIRED = "Retired"

_NO_AUDIT = "this server writes no audit log; the kube-apiserver's audit log has all requests that come through it"
_NO_HTTP2 = "this server speaks HTTP/1.1 only"
_NO_EMULATION = "this server has one version of itself to offer"

UNUSED_FLAGS = (
    ignored("advertise-address", "string", "", GENERIC, "clients find this server through its Service"),
    refused(
        "cors-allowed-origins",
        "strings",
        (),
        GENERIC,
        "this server answers no cross-origin requests; the kube-apiserver in front of it has this flag",
    ),
    ignored("emulated-version", "strings", (), GENERIC, _NO_EMULATION),
    ignored("emulation-forward-compatible", "bool", False, GENERIC, _NO_EMULATION),
    ignored("external-hostname", "string", "", GENERIC, "this server generates no URLs"),
    ignored("feature-gates", "strings", (), GENERIC, "this server has no feature gates"),
    ignored("goaway-chance", "float", 0.0, GENERIC, _NO_HTTP2),
    ignored("livez-grace-period", "duration", 0.0, GENERIC, "/livez succeeds from the start"),
    ignored("max-mutating-requests-inflight", "int", 200, GENERIC, "this API is read only"),
    ignored("min-compatibility-version", "strings", (), GENERIC, _NO_EMULATION),
    ignored("min-request-timeout", "int", 1800, GENERIC, "it concerns watches, which this API does not have"),
    ignored("runtime-config-emulation-forward-compatible", "bool", False, GENERIC, _NO_EMULATION),
    ignored("shutdown-watch-termination-grace-period", "duration", 0.0, GENERIC, "this API has no watches"),
    ignored("storage-initialization-timeout", "duration", 60.0, GENERIC, "this server has no storage backend"),
    ignored("permit-address-sharing", "bool", False, SERVING, "the address is always bound with SO_REUSEADDR"),
    ignored("disable-http2-serving", "bool", False, SERVING, _NO_HTTP2),
    ignored("http2-max-streams-per-connection", "int", 0, SERVING, _NO_HTTP2),
    refused(
        "tls-curve-preferences",
        "strings",
        (),
        SERVING,
        "the key exchange groups cannot be restricted here; OpenSSL's defaults are used",
    ),
    refused(
        "tls-sni-cert-key",
        "strings",
        (),
        SERVING,
        "there is one serving certificate: put all names into it and give it with --tls-cert-file",
    ),
    *(
        refused(f"audit-{name}", kind, default, AUDIT, _NO_AUDIT)
        for name, kind, default in (
            ("log-batch-buffer-size", "int", 10000),
            ("log-batch-max-size", "int", 1),
            ("log-batch-max-wait", "duration", 0.0),
            ("log-batch-throttle-burst", "int", 0),
            ("log-batch-throttle-enable", "bool", False),
            ("log-batch-throttle-qps", "float", 0.0),
            ("log-compress", "bool", False),
            ("log-format", "string", "json"),
            ("log-maxage", "int", 0),
            ("log-maxbackup", "int", 0),
            ("log-maxsize", "int", 0),
            ("log-mode", "string", "blocking"),
            ("log-path", "string", ""),
            ("log-truncate-enabled", "bool", False),
            ("log-truncate-max-batch-size", "int", 10485760),
            ("log-truncate-max-event-size", "int", 102400),
            ("log-version", "string", "audit.k8s.io/v1"),
            ("policy-file", "string", ""),
            ("webhook-batch-buffer-size", "int", 10000),
            ("webhook-batch-max-size", "int", 400),
            ("webhook-batch-max-wait", "duration", 30.0),
            ("webhook-batch-throttle-burst", "int", 15),
            ("webhook-batch-throttle-enable", "bool", True),
            ("webhook-batch-throttle-qps", "float", 10.0),
            ("webhook-config-file", "string", ""),
            ("webhook-initial-backoff", "duration", 10.0),
            ("webhook-mode", "string", "batch"),
            ("webhook-truncate-enabled", "bool", False),
            ("webhook-truncate-max-batch-size", "int", 10485760),
            ("webhook-truncate-max-event-size", "int", 102400),
            ("webhook-version", "string", "audit.k8s.io/v1"),
        )
    ),
    ignored("contention-profiling", "bool", False, FEATURES, "there are no locks to contend for"),
    ignored(
        "enable-priority-and-fairness",
        "bool",
        True,
        FEATURES,
        "requests are limited by --max-requests-inflight and --max-connections",
    ),
    refused(
        "debug-socket-path",
        "string",
        "",
        FEATURES,
        "this server opens no unprotected socket; profiles are under /debug/pprof/",
    ),
    ignored("log-flush-frequency", "duration", 5.0, LOGGING, "every line is written at once"),
    ignored("log-json-info-buffer-size", "string", "0", LOGGING, "every line is written at once"),
    ignored("log-json-split-stream", "bool", False, LOGGING, "the log goes to standard error"),
    ignored("log-text-info-buffer-size", "string", "0", LOGGING, "every line is written at once"),
    ignored("log-text-split-stream", "bool", False, LOGGING, "the log goes to standard error"),
    ignored("logtostderr", "bool", True, RETIRED, "the log always goes to standard error"),
    ignored("alsologtostderr", "bool", False, RETIRED, "the log always goes to standard error"),
    ignored("stderrthreshold", "string", "", RETIRED, "the log always goes to standard error"),
    Flag(
        "source",
        "string",
        "",
        RETIRED,
        "The source of Heapster and of the 0.2 generation; the error names the flags that replaced it.",
    ),
)
