# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import threading

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import images, packet_filter


def paths(*names):
    return lambda name: f"/bin/{name}" if name in names else None


@pytest.mark.parametrize(
    ("flags", "text", "expected"),
    [
        ({}, None, ""),
        ({"container-runtime-endpoint": "unix:///run/crio/crio.sock"}, None, "/run/crio/crio.sock"),
        ({}, "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n", "/run/containerd/containerd.sock"),
        (
            {"container-runtime-endpoint": "/run/a.sock"},
            'containerRuntimeEndpoint: "unix:///run/b.sock"\n',
            "/run/a.sock",
        ),
        ({}, 'containerRuntimeEndpoint: ""\n', ""),
    ],
)
def test_the_endpoint_of_the_kubelet(flags, text, expected):
    assert images.configured_endpoint(flags, text) == expected


@pytest.mark.parametrize(
    ("socket", "found", "expected"),
    [
        (
            "/run/containerd/containerd.sock",
            ["ctr"],
            ("containerd", ["/bin/ctr", "--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io"]),
        ),
        ("/run/k3s/containerd/containerd.sock", ["k3s"], ("containerd", ["/bin/k3s", "ctr", "--namespace", "k8s.io"])),
        ("/var/run/crio/crio.sock", ["podman", "skopeo", "crictl"], ("cri-o", ["/bin/podman"])),
        (
            "/var/run/crio/crio.sock",
            ["skopeo", "crictl"],
            ("cri-o", ["/bin/skopeo"], ["/bin/crictl", "--runtime-endpoint", "unix:///var/run/crio/crio.sock"]),
        ),
        ("/run/cri-dockerd.sock", ["docker"], ("docker", ["/bin/docker"])),
        ("/var/run/docker.sock", ["docker"], ("docker", ["/bin/docker"])),
    ],
)
def test_the_runtime_behind_a_socket(socket, found, expected):
    assert images.runtime_of(socket, paths(*found)) == images.Runtime(*expected)


CRIO = """[crio]
  root = "/data/containers"
  runroot = "/run/containers/storage"
  imagestore = ""
  storage_driver = "vfs"
  [crio.runtime]
    namespaces_dir = "/var/run"
"""


def test_cri_o_says_where_its_images_are():
    podman = images.runtime_of("/run/crio/crio.sock", paths("podman"), CRIO)
    assert podman.list_command()[:7] == [
        *(
            "/bin/podman",
            "--root",
            "/data/containers",
            "--runroot",
            "/run/containers/storage",
            "--storage-driver",
            "vfs",
        )
    ]
    skopeo = images.runtime_of("/run/crio/crio.sock", paths("skopeo", "crictl"), CRIO)
    where = "containers-storage:[vfs@/data/containers+/run/containers/storage]r:1"
    assert skopeo.load_commands("/a.tar", "r:1")[0][-1] == where
    # What is usual is left to what the programs are configured for.
    for text in ("", '[crio]\n  root = "/var/lib/containers/storage"\n  storage_driver = "overlay"\n', '  root = ""\n'):
        assert images.runtime_of("/run/crio/crio.sock", paths("podman"), text).program == ["/bin/podman"]
        usual = images.runtime_of("/run/crio/crio.sock", paths("skopeo", "crictl"), text)
        assert usual.storage == "containers-storage:"


@pytest.mark.parametrize(
    ("status", "expected"), [("200 OK", CRIO), ("404 Not Found", ""), ("nonsense", ""), (None, "")], ids=str
)
def test_cri_o_is_asked_by_its_socket(tmp_path, status, expected):
    path = str(tmp_path / "crio.sock")
    if status is None:
        assert images.crio_configuration(path) == ""
        return
    asked = []

    def answer():
        connection, unused = server.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(CRIO)}\r\n\r\n{CRIO}".encode())

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        assert images.crio_configuration(path) == expected
        thread.join()
    assert asked[0].startswith(b"GET /config HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("socket", "words"),
    [
        ("/run/containerd/containerd.sock", "The program ctr, which loads images into the runtime of /run/containerd"),
        ("/run/crio/crio.sock", "this host needs podman, or skopeo with crictl; install one of them, or set metrics_"),
        ("/run/other.sock", "behind /run/other.sock is not known here; set metrics_server_image_source to push"),
        ("", "behind an unknown socket"),
    ],
)
def test_no_way_to_load_images(socket, words):
    with pytest.raises(images.ImageError, match=words):
        images.runtime_of(socket, paths())


def test_commands():
    containerd = images.Runtime("containerd", ["ctr"])
    assert containerd.load_commands("/a.tar", "r:1") == [
        ["ctr", "images", "import", "/a.tar"],
        ["ctr", "images", "label", "r:1", images.PINNED],
    ]
    assert containerd.remove_commands(["r:1", "r:2"]) == [["ctr", "images", "remove", "r:1", "r:2"]]
    podman = images.Runtime("cri-o", ["podman"])
    assert podman.load_commands("/a.tar", "r:1") == [["podman", "load", "--quiet", "--input", "/a.tar"]]
    assert podman.remove_commands(["r:1"]) == [["podman", "rmi", "r:1"]]
    assert podman.list_command() == ["podman", "images", "--format", "{{.Repository}}:{{.Tag}}"]
    skopeo = images.Runtime("cri-o", ["skopeo"], ["crictl"])
    assert skopeo.load_commands("/a.tar", "r:1") == [
        ["skopeo", "copy", "--quiet", "docker-archive:/a.tar", "containers-storage:r:1"]
    ]
    assert skopeo.remove_commands(["r:1", "r:2"]) == [["crictl", "rmi", "r:1", "r:2"]]
    assert skopeo.list_command() == ["crictl", "images", "--output", "json"]


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ('{"images": [{"repoTags": ["r:1", "q:1"]}, {"repoTags": []}, {"id": "x"}]}', ["r:1", "q:1"]),
        ('{"images": null}', []),
        ('{"images": []}', []),
    ],
)
def test_what_crictl_lists(listed, names):
    assert images.Runtime("cri-o", ["skopeo"], ["crictl"]).names(listed) == names


@pytest.mark.parametrize("listed", ["", "null", "[]", "{}", '{"images": [1]}', '{"images": 1}'])
def test_what_crictl_never_lists(listed):
    with pytest.raises(images.ImageError, match="What crictl lists of the images of cri-o cannot be read"):
        images.Runtime("cri-o", ["skopeo"], ["crictl"]).names(listed)


def test_only_the_repository_counts():
    listed = images.Runtime("docker", ["docker"]).names(
        "localhost/a/server:2\nlocalhost/a/server:1\nlocalhost/a/server-x:1\nsha256:abc\nlocalhost/a/server:1\n"
    )
    assert images.of_repository(listed, "localhost/a/server") == ["localhost/a/server:1", "localhost/a/server:2"]


def test_survey(tmp_path, monkeypatch):
    monkeypatch.setattr(packet_filter, "EXTRA_PATH", str(tmp_path))
    monkeypatch.setattr(images, "PROGRAM_PATHS", ())
    monkeypatch.setenv("PATH", "")
    socket = "/run/containerd/containerd.sock"
    assert "The program ctr" in images.survey(socket, "r", 5)["error"]
    ctr = tmp_path / "ctr"
    ctr.write_text("#!/bin/sh\necho r:1\necho q:1\n")
    ctr.chmod(0o755)
    assert images.survey(socket, "r", 5) == {"runtime": "containerd", "names": ["r:1"], "error": ""}
    ctr.write_text("#!/bin/sh\necho 'connection refused' >&2\nexit 1\n")
    assert images.survey(socket, "r", 5)["error"].startswith("ctr --address")
    assert images.survey(socket, "r", 5)["error"].endswith("images list --quiet failed (connection refused).")


def test_programs_are_beside_those_that_run(tmp_path, monkeypatch):
    """kubespray's bin_dir may be any folder."""
    bin_dir, proc = tmp_path / "bin", tmp_path / "proc"
    bin_dir.mkdir()
    for name in ("kubelet", "ctr"):
        (bin_dir / name).write_text("")
        (bin_dir / name).chmod(0o755)
    for pid, program in (("7", "kubelet"), ("8", "sleep"), ("self", "kubelet")):
        (proc / pid).mkdir(parents=True)
        (proc / pid / "exe").symlink_to((bin_dir if program == "kubelet" else tmp_path) / program)
    assert images.running_from(str(proc)) == [str(bin_dir)]
    assert images.running_from(str(tmp_path / "none")) == []
    monkeypatch.setattr(packet_filter, "EXTRA_PATH", "")
    monkeypatch.setattr(images, "PROGRAM_PATHS", ())
    monkeypatch.setattr(images, "running_from", lambda: [str(tmp_path / "none"), str(bin_dir)])
    monkeypatch.setenv("PATH", "")
    assert images.find_program("ctr") == str(bin_dir / "ctr")
    assert images.find_program("podman") is None
