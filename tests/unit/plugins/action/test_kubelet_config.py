# SPDX-License-Identifier: GPL-3.0-or-later
"""kubelet_config: which file, what has to change in it, and what makes a change void."""

from __future__ import annotations

import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.action import kubelet_config
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.editor import EditError

HEADER = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
KUBEADM = (
    "apiVersion: kubelet.config.k8s.io/v1beta1\nauthentication:\n  anonymous:\n    enabled: false\n  webhook:\n"
    "    cacheTTL: 0s\n    enabled: true\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n"
    "  mode: Webhook\n  webhook:\n    cacheAuthorizedTTL: 0s\n    cacheUnauthorizedTTL: 0s\n"
    "kind: KubeletConfiguration\nrotateCertificates: true\n"
)
SECURE = {
    "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True, "cacheTTL": "2m0s"}},
    "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "300s", "cacheUnauthorizedTTL": "30s"}},
    "readOnlyPort": 0,
}


def host(path=None, drop_in_dir=None, drop_ins=(), flags=None, running=True, in_process="", unit=None):
    return {
        "components": {
            "kubelet": {
                "running": running,
                "in_process": bool(in_process),
                "managed_by": in_process or ("systemd" if unit else "unknown"),
                "unit_state": {"fragment": str(unit), "drop_ins": []} if unit else None,
            }
        },
        "kubelet_config": {
            "path": path and str(path),
            "drop_in_dir": drop_in_dir and str(drop_in_dir),
            "drop_ins": [{"path": str(one)} for one in drop_ins],
            "overriding_flags": flags or {},
        },
    }


@pytest.fixture
def main_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(KUBEADM)
    path.chmod(0o640)
    return path


def test_check_apply_apply_check(main_file, run_editor):
    here, config = host(main_file), {**SECURE, "serverTLSBootstrap": True}
    predicted = run_editor(kubelet_config, here, check_mode=True, config=config)
    assert main_file.read_text() == KUBEADM
    applied = run_editor(kubelet_config, here, config=config)
    assert predicted["changed"] and applied["changed"] and predicted["diff"] == applied["diff"]
    assert main_file.read_text() == KUBEADM + "serverTLSBootstrap: true\n"
    assert main_file.stat().st_mode & 0o777 == 0o640
    with open(applied["backup_file"]) as backup:
        assert backup.read() == KUBEADM
    for check_mode in (False, True):
        again = run_editor(kubelet_config, here, check_mode=check_mode, config=config)
        assert not again["changed"] and again["change_id"] is None and again["diff"] == []


def test_what_a_kubelet_does_by_default_is_left_alone(main_file, run_editor):
    assert not run_editor(kubelet_config, host(main_file), config=SECURE)["changed"]
    main_file.write_text(HEADER)
    assert not run_editor(kubelet_config, host(main_file), config=SECURE)["changed"]
    assert run_editor(kubelet_config, host(main_file), config={"readOnlyPort": 10255})["changed"]


def test_overriding_flags_are_named_only_if_they_say_something_else(main_file, run_editor):
    flags = {"read-only-port": "10255", "anonymous-auth": "False", "authorization-mode": "AlwaysAllow", "max-pods": "9"}
    here = host(main_file, flags=flags)
    result = run_editor(kubelet_config, here, config={**SECURE, "serverTLSBootstrap": True})
    assert result["overriding_flags"] == {"read-only-port": "10255", "authorization-mode": "AlwaysAllow"}
    with pytest.raises(EditError, match="--read-only-port=10255"):
        run_editor(kubelet_config, here, config=SECURE, fail_on_override=True)
    assert run_editor(kubelet_config, here, config={"rotateCertificates": True}, fail_on_override=True)["path"]


def test_a_drop_in_directory_gets_a_file_of_our_own(main_file, tmp_path, run_editor):
    drop_ins = tmp_path / "kubelet.conf.d"
    drop_ins.mkdir()
    here = host(main_file, drop_ins)
    assert not run_editor(kubelet_config, here, config=SECURE)["changed"]
    result = run_editor(kubelet_config, here, config={**SECURE, "serverTLSBootstrap": True})
    own = drop_ins / "90-kubemetrics.conf"
    assert result["path"] == str(own) and result["backup_file"] is None
    assert own.read_text() == HEADER + "serverTLSBootstrap: true\n"
    assert main_file.read_text() == KUBEADM
    here = host(main_file, drop_ins, [own])
    assert not run_editor(kubelet_config, here, config={"serverTLSBootstrap": True})["changed"]
    assert run_editor(kubelet_config, here, config={"serverTLSBootstrap": False})["changed"]
    assert run_editor(kubelet_config, here, config={"serverTLSBootstrap": None})["changed"]
    assert own.read_text() == HEADER
    with pytest.raises(EditError, match=r"rotateCertificates cannot be removed .*config\.yaml"):
        run_editor(kubelet_config, here, config={"rotateCertificates": None})


def test_drop_ins_without_a_main_file_stand_on_the_open_defaults(tmp_path, run_editor):
    config = {"readOnlyPort": 0, "authorization": {"mode": "Webhook"}}
    assert run_editor(kubelet_config, host(None, tmp_path), config=config)["changed"]
    own = tmp_path / "90-kubemetrics.conf"
    assert yaml.safe_load(own.read_text())["readOnlyPort"] == 0
    assert not run_editor(kubelet_config, host(None, tmp_path, [own]), config=config)["changed"]
    assert run_editor(kubelet_config, host(None, tmp_path, [own]), config={"readOnlyPort": None})["changed"]


def test_a_later_drop_in_that_wins_is_named(main_file, tmp_path, run_editor):
    drop_ins = tmp_path / "kubelet.conf.d"
    drop_ins.mkdir()
    early, late = drop_ins / "10-a.conf", drop_ins / "95-z.conf"
    early.write_text(HEADER + "readOnlyPort: 10255\n")
    late.write_text(HEADER + "serverTLSBootstrap: false\n")
    here = host(main_file, drop_ins, [early, late])
    with pytest.raises(EditError, match="95-z.conf are applied after"):
        run_editor(kubelet_config, here, config={"readOnlyPort": 0, "serverTLSBootstrap": True}, fail_on_override=True)
    assert not (drop_ins / "90-kubemetrics.conf").exists()
    result = run_editor(kubelet_config, here, config={"readOnlyPort": 0, "serverTLSBootstrap": True})
    assert result["overriding_files"] == [str(late)]
    own = yaml.safe_load((drop_ins / "90-kubemetrics.conf").read_text())
    assert own["readOnlyPort"] == 0


def test_a_new_file_is_made_only_where_it_was_asked_for(tmp_path, run_editor):
    path = tmp_path / "new.yaml"
    with pytest.raises(EditError, match="does not exist"):
        run_editor(kubelet_config, host(path), config={"readOnlyPort": 10255})
    run_editor(kubelet_config, host(), path=str(path), config={"readOnlyPort": 10255})
    assert path.read_text() == HEADER + "readOnlyPort: 10255\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_kubelet_that_does_not_run_is_found_by_its_unit(main_file, tmp_path, run_editor):
    drop_ins = tmp_path / "kubelet.conf.d"
    drop_ins.mkdir()
    (drop_ins / "50-x.conf").write_text(HEADER + "readOnlyPort: 10255\n")
    (tmp_path / "kubelet.env").write_text(f'ARGS="--config={main_file} \\\n--anonymous-auth=true"\n')
    unit = tmp_path / "kubelet.service"
    unit.write_text(f"[Service]\nEnvironmentFile={tmp_path}/kubelet.env\nExecStart=/usr/bin/kubelet $ARGS\n")
    # A file in the usual place is not the one that it reads.
    here = host("/var/lib/kubelet/config.yaml", running=False, unit=unit)
    result = run_editor(kubelet_config, here, config={**SECURE, "serverTLSBootstrap": True})
    assert result["path"] == str(main_file) and result["changed"]
    assert result["overriding_flags"] == {"anonymous-auth": "true"}
    (tmp_path / "kubelet.env").write_text(
        f"ARGS=--config={main_file}\nARGS='--config={main_file} --config-dir={drop_ins}'\n"
    )
    result = run_editor(kubelet_config, here, config={"readOnlyPort": 0})
    assert result["path"] == str(drop_ins / "90-kubemetrics.conf") and result["changed"]
    unit.write_text("[Service]\nExecStart=/usr/bin/kubelet\n")
    with pytest.raises(EditError, match="names no configuration file"):
        run_editor(kubelet_config, here, config={"readOnlyPort": 0})


def test_secrets_are_not_in_the_diff(main_file, run_editor):
    main_file.write_text(KUBEADM + "staticPodURLHeader:\n  Authorization: [Bearer abcdef]\n")
    result = run_editor(kubelet_config, host(main_file), config={"readOnlyPort": 10255})
    assert "abcdef" not in str(result["diff"]) and "abcdef" in main_file.read_text()


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (host(), "runs without a configuration file"),
        (host(running=False), "No kubelet runs"),
        (host(in_process="k3s"), "inside of k3s, .* into kubelet-arg of /etc/rancher/k3s/config.yaml"),
        (host(in_process="microk8s"), "inside of MicroK8s, .* into /var/snap/microk8s/current/args/kubelet"),
    ],
)
def test_where_there_is_no_file(here, words, run_editor):
    with pytest.raises(EditError, match=words):
        run_editor(kubelet_config, here, config=SECURE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("kind: Other\n", "not a KubeletConfiguration"),
        ("", "not a KubeletConfiguration"),
        (KUBEADM + "kind: KubeletConfiguration\n", "twice"),
        (KUBEADM + "---\n" + KUBEADM, "2 YAML documents"),
    ],
)
def test_a_bad_file_is_refused_and_left(text, words, main_file, run_editor):
    main_file.write_text(text)
    with pytest.raises(EditError, match=words):
        run_editor(kubelet_config, host(main_file), config={"serverTLSBootstrap": True})
    assert main_file.read_text() == text


def test_a_file_that_is_not_text(main_file, run_editor):
    main_file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EditError, match="not UTF-8"):
        run_editor(kubelet_config, host(main_file), config={"serverTLSBootstrap": True})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "empty"),
        ({"kind": "X"}, "must not set kind"),
        ({"readOnlyPort": True}, "readOnlyPort is True, and has to be a number"),
        ({"serverTLSBootstrap": "true"}, "has to be true or false"),
        ({"authentication": {"webhook": {"cacheTTL": "2 minutes"}}}, "has to be a duration"),
        ({"authentication": {"webhook": {"cacheTTL": 120}}}, "has to be a duration"),
    ],
)
def test_bad_arguments(config, words, main_file, run_editor):
    with pytest.raises(EditError, match=words):
        run_editor(kubelet_config, host(main_file), config=config)


def test_json_with_tabs_is_edited(main_file, run_editor):
    main_file.write_text('{\n\t"kind": "KubeletConfiguration",\n\t"readOnlyPort": 10255\n}\n')
    assert run_editor(kubelet_config, host(main_file), config={"readOnlyPort": 0})["changed"]
    assert yaml.safe_load(main_file.read_text().replace("\t", " "))["readOnlyPort"] == 0


def test_a_drop_in_of_a_subdirectory_comes_in_the_order_of_the_walk(main_file, tmp_path, run_editor):
    """10-late.conf lies in 95-team, which the kubelet enters after our own 90-kubemetrics.conf."""
    late = tmp_path / "d" / "95-team" / "10-late.conf"
    late.parent.mkdir(parents=True)
    late.write_text(HEADER + "readOnlyPort: 10255\n")
    here = host(main_file, drop_in_dir=tmp_path / "d", drop_ins=[late])
    result = run_editor(kubelet_config, here, config={"readOnlyPort": 0})
    assert result["overriding_files"] == [str(late)]
