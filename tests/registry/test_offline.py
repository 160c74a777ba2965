# SPDX-License-Identifier: GPL-3.0-or-later
"""What bundle.yml makes is installed where there is no network: no route, and no interface but a dead loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from base_images import docker_archive

TREE = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The bundle, of bases that are files."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "bases").mkdir()
    for architecture in ("amd64", "arm64"):
        docker_archive(folder / f"bases/{architecture}.tar", architecture)
    cache = Path(os.environ.get("KUBEMETRICS_CACHE") or Path.home() / ".cache/kubemetrics") / "tests-bundle"
    values = {
        "metrics_server_image_base": str(folder / "bases"),
        "metrics_server_build_dir": str(cache),
        "metrics_server_bundle_file": str(folder / "bundle.tar"),
    }
    argv = ["ansible-playbook", TREE / "playbooks/bundle.yml", "-e", json.dumps(values)]
    first = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert first.returncode == 0 and "changed=1" in first.stdout, first.stdout + first.stderr
    again = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "changed=0" in again.stdout, again.stdout
    return folder / "bundle.tar"


def offline(*argv, **options):
    """Run a program without any network."""
    environment = {**os.environ, **options.pop("env", {})}
    for name in (
        "PIP_FIND_LINKS",
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "ANSIBLE_CONFIG",
        "ANSIBLE_COLLECTIONS_PATH",
    ):
        environment.pop(name, None)
    command = ["unshare", "--net", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)


def commands(guide: str) -> list[str]:
    """The commands of the guide, continued lines joined, comments left out."""
    block = re.search(r"```console\n(.*?)```", guide, re.DOTALL).group(1)
    return [re.sub(r"\s+# .*", "", line) for line in block.replace("\\\n", "").splitlines()]


def test_the_guide_is_followed_without_a_network(bundle, tmp_path):
    reached = offline(sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 1))")
    assert "Network is unreachable" in reached.stderr
    site = tmp_path / "site"
    site.mkdir()
    unpacked = offline("tar", "-xf", bundle, "-C", site)
    assert unpacked.returncode == 0, unpacked.stderr
    (top,) = site.iterdir()
    check, venv, install, galaxy, playbook = commands((top / "INSTALL.md").read_text())
    # The home of somebody who has nothing yet.
    home = tmp_path / "home"
    home.mkdir()
    script = "\n".join(
        [
            "set -e",
            check,
            venv.replace(f"python{PYTHON}", sys.executable),
            install,
            galaxy,
            # Without hosts it stops, but with its own sentence.
            playbook.replace("INVENTORY", "localhost,") + " || true",
            f"ansible-playbook {tmp_path}/load.yml -e metrics_server_image_archive=$PWD/images",
        ]
    )
    (tmp_path / "load.yml").write_text(LOAD.replace("RESULTS", str(tmp_path)))
    done = offline("bash", "-c", script, cwd=top, env={"HOME": str(home), "PATH": "/usr/bin:/bin:/usr/sbin"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kube_control_plane" in done.stdout + done.stderr
    assert "image" in (tmp_path / "arm64").read_text()
    assert shutil.which("ansible-playbook", path=f"{home}/kubemetrics/bin")


def test_a_file_that_was_damaged_on_the_way_is_found(bundle, tmp_path):
    offline("tar", "-xf", bundle, "-C", tmp_path)
    (top,) = tmp_path.iterdir()
    image = next((top / "images").glob("*arm64.tar"))
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    done = offline("sha256sum", "--check", "--quiet", "SHA256SUMS", cwd=top)
    assert done.returncode != 0 and f"images/{image.name}: FAILED" in done.stdout


#: What the role does with the images of the bundle, for an architecture that this machine need not have.
LOAD = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - name: Find out which image it is
      kubemetrics.aggregation.server_image_info:
        source: "{{ playbook_dir }}"
        cache_dir: RESULTS/cache
        archive: "{{ metrics_server_image_archive }}"
      register: info
    - name: Give it its name
      kubemetrics.aggregation.server_image:
        source: "{{ playbook_dir }}"
        cache_dir: RESULTS/cache
        name: localhost/kubemetrics/metrics-server
        tag: "{{ info.tag }}"
        archive: "{{ metrics_server_image_archive }}"
        architecture: arm64
      register: made
    - name: Remember it
      ansible.builtin.copy:
        dest: RESULTS/arm64
        mode: "0600"
        content: "image {{ made.archive }}"
"""
