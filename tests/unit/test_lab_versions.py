# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's table of Kubernetes versions against the Go modules that build them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

LAB = Path(__file__).parents[2] / "lab"
VARS = yaml.safe_load((LAB / "vars.yml").read_text())
VERSIONS = VARS["lab_kube_versions"]


def modules(version):
    return (LAB / "kube" / (VERSIONS[version]["modules"] + ".mod")).read_text()


def test_the_default_is_the_newest_version_and_built_by_go_mod():
    default = re.search(r"default\('([0-9.]+)'", VARS["lab_kube_version"]).group(1)
    assert default == max(VERSIONS, key=lambda version: tuple(map(int, version.split("."))))
    assert VERSIONS[default]["modules"] == "go"


@pytest.mark.parametrize("version", VERSIONS)
def test_module_files_name_the_version_and_its_etcd(version):
    text = modules(version)
    found = dict(re.findall(r"^(?:require |\t)(\S+) v([0-9.]+)(?: // indirect)?$", text, re.MULTILINE))
    assert found["k8s.io/kubernetes"] == version
    assert found["k8s.io/kubectl"] == found["k8s.io/component-base"] == version.replace("1.", "0.", 1)
    assert found["go.etcd.io/etcd/server/v3"] == VERSIONS[version]["etcd"]
    assert (LAB / "kube" / (VERSIONS[version]["modules"] + ".sum")).exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_staging_module_is_of_the_same_version(version):
    replaced = re.findall(r"^\t(k8s\.io/\S+) => (\S+) v(\S+)$", modules(version), re.MULTILINE)
    assert len(replaced) > 25
    assert all(old == new and found == version.replace("1.", "0.", 1) for old, new, found in replaced)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_image_of_etcd_is_of_the_etcd_that_is_built(version):
    assert VERSIONS[version]["etcd_tag"].rpartition("-")[0] == VERSIONS[version]["etcd"]


def test_every_module_file_is_in_the_table():
    found = {"versions/" + path.stem for path in (LAB / "kube" / "versions").iterdir()}
    assert found == {entry["modules"] for entry in VERSIONS.values()} - {"go"}


def test_the_oldest_and_the_newest_are_in_the_scenarios():
    scenarios = [yaml.safe_load(path.read_text()) or {} for path in (LAB.parent / "molecule").glob("*/molecule.yml")]
    wanted = [((one.get("ansible") or {}).get("env") or {}).get("LAB_KUBE_VERSION") for one in scenarios]
    assert min(VERSIONS, key=lambda version: tuple(map(int, version.split(".")))) in wanted
    assert None in wanted
