#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Searches evidence for every key, token and password of the lab that it was collected from.

lab/evidence_secrets.py LAB_FOLDER EVIDENCE [EVIDENCE ...]

The secrets are read where they are: files with private keys or credentials on the nodes, all Secrets of the cluster,
the tokens in the pods, and the kubeconfig of the lab. Ends with 1 where one of them, or a part of it, is in the file.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

#: A part of a secret that is long enough not to be there by chance.
PART = 24
KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
#: What may be secret in files that are no PEM: tokens, passwords, keys in base64.
FIELDS = re.compile(r"(?:token|password|client-key-data|secret)\"?\s*[:=]\s*\"?([A-Za-z0-9+/=_.-]{16,})")
SEARCH = r"""
grep -rlIE -- '-----BEGIN [A-Z ]*PRIVATE KEY|client-key-data|token:' /etc /var/lib/kubelet /var/lib/kubemetrics /root \
  2>/dev/null | while read -r file; do printf '\0%s\0' "$file"; cat "$file"; done
for process in /proc/[0-9]*; do
  file=$process/root/run/secrets/kubernetes.io/serviceaccount/token
  [ -r "$file" ] && { printf '\0%s\0' "token: $file"; printf 'token: '; cat "$file"; }
done
true
"""


def numbers_of(pem: str) -> list[bytes]:
    """What is secret in a private key. The rest of it is also in certificates."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        return []
    if isinstance(key, rsa.RSAPrivateKey):
        private = key.private_numbers()
        return [number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (private.d, private.p, private.q)]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return [key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")]
    return [key.private_bytes_raw()] if hasattr(key, "private_bytes_raw") else []


def spellings(secret: bytes) -> set[str]:
    """Parts of a secret as they would be in a text: hexadecimal, and base64 at each of its three alignments."""
    texts = [secret.hex(), secret.hex().upper()]
    texts += [
        base64.b64encode(b"\0" * shift + secret).decode()[(shift * 8 + 5) // 6 :].rstrip("=") for shift in range(3)
    ]
    return {text[at : at + PART] for text in texts for at in range(0, len(text) - PART + 1, PART // 2)}


def parts_of(text: str) -> set[str]:
    """The secrets in a file, whatever its form."""
    found: set[str] = set()
    texts = [text]
    for value in FIELDS.findall(text):
        found.add(value)
        try:
            texts.append(base64.b64decode(value, validate=True).decode("ascii"))
        except (binascii.Error, ValueError):
            continue
    for part in texts:
        for pem in KEY.findall(part):
            for number in numbers_of(pem):
                found |= spellings(number)
    return found


def of_nodes(lab: Path) -> dict[str, set[str]]:
    names = sorted(set(re.findall(r"lab_container: ([\w-]+)", (lab / "inventory.yml").read_text(encoding="utf-8"))))
    if not names:
        raise SystemExit(f"{lab}/inventory.yml names no containers; give the folder of a lab.")
    found: dict[str, set[str]] = {}
    for name in names:
        done = subprocess.run(
            ["podman", "exec", name, "sh", "-c", SEARCH],
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            check=True,
        )
        fields = done.stdout.split("\0")[1:]
        for path, text in zip(fields[::2], fields[1::2], strict=False):
            found[f"{name}:{path}"] = parts_of(text)
    return found


def of_the_api(lab: Path) -> dict[str, set[str]]:
    kubectl = (lab / "kubectl-path").read_text(encoding="utf-8").strip()
    done = subprocess.run(
        [kubectl, "--kubeconfig", str(lab / "kubeconfig"), "get", "secrets", "-A", "-o", "json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, set[str]] = {}
    for item in json.loads(done.stdout)["items"]:
        name = f"Secret {item['metadata']['namespace']}/{item['metadata']['name']}"
        for key, value in (item.get("data") or {}).items():
            text = base64.b64decode(value).decode("utf-8", "replace")
            secret = "-----BEGIN" not in text and len(text.strip()) >= 16
            found[f"{name}.{key}"] = parts_of(text) | ({text.strip()} if secret else set())
    return found


def main() -> int:
    lab = Path(sys.argv[1])
    secrets = {**of_nodes(lab), **of_the_api(lab)}
    secrets["kubeconfig"] = parts_of((lab / "kubeconfig").read_text(encoding="utf-8"))
    known = {part: source for source, parts in secrets.items() for part in parts}
    print(f"{len(known)} parts of {len([parts for parts in secrets.values() if parts])} secrets are known.")
    if len(known) < 20:
        print("That is too few: they were not found.")
        return 1
    failed = 0
    for path in sys.argv[2:]:
        # Lines of a key would be broken, and JSON would say so.
        text = Path(path).read_text(encoding="utf-8").replace("\\n", "").replace("\n", "")
        # A part of a secret is one, too.
        leaks = {source for part, source in known.items() if part in text or part[:PART] in text}
        print(f"{path}: {'no secret' if not leaks else 'it holds ' + ', '.join(sorted(leaks))}")
        failed += bool(leaks)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
