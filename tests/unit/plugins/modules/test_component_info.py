# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import components
from ansible_collections.kubemetrics.aggregation.plugins.modules import component_info

PROGRAM = """\
import sys, time
if "--version" in sys.argv:
    print("Kubernetes v1.36.3")
else:
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def only_processes_of_this_test(monkeypatch):
    """A second run of these tests on this machine has such processes, too."""
    found = component_info.processes.Proc.processes

    def own(self):
        own_pid = f"PPid:\t{os.getpid()}\n"
        return [one for one in found(self) if own_pid in open(f"/proc/{one.pid}/status").read()]

    monkeypatch.setattr(component_info.processes.Proc, "processes", own)


@pytest.fixture
def start(tmp_path):
    """Starts processes that look like components to the kernel."""
    started = []

    def run(*argv, **arguments):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        process = subprocess.Popen(
            [argv[0], str(program), *argv[1:]], executable=sys.executable, stdout=subprocess.PIPE, **arguments
        )
        started.append(process)
        assert process.stdout.readline() == b"up\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_a_program_that_was_replaced(tmp_path, run_module):
    program = tmp_path / "kubelet-1.36"
    shutil.copy(shutil.which("cat"), program)
    pipe = subprocess.PIPE
    with subprocess.Popen(["/opt/bin/kubelet", "-"], executable=program, stdin=pipe, stdout=pipe) as process:
        # Popen comes back before the kernel knows the new command line.
        process.stdin.write(b"up\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"up\n"
        before = run_module(component_info)["components"]["kubelet"]
        program.unlink()
        after = run_module(component_info)["components"]["kubelet"]
        process.kill()
    assert (before["pid"], before["binary"], before["binary_replaced"]) == (process.pid, str(program), False)
    assert (after["pid"], after["binary"], after["binary_replaced"]) == (process.pid, str(program), True)


def test_a_kubelet_as_it_really_runs(start, tmp_path, run_module):
    (tmp_path / "kubelet.yaml").write_text(
        f"kind: KubeletConfiguration\nstaticPodPath: {tmp_path}/manifests\nstaticPodURLHeader:\n  A: [secret]\n"
    )
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "etcd.yaml").write_text("spec:\n  containers:\n  - command:\n    - etcd\n")
    (manifests / ".hidden").write_text("spec:\n  containers:\n  - command:\n    - etcd\n")
    drop_ins = tmp_path / "conf.d"
    drop_ins.mkdir()
    for name in ("20-b.conf", "10-a.conf", "ignored.yaml"):
        (drop_ins / name).write_text(f"name: {name}\n")
    kubelet = start(
        "/opt/bin/kubelet",
        "--config=kubelet.yaml",
        "--config-dir",
        str(drop_ins),
        "--anonymous-auth=false",
        "--hostname-override=node-1",
        cwd=tmp_path,
        env={"https_proxy": "http://me:pw@proxy:3128", "SECRET": "x"},
    )
    before = time.time()
    result = run_module(component_info)
    assert not result["changed"]

    found = result["components"]["kubelet"]
    assert (found["running"], found["pid"]) == (True, kubelet.pid)
    assert found["flags"]["config"] == "kubelet.yaml"
    assert found["environ"] == {"https_proxy": "http://proxy:3128"}
    started = time.mktime(time.strptime(found["start_time"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert abs(started - before) < 30

    config = result["kubelet_config"]
    assert not config["changed_since_start"]
    os.utime(drop_ins / "20-b.conf", times=(time.time() + 60,) * 2)
    assert run_module(component_info)["kubelet_config"]["changed_since_start"]
    assert config["path"] == str(tmp_path / "kubelet.yaml")
    assert (config["source"], config["exists"]) == ("flag", True)
    assert "secret" not in config["text"]
    assert [entry["path"] for entry in config["drop_ins"]] == [
        str(drop_ins / "10-a.conf"),
        str(drop_ins / "20-b.conf"),
    ]
    assert config["overriding_flags"] == {"anonymous-auth": "false"}
    assert config["static_pod_path"] == str(manifests)
    assert result["host"]["node_name"] == "node-1"
    assert re.match(r"^[0-9a-f-]{36}$", result["host"]["boot_id"])

    etcd = result["components"]["etcd"]
    if not etcd["running"]:
        assert (etcd["managed_by"], etcd["definition_files"]) == ("static_pod", [str(manifests / "etcd.yaml")])


def test_drop_ins_are_walked_as_the_kubelet_does(start, tmp_path, run_module):
    """filepath.WalkDir of cmd/kubelet/app/server.go: subdirectories, .conf alone, no link to a directory."""
    top = tmp_path / "d"
    for name in ("20-b/10-z.conf", "20-b/nested.conf/x.conf", "30.conf", "20-a.conf", ".hidden.conf", "40.yaml"):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"kind: {name}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "99.conf").write_text("kind: x\n")
    (top / "50-linked").symlink_to(elsewhere)
    (top / "60-file.conf").symlink_to(elsewhere / "99.conf")
    start("kubelet", f"--config-dir={top}")
    config = run_module(component_info, components=["kubelet"])["kubelet_config"]
    assert [entry["path"][len(str(top)) + 1 :] for entry in config["drop_ins"]] == [
        ".hidden.conf",
        "20-a.conf",
        "20-b/10-z.conf",
        "20-b/nested.conf/x.conf",
        "30.conf",
        "60-file.conf",
    ]
    assert config["newer_files"] == []
    later = (time.time() + 60,) * 2
    os.utime(top / "20-b/10-z.conf", times=later)
    config = run_module(component_info, components=["kubelet"])["kubelet_config"]
    assert config["newer_files"] == [str(top / "20-b/10-z.conf")]
    os.utime(top / "20-b/10-z.conf", times=(1, 1))
    os.utime(top, times=later)
    config = run_module(component_info, components=["kubelet"])["kubelet_config"]
    assert (config["newer_files"], config["changed_since_start"]) == ([str(top)], True)


def test_a_drop_in_directory_behind_a_link_is_not_walked(start, tmp_path, run_module):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "10.conf").write_text("kind: x\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    kubelet = start("kubelet", f"--config-dir={tmp_path}/link")
    config = run_module(component_info, components=["kubelet"])["kubelet_config"]
    assert (config["drop_in_dir"], config["drop_ins"]) == (None, [])
    kubelet.kill()
    kubelet.wait()
    start("kubelet", f"--config-dir={tmp_path}/link/")
    config = run_module(component_info, components=["kubelet"])["kubelet_config"]
    assert [entry["path"] for entry in config["drop_ins"]] == [f"{tmp_path}/link/10.conf"]


def test_a_kubelet_of_flags_alone(start, run_module):
    start("kubelet", "--read-only-port=10255", "--pod-manifest-path=/nonexistent/")
    config = run_module(component_info, components=["kubelet"])["kubelet_config"]
    assert (config["path"], config["source"], config["exists"], config["text"]) == (None, "none", False, None)
    assert config["overriding_flags"] == {"read-only-port": "10255", "pod-manifest-path": "/nonexistent/"}
    assert config["static_pod_path"] == "/nonexistent"


def test_a_configuration_that_is_not_there(start, run_module):
    start("kubelet", "--config=/nonexistent/kubelet.yaml", "--config-dir=/nonexistent/d")
    config = run_module(component_info, components=["kubelet"])["kubelet_config"]
    assert (config["path"], config["exists"], config["drop_ins"]) == ("/nonexistent/kubelet.yaml", False, [])


def test_only_what_was_asked_for(run_module):
    result = run_module(component_info, components=["kube-scheduler"])
    assert list(result["components"]) == ["kube-scheduler"]
    if not result["components"]["kube-scheduler"]["running"]:
        assert result["components"]["kube-scheduler"]["argv"] == []


def test_two_of_a_name(start, run_module):
    first = start("kubelet")
    time.sleep(0.05)
    second = start("kubelet")
    found = run_module(component_info, components=["kubelet"])["components"]["kubelet"]
    assert (found["pid"], found["other_pids"]) == (first.pid, [second.pid])


def test_it_does_not_hang(monkeypatch, run_module):
    monkeypatch.setattr(component_info.processes.Proc, "processes", lambda self: time.sleep(30))
    started = time.monotonic()
    result = run_module(component_info, timeout=1)
    assert result["failed"]
    assert "could not be read within 1 s" in result["msg"]
    assert time.monotonic() - started < 5


def test_bad_timeout(run_module):
    assert run_module(component_info, timeout=0)["msg"].startswith("timeout is 0")


def test_what_the_kubelet_answers(start, start_server, authority, tmp_path, run_module):
    server = start_server()
    server.get("/metrics/resource", "Unauthorized", 401)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "other.crt").write_bytes(b"")
    (tmp_path / "kubelet.yaml").write_text(
        f"port: {server.port}\nauthentication:\n  x509:\n    clientCAFile: {tmp_path}/other.crt\n"
    )
    start("kubelet", f"--config={tmp_path}/kubelet.yaml", "--node-ip=127.0.0.1")
    module_utils = component_info.components.kubelets
    # Loopback is no node's address, but all that a test has.
    assert run_module(component_info)["kubelet_answers"]["url"] != f"https://127.0.0.1:{server.port}/metrics/resource"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module_utils, "node_address", lambda *unused: "127.0.0.1")
        found = run_module(component_info, kubelet_serving_ca_file=str(tmp_path / "ca.crt"))["kubelet_answers"]
        assert (found["verified"], found["status"], found["ca_file"]) == (True, 401, str(tmp_path / "ca.crt"))
        found = run_module(component_info, components=["etcd"])["kubelet_answers"]
        assert (found["verified"], found["ca_file"]) == (False, str(tmp_path / "other.crt"))
    assert run_module(component_info, gather_subset=[])["kubelet_answers"] is None


def test_forwarding_and_images_in_the_same_call(run_module, monkeypatch):
    monkeypatch.setattr(component_info.forwarding_host, "survey", lambda timeout: {"managed": timeout < 0})
    monkeypatch.setattr(component_info.images, "survey", lambda endpoint, repository, timeout: {"names": [repository]})
    result = run_module(component_info, gather_subset=["forwarding", "images"], image_repository="r")
    assert (result["forwarding"], result["images"]) == ({"managed": False}, {"names": ["r"]})
    result = run_module(component_info)
    assert (result["forwarding"], result["images"]) == (None, None)
    assert "image_repository" in run_module(component_info, gather_subset=["images"])["msg"]


def test_flags_that_an_upgrade_has_taken_away(tmp_path):
    manifest = (
        "    - kube-apiserver\n    - --advertise-address=192.0.2.11\n    - --service-account-issuer=https://a=b\n"
    )
    backups = tmp_path / "tmp"
    for stamp, more in (("2026-03-01-10-00-00", "    - --old=1\n"), ("2026-03-02-10-00-00", "    - --bare\n")):
        directory = backups / f"kubeadm-backup-manifests-{stamp}"
        directory.mkdir(parents=True)
        routing = "    - --enable-aggregator-routing=true\n"
        (directory / "kube-apiserver.yaml").write_text(manifest + routing + more)
    lost = components.lost_flags({"/etc/kubernetes/manifests/kube-apiserver.yaml": manifest}, str(backups))
    assert [(flag["name"], flag["value"]) for flag in lost] == [("enable-aggregator-routing", "true"), ("bare", "true")]
    assert "2026-03-02" in lost[0]["source"]
    assert components.lost_flags({}, str(backups)) == []
    assert components.lost_flags({"/m/kube-apiserver.yaml": manifest}, str(tmp_path / "none")) == []


def test_the_administrators_kubeconfig_is_beside_those_of_components(tmp_path, monkeypatch):
    """kubespray's kube_config_dir may be any folder."""

    class Host:
        distributions = ()

        def flag_of(self, name, flag):
            assert flag == "kubeconfig"
            return {"kube-scheduler": "relative.conf", "kubelet": f"{tmp_path}/kubelet.conf"}.get(name, "")

    monkeypatch.setattr(components, "ADMIN_KUBECONFIGS", (f"{tmp_path}/first/admin.conf",))
    assert components.admin_kubeconfigs(Host()) == [f"{tmp_path}/first/admin.conf", f"{tmp_path}/admin.conf"]
