# SPDX-License-Identifier: GPL-3.0-or-later
"""What an API server says of its checks, and the lines of its log that tell something."""

from __future__ import annotations

import os

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import api_servers

BODY = """[+]ping ok
[-]etcd failed: reason withheld
[+]poststarthook/generic-apiserver-start-informers ok
readyz check failed
"""
LINES = [
    "2026-03-01T10:00:00.1Z stderr F I0301 10:00:00.100000       1 a.go:1] Starting",
    "2026-03-01T10:00:01.1Z stderr F E0301 10:00:01.100000       1 b.go:2] cannot dial",
    "2026-03-01T10:00:02.1Z stderr F E0301 10:00:02.100000       1 b.go:2] cannot dial",
    "2026-03-01T10:00:03.1Z stderr F Error: unknown flag: --no-such-flag",
    "2026-03-01T10:00:04.1Z stderr F W0301 10:00:04.100000       1 c.go:3] sent Bearer abcdef",
    "",
]


def test_checks():
    found = api_servers.parse_checks(BODY)
    assert [(check["name"], check["ok"]) for check in found] == [
        ("ping", True),
        ("etcd", False),
        ("poststarthook/generic-apiserver-start-informers", True),
    ]
    assert found[1]["message"] == "failed: reason withheld"


def test_lines_that_tell_something_come_once_and_without_secrets():
    assert api_servers.telling_lines(LINES, 10) == [
        "E0301 10:00:02.100000       1 b.go:2] cannot dial",
        "Error: unknown flag: --no-such-flag",
        "W0301 10:00:04.100000       1 c.go:3] sent Bearer ********",
    ]
    assert len(api_servers.telling_lines(LINES, 1)) == 1
    assert api_servers.telling_lines(LINES, 0) == []


def test_the_log_of_the_newest_container(tmp_path):
    assert api_servers.newest_pod_log(str(tmp_path / "none")) is None
    for pod, name, age in (("a", "0.log", 30), ("a", "1.log", 20), ("b", "0.log", 10), ("b", "0.log.gz", 1)):
        directory = tmp_path / f"kube-system_kube-apiserver-{pod}" / "kube-apiserver"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("x")
        os.utime(directory / name, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "kube-system_etcd-a").mkdir()
    found = api_servers.newest_pod_log(str(tmp_path))
    assert found == str(tmp_path / "kube-system_kube-apiserver-b/kube-apiserver/0.log")


def test_of_a_long_file_only_the_end_is_read(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(f"line {at}\n" for at in range(60_000)))
    lines = api_servers.tail_of(str(path))
    assert lines[-1] == "line 59999"
    # The first line is whole.
    assert lines[0].startswith("line ")
    assert 1000 < len(lines) < 60_000
    assert api_servers.tail_of(str(tmp_path / "none")) == []
