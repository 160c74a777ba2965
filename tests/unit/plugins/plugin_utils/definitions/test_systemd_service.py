# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions of components in the shapes that real hosts have: what they say, and that edits move nothing else."""

from __future__ import annotations

import difflib
import random
import re
import shlex
from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flag_plan
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.program import DefinitionError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.static_pod import is_file_flag
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.static_pod_editor import (
    StaticPodEditor,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.systemd_editor import SystemdEditor

CORPUS = Path(__file__).parents[2] / "corpus"

#: Name -> component, unit files (the first is the unit, the others its drop-ins), environment files by their paths.
SERVICES = {
    "unit": ("kube-apiserver", ["apiserver-unit.service"], {}),
    "oneline": ("kube-apiserver", ["apiserver-oneline.service"], {}),
    "last-comment": ("kube-apiserver", ["apiserver-last-comment.service"], {}),
    "env": (
        "kube-apiserver",
        ["apiserver-env.service"],
        {
            "/etc/kubernetes/config": "apiserver-env.config",
            "/opt/kubernetes/cfg/kube-apiserver.conf": "apiserver-env.conf",
        },
    ),
    "single-quotes": (
        "kube-apiserver",
        ["apiserver-single-quotes.service"],
        {"/etc/sysconfig/kube-apiserver": "apiserver-single-quotes.env"},
    ),
    "unquoted": (
        "kube-apiserver",
        ["apiserver-unquoted.service"],
        {"/etc/default/kube-apiserver": "apiserver-unquoted.env"},
    ),
    "environment": ("kube-apiserver", ["apiserver-environment.service"], {}),
    "kubeadm": (
        "kubelet",
        ["kubelet-kubeadm.service", "kubelet-kubeadm.service.d-10-kubeadm.conf"],
        {"/var/lib/kubelet/kubeadm-flags.env": "kubelet-kubeadm.flags.env"},
    ),
    "kubespray": (
        "kubelet",
        ["kubelet-kubespray.service"],
        {"/etc/kubernetes/kubelet.env": "kubelet-kubespray.env"},
    ),
}
PODS = ["pod-kubeadm.yaml", "pod-args.yaml", "pod-flow.json", "pod-hyperkube.yaml"]


def read(name):
    return (CORPUS / name).read_text()


def service(name):
    component, units, environment = SERVICES[name]
    texts = {unit: read(unit) for unit in units}
    texts.update({path: read(file) for path, file in environment.items()})
    return SystemdEditor(component, units, texts)


def pod(name):
    return StaticPodEditor("kube-apiserver", name, read(name))


def from_text(text, **environment):
    return SystemdEditor("kube-apiserver", ["x.service"], {"x.service": text, **environment})


def changed_lines(before, after):
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in lines if line[0] == "-"], [line[2:] for line in lines if line[0] == "+"]


def edited(name, wanted):
    """(lines that went, lines that came) in all texts of a service."""
    one = service(name)
    before = dict(one.texts)
    one.edit(wanted)
    gone, came = [], []
    for path, text in one.texts.items():
        lost, found = changed_lines(before.get(path, ""), text)
        gone += lost
        came += found
    return gone, came


def test_a_unit_is_read_as_systemd_reads_it():
    assert service("unit").words == [
        "--advertise-address=192.0.2.11", "--allow-privileged=true", "--anonymous-auth=false",
        "--authorization-mode=Node,RBAC", "--client-ca-file=/etc/kubernetes/ssl/ca.pem",
        "--etcd-servers=https://192.0.2.11:2379,https://192.0.2.12:2379,https://192.0.2.13:2379",
        "--enable-swagger-ui=true", "--apiserver-count=3", "--insecure-port=0", "--kubelet-https=true",
        "--logtostderr=true", "--service-cluster-ip-range=10.68.0.0/16", "--service-node-port-range", "30000-32767",
        "--oidc-required-claim=aud=cluster", "--oidc-required-claim=env=a b", "--v=2", "--v=3",
    ]  # fmt: skip
    assert service("oneline").words == [
        "--advertise-address", "192.0.2.11", "--etcd-servers", "http://127.0.0.1:2379", "--audit-webhook-batch",
        "--tls-cipher-suites=TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384", "--service-account-issuer=https://one/%20",
        "--v", "2",
    ]  # fmt: skip
    assert service("last-comment").words == [
        "--etcd-servers=http://127.0.0.1:2379", "--profiling=false", "--bind-address=0.0.0.0",
    ]  # fmt: skip


def test_variables_are_followed():
    assert service("env").words == [
        "--logtostderr=true", "--v=0", "--etcd-servers=https://192.0.2.11:2379", "--bind-address=192.0.2.11",
        "--secure-port=6443", "--advertise-address=192.0.2.11", "--service-account-issuer=https://kubernetes default",
        "--audit-log-path=/var/log/$HOSTNAME.log", "--tls-private-key-file=/opt/kubernetes/ssl/server-key.pem",
    ]  # fmt: skip
    assert service("single-quotes").words == [
        "--etcd-servers=http://127.0.0.1:2379", "--enable-admission-plugins=NodeRestriction", "--v=2",
    ]  # fmt: skip
    assert service("unquoted").words == [
        "--etcd-servers=http://127.0.0.1:2379", "--v=2", "--bind-address=127.0.0.1",
    ]  # fmt: skip
    assert service("environment").words == [
        "--advertise-address=192.0.2.11", "--etcd-servers=http://127.0.0.1:2379", "--v=2", "--profiling=false",
    ]  # fmt: skip
    assert service("kubeadm").words == [
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf", "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--config=/var/lib/kubelet/config.yaml",
        "--container-runtime-endpoint=unix:///var/run/containerd/containerd.sock", "--node-ip=192.0.2.21",
    ]  # fmt: skip
    assert service("kubespray").words == [
        "--v=2", "--node-ip=192.0.2.21", "--hostname-override=node1",
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
        "--config=/etc/kubernetes/kubelet-config.yaml", "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--read-only-port=10255", "--runtime-cgroups=/system.slice/containerd.service",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "wanted", "gone", "came"),
    [
        ("unit", {"insecure-port": None}, ["  --insecure-port=0 \\"], []),
        ("unit", {"allow-privileged": None},
         ["  --advertise-address=192.0.2.11 --allow-privileged=true \\"], ["  --advertise-address=192.0.2.11 \\"]),
        ("unit", {"advertise-address": None},
         ["  --advertise-address=192.0.2.11 --allow-privileged=true \\"], ["  --allow-privileged=true \\"]),
        ("unit", {"v": 3}, [], []),
        ("unit", {"v": 2}, ["  --v=2 \\", "  --v=3"], ["  --v=2"]),
        ("unit", {"v": None},
         ["  --oidc-required-claim=aud=cluster --oidc-required-claim=env=a\\x20b \\", "  --v=2 \\", "  --v=3"],
         ["  --oidc-required-claim=aud=cluster --oidc-required-claim=env=a\\x20b"]),
        ("unit", {"enable-aggregator-routing": True},
         ["  --v=3"], ["  --v=3 \\", "  --enable-aggregator-routing=true"]),
        ("unit", {"service-node-port-range": "20000-30000"},
         ["  --service-node-port-range 30000-32767 \\"], ["  --service-node-port-range 20000-30000 \\"]),
        ("unit", {"service-node-port-range": None}, ["  --service-node-port-range 30000-32767 \\"], []),
        ("unit", {"oidc-required-claim": ["aud=cluster", "env=a b"], "anonymous-auth": False}, [], []),
        ("last-comment", {"bind-address": None},
         ["    --profiling=false \\", "    --bind-address=0.0.0.0"], ["    --profiling=false"]),
        ("last-comment", {"v": 2}, ["    --bind-address=0.0.0.0"], ["    --bind-address=0.0.0.0 \\", "    --v=2"]),
        ("env", {"tls-private-key-file": None},
         ["--audit-log-path=/var/log/\\$HOSTNAME.log \\",
          '--tls-private-key-file=/opt/kubernetes/ssl/server-key.pem"'],
         ['--audit-log-path=/var/log/\\$HOSTNAME.log"']),
        ("env", {"bind-address": None}, ["--bind-address=192.0.2.11 \\"], []),
        ("env", {"etcd-servers": None},
         ['KUBE_APISERVER_OPTS="--etcd-servers=https://192.0.2.11:2379 \\'], ['KUBE_APISERVER_OPTS="\\']),
        ("env", {"proxy-client-cert-file": "/a b/$x.pem"},
         ['--tls-private-key-file=/opt/kubernetes/ssl/server-key.pem"'],
         ["--tls-private-key-file=/opt/kubernetes/ssl/server-key.pem \\",
          '\\"--proxy-client-cert-file=/a b/\\$x.pem\\""']),
        ("env", {"v": 4}, ['KUBE_LOG_LEVEL="--v=0"'], ['KUBE_LOG_LEVEL="--v=4"']),
        ("single-quotes", {"profiling": "it's"}, [], ["  \"--profiling=it'\"'\"'s\""]),
        ("single-quotes", {"v": None}, ["  --v=2"], []),
        ("unquoted", {"v": 3},
         ["DAEMON_ARGS=--etcd-servers=http://127.0.0.1:2379 --v=2 \\", "  --bind-address=127.0.0.1   "],
         ['DAEMON_ARGS="--etcd-servers=http://127.0.0.1:2379 --v=3 --bind-address=127.0.0.1"   ']),
        ("environment", {"v": 3, "profiling": None},
         ['Environment="APISERVER_ARGS=--etcd-servers=http://127.0.0.1:2379 --v=2" UNQUOTED=--profiling=false'],
         ['Environment="APISERVER_ARGS=--etcd-servers=http://127.0.0.1:2379 --v=3" UNQUOTED=']),
        ("environment", {"advertise-address": "192.0.2.9"},
         ["ExecStart=/usr/bin/kube-apiserver --advertise-address=${HOST_IP} $APISERVER_ARGS $UNQUOTED $UNDEFINED"],
         ["ExecStart=/usr/bin/kube-apiserver --advertise-address=192.0.2.9 $APISERVER_ARGS $UNQUOTED $UNDEFINED"]),
        ("environment", {"a": "x%y z"},
         ['Environment="APISERVER_ARGS=--etcd-servers=http://127.0.0.1:2379 --v=2" UNQUOTED=--profiling=false'],
         ['Environment="APISERVER_ARGS=--etcd-servers=http://127.0.0.1:2379 --v=2 \\"--a=x%%y z\\"" '
          "UNQUOTED=--profiling=false"]),
        ("kubeadm", {"read-only-port": 0}, [], ["KUBELET_EXTRA_ARGS=--read-only-port=0"]),
        ("kubeadm", {"a": "1", "b": 2}, [], ['KUBELET_EXTRA_ARGS="--a=1 --b=2"']),
        ("kubeadm", {"node-ip": None},
         ['KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix:///var/run/containerd/containerd.sock '
          '--node-ip=192.0.2.21"'],
         ['KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix:///var/run/containerd/containerd.sock"']),
        ("kubespray", {"read-only-port": None}, ["--read-only-port=10255 \\"], []),
        ("kubespray", {"hostname-override": "n"},
         ['KUBELET_HOSTNAME="--hostname-override=node1"'], ['KUBELET_HOSTNAME="--hostname-override=n"']),
        ("kubespray", {"config-dir": "/etc/kubernetes/kubelet.conf.d"},
         [], ["--config-dir=/etc/kubernetes/kubelet.conf.d \\"]),
        ("oneline", {"audit-webhook-batch": True, "v": "2"}, [], []),
    ],
)  # fmt: skip
def test_an_edit_moves_only_its_own_lines(name, wanted, gone, came):
    assert edited(name, wanted) == (gone, came)


def test_a_two_word_flag_on_one_line_and_a_bare_one():
    one = service("oneline")
    one.edit({"v": 5, "audit-webhook-batch": False, "advertise-address": None, "x": 'a "b" \\c'})
    assert one.texts["apiserver-oneline.service"].splitlines()[-1] == (
        'ExecStart=/usr/local/bin/kube-apiserver --etcd-servers "http://127.0.0.1:2379" --audit-webhook-batch=false '
        "--tls-cipher-suites='TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384' "
        '"--service-account-issuer=https://one/%%20" --v 5 "--x=a \\"b\\" \\\\c"'
    )
    assert one.flags[-1].text == 'a "b" \\c'


def random_wanted(rng, names):
    wanted = {}
    for _ in range(rng.randrange(1, 5)):
        name = rng.choice([*names, "new-flag", "other-flag", "third"])
        wanted[name] = rng.choice(
            [None, True, False, 0, 17, "text", "a=b", "a b", "it's", 'say "x"', "back\\slash", "$HOME", "50%", "a;b",
             "#x", ["one", "two"], "", "ünï", "`x`", "{1,2}", "\t"]
        )  # fmt: skip
    return wanted


@pytest.mark.parametrize("name", list(SERVICES))
@pytest.mark.parametrize("seed", range(40))
def test_any_edit_of_a_service_means_what_it_has_to_mean(name, seed):
    rng = random.Random(f"{name} {seed}")
    one = service(name)
    before = dict(one.texts)
    wanted = random_wanted(rng, [flag.name for flag in one.flags])
    others = [(flag.name, flag.text) for flag in one.flags if flag.name not in wanted]
    one.edit(wanted)
    after = SystemdEditor(one.component, one.unit_paths, one.texts)
    assert [(flag.name, flag.text) for flag in after.flags if flag.name not in wanted] == others
    for flag, value in wanted.items():
        found = [one.text for one in after.flags if one.name == flag]
        assert flag_plan.same_values(after.component, flag, found, flag_plan.values_of(after.component, flag, value))
    # Twice is once.
    again = dict(after.texts)
    after.edit(wanted)
    assert after.texts == again
    # A line that goes has one of these flags, or comes back with something behind it.
    for path, text in before.items():
        gone, came = changed_lines(text, again[path])
        # Values whose quotes cannot take the new text are written anew as a whole.
        anew = name in ("unquoted", "environment") or (name == "single-quotes" and "it's" in wanted.values())
        for line in () if anew else gone:
            stem = re.sub(r"""[\s\\"']+$""", "", line)
            assert any(flag in line for flag in wanted) or any(new.startswith(stem) for new in came)


@pytest.mark.parametrize("name", ["env", "single-quotes", "kubespray"])
@pytest.mark.parametrize("seed", range(15))
def test_a_shell_reads_environment_files_the_same_way(name, seed):
    """Quoted values of environment files are also shell syntax: an outside judge of the quoting."""
    one = service(name)
    wanted = random_wanted(random.Random(f"{name} {seed}"), [flag.name for flag in one.flags])
    one.edit(wanted)
    for path in one.environment_paths:
        lexer = shlex.shlex(one.texts[path].replace("\\\n", ""), posix=True, punctuation_chars="")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        for token in list(lexer):
            variable, equals, value = token.partition("=")
            region = one.variables.get(variable)
            if equals and region and "\\`" not in one.texts[path] and "\\$" not in one.texts[path]:
                assert value.split() == region.assignment.text.split()


def test_new_flags_go_behind_a_separator_comment_and_before_other_words():
    one = from_text("[Service]\nExecStart=/bin/kube-apiserver \\\n  --a=1 \\\n# c \\\n  --b=2 \\\n  $X\nRestart=no\n")
    one.edit({"c": 3})
    assert one.texts["x.service"] == (
        "[Service]\nExecStart=/bin/kube-apiserver \\\n  --a=1 \\\n# c \\\n  --b=2 \\\n  --c=3 \\\n  $X\nRestart=no\n"
    )


@pytest.mark.parametrize("command", ["/bin/kube-apiserver", "-/bin/kube-apiserver", "@/bin/kube-apiserver api"])
def test_a_command_without_flags(command):
    one = from_text(f"[Service]\nExecStart={command}\n")
    one.edit({"v": 2})
    assert one.texts["x.service"] == f"[Service]\nExecStart={command} --v=2\n"
    one.edit({"v": None})
    assert one.texts["x.service"] == f"[Service]\nExecStart={command}\n"


def test_expansion_can_be_off():
    one = from_text("[Service]\nExecStart=:/bin/kube-apiserver --a=$$x\n")
    one.edit({"b": "$y"})
    assert one.texts["x.service"].endswith("--a=$$x --b=$y\n")


def test_a_drop_in_that_replaces_the_command_is_the_one_that_is_edited():
    texts = {
        "x.service": "[Service]\nExecStart=/bin/kube-apiserver --v=1\n",
        "x.service.d/10.conf": "[Service]\nExecStart=\nExecStart=/bin/kube-apiserver --v=2\n",
    }
    one = SystemdEditor("kube-apiserver", list(texts), texts)
    one.edit({"v": 3})
    assert one.texts["x.service"] == texts["x.service"]
    assert one.texts["x.service.d/10.conf"].endswith("--v=3\n")


def test_the_last_definition_of_a_variable_is_the_one_that_is_edited():
    one = from_text(
        "[Service]\nEnvironment=A=--v=1\nEnvironmentFile=/a\nEnvironmentFile=-/b*\nExecStart=/bin/kube-apiserver $A\n"
    )
    assert one.words == ["--v=1"]
    texts = {**one.texts, "/a": "A=--v=2\nA=--v=3\n", "/b1": "A=--v=4\n", "/b2": "B=1\n"}
    one = SystemdEditor("kube-apiserver", ["x.service"], texts, patterns={"/b*": ["/b1", "/b2"]})
    one.edit({"v": 5})
    assert one.texts == {**texts, "/b1": "A=--v=5\n"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Unit]\nDescription=x\n", "no ExecStart"),
        ("[Service]\nExecStart=\n", "no ExecStart"),
        ("", "no ExecStart"),
        ("ExecStart=/bin/kube-apiserver\n", "no ExecStart"),
        ("[Service]\nExecStart=/a --x=1\nExecStart=/b\n", "2 times ExecStart"),
        ("[Service]\nExecStart=-\n", "without a program"),
        ("[Service]\nExecStart=/bin/sh -c 'exec kube-apiserver --v=2'\n", "through /bin/sh"),
        ("[Service]\nExecStart=/opt/kube/start.sh --v=2\n", "through /opt/kube/start.sh"),
        ('[Service]\nExecStart=/bin/kube-apiserver "--v=2\n', "in line 2 a quote is opened"),
        ("[Service]\nExecStart=/bin/kube-apiserver \\ \n  --v=2\n", "line 2 has white space"),
        ("[Service]\nEnvironmentFile=/etc/%H.env\nExecStart=/bin/kube-apiserver\n", "specifier"),
    ],
)
def test_what_cannot_be_edited_is_refused_in_one_sentence(text, words):
    with pytest.raises(DefinitionError) as error:
        from_text(text)
    message = str(error.value)
    assert words in message and "x.service" in message and "\n" not in message


def test_an_open_quote_in_an_environment_file_is_named():
    with pytest.raises(DefinitionError, match="/e cannot be read: the quote opened in line 2"):
        from_text("[Service]\nEnvironmentFile=/e\nExecStart=/bin/kube-apiserver $A\n", **{"/e": '\nA="x\n'})


@pytest.mark.parametrize("kind", ["unit", "file"])
def test_a_variable_that_the_command_does_not_name_may_hold_anything(kind):
    if kind == "file":
        others = {"/e": "MOTD=it's mine\nTEXT='a \" b'\nA=--v=2\n"}
        service = from_text("[Service]\nEnvironmentFile=/e\nExecStart=/bin/kube-apiserver $A ${TEXT}\n", **others)
        service.edit({"v": 4})
        assert service.texts["/e"] == others["/e"].replace("--v=2", "--v=4")
    else:
        text = '[Service]\nEnvironment="MOTD=it\'s mine" "A=--v=2"\nExecStart=/bin/kube-apiserver $A\n'
        service = from_text(text)
        service.edit({"v": 4})
        assert service.texts[service.unit_paths[0]] == text.replace("--v=2", "--v=4")
    with pytest.raises(DefinitionError, match="/e cannot be read: in line 1 a quote is opened"):
        from_text("[Service]\nEnvironmentFile=/e\nExecStart=/bin/kube-apiserver $A\n", **{"/e": "A=it's\n"})


def test_a_byte_order_mark_is_no_part_of_a_unit():
    unit, drop_in = "/k.service", "/k.service.d/20.conf"
    texts = {
        unit: "\ufeff[Service]\nExecStart=/usr/bin/kubelet --v=2\n",
        drop_in: "\ufeff[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --v=2 --read-only-port=10255\n",
    }
    service = SystemdEditor("kubelet", [unit], texts)
    service.edit({"v": 4})
    assert service.texts[unit] == texts[unit].replace("--v=2", "--v=4")
    service = SystemdEditor("kubelet", [unit, drop_in], texts)
    assert service.words == ["--v=2", "--read-only-port=10255"]
    service.edit({"v": 4})
    assert service.texts == {**texts, drop_in: texts[drop_in].replace("--v=2", "--v=4")}


# --- static pods ----------------------------------------------------------------------------------------------------


def edited_pod(name, wanted):
    one = pod(name)
    one.edit(wanted)
    return changed_lines(read(name), one.text)


@pytest.mark.parametrize(
    ("name", "wanted", "gone", "came"),
    [
        ("pod-kubeadm.yaml", {"enable-aggregator-routing": True},
         [], ["    - --enable-aggregator-routing=true"]),
        ("pod-kubeadm.yaml", {"v": 4}, [], []),
        ("pod-kubeadm.yaml", {"allow-privileged": None}, ["    - --allow-privileged=true"], []),
        ("pod-kubeadm.yaml", {"requestheader-allowed-names": ["a", "b: c"]},
         ["    - --requestheader-allowed-names=front-proxy-client"], ["    - '--requestheader-allowed-names=a,b: c'"]),
        ("pod-kubeadm.yaml", {"service-account-issuer": ["https://old.example"]},
         ["    - --service-account-issuer=https://kubernetes.default.svc.cluster.local"], []),
        ("pod-args.yaml", {"audit-policy-file": None},
         ['            - "--audit-policy-file"', '            - "/etc/kubernetes/audit.yaml"'], []),
        ("pod-args.yaml", {"audit-policy-file": "/x"},
         ['            - "/etc/kubernetes/audit.yaml"'], ['            - "/x"']),
        ("pod-args.yaml", {"profiling": False, "logtostderr": "true"},
         ['            - "--profiling"'], ['            - "--profiling=false"']),
        ("pod-args.yaml", {"v": 2}, [], ['            - "--v=2"']),
        ("pod-flow.json", {"v": 4, "allow-privileged": None, "x": "y"},
         ['        "command": ["kube-apiserver", "--v=2", "--allow-privileged=true"]'],
         ['        "command": ["kube-apiserver", "--v=4", "--x=y"]']),
        ("pod-hyperkube.yaml", {"target-ram-mb": None, "v": 2}, ["    - --target-ram-mb=0"], ["    - --v=2"]),
    ],
)  # fmt: skip
def test_an_edit_of_a_manifest_moves_only_its_own_lines(name, wanted, gone, came):
    assert edited_pod(name, wanted) == (gone, came)


@pytest.mark.parametrize("name", PODS)
@pytest.mark.parametrize("seed", range(25))
def test_any_edit_of_a_manifest_means_what_it_has_to_mean(name, seed):
    rng = random.Random(f"{name} {seed}")
    one = pod(name)
    wanted = random_wanted(rng, [flag.name for flag in one.flags])
    others = [(flag.name, flag.text) for flag in one.flags if flag.name not in wanted]
    rest = yaml.safe_load(one.text)
    one.edit(wanted)
    after = StaticPodEditor("kube-apiserver", name, one.text)
    assert [(flag.name, flag.text) for flag in after.flags if flag.name not in wanted] == others
    for flag, value in wanted.items():
        found = [one.text for one in after.flags if one.name == flag]
        assert flag_plan.same_values(after.component, flag, found, flag_plan.values_of(after.component, flag, value))
    text = after.text
    after.edit(wanted)
    assert after.text == text
    result = yaml.safe_load(text)
    for data in (rest, result):
        for container in data["spec"]["containers"]:
            if container["name"] != "sidecar":
                container.pop("command", None)
                container.pop("args", None)
    assert rest == result


def test_files_are_found_through_the_mounts():
    one = pod("pod-kubeadm.yaml")
    assert one.host_path("/etc/kubernetes/pki/front-proxy-ca.crt") == "/etc/kubernetes/ssl/front-proxy-ca.crt"
    assert one.host_path("/etc/kubernetes/pki") == "/etc/kubernetes/ssl"
    assert one.host_path("/etc/kubernetes/pki2/x") is None
    assert one.image_version == "1.33.2"
    assert pod("pod-args.yaml").host_path("/etc/kubernetes/x") is None


@pytest.mark.parametrize("name", PODS)
def test_a_directory_can_be_mounted(name):
    one = pod(name)
    volume = one.add_mount("/srv/kube/Front_Proxy")
    assert one.host_path("/srv/kube/Front_Proxy/ca.crt") == "/srv/kube/Front_Proxy/ca.crt"
    spec = yaml.safe_load(one.text)["spec"]
    assert {"name": volume, "hostPath": {"path": "/srv/kube/Front_Proxy", "type": "Directory"}} in spec["volumes"]
    assert len(volume) <= 63


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("kind: Deployment\n", "not the manifest of a pod"),
        ("", "not the manifest of a pod"),
        ("kind: Pod\nspec: {}\n", "no containers"),
        ("kind: Pod\nspec: {containers: [x]}\n", "no containers"),
        ("kind: Pod\nspec:\n  containers:\n  - {name: a}\n  - {name: b}\n", "2 containers and none"),
        ("kind: Pod\nspec: {containers: [{name: a, command: kube-apiserver}]}\n", "not a list of strings"),
        ("kind: Pod\nspec: {containers: [{name: a, command: [kube-apiserver, 1]}]}\n", "not a list of strings"),
        ("kind: Pod\nspec: {containers: [{name: a, command: [/bin/sh, -c, 'kube-apiserver --v=2']}]}\n", "/bin/sh"),
    ],
)
def test_manifests_that_cannot_be_edited_are_refused(text, words):
    with pytest.raises(DefinitionError) as error:
        StaticPodEditor("kube-apiserver", "/m/kube-apiserver.yaml", text)
    message = str(error.value)
    assert words in message and "/m/kube-apiserver.yaml" in message and "\n" not in message


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("client-ca-file", True),
        ("etcd_cafile", True),
        ("kubeconfig", True),
        ("cert-dir", True),
        ("kubelet-certificate-authority", True),
        ("etcd-prefix", False),
        ("profiling", False),
        ("service-account-issuer", False),
    ],
)
def test_flags_that_name_files(name, answer):
    assert is_file_flag(name) is answer


@pytest.mark.parametrize(
    ("command", "flags", "line"),
    [
        (["/go-runner", "--log-file=/x.log", "--v=9", "/usr/local/bin/kube-apiserver", "--v=1"], ["1"], "--v=4"),
        (["nice", "-n", "-5", "kube-apiserver", "--v", "1"], ["1"], "4"),
        (["env", "A=b", "kube-apiserver"], [], "--v=4"),
    ],
)
def test_flags_in_front_of_the_component_belong_to_somebody_else(command, flags, line):
    text = yaml.safe_dump({"kind": "Pod", "spec": {"containers": [{"name": "kube-apiserver", "command": command}]}})
    one = StaticPodEditor("kube-apiserver", "x.yaml", text)
    assert [flag.text for flag in one.flags] == flags
    one.edit({"v": 4})
    edited = yaml.safe_load(one.text)["spec"]["containers"][0]["command"]
    assert edited[: len(command) - len(flags) * 1] == command[: len(command) - len(flags) * 1] and edited[-1] == line
    unit = from_text(f"[Service]\nExecStart={' '.join(command)}\n")
    assert [flag.text for flag in unit.flags] == flags
    unit.edit({"v": 4})
    assert unit.texts["x.service"] == f"[Service]\nExecStart={' '.join(edited)}\n"


def test_a_static_pod_of_another_program_is_not_edited():
    text = yaml.safe_dump(
        {"kind": "Pod", "spec": {"containers": [{"name": "kube-apiserver", "command": ["/wrapper"]}]}}
    )
    with pytest.raises(DefinitionError, match="does not start kube-apiserver but /wrapper"):
        StaticPodEditor("kube-apiserver", "x.yaml", text)


def test_the_short_flag_of_verbosity_has_no_name_to_keep():
    pod = "kind: Pod\nspec:\n  containers:\n  - name: kube-apiserver\n    command:\n    - kube-apiserver\n    - -v2\n"
    editor = StaticPodEditor("kube-apiserver", "/pod.yaml", pod)
    editor.edit({"v": 4})
    assert editor.text == pod.replace("-v2", "--v=4")
    service = SystemdEditor(
        "kubelet", ["/k.service"], {"/k.service": "[Service]\nExecStart=/usr/bin/kubelet -v2 --a=b\n"}
    )
    service.edit({"v": 4})
    assert service.texts["/k.service"] == "[Service]\nExecStart=/usr/bin/kubelet --v=4 --a=b\n"


def test_a_variable_that_is_there_several_times_is_no_traceback():
    texts = {"/k.service": '[Service]\nEnvironment="A=--v=1 --z"\nExecStart=/usr/bin/kubelet ${A} ${A} $A --v $A\n'}
    with pytest.raises(DefinitionError, match="cannot be changed"):
        SystemdEditor("kubelet", ["/k.service"], texts).edit({"v": None})


POD = "kind: Pod\nspec:\n  containers:\n  - name: kube-apiserver\n    command:\n    - kube-apiserver\n%s    image: x\n"


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        ("    - --\n", {"v": 4}),
        ("    - --\n    - --profiling=true\n", {"v": 4}),
        ("    - --secure-port=6443\n    - --advertise-address\n", {"v": 4}),
    ],
)
def test_a_new_flag_that_would_be_none_is_refused_and_does_not_loop(items, wanted):
    with pytest.raises(DefinitionError) as error:
        StaticPodEditor("kube-apiserver", "/pod.yaml", POD % items).edit(wanted)
    assert str(error.value) == (
        "/pod.yaml is written in a way that cannot be changed without touching other parts of it; make the change by "
        "hand."
    )


def test_words_behind_the_end_of_flags_stay():
    text = POD % "    - --v=2\n    - --\n    - --v=1\n"
    editor = StaticPodEditor("kube-apiserver", "/pod.yaml", text)
    editor.edit({"v": 4, "profiling": False})
    assert editor.text == text.replace("--v=2", "--v=4\n    - --profiling=false")


@pytest.mark.parametrize("behind", ["", "    - --v=2\n"])
def test_a_comment_between_a_dash_and_its_flag_goes_with_it(behind):
    text = POD % ("    - --secure-port=6443\n%s" + behind)
    item = "    - # not-for-us - # really\n      # - never\n      --profiling=false\n"
    editor = StaticPodEditor("kube-apiserver", "/pod.yaml", text % item)
    editor.edit({"profiling": None})
    assert editor.text == text % ""
    editor = StaticPodEditor("kube-apiserver", "/pod.yaml", text % item)
    editor.edit({"profiling": True})
    assert editor.text == text % item.replace("false", "true")
