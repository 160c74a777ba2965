# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller's half of kubelet_config: finds the file in effect, edits its text, writes it back."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import kubelet_values as settings
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flags import Value, effective, write_list
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.kubelet_flags import CONFIG_FLAGS
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.yaml_text import (
    YamlText,
    YamlTextError,
    merged,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.editor import (
    Change,
    EditError,
    EditorAction,
    HostFile,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.definitions.kubelet_effective import FLAG_DEFAULTS

DROP_IN = "90-kubemetrics.conf"
HEADER = f"apiVersion: {settings.API_VERSION}\nkind: {settings.KIND}\n"


class Sources(t.NamedTuple):
    """Where the kubelet's settings come from: the main file, and the drop-ins in the order of their use."""

    main: str | None
    drop_in_dir: str | None
    drop_ins: list[str]
    flags: dict[str, Value]

    @property
    def own_drop_in(self) -> str | None:
        return os.path.join(self.drop_in_dir, DROP_IN) if self.drop_in_dir else None


class ActionModule(EditorAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "path": {"type": "path"},
        "config": {"type": "dict", "required": True},
        "fail_on_override": {"type": "bool", "default": False},
        "backup": {"type": "bool", "default": True},
        "state_dir": {"type": "path", "default": "/var/lib/kubemetrics"},
    }

    def edit(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        config = arguments["config"]
        problem = settings.check(config)
        if problem:
            raise EditError(f"config: {problem}")
        sources = self.find_sources(arguments["path"])
        overriding_flags = settings.overriding(sources.flags, config)
        if overriding_flags and arguments["fail_on_override"]:
            shown = ", ".join(f"--{name}={shown_value(value)}" for name, value in overriding_flags.items())
            raise EditError(
                f"Flags of the running kubelet win over its configuration file and say something else: {shown}; "
                "take them out with component_flags first."
            )

        target = sources.own_drop_in or sources.main
        if target is None:
            raise EditError("The kubelet reads no configuration file; set its flags with component_flags instead.")
        paths = [path for path in (sources.main, *sources.drop_ins, target) if path]
        files = self.read(paths)
        after, changed, overriding_files = plan(sources, files, target, config, may_create=bool(arguments["path"]))
        if overriding_files and arguments["fail_on_override"]:
            raise EditError(
                f"The drop-in files {', '.join(overriding_files)} are applied after {target} and say something else; "
                "correct or remove them first."
            )
        result = self.write(
            [Change(files[target], after)],
            what="kubelet configuration: " + ", ".join(changed),
            component="kubelet",
            backup=arguments["backup"],
            state_dir=arguments["state_dir"],
        )
        backup_files = result.pop("backup_files")
        result.update(
            path=target,
            backup_file=backup_files.get(target),
            overriding_flags=overriding_flags,
            overriding_files=overriding_files,
        )
        return result

    def find_sources(self, path: str | None) -> Sources:
        found = self.module("component_info", components=["kubelet"], gather_subset=[])
        kubelet, config = found["components"]["kubelet"], found["kubelet_config"]
        flags = config["overriding_flags"]
        if path:
            if not os.path.isabs(path):
                raise EditError(f"path is {path!r}, and has to be absolute.")
            return Sources(path, None, [], flags)
        if kubelet.get("in_process"):
            entry = distributions.TABLE[kubelet["managed_by"]]
            raise EditError(
                f"The kubelet of this host runs inside of {entry.name}, which writes its configuration; put the "
                f"settings into {distributions.flags_place(kubelet['managed_by'], 'kubelet')}, as flags of the kubelet."
            )
        if not kubelet["running"]:
            return self.find_defined_sources(kubelet)
        if not config["path"] and not config["drop_in_dir"]:
            raise EditError(
                "The kubelet of this host runs without a configuration file (no --config in its command line); change "
                "its flags with component_flags, or give it a file."
            )
        return Sources(config["path"], config["drop_in_dir"], [entry["path"] for entry in config["drop_ins"]], flags)

    def find_defined_sources(self, kubelet: dict[str, t.Any]) -> Sources:
        """The sources of a kubelet that does not run, perhaps because of its configuration: what its unit says."""
        state = kubelet["unit_state"]
        if kubelet["managed_by"] != "systemd" or not state or not state["fragment"]:
            raise EditError(
                "No kubelet runs on this host and it has no unit, so the file that it reads is not known; name it by "
                "path."
            )
        service, _files = self.read_service("kubelet", [state["fragment"], *state["drop_ins"]])
        flags = effective(service.flags, "kubelet")
        main, drop_in_dir = absolute(flags.get("config")), absolute(flags.get("config-dir"))
        if not main and not drop_in_dir:
            raise EditError(
                f"No kubelet runs on this host, and its unit {state['fragment']} names no configuration file; name the "
                "file by path."
            )
        drop_ins = sorted(self.read([], [os.path.join(drop_in_dir, "*.conf")])) if drop_in_dir else []
        return Sources(main, drop_in_dir, drop_ins, {name: flags[name] for name in flags if name in CONFIG_FLAGS})


def shown_value(value: Value) -> str:
    return write_list(value) if isinstance(value, list) else value


def absolute(path: t.Any) -> str | None:
    """A path from a unit, whose services start in the root directory."""
    return os.path.normpath(os.path.join("/", path)) if path else None


def walk_order(path: str) -> list[str]:
    """Sorts drop-ins as the kubelet meets them: name by name at each level of directories."""
    return path.split("/")


def load(file: HostFile) -> YamlText:
    """The document in a file of the kubelet."""
    try:
        document = YamlText(file.text if file.exists else HEADER, file.path)
    except YamlTextError as exc:
        raise EditError(str(exc)) from None
    if not isinstance(document.data, dict) or document.data.get("kind") != settings.KIND:
        raise EditError(
            f"{file.path} is not a {settings.KIND} (its kind says otherwise or is missing); is the path right?"
        )
    return document


def plan(
    sources: Sources,
    files: t.Mapping[str, HostFile],
    target: str,
    config: dict[str, t.Any],
    *,
    may_create: bool,
) -> tuple[str, list[str], list[str]]:
    """The new text of ``target``, the settings that change, and the files that are applied later and void some."""
    if sources.main and not files[sources.main].exists and not may_create:
        raise EditError(f"{sources.main} is named by the running kubelet but does not exist; restore it or give path.")
    order = [sources.main] if sources.main else []
    order += sorted({*sources.drop_ins, target} - set(order), key=walk_order)
    documents = {path: load(files[path]) for path in order}

    effective = effective_config(order, documents)
    # Without a main file, the kubelet merges its drop-ins into the old defaults of its flags.
    outstanding = settings.outstanding(config, effective if sources.main else merged(FLAG_DEFAULTS, effective))
    if not outstanding:
        return files[target].text, [], []

    document = documents[target]
    try:
        document.merge(outstanding)
    except YamlTextError as exc:
        raise EditError(str(exc)) from None

    effective = effective_config(order, documents)
    blocked = set()
    for path, wanted in settings.leaves(outstanding):
        if settings.holds(path, settings.lookup(effective, path), wanted):
            continue
        setters = [name for name in order if name != target and settings.lookup(documents[name].data, path) is not None]
        if wanted is None:
            raise EditError(
                f"{'.'.join(path)} cannot be removed by a drop-in: {setters[0]} sets it; name that file by path."
            )
        blocked.update(name for name in setters if order.index(name) > order.index(target))
    changed = sorted(".".join(path) for path, _wanted in settings.leaves(outstanding))
    return document.text, changed, sorted(blocked)


def effective_config(order: t.Sequence[str], documents: t.Mapping[str, YamlText]) -> dict[str, t.Any]:
    """What the kubelet makes of its files: mappings are merged, everything else is replaced."""
    result: dict[str, t.Any] = {}
    for path in order:
        result = merged(result, documents[path].data)
    return result
