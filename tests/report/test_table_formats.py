"""Tables of a report as Markdown, CSV, LaTeX and JSON."""

import csv
import io
import json

import pytest
import report_cards as cards

from modeval.errors import ScorecardError
from modeval.report import scorecard_views
from modeval.report.table_formats import FORMATS, TABLES, tables_of


def entries(*given):
    return scorecard_views.entries(given, [f"{place}.json" for place in range(len(given))])


@pytest.fixture(scope="module")
def paper():
    return entries(cards.with_course(cards.paper()))


@pytest.fixture(scope="module")
def deep():
    return entries(cards.trace(layers=3))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_written_in_every_format(form, name, paper, deep):
    found = deep if name in ("layers", "experts", "load") else paper
    assert len(FORMATS[form](tables_of(name, found))) > 100


def test_csv_holds_every_digit_and_the_ends_of_intervals(paper):
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](tables_of("scores", paper)))))
    row = next(r for r in rows if (r["Score"], r["Model"]) == ("Alignment score", "Modular"))
    score = scorecard_views.overall(paper[1], "alignment_score")
    assert float(row["Value"]) == score.value
    assert (float(row["Interval, low"]), float(row["Interval, high"])) == (score.low, score.high)
    assert row["table"].startswith("2 rules")


def test_json_is_a_list_of_records_that_are_whole(paper):
    records = json.loads(FORMATS["json"](tables_of("rules", paper)))
    record = next(
        r for r in records if (r["table"], r["Model"]) == ("Alignment score", "Modular-op")
    )
    lines = scorecard_views.against_rules(paper, "alignment_score")["Modular-op"]
    assert [record["2 rules"], record["8 rules"]] == [score.value for _, score in lines]


def test_names_act_in_no_format():
    nasty = cards.cohort("A|B_$%&#{}~^\\*")
    found = tables_of("glance", entries(nasty))
    assert r"A|B\_\$\%\&\#\{\}\textasciitilde{}\textasciicircum{}" in FORMATS["latex"](found)
    assert r"A\|B" in FORMATS["md"](found)
    formula = tables_of("glance", entries(cards.cohort("=1+1")))
    cells = [cell for row in csv.reader(io.StringIO(FORMATS["csv"](formula))) for cell in row]
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)


def test_the_table_for_a_paper_has_arrows_and_chance_at_its_foot(paper):
    text = FORMATS["latex"](tables_of("glance", paper))
    assert r"Alignment score $\uparrow$" in text
    assert text.count(r"\toprule") == 2
    assert "uniform routing" in text.split(r"\midrule")[2]


def test_an_unknown_or_empty_table_says_what_there_is(paper):
    with pytest.raises(ScorecardError, match=r"expected one of glance.*did you mean layers"):
        tables_of("layer", paper)
    with pytest.raises(ScorecardError, match="hold nothing for it"):
        tables_of("layers", paper)
