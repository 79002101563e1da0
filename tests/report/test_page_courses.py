"""Losses by phase and rule: in the page, as a table, and beside those of another training."""

import re
from dataclasses import replace

import pytest
import report_cards as cards
from rich.console import Console

from modeval.report import html
from modeval.report.scorecard_views import entries
from modeval.report.table_formats import TABLES
from modeval.report.terminal.comparison import comparison_form, render_comparison
from modeval.score.comparison.compare import compare
from modeval.score.scorecard import Scorecard


@pytest.fixture
def card() -> Scorecard:
    made: Scorecard = cards.with_course(cards.cohort("Modular", rules=3, modules=3))
    return made


def test_the_page_draws_a_line_for_each_rule_and_a_dot_for_each_phase(card: Scorecard) -> None:
    page = html.render([card], ["card.json"])
    section = page.split('<section id="courses"')[1].split("</section>")[0]
    assert '<a href="#courses">' in page
    lines = re.findall(r'<polyline class="course series-\d" points="([^"]+)"', section)
    assert [len(line.split()) for line in lines] == [3, 3, 2]  # one loss is not finite
    first = [float(spot.split(",")[1]) for spot in lines[0].split()]
    assert first[1] > first[2] > first[0], "learned, then forgotten: larger losses stand higher"
    assert "failed" in section
    assert 'id="courses"' not in html.render([cards.cohort()], ["card.json"])


def test_the_table_has_a_row_for_each_phase_and_says_what_it_draws(card: Scorecard) -> None:
    [table] = TABLES["course"](entries([card], ["card.json"]))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["start", "", "1", "1", "1"],
        ["phase-1", "rule 0", "0.100", "1.50", "1.50"],
        ["phase-2", "rule 1, rule 2", "0.900", "0.200", "failed"],
    ]
    assert TABLES["course"](entries([cards.cohort()], ["card.json"])) == []


def test_courses_through_the_same_phases_are_compared_and_others_are_named(card: Scorecard) -> None:
    [course] = card.courses
    later = replace(card, courses=(replace(course, matrix=(*course.matrix[:2], (0.1, 0.2, None))),))
    comparison = compare([("before.json", card), ("after.json", later)])
    [found] = comparison.lineages[0].courses
    assert found.change[:2] == ((0, 0, 0), (0, 0, 0))
    assert found.change[2][0] == pytest.approx(-0.8)
    assert found.change[2][1:] == (0, None)
    console = Console(width=100, record=True)
    for part in render_comparison(comparison):
        console.print(part)
    assert "-0.800" in console.export_text()
    assert comparison_form(comparison)["lineages"][0]["courses"][0]["phases"] == course.phases

    other = replace(card, courses=(replace(course, drawn=((1,), (0, 2))),))
    [lineage] = compare([("before.json", card), ("after.json", other)]).lineages
    assert lineage.courses == ()
    assert "after.json was trained in other phases than before.json" in lineage.notes
