"""Tables and paragraphs for terminals of any width: no number is cut."""

import io
import re
from collections import Counter
from pathlib import Path

import pytest
import report_cards as cards
from rich.console import Console
from typer.testing import CliRunner

from modeval.cli.main import app
from modeval.report.terminal.grid import Column, Grid, Prose
from modeval.report.terminal.scores import render
from modeval.report.words import span

NUMBERS = tuple(f"0.{place}23" for place in range(1, 9))
WIDTHS = (40, 60, 80, 120)
OLD_CARD = Path(__file__).parents[2] / "fixtures" / "version-0.1" / "scorecard.json"


def shown(*parts, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for part in parts:
        console.print(part, highlight=False)
    return console.file.getvalue()


def table():
    names = ("a", "a name that is rather long, with words")
    columns = [Column(f"heading {number}", (number, span(0.1, 0.2))) for number in NUMBERS]
    return Grid((Column("", names, right=False), *columns))


@pytest.mark.parametrize("width", [24, *WIDTHS])
def test_each_number_stands_whole_and_in_one_part_only(width):
    text = shown(table(), width=width)
    assert max(map(len, text.splitlines())) <= width
    for number in NUMBERS:
        assert sum(line.count(number) for line in text.splitlines()) == 2  # heading and cell
    assert text.count("[0.100, 0.200]") == len(NUMBERS)


def test_an_interval_stays_beside_its_value():
    joined = [
        Column("value", ("0.5",)),
        Column("interval", ("[0.400, 0.600]",), joined=True),
    ]
    wide = Column("first", ("x" * 12,))
    text = shown(Grid((Column("", ("row",), right=False), wide, *joined)), width=36)
    assert any("0.5" in line and "[0.400, 0.600]" in line for line in text.splitlines())


def test_a_paragraph_is_broken_in_no_number_and_keeps_its_letters():
    said = "It tells 3.8 % [3.2 %, 4.5 %] of it, code: experts 4 (25 %), 7 (25 %)."
    for width in (16, 24, 31, 40):
        lines = shown(Prose(said), width=width).splitlines()
        for whole in ("3.8 %", "[3.2 %, 4.5 %]", "4 (25 %)", "7 (25 %)"):
            assert sum(whole in line for line in lines) == 1, (width, lines)
        assert " ".join(line.strip() for line in lines) == said


@pytest.mark.parametrize("width", WIDTHS)
def test_findings_of_the_paper_lose_no_word_at_any_width(width):
    def told(columns):
        args = ["findings", str(OLD_CARD)]
        done = CliRunner().invoke(app, args, env={"COLUMNS": str(columns)})
        assert done.exit_code == 0, done.output
        return done.stdout

    text = told(width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    letters = Counter("".join(text.split()))
    whole = Counter("".join(told(300).replace("The paper says", "").split()))
    assert not {letter for letter in "0123456789[]" if letters[letter] != whole[letter]}


CARDS = {"trace": cards.trace(), "cohort": cards.paper(), "deep": cards.trace(layers=30)}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CARDS)
def test_every_screen_fits_and_has_the_same_numbers_at_every_width(name, width):
    card = CARDS[name]
    text = shown(*render(card, maps=True), width=width)
    assert max(map(len, text.splitlines())) <= width
    numbers = set(re.findall(r"\[?\d\.\d{2,4}[,\]]?", text))
    assert numbers == set(
        re.findall(r"\[?\d\.\d{2,4}[,\]]?", shown(*render(card, maps=True), width=200))
    )
    assert "…" not in text
    assert not re.search(r"(?<![\w.*])\.\d", text), "a number without its leading zero"
