# SPDX-License-Identifier: GPL-3.0-or-later
"""What users read speaks the field's language: these words are the project's own, and the field has others for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: What not to write, and what to write instead.
WORDS = {
    r"\blook(s|ed|ing)? at\b|\btwo looks\b|\blook again\b|\blooks first\b|: Look\b": "discover, read, check",
    r"\bstrangers?\b": "unauthenticated client",
    r"\bask(s|ed|ing)? back\b": "webhook authorization",
    r"\beverybody everything\b|\banybody\b": "AlwaysAllow; anyone, unauthenticated clients",
    r"\b(certificates?|tokens?|CA) ends?\b|\bbefore (its|their|the) end\b": "expires",
    r"\b(tak(e|es|en|ing)|took) (it |them |all |one |everything |a change |the change |changes )?back\b": "roll back",
    r"\bthe way back\b|\bput back\b|\bbrings? back what\b": "rollback, restore",
    r"\b(the|its|their|no|behind( a)?|old|same) gates?\b": "health check",
    r"\b(the|as|no) proof\b|\bprov(e|es|ed|en|ing)( |\b)": "verify, verification",
    r"\bAPI is away\b|\bwhile .* is away\b": "unavailable",
    r"\bmakes? room\b|\bfull house\b": "evict, connection limit",
    r"\b(its|the|their) ward\b": "sidecar that resizes its Deployment",
    r"\bborrow(s|ed|ing)?\b": "request a short-lived token",
    r"\bbetter witness\b": "more reliable indicator",
    r"\breckons?\b": "assume",
    r"\blast words\b": "last log lines",
    r"\b[Ff]orget (the|its)\b": "remove the temporary kubeconfig",
    r"\bwhat keeps it\b|\binventory lines\b": "persist in the inventory",
    r"\bway of (pods|the pods|packets)\b|\btraffic of pods\b": "pod traffic forwarding",
    r"\blet through\b|\blets? .{0,30} through\b": "forward, accept",
}
#: What users and maintainers read: documents, names of tasks, messages, documentation of modules, and the server.
PATTERNS = (
    "*.md",
    "*.yml",
    ".ci/*",
    "Makefile",
    "bench/**/*.py",
    "changelogs/fragments/*.yml",
    "docs/*.md",
    "docs/findings/*.md",
    "inventory/**/*.yml",
    "lab/**/*.md",
    "lab/**/*.yml",
    "metrics_server/src/**/*.py",
    "metrics_server/tests/**/*.py",
    "molecule/**/*.yml",
    "playbooks/*.yml",
    "plugins/**/*.py",
    "plugins/**/*.yml",
    "roles/**/*.j2",
    "roles/**/*.md",
    "roles/**/*.yml",
)
FILES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))


def found(text: str) -> list[str]:
    """Each line with such a word, and what to write."""
    return [
        f"{number}: {line.strip()} -> {instead}"
        for number, line in enumerate(text.splitlines(), 1)
        for word, instead in WORDS.items()
        # Names of tests and of variables are no prose.
        if re.search(word, re.sub(r"`[^`]*`", "", line), re.IGNORECASE)
    ]


def test_there_are_files():
    assert {"README.md", "site.yml", "install.md"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_use_the_words_of_the_field(path):
    assert found(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text", ["Look at the cluster", "answers strangers", "The old CA ends soon", "behind the gate"]
)
def test_own_words_are_found(text):
    assert found(text)
