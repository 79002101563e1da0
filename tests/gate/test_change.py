"""``max_change``: the same as before, shown, and not only not shown to differ."""

from dataclasses import replace

import numpy as np
import pytest
from gate_cards import cohort_card, seeds_of, trace_card

from modeval.errors import SpecError
from modeval.gate.drop import decide_change
from modeval.gate.gate import check
from modeval.gate.policy import Policy, from_flags, from_table
from modeval.score.comparison.differences import Difference, differences
from modeval.score.scorecard import Score


def outcome(new, old, margin, metric="alignment_score"):
    policy = Policy(
        requirements=from_flags({"max_change": [f"{metric}={margin}"]}), baseline="main.json"
    )
    [verdict] = check(new, policy, old)
    return verdict


def card(values, metric="alignment_score"):
    return cohort_card({metric: values})


def test_what_did_not_change_passes_and_few_seeds_prove_nothing():
    old = [0.50, 0.52, 0.55, 0.53, 0.51, 0.54]
    new = [0.501, 0.519, 0.552, 0.529, 0.512, 0.539]
    assert outcome(card(new), card(old), 0.05).outcome == "pass"
    assert outcome(card(new), card(old), 0.001).outcome == "inconclusive"
    noisy = [0.45, 0.60, 0.50, 0.58, 0.46, 0.58]
    verdict = outcome(card(noisy), card(old), 0.05)
    assert verdict.outcome == "inconclusive"
    assert "cannot be ruled out" in verdict.why
    assert "seeds would tell" in verdict.advice


@pytest.mark.parametrize("sign", [1, -1])
def test_a_change_to_either_side_fails_when_it_is_shown(sign):
    old = [0.50, 0.52, 0.55, 0.53, 0.51, 0.54]
    new = [value + sign * 0.1 + 0.001 * place for place, value in enumerate(old)]
    verdict = outcome(card(new), card(old), 0.05)
    assert verdict.outcome == "fail"
    assert "larger than the margin" in verdict.why


def test_seeds_of_the_baseline_that_are_not_here_prove_no_sameness():
    old = [0.50, 0.52, 0.55, 0.53, 0.51, 0.54]
    fewer = cohort_card({"alignment_score": old[1:]}, seeds=seeds_of(6)[1:])
    verdict = outcome(fewer, card(old), 0.05)
    assert verdict.outcome == "error"
    assert "1 seed of the baseline is not here" in verdict.why
    shifted = cohort_card(
        {"alignment_score": [value - 0.2 - 0.001 * n for n, value in enumerate(old[1:])]},
        seeds=seeds_of(6)[1:],
    )
    assert outcome(shifted, card(old), 0.05).outcome == "fail"


def test_numbers_without_noise_are_no_proof():
    same = [0.5, 0.5, 0.5]
    silent = cohort_card({"alignment_score": same}, error=None)
    assert outcome(silent, silent, 0.05).outcome == "inconclusive"


def test_a_metric_without_a_direction_may_be_held_to_its_value():
    values = [0.50, 0.52, 0.55, 0.53, 0.51, 0.54]
    again = [0.51, 0.52, 0.54, 0.53, 0.52, 0.54]
    verdict = outcome(card(again, "softness"), card(values, "softness"), 0.1, "softness")
    assert verdict.outcome == "pass"


def test_policies_say_it_in_toml_and_impossible_margins_are_refused():
    policy = from_table({"max_change": {"layers": {"worst": {"alignment_score": 0.02}}}}, "p")
    [asked] = policy.requirements
    assert str(asked) == "layers.worst.alignment_score change < 0.02"
    with pytest.raises(SpecError, match="can never be shown"):
        outcome(card([0.5, 0.6]), card([0.5, 0.6]), 0)
    with pytest.raises(SpecError, match="none is named"):
        check(card([0.5, 0.6]), replace(policy, baseline=None))


def test_a_trace_is_held_against_its_former_self():
    one = trace_card({"alignment_score": [0.2, 0.3, 0.25]})
    verdict = outcome(one, one, 0.2)
    assert verdict.outcome in ("pass", "inconclusive")


@pytest.mark.parametrize(("true", "least", "most"), [(0.05, 0.0, 0.09), (0.0, 0.8, 1.0)])
def test_no_more_than_one_change_in_twenty_at_the_margin_passes(true, least, most):
    rng = np.random.default_rng(3)
    passed = 0
    for _ in range(300):
        old = rng.normal(0.5, 0.02, 12)
        new = old + true + rng.normal(0, 0.02, 12)
        sides = [
            [
                Score(model="m", metric="alignment_score", seed=seed, value=value, error=1e-4)
                for seed, value in zip(seeds_of(12), side, strict=True)
            ]
            for side in (new, old)
        ]
        drop = differences(*sides)
        p_value = replace(drop, value=abs(drop.value)).p_above(0.05)
        passed += decide_change(drop, 0.05, p_value, size=0.05) == "pass"
    assert least <= passed / 300 <= most


def test_the_table_of_changes():
    def change(value, error):
        return Difference(value=value, error=error, freedom=30.0, pairs=31, noise="seeds")

    table = [(0.0, 0.01), (0.04, 0.01), (0.2, 0.01), (0.0, None)]
    outcomes = []
    for value, error in table:
        drop = change(value, error)
        p_value = replace(drop, value=abs(value)).p_above(0.05)
        outcomes.append(decide_change(drop, 0.05, p_value, size=0.05))
    assert outcomes == ["pass", "inconclusive", "fail", "inconclusive"]
