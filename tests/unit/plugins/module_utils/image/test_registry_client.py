# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Registries that redirect, fail for a moment, or ask for what is unsafe, which the one of tests/registry does not."""

from __future__ import annotations

import base64
import io
import json
import socketserver
import threading
import urllib.parse
import urllib.request
from types import SimpleNamespace

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import (
    assemble,
    oci,
    push,
    registry,
    transport,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import reference as references
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import Blobs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import Login, Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import (
    ImageError,
    Unreachable,
    reason_of,
)
from base_images import configuration, layer, sha256

BLOB = b"a layer" * 1000
MANIFEST = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
WHOLE = {"digest": sha256(BLOB), "size": len(BLOB)}


def answering(status, headers=None, body=b""):
    """A route that answers with headers of its own."""

    def route(request):
        handler = request.handler
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return route


@pytest.fixture
def server(start_server):
    return start_server()


@pytest.fixture
def client(server, authority, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    host = f"127.0.0.1:{server.port}"
    entry = {"host": host, "username": "me", "password": "s3cret", "ca_file": str(tmp_path / "ca.pem")}
    return registry.Registry(host, Registries([entry]), timeout=5, pause=0)


@pytest.fixture
def image(client):
    return references.parse(f"{client.host}/a:1")


def blob_of(client, image, described=WHOLE):
    pieces = []
    client.read_blob(image, described, pieces.append)
    return b"".join(pieces)


LOGIN = "Basic " + base64.b64encode(b"me:s3cret").decode()
ask = answering(401, {"WWW-Authenticate": 'Basic realm="x"'})


def basic_only(body):
    """A route for those who have logged in."""
    return lambda request: (200, body) if request.headers.get("Authorization") == LOGIN else ask(request)


def test_a_login_stays_with_its_registry(server, client, image, start_server):
    storage = start_server()
    storage.get("/there", BLOB)
    elsewhere = answering(307, {"Location": f"{storage.url}/there?signature=1"})
    path = f"/v2/a/blobs/{WHOLE['digest']}"
    server.get(
        path, lambda request: elsewhere(request) if "Authorization" in request.headers else basic_only("")(request)
    )
    assert blob_of(client, image) == BLOB
    (asked,) = storage.requests
    assert "Authorization" not in asked.headers
    assert [("Authorization" in request.headers) for request in server.requests] == [False, True]


def test_nothing_leads_out_of_tls(server, client, image):
    server.get(f"/v2/a/blobs/{WHOLE['digest']}", answering(307, {"Location": "http://127.0.0.1:1/there?signature=1"}))
    with pytest.raises(ImageError) as redirected:
        blob_of(client, image)
    assert "redirects to http://127.0.0.1:1/there, which is not encrypted" in str(redirected.value)
    server.get("/v2/a/manifests/1", answering(401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/token"'}))
    with pytest.raises(ImageError, match="is not encrypted; no password is sent there"):
        client.manifest(image)
    server.routes["POST", "/v2/a/blobs/uploads/"] = answering(202, {"Location": "http://127.0.0.1:1/upload?state=1"})
    with pytest.raises(ImageError, match="wants uploads at http://127.0.0.1:1/upload, which is not encrypted"):
        client.may_push(image)


def test_a_moment_of_weakness_passes(server, client, image):
    answers = [(503, {"errors": [{"message": "restarting"}]}), (429, ""), (200, MANIFEST)]
    server.get("/v2/a/manifests/1", lambda _request: answers.pop(0))
    assert client.manifest(image) == (MANIFEST, sha256(MANIFEST))
    server.get("/v2/a/manifests/1", (503, {"errors": [{"code": "UNAVAILABLE", "message": "restarting"}]}))
    server.routes["GET", "/v2/a/manifests/1"] = (503, {"errors": [{"message": "restarting"}]})
    with pytest.raises(Unreachable, match=r"failed at reading .*/a:1 \(503: restarting\)"):
        client.manifest(image)


def test_what_is_not_what_was_asked_for(server, client, image):
    other = image.pinned("sha256:" + "0" * 64)
    server.get(f"/v2/a/manifests/{other.digest}", MANIFEST)
    with pytest.raises(ImageError, match="answers something else than was asked for"):
        client.manifest(other)
    path = f"/v2/a/blobs/{WHOLE['digest']}"
    server.get(path, answering(200, {"Content-Length": str(len(BLOB) - 10)}, BLOB[:-10]))
    with pytest.raises(Unreachable, match="broke off in the middle"):
        blob_of(client, image)


def test_a_refresh_token_is_exchanged(server, client, image, monkeypatch):
    monkeypatch.setattr(client.registries, "login", lambda *_place: Login("", "refresh-me"))
    challenge = f'Bearer realm="{server.url}/token",service="tests"'

    def manifest(request):
        if request.headers.get("Authorization") == "Bearer given":
            return 200, MANIFEST
        return answering(401, {"WWW-Authenticate": challenge})(request)

    asked = []

    def token(request):
        asked.append(urllib.parse.parse_qs(request.raw.decode()))
        return 200, {"access_token": "given"}

    server.get("/v2/a/manifests/1", manifest)
    server.routes["POST", "/token"] = token
    assert client.manifest(image)[0] == MANIFEST
    assert asked[0]["grant_type"] == ["refresh_token"]
    assert asked[0]["refresh_token"] == ["refresh-me"]
    assert asked[0]["scope"] == ["repository:a:pull"]
    server.routes["POST", "/token"] = (401, "")
    client._authorization.clear()
    with pytest.raises(ImageError) as refused:
        client.manifest(image)
    assert "refuses the login of the token that was saved" in str(refused.value)
    assert "refresh-me" not in str(refused.value)


@pytest.mark.parametrize("body", [b"x", b"[]", b'{"errors": [1]}', b'{"errors": null}', b"\xff"])
def test_answers_in_no_known_form(server, client, image, body):
    server.routes["GET", "/v2/a/manifests/1"] = (400, body)
    with pytest.raises(ImageError, match=r"\(400\)"):
        client.manifest(image)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            ['Bearer realm="https://r/token",service="r",scope="repository:a:pull,push"'],
            [("bearer", {"realm": "https://r/token", "service": "r", "scope": "repository:a:pull,push"})],
        ),
        (["Basic"], [("basic", {})]),
        (["Negotiate", 'Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['Negotiate, Basic realm="a \\"b\\", c"'], [("negotiate", {}), ("basic", {"realm": 'a "b", c'})]),
        (["Basic realm=x, Bearer realm = y"], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (["", "=,=", 'realm="x"'], []),
    ],
)
def test_challenges(headers, expected):
    assert transport.challenges(headers) == expected


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Registry.Example.com:443/v2/", "registry.example.com"),
        ("https://me:secret@r.example.com:5000/v2/", "r.example.com:5000"),
        ("https://docker.io/x", "registry-1.docker.io"),
        ("http://r.example.com/", ""),
        ("https://[broken/", ""),
        ("", ""),
    ],
)
def test_hosts_are_compared_in_one_spelling(url, host):
    assert transport.host_of(url) == host


def logged_in(request):
    return request.headers.get("Authorization") == LOGIN


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_head_request_stays_one(server, client, image, start_server, status):
    """A storage signs an address for one method, and refuses it for every other one."""
    storage = start_server()
    storage.routes["HEAD", "/there"] = (200, "")
    storage.routes["GET", "/there"] = (403, "SignatureDoesNotMatch")
    server.routes["HEAD", f"/v2/a/blobs/{WHOLE['digest']}"] = answering(status, {"Location": f"{storage.url}/there"})
    assert client.has_blob(image, WHOLE["digest"])
    assert [request.method for request in storage.requests] == ["HEAD"]


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_a_registry_redirects_to_gets_no_login(server, client, image, start_server, scheme, method):
    elsewhere = start_server()
    asks = {"WWW-Authenticate": f'{scheme} realm="{elsewhere.url}/token",service="x"'}
    elsewhere.routes[method, "/there"] = answering(401, asks)
    elsewhere.get("/token", {"token": "x"})
    server.routes[method, "/v2/a/manifests/1"] = answering(307, {"Location": f"{elsewhere.url}/there"})
    with pytest.raises(ImageError, match=r"redirects to 127.0.0.1:\d+, which failed at reading .* \(401\)"):
        client.manifest(image) if method == "GET" else client.digest_of(image)
    assert elsewhere.seen() == ["/there"]
    assert "Authorization" not in elsewhere.requests[0].headers


def test_a_redirect_on_the_registry_itself_keeps_the_login(server, client, image):
    server.get(
        "/v2/a/manifests/1",
        lambda request: answering(307, {"Location": "/moved"})(request) if logged_in(request) else ask(request),
    )
    server.get("/moved", basic_only(MANIFEST))
    assert client.manifest(image)[0] == MANIFEST


def test_an_upload_under_another_spelling_of_the_host(start_server, client, image):
    server = start_server(dns=("localhost",))
    entry = {**client.registries.entries[client.own], "host": f"localhost:{server.port}"}
    client = registry.Registry(entry["host"], Registries([entry]), timeout=5, pause=0)
    image = references.parse(f"{client.host}/a:1")
    place = f"https://LOCALHOST:{server.port}/upload"
    server.routes["POST", "/v2/a/blobs/uploads/"] = lambda request: (
        answering(202, {"Location": place})(request) if logged_in(request) else ask(request)
    )
    server.routes["PUT", "/upload"] = lambda request: (201, "") if logged_in(request) else (401, "")
    client.write_blob(image, WHOLE["digest"], len(BLOB), io.BytesIO(BLOB))
    assert server.requests[-1].raw == BLOB


def test_the_first_challenge_that_can_be_answered(server, client, image):
    def manifest(request):
        if logged_in(request):
            return 200, MANIFEST
        handler = request.handler
        handler.send_response(401)
        for challenge in ("Negotiate", 'Basic realm="x"'):
            handler.send_header("WWW-Authenticate", challenge)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return None

    server.get("/v2/a/manifests/1", manifest)
    assert client.manifest(image)[0] == MANIFEST


def test_a_repository_that_is_not_there_yet(server, client, image):
    """Docker Hub answers 401 to who may read only, whether there is a repository or not."""

    def token(request):
        return 200, {"token": "writes" if "push" in request.query else "reads"}

    def manifest(request):
        if request.headers.get("Authorization") == "Bearer writes":
            return 404, ""
        return answering(401, {"WWW-Authenticate": f'Bearer realm="{server.url}/token",service="x"'})(request)

    server.get("/token", token)
    server.get("/v2/a/manifests/1", manifest)
    server.routes["HEAD", "/v2/a/manifests/1"] = manifest
    assert push.index_there(client, image) is None
    with pytest.raises(ImageError, match="refuses the login of me"):
        client.digest_of(image._replace(tag="1"), registry.PULL)


def test_an_index_names_what_it_has():
    index = oci.index_of([{"platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}, {"platform": "odd"}])
    with pytest.raises(ImageError, match=r"for the architecture amd64 \(only for arm/v7\)"):
        oci.choose(index, "amd64", "The image")


@pytest.fixture
def waited(monkeypatch):
    """What was waited for, without waiting."""
    seconds = []
    monkeypatch.setattr(registry.time, "sleep", seconds.append)
    return seconds


def in_turn(*routes):
    """A route that answers another way each time; the last one stays."""
    left = list(routes)

    def route(request):
        answer = left.pop(0) if len(left) > 1 else left[0]
        return answer(request) if callable(answer) else answer

    return route


def cut(status):
    """An answer in chunked coding that breaks off."""

    def route(request):
        request.handler.send_response(status)
        request.handler.send_header("Transfer-Encoding", "chunked")
        request.handler.end_headers()
        request.handler.wfile.write(b"ff\r\nabc")
        request.handler.close_connection = True

    return route


def hang_up(_request):
    return None


@pytest.mark.parametrize("failure", [(503, ""), (429, ""), hang_up, cut(500), cut(200)])
def test_a_blob_is_asked_for_again(server, client, image, tmp_path, failure):
    server.get(f"/v2/a/blobs/{WHOLE['digest']}", in_turn(failure, (200, BLOB)))
    kept = Blobs(tmp_path / "kept")
    client.patiently(
        lambda: kept.add_expected(lambda write: client.read_blob(image, WHOLE, write), WHOLE, "The base image")
    )
    assert kept.read(WHOLE["digest"]) == BLOB


def test_a_base_is_fetched_with_patience(server, client, image, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "PAUSE", 0)
    content = layer("etc/x", b"base")
    config = configuration("amd64", [sha256(content)])
    parts = [{"digest": sha256(data), "size": len(data)} for data in (config, content)]
    document = {"schemaVersion": 2, "config": parts[0], "layers": [{**parts[1], "mediaType": oci.LAYER}]}
    server.get("/v2/a/manifests/1", json.dumps(document).encode())
    for data in (config, content):
        server.get(f"/v2/a/blobs/{sha256(data)}", in_turn((503, ""), (200, data)))
    base = assemble.Base(str(image), client.registries)
    monkeypatch.setattr(base, "registry", lambda: client)
    assert base.fetch("amd64", Blobs(tmp_path / "kept")).config == config


@pytest.mark.parametrize("failure", [(503, ""), (429, ""), hang_up, cut(500)])
def test_an_upload_is_begun_again(server, client, image, failure):
    server.routes["POST", "/v2/a/blobs/uploads/"] = in_turn(
        answering(202, {"Location": "/first"}), answering(202, {"Location": "/second"})
    )
    server.routes["PUT", "/first"] = failure
    server.routes["PUT", "/second"] = (201, "")
    client.write_blob(image, WHOLE["digest"], len(BLOB), io.BytesIO(BLOB))
    assert server.seen("PUT") == ["/first", "/second"]
    assert [request.raw for request in server.requests if request.method == "PUT"] == [BLOB, BLOB]


@pytest.mark.parametrize(
    ("said", "expected"),
    [("7", 7), ("3600", 60), ("Thu, 01 Jan 1970 00:00:30 GMT", 0), ("soon", 0), ("-5", 0), ("", 0)],
)
def test_a_registry_says_how_long_to_wait(server, client, image, waited, said, expected):
    server.get("/v2/a/manifests/1", in_turn(answering(429, {"Retry-After": said}), (200, MANIFEST)))
    assert client.manifest(image)[0] == MANIFEST
    assert waited == [expected]


def test_a_date_to_wait_for():
    assert transport.retry_after({"Retry-After": "Thu, 01 Jan 1970 00:00:30 GMT"}, 10.0) == 20.0


def test_patience_ends(server, client, image, waited):
    server.get(f"/v2/a/blobs/{WHOLE['digest']}", cut(503))
    with pytest.raises(Unreachable, match=r"failed at reading .* \(503\)"):
        client.patiently(lambda: blob_of(client, image))
    assert len(server.requests) == registry.ATTEMPTS == len(waited) + 1


@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_manifest_is_taken(server, client, image, status):
    server.routes["PUT", "/v2/a/manifests/1"] = (status, "")
    assert client.write_manifest(image, MANIFEST, oci.MANIFEST) == sha256(MANIFEST)


def test_what_does_not_know_head(server, client, image):
    server.routes["HEAD", "/v2/a/manifests/1"] = (405, "")
    assert client.digest_of(image) is None
    server.get("/v2/a/manifests/1", MANIFEST)
    assert client.digest_of(image) == sha256(MANIFEST)


def test_a_digest_of_another_kind_is_not_taken(server, client, image):
    server.routes["HEAD", "/v2/a/manifests/1"] = answering(200, {"Docker-Content-Digest": "sha512:" + "a" * 128})
    server.get("/v2/a/manifests/1", MANIFEST)
    assert client.digest_of(image) == sha256(MANIFEST)


def test_half_a_manifest_has_no_digest(server, client, image):
    def half(request):
        request.handler.close_connection = True
        answering(200, {"Content-Length": str(len(MANIFEST))}, MANIFEST[:10])(request)

    server.routes["HEAD", "/v2/a/manifests/1"] = (200, "")
    server.get("/v2/a/manifests/1", half)
    with pytest.raises(Unreachable, match="broke off in the middle"):
        client.digest_of(image)


def test_what_is_too_large_for_a_manifest(server, client, image, monkeypatch):
    monkeypatch.setattr(registry, "LARGEST_DOCUMENT", 10)
    server.get("/v2/a/manifests/1", MANIFEST)
    with pytest.raises(ImageError, match="is no document of an image"):
        client.manifest(image)


def test_reasons_are_told(server, client, image):
    def said(status, message):
        return status, {"errors": [{"code": "X", "message": message}]}

    start = "POST", "/v2/a/blobs/uploads/"
    server.routes[start] = said(403, "quota\nexceeded.")
    with pytest.raises(ImageError, match=r"does not allow writing 127.0.0.1:\d+/a \(quota exceeded\)\.$"):
        client.may_push(image)
    server.routes[start] = said(404, "The repository does not exist")
    with pytest.raises(ImageError, match=r"has no repository a \(The repository does not exist\); create it there\.$"):
        client.may_push(image)
    server.routes["GET", "/v2/a/manifests/1"] = said(404, "manifest unknown")
    with pytest.raises(ImageError, match=r"has no 127.0.0.1:\d+/a:1 \(manifest unknown\)\.$"):
        client.manifest(image)


@pytest.mark.parametrize("host", ["registry..example.com", "a" * 70 + ".example.com", "127.0.0.1:99999"])
def test_hosts_that_cannot_be(host, waited):
    with pytest.raises(Unreachable, match="cannot be reached"):
        registry.Registry(host, Registries(), timeout=1).digest_of(references.Reference(host, "a", "1", ""))


def test_a_full_disk_is_not_the_registrys(server, client, image):
    server.get(f"/v2/a/blobs/{WHOLE['digest']}", BLOB)

    def write(_piece):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        client.read_blob(image, WHOLE, write)
    assert reason_of(caught.value) == "No space left on device"
    assert reason_of(FileNotFoundError(2, "No such file", "/x")) == "No such file: /x"


@pytest.fixture
def proxy():
    """A proxy that notes the heads of requests and refuses them."""
    heads = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            heads.append([line.decode().strip() for line in iter(self.rfile.readline, b"\r\n")])
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield SimpleNamespace(address=f"127.0.0.1:{server.server_address[1]}", heads=heads)
        server.shutdown()


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables of proxies, and no others."""

    def use(**variables):
        for name in ("HTTPS_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name.lower(), raising=False)
            monkeypatch.setenv(name, variables.get(name, ""))

    return use


def test_a_proxy_and_its_login(proxy, environment, waited):
    environment(HTTPS_PROXY=f"http://me:s3c%2Fret@{proxy.address}")
    with pytest.raises(Unreachable) as refused:
        registry.Registry("r.example.com", Registries()).manifest(references.parse("r.example.com/a:1"))
    assert "407" in str(refused.value) and "s3c" not in str(refused.value)
    login = base64.b64encode(b"me:s3c/ret").decode()
    assert proxy.heads[0][0].startswith("CONNECT r.example.com:443 ")
    assert f"proxy-authorization: basic {login.lower()}" in [line.lower() for line in proxy.heads[0]]


@pytest.mark.parametrize(
    ("excepted", "host"),
    [
        ("10.0.0.0/8", "10.1.2.3:5000"),
        ("*.example.com", "r.example.com"),
        ("fd00::1", "[fd00::1]:5000"),
        ("fd00::/8", "[fd00::1]"),
        ("r.example.com:5000", "r.example.com:5000"),
        ("a, example.com", "r.example.com"),
    ],
)
def test_what_no_proxy_excepts(excepted, host):
    def sent_to(environment):
        request = urllib.request.Request(f"https://{host}/v2/")
        assert transport.EnvironmentProxy(environment).https_open(request) is None
        return request.host

    environment = {"HTTPS_PROXY": "http://proxy.example.org:3128"}
    assert sent_to(environment) == "proxy.example.org:3128"
    assert sent_to({**environment, "NO_PROXY": excepted}) == host


def test_a_proxy_without_a_scheme(proxy, environment, waited):
    environment(HTTPS_PROXY=proxy.address, NO_PROXY="10.0.0.0/8")
    with pytest.raises(Unreachable, match="407"):
        registry.Registry("r.example.com", Registries()).manifest(references.parse("r.example.com/a:1"))
    assert len(proxy.heads) == registry.ATTEMPTS
    # Python's own handler has rules of its own, and does not act beside it.
    assert not [handler for handler in transport.opener("").handlers if type(handler) is urllib.request.ProxyHandler]


@pytest.mark.parametrize("given", ["http://me:s3cret@", "http://proxy:s3cret", "socks5://proxy:1080", "http://[s3cret"])
def test_what_is_no_proxy(given):
    with pytest.raises(ImageError, match="HTTPS_PROXY is no address of an HTTP proxy") as caught:
        transport.proxy_parts(given)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://proxy", "proxy:80"),
        ("https://proxy", "proxy:443"),
        ("http://[fd00::1]:3128/", "[fd00::1]:3128"),
    ],
)
def test_addresses_of_proxies(given, expected):
    assert transport.proxy_parts(given) == (expected, "")


def test_an_intermediate_authority_is_a_trust_anchor(start_server, intermediate_authority, tmp_path):
    server = start_server(issuer=intermediate_authority)
    server.get("/v2/", "{}")
    (tmp_path / "ca.pem").write_bytes(intermediate_authority.pem)
    with transport.opener(str(tmp_path / "ca.pem")).open(f"{server.url}/v2/", timeout=5) as answer:
        assert answer.status == 200
