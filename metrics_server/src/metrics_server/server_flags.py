# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of all flags: upstream metrics-server's, a few of this server's own, and those of the old days."""

from __future__ import annotations

from typing import Any

from metrics_server.flags import Flag, FlagSet
from metrics_server.tls.listener import CIPHER_SUITES, TLS13_CIPHER_SUITES

ADDRESS_TYPES = ("Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP")

_MAIN = "Metrics server"
_GENERIC = "Generic"
_KUBELET = "Kubelet client"
_SERVING = "Apiserver secure serving"
_MANAGED = "Self-managed certificate"
_AUTHENTICATION = "Apiserver authentication"
_AUTHORIZATION = "Apiserver authorization"
_AUDIT = "Apiserver audit log"
_FEATURES = "Features"
_LOGGING = "Logging"
_RETIRED = "Retired"


def _ignored(name: str, kind: str, default: Any, group: str, note: str) -> Flag:
    return Flag(name, kind, default, group, "", status="ignored", note=note)


def _refused(name: str, kind: str, default: Any, group: str, note: str) -> Flag:
    return Flag(name, kind, default, group, "", status="refused", note=note)


_NO_AUDIT = "this server writes no audit log; the kube-apiserver's audit log has all requests that come through it"
_NO_HTTP2 = "this server speaks HTTP/1.1 only"
_NO_EMULATION = "this server has one version of itself to offer"

FLAGS = FlagSet(
    (
        Flag("metric-resolution", "duration", 60.0, _MAIN, "How often each kubelet is asked, at least 10s."),
        Flag(
            "kubeconfig",
            "string",
            "",
            _MAIN,
            "Kubeconfig file for the API server and the kubelets; without it the pod's service account is used.",
        ),
        Flag("version", "bool", False, _MAIN, "Print the version and exit."),
        Flag("help", "bool", False, _MAIN, "Print this help and exit.", shorthand="h"),
        Flag(
            "max-requests-inflight",
            "int",
            400,
            _GENERIC,
            "Requests that may be under way at once; more are answered 429. 0 sets no limit.",
        ),
        Flag(
            "request-timeout",
            "duration",
            60.0,
            _GENERIC,
            "How long one request may take, including a client that reads its answer slowly.",
        ),
        Flag(
            "max-connections",
            "int",
            2000,
            _GENERIC,
            "Connections open at once; at most a quarter unauthenticated; the oldest of those is evicted first.",
        ),
        Flag(
            "shutdown-delay-duration",
            "duration",
            0.0,
            _GENERIC,
            "How long to go on serving after SIGTERM while /readyz already fails, for load balancers to notice.",
        ),
        Flag(
            "shutdown-send-retry-after",
            "bool",
            False,
            _GENERIC,
            "While requests under way are finished, answer new ones with 429 instead of refusing connections.",
        ),
        Flag(
            "strict-transport-security-directives",
            "strings",
            (),
            _GENERIC,
            "Directives of the Strict-Transport-Security header, for example max-age=31536000,includeSubDomains.",
        ),
        _ignored("advertise-address", "string", "", _GENERIC, "clients find this server through its Service"),
        _refused(
            "cors-allowed-origins",
            "strings",
            (),
            _GENERIC,
            "this server answers no cross-origin requests; the kube-apiserver in front of it has this flag",
        ),
        _ignored("emulated-version", "strings", (), _GENERIC, _NO_EMULATION),
        _ignored("emulation-forward-compatible", "bool", False, _GENERIC, _NO_EMULATION),
        _ignored("external-hostname", "string", "", _GENERIC, "this server generates no URLs"),
        _ignored("feature-gates", "strings", (), _GENERIC, "this server has no feature gates"),
        _ignored("goaway-chance", "float", 0.0, _GENERIC, _NO_HTTP2),
        _ignored("livez-grace-period", "duration", 0.0, _GENERIC, "/livez succeeds from the start"),
        _ignored("max-mutating-requests-inflight", "int", 200, _GENERIC, "this API is read only"),
        _ignored("min-compatibility-version", "strings", (), _GENERIC, _NO_EMULATION),
        _ignored("min-request-timeout", "int", 1800, _GENERIC, "it concerns watches, which this API does not have"),
        _ignored("runtime-config-emulation-forward-compatible", "bool", False, _GENERIC, _NO_EMULATION),
        _ignored("shutdown-watch-termination-grace-period", "duration", 0.0, _GENERIC, "this API has no watches"),
        _ignored("storage-initialization-timeout", "duration", 60.0, _GENERIC, "this server has no storage backend"),
        Flag("kubelet-port", "int", 10250, _KUBELET, "The port of the kubelets."),
        Flag(
            "kubelet-use-node-status-port",
            "bool",
            False,
            _KUBELET,
            "Use the port that each Node names in its status, before --kubelet-port.",
        ),
        Flag(
            "kubelet-preferred-address-types",
            "strings",
            ADDRESS_TYPES,
            _KUBELET,
            "Which of a node's addresses to dial, in order of preference.",
        ),
        Flag(
            "kubelet-request-timeout",
            "duration",
            10.0,
            _KUBELET,
            "How long one request to a kubelet may take.",
        ),
        Flag(
            "kubelet-certificate-authority",
            "string",
            "",
            _KUBELET,
            "CA file to verify the kubelets' certificates with; without it the CA of the API server's connection.",
        ),
        Flag("kubelet-client-certificate", "string", "", _KUBELET, "Client certificate to show to the kubelets."),
        Flag("kubelet-client-key", "string", "", _KUBELET, "Key of --kubelet-client-certificate."),
        Flag(
            "kubelet-insecure-tls",
            "bool",
            False,
            _KUBELET,
            "Do not verify the kubelets' certificates. For tests only: anyone on the path can read the server's token.",
        ),
        Flag(
            "deprecated-kubelet-completely-insecure",
            "bool",
            False,
            _KUBELET,
            "Plain HTTP without any credential, for the kubelets' old read-only port (10255).",
        ),
        Flag(
            "node-selector",
            "string",
            "",
            _KUBELET,
            "Only nodes with matching labels, for example -l key1=value1,key2!=value2.",
            shorthand="l",
        ),
        Flag(
            "bind-address",
            "ip",
            "0.0.0.0",
            _SERVING,
            "Address to listen on; 0.0.0.0 and :: mean all addresses of both families.",
        ),
        Flag("secure-port", "int", 443, _SERVING, "Port to serve HTTPS on."),
        Flag(
            "cert-dir",
            "string",
            "apiserver.local.config/certificates",
            _SERVING,
            "Where a self-signed certificate is kept when none is given.",
        ),
        Flag(
            "tls-cert-file",
            "string",
            "",
            _SERVING,
            "Serving certificate with its chain (PEM); read again when it changes.",
        ),
        Flag("tls-private-key-file", "string", "", _SERVING, "Key of --tls-cert-file."),
        Flag(
            "tls-min-version",
            "string",
            "",
            _SERVING,
            "Oldest TLS version to speak: VersionTLS12 (also without the flag) or VersionTLS13.",
        ),
        Flag(
            "tls-cipher-suites",
            "strings",
            (),
            _SERVING,
            f"Cipher suites to offer, of {', '.join((*TLS13_CIPHER_SUITES, *CIPHER_SUITES))}.",
        ),
        Flag("permit-port-sharing", "bool", False, _SERVING, "Use SO_REUSEPORT: several servers may share the port."),
        _ignored("permit-address-sharing", "bool", False, _SERVING, "the address is always bound with SO_REUSEADDR"),
        _ignored("disable-http2-serving", "bool", False, _SERVING, _NO_HTTP2),
        _ignored("http2-max-streams-per-connection", "int", 0, _SERVING, _NO_HTTP2),
        _refused(
            "tls-curve-preferences",
            "strings",
            (),
            _SERVING,
            "the key exchange groups cannot be restricted here; OpenSSL's defaults are used",
        ),
        _refused(
            "tls-sni-cert-key",
            "strings",
            (),
            _SERVING,
            "there is one serving certificate: put all names into it and give it with --tls-cert-file",
        ),
        Flag(
            "self-managed-certificate",
            "bool",
            False,
            _MANAGED,
            "Keep CA and certificate in a Secret that all replicas share, and the APIServices' caBundle up to date.",
        ),
        Flag("serving-secret", "string", "metrics-server-serving-cert", _MANAGED, "Name of that Secret."),
        Flag("service-name", "string", "metrics-server", _MANAGED, "Service that the certificate is for."),
        Flag(
            "service-namespace",
            "string",
            "",
            _MANAGED,
            "Namespace of the Service and the Secret; without it the pod's.",
        ),
        Flag(
            "apiservice",
            "strings",
            ("v1beta1.metrics.k8s.io",),
            _MANAGED,
            "APIServices whose caBundle is kept up to date.",
        ),
        Flag(
            "authentication-kubeconfig",
            "string",
            "",
            _AUTHENTICATION,
            "Kubeconfig for token reviews and the cluster's settings; without it --kubeconfig, or the pod's account.",
        ),
        Flag(
            "authentication-skip-lookup",
            "bool",
            False,
            _AUTHENTICATION,
            "Do not look up the cluster's authentication settings; only the flags below count.",
        ),
        Flag(
            "authentication-tolerate-lookup-failure",
            "bool",
            False,
            _AUTHENTICATION,
            "Become ready although the cluster's authentication settings cannot be looked up.",
        ),
        Flag(
            "authentication-token-webhook-cache-ttl",
            "duration",
            10.0,
            _AUTHENTICATION,
            "How long the answer to a token review is remembered.",
        ),
        Flag(
            "client-ca-file", "string", "", _AUTHENTICATION, "CA file for client certificates (CN = user, O = groups)."
        ),
        Flag(
            "requestheader-client-ca-file",
            "string",
            "",
            _AUTHENTICATION,
            "CA file for the front proxy's certificate; headers that name users are believed from it alone.",
        ),
        Flag(
            "requestheader-allowed-names",
            "strings",
            (),
            _AUTHENTICATION,
            "Common names that the front proxy's certificate may have; without it any.",
        ),
        Flag(
            "requestheader-username-headers",
            "strings",
            ("x-remote-user",),
            _AUTHENTICATION,
            "Headers with the user's name.",
        ),
        Flag(
            "requestheader-group-headers",
            "strings",
            ("x-remote-group",),
            _AUTHENTICATION,
            "Headers with the user's groups.",
        ),
        Flag("requestheader-uid-headers", "strings", (), _AUTHENTICATION, "Headers with the user's UID."),
        Flag(
            "requestheader-extra-headers-prefix",
            "strings",
            ("x-remote-extra-",),
            _AUTHENTICATION,
            "Prefixes of headers with more about the user.",
        ),
        Flag(
            "authorization-kubeconfig",
            "string",
            "",
            _AUTHORIZATION,
            "Kubeconfig file for access reviews; without it --kubeconfig, or the pod's account.",
        ),
        Flag(
            "authorization-always-allow-paths",
            "strings",
            ("/healthz", "/readyz", "/livez"),
            _AUTHORIZATION,
            "Paths that everybody may read; a * at the end allows all below.",
        ),
        Flag(
            "authorization-webhook-cache-authorized-ttl",
            "duration",
            10.0,
            _AUTHORIZATION,
            "How long a yes of an access review is remembered.",
        ),
        Flag(
            "authorization-webhook-cache-unauthorized-ttl",
            "duration",
            10.0,
            _AUTHORIZATION,
            "How long a no of an access review is remembered.",
        ),
        *(
            _refused(f"audit-{name}", kind, default, _AUDIT, _NO_AUDIT)
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
        Flag(
            "profiling", "bool", True, _FEATURES, "Serve profiles under /debug/pprof/ to those who may read that path."
        ),
        _ignored("contention-profiling", "bool", False, _FEATURES, "there are no locks to contend for"),
        _ignored(
            "enable-priority-and-fairness",
            "bool",
            True,
            _FEATURES,
            "requests are limited by --max-requests-inflight and --max-connections",
        ),
        _refused(
            "debug-socket-path",
            "string",
            "",
            _FEATURES,
            "this server opens no unprotected socket; profiles are under /debug/pprof/",
        ),
        Flag("logging-format", "string", "text", _LOGGING, "Form of the log: text or json."),
        Flag(
            "v", "int", 0, _LOGGING, "Verbosity of the log: 4 and more show what is done step by step.", shorthand="v"
        ),
        Flag(
            "vmodule",
            "strings",
            (),
            _LOGGING,
            "Verbosity of single modules, as pattern=N, for example scheduler=4 (text format only).",
        ),
        _ignored("log-flush-frequency", "duration", 5.0, _LOGGING, "every line is written at once"),
        _ignored("log-json-info-buffer-size", "string", "0", _LOGGING, "every line is written at once"),
        _ignored("log-json-split-stream", "bool", False, _LOGGING, "the log goes to standard error"),
        _ignored("log-text-info-buffer-size", "string", "0", _LOGGING, "every line is written at once"),
        _ignored("log-text-split-stream", "bool", False, _LOGGING, "the log goes to standard error"),
        _ignored("logtostderr", "bool", True, _RETIRED, "the log always goes to standard error"),
        _ignored("alsologtostderr", "bool", False, _RETIRED, "the log always goes to standard error"),
        _ignored("stderrthreshold", "string", "", _RETIRED, "the log always goes to standard error"),
        Flag(
            "source",
            "string",
            "",
            _RETIRED,
            "The source of Heapster and of the 0.2 generation; the error names the flags that replaced it.",
        ),
    )
)
