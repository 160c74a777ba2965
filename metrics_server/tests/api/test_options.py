# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_server.approver import options as approver_options
from metrics_server.flags import FlagError, flags_of, format_duration, parse_duration
from metrics_server.nanny import options as nanny_options
from metrics_server.options import FLAGS, Options, parse_options

#: The arguments of upstream's own manifest, and of the collection's.
MANIFEST = [
    "--cert-dir=/tmp",
    "--secure-port=10250",
    "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
    "--kubelet-use-node-status-port",
    "--metric-resolution=15s",
]


def test_the_manifest() -> None:
    options = parse_options([*MANIFEST, "--self-managed-certificate", "--service-namespace=kube-system"])
    assert options.secure_port == 10250
    assert options.metric_resolution == 15.0
    assert options.kubelet_use_node_status_port is True
    assert options.kubelet_preferred_address_types == ("InternalIP", "ExternalIP", "Hostname")
    assert options.apiservice == ("v1beta1.metrics.k8s.io",)
    assert options.warnings == ()


def test_the_defaults_are_upstreams() -> None:
    options = parse_options([])
    assert (options.metric_resolution, options.kubelet_request_timeout, options.kubelet_port) == (60.0, 10.0, 10250)
    assert (options.secure_port, options.bind_address, options.max_requests_inflight) == (443, "0.0.0.0", 400)
    assert options.authorization_always_allow_paths == ("/healthz", "/readyz", "/livez")
    assert options.kubelet_preferred_address_types == (
        "Hostname",
        "InternalDNS",
        "InternalIP",
        "ExternalDNS",
        "ExternalIP",
    )
    assert options.requestheader_username_headers == ("x-remote-user",)


def test_syntax() -> None:
    options = parse_options(
        [
            "--metric-resolution",
            "1m30s",
            "-v4",
            "-l",
            "a=b,c!=d",
            "--kubelet-insecure-tls=false",
            "--profiling=f",
            "--apiservice=a",
            "--apiservice=b,c",
            "--requestheader-allowed-names=",
            "--",
        ]
    )
    assert (options.metric_resolution, options.v, options.node_selector) == (90.0, 4, "a=b,c!=d")
    assert (options.kubelet_insecure_tls, options.profiling) == (False, False)
    assert options.apiservice == ("a", "b", "c")
    assert options.requestheader_allowed_names == ()
    assert parse_options(["-v=2"]).v == parse_options(["-v", "2"]).v == parse_options(["--v=2"]).v == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric-resolution=9s"], "metric-resolution should be a time duration at least 10s, but value 9s provided"),
        (
            ["--metric-resolution=11s"],
            "metric-resolution should be larger than kubelet-request-timeout, but metric-resolution value 11s "
            "kubelet-request-timeout value 10s provided",
        ),
        (["--kubelet-request-timeout=0"], "kubelet-request-timeout should be positive"),
        (["--kubelet-client-key=k"], "need both --kubelet-client-key and --kubelet-client-certificate"),
        (
            ["--kubelet-certificate-authority=c", "--kubelet-insecure-tls"],
            "cannot use both --kubelet-certificate-authority and --kubelet-insecure-tls",
        ),
        (
            ["--kubelet-insecure-tls", "--deprecated-kubelet-completely-insecure"],
            "cannot use both --kubelet-insecure-tls and --deprecated-kubelet-completely-insecure",
        ),
        (["--kubelet-preferred-address-types=InternalIp"], 'unknown type "InternalIp"'),
        (["-l", "a b"], '--node-selector "a b" is not a label selector'),
        (["--unknown"], "unknown flag: --unknown (see --help)"),
        (["-x"], "unknown shorthand flag: 'x' in -x (see --help)"),
        (["--kubelet-insecure-tls", "false"], 'unexpected argument "false"'),
        (["run"], 'unexpected argument "run"'),
        (["--", "run"], 'unexpected argument "run"'),
        (["---v"], "bad flag syntax: ---v"),
        (["--secure-port"], "flag needs an argument: --secure-port"),
        (["--secure-port=x"], 'invalid argument "x" for "--secure-port" flag: strconv.ParseInt: parsing "x"'),
        (["--metric-resolution=15"], 'invalid argument "15" for "--metric-resolution" flag: time: missing unit'),
        (["--metric-resolution=abc"], 'time: invalid duration "abc"'),
        (["--profiling=maybe"], 'strconv.ParseBool: parsing "maybe": invalid syntax'),
        (["--bind-address=host"], 'failed to parse IP: "host"'),
        (["--secure-port=0"], "--secure-port 0 would serve nothing"),
        (["--secure-port=65536"], "must be between 1 and 65535"),
        (["--tls-cert-file=x"], "need both --tls-cert-file and --tls-private-key-file"),
        (["--tls-min-version=1.2"], 'unknown tls version "1.2"'),
        (["--tls-cipher-suites=RC4"], "Cipher suite RC4 not supported or doesn't exist"),
        (["--tls-cipher-suites=TLS_RSA_WITH_RC4_128_SHA"], "is broken and not offered"),
        (["--logging-format=xml"], "must be text or json"),
        (["--vmodule=scheduler"], "is not of the form pattern=N"),
        (["--vmodule=a=1", "--logging-format=json"], "Only supported for text log format"),
        (["--audit-log-path=/x"], "--audit-log-path cannot be used: this server writes no audit log"),
        (["--cors-allowed-origins=.*"], "--cors-allowed-origins cannot be used"),
        (["--tls-sni-cert-key=a,b"], "put all names into it"),
        (["--debug-socket-path=/x"], "opens no unprotected socket"),
        (["--authorization-always-allow-paths=/a*b"], "only trailing * allowed"),
        (
            [
                "--source=kubernetes.summary_api:https://kubernetes.default?kubeletHttps=true&kubeletPort=10250&insecure=true"
            ],
            "use --kubelet-port=10250 --kubelet-certificate-authority=FILE",
        ),
        (
            ["--source=kubernetes.summary_api:''?kubeletPort=10255&kubeletHttps=false"],
            "use --kubelet-port=10255 --deprecated-kubelet-completely-insecure instead",
        ),
        (["--source=influxdb:x"], "remove the flag"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse_options(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        (["--goaway-chance=0.01"], "--goaway-chance has no effect: this server speaks HTTP/1.1 only"),
        (["--logtostderr"], "--logtostderr has no effect"),
        (["--kubelet-port=10255"], "--kubelet-port=10255 is the kubelets' old read-only port"),
        (["--kubelet-insecure-tls"], "certificates are not verified"),
        (["--tls-min-version=VersionTLS10"], "versions before TLS 1.2 are broken"),
    ],
)
def test_warnings(arguments: list[str], warning: str) -> None:
    (found,) = parse_options(arguments).warnings
    assert warning in found


def test_exactly_nine_tenths_is_enough() -> None:
    assert parse_options(["--metric-resolution=10s", "--kubelet-request-timeout=9s"]).metric_resolution == 10.0


def test_a_refused_flag_with_its_default_is_fine() -> None:
    assert parse_options(["--audit-log-path=", "--audit-webhook-mode=batch"]).warnings == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("15s", 15),
        ("1m0s", 60),
        ("1.5h", 5400),
        ("300ms", 0.3),
        ("-1m", -60),
        ("1h2m3.5s", 3723.5),
        (".5s", 0.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@given(
    st.lists(
        st.sampled_from(["--v", "-v", "=", "--", "-", "--metric-resolution=1m", "x", "-l", "--profiling", "é", ""])
    )
)
def test_any_command_line_is_understood_or_refused(arguments: list[str]) -> None:
    try:
        parse_options(arguments)
    except FlagError as error:
        assert str(error)


@pytest.mark.parametrize("options", [Options, approver_options.Options, nanny_options.Options])
def test_an_option_has_the_type_of_its_flag(options: type) -> None:
    types = {"bool": bool, "int": int, "float": float, "duration": float, "strings": tuple[str, ...]}
    hints = get_type_hints(options)
    for flag in flags_of(options):
        assert hints[flag.option] == types.get(flag.kind, str), flag.name
        assert isinstance(flag.default, get_origin(hints[flag.option]) or hints[flag.option]), flag.name


def test_every_flag_is_in_the_help() -> None:
    usage = FLAGS.usage(100)
    assert all(f"--{flag.name}" in usage for flag in FLAGS.flags)
    # Only a single word that is longer than its column may stand out.
    assert all(len(line) <= 101 or " " not in line.strip() for line in usage.splitlines())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metrics_server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PATH": ""},
    )


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--metric-resolution=1s"], 2, "metrics-server: metric-resolution should be a time duration at least 10s"),
        ([], 1, "name a kubeconfig file with --kubeconfig"),
        (["--kubeconfig=/nonexistent"], 1, "kubeconfig /nonexistent: cannot be read"),
        (["--version"], 0, "v0."),
        (["--help"], 0, "Metrics server flags:"),
        (["csr-approver", "--allowed-cidrs=x"], 2, 'metrics-server csr-approver: --allowed-cidrs: "x" is no CIDR'),
        (["csr-approver"], 1, "name a kubeconfig file with --kubeconfig"),
        (["csr-approver", "--help"], 0, "Approver flags:"),
        (["nanny"], 2, "metrics-server nanny: --deployment is needed"),
        (["nanny", "--version"], 0, "v0."),
        (["--kubeconfig=/nonexistent", "nanny"], 2, 'unexpected argument "nanny"'),
    ],
)
def test_the_program_says_one_sentence(arguments: list[str], code: int, text: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert len(done.stderr.strip().splitlines()) == 1


def test_logging_is_left_alone_by_parsing() -> None:
    before = logging.getLogger().handlers[:]
    parse_options(["-v=9"])
    assert logging.getLogger().handlers == before


def test_the_guide_lists_every_flag_with_its_default() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "server-flags.md").read_text()
    for flag in FLAGS.flags:
        assert f"--{flag.name}`" in guide or f"`-{flag.name}`" in guide, flag.name
        if flag.status == "used" and flag.kind == "duration":
            assert f"| `{format_duration(flag.default)}` | {flag.help} |" in guide


def test_the_guide_lists_the_flags_of_the_other_programs() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "server-flags.md").read_text()
    for flags in (approver_options.FLAGS, nanny_options.FLAGS):
        for flag in flags.flags:
            assert f"--{flag.name}" in guide or flag.group == "Retired" or flag.shorthand, flag.name
    for flag in approver_options.FLAGS.flags:
        assert flag.group != "Approver" or f"| {flag.help} |" in guide, flag.name
