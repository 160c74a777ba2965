# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Front proxies as people write them, from the command line to the decision."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags as flag_model
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy

CASES = Path(__file__).resolve().parents[1] / "corpus/cases"
SHARED = [
    "shared-ca-by-path.cmdline.txt",
    "shared-ca-by-path.cmdline-kube-proxy-pair.txt",
    "shared-ca-several-controllers.cmdline-controller.txt",
    "shared-ca-several-controllers.cmdline-tutorial.txt",
]


def host(name, file):
    text = (CASES / file).read_text()
    words = text.split() if file.endswith(".txt") else yaml.safe_load(text)["spec"]["containers"][0]["command"]
    flags = flag_model.effective(flag_model.of_argv(words, "kube-apiserver"), "kube-apiserver")
    return {
        "name": name,
        "components": {
            "kube-apiserver": {"flags": flags, "version": "v1.31.1", "running": True},
            "kube-proxy": {"running": True},
        },
        "kubernetes_dir": {"pki_dir": str(Path(flags["client-ca-file"]).parent)},
    }


@pytest.mark.parametrize("file", SHARED)
def test_a_shared_ca_is_seen_where_it_is_and_is_no_example(file):
    one = host("c0", file)
    flags = front_proxy.running_flags(one)
    assert front_proxy.shares_client_ca(flags)
    assert front_proxy.file_flags(one, [one], {})[front_proxy.CA_FILE] == flags["client-ca-file"]
    bare = {**one, "name": "c9", "components": {**one["components"], "kube-apiserver": {"flags": {}}}}
    assert set(front_proxy.file_flags(bare, [one, bare], {}).values()).isdisjoint(
        {flags[name] for name in front_proxy.FILES}
    )


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("file", SHARED)
def test_with_consent_each_gets_files_of_its_own(file, count):
    hosts = [host(f"c{number}", file) for number in range(count)]
    flags = front_proxy.running_flags(hosts[0])
    new = {name: f"/new/{name}" for name in ("ca_file", "cert_file", "key_file")}
    info = {
        "ca_file": flags[front_proxy.CA_FILE],
        "cert_file": flags[front_proxy.CERT_FILE],
        "key_file": flags[front_proxy.KEY_FILE],
        "ca": ["AAAA"],
        "client_ca": ["AAAA"],
        "used_by": {"ca_file": ["kube-apiserver --client-ca-file"], "cert_file": [], "key_file": [], "ca_key": []},
        "new_files": new,
    }
    infos = {one["name"]: info for one in hosts}
    assert front_proxy.shared_problem(infos, [], replace_shared=False)
    for one in hosts:
        assert front_proxy.own_files(one, info, infos) == new
        wanted = front_proxy.wanted_flags(one, hosts, new)
        assert [wanted[name] for name in front_proxy.FILES] == list(new.values())
        # The names stay, so that the certificate gets one that was allowed before.
        assert wanted[front_proxy.ALLOWED_NAMES] == flags[front_proxy.ALLOWED_NAMES]


def test_literal_quotes_admit_nobody_and_are_corrected():
    one = host("c0", "allowed-names-empty-quotes.cmdline-literal.txt")
    assert front_proxy.admits_nobody(front_proxy.running_flags(one))
    wanted = front_proxy.wanted_flags(one, [one], {"names": ["metrics-server"]})
    assert wanted[front_proxy.ALLOWED_NAMES] == ["metrics-server"]
    assert wanted["requestheader-extra-headers-prefix"] == ["X-Remote-Extra-"]
    assert front_proxy.names_for(one, [one]) == []


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("static-pod-quoted-allowed-names.kube-apiserver.yaml", ["aggregator"]),
        ("repeated-allowed-names.kube-apiserver.yaml", ["front-proxy-client", "system:aggregator"]),
    ],
)
def test_names_are_those_that_kube_apiserver_reads_and_nothing_is_edited(file, names):
    one = host("c0", file)
    assert front_proxy.names_for(one, [one]) == names
    running = front_proxy.running_flags(one)
    wanted = front_proxy.wanted_flags(one, [one], {})
    assert {name: running[name] for name in wanted} == wanted
