# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files on the controller that are for their owner alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

MODE = 0o600


class FileError(Exception):
    """One sentence for the user: what is wrong, where, and what to do."""


def write_private(path: str, text: str) -> None:
    """Write a file for its owner alone, whole or not at all. Raises FileError."""
    target = Path(path).absolute()
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            os.fchmod(descriptor, MODE)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise FileError(
            f"{path} cannot be written ({exc.strerror}); name a file in an existing directory of the controller."
        ) from exc
