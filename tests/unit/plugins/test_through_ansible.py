# SPDX-License-Identifier: GPL-3.0-or-later
"""Values on their way through Ansible itself: module, facts, templates, filters, action plugins, modules again.

Called directly, plugins get plain values. ansible-core 2.18 marks what hosts returned and makes text of numbers in
templates, later versions tag it; what cannot stand that fails only here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_programs import play

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PROGRAM = (
    'import sys, time\nprint("Kubernetes v1.37.2" if "--version" in sys.argv else "up", flush=True)\ntime.sleep(90)\n'
)
#: Ansible runs modules on hosts with it; make test-versions names older ones.
HOST_PYTHON = os.environ.get("KUBEMETRICS_HOST_PYTHON", sys.executable)


def start(directory, *argv):
    """A process that looks like a component to the kernel."""
    program = directory / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen([argv[0], program, *argv[1:]], executable=sys.executable, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.fixture(scope="module")
def went(tmp_path_factory, authority, fake_server):
    """The result of the play, and where its files are."""
    directory = tmp_path_factory.mktemp("through")
    (directory / "manifests").mkdir()
    shutil.copy(HERE / "corpus/pod-kubeadm.yaml", directory / "manifests/kube-apiserver.yaml")
    (directory / "kubelet.yaml").write_text(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nreadOnlyPort: 10255\n"
        f"staticPodPath: {directory}/manifests\n"
    )
    (directory / "ca.crt").write_bytes(authority.pem)
    kubelet = fake_server(directory, *authority.issue("kubelet", ips=["127.0.0.1"]))
    inventory = {
        "kube_control_plane": {
            "hosts": {
                "here": {
                    "ansible_connection": "local",
                    "ansible_python_interpreter": HOST_PYTHON,
                    "directory": str(directory),
                    "kubelet_port": kubelet.port,
                    "cluster_node_name": "here",
                }
            }
        }
    }
    (directory / "inventory.yml").write_text(yaml.safe_dump(inventory))
    started = [
        start(directory, "/usr/local/bin/kube-apiserver", f"--client-ca-file={directory}/ca.crt", "--secure-port=6443"),
        start(directory, "/usr/local/bin/kubelet", f"--config={directory}/kubelet.yaml", "--node-labels=a=b"),
    ]
    try:
        done = play("-i", directory / "inventory.yml", HERE / "through_ansible.yml")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        kubelet.stop()
        for process in started:
            process.kill()
            process.wait()
    return json.loads((directory / "result.json").read_text()), directory


def test_types_survive(went):
    result, _directory = went
    assert (result["pid_is_number"], result["running_is_boolean"], result["days"]) == (True, True, True)


def test_kubelet_configuration(went):
    result, directory = went
    assert int(result["read_only_port"]) == 10256
    assert result["config"]["changed"] and not result["config_again"]["changed"]
    written = yaml.safe_load((directory / "kubelet.yaml").read_text())
    assert written["authentication"] == {"x509": {"clientCAFile": f"{directory}/ca.crt"}}
    assert written["readOnlyPort"] == 0


def test_flags(went):
    result, directory = went
    assert result["flags"]["changed"] and result["flags_back"]["changed"] and not result["flags_again"]["changed"]
    assert "enable-aggregator-routing" in result["flags"]["previous"]
    written = yaml.safe_load((directory / "manifests/kube-apiserver.yaml").read_text())
    original = yaml.safe_load((HERE / "corpus/pod-kubeadm.yaml").read_text())
    assert written["spec"]["containers"][0]["command"] == original["spec"]["containers"][0]["command"]
