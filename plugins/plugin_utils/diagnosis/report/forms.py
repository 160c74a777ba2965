# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The forms of a report. Each is a pure function of the diagnosis document; JSON is that document itself."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import html, markdown, terminal

FORMS = ("terminal", "json", "markdown", "html")

Mapping = t.Mapping[str, t.Any]


def render(diagnosis: Mapping, form: str = "terminal", *, colour: bool = False, inventory: t.Sequence[str] = ()) -> str:
    """The report in that form, without a line break at its end.

    colour and inventory (what the user gave to -i, for the commands that it proposes) concern the form terminal only:
    the others are saved and shown elsewhere.
    """
    if form == "json":
        return json.dumps(diagnosis, indent=2, ensure_ascii=False, default=str)
    if form == "markdown":
        return markdown.render(diagnosis)
    if form == "html":
        return html.render(diagnosis)
    if form == "terminal":
        return terminal.render(diagnosis, colour=colour, inventory=inventory)
    raise ValueError(f"There is no form {form!r} of a report: it is one of {', '.join(FORMS)}.")
