#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: component_info
short_description: Show how the Kubernetes components of a host really run
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reports the Kubernetes components of the host from the running processes, their command lines, environments and
    control groups, and names the files that define them.
  - The process is the truth here, not a manifest or a unit that may have been edited since. What is not running is
    looked up where it would be defined.
  - One call gathers everything that is to be known of a host, in about a quarter of a second.
  - Processes of clusters that are nested in this host (nodes in containers, hosted control planes in pods) are
    left out.
options:
  components:
    description:
      - The components to report.
    type: list
    elements: str
    choices: [kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, etcd]
    default: [kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, etcd]
  timeout:
    description:
      - Seconds after which the module gives up and fails.
    type: int
    default: 10
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed, or would change in C(check_mode), when in diff mode.
    support: N/A
    details: The module changes nothing.
  idempotent:
    description: When run twice in a row with the same arguments, the second run indicates no change.
    support: full
notes:
  - Needs root, because command lines are public but environments, namespaces and configuration files are not.
  - Needs nothing but Python on the host.
  - An executable from a container image is asked for its version as an unprivileged user, never as root.
seealso:
  - module: kubemetrics.aggregation.apiservice_info
  - module: kubemetrics.aggregation.kubelet_csr
"""

EXAMPLES = r"""
- name: Look at what runs on each host
  kubemetrics.aggregation.component_info:
  register: host
  become: true

- name: Refuse to go on where the API server has no front proxy
  ansible.builtin.assert:
    that: "'proxy-client-cert-file' in host.components['kube-apiserver'].flags"
    fail_msg: "kube-apiserver on {{ inventory_hostname }} runs without --proxy-client-cert-file."
  when: host.components['kube-apiserver'].running

- name: Look at the kubelet alone
  kubemetrics.aggregation.component_info:
    components: [kubelet]
  register: host
  become: true
"""

RETURN = r"""
components:
  description: Each component that was asked for, by its name.
  returned: success
  type: dict
  contains:
    running:
      description: Whether a process runs it.
      type: bool
    pid:
      description: The process, the oldest one if there are several.
      type: int
    other_pids:
      description: More processes of the same name. There should be none.
      type: list
      elements: int
    in_process:
      description: Whether it runs inside of another program's process, as with k3s; then RV(components.flags) is empty.
      type: bool
    argv:
      description: The command line, with secrets masked.
      type: list
      elements: str
    flags:
      description:
        - The flags of the command line by name, without dashes. Of a repeated flag the last value, as the component
          has it.
        - A flag without a value is V("true").
      type: dict
    environ:
      description: The proxy variables of the process as they are spelled there, without user names and passwords.
      type: dict
    start_time:
      description: When the process started (RFC 3339).
      type: str
    binary:
      description: The executable, as the process itself sees it; in a container that is a path in the image.
      type: str
    version:
      description: What the executable answers to C(--version), or null when it cannot be asked.
      type: str
    managed_by:
      description:
        - Who starts it, and so where a flag has to be changed.
        - V(static_pod), V(pod) (an ordinary pod, such as a DaemonSet's), V(systemd), V(k3s), V(rke2), V(minikube) or
          V(unknown).
      type: str
    unit:
      description: The systemd service it runs in.
      type: str
    unit_state:
      description: What systemd knows of that service, or null.
      type: dict
      contains:
        active_state:
          description: For example V(active), V(failed).
          type: str
        fragment:
          description: The unit file.
          type: str
        drop_ins:
          description: Its drop-in files.
          type: list
          elements: str
        environment_files:
          description: The environment files that it names, with RV(ignore:path) and whether it is RV(ignore:optional).
          type: list
          elements: dict
        need_daemon_reload:
          description: Whether files have changed since systemd read them.
          type: bool
    pod_uid:
      description: The pod it runs in.
      type: str
    definition_files:
      description:
        - The existing files that define it - a static pod's manifest, a unit with its drop-ins and environment files,
          the configuration of k3s or RKE2.
        - Two manifests of one component are both listed; the kubelet runs only one of them.
      type: list
      elements: str
  sample:
    kube-apiserver:
      running: true
      pid: 1234
      other_pids: []
      in_process: false
      argv: [kube-apiserver, --advertise-address=192.0.2.11, --allow-privileged=true]
      flags: {advertise-address: 192.0.2.11, allow-privileged: "true"}
      environ: {NO_PROXY: "10.233.0.0/18,.svc"}
      start_time: "2026-03-01T10:00:00Z"
      binary: /usr/local/bin/kube-apiserver
      version: v1.36.3
      managed_by: static_pod
      unit:
      unit_state:
      pod_uid: 6f1b2a3c4d5e6f708192a3b4c5d6e7f8
      definition_files: [/etc/kubernetes/manifests/kube-apiserver.yaml]
host:
  description: The host itself.
  returned: success
  type: dict
  contains:
    hostname:
      description: The kernel's host name.
      type: str
    node_name:
      description:
        - The name that the kubelet registers with, which is its C(--hostname-override) or else the host name in lower
          case.
      type: str
    boot_id:
      description: Changes with every boot.
      type: str
    cgroup_version:
      description: V(2) for the unified hierarchy, else V(1).
      type: int
    default_ipv4:
      description: The address that the default route uses, or null.
      type: str
    time:
      description: The clock of the host (RFC 3339) when the module ran.
      type: str
  sample:
    hostname: cp1
    node_name: cp1
    boot_id: 0c9d3c8e-8f5c-4a50-9d4b-0d1a5e1f7a11
    cgroup_version: 2
    default_ipv4: 192.0.2.11
    time: "2026-03-01T10:05:00Z"
kubelet_config:
  description: The configuration of the kubelet, also when O(components) leaves the kubelet out.
  returned: success
  type: dict
  contains:
    path:
      description: The configuration file in effect.
      type: str
    exists:
      description: Whether the file can be read.
      type: bool
    source:
      description:
        - V(flag) when the running kubelet was given the file by C(--config).
        - V(default) when no kubelet runs and the file is the one that kubeadm's unit names.
        - V(none) when the kubelet has no file (then the old defaults of its flags hold, which are open to anybody), or
          nothing is known.
      type: str
    text:
      description: The text of the file, the values of C(staticPodURLHeader) masked.
      type: str
    drop_in_dir:
      description: The directory given by C(--config-dir).
      type: str
    drop_ins:
      description: The drop-in files that the kubelet reads, in its order, with RV(ignore:path) and RV(ignore:text).
      type: list
      elements: dict
    static_pod_path:
      description: The directory of static pod manifests.
      type: str
    overriding_flags:
      description: The flags of the running kubelet that win over the same setting in the file.
      type: dict
    changed_since_start:
      description:
        - Whether one of its files was written after the kubelet started, which reads them only then. False when none
          runs.
      type: bool
  sample:
    path: /var/lib/kubelet/config.yaml
    exists: true
    source: flag
    text: "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
    drop_in_dir:
    drop_ins: []
    static_pod_path: /etc/kubernetes/manifests
    overriding_flags: {}
    changed_since_start: false
kubernetes_dir:
  description: Where the installer keeps its files.
  returned: success
  type: dict
  contains:
    pki_dir:
      description:
        - The directory of the certificates, from the flags of the API server or the configuration of the kubelet, else
          the one that exists.
      type: str
    admin_kubeconfig:
      description: An administrator's kubeconfig on this host, or null.
      type: str
    kubeadm:
      description: Whether kubeadm made this host.
      type: bool
  sample:
    pki_dir: /etc/kubernetes/pki
    admin_kubeconfig: /etc/kubernetes/admin.conf
    kubeadm: true
"""

import os
import signal
import socket
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import processes
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.kubelet_flags import CONFIG_FLAGS

DEFAULT_KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
DEFAULT_MANIFESTS = "/etc/kubernetes/manifests"
ADMIN_KUBECONFIGS = (
    "/etc/kubernetes/admin.conf",
    "/etc/rancher/k3s/k3s.yaml",
    "/etc/rancher/rke2/rke2.yaml",
    "/var/lib/minikube/kubeconfig",
    "/root/.kube/config",
)
PKI_DIRS = (
    "/etc/kubernetes/pki",
    "/etc/kubernetes/ssl",
    "/var/lib/rancher/k3s/server/tls",
    "/var/lib/rancher/rke2/server/tls",
    "/var/lib/minikube/certs",
)
START_TIME_GRAIN = 2.0
KUBEADM_FLAGS_FILE = "/var/lib/kubelet/kubeadm-flags.env"
KUBEADM_ANNOTATION = "kubeadm.kubernetes.io/"


class OutOfTime(Exception):
    """The time that the caller allowed is over."""


def default_ipv4() -> t.Optional[str]:
    """The source address of the default route. Connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None


def list_files(directory: str, suffix: str = "") -> t.List[str]:
    """The plain files of a directory that a program would load, sorted; names with a dot in front are passed over."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    paths = [os.path.join(directory, name) for name in names if not name.startswith(".") and name.endswith(suffix)]
    return [path for path in paths if os.path.isfile(path)]


def written_after(paths: t.Iterable[str], moment: float) -> bool:
    """Whether one of the files is younger than ``moment``, which the kernel tells to the second only."""
    for path in paths:
        try:
            if os.stat(path).st_mtime > moment + START_TIME_GRAIN:
                return True
        except OSError:
            continue
    return False


def distribution_files(name: str) -> t.List[str]:
    base = "/etc/rancher/%s" % name
    return [path for path in [base + "/config.yaml"] if os.path.isfile(path)] + list_files(
        base + "/config.yaml.d", ".yaml"
    )


def unit_files(unit: t.Optional[t.Mapping[str, t.Any]]) -> t.List[str]:
    if not unit:
        return []
    paths = [unit["fragment"]] + unit["drop_ins"] + [entry["path"] for entry in unit["environment_files"]]
    return [path for path in paths if path and os.path.isfile(path)]


def unit_state(unit: t.Optional[t.Mapping[str, t.Any]]) -> t.Optional[t.Dict[str, t.Any]]:
    if not unit:
        return None
    return {
        key: unit[key] for key in ("active_state", "fragment", "drop_ins", "environment_files", "need_daemon_reload")
    }


class Host:
    """Everything about the host, gathered once."""

    def __init__(self, *, proc: processes.Proc, timeout: float) -> None:
        self.proc = proc
        self.deadline = time.monotonic() + timeout
        found = proc.processes()
        self.by_component: t.Dict[str, t.List[processes.Process]] = {}
        self.k3s: t.Optional[processes.Process] = None
        self.k3s_components: t.Tuple[str, ...] = ()
        for process in found:
            name = processes.component_of(process.argv, process.comm)
            if name:
                self.by_component.setdefault(name, []).append(process)
                continue
            role = processes.k3s_role(process.argv, process.comm)
            if role and (self.k3s is None or process.start_ticks < self.k3s.start_ticks):
                self.k3s = process
                self.k3s_components = (
                    processes.K3S_SERVER_COMPONENTS if role == "server" else processes.K3S_AGENT_COMPONENTS
                )
        self.boot_time = proc.boot_time()

    def process_of(self, name: str) -> t.Optional[processes.Process]:
        own = processes.choose(self.by_component.get(name, ()))
        return own or (self.k3s if name in self.k3s_components else None)

    def flags_of(self, name: str) -> t.Dict[str, str]:
        process = processes.choose(self.by_component.get(name, ()))
        return processes.flags_of(process.argv) if process else {}

    def kubelet_config(self) -> t.Dict[str, t.Any]:
        kubelet = processes.choose(self.by_component.get("kubelet", ()))
        flags = self.flags_of("kubelet")
        prefix = self.proc.own_files(kubelet.pid) if kubelet else ""
        path = drop_in_dir = None
        source = "none"
        if kubelet and flags.get("config"):
            path, source = self.proc.absolute(kubelet.pid, flags["config"]), "flag"
        elif not kubelet and not self.k3s and os.path.isfile(DEFAULT_KUBELET_CONFIG):
            path, source = DEFAULT_KUBELET_CONFIG, "default"
        if kubelet and flags.get("config-dir"):
            drop_in_dir = self.proc.absolute(kubelet.pid, flags["config-dir"])
        text = processes.read_text(prefix + path) if path else None
        drop_ins = []
        for found in list_files(prefix + drop_in_dir, ".conf") if drop_in_dir else []:
            content = processes.read_text(found)
            drop_ins.append(
                {
                    "path": found[len(prefix) :],
                    "text": None if content is None else processes.mask_kubelet_config(content),
                }
            )
        static_pod_path = processes.static_pod_path_of(text, flags)
        for drop_in in drop_ins:
            static_pod_path = processes.static_pod_path_of(drop_in["text"], flags) or static_pod_path
        if static_pod_path is None and not kubelet and os.path.isdir(DEFAULT_MANIFESTS):
            static_pod_path = DEFAULT_MANIFESTS
        return {
            "path": path,
            "exists": text is not None,
            "source": source,
            "text": None if text is None else processes.mask_kubelet_config(text),
            "drop_in_dir": drop_in_dir,
            "drop_ins": drop_ins,
            "static_pod_path": static_pod_path,
            "overriding_flags": {name: value for name, value in sorted(flags.items()) if name in CONFIG_FLAGS},
            "changed_since_start": kubelet is not None
            and written_after(
                [prefix + name for name in [path, drop_in_dir, *(entry["path"] for entry in drop_ins)] if name],
                self.boot_time + kubelet.start_ticks / os.sysconf("SC_CLK_TCK"),
            ),
        }

    def remaining(self) -> float:
        return max(0.1, self.deadline - time.monotonic())


def describe(host: Host, names: t.Sequence[str], manifests: t.Mapping[str, str]) -> t.Dict[str, t.Any]:
    queries: t.Dict[t.Any, processes.VersionQuery] = {}
    query_of: t.Dict[str, t.Any] = {}
    for name in names:
        process = host.process_of(name)
        if process is None:
            continue
        in_process = name not in host.by_component
        exe = host.proc.path(process.pid, "exe")
        # One executable can be several components, and then all of Kubernetes' have its version; etcd has its own.
        program = "k3s" if in_process else name
        kind = program if program in ("etcd", "k3s") else "kubernetes"
        key = (kind, processes.executable_identity(exe))
        if key not in queries:
            trusted = process.depth == 1 and processes.pod_uid_of(process.cgroups) is None
            queries[key] = processes.VersionQuery(exe, program, trusted=trusted)
        query_of[name] = key

    unit_names = {}
    for name in names:
        process = host.process_of(name)
        unit_names[name] = processes.unit_of(process.cgroups) if process else name + ".service"
    units = processes.show_units(sorted({unit for unit in unit_names.values() if unit}), host.remaining())

    versions = {key: query.result(host.deadline) for key, query in queries.items()}
    return {
        name: describe_one(host, name, units, unit_names[name], manifests, versions.get(query_of.get(name)))
        for name in names
    }


def describe_one(
    host: Host,
    name: str,
    units: t.Mapping[str, t.Mapping[str, t.Any]],
    unit_name: t.Optional[str],
    manifests: t.Mapping[str, str],
    version: t.Optional[str],
) -> t.Dict[str, t.Any]:
    process = host.process_of(name)
    unit = units.get(unit_name) if unit_name else None
    unit = unit if unit and unit["loaded"] else None
    result: t.Dict[str, t.Any] = {
        "running": process is not None,
        "pid": None,
        "other_pids": [],
        "in_process": False,
        "argv": [],
        "flags": {},
        "environ": {},
        "start_time": None,
        "binary": None,
        "version": version,
        "managed_by": "unknown",
        "unit": unit_name if process or unit else None,
        "unit_state": unit_state(unit),
        "pod_uid": None,
        "definition_files": [],
    }
    own_manifests = processes.manifests_of(manifests, name)
    if process is None:
        if own_manifests:
            result.update(managed_by="static_pod", definition_files=own_manifests)
        elif unit:
            result.update(managed_by="systemd", definition_files=unit_files(unit))
        return result

    in_process = name not in host.by_component
    argv = processes.mask_argv(process.argv)
    pod_uid = processes.pod_uid_of(process.cgroups)
    managed_by = "k3s" if in_process else processes.manager_of(process.argv, pod_uid, unit_name)
    if managed_by in ("k3s", "rke2"):
        files = distribution_files(managed_by) + unit_files(unit)
    elif pod_uid:
        files = [] if managed_by == "pod" else own_manifests
    else:
        files = unit_files(unit)
    result.update(
        pid=process.pid,
        other_pids=[other.pid for other in host.by_component.get(name, ()) if other.pid != process.pid],
        in_process=in_process,
        argv=argv,
        flags={} if in_process else processes.flags_of(argv),
        environ=host.proc.proxy_environment(process.pid),
        start_time=processes.rfc3339(host.boot_time + process.start_ticks / os.sysconf("SC_CLK_TCK")),
        binary=processes.read_link(host.proc.path(process.pid, "exe")),
        managed_by=managed_by,
        pod_uid=pod_uid,
        definition_files=files,
    )
    return result


def describe_host(host: Host) -> t.Dict[str, t.Any]:
    hostname = os.uname().nodename
    return {
        "hostname": hostname,
        "node_name": host.flags_of("kubelet").get("hostname-override") or hostname.lower(),
        "boot_id": (processes.read_text("/proc/sys/kernel/random/boot_id") or "").strip() or None,
        "cgroup_version": 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1,
        "default_ipv4": default_ipv4(),
        "time": processes.rfc3339(time.time()),
    }


def describe_directories(
    host: Host, manifests: t.Mapping[str, str], kubelet_text: t.Optional[str]
) -> t.Dict[str, t.Any]:
    authorities = [host.flags_of(name).get("client-ca-file") for name in ("kube-apiserver", "kubelet")]
    authorities.append(processes.yaml_value(kubelet_text or "", "clientCAFile"))
    named = [os.path.dirname(path) for path in authorities if path and os.path.isabs(path)]
    return {
        "pki_dir": next((path for path in named + list(PKI_DIRS) if os.path.isdir(path)), None),
        "admin_kubeconfig": next((path for path in ADMIN_KUBECONFIGS if os.path.isfile(path)), None),
        "kubeadm": os.path.exists(KUBEADM_FLAGS_FILE) or any(KUBEADM_ANNOTATION in text for text in manifests.values()),
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "components": {
                "type": "list",
                "elements": "str",
                "choices": list(processes.COMPONENTS),
                "default": list(processes.COMPONENTS),
            },
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    timeout = module.params["timeout"]
    if timeout < 1:
        module.fail_json(msg="timeout is %d, and has to be at least 1 second." % timeout)
    if os.geteuid() != 0:
        module.fail_json(msg="The module runs as user id %d, not as root, and would miss most of it." % os.geteuid())

    def out_of_time(unused_signal: int, unused_frame: t.Any) -> None:
        raise OutOfTime

    # A process table can hang a reader (a stuck file system behind a link), and this module must not hang its caller.
    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, timeout + 0.5)
    try:
        host = Host(proc=processes.Proc(), timeout=timeout)
        kubelet_config = host.kubelet_config()
        manifests = {
            path: processes.read_text(path) or "" for path in list_files(kubelet_config["static_pod_path"] or "")
        }
        result = {
            "components": describe(host, module.params["components"], manifests),
            "host": describe_host(host),
            "kubelet_config": kubelet_config,
            "kubernetes_dir": describe_directories(host, manifests, kubelet_config["text"]),
        }
    except OutOfTime:
        module.fail_json(
            msg="The components of this host could not be read within %d s; raise timeout or look for hung processes."
            % timeout
        )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
