# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files in which MicroK8s has the flags of the components inside its process. Pure functions."""

from __future__ import annotations

import posixpath
import shlex
import typing as t

#: Options of kubelite that name the file of a component's flags.
_OPTIONS = {
    "kube-apiserver": "--apiserver-args-file=",
    "kube-controller-manager": "--controller-manager-args-file=",
    "kube-scheduler": "--scheduler-args-file=",
    "kube-proxy": "--proxy-args-file=",
    "kubelet": "--kubelet-args-file=",
}


def file_of(argv: t.Sequence[str], component: str) -> str:
    """The file that the command line of kubelite names for a component; empty where it names none."""
    option = _OPTIONS.get(component, "\n")
    return next((argument[len(option) :] for argument in argv if argument.startswith(option)), "")


def arguments(text: str, path: str) -> t.List[str]:
    """The arguments in such a file, with the variables of the snap replaced; what cannot be read is left out."""
    data = posixpath.dirname(posixpath.dirname(path))
    variables = {"SNAP_DATA": data, "SNAP_COMMON": posixpath.join(posixpath.dirname(data), "common")}
    found: t.List[str] = []
    for line in text.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        for name, value in variables.items():
            words = [word.replace("${%s}" % name, value).replace("$" + name, value) for word in words]
        found += words
    return found
