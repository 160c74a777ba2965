# SPDX-License-Identifier: GPL-3.0-or-later
"""The program: the metrics server, or one of the small programs in the same image when its name comes first.

Exit codes: 0 after a signal, 1 when the program cannot start or cannot go on, 2 for a command line that makes no sense.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from metrics_server.flags import FlagError

#: Each is imported only when it is asked for: what the others need would be a third of its memory.
_COMMANDS = {"csr-approver": "metrics_server.approver.__main__", "nanny": "metrics_server.nanny.__main__"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, module = "metrics-server", "metrics_server.command"
    if words and words[0] in _COMMANDS:
        module = _COMMANDS[words[0]]
        name = f"metrics-server {words.pop(0)}"
    try:
        code: int = import_module(module).main(words)
    except FlagError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
