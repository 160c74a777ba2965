# SPDX-License-Identifier: GPL-3.0-or-later
"""The distribution project's registry, built from its Go module, with TLS of a CA of its own and with logins."""

from __future__ import annotations

import base64
import contextlib
import datetime
import fcntl
import hashlib
import http.client
import http.server
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests/unit/plugins"))

PASSWORDS = {"writer": "correct horse", "reader": "only reads"}
#: bcrypt, as htpasswd -B makes it, of the passwords above.
HTPASSWD = (
    "writer:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"
    "reader:$2b$05$abcdefghijklmnopqrstuuvNXOh1cKJ.V1FCx6AXcfolku4tDB8TG\n"
)


@pytest.fixture(scope="session")
def program():
    """The registry, built once on a machine."""
    source = HERE / "program"
    files = [source / name for name in ("main.go", "go.mod", "go.sum")]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    cache = Path(os.environ.get("KUBEMETRICS_CACHE") or Path.home() / ".cache/kubemetrics") / "registry"
    path = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            assert shutil.which("go"), "These tests build the registry: install Go."
            environment = {
                **os.environ,
                "CGO_ENABLED": "0",
                "GOFLAGS": "-mod=readonly -buildvcs=false",
                "GOTOOLCHAIN": "local",
            }
            argv = ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", f"{path}.part", "."]
            subprocess.run(argv, cwd=source, env=environment, check=True)
            os.replace(f"{path}.part", path)
    return path


class Authority:
    """A CA, and a certificate of it for the registry's address."""

    def __init__(self, folder: Path, address: str = "127.0.0.1"):
        self.address = address
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        self.certificate = self.issue(self.name, self.key, True)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        key = ec.generate_private_key(ec.SECP256R1())
        served = self.issue(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")]), key, False)
        self.certificate_file, self.key_file = folder / "registry.pem", folder / "registry.key"
        self.certificate_file.write_bytes(served.public_bytes(serialization.Encoding.PEM))
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def issue(self, name, key, is_ca):
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), True)
        )
        if not is_ca:
            address = x509.IPAddress(ipaddress.ip_address(self.address))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tests-ca"))


@pytest.fixture(scope="session")
def another_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("another-ca"))


@pytest.fixture
def authority_for(tmp_path_factory):
    """Makes the CA of a registry at an address."""
    return lambda address: Authority(tmp_path_factory.mktemp("site-ca"), address)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Tokens:
    """An identity service as Docker Hub has one: it gives a token for what the user may do of what is asked for."""

    def __init__(self, authority: Authority, folder: Path):
        self.key = ec.generate_private_key(ec.SECP256R1())
        numbers = self.key.public_key().public_numbers()
        point = {name: encoded(value.to_bytes(32, "big")) for name, value in (("x", numbers.x), ("y", numbers.y))}
        self.jwks = folder / "jwks.json"
        own = {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "tests", **point}
        self.jwks.write_text(json.dumps({"keys": [own]}))
        self.asked: list[str] = []
        tokens = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                tokens.answer(self)

            def log_message(self, *unused):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.certificate_file, authority.key_file)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.realm = f"https://127.0.0.1:{self.server.server_address[1]}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query)
        scope = query.get("scope", [""])[0]
        self.asked.append(scope)
        user = ""
        if "Authorization" in request.headers:
            user, _colon, password = (
                base64.b64decode(request.headers["Authorization"].split()[1]).decode().partition(":")
            )
            if PASSWORDS.get(user) != password:
                request.send_response(401)
                request.end_headers()
                return
        kind, name, actions = scope.split(":")
        may = {"writer": {"pull", "push"}, "reader": {"pull"}}.get(user, set())
        granted = [action for action in actions.split(",") if action in may]
        body = json.dumps({"token": self.token(user, query["service"][0], kind, name, granted)}).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def token(self, user, service, kind, name, actions):
        now = int(time.time())
        claims = {"iss": "tests", "sub": user, "aud": service, "iat": now, "nbf": now - 5, "exp": now + 60, "jti": "1"}
        claims["access"] = [{"type": kind, "name": name, "actions": actions}]
        header = {"typ": "JWT", "alg": "ES256", "kid": "tests"}
        signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
        r, s = utils.decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return signed + "." + encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


class Running:
    """A registry that runs, and what a client that trusts it sees."""

    def __init__(self, host: str, authority: Authority, storage: Path, tokens: Tokens | None):
        self.host = host
        self.authority = authority
        self.storage = storage
        self.tokens = tokens

    def entry(self, user: str = "", password: str | None = None, ca: bool = True) -> dict:
        found = {"host": self.host}
        if user:
            found.update(username=user, password=PASSWORDS[user] if password is None else password)
        if ca:
            found["ca_file"] = str(self.authority.ca_file)
        return found

    def get(self, path: str, accept: str = "", user: str = "writer"):
        """An oracle of its own: the status, the headers and the body of a request with htpasswd's login."""
        context = ssl.create_default_context(cafile=self.authority.ca_file)
        connection = http.client.HTTPSConnection(self.host, context=context, timeout=20)
        login = base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
        connection.request("GET", path, headers={"Authorization": f"Basic {login}", "Accept": accept})
        answer = connection.getresponse()
        with contextlib.closing(connection):
            return answer.status, answer.headers, answer.read()


@pytest.fixture
def start_registry(program, authority, tmp_path):
    """Starts registries: with htpasswd, with tokens, or open to everybody."""
    processes, servers = [], []

    def start(auth: str = "htpasswd", own: Authority | None = None, tls: bool = True) -> Running:
        folder = tmp_path / f"registry-{len(processes)}"
        folder.mkdir()
        own = own or authority
        with socket.socket() as taken:
            taken.bind((own.address, 0))
            host = f"{own.address}:{taken.getsockname()[1]}"
        tokens = None
        settings: dict = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
            "http": {"addr": host, "secret": "tests"},
        }
        if tls:
            settings["http"]["tls"] = {"certificate": str(own.certificate_file), "key": str(own.key_file)}
        if auth == "htpasswd":
            (folder / "htpasswd").write_text(HTPASSWD)
            settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
        elif auth == "token":
            tokens = Tokens(own, folder)
            servers.append(tokens.server)
            described = {"realm": tokens.realm, "service": "tests", "issuer": "tests", "jwks": str(tokens.jwks)}
            settings["auth"] = {"token": described}
        # JSON is YAML.
        (folder / "config.yml").write_text(json.dumps(settings))
        environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [program, "serve", folder / "config.yml"], stdout=log, stderr=log, env=environment
            )
        processes.append(process)
        name, _colon, port = host.partition(":")
        for _turn in range(200):
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection((name, int(port)), timeout=1):
                return Running(host, own, folder / "storage", tokens)
            time.sleep(0.05)
        raise AssertionError((folder / "log").read_text())

    yield start
    for process in processes:
        process.terminate()
        process.wait(10)
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Nobody's saved logins."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return tmp_path / "home"
