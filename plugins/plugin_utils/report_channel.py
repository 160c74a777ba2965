# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a report gets behind everything else that ansible-playbook prints.

The task that makes it runs in a process of its own. A callback plugin of the playbook opens a private file beforehand,
whose name that process inherits; without such a callback, the task prints the report itself.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

VARIABLE = "KUBEMETRICS_REPORT_FILE"


def open_channel() -> str:
    """Make the file, for its owner alone."""
    descriptor, path = tempfile.mkstemp(prefix="kubemetrics-report-")
    os.close(descriptor)
    os.environ[VARIABLE] = path
    return path


def deliver(text: str) -> bool:
    """Leave a report for the end of the run. False where nobody waits for one."""
    path = os.environ.get(VARIABLE)
    if not path:
        return False
    try:
        # Only the file that is there already: it is private.
        with open(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW), "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError:
        return False
    return True


def close_channel(path: str) -> str:
    """What was left, if anything. The file is removed."""
    os.environ.pop(VARIABLE, None)
    text = ""
    with contextlib.suppress(OSError):
        text = Path(path).read_text(encoding="utf-8")
    with contextlib.suppress(OSError):
        os.unlink(path)
    return text
