# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as one page: no request to anywhere, no script, everything that it quotes escaped. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import typing as t

import jinja2
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import outline, picture
from markupsafe import Markup

#: Lines of evidence of a finding that are shown at once; the others can be unfolded.
EVIDENCE = 12
#: Entries of a list; no reader wants more, and the form json has all.
ENTRIES = 50

STYLE = """
:root{color-scheme:light dark;--ground:#f6f5f2;--paper:#fff;--ink:#1d2129;--soft:#5a6270;--line:#dcdad4;--quiet:#f1efea;
--ok:#1f7a4d;--okline:#9cc9b1;--bad:#c0292b;--badground:#fdecea;--badline:#e5a19f;--open:#8a6100;--openground:#fdf4dc;
--openline:#d6c08a;--link:#1b56a8;--on:#fff}
@media (prefers-color-scheme:dark){:root{--ground:#14161a;--paper:#1c1f25;--ink:#e6e8ec;--soft:#a2a9b6;--line:#333842;
--quiet:#23272f;--ok:#63c795;--okline:#2f6b4d;--bad:#ff8a84;--badground:#3a1d1f;--badline:#8a4443;--open:#e8bf62;
--openground:#352c17;--openline:#75622f;--link:#8ab8f5;--on:#14161a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:clamp(20px,4vw,48px) clamp(16px,3vw,32px) 40px}
h1,h2,h3{line-height:1.25;letter-spacing:-.011em;
text-wrap:pretty;margin:0}
h1{font-size:clamp(1.4rem,1.1rem + 1.6vw,2rem);font-weight:700;overflow-wrap:anywhere}
h2{font-size:1.15rem;font-weight:650;margin:40px 0 12px}
p{margin:0}
a{color:var(--link);text-underline-offset:.18em;text-decoration-thickness:1px}
code,pre,.id,.name{
font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace}
.verdict{display:inline-flex;align-items:center;gap:8px;font-size:.8rem;font-weight:650;letter-spacing:.04em;
text-transform:uppercase;margin-bottom:12px;color:var(--open)}
.verdict::before{content:"";width:10px;height:10px;border-radius:50%;background:currentColor}
.verdict.well{color:var(--ok)}.verdict.findings{color:var(--bad)}
.meta{color:var(--soft);font-size:.9rem;margin-top:10px}
figure{margin:28px 0 0;padding:20px;background:var(--paper);border:1px solid var(--line);border-radius:14px}
svg.path{display:block;width:100%;height:auto;overflow:visible}
svg.narrow{display:none}
svg text{fill:var(--ink);font-size:12px}
svg .kind{fill:var(--soft);font-size:11.5px;font-weight:600;letter-spacing:.03em}
svg .name{font-weight:600}
svg .said{fill:var(--soft)}
svg .box,svg .behind{fill:var(--paper);stroke:var(--okline);stroke-width:1.2}
svg .behind{opacity:.75}
svg .badge{fill:var(--ok)}
svg .mark{fill:var(--on);font-size:12px;font-weight:700}
svg .broken .box,svg .broken .behind{fill:var(--badground);stroke:var(--bad);stroke-width:2}
svg .broken .badge{fill:var(--bad)}
svg .broken .said{fill:var(--ink)}
svg .unknown .box,svg .unknown .behind{fill:var(--paper);stroke:var(--openline);stroke-dasharray:5 4}
svg .unknown .badge{fill:var(--open)}
svg .client.broken .box{fill:var(--paper);stroke:var(--badline);stroke-width:1.2}
svg .edge{fill:none;stroke:var(--okline);stroke-width:1.6}
svg .edge.broken{stroke:var(--bad);stroke-width:2.2}
svg .edge.unknown{stroke:var(--openline);stroke-dasharray:5 4}
svg .edge.cut{stroke:var(--bad);stroke-dasharray:2 5;stroke-linecap:round}
svg .chip{fill:var(--bad)}
svg .id{fill:var(--on);font-size:11px;font-weight:600}
svg .ok .chip{fill:var(--open)}
svg .follows .chip{fill:none;stroke:var(--bad)}
svg .follows .id{fill:var(--bad)}
figcaption{margin-top:16px;font-size:.85rem;color:var(--soft)}
details{margin-top:14px}
summary{cursor:pointer;color:var(--soft);font-size:.9rem}
table{width:100%;border-collapse:collapse;margin-top:10px;font-size:.9rem}
td,th{text-align:left;vertical-align:top;padding:7px 12px 7px 0;border-top:1px solid var(--line);overflow-wrap:anywhere}
th{font-weight:600;white-space:nowrap}
article{background:var(--paper);border:1px solid var(--line);border-left:5px solid var(--bad);border-radius:12px;
padding:clamp(16px,2.5vw,26px);margin-top:16px;scroll-margin-top:16px}
article.warning{border-left-color:var(--open)}
article:target{outline:2px solid var(--link);outline-offset:3px}
h3{font-size:1.1rem;font-weight:650;overflow-wrap:anywhere}
h3 .id{display:inline-block;font-size:.82rem;font-weight:650;padding:2px 9px;border-radius:999px;background:var(--bad);
color:var(--on);margin-right:8px;vertical-align:.08em;letter-spacing:0}
.warning h3 .id{background:var(--open)}
.hosts{color:var(--soft);font-size:.92rem;margin-top:4px;overflow-wrap:anywhere}
dl{margin:18px 0 0;display:grid;grid-template-columns:7.2rem minmax(0,1fr);gap:14px 18px}
dt{color:var(--soft);font-size:.88rem;padding-top:.12em}
dd{margin:0;min-width:0;overflow-wrap:anywhere;max-width:76ch}
dd.full{max-width:none}
pre{margin:0;padding:12px 14px;background:var(--quiet);border-radius:8px;font-size:.82rem;line-height:1.5;
white-space:pre-wrap;overflow-wrap:anywhere}
pre+pre,dd p+pre,dd pre+p{margin-top:10px}
dd details pre{margin-top:8px}
pre.command{border:1px solid var(--line);background:var(--ground)}
pre.command::before{content:"$ ";color:var(--soft);user-select:none;-webkit-user-select:none}
.cost{color:var(--soft);font-size:.9rem;margin-top:6px}
dt.avoid{color:var(--bad)}
ul{margin:0;padding-left:1.15em}
li+li{margin-top:6px}
li{overflow-wrap:anywhere}
.plain{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:clamp(16px,2.5vw,26px)}
.plain h3{font-size:1rem}
.plain pre{margin:8px 0 18px}
.plain pre:first-child{margin-top:0}
.plain p:last-child,.plain pre:last-child{margin-bottom:0}
footer{margin-top:48px;padding-top:16px;border-top:1px solid var(--line);color:var(--soft);font-size:.85rem}
@media (max-width:860px){svg.wide{display:none}svg.narrow{display:block;max-width:400px}}
@media (max-width:720px){figure{padding:14px}
dl{grid-template-columns:minmax(0,1fr);gap:4px}dd+dt{margin-top:14px}th{white-space:normal}}
@media print{body{background:#fff}figure,article,.plain{break-inside:avoid}}
"""

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-{{ digest }}'; \
base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="robots" content="noindex">
<title>{{ headline }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<header>
<p class="verdict {{ verdict }}">{{ said }}</p>
<h1>{{ headline }}</h1>
{%- if collected %}
<p class="meta">{{ collected }}</p>
{%- endif %}
</header>
<figure>
{{ wide }}
{{ narrow }}
<figcaption>{{ caption }}</figcaption>
<details>
<summary>Every hop</summary>
<table>
{%- for kind, rows in path %}
{%- for hops in rows %}
<tr><th scope="row">{{ kinds.get(kind, kind) if loop.first else "" }}</th>
<td>{{ marks.get(hops.state, "?") }} {{ hops.names | join(", ") }}</td>
<td>{{ hops.findings | join(", ") }}{{ ": " if hops.findings else "" }}{{ hops.text }}</td></tr>
{%- endfor %}
{%- endfor %}
</table>
</details>
</figure>
{%- if findings %}
<h2>{{ "What to do" if findings | length == 1 else "What to do, in this order" }}</h2>
{%- endif %}
{%- for finding in findings %}
<article id="{{ finding.id }}" class="{{ finding.severity }}">
<h3><span class="id">{{ finding.id }}</span>{{ finding.title }}</h3>
{%- if finding.hosts %}
<p class="hosts">on {{ finding.hosts }}</p>
{%- endif %}
<dl>
<dt>Symptom</dt><dd>{{ finding.symptom }}</dd>
<dt>Cause</dt><dd>{{ finding.cause }}</dd>
{%- if finding.evidence %}
<dt>Evidence</dt><dd class="full"><pre>{{ finding.evidence | join("\\n") }}</pre>
{%- if finding.rest %}
<details><summary>{{ finding.rest | length }} more lines</summary><pre>{{ finding.rest | join("\\n") }}</pre></details>
{%- endif %}</dd>
{%- endif %}
<dt>Repair</dt><dd class="full"><p>{{ finding.repair }}</p>
<p class="cost">{{ finding.cost }}{{ " Done only when it is asked for by its id." if finding.consent else "" }}</p>
{%- for command in finding.commands %}
<pre class="command">{{ command }}</pre>
{%- endfor %}</dd>
<dt class="avoid">What not to do</dt><dd>{{ finding.avoid }}</dd>
{%- if finding.consequences %}
<dt>Leads to</dt><dd><ul>
{%- for other in finding.consequences %}
<li id="{{ other.id }}"><code>{{ other.id }}</code> {{ other.title }}{{ other.where }}</li>
{%- endfor %}</ul></dd>
{%- endif %}
<dt>Read more</dt><dd>
{%- if finding.link %}<a href="{{ finding.link }}" rel="noreferrer noopener">{{ finding.link_text }}</a>{% endif %}</dd>
</dl>
</article>
{%- endfor %}
{%- if together %}
<h2>All that the playbook repairs</h2>
<div class="plain"><pre class="command">{{ together }}</pre></div>
{%- endif %}
{%- if unexplained %}
<h2>Not in the catalogue, as it was measured</h2>
<div class="plain">
{%- for entry in unexplained %}
<h3>{{ entry.layer }}{{ entry.hosts }}</h3>
<pre>{{ entry.evidence | join("\\n") }}</pre>
{%- endfor %}
<p>Please report it with the evidence (<code>-e doctor_evidence_file=FILE</code> saves it):
<a href="{{ issues }}" rel="noreferrer noopener">{{ issues }}</a></p>
</div>
{%- endif %}
{%- for heading, entries, more in lists %}
<h2>{{ heading }}</h2>
<div class="plain"><ul>
{%- for entry in entries %}
<li>{{ entry }}</li>
{%- endfor %}
{%- if more %}
<li>and {{ more }} more</li>
{%- endif %}
</ul></div>
{%- endfor %}
<footer>{{ version }}. This page requests nothing from anywhere.</footer>
</main>
</body>
</html>"""

Mapping = t.Mapping[str, t.Any]


def render(diagnosis: Mapping) -> str:
    """The report as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    together = outline.repairable(diagnosis)
    verdict = str(diagnosis.get("verdict"))
    return environment.from_string(_TEMPLATE).render(
        digest=base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii"),
        style=Markup(STYLE),
        headline=outline.clean(diagnosis.get("headline")),
        verdict=verdict if verdict in ("well", "findings") else "unknown",
        said=_verdict(diagnosis),
        collected=outline.collected(diagnosis),
        version=outline.version(diagnosis),
        wide=picture.wide(diagnosis),
        narrow=picture.narrow(diagnosis),
        caption=_caption(diagnosis),
        path=outline.path(diagnosis),
        kinds=outline.KINDS,
        marks=picture.MARKS,
        findings=[_finding(finding, others) for finding, others in outline.roots(diagnosis)],
        together=outline.command(together) if len(together) > 1 else "",
        unexplained=[_unexplained(entry) for entry in (diagnosis.get("unexplained") or ())[:ENTRIES]],
        issues=outline.ISSUES,
        lists=[
            (heading, [outline.clean(entry) for entry in entries[:ENTRIES]], max(0, len(entries) - ENTRIES))
            for heading, entries in (
                ("Unknown", diagnosis.get("unknown") or []),
                ("Notices", diagnosis.get("notices") or []),
            )
            if entries
        ],
    )


def _verdict(diagnosis: Mapping) -> str:
    """The verdict in a word or two, above the headline."""
    found = len(outline.roots(diagnosis))
    if found:
        return outline.plural(found, "finding")
    if diagnosis.get("unexplained"):
        return "Not in the catalogue"
    return "Well" if diagnosis.get("verdict") == "well" else "Unknown"


def _caption(diagnosis: Mapping) -> str:
    states = [str(hop.get("state")) for hop in diagnosis.get("path") or () if hop.get("kind") != "client"]
    said = [f"{states.count(state)} {text}" for state, text in _COUNTED.items() if states.count(state)]
    return f"The path of a request, hop by hop: {', '.join(said)}." if said else "The path of a request."


_COUNTED = {"broken": "broken", "unknown": "unknown", "ok": "working"}


def _finding(finding: Mapping, consequences: t.Sequence[Mapping]) -> dict[str, t.Any]:
    repair = finding.get("repair") or {}
    kind = outline.kind_of_repair(finding)
    evidence = [outline.clean(line) for line in finding.get("evidence") or ()]
    link = outline.clean(finding.get("documentation"))
    commands = [outline.clean(command) for command in repair.get("commands") or ()]
    return {
        "id": outline.clean(finding["id"]),
        "title": outline.clean(finding.get("title")),
        "severity": "warning" if finding.get("severity") == "warning" else "error",
        "hosts": outline.listed(finding.get("hosts") or (), 12),
        "symptom": outline.clean(finding.get("symptom")),
        "cause": outline.clean(finding.get("cause")),
        "evidence": evidence[:EVIDENCE],
        "rest": evidence[EVIDENCE:],
        "repair": outline.clean(repair.get("text")),
        "cost": outline.cost(finding),
        "consent": kind == "consent",
        "commands": commands if kind == "advice" else [outline.command([finding])],
        "avoid": outline.clean(finding.get("avoid")),
        "consequences": [
            {
                "id": outline.clean(other["id"]),
                "title": outline.clean(other.get("title")),
                "where": outline.where(other),
            }
            for other in consequences
        ],
        "link_text": f"docs/findings/{link.rpartition('/')[2]}",
        "link": link if link.startswith("https://") else "",
    }


def _unexplained(entry: Mapping) -> dict[str, t.Any]:
    hosts = entry.get("hosts") or ()
    return {
        "layer": outline.LAYERS.get(str(entry.get("layer")), outline.clean(entry.get("layer"))),
        "hosts": f", {outline.listed(hosts, 12)}" if hosts else "",
        "evidence": [outline.clean(line) for line in (entry.get("evidence") or ())[:ENTRIES]],
    }
