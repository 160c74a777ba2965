# Copyright: the kubemetrics.aggregation maintainers
# SPDX-License-Identifier: GPL-3.0-or-later

"""Logins come from where podman, docker and skopeo keep them, and are in no message."""

from __future__ import annotations

import base64
import json

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import Login, Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def home(tmp_path):
    def write(place, document):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    write.environment = {"HOME": str(tmp_path)}
    return write


def login(home, host, entries=(), repository=""):
    return Registries(entries, home.environment).login(host, repository)


def test_what_is_given_wins(home):
    home(".docker/config.json", {"auths": {"registry.example.com": {"auth": encoded("saved:one")}}})
    given = [{"host": "registry.example.com", "username": "given", "password": "two"}]
    assert login(home, "registry.example.com", given) == Login("given", "two")
    assert login(home, "registry.example.com") == Login("saved", "one")
    assert login(home, "another.example.com", given) is None


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io"])
def test_docker_hub_has_names_of_its_own(home, key):
    home(".docker/config.json", {"auths": {key: {"auth": encoded("me:a:b")}}})
    assert login(home, "registry-1.docker.io") == Login("me", "a:b")


def test_files_in_their_order(home, tmp_path):
    home(".docker/config.json", {"auths": {"r.example.com": {"auth": encoded("docker:1")}}})
    assert login(home, "r.example.com").username == "docker"
    home(".config/containers/auth.json", {"auths": {"r.example.com": {"auth": encoded("podman:1")}}})
    assert login(home, "r.example.com").username == "podman"
    home("run/containers/auth.json", {"auths": {"r.example.com": {"auth": encoded("session:1")}}})
    home.environment["XDG_RUNTIME_DIR"] = str(tmp_path / "run")
    assert login(home, "r.example.com").username == "session"
    home.environment["REGISTRY_AUTH_FILE"] = str(
        home("named.json", {"auths": {"r.example.com": {"auth": encoded("named:1")}}})
    )
    assert login(home, "r.example.com").username == "named"


def test_a_credential_helper(home, tmp_path, monkeypatch):
    helper = home(
        "bin/docker-credential-keychain",
        '#!/bin/sh\n[ "$(cat)" = r.example.com ] && echo \'{"Username": "<token>", "Secret": "s3cret"}\'\n',
    )
    helper.chmod(0o755)
    home(".docker/config.json", {"credsStore": "keychain", "auths": {"r.example.com": {}, "other.example.com": {}}})
    with pytest.raises(ImageError, match="docker-credential-keychain, which is not installed"):
        login(home, "r.example.com")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    assert login(home, "r.example.com") == Login("", "s3cret")
    assert login(home, "other.example.com") is None
    home(".docker/config.json", {"credHelpers": {"r.example.com": "keychain"}})
    assert login(home, "r.example.com").password == "s3cret"


@pytest.mark.parametrize("named", ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO"])
def test_docker_hub_may_be_given_by_each_of_its_names(home, named):
    given = [{"host": named, "username": "me", "password": "hub", "ca_file": __file__}]
    assert login(home, "registry-1.docker.io", given) == Login("me", "hub")
    assert Registries(given, {}).ca_file("registry-1.docker.io") == __file__


@pytest.mark.parametrize("named", ["Registry.example.com", "registry.example.com:443"])
def test_hosts_are_given_in_any_spelling(home, named):
    given = [{"host": named, "username": "me", "password": "x"}]
    assert login(home, "registry.EXAMPLE.com", given) == Login("me", "x")


@pytest.mark.parametrize(
    "key",
    ["{0}", "{0}/", "https://{0}", "https://{0}/", "http://{0}", "{0}/v1/", "{0}/v2/", "https://{0}/v2", "R.{1}:443"],
)
def test_a_host_is_saved_in_many_spellings(home, key):
    key = key.format("r.example.com", "Example.com")
    home(".docker/config.json", {"auths": {"other.example.com": {}, key: {"auth": encoded("me:x")}}})
    assert login(home, "r.example.com", repository="a/b") == Login("me", "x")
    assert login(home, "other.example.com") is None


def test_the_plain_key_wins(home):
    auths = {f"https://r.example.com{path}": {"auth": encoded("old:x")} for path in ("", "/v1/")}
    home(".docker/config.json", {"auths": {**auths, "r.example.com": {"auth": encoded("new:x")}}})
    assert login(home, "r.example.com").username == "new"


@pytest.mark.parametrize("host", ["r.example.com", "docker.io"])
def test_podman_keeps_logins_for_parts_of_a_registry(home, host):
    places = {"host": host, "team": f"{host}/team", "app": f"{host}/team/app"}
    home(
        ".config/containers/auth.json",
        {"auths": {place: {"auth": encoded(f"{name}:x")} for name, place in places.items()}},
    )
    for repository, expected in {
        "team/app": "app",
        "team/app/deeper": "app",
        "team/application": "team",
        "teams/app": "host",
        "": "host",
    }.items():
        assert login(home, host, repository=repository).username == expected
    home(".config/containers/auth.json", {"auths": {f"{host}/team": {"auth": encoded("me:x")}}})
    assert login(home, host, repository="another/app") is None


def test_a_password_that_is_not_encoded(home):
    home(".docker/config.json", {"auths": {"r.example.com": {"username": "me", "password": "x"}}})
    assert login(home, "r.example.com") == Login("me", "x")


def test_a_store_is_asked_for_every_registry(home, tmp_path, monkeypatch):
    """ECR's helper lists no registry; Docker asks it all the same."""
    home(".docker/config.json", {"credsStore": "cloud"})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    assert login(home, "r.example.com") is None
    helper = home(
        "bin/docker-credential-cloud",
        "#!/bin/sh\nread -r key\ncase $key in r.example.com | https://index.docker.io/v1/)\n"
        'echo "{\\"Username\\": \\"$key\\", \\"Secret\\": \\"x\\"}" ;;\n*) echo not found; exit 1 ;;\nesac\n',
    )
    helper.chmod(0o755)
    assert login(home, "r.example.com", repository="a").username == "r.example.com"
    assert login(home, "registry-1.docker.io").username == "https://index.docker.io/v1/"
    assert login(home, "other.example.com") is None
    home(".docker/config.json", {"credsStore": "cloud", "auths": {"other.example.com": {"auth": encoded("me:x")}}})
    assert login(home, "other.example.com") == Login("me", "x")
    home(
        ".docker/config.json",
        {"credHelpers": {"other.example.com": "cloud"}, "auths": {"other.example.com": {"auth": encoded("me:x")}}},
    )
    assert login(home, "other.example.com") == Login("me", "x")


def test_what_cannot_be_read_is_not_shown(home):
    home(".docker/config.json", {"auths": {"r.example.com": {"auth": "s3cret"}}})
    with pytest.raises(ImageError) as caught:
        login(home, "r.example.com")
    assert "log in again" in str(caught.value)
    home(".docker/config.json", '{"auths": s3cret')
    with pytest.raises(ImageError) as broken:
        login(home, "r.example.com")
    assert "cannot be read" in str(broken.value)
    assert "s3cret" not in str(caught.value) + str(broken.value) + repr(Login("me", "s3cret"))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"host": "https://r.example.com"}, "give the host"),
        ({"host": "r.example.com/folder"}, "give the host"),
        ({"host": "r.example.com", "username": "me"}, "a user without a password"),
    ],
)
def test_entries_that_cannot_be_meant(entry, said):
    with pytest.raises(ImageError, match=said):
        Registries([entry], {})


def test_a_ca_that_is_not_there():
    with pytest.raises(ImageError, match="The CA of the registry r.example.com is not there"):
        Registries([{"host": "r.example.com", "ca_file": "/no/such/ca.pem"}], {}).ca_file("r.example.com")
