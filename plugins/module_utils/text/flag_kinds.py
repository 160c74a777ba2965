# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kind of value each flag of a Kubernetes component takes.

The kinds decide how words become flags (a boolean takes no following word) and how repeated flags add up. The names are
those of Kubernetes 1.37.2, read from the flag sets of its programs, and below them what older releases had besides
scalars. A flag is of the same kind in every component, with the exceptions that are named.
"""

from __future__ import annotations

import typing as t

#: One value; of a repeated flag the last one wins.
SCALAR = "scalar"
#: As a scalar, but the bare flag means true and takes no following word.
BOOLEAN = "boolean"
#: Each value is a line of CSV; repeated flags add up.
LIST = "list"
#: Each value is one entry as it stands, commas included; repeated flags add up.
ARRAY = "array"
#: Pairs, separated by commas; repeated flags add up, and of a repeated key the last one wins.
MAP = "map"

_BOOLEANS = """
    aggregator-reject-forwarding-redirect allocate-node-cidrs allow-privileged allow-untagged-cloud
    allow_dynamic_housekeeping anonymous-auth audit-log-batch-throttle-enable audit-log-compress
    audit-log-truncate-enabled audit-webhook-batch-throttle-enable audit-webhook-truncate-enabled
    authentication-skip-lookup authentication-token-webhook authentication-tolerate-lookup-failure
    bind-address-hard-fail cgroups-per-qos cleanup configure-cloud-routes conntrack-tcp-be-liberal
    contention-profiling cpu-cfs-quota disable-attach-detach-reconcile-sync disable-force-detach-on-timeout
    disable-http2-serving disable_root_cgroup_stats docker_only emulation-forward-compatible enable-aggregator-routing
    enable-bootstrap-token-auth enable-controller-attach-detach enable-debugging-handlers enable-dynamic-provisioning
    enable-garbage-collector enable-hostpath-provisioner enable-leader-migration enable-logs-handler
    enable-priority-and-fairness enable-server enable_load_reader encryption-provider-config-automatic-reload
    exit-on-lock-contention experimental-allocatable-ignore-eviction fail-cgroupv1 fail-swap-on help init-only
    iptables-localhost-nodeports ipvs-strict-arp kernel-memcg-notification leader-elect
    local-storage-capacity-isolation log-text-split-stream log_cadvisor_usage make-iptables-util-chains masquerade-all
    permit-address-sharing permit-port-sharing profiling protect-kernel-defaults register-node rotate-certificates
    rotate-server-certificates runonce runtime-config-emulation-forward-compatible seccomp-default
    serialize-image-pulls service-account-extend-token-expiration service-account-lookup shutdown-send-retry-after
    storage_driver_secure use-service-account-credentials version watch-cache
"""
_LISTS = """
    admission-control allowed-unsafe-sysctls api-audiences authorization-always-allow-paths authorization-mode
    cluster-dns controllers cors-allowed-origins disable-admission-plugins disabled-metrics emulated-version
    enable-admission-plugins enforce-node-allocatable etcd-servers etcd-servers-overrides ipvs-exclude-cidrs
    kubelet-preferred-address-types min-compatibility-version nodeport-addresses oidc-signing-algs
    requestheader-allowed-names requestheader-extra-headers-prefix requestheader-group-headers
    requestheader-uid-headers requestheader-username-headers strict-transport-security-directives tls-cipher-suites
    tls-curve-preferences watch-cache-sizes
"""
_ARRAYS = """
    reserved-memory service-account-issuer service-account-key-file tls-sni-cert-key
"""
_MAPS = """
    allow-metric-labels cpu-manager-policy-options eviction-hard eviction-minimum-reclaim eviction-soft
    eviction-soft-grace-period feature-gates kube-reserved manifest-url-header node-labels oidc-required-claim
    qos-reserved runtime-config system-reserved topology-manager-policy-options
"""
_SCALARS = """
    address admission-control-config-file advertise-address allow-metric-labels-manifest apiserver-count
    application_metrics_count_limit attach-detach-reconcile-sync-period audit-log-batch-buffer-size
    audit-log-batch-max-size audit-log-batch-max-wait audit-log-batch-throttle-burst audit-log-batch-throttle-qps
    audit-log-format audit-log-maxage audit-log-maxbackup audit-log-maxsize audit-log-mode audit-log-path
    audit-log-truncate-max-batch-size audit-log-truncate-max-event-size audit-log-version audit-policy-file
    audit-webhook-batch-buffer-size audit-webhook-batch-initial-backoff audit-webhook-batch-max-size
    audit-webhook-batch-max-wait audit-webhook-batch-throttle-burst audit-webhook-batch-throttle-qps
    audit-webhook-config-file audit-webhook-initial-backoff audit-webhook-mode audit-webhook-truncate-max-batch-size
    audit-webhook-truncate-max-event-size audit-webhook-version authentication-config authentication-kubeconfig
    authentication-token-webhook-cache-ttl authentication-token-webhook-config-file
    authentication-token-webhook-version authorization-config authorization-kubeconfig authorization-policy-file
    authorization-webhook-cache-authorized-ttl authorization-webhook-cache-unauthorized-ttl
    authorization-webhook-config-file authorization-webhook-version bind-address boot_id_file bootstrap-kubeconfig
    cert-dir cgroup-driver cgroup-root cidr-allocator-type client-ca-file cloud-config cloud-provider cluster-cidr
    cluster-domain cluster-name cluster-signing-cert-file cluster-signing-duration cluster-signing-key-file
    cluster-signing-kube-apiserver-client-cert-file cluster-signing-kube-apiserver-client-key-file
    cluster-signing-kubelet-client-cert-file cluster-signing-kubelet-client-key-file
    cluster-signing-kubelet-serving-cert-file cluster-signing-kubelet-serving-key-file
    cluster-signing-legacy-unknown-cert-file cluster-signing-legacy-unknown-key-file concurrent-cron-job-syncs
    concurrent-daemonset-syncs concurrent-deployment-syncs concurrent-device-taint-eviction-syncs
    concurrent-disruption-syncs concurrent-endpoint-syncs concurrent-ephemeralvolume-syncs concurrent-gc-syncs
    concurrent-horizontal-pod-autoscaler-syncs concurrent-job-syncs concurrent-namespace-syncs
    concurrent-replicaset-syncs concurrent-resource-quota-syncs concurrent-resourceclaim-syncs
    concurrent-service-endpoint-syncs concurrent-serviceaccount-token-syncs concurrent-statefulset-syncs
    concurrent-ttl-after-finished-syncs concurrent-validating-admission-policy-status-syncs concurrent_rc_syncs config
    config-dir config-sync-period conntrack-max-per-core conntrack-min conntrack-tcp-timeout-close-wait
    conntrack-tcp-timeout-established conntrack-udp-timeout conntrack-udp-timeout-stream container-log-max-files
    container-log-max-size container-runtime-endpoint container_hints containerd containerd-namespace
    containerd_env_metadata_whitelist controller-shutdown-timeout controller-start-interval
    coordinated-leadership-lease-duration coordinated-leadership-renew-deadline coordinated-leadership-retry-period
    cpu-cfs-quota-period cpu-manager-policy cpu-manager-reconcile-period crio_client_timeout debug-socket-path
    default-not-ready-toleration-seconds default-unreachable-toleration-seconds default-watch-cache-size
    delete-collection-workers detect-local-mode egress-selector-config-file encryption-provider-config
    endpoint-reconciler-type endpoint-updates-batch-period endpointslice-updates-batch-period etcd-cafile
    etcd-certfile etcd-compaction-interval etcd-count-metric-poll-period etcd-db-metric-poll-interval
    etcd-healthcheck-timeout etcd-keyfile etcd-prefix etcd-readycheck-timeout event-burst event-qps event-ttl
    event_storage_age_limit event_storage_event_limit eviction-max-pod-grace-period
    eviction-pressure-transition-period experimental-mounter-path external-cloud-volume-plugin external-hostname
    file-check-frequency flex-volume-plugin-dir global_housekeeping_interval goaway-chance hairpin-mode
    healthz-bind-address healthz-port horizontal-pod-autoscaler-cpu-initialization-period
    horizontal-pod-autoscaler-downscale-stabilization horizontal-pod-autoscaler-initial-readiness-delay
    horizontal-pod-autoscaler-sync-period horizontal-pod-autoscaler-tolerance hostname-override housekeeping-interval
    housekeeping_interval http-check-frequency http2-max-streams-per-connection image-credential-provider-bin-dir
    image-credential-provider-config image-gc-high-threshold image-gc-low-threshold image-service-endpoint
    initial_splay_factor iptables-masquerade-bit iptables-min-sync-period iptables-sync-period ipvs-min-sync-period
    ipvs-scheduler ipvs-sync-period ipvs-tcp-timeout ipvs-tcpfin-timeout ipvs-udp-timeout jitter_factor kube-api-burst
    kube-api-content-type kube-api-qps kube-reserved-cgroup kubeconfig kubelet-certificate-authority kubelet-cgroups
    kubelet-client-certificate kubelet-client-key kubelet-port kubelet-read-only-port kubelet-timeout
    kubernetes-service-node-port large-cluster-size-threshold leader-elect-lease-duration leader-elect-renew-deadline
    leader-elect-resource-lock leader-elect-resource-name leader-elect-resource-namespace leader-elect-retry-period
    leader-migration-config lease-reuse-duration-seconds legacy-service-account-token-clean-up-period
    livez-grace-period lock-file log-flush-frequency log-text-info-buffer-size logging-format machine_id_file
    manifest-url master max-connection-bytes-per-sec max-endpoints-per-slice max-mutating-requests-inflight
    max-open-files max-pods max-requests-inflight max_housekeeping_interval maximum-dead-containers
    maximum-dead-containers-per-container memory-manager-policy metrics-bind-address metrics-port min-request-timeout
    min-resync-period minimum-container-ttl-duration minimum-image-ttl-duration
    mirroring-concurrent-service-endpoint-syncs mirroring-endpointslice-updates-batch-period
    mirroring-max-endpoints-per-subset namespace-sync-period node-cidr-mask-size node-cidr-mask-size-ipv4
    node-cidr-mask-size-ipv6 node-eviction-rate node-ip node-monitor-grace-period node-monitor-period
    node-startup-grace-period node-status-max-images node-status-update-frequency node-sync-period oidc-ca-file
    oidc-client-id oidc-groups-claim oidc-groups-prefix oidc-issuer-url oidc-username-claim oidc-username-prefix
    oom-score-adj peer-advertise-ip peer-advertise-port peer-ca-file pod-bridge-interface pod-cidr
    pod-interface-name-prefix pod-manifest-path pod-max-in-unschedulable-pods-duration pod-max-pids pods-per-core port
    provider-id proxy-client-cert-file proxy-client-key-file proxy-mode pv-recycler-increment-timeout-nfs
    pv-recycler-minimum-timeout-hostpath pv-recycler-minimum-timeout-nfs pv-recycler-pod-template-filepath-hostpath
    pv-recycler-pod-template-filepath-nfs pv-recycler-timeout-increment-hostpath pvclaimbinder-sync-period
    read-only-port referenced_reset_interval register-with-taints registry-burst registry-qps request-timeout
    requestheader-client-ca-file reserved-cpus resolv-conf resource-quota-sync-period root-ca-file root-dir
    route-reconciliation-period runtime-cgroups runtime-request-timeout secondary-node-eviction-rate secure-port
    service-account-jwks-uri service-account-max-token-expiration service-account-private-key-file
    service-account-signing-endpoint service-account-signing-key-file service-cluster-ip-range service-node-port-range
    show-hidden-metrics-for-version shutdown-delay-duration shutdown-watch-termination-grace-period storage-backend
    storage-initialization-timeout storage-media-type storage_driver_buffer_duration storage_driver_db
    storage_driver_host storage_driver_password storage_driver_table storage_driver_user
    streaming-connection-idle-timeout sync-frequency system-cgroups system-reserved-cgroup terminated-pod-gc-threshold
    tls-cert-file tls-min-version tls-private-key-file token-auth-file topology-manager-policy topology-manager-scope
    tracing-config-file unhealthy-zone-threshold update_machine_info_interval v vmodule volume-plugin-dir
    volume-stats-agg-period write-config-to
"""

_REMOVED_BOOLEANS = """
    add-dir-header alsologtostderr audit-dynamic-configuration configure-cbr0 containerized
    docker-disable-shared-pid enable-cadvisor-json-endpoints enable-custom-metrics enable-inflight-quota-handler
    enable-swagger-ui enable-taint-manager experimental-check-node-capabilities-before-mount
    experimental-fail-swap-on experimental-kernel-memcg-notification horizontal-pod-autoscaler-use-rest-clients
    insecure-allow-any-token keep-terminated-pod-volumes kubelet-https logtostderr one-output really-crash-for-testing
    reconcile-cidr redirect-container-streaming register-schedulable repair-malformed-updates require-kubeconfig
    skip-headers skip-log-headers use-legacy-policy-config
"""
_REMOVED_LISTS = """
    api-servers experimental-allowed-unsafe-sysctls host-ipc-sources host-network-sources host-pid-sources
"""

#: etcd reads its flags with Go's own package: no lists that add up, and other names.
_ETCD_BOOLEANS = """
    auto-tls client-cert-auth debug discovery-insecure-skip-tls-verify discovery-insecure-transport
    enable-distributed-tracing enable-grpc-gateway enable-log-rotation enable-pprof enable-v2
    experimental-compact-hash-check-enabled experimental-enable-distributed-tracing
    experimental-enable-lease-checkpoint experimental-initial-corrupt-check experimental-memory-mlock
    force-new-cluster h help initial-election-tick-advance memory-mlock peer-auto-tls peer-client-cert-auth
    peer-skip-client-san-verification pre-vote socket-reuse-address socket-reuse-port strict-reconfig-check
    unsafe-no-fsync version
"""

#: Maps whose values may hold commas, so that each flag gives one pair.
SINGLE_PAIRS = frozenset({"cpu-manager-policy-options", "oidc-required-claim"})


def _table(*kinds: t.Tuple[str, str]) -> t.Dict[str, str]:
    return {name.replace("_", "-"): kind for names, kind in kinds for name in names.split()}


_KUBERNETES = _table(
    (_SCALARS, SCALAR),
    (_BOOLEANS + _REMOVED_BOOLEANS, BOOLEAN),
    (_LISTS + _REMOVED_LISTS, LIST),
    (_ARRAYS, ARRAY),
    (_MAPS, MAP),
)
_ETCD = _table((_ETCD_BOOLEANS, BOOLEAN))
_EXCEPTIONS = {("kubelet", "authorization-mode"): SCALAR}


def kind_of(component: str, name: str) -> t.Optional[str]:
    """The kind of a flag, by its name with dashes; None for a flag that is not known."""
    if component == "etcd":
        return _ETCD.get(name, SCALAR)
    return _EXCEPTIONS.get((component, name)) or _KUBERNETES.get(name)
