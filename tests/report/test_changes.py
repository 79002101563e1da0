"""What a comparison comes to, and which differences may be called better or worse."""

import io
from dataclasses import replace

import pytest
import report_cards as cards
from rich.console import Console

from modeval.report.changes import change, reading
from modeval.report.terminal.comparison import comparison_form, render_comparison, summary_rows
from modeval.score.chosen import layer_findings
from modeval.score.comparison.compare import compare, corrected

CARD = cards.trace(layers=3)
METRICS = ("alignment_score", "dead_fraction", "collapse_worst", "mutual_information")


def with_findings(card, words):
    kept = layer_findings(card, card.models[0])
    found = [replace(each, word=word) for each, word in zip(kept, words, strict=True)]
    return replace(card, findings=tuple(found))


def shifted(card, by):
    """Return the card with each score of some metrics larger, and hardly any noise."""
    scores = [
        replace(s, value=s.value + by, low=None, high=None, error=1e-5, null_low=0.0, null_high=0.0)
        if s.metric in METRICS and s.value is not None
        else s
        for s in card.scores
    ]
    return replace(card, scores=tuple(scores))


def lineage_of(before, after, *, level=0.95):
    first = with_findings(CARD, before)
    later = shifted(with_findings(CARD, after), 0.05)
    comparison = compare([("before.json", shifted(first, 0.0)), ("after.json", later)])
    return comparison, comparison.lineages[0]


def readings(lineage):
    rows = summary_rows(lineage, METRICS)
    return {(row.metric, row.over): reading(lineage, row, 1) for row in rows}


def screen(comparison, width=100):
    console = Console(file=io.StringIO(), width=width, color_system="standard", force_terminal=True)
    for part in render_comparison(comparison, metrics=METRICS):
        console.print(part, highlight=False)
    return console.file.getvalue()


def test_a_collapse_is_the_headline_and_what_modules_tell_is_not_called_better():
    comparison, lineage = lineage_of(["faint"] * 3, ["collapsed"] * 3)
    found = change(lineage, summary_rows(lineage, METRICS))
    assert found.headline == (
        "Collapsed in 3 of 3 layers (before: in 0 of 3); specialisation cannot be compared while "
        "load is so skewed"
    )
    assert found.findings == (
        ("before.json", "Hardly specialised in all 3 layers"),
        ("after.json", "Collapsed in all 3 layers"),
    )
    said = readings(lineage)
    assert said["alignment_score", "mean"] == "skewed"
    assert said["mutual_information", "mean"] == "skewed"
    assert said["dead_fraction", "mean"] == "worse"
    text = screen(comparison)
    assert "\x1b[32m" not in text  # no green
    assert "\x1b[31m" in text
    assert " ".join(text.split()).index("Collapsed in 3 of 3") < text.index("over layers")


def test_a_layer_alone_is_judged_by_its_own_finding():
    _, lineage = lineage_of(["faint"] * 3, ["collapsed", "faint", "partial"])
    rows = {row.layer: row for row in lineage.rows if row.metric == "alignment_score"}
    assert reading(lineage, rows[0], 1) == "skewed"
    assert reading(lineage, rows[2], 1) == "better"


def test_a_model_that_collapses_no_longer_is_not_better_specialised_either():
    _, lineage = lineage_of(["collapsed"] * 3, ["faint"] * 3)
    found = change(lineage, ())
    assert found.headline.startswith("No longer collapsed (before: in 3 of 3 layers)")
    assert readings(lineage)["alignment_score", "mean"] == "skewed"


def test_findings_that_changed_are_the_headline_and_greens_are_allowed():
    comparison, lineage = lineage_of(["faint"] * 3, ["faint", "partial", "partial"])
    rows = summary_rows(lineage, METRICS)
    assert change(lineage, rows).headline == (
        "Of 3 layers: hardly specialised in 1 (before 3), partly specialised in 2 (before 0)"
    )
    assert readings(lineage)["alignment_score", "mean"] == "better"
    assert "\x1b[32m" in screen(comparison)


def test_what_permuted_labels_do_as_well_is_no_difference():
    comparison, _ = lineage_of(["blind"] * 3, ["blind"] * 3)
    lineage = comparison.lineages[0]
    columns = [
        replace(
            column,
            card=replace(
                column.card,
                scores=tuple(replace(s, null_low=0.0, null_high=1.0) for s in column.card.scores),
            ),
        )
        for column in lineage.columns
    ]
    again = compare([(c.source, c.card) for c in columns]).lineages[0]
    assert readings(again)["alignment_score", "mean"] == "chance"


def test_readings_are_corrected_for_the_number_of_rows():
    _, lineage = lineage_of(["faint"] * 3, ["faint"] * 3)
    rows = [row for row in lineage.rows if row.over == "mean" and row.contrasts[1].value != 0]
    several = [
        replace(row, contrasts=(None, replace(row.contrasts[1], p_value=p)))
        for row, p in zip(rows, (0.03, 0.001, 0.04), strict=False)
    ]
    found = [row.contrasts[1] for row in corrected(several, 0.95)]
    assert [each.p_adjusted for each in found] == pytest.approx([0.06, 0.003, 0.06])
    assert found[0].reading == "unclear"
    assert found[1].reading in ("better", "worse")


def test_the_json_form_says_the_headline_and_what_each_difference_is_worth():
    comparison, _ = lineage_of(["faint"] * 3, ["collapsed"] * 3)
    [form] = comparison_form(comparison)["lineages"]
    assert form["headline"].startswith("Collapsed in 3 of 3 layers")
    worth = {row["metric"]: row["contrasts"][1]["worth"] for row in form["rows"] if row["over"]}
    assert worth["alignment_score"] == "skewed"


def test_a_notebook_shows_a_comparison_as_a_table_and_a_console_in_lines():
    comparison, _ = lineage_of(["faint"] * 3, ["partial"] * 3)
    assert "before.json, after.json" in repr(comparison)
    assert len(repr(comparison)) < 200
    text = comparison._repr_html_()
    assert "<th>before.json</th><th>after.json</th><th>Difference</th>" in text
    assert "<td>Alignment score, mean</td>" in text


def test_who_compared_is_not_told_to_compare():
    _, lineage = lineage_of(["faint"] * 3, ["faint"] * 3)
    found = change(lineage, summary_rows(lineage, METRICS))
    assert found.advice
    assert not any("modeval compare" in text for text in found.advice)
    assert found.told.startswith("The expert now tells ")
