# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plain kubeconfigs: one file, a CA, and a client certificate or a token, as kubeadm and its kin write them.

Loading the official client takes most of the time of a short request, and a run makes several. What is not plain in
every respect (credential plugins, proxies, several files, anything odd) is left to that client, and so are all
complaints.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import ssl
import tempfile
import typing as t
import urllib.request

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import anchors

try:
    import yaml
except ImportError:  # kube.py says so; on hosts nothing here is called
    yaml = None

_CLUSTER_KEYS = {"server", "certificate-authority", "certificate-authority-data"}
_USER_KEYS = {
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "token",
}


class PlainKubeconfig(t.NamedTuple):
    """What requests need. All certificates and keys are PEM."""

    host: str
    authority: str
    certificate: t.Optional[str]
    key: t.Optional[str]
    token: t.Optional[str]

    def ssl_context(self) -> ssl.SSLContext:
        """A context that trusts this CA alone. Raises OSError (ssl.SSLError) for certificates that cannot be used."""
        context = anchors.like_kubernetes(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.authority)
        if self.certificate and self.key:
            # Python loads client certificates from files only.
            handle, path = tempfile.mkstemp(prefix="kubemetrics-")
            try:
                with os.fdopen(handle, "w", encoding="ascii") as file:
                    file.write(self.certificate.rstrip("\n") + "\n" + self.key)
                context.load_cert_chain(path)
            finally:
                os.unlink(path)
        return context


def read_plain(path: t.Optional[str], context: t.Optional[str]) -> t.Optional[PlainKubeconfig]:
    """The kubeconfig if it is plain, else None."""
    if yaml is None or urllib.request.getproxies().keys() & {"https", "all"}:
        return None
    path = path or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    try:
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
        return parse_plain(data, os.path.dirname(os.path.abspath(path)), context)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def parse_plain(data: t.Any, directory: str, context: t.Optional[str]) -> t.Optional[PlainKubeconfig]:
    """The plain kubeconfig in a document, or None. Raises OSError and ValueError for files that cannot be read."""
    if not isinstance(data, dict):
        return None
    chosen = _named(data.get("contexts"), context or data.get("current-context"), "context")
    cluster = _named(data.get("clusters"), (chosen or {}).get("cluster"), "cluster")
    user = _named(data.get("users"), (chosen or {}).get("user"), "user")
    if cluster is None or user is None or set(cluster) - _CLUSTER_KEYS or set(user) - _USER_KEYS:
        return None
    server = cluster.get("server")
    authority = _pem(cluster, "certificate-authority", directory)
    certificate = _pem(user, "client-certificate", directory)
    key = _pem(user, "client-key", directory)
    token = user.get("token")
    if not isinstance(server, str) or not authority or bool(certificate) != bool(key):
        return None
    if not certificate and not token or token is not None and not isinstance(token, str):
        return None
    return PlainKubeconfig(server, authority, certificate, key, token)


def _named(entries: t.Any, name: t.Any, key: str) -> t.Optional[t.Dict[str, t.Any]]:
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and name and entry.get("name") == name:
            return entry[key] if isinstance(entry.get(key), dict) else None
    return None


def _pem(entry: t.Mapping[str, t.Any], key: str, directory: str) -> t.Optional[str]:
    inline = entry.get(key + "-data")
    if inline:
        with contextlib.suppress(binascii.Error, TypeError):
            return base64.b64decode(inline, validate=True).decode("ascii")
        return None
    path = entry.get(key)
    if not isinstance(path, str) or not path:
        return None
    with open(os.path.join(directory, path), encoding="ascii") as file:
        return file.read()
