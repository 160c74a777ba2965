# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which versions of metrics.k8s.io a cluster shall have registered."""

from __future__ import annotations

import re
import typing as t

#: What the bundled server serves, in the order in which versions are registered.
KNOWN = ("v1beta1", "v1")
AUTO = "auto"
#: The first release whose clients know v1. Its controller-manager still asks for v1beta1.
FIRST_WITH_V1 = (1, 37)

_VERSION = re.compile(r"^v?(\d+)\.(\d+)")


class MetricsApiError(ValueError):
    """What was asked for cannot be registered; the message is for the operator."""


def minor_version(text: str) -> t.Optional[tuple[int, int]]:
    """Major and minor number of a version such as v1.37.2 or v1.36.3+k3s1; None for anything else."""
    match = _VERSION.match(text)
    return (int(match.group(1)), int(match.group(2))) if match else None


def versions(wanted: t.Any, server_versions: t.Iterable[t.Optional[str]]) -> list[str]:
    """The versions to register. `wanted` is auto or a list; `server_versions` is what each API server calls itself.

    While control planes are being upgraded, the oldest decides: until then nothing is served that some of them are
    older than. A server that does not answer has no say, so that the loss of one does not unregister anything.
    """
    names = wanted.split(",") if isinstance(wanted, str) else list(wanted or ())
    names = [str(name).strip() for name in names]
    if names == [AUTO]:
        found = [version for version in (minor_version(text or "") for text in server_versions) if version]
        return list(KNOWN) if found and min(found) >= FIRST_WITH_V1 else [KNOWN[0]]
    if not names or not set(names) <= set(KNOWN):
        raise MetricsApiError(
            f"metrics_server_api_versions is {wanted!r}; set it to auto, or to a list of {' and '.join(KNOWN)}."
        )
    return [name for name in KNOWN if name in names]
