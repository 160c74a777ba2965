# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kubeconfig of one host as another host can use it. Pure functions, but for the reader that they are given."""

from __future__ import annotations

import base64
import json
import posixpath
import typing as t

import yaml

#: What may name a file, by what would hold the content itself. A token is text, all else is base64.
FILES = {
    "certificate-authority": "certificate-authority-data",
    "client-certificate": "client-certificate-data",
    "client-key": "client-key-data",
    "tokenFile": "token",
}


#: What runs programs of the host to get credentials.
PLUGINS = ("exec", "auth-provider")


class KubeconfigError(Exception):
    """One sentence for the user: what is wrong, where, and what to do."""


def portable(path: str, server: str, read: t.Callable[[str], bytes]) -> str:
    """The kubeconfig at ``path`` with the files that it names put into it, for the API server at ``server``.

    The server in the file may be a name or a loopback address that only the host itself can use.
    """
    try:
        config = yaml.safe_load(read(path))
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    entries = [entry for kind in ("clusters", "users") for entry in _entries(config, kind)]
    if not _entries(config, "clusters"):
        raise KubeconfigError(f"{path} is no kubeconfig; give the path of one as cluster_kubeconfig.")
    for entry in entries:
        settings = entry.get("cluster") or entry.get("user") or {}
        for name in PLUGINS:
            if settings.get(name):
                raise KubeconfigError(
                    f"{path} gets its credentials from a program of that host ({name}), which the controller may not "
                    "have; give a kubeconfig with a client certificate or a token as cluster_kubeconfig."
                )
        for name, holds in FILES.items():
            file = settings.pop(name, None)
            # The content wins where both are there, as in kubectl; of tokens the file does.
            if file and (holds not in settings or name == "tokenFile"):
                data = read(posixpath.join(posixpath.dirname(path), str(file)))
                settings[holds] = data.decode().strip() if name == "tokenFile" else base64.b64encode(data).decode()
        if entry.get("cluster"):
            settings["server"] = server
    return json.dumps(config)


def _entries(config: t.Any, kind: str) -> list[dict[str, t.Any]]:
    found = config.get(kind) if isinstance(config, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
