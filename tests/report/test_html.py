"""The HTML report: whole, safe, the same each time, and right in a real browser."""

import base64
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_cards as cards
from scipy.optimize import linear_sum_assignment

from modeval.errors import DependencyError, ScorecardError
from modeval.report import html, routing_views, scorecard_views, svg
from modeval.report.page import charts, heatmaps, panels
from modeval.report.words import cautions
from modeval.score.scorecard import Scorecard

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Elements of a page in order: tag, attributes, tags around it; and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        assert self.open == [], "a tag is left open"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def reports():
    """Return pages of all sorts of scorecards, by name."""
    made = {
        "paper": cards.paper(),
        "one seed": cards.cohort(seeds=1),
        "failed seeds": cards.cohort(seeds=2, failed=2),
        "monolithic": cards.cohort("Monolithic", modules=1),
        "more rules than modules": cards.cohort(rules=6, modules=3),
        "trace": cards.trace(),
        "one layer": cards.trace(layers=1),
        "no labels": cards.trace(labelled=False),
    }
    return {name: html.render([card], [f"{name}.json"]) for name, card in made.items()}


@pytest.fixture(scope="module")
def several():
    """Return a page of several scorecards at once."""
    made = [cards.paper(), cards.trace(), cards.trace("Other", layers=2), cards.cohort(seeds=1)]
    return html.render(made, [f"{place}.json" for place in range(4)])


# --- the file ------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_anywhere(reports, several):
    for text in (*reports.values(), several):
        page = Page(text)
        for tag, attributes, _ in page.elements:
            for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                value = attributes.get(name, "#")
                assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:40])
        assert not page.all("link")
        style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
        assert "url(" not in style
        assert "@import" not in style
        assert "//" not in style


def test_the_policy_allows_only_the_pages_own_script(reports):
    text = reports["trace"]
    policy = next(
        meta["content"] for meta in Page(text).all("meta") if "Content-Security" in str(meta)
    )
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_links_and_names_have_their_targets(reports, several):
    for text in (*reports.values(), several):
        page = Page(text)
        ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
        assert max(Counter(ids).values()) == 1
        for _, attributes, _ in page.elements:
            for name in attributes.get("aria-labelledby", "").split():
                assert name in ids
            target = attributes.get("href", "")
            if target.startswith("#"):
                assert target[1:] in ids


def test_headings_landmarks_and_tables_are_in_order(reports, several):
    for text in (*reports.values(), several):
        page = Page(text)
        assert page.all("html") == [{"lang": "en"}]
        for tag in ("main", "header", "nav", "footer", "h1"):
            assert len(page.all(tag)) == 1, tag
        levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        assert len(page.all("caption")) == len(page.all("table"))
        assert all("scope" in head for head in page.all("th"))


def test_every_picture_is_named_and_described(reports):
    for text in reports.values():
        pictures = re.findall(r"<svg [^>]*role=\"img\"[^>]*>(.*?)</svg>", text, re.DOTALL)
        assert pictures
        for picture in pictures:
            assert re.match(r"<title id=[^>]+>[^<]+</title><desc id=[^>]+>[^<]+</desc>", picture)
        hidden = re.findall(r"<svg (?![^>]*role=)[^>]*>", text)
        assert all('aria-hidden="true"' in start for start in hidden)


def test_the_same_scorecard_gives_the_same_page():
    card = cards.trace()
    assert html.render([card], ["a"]) == html.render([card], ["a"])


NASTY = "</script><script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"


def test_names_cannot_break_out():
    card = cards.trace()
    record = replace(
        card.models[0],
        title=NASTY,
        rules=(NASTY, "b", "c"),
        layers=tuple(f"{NASTY}{layer}" for layer in range(5)),
    )
    card = replace(card, models=(record,), notes=(NASTY,))
    text = html.render([card], [NASTY])
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert NASTY in page.text
    assert not any(name.startswith("on") for _, found, _ in page.elements for name in found)


def test_a_large_model_makes_a_small_file():
    text = html.render([cards.large()], ["large.json"])
    assert len(text) < 5e6
    assert text.count("data:image/png;base64,") > 120  # maps and co-activations of 60 layers
    assert "The other 57 layers" in Page(text).text


def test_of_very_many_layers_evenly_spaced_ones_are_drawn(monkeypatch):
    monkeypatch.setattr(panels, "MOST_FOLDED", 8)
    text = html.render([cards.trace(layers=24, modules=4)], ["deep.json"])
    assert "8 of the other 21 layers, evenly spaced" in Page(text).text


def test_no_model_is_an_error_that_says_what_to_do():
    with pytest.raises(ScorecardError, match="modeval score RUN"):
        html.render([Scorecard()], ["empty.json"])


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(DependencyError, match=r"jinja2.*modeval-cli\[report\]"):
        html.render([cards.cohort()], ["card.json"])


# --- what it says --------------------------------------------------------------------------------


def test_what_was_measured_is_said(reports):
    text = Page(reports["trace"]).text
    for wanted in (
        "OLMoE",
        "transformers 5.23",
        "prefill",
        "choices taken before tokens are dropped",
        "1,200 tokens",
        "60",
        "uniform: each domain counts the same",
        "routing weights",
        "domain 0, domain 1, domain 2",
        "modeval ",
    ):
        assert wanted in text
    assert "uniform routing:" in text
    assert "permuted labels:" in text


def test_what_cannot_be_claimed_is_said(reports):
    assert "One seed: there is no interval" in Page(reports["one seed"]).text
    failed = Page(reports["failed seeds"]).text
    assert "2 seeds failed and count in no mean" in failed
    assert "its weights are not finite" in failed
    assert "There are no labels" in Page(reports["no labels"]).text
    assert "nothing is said of other seeds" in Page(reports["trace"]).text
    assert "No routing" in Page(reports["monolithic"]).text


def test_few_samples_and_unknown_circumstances_are_cautioned():
    card = cards.trace(documents=30, length=4)
    record = replace(
        card.models[0], data={**card.models[0].data, "phase": "unknown", "padding": "unknown"}
    )
    text = " ".join(cautions(card, record))
    assert "few samples" in text
    assert "Unknown of the trace: phase and padding" in text


def test_values_and_chance_stand_in_the_tables(reports):
    card = cards.paper()
    text = reports["paper"]
    shown = {float(value) for value in re.findall(r'data-sort="([^"]+)"', text)}
    for score in card.scores:
        assert float(f"{score.value:.6g}") in shown  # digits that sorting needs
        assert score.chance is None or float(f"{score.chance:.6g}") in shown
    assert text.count("<caption>At a glance: ") == 2


def test_several_scorecards_stand_side_by_side(several):
    text = Page(several).text
    assert "Modular · 3.json" not in text  # another number of rules is another task
    assert "OLMoE" in text
    assert "Other" in text
    same = html.render([cards.cohort(), cards.cohort()], ["before.json", "after.json"])
    assert "Modular · before.json" in Page(same).text
    assert "Modular · after.json" in Page(same).text


def test_the_page_begins_with_the_finding_a_picture_and_what_to_do(reports):
    text = reports["trace"]
    first = text[text.index('<section id="brief"') : text.index('<section id="scores"')]
    assert first.index('class="finding"') < first.index("<svg ") < first.index("Next</strong>")
    assert any("<code><span>modeval</span> <span>" in text for text in reports.values())
    assert re.search(r"<strong>domain 0</strong>: experts? \d", first)
    assert text.index("What cannot be claimed</h2>") > text.index("Entropy budget</h2>")


def test_what_came_of_each_model_is_told_before_the_picture_and_explained_after_it(reports):
    text = reports["paper"]
    first = text[text.index('<section id="brief"') : text.index("<h3>8 rules")]
    told, explained = first[: first.index("<svg ")], first[first.index("</svg>") :]
    names = [
        f'<span class="who">{name}:</span>' for name in ("Monolithic", "Modular", "GT-Modular")
    ]
    assert all(told.count(name) == explained.count(name) == 1 for name in names)
    assert "Alignment score" not in re.sub("<h4>.*", "", told)
    assert explained.count("Alignment score") > 1


def test_models_stand_in_the_order_of_their_numbers_with_a_chart_against_them():
    made = [cards.cohort(rules=rules, modules=rules) for rules in (16, 2, 8, 4)]
    text = html.render(made, [f"r{n}.json" for n in range(4)])
    places = [text.index(f"<h3>{rules} rules · ") for rules in (2, 4, 8, 16)]
    assert places == sorted(places)
    rules = text[text.index('<section id="rules"') : text.index('<section id="scores"')]
    [line, *_] = re.findall(r'<polyline class="course series-0" points="([^"]+)"', rules)
    assert len(line.split()) == 4


def test_sixteen_models_make_a_page_under_a_megabyte_and_each_caveat_stands_once():
    made = [
        cards.cohort(title, rules=rules, modules=1 if title == "Monolithic" else rules, seeds=6)
        for rules in (2, 4, 8, 16)
        for title in ("Monolithic", "Modular", "Modular-op", "GT-Modular")
    ]
    text = html.render(made, [f"{n}.json" for n in range(16)])
    assert len(text.encode()) < 1_000_000
    assert text.count("Switching modules off would tell.") == 1


def test_two_scorecards_are_set_before_and_after():
    text = html.render([cards.cohort(), cards.cohort(strength=9.0)], ["before.json", "after.json"])
    changes = text[text.index('<section id="changes"') : text.index('<section id="scores"')]
    assert "before.json: Partly specialised" in changes
    assert "after.json: Specialised" in changes
    assert '<section id="changes"' not in html.render([cards.cohort()], ["one.json"])


def test_no_word_of_markup_is_left_and_numbers_are_not_rounded_away(reports):
    for name, text in reports.items():
        assert not re.search(r"\*\w+\*", Page(text).text), name
        assert "uniform 0.12 " not in text
        assert "The other 1 layer" not in text


# --- pictures ------------------------------------------------------------------------------------


def entry_of(card):
    return scorecard_views.entries([card], ["card.json"])[0]


def test_modules_are_ordered_as_an_independent_solver_matches_them():
    card = cards.cohort(rules=5, modules=7, strength=3.0)
    for each in card.activations:
        matrix = np.array(each.matrix)
        found = routing_views.ordered_map(each)
        rows, columns = linear_sum_assignment(-matrix)
        assert [found.modules[place] for place in found.matched] == columns[rows.argsort()].tolist()
        assert found.matched == (0, 1, 2, 3, 4)
        assert sorted(found.modules) == list(range(7))
        np.testing.assert_array_equal(found.matrix, matrix[:, list(found.modules)])


def test_with_more_rules_than_modules_some_rules_have_none():
    found = routing_views.ordered_map(cards.cohort(rules=6, modules=3).activations[0])
    assert sorted(found.matched) == [-1, -1, -1, 0, 1, 2]


def test_the_mean_map_is_of_ordered_seeds():
    card = cards.cohort(strength=9.0)
    mean = routing_views.mean_map(card.activations)
    assert mean.averaged == 3
    assert np.diag(mean.matrix).min() > 0.95  # unordered, private columns would cancel out


def test_the_budget_sums_to_log_m():
    entry = entry_of(cards.trace())
    rows = routing_views.budgets(entry)
    assert len(rows) == 5
    for row in rows:
        assert set(row.terms) == set(routing_views.BUDGET)
        assert sum(row.terms.values()) == pytest.approx(row.total)
        assert row.total == pytest.approx(np.log(8))
    picture = charts.budget_chart(rows, "Budget", "name")
    bars = re.findall(r'class="term [^"]+" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', picture)
    ends = Counter()
    for _, y, width in bars:
        ends[y] += float(width)
    assert len(set(ends)) == 5
    assert max(ends.values()) - min(ends.values()) < 0.5  # what is too small to see is left out


def test_a_budget_that_is_not_divided_says_so(reports):
    entry = entry_of(cards.cohort())
    [row] = routing_views.budgets(entry)
    assert set(row.terms) == {"imbalance", "rule_specialization", routing_views.UNDIVIDED}
    assert sum(row.terms.values()) == pytest.approx(np.log(4))
    assert "do not tell input distraction from softness" in Page(reports["paper"]).text
    assert "do not tell input distraction from softness" not in Page(reports["trace"]).text


def test_load_is_that_of_the_profile_and_of_the_matrix():
    entry = entry_of(cards.trace())
    for layer in range(5):
        [share] = routing_views.shares(entry, layer)
        [each] = routing_views.activations(entry, layer)
        np.testing.assert_allclose(share, np.array(each.prior) @ np.array(each.matrix), atol=1e-12)


def test_the_layers_shown_are_the_lowest_the_median_and_the_highest():
    entry = entry_of(cards.trace(layers=7))
    told, metric = scorecard_views.telling_layers(entry)
    values = [score.value for score in scorecard_views.by_layer(entry, metric)]
    ranked = np.argsort(values, kind="stable").tolist()
    assert metric == "alignment_score"
    assert [layer for _, layer in told] == [ranked[0], ranked[3], ranked[6]]


def test_numbers_in_cells_can_be_read_on_their_colour():
    entry = entry_of(cards.cohort(rules=8, modules=8))
    found = routing_views.mean_map(entry.card.activations)
    picture = heatmaps.heat_map(found, [str(n) for n in range(8)], 1.0, "A", "name")
    cells = re.findall(r'fill="#([0-9a-f]{6})".*?class="in-(dark|light)"', picture)
    assert len(cells) == 64
    for colour, kind in cells:
        assert contrast(colour, "ffffff" if kind == "dark" else "000000") >= 4.5


def test_a_scale_holds_its_values_and_writes_round_ticks():
    axis = charts.scale([0.03, 0.41], 0, 100)
    assert axis.low <= 0.03
    assert axis.high >= 0.41
    assert [charts.tick_text(tick, axis.ticks) for tick in axis.ticks][:2] == ["0.0", "0.2"]
    assert charts.scale([0.0, 0.0], 0, 100)(0.0) == 0


def test_the_picture_of_pixels_is_the_matrix():
    from io import BytesIO  # noqa: PLC0415

    from matplotlib.image import imread  # noqa: PLC0415

    colours = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    data = base64.b64decode(svg.png(colours).partition(",")[2])
    pixels = (imread(BytesIO(data), format="png")[..., :3] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(pixels, colours)


# --- colours -------------------------------------------------------------------------------------


def luminance(colour):
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_marks_stand_out_from_the_paper_in_light_and_dark():
    style = Path(html.__file__).with_name("templates").joinpath("report.css").read_text()
    pairs = dict(re.findall(r"--([\w-]+): light-dark\((#\w{6}, #\w{6})\)", style))
    colours = {name: re.findall(r"#(\w{6})", pair) for name, pair in pairs.items()}
    for theme in (0, 1):
        paper = colours["paper"][theme]
        for name in ("accent", "chance", "null-edge", "imbalance", "distraction", "soft-edge"):
            assert contrast(colours[name][theme], paper) >= 3, (name, theme)
        for name in ("ink", "muted", "accent"):
            assert contrast(colours[name][theme], paper) >= 4.5, (name, theme)


# --- in a browser --------------------------------------------------------------------------------

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser():
    """Return a headless browser, or skip."""
    binary = next(filter(None, map(shutil.which, PROGRAMS)), None)
    folders = (None, os.environ.get("CHROMEWEBDRIVER"))  # the latter on GitHub's machines
    driver = next(filter(None, (shutil.which("chromedriver", path=f) for f in folders)), None)
    if binary is None or driver is None:
        pytest.skip("no Chromium with its chromedriver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        opened = webdriver.Chrome(options=options, service=Service(driver))
        yield opened
        opened.quit()


def show(browser, text, folder, *, width=1280, dark=False, script=True):
    """Open a page in a window of a width and a colour scheme."""
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what came before
    browser.get(path.as_uri())


def unfold(browser):
    browser.execute_script("for (const e of document.querySelectorAll('details')) e.open = true")


VIEWS = [(360, False), (360, True), (1280, False), (1280, True)]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_pages_fit_and_read_on_phones_and_desks_in_light_and_dark(
    browser, reports, tmp_path, width, dark
):
    for name, text in reports.items():
        show(browser, text, tmp_path, width=width, dark=dark)
        unfold(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, name
        faint = browser.execute_script(FAINT)
        assert faint == [], name
        assert browser.get_log("browser") == [], name


# Text whose contrast with what is behind it is below 4.5; numbers in cells are tested above.
FAINT = """
const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) =>
  0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = parse(getComputedStyle(each).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const found = [];
let seen = 0;
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const style = getComputedStyle(element);
  if (!own || /^(script|style|title|desc)$/i.test(element.tagName)) continue;
  if (/in-dark|in-light/.test(element.getAttribute("class") || "")) continue;
  const drawn = element instanceof SVGElement;
  const front = light(parse(drawn ? style.fill : style.color));
  const back = light(behind(element));
  const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
  seen += 1;
  if (ratio < 4.5) found.push([element.tagName, element.textContent.slice(0, 30), ratio]);
}
return seen > 30 ? found : ["too little text", seen];
"""


@pytest.mark.slow
def test_the_first_screen_of_a_phone_has_verdict_picture_and_what_to_do(browser, reports, tmp_path):
    for name in ("trace", "paper"):
        show(browser, reports[name], tmp_path, width=390)
        tops = browser.execute_script(
            "return ['#brief .finding', '#brief .first figure svg', '#brief .advice li', "
            "'#brief .said'].map((each) => document.querySelector(each).getBoundingClientRect().y)"
        )
        assert tops == sorted(tops), name
        verdict, _, advice, _ = tops
        assert verdict < 260, name
        assert advice < 760, name


@pytest.mark.slow
def test_no_request_leaves_the_page(browser, several, tmp_path):
    show(browser, several, tmp_path)
    unfold(browser)
    requests = [
        json.loads(entry["message"])["message"]
        for entry in browser.get_log("performance")
        if "Network.requestWillBeSent" in entry["message"]
    ]
    addresses = {
        each["params"]["request"]["url"] for each in requests if "request" in each["params"]
    }
    assert any(address.startswith("file:") for address in addresses)
    assert all(address.startswith(("file:", "data:")) for address in addresses)


@pytest.mark.slow
def test_tables_sort_by_keyboard(browser, reports, tmp_path):
    from selenium.webdriver.common.by import By  # noqa: PLC0415
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    show(browser, reports["paper"], tmp_path)
    unfold(browser)
    table = next(
        table
        for table in browser.find_elements(By.CSS_SELECTOR, "table")
        if "Alignment score" in table.find_element(By.TAG_NAME, "thead").text
    )
    heads = table.find_elements(By.CSS_SELECTOR, "thead th")
    place = next(n for n, head in enumerate(heads) if head.text.startswith("Alignment score"))
    button = heads[place].find_element(By.TAG_NAME, "button")

    def column():
        cells = table.find_elements(By.CSS_SELECTOR, f"tbody td:nth-child({place + 1})")
        return [cell.get_attribute("data-sort") for cell in cells]

    assert heads[place].get_attribute("aria-sort") == "none"
    heads[0].find_element(By.TAG_NAME, "button").send_keys(Keys.TAB * place)
    assert browser.switch_to.active_element == button
    outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", button)
    assert outline == "solid"
    for key, direction in ((Keys.ENTER, "ascending"), (Keys.SPACE, "descending")):
        button.send_keys(key)
        assert heads[place].get_attribute("aria-sort") == direction
        values = [float(value) for value in column() if value is not None]
        assert values == sorted(values, reverse=direction == "descending")
        assert len(values) == 3
        assert column()[-1] is None  # Monolithic has none, and stays last
    foot = table.find_elements(By.CSS_SELECTOR, "tfoot th")
    assert [cell.text for cell in foot] == ["uniform routing", "hashed routing"]


@pytest.mark.slow
def test_the_colours_change_by_keyboard_and_the_skip_link_skips(browser, reports, tmp_path):
    from selenium.webdriver.common.by import By  # noqa: PLC0415
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    def paper():
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    show(browser, reports["trace"], tmp_path)
    light = paper()
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    skip = browser.switch_to.active_element
    assert skip.text == "Skip to the report"
    assert skip.rect["x"] >= 0
    skip.send_keys(Keys.TAB)
    button = browser.switch_to.active_element
    assert button.get_attribute("aria-label") == "Change to dark colours"
    button.send_keys(Keys.ENTER)
    dark = paper()
    assert dark != light
    button.send_keys(Keys.ENTER)
    assert paper() == light
    skip.send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#main")


@pytest.mark.slow
def test_pictures_have_names_where_it_counts(browser, reports, tmp_path):
    for name in ("paper", "trace"):
        show(browser, reports[name], tmp_path)
        unfold(browser)
        browser.execute_cdp_cmd("Accessibility.enable", {})
        tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        images = [node for node in tree if node.get("role", {}).get("value") == "image"]
        assert len(images) >= 10
        for node in images:
            assert node["name"]["value"], name
            assert node["description"]["value"], name
        landmarks = {node.get("role", {}).get("value") for node in tree}
        assert {"main", "navigation", "banner", "contentinfo"} <= landmarks


@pytest.mark.slow
def test_on_paper_it_is_light_and_nothing_is_cut_off(browser, reports, tmp_path):
    for name in ("paper", "trace"):
        show(browser, reports[name], tmp_path, width=760, dark=True)
        unfold(browser)
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
        )
        paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert min(map(int, re.findall(r"\d+", paper))) > 240
        wide = browser.execute_script(
            "return [...document.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right"
            " > 761).map(e => e.outerHTML.slice(0, 80))"
        )
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 760, wide
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.slow
def test_the_page_works_without_its_script(browser, reports, tmp_path):
    from selenium.webdriver.common.by import By  # noqa: PLC0415

    show(browser, reports["trace"], tmp_path, script=False)
    assert browser.find_elements(By.TAG_NAME, "button") == []
    captions = browser.find_elements(By.CSS_SELECTOR, "table caption")
    assert any(caption.is_displayed() for caption in captions)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.slow
def test_pictures_are_drawn(browser, reports, tmp_path):
    from io import BytesIO  # noqa: PLC0415

    from matplotlib.image import imread  # noqa: PLC0415

    show(browser, reports["trace"], tmp_path)
    seen = {}
    for section in ("scores", "layers", "maps", "load", "together", "budget"):
        where = browser.execute_script(
            f"const box = document.querySelector('#{section} figure').getBoundingClientRect();"
            "return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height}"
        )
        shot = browser.execute_cdp_cmd(
            "Page.captureScreenshot",
            {"format": "png", "clip": where | {"scale": 1}, "captureBeyondViewport": True},
        )
        picture = imread(BytesIO(base64.b64decode(shot["data"])), format="png")[..., :3]
        seen[section] = len(np.unique(picture.reshape(-1, 3).round(2), axis=0))
    assert min(seen.values()) > 10, seen
