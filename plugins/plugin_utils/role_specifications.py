# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles of this collection say of their variables."""

from __future__ import annotations

import functools
import typing as t
from pathlib import Path

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"


@functools.cache
def specification(role: str) -> dict[str, t.Any] | None:
    """The options of a role's main entry point; None where there is no such role."""
    path = ROLES / role / "meta" / "argument_specs.yml"
    if "/" in role or not path.is_file():
        return None
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return dict(document["argument_specs"]["main"].get("options") or {})


def default(role: str, name: str) -> t.Any:
    """The default of a variable of a role."""
    return ((specification(role) or {}).get(name) or {}).get("default")
