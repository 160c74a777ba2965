# SPDX-License-Identifier: GPL-3.0-or-later
"""Which services read an environment file, from the files of systemd's directories."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import units


@pytest.fixture
def put(tmp_path):
    """Puts files below this test's directories etc and lib, which stand for systemd's; etc wins."""
    for name in ("etc", "lib", "kube"):
        (tmp_path / name).mkdir()

    def put(path, text=""):
        target = tmp_path / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
        return target

    return put


@pytest.fixture
def readers(tmp_path):
    def readers(*names):
        paths = [str(tmp_path / "kube" / name) for name in names]
        return list(units.readers_of(paths, (str(tmp_path / "etc"), str(tmp_path / "lib"))).values())

    return readers


def test_units_and_drop_ins_with_every_way_to_name_a_file(put, readers, tmp_path):
    kube = tmp_path / "kube"
    put("etc/a.service", f"[Service]\nEnvironmentFile=-{kube}/config\n")
    put("etc/b.service", f"[Service]\n  EnvironmentFile = {kube}/*fig\n")
    put("lib/c.service", "[Service]\n")
    put("etc/c.service.d/10.conf", f"[Service]\nEnvironmentFile={kube}/config\n")
    put("lib/d.service", f"[Service]\nEnvironmentFile={kube}/%N\n")
    put("etc/e.service", f"[Service]\n#EnvironmentFile={kube}/config\nEnvironmentFile={kube}/other\n")
    assert readers("config", "other", "else") == [
        ["a.service", "b.service", "c.service", "d.service"],
        ["d.service", "e.service"],
        ["d.service"],
    ]


def test_what_systemd_does_not_read_counts_for_nothing(put, readers, tmp_path):
    line = f"EnvironmentFile={tmp_path}/kube/config\n"
    put("lib/overridden.service", f"[Service]\n{line}")
    put("etc/overridden.service", "[Service]\n")
    put("lib/reset.service", f"[Service]\n{line}")
    put("etc/reset.service.d/10.conf", "[Service]\nEnvironmentFile=\n")
    put("lib/masked.service", f"[Service]\n{line}")
    (tmp_path / "etc" / "masked.service").symlink_to("/dev/null")
    put("lib/real.service", f"[Service]\n{line}")
    (tmp_path / "etc" / "alias.service").symlink_to(tmp_path / "lib" / "real.service")
    put("lib/not-a-unit.service.bak", f"[Service]\n{line}")
    assert readers("config") == [["real.service"]]


def test_links_to_one_file_are_one_file(put, readers, tmp_path):
    put("kube/config")
    (tmp_path / "kube" / "link").symlink_to("config")
    put("etc/a.service", f"[Service]\nEnvironmentFile={tmp_path}/kube/link\n")
    assert readers("config", "link") == [["a.service"], ["a.service"]]


def test_nothing_asked_nothing_read(readers):
    assert readers() == []


def test_an_empty_line_resets_and_does_not_swallow_the_next_one(put, readers, tmp_path):
    put(
        "etc/a.service",
        f"[Service]\nEnvironmentFile=/else\nEnvironmentFile=\nEnvironmentFile=-{tmp_path}/kube/config\n",
    )
    assert readers("config") == [["a.service"]]
    assert units.environment_files(["[Service]\nEnvironmentFile=/a\nEnvironmentFile=\n\n[Install]\n"]) == []


def test_drop_ins_of_prefixes_and_of_all_services_speak_for_each(put, readers, tmp_path):
    kube = tmp_path / "kube"
    for name in ("kube-apiserver", "kube-scheduler", "kubelet", "job@"):
        put(f"lib/{name}.service", "[Service]\n")
    put("etc/service.d/10-all.conf", f"[Service]\nEnvironmentFile={kube}/all\n")
    put("lib/kube-.service.d/20.conf", f"[Service]\nEnvironmentFile={kube}/kube\n")
    # The more specific directory wins over one of the same file name.
    put("lib/kube-scheduler.service.d/20.conf", f"[Service]\nEnvironmentFile={kube}/own\n")
    everyone = ["job@.service", "kube-apiserver.service", "kube-scheduler.service", "kubelet.service"]
    assert readers("all", "kube", "own") == [everyone, ["kube-apiserver.service"], ["kube-scheduler.service"]]


@pytest.mark.parametrize(
    ("name", "directories"),
    [
        ("kubelet.service", ["kubelet.service.d", "service.d"]),
        ("kube-api-x.service", ["kube-api-x.service.d", "kube-api-.service.d", "kube-.service.d", "service.d"]),
        ("job@one.service", ["job@one.service.d", "job@.service.d", "service.d"]),
    ],
)
def test_directories_of_drop_ins(name, directories):
    assert units.drop_in_directories(name) == directories
