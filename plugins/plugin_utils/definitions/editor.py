# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the editors' action plugins share: read files of the host, decide here, write them back as one change."""

from __future__ import annotations

import base64
import fnmatch
import posixpath
import re
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.masking import mask_text
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.program import DefinitionError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.systemd_editor import SystemdEditor
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native


class EditError(Exception):
    """One sentence for the user: what is wrong, where, and what to do.

    ``change_id`` is of a recorded change that is in place, in whole or in part, although it failed.
    """

    def __init__(self, sentence: str, change_id: str | None = None) -> None:
        super().__init__(sentence)
        self.change_id = change_id


class HostFile(t.NamedTuple):
    """A file as it is on the host; ``text`` is empty when it does not exist."""

    path: str
    exists: bool
    text: str
    sha256: str | None
    #: When it was written, in seconds since 1970.
    written: float = 0.0
    #: The systemd services that read it as an environment file, where that was asked for.
    services: t.Sequence[str] = ()


class Change(t.NamedTuple):
    """A file as it shall be on the host; ``mode`` and ``make_directory`` are for one that does not exist yet."""

    before: HostFile
    text: str
    mode: str = "0600"
    make_directory: bool = False


def expand(patterns: t.Sequence[str], files: t.Mapping[str, HostFile]) -> dict[str, list[str]]:
    """Pattern -> those of the files that match it, sorted, as systemd takes them."""
    return {
        pattern: sorted(
            path
            for path in files
            if posixpath.dirname(path) == posixpath.dirname(pattern) and fnmatch.fnmatchcase(path, pattern)
        )
        for pattern in patterns
    }


class EditorAction(ActionBase):
    """Base of the editors. A subclass decides in ``edit``; whatever it raises as EditError is shown as one sentence."""

    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    #: The argument spec, the same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {}

    #: Paths on the host, and whether there is something.
    known_to_exist: dict[str, bool]

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        self.known_to_exist = {}
        _validation, arguments = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        try:
            result.update(self.edit(native(arguments)))
        except (EditError, DefinitionError) as exc:
            # A sentence about a file may quote a part of it.
            result.update(failed=True, changed=False, msg=mask_text(str(exc)))
            if isinstance(exc, EditError) and exc.change_id:
                result.update(changed=True, change_id=exc.change_id)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def edit(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        raise NotImplementedError

    def module(self, name: str, **arguments: t.Any) -> dict[str, t.Any]:
        """Run a module of this collection on the host; its failure is this task's failure."""
        result: dict[str, t.Any] = native(
            self._execute_module(
                module_name=f"kubemetrics.aggregation.{name}", module_args=arguments, task_vars=self.task_vars
            )
        )
        if result.get("failed"):
            raise EditError(
                str(result.get("msg") or f"The module {name} failed on the host without a message."),
                result.get("change_id"),
            )
        return result

    def read(
        self,
        paths: t.Iterable[str],
        patterns: t.Iterable[str] = (),
        *,
        expect: t.Iterable[str] = (),
        services: bool = False,
    ) -> dict[str, HostFile]:
        """The files at ``paths``, and those that match ``patterns``, by their path, in one trip to the host.

        With ``services``, each one's systemd services that read it as an environment file. Whether the files in
        ``expect`` exist is found out on the same trip; missing() knows it then.
        """
        wanted, matching, expected = list(dict.fromkeys(paths)), list(patterns), list(dict.fromkeys(expect))
        if not wanted and not matching:
            return {}
        found = {}
        result = self.module(
            "definition_file", operation="read", paths=wanted, patterns=matching, expect=expected, services=services
        )
        self.known_to_exist.update({path: path not in result["missing"] for path in expected})
        for entry in result["files"]:
            try:
                text = base64.b64decode(entry["content"]).decode("utf-8")
            except UnicodeDecodeError:
                raise EditError(f"{entry['path']} is not UTF-8 text; is the path right?") from None
            found[entry["path"]] = HostFile(
                entry["path"], entry["exists"], text, entry["sha256"], entry["written"] or 0.0, entry["services"]
            )
        return found

    def read_service(
        self, component: str, unit_paths: list[str], also: t.Sequence[str] = (), expect: t.Sequence[str] = ()
    ) -> tuple[SystemdEditor, dict[str, HostFile]]:
        """A systemd service with all its files. Raises EditError and DefinitionError.

        ``also`` are environment files that systemd names: read at once, they save another trip to the host.
        """
        files = self.read([*unit_paths, *also], expect=expect, services=bool(also))
        gone = [path for path in unit_paths if not files[path].exists]
        if gone:
            raise EditError(f"The unit file {gone[0]} does not exist; run systemctl daemon-reload and try again.")
        # Which environment files there are is known only after the units were read.
        units = {path: files[path].text for path in unit_paths}
        paths = SystemdEditor(component, unit_paths, units).environment_paths
        patterns = [path for path in paths if re.search(r"[*?\[]", path)]
        unread = [path for path in paths if path not in patterns and path not in files]
        files.update(self.read(unread, patterns, services=True))
        # What systemd has not read again yet may name files that the units no longer do.
        files = {path: file for path, file in files.items() if path not in also or path in paths}
        readers = {path: file.services for path, file in files.items() if path not in unit_paths}
        texts = {path: file.text for path, file in files.items()}
        return SystemdEditor(component, unit_paths, texts, expand(patterns, files), readers), files

    def missing(self, paths: t.Iterable[str]) -> list[str]:
        """Those of the paths that do not exist on the host."""
        wanted = list(dict.fromkeys(paths))
        unknown = [path for path in wanted if path not in self.known_to_exist]
        if unknown:
            answer = self.module("definition_file", operation="read", expect=unknown)
            self.known_to_exist.update({path: path not in answer["missing"] for path in unknown})
        return [path for path in wanted if not self.known_to_exist[path]]

    def write(
        self,
        changes: t.Sequence[Change],
        *,
        what: str,
        component: str,
        backup: bool,
        state_dir: str,
    ) -> dict[str, t.Any]:
        """Write ``changes`` as one change and return changed, diff, change_id and backup_files."""
        pending = [change for change in changes if change.text != change.before.text]
        result: dict[str, t.Any] = {"changed": bool(pending), "change_id": None, "backup_files": {}}
        if self._task.diff:
            result["diff"] = [
                {
                    "before_header": change.before.path if change.before.exists else f"{change.before.path} (absent)",
                    "after_header": change.before.path,
                    "before": mask_text(change.before.text),
                    "after": mask_text(change.text),
                }
                for change in pending
            ]
        if not pending:
            return result
        written = self.module(
            "definition_file",
            operation="replace",
            files=[
                {
                    "path": change.before.path,
                    "content": base64.b64encode(change.text.encode("utf-8")).decode("ascii"),
                    "expected_sha256": change.before.sha256,
                    "mode": change.mode,
                    "make_directory": change.make_directory,
                }
                for change in pending
            ],
            what=what,
            component=component,
            backup=backup,
            state_dir=state_dir,
        )
        result.update(change_id=written["change_id"], backup_files=written["backup_files"])
        return result
