"""The gate: what passes, what fails, what cannot be told, and how often it is wrong."""

import math
from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
import torch
from gate_cards import cohort_card, seeds_of, trace_card
from scipy.stats import binom

from modeval.errors import SpecError
from modeval.evaluate.subject import Evaluation, Subject
from modeval.gate.drop import decide_drop
from modeval.gate.gate import check, gate
from modeval.gate.limits import decide
from modeval.gate.policy import Policy, from_flags, from_table
from modeval.gate.verdicts import figure, holm_adjusted
from modeval.nn import Network
from modeval.score.cohorts import score
from modeval.score.comparison.differences import Difference
from modeval.score.inference.multiple import holm
from modeval.score.scorecard import Activation, Profile, Scorecard
from modeval.score.stored.files import read_scorecard, write_scorecard
from modeval.spec import DataSpec, ModelSpec
from modeval.types import RoutingCounts


def verdicts(card, baseline=None, *, on="value", **flags):
    policy = Policy(requirements=from_flags({k: v for k, v in flags.items() if v}))
    policy = replace(
        policy,
        requirements=tuple(replace(each, on=on) for each in policy.requirements),
        baseline=None if baseline is None else "main.json",
    )
    return check(card, policy, baseline)


def outcome(card, baseline=None, **options):
    [verdict] = verdicts(card, baseline, **options)
    return verdict.outcome


# --- the table of limits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "beyond", "ends", "expected"),
    [
        ("value", -0.1, None, "pass"),
        ("value", 0.0, None, "pass"),
        ("value", 0.0, (-0.1, 0.1), "pass"),
        ("value", 1e-17, None, "fail"),
        ("value", 0.1, (-0.1, 0.3), "fail"),
        ("bound", -0.1, (-0.2, 0.0), "pass"),
        ("bound", -0.1, (-0.2, 1e-17), "inconclusive"),
        ("bound", 0.1, (0.0, 0.2), "inconclusive"),
        ("bound", 0.1, (1e-17, 0.2), "fail"),
        ("bound", -0.1, None, "inconclusive"),
        ("bound", 0.1, None, "inconclusive"),
    ],
)
def test_limits_are_decided_as_the_table_says(on, beyond, ends, expected):
    assert decide(on, beyond, ends) == expected


@pytest.mark.parametrize("metric", ["collapse_worst", "alignment_score", "in_distribution_loss"])
def test_a_policy_at_the_measured_value_passes_and_next_to_it_fails(metric):
    values = [0.1 + 0.2, 1 / 3, 0.7]
    card = cohort_card({metric: values})
    measured = sum(values) / 3
    flag = "min" if metric == "alignment_score" else "max"
    worse = math.nextafter(measured, 1 if flag == "min" else 0)
    assert outcome(card, **{flag: [f"{metric}={measured!r}"]}) == "pass"
    assert outcome(card, **{flag: [f"{metric}={worse!r}"]}) == "fail"


AROUND = [0.15, 0.175, 0.2, 0.225, 0.25]  # 0.2, interval 0.147 to 0.253


@pytest.mark.parametrize(
    ("limit", "on", "expected"),
    [
        (0.30, "value", "pass"),
        (0.20, "value", "pass"),
        (0.19, "value", "fail"),
        (0.30, "bound", "pass"),
        (0.26, "bound", "pass"),
        (0.25, "bound", "inconclusive"),
        (0.18, "bound", "inconclusive"),
        (0.14, "bound", "fail"),
    ],
)
def test_the_interval_of_a_scorecard_decides_on_request(limit, on, expected):
    card = cohort_card({"collapse_worst": AROUND}, error=None)
    assert outcome(card, max=[f"collapse_worst={limit}"], on=on) == expected


def test_what_passes_narrowly_says_so():
    card = cohort_card({"collapse_worst": AROUND}, error=None)
    [narrow] = verdicts(card, max=["collapse_worst=0.22"])
    assert "0.147 to 0.253, reaches past the limit" in narrow.why
    assert narrow.narrow
    [clear] = verdicts(card, max=["collapse_worst=0.3"])
    assert clear.why == "0.2 keeps to 0.3"


def test_inconclusive_says_how_many_seeds_would_tell():
    card = cohort_card({"collapse_worst": AROUND}, error=None)
    [verdict] = verdicts(card, max=["collapse_worst=0.225"], on="bound")
    assert "About 23 seeds in place of 5 would tell" in verdict.advice  # (0.053 / 0.025)² x 5
    [never] = verdicts(card, max=[f"collapse_worst={sum(AROUND) / 5!r}"], on="bound")
    assert "no number of samples decides it" in never.advice


def test_one_seed_has_the_interval_of_its_samples_and_two_have_none_to_rely_on():
    one = cohort_card({"collapse_worst": [0.2]}, error=0.01)
    [verdict] = verdicts(one, max=["collapse_worst=0.25"], on="bound")
    assert (verdict.outcome, verdict.interval_of) == ("pass", "samples")
    assert outcome(one, max=["collapse_worst=0.21"], on="bound") == "inconclusive"
    unknown = cohort_card({"collapse_worst": [0.2]}, error=None)
    assert outcome(unknown, max=["collapse_worst=0.9"], on="bound") == "inconclusive"
    two = cohort_card({"collapse_worst": [0.2, 0.2]})
    [verdict] = verdicts(two, max=["collapse_worst=0.9"], on="bound")
    assert verdict.outcome == "inconclusive"
    assert "--seeds 5" in verdict.advice


# --- errors are no passes ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize(
    "flags", [{"max": ["collapse_worst=0.99"]}, {"max_drop": ["collapse_worst=0.99"]}]
)
def test_what_is_no_number_never_passes(value, flags):
    card = cohort_card({"collapse_worst": [0.1, 0.2]})
    scores = tuple(replace(each, value=value, note="not finite") for each in card.scores)
    broken = replace(card, scores=scores)
    baseline = card if "max_drop" in flags else None
    assert outcome(broken, baseline, **flags) == "error"
    if baseline is not None:
        assert outcome(card, broken, **flags) == "error"


def test_an_absent_metric_never_passes():
    card = cohort_card({"collapse_worst": [0.1, 0.2]})
    [verdict] = verdicts(card, min=["alignment_score=0.1"])
    assert verdict.outcome == "error"
    assert "no alignment_score of Modular" in verdict.why


def test_a_missing_sampling_error_is_not_taken_for_none():
    card = cohort_card({"collapse_worst": [0.3]}, error=math.nan)
    baseline = cohort_card({"collapse_worst": [0.1]}, error=math.nan)
    assert outcome(card, baseline, max_drop=["collapse_worst=0.05"]) == "inconclusive"


def test_failed_seeds_are_an_error_unless_they_are_left_out_on_purpose():
    card = cohort_card({"collapse_worst": [None, 0.1, 0.1, 0.1]}, failed=1)
    policy = from_table({"max": {"collapse_worst": 0.2}}, "gate.toml")
    [verdict] = check(card, policy)
    assert verdict.outcome == "error"
    assert "1 of 4 seeds failed (its weights are not finite)" in verdict.why
    [verdict] = check(card, replace(policy, failed_seeds="ignore"))
    assert verdict.outcome == "pass"
    single = from_table({"max": {"seeds": {"worst": {"collapse_worst": 0.2}}}}, "gate.toml")
    assert [each.outcome for each in check(card, single)] == ["error"]
    assert [each.outcome for each in check(card, replace(single, failed_seeds="ignore"))] == [
        "pass"
    ]


def test_few_samples_tell_nothing():
    note = "few samples: worth 300 independent ones, and 800 are wanted for 4 rules x 4 modules"
    card = trace_card({"alignment_score": [0.9, 0.9]}, notes=["", note], few=[False, True])
    [verdict] = verdicts(card, min=["alignment_score=0.5"])
    assert (verdict.outcome, verdict.layer) == ("inconclusive", 1)
    assert "800 are wanted" in verdict.why
    assert "Record more documents" in verdict.advice
    assert outcome(card, min=["layers.0.alignment_score=0.5"]) == "pass"
    assert outcome(card, min=["layers.mean.alignment_score=0.5"]) == "inconclusive"
    assert outcome(card, min=["alignment_score=0.95"]) == "fail"  # few samples flatter it


@pytest.mark.parametrize(
    ("before", "after", "few", "expected"),
    [
        (0.5, 0.5, "after", "inconclusive"),  # it may have dropped
        (0.9, 0.5, "after", "fail"),  # it has, though it is flattered
        (0.9, 0.5, "before", "inconclusive"),  # perhaps it never was so good
        (0.5, 0.5, "before", "pass"),
    ],
)
def test_few_samples_flatter_either_side_of_a_comparison(before, after, few, expected):
    note = "few samples: worth 300 independent ones, and 800 are wanted"
    old, new = (
        trace_card({"alignment_score": [value]}, notes=[note], few=[few == side])
        for value, side in ((before, "before"), (after, "after"))
    )
    assert outcome(new, old, max_drop=["alignment_score=0.05"]) == expected


def test_few_samples_are_no_matter_where_labels_were_permuted():
    note = "few samples: worth 300 independent ones, and 800 are wanted"
    values = {"alignment_score": [0.9, 0.9]}
    card = trace_card(values, notes=[note, note], few=[True] * 2, p_values=[0.001, 0.001])
    assert outcome(card, significant=["alignment_score"]) == "pass"
    untested = trace_card(values, notes=[note, note], few=[True] * 2)
    assert outcome(untested, significant=["alignment_score"]) == "inconclusive"


# --- places --------------------------------------------------------------------------------------

LAYERS = {"collapse_worst": [0.1, 0.4, 0.2], "alignment_score": [0.9, 0.5, 0.7]}
SHARE = [
    Profile(model="olmo", metric="rule_main_share", axis="rule", layer=layer, values=values)
    for layer, values in enumerate([(0.9, 0.8, 0.7, 0.6), (0.9, 0.8, 0.7, 0.2), (1.0,) * 4])
]


@pytest.mark.parametrize(
    ("requirement", "expected", "layers", "claim"),
    [
        ("collapse_worst=0.3", ["fail"], [1], "worst of 3 layers"),
        ("layers.worst.collapse_worst=0.4", ["pass"], [1], "worst of 3 layers"),
        ("layers.mean.collapse_worst=0.3", ["pass"], [None], ""),
        ("layers.each.collapse_worst=0.3", ["pass", "fail", "pass"], [0, 1, 2], ""),
        ("layers.2.collapse_worst=0.3", ["pass"], [2], ""),
        ("layers.model.layers.1.mlp.collapse_worst=0.3", ["fail"], [1], ""),
        ("layers.7.collapse_worst=0.3", ["error"], [None], ""),
        ("rules.worst.main_share=0.95", ["fail"], [2], "worst of 3 layers x 4 rules"),
        ("layers.1.rules.each.main_share=0.75", ["fail", "fail", "pass", "pass"], [1] * 4, ""),
        ("layers.1.rules.poems.main_share=0.75", ["pass"], [1], ""),
        ("layers.1.rules.poem.main_share=0.75", ["error"], [1], ""),
        ("layers.mean.rules.worst.main_share=0.75", ["error"], [None], ""),
        ("seeds.each.collapse_worst=0.3", ["error"], [None], ""),
    ],
)
def test_places_are_found_and_claims_about_the_worst_say_so(requirement, expected, layers, claim):
    card = trace_card(LAYERS, profiles=SHARE)
    found = verdicts(card, max=[requirement])
    assert [verdict.outcome for verdict in found] == expected
    assert [verdict.layer for verdict in found] == layers
    assert {verdict.claim for verdict in found} == {claim}


def test_modules_and_rules_of_cohorts_are_looked_at_in_every_seed():
    matrices = [((0.9, 0.1), (0.2, 0.8)), ((1.0, 0.0), (0.5, 0.5))]
    card = cohort_card({"collapse_worst": [0.1, 0.2]}, rules=2)
    activations = tuple(
        Activation(model="modular", seed=seed, matrix=matrix, prior=(0.5, 0.5))
        for seed, matrix in zip(seeds_of(2), matrices, strict=True)
    )
    card = replace(card, activations=activations)
    [share] = verdicts(card, max=["modules.worst.share=0.7"])
    assert (share.outcome, share.module, share.seed) == ("fail", 0, (1, 0))
    assert share.value == 0.75
    assert share.claim == "worst of 2 seeds x 2 modules"
    [main] = verdicts(card, min=["rules.worst.main_share=0.6"])
    assert (main.outcome, main.rule, main.seed, main.value) == ("fail", "1", (1, 0), 0.5)
    assert outcome(card, min=["rules.0.main_share=0.85"]) == "pass"
    assert [v.outcome for v in verdicts(card, max=["seeds.each.modules.worst.share=0.7"])] == [
        "pass",
        "fail",
    ]


def test_near_names_of_layers_and_rules_are_offered():
    card = trace_card(LAYERS, profiles=SHARE)
    [verdict] = verdicts(card, max=["layers.model.layers.1.mpl.collapse_worst=0.3"])
    assert "did you mean model.layers.1.mlp?" in verdict.why
    [verdict] = verdicts(card, max=["layers.1.rules.poem.main_share=0.75"])
    assert "did you mean poems?" in verdict.why


def test_on_the_bound_the_layer_with_the_worst_bound_counts():
    card = trace_card({"collapse_worst": [0.30, 0.28]})
    scores = tuple(
        replace(each, low=0.1, high=0.45) if each.layer == 1 and each.over is None else each
        for each in card.scores
    )
    [verdict] = verdicts(replace(card, scores=scores), max=["collapse_worst=0.4"], on="bound")
    assert (verdict.outcome, verdict.layer) == ("inconclusive", 1)


def test_single_seeds_are_looked_at_on_request():
    card = cohort_card({"collapse_worst": [0.1, 0.1, 0.5, 0.1]})
    assert outcome(card, max=["collapse_worst=0.3"]) == "pass"
    [worst] = verdicts(card, max=["seeds.worst.collapse_worst=0.3"])
    assert (worst.outcome, worst.seed, worst.claim) == ("fail", (2, 0), "worst of 4 seeds")
    each = verdicts(card, max=["seeds.each.collapse_worst=0.3"])
    assert [verdict.outcome for verdict in each] == ["pass", "pass", "fail", "pass"]


def test_each_model_is_checked_unless_one_is_named():
    card = cohort_card({"collapse_worst": [0.1] * 3}, model="one") + cohort_card(
        {"collapse_worst": [0.5] * 3}, model="two"
    )
    table = {"max": {"collapse_worst": 0.2}}
    assert [each.outcome for each in check(card, from_table(table, "x"))] == ["pass", "fail"]
    only = from_table(table | {"model": "on*"}, "x")
    assert [each.model for each in check(card, only)] == ["one"]


# --- chance --------------------------------------------------------------------------------------


def test_beating_chance_needs_every_layer_and_the_corrected_p():
    values = {"alignment_score": [0.5, 0.5, 0.5]}
    assert outcome(trace_card(values, p_values=[0.001] * 3), significant=["alignment_score"]) == (
        "pass"
    )
    card = trace_card(values, p_values=[0.001, 0.03, 0.001])
    [verdict] = verdicts(card, significant=["alignment_score"])
    assert (verdict.outcome, verdict.layer) == ("fail", 1)
    assert verdict.p_value == pytest.approx(0.09)
    assert "not distinguishable from chance" in verdict.why


def test_a_mean_over_layers_without_a_test_of_its_own_is_not_held_against_uniform_routing():
    card = trace_card({"alignment_score": [0.5, 0.5]}, p_values=[0.001, 0.001])
    [verdict] = verdicts(card, significant=["layers.mean.alignment_score"])
    assert verdict.outcome == "inconclusive"
    assert "labels were not permuted" in verdict.why


@pytest.mark.parametrize(
    ("values", "p_value", "expected"),
    [
        ([0.5, 0.6, 0.55], 0.005, "pass"),
        ([0.5, 0.6, 0.55], 0.3, "fail"),  # these models route so by chance
        ([0.9, 0.0, 0.01], 0.005, "fail"),  # one of them does not, others may not either
        ([0.5] * 3, 0.005, "pass"),  # equal seeds say nothing of others, but of these
        ([0.5], 0.005, "pass"),
        ([0.5], 0.3, "fail"),
        ([0.01] * 3, 0.005, "fail"),  # no better than permuted labels, whatever p says
        ([0.5, 0.6, 0.55], None, "inconclusive"),
        ([0.5], None, "inconclusive"),
    ],
)
def test_cohorts_beat_chance_by_permuted_labels_and_by_their_seeds(values, p_value, expected):
    card = cohort_card({"alignment_score": values}, p_value=p_value)
    assert outcome(card, significant=["alignment_score"]) == expected


def test_a_loss_has_no_chance_level():
    card = cohort_card({"in_distribution_loss": [0.1, 0.2]})
    assert outcome(card, significant=["in_distribution_loss"]) == "error"


def test_hashed_routing_is_harder_to_beat_than_uniform_routing():
    card = cohort_card({"alignment_score": [0.3, 0.32, 0.31]}, p_value=0.005)
    assert outcome(card, significant=["alignment_score"]) == "pass"
    table = {"significant": [{"metric": "alignment_score", "chance": "hash"}]}
    [verdict] = check(card, from_table(table, "gate.toml"))
    assert verdict.outcome == "fail"


def test_p_values_are_corrected_as_holm_does():
    p_values = [0.01, 0.04, 0.03, 0.005, 0.6]
    expected = holm(torch.tensor(p_values, dtype=torch.float64)).tolist()
    assert holm_adjusted(p_values) == pytest.approx(expected)


# --- baselines -----------------------------------------------------------------------------------


def drop_of(value, error):
    return Difference(value=value, error=error, freedom=31.0, pairs=1, noise="samples")


@pytest.mark.parametrize(
    ("on", "drop", "error", "expected"),
    [
        ("value", 0.20, 0.01, "fail"),
        ("bound", 0.20, 0.01, "fail"),
        ("value", 0.20, 0.50, "pass"),
        ("bound", 0.20, 0.50, "inconclusive"),
        ("value", 0.05, 0.001, "pass"),
        ("bound", 0.05, 0.001, "inconclusive"),
        ("bound", 0.04, 0.001, "pass"),
        ("value", 0.20, None, "inconclusive"),
        ("value", 0.01, None, "pass"),
        ("bound", 0.01, None, "inconclusive"),
        ("value", 0.20, 0.0, "inconclusive"),  # no spread proves nothing
        ("bound", 0.05, 0.0, "inconclusive"),
        ("value", -0.20, 0.01, "pass"),
    ],
)
def test_drops_are_decided_as_the_table_says(on, drop, error, expected):
    found = drop_of(drop, error)
    assert decide_drop(on, found, 0.05, found.p_above(), size=0.05) == expected


def test_a_drop_is_seen_through_the_spread_over_seeds_because_seeds_are_paired():
    easy = [0.2, 0.4, 0.6, 0.8, 0.9]
    baseline = cohort_card({"alignment_score": easy})
    card = cohort_card({"alignment_score": [0.1, 0.31, 0.49, 0.7, 0.8]})
    [verdict] = verdicts(card, baseline, max_drop=["alignment_score=0.05"])
    assert verdict.outcome == "fail"
    assert verdict.drop == pytest.approx(0.1)
    assert verdict.pairs == 5
    shuffled = cohort_card({"alignment_score": [value - 0.1 for value in easy[2:] + easy[:2]]})
    assert outcome(shuffled, baseline, max_drop=["alignment_score=0.05"]) == "pass"


def test_worse_is_in_the_metrics_own_direction():
    low, high = (
        cohort_card({"collapse_worst": values}) for values in ([0.2, 0.21, 0.2], [0.4, 0.4, 0.41])
    )
    assert outcome(high, low, max_drop=["collapse_worst=0.1"]) == "fail"
    assert outcome(low, high, max_drop=["collapse_worst=0.1"]) == "pass"


def test_layers_are_compared_with_themselves_and_corrected():
    baseline = trace_card({"alignment_score": [0.9, 0.5, 0.7]})
    card = trace_card({"alignment_score": [0.7, 0.5, 0.7]})
    [verdict] = verdicts(card, baseline, max_drop=["alignment_score=0.05"])
    assert (verdict.outcome, verdict.layer) == ("fail", 0)  # and not layer 1, where it is lowest
    faint = trace_card({"alignment_score": [0.87, 0.5, 0.7]})  # 2.1 of its standard errors
    assert outcome(faint, baseline, max_drop=["layers.0.alignment_score=0.01"]) == "fail"
    assert outcome(faint, baseline, max_drop=["layers.worst.alignment_score=0.01"]) == "pass"
    each = verdicts(faint, baseline, max_drop=["layers.each.alignment_score=0.01"])
    assert [verdict.outcome for verdict in each] == ["pass"] * 3  # 3 tests are 3 tests


def test_seeds_of_the_baseline_that_are_not_here_never_pass():
    baseline = cohort_card({"alignment_score": [0.8, 0.81, 0.79]})
    fewer = cohort_card({"alignment_score": [0.81, 0.8]}, seeds=[(1, 0), (2, 0)])
    [verdict] = verdicts(fewer, baseline, max_drop=["alignment_score=0.05"])
    assert (verdict.outcome, verdict.pairs) == ("error", 2)
    assert "1 seed of the baseline is not here" in verdict.why
    worse = cohort_card({"alignment_score": [0.3, 0.31]}, seeds=[(1, 0), (2, 0)])
    assert outcome(worse, baseline, max_drop=["alignment_score=0.05"]) == "fail"
    more = cohort_card({"alignment_score": [0.8, 0.81, 0.79, 0.8]})
    [verdict] = verdicts(more, baseline, max_drop=["alignment_score=0.05"])
    assert (verdict.outcome, verdict.pairs) == ("pass", 3)
    assert "1 without a partner left out" in verdict.why
    strange = cohort_card({"alignment_score": [0.8] * 3}, seeds=[(7, 0), (8, 0), (9, 0)])
    [verdict] = verdicts(strange, baseline, max_drop=["alignment_score=0.05"])
    assert verdict.outcome == "error"
    assert "no seed in common" in verdict.why


def test_failed_seeds_that_are_left_out_on_purpose_are_not_missed_in_the_baseline():
    baseline = cohort_card({"alignment_score": [0.8, 0.81, 0.79]})
    card = cohort_card({"alignment_score": [None, 0.8, 0.81]}, failed=1)
    table = {"max_drop": {"alignment_score": 0.05}, "baseline": "main.json"}
    [verdict] = check(card, from_table(table, "x"), baseline)
    assert verdict.outcome == "error"
    [verdict] = check(card, from_table(table | {"failed_seeds": "ignore"}, "x"), baseline)
    assert verdict.outcome == "pass"


def with_model(card, **changes):
    return replace(card, models=tuple(replace(model, **changes) for model in card.models))


COHORT = cohort_card({"alignment_score": [0.8] * 3})
TRACE = trace_card({"alignment_score": [0.8, 0.7]})


@pytest.mark.parametrize(
    ("card", "baseline", "reason"),
    [
        (
            COHORT,
            cohort_card({"alignment_score": [0.8] * 3}, rules=8),
            "data.rules is 4 here and 8",
        ),
        (COHORT, with_model(COHORT, view="assignment"), 'view is "weight" here and "assignment"'),
        (COHORT, with_model(COHORT, prior="empirical"), "prior is"),
        (COHORT, with_model(COHORT, selection="best"), 'selection is "last" here and "best"'),
        (COHORT, with_model(COHORT, digest="other"), "its digest is other"),
        (COHORT, replace(COHORT, dataset={"digest": "abc"}), 'dataset is null here and "abc"'),
        (COHORT, with_model(TRACE, id="modular"), "this is a run, the baseline a trace"),
        (TRACE, trace_card({"alignment_score": [0.8]}), "layers is"),
        (TRACE, with_model(TRACE, rules=("a", "b", "c", "d")), "rules is"),
        (
            TRACE,
            with_model(TRACE, data={**TRACE.models[0].data, "phase": "decode"}),
            'data.phase is "prefill" here and "decode"',
        ),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_says_what_differs(card, baseline, reason):
    for verdict in verdicts(card, baseline, max_drop=["alignment_score=0.05"])[:1]:
        assert verdict.outcome == "error"
        assert reason in verdict.why


def test_a_model_of_another_name_is_held_against_the_one_that_is_named():
    newer = trace_card({"alignment_score": [0.8, 0.7]}, model="olmo-2000", digest="other")
    table = {"max_drop": {"alignment_score": 0.05}, "baseline": "main.json"}
    found = check(newer, from_table(table, "x"), TRACE)
    assert [each.outcome for each in found] == ["error", "error"]
    assert "--baseline-model ID" in found[0].why
    assert "no scorecard has it any more" in found[1].why
    [verdict] = check(newer, from_table(table | {"baseline_model": "olmo"}, "x"), TRACE)
    assert verdict.outcome == "pass"
    with pytest.raises(SpecError, match="several models"):
        check(newer + TRACE, from_table(table | {"baseline_model": "olmo"}, "x"), TRACE)


def test_a_baseline_without_the_model_says_what_it_has():
    both = cohort_card({"alignment_score": [0.8] * 3}, model="one", rules=8) + cohort_card(
        {"alignment_score": [0.8] * 3}, model="two", rules=8
    )
    found = verdicts(COHORT, both, max_drop=["alignment_score=0.05"])
    assert "no model modular; it has one, two" in found[0].why
    assert [(each.model, each.outcome) for each in found[1:]] == [
        ("one", "error"),
        ("two", "error"),
    ]


# --- the three routers, scored and gated ---------------------------------------------------------

POLICY = from_table(
    {
        "max": {"collapse_worst": 0.3},
        "min": {"alignment_score": 0.6},
        "significant": ["inverse_mutual_information"],
    },
    "gate.toml",
)


def scored(activation, *, seed=0, seeds=5, samples=32, common=False, mass=None):
    """Score hard routing drawn from A ``(S, R, M)``, ``samples`` for each block and rule."""
    if mass is None:
        mass = draw(activation, seed, 1 if common else seeds, samples)
    table = torch.tensor(mass, dtype=torch.float64).unsqueeze(1)
    empty = RoutingCounts.zeros(
        seeds, 1, rules=activation.shape[1], modules=activation.shape[2], blocks=32
    )
    counts = replace(empty, mass=table, selections=table, samples=table.sum(-1))
    subject = Subject(
        title="Modular",
        origin="run",
        data=DataSpec(rules=activation.shape[1]),
        model=ModelSpec(scorer="module"),
        objective_known=True,
        seeds=seeds_of(seeds),
        sources=("run/last.safetensors",) * seeds,
        faults=("",) * seeds,
        selection="last",
        network=Network(),
    )
    return score(subject, Evaluation(losses=(), counts=counts))


def draw(activation, seed, streams, samples):
    """Return how often each module was chosen, ``(S, B, R, M)``."""
    rules, modules = activation.shape[1:]
    drawn = np.random.default_rng(seed).random((streams, 32, rules, samples))
    cumulative = activation.cumsum(-1)[:, None, :, None, :]
    chosen = (drawn[..., None] > cumulative).sum(-1).clip(max=modules - 1)
    return np.stack([(chosen == module).sum(-1) for module in range(modules)], -1)


TOGETHER = 10  # times that are scored as one cohort: permutations grow with its seeds


def scorings(truth, count):
    """Score the same seeds ``count`` times, on samples that all seeds of one time share."""
    rng = np.random.default_rng(4)
    seeds, rules, modules = truth.shape
    cumulative = truth.cumsum(-1)[None, :, None, :, None, :]
    made = []
    for start in range(0, count, TOGETHER):
        times = min(TOGETHER, count - start)
        drawn = rng.random((times, 1, 32, rules, 8))
        chosen = (drawn[..., None] > cumulative).sum(-1).clip(max=modules - 1)
        mass = np.stack([(chosen == module).sum(-1) for module in range(modules)], -1)
        card = scored(truth, mass=mass.reshape(times * seeds, *mass.shape[2:]), seeds=times * seeds)
        found = {
            metric: [s for s in card.scores if s.metric == metric and s.seed is not None]
            for metric in ("alignment_score", "collapse_worst")
        }
        made += [
            {metric: as_card(metric, each[at : at + seeds]) for metric, each in found.items()}
            for at in range(0, times * seeds, seeds)
        ]
    return made


def as_card(metric, entries):
    """Return the scorecard of some seeds with the values and sampling errors of others."""
    card = cohort_card({metric: [entry.value for entry in entries]})
    errors = [float(np.mean([entry.error for entry in entries])), *(e.error for e in entries)]
    scores = zip(card.scores, errors, strict=True)
    return replace(card, scores=tuple(replace(each, error=error) for each, error in scores))


def routers(rules=4):
    eye = np.eye(rules)
    collapsed = np.zeros((rules, rules))
    collapsed[:, 0] = 1
    return {"specialist": eye[::-1], "collapsed": collapsed, "blind": np.full_like(eye, 1 / rules)}


@pytest.mark.parametrize(
    ("router", "expected"),
    [
        ("specialist", {"max": "pass", "min": "pass", "significant": "pass"}),
        ("collapsed", {"max": "fail", "min": "fail", "significant": "fail"}),
        ("blind", {"max": "pass", "min": "fail", "significant": "fail"}),
    ],
)
@pytest.mark.parametrize("seeds", [1, 5])
def test_the_three_routers_get_the_right_verdicts(router, expected, seeds):
    card = scored(np.stack([routers()[router]] * seeds), seeds=seeds)
    found = {verdict.requirement.comparison: verdict for verdict in check(card, POLICY)}
    assert {name: verdict.outcome for name, verdict in found.items()} == expected


def test_a_blind_router_does_not_beat_chance_though_it_always_scores_above_it():
    """Matching looks for the best in noise: every seed of a blind router scores above 0."""
    beaten = 0
    for seed in range(40):
        card = scored(np.full((5, 4, 4), 0.25), seed=seed, common=seed % 2 == 0)
        values = [s.value for s in card.scores if s.metric == "alignment_score"]
        assert min(values) > 0
        beaten += outcome(card, significant=["alignment_score"]) == "pass"
    assert beaten <= binom.ppf(0.999, 40, 0.05)


def test_the_same_data_give_the_same_verdict_a_hundred_times(tmp_path):
    card = scored(np.stack([routers()["specialist"] * 0.7 + 0.075] * 5))
    write_scorecard(tmp_path / "card.json", card)
    flags = {
        "max": ["collapse_worst=0.02"],
        "min": ["alignment_score=0.7"],
        "significant": ["alignment_score"],
        "max_drop": ["alignment_score=0.0"],
    }
    first = verdicts(card, card, on="bound", **flags)
    again = read_scorecard(tmp_path / "card.json")
    for _ in range(100):
        assert verdicts(again, card, on="bound", **flags) == first


# --- how often it is wrong -----------------------------------------------------------------------


REPEATS = 200


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 5])
def test_an_unchanged_model_scored_again_fails_in_at_most_one_of_twenty(seeds):
    """Fresh samples each time, the same for all seeds; the margin is 0, which is the hardest."""
    rng = np.random.default_rng(1)
    truth = rng.dirichlet(np.full(4, 0.5), size=(seeds, 4))
    cards = scorings(truth, 2 * REPEATS)
    for metric in ("alignment_score", "collapse_worst"):
        pairs = zip(cards[::2], cards[1::2], strict=True)
        failed = sum(
            outcome(new[metric], old[metric], max_drop=[f"{metric}=0"]) == "fail"
            for new, old in pairs
        )
        # 200 repetitions of one in twenty are at most 20 but for one time in a thousand
        assert failed <= binom.ppf(0.999, REPEATS, 0.05), (metric, failed)


@pytest.mark.parametrize("spread", [0.02, 0.05])
def test_a_retrained_model_fails_rarely_and_a_real_drop_is_caught(spread):
    """Values of seeds differ by 0.15; retraining moves each by ``spread``, samples by 0.005."""
    rng = np.random.default_rng(2)
    repeats = 300
    base = rng.uniform(0.4, 0.8) + 0.15 * rng.standard_normal((repeats, 5))

    def retrained():
        return base + spread / math.sqrt(2) * rng.standard_normal(base.shape)

    before, same, worse = retrained(), retrained(), retrained() - 0.1

    def failures(after, margin):
        return sum(
            outcome(
                cohort_card({"alignment_score": new.tolist()}, error=0.005),
                cohort_card({"alignment_score": old.tolist()}, error=0.005),
                max_drop=[f"alignment_score={margin}"],
            )
            == "fail"
            for new, old in zip(after, before, strict=True)
        )

    assert failures(same, 0) <= binom.ppf(0.999, repeats, 0.05)
    assert failures(same, 0.05) <= binom.ppf(0.999, repeats, 0.05)
    assert failures(worse, 0.05) >= binom.ppf(0.001, repeats, 0.9)


def test_many_layers_do_not_make_false_alarms_more_frequent():
    rng = np.random.default_rng(5)
    repeats, failed = 100, 0
    for _ in range(repeats):
        base = rng.uniform(0.3, 0.9, 16)
        new, old = (
            trace_card({"alignment_score": (base + 0.01 * rng.standard_normal(16)).tolist()})
            for _ in range(2)
        )
        found = verdicts(new, old, max_drop=["layers.each.alignment_score=0"])
        failed += any(verdict.outcome == "fail" for verdict in found)
    assert failed <= binom.ppf(0.999, repeats, 0.05)  # uncorrected, it would be 56 of 100


def test_sampling_errors_are_those_of_repeated_scorings():
    """The jackknife's error against the spread of 200 scorings of one router."""
    truth = np.random.default_rng(3).dirichlet(np.ones(4), size=(1, 4)).repeat(200, 0)
    card = scored(truth, seeds=200)
    for metric in ("collapse_avg", "collapse_worst", "alignment_score", "adaptation_distance"):
        entries = [s for s in card.scores if s.metric == metric and s.seed is not None]
        spread = np.std([entry.value for entry in entries], ddof=1)
        error = math.sqrt(np.mean([entry.error**2 for entry in entries]))
        assert error == pytest.approx(spread, rel=0.2), metric


def test_sampling_errors_cost_next_to_nothing():
    truth = np.random.default_rng(3).dirichlet(np.ones(4), size=(1, 4))
    scored(truth, seeds=1)
    start = perf_counter()
    scored(truth, seeds=1)
    assert perf_counter() - start < 5  # a bound against blunders; measured in milliseconds


# --- figures and files ---------------------------------------------------------------------------


def test_figures_never_look_like_a_limit_that_they_are_not():
    assert figure(0.2000001, 0.2) == "0.2000001"
    assert figure(math.nextafter(0.2, 1), 0.2) == "0.20000000000000004"
    assert figure(0.2, 0.2) == "0.2"
    assert figure(0.123456) == "0.1235"


def test_several_scorecards_are_checked_one_after_the_other():
    good = cohort_card({"collapse_worst": [0.1] * 3})
    bad = cohort_card({"collapse_worst": [0.5] * 3})
    policy = from_table({"max": {"collapse_worst": 0.2}}, "gate.toml")
    result = gate([("a.json", good), ("b.json", bad)], policy)
    assert [(each.source, each.outcome) for each in result.verdicts] == [
        ("a.json", "pass"),
        ("b.json", "fail"),
    ]
    assert result.outcome == "fail"
    assert (result.count("pass"), result.count("fail")) == (1, 1)


def test_a_scorecard_without_layers_names_is_still_read():
    card = Scorecard(models=COHORT.models, scores=COHORT.scores)
    assert outcome(card, min=["layers.0.alignment_score=0.5"]) == "pass"


def test_a_notebook_shows_a_verdict_as_a_table_and_a_console_in_lines():
    policy = from_table({"max": {"collapse_worst": 0.3}}, "gate.toml")
    result = gate([("card.json", cohort_card({"collapse_worst": [0.1, 0.2]}))], policy)
    assert repr(result).splitlines()[0] == f"<GateResult: {result.outcome}>"
    assert "<td>collapse_worst &lt;= 0.3</td>" in result._repr_html_()
    assert len(repr(result)) < 200
