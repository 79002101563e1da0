"""Comparisons: pairing, intervals, modules matched, saturation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gate_cards import cohort_card, seeds_of, trace_card
from scipy import stats

from modeval.errors import TraceError
from modeval.report.terminal.comparison import comparison_form, sparkline
from modeval.score.comparison.compare import compare, overlap
from modeval.score.comparison.differences import above, differences, separate
from modeval.score.comparison.saturation import saturation_by_layer
from modeval.score.scorecard import Activation, Score
from modeval.trace.files import TraceWriter
from modeval.trace.trace import TraceHeader, make_chunk


def scores(values, error=None):
    return [Score(model="m", metric="x", value=value, error=error) for value in values]


# --- differences, against scipy ------------------------------------------------------------------

NEW, OLD = [0.3, 0.5, 0.45, 0.7, 0.2], [0.25, 0.35, 0.5, 0.6, 0.1]


def test_paired_differences_are_those_of_the_t_test():
    found = differences(scores(NEW), scores(OLD))
    oracle = stats.ttest_rel(NEW, OLD, alternative="greater")
    assert found.value == pytest.approx(np.mean(np.subtract(NEW, OLD)))
    assert found.p_above() == pytest.approx(oracle.pvalue)
    low, high = stats.ttest_rel(NEW, OLD).confidence_interval(0.95)
    its_low, its_high = found.interval()
    assert its_low < low < high < its_high  # skewed differences are covered, too
    turned = differences(scores(NEW), scores(OLD), sign=-1)
    assert turned.value == -found.value


def test_means_without_partners_are_those_of_welch():
    found = separate(scores(NEW), scores(OLD[:3]))
    oracle = stats.ttest_ind(NEW, OLD[:3], equal_var=False)
    assert found.value / found.error == pytest.approx(oracle.statistic)
    assert found.freedom == 2  # of the smaller side: never more than Welch's


def test_one_sample_is_held_against_a_level():
    oracle = stats.ttest_1samp(NEW, 0.2, alternative="greater")
    assert above(scores(NEW), 0.2).p_above() == pytest.approx(oracle.pvalue)


def test_sampling_errors_add_to_the_noise():
    without = differences(scores(NEW), scores(OLD))
    with_errors = differences(scores(NEW, 0.03), scores(OLD, 0.04))
    assert with_errors.error == pytest.approx(math.hypot(without.error, 0.05))
    assert with_errors.freedom > without.freedom
    single = differences(scores([0.3], 0.03), scores([0.1], 0.04))
    assert (single.error, single.noise) == (pytest.approx(0.05), "samples")
    assert differences(scores([0.3]), scores([0.1], 0.04)).error is None


def test_no_noise_at_all_proves_nothing():
    same = differences(scores([0.3], 0.0), scores([0.3], 0.0))
    assert (same.p_above(), same.interval()) == (None, None)
    assert differences(scores([0.4], 0.0), scores([0.3], 0.0)).p_above() is None
    equal = differences(scores([0.4] * 5, 0.01), scores([0.3] * 5, 0.01))
    assert equal.p_above() is None
    assert "all 5 values are equal" in equal.reason


def test_p_is_never_0():
    assert 0 < differences(scores([9e9], 1e-9), scores([0.0], 1e-9)).p_above() < 1e-300


def test_tasks_count_and_not_their_seeds():
    """Five seeds of two tasks are two numbers: what one task does to its seeds is one event."""
    seeds = [(task, model) for task in range(2) for model in range(5)]

    def of_seeds(values):
        return [
            Score(model="m", metric="x", seed=seed, value=value)
            for seed, value in zip(seeds, values, strict=True)
        ]

    new = of_seeds([0.5, 0.51, 0.49, 0.5, 0.5, 0.7, 0.69, 0.71, 0.7, 0.7])
    found = differences(new, of_seeds([0.4] * 10))
    assert (found.freedom, found.pairs) == (1, 10)
    assert found.p_above() > 0.05


# --- which model stands beside which -------------------------------------------------------------


def named(*cards):
    return [(f"{place}.json", card) for place, card in enumerate(cards)]


def test_seeds_are_paired_on_one_task_and_read_in_the_metrics_direction():
    values = {"collapse_worst": [0.2, 0.4, 0.6], "alignment_score": [0.5, 0.6, 0.7]}
    later = {
        name: [value + 0.1 + 0.001 * place for place, value in enumerate(each)]
        for name, each in values.items()
    }
    [lineage] = compare(named(cohort_card(values), cohort_card(later))).lineages
    read = {row.metric: row.contrasts[1] for row in lineage.rows}
    assert {name: found.reading for name, found in read.items()} == {
        "collapse_worst": "worse",
        "alignment_score": "better",
    }
    found = read["alignment_score"]
    assert found.value == pytest.approx(0.101)
    assert (found.pairing, found.pairs) == ("seeds", 3)
    assert found.low < 0.101 < found.high


def test_other_seeds_or_another_task_are_compared_by_their_means():
    card = cohort_card({"alignment_score": NEW})
    for other in (
        cohort_card({"alignment_score": OLD}, seeds=[(9, n) for n in range(5)]),
        cohort_card({"alignment_score": OLD}, rules=8),
    ):
        [lineage] = compare(named(card, other)).lineages
        assert lineage.rows[0].contrasts[1].pairing == "means"
    assert any("rules" in note for note in lineage.notes)


def test_the_same_scorecard_twice_is_the_same():
    card = trace_card({"alignment_score": [0.5, 0.6]})
    [lineage] = compare(named(card, card)).lineages
    assert {row.contrasts[1].reading for row in lineage.rows} == {"same"}
    places = {(row.over, row.layer) for row in lineage.rows}
    assert places == {("mean", None), ("worst", None), (None, 0), (None, 1)}


@pytest.mark.parametrize("by", [1.1e-16, -8.5e-7])
def test_what_differs_by_rounding_alone_is_the_same(by):
    card = trace_card({"alignment_score": [0.5, 0.6]})
    scores = [score if score.value is None else replace(score, value=score.value + by)
              for score in card.scores]  # fmt: skip
    [lineage] = compare(named(card, replace(card, scores=tuple(scores)))).lineages
    assert {row.contrasts[1].reading for row in lineage.rows} == {"same"}


def test_models_of_one_scorecard_stand_beside_each_other():
    card = (
        cohort_card({"alignment_score": [0.5] * 3}, model="one")
        + cohort_card({"alignment_score": [0.6] * 3}, model="two")
        + cohort_card({"alignment_score": [0.6] * 3}, model="other", rules=8)
    )
    comparison = compare(named(card))
    [lineage] = comparison.lineages
    assert [column.model.id for column in lineage.columns] == ["one", "two"]
    assert comparison.notes == ("Other (other) is the only model of its task in 0.json",)


def test_models_without_a_partner_are_named():
    one = cohort_card({"alignment_score": [0.5] * 3}, model="one") + cohort_card(
        {"alignment_score": [0.5] * 3}, model="two", rules=8
    )
    other = cohort_card({"alignment_score": [0.5] * 3}, model="one") + cohort_card(
        {"alignment_score": [0.5] * 3}, model="three", rules=16
    )
    comparison = compare(named(one, other))
    assert len(comparison.lineages) == 1
    assert comparison.notes == (
        "1.json has no model two",
        "0.json has no model three, which 1.json has",
    )


def test_missing_numbers_leave_a_gap():
    first = cohort_card({"alignment_score": [0.5] * 3, "collapse_avg": [0.5] * 3})
    broken = replace(first, scores=tuple(replace(s, value=None) for s in first.scores))
    [lineage] = compare(named(first, broken, first)).lineages
    for row in lineage.rows:
        assert row.scores[1] is None
        assert row.contrasts[1] is None
        assert row.contrasts[2].reading == "same"


# --- modules -------------------------------------------------------------------------------------


def with_activations(matrices, model="modular"):
    card = cohort_card({"alignment_score": [0.5] * len(matrices)}, model=model)
    return replace(
        card,
        activations=tuple(
            Activation(
                model=model, seed=seed, matrix=tuple(map(tuple, matrix.tolist())), prior=(0.25,) * 4
            )
            for seed, matrix in zip(seeds_of(len(matrices)), matrices, strict=True)
        ),
    )


def test_overlap_of_a_matching_is_one_minus_the_distance_of_rows():
    rng = np.random.default_rng(0)
    one, two = (rng.dirichlet(np.ones(5), size=4) for _ in range(2))
    weight = np.array([0.1, 0.2, 0.3, 0.4])
    order = [3, 1, 4, 0, 2]
    shared = overlap(one, two, weight)[range(5), order].sum()
    distance = np.abs(one - two[:, order]).sum(1) / 2
    assert shared == pytest.approx(1 - weight @ distance)


def test_modules_are_matched_before_they_are_compared():
    rng = np.random.default_rng(1)
    first = [torch.from_numpy(rng.dirichlet(np.full(4, 0.3), size=4)) for _ in range(3)]
    renamed = [matrix[:, [2, 0, 3, 1]] for matrix in first]
    [lineage] = compare(named(with_activations(first), with_activations(renamed))).lineages
    [found] = lineage.agreements
    assert found.value == pytest.approx(1)
    assert found.by_number < 0.9
    assert found.chance < 1
    assert (found.pairs, found.modules) == (3, ())


def test_one_pair_says_which_module_is_which():
    matrix = torch.tensor([[0.9, 0.1, 0, 0], [0, 0.8, 0.2, 0], [0, 0, 1, 0], [0.1, 0, 0, 0.9]])
    renamed = matrix[:, [2, 0, 3, 1]]
    [lineage] = compare(named(with_activations([matrix]), with_activations([renamed]))).lineages
    [found] = lineage.agreements
    assert found.modules == (1, 3, 0, 2)
    assert found.low is None


def test_unrelated_routing_agrees_as_much_as_relabelled_routing():
    rng = np.random.default_rng(2)
    first, other = (
        [torch.from_numpy(rng.dirichlet(np.full(4, 0.3), size=4)) for _ in range(30)]
        for _ in range(2)
    )
    [lineage] = compare(named(with_activations(first), with_activations(other))).lineages
    [found] = lineage.agreements
    assert found.low < found.chance < found.high


def test_perfect_specialists_are_all_alike_and_chance_says_so():
    eye = torch.eye(4)
    [lineage] = compare(named(with_activations([eye]), with_activations([eye.flip(0)]))).lineages
    [found] = lineage.agreements
    assert (found.value, found.chance) == (pytest.approx(1), pytest.approx(1))


# --- saturation ----------------------------------------------------------------------------------

HEADER = TraceHeader(layers=("a", "b"), modules=(4, 8), choices=(2, 2), labels=("x", "y"))


def record(folder, chosen, *, documents=None, header=HEADER):
    """Write a trace whose rows alternate between two layers."""
    tokens = len(chosen) // 2
    document = np.arange(tokens) // 5 if documents is None else documents
    with TraceWriter(folder, header) as writer:
        writer.append(
            make_chunk(
                layer=np.tile([0, 1], tokens),
                document=np.repeat(document, 2),
                position=np.repeat(np.arange(tokens) % 5, 2),
                chosen=chosen,
            )
        )
    return folder


def choices(seed, tokens=400):
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(4 + 4 * layer)[:2] for _ in range(tokens) for layer in (0, 1)]
    return np.array(drawn, dtype=np.int16)


def test_saturation_of_a_trace_with_itself_is_one(tmp_path):
    first = record(tmp_path / "a.trace", choices(0))
    for found in saturation_by_layer(first, first):
        assert (found.value, found.low, found.high, found.tokens) == (1, 1, 1, 400)


def test_saturation_of_independent_routing_is_chance(tmp_path):
    first, last = (record(tmp_path / f"{seed}.trace", choices(seed)) for seed in (0, 1))
    for found, chance in zip(saturation_by_layer(first, last), (0.5, 0.25), strict=True):
        assert found.chance == chance
        assert found.low < chance < found.high


def test_saturation_is_counted_token_by_token(tmp_path):
    early, late = choices(0, 50), choices(1, 50)
    first, last = record(tmp_path / "a.trace", early), record(tmp_path / "b.trace", late)
    for layer, found in enumerate(saturation_by_layer(first, last)):
        pairs = zip(early[layer::2].tolist(), late[layer::2].tolist(), strict=True)
        assert found.value == pytest.approx(np.mean([len({*a} & {*b}) / 2 for a, b in pairs]))


@pytest.mark.parametrize(
    ("tokens", "documents", "message"),
    [(300, None, "rows"), (400, np.arange(400) // 4, "document")],
)
def test_other_tokens_have_no_saturation(tmp_path, tokens, documents, message):
    first = record(tmp_path / "a.trace", choices(0))
    last = record(tmp_path / "b.trace", choices(1, tokens), documents=documents)
    with pytest.raises(TraceError, match=message):
        saturation_by_layer(first, last)


def test_another_model_has_no_saturation(tmp_path):
    first = record(tmp_path / "a.trace", choices(0))
    last = record(tmp_path / "b.trace", choices(0), header=replace(HEADER, modules=(4, 16)))
    with pytest.raises(TraceError, match="differ in their modules"):
        saturation_by_layer(first, last)


# --- the course ----------------------------------------------------------------------------------


def test_the_course_of_a_number_is_drawn_from_its_lowest_to_its_highest():
    assert sparkline([1, 2, 3, 2]) == "▁▅█▅"
    assert sparkline([None, None]) == ""


def test_the_json_form_has_every_layer_and_no_number_that_is_none():
    card = trace_card({"alignment_score": [0.5, 0.6]})
    form = comparison_form(compare(named(card, card, card)))
    [lineage] = form["lineages"]
    assert len(lineage["columns"]) == 3
    assert len(lineage["rows"]) == 4
    assert lineage["rows"][0]["contrasts"][0] is None
    assert lineage["rows"][0]["contrasts"][2]["value"] == 0
