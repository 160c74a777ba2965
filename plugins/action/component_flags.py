# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller's half of component_flags: finds the definition of a component, edits its flags, writes it back."""

from __future__ import annotations

import datetime
import posixpath
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import processes
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions, flag_plan, masking
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import flags as flag_model
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions import flag_history
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.editor import (
    Change,
    EditError,
    EditorAction,
    HostFile,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.program import (
    ForeignDefinitionError,
    disagreement,
    distribution_advice,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.static_pod import is_file_flag
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.static_pod_editor import (
    StaticPodEditor,
)

VENDOR_UNITS = ("/usr/lib/systemd/system/", "/lib/systemd/system/", "/usr/local/lib/systemd/system/")
LOCAL_UNITS = "/etc/systemd/system/"


class Edited(t.NamedTuple):
    """The outcome of an edit that is not written yet."""

    flags_before: list[flag_model.Flag]
    flags_after: list[flag_model.Flag]
    changes: list[Change]
    added_mounts: list[str]
    host_files: list[str]
    version: str | None
    #: The requested flags that somebody edited and no process has read yet.
    staged: t.Sequence[str] = ()
    #: Whether a unit file holds the edit already and systemd has not read it.
    unread: bool = False


class ActionModule(EditorAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "component": {"type": "str", "required": True, "choices": list(processes.COMPONENTS)},
        "flags": {"type": "dict", "required": True},
        "definition": {"type": "path"},
        "version": {"type": "str"},
        "observed": {"type": "dict"},
        "add_mounts": {"type": "bool", "default": False},
        "remove_obsolete": {"type": "bool", "default": False},
        "leave_staged": {"type": "bool", "default": False},
        "backup": {"type": "bool", "default": True},
        "state_dir": {"type": "path", "default": "/var/lib/kubemetrics"},
    }

    def edit(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        component = arguments["component"]
        wanted = {flag_model.normalize(str(name)): value for name, value in arguments["flags"].items()}
        try:
            flag_plan.check_wanted(arguments["flags"], component)
        except flag_model.FlagError as exc:
            raise EditError(str(exc)) from None
        version = arguments["version"]
        if version and flag_history.parse_version(version) is None:
            raise EditError(f"version is {version!r}, and has to look like v1.36.3.")

        found = arguments["observed"] or self._observe(component)
        if arguments["definition"]:
            kind, edited = self._edit_given(arguments, found, wanted)
        else:
            kind, edited = self._edit_found(arguments, found, wanted)

        changed = previous_values(component, wanted, edited.flags_before, edited.flags_after)
        result = self.write(
            edited.changes,
            what=f"flags of {component}: " + ", ".join(f"--{name}" for name in changed),
            component=component,
            backup=arguments["backup"],
            state_dir=arguments["state_dir"],
        )
        result.update(self._report(component, wanted, kind, found, edited))
        return result

    # --- finding ---

    def _observe(self, component: str) -> dict[str, t.Any]:
        answer = self.module("component_info", components=[component], gather_subset=[])
        return t.cast("dict[str, t.Any]", answer["components"][component])

    def _edit_found(
        self, arguments: dict[str, t.Any], found: dict[str, t.Any], wanted: dict[str, t.Any]
    ) -> tuple[str, Edited]:
        component, kind, files = arguments["component"], found["managed_by"], found["definition_files"]
        if kind in distributions.TABLE:
            raise EditError(distribution_advice(component, kind, wanted))
        if kind == "pod":
            raise EditError(
                f"{component} runs in an ordinary pod of the cluster; change its DaemonSet or Deployment there."
            )
        if kind == "static_pod":
            if len(files) != 1:
                seen = " and ".join(files) if files else "none"
                raise EditError(
                    f"There has to be exactly one manifest of {component} in the kubelet's directory, and there is "
                    f"{seen}; remove the superfluous one, or name the right one as definition."
                )
            return kind, self._edit_pod(arguments, found, wanted, files[0])
        if kind == "systemd" and found["unit_state"] and found["unit_state"]["fragment"]:
            state = found["unit_state"]
            try:
                return kind, self._edit_service(arguments, found, wanted, [state["fragment"], *state["drop_ins"]])
            except ForeignDefinitionError:
                if differing(component, wanted, found["argv"]):
                    raise
                # Somebody else gives the process all that is wanted.
                flags = flag_model.of_argv(found["argv"], component)
                return kind, Edited(flags, flags, [], [], files_of(component, wanted), found["version"])
        where = (
            "runs, but what starts it is" if found["running"] else "does not run on this host, and its definition is"
        )
        raise EditError(f"{component} {where} not known; name its manifest or unit file as definition.")

    def _edit_given(
        self, arguments: dict[str, t.Any], found: dict[str, t.Any], wanted: dict[str, t.Any]
    ) -> tuple[str, Edited]:
        path = arguments["definition"]
        if not posixpath.isabs(path):
            raise EditError(f"definition is {path!r}, and has to be an absolute path.")
        file = self.read([path])[path]
        if not file.exists:
            raise EditError(f"The definition {path} does not exist.")
        if re.search(r"(?m)^\ufeff?\s*\[(Unit|Service|Install)\]\s*$", file.text):
            drop_ins = sorted(self.read([], [path + ".d/*.conf"]), key=posixpath.basename)
            return "systemd", self._edit_service(arguments, found, wanted, [path, *drop_ins])
        return "static_pod", self._edit_pod(arguments, found, wanted, path)

    # --- editing ---

    def _edit_pod(
        self, arguments: dict[str, t.Any], found: dict[str, t.Any], wanted: dict[str, t.Any], path: str
    ) -> Edited:
        # Most of the files that flags name have the same path in the container.
        file = self.read([path], expect=files_of(arguments["component"], wanted))[path]
        if not file.exists:
            raise EditError(f"The manifest {path} does not exist.")
        pod = StaticPodEditor(arguments["component"], path, file.text)
        version = arguments["version"] or found["version"] or pod.image_version
        before = pod.flags
        staged = self._staged(arguments, found, before, wanted)
        asked = without_staged(arguments, wanted, staged)
        pod.edit(complete(arguments, asked, before, version))
        mounts, host_files = self._see_files(arguments, pod, asked)
        return Edited(before, pod.flags, [Change(file, pod.text)], mounts, host_files, version, staged)

    def _see_files(
        self, arguments: dict[str, t.Any], pod: StaticPodEditor, wanted: dict[str, t.Any]
    ) -> tuple[list[str], list[str]]:
        """Make sure that the container sees the files that flags name; (directories added, paths on the host)."""
        added, on_host = [], []
        for path in files_of(pod.component, wanted):
            if pod.host_path(path) is None:
                directory = posixpath.dirname(path)
                if not arguments["add_mounts"]:
                    raise EditError(
                        f"The container of {pod.path} does not see {path}, because no hostPath volume covers it; put "
                        "the file into a mounted directory, or set add_mounts to true."
                    )
                if directory == "/":
                    raise EditError(f"{path} lies in the root directory, which no container mounts; move it.")
                pod.add_mount(directory)
                added.append(directory)
            on_host.append(t.cast(str, pod.host_path(path)))
        return added, on_host

    def _edit_service(
        self, arguments: dict[str, t.Any], found: dict[str, t.Any], wanted: dict[str, t.Any], unit_paths: list[str]
    ) -> Edited:
        component = arguments["component"]
        state = found["unit_state"] or {}
        known = [
            entry["path"] for entry in state.get("environment_files", ()) if not re.search(r"[*?\[]", entry["path"])
        ]
        service, files = self.read_service(component, unit_paths, known, files_of(component, wanted))
        version = arguments["version"] or found["version"]
        before = service.flags
        if found["running"] and not arguments["definition"]:
            self._check_origin(component, found, before, [files[path] for path in files])
        staged = self._staged(arguments, found, before, wanted)
        service.edit(complete(arguments, without_staged(arguments, wanted, staged), before, version))
        changes = []
        for path, text in service.texts.items():
            file = files.get(path) or HostFile(path, False, "", None)
            if text != file.text:
                changes.append(self._local_change(file, text, given=bool(arguments["definition"])))
        unread = any(change.before.exists and change.text == change.before.text for change in changes)
        return Edited(before, service.flags, changes, [], files_of(component, wanted), version, staged, unread)

    def _staged(
        self,
        arguments: dict[str, t.Any],
        found: dict[str, t.Any],
        defined: list[flag_model.Flag],
        wanted: dict[str, t.Any],
    ) -> list[str]:
        """The wanted flags whose definition somebody edited for the next restart, otherwise than it is wanted."""
        component = arguments["component"]
        if not found["running"] or found["in_process"]:
            return []
        names = flag_plan.staged(defined, flag_model.of_argv(found["argv"], component), wanted, component)
        return [] if names and self._unfinished(component, found, arguments["state_dir"]) else names

    def _unfinished(self, component: str, found: dict[str, t.Any], state_dir: str) -> bool:
        """Whether the definition is as this collection wrote it after the process started: a run that did not end."""
        history = self.module("recorded_changes_info", state_dir=state_dir)["changes"]
        return any(
            change["component"] == component
            and change["state"] in ("in_place", "interrupted")
            and change["time"] >= found["start_time"]
            for change in history
        )

    def _check_origin(
        self,
        component: str,
        found: dict[str, t.Any],
        defined: list[flag_model.Flag],
        files: t.Sequence[HostFile],
    ) -> None:
        """Refuse a unit that cannot be what gave the running process its flags."""
        started = datetime.datetime.fromisoformat(found["start_time"].replace("Z", "+00:00")).timestamp()
        problem = disagreement(
            component,
            files[0].path,
            found["flags"],
            flag_model.effective(defined, component),
            any(file.written > started for file in files),
        )
        if problem:
            raise ForeignDefinitionError(problem)

    def _local_change(self, file: HostFile, text: str, *, given: bool) -> Change:
        """A unit of the distribution's package is overridden in /etc: the next update of the package would undo it."""
        for directory in VENDOR_UNITS:
            if file.path.startswith(directory):
                path = LOCAL_UNITS + file.path[len(directory) :]
                local = self.read([path])[path]
                if local.exists and local.text != text:
                    # It overrides the package's as soon as systemd reads it, and what it says is in no text seen here.
                    if given:
                        raise EditError(
                            f"{path} exists and overrides {file.path}; name the unit in /etc as definition."
                        )
                    raise EditError(
                        f"{path} exists and systemd has not read it, so that {file.path} is still used; run systemctl "
                        "daemon-reload, or remove it, and run again."
                    )
                return Change(local, text, "0644", make_directory=True)
        return Change(file, text, "0644")

    # --- reporting ---

    def _report(
        self,
        component: str,
        wanted: dict[str, t.Any],
        kind: str,
        found: dict[str, t.Any],
        edited: Edited,
    ) -> dict[str, t.Any]:
        version = flag_history.parse_version(edited.version)
        names = [flag.name for flag in edited.flags_after]
        obsolete = flag_history.obsolete(component, names, version)
        running = found["running"] and not found["in_process"]
        changed_paths = [change.before.path for change in edited.changes if change.text != change.before.text]
        missing = self.missing(edited.host_files)
        differs = sorted(differing(component, wanted, found["argv"])) if running else None
        units_changed = edited.unread or any(path.endswith((".service", ".conf")) for path in changed_paths)
        # A run that was killed before its daemon-reload has left both to this one.
        units_waiting = bool(differs) and bool((found["unit_state"] or {}).get("need_daemon_reload"))
        result: dict[str, t.Any] = {
            "managed_by": kind,
            "unit": found["unit"] if kind == "systemd" else None,
            "files": changed_paths,
            "daemon_reload": kind == "systemd" and (units_changed or units_waiting),
            "previous": masking.mask_flags(previous_values(component, wanted, edited.flags_before, edited.flags_after)),
            "flags": masking.mask_flags(flag_model.effective(edited.flags_after, component)),
            "obsolete_flags": [one._asdict() for one in obsolete],
            "duplicate_flags": flag_model.duplicates(edited.flags_after, component),
            "added_mounts": edited.added_mounts,
            "missing_files": missing,
            "running_differs": differs,
            "staged_flags": sorted(edited.staged),
            "unread_flags": flag_plan.unread(
                edited.flags_before, flag_model.of_argv(found["argv"], component), wanted, component
            )
            if running
            else [],
        }
        # A prediction may be of files that the next task of a play puts there.
        if missing and not self._task.check_mode:
            result["warnings"] = [
                f"{component} will not start with these flags until {', '.join(missing)} exists on the host."
            ]
        return result


def files_of(component: str, wanted: t.Mapping[str, t.Any]) -> list[str]:
    """The absolute paths that the wanted flags name, each once."""
    found = []
    for name, value in wanted.items():
        if value is not None and is_file_flag(name):
            found += [part for text in flag_plan.values_of(component, name, value) for part in text.split(",")]
    return list(dict.fromkeys(path for path in found if posixpath.isabs(path)))


def without_staged(
    arguments: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any], staged: t.Collection[str]
) -> dict[str, t.Any]:
    """What is wanted, without the staged flags where they are to be left alone."""
    return {name: value for name, value in wanted.items() if not arguments["leave_staged"] or name not in staged}


def complete(
    arguments: t.Mapping[str, t.Any],
    wanted: t.Mapping[str, t.Any],
    present: t.Sequence[flag_model.Flag],
    version_text: str | None,
) -> dict[str, t.Any]:
    """What is wanted, checked against the version, with the removed flags taken out if that was asked for."""
    component, version = arguments["component"], flag_history.parse_version(version_text)
    for name, value in wanted.items():
        refusal = flag_history.refusal(component, name, version) if value is not None else None
        if refusal:
            raise EditError(f"{refusal}; leave it out.")
    result = dict(wanted)
    if arguments["remove_obsolete"]:
        for one in flag_history.obsolete(component, [flag.name for flag in present], version):
            if one.state == "removed":
                result.setdefault(one.name, None)
    return result


def previous_values(
    component: str,
    wanted: t.Mapping[str, t.Any],
    before: t.Sequence[flag_model.Flag],
    after: t.Sequence[flag_model.Flag],
) -> dict[str, t.Any]:
    """What the flags that are different now were before; None where there was none."""
    names = dict.fromkeys([*wanted, *(flag.name for flag in before)])
    old, new = flag_model.effective(before, component), flag_model.effective(after, component)
    return {name: old.get(name) for name in names if old.get(name) != new.get(name)}


def differing(component: str, wanted: t.Mapping[str, t.Any], argv: t.Sequence[str]) -> list[str]:
    """The wanted flags that the running process does not have as wanted: it was not restarted since.

    What ``argv`` says has its secrets masked, and so they are compared without them.
    """
    return flag_plan.outstanding(flag_model.of_argv(argv, component), masking.mask_flags(wanted), component)
