# SPDX-License-Identifier: GPL-3.0-or-later
"""component_flags: finding the definition, what it reports, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.action import component_flags
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.editor import EditError

CORPUS = Path(__file__).parent.parent / "corpus"
FRONT_PROXY = {
    "requestheader-client-ca-file": "/etc/kubernetes/pki/front-proxy-ca.crt",
    "requestheader-allowed-names": ["front-proxy-client"],
    "enable-aggregator-routing": True,
}


def host(
    managed_by="unknown", files=(), fragment=None, drop_ins=(), argv=None, version=None, component="kube-apiserver"
):
    state = {"fragment": str(fragment), "drop_ins": [str(one) for one in drop_ins]} if fragment else None
    return {
        "components": {
            component: {
                "running": argv is not None,
                "in_process": False,
                "argv": argv or [],
                "version": version,
                "managed_by": managed_by,
                "unit": f"{component}.service" if managed_by == "systemd" else None,
                "unit_state": state,
                "definition_files": [str(one) for one in files],
            }
        }
    }


@pytest.fixture
def manifest(tmp_path):
    return Path(shutil.copy(CORPUS / "pod-kubeadm.yaml", tmp_path / "kube-apiserver.yaml"))


@pytest.fixture
def unit(tmp_path):
    return Path(shutil.copy(CORPUS / "apiserver-unit.service", tmp_path / "kube-apiserver.service"))


def run(run_editor, here, **arguments):
    return run_editor(component_flags, here, **{"component": "kube-apiserver", "flags": FRONT_PROXY, **arguments})


def test_check_apply_apply_check_of_a_manifest(manifest, run_editor):
    here = host("static_pod", [manifest], argv=["kube-apiserver", "--requestheader-allowed-names=front-proxy-client"])
    before = manifest.read_text()
    predicted = run(run_editor, here, check_mode=True)
    assert manifest.read_text() == before
    applied = run(run_editor, here)
    assert predicted["diff"] == applied["diff"] and applied["changed"]
    assert applied["previous"] == {"enable-aggregator-routing": None}
    assert applied["running_differs"] == ["enable-aggregator-routing", "requestheader-client-ca-file"]
    assert applied["missing_files"] == ["/etc/kubernetes/ssl/front-proxy-ca.crt"] and applied["warnings"]
    assert applied["duplicate_flags"] == ["v"]
    assert not applied["daemon_reload"]
    for check_mode in (False, True):
        assert not run(run_editor, here, check_mode=check_mode)["changed"]
    # What it was before brings it back.
    run(run_editor, here, flags=applied["previous"])
    assert manifest.read_text() == before


def test_check_apply_apply_check_of_a_unit(unit, run_editor):
    here = host("systemd", [unit], fragment=unit, version="v1.28.2")
    before = unit.read_text()
    predicted = run(run_editor, here, check_mode=True)
    assert unit.read_text() == before
    applied = run(run_editor, here)
    assert predicted["diff"] == applied["diff"] and applied["changed"] and applied["daemon_reload"]
    assert applied["unit"] == "kube-apiserver.service" and applied["running_differs"] is None
    assert [(one["name"], one["state"]) for one in applied["obsolete_flags"]] == [
        ("enable-swagger-ui", "removed"),
        ("apiserver-count", "deprecated"),
        ("insecure-port", "removed"),
        ("kubelet-https", "removed"),
        ("logtostderr", "removed"),
    ]
    for check_mode in (False, True):
        assert not run(run_editor, here, check_mode=check_mode)["changed"]
    run(run_editor, here, flags=applied["previous"])
    assert unit.read_text() == before


def test_obsolete_flags_go_only_when_told(unit, run_editor):
    result = run(run_editor, host("systemd", [unit], fragment=unit, version="v1.28.2"), remove_obsolete=True)
    assert [one["name"] for one in result["obsolete_flags"]] == ["apiserver-count"]
    assert "--kubelet-https" not in unit.read_text() and "--apiserver-count=3" in unit.read_text()
    assert result["previous"]["kubelet-https"] == "true"


def test_environment_files_and_drop_ins_are_found(tmp_path, run_editor):
    unit = tmp_path / "kube-apiserver.service"
    unit.write_text("[Service]\nExecStart=/bin/kube-apiserver $OLD\n")
    drop_ins = tmp_path / "kube-apiserver.service.d"
    drop_ins.mkdir()
    (drop_ins / "10-new.conf").write_text(
        f"[Service]\nEnvironmentFile={tmp_path}/env.d/*.env\nExecStart=\nExecStart=/bin/kube-apiserver $ARGS\n"
    )
    (drop_ins / ".hidden.conf").write_text("[Service]\nExecStart=\n")
    (tmp_path / "env.d").mkdir()
    (tmp_path / "env.d" / "1.env").write_text("ARGS='--v=1'\n")
    (tmp_path / "env.d" / "2.env").write_text("ARGS='--v=2'\nDB_PASSWORD=hidden\n")
    result = run(run_editor, host(), definition=str(unit), flags={"v": 3})
    assert result["files"] == [f"{tmp_path}/env.d/2.env"] and not result["daemon_reload"]
    assert (tmp_path / "env.d" / "2.env").read_text() == "ARGS='--v=3'\nDB_PASSWORD=hidden\n"
    assert "hidden" not in str(result["diff"])
    assert (tmp_path / "env.d" / "1.env").read_text() == "ARGS='--v=1'\n"


def test_a_unit_of_a_package_is_overridden(tmp_path, run_editor, monkeypatch):
    vendor, local = tmp_path / "usr", tmp_path / "etc"
    (vendor / "kubelet.service.d").mkdir(parents=True)
    local.mkdir()
    monkeypatch.setattr(component_flags, "VENDOR_UNITS", (f"{vendor}/",))
    monkeypatch.setattr(component_flags, "LOCAL_UNITS", f"{local}/")
    unit, drop_in = vendor / "kubelet.service", vendor / "kubelet.service.d" / "10-kubeadm.conf"
    unit.write_text("[Service]\nExecStart=/usr/bin/kubelet\n")
    text = "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --v=2\n"
    drop_in.write_text(text)
    here = host("systemd", fragment=unit, drop_ins=[drop_in], component="kubelet")
    result = run(run_editor, here, component="kubelet", flags={"v": 4})
    assert drop_in.read_text() == text
    copy = local / "kubelet.service.d" / "10-kubeadm.conf"
    assert result["files"] == [str(copy)] and result["daemon_reload"]
    assert copy.read_text() == text.replace("--v=2", "--v=4")


def test_files_outside_of_the_mounts(manifest, run_editor):
    here = host("static_pod", [manifest])
    flags = {"proxy-client-cert-file": "/srv/pki/client.crt", "proxy-client-key-file": "/srv/pki/client.key"}
    before = manifest.read_text()
    with pytest.raises(EditError, match="does not see /srv/pki/client.crt"):
        run(run_editor, here, flags=flags)
    assert manifest.read_text() == before
    result = run(run_editor, here, flags=flags, add_mounts=True)
    assert result["added_mounts"] == ["/srv/pki"]
    spec = yaml.safe_load(manifest.read_text())["spec"]
    assert [one["hostPath"] for one in spec["volumes"] if one["name"].startswith("kubemetrics-")] == [
        {"path": "/srv/pki", "type": "Directory"}
    ]
    assert not run(run_editor, here, flags=flags, add_mounts=True)["changed"]


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (host("k3s"), r'kube-apiserver-arg: \["requestheader-client-ca-file=.* into /etc/rancher/k3s/config.yaml'),
        (host("rke2"), "RKE2 writes the flags"),
        (host("minikube"), "--extra-config=apiserver.requestheader-allowed-names=front-proxy-client"),
        (host("pod"), "DaemonSet"),
        (host("static_pod"), "there is none"),
        (host("static_pod", ["/m/a.yaml", "/m/a.yaml.bak"]), "/m/a.yaml and /m/a.yaml.bak"),
        (host("systemd"), "name its manifest or unit file"),
        (host(argv=["kube-apiserver"]), "what starts it is not known"),
    ],
)
def test_definitions_that_are_somebody_elses_or_not_there(here, words, run_editor):
    with pytest.raises(EditError, match=words):
        run(run_editor, here)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"flags": {}}, "flags is empty"),
        ({"flags": {"x y": 1}}, "no name of a flag"),
        ({"version": "latest"}, "has to look like"),
        ({"definition": "relative"}, "absolute"),
        ({"definition": "/does/not/exist"}, "does not exist"),
        (
            {"flags": {"requestheader-uid-headers": "X-Remote-Uid"}, "version": "v1.32.1"},
            "came with 1.33; leave it out",
        ),
        ({"flags": {"insecure-port": 0}, "version": "v1.36.0"}, "went with 1.24"),
    ],
)
def test_bad_arguments(arguments, words, manifest, run_editor):
    before = manifest.read_text()
    with pytest.raises(EditError, match=words):
        run(run_editor, host("static_pod", [manifest]), **arguments)
    assert manifest.read_text() == before


def test_removing_what_a_version_no_longer_has_is_allowed(unit, run_editor):
    run(run_editor, host(), definition=str(unit), flags={"insecure-port": None}, version="v1.36.0")
    assert "insecure-port" not in unit.read_text()


def test_a_definition_that_cannot_be_read(tmp_path, run_editor):
    unit = tmp_path / "x.service"
    unit.write_text("[Service]\nRestart=always\n")
    with pytest.raises(EditError, match="no ExecStart"):
        run(run_editor, host(), definition=str(unit))
    unit.unlink()
    unit.mkdir()
    with pytest.raises(EditError, match="not a regular file"):
        run(run_editor, host(), definition=str(unit))
