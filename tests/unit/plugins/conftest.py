# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Certificates, an API server that answers what a test says, and a way to run a module as Ansible does."""

from __future__ import annotations

import base64
import contextlib
import datetime
import gc
import http.server
import ipaddress
import json
import ssl
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import yaml
from ansible.module_utils import basic
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

UTC = datetime.timezone.utc

if sys.version_info < (3, 11):  # noqa: UP036 - what runs on hosts is tested on Python 3.8, too
    # All that is not for hosts is the controller's, which has a newer Python.
    here = Path(__file__).parent
    api = yaml.safe_load((here.parents[2] / "meta/runtime.yml").read_text(encoding="utf-8"))["action_groups"]["api"]
    controller = [
        *api,
        "cluster_info",
        "cluster_host_info",
        "offline_bundle",
        "registry_image",
        "server_image",
        "server_image_info",
        "temporary_kubeconfig",
    ]
    collect_ignore = [f"modules/test_{name}.py" for name in controller]
    collect_ignore += ["action", "filter", "plugin_utils"]
    collect_ignore += [f"module_utils/{package}" for package in ("api", "image", "pki")]
    collect_ignore_glob = ["test_*.py"]


def pem_key(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    """A certificate authority for tests."""

    def __init__(self, common_name, hours_old=1, issuer=None):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        now = datetime.datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name if issuer else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=hours_old))
            .not_valid_after(now + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(issuer.key if issuer else self.key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, common_name, *, dns=(), ips=(), days=30, organization=None):
        """A leaf certificate and its key, both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organization:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        now = datetime.datetime.now(UTC)
        end = now + datetime.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - datetime.timedelta(hours=1))
            .not_valid_after(end)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        )
        names = [x509.DNSName(name) for name in dns] + [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), pem_key(key)


class FakeServer:
    """HTTPS on loopback. Routes map (method, path) to a status and a body, or to a function of the request."""

    def __init__(self, directory, certificate, key, *, client_ca=None):
        self.routes = {}
        self.requests = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *unused):
                pass

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                path, unused_mark, query = self.path.partition("?")
                raw = self.rfile.read(length)
                request = SimpleNamespace(
                    method=self.command, path=path, query=query, headers=self.headers, raw=raw, handler=self
                )
                fake.requests.append(request)
                answer = fake.routes.get((self.command, path), (404, "404 page not found"))
                if callable(answer):
                    answer = answer(request)
                if answer is None:
                    self.close_connection = True
                    return
                status, body = answer
                data = body if isinstance(body, bytes) else body if isinstance(body, str) else json.dumps(body)
                data = data.encode() if isinstance(data, str) else data
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = answer

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *unused):
                """A client that hangs up is part of many tests."""

        (directory / "server.crt").write_bytes(certificate)
        (directory / "server.key").write_bytes(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.crt", directory / "server.key")
        if client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(cadata=client_ca.decode())
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def get(self, path, body, status=200):
        self.routes["GET", path] = body if callable(body) else (status, body)

    def seen(self, method=None):
        return [request.path for request in self.requests if method in (None, request.method)]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="session")
def authority():
    return Authority("test-ca")


@pytest.fixture(scope="session")
def other_authority():
    return Authority("other-ca")


@pytest.fixture(scope="session")
def intermediate_authority(other_authority):
    """One that another has signed, as companies give clusters."""
    return Authority("intermediate-ca", issuer=other_authority)


@pytest.fixture(scope="session")
def umlaut_certificate():
    """Makes certificates, DER, with O=Universität as a T61String and a common name: cryptography does not decode it."""

    def make(common_name):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Universit{t"),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )
        now = datetime.datetime.now(UTC)
        der = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(5)
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=90))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
            .public_bytes(serialization.Encoding.DER)
        )
        # The tag of T61String in the place of that of UTF8String. The signature is no longer good, which nobody asks.
        return der.replace(b"\x0c\x0bUniversit{t", b"\x14\x0bUniversit\xe4t")

    return make


@pytest.fixture(scope="session")
def fake_server():
    return FakeServer


@pytest.fixture
def start_server(tmp_path, authority):
    """Starts servers with a certificate for 127.0.0.1, or for what a test says."""
    servers = []

    def start(*, ips=("127.0.0.1",), dns=(), issuer=authority, days=30, client_ca=None):
        directory = tmp_path / f"server{len(servers)}"
        directory.mkdir()
        certificate, key = issuer.issue("server", ips=ips, dns=dns, days=days)
        servers.append(FakeServer(directory, certificate, key, client_ca=client_ca))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def api_server(start_server):
    server = start_server()
    server.get("/readyz", "ok")
    return server


@pytest.fixture
def write_kubeconfig(tmp_path, authority):
    """Writes kubeconfigs."""

    def write(server, *, name="admin.conf", cluster=None, user=None, ca=authority.pem):
        (tmp_path / "ca.crt").write_bytes(ca)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "c",
                    "cluster": {"server": server, "certificate-authority": str(tmp_path / "ca.crt"), **(cluster or {})},
                }
            ],
            "users": [{"name": "u", "user": user or {"token": "secret-token"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = tmp_path / name
        path.write_text(json.dumps(config))
        return str(path)

    return write


@pytest.fixture
def kubeconfig(api_server, write_kubeconfig):
    return write_kubeconfig(api_server.url)


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch):
    """Loopback must not be reached through the proxy of whoever runs the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextlib.contextmanager
def module_args_of_2_18(arguments):
    with mock.patch.object(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()):
        yield


@pytest.fixture
def run_module(capsys):
    """Runs the main function of a module with arguments and returns its result."""
    try:
        from ansible.module_utils.testing import patch_module_args
    except ImportError:  # ansible-core 2.18
        patch_module_args = module_args_of_2_18

    def run(module, check_mode=False, **arguments):
        with patch_module_args({**arguments, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit) as ended:
            module.main()
        result = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == (ended.value.code != 0)
        return result

    return run


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.sleeps = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_csr():
    """Makes CertificateSigningRequests as a kubelet sends them, except for what a test changes."""
    key = ec.generate_private_key(ec.SECP256R1())

    def make(
        name="csr-1",
        *,
        node="w1",
        signer="kubernetes.io/kubelet-serving",
        username="",
        groups=("system:nodes", "system:authenticated"),
        usages=("digital signature", "server auth"),
        common_name="",
        organizations=("system:nodes",),
        names=None,
        created="2026-03-01T10:00:00Z",
        version=1,
        state="pending",
    ):
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in organizations]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name or f"system:node:{node}"))
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
        wanted = []
        for value in (node, {"w1": "192.0.2.21"}.get(node, "192.0.2.22")) if names is None else names:
            if not isinstance(value, str):
                wanted.append(value)
            elif value.replace(".", "").isdigit():
                wanted.append(x509.IPAddress(ipaddress.ip_address(value)))
            else:
                wanted.append(x509.DNSName(value))
        if wanted:
            builder = builder.add_extension(x509.SubjectAlternativeName(wanted), critical=False)
        pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        status = {}
        if state == "issued":
            status = {"certificate": "eA==", "conditions": [{"type": "Approved"}]}
        elif state != "pending":
            status = {"conditions": [{"type": state}]}
        return {
            "metadata": {"name": name, "creationTimestamp": created, "resourceVersion": str(version)},
            "spec": {
                "signerName": signer,
                "username": f"system:node:{node}" if username == "" else username,
                "groups": None if groups is None else list(groups),
                "usages": None if usages is None else list(usages),
                "request": base64.b64encode(pem).decode(),
            },
            "status": status,
        }

    return make


@pytest.fixture
def processor_seconds():
    """What a call costs at best, in seconds of the processor: other work and the collector of garbage are left out."""

    def measure(function, *arguments, **named):
        best = float("inf")
        gc.collect()
        gc.disable()
        try:
            for _attempt in range(3):
                started = time.process_time()
                function(*arguments, **named)
                best = min(best, time.process_time() - started)
        finally:
            gc.enable()
        return best

    return measure
