# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which flags came and went with which version, as far as the definitions of old clusters still carry them."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flags import normalize

Version = t.Tuple[int, int]


class Life(t.NamedTuple):
    """``since``: the first version in which the flag can be used; ``idle``: without effect or deprecated; ``gone``."""

    since: t.Optional[Version] = None
    idle: t.Optional[Version] = None
    gone: t.Optional[Version] = None


_KLOG = (
    "add-dir-header",
    "alsologtostderr",
    "log-backtrace-at",
    "log-dir",
    "log-file",
    "log-file-max-size",
    "logtostderr",
    "one-output",
    "skip-headers",
    "skip-log-headers",
    "stderrthreshold",
)
_KLOG_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")

HISTORY: t.Dict[str, t.Dict[str, Life]] = {
    name: {flag: Life(idle=(1, 25), gone=(1, 26)) for flag in _KLOG} for name in _KLOG_COMPONENTS
}
HISTORY["kube-apiserver"].update(
    {
        "apiserver-count": Life(idle=(1, 24)),
        "enable-swagger-ui": Life(gone=(1, 24)),
        "insecure-bind-address": Life(idle=(1, 20), gone=(1, 24)),
        "insecure-port": Life(idle=(1, 20), gone=(1, 24)),
        "kubelet-https": Life(idle=(1, 19), gone=(1, 22)),
        # An alpha feature in 1.32, where it takes a feature gate.
        "requestheader-uid-headers": Life(since=(1, 33)),
        "target-ram-mb": Life(gone=(1, 24)),
    }
)


class Obsolete(t.NamedTuple):
    """A flag that is there and should not be: removed in this version, or deprecated."""

    name: str
    state: str
    since: str


def parse_version(text: t.Optional[str]) -> t.Optional[Version]:
    """Major and minor version of v1.36.3, or None."""
    match = re.match(r"^v?(\d+)\.(\d+)", text or "")
    return (int(match.group(1)), int(match.group(2))) if match else None


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def obsolete(component: str, names: t.Iterable[str], version: t.Optional[Version]) -> t.List[Obsolete]:
    """Those of the flags that ``version`` no longer has or no longer wants; none for an unknown version."""
    found = []
    history = HISTORY.get(component, {})
    for name in dict.fromkeys(normalize(name) for name in names):
        life = history.get(name)
        if life is None or version is None:
            continue
        if life.gone and version >= life.gone:
            found.append(Obsolete(name, "removed", _text(life.gone)))
        elif life.idle and version >= life.idle:
            found.append(Obsolete(name, "deprecated", _text(life.idle)))
    return found


def refusal(component: str, name: str, version: t.Optional[Version]) -> t.Optional[str]:
    """Why a flag cannot be set in ``version``, or None."""
    life = HISTORY.get(component, {}).get(normalize(name))
    if life is None or version is None:
        return None
    if life.since and version < life.since:
        return f"{component} {_text(version)} has no --{normalize(name)}, which came with {_text(life.since)}"
    if life.gone and version >= life.gone:
        return f"{component} {_text(version)} has no --{normalize(name)}, which went with {_text(life.gone)}"
    return None
