# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running Kubernetes components as the kernel shows them: /proc, cgroups and systemd. Standard library only."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import subprocess
import time
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flags import Value
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.masking import strip_userinfo

COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "etcd")

#: What one process of k3s runs inside itself, by its role.
K3S_SERVER_COMPONENTS = COMPONENTS
K3S_AGENT_COMPONENTS = ("kube-proxy", "kubelet")
KUBELITE_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

_COMM_LENGTH = 15
_UNPRIVILEGED_ID = 65534
_MAX_FILE = 1 << 20
_POD_UID = re.compile(
    r"kubepods[^\n]*?[-/]pod([0-9a-f]{32}|[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})"
)
_VERSION = re.compile(r"\bv?\d+\.\d+\.\d+[0-9A-Za-z.+-]*")


class Process(t.NamedTuple):
    """One process, as far as it matters here."""

    pid: int
    comm: str
    argv: t.List[str]
    cgroups: t.List[str]
    start_ticks: int
    depth: int
    net_ns: t.Optional[str]


# --- pure functions -------------------------------------------------------------------------------------------------


#: Capabilities that let a process read any file: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
_READ_ANYTHING = 1 << 1 | 1 << 2


class Credentials(t.NamedTuple):
    """By what the kernel decides which files a process may read."""

    uid: int
    #: Its own group first.
    gids: t.List[int]
    reads_anything: bool

    def may_read(self, mode: int, uid: int, gid: int) -> bool:
        """Whether a file of this mode and owner is open to the process, apart from access control lists."""
        if self.reads_anything:
            return True
        shift = 6 if uid == self.uid else 3 if gid in self.gids else 0
        return bool(mode >> shift & 0o4)


def parse_credentials(status: str) -> t.Optional[Credentials]:
    """What /proc/PID/status says of them; None when it says too little."""
    fields = {name: values.split() for name, values in re.findall(r"(?m)^(Uid|Gid|Groups|CapEff):(.*)$", status)}
    try:
        uid, gid = int(fields["Uid"][3]), int(fields["Gid"][3])
        capabilities = int(fields["CapEff"][0], 16)
        return Credentials(uid, [gid, *map(int, fields.get("Groups", []))], bool(capabilities & _READ_ANYTHING))
    except (KeyError, IndexError, ValueError):
        return None


def split_nul(data: bytes) -> t.List[str]:
    """The strings of a NUL separated file; empty arguments in the middle are kept."""
    if not data:
        return []
    text = data.decode("utf-8", "replace")
    return (text[:-1] if text.endswith("\0") else text).split("\0")


def component_of(argv: t.Sequence[str], comm: str = "") -> t.Optional[str]:
    """The component that a command line runs, or None."""
    if not argv:
        return None
    base = os.path.basename(argv[0])
    if base in COMPONENTS:
        return base
    if base == "hyperkube" and len(argv) > 1:
        for name in COMPONENTS:
            if argv[1] in (name, name.replace("kube-", "", 1)):
                return name
        return None
    # A process may have rewritten its argv[0]; a script's argv[0] is its interpreter, and it is not the component.
    if len(argv) == 1 or not os.path.basename(argv[1]).startswith(base):
        for name in COMPONENTS:
            if comm == name[:_COMM_LENGTH] and argv[0].startswith(name):
                return name
    return None


def k3s_role(argv: t.Sequence[str], comm: str = "") -> t.Optional[str]:
    """server or agent when this is the k3s process; it keeps only the subcommand in its title."""
    words = argv[0].split() if len(argv) == 1 else list(argv[:2])
    if words and os.path.basename(words[0]) == "k3s" and len(words) > 1 and words[1] in ("server", "agent"):
        return words[1]
    return {"k3s-server": "server", "k3s-agent": "agent"}.get(comm)


def pod_uid_of(cgroups: t.Sequence[str]) -> t.Optional[str]:
    """The pod a process belongs to. Hierarchies that the runtime left alone show / and are skipped."""
    for path in cgroups:
        match = _POD_UID.search(path)
        if match:
            return match.group(1).replace("_", "-")
    return None


def unit_of(cgroups: t.Sequence[str]) -> t.Optional[str]:
    """The systemd service a process belongs to. Services of a user's own manager are none of the system's."""
    for path in cgroups:
        parts = [part for part in path.split("/") if part]
        if not parts or parts[0] == "user.slice":
            continue
        for part in parts:
            if part.endswith(".service"):
                return part
    return None


def kubelite_components(argv: t.Sequence[str]) -> t.Tuple[str, ...]:
    """What one process of MicroK8s runs inside itself; nothing when this is another process."""
    if not argv or os.path.basename(argv[0]) != "kubelite":
        return ()
    return K3S_AGENT_COMPONENTS if "--start-control-plane=false" in argv else KUBELITE_COMPONENTS


def manager_of(argv: t.Sequence[str], pod_uid: t.Optional[str], unit: t.Optional[str]) -> str:
    """Who starts this process: that is where its flags have to be changed."""
    distribution = distributions.of_process(argv, unit)
    if distribution:
        return distribution
    if pod_uid:
        # The kubelet names a static pod by the hash of its manifest; the API server gives a real UUID.
        return "pod" if "-" in pod_uid else "static_pod"
    return "systemd" if unit else "unknown"


def parse_cgroups(text: str) -> t.List[str]:
    """The paths of /proc/PID/cgroup, the systemd and unified hierarchies first."""
    found = []
    for line in text.splitlines():
        hierarchy, separator, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator and path and path != "/":
            found.append((0 if controllers in ("name=systemd", "") else 1, int(hierarchy or 0), path))
    return [path for unused_rank, unused_hierarchy, path in sorted(found)]


def parse_start_ticks(stat: str) -> int:
    """Field 22 of /proc/PID/stat. The second field may hold spaces and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 else 0


def parse_systemctl_show(text: str) -> t.Dict[str, t.Dict[str, t.Any]]:
    """Blocks of `systemctl show` by unit. A unit is also found by the alias that was asked for."""
    units: t.Dict[str, t.Dict[str, t.Any]] = {}
    for block in re.split(r"\n\s*\n", text.strip()):
        fields: t.Dict[str, t.List[str]] = {}
        for line in block.splitlines():
            key, equals, value = line.partition("=")
            if equals:
                fields.setdefault(key, []).append(value)
        if "Id" not in fields:
            continue
        environment_files = []
        for value in fields.get("EnvironmentFiles", []):
            match = re.match(r"(?P<path>.+?) \(ignore_errors=(?P<optional>yes|no)\)$", value)
            if match:
                environment_files.append({"path": match.group("path"), "optional": match.group("optional") == "yes"})
        unit = {
            "id": fields["Id"][0],
            "loaded": fields.get("LoadState", [""])[0] == "loaded",
            "active_state": fields.get("ActiveState", [""])[0] or None,
            "fragment": fields.get("FragmentPath", [""])[0] or None,
            "drop_ins": fields.get("DropInPaths", [""])[0].split(),
            "environment_files": environment_files,
            "need_daemon_reload": fields.get("NeedDaemonReload", [""])[0] == "yes",
        }
        for name in fields.get("Names", [""])[0].split() + [fields["Id"][0]]:
            units[name] = unit
    return units


def manifest_score(text: str, component: str) -> int:
    """How sure it is that a static pod manifest runs a component: by its command, its name, or its image."""
    name = re.escape(component)
    if re.search(r"""(?m)^\s*-\s+["']?(?:[^\s"']*/)?%s["']?\s*$""" % name, text) or re.search(
        r"""command["']?\s*:\s*\[\s*["']?(?:[^\s"',]*/)?%s["']?\s*[,\]]""" % name, text
    ):
        return 3
    if re.search(r"""(?m)["']?\bname["']?\s*:\s*["']?%s["']?\s*,?\s*$""" % name, text):
        return 2
    if re.search(r"""["']?\bimage["']?\s*:\s*["']?[^\s"']*/%s[:@]""" % name, text):
        return 1
    return 0


def manifests_of(files: t.Mapping[str, str], component: str) -> t.List[str]:
    """The manifests that define a component. More than one is a fault that the caller must be able to see."""
    scores = {path: manifest_score(text, component) for path, text in files.items()}
    best = max(scores.values(), default=0)
    return sorted(path for path, score in scores.items() if best and score == best)


def yaml_value(text: str, key: str) -> t.Optional[str]:
    """The string that a key has, in YAML or JSON. Good for keys that occur once; comments are not keys."""
    match = re.search(
        r"""(?m)^[^#\n]*?(?<![A-Za-z0-9_-])["']?%s["']?\s*:[ \t]*(?:"([^"\n]*)"|'([^'\n]*)'|([^\s#,}]+))"""
        % re.escape(key),
        text,
    )
    return next((group for group in match.groups() if group), None) if match else None


def static_pod_path_of(config_text: t.Optional[str], flags: t.Mapping[str, Value]) -> t.Optional[str]:
    """The directory of static pods of a kubelet: a flag wins over the file."""
    path = str(flags.get("pod-manifest-path") or "") or yaml_value(config_text or "", "staticPodPath")
    return path.rstrip("/") or "/" if path else None


def rfc3339(seconds: float) -> str:
    """A time as the Kubernetes API writes it."""
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def version_in(text: str) -> t.Optional[str]:
    """The version in what `--version` prints."""
    match = _VERSION.search(text)
    return match.group(0) if match else None


def choose(processes: t.Sequence[Process]) -> t.Optional[Process]:
    """The process of a component among several of its name: one started by hand beside it is younger."""
    return min(processes, key=lambda process: (process.start_ticks, process.pid), default=None)


# --- reading --------------------------------------------------------------------------------------------------------


def read_bytes(path: str, limit: int = _MAX_FILE) -> t.Optional[bytes]:
    """The start of a file, or None when it cannot be read: processes end and files go while we look."""
    try:
        with open(path, "rb") as stream:
            return stream.read(limit)
    except OSError:
        return None


def read_text(path: str, limit: int = _MAX_FILE) -> t.Optional[str]:
    data = read_bytes(path, limit)
    return None if data is None else data.decode("utf-8", "replace")


def read_link(path: str) -> t.Optional[str]:
    try:
        return os.readlink(path)
    except OSError:
        return None


class Proc:
    """The process table under a root, which tests replace."""

    def __init__(self, root: str = "/proc") -> None:
        self.root = root

    def path(self, pid: t.Union[int, str], *parts: str) -> str:
        return os.path.join(self.root, str(pid), *parts)

    def processes(self) -> t.List[Process]:
        """All processes of this host's own components, leaving out those of clusters nested in it.

        Control-plane pods and kubelets share the host's network; a node in a container, or a hosted control plane in a
        pod, does not. Where the kernel hides the namespace the process counts as the host's.
        """
        own_net = read_link(self.path("self", "ns", "net"))
        found = []
        for name in sorted(os.listdir(self.root), key=lambda entry: (len(entry), entry)):
            if not name.isdigit():
                continue
            argv = split_nul(read_bytes(self.path(name, "cmdline")) or b"")
            if not argv:
                continue
            comm = (read_text(self.path(name, "comm")) or "").strip()
            if component_of(argv, comm) is None and k3s_role(argv, comm) is None and not kubelite_components(argv):
                continue
            net_ns = read_link(self.path(name, "ns", "net"))
            status = read_text(self.path(name, "status")) or ""
            match = re.search(r"(?m)^NSpid:\s*(.*)$", status)
            depth = len(match.group(1).split()) if match else 1
            if (own_net and net_ns and net_ns != own_net) or depth > 2:
                continue
            found.append(
                Process(
                    pid=int(name),
                    comm=comm,
                    argv=argv,
                    cgroups=parse_cgroups(read_text(self.path(name, "cgroup")) or ""),
                    start_ticks=parse_start_ticks(read_text(self.path(name, "stat")) or ""),
                    depth=depth,
                    net_ns=net_ns,
                )
            )
        return found

    def credentials_of(self, component: str) -> t.List[Credentials]:
        """Of each process of a component on this host."""
        found = []
        for process in self.processes():
            if component_of(process.argv, process.comm) == component:
                one = parse_credentials(read_text(self.path(process.pid, "status")) or "")
                if one:
                    found.append(one)
        return found

    def boot_time(self) -> int:
        match = re.search(r"(?m)^btime (\d+)$", read_text(self.path("stat")) or "")
        return int(match.group(1)) if match else 0

    def proxy_environment(self, pid: int) -> t.Dict[str, str]:
        """The proxy variables of a process, spelled as they are there, without credentials."""
        found = {}
        for entry in split_nul(read_bytes(self.path(pid, "environ")) or b""):
            name, equals, value = entry.partition("=")
            if equals and name.upper() in PROXY_VARIABLES:
                found[name] = value if name.upper() == "NO_PROXY" else strip_userinfo(value)
        return found

    def own_files(self, pid: int) -> str:
        """Where the files of a process are: its root, when it has a mount namespace of its own, else nothing."""
        own = read_link(self.path("self", "ns", "mnt"))
        its = read_link(self.path(pid, "ns", "mnt"))
        return self.path(pid, "root") if own and its and own != its else ""

    def absolute(self, pid: int, path: str) -> str:
        """A path from a command line as that process sees it."""
        if os.path.isabs(path):
            return os.path.normpath(path)
        return os.path.normpath(os.path.join(read_link(self.path(pid, "cwd")) or "/", path))


# --- running --------------------------------------------------------------------------------------------------------


def executable_identity(path: str) -> t.Optional[t.Tuple[int, bytes, bytes]]:
    """Equal for copies of one executable. Go writes a hash of all it compiled into the first pages of the file."""
    block = 1 << 16
    try:
        with open(path, "rb") as stream:
            head = stream.read(block)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - block))
            return size, head, stream.read(block)
    except OSError:
        return None


class VersionQuery:
    """Asks an executable for its version; several run side by side.

    What came out of a container image is never run as root here: the file is opened, privileges are dropped, and the
    open file is executed.
    """

    def __init__(self, exe: str, name: str, *, trusted: bool) -> None:
        self._process: t.Optional["subprocess.Popen[bytes]"] = None
        drop = os.geteuid() == 0 and not trusted

        def become_nobody() -> None:
            os.setgroups([])
            os.setgid(_UNPRIVILEGED_ID)
            os.setuid(_UNPRIVILEGED_ID)

        try:
            descriptor = os.open(exe, os.O_RDONLY)
        except OSError:
            return
        try:
            # The file may be there for its owner alone (EACCES); then the version stays unknown.
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                self._process = subprocess.Popen(
                    [name, "--version"],
                    executable="/proc/self/fd/%d" % descriptor,
                    pass_fds=(descriptor,),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env={"PATH": "/usr/bin:/bin"},
                    preexec_fn=become_nobody if drop else None,
                )
        finally:
            os.close(descriptor)

    def result(self, deadline: float) -> t.Optional[str]:
        if self._process is None:
            return None
        try:
            output = self._process.communicate(timeout=max(0.0, deadline - time.monotonic()))[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return None
        return version_in(output.decode("utf-8", "replace"))


def show_units(names: t.Sequence[str], timeout: float) -> t.Dict[str, t.Dict[str, t.Any]]:
    """What systemd knows of some services; nothing where there is no systemd."""
    properties = "Id,Names,LoadState,ActiveState,FragmentPath,DropInPaths,EnvironmentFiles,NeedDaemonReload"
    if not names or not os.path.isdir("/run/systemd/system"):
        return {}
    try:
        shown = subprocess.run(
            ["systemctl", "show", "--no-pager", "--property=" + properties, "--"] + list(names),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_systemctl_show(shown.stdout.decode("utf-8", "replace"))
