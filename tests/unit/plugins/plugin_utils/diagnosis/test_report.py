# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms of a report: what is said first, where the path is broken, and that nothing which is quoted acts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import diagnosis_samples as samples
import pytest
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation, Repair
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.report import forms, html, outline

DOCUMENTATION = "https://github.com/kubemetrics/kubemetrics.aggregation/"
HOSTILE = (
    '<script>alert(1)</script> <img src=x onerror="alert(2)"> "\' </style><style>*{display:none}</style>'
    " {{ 7 * 7 }} {% raw %} \x1b[2J\x1b]0;title\x07\x9b31m \u202etxt\u2066 \u200b\x00\x07\r\n```\n"
    "@maintainer #12 [x](y) <!-- -->"
)


def one_finding(nodes=10):
    document = samples.failing(samples.cluster(nodes, 3), "cp2", verdict="front_proxy_refused", message="401")
    return samples.diagnose(document, samples.expired("cp2"))


def chain():
    document = samples.failing(samples.cluster(10, 3), "cp1", "cp2", "cp3", verdict="unreachable")
    document["api"]["objects"]["pods"][0].update(ready=False)
    return samples.diagnose(document, *samples.forwarding("w1"))


def large(nodes=500, silent=40):
    """Three faults in a large cluster, with several nodes that are not Ready."""
    document = samples.failing(samples.cluster(nodes, 3), "cp2", verdict="front_proxy_refused", message="401")
    missing = [f"w{number}" for number in range(1, silent + 1)]
    for entry in document["api"]["metrics"]["servers"]:
        if entry["nodes"]:
            entry["nodes"]["missing"] = missing
    for node in document["api"]["state"]["nodes"][-20:]:
        node.update(ready=False, ready_message="Kubelet stopped posting node status.")
    return samples.diagnose(document, samples.expired("cp2"), samples.pending(*missing), samples.overlapping())


def hostile():
    """Every text that comes from a cluster says something that a terminal, an issue or a browser would act upon."""
    document = samples.failing(samples.cluster(3, 1), "cp1", message=HOSTILE)
    document["api"]["objects"]["pods"][0]["name"] = HOSTILE
    document["api"]["state"]["nodes"][2].update(name=HOSTILE, ready=False, ready_message=HOSTILE)
    document["not_collected"] = [{"what": HOSTILE, "why": HOSTILE, "leaves_open": HOSTILE}]
    document["collected"].update(at=HOSTILE, collection=HOSTILE)
    row = samples.row("KUB-01", "A title", "kubelet", Observation((HOSTILE,), (HOSTILE,), cause=HOSTILE))
    found = samples.diagnose(document, row)
    found["headline"] = HOSTILE
    return found


ALL = {
    "well": lambda: samples.diagnose(samples.cluster(3, 1)),
    "one": one_finding,
    "chain": chain,
    "large": large,
    "unexplained": lambda: samples.diagnose(samples.failing(samples.cluster(3, 1), "cp1", message="418")),
    "hostile": hostile,
}


@pytest.fixture(params=ALL)
def diagnosis(request):
    return ALL[request.param]()


def lines(diagnosis, **options):
    return forms.render(diagnosis, "terminal", **options).splitlines()


class TestTerminal:
    def test_the_verdict_is_the_first_line(self):
        assert lines(one_finding())[0] == "AGG-05 on cp2: The front-proxy client certificate has expired."
        assert lines(ALL["well"]())[0] == "Resource metrics work through every API server."
        assert lines(ALL["unexplained"]())[0].startswith("Not in the catalogue")

    def test_the_path_shows_the_broken_hop(self):
        shown = lines(one_finding())
        assert [line.split()[:3] for line in shown if "✗" in line] == [
            ["client", "✗", "kubectl"],
            ["✗", "cp2", "AGG-05:"],
        ]
        kinds = [label for line in shown for label in outline.KINDS.values() if line.startswith(f"  {label} ")]
        assert kinds == ["client", "API server", "Service", "metrics server", "kubelet"]

    def test_a_finding_says_what_to_do(self):
        text = forms.render(one_finding())
        for label in ("symptom", "cause", "evidence", "repair", "avoid", "more"):
            assert re.search(rf"^  {label} ", text, re.MULTILINE)
        assert "    ansible-playbook kubemetrics.aggregation.repair -e repair=AGG-05" in text
        assert "Risk: low, the old certificate is kept." in text
        assert f"{DOCUMENTATION}blob/main/docs/findings/AGG-05.md" in text

    def test_the_command_names_the_inventory_where_it_is_known(self):
        text = forms.render(one_finding(), inventory=["inventory/mine/hosts.yml", "a b"])
        assert (
            "ansible-playbook -i inventory/mine/hosts.yml -i 'a b' kubemetrics.aggregation.repair -e repair=AGG-05"
            in text
        )

    def test_the_command_gives_the_variables_that_the_repair_needs(self):
        repair = Repair(
            "consent", "Take it over.", steps=("metrics_server",), variables=("metrics_server_takeover=true",)
        )
        row = samples.row("AGG-08", "Two providers", "registration", Observation(("two",)), repair=repair)
        text = forms.render(samples.diagnose(samples.cluster(3, 1), row))
        assert "kubemetrics.aggregation.repair -e repair=AGG-08 -e metrics_server_takeover=true" in text

    def test_consequences_are_a_line_each_below_their_root(self):
        shown = lines(chain())
        assert [line for line in shown if "POD-03" in line or "AGG-12" in line][-2:] == [
            "  leads to  POD-03: The metrics server cannot reach the API server",
            "            AGG-12: The Service has no ready endpoint",
        ]
        assert "(from NET-04)" in forms.render(chain())
        assert not any(re.match(r"(\d\. )?(POD-03|AGG-12)", line) for line in shown)

    def test_advice_shows_its_commands_and_no_playbook(self):
        document = samples.cluster(3, 1)
        text = forms.render(samples.diagnose(document, samples.overlapping()))
        assert "    kubectl get nodes -o custom-columns=" in text
        assert "ansible-playbook" not in text

    def test_findings_are_numbered_in_the_order_of_the_diagnosis_and_repaired_together(self):
        shown = lines(large())
        assert [line[:9] for line in shown if re.match(r"\d\. ", line)] == ["1. AGG-05", "2. NET-10", "3. KUB-02"]
        assert "  ansible-playbook kubemetrics.aggregation.repair -e repair=AGG-05,KUB-02" in shown

    def test_what_is_in_no_row_is_shown_as_measured(self):
        shown = lines(ALL["unexplained"]())
        place = shown.index("Not in the catalogue, as it was measured:")
        assert shown[place + 1] == "  Service, cp1"
        assert "418" in shown[place + 2]

    @pytest.mark.parametrize("nodes", [3, 10, 500])
    def test_one_fault_fits_on_a_screen(self, nodes):
        assert len(lines(one_finding(nodes))) < 60

    def test_500_nodes_are_grouped(self):
        shown = lines(large())
        assert len(shown) < 80
        assert len([line for line in shown if " kubelets " in line]) == 1
        assert any("w1, w2, w3 and 37 more" in line for line in shown)

    def test_lines_are_about_100_wide(self, diagnosis):
        assert [line for line in lines(diagnosis) if len(line) > 104 and "https://" not in line] == []

    def test_colours_only_where_they_are_wanted(self, diagnosis):
        assert "\x1b" not in forms.render(diagnosis)
        coloured = forms.render(diagnosis, colour=True)
        assert "\x1b[" in coloured
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines() == lines(diagnosis)

    def test_nothing_that_is_quoted_acts_upon_the_terminal(self):
        text = forms.render(hostile())
        assert [c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)] == []
        assert not re.search("[\u200b\u202a-\u202e\u2066-\u2069]", text)


class TestMarkdown:
    def test_it_begins_with_the_verdict_and_shows_the_path(self):
        text = forms.render(one_finding(), "markdown")
        assert text.startswith("**AGG-05 on cp2: The front-proxy client certificate has expired.**\n")
        assert "✗ cp2" in text
        assert "```console\nansible-playbook kubemetrics.aggregation.repair -e repair=AGG-05\n```" in text

    def test_nothing_that_is_quoted_leaves_its_block(self):
        outside, fence = [], ""
        for line in forms.render(hostile(), "markdown").splitlines():
            if not fence and re.match("`{3,}[a-z]+$", line):
                fence = line.rstrip("abcdefghijklmnopqrstuvwxyz")
            elif fence:
                fence = "" if line == fence else fence
            else:
                outside.append(line)
        assert fence == ""
        prose = "\n".join(outside)
        assert not re.search(r"<(?!!-- -->)", prose)
        assert not re.search(r"@(?!<)|(?<!^)(?<!#)#(?![#<]| )", prose, re.MULTILINE)
        assert "[x](y)" not in prose

    def test_500_nodes_stay_short(self):
        assert len(forms.render(large(), "markdown")) < 12000


class Page(HTMLParser):
    """What a browser would make of a page."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.style = [], [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)

    def values(self, *names):
        return [value for _tag, name, value in self.attributes if name in names]


@pytest.fixture
def page(diagnosis):
    return Page(forms.render(diagnosis, "html"))


class TestHtml:
    ELEMENTS = {
        "html", "head", "meta", "title", "style", "body", "main", "header", "p", "h1", "h2", "h3", "figure", "svg",
        "path", "rect", "circle", "text", "g", "a", "figcaption", "details", "summary", "table", "tr", "th", "td",
        "article", "span", "dl", "dt", "dd", "pre", "ul", "li", "code", "div", "footer",
    }  # fmt: skip

    def test_it_is_well_formed_and_has_no_script(self, page):
        assert page.open == []
        assert set(page.tags) <= self.ELEMENTS
        assert [name for _tag, name, _value in page.attributes if name.startswith("on") or name == "style"] == []

    def test_it_requests_nothing(self, page):
        assert page.values("src", "srcset", "action", "data", "xlink:href", "poster") == []
        assert not re.search(r"url\(|@import|@font-face", page.style)
        assert all(link.startswith((DOCUMENTATION, "#")) for link in page.values("href"))
        assert [tag for tag in page.tags if tag in ("link", "script", "img", "iframe", "image", "use")] == []

    def test_its_policy_allows_its_own_style_alone(self, page):
        policy = next(value for value in page.values("content") if "default-src" in value)
        digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
        assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        assert page.tags.count("style") == 1

    def test_links_inside_the_page_lead_somewhere(self, page):
        inside = {link[1:] for link in page.values("href") if link.startswith("#")}
        assert inside <= set(page.values("id"))

    def test_ids_are_unique(self, page):
        assert len(page.values("id")) == len(set(page.values("id")))

    def test_everything_that_is_quoted_is_text(self):
        page = Page(forms.render(hostile(), "html"))
        assert "<script>alert(1)</script>" in "".join(page.text)
        assert "{{ 7 * 7 }}" in "".join(page.text)
        assert "script" not in page.tags
        assert "display:none}</style>" not in page.style

    def test_the_picture_marks_the_broken_hop(self):
        page = Page(forms.render(one_finding(), "html"))
        marked = [value for tag, name, value in page.attributes if tag == "g" and name == "class"]
        assert marked.count("hop api_server broken") == 2
        assert marked.count("hop api_server ok") == 4
        assert page.tags.count("svg") == 2
        assert all("API server cp2 broken" in label for label in page.values("aria-label"))

    def test_a_finding_says_what_to_do(self):
        text = "".join(Page(forms.render(one_finding(), "html")).text)
        assert "ansible-playbook kubemetrics.aggregation.repair -e repair=AGG-05" in text
        assert "x509: certificate has expired" in text

    def test_consequences_are_below_their_root(self):
        page = Page(forms.render(chain(), "html"))
        assert page.tags.count("article") == 1
        assert "AGG-12" in "".join(page.text)

    def test_500_nodes_stay_small(self):
        text = forms.render(large(), "html")
        assert len(text) < 60000
        assert len(re.findall("<rect", text)) < 60

    def test_it_follows_the_screen_and_its_colours(self):
        assert "prefers-color-scheme:dark" in html.STYLE
        assert "max-width:720px" in html.STYLE
        assert 'name="viewport"' in forms.render(one_finding(), "html")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("w1", "w1"),
        ("kube-system/metrics-server", "metrics-server"),
        ("worker-12.kubernetes.example.com", "worker-12…"),
        ("metrics-server-74c54c6b4f-z7s47", "metrics-se…b4f-z7s47"),
        ("https://[2001:db8::12]:6443", "https://[2…:12]:6443"),
    ],
)
def test_what_differs_between_names_is_kept(name, shown):
    assert outline.shortened(name, 20) == shown
    assert len(shown) <= 20


def test_json_is_the_diagnosis(diagnosis):
    assert json.loads(forms.render(diagnosis, "json")) == json.loads(json.dumps(diagnosis))


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="one of terminal, json, markdown, html"):
        forms.render(one_finding(), "pdf")


def test_a_diagnosis_with_little_in_it_is_rendered():
    for form in forms.FORMS:
        assert forms.render({"headline": "Nothing.", "verdict": "unknown", "path": [], "findings": []}, form)
