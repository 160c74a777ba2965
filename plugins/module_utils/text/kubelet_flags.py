# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flags of the kubelet that are also settings of its configuration file, where they win over the file."""

from __future__ import annotations

import typing as t

#: Flag name -> path of the setting in KubeletConfiguration.
CONFIG_FLAGS: t.Dict[str, t.Tuple[str, ...]] = {
    "address": ("address",),
    "anonymous-auth": ("authentication", "anonymous", "enabled"),
    "authentication-token-webhook": ("authentication", "webhook", "enabled"),
    "authentication-token-webhook-cache-ttl": ("authentication", "webhook", "cacheTTL"),
    "authorization-mode": ("authorization", "mode"),
    "authorization-webhook-cache-authorized-ttl": ("authorization", "webhook", "cacheAuthorizedTTL"),
    "authorization-webhook-cache-unauthorized-ttl": ("authorization", "webhook", "cacheUnauthorizedTTL"),
    "cgroup-driver": ("cgroupDriver",),
    "client-ca-file": ("authentication", "x509", "clientCAFile"),
    "cluster-dns": ("clusterDNS",),
    "cluster-domain": ("clusterDomain",),
    "container-runtime-endpoint": ("containerRuntimeEndpoint",),
    "enable-debugging-handlers": ("enableDebuggingHandlers",),
    "enable-server": ("enableServer",),
    "fail-swap-on": ("failSwapOn",),
    "feature-gates": ("featureGates",),
    "housekeeping-interval": ("housekeepingInterval",),
    "manifest-url": ("staticPodURL",),
    "manifest-url-header": ("staticPodURLHeader",),
    "pod-manifest-path": ("staticPodPath",),
    "port": ("port",),
    "protect-kernel-defaults": ("protectKernelDefaults",),
    "read-only-port": ("readOnlyPort",),
    "rotate-certificates": ("rotateCertificates",),
    "rotate-server-certificates": ("serverTLSBootstrap",),
    "streaming-connection-idle-timeout": ("streamingConnectionIdleTimeout",),
    "tls-cert-file": ("tlsCertFile",),
    "tls-cipher-suites": ("tlsCipherSuites",),
    "tls-min-version": ("tlsMinVersion",),
    "tls-private-key-file": ("tlsPrivateKeyFile",),
}
