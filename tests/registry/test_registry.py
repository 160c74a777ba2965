# SPDX-License-Identifier: GPL-3.0-or-later
"""Base images come from a real registry and images go to one, by TLS and with logins; errors are one sentence."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import archives, assemble, oci, push
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image import reference as references
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.blobs import Blobs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.credentials import Registries
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.errors import ImageError, Unreachable
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.registry import Registry
from base_images import docker_archive, oci_files, tar_of, wheel

pytestmark = pytest.mark.usefixtures("home")
TREE = Path(__file__).resolve().parents[2]


def send(running, name, given, revision="r1", user="writer", **entry):
    """Send archives as NAME:TAG, as the module does."""
    reference = references.parse(f"{running.host}/{name}")
    registry = Registry(running.host, Registries([running.entry(user, **entry)]), pause=0)
    blobs = Blobs(running.storage.parent / "sent")
    return push.send(registry, reference, given, blobs, revision)


def sent(running, name, given, architecture, blobs):
    """The identity of an image of an archive after it was sent."""
    config = archives.load(given, architecture, blobs).config
    return oci.digest_of(oci.with_label(config, oci.REF_NAME, f"{running.host}/{name}"))


def base(running, name, *entries):
    return assemble.Base(f"{running.host}/{name}", Registries(entries))


def test_one_tag_for_every_architecture(start_registry, tmp_path):
    running = start_registry()
    given = tar_of(oci_files(), tmp_path / "both.tar")
    changed, digest = send(running, "team/server:1", [given])
    assert changed
    status, headers, body = running.get("/v2/team/server/manifests/1", oci.INDEX)
    assert (status, headers["Docker-Content-Digest"], headers["Content-Type"]) == (200, digest, oci.INDEX)
    entries = json.loads(body)["manifests"]
    assert [entry["platform"]["architecture"] for entry in entries] == ["amd64", "arm64"]
    for entry in entries:
        _status, _headers, manifest = running.get(f"/v2/team/server/manifests/{entry['digest']}", oci.MANIFEST)
        assert oci.digest_of(manifest) == entry["digest"]
        for part in [json.loads(manifest)["config"], *json.loads(manifest)["layers"]]:
            status, _headers, blob = running.get(f"/v2/team/server/blobs/{part['digest']}")
            assert (status, oci.digest_of(blob), len(blob)) == (200, part["digest"], part["size"])
    assert send(running, "team/server:1", [given]) == (False, digest)


def test_an_image_in_a_registry_has_another_identity_than_the_archive(start_registry, tmp_path):
    """A kubelet that has pulled the one with a login asks for the login where it finds the other in its runtime."""
    running = start_registry()
    given = docker_archive(tmp_path / "amd64.tar", "amd64")
    send(running, "team/server:1", [given])
    (entry,) = json.loads(running.get("/v2/team/server/manifests/1", oci.INDEX)[2])["manifests"]
    manifest = json.loads(running.get(f"/v2/team/server/manifests/{entry['digest']}", oci.MANIFEST)[2])
    assert manifest["config"]["digest"] != archives.survey(given)["amd64"]
    config = json.loads(running.get(f"/v2/team/server/blobs/{manifest['config']['digest']}")[2])
    assert config["config"]["Labels"] == {"maintainer": "x", oci.REF_NAME: f"{running.host}/team/server"}


def test_other_architectures_of_the_same_source_stay(start_registry, tmp_path):
    running = start_registry()
    for architecture in ("amd64", "arm64"):
        send(running, "server:1", [docker_archive(tmp_path / f"{architecture}.tar", architecture)])
    index = json.loads(running.get("/v2/server/manifests/1", oci.INDEX)[2])
    assert push.architectures_there(index, "r1") == {"amd64", "arm64"}
    send(running, "server:1", [tmp_path / "amd64.tar"], revision="r2")
    index = json.loads(running.get("/v2/server/manifests/1", oci.INDEX)[2])
    assert [oci.platform_name(entry["platform"]) for entry in index["manifests"]] == ["amd64"]


def test_a_base_is_fetched_once_and_by_its_digest(start_registry, tmp_path):
    running = start_registry()
    given = tar_of(oci_files(), tmp_path / "both.tar")
    digest = send(running, "python:3.13", [given])[1]
    opened = base(running, "python:3.13", running.entry("reader"))
    assert opened.resolve() == f"{running.host}/python:3.13@{digest}"
    opened.find("arm64")
    with pytest.raises(ImageError, match=r"not there for the architecture s390x \(only for amd64, arm64\)"):
        opened.find("s390x")
    blobs = Blobs(tmp_path / "kept")
    pinned = base(running, f"python:3.13@{digest}", running.entry("reader"))
    image = pinned.fetch("arm64", blobs)
    assert oci.digest_of(image.config) == sent(running, "python", given, "arm64", Blobs(tmp_path / "given"))
    # What has a digest is not asked for twice: nobody is there any more.
    gone = base(running, f"python:3.13@{digest}", {"host": running.host})
    assert gone.fetch("arm64", blobs) == image


def test_a_newer_base_is_another_one(start_registry, tmp_path):
    running = start_registry()
    first = send(running, "python:3.13", [docker_archive(tmp_path / "one.tar")])[1]
    second = send(running, "python:3.13", [docker_archive(tmp_path / "two.tar", author="newer")], revision="r2")[1]
    assert first != second
    assert base(running, "python:3.13", running.entry("reader")).resolve().endswith(second)
    pinned = base(running, f"python@{first}", running.entry("reader"))
    fetched = oci.digest_of(pinned.fetch("amd64", Blobs(tmp_path / "kept")).config)
    assert fetched == sent(running, "python", tmp_path / "one.tar", "amd64", Blobs(tmp_path / "given"))


def test_an_image_of_one_architecture_is_a_base_too(start_registry, tmp_path):
    running = start_registry()
    send(running, "python:3.13", [docker_archive(tmp_path / "one.tar")])
    (entry,) = json.loads(running.get("/v2/python/manifests/3.13", oci.INDEX)[2])["manifests"]
    opened = base(running, f"python@{entry['digest']}", running.entry("reader"))
    assert oci.digest_of(opened.fetch("amd64", Blobs(tmp_path / "kept")).config)
    with pytest.raises(ImageError, match="is for linux/amd64, and not for linux/arm64"):
        opened.fetch("arm64", Blobs(tmp_path / "kept"))


@pytest.mark.parametrize("auth", ["htpasswd", "token"])
def test_logins(start_registry, tmp_path, home, auth):
    running = start_registry(auth)
    given = docker_archive(tmp_path / "one.tar")
    send(running, "server:1", [given])
    with pytest.raises(ImageError) as wrong:
        base(running, "server:1", running.entry("reader", "s3cret")).resolve()
    assert str(wrong.value).startswith(f"The registry {running.host} refuses the login of reader; correct it")
    assert "s3cret" not in str(wrong.value)
    with pytest.raises(ImageError) as nobody:
        base(running, "server:1", running.entry()).resolve()
    expected = "asks for a login; name username and password" if auth == "htpasswd" else "asks for a login"
    assert expected in str(nobody.value)
    (home / ".docker").mkdir(parents=True)
    saved = base64.b64encode(b"reader:only reads").decode()
    (home / ".docker/config.json").write_text(json.dumps({"auths": {running.host: {"auth": saved}}}))
    assert base(running, "server:1", running.entry()).resolve()


def test_who_may_only_read_is_told_before_anything_is_sent(start_registry, tmp_path):
    running = start_registry("token")
    reference = references.parse(f"{running.host}/server:1")
    registry = Registry(running.host, Registries([running.entry("reader")]), pause=0)
    with pytest.raises(ImageError, match=r"(does not allow writing|refuses the login of reader)"):
        registry.may_push(reference)
    assert not running.storage.exists() or not list(running.storage.rglob("_uploads/*"))
    Registry(running.host, Registries([running.entry("writer")]), pause=0).may_push(reference)
    assert {scope.rpartition(":")[2] for scope in running.tokens.asked} == {"pull,push"}


def test_what_was_begun_is_given_up(start_registry):
    running = start_registry()
    reference = references.parse(f"{running.host}/server:1")
    Registry(running.host, Registries([running.entry("writer")]), pause=0).may_push(reference)
    assert running.storage.exists() and not list(running.storage.rglob("_uploads/*/startedat"))


def test_certificates_are_verified(start_registry, another_authority, tmp_path):
    running = start_registry()
    for entry in (
        running.entry("reader", ca=False),
        {**running.entry("reader"), "ca_file": str(another_authority.ca_file)},
    ):
        with pytest.raises(
            ImageError, match="cannot be verified .*; name its CA as ca_file in metrics_server_image_reg"
        ):
            base(running, "server:1", entry).resolve()
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(ImageError, match="holds no certificate in PEM form"):
        base(running, "server:1", {**running.entry(), "ca_file": str(tmp_path / "no.pem")}).resolve()


def test_a_registry_without_tls_is_not_spoken_to(start_registry):
    running = start_registry("", tls=False)
    with pytest.raises(Unreachable, match="it does not speak TLS"):
        base(running, "server:1", running.entry()).resolve()


def test_what_is_missing_and_what_is_damaged(start_registry, tmp_path):
    running = start_registry()
    with pytest.raises(ImageError, match=f"The registry {running.host} has no {running.host}/python:3.13"):
        base(running, "python:3.13", running.entry("reader")).resolve()
    send(running, "python:3.13", [docker_archive(tmp_path / "one.tar")])
    digest = archives.load(tmp_path / "one.tar", "amd64", Blobs(tmp_path / "known")).layers[0]["digest"][7:]
    blob = running.storage / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
    blob.write_bytes(b"x" * blob.stat().st_size)
    kept = Blobs(tmp_path / "kept")
    with pytest.raises(ImageError, match="is damaged: a part that should be"):
        base(running, "python:3.13", running.entry("reader")).fetch("amd64", kept)
    assert not kept.path("sha256:" + digest).exists()


def test_podman_pulls_what_was_sent(start_registry, tmp_path, home):
    """Another client, for the node's own architecture and for another one."""
    running = start_registry()
    source = tmp_path / "source"
    (source / "src/metrics_server").mkdir(parents=True)
    (source / "src/metrics_server/__main__.py").write_text("print()\n")
    (source / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    blobs = Blobs(tmp_path / "blobs")
    both = tar_of(oci_files(), tmp_path / "both.tar")
    made = []
    for architecture in ("amd64", "arm64"):
        fetched = archives.load(both, architecture, blobs)
        image = assemble.assemble(source, fetched, [wheel(tmp_path, "dependency", {"dependency.py": "1"})], blobs)
        made.append(tmp_path / f"{architecture}.tar")
        archives.write(made[-1], "localhost/x:1", image, blobs, {})
    send(running, "server:1", made)
    assert shutil.which("podman"), "This test needs podman, as the lab does."
    login = tmp_path / "auth.json"
    saved = base64.b64encode(b"reader:only reads").decode()
    login.write_text(json.dumps({"auths": {running.host: {"auth": saved}}}))
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    shutil.copy(running.authority.ca_file, certificates / "ca.crt")
    # It refuses a longer path.
    short = tempfile.mkdtemp()
    own = [
        "podman",
        f"--root={tmp_path}/root",
        f"--runroot={short}",
        "--storage-driver=vfs",
        "--cgroup-manager=cgroupfs",
    ]
    for architecture in ("amd64", "arm64"):
        arguments = ["--quiet", f"--authfile={login}", f"--cert-dir={certificates}", f"--arch={architecture}"]
        pull = [*own, "pull", *arguments, f"{running.host}/server:1"]
        pulled = subprocess.run(pull, check=False, capture_output=True, text=True)
        assert pulled.returncode == 0, pulled.stderr
        image = pulled.stdout.strip()
        found = subprocess.run([*own, "inspect", image], check=True, capture_output=True, text=True).stdout
        (document,) = json.loads(found)
        assert (document["Architecture"], document["User"]) == (architecture, "65534:65534")
        assert document["Config"]["Entrypoint"] == ["python3", "-m", "metrics_server"]


PLAY = """
- hosts: localhost
  gather_facts: false
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - name: See
      kubemetrics.aggregation.registry_image: &arguments
        name: "{{ image }}"
        tag: "1"
        revision: r1
        architectures: [amd64, arm64]
        stage: checked
        registries: "{{ registries }}"
      register: seen
    - name: Send, first in vain
      kubemetrics.aggregation.registry_image:
        name: "{{ image }}"
        tag: "1"
        revision: r1
        architectures: [amd64, arm64]
        archives: ["{{ archive }}"]
        registries: "{{ registries }}"
      async: 60
      poll: 1
      register: sent
    - name: See again
      kubemetrics.aggregation.registry_image: *arguments
      register: again
    - name: Base
      kubemetrics.aggregation.server_image_info:
        source: "{{ source }}"
        cache_dir: "{{ cache }}"
        base: "{{ image }}:1"
        python_version: "3.13"
        registries: "{{ registries }}"
      register: info
    - name: With a password that is wrong
      kubemetrics.aggregation.registry_image:
        name: "{{ image }}"
        tag: "2"
        revision: r1
        architectures: [amd64]
        registries: "{{ [registries[0] | combine({'password': 'wr0ng-s3cret'})] }}"
      register: refused
      ignore_errors: true
    - name: Results
      ansible.builtin.copy:
        dest: "{{ results }}"
        mode: "0600"
        content: "{{ {'seen': seen, 'sent': sent, 'again': again, 'info': info, 'refused': refused} | to_json }}"
"""


def test_modules_never_show_a_password(start_registry, tmp_path, home):
    """At the highest verbosity, through Ansible, in the background as well."""
    running = start_registry()
    (tmp_path / "play.yml").write_text(PLAY)
    values = {
        "image": f"{running.host}/team/server",
        "registries": [running.entry("writer")],
        "archive": str(tar_of(oci_files(), tmp_path / "both.tar")),
        "source": str(TREE / "metrics_server"),
        "cache": str(tmp_path / "cache"),
        "results": str(tmp_path / "results.json"),
    }
    (tmp_path / "values.json").write_text(json.dumps(values))
    environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_ASYNC_DIR": str(tmp_path / "async")}
    done = subprocess.run(
        [
            "ansible-playbook",
            "-vvvv",
            "-i",
            "localhost,",
            "-c",
            "local",
            tmp_path / "play.yml",
            "-e",
            f"@{tmp_path}/values.json",
        ],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    for secret in (PASSWORD, "wr0ng-s3cret"):
        assert secret not in said
        assert base64.b64encode(f"writer:{secret}".encode()).decode() not in said
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seen"]["missing"] == ["amd64", "arm64"] and not results["seen"]["changed"]
    assert results["sent"]["changed"] and results["sent"]["digest"].startswith("sha256:")
    assert results["again"]["missing"] == []
    assert results["info"]["base"] == f"{values['image']}:1@{results['sent']['digest']}"
    assert f"The registry {running.host} refuses the login of writer" in results["refused"]["msg"]


PASSWORD = "correct horse"


def test_the_base_of_the_last_run_when_the_registry_is_away(start_registry, tmp_path, monkeypatch):
    running = start_registry()
    digest = send(running, "python:3.13", [docker_archive(tmp_path / "one.tar")])[1]
    values = {"source": str(TREE / "metrics_server"), "cache_dir": str(tmp_path / "cache"), "python_version": "3.13"}

    def info(host, name):
        own = {**values, "base": f"{host}/{name}", "registries": [{**running.entry("reader"), "host": host}]}
        argv = ["ansible", "localhost", "-c", "local", "-m", "kubemetrics.aggregation.server_image_info"]
        argv += ["-e", f"ansible_python_interpreter={shutil.which('python')}", "-a", json.dumps(own)]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
        )
        return " ".join((done.stdout + done.stderr).split())

    assert digest in info(running.host, "python:3.13")
    # The same name, as if its registry had gone.
    cache = tmp_path / "cache/bases.json"
    cache.write_text(cache.read_text().replace(running.host, "registry.invalid"))
    said = info("registry.invalid", "python:3.13")
    assert "cannot be reached" in said and "The base image is the one of an earlier run" in said and digest in said
    assert "cannot be reached" in info("registry.invalid", "python:3.12")
