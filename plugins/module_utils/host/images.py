# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images of this host's container runtime, by the runtime's own program. Standard library only."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket as sockets
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import packet_filter, processes

#: Where runtimes listen, in the order in which they are looked for when the kubelet's own setting is not known.
SOCKETS = (
    "/run/k3s/containerd/containerd.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/docker.sock",
)
#: Whose programs are beside those that manage images, wherever that is.
NEIGHBOURS = ("kubelet", "containerd", "dockerd", "crio")
#: Besides the search path, which sudo often shortens: kubespray, k3s and RKE2 put their programs here.
PROGRAM_PATHS = ("/usr/local/bin", "/opt/bin", "/var/lib/rancher/k3s/data/current/bin", "/var/lib/rancher/rke2/bin")
#: Keeps the kubelet from removing an image that no registry has.
PINNED = "io.cri-containerd.pinned=pinned"
LIST_FORMAT = "{{.Repository}}:{{.Tag}}"
#: The lines of CRI-O's configuration that say where its images are.
STORAGE_DEFAULTS = {
    "root": "/var/lib/containers/storage",
    "runroot": "/run/containers/storage",
    "storage_driver": "overlay",
}
STORAGE_LINE = re.compile(r'^\s*(root|runroot|storage_driver) = "([^"\\]*)"\s*$', re.MULTILINE)


class ImageError(Exception):
    """One sentence for the user."""


class Runtime(t.NamedTuple):
    """A container runtime and the program that loads and removes its images."""

    name: str
    program: t.List[str]
    #: crictl, which lists the images where `program` is skopeo: that one cannot.
    lister: t.Optional[t.List[str]] = None
    #: How skopeo calls the images of CRI-O.
    storage: str = "containers-storage:"

    def list_command(self) -> t.List[str]:
        if self.lister:
            return [*self.lister, "images", "--output", "json"]
        if self.name == "containerd":
            return [*self.program, "images", "list", "--quiet"]
        return [*self.program, "images", "--format", LIST_FORMAT]

    def names(self, listed: str) -> t.List[str]:
        """The names that a list of images holds. Raises ImageError."""
        if not self.lister:
            return [line.strip() for line in listed.splitlines()]
        try:
            return [name for image in json.loads(listed)["images"] or [] for name in image.get("repoTags") or []]
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ImageError("What crictl lists of the images of %s cannot be read." % self.name) from exc

    def load_commands(self, archive: str, image: str) -> t.List[t.List[str]]:
        if self.name == "containerd":
            return [[*self.program, "images", "import", archive], [*self.program, "images", "label", image, PINNED]]
        if self.lister:
            return [[*self.program, "copy", "--quiet", "docker-archive:" + archive, self.storage + image]]
        return [[*self.program, "load", "--quiet", "--input", archive]]

    def remove_commands(self, images: t.Sequence[str]) -> t.List[t.List[str]]:
        if self.lister:
            # Through CRI-O: skopeo would remove an image with all of its names, also one that is to be kept.
            return [[*self.lister, "rmi", *images]]
        return [[*self.program, *(["images", "remove"] if self.name == "containerd" else ["rmi"]), *images]]


def configured_endpoint(flags: t.Mapping[str, t.Any], config_text: t.Optional[str]) -> str:
    """The socket that a kubelet is told to use, or an empty text. A flag wins over the configuration file."""
    endpoint = flags.get("container-runtime-endpoint") or processes.yaml_value(
        config_text or "", "containerRuntimeEndpoint"
    )
    return re.sub(r"^unix://", "", str(endpoint or "")).strip()


def runtime_of(socket: str, find: t.Callable[[str], t.Optional[str]], configuration: str = "") -> Runtime:
    """The runtime behind a socket, with the program that manages its images; CRI-O has its configuration in force.

    Raises ImageError.
    """
    name = os.path.basename(socket)
    if "containerd" in name:
        k3s = find("k3s") if "/k3s/" in socket else None
        ctr = find("ctr")
        if not ctr and k3s:
            return Runtime("containerd", [k3s, "ctr", "--namespace", "k8s.io"])
        return Runtime("containerd", [_needed("ctr", ctr, socket), "--address", socket, "--namespace", "k8s.io"])
    if "crio" in name:
        return _cri_o(socket, find, configuration)
    if "docker" in name:
        return Runtime("docker", [_needed("docker", find("docker"), socket)])
    raise ImageError(
        "The container runtime behind %s is not known here; set metrics_server_image_source to "
        "push, and name a registry in metrics_server_image_name." % (socket or "an unknown socket")
    )


def _cri_o(socket: str, find: t.Callable[[str], t.Optional[str]], configuration: str) -> Runtime:
    """CRI-O has no program of its own for images: podman works on the same storage, and kubespray installs skopeo."""
    podman, skopeo, crictl = (find(name) for name in ("podman", "skopeo", "crictl"))
    # Its own flags and files may say otherwise than what these programs read. Only then they get options, as with
    # these they ignore all further ones in storage.conf.
    options = {**STORAGE_DEFAULTS, **{key: value for key, value in STORAGE_LINE.findall(configuration) if value}}
    usual = options == STORAGE_DEFAULTS
    root, runroot, driver = (options[key] for key in ("root", "runroot", "storage_driver"))
    if podman:
        flags = [] if usual else ["--root", root, "--runroot", runroot, "--storage-driver", driver]
        return Runtime("cri-o", [podman, *flags])
    if skopeo and crictl:
        lister = [crictl, "--runtime-endpoint", "unix://" + socket]
        where = "" if usual else "[%s@%s+%s]" % (driver, root, runroot)
        return Runtime("cri-o", [skopeo], lister, "containers-storage:" + where)
    raise ImageError(
        "To load images into the runtime of %s, this host needs podman, or skopeo with crictl; install one of them, or "
        "set metrics_server_image_source to push, and name a registry in metrics_server_image_name." % socket
    )


def _needed(name: str, path: t.Optional[str], socket: str) -> str:
    if path is None:
        raise ImageError("The program %s, which loads images into the runtime of %s, is missing." % (name, socket))
    return path


def of_repository(names: t.Iterable[str], repository: str) -> t.List[str]:
    """The images of one repository among those of a runtime, sorted."""
    return sorted({name for name in names if name.startswith(repository + ":")})


# --- this host --------------------------------------------------------------------------------------------------------


def find_program(name: str) -> t.Optional[str]:
    return packet_filter.find(name) or first_program(name, PROGRAM_PATHS) or first_program(name, running_from())


def first_program(name: str, directories: t.Iterable[str]) -> t.Optional[str]:
    paths = (os.path.join(directory, name) for directory in directories)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def running_from(root: str = "/proc") -> t.List[str]:
    """The directories of the programs of the kubelet and of runtimes that run: kubespray's bin_dir may be any."""
    try:
        pids = [entry for entry in os.listdir(root) if entry.isdigit()]
    except OSError:
        return []
    programs = (processes.read_link(os.path.join(root, pid, "exe")) or "" for pid in pids)
    return sorted({os.path.dirname(path) for path in programs if os.path.basename(path) in NEIGHBOURS})


def find_runtime(endpoint: str = "") -> Runtime:
    """The runtime of this host. Raises ImageError."""
    socket = endpoint or next((path for path in SOCKETS if os.path.exists(path)), "")
    return runtime_of(socket, find_program, crio_configuration(socket) if "crio" in os.path.basename(socket) else "")


class _Local(http.client.HTTPConnection):
    """HTTP over a socket of this host."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def crio_configuration(socket: str, timeout: float = 5) -> str:
    """CRI-O's configuration as it is in force (TOML), from its own socket; empty where it does not say."""
    connection = _Local(socket, timeout)
    try:
        connection.request("GET", "/config")
        response = connection.getresponse()
        return response.read(1 << 20).decode("utf-8", "replace") if response.status == 200 else ""
    except (OSError, http.client.HTTPException):
        # One that does not run has told its settings to files, which podman and skopeo read, too.
        return ""
    finally:
        connection.close()


def run(command: t.Sequence[str], timeout: float) -> str:
    try:
        return packet_filter.run(command, timeout)
    except packet_filter.CommandError as exc:
        shown = " ".join([os.path.basename(command[0]), *command[1:]])
        raise ImageError("%s failed (%s)." % (shown, str(exc).rstrip("."))) from exc


def list_images(runtime: Runtime, repository: str, timeout: float) -> t.List[str]:
    return of_repository(runtime.names(run(runtime.list_command(), timeout)), repository)


def survey(endpoint: str, repository: str, timeout: float) -> t.Dict[str, t.Any]:
    """The images of a repository that this host has, or why they cannot be listed."""
    try:
        runtime = find_runtime(endpoint)
        return {"runtime": runtime.name, "names": list_images(runtime, repository, timeout), "error": ""}
    except ImageError as exc:
        return {"runtime": None, "names": [], "error": str(exc)}
