# SPDX-License-Identifier: GPL-3.0-or-later
"""component_flags: finding the definition, what it reports, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.action import component_flags
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import units
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.editor import EditError

CORPUS = Path(__file__).parent.parent / "corpus"
FRONT_PROXY = {
    "requestheader-client-ca-file": "/etc/kubernetes/pki/front-proxy-ca.crt",
    "requestheader-allowed-names": ["front-proxy-client"],
    "enable-aggregator-routing": True,
}


def host(
    managed_by="unknown",
    files=(),
    fragment=None,
    drop_ins=(),
    argv=None,
    version=None,
    component="kube-apiserver",
    start_time="2100-01-01T00:00:00Z",
):
    state = {"fragment": str(fragment), "drop_ins": [str(one) for one in drop_ins]} if fragment else None
    return {
        "components": {
            component: {
                "running": argv is not None,
                "in_process": False,
                "argv": argv or [],
                "flags": flags.effective(flags.of_argv(argv or [], component), component),
                "start_time": start_time,
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
    # As after a run that was killed before its daemon-reload: systemd still names the package's.
    again = run(run_editor, here, component="kubelet", flags={"v": 4})
    assert (again["changed"], again["files"], again["daemon_reload"]) == (False, [], True)


@pytest.mark.parametrize("name", ["kubelet.service", "kubelet.service.d/10-kubeadm.conf"])
def test_a_unit_that_systemd_has_not_read_is_not_overwritten(name, tmp_path, run_editor, monkeypatch):
    vendor, local = tmp_path / "usr", tmp_path / "etc"
    monkeypatch.setattr(component_flags, "VENDOR_UNITS", (f"{vendor}/",))
    monkeypatch.setattr(component_flags, "LOCAL_UNITS", f"{local}/")
    for directory in (vendor, local):
        (directory / "kubelet.service.d").mkdir(parents=True)
    unit = vendor / "kubelet.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/kubelet --v=2\n")
    drop_ins = [vendor / name] if name.endswith(".conf") else []
    (vendor / name).write_text("[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --v=2\n")
    text = "[Service]\nExecStartPre=/usr/local/bin/fence\nExecStart=/usr/bin/kubelet --v=2 --node-ip=192.0.2.7\n"
    (local / name).write_text(text)
    here = host("systemd", fragment=unit, drop_ins=drop_ins, component="kubelet")
    for check_mode in (True, False):
        with pytest.raises(EditError) as caught:
            run(run_editor, here, component="kubelet", flags={"v": 4}, check_mode=check_mode)
        assert str(caught.value) == (
            f"{local / name} exists and systemd has not read it, so that {vendor / name} is still used; run systemctl "
            "daemon-reload, or remove it, and run again."
        )
    with pytest.raises(EditError, match="exists and overrides .*; name the unit in /etc as definition"):
        run(run_editor, here, component="kubelet", flags={"v": 4}, definition=str(unit))
    assert (local / name).read_text() == text
    # What is so already needs no edit.
    assert not run(run_editor, here, component="kubelet", flags={"v": 2})["changed"]


def test_an_edit_that_only_systemd_has_not_read_needs_a_reload(tmp_path, run_editor):
    unit = tmp_path / "kubelet.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/kubelet --v=4\n")
    for waits, argv, expected in (
        (True, ["kubelet", "--v=2"], True),
        (False, ["kubelet", "--v=2"], False),
        (True, ["kubelet", "--v=4"], False),
    ):
        here = host("systemd", fragment=unit, component="kubelet", argv=argv, start_time="2000-01-01T00:00:00Z")
        here["components"]["kubelet"]["unit_state"]["need_daemon_reload"] = waits
        result = run(run_editor, here, component="kubelet", flags={"v": 4})
        assert (result["changed"], result["daemon_reload"]) == (False, expected)


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
        (host("k0s"), r'put {"enable-aggregator-routing": "true".* into spec.api.extraArgs of /etc/k0s/k0s.yaml'),
        (host("microk8s"), "--enable-aggregator-routing=true into /var/snap/microk8s/current/args/kube-apiserver"),
        (host("openshift"), "OpenShift writes the flags"),
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


def test_a_unit_with_a_byte_order_mark_is_a_unit(tmp_path, run_editor):
    unit = tmp_path / "kube-apiserver.service"
    unit.write_text("\ufeff[Service]\nExecStart=/usr/bin/kube-apiserver --v=2\n")
    result = run(run_editor, host(), definition=str(unit), flags={"v": 4})
    assert result["managed_by"] == "systemd"
    assert unit.read_text() == "\ufeff[Service]\nExecStart=/usr/bin/kube-apiserver --v=4\n"


def test_a_definition_that_cannot_be_read(tmp_path, run_editor):
    unit = tmp_path / "x.service"
    unit.write_text("[Service]\nRestart=always\n")
    with pytest.raises(EditError, match="no ExecStart"):
        run(run_editor, host(), definition=str(unit))
    unit.unlink()
    unit.mkdir()
    with pytest.raises(EditError, match="not a regular file"):
        run(run_editor, host(), definition=str(unit))


# --- whose file is it ---


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """Puts units of a case where systemd finds them; their paths below /etc/kubernetes become ones of this test."""
    directory = tmp_path / "system"
    directory.mkdir()
    monkeypatch.setattr(units, "UNIT_DIRECTORIES", (str(directory),))

    def put(case, *names):
        for name in names:
            text = (CORPUS / "cases" / f"{case}.{name}").read_text().replace("/etc/kubernetes/", f"{tmp_path}/")
            (directory / name if name.endswith(".service") else tmp_path / name).write_text(text)
        return directory / names[0]

    return put


ALLOWED = {"requestheader-allowed-names": ["front-proxy-client"], "enable-aggregator-routing": True}


def test_a_file_that_another_unit_reads_is_never_written_to(systemd, tmp_path, run_editor):
    unit = systemd("shared-environment-file", "kube-apiserver.service", "kubelet.service", "apiserver", "config")
    before = {name: (tmp_path / name).read_text() for name in ("apiserver", "config")}
    argv = ["/usr/bin/kube-apiserver", "--logtostderr=true", "--v=0", "--etcd-servers=https://192.0.2.11:2379"]
    here = host("systemd", [unit], unit, argv=[*argv, "--bind-address=0.0.0.0"])
    predicted = run(run_editor, here, flags=ALLOWED, check_mode=True)
    assert {name: (tmp_path / name).read_text() for name in before} == before
    applied = run(run_editor, here, flags=ALLOWED)
    assert predicted["files"] == applied["files"] == [f"{tmp_path}/apiserver"] and predicted["diff"] == applied["diff"]
    assert not applied["daemon_reload"]
    assert (tmp_path / "config").read_text() == before["config"]
    assert (tmp_path / "apiserver").read_text() == before["apiserver"].replace(
        'KUBE_API_ARGS=""',
        'KUBE_API_ARGS="--requestheader-allowed-names=front-proxy-client --enable-aggregator-routing=true"',
    )
    assert not run(run_editor, here, flags=ALLOWED)["changed"]
    run(run_editor, here, flags=applied["previous"])
    assert (tmp_path / "apiserver").read_text() == before["apiserver"]


def test_a_flag_of_a_shared_file_is_overruled_by_the_units_own(systemd, tmp_path, run_editor):
    unit = systemd("shared-environment-file", "kube-apiserver.service", "kubelet.service", "apiserver", "config")
    result = run(run_editor, host("systemd", [unit], unit), flags={"v": 4})
    assert result["files"] == [f"{tmp_path}/apiserver"] and result["flags"]["v"] == "4"
    assert "KUBE_API_ARGS=--v=4\n" in (tmp_path / "apiserver").read_text()
    assert run(run_editor, host("systemd", [unit], unit), flags={"v": 5})["flags"]["v"] == "5"
    assert "KUBE_API_ARGS=--v=5\n" in (tmp_path / "apiserver").read_text()
    assert not run(run_editor, host("systemd", [unit], unit), flags={"v": 5})["changed"]
    with pytest.raises(
        EditError, match=r"--logtostderr of kube-apiserver is given in .*config, which kubelet.service reads"
    ):
        run(run_editor, host("systemd", [unit], unit), flags={"logtostderr": None})


def test_where_nothing_is_the_units_own_the_command_takes_the_flags(systemd, tmp_path, run_editor):
    unit = systemd("shared-environment-file", "kube-apiserver.service", "kubelet.service", "apiserver", "config")
    other = unit.parent / "kube-scheduler.service.d"
    (unit.parent / "kube-scheduler.service").write_text("[Service]\nExecStart=/usr/bin/kube-scheduler\n")
    other.mkdir()
    (other / "10.conf").write_text(f"[Service]\nEnvironmentFile=-{tmp_path}/api*\n")
    before = unit.read_text()
    result = run(run_editor, host("systemd", [unit], unit), flags={**ALLOWED, "v": 4})
    assert result["files"] == [str(unit)] and result["daemon_reload"] and result["flags"]["v"] == "4"
    assert unit.read_text() == before.replace(
        "$KUBE_API_ARGS",
        "$KUBE_API_ARGS \\\n            --requestheader-allowed-names=front-proxy-client \\\n"
        "            --enable-aggregator-routing=true \\\n            --v=4",
    )


# --- whose program is it ---


def test_a_unit_of_k0s_is_not_edited(systemd, run_editor):
    unit = systemd("k0s-supervised", "k0scontroller.service")
    argv = (CORPUS / "cases" / "k0s-supervised.cmdline.txt").read_text().split()
    before = unit.read_text()
    # Also where nothing but the unit says so.
    for manager in ("systemd", "k0s"):
        with pytest.raises(EditError, match="k0s writes the flags of kube-apiserver itself; put .*spec.api.extraArgs"):
            run(run_editor, host(manager, [unit], unit, argv=argv))
    assert unit.read_text() == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/usr/bin/snap run kube-apiserver.daemon", "snap gives it its flags"),
        ("/usr/local/bin/supervisor --log=/x", "does not start kube-apiserver but /usr/local/bin/supervisor"),
        ("/snap/microk8s/current/kubelite --x", "MicroK8s writes the flags of kube-apiserver itself"),
        ("/bin/bash -ec 'exec kube-apiserver'", "cannot be edited safely"),
    ],
)
def test_a_unit_whose_program_is_another_is_not_edited(command, words, tmp_path, run_editor):
    unit = tmp_path / "x.service"
    unit.write_text(f"[Service]\nExecStart={command}\n")
    for arguments in ({}, {"definition": str(unit)}):
        with pytest.raises(EditError, match=words):
            run(run_editor, host("systemd", [unit], unit, argv=["kube-apiserver", "--secure-port=6443"]), **arguments)
    assert unit.read_text() == f"[Service]\nExecStart={command}\n"


def test_what_somebody_else_gives_already_needs_no_edit(tmp_path, run_editor):
    unit = tmp_path / "x.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/snap run kube-apiserver.daemon\n")
    argv = ["kube-apiserver", "--requestheader-allowed-names=front-proxy-client", "--enable-aggregator-routing"]
    result = run(run_editor, host("systemd", [unit], unit, argv=argv), flags=ALLOWED)
    assert not result["changed"] and result["files"] == [] and result["running_differs"] == []


def test_a_unit_that_does_not_give_the_process_its_flags_is_not_edited(tmp_path, run_editor):
    unit = tmp_path / "kube-apiserver.service"
    unit.write_text("[Service]\nExecStart=/usr/local/bin/kube-apiserver --v=2\n")
    argv = [
        "/opt/kube-apiserver",
        "--v=2",
        *(f"--etcd-{name}=x" for name in ("servers", "cafile", "keyfile", "prefix")),
    ]
    with pytest.raises(
        EditError, match=r"runs with flags that .*service does not give it \(--etcd-servers, --etcd-cafile"
    ):
        run(run_editor, host("systemd", [unit], unit, argv=argv))
    # One that was edited since the start may have lost a flag, but not most of them.
    with pytest.raises(EditError, match="does not give it"):
        run(run_editor, host("systemd", [unit], unit, argv=argv, start_time="2000-01-01T00:00:00Z"))
    argv = ["kube-apiserver", "--v=2", "--profiling=false"]
    assert run(run_editor, host("systemd", [unit], unit, argv=argv, start_time="2000-01-01T00:00:00Z"))["changed"]


# --- edits that no process has read yet ---

RUNNING = ("/usr/bin/kube-apiserver", "--requestheader-allowed-names=front-proxy-client", "--v=2")
STARTED = "2026-01-01T00:00:00Z"
NAMES = {"requestheader-allowed-names": ["front-proxy-client"], "enable-aggregator-routing": True}


@pytest.fixture
def edited(tmp_path):
    """A unit in which somebody has edited the allowed names and the verbosity since the process started."""
    unit = tmp_path / "kube-apiserver.service"
    unit.write_text(
        "[Service]\nExecStart=/usr/bin/kube-apiserver --requestheader-allowed-names=front-proxy-client,other --v=4\n"
    )
    return unit, host("systemd", [unit], unit, argv=list(RUNNING), start_time=STARTED)


def test_an_edit_that_waits_for_a_restart_is_named_and_left_alone(edited, run_editor):
    unit, here = edited
    result = run(run_editor, here, flags=NAMES, leave_staged=True)
    assert result["staged_flags"] == ["requestheader-allowed-names"] and result["unread_flags"] == ["v"]
    assert result["previous"] == {"enable-aggregator-routing": None}
    assert result["running_differs"] == ["enable-aggregator-routing"]
    assert "=front-proxy-client,other --v=4 --enable-aggregator-routing=true\n" in unit.read_text()


def test_without_leave_it_is_overwritten_and_named_all_the_same(edited, run_editor):
    unit, here = edited
    result = run(run_editor, here, flags=NAMES)
    assert result["staged_flags"] == ["requestheader-allowed-names"] and "other" not in unit.read_text()


def test_a_flag_that_somebody_took_out_or_put_in_is_an_edit_too(tmp_path, run_editor):
    unit = tmp_path / "kube-apiserver.service"
    text = "[Service]\nExecStart=/usr/bin/kube-apiserver --enable-aggregator-routing=false --v=2\n"
    unit.write_text(text)
    here = host("systemd", [unit], unit, argv=list(RUNNING), start_time="2000-01-01T00:00:00Z")
    result = run(run_editor, here, flags=NAMES, leave_staged=True)
    assert result["staged_flags"] == ["enable-aggregator-routing", "requestheader-allowed-names"]
    assert not result["changed"] and unit.read_text() == text


def test_what_is_wanted_or_what_runs_is_no_edit(tmp_path, run_editor):
    unit = tmp_path / "kube-apiserver.service"
    # The first flag is as it is wanted (a run that was interrupted), the second as the process has it.
    unit.write_text(
        "[Service]\nExecStart=/usr/bin/kube-apiserver --enable-aggregator-routing=true --v=2 "
        "--requestheader-allowed-names=front-proxy-client\n"
    )
    here = host("systemd", [unit], unit, argv=list(RUNNING))
    result = run(run_editor, here, flags={**NAMES, "v": 5}, leave_staged=True)
    assert result["staged_flags"] == [] and result["unread_flags"] == []
    assert result["previous"] == {"v": "2"} and "recorded_changes_info" not in run_editor.modules
    # What does not run has nothing that it could have missed.
    assert run(run_editor, host("systemd", [unit], unit), flags={"v": 6}, leave_staged=True)["staged_flags"] == []


def test_what_this_collection_wrote_itself_is_no_edit_of_somebody(tmp_path, run_editor):
    unit = tmp_path / "kube-apiserver.service"
    unit.write_text("[Service]\nExecStart=" + " ".join(RUNNING) + "\n")
    here = host("systemd", [unit], unit, argv=list(RUNNING), start_time=STARTED)
    run(run_editor, here, flags={"requestheader-allowed-names": ["a"]})
    # That run was killed before the restart, and the next one wants something else.
    result = run(run_editor, here, flags={"requestheader-allowed-names": ["b"]}, leave_staged=True)
    assert result["staged_flags"] == [] and result["changed"] and "--requestheader-allowed-names=b " in unit.read_text()
    # A later edit by somebody else is one again.
    unit.write_text(unit.read_text().replace("=b ", "=c "))
    result = run(run_editor, here, flags={"requestheader-allowed-names": ["b"]}, leave_staged=True)
    assert result["staged_flags"] == ["requestheader-allowed-names"] and not result["changed"]


def test_secrets_are_no_edit_because_the_process_shows_them_masked(tmp_path, run_editor):
    unit = tmp_path / "kube-apiserver.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/kube-apiserver --etcd-servers=https://u:pw@192.0.2.1:2379 --v=2\n")
    here = host("systemd", [unit], unit, argv=["kube-apiserver", "--etcd-servers=https://192.0.2.1:2379", "--v=2"])
    result = run(run_editor, here, flags={"v": 2}, leave_staged=True)
    assert result["unread_flags"] == []


# --- lists ---


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("repeated-allowed-names", ["front-proxy-client", "system:aggregator"]),
        ("static-pod-quoted-allowed-names", ["aggregator"]),
    ],
)
def test_names_that_are_allowed_already_change_nothing(case, names, tmp_path, run_editor):
    manifest = Path(shutil.copy(CORPUS / "cases" / f"{case}.kube-apiserver.yaml", tmp_path / "kube-apiserver.yaml"))
    wanted = {"requestheader-allowed-names": names, "requestheader-extra-headers-prefix": ["X-Remote-Extra-"]}
    result = run(run_editor, host("static_pod", [manifest]), flags=wanted)
    assert not result["changed"] and result["flags"]["requestheader-allowed-names"] == names
    # Another name folds them into one line.
    result = run(run_editor, host("static_pod", [manifest]), flags={"requestheader-allowed-names": [*names, "x"]})
    assert result["previous"] == {"requestheader-allowed-names": names}
    assert manifest.read_text().count("--requestheader-allowed-names=") == 1
    run(run_editor, host("static_pod", [manifest]), flags=result["previous"])
    assert f"    - --requestheader-allowed-names={','.join(names)}\n" in manifest.read_text()


def test_names_of_a_unit_in_quotes_are_none(systemd, run_editor):
    unit = systemd("allowed-names-empty-quotes", "kube-apiserver.service")
    wanted = {"requestheader-allowed-names": [], "requestheader-extra-headers-prefix": ["X-Remote-Extra-"]}
    result = run(run_editor, host("systemd", [unit], unit), flags=wanted)
    assert not result["changed"] and result["flags"]["requestheader-allowed-names"] == []


def test_names_in_literal_quotes_are_one_empty_name_and_can_be_corrected(tmp_path, run_editor):
    argv = (CORPUS / "cases" / "allowed-names-empty-quotes.cmdline-literal.txt").read_text().split("\n")[:-1]
    meant = flags.effective(flags.of_argv(argv, "kube-apiserver"), "kube-apiserver")
    assert meant["requestheader-allowed-names"] == [""]
    assert meant["requestheader-extra-headers-prefix"] == ["X-Remote-Extra-"]
    manifest = tmp_path / "kube-apiserver.yaml"
    command = "".join(f"    - '{word}'\n" for word in argv)
    manifest.write_text(f"kind: Pod\nspec:\n  containers:\n  - name: kube-apiserver\n    command:\n{command}")
    result = run(run_editor, host("static_pod", [manifest]), flags={"requestheader-allowed-names": []})
    assert result["changed"] and result["previous"] == {"requestheader-allowed-names": [""]}
    assert result["flags"]["requestheader-allowed-names"] == []
    run(run_editor, host("static_pod", [manifest]), flags=result["previous"])
    assert '--requestheader-allowed-names=""\'\n' in manifest.read_text()


def test_a_record_names_what_changed_and_no_more(manifest, tmp_path, run_editor):
    result = run(run_editor, host("static_pod", [manifest]))
    record = json.loads((tmp_path / "state" / "changes" / f"{result['change_id']}.json").read_text())
    assert record["what"] == "flags of kube-apiserver: --enable-aggregator-routing"


def test_what_is_known_already_is_not_asked_for_again(manifest, unit, tmp_path, run_editor):
    as_it_is = {"requestheader-client-ca-file": "/etc/kubernetes/pki/front-proxy-ca.crt"}
    run(run_editor, host("static_pod", [manifest]), check_mode=True, flags=as_it_is)
    # The file lies elsewhere on the host than in the container.
    assert run_editor.modules == ["component_info", "definition_file", "definition_file"]
    observed = host("static_pod", [manifest])["components"]["kube-apiserver"]
    as_it_is = {"requestheader-allowed-names": ["front-proxy-client"]}
    run(run_editor, None, check_mode=True, observed=observed, flags=as_it_is)
    assert run_editor.modules == ["definition_file"]

    environment = tmp_path / "apiserver.env"
    unit.write_text(f"[Service]\nEnvironmentFile={environment}\nExecStart=/usr/bin/kube-apiserver $OPTS\n")
    environment.write_text("OPTS=--secure-port=6443\n")
    observed = host("systemd", fragment=unit)["components"]["kube-apiserver"]
    gone = {"path": str(tmp_path / "gone.env"), "optional": True}
    observed["unit_state"]["environment_files"] = [{"path": str(environment), "optional": False}, gone]
    result = run(run_editor, None, check_mode=True, observed=observed, flags={"client-ca-file": str(unit)})
    assert run_editor.modules == ["definition_file", "definition_file"]  # the second one predicts the change
    assert (result["missing_files"], result["files"]) == ([], [str(environment)])


def test_a_process_has_the_secrets_that_its_command_line_does_not_show():
    """component_info takes user names out of URLs; the API server runs with them all the same."""
    argv = ["kube-apiserver", "--etcd-servers=https://etcd.example.com:2379", "--v=2"]
    wanted = {"etcd-servers": ["https://user:word@etcd.example.com:2379"], "v": 4}
    assert component_flags.differing("kube-apiserver", wanted, argv) == ["v"]
    assert component_flags.differing("kube-apiserver", {"etcd-servers": ["https://b.example.com"]}, argv)


def test_a_failure_of_the_write_hands_on_the_change_that_is_still_in_place(monkeypatch):
    editor = component_flags.ActionModule.__new__(component_flags.ActionModule)
    answer = {"failed": True, "msg": "It fails.", "change_id": "20260301T100500Z-1f0c9a3e"}
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    monkeypatch.setattr(editor, "validate_argument_spec", lambda **_given: (None, {}), raising=False)
    monkeypatch.setattr(editor, "_execute_module", lambda **_given: answer, raising=False)
    monkeypatch.setattr(editor, "_remove_tmp_path", lambda _path: None, raising=False)
    editor._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))
    monkeypatch.setattr(editor, "edit", lambda _arguments: editor.module("definition_file"), raising=False)
    assert editor.run() == {**answer, "changed": True}
    del answer["change_id"]
    assert editor.run() == {**answer, "changed": False}
