"""``assert_modular`` and the plug-in for pytest, as a user's test suite has them."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from gate_cards import cohort_card, trace_card

from modeval.errors import ScorecardError, SpecError
from modeval.score.stored.files import write_scorecard
from modeval.testing import assert_modular

CARD = cohort_card(
    {
        "collapse_worst": [0.1, 0.3, 0.2],
        "alignment_score": [0.8, 0.7, 0.9],
        "in_distribution_loss": [0.1] * 3,
    },
    p_value=0.005,
)


def test_what_keeps_to_its_limits_passes(tmp_path):
    write_scorecard(tmp_path / "card.json", CARD)
    for card in (CARD, tmp_path / "card.json", str(tmp_path / "card.json")):
        assert_modular(card, collapse_worst=0.3, alignment_score=0.6, in_distribution_loss=0.2)


def test_limits_go_the_way_of_their_metric():
    with pytest.raises(AssertionError, match="collapse_worst <= 0"):
        assert_modular(CARD, collapse_worst=0.19)
    with pytest.raises(AssertionError, match="alignment_score >= 0"):
        assert_modular(CARD, alignment_score=0.81)


def test_the_difference_can_be_read():
    with pytest.raises(AssertionError) as caught:
        assert_modular(CARD, collapse_worst=0.1, alignment_score=0.6)
    assert str(caught.value) == (
        "1 of 2 requirements are not kept:\n"
        "\n"
        "  fail: Modular\n"
        "  - collapse_worst <= 0.1\n"
        "  + collapse_worst = 0.2 [0, 0.4794]   (chance: uniform 0, permuted 0.02, hashed 0.9)\n"
        "    Modular: 0.2 is above 0.1, though its 95% interval over seeds, 0 to 0.4794, reaches "
        "back to the limit. modeval metrics collapse_worst says what it means."
    )


def test_places_are_written_with_two_underscores():
    card = trace_card({"collapse_worst": [0.1, 0.5]})
    assert_modular(card, layers__mean__collapse_worst=0.3)
    with pytest.raises(AssertionError, match="worst of 2 layers"):
        assert_modular(card, layers__worst__collapse_worst=0.3)


def test_baselines_chance_and_bounds_are_asked_for_by_name():
    worse = cohort_card({"alignment_score": [0.5, 0.41, 0.59]})
    assert_modular(CARD, significant=["alignment_score"], minimum={"alignment_score": 0.7})
    with pytest.raises(AssertionError, match="beyond the margin and beyond the noise"):
        assert_modular(worse, baseline=CARD, max_drop={"alignment_score": 0.05})
    with pytest.raises(AssertionError, match="inconclusive: Modular"):
        assert_modular(CARD, on="bound", maximum={"collapse_worst": 0.22})


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"colapse_worst": 0.2}, SpecError, "did you mean collapse_worst"),
        ({"domain_specialization": 0.2}, SpecError, "maximum="),
        ({}, SpecError, "no requirements"),
        ({"collapse_worst": 0.2, "on": "both"}, SpecError, "value or bound"),
        ({"collapse_worst": 0.2, "model": "x"}, SpecError, "No model is named x"),
    ],
)
def test_impossible_requests_are_no_failures_of_the_model(request_, error, message):
    with pytest.raises(error, match=message):
        assert_modular(CARD, **request_)
    with pytest.raises(ScorecardError, match="No scorecard"):
        assert_modular("none.json", collapse_worst=0.2)


# --- the plug-in ---------------------------------------------------------------------------------

SUITE = """
from modeval.testing import assert_modular

def test_modules_are_in_use(modeval_scorecard):
    assert_modular(modeval_scorecard, collapse_worst=0.3)

def test_modules_tell_the_rules_apart(modeval_scorecard):
    assert_modular(modeval_scorecard, alignment_score=0.95)
"""


def pytest_in(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_plug_in_is_found_by_pytest():
    assert [each.value for each in entry_points(group="pytest11", name="modeval")] == [
        "modeval.pytest_plugin"
    ]


@pytest.mark.slow
def test_a_suite_gets_the_scorecard_and_a_failure_without_our_insides(tmp_path):
    (tmp_path / "test_model.py").write_text(SUITE)
    write_scorecard(tmp_path / "card.json", CARD)
    done = pytest_in(tmp_path, "--modeval-scorecard", "card.json")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "+ alignment_score = 0.8 [0.5206, 1]" in done.stdout
    assert "modular_failures" not in done.stdout
    (tmp_path / "pytest.ini").write_text("[pytest]\nmodeval_scorecard = card.json\n")
    assert "1 failed, 1 passed" in pytest_in(tmp_path).stdout


def test_a_typo_in_a_suite_is_one_sentence_without_our_insides():
    with pytest.raises(SpecError, match="did you mean collapse_worst") as caught:
        assert_modular(CARD, colapse_worst=0.2)
    assert [frame.name for frame in caught.traceback if "modeval" in str(frame.path)][-1] == (
        "assert_modular"
    )
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.slow
def test_a_suite_without_a_scorecard_is_told_what_to_type(tmp_path):
    (tmp_path / "test_model.py").write_text(SUITE)
    done = pytest_in(tmp_path)
    assert "Run: pytest --modeval-scorecard scorecard.json" in done.stdout
    (tmp_path / "card.json").write_text(json.dumps([1]))
    done = pytest_in(tmp_path, "--modeval-scorecard", "card.json")
    assert "is not a scorecard" in done.stdout


def test_the_plug_in_loads_nothing_heavy():
    code = (
        "import sys, modeval.pytest_plugin, modeval.testing; print('torch' in sys.modules, "
        "'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
