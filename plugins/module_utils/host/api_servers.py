# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the API server of this host is ready, verified as the clients on this host do. Standard library only."""

from __future__ import annotations

import base64
import binascii
import itertools
import os
import re
import ssl
import subprocess
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import probes, processes
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import masking

PATH = "/readyz"
#: Of requests without credentials, and with some that it does not know yet: it says nothing of its checks. Without
#: unauthenticated access it says so from its first moment on, with it until it has read its roles.
REFUSED = (401, 403)
POD_LOGS = "/var/log/pods"
_TAIL = 1 << 18
_CHECK = re.compile(r"^\[(?P<sign>[+-])\](?P<name>\S+) (?P<message>.*)$")
_CONTAINER_LOG = re.compile(r"^\S+ std(?:err|out) [FP] ")
#: Severity, date, time, thread and place of a line of klog; two lines that differ in nothing else say the same.
_KLOG = re.compile(r"^(?P<severity>[IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ")
_LONGEST_LINE = 500


class Authority(t.NamedTuple):
    """What verifies the API server, and the file that it was found in."""

    pem: str
    source: str


def authority_of(kubeconfig: str) -> t.Optional[Authority]:
    """The CA by which a kubeconfig verifies the API server, or None where it has none that can be read."""
    text = processes.read_text(kubeconfig) or ""
    inline = processes.yaml_value(text, "certificate-authority-data")
    if inline:
        try:
            return Authority(base64.b64decode(inline, validate=True).decode("ascii"), kubeconfig)
        except (binascii.Error, ValueError):
            return None
    path = processes.yaml_value(text, "certificate-authority")
    return authority_in(os.path.join(os.path.dirname(kubeconfig), path)) if path else None


def authority_in(path: str) -> t.Optional[Authority]:
    pem = processes.read_text(path)
    return Authority(pem, path) if pem and "BEGIN CERTIFICATE" in pem else None


def choose(ca_file: str, kubeconfigs: t.Sequence[str], client_ca_file: str) -> t.Optional[Authority]:
    """The given CA alone, else the first that a kubeconfig on this host names, else the CA of clients."""
    if ca_file:
        return authority_in(ca_file)
    for path in kubeconfigs:
        found = authority_of(path) if path else None
        if found:
            return found
    return authority_in(client_ca_file) if client_ca_file else None


class Client(t.NamedTuple):
    """A client certificate with its key, as text, and the kubeconfig that it is from."""

    pair: str
    source: str


def clients_of(kubeconfigs: t.Sequence[str]) -> t.Iterator[Client]:
    """The client certificates of kubeconfigs on this host, without those that cannot be read."""
    for kubeconfig in kubeconfigs:
        text = processes.read_text(kubeconfig) or ""
        parts = [_part(text, kubeconfig, name) for name in ("client-certificate", "client-key")]
        if all(parts):
            yield Client("\n".join(parts), kubeconfig)


def _part(text: str, kubeconfig: str, name: str) -> str:
    inline = processes.yaml_value(text, name + "-data")
    if inline:
        try:
            return base64.b64decode(inline, validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            return ""
    path = processes.yaml_value(text, name)
    return (processes.read_text(os.path.join(os.path.dirname(kubeconfig), path)) or "") if path else ""


def context_of(authority: Authority, client: t.Optional[Client] = None) -> ssl.SSLContext:
    """What a connection is verified with, and authenticated if there is a client. Raises ProbeError."""
    context = probes.client_context(ca_data=authority.pem)
    if client:
        # OpenSSL takes files only; this one is in memory, so that the key is not written anywhere.
        try:
            descriptor = os.memfd_create("client")
        except (AttributeError, OSError) as exc:
            raise probes.ProbeError("client_certificate", "no file in memory can be made here") from exc
        with open(descriptor, "wb") as file:
            file.write(client.pair.encode("utf-8", "replace"))
            file.flush()
            path = "/proc/self/fd/%d" % descriptor
            probes.load_client_pair(context, path, path)
    return context


def readiness(
    address: str, port: int, authority: t.Optional[Authority], timeout: float, kubeconfigs: t.Sequence[str] = ()
) -> t.Dict[str, t.Any]:
    """Ask for /readyz, first without credentials, and with those of the kubeconfigs where it refuses that."""
    result: t.Dict[str, t.Any] = {"ready": False, "status": None, "ca_source": None, "client": None, "error": ""}
    if authority is None:
        result["error"] = "nothing on this host says which CA signed its certificate"
        return result
    result["ca_source"] = authority.source
    answer: t.Dict[str, t.Any] = {}
    for client in itertools.chain([None], clients_of(kubeconfigs)):
        try:
            context = context_of(authority, client)
        except probes.ProbeError as exc:
            if client is None:
                result["error"] = "%s: %s" % (authority.source, exc)
                return result
            continue
        given = probes.ask(address, port, PATH, timeout, context=context, server_name=address)
        if client and given["status"] == 401:
            # It has expired, or is of another cluster: as good as none.
            continue
        answer = given
        result.update(status=answer["status"], client=client.source if client else None)
        if answer["status"] not in REFUSED:
            break
    # Where there is nothing to authenticate with, a refusal is all that can be had.
    result["ready"] = result["status"] == 200 or (result["status"] in REFUSED and result["client"] is None)
    if answer["error"]:
        result["error"] = answer["error"]["message"]
    elif not result["ready"]:
        whom = " to the client of %s" % result["client"] if result["client"] else ""
        result["error"] = "it answers %s%s (%s)" % (answer["status"], whom, answer["message"])
    return result


# --- the checks behind /readyz ----------------------------------------------------------------------------------------


def parse_checks(body: str) -> t.List[t.Dict[str, t.Any]]:
    """The checks that /readyz?verbose lists: which there are, and which of them fail."""
    found = []
    for line in body.splitlines():
        match = _CHECK.match(line.strip())
        if match:
            ok = match.group("sign") == "+"
            message = "" if ok else masking.mask_text(match.group("message"))
            found.append({"name": match.group("name"), "ok": ok, "message": message})
    return found


def read_checks(
    address: str, port: int, authority: Authority, timeout: float, client: t.Optional[Client] = None
) -> t.Optional[t.List[t.Dict[str, t.Any]]]:
    """What the API server says of each of its checks; None where it does not answer or does not tell."""
    deadline = probes.Deadline(timeout)
    shown = "[%s]" % address if ":" in address else address
    try:
        context = context_of(authority, client)
        connection = probes.handshake(probes.open_connection(address, port, deadline), context, address, deadline)
        with connection:
            answer = probes.request(connection, "%s:%d" % (shown, port), PATH + "?verbose", deadline)
    except probes.ProbeError:
        return None
    return parse_checks(answer.body) or None


# --- the log of the process -------------------------------------------------------------------------------------------


def telling_lines(lines: t.Iterable[str], count: int) -> t.List[str]:
    """The last lines that are warnings, errors or no log lines at all, each once, without what is secret in them."""
    kept: t.Dict[str, str] = {}
    for line in lines:
        text = _CONTAINER_LOG.sub("", line.rstrip("\n"))
        match = _KLOG.match(text)
        if not text.strip() or (match and match.group("severity") == "I"):
            continue
        said = text[match.end() :] if match else text
        # The newest of equal lines stays, at its own place.
        kept.pop(said, None)
        kept[said] = text
    chosen = list(kept.values())[-count:] if count > 0 else []
    return [masking.mask_text(text[:_LONGEST_LINE]) for text in chosen]


def newest_pod_log(root: str = POD_LOGS) -> t.Optional[str]:
    """The log of the newest container of kube-apiserver's static pod."""
    newest: t.Optional[t.Tuple[float, str]] = None
    try:
        pods = [name for name in os.listdir(root) if name.startswith("kube-system_kube-apiserver-")]
    except OSError:
        return None
    for pod in pods:
        directory = os.path.join(root, pod, "kube-apiserver")
        try:
            names = [name for name in os.listdir(directory) if name.endswith(".log")]
        except OSError:
            continue
        for name in names:
            path = os.path.join(directory, name)
            try:
                modified = os.stat(path).st_mtime
            except OSError:
                continue
            if newest is None or modified > newest[0]:
                newest = (modified, path)
    return newest[1] if newest else None


def tail_of(path: str) -> t.List[str]:
    """The last lines of a file."""
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL))
            lines = stream.read(_TAIL).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return lines[1:] if size > _TAIL else lines


def journal_of(unit: str, timeout: float) -> t.List[str]:
    """The last lines that a systemd unit has logged."""
    try:
        shown = subprocess.run(
            ["journalctl", "--unit", unit, "--lines", "500", "--output", "cat", "--no-pager"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return shown.stdout.decode("utf-8", "replace").splitlines()


def read_log(unit: str, count: int, timeout: float) -> t.List[str]:
    """The last warnings and errors of the API server on this host, of its static pod or of its unit."""
    path = newest_pod_log() if not unit else None
    return telling_lines(journal_of(unit, timeout) if unit else tail_of(path) if path else [], count)
