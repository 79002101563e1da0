"""What modules do is shown beside what is sent to them: maps, rows, pages and figures."""

import io

import numpy as np
import pytest
import report_cards as cards
from rich.console import Console

from modeval.errors import ScorecardError
from modeval.report import causes, html, routing_views, scorecard_views
from modeval.report.paper import removal
from modeval.report.paper.style import Style
from modeval.report.terminal.scores import render
from modeval.score.scorecard import Scorecard


def views(card: Scorecard) -> list[scorecard_views.ModelView]:
    return scorecard_views.entries([card], ["scores.json"])


@pytest.fixture(scope="module")
def card() -> Scorecard:
    made: Scorecard = cards.switched_off(cards.cohort("Modular", rules=4, modules=4, strength=2.0))
    return made


def test_maps_of_need_have_the_columns_of_the_maps_of_use(card: Scorecard) -> None:
    [view] = views(card)
    need = causes.needed_map(view)
    assert need is not None
    use = [np.array(each.matrix) for each in routing_views.activations(view)]
    places = [routing_views.matched_columns(each)[0].index(0) for each in use]
    expected = np.mean([np.eye(4)[[place] * 4] for place in places], axis=0)
    np.testing.assert_allclose(need.matrix, expected)
    assert need.averaged == len(use)


def test_the_terminal_and_the_page_show_both_and_say_which_is_which(card: Scorecard) -> None:
    console = Console(width=120, no_color=True, record=True, file=io.StringIO())
    for part in render(card):
        console.print(part)
    text = console.export_text()
    assert "Modular · needed" in text
    assert "whose removal costs a rule" in " ".join(text.split())
    page = html.render([card], ["scores.json"])
    assert "Need: Modular, needed" in page
    assert page.count("whose removal costs a rule") == 1


def test_nothing_is_said_of_need_where_no_modules_were_switched_off() -> None:
    plain = cards.cohort("Modular", rules=4, modules=4, strength=2.0)
    [view] = views(plain)
    assert causes.needed_map(view) is None
    assert causes.falling(view) is None
    assert "needed" not in html.render([plain], ["scores.json"])
    with pytest.raises(ScorecardError, match="--interventions"):
        removal.charts([view], Style())


def test_the_figure_of_removal_shows_means_over_seeds_and_ends_of_random_orders() -> None:
    found = [view for view in views(cards.paper()) if view.record.modules == 8]
    charts = removal.charts(found, Style())
    assert len(charts) == len(found)
    by_use, random = charts[0].lines
    assert [point.x for point in by_use.points] == pytest.approx(np.linspace(0, 1, 9).tolist())
    assert by_use.points[-1].value == pytest.approx(8.1**2)
    last = random.points[-1]
    assert (last.low, last.value, last.high) == pytest.approx((4.05, 8.1, 12.15))
