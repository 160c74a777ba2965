# SPDX-License-Identifier: GPL-3.0-or-later
"""What is shown of command lines and definitions holds no secret, and everything else."""

from __future__ import annotations

import json

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import masking
from hypothesis import given
from hypothesis import strategies as st

# Deliberately no word of anything that is kept.
SECRET = "s3cr3t-Zz9"


def masked(text):
    shown = masking.mask_text(text)
    assert shown.count("\n") == text.count("\n")
    return shown


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        # systemd units and environment files
        ('Environment="KUBE_MASTER=x" "KUBE_TOKEN=abc.§"', ["KUBE_MASTER=x", "KUBE_TOKEN="]),
        ("Environment=KUBE_MASTER=x KUBE_TOKEN=§ OTHER=y", ["KUBE_MASTER=x", "KUBE_TOKEN=", "OTHER=y"]),
        ("Environment='KUBE_TOKEN=a §' \"B=c\"", ["KUBE_TOKEN=", "B=c"]),
        ("Environment=A=b \\\n  DB_PASSWORD=§ \\\n  C=d", ["A=b", "C=d"]),
        ("ExecStart=/usr/bin/kubelet --bootstrap-token=§ --v=2", ["--bootstrap-token=", "--v=2"]),
        ('ExecStart=/usr/bin/kubelet --token="a\\"§" --v=2', ["--token=", "--v=2"]),
        ("Environment=HTTPS_PROXY=user:§@proxy:3128 A=b", ["proxy:3128", "A=b"]),
        ("Environment=API_KEY=§ A=b", ["API_KEY=", "A=b"]),
        ("ExecStart=/usr/bin/kubelet \\\n  --token § \\\n  --v=2", ["--token", "--v=2"]),
        ("ExecStart=/usr/bin/kubelet --token \\\n  § --v=2", ["--token", "--v=2"]),
        ('ExecStart=/usr/bin/kubelet --v --token="a §" --x', ["--v", "--x"]),
        ('KUBE_ARGS="--v=2 --token=§ --kubeconfig=/x"', ["--v=2", "--kubeconfig=/x"]),
        ('KUBE_ARGS="--v=2 --token=\\"a §\\" --kubeconfig=/x"', ["--v=2", "--kubeconfig=/x"]),
        ("KUBE_ARGS='--manifest_url_header=Authorization:Bearer,§ --v=2'", ["--v=2"]),
        ("DB_PASSWORD=a b §\nNEXT=x", ["DB_PASSWORD=", "NEXT=x"]),
        ('DB_PASSWORD="a\n§"\nNEXT=x', ["NEXT=x"]),
        ("export AWS_SECRET_ACCESS_KEY=§\nAWS_REGION=eu", ["AWS_REGION=eu"]),
        ("--etcd-servers=https://user:§@192.0.2.11:2379,https://me:§@192.0.2.12:2379", ["192.0.2.11:2379,https://"]),
        ("HTTPS_PROXY=http://me:§@proxy:3128", ["http://", "proxy:3128"]),
        ("[Service]\nEnvironment=ETCD_PASSWORD=§\nUser=x", ["Environment=ETCD_PASSWORD=", "User=x"]),
        ("[Service]\nEnvironment=ETCD_PASSWORD='§ x'\nUser=x", ["Environment=ETCD_PASSWORD=", "User=x"]),
        ('[Service]\nEnvironment=ETCD_PASSWORD="§ x" B=2', ["Environment=ETCD_PASSWORD=", "B=2"]),
        ("[Service]\nEnvironment=VAULT_TOKEN=§ 'X_TOKEN=§ z' B=2", ["VAULT_TOKEN=", "X_TOKEN=", "B=2"]),
        ("[Service]\nEnvironment=VAULT_TOKEN='a'\"§\" B=2", ["VAULT_TOKEN=", "B=2"]),
        ("ETCD_PASSWORD='a'\"§\"\nNEXT=x", ["ETCD_PASSWORD=", "NEXT=x"]),
        ("ExecStart=/x '--token=a §' --v=2", ["'--token=", "--v=2"]),
        ('ExecStart=/x "--token=a \\"§" --v=2', ['"--token=', "--v=2"]),
        ("ExecStart=/x --token \\\r\n    § \\\r\n  --v=2\r\n", ["--token", "--v=2"]),
        ("ExecStart=/x --token \\\n# c\n    § \\\n  --v=2\n", ["--token", "--v=2"]),
        # manifests
        ("    - '--token=a §'\n    - --v=2", ["--token=", "--v=2"]),
        ("    - --token=a §\n    - --v=2", ["--token=", "--v=2"]),
        ("    - --token=a\n      §\n    - --v=2", ["--token=", "--v=2"]),
        ("    - |-\n      --token=a §\n    - --v=2", ["--token=", "--v=2"]),
        ("    - --token\n    # c\n    - a §\n    - --v=2", ["--token", "--v=2"]),
        ("    - --token\r\n    - §\r\n    - --v=2", ["--token", "--v=2"]),
        ("    - --v\n    - --token\n    - §\n    - --v=2", ["--token", "--v=2"]),
        ("    env:\n    - name: X\n      value:\n        §\n    image: y", ["image: y"]),
        ("    env:\n    - name: X\n      value: # c\n        §\n    image: y", ["image: y"]),
        ("    env:\n    - name: X\n      value: a\n        §\n    image: y", ["image: y"]),
        ("    env:\n    - name: X\n      value: 'a\n\n        §'\n    image: y", ["image: y"]),
        ('    env:\n    - name: X\n      value: "a\n        §"\n    image: y', ["image: y"]),
        ("    env:\n    - name: X\n      value: '§' # c\n    image: y", ["image: y", "# c"]),
        ("    env:\n    - name: X\n      value: |- # c\n        §\n    image: y", ["image: y"]),
        ("    env:\n    - name: X\n      value: !!str >-\n        §\n    image: y", ["image: y"]),
        ("    env:\n    - value: >-\n        §\n      name: X\n    image: y", ["name: X", "image: y"]),
        ("    env:\n    - {name: X, value: 'a\n       §'}\n    - {name: Y, value: b}\n    image: y", ["image: y"]),
        ("    env: [{name: X, value: a\n       §}]\n    image: y", ["image: y"]),
        ("ExecStart=/bin/sh -c 'exec /x --password § --v=2'", ["--password", "--v=2"]),
        ("--api-key=§ --datadog-app-key § --etcd-s3-secret-key=§ --access-key=§ --v=2", ["--api-key=", "--v=2"]),
        ("--auth=basic:§ --basic-auth me:§ --v=2", ["--auth=", "--v=2"]),
        ("ExecStart=/usr/bin/curl -s -u admin:§ https://x --v", ["curl -s -u", "https://x --v"]),
        ("--datastore-endpoint=mysql://u:a/§@tcp(10.0.0.1:3306)/k3s", ["mysql://", "tcp(10.0.0.1:3306)/k3s"]),
        ("--url=postgres://u:a/§@db:5432/k3s", ["postgres://", "db:5432/k3s"]),
        ("--url=https://me:a@§@proxy:3128/", ["proxy:3128/"]),
        ("apiKey: §\nport: 1", ["port: 1"]),
        ("    - --token=§\n    - --v=2", ["--token=", "--v=2"]),
        ("    - --token\n    - §\n    - --v=2", ["--token", "--v=2"]),
        ('command: ["kubelet", "--token", "§", "--v=2"]', ['"--token", ', "--v=2"]),
        ("command: [kubelet, --token=§, --v=2]", ["--v=2"]),
        ("env: [{name: DB_PASSWORD, value: §}, {name: X, value: 'a, §'}]\nimage: y", ["DB_PASSWORD", "image: y"]),
        ('{"env": [{"name": "X", "value": "§"}], "image": "y"}', ['"image": "y"']),
        ("  - env:\n    - name: X\n      value: §\n    image: y\n    x:\n    - value: z", ["image: y", "value: z"]),
        ("    env:\n    - name: X\n      value: |\n        §\n        §\n      # c\n    image: y", ["image: y"]),
        ("    env:\n      - value: § # why\n        name: X\n    image: y", ["name: X", "image: y"]),
        ("    env:\n      - {name: X, value: §}\n      - {name: Y, value: '§ z'}\n    image: y", ["name: X"]),
        # kubeadm and kubelet configurations
        ("bootstrapTokens:\n- token: abcdef.0123456789§\n  ttl: 24h", ["ttl: 24h"]),
        ("token: §", ["token: "]),
        ("certificateKey: §\nclusterName: x", ["clusterName: x"]),
        ("discovery: {bootstrapToken: {token: §, apiServerEndpoint: x}}", ["apiServerEndpoint: x"]),
        ('{"token": "a\\"§", "x": 1}', ['"x": 1']),
        ("extraArgs:\n- name: token\n  value: §\n- name: v\n  value: \"2\"", ['value: "2"']),
        ("extraEnvs:\n- name: DB_PASSWORD\n  value: §\nextraArgs:\n- name: v\n  value: '2'", ["value: '2'"]),
        ("extraEnvs: [{name: X, value: §}]\nextraArgs: [{name: v, value: '2'}]", ["value: '2'"]),
        ("extraArgs:\n- value: §\n  name: token\n- value: '2'\n  name: v", ["value: '2'"]),
        ("extraArgs:\n  - value: |\n      §\n    # c\n    name: token\n  - name: v\n    value: '2'", ["value: '2'"]),
        ("extraArgs:\n- {value: §, name: token}\n- {name: v, value: '2'}", ["value: '2'"]),
        ('"extraArgs": [{"name": "token",\n"value": "§"}, {"name": "v", "value": "2"}]', ['"value": "2"']),
        ("token:\n  §\nttl: 24h", ["ttl: 24h"]),
        ("password: |\n  a: §\nttl: 24h", ["ttl: 24h"]),
        ('password: "a\n  §"\nttl: 24h', ["ttl: 24h"]),
        ("staticPodURLHeader:\n  Authorization: [§]\nport: 1", ["port: 1"]),
        ("Authorization: Bearer §", ["Authorization: Bearer"]),
        ("a:\n-----BEGIN EC PRIVATE KEY-----\n§\n-----END EC PRIVATE KEY-----\nb", ["a:", "b"]),
    ],
)  # fmt: skip
def test_what_is_behind_the_marker_is_masked(text, kept):
    shown = masked(text.replace("§", SECRET))
    assert SECRET not in shown and masking.MASK in shown
    for part in kept:
        assert part in shown


def test_tokens_of_their_own_form_are_masked_wherever_they_stand():
    for secret in ("abcdef.0123456789abcdef", "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrIn0.c2ln"):
        assert masked(f"# joined with {secret}, in March\nx: 1") == "# joined with ********, in March\nx: 1"


@pytest.mark.parametrize(
    "text",
    [
        "--token-auth-file=/etc/tokens.csv --service-account-key-file=/a --enable-bootstrap-token-auth=true",
        "--authentication-token-webhook-cache-ttl=2m --authentication-token-webhook",
        "PrivateTmp=true\nPassEnvironment=A B\nLoadCredential=x:/y\nKUBE_TOKEN_FILE=/x",
        "automountServiceAccountToken: false\nimagePullSecrets:\n- name: x\nsecret:\n  secretName: y\n",
        "volumes:\n- secret:\n    secretName: y\n  name: x\n",
        "volumes:\n- secret:\n    # c\n    secretName: y\n  name: x\n",
        "extraArgs:\n- value: '2'\n  name: v\n- value: x\n- name: token\n",
        "[Service]\nEnvironment=A=1 KUBE_TOKEN_FILE=/x\nExecStart=/x '--v=a b'\n",
        "env:\n- name: X\n  valueFrom:\n    secretKeyRef: {name: a, key: b}",
        "extraArgs:\n- name: authorization-mode\n  value: Node,RBAC\n",
        "image: registry.example/pause:3.10\nhost: etcd.example.com\n",
        'command: ["kube-apiserver", "--v=2", "--x=y"]',
        "--tls-private-key-file=/a --etcd-keyfile=/b --kubelet-client-key=/c --service-account-signing-key-file=/d",
        "--client-cert-auth=true --enable-bootstrap-token-auth=true --anonymous-auth=false",
        "https://registry.example:5000/a/b@sha256:0123 https://[fd00::1]:6443/a@b",
        "--feature-gates=A=true, KubeletServiceAccountTokenForCredentialProviders=true",
        "docker run --user 1000:1000 -u 0:0 x",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert masked(text) == text


@given(st.text(alphabet=st.sampled_from("ab=\"'\\ \n-:[]{},#"), max_size=60), st.text("xyz", min_size=6, max_size=9))
def test_whatever_stands_around_it(noise, secret):
    text = f'{noise}\nKUBE_ARGS="--v=2 --token={secret}"\nToken: 1'
    shown = masking.mask_text(text)
    assert secret not in shown or secret in noise
    assert shown.count("\n") == text.count("\n")


def test_flags_by_name():
    flags = {
        "token": "x",
        "token-auth-file": "/t",
        "etcd-servers": ["https://a:b@c:1"],
        "v": "2",
        "bootstrap-token": None,
    }
    assert masking.mask_flags(flags) == {
        "token": masking.MASK,
        "token-auth-file": "/t",
        "etcd-servers": ["https://c:1"],
        "v": "2",
        "bootstrap-token": None,
    }


@pytest.mark.parametrize("value", ["a b", f"x --token={SECRET}", f"https://a:{SECRET}@b c", "A=true, ATokenB=true"])
def test_a_flag_is_shown_as_in_the_command_line(value):
    shown = masking.mask_flag("some-flag", value)
    assert SECRET not in shown
    assert masking.mask_argv([f"--some-flag={value}"]) == [f"--some-flag={shown}"]


def test_a_manifest_in_any_style():
    container = {"env": [{"name": "A", "value": SECRET}], "command": ["x", "--token", SECRET, f"--password={SECRET}"]}
    pod = {"spec": {"containers": [container], "volumes": []}}
    for text in (yaml.safe_dump(pod), yaml.safe_dump(pod, default_flow_style=True), json.dumps(pod, indent=1)):
        shown = masked(text)
        assert SECRET not in shown and "volumes" in shown and "--password=" in shown


def test_a_command_in_one_word_is_masked_as_a_text():
    shown = masking.mask_argv(["sh", "-c", f"exec /x --v=2 --password {SECRET} --api-key={SECRET}", "--v=2"])
    assert shown == ["sh", "-c", "exec /x --v=2 --password ******** --api-key=********", "--v=2"]


@pytest.mark.parametrize(
    "name",
    ["api-key", "apikey", "datadog-app-key", "etcd-s3-secret-key", "access-key", "auth", "basic-auth", "api_key"],
)
def test_more_names_of_secrets(name):
    assert masking.is_secret_flag(name)
    assert masking.mask_argv([f"--{name}={SECRET}", f"--{name}", SECRET]) == [
        f"--{name}=********",
        f"--{name}",
        "********",
    ]


@pytest.mark.parametrize(
    "name",
    ["tls-private-key-file", "kubelet-client-key", "encryption-provider-config", "anonymous-auth", "etcd-keyfile"],
)
def test_names_of_files_are_no_secrets(name):
    assert not masking.is_secret_flag(name)


def test_a_login_of_curl_leaves_the_command_line():
    assert masking.mask_argv(["curl", "-u", f"admin:{SECRET}", "https://x"])[2] == masking.MASK
    assert masking.mask_argv(["install", "-u", "0:0"]) == ["install", "-u", "0:0"]


def test_secrets_leave_the_command_line():
    argv = ["kubelet", "--manifest-url-header=A:Bearer x", "--token", "y", "--proxy=http://me:pw@p:3128/", "--token="]
    assert masking.mask_argv(argv) == [
        "kubelet",
        "--manifest-url-header=********",
        "--token",
        "********",
        "--proxy=http://p:3128/",
        "--token=",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://me:pw@proxy:3128", "http://proxy:3128"),
        ("me:pw@proxy:3128", "proxy:3128"),
        ("http://proxy:3128/a@b", "http://proxy:3128/a@b"),
        ("", ""),
    ],
)
def test_strip_userinfo(value, expected):
    assert masking.strip_userinfo(value) == expected


BLOCK = """\
kind: KubeletConfiguration
staticPodURL: http://x
staticPodURLHeader:
  Authorization:
  - "Bearer one"
  - |
    Bearer two
    more
  X-Plain: [three,
    four]
staticPodPath: /m
"""


def test_headers_of_the_static_pod_url_are_masked():
    masked = masking.mask_kubelet_config(BLOCK)
    assert not any(secret in masked for secret in ("one", "two", "three", "four", "more"))
    config = yaml.safe_load(masked)
    assert set(config["staticPodURLHeader"]) == {"Authorization", "X-Plain"}
    assert config["staticPodPath"] == "/m"


@pytest.mark.parametrize(
    "text",
    [
        'staticPodURLHeader: {Authorization: ["Bearer }one"]}\nstaticPodPath: /m\n',
        '{"staticPodURLHeader": {"Authorization": ["Bearer \\"one"]}, "staticPodPath": "/m"}',
        "staticPodURLHeader: {\n  Authorization: [one]\n}\nstaticPodPath: /m\n",
    ],
)
def test_headers_in_flow_style_are_masked(text):
    masked = masking.mask_kubelet_config(text)
    assert "one" not in masked
    assert yaml.safe_load(masked)["staticPodPath"] == "/m"


def test_a_configuration_without_headers_stays_as_it_is():
    for text in ("", "kind: X\n", "staticPodURLHeader: null\nport: 1\n", "staticPodURLHeader:\nport: 1\n"):
        assert masking.mask_kubelet_config(text) == text
