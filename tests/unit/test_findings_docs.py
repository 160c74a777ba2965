# SPDX-License-Identifier: GPL-3.0-or-later
"""Ids, rules, faults of the lab and pages of docs/findings hold together."""

from __future__ import annotations

import findings_docs as docs
import pytest
import yaml
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import catalogue

FAULTS = docs.ROOT / "lab" / "faults"
TESTS = docs.ROOT / "tests" / "unit" / "plugins" / "plugin_utils" / "diagnosis"
ROWS = {row.id: row for row in catalogue.ROWS}
PAGES = docs.pages()


def test_there_are_45_ids():
    assert len(docs.IDS) == 45


def test_every_id_has_a_row():
    assert sorted(ROWS) == sorted(docs.IDS)


def test_every_id_has_a_page():
    assert docs.pages() == list(docs.IDS)


def test_every_id_has_a_fault_in_the_lab():
    # healthy/ and unlisted/ hold what is no row.
    found = [path.parent.name for path in FAULTS.glob("*/fault.yml")]
    assert sorted(found) == sorted(docs.IDS)


@pytest.mark.parametrize("identifier", docs.IDS)
def test_a_fault_can_be_injected_and_healed(identifier):
    folder = FAULTS / identifier
    fault = yaml.safe_load((folder / "fault.yml").read_text(encoding="utf-8"))
    assert (folder / "inject.yml").is_file()
    assert (folder / "heal.yml").is_file()
    assert fault["symptom"]["command"]
    assert fault["symptom"]["expect"]
    assert set(fault.get("also") or []) <= set(docs.IDS) - {identifier}


@pytest.mark.parametrize("identifier", docs.IDS)
def test_a_row_has_a_unit_test(identifier):
    assert any(f'"{identifier}"' in path.read_text(encoding="utf-8") for path in TESTS.glob("test_*_rules.py"))


@pytest.mark.parametrize("identifier", docs.IDS)
def test_a_row_is_written_for_a_person(identifier):
    row = ROWS[identifier]
    assert not row.title.endswith(".")
    for text in (row.symptom, row.cause, row.avoid, row.repair.text):
        assert len(text) > 20
    assert row.repair.kind == "advice" or row.repair.steps
    assert row.documentation.endswith(f"/docs/findings/{identifier}.md")


def test_the_index_is_made_of_the_pages():
    written = (docs.PAGES / "README.md").read_text(encoding="utf-8")
    assert written == docs.rendered(), "run: python tests/unit/findings_docs.py"


@pytest.mark.parametrize("identifier", PAGES)
def test_a_page_has_the_title_of_its_row(identifier):
    assert docs.title(identifier) == ROWS[identifier].title


@pytest.mark.parametrize("identifier", PAGES)
def test_a_page_has_its_sections(identifier):
    found = docs.sections(identifier)
    assert tuple(found) == docs.SECTIONS
    assert all(found.values())


@pytest.mark.parametrize("identifier", PAGES)
def test_a_page_is_found_by_its_messages(identifier):
    assert docs.messages(identifier)


@pytest.mark.parametrize("identifier", PAGES)
def test_a_page_shows_where_on_the_path_it_is(identifier):
    picture = docs.first_block(docs.sections(identifier)["What is going on"])
    positions = [picture[0].find(hop) for hop in docs.HOPS]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert "✗" in picture[0]
    assert len(picture) > 1


@pytest.mark.parametrize("identifier", PAGES)
def test_a_page_names_the_playbook_where_it_repairs(identifier):
    repaired = f"kubemetrics.aggregation.repair -e repair={identifier}" in docs.sections(identifier)["Repair"]
    assert repaired is (ROWS[identifier].repair.kind != "advice")
