# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's inventory of kubespray: the sample's files, with lines that stand there as comments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import images, processes
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import YamlText
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.kubelet_effective import listening
from jinja2 import Environment

TREE = Path(__file__).resolve().parents[2]
LAB = yaml.safe_load((TREE / "lab/vars.yml").read_text(encoding="utf-8"))
SAMPLE = TREE / LAB["lab_kubespray_sample"].rpartition("}}/")[2]
TEMPLATES = TREE / "lab/templates/kubespray"


@pytest.mark.parametrize("pattern", LAB["lab_kubespray_uncommented"])
def test_every_line_that_is_taken_out_of_a_comment_is_in_the_sample(pattern):
    lines = [line for path in SAMPLE.glob("*/*.uncommented") for line in path.read_text().splitlines()]
    assert [line for line in lines if re.match(f"({pattern}):", line)]


@pytest.mark.parametrize("rotate", [False, True])
def test_the_kubelets_file_is_one_that_the_collection_reads_and_edits(rotate):
    environment = Environment(trim_blocks=True, keep_trailing_newline=True)  # noqa: S701 - YAML
    environment.filters.update(
        bool=lambda value: str(value).lower() == "true",
        to_nice_yaml=lambda value, indent: yaml.safe_dump(value, indent=indent),
    )
    environment.tests["version"] = lambda value, other, how: True
    text = environment.from_string((TEMPLATES / "kubelet-config.yaml.j2").read_text(encoding="utf-8")).render(
        ip="192.0.2.111",
        kube_version="1.37.2",
        kube_cert_dir="/etc/kubernetes/ssl",
        kube_manifest_dir="/etc/kubernetes/manifests",
        kubelet_rotate_server_certificates=rotate,
        eviction_hard={"memory.available": "100Mi"},
        kubelet_config_extra_args={"kubeAPIQPS": 20},
        kubelet_fail_swap_on=False,
        kubelet_swap_behavior="NoSwap",
    )
    settings = yaml.safe_load(text)
    assert settings.get("serverTLSBootstrap", False) is rotate
    assert settings["memorySwap"] == {"swapBehavior": "NoSwap"}
    assert settings["kubeAPIQPS"] == 20
    found = {"path": "kubelet-config.yaml", "source": "flag", "text": text, "drop_ins": [], "overriding_flags": {}}
    assert listening(found) == {"address": "192.0.2.111", "port": 10250}
    # kubespray's template has a space before this colon.
    assert images.configured_endpoint({}, text) == "/var/run/containerd/containerd.sock"
    assert processes.yaml_value(text, "address") == "192.0.2.111"
    assert YamlText(text, "kubelet-config.yaml").data["containerRuntimeEndpoint"].startswith("unix://")
