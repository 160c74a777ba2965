# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which systemd services read an environment file, from the unit files on disk: also those that are not loaded."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import typing as t

#: systemd's directories, those that win first.
UNIT_DIRECTORIES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_ENVIRONMENT_FILE = re.compile(r"^[ \t]*EnvironmentFile[ \t]*=[ \t]*-?(?P<path>.*?)[ \t\r]*$", re.MULTILINE)


def environment_files(texts: t.Iterable[str]) -> t.List[str]:
    """The paths that EnvironmentFile names in a unit and its drop-ins; an empty one resets the list."""
    found: t.List[str] = []
    for text in texts:
        for match in _ENVIRONMENT_FILE.finditer(text):
            found = [*found, match.group("path")] if match.group("path") else []
    return found


def drop_in_directories(name: str) -> t.List[str]:
    """The names of the directories with a service's drop-ins, the one that wins first.

    Those of its prefixes (``kube-.service.d``) and of all services (``service.d``) count as well.
    """
    stem = name[: -len(".service")]
    prefixes = [stem[: index + 1] for index in reversed(range(len(stem) - 1)) if stem[index] in "-@"]
    return [one + ".service.d" for one in [stem, *prefixes]] + ["service.d"]


def services(directories: t.Sequence[str]) -> t.Dict[str, t.List[str]]:
    """Each service's files in systemd's order: its unit, then its drop-ins. Aliases and masked units are left out."""
    units: t.Dict[str, str] = {}
    drop_ins: t.Dict[str, t.Dict[str, str]] = {}
    patterns = ("*.service.d", "service.d")
    for directory in directories:
        for path in glob.glob(os.path.join(glob.escape(directory), "*.service")):
            name = os.path.basename(path)
            target = os.path.realpath(path)
            alias = os.path.islink(path) and os.path.basename(target) != name and os.path.dirname(target) in directories
            if not alias:
                units.setdefault(name, path)
        for pattern in patterns:
            for path in glob.glob(os.path.join(glob.escape(directory), pattern, "*.conf")):
                holder = os.path.basename(os.path.dirname(path))
                drop_ins.setdefault(holder, {}).setdefault(os.path.basename(path), path)
    found = {}
    for name in sorted(units):
        if os.path.realpath(units[name]) == os.devnull:
            continue
        own: t.Dict[str, str] = {}
        for holder in drop_in_directories(name):
            for file, path in drop_ins.get(holder, {}).items():
                own.setdefault(file, path)
        found[name] = [units[name], *(path for _file, path in sorted(own.items()))]
    return found


def readers_of(paths: t.Sequence[str], directories: t.Optional[t.Sequence[str]] = None) -> t.Dict[str, t.List[str]]:
    """Path of an environment file -> the services that read it, sorted."""
    readers: t.Dict[str, t.List[str]] = {path: [] for path in paths}
    real = {path: os.path.realpath(path) for path in paths}
    for name, files in services(directories or UNIT_DIRECTORIES).items() if paths else ():
        named = environment_files(_read(path) for path in files)
        for path in paths:
            if any(_names(entry, path, real[path]) for entry in named):
                readers[path].append(name)
    return readers


def _names(entry: str, path: str, real: str) -> bool:
    # A specifier such as %N is known to systemd alone; it may stand for anything.
    pattern = re.sub(r"%[^%]", "*", entry).replace("%%", "%")
    if pattern != entry or re.search(r"[*?\[]", entry):
        return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(real, pattern)
    return entry == path or os.path.realpath(entry) == real


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
