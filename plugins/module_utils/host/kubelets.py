# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kubelet of this host answers at the address that others dial. Standard library only."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import socket
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import probes, processes
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions

PORT = 10250
READ_ONLY_PORT = 10255
PATH = "/metrics/resource"
#: k3s and RKE2 sign serving certificates by another CA than client certificates.
SERVER_AUTHORITIES = {
    key: entry.serving_authority for key, entry in distributions.TABLE.items() if entry.serving_authority
}

#: What a metrics server makes usage of, for the node and for its containers.
SERIES = (
    "node_cpu_usage_seconds_total",
    "node_memory_working_set_bytes",
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
)
#: The node's series come after those of hundreds of containers.
MAX_METRICS = 8 << 20

_SAMPLE = re.compile(r"^(%s)(?:\{[^}\n]*\})? +(\S+)" % "|".join(SERIES), re.MULTILINE)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


def samples_in(text: str) -> t.Dict[str, t.Dict[str, int]]:
    """Of the series that usage is made of: how many samples there are, and how many of these are zero."""
    found = {name: {"samples": 0, "zero": 0} for name in SERIES}
    for name, value in _SAMPLE.findall(text):
        found[name]["samples"] += 1
        try:
            found[name]["zero"] += float(value) == 0
        except ValueError:
            found[name]["zero"] += 1
    return found


def setting(kubelet_config: t.Mapping[str, t.Any], flags: t.Mapping[str, t.Any], key: str, flag: str) -> str:
    """A setting in effect, for keys that occur once: a flag wins, then the last drop-in that has it, then the file."""
    if flags.get(flag):
        return str(flags[flag])
    for text in [entry["text"] for entry in reversed(kubelet_config["drop_ins"])] + [kubelet_config["text"]]:
        value = processes.yaml_value(text or "", key)
        if value:
            return value
    return ""


def number(text: str, default: int) -> int:
    """A port, or the default where there is none."""
    return int(text) if text.isdigit() and 0 < int(text) < 65536 else default


def decoded(data: str) -> t.Optional[str]:
    """Base64 as text, or None."""
    try:
        return base64.b64decode(data, validate=True).decode("ascii", "replace")
    except (binascii.Error, ValueError):
        return None


def certificate_in(pem: t.Optional[str]) -> t.Optional[str]:
    """The first certificate of a PEM file as DER in base64. A key may stand beside it and is left there."""
    match = _CERTIFICATE.search(pem or "")
    return "".join(match.group(1).split()) if match else None


def default_address(family: int = socket.AF_INET) -> t.Optional[str]:
    """The source address of the default route. Connecting a datagram socket sends nothing."""
    target = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def node_address(kubelet_config: t.Mapping[str, t.Any], flags: t.Mapping[str, t.Any]) -> str:
    """The address that the Node has as its InternalIP, as far as the host alone can know it."""
    given = flags.get("node-ip") or ""
    candidates = given if isinstance(given, list) else str(given).split(",")
    candidates = [*candidates, setting(kubelet_config, flags, "address", "address")]
    for candidate in candidates:
        try:
            address = ipaddress.ip_address(candidate.strip())
        except ValueError:
            continue
        if not (address.is_unspecified or address.is_loopback):
            return str(address)
    return default_address() or default_address(socket.AF_INET6) or "127.0.0.1"


def serving_authority(
    kubelet_config: t.Mapping[str, t.Any],
    flags: t.Mapping[str, t.Any],
    managed_by: t.Optional[str],
    pki_dir: t.Optional[str],
) -> t.Optional[str]:
    """The CA that signs serving certificates where nobody has said otherwise."""
    own = SERVER_AUTHORITIES.get(managed_by or "")
    if own and os.path.isfile(own):
        return own
    named = setting(kubelet_config, flags, "clientCAFile", "client-ca-file")
    if named:
        return named
    for name in ("ca.crt", "ca.pem"):
        if pki_dir and os.path.isfile(os.path.join(pki_dir, name)):
            return os.path.join(pki_dir, name)
    return None


def answers(
    address: str,
    port: int,
    *,
    authority: t.Optional[str],
    read_only_port: int = READ_ONLY_PORT,
    prefix: str = "",
    timeout: float = 3.0,
) -> t.Dict[str, t.Any]:
    """The kubelet's certificate, whether it verifies, and what somebody without credentials is told.

    A certificate that does not verify keeps the request from nobody: it carries nothing that is worth stealing.
    """
    shown = "[%s]" % address if ":" in address else address
    found: t.Dict[str, t.Any] = {
        "url": "https://%s:%d%s" % (shown, port, PATH),
        "ca_file": authority,
        "reachable": False,
        "verified": False,
        "status": None,
        "error": "",
        "certificate": None,
        "read_only_port": {"port": read_only_port, "open": probes.reach(address, read_only_port, timeout)["ok"]},
    }
    deadline = probes.Deadline(timeout)
    problems: t.List[str] = []
    for context in _contexts(authority, prefix, problems):
        try:
            connection = probes.open_connection(address, port, deadline)
            found["reachable"] = True
            tls = probes.handshake(connection, context, address, deadline)
        except probes.ProbeError as exc:
            problems.append(str(exc))
            if exc.kind != "untrusted":
                break
            continue
        with tls:
            found["certificate"] = probes.certificate_of(tls)
            found["verified"] = context.verify_mode != probes.ssl.CERT_NONE
            try:
                found["status"] = probes.request(tls, "%s:%d" % (shown, port), PATH, deadline).status
            except probes.ProbeError as exc:
                problems.append(str(exc))
        break
    found["error"] = problems[0] if problems else ""
    return found


def _contexts(authority: t.Optional[str], prefix: str, problems: t.List[str]) -> t.Iterator["probes.ssl.SSLContext"]:
    """First one that verifies, then one that shows the certificate all the same."""
    if authority:
        try:
            context = probes.client_context(ca_file=prefix + authority)
        except probes.ProbeError as exc:
            problems.append(str(exc))
        else:
            yield context
    else:
        problems.append("nobody says which CA signs the certificates of kubelets")
    # Shows the certificate, and what is served without authentication. Sends no credentials; "verified" stays false.
    yield probes.client_context(verify=False)
