"""List the files of a Debian root that a Python program needs, for `tar --files-from`; run inside that root.

The result is an image base without shell, package manager or compiler: what the metrics server runs on in the lab.
"""
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import PurePosixPath

PACKAGES = (
    "base-files",
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libsqlite3-0",
    "libstdc++6",
    "libuuid1",
    "media-types",
    "netbase",
    "python3-minimal",
    "python3.11-minimal",
    "tzdata",
    "zlib1g",
)
# Made at installation and therefore in no package's list.
GENERATED = (
    "/etc/ld.so.cache",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
)
MERGED_DIRECTORIES = ("/bin", "/lib", "/lib64", "/sbin")
UNUSED = (
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/lintian/",
    "/usr/share/ca-certificates/",
    "/usr/share/locale/",
)


def real(path: str) -> str:
    """Resolve the directories of a path but not its last part: /lib/x.so is stored as /usr/lib/x.so."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def main() -> int:
    listed = subprocess.run(["dpkg-query", "--listfiles", *PACKAGES], check=True, capture_output=True, text=True)
    wanted = {real(line) for line in listed.stdout.splitlines() if line.startswith("/") and line != "/."}
    wanted |= {path for path in GENERATED if os.path.exists(path)}
    wanted |= {path for path in MERGED_DIRECTORIES if os.path.islink(path)}
    # A folder without an entry of its own gets mode 0600 from Docker.
    wanted |= {str(folder) for path in wanted for folder in PurePosixPath(path).parents if folder.name}
    for path in sorted(wanted):
        if os.path.lexists(path) and not (path + "/").startswith(UNUSED):
            print(path.lstrip("/"))
    return 0


sys.exit(main())
