# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import processes

STATIC_UID = "0123456789abcdef0123456789abcdef"
DAEMONSET_UID = "0f8e1b52-93c2-4a3e-8d1f-6f2f3b7d5c11"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"kubelet\0--a=\0--b\0", ["kubelet", "--a=", "--b"]),
        (b"kubelet\0\0--b\0", ["kubelet", "", "--b"]),
        (b"no-final-nul", ["no-final-nul"]),
        (b"bad\xff\0", ["bad\ufffd"]),
    ],
)
def test_split_nul(data, expected):
    assert processes.split_nul(data) == expected


@pytest.mark.parametrize(
    ("argv", "comm", "expected"),
    [
        (["/usr/bin/kubelet", "--config=x"], "kubelet", "kubelet"),
        (["kube-controller-manager"], "kube-controller", "kube-controller-manager"),
        (["/hyperkube", "apiserver"], "hyperkube", "kube-apiserver"),
        (["/hyperkube", "kube-proxy"], "hyperkube", "kube-proxy"),
        (["/hyperkube", "scale"], "hyperkube", None),
        # A wrapper script is not the kubelet that it starts.
        (["/bin/sh", "/usr/local/bin/kubelet"], "kubelet", None),
        (["kubelet: rewritten title"], "kubelet", "kubelet"),
        (["/usr/bin/vim", "kubelet"], "vim", None),
        (["etcdctl", "get"], "etcdctl", None),
        ([], "kubelet", None),
    ],
)
def test_component_of(argv, comm, expected):
    assert processes.component_of(argv, comm) == expected


@pytest.mark.parametrize(
    ("argv", "comm", "expected"),
    [
        (["/usr/local/bin/k3s server"], "k3s-server", "server"),
        (["/usr/local/bin/k3s", "agent"], "k3s", "agent"),
        (["anything"], "k3s-agent", "agent"),
        (["/usr/local/bin/k3s", "kubectl"], "k3s", None),
    ],
)
def test_k3s_role(argv, comm, expected):
    assert processes.k3s_role(argv, comm) == expected


def cgroup_lines(*lines):
    return processes.parse_cgroups("\n".join(lines) + "\n")


def test_cgroups_of_a_static_pod_where_only_some_hierarchies_tell():
    paths = cgroup_lines(
        "12:cpuset:/",
        f"5:memory:/kubepods/burstable/pod{STATIC_UID}/aa",
        f"1:name=systemd:/kubepods/pod{STATIC_UID}/aa",
    )
    assert paths == [f"/kubepods/pod{STATIC_UID}/aa", f"/kubepods/burstable/pod{STATIC_UID}/aa"]
    assert processes.pod_uid_of(paths) == STATIC_UID
    assert processes.unit_of(paths) is None
    assert processes.manager_of(["kube-apiserver"], STATIC_UID, None) == "static_pod"


def test_cgroup_of_the_systemd_driver():
    uid = DAEMONSET_UID.replace("-", "_")
    paths = cgroup_lines(
        f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice/cri-containerd-77.scope"
    )
    assert processes.pod_uid_of(paths) == DAEMONSET_UID
    assert processes.manager_of(["kube-proxy"], DAEMONSET_UID, None) == "pod"


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("0::/system.slice/kubelet.service", "kubelet.service"),
        ("0::/system.slice/rke2-server.service/kubelet", "rke2-server.service"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service", None),
        ("0::/user.slice/user-0.slice/session-3.scope", None),
        ("0::/", None),
        ("nonsense", None),
    ],
)
def test_unit_of(line, unit):
    assert processes.unit_of(cgroup_lines(line)) == unit


@pytest.mark.parametrize(
    ("argv", "pod_uid", "unit", "expected"),
    [
        (["kubelet"], None, "kubelet.service", "systemd"),
        (["kubelet"], None, "rke2-agent.service", "rke2"),
        (["kube-apiserver", "--x=/var/lib/rancher/rke2/server/tls/a"], STATIC_UID, None, "rke2"),
        (["/var/lib/minikube/binaries/v1.36.3/kubelet"], None, "kubelet.service", "minikube"),
        (["/var/lib/k0s/bin/kube-apiserver"], None, "k0scontroller.service", "k0s"),
        (["/var/lib/k0s/bin/kubelet"], None, "x.service", "k0s"),
        (["kube-apiserver"], None, "snap.microk8s.daemon-kubelite.service", "microk8s"),
        (["kube-apiserver", "--openshift-config=/etc/kubernetes/config.yaml"], STATIC_UID, None, "openshift"),
        (
            ["kubelet", "--node-labels=node-role.kubernetes.io/master,node.openshift.io/os_id=rhcos"],
            None,
            "kubelet.service",
            "openshift",
        ),
        (["kube-apiserver"], None, "snap.kube-apiserver.daemon.service", "systemd"),
        (["etcd"], None, None, "unknown"),
    ],
)
def test_manager_of(argv, pod_uid, unit, expected):
    assert processes.manager_of(argv, pod_uid, unit) == expected


def test_what_kubelite_runs_inside_itself():
    assert (
        processes.kubelite_components(["/snap/microk8s/7/kubelite", "--start-control-plane=true"])[0]
        == "kube-apiserver"
    )
    assert processes.kubelite_components(["kubelite", "--start-control-plane=false"]) == ("kube-proxy", "kubelet")
    assert processes.kubelite_components(["kubelet"]) == processes.kubelite_components([]) == ()


def test_start_ticks_with_a_hostile_process_name():
    stat = "7 (a) b (c) S 1 " + " ".join(str(number) for number in range(5, 30))
    assert processes.parse_start_ticks(stat) == 22
    assert processes.parse_start_ticks("") == 0


SHOW = """\
Id=kubelet.service
Names=kubelet.service alias.service
LoadState=loaded
ActiveState=active
FragmentPath=/usr/lib/systemd/system/kubelet.service
DropInPaths=/etc/systemd/system/kubelet.service.d/10-kubeadm.conf /etc/systemd/system/kubelet.service.d/20.conf
EnvironmentFiles=/var/lib/kubelet/kubeadm-flags.env (ignore_errors=yes)
EnvironmentFiles=/etc/default/kube let (ignore_errors=no)
NeedDaemonReload=yes

Id=etcd.service
Names=etcd.service
LoadState=not-found
ActiveState=inactive
FragmentPath=
DropInPaths=
NeedDaemonReload=no
"""


def test_parse_systemctl_show():
    units = processes.parse_systemctl_show(SHOW)
    assert units["alias.service"] is units["kubelet.service"]
    kubelet = units["kubelet.service"]
    assert kubelet["loaded"]
    assert kubelet["need_daemon_reload"]
    assert kubelet["environment_files"] == [
        {"path": "/var/lib/kubelet/kubeadm-flags.env", "optional": True},
        {"path": "/etc/default/kube let", "optional": False},
    ]
    assert len(kubelet["drop_ins"]) == 2
    assert not units["etcd.service"]["loaded"]
    assert units["etcd.service"]["fragment"] is None
    assert processes.parse_systemctl_show("") == {}


APISERVER = """\
metadata:
  name: kube-apiserver
spec:
  containers:
  - command:
    - kube-apiserver
    - --etcd-servers=https://127.0.0.1:2379
    - --etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt
    image: registry.k8s.io/kube-apiserver:v1.36.3
    name: kube-apiserver
  volumes:
  - hostPath:
      path: /etc/kubernetes/pki/etcd
"""
ETCD = "metadata:\n  name: etcd\nspec:\n  containers:\n  - command:\n    - etcd\n    - --name=cp1\n"


def test_manifests_are_found_by_what_they_run():
    files = {"/m/a.yaml": APISERVER, "/m/etcd.yaml": ETCD, "/m/other.yaml": "kind: Pod\nmetadata: {name: web}\n"}
    assert processes.manifests_of(files, "kube-apiserver") == ["/m/a.yaml"]
    assert processes.manifests_of(files, "etcd") == ["/m/etcd.yaml"]
    assert processes.manifests_of(files, "kube-scheduler") == []
    assert processes.manifests_of({}, "etcd") == []


def test_a_backup_beside_the_manifest_is_seen():
    files = {"/m/kube-apiserver.yaml.bak": APISERVER, "/m/kube-apiserver.yaml": APISERVER}
    assert processes.manifests_of(files, "kube-apiserver") == ["/m/kube-apiserver.yaml", "/m/kube-apiserver.yaml.bak"]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('    command: ["/usr/local/bin/kube-apiserver", "--a=b"]\n', 3),
        (json.dumps({"spec": {"containers": [{"command": ["kube-apiserver"]}]}}), 3),
        ('    - "/hyperkube/kube-apiserver"\n', 3),
        ("name: kube-apiserver\n", 2),
        ("image: registry.k8s.io/kube-apiserver@sha256:00\n", 1),
        ("image: example.com/my-kube-apiserver-proxy:1\n", 0),
    ],
)
def test_manifest_score(text, score):
    assert processes.manifest_score(text, "kube-apiserver") == score


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("staticPodPath: /etc/kubernetes/manifests\n", {}, "/etc/kubernetes/manifests"),
        ("staticPodPath: '/a b/c/' # why\n", {}, "/a b/c"),
        ('{"kind": "KubeletConfiguration", "staticPodPath": "/m"}', {}, "/m"),
        ("kind: X\n#staticPodPath: /old\n", {}, None),
        ('staticPodPath: ""\n', {}, None),
        ("staticPodPath: /file\n", {"pod-manifest-path": "/flag"}, "/flag"),
        (None, {}, None),
    ],
)
def test_static_pod_path_of(text, flags, expected):
    assert processes.static_pod_path_of(text, flags) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Kubernetes v1.36.3\n", "v1.36.3"),
        ("etcd Version: 3.6.8\nGit SHA: 1\n", "3.6.8"),
        ("k3s version v1.30.2+k3s1 (aa4794b3)\ngo version go1.22.4\n", "v1.30.2+k3s1"),
        ("usage: no such flag\n", None),
    ],
)
def test_version_in(text, expected):
    assert processes.version_in(text) == expected


# --- a process table on disk ----------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    """Makes processes below a directory that looks like /proc."""

    class Table:
        root = tmp_path / "proc"

        def add(self, pid, argv, *, net="net:[1]", ticks=100, nspid=None, cgroup="0::/system.slice/x.service", env=()):
            directory = self.root / str(pid)
            (directory / "ns").mkdir(parents=True)
            (directory / "cmdline").write_bytes("".join(argument + "\0" for argument in argv).encode())
            (directory / "comm").write_text(os.path.basename(argv[0])[:15] + "\n" if argv else "kworker\n")
            (directory / "cgroup").write_text(cgroup + "\n")
            (directory / "environ").write_bytes("".join(entry + "\0" for entry in env).encode())
            (directory / "status").write_text(f"Name:\tx\nNSpid:\t{nspid or pid}\n")
            (directory / "stat").write_text(f"{pid} (x) " + " ".join(["S"] + ["0"] * 18 + [str(ticks)]))
            os.symlink(net, directory / "ns" / "net")
            os.symlink("mnt:[1]", directory / "ns" / "mnt")
            os.symlink("/work", directory / "cwd")
            return directory

    table = Table()
    (table.root / "self" / "ns").mkdir(parents=True)
    os.symlink("net:[1]", table.root / "self" / "ns" / "net")
    os.symlink("mnt:[1]", table.root / "self" / "ns" / "mnt")
    (table.root / "stat").write_text("cpu 1 2\nbtime 1700000000\n")
    (table.root / "loadavg").write_text("0\n")
    return table


def test_only_this_hosts_components_are_found(table):
    table.add(10, ["/usr/bin/kubelet", "--config=c"])
    table.add(11, ["kube-apiserver"], nspid="11 1")
    table.add(12, ["kubelet"], net="net:[2]", nspid="12 40")
    table.add(13, ["kube-apiserver"], nspid="13 50 1")
    table.add(14, [])
    table.add(15, ["bash"])
    proc = processes.Proc(str(table.root))
    assert [(process.pid, process.depth) for process in proc.processes()] == [(10, 1), (11, 2)]
    assert proc.boot_time() == 1700000000


def test_the_oldest_process_is_the_component(table):
    table.add(10, ["kubelet", "--version"], ticks=300)
    table.add(11, ["kubelet"], ticks=200)
    assert processes.choose(processes.Proc(str(table.root)).processes()).pid == 11
    assert processes.choose([]) is None


def test_environment_holds_proxies_alone_and_no_credentials(table):
    table.add(10, ["kubelet"], env=["HTTPS_PROXY=http://me:pw@p:1", "no_proxy=.svc,a@b", "SECRET=x", "odd"])
    assert processes.Proc(str(table.root)).proxy_environment(10) == {
        "HTTPS_PROXY": "http://p:1",
        "no_proxy": ".svc,a@b",
    }
    assert processes.Proc(str(table.root)).proxy_environment(99) == {}


def test_relative_paths_start_where_the_process_does(table):
    table.add(10, ["kubelet"])
    proc = processes.Proc(str(table.root))
    assert proc.absolute(10, "conf/../kubelet.yaml") == "/work/kubelet.yaml"
    assert proc.absolute(10, "/etc//x") == "/etc/x"
    assert proc.absolute(99, "x") == "/x"


def test_files_of_a_process_with_its_own_mounts(table):
    directory = table.add(10, ["kubelet"])
    proc = processes.Proc(str(table.root))
    assert proc.own_files(10) == ""
    (directory / "ns" / "mnt").unlink()
    os.symlink("mnt:[2]", directory / "ns" / "mnt")
    assert proc.own_files(10) == f"{table.root}/10/root"


# --- executables ----------------------------------------------------------------------------------------------------


def test_version_of_a_real_executable():
    query = processes.VersionQuery(sys.executable, "python", trusted=True)
    assert query.result(time.monotonic() + 20) == "{}.{}.{}".format(*sys.version_info[:3])


def test_an_executable_that_hangs_is_stopped(monkeypatch):
    real = subprocess.Popen
    monkeypatch.setattr(processes.subprocess, "Popen", lambda argv, **arguments: real(["sleep", "60"]))
    query = processes.VersionQuery("/bin/sh", "sh", trusted=True)
    started = time.monotonic()
    assert query.result(started + 0.1) is None
    assert time.monotonic() - started < 5


def test_an_executable_that_is_not_there():
    assert processes.VersionQuery("/nonexistent", "x", trusted=True).result(time.monotonic() + 1) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_comes_from_an_image_does_not_run_as_root(tmp_path, monkeypatch):
    # Anybody may run the file itself, but only root may enter its directory, as it is with the root of a container.
    program = tmp_path / "id"
    program.write_bytes(pathlib.Path(shutil.which("id")).read_bytes())
    program.chmod(0o755)
    tmp_path.chmod(0o700)
    started = []
    real = subprocess.Popen

    def popen(argv, **arguments):
        started.append(real(["id", "-u"], **arguments))
        return started[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    processes.VersionQuery(str(program), "id", trusted=False)
    assert started[0].communicate()[0].strip() == b"65534"


def test_identical_executables_are_known(tmp_path):
    for name, content in (("a", b"x" * 200000), ("b", b"x" * 200000), ("c", b"y" * 200000)):
        (tmp_path / name).write_bytes(content)
    identity = {name: processes.executable_identity(str(tmp_path / name)) for name in "abc"}
    assert identity["a"] == identity["b"] != identity["c"]
    assert processes.executable_identity(str(tmp_path / "none")) is None
