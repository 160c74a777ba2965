# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the index of docs/findings from its pages; run it to write it.

python tests/unit/findings_docs.py
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "findings"
BEGIN = "<!-- findings: written by tests/unit/findings_docs.py -->"
END = "<!-- /findings -->"

#: The failure catalogue. Ids are stable: they appear in reports, in tests and on the pages.
COUNTS = {"AGG": 12, "NET": 10, "POD": 7, "KUB": 11, "CON": 3, "LIF": 2}
IDS = tuple(f"{group}-{number:02}" for group, count in COUNTS.items() for number in range(1, count + 1))
GROUPS = {
    "AGG": "API servers, front proxy and registration",
    "NET": "Network between the parts",
    "POD": "Pods of the metrics server",
    "KUB": "Kubelets",
    "CON": "Consequences, seen elsewhere",
    "LIF": "Upgrades and clocks",
}
SECTIONS = ("Symptom", "What is going on", "See it by hand", "Repair", "What not to do")
HOPS = ("kubectl top", "API server", "Service", "metrics server", "kubelet")


def pages() -> list[str]:
    """The ids that have a page, in the catalogue's order."""
    names = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    return sorted(names, key=lambda name: (IDS.index(name) if name in IDS else len(IDS), name))


def page(identifier: str) -> str:
    return (PAGES / f"{identifier}.md").read_text(encoding="utf-8")


def title(identifier: str) -> str:
    first = page(identifier).splitlines()[0]
    return first.removeprefix(f"# {identifier}: ") if first.startswith(f"# {identifier}: ") else ""


def sections(identifier: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    # A comment of a shell begins like a heading: only what is outside of blocks is one.
    found: dict[str, list[str]] = {}
    current: list[str] = []
    block = False
    for line in page(identifier).splitlines()[1:]:
        block ^= line.startswith("```")
        if line.startswith("## ") and not block:
            current = found.setdefault(line[3:], [])
        else:
            current.append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def first_block(text: str, language: str = "text") -> list[str]:
    """The lines of the first block of that language."""
    match = re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return match.group(1).splitlines() if match else []


def messages(identifier: str) -> list[str]:
    """The error messages by which a page is found."""
    return [line for line in first_block(sections(identifier).get("Symptom", "")) if line.strip()]


def code(message: str) -> str:
    """As code in a cell of a table, whatever is in it."""
    mark = "``" if "`" in message else "`"
    return f"{mark}{message}{mark}".replace("|", "\\|")


def index() -> str:
    found: dict[str, list[str]] = {}
    for identifier in pages():
        for message in messages(identifier):
            found.setdefault(message, []).append(identifier)
    lines = [BEGIN, "| message | finding |", "|---|---|"]
    for message, identifiers in sorted(found.items(), key=lambda item: item[0].lower()):
        links = ", ".join(f"[{identifier}]({identifier}.md)" for identifier in identifiers)
        lines.append(f"| {code(message)} | {links} |")
    for group, meaning in GROUPS.items():
        listed = [identifier for identifier in pages() if identifier.startswith(group)]
        if listed:
            lines += ["", f"## {meaning}", ""]
            lines += [f"- [{identifier}]({identifier}.md): {title(identifier)}" for identifier in listed]
    return "\n".join([*lines, END])


def rendered() -> str:
    """docs/findings/README.md as it has to be: what people wrote, with the index between the marks."""
    text = (PAGES / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/findings/README.md lacks the marks {BEGIN} and {END}.")
    return before + index() + after


if __name__ == "__main__":
    (PAGES / "README.md").write_text(rendered(), encoding="utf-8")
    print(PAGES / "README.md")
