# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Puts the evidence together, or reads it from a file, and diagnoses it."""

from __future__ import annotations

import datetime
import re
import typing as t
from pathlib import Path

import yaml
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import evidence_document
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import engine
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import EvidenceError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.private_file import FileError, write_private

COLLECTION = Path(__file__).resolve().parents[2]

#: How Ansible talks to hosts that it does not examine here.
WINDOWS = re.compile(r"(winrm|psrp)$")
WINDOWS_LEAVES_OPEN = "All but what its kubelet answers stays unknown."


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "evidence": {"type": "path", "default": ""},
        "hosts": {"type": "list", "elements": "str", "default": []},
        "discovery_variable": {"type": "str", "default": ""},
        "connections_variable": {"type": "str", "default": ""},
        "api_variable": {"type": "str", "default": ""},
        "evidence_file": {"type": "path", "default": ""},
        "apiservice": {"type": "str", "default": "v1beta1.metrics.k8s.io"},
    }

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        arguments = native(arguments)
        result["changed"] = False
        try:
            document = self.loaded(arguments) if arguments["evidence"] else self.assembled(arguments)
            if arguments["evidence_file"]:
                write_private(arguments["evidence_file"], evidence_document.to_text(document))
            result["diagnosis"] = engine.diagnose(document)
        except (FileError, EvidenceError) as exc:
            result.update(failed=True, msg=str(exc))
        return result

    def loaded(self, arguments: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        path = arguments["evidence"]
        try:
            text = Path(path).read_text(encoding="utf-8")
            return evidence_document.from_text(text, path)
        except UnicodeDecodeError as exc:
            raise FileError(f"{path} is no text; give doctor_evidence a file that doctor has saved.") from exc
        except OSError as exc:
            raise FileError(
                f"{path} cannot be read ({exc.strerror}); give doctor_evidence the path of a file on the controller."
            ) from exc
        except ValueError as exc:
            raise FileError(str(exc)) from exc

    def assembled(self, arguments: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """The document of what the steps before have found."""
        known = self.task_vars["hostvars"]
        hosts: dict[str, dict[str, t.Any]] = {}
        left_out = []
        for name in arguments["hosts"]:
            variables = known.raw_get(name)
            if WINDOWS.search(str(variables.get("ansible_connection") or "")):
                left_out.append({"what": name, "why": "it runs Windows", "leaves_open": WINDOWS_LEAVES_OPEN})
                continue
            hosts[name] = {
                "discovered": step_of(variables.get(arguments["discovery_variable"])),
                "connected": step_of(variables.get(arguments["connections_variable"])),
            }
        collected = native(self.task_vars.get(arguments["api_variable"]) or {})
        now = datetime.datetime.now(datetime.timezone.utc)
        moments = [entry["discovered"]["started"] for entry in hosts.values() if entry["discovered"]]
        moments += [collected["started"]] if "started" in collected else []
        return evidence_document.assemble(
            hosts,
            collected.get("api"),
            started=min((datetime.datetime.fromisoformat(moment) for moment in moments), default=now),
            now=now,
            apiservice=arguments["apiservice"],
            versions={"collection": collection_version(), "ansible": ansible_version},
            left_out=left_out,
        )


def step_of(result: t.Any) -> dict[str, t.Any] | None:
    """What a step has found on a host; None where it was skipped or failed."""
    found = native(result) if isinstance(result, dict) else {}
    return found if "errors" in found else None


def collection_version() -> str:
    """The version of this collection, from what Galaxy made of it or from its sources."""
    for name, keys in (("MANIFEST.json", ("collection_info", "version")), ("galaxy.yml", ("version",))):
        path = COLLECTION / name
        if path.is_file():
            value: t.Any = yaml.safe_load(path.read_text(encoding="utf-8"))
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if value:
                return str(value)
    return "unknown"
