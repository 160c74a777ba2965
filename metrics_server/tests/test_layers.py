# SPDX-License-Identifier: GPL-3.0-or-later
"""Which package may know which: data goes up, from the API server and the kubelets to the API, and no import goes back.

A package may import what stands below it. Those of one row do not know each other.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "metrics_server"
LAYERS = (
    ("flags", "health", "logs", "model", "pace", "quantity", "sharing"),
    ("tls",),
    ("kube",),
    ("auth", "companion", "fragments", "scrape", "serving_certificate"),
    ("approver", "nanny", "store", "telemetry"),
    ("api", "engine"),
    ("options", "unused_flags"),
    ("server",),
    ("command",),
    ("__main__",),
)
LEVEL = {package: level for level, row in enumerate(LAYERS) for package in row}
#: Within one row: the table of flags and those that set no option, which are many.
NEIGHBOURS = {("options", "unused_flags")}
#: The programs beside the server: the server knows none of them, and they know nothing that serves metrics.
COMPANIONS = ("approver", "nanny")
OF_COMPANIONS = {"companion", "flags", "health", "kube", "logs", "pace", "quantity"}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the name below `metrics_server` and the file of every module; a package's own name is its `__init__`."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        if name != "__init__":
            yield name.removesuffix(".__init__"), path


def imported(path: Path) -> Iterator[str]:
    """Yield what a file imports of this program, also within functions and by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "metrics_server":
            module = str(node.module).removeprefix("metrics_server").lstrip(".")
            is_package = (SOURCE / module.replace(".", "/")).is_dir()
            names = [f"{module}.{one.name}".lstrip(".") for one in node.names] if is_package else [module]
            # From the top comes the version, too.
            yield from (name for name in names if not name.startswith("__version"))
        elif isinstance(node, ast.Import):
            yield from filter(None, (named(one.name) for one in node.names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from filter(None, [named(node.value)])


def named(text: str) -> str:
    """Return the module that a text names, or an empty text."""
    package, _unused, module = text.partition(".")
    return module if package == "metrics_server" and (SOURCE / f"{module.replace('.', '/')}.py").is_file() else ""


GRAPH = {name: set(imported(path)) for name, path in modules()}


def top(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_its_place() -> None:
    assert {top(name) for name in GRAPH} == set(LEVEL)
    assert {name for known in GRAPH.values() for name in known} <= set(GRAPH)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_go_down(module: str) -> None:
    package = top(module)
    for known in GRAPH[module]:
        other = top(known)
        if other == package or (package, other) in NEIGHBOURS:
            continue
        assert LEVEL[other] < LEVEL[package], f"{module} imports {known}, which does not stand below it"
        if package in COMPANIONS:
            assert other in OF_COMPANIONS, f"{module} imports {known}, which belongs to the server"
        elif other in (*COMPANIONS, "companion"):
            assert package in ("companion", "__main__"), f"{module} imports {known}, which is another program"


def test_there_is_no_circle() -> None:
    order = list(TopologicalSorter(GRAPH).static_order())
    assert set(order) >= set(GRAPH)


def test_what_is_imported_by_name_is_there() -> None:
    known = GRAPH["__main__"]
    assert {"approver.__main__", "command", "nanny.__main__"} <= known
    assert all(callable(importlib.import_module(f"metrics_server.{name}").main) for name in known - {"flags"})
