"""Values over runs of the gate: what its history kept is read back and drawn."""

import json
from pathlib import Path
from typing import Any

import pytest
from gate_cards import cohort_card

import modeval
from modeval.errors import ScorecardError, SpecError
from modeval.gate.gate import gate
from modeval.gate.policy import Policy, Requirement
from modeval.pipeline.plotting import plot_numbers
from modeval.report.verdicts.history import history_line, read_history


def line(value: float, date: str, commit: str | None = None, **more: Any) -> str:
    card = cohort_card({"collapse_worst": [value, value]})
    asked = Requirement(metric="collapse_worst", comparison="max", limit=0.5, **more)
    result = gate([("card.json", card)], Policy(requirements=(asked,)))
    return history_line(result, date=date, commit=commit)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "history.jsonl"
    path.write_text(
        line(0.75, "2026-02-01", "b" * 40) + "\n" + line(0.25, "2026-01-01"), encoding="utf-8"
    )
    return path


def test_a_history_is_read_back_oldest_first(history: Path) -> None:
    runs = read_history(history)
    assert [(run.date, run.commit[:2]) for run in runs] == [
        ("2026-01-01", ""),
        ("2026-02-01", "bb"),
    ]
    assert [(run.values[0].value, run.values[0].outcome) for run in runs] == [
        (0.25, "pass"),
        (0.75, "fail"),
    ]


def test_a_trend_shows_values_and_limits_under_the_names_of_commits(history: Path) -> None:
    [table] = plot_numbers("trend", history)
    assert table.caption.startswith("Collapse (worst)")
    assert [cell.key for cell in table.rows[0]][:2] == [1.0, 0.25]
    assert 0.5 in [cell.key for cell in table.rows[0]]
    figure = modeval.plot("trend", history)
    [axes] = figure.axes
    named = axes.xaxis.get_major_formatter()
    assert [named(number) for number in (1, 2, 3)] == ["2026-01-01", "bbbbbbb", ""]


def test_models_and_metrics_of_a_trend_are_chosen(history: Path) -> None:
    with pytest.raises(SpecError, match="no such model"):
        modeval.plot("trend", history, models=["nobody"])
    with pytest.raises(ScorecardError, match="it is about collapse_worst"):
        modeval.plot("trend", history, metrics=["v_measure"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "{}\n",
        "[1]\n",
        '{"format": 2}\n',
        "\xff\n",
        "null\n",
        '{"format": 1, "values": 3}',
    ],
)
def test_what_is_no_history_is_refused_by_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ScorecardError, match=r"h\.jsonl"):
        read_history(path)


def test_a_line_that_was_cut_is_named(history: Path) -> None:
    history.write_text(history.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    with pytest.raises(ScorecardError, match="line 3"):
        read_history(history)
    assert json.loads(line(0.1, "2026-01-01"))["values"][0]["outcome"] == "pass"
