# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who the controller is to a registry: what the variables say, or else what podman, docker or skopeo have been told.

A password goes into a request's header and nowhere else: it is in no message, no command line and no file.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import reference
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError

HELPER_TIMEOUT = 30

#: The argument of modules that talk to registries.
ARGUMENTS: t.Dict[str, t.Any] = {
    "registries": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "host": {"type": "str", "required": True},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "ca_file": {"type": "path"},
        },
    }
}


class Login(t.NamedTuple):
    """A user and a password; without a user, the password is a refresh token of the registry's identity service."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Login(%r, ...)" % self.username


class Registries:
    """What is known of registries by their hosts: login and CA."""

    def __init__(self, entries: t.Sequence[t.Mapping[str, t.Any]] = (), environment: t.Optional[dict] = None):
        self.environment = os.environ if environment is None else environment
        self.entries = {}
        for entry in entries:
            host = str(entry.get("host") or "").strip()
            if "/" in host or not host:
                raise ImageError(
                    "A registry is called %r; give the host and, where it has one, the port, for example "
                    "registry.example.com:5000." % host
                )
            if bool(entry.get("username")) != bool(entry.get("password")):
                raise ImageError("The registry %s has a user without a password, or a password without a user." % host)
            self.entries[reference.normalized(host)] = entry

    def ca_file(self, host: str) -> str:
        """The CA that the registry's certificate is from, beside those that the system trusts."""
        path = str(self.entry(host).get("ca_file") or "")
        if path and not os.path.isfile(os.path.expanduser(path)):
            raise ImageError("The CA of the registry %s is not there: %s is no file." % (host, path))
        return os.path.expanduser(path)

    def entry(self, host: str) -> t.Mapping[str, t.Any]:
        return self.entries.get(reference.normalized(host)) or {}

    def login(self, host: str, repository: str = "") -> t.Optional[Login]:
        """The login for a repository; podman keeps them for parts of a registry, too."""
        entry = self.entry(host)
        if entry.get("username"):
            return Login(str(entry["username"]), str(entry["password"]))
        for path in auth_files(self.environment):
            found = LoginFile(path).login(host, repository)
            if found:
                return found
        return None


def auth_files(environment: t.Mapping[str, str]) -> t.List[Path]:
    """Where logins are kept, in the order of the programs that keep them."""
    home = Path(environment.get("HOME") or "~").expanduser()
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    paths = []
    if environment.get("REGISTRY_AUTH_FILE"):
        paths.append(Path(environment["REGISTRY_AUTH_FILE"]))
    if environment.get("XDG_RUNTIME_DIR"):
        paths.append(Path(environment["XDG_RUNTIME_DIR"]) / "containers" / "auth.json")
    paths.append(config / "containers" / "auth.json")
    paths.append(Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
    return [path for path in paths if path.is_file()]


def places_of(host: str, repository: str) -> t.List[str]:
    """What a login for a repository may be kept for, the narrowest first: the repository, its folders, the registry."""
    parts = [part for part in repository.split("/") if part]
    host = reference.normalized(host)
    return ["/".join([host, *parts[:count]]) for count in range(len(parts), -1, -1)]


def place_of(key: str) -> str:
    """What a login is kept for. Docker writes hosts as URLs of their API, too; podman also writes repositories."""
    is_url = "://" in key
    host, _slash, path = key.rpartition("://")[2].strip("/").partition("/")
    folder = "" if is_url or path in ("v1", "v2") else path
    return "/".join([reference.normalized(host), folder]) if folder else reference.normalized(host)


def keys_for(place: str, known: t.Iterable[str]) -> t.List[str]:
    """The keys of a file that are for a place; the plain one is the newest where there are several."""
    usual = [reference.DOCKER_HUB_LOGIN] if place == reference.DOCKER_HUB_HOST else []
    found = [key for key in known if place_of(key) == place]
    return sorted(found, key=lambda key: (key not in usual, "://" in key, key != place))


class LoginFile:
    """A file in which podman or docker keeps logins, or names the programs that keep them."""

    def __init__(self, path: Path):
        self.path = path
        try:
            document = json.loads(path.read_text(encoding="utf-8") or "{}")
        except (OSError, ValueError) as exc:
            reason = type(exc).__name__
            raise ImageError("The logins of registries in %s cannot be read (%s)." % (path, reason)) from exc
        self.helpers = _mapping(document, "credHelpers")
        self.entries = _mapping(document, "auths")
        store = document.get("credsStore") if isinstance(document, dict) else None
        self.store = store if isinstance(store, str) else ""

    def login(self, host: str, repository: str) -> t.Optional[Login]:
        """The login for a repository, from the narrowest place that has one."""
        places = places_of(host, repository)
        for place in places:
            found = self._helped(place) or self._listed(place)
            if found:
                return found
        listed = any(keys_for(place, self.entries) for place in places)
        return None if listed else self._stored(reference.normalized(host))

    def _helped(self, place: str) -> t.Optional[Login]:
        keys = [key for key in keys_for(place, self.helpers) if self.helpers[key]]
        return next(filter(None, (login_from_helper(str(self.helpers[key]), key) for key in keys)), None)

    def _listed(self, place: str) -> t.Optional[Login]:
        for key in keys_for(place, self.entries):
            found = decode(self.entries[key], self.path, key)
            if found is None and self.store:
                found = login_from_helper(self.store, key)
            if found:
                return found
        return None

    def _stored(self, host: str) -> t.Optional[Login]:
        """Docker asks its store for every registry; programs that renew logins by themselves (ECR's) list none."""
        if not self.store or not helper_program(self.store):
            return None
        return login_from_helper(self.store, reference.DOCKER_HUB_LOGIN if host == reference.DOCKER_HUB_HOST else host)


def _mapping(document: t.Any, key: str) -> t.Dict[str, t.Any]:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def decode(entry: t.Any, path: Path, key: str) -> t.Optional[Login]:
    """The login in an entry of a file; none where it is kept elsewhere."""
    entry = entry if isinstance(entry, dict) else {}
    if entry.get("identitytoken"):
        return Login("", str(entry["identitytoken"]))
    if not entry.get("auth"):
        plain = entry.get("username") and entry.get("password")
        return Login(str(entry["username"]), str(entry["password"])) if plain else None
    try:
        username, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (ValueError, TypeError):
        colon = ""
    if not colon:
        # What was read is not shown: it may be a password all the same.
        raise ImageError("The login for %s in %s cannot be read; log in again." % (key, path)) from None
    return Login(username, password.rstrip("\0"))


def helper_program(name: str) -> t.Optional[str]:
    """The program of a credential helper, where it is installed."""
    return shutil.which("docker-credential-" + name)


def login_from_helper(name: str, key: str) -> t.Optional[Login]:
    """What a credential helper (macOS' keychain, for example) says; none where it has no such login."""
    program = helper_program(name)
    if not program:
        raise ImageError(
            "The login for %s is kept by docker-credential-%s, which is not installed; install it, or name the login "
            "in metrics_server_image_registries." % (key, name)
        )
    try:
        done = subprocess.run(
            [program, "get"], input=key.encode(), capture_output=True, timeout=HELPER_TIMEOUT, check=False
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise ImageError(
            "The login for %s cannot be had from docker-credential-%s; log in again, or name the login in "
            "metrics_server_image_registries." % (key, name)
        ) from None
    if not isinstance(answer, dict) or not answer.get("Secret"):
        return None
    username = str(answer.get("Username") or "")
    return Login("" if username == "<token>" else username, str(answer["Secret"]))
