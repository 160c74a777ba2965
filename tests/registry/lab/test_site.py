# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster without internet, installed from the bundle as its guide says, then from a registry of the site's own.

Needs the lab that LAB_NAME names (`make test-offline` brings one up). The operator's machine is a network namespace in
the nodes' network without any other route; the nodes' default gateway does not exist.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

TREE = Path(__file__).resolve().parents[3]
LAB = os.environ.get("LAB_NAME", "")
STATE = TREE / ".lab" / LAB
NAMESPACE = "kubemetrics-offline"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
SECRET = "registry-reader"
NAME = "kubemetrics/metrics-server"


def run(*argv, check: bool = True, **options) -> subprocess.CompletedProcess:
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0 or not check, f"{argv}\n{done.stdout}{done.stderr}"
    return done


class Site:
    """The machine from which an operator works in a site without internet, and its cluster."""

    def __init__(self, folder: Path):
        self.folder = folder
        inventory = yaml.safe_load((STATE / "inventory.yml").read_text())["all"]
        self.settings = inventory["vars"]
        self.nodes = {name: host["lab_container"] for name, host in inventory["hosts"].items()}
        (first, *_rest) = inventory["hosts"].values()
        self.prefix = first["ansible_host"].rpartition(".")[0]
        self.gateway = f"{self.prefix}.1"

    def close(self) -> None:
        """No way out, for the operator and for the nodes."""
        (network,) = json.loads(run("podman", "network", "inspect", f"kubemetrics-{LAB}").stdout)
        run("ip", "netns", "add", NAMESPACE)
        run("ip", "link", "add", "km-offline", "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
        run("ip", "link", "set", "km-offline", "master", network["network_interface"], "up")
        for command in ("link set lo up", f"addr add {self.prefix}.250/24 dev eth0", "link set eth0 up"):
            run("ip", "-n", NAMESPACE, *command.split())
        for container in self.nodes.values():
            run("podman", "exec", container, "ip", "route", "replace", "default", "via", f"{self.prefix}.254")

    def open(self) -> None:
        run("ip", "netns", "delete", NAMESPACE, check=False)
        for container in self.nodes.values():
            run("podman", "exec", container, "ip", "route", "replace", "default", "via", self.gateway, check=False)

    def operator(self, *argv, check: bool = True, **options) -> subprocess.CompletedProcess:
        """Run a program as the operator, who has what came with the bundle and nothing of this machine's settings."""
        environment = {
            "HOME": str(self.folder / "home"),
            "PATH": f"{self.folder}/home/kubemetrics/bin:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
        }
        return run("ip", "netns", "exec", NAMESPACE, *argv, check=check, env=environment, **options)

    def play(self, values: dict, check: bool = True) -> subprocess.CompletedProcess:
        collection = "kubemetrics.aggregation.site"
        inventory = STATE / "inventory.yml"
        return self.operator(
            self.folder / "home/kubemetrics/bin/ansible-playbook",
            *("-i", inventory, collection, "-e", json.dumps(values)),
            check=check,
            cwd=self.folder,
        )

    def kubectl(self, *argv, **options) -> str:
        kubectl = (STATE / "kubectl-path").read_text().strip()
        return self.operator(kubectl, f"--kubeconfig={STATE}/kubeconfig", *argv, **options).stdout

    def server(self) -> dict:
        """The container of the metrics server's Deployment."""
        found = self.kubectl("-n", "kube-system", "get", "deployment", "metrics-server", "-o", "json")
        (container,) = json.loads(found)["spec"]["template"]["spec"]["containers"]
        return container

    def top(self) -> list[str]:
        """The nodes that kubectl top shows figures of."""
        lines = self.kubectl("top", "nodes", "--no-headers").splitlines()
        return sorted(line.split()[0] for line in lines if "unknown" not in line)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    assert (STATE / "inventory.yml").is_file(), "Name a lab that runs: LAB_NAME=... (make test-offline brings one up)."
    found = Site(tmp_path_factory.mktemp("site"))
    (found.folder / "home").mkdir()
    found.open()
    yield found
    found.open()


@pytest.fixture(scope="module")
def unpacked(site):
    """The folder of the bundle, which was made with internet; from here on there is none."""
    bundle = site.folder / "bundle.tar"
    values = {
        **{name: value for name, value in site.settings.items() if name.startswith("metrics_server_image_")},
        "metrics_server_bundle_architectures": ["amd64"],
        "metrics_server_bundle_file": str(bundle),
    }
    run("ansible-playbook", TREE / "playbooks/bundle.yml", "-e", json.dumps(values))
    site.close()
    run("tar", "-xf", bundle, "-C", site.folder)
    return next(path for path in site.folder.iterdir() if (path / "INSTALL.md").is_file())


def test_a_site_is_installed_as_the_guide_says(site, unpacked):
    beyond = "import socket; socket.create_connection(('192.0.2.1', 443), timeout=5)"
    assert "Network is unreachable" in site.operator("python3", "-c", beyond, check=False).stderr
    for container in site.nodes.values():
        tried = run("podman", "exec", container, "python3", "-c", beyond, check=False)
        assert "No route to host" in tried.stderr or "timed out" in tried.stderr, tried.stderr
    guide = (unpacked / "INSTALL.md").read_text()
    block = re.search(r"```console\n(.*?)```", guide, re.DOTALL).group(1)
    *prepare, playbook = [re.sub(r"\s+# .*", "", line) for line in block.replace("\\\n", "").splitlines()]
    for command in prepare:
        site.operator("sh", "-ec", command.replace(f"python{PYTHON}", sys.executable), cwd=unpacked)
    command = playbook.replace("INVENTORY", str(STATE / "inventory.yml"))
    first = site.operator("sh", "-ec", command, cwd=unpacked)
    assert "failed=0" in first.stdout, first.stdout
    again = site.operator("sh", "-ec", command, cwd=unpacked)
    assert not re.search(r"changed=[1-9]", again.stdout), again.stdout
    container = site.server()
    assert container["imagePullPolicy"] == "Never" and container["image"].startswith("localhost/")
    assert site.top() == sorted(site.nodes)


def test_a_registry_of_the_site_is_tried_before_the_rollout(site, unpacked, start_registry, authority_for):
    """Each step is what an operator meets, in this order: no trust in the CA, no login, then the rollout."""
    registry = start_registry(own=authority_for(site.gateway))
    values = {
        "metrics_server_image_source": "push",
        "metrics_server_image_archive": str(unpacked / "images"),
        "metrics_server_image_name": f"{registry.host}/{NAME}",
        "metrics_server_image_registries": [registry.entry("writer")],
    }
    before = site.server()

    untrusted = site.play(values, check=False)
    said = untrusted.stdout + untrusted.stderr
    assert untrusted.returncode == 2 and "nothing was rolled out" in said, said
    assert "certificate signed by unknown authority" in said and "make the node's container runtime trust" in said, said
    assert site.server() == before and site.top() == sorted(site.nodes)

    certificate = registry.authority.ca_file.read_text()
    for container in site.nodes.values():
        script = "cat >/usr/local/share/ca-certificates/site.crt; update-ca-certificates; systemctl restart containerd"
        run("podman", "exec", "-i", container, "sh", "-ec", script, input=certificate)
    time.sleep(5)
    without_login = site.play(values, check=False)
    said = without_login.stdout + without_login.stderr
    assert without_login.returncode == 2 and "nothing was rolled out" in said, said
    assert "metrics_server_image_pull_secrets" in said, said
    assert site.server() == before

    login = registry.entry("reader")
    site.kubectl("-n", "kube-system", "delete", "secret", SECRET, "--ignore-not-found")
    site.kubectl(
        *("-n", "kube-system", "create", "secret", "docker-registry", SECRET, f"--docker-server={registry.host}"),
        *(f"--docker-username={login['username']}", f"--docker-password={login['password']}"),
    )
    values["metrics_server_image_pull_secrets"] = [SECRET]
    done = site.play(values)
    assert login["password"] not in done.stdout and registry.entry("writer")["password"] not in done.stdout
    container = site.server()
    assert container["image"].startswith(f"{registry.host}/{NAME}") and container["imagePullPolicy"] != "Never"
    assert site.top() == sorted(site.nodes)
    assert not re.search(r"changed=[1-9]", site.play(values).stdout)

    # The kubelets have pulled it with a login. What is loaded into the node instead starts without one.
    loaded = {"metrics_server_image_source": "archive", "metrics_server_image_archive": str(unpacked / "images")}
    site.play(loaded)
    assert site.server()["imagePullPolicy"] == "Never" and site.top() == sorted(site.nodes)
