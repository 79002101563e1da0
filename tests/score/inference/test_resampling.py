"""Intervals and nulls: coverage, size and reproducibility."""

import pytest
import torch

from modeval.counting.count import count, count_choices
from modeval.errors import TraceError
from modeval.metrics import measure, mutual_information
from modeval.score.inference.multiple import holm
from modeval.score.inference.resampling import (
    bootstrap_blocks,
    bootstrap_seeds,
    effective_samples,
    few_samples,
    p_value,
    permutation_test,
)
from modeval.types import RoutingCounts

RULES, MODULES, BLOCKS = 3, 4, 16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clustered(repetitions, *, documents=96, tokens=20, labels=None, seed=0, sharpness=1.5):
    """Fold routing that depends on the document and not on its label, many times over."""
    draws = generator(seed)
    taste = (sharpness * torch.randn(repetitions, documents, MODULES, generator=draws)).softmax(-1)
    chosen = torch.multinomial(taste.flatten(0, 1), tokens, replacement=True, generator=draws).view(
        repetitions, documents * tokens
    )
    if labels is None:
        labels = torch.stack(
            [torch.randperm(documents, generator=draws) % RULES for _ in range(repetitions)]
        )
    rule = labels.expand(repetitions, documents).repeat_interleave(tokens, -1)
    block = (torch.arange(documents) % BLOCKS).repeat_interleave(tokens)
    counts = count_choices(
        rule, chosen[..., None], rules=RULES, modules=MODULES, block=block[None], blocks=BLOCKS
    )
    return counts, rule, chosen


def rejections(p_values, level=0.05):
    return (p_values <= level).double().mean().item()


def test_the_permutation_test_keeps_its_size_on_clustered_documents():
    counts, _, _ = clustered(1500)
    test = permutation_test(counts, generator=generator(1), permutations=199)
    assert 0.03 <= rejections(test.p_value) <= 0.07


def test_the_permutation_test_keeps_its_size_when_rules_are_unequally_frequent():
    labels = torch.tensor([0] * 64 + [1] * 16 + [2] * 16)
    order = torch.randperm(96, generator=generator(5))
    counts, _, _ = clustered(1500, labels=labels[order], seed=2)
    test = permutation_test(counts, generator=generator(1), permutations=199)
    assert 0.025 <= rejections(test.p_value) <= 0.075


def test_a_test_that_permutes_tokens_rejects_far_more_often():
    counts, _, _ = clustered(300)
    total = counts.samples.sum((-2, -1))
    statistic = 2 * total * mutual_information(counts.joint("empirical"))
    degrees = torch.tensor((RULES - 1) * (MODULES - 1) / 2, dtype=torch.float64)
    chance = torch.special.gammaincc(degrees.expand_as(statistic), statistic / 2)
    assert rejections(chance) > 0.5


def test_labels_that_change_within_documents_are_permuted_within_blocks():
    draws = generator(3)
    counts, _, chosen = clustered(800, seed=4)
    rule = torch.randint(RULES, chosen.shape, generator=draws)
    block = (torch.arange(96) % BLOCKS).repeat_interleave(20)[None]
    mixed = count_choices(
        rule, chosen[..., None], rules=RULES, modules=MODULES, block=block, blocks=BLOCKS
    )
    test = permutation_test(mixed, generator=generator(1), permutations=199, documents="mixed")
    assert 0.03 <= rejections(test.p_value) <= 0.07
    assert counts.mass.shape == mixed.mass.shape


def test_routing_by_rule_is_found_and_blind_routing_has_the_chance_value():
    rule = torch.arange(960) % RULES
    block = (torch.arange(960) // RULES % BLOCKS)[None]
    blind = torch.randint(MODULES, (960,), generator=generator(8))
    counts = count_choices(
        rule[None],
        torch.stack([rule, blind])[..., None],
        rules=RULES,
        modules=MODULES,
        block=block,
        blocks=BLOCKS,
    )
    test = permutation_test(counts, generator=generator(), permutations=499)
    assert test.p_value[0].item() == pytest.approx(1 / 500)
    assert test.p_value[1].item() > 0.05
    assert test.null_low[1] <= test.null_mean[1] <= test.null_high[1]
    assert test.null_mean[1].item() == pytest.approx(6 / (2 * 960), rel=0.4)


def test_one_document_a_rule_cannot_be_permuted():
    counts = count(torch.tensor([0, 1]), torch.eye(2), rules=2)
    with pytest.raises(TraceError, match="too few to permute"):
        permutation_test(counts, generator=generator())


def test_a_p_value_is_never_zero_and_counts_ties():
    null = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    assert p_value(torch.tensor(9.0, dtype=torch.float64), null).item() == 0.25
    assert p_value(torch.tensor(2.0, dtype=torch.float64), null).item() == 0.5
    assert p_value(torch.tensor(-1.0, dtype=torch.float64), null, tail="less").item() == 0.25


def test_a_p_value_of_no_number_is_refused():
    null = torch.tensor([float("nan")], dtype=torch.float64)
    with pytest.raises(TraceError, match="not finite"):
        p_value(torch.tensor(0.0, dtype=torch.float64), null)


def test_holm_agrees_with_its_definition_and_never_lowers_a_p_value():
    p_values = torch.rand(50, 7, generator=generator(), dtype=torch.float64)
    adjusted = holm(p_values)
    assert bool((adjusted >= p_values).all())
    for row, found in zip(p_values, adjusted, strict=True):
        for i in range(7):
            below = row[row <= row[i]]
            expected = max((7 - int((row < value).sum())) * value.item() for value in below)
            assert found[i].item() == pytest.approx(min(1, expected))


def test_the_same_generator_gives_the_same_interval():
    counts, _, _ = clustered(2)
    first, second = (
        bootstrap_blocks(counts, measure, generator=generator(), draws=50) for _ in range(2)
    )
    assert first is not None
    assert second is not None
    for name, interval in first.items():
        assert torch.equal(interval.low, second[name].low)
        assert torch.equal(interval.high, second[name].high)


def test_resampling_blocks_is_folding_the_resampled_documents():
    counts, _, _ = clustered(1)
    seen: list[RoutingCounts] = []

    def look(part):
        seen.append(part)
        return measure(part)

    bootstrap_blocks(counts, look, generator=generator(), draws=3)
    total = sum(part.samples.sum().item() for part in seen)
    assert total == pytest.approx(3 * counts.samples.sum().item(), rel=0.2)
    assert seen[0].mass.shape[-3:] == (1, RULES, MODULES)


def test_intervals_over_documents_are_wider_than_tokens_would_give():
    counts, _, _ = clustered(200, sharpness=2.0)
    intervals = bootstrap_blocks(
        counts, lambda part: {"share": part.conditional()[..., 0, 0]}, generator=generator()
    )
    assert intervals is not None
    share = intervals["share"]
    covered = (share.low <= 0.25) & (share.high >= 0.25)
    assert 0.85 <= covered.double().mean().item() <= 0.99
    tokens = (0.25 * 0.75 / 640) ** 0.5 * 3.92
    assert (share.high - share.low).mean().item() > 2 * tokens


def test_the_view_that_is_asked_for_is_resampled():
    counts, _, _ = clustered(1)
    intervals = bootstrap_blocks(
        counts,
        lambda part: measure(part, view="assignment"),
        generator=generator(),
        draws=20,
        view="assignment",
    )
    assert intervals is not None
    with pytest.raises(TraceError, match="routed"):
        bootstrap_blocks(
            counts, lambda part: measure(part, view="assignment"), generator=generator(), draws=20
        )


def test_one_block_gives_no_interval():
    counts, _, _ = clustered(1)
    assert bootstrap_blocks(counts.pooled(), measure, generator=generator()) is None


def test_a_rule_in_too_few_blocks_is_named():
    rule = torch.arange(12)
    counts = count(rule, torch.eye(12), rules=12, block=rule, blocks=12)
    with pytest.raises(TraceError, match="stands in 1 of 12 blocks"):
        bootstrap_blocks(counts, measure, generator=generator())


def test_one_seed_gives_no_interval():
    assert bootstrap_seeds(torch.zeros(1, dtype=torch.float64), generator=generator()) is None


def test_strata_keep_the_design_of_the_experiment():
    task = torch.arange(5).repeat(5)
    values = task.double() + 0.01 * torch.rand(25, generator=generator(), dtype=torch.float64)
    plain = bootstrap_seeds(values, generator=generator())
    stratified = bootstrap_seeds(values, strata=task, generator=generator())
    assert plain is not None
    assert stratified is not None
    assert (stratified.high - stratified.low) < 0.02 * (plain.high - plain.low)
    assert stratified.low <= values.mean() <= stratified.high


def test_seeds_that_are_alone_in_their_stratum_are_resampled_together():
    values = torch.rand(6, 2, generator=generator(), dtype=torch.float64)
    alone = bootstrap_seeds(values, strata=torch.arange(6), generator=generator())
    plain = bootstrap_seeds(values, generator=generator())
    assert alone is not None
    assert plain is not None
    assert torch.equal(alone.low, plain.low)


def test_an_interval_with_a_value_that_is_no_number_is_refused():
    values = torch.tensor([0.0, float("nan")], dtype=torch.float64)
    with pytest.raises(TraceError, match="not finite"):
        bootstrap_seeds(values, generator=generator())


def test_documents_that_go_one_way_are_worth_few_samples():
    clustered_counts, _, _ = clustered(20, sharpness=4.0)
    independent, _, _ = clustered(20, sharpness=0.0)
    tokens = 96 * 20
    assert effective_samples(clustered_counts).mean().item() < 0.3 * tokens
    assert effective_samples(independent).mean().item() > 0.8 * tokens
    assert bool(few_samples(clustered_counts).all())
    assert not bool(few_samples(independent).any())
    assert effective_samples(independent.pooled())[0].item() == tokens
