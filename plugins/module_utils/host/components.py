# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Kubernetes components of this host: how they run, what defines and configures them. Standard library only."""

from __future__ import annotations

import os
import re
import time
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files, kubelets, processes
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions, kubelite_args, masking
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags as flag_model
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.kubelet_flags import CONFIG_FLAGS

DEFAULT_KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
DEFAULT_MANIFESTS = "/etc/kubernetes/manifests"
#: Where kubeadm keeps the manifests that an upgrade replaces.
KUBEADM_BACKUPS = "/etc/kubernetes/tmp"
_MANIFEST_FLAG = re.compile(r"""^\s*-\s+["']?--(?P<name>[a-z0-9-]+)(?:=(?P<value>.*?))?["']?\s*$""")
ADMIN_KUBECONFIGS = (
    "/etc/kubernetes/admin.conf",
    "/root/.kube/config",
)
PKI_DIRS = (
    "/etc/kubernetes/pki",
    "/etc/kubernetes/ssl",
)
DEFAULT_CERT_DIR = "/var/lib/kubelet/pki"
K3S_CLIENT_CERTIFICATE = "/var/lib/rancher/k3s/agent/client-kubelet.crt"
START_TIME_GRAIN = 2.0
KUBELET_TIMEOUT = 3.0
#: What Linux adds to the path of a running program that was replaced or removed (proc_pid_exe(5)).
DELETED = " (deleted)"
KUBEADM_FLAGS_FILE = "/var/lib/kubelet/kubeadm-flags.env"
KUBEADM_ANNOTATION = "kubeadm.kubernetes.io/"


def list_files(directory: str, suffix: str = "") -> t.List[str]:
    """The plain files of a directory that a program would load, sorted; names with a dot in front are passed over."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    paths = [os.path.join(directory, name) for name in names if not name.startswith(".") and name.endswith(suffix)]
    return [path for path in paths if os.path.isfile(path)]


def walk_drop_ins(directory: str) -> t.List[str]:
    """The files that a kubelet reads below its --config-dir, in its order; what it passes over is passed over here.

    It walks through subdirectories, in the order of names at each level, and takes every file whose name ends in .conf,
    also one with a dot in front. It follows no link to a directory.
    """
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: os.fsencode(entry.name))
    except OSError:
        return []
    found = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            found += walk_drop_ins(entry.path)
        elif entry.name.endswith(".conf"):
            found.append(entry.path)
    return found


def written_after(paths: t.Iterable[str], moment: float) -> t.List[str]:
    """Those of the files that are younger than ``moment``, which the kernel tells to the second only."""
    found = []
    for path in paths:
        try:
            if os.stat(path).st_mtime > moment + START_TIME_GRAIN:
                found.append(path)
        except OSError:
            continue
    return found


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
        self.kubelite: t.Optional[processes.Process] = None
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
            if processes.kubelite_components(process.argv) and self.kubelite is None:
                self.kubelite = process
        self.boot_time = proc.boot_time()

    def process_of(self, name: str) -> t.Optional[processes.Process]:
        own = processes.choose(self.by_component.get(name, ()))
        if own or name in self.k3s_components:
            return own or self.k3s
        return self.kubelite if self.kubelite and name in processes.kubelite_components(self.kubelite.argv) else None

    @property
    def distributions(self) -> t.Tuple[str, ...]:
        """The distribution that its API server, else its kubelet, belongs to, if any; all where nothing runs.

        What another one has left on the host, such as its kubeconfig, says nothing of this cluster.
        """
        for name in ("kube-apiserver", "kubelet"):
            process = self.process_of(name)
            if process is not None:
                key = self.manager_of(name, process)
                return (key,) if key in distributions.TABLE else ()
        return tuple(distributions.TABLE)

    def manager_of(self, name: str, process: processes.Process) -> str:
        """Who starts a component."""
        if name not in self.by_component:
            return "microk8s" if process is self.kubelite else "k3s"
        unit = processes.unit_of(process.cgroups)
        return processes.manager_of(process.argv, processes.pod_uid_of(process.cgroups), unit)

    def kubelite_argv(self, name: str) -> t.List[str]:
        """The command line that MicroK8s gives to a component inside its process, from the file that it names."""
        path = kubelite_args.file_of(self.kubelite.argv, name) if self.kubelite else ""
        text = processes.read_text(path) if path else None
        return [] if text is None else [name, *kubelite_args.arguments(text, path)]

    def flags_of(self, name: str) -> t.Dict[str, flag_model.Value]:
        process = processes.choose(self.by_component.get(name, ()))
        return flag_model.effective(flag_model.of_argv(process.argv, name), name) if process else {}

    def flag_of(self, name: str, flag: str) -> str:
        """The text of a flag that takes one value; empty when it is not given."""
        return str(self.flags_of(name).get(flag) or "")

    def kubelet_config(self) -> t.Dict[str, t.Any]:
        kubelet = processes.choose(self.by_component.get("kubelet", ()))
        flags = self.flags_of("kubelet")
        prefix = self.proc.own_files(kubelet.pid) if kubelet else ""
        path = drop_in_dir = None
        source = "none"
        if kubelet and flags.get("config"):
            path, source = self.proc.absolute(kubelet.pid, str(flags["config"])), "flag"
        elif not kubelet and not self.k3s and not self.kubelite and os.path.isfile(DEFAULT_KUBELET_CONFIG):
            path, source = DEFAULT_KUBELET_CONFIG, "default"
        if kubelet and flags.get("config-dir"):
            drop_in_dir = self.proc.absolute(kubelet.pid, str(flags["config-dir"]))
            # Not even one in the place of --config-dir itself, unless a slash behind it says that it is a directory.
            if os.path.islink(prefix + drop_in_dir) and not str(flags["config-dir"]).endswith("/"):
                drop_in_dir = None
        text = processes.read_text(prefix + path) if path else None
        drop_ins = []
        for found in walk_drop_ins(prefix + drop_in_dir) if drop_in_dir else []:
            content = processes.read_text(found)
            drop_ins.append(
                {
                    "path": found[len(prefix) :],
                    "text": None if content is None else masking.mask_kubelet_config(content),
                }
            )
        static_pod_path = processes.static_pod_path_of(text, flags)
        for drop_in in drop_ins:
            static_pod_path = processes.static_pod_path_of(drop_in["text"], flags) or static_pod_path
        if static_pod_path is None and not kubelet and os.path.isdir(DEFAULT_MANIFESTS):
            static_pod_path = DEFAULT_MANIFESTS
        newer: t.List[str] = []
        if kubelet is not None:
            started = self.boot_time + kubelet.start_ticks / os.sysconf("SC_CLK_TCK")
            files = [prefix + name for name in [path, *(entry["path"] for entry in drop_ins)] if name]
            # A directory is younger than the files in it when one of them was removed.
            newer = written_after(files, started) or written_after([prefix + (drop_in_dir or "")], started)
        return {
            "path": path,
            "exists": text is not None,
            "source": source,
            "text": None if text is None else masking.mask_kubelet_config(text),
            "drop_in_dir": drop_in_dir,
            "drop_ins": drop_ins,
            "static_pod_path": static_pod_path,
            "overriding_flags": masking.mask_flags(
                {name: flags[name] for name in sorted(flags) if name in CONFIG_FLAGS}
            ),
            "changed_since_start": bool(newer),
            "newer_files": [name[len(prefix) :] for name in newer],
        }

    def k3s_node_name(self) -> t.Optional[str]:
        """The name of the node where k3s is told one; its command line is not to be seen."""
        if self.k3s is None:
            return None
        for entry in processes.split_nul(processes.read_bytes(self.proc.path(self.k3s.pid, "environ")) or b""):
            if entry.startswith("K3S_NODE_NAME="):
                return entry.partition("=")[2] or None
        texts = [processes.read_text(path) for path in reversed(distribution_files("k3s"))]
        return next(filter(None, (processes.yaml_value(text or "", "node-name") for text in texts)), None)

    def kubelet_client_certificate(self) -> t.Optional[str]:
        """The certificate (DER in base64) by which the API server knows the kubelet; None where it has none."""
        kubelet = processes.choose(self.by_component.get("kubelet", ()))
        if kubelet is None:
            return kubelets.certificate_in(processes.read_text(K3S_CLIENT_CERTIFICATE)) if self.k3s else None
        flags = self.flags_of("kubelet")
        prefix = self.proc.own_files(kubelet.pid)
        kubeconfig = flags.get("kubeconfig")
        text = processes.read_text(prefix + self.proc.absolute(kubelet.pid, kubeconfig)) if kubeconfig else None
        data = processes.yaml_value(text or "", "client-certificate-data")
        if data:
            return kubelets.certificate_in(kubelets.decoded(data))
        path = processes.yaml_value(text or "", "client-certificate") or os.path.join(
            flags.get("cert-dir") or DEFAULT_CERT_DIR, "kubelet-client-current.pem"
        )
        base = os.path.dirname(self.proc.absolute(kubelet.pid, kubeconfig)) if kubeconfig else "/"
        return kubelets.certificate_in(processes.read_text(prefix + os.path.normpath(os.path.join(base, path))))

    def manifests(self, directory: t.Optional[str]) -> t.Dict[str, str]:
        """The static pod manifests by their path."""
        return {path: processes.read_text(path) or "" for path in list_files(directory or "")}

    def remaining(self) -> float:
        return max(0.1, self.deadline - time.monotonic())


def describe(host: Host, names: t.Sequence[str], manifests: t.Mapping[str, str]) -> t.Dict[str, t.Any]:
    queries: t.Dict[t.Any, processes.VersionQuery] = {}
    query_of: t.Dict[str, t.Any] = {}
    for name in names:
        process = host.process_of(name)
        if process is None:
            continue
        if process is host.kubelite:
            # Its executable has no version to tell.
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
        "binary_replaced": False,
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
    argv = masking.mask_argv(process.argv)
    shown = masking.mask_argv(host.kubelite_argv(name)) if in_process else argv
    pod_uid = processes.pod_uid_of(process.cgroups)
    managed_by = host.manager_of(name, process)
    if managed_by in ("k3s", "rke2"):
        files = distribution_files(managed_by) + unit_files(unit)
    elif pod_uid:
        files = [] if managed_by == "pod" else own_manifests
    else:
        files = unit_files(unit)
    binary = processes.read_link(host.proc.path(process.pid, "exe")) or ""
    result.update(
        pid=process.pid,
        other_pids=[other.pid for other in host.by_component.get(name, ()) if other.pid != process.pid],
        in_process=in_process,
        argv=argv,
        flags=flag_model.effective(flag_model.of_argv(shown, name), name) if shown else {},
        environ=host.proc.proxy_environment(process.pid),
        start_time=processes.rfc3339(host.boot_time + process.start_ticks / os.sysconf("SC_CLK_TCK")),
        binary=binary[: -len(DELETED)] if binary.endswith(DELETED) else binary or None,
        binary_replaced=binary.endswith(DELETED),
        managed_by=managed_by,
        pod_uid=pod_uid,
        definition_files=files,
    )
    return result


def describe_host(host: Host) -> t.Dict[str, t.Any]:
    hostname = os.uname().nodename
    named = host.flag_of("kubelet", "hostname-override") or host.k3s_node_name()
    return {
        "hostname": hostname,
        "node_name": named or hostname.lower(),
        "kubelet_client_certificate": host.kubelet_client_certificate(),
        "boot_id": (processes.read_text("/proc/sys/kernel/random/boot_id") or "").strip() or None,
        "cgroup_version": 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1,
        "default_ipv4": kubelets.default_address(),
        "time": processes.rfc3339(time.time()),
    }


def interrupted_certificates() -> t.List[str]:
    """Changes of the front proxy's certificates that were begun and not finished; none where that cannot be read."""
    try:
        return list(files.half_done(component="front_proxy"))
    except files.HostFileError:
        return []


def lost_flags(manifests: t.Mapping[str, str], backups: str = KUBEADM_BACKUPS) -> t.List[t.Dict[str, t.Any]]:
    """Flags of API servers that the manifest had before kubeadm last wrote it anew, and has no more."""
    name = "kube-apiserver"
    try:
        directories = sorted(entry for entry in os.listdir(backups) if entry.startswith("kubeadm-backup-manifests-"))
    except OSError:
        return []
    paths = [os.path.join(backups, entry, name + ".yaml") for entry in reversed(directories)]
    newest = next((path for path in paths if os.path.isfile(path)), None)
    current = [path for path in manifests if os.path.basename(path) == name + ".yaml"]
    if newest is None or not current:
        return []
    now = {flag for flag, unused in flags_of_manifest(manifests[current[0]])}
    return [
        {
            "component": name,
            "name": flag,
            # A value is secret or not by the name of its flag.
            "value": masking.mask_text("--%s=%s" % (flag, value)).partition("=")[2],
            "source": newest,
        }
        for flag, value in flags_of_manifest(processes.read_text(newest) or "")
        if flag not in now
    ]


def flags_of_manifest(text: str) -> t.List[t.Tuple[str, str]]:
    """The flags in the lines of a static pod as kubeadm writes it, which is all that its backups hold."""
    found = []
    for line in text.splitlines():
        match = _MANIFEST_FLAG.match(line)
        if match:
            found.append((match.group("name"), match.group("value") or "true"))
    return found


def describe_directories(
    host: Host, manifests: t.Mapping[str, str], kubelet_text: t.Optional[str]
) -> t.Dict[str, t.Any]:
    authorities = [host.flag_of(name, "client-ca-file") for name in ("kube-apiserver", "kubelet")]
    authorities.append(processes.yaml_value(kubelet_text or "", "clientCAFile"))
    named = [os.path.dirname(path) for path in authorities if path and os.path.isabs(path)]
    own = [distributions.TABLE[key].pki_dir for key in host.distributions if distributions.TABLE[key].pki_dir]
    return {
        "pki_dir": next((path for path in [*named, *own, *PKI_DIRS] if os.path.isdir(path)), None),
        "admin_kubeconfig": next((path for path in admin_kubeconfigs(host) if os.path.isfile(path)), None),
        "kubeadm": os.path.exists(KUBEADM_FLAGS_FILE) or any(KUBEADM_ANNOTATION in text for text in manifests.values()),
    }


def admin_kubeconfigs(host: Host) -> t.List[str]:
    """Where an administrator's kubeconfig may be: where the distribution has it, in the usual places, else beside
    those of the components."""
    own = [path for key in host.distributions for path in distributions.TABLE[key].kubeconfigs]
    named = [host.flag_of(name, "kubeconfig") for name in ("kube-controller-manager", "kube-scheduler", "kubelet")]
    beside = [os.path.join(os.path.dirname(path), "admin.conf") for path in named if path and os.path.isabs(path)]
    usual = [*own, *ADMIN_KUBECONFIGS] if len(host.distributions) == 1 else [*ADMIN_KUBECONFIGS, *own]
    return list(dict.fromkeys([*usual, *beside]))


def describe_kubelet_answers(
    host: Host, kubelet_config: t.Mapping[str, t.Any], pki_dir: t.Optional[str], authority: t.Optional[str]
) -> t.Optional[t.Dict[str, t.Any]]:
    """What the running kubelet answers, or None where none runs."""
    process = host.process_of("kubelet")
    if process is None:
        return None
    flags = host.flags_of("kubelet")
    manager = host.manager_of("kubelet", process)
    return kubelets.answers(
        kubelets.node_address(kubelet_config, flags),
        kubelets.number(kubelets.setting(kubelet_config, flags, "port", "port"), kubelets.PORT),
        authority=authority or kubelets.serving_authority(kubelet_config, flags, manager, pki_dir),
        read_only_port=kubelets.number(
            kubelets.setting(kubelet_config, flags, "readOnlyPort", "read-only-port"), kubelets.READ_ONLY_PORT
        ),
        prefix=host.proc.own_files(process.pid) if host.by_component.get("kubelet") else "",
        timeout=min(KUBELET_TIMEOUT, host.remaining()),
    )
