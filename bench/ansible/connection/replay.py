# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: replay
short_description: Answers modules with what was recorded, where there is no host
description:
  - For measurements of what a play costs the controller. Ansible does all that it does for a real host, except that
    nothing leaves the machine.
  - A task that would execute a module without a recorded answer fails.
options:
  path:
    description: The recorded answers, as bench/hosts.py writes them.
    env:
      - name: KUBEMETRICS_REPLAY
    vars:
      - name: replay_path
    required: true
    type: path
  role:
    description: Whose answers these are, of C(control_plane), C(worker) and C(controller).
    vars:
      - name: replay_role
    required: true
    type: str
  workers:
    description: How many workers there are; the API knows all of them.
    vars:
      - name: replay_workers
    required: true
    type: int
  name:
    description: The host, as the inventory calls it.
    vars:
      - name: inventory_hostname
    type: str
  latency:
    description: Seconds that every module takes on the host, where nothing else runs beside it.
    vars:
      - name: replay_latency
    default: 0
    type: float
"""

import ast
import base64
import datetime
import functools
import ipaddress
import json
import re
import time
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PARAMETERS = '{"ANSIBLE_MODULE_ARGS"'
#: The worker that was recorded; all others are made of it.
RECORDED_WORKER = "w1"
#: So many workers hold the image of the metrics server, unless more are asked for.
HOLDERS = 5


def worker_address(number):
    return f"10.99.{number // 250}.{number % 250 + 1}"


@functools.cache
def recording(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def arguments_in(payload):
    """Module name and arguments of what Ansible would send to a host."""
    start = payload.find(_PARAMETERS)
    if start < 0:
        return None, {}
    quote = payload[start - 1]
    end = payload.index("\n", start)
    literal = payload[start - 1 : payload.rindex(quote, start, end) + 1]
    given = json.loads(ast.literal_eval(literal))["ANSIBLE_MODULE_ARGS"]
    own = {key: value for key, value in given.items() if not key.startswith("_ansible_") and value is not None}
    return given["_ansible_module_name"], own


def choose(answers, module, arguments):
    """The recorded answer of a module whose arguments are the most alike."""
    found = [answer for answer in answers if answer["module"] == module]
    return max(
        found,
        key=lambda answer: (
            sum(answer["arguments"].get(name) == value for name, value in arguments.items())
            - len(set(answer["arguments"]) ^ set(arguments))
        ),
        default=None,
    )


def rename(value, number, recorded_address):
    """An answer of the worker that was recorded as that of another one."""
    text = json.dumps(value)
    text = re.sub(rf"(?<![0-9.]){re.escape(recorded_address)}(?![0-9.])", worker_address(number), text)
    renamed = json.loads(re.sub(rf"\b{RECORDED_WORKER}\b", f"w{number}", text))
    if isinstance(renamed.get("kubelet_answers"), dict):
        renamed["kubelet_answers"]["certificate"] = certificate_for(f"w{number}", worker_address(number))
    if number > HOLDERS:
        if isinstance(renamed.get("images"), dict):
            renamed["images"]["names"] = []
        if isinstance(renamed.get("labels"), dict):
            renamed["labels"] = {key: text for key, text in renamed["labels"].items() if "kubemetrics" not in key}
    return renamed


def certificate_for(name, address):
    """A certificate as a kubelet has one, for the names of one worker (DER in base64)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{name}")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()


def for_all_workers(result, arguments, workers, recorded_address):
    """An answer in which the one worker stands for all of them."""
    if "nodes" in result and isinstance(result["nodes"], list):
        own = next(node for node in result["nodes"] if node["name"] == RECORDED_WORKER)
        others = [node for node in result["nodes"] if node is not own]
        made = [rename(own, number, recorded_address) for number in range(1, workers + 1)]
        result = {**result, "nodes": others + made}
    elif isinstance(result.get("nodes"), dict) and RECORDED_WORKER in result["nodes"]:
        others = {name: node for name, node in result["nodes"].items() if name != RECORDED_WORKER}
        own = result["nodes"][RECORDED_WORKER]
        for number in range(1, workers + 1):
            others[f"w{number}"] = rename(own, number, recorded_address)
        result = {**result, "nodes": others}
    if "kubelets" in result:
        like = result["kubelets"][-1]
        result = {**result, "kubelets": [{**like, "address": address} for address in arguments["addresses"]]}
    return result


def temporary_directory(command):
    """What the shell of a host prints when Ansible makes or removes its temporary directory there."""
    if "echo ~" in command and "mkdir" not in command:
        return b"/root\n"
    made = re.search(r"(ansible-tmp-[0-9.-]+)", command)
    if made and "mkdir" in command:
        return f"{made.group(1)}=/root/.ansible/tmp/{made.group(1)}\n".encode()
    if "rm -f -r" in command:
        return b""
    raise AnsibleConnectionFailure(f"The replayed host has no answer to the command {command[:200]}")


class Connection(ConnectionBase):
    transport = "replay"
    has_pipelining = True
    #: Several processes may run modules over it at the same time, as over ssh.
    independent = True

    def _connect(self):
        self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        module, arguments = arguments_in((in_data or b"").decode("utf-8", "replace"))
        if module is None:
            return 0, temporary_directory(cmd), b""
        recorded = recording(self.get_option("path"))
        answer = choose(recorded["answers"][self.get_option("role")], module, arguments)
        if answer is None:
            raise AnsibleConnectionFailure(f"Nothing is recorded of {module}; record again (see bench/hosts.py)")
        result = answer["result"]
        address = recorded["worker_address"]
        if self.get_option("role") == "worker":
            number = int(self.get_option("name").removeprefix("w"))
            result = rename(result, number, address)
        else:
            result = for_all_workers(result, arguments, self.get_option("workers"), address)
        time.sleep(self.get_option("latency") or answer["seconds"])
        return 0, json.dumps(result).encode(), b""

    def put_file(self, in_path, out_path):
        raise AnsibleConnectionFailure("Nothing can be copied to a replayed host.")

    def fetch_file(self, in_path, out_path):
        raise AnsibleConnectionFailure("Nothing can be copied from a replayed host.")

    def close(self):
        self._connected = False
