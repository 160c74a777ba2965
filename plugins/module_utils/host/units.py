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


def services(directories: t.Sequence[str]) -> t.Dict[str, t.List[str]]:
    """Each service's files in systemd's order: its unit, then its drop-ins. Aliases and masked units are left out."""
    units: t.Dict[str, str] = {}
    drop_ins: t.Dict[str, t.Dict[str, str]] = {}
    for directory in directories:
        for path in glob.glob(os.path.join(glob.escape(directory), "*.service")):
            name = os.path.basename(path)
            target = os.path.realpath(path)
            alias = os.path.islink(path) and os.path.basename(target) != name and os.path.dirname(target) in directories
            if not alias:
                units.setdefault(name, path)
        for path in glob.glob(os.path.join(glob.escape(directory), "*.service.d", "*.conf")):
            service = os.path.basename(os.path.dirname(path))[: -len(".d")]
            drop_ins.setdefault(service, {}).setdefault(os.path.basename(path), path)
    return {
        name: [units[name], *(path for _name, path in sorted(drop_ins.get(name, {}).items()))]
        for name in sorted(units)
        if os.path.realpath(units[name]) != os.devnull
    }


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
