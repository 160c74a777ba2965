# SPDX-License-Identifier: GPL-3.0-or-later
"""A command line means here what it means to the component."""

from __future__ import annotations

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flag_plan, flags


def meaning(component, *argv):
    return flags.effective(flags.of_argv([component, *argv], component), component)


@pytest.mark.parametrize(
    ("component", "argv", "expected"),
    [
        ("kubelet", ["--v=1", "--node-ip", "x", "--runonce", "--config=x=y"],
         {"v": "1", "node-ip": "x", "runonce": "true", "config": "x=y"}),
        ("kubelet", ["--oom-score-adj", "-999", "--max-pods=1"], {"oom-score-adj": "-999", "max-pods": "1"}),
        # A flag that takes a value takes whatever follows, and a boolean takes nothing.
        ("kubelet", ["--node-labels", "--v=2"], {"node-labels": "--v=2"}),
        ("kubelet", ["--anonymous-auth", "false", "--v", "2"], {"anonymous-auth": "true", "v": "2"}),
        ("kube-apiserver", ["--anonymous-auth=false", "--anonymous-auth"], {"anonymous-auth": "true"}),
        ("kube-apiserver", ["--secure-port=1", "--secure-port=2"], {"secure-port": "2"}),
        ("kubelet", ["--feature_gates=A=true", "--feature-gates=B=false"], {"feature-gates": "A=true,B=false"}),
        ("kubelet", ["--v=1", "--", "--v=2"], {"v": "1"}),
        ("kubelet", ["-", "--=x", "---v=1", "--", "--b"], {}),
        ("kubelet", ["-v4"], {"v": "4"}),
        ("kubelet", ["-v=4"], {"v": "4"}),
        # What nobody knows takes the next word if that looks like a value.
        ("kubelet", ["--unheard-of", "-1", "--unheard-of-2", "--v=1"],
         {"unheard-of": "-1", "unheard-of-2": "true", "v": "1"}),
        ("etcd", ["-name", "e1", "--pre-vote", "--listen-client-urls=a,b"],
         {"name": "e1", "pre-vote": "true", "listen-client-urls": "a,b"}),
        # Of the kubelet it is one mode, of the API server a list.
        ("kubelet", ["--authorization-mode=Webhook"], {"authorization-mode": "Webhook"}),
        ("kube-apiserver", ["--authorization-mode=Node,RBAC"], {"authorization-mode": ["Node", "RBAC"]}),
        ("kubelet", ["--register-with-taints=a=b:NoSchedule", "--register-with-taints=c:NoExecute"],
         {"register-with-taints": "c:NoExecute"}),
        ("kube-apiserver", ["--tls-sni-cert-key=a.crt,a.key", "--tls-sni-cert-key=b.crt,b.key:b"],
         {"tls-sni-cert-key": ["a.crt,a.key", "b.crt,b.key:b"]}),
    ],
)  # fmt: skip
def test_what_a_command_line_means(component, argv, expected):
    assert meaning(component, *argv) == expected


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["--requestheader-allowed-names=a,b"], ["a", "b"]),
        (["--requestheader-allowed-names=a", "--requestheader-allowed-names", "b"], ["a", "b"]),
        (['--requestheader-allowed-names="aggregator"'], ["aggregator"]),
        (['--requestheader-allowed-names="a,b",c'], ["a,b", "c"]),
        (['--requestheader-allowed-names="a""b"'], ['a"b']),
        (['--requestheader-allowed-names=""'], [""]),
        (["--requestheader-allowed-names="], []),
        (["--requestheader-allowed-names=a", "--requestheader-allowed-names="], ["a"]),
        (["--requestheader-allowed-names=a,"], ["a", ""]),
        (["--requestheader-allowed-names= a , b"], [" a ", " b"]),
    ],
)
def test_a_list_is_a_line_of_csv_and_adds_up(argv, names):
    assert meaning("kube-apiserver", *argv) == {"requestheader-allowed-names": names}


@pytest.mark.parametrize("text", ['"a', 'a"b', '"a"b', '"'])
def test_a_list_that_pflag_refuses(text):
    with pytest.raises(flags.FlagError):
        flags.read_list(text)
    assert meaning("kube-apiserver", f"--requestheader-allowed-names={text}")["requestheader-allowed-names"] == [text]
    with pytest.raises(flags.FlagError, match="no list that the component could read"):
        flag_plan.check_wanted({"requestheader-allowed-names": text}, "kube-apiserver")


@pytest.mark.parametrize("entries", [[], [""], ["a"], ["a", "b"], ["a,b", 'c"d'], ["", ""], [" a"]])
def test_a_list_that_is_written_reads_as_it_was(entries):
    assert flags.read_list(flags.write_list(entries)) == entries


@pytest.mark.parametrize(
    ("words", "index"),
    [
        (["kube-apiserver", "--v=1"], 0),
        (["/usr/local/bin/kube-apiserver"], 0),
        (["/go-runner", "--log-file=/x.log", "--also-stdout=true", "/usr/local/bin/kube-apiserver", "--v=1"], 3),
        (["/kube-log-runner", "-log-file", "/x.log", "kube-apiserver"], 3),
        (["/hyperkube", "apiserver", "--v=1"], 1),
        (["hyperkube", "kube-apiserver"], 1),
        (["nice", "-n", "-5", "kube-apiserver"], 3),
        (["/usr/bin/env", "A=b", "kube-apiserver"], 2),
        (["systemd-cat", "-t", "kube-apiserver", "/bin/kube-apiserver", "--v=1"], 3),
        (["kube-apiserver", "--config", "kube-apiserver"], 0),
        (["k0s", "controller"], None),
        (["hyperkube", "proxy"], None),
        ([], None),
    ],
)
def test_where_the_arguments_begin(words, index):
    assert flags.program_index(words, "kube-apiserver") == index


def test_flags_of_a_wrapper_belong_to_somebody_else():
    argv = ["kube-log-runner", "--v=9", "/bin/kube-apiserver", "--v=1"]
    assert flags.effective(flags.of_argv(argv, "kube-apiserver"), "kube-apiserver") == {"v": "1"}


def test_a_refused_secret_is_not_shown():
    with pytest.raises(flags.FlagError, match=r"flags.token is \*+; a flag is a string"):
        flag_plan.check_wanted({"token": {"a": "secret"}}, "kubelet")


def edits(component, argv, wanted):
    return [
        (step.action, step.name, step.value) for step in flag_plan.plan(flags.parse(argv, component), wanted, component)
    ]


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["--requestheader-allowed-names=a", "--requestheader-allowed-names=b"],
         {"requestheader-allowed-names": ["a", "b"]}),
        (['--requestheader-allowed-names="a"'], {"requestheader-allowed-names": ["a"]}),
        (["--requestheader-allowed-names="], {"requestheader-allowed-names": []}),
        (["--feature-gates=A=true", "--feature-gates=B=false"], {"feature-gates": "B=false,A=true"}),
        (["--secure-port=1", "--secure-port=2"], {"secure-port": 2}),
        (["--anonymous-auth=True"], {"anonymous_auth": True}),
        (["--service-account-issuer=a", "--service-account-issuer=b"], {"service-account-issuer": ["a", "b"]}),
        (["--v=1"], {"profiling": None}),
    ],
)  # fmt: skip
def test_what_already_holds_is_left_as_it_is_written(argv, wanted):
    assert edits("kube-apiserver", argv, wanted) == []


def test_what_does_not_hold_is_folded_into_its_last_place():
    argv = ["--requestheader-allowed-names=a", "--requestheader-allowed-names=b"]
    assert edits("kube-apiserver", argv, {"requestheader-allowed-names": ["a,b", "c"]}) == [
        ("remove", "requestheader-allowed-names", None),
        ("replace", "requestheader-allowed-names", '"a,b",c'),
    ]
    assert edits("kube-apiserver", ['--requestheader-allowed-names=""'], {"requestheader-allowed-names": []}) == [
        ("replace", "requestheader-allowed-names", "")
    ]
    # The order of names of headers decides which one is taken.
    assert edits("kube-apiserver", ["--requestheader-username-headers=a,b"], {"requestheader-username-headers": "b,a"})


def test_duplicates_are_those_of_which_one_counts():
    argv = ["--secure-port=1", "--secure-port=1", "--etcd-servers=a", "--etcd-servers=b", "--feature-gates=A=true"]
    assert flags.duplicates(flags.parse(argv, "kube-apiserver"), "kube-apiserver") == ["secure-port"]
