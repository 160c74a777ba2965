# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who on a host refers to a file: processes, by command line and environment, kubeconfigs, units, manifests and so on.

Read as text, because a reference in a file that does not parse is one, too. Standard library only, Python 3.8.
"""

from __future__ import annotations

import glob
import os
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import units

MAX_FILES = 2000
MAX_SIZE = 256 * 1024

#: Where installers and guides keep what components are configured with.
PATTERNS = (
    "/etc/kubernetes/*",
    "/etc/kubernetes/*/*",
    "/etc/default/kube*",
    "/etc/sysconfig/kube*",
    "/etc/etcd/*",
    "/etc/etcd.env",
    "/etc/etcd.conf",
    "/etc/default/etcd*",
    "/etc/sysconfig/etcd*",
    "/etc/cni/net.d/*",
    "/etc/haproxy/*",
    "/etc/nginx/*",
    "/opt/kubernetes/*",
    "/opt/kubernetes/*/*",
    "/opt/k8s/*/*",
    "/root/.kube/*",
    "/home/*/.kube/*",
    "/var/lib/kubelet/*",
    "/var/lib/kube-*/*",
    "/var/lib/kubernetes/*",
    "/var/lib/etcd/*.y*ml",
)

_PATH = re.compile(r"""(?<![\w.])/[^\s"'`,;:=(){}\[\]<>|&*?\\]+""")
#: What stands before the value of a flag: `--flag=`, `--flag `, items of YAML lists, and kubeadm's extraArgs.
_FLAG = re.compile(r"""(?P<flag>[A-Za-z][\w-]*)["']?(?:=|\s*:\s*|\s+(?:-\s+|value:\s*)?)["']?$""")
_FLAG_LENGTH = 120
#: A path that is relative to the kubeconfig that it stands in.
_RELATIVE = re.compile(
    r"""(?:client-certificate|client-key|certificate-authority|tokenFile)["']?\s*:\s*["']?(?P<path>[^\s"',{}\[\]/][^\s"',{}]*)"""
)


class Reference(t.NamedTuple):
    """A path and who names it."""

    path: str
    by: str


def in_words(words: t.Sequence[str], without: t.Collection[str] = ()) -> t.List[t.Tuple[str, str]]:
    """The paths in a command line, each with its flag; those of the flags that are to be left out are not."""
    found = []
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if not equals or not word.startswith("-"):
            flag = words[position - 1] if position else ""
            flag = flag if flag.startswith("-") and "=" not in flag else ""
            value = word
        name = flag.lstrip("-").replace("_", "-")
        if name in without:
            continue
        found += [(part, name) for part in value.split(",") if part.startswith("/")]
    return found


def in_text(text: str, directory: str, without: t.Collection[str] = ()) -> t.List[str]:
    """The paths in a file, except for the values of the flags that are to be left out."""
    found = []
    for match in _PATH.finditer(text):
        before = _FLAG.search(text[max(0, match.start() - _FLAG_LENGTH) : match.start()])
        if not before or before.group("flag").replace("_", "-") not in without:
            found.append(match.group().rstrip("."))
    found += [os.path.normpath(os.path.join(directory, match.group("path"))) for match in _RELATIVE.finditer(text)]
    return found


def lineage(proc: str, pid: int) -> t.Set[int]:
    """A process and its ancestors: the shells and interpreters that run this very look."""
    found: t.Set[int] = set()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            with open(os.path.join(proc, str(pid), "stat"), encoding="utf-8", errors="replace") as handle:
                # The name in brackets may hold anything; the parent is the second field behind it.
                pid = int(handle.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return found


class Command(t.NamedTuple):
    """What a process was started with."""

    words: t.List[str]
    #: NAME=value, each.
    environment: t.List[str]


def split_nul(path: str) -> t.List[str]:
    try:
        with open(path, "rb") as handle:
            words = handle.read(MAX_SIZE).decode("utf-8", "replace").split("\0")
    except OSError:
        # The process has ended meanwhile.
        return []
    return words[:-1] if not words[-1] else words


def commands(proc: str = "/proc", without: t.Collection[int] = ()) -> t.Iterator[Command]:
    for name in os.listdir(proc):
        if not name.isdigit() or int(name) in without:
            continue
        words = split_nul(os.path.join(proc, name, "cmdline"))
        if words and words[0]:
            yield Command(words, split_nul(os.path.join(proc, name, "environ")))


def in_environment(variables: t.Sequence[str], without: t.Collection[str] = ()) -> t.List[t.Tuple[str, str]]:
    """The paths in a process's variables, each with the variable's name. A variable may hold flags, too."""
    found = []
    for variable in variables:
        name, equals, value = variable.partition("=")
        if equals and "/" in value:
            found += [(path, name) for path in in_text(value, "/", without)]
    return found


def unit_files() -> t.List[str]:
    """Every systemd service with its drop-ins, those of packages too, and the environment files that they name."""
    found: t.Dict[str, None] = {}
    for files in units.services(units.UNIT_DIRECTORIES).values():
        texts = []
        for path in files:
            found.setdefault(path)
            texts.append(text_of(path))
        for named in units.environment_files(texts):
            pattern = re.sub(r"%[^%]", "*", named).replace("%%", "%")
            found.update(dict.fromkeys(sorted(glob.glob(pattern))))
    return list(found)


def text_of(path: str) -> str:
    """The text of a configuration file; nothing of what is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        info = os.fstat(descriptor)
        if not os.path.isfile(path) or info.st_size > MAX_SIZE:
            return ""
        with os.fdopen(descriptor, "rb", closefd=False) as handle:
            content = handle.read(MAX_SIZE)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return "" if b"\0" in content or content.startswith(b"-----BEGIN") else content.decode("utf-8", "replace")


def gather(without: t.Collection[str], proc: str = "/proc", patterns: t.Iterable[str] = PATTERNS) -> t.List[Reference]:
    """Everything on the host that names a path, leaving out the values of some flags."""
    found: t.List[Reference] = []
    files: t.Dict[str, None] = {}
    for command in commands(proc, lineage(proc, os.getpid())):
        program = os.path.basename(command.words[0])
        found += [
            Reference(path, "%s $%s" % (program, name)) for path, name in in_environment(command.environment, without)
        ]
        for path, flag in in_words(command.words[1:], without):
            found.append(Reference(path, "%s --%s" % (program, flag) if flag else program))
            # A kubeconfig, a configuration file: what it names is named by the process.
            if "config" in flag:
                files.setdefault(path)
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            files.setdefault(path)
    for path in unit_files():
        files.setdefault(path)
    for path in list(files)[:MAX_FILES]:
        text = text_of(path)
        if text:
            directory = os.path.dirname(path)
            found += [Reference(named, path) for named in dict.fromkeys(in_text(text, directory, without))]
    return found


class References:
    """Looks files up, whatever links lead to them."""

    def __init__(self, found: t.Iterable[Reference]) -> None:
        self._by: t.Dict[str, t.Dict[str, None]] = {}
        for one in found:
            self._by.setdefault(os.path.realpath(one.path), {}).setdefault(one.by)

    def of(self, path: str) -> t.List[str]:
        return sorted(self._by.get(os.path.realpath(path), ()))
