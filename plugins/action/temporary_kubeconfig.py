# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies a kubeconfig from a host to the controller for the time of a play, and removes it again."""

from __future__ import annotations

import base64
import contextlib
import os
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubeconfig
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "path": {"type": "str", "required": True},
        "source": {"type": "str"},
        "server": {"type": "str"},
        "on_controller": {"type": "bool", "default": True},
    }

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        _validation, given = self.validate_argument_spec(
            argument_spec=self.ARGUMENTS, required_if=[("state", "present", ("source", "server"))]
        )
        arguments = native(given)
        # It comes and goes within a play, and is nobody's state.
        result["changed"] = False
        try:
            if arguments["state"] == "present":
                result.update(self.create(arguments))
            else:
                self.remove(arguments)
        except kubeconfig.KubeconfigError as exc:
            result.update(failed=True, msg=str(exc))
        return result

    def create(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        content = kubeconfig.portable(arguments["source"], arguments["server"], self.read)
        if not arguments["on_controller"]:
            return {"content": content}
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            descriptor = os.open(arguments["path"], flags, 0o600)
        except OSError as exc:
            raise kubeconfig.KubeconfigError(
                f"The temporary kubeconfig {arguments['path']} cannot be written ({exc.strerror}); name an existing "
                "directory as cluster_temporary_directory."
            ) from exc
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
        return {}

    def remove(self, arguments: dict[str, t.Any]) -> None:
        if arguments["on_controller"]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(arguments["path"])
            return
        done = self._execute_module(
            module_name="ansible.legacy.file",
            module_args={"path": arguments["path"], "state": "absent"},
            task_vars=self.task_vars,
        )
        if done.get("failed"):
            raise kubeconfig.KubeconfigError(str(done.get("msg") or f"{arguments['path']} could not be removed."))

    def read(self, path: str) -> bytes:
        """A file of the host that has the kubeconfig."""
        answer = self._execute_module(
            module_name="ansible.legacy.slurp", module_args={"src": path}, task_vars=self.task_vars
        )
        if answer.get("failed"):
            raise kubeconfig.KubeconfigError(
                f"{path} could not be read ({str(answer.get('msg') or 'no message').rstrip('.')}); give the path of "
                "another kubeconfig as cluster_kubeconfig."
            )
        return base64.b64decode(answer["content"])
