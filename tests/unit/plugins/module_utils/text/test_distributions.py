# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which distribution a cluster is, by process lists, files and Node objects that were captured from the sources and
the documentation of each (corpus/distributions says which)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import components, processes
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions, kubelite_args
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import cluster

CORPUS = Path(__file__).resolve().parents[2] / "corpus/distributions"
CASES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(CORPUS.glob("*.json"))}


@pytest.fixture
def host(tmp_path):
    """A host with the processes of a case."""

    def make(found):
        for directory in ("self/ns", *(str(number) for number in range(100, 100 + len(found)))):
            (tmp_path / "proc" / directory).mkdir(parents=True)
        (tmp_path / "proc/stat").write_text("btime 1790000000\n")
        (tmp_path / "proc/self/ns/net").symlink_to("net:[1]")
        for number, entry in enumerate(found, 100):
            own = tmp_path / "proc" / str(number)
            (own / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in entry["argv"]))
            (own / "comm").write_text(entry["comm"] + "\n")
            (own / "cgroup").write_text(entry["cgroup"] + "\n")
            (own / "stat").write_text(f"{number} ({entry['comm']}) S 1 " + "0 " * 17 + f"{number} 0 0\n")
            (own / "status").write_text(f"NSpid:\t{number}\n")
            (own / "environ").write_bytes(b"")
        return components.Host(proc=processes.Proc(str(tmp_path / "proc")), timeout=10)

    return make


def described(made):
    names = [name for name in processes.COMPONENTS if made.process_of(name)]
    return components.describe(made, names, {})


@pytest.mark.parametrize("name", CASES)
def test_who_starts_each_component(name, host):
    case = CASES[name]
    found = {key: entry["managed_by"] for key, entry in described(host(case["processes"])).items()}
    assert {key: found.get(key) for key in case["managed_by"]} == case["managed_by"]


@pytest.mark.parametrize("name", CASES)
def test_what_the_api_says(name):
    case = CASES[name]
    asked = set(distributions.questions(case["nodes"]))
    found = distributions.of_cluster(case["nodes"], case["version"], asked & set(case.get("markers", ())))
    assert found.key == case["distribution"]
    assert bool(found.because) == bool(found.key)


@pytest.mark.parametrize("name", CASES)
def test_the_flavour_of_the_whole(name, host):
    """Processes and API together: what neither of them is enough for, both are."""
    case = CASES[name]
    made = host(case["processes"])
    seen = described(made)
    first = {"components": seen, "kubelet_config": {}, "kubernetes_dir": {"kubeadm": name.startswith("kubeadm")}}
    said = distributions.of_cluster(case["nodes"], case["version"], case.get("markers", ()))._asdict()
    flavour = cluster.flavour_of(first if "kube-apiserver" in seen else None, said)
    assert (flavour if flavour in distributions.TABLE else "") == case["distribution"]
    if name.startswith("kubeadm") and seen:
        assert flavour == "kubeadm"


def test_every_distribution_has_a_case_and_its_sources():
    assert {case["distribution"] for case in CASES.values()} - {""} == set(distributions.TABLE)
    assert all(case["sources"] for case in CASES.values())


def test_the_api_server_outweighs_kubelets():
    node = {"status": {"nodeInfo": {"kubeletVersion": "v1.33.4+k3s1"}}}
    assert distributions.of_cluster([node], "").key == "k3s"
    assert distributions.of_cluster([node], "v1.36.3").key == ""
    assert distributions.of_cluster([], "").key == ""


def test_only_labels_lead_to_another_request():
    assert distributions.questions(CASES["k3s"]["nodes"]) == []
    assert distributions.questions(CASES["openshift"]["nodes"]) == CASES["openshift"]["markers"]


def test_files_that_another_distribution_left_are_not_this_clusters(host, tmp_path, monkeypatch):
    left = tmp_path / "rancher.yaml"
    left.write_text("left by a k3s that is gone\n")
    entry = distributions.TABLE["k3s"]._replace(kubeconfigs=(str(left),), pki_dir=str(tmp_path))
    monkeypatch.setitem(distributions.TABLE, "k3s", entry)
    monkeypatch.setattr(components, "ADMIN_KUBECONFIGS", ())
    monkeypatch.setattr(components, "PKI_DIRS", ())
    made = host(CASES["kubeadm-with-signs-of-k3s"]["processes"])
    assert made.distributions == ()
    assert str(left) not in components.admin_kubeconfigs(made)
    assert components.describe_directories(made, {}, None)["pki_dir"] != str(tmp_path)


def test_a_distributions_own_kubeconfig_comes_first(host):
    made = host(CASES["rke2"]["processes"])
    assert components.admin_kubeconfigs(made)[0] == "/etc/rancher/rke2/rke2.yaml"


def test_where_nothing_runs_every_kubeconfig_may_be_the_one(host):
    made = host([])
    assert made.distributions == tuple(distributions.TABLE)
    assert components.admin_kubeconfigs(made)[0] == "/etc/kubernetes/admin.conf"


# --- MicroK8s -------------------------------------------------------------------------------------------------------

ARGUMENTS = (CORPUS / "microk8s.args-kube-apiserver").read_text(encoding="utf-8")


def test_the_files_of_microk8s_have_the_flags():
    found = kubelite_args.arguments(ARGUMENTS, "/var/snap/microk8s/8511/args/kube-apiserver")
    assert "--secure-port=16443" in found
    assert "--requestheader-client-ca-file=/var/snap/microk8s/8511/certs/front-proxy-ca.crt" in found
    assert "--containerd=/var/snap/microk8s/common/run/containerd.sock" in found
    assert "--etcd-servers=unix:///var/snap/microk8s/8511/var/kubernetes/backend/kine.sock:12379" in found
    assert not [one for one in found if "#" in one or "$" in one or not one.startswith("--")]
    assert kubelite_args.arguments("--a='open\n--b=c\n", "/x/y/z") == ["--b=c"]


def test_the_command_line_of_kubelite_names_them(host, tmp_path):
    (tmp_path / "args").mkdir()
    path = tmp_path / "args/kube-apiserver"
    path.write_text(ARGUMENTS)
    captured = CASES["microk8s"]["processes"][0]
    argv = [word.replace("/var/snap/microk8s/8511", str(tmp_path)) for word in captured["argv"]]
    found = described(host([{**captured, "argv": argv}]))
    assert found["kube-apiserver"]["in_process"]
    assert found["kube-apiserver"]["flags"]["secure-port"] == "16443"
    assert found["kube-apiserver"]["flags"]["proxy-client-cert-file"] == f"{tmp_path}/certs/front-proxy-client.crt"
    # A file that is not there hides nothing else.
    assert found["kube-scheduler"]["flags"] == {}
    assert kubelite_args.file_of(argv, "etcd") == ""


# --- what is said ---------------------------------------------------------------------------------------------------

PAIRS = [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("key", "component", "wanted"),
    [
        ("k3s", "kube-apiserver", ["kube-apiserver-arg:", '- "a=b"', '- "c=d"']),
        (
            "rke2",
            "kubelet",
            ["# /etc/rancher/rke2/config.yaml, on every node", "kubelet-arg:", '- "a=b"', '- "c=d"'],
        ),
        ("minikube", "kube-apiserver", ["minikube start --extra-config=apiserver.a=b --extra-config=apiserver.c=d"]),
        ("k0s", "kube-apiserver", ['spec: {api: {extraArgs: {a: "b", c: "d"}}}']),
        ("microk8s", "kubelet", ["# /var/snap/microk8s/current/args/kubelet, on every node", "--a=b", "--c=d"]),
    ],
)
def test_lines_to_write(key, component, wanted):
    lines = distributions.flag_lines(key, component, PAIRS)
    start = lines.index(wanted[0])
    assert lines[start : start + len(wanted)] == wanted


@pytest.mark.parametrize("key", distributions.TABLE)
def test_each_says_what_it_is_and_what_that_means(key):
    said = distributions.sentence(key, "its API server says v1")
    name = distributions.TABLE[key].name
    assert said.startswith(f"This cluster is {name} (its API server says v1). {name} ")
    assert said.endswith(".") and ".." not in said
    for component in ("kube-apiserver", "kubelet"):
        lines = distributions.flag_lines(key, component, PAIRS)
        assert lines or distributions.TABLE[key].hosted
        assert not lines or "a=b" in " ".join(lines).replace(": ", "=").replace('"', "")
        assert distributions.flags_clause(key, component, PAIRS)


@pytest.mark.parametrize("key", [key for key, entry in distributions.TABLE.items() if not entry.hosted])
def test_what_has_hosts_says_how_each_thing_is_done_there(key):
    entry = distributions.TABLE[key]
    assert entry.renew_front_proxy and entry.renew_serving and entry.restart and entry.serving_certificates
    assert entry.kubeconfigs and entry.pki_dir
