"""Whatever takes long says what it is at, on standard error; what is quick says nothing."""

import re
import time

import pytest
from gate_cards import cohort_card

from modeval.cli.heartbeat import heartbeat
from modeval.cli.output import progress_bar
from modeval.pace import heard_by, tell
from modeval.score.comparison.compare import compare
from modeval.score.stored.files import read_scorecard, write_scorecard


def test_what_takes_long_says_how_far_it_is_and_how_long_it_will_take(capsys):
    with heartbeat([], first=0.02):
        tell("reading big.trace", 0, 400)
        time.sleep(0.01)
        tell("reading big.trace", 100, 400)
        time.sleep(0.1)
    said = capsys.readouterr()
    assert said.out == ""
    assert "reading big.trace, 100 of 400, about 1 s left (0 s so far)" in said.err  # on any line


def test_pauses_grow_so_that_a_log_stays_short(capsys):
    with heartbeat([], first=0.01):
        tell("reading", 1)
        time.sleep(0.3)
    assert 2 <= len(capsys.readouterr().err.splitlines()) <= 6


@pytest.mark.parametrize("arguments", [["--quiet"], ["report", "-q"]])
def test_quiet_is_quiet(capsys, arguments):
    with heartbeat(arguments, first=0.005):
        tell("reading", 1)
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_what_is_quick_says_nothing(capsys):
    with heartbeat([]):
        tell("reading", 1)
    assert capsys.readouterr().err == ""


def test_an_error_ends_it():
    with pytest.raises(ValueError, match="so"), heartbeat([], first=0.005):
        raise ValueError("so")


def test_large_scorecards_and_comparisons_tell(tmp_path):
    card, heard = cohort_card({"alignment_score": [0.5, 0.6]}), []
    write_scorecard(tmp_path / "card.json", card)
    with heard_by(lambda *told: heard.append(told)):
        compare([("one", read_scorecard(tmp_path / "card.json")), ("two", card)])
    assert heard[0][0].startswith("reading card.json")
    tell("nobody", 1)
    assert all(what != "nobody" for what, *_ in heard)


def heard(capsys: pytest.CaptureFixture[str], pattern: str, seconds: float = 10.0) -> bool:
    """Tell whether something is said while it is waited for; a busy machine takes its time."""
    said, until = "", time.monotonic() + seconds
    while not re.search(pattern, said) and time.monotonic() < until:
        time.sleep(0.02)
        said += capsys.readouterr().err
    return re.search(pattern, said) is not None


def test_a_bar_that_no_terminal_shows_is_told_in_lines(capsys):
    with heartbeat([], first=0.02), progress_bar() as bar:
        cohorts = bar.add_task("Cohorts", total=10, note="")
        steps = bar.add_task("steps", total=100, note="")
        bar.advance(cohorts, 4)
        bar.update(steps, completed=99)
        assert heard(capsys, r"Cohorts, 4 of 10, about \d+ s left")


def test_what_begins_late_is_told_as_soon_as_it_begins(capsys):
    with heartbeat([], first=0.2):
        time.sleep(0.25)
        tell("reading", 1, 4)
        assert heard(capsys, "reading, 1 of 4")


def test_a_bar_of_unknown_length_says_how_much_is_done(capsys):
    with heartbeat([], first=0.02), progress_bar() as bar:
        bar.update(bar.add_task("tokens", total=None, note=""), completed=3_200)
        assert heard(capsys, r"tokens, 3,200 \(\d+ s so far\)")
